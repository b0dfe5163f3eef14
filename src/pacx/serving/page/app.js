// The page: takes one image, asks the server, shows the answer. One upload at a time; a new one replaces the old.

import { Problem, explain, hasToken, listModels, render, setToken } from "./api.js";
import { Attention } from "./attention.js";
import { modelCard } from "./card.js";
import { byId, element } from "./dom.js";
import { PAGE_FAULT, clearProblem, showProblem } from "./problems.js";
import { facts, findings, neighbours, summary } from "./results.js";
import { Viewer } from "./viewer.js";

const viewer = new Viewer();
let models = null; // as the server lists them
let model = null; // the chosen one
let file = null; // the image on the page
let upload = null; // AbortController of the running or last upload; also its identity
let state = "empty"; // empty, working, done or failed
let clock = null;

async function loadModels() {
  models = await listModels();
  if (!models.includes(model)) model = models.find((other) => other.name === model?.name) ?? models[0];
  const options = models.map((each) => element("option", { value: each.name }, each.name));
  byId("model").replaceChildren(...options);
  byId("model").value = model.name;
  byId("chooser").hidden = models.length < 2;
  showModel();
}

function showModel() {
  byId("about").textContent = model.about;
  byId("card-name").textContent = model.name;
  byId("card-body").replaceChildren(...modelCard(model));
  byId("card").hidden = false;
}

async function start(chosen, note = "") {
  upload?.abort();
  const mine = (upload = new AbortController());
  // An aborted request may still have an answer under way; only the newest upload may touch the page.
  const current = () => upload === mine && !mine.signal.aborted;
  file = chosen;
  clear();
  setState("working", `${note}Reading the image and asking the model.`);
  byId("file-name").textContent = file.name;

  const failures = [];
  const attempt = async (work, show) => {
    try {
      const answer = await work;
      if (current()) show(answer);
    } catch (error) {
      if (!current() || error.name === "AbortError") return;
      if (failures.length === 0) fail(error, { name: file.name, retry: () => start(file) });
      failures.push(error);
    }
  };
  try {
    if (models === null) await loadModels();
  } catch (error) {
    if (current()) fail(error, { name: file.name, retry: () => start(file) });
    return;
  }
  if (!current()) return;
  const options = { model: model.name, signal: mine.signal };
  let outputs = [];
  await Promise.all([
    attempt(render(file, options), (image) => {
      viewer.show(image, file.name);
      layOut();
    }),
    attempt(explain(file, options), (result) => {
      outputs = result.outputs;
      showResult(result, mine.signal);
    }),
  ]);
  if (!current() || failures.length > 0) return;
  setState("done", `${note}Done. ${summary(outputs)}`);
}

function showResult(result, signal) {
  viewer.explain(result.attention === null ? null : new Attention(result.attention));
  fillSection("findings", findings(result, model));
  fillSection("neighbours", neighbours(result, model, { signal }));
  fillSection("facts", facts(result.image, file));
  layOut();
}

function fillSection(id, parts) {
  byId(`${id}-body`).replaceChildren(...parts);
  byId(id).hidden = parts.length === 0;
}

function clear() {
  viewer.clear();
  clearProblem();
  byId("token-form").hidden = true;
  for (const id of ["findings", "neighbours", "facts"]) fillSection(id, []);
}

function setState(next, status = "") {
  state = next;
  byId("status").textContent = status;
  layOut();
  const working = state === "working";
  byId("progress").hidden = !working;
  byId("cancel").hidden = !working;
  byId("seconds").textContent = "";
  clearInterval(clock);
  if (!working) return;
  const began = performance.now();
  clock = setInterval(() => {
    const waited = Math.floor((performance.now() - began) / 1000);
    if (waited >= 2) byId("seconds").textContent = `${waited} s`;
  }, 500);
}

// Until there is an image, or one is under way, the page is about choosing one. The style sheet does the rest.
function layOut() {
  const choosing = state === "empty" || (state === "failed" && !viewer.shows());
  byId("main").dataset.state = state;
  byId("main").dataset.layout = choosing ? "choose" : "read";
  byId("welcome").hidden = !choosing;
  byId("waiting").hidden = state !== "working" || !byId("findings").hidden;
  byId("placeholder").hidden = choosing || viewer.shows();
}

function fail(error, { name, retry }) {
  setState("failed");
  if (error.status === 401) {
    askForToken();
  } else if (error instanceof Problem) {
    showProblem(error, { name, retry });
  } else {
    console.error(error);
    showProblem(new Problem({ status: PAGE_FAULT }), { name, retry });
  }
}

function askForToken() {
  const refused = "The server did not accept this token. Check it for missing characters.";
  if (hasToken()) byId("token-why").textContent = refused;
  byId("token-form").hidden = false;
  byId("token").focus();
}

function cancel() {
  upload?.abort();
  clear();
  byId("file-name").textContent = "";
  setState("empty", "Cancelled.");
  byId("file").focus();
}

function take(files) {
  if (files.length === 0) return;
  start(files[0], files.length > 1 ? `Found ${files.length} files; took the first one. ` : "");
}

async function open() {
  clear();
  setState("empty");
  try {
    await loadModels();
  } catch (error) {
    fail(error, { retry: open });
  }
}

byId("file").addEventListener("change", (event) => {
  take([...event.target.files]);
  event.target.value = ""; // so that choosing the same file again counts as a change
});
byId("cancel").addEventListener("click", cancel);
byId("model").addEventListener("change", (event) => {
  model = models.find((each) => each.name === event.target.value);
  showModel();
  if (state !== "empty" && file !== null) start(file);
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(byId("token").value.trim());
  byId("token").value = "";
  if (file !== null) start(file);
  else open();
});

// The whole window takes a dropped image; without this a miss would leave the page.
let inside = 0;
const dropping = (change) => {
  inside = Math.max(0, inside + change);
  document.body.classList.toggle("dropping", inside > 0);
};
addEventListener("dragenter", (event) => dropping(event.dataTransfer.types.includes("Files") ? 1 : 0));
addEventListener("dragleave", () => dropping(-1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  dropping(-inside);
  take([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => take([...event.clipboardData.files]));

open();
