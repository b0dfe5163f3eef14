// What the model says about one image: findings, nearest known images, facts of the file.

import { picture } from "./api.js";
import { element } from "./dom.js";
import { auroc, decimals, inWords, percent, whole } from "./words.js";

export function findings(result, model) {
  if (result.outputs.length === 0) {
    const text = `${model.name} is an encoder without heads. It has no findings; attention and nearest images still tell what it sees.`;
    return [element("p", {}, text)];
  }
  const tests = new Map(model.outputs.map((output) => [output.name, output]));
  const sorted = result.outputs.toSorted((a, b) => b.positive - a.positive || b.probability - a.probability);
  const rows = sorted.map((output) => finding(output, tests.get(output.name)));
  return [
    element("p", { class: "summary" }, summary(result.outputs)),
    element("ul", { class: "findings" }, ...rows),
    element("p", { class: "small" }, calibration(model.calibration)),
  ];
}

export function summary(outputs) {
  if (outputs.length === 0) return "This model has no findings.";
  const positive = outputs.filter((output) => output.positive).length;
  return `${positive === 0 ? "None" : positive} of ${outputs.length} findings ${positive === 1 ? "is" : "are"} above threshold.`;
}

function finding(output, test) {
  const words = output.positive ? "above threshold" : "below threshold";
  const bar = element("div", {
    class: "bar",
    role: "meter",
    "aria-label": inWords(output.name),
    "aria-valuemin": 0,
    "aria-valuemax": 1,
    "aria-valuenow": output.probability,
    "aria-valuetext": `${percent(output.probability)}, ${words} of ${percent(output.threshold)}`,
  });
  const fill = element("div", { class: "fill" });
  const tick = element("div", { class: "tick", title: `Threshold ${percent(output.threshold)}` });
  fill.style.width = `${100 * output.probability}%`;
  tick.style.left = `${100 * output.threshold}%`;
  bar.append(fill, tick);
  return element(
    "li",
    { class: output.positive ? "positive" : "negative" },
    element("span", { class: "name" }, inWords(output.name)),
    element("span", { class: "probability" }, percent(output.probability)),
    bar,
    element("span", { class: "small" }, test ? `AUROC ${auroc(test)}` : ""),
    element("span", { class: "verdict" }, `${words} (${percent(output.threshold)})`),
  );
}

function calibration(note) {
  const brackets = "AUROC is that of the test split, with its 95 % interval.";
  if (note === null) return `${brackets} These probabilities are not calibrated: compare them with their thresholds only.`;
  const { method, fitted_on: place, ece } = note;
  return `${brackets} Calibration: ${method}, fitted on the ${place}; expected calibration error (ECE) ${decimals(ece, 3)}.`;
}

export function neighbours(result, model, { signal }) {
  if (result.neighbours.length === 0) return [element("p", {}, "This model comes without known images to compare with.")];
  return [
    element("ol", { class: "neighbours" }, ...result.neighbours.map((neighbour) => known(neighbour, signal))),
    element(
      "p",
      { class: "small" },
      `Out of ${whole(model.neighbours)} known images. The number in bold is the similarity: the cosine between two encodings, 1 for the same.`,
    ),
  ];
}

function known(neighbour, signal) {
  const frame = element("div", { class: "thumbnail" });
  fill(frame, neighbour, signal);
  const label = element("p", { class: "labels" }, labelled(neighbour.labels));
  return element(
    "li",
    {},
    frame,
    element("p", { class: "similarity" }, element("span", { class: "unseen" }, "Similarity "), decimals(neighbour.similarity, 2)),
    label,
    element("p", { class: "small" }, neighbour.id),
  );
}

async function fill(frame, neighbour, signal) {
  try {
    const url = URL.createObjectURL(await picture(neighbour.thumbnail, { signal }));
    const image = element("img", { alt: `Known image ${neighbour.id}`, src: url });
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    frame.replaceChildren(image);
  } catch (error) {
    // A missing thumbnail takes nothing from the result; a cancelled one is not on the page any more.
    if (error.name !== "AbortError") frame.textContent = "no picture";
  }
}

// Labels are 1, 0, or null where nobody knows.
function labelled(labels) {
  const named = (wanted) => Object.keys(labels).filter((name) => labels[name] === wanted).map(inWords);
  const [present, unknown] = [named(1), named(null)];
  const first = present.length > 0 ? present.join(", ") : "No finding";
  return unknown.length > 0 ? `${first}; not known: ${unknown.join(", ")}` : first;
}

export function facts(image, file) {
  const rows = [
    ["Name", file.name],
    ["Format", image.format],
    ["Size", `${whole(image.width)} × ${whole(image.height)} pixels, ${megabytes(file.size)}`],
    ["View", image.view ?? "The file does not say"],
    ["Reading", element("ol", {}, ...image.steps.map((step) => element("li", {}, step)))],
  ];
  return [definitions(rows)];
}

export function definitions(rows) {
  const pairs = rows.map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value)));
  return element("dl", {}, ...pairs);
}

function megabytes(bytes) {
  return bytes < 1e5 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
