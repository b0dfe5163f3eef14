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
  if (model.outputs.length > 0) parts.push(testTable(model.outputs));
  const text = element("pre", { tabindex: 0, "aria-label": "Provenance as JSON" }, JSON.stringify(model.provenance, null, 2));
  parts.push(element("details", {}, element("summary", {}, "Provenance"), text));
  return parts;
}

function testTable(outputs) {
  const heads = ["Finding", "AUROC", "Sensitivity", "Specificity", "Threshold", "Prevalence", "Test images"];
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
        whole(output.num_test),
      ].map((text) => element("td", {}, text)),
    ),
  );
  const table = element(
    "table",
    {},
    element("caption", {}, "On the test split: AUROC with its interval; sensitivity and specificity at the threshold"),
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows),
  );
  // Wider than a telephone: the table scrolls, the page does not. Keys scroll it too, so it takes the focus.
  return element("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": "Test results" }, table);
}
