// The attention grid as a coloured layer: smooth between the patches, in the colours of matplotlib's inferno.

const INFERNO = [
  [0, 0, 4], [20, 11, 52], [57, 9, 99], [95, 19, 110], [133, 33, 107], [169, 46, 94],
  [203, 65, 73], [230, 93, 47], [247, 132, 16], [252, 174, 18], [245, 219, 76], [252, 255, 164],
];

const SIZE = 192; // edge of the layer; an 8 x 8 grid has no finer detail to show

export class Attention {
  constructor({ grid, geometry }) {
    this.geometry = geometry;
    const cells = grid.length * grid[0].length;
    this.strongest = Math.max(...grid.flat()) * cells;
    // A fixed floor keeps nearly even attention pale instead of stretching it over all colours.
    this.top = Math.max(2, Math.ceil(this.strongest));
    this.layer = colourLayer(grid.map((row) => row.map((value) => (value * cells) / this.top)));
  }

  // Where the square that the encoder saw lies on an image, as [left, top, width, height].
  box(width, height) {
    if (this.geometry === "squash") return [0, 0, width, height];
    const edge = this.geometry === "crop" ? Math.min(width, height) : Math.max(width, height);
    return [(width - edge) / 2, (height - edge) / 2, edge, edge];
  }

  draw(context, opacity) {
    const { width, height } = context.canvas;
    const box = this.box(width, height);
    context.save();
    context.globalAlpha = opacity;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.layer, ...box);
    if (this.geometry === "crop" && width !== height) {
      const line = Math.max(1, Math.min(width, height) / 400);
      context.lineWidth = line;
      context.strokeStyle = "#8ecbff";
      context.setLineDash([4 * line, 3 * line]);
      context.strokeRect(box[0] + line / 2, box[1] + line / 2, box[2] - line, box[3] - line);
    }
    context.restore();
  }
}

// The scale of the legend, with the transparency that the overlay has.
export function drawScale(canvas) {
  const context = canvas.getContext("2d");
  const row = context.createImageData(canvas.width, 1);
  for (let x = 0; x < canvas.width; x++) row.data.set(colour(x / (canvas.width - 1)), 4 * x);
  context.putImageData(row, 0, 0);
}

function colourLayer(grid) {
  const rows = grid.map((row) => resample(row, SIZE));
  const layer = new OffscreenCanvas(SIZE, SIZE);
  const context = layer.getContext("2d");
  const image = context.createImageData(SIZE, SIZE);
  for (let x = 0; x < SIZE; x++) {
    const column = resample(rows.map((row) => row[x]), SIZE);
    column.forEach((value, y) => image.data.set(colour(value), 4 * (y * SIZE + x)));
  }
  context.putImageData(image, 0, 0);
  return layer;
}

// Catmull-Rom: smooth, and each patch keeps its own value at its centre, where a blur would flatten the peaks.
function resample(values, size) {
  const at = (index) => values[Math.min(values.length - 1, Math.max(0, index))];
  return Array.from({ length: size }, (_, i) => {
    const x = ((i + 0.5) / size) * values.length - 0.5;
    const k = Math.floor(x);
    const t = x - k;
    const [a, b, c, d] = [at(k - 1), at(k), at(k + 1), at(k + 2)];
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
  });
}

// Little attention is transparent, so that the image stays readable where the encoder did not look.
function colour(value) {
  const share = Math.min(1, Math.max(0, value));
  const x = share * (INFERNO.length - 1);
  const k = Math.min(INFERNO.length - 2, Math.floor(x));
  const mixed = INFERNO[k].map((low, channel) => low + (x - k) * (INFERNO[k + 1][channel] - low));
  const rise = Math.min(1, share / 0.7);
  return [...mixed, 255 * rise * rise * (3 - 2 * rise)];
}
