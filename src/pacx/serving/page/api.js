// The server's HTTP interface. Whatever goes wrong, except a cancelled request, arrives as a `Problem`.

let token = null;
let mostBytes = Infinity; // as the server lists it with its models

// The token lives in this variable only, so that it is gone with the page.
export function setToken(value) {
  token = value;
}

export const hasToken = () => token !== null;

export class Problem extends Error {
  constructor({ status, title = "", detail = "", wait = null }) {
    super(detail || title);
    this.status = status; // 0: no answer came
    this.title = title;
    this.detail = detail;
    this.wait = wait; // seconds until the server wants to be asked again, or null
  }
}

export async function listModels() {
  const answer = await ask("/v1/models", {}, (response) => response.json());
  mostBytes = answer.limits?.max_bytes ?? Infinity;
  return answer.models;
}

export async function explain(file, { model, signal }) {
  refuseTooLarge(file);
  const answer = await ask(place("/v1/explain", model), upload(file, signal), (response) => response.json());
  return answer.results[0];
}

// The gray image: { pixels: Uint16Array, width, height, sourceWidth, sourceHeight }.
export async function render(file, { signal }) {
  refuseTooLarge(file);
  return ask("/v1/render", upload(file, signal), async (response) => {
    const number = (name) => Number(response.headers.get(name));
    const [width, height] = [number("X-Image-Width"), number("X-Image-Height")];
    const bytes = await response.arrayBuffer();
    if (width < 1 || height < 1 || bytes.byteLength !== 2 * width * height) {
      throw new Problem({ status: 502, detail: "The image came incomplete." });
    }
    // The bytes are little endian, and so is every machine that a current browser runs on.
    const pixels = new Uint16Array(bytes);
    return { pixels, width, height, sourceWidth: number("X-Source-Width"), sourceHeight: number("X-Source-Height") };
  });
}

// Nobody should wait for an upload that is refused at its end.
function refuseTooLarge(file) {
  if (file.size <= mostBytes) return;
  const [unit, name] = mostBytes < 2 ** 20 ? [2 ** 10, "KiB"] : [2 ** 20, "MiB"];
  const found = Math.ceil((10 * file.size) / unit) / 10; // up and down, so that the two never look the same
  const allowed = Math.floor((10 * mostBytes) / unit) / 10;
  throw new Problem({ status: 413, detail: `It has ${found} ${name}; a file may have up to ${allowed} ${name}.` });
}

// Thumbnails want the token too, which an <img src> cannot send.
export function picture(path, { signal }) {
  return ask(path, { signal }, (response) => response.blob());
}

const place = (path, model) => (model ? `${path}?model=${encodeURIComponent(model)}` : path);

const upload = (file, signal) => ({
  method: "POST",
  body: file,
  headers: { "Content-Type": "application/octet-stream" }, // the content decides, not the browser's guess
  signal,
});

async function ask(path, options, read) {
  const headers = new Headers(options.headers);
  if (token !== null) headers.set("Authorization", `Bearer ${token}`);
  try {
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (!response.ok) throw await problemOf(response);
    return await read(response);
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
    if (error instanceof SyntaxError) throw new Problem({ status: 502, detail: "The answer was not JSON." });
    throw new Problem({ status: 0 });
  }
}

async function problemOf(response) {
  let told = {};
  try {
    told = await response.json();
  } catch (error) {
    // A proxy in between may answer with a page of its own; the status still says enough.
    if (error.name === "AbortError") throw error;
  }
  const wait = secondsUntil(response.headers.get("Retry-After"));
  return new Problem({ status: response.status, title: told.title, detail: told.detail, wait });
}

// Retry-After is a number of seconds or a date.
function secondsUntil(text) {
  if (!text) return null;
  const wait = /^\d+$/.test(text) ? Number(text) : Math.ceil((Date.parse(text) - Date.now()) / 1000);
  return Number.isFinite(wait) ? Math.max(0, wait) : null;
}
