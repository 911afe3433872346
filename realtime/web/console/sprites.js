/**
 * How a point looks: by kind, size and direction, drawn once each and kept as pixels.
 *
 * Law: a look is a small number, and a look's sprite at each fraction of a pixel is made when it is first needed.
 */

export const DIRECTIONS = 32;
const STYLES_MAX = 512; // times DIRECTIONS they fit into 16 bits; further ones look like the last
const CELL_PX = 30; // holds the largest sprite
const ARROW_KINDS = new Set(["aircraft"]);

export class Sprites {
  #styles = new Map(); // "kind/size/isArrow" -> number
  #looks = []; // style -> { kind, size, isArrow }
  #made = []; // look -> phase -> { offsets, colors }
  #key = "";
  #pad = null; // a canvas to draw one sprite on
  phases = 1; // places within a pixel, per axis
  margin = 0; // of the image around the canvas, in device pixels
  stride = 0; // the image's width

  /** Returns the number of a feature's look. */
  lookOf({ kind = "", properties }) {
    const { heading, mag } = properties;
    const size = typeof mag === "number" ? Math.max(1, Math.min(4, Math.round(mag / 1.6))) : kind === "town" ? 0 : 1;
    const isArrow = ARROW_KINDS.has(kind) && typeof heading === "number";
    const key = `${kind}/${size}/${isArrow}`;
    let style = this.#styles.get(key);
    if (style === undefined) {
      style = Math.min(this.#looks.length, STYLES_MAX - 1);
      if (this.#styles.size < STYLES_MAX) this.#styles.set(key, style);
      this.#looks[style] ??= { kind, size, isArrow };
    }
    const direction = isArrow && this.#looks[style].isArrow ? Math.round((((heading % 360) + 360) % 360) / (360 / DIRECTIONS)) % DIRECTIONS : 0;
    return style * DIRECTIONS + direction;
  }

  /** Makes ready for frames on a canvas so wide, in device pixels. What was made for others is dropped. */
  prepare(colors, ratio, zoom, width) {
    const step = Math.max(0, Math.min(6, Math.round(zoom / 2)));
    const key = `${colors.theme}/${ratio}/${step}/${width}`;
    if (key === this.#key) return;
    this.#key = key;
    this.#made = [];
    this.phases = ratio < 1.5 ? 4 : 2;
    const cell = Math.ceil(CELL_PX * ratio);
    this.margin = cell;
    this.stride = width + 2 * cell;
    const context = new OffscreenCanvas(cell, cell).getContext("2d", { willReadFrequently: true });
    this.#pad = { context, cell, ratio, step, colors };
  }

  /** Returns { offsets, colors } of a look: where its pixels are in the image from its point on, and what they are. */
  get(look, phase) {
    const made = (this.#made[look] ??= new Array(this.phases ** 2).fill(null));
    return (made[phase] ??= this.#make(look, phase));
  }

  #make(look, phase) {
    const { context, cell, ratio, step, colors } = this.#pad;
    const { phases } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, cell, cell);
    const middle = cell >> 1;
    context.setTransform(ratio, 0, 0, ratio, middle + ((phase % phases) + 0.5) / phases, middle + (Math.floor(phase / phases) + 0.5) / phases);
    context.rotate(((look % DIRECTIONS) / DIRECTIONS) * 2 * Math.PI);
    drawLook(context, this.#looks[Math.floor(look / DIRECTIONS)], step, colors);
    return pixelsOf(context, cell, this.stride);
  }
}

function drawLook(context, { kind, size, isArrow }, step, colors) {
  const radius = kind === "town" ? 1.3 + step * 0.15 : 1.9 + step * 0.45 + (size - 1) * 1.9;
  context.fillStyle = colors.ofKind(kind);
  context.strokeStyle = colors.sea;
  context.lineWidth = step > 2 ? 1 : 0.7;
  context.beginPath();
  if (isArrow) {
    const length = radius * 1.8;
    context.moveTo(0, -length);
    context.lineTo(length * 0.68, length * 0.8);
    context.lineTo(0, length * 0.42);
    context.lineTo(-length * 0.68, length * 0.8);
    context.closePath();
  } else context.arc(0, 0, Math.min(radius, 13), 0, 7);
  context.globalAlpha = size > 1 ? 0.62 : 1;
  context.fill();
  context.globalAlpha = 1;
  if ((step > 2 || isArrow) && kind !== "town") context.stroke(); // so that one can tell neighbours apart
}

function pixelsOf(context, cell, width) {
  const source = new Uint32Array(context.getImageData(0, 0, cell, cell).data.buffer);
  const offsets = [];
  const colors = [];
  for (let y = 0; y < cell; y++) {
    for (let x = 0; x < cell; x++) {
      const color = source[y * cell + x];
      if (color >>> 24 < 8) continue;
      offsets.push((y - (cell >> 1)) * width + x - (cell >> 1));
      colors.push(color);
    }
  }
  return { offsets: Int32Array.from(offsets), colors: Uint32Array.from(colors) };
}
