// Numbers and names as people read them.

const ACRONYMS = new Set(["copd", "ct", "ecg", "icd", "lvh"]);

// "lvh_or_dilation" -> "LVH or dilation"
export function inWords(name) {
  const words = name.replaceAll("_", " ").split(" ");
  const text = words.map((word) => (ACRONYMS.has(word) ? word.toUpperCase() : word)).join(" ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function percent(share) {
  if (!known(share)) return "not known";
  if (share > 0 && share < 0.001) return "below 0.1 %";
  if (share < 1 && share > 0.999) return "above 99.9 %";
  // Near 0 and near 1 a whole percent is too coarse.
  return `${(100 * share).toFixed(share > 0 && share < 1 && (share < 0.0995 || share >= 0.9905) ? 1 : 0)} %`;
}

export const decimals = (value, places) => (known(value) ? value.toFixed(places) : "not known");

export const whole = (count) => (known(count) ? count.toLocaleString("en") : "not known");

// "0.93 (0.90–0.96)"
export function auroc(output) {
  if (!known(output.auroc)) return "not known";
  const interval = known(output.auroc_low) && known(output.auroc_high);
  const range = interval ? ` (${output.auroc_low.toFixed(2)}–${output.auroc_high.toFixed(2)})` : "";
  return `${output.auroc.toFixed(2)}${range}`;
}

export const known = (value) => typeof value === "number" && Number.isFinite(value);

export const seconds = (count) => (count === 1 ? "1 second" : `${count} seconds`);
