// The image with its gray window and the attention overlay, on one canvas so that "save image" saves what is seen.

import { drawScale } from "./attention.js";
import { byId } from "./dom.js";

const WHITE = 65535;
const NARROWEST = 0.5;
const KEY_STEP = 2;

export class Viewer {
  #image = null;
  #attention = null;
  #gray = null;
  #window = { centre: 50, width: 100 }; // in percent of the gray range, finer than the sliders show it
  #inverted = false;
  #waiting = false;
  #canvas = byId("image");
  #sliders = { centre: byId("centre"), width: byId("width"), opacity: byId("opacity") };

  constructor() {
    const { centre, width, opacity } = this.#sliders;
    centre.addEventListener("input", () => this.#setWindow({ centre: Number(centre.value) }));
    width.addEventListener("input", () => this.#setWindow({ width: Number(width.value) }));
    opacity.addEventListener("input", () => this.#changed());
    byId("reset").addEventListener("click", () => this.reset());
    byId("fit").addEventListener("click", () => this.fit());
    byId("invert").addEventListener("click", () => this.invert());
    this.#canvas.addEventListener("keydown", (event) => this.#key(event));
    this.#canvas.addEventListener("pointerdown", (event) => this.#drag(event));
    drawScale(byId("legend-colours"));
  }

  shows() {
    return this.#image !== null;
  }

  clear() {
    this.#image = this.#attention = this.#gray = null;
    this.#canvas.width = this.#canvas.height = 1;
    byId("viewer").hidden = true;
    byId("overlay-controls").hidden = true;
    byId("overlay-note").textContent = "";
  }

  show(image, name) {
    this.#image = image;
    this.#canvas.width = image.width;
    this.#canvas.height = image.height;
    this.#canvas.style.setProperty("--aspect", image.width / image.height);
    this.#canvas.setAttribute("aria-label", `The chest X-ray of ${name}`);
    this.#gray = new OffscreenCanvas(image.width, image.height);
    byId("viewer").hidden = false;
    this.reset();
  }

  // Attention may come before the image or after it, or be null where the model has none.
  explain(attention) {
    this.#attention = attention;
    byId("overlay-controls").hidden = attention === null;
    byId("overlay-note").textContent = attention === null ? "This model gives no attention." : noteOn(attention);
    if (attention !== null) this.#showLegend(attention);
    this.#changed();
  }

  reset() {
    this.#inverted = false;
    this.#setWindow({ centre: 50, width: 100 });
  }

  // The middle 98 % of the gray values: helps files that use only a small part of their range.
  fit() {
    const sorted = this.#image.pixels.slice().sort();
    const at = (share) => (100 * sorted[Math.round(share * (sorted.length - 1))]) / WHITE;
    const [low, high] = [at(0.01), at(0.99)];
    this.#setWindow({ centre: (low + high) / 2, width: high - low });
  }

  invert() {
    this.#inverted = !this.#inverted;
    this.#changed();
  }

  #setWindow({ centre = this.#window.centre, width = this.#window.width }) {
    this.#window.centre = Math.min(100, Math.max(0, centre));
    this.#window.width = Math.min(100, Math.max(NARROWEST, width));
    this.#sliders.centre.value = this.#window.centre;
    this.#sliders.width.value = this.#window.width;
    this.#changed();
  }

  #changed() {
    tell(this.#sliders.centre, this.#window.centre, "of the gray range");
    tell(this.#sliders.width, this.#window.width, "of the gray range");
    tell(this.#sliders.opacity, Number(this.#sliders.opacity.value), "opaque");
    byId("invert").setAttribute("aria-pressed", String(this.#inverted));
    // Several events within one frame are drawn once.
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      if (this.#image !== null) this.#draw();
    });
  }

  #draw() {
    const { pixels, width, height } = this.#image;
    const table = grayTable(this.#window, this.#inverted);
    const shown = new ImageData(width, height);
    const out = new Uint32Array(shown.data.buffer);
    for (let i = 0; i < pixels.length; i++) out[i] = table[pixels[i]];
    this.#gray.getContext("2d").putImageData(shown, 0, 0);
    const context = this.#canvas.getContext("2d");
    context.drawImage(this.#gray, 0, 0);
    const opacity = Number(this.#sliders.opacity.value) / 100;
    if (this.#attention !== null && opacity > 0) this.#attention.draw(context, opacity);
  }

  #showLegend({ top, strongest }) {
    byId("legend-top").textContent = `${top} × even`;
    byId("legend-even").style.left = `${100 / top}%`;
    const text = `Colours from 0 to ${top} times even attention. The strongest patch has ${strongest.toFixed(1)} times.`;
    byId("legend").setAttribute("aria-label", text);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { centre, width } = this.#window;
    const actions = {
      ArrowUp: () => this.#setWindow({ centre: centre - KEY_STEP }), // brighter, as when dragging up
      ArrowDown: () => this.#setWindow({ centre: centre + KEY_STEP }),
      ArrowLeft: () => this.#setWindow({ width: width - KEY_STEP }),
      ArrowRight: () => this.#setWindow({ width: width + KEY_STEP }),
      "+": () => this.#fade(10),
      "=": () => this.#fade(10), // the plus key without shift
      "-": () => this.#fade(-10),
      f: () => this.fit(),
      r: () => this.reset(),
      i: () => this.invert(),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  #fade(step) {
    this.#sliders.opacity.value = Number(this.#sliders.opacity.value) + step;
    this.#changed();
  }

  // Across the whole image is the whole range. Fingers scroll the page instead: they have the sliders.
  #drag(event) {
    if (event.pointerType === "touch" || event.button !== 0) return;
    const start = { x: event.clientX, y: event.clientY, ...this.#window };
    const box = this.#canvas.getBoundingClientRect();
    const moved = (now) => {
      const right = (100 * (now.clientX - start.x)) / box.width;
      const down = (100 * (now.clientY - start.y)) / box.height;
      this.#setWindow({ centre: start.centre + down, width: start.width + right });
    };
    const done = new AbortController();
    this.#canvas.setPointerCapture(event.pointerId);
    this.#canvas.addEventListener("pointermove", moved, { signal: done.signal });
    for (const end of ["pointerup", "pointercancel"]) {
      this.#canvas.addEventListener(end, () => done.abort(), { signal: done.signal });
    }
  }
}

// One entry for each of the 65,536 gray values, packed as the canvas wants them.
function grayTable({ centre, width }, inverted) {
  const low = ((centre - width / 2) / 100) * WHITE;
  const scale = 255 / ((width / 100) * WHITE);
  const table = new Uint32Array(WHITE + 1);
  for (let value = 0; value <= WHITE; value++) {
    const gray = Math.min(255, Math.max(0, Math.round((value - low) * scale)));
    const shown = inverted ? 255 - gray : gray;
    table[value] = 0xff000000 | (shown << 16) | (shown << 8) | shown;
  }
  return table;
}

function tell(slider, value, unit) {
  const text = String(Number(value.toFixed(1)));
  byId(`${slider.id}-value`).textContent = `${text} %`;
  slider.setAttribute("aria-valuetext", `${text} percent ${unit}`);
}

function noteOn(attention) {
  const strongest = `Strongest patch: ${attention.strongest.toFixed(1)} × even.`;
  const seen = {
    crop: " The encoder saw only the centre square.",
    pad: " The encoder saw the whole image with black bars around it.",
  };
  return `${strongest}${seen[attention.geometry] ?? ""} Attention shows where the encoder looked, not why it decided.`;
}
