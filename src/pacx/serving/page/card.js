// The model card: what the model is, where it comes from, how well it did on its test.

import { element } from "./dom.js";
import { definitions } from "./results.js";
import { auroc, inWords, known, percent, whole } from "./words.js";

export function modelCard(model) {
  const parts = [
    element("p", {}, model.about),
    definitions([
      ["Intended use", model.intended_use],
      ["Licence", model.licence],
      ["Training data", model.training_data],
      ["Input", `${model.image_size} × ${model.image_size} pixels; ${whole(model.width)} numbers come out of the encoder`],
      ["Precision", model.precision],
      ["Parity", known(model.parity) ? `differs from the trained weights by at most ${model.parity.toExponential(1)}` : "not known"],
      ["SHA-256", element("code", {}, model.sha256)],
    ]),
  ];
  if (model.outputs.length > 0) parts.push(...testTable(model.outputs));
  const text = element("pre", { tabindex: 0, "aria-label": "Provenance as JSON" }, JSON.stringify(model.provenance, null, 2));
  parts.push(element("details", {}, element("summary", {}, "Provenance"), text));
  return parts;
}

function testTable(outputs) {
  const heads = ["Finding", "AUROC", "Sensitivity", "Specificity", "Threshold", "Prevalence"];
  const sizes = new Set(outputs.map((output) => output.num_test));
  const differ = sizes.size > 1; // labels may be missing; most often they are not, and one number says it all
  if (differ) heads.push("Test images");
  const rows = outputs.map((output) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, inWords(output.name)),
      ...[
        auroc(output),
        percent(output.sensitivity),
        percent(output.specificity),
        percent(output.threshold),
        percent(output.prevalence),
        ...(differ ? [whole(output.num_test)] : []),
      ].map((text) => element("td", {}, text)),
    ),
  );
  const table = element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows),
  );
  // Wider than a telephone: the table scrolls, the page does not. Keys scroll it too, so it takes the focus.
  const scroll = element("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": "Test results" }, table);
  const images = differ ? "" : ` (${whole(outputs[0].num_test)} images)`;
  const note = `On the test split${images}: AUROC with its 95 % interval; sensitivity and specificity at the threshold.`;
  return [element("p", { class: "small" }, note), scroll];
}
