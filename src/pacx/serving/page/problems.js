// Errors in plain words: what happened, what the server says about it, what to do.

import { byId, element } from "./dom.js";
import { seconds } from "./words.js";

export const PAGE_FAULT = -1;

const WORDS = {
  [PAGE_FAULT]: ["This page made a mistake.", "Reload it, then try again. The browser's console says more."],
  0: ["The server did not answer.", "It may have stopped, or the connection broke. Check that pacx serve is running, then try again."],
  400: ["The server did not understand the request.", "Reload this page, then try again."],
  404: ["The server does not have this model.", "Reload this page to see which models it has now."],
  408: ["The upload took too long.", "Try again, on a faster connection if you can."],
  413: ["This image is too large.", "Choose a smaller one, or reduce it before you upload it."],
  415: ["This is not an image that pacx can read.", "Choose one chest X-ray as DICOM, PNG, JPEG or TIFF."],
  422: ["This image cannot be read.", "Export it again from where it came from, or choose another one."],
  429: ["The server is busy.", "Others are waiting too. Try again a little later."],
  503: ["The server is not ready.", "It may be starting or stopping. Try again a little later."],
};
const OTHER = ["The server failed.", "Try again. If it happens again, the server's log says why."];
const WORTH_RETRYING = new Set([0, 408, 429]);

let ticking = null;

export function clearProblem() {
  clearInterval(ticking);
  byId("problem").hidden = true;
  byId("problem").replaceChildren();
}

// `name` is the file that was uploaded, if there was one; `retry` does again what failed.
export function showProblem(problem, { name, retry }) {
  clearProblem();
  const [what, advice] = WORDS[problem.status] ?? OTHER;
  const parts = [element("h2", {}, what)];
  if (name) parts.push(element("p", { class: "small" }, name));
  if (problem.detail) parts.push(element("p", {}, problem.detail));
  const when = problem.wait ? `The server asks to wait ${seconds(problem.wait)}.` : advice;
  parts.push(element("p", { class: "advice" }, when));
  if (WORTH_RETRYING.has(problem.status) || problem.status >= 500) parts.push(retryButton(problem.wait ?? 0, retry));
  byId("problem").append(...parts);
  byId("problem").hidden = false;
  byId("problem").scrollIntoView({ block: "nearest" }); // a paste may come from the bottom of the page
}

function retryButton(wait, retry) {
  const button = element("button", { class: "main", type: "button" }, "Try again");
  button.addEventListener("click", retry);
  const until = Date.now() + 1000 * wait;
  const tick = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    button.disabled = left > 0;
    // The region is announced as it changes; a count that is hidden from readers does not make it talk every second.
    const count = element("span", { "aria-hidden": "true" }, ` in ${left} s`);
    button.replaceChildren("Try again", ...(left > 0 ? [count] : []));
    if (left <= 0) clearInterval(ticking);
  };
  ticking = setInterval(tick, 250);
  tick();
  return button;
}
