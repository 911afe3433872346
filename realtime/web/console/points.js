/**
 * The entities on the map: where each of them is this instant, and how it is drawn.
 *
 * Law: positions are kept in flat arrays, by slot, and a frame is one pass over them; nothing is allocated per entity
 * and frame. A point glides from where it is drawn to where it was last reported, for as long as its reports are apart.
 */

import { toX, toY } from "./camera.js";
import { worldCopies } from "./ground.js";

const GLIDE_MS_MAX = 15_000; // reports further apart than this are no motion
const GLIDE_MS_MIN = 60;
const GLIDE_DEGREES_MAX = 1; // further is a jump
const DIRECTIONS = 32;
const TAP_PX = 14;
const ARROW_KINDS = new Set(["aircraft"]);

export class Points {
  #slots = new Map(); // id -> slot
  #ids = []; // slot -> id
  #x0 = new Float64Array(1024);
  #y0 = new Float64Array(1024);
  #x1 = new Float64Array(1024);
  #y1 = new Float64Array(1024);
  #start = new Float64Array(1024); // when the glide began; performance.now()
  #span = new Float64Array(1024); // how long it takes; 0: it stands
  #look = new Uint16Array(1024); // style * DIRECTIONS + direction
  #shapes = new Map(); // id -> feature that is no point
  #styles = new Map(); // "kind/size" -> number
  #looks = []; // number -> { kind, size, isArrow }
  #sprites = null; // { margin, byLook: [{ offsets, colors }] }
  #image = null; // the canvas and a margin around it
  #pixels = null; // of the image, as 32-bit numbers
  #drawn = []; // offsets of the pixels that the last frame set
  #spriteKey = "";
  #glidesUntil = 0;
  glides = !matchMedia("(prefers-reduced-motion: reduce)").matches;

  constructor(canvas, camera, tracks) {
    this.canvas = canvas;
    this.camera = camera;
    this.tracks = tracks;
  }

  get count() {
    return this.#ids.length;
  }

  /** Takes over what a delta did. */
  apply(change, now) {
    for (const { id } of change.left) this.#remove(id);
    for (const feature of change.entered) this.#put(feature, now, false);
    for (const feature of change.moved) this.#put(feature, now, true);
    for (const feature of change.patched) this.#put(feature, now, true);
  }

  #put(feature, now, isUpdate) {
    const { id, geometry } = feature;
    if (geometry.type !== "Point") {
      this.#remove(id);
      this.#shapes.set(id, feature);
      return;
    }
    this.#shapes.delete(id);
    const x = toX(geometry.coordinates[0]);
    const y = toY(geometry.coordinates[1]);
    let slot = this.#slots.get(id);
    const isNew = slot === undefined;
    if (isNew) {
      slot = this.#ids.length;
      if (slot === this.#x0.length) this.#grow();
      this.#slots.set(id, slot);
      this.#ids.push(id);
    }
    this.#look[slot] = this.#lookOf(feature);
    const track = this.tracks.get(id);
    const apart = track ? track.at - track.since : 0;
    const [hereX, hereY] = isNew ? [x, y] : this.#at(slot, now);
    const far = Math.max(Math.abs(x - hereX), Math.abs(y - hereY)) * 360 > GLIDE_DEGREES_MAX;
    const isMotion = this.glides && isUpdate && !isNew && !far && apart > GLIDE_MS_MIN && apart < GLIDE_MS_MAX;
    this.#x0[slot] = isMotion ? hereX : x;
    this.#y0[slot] = isMotion ? hereY : y;
    this.#x1[slot] = x;
    this.#y1[slot] = y;
    this.#start[slot] = now;
    this.#span[slot] = isMotion ? apart : 0;
    if (isMotion) this.#glidesUntil = Math.max(this.#glidesUntil, now + apart);
  }

  #remove(id) {
    this.#shapes.delete(id);
    const slot = this.#slots.get(id);
    if (slot === undefined) return;
    this.#slots.delete(id);
    const last = this.#ids.pop();
    if (last === id) return;
    this.#ids[slot] = last;
    this.#slots.set(last, slot);
    const from = this.#ids.length;
    for (const array of [this.#x0, this.#y0, this.#x1, this.#y1, this.#start, this.#span, this.#look]) array[slot] = array[from];
  }

  #grow() {
    const larger = (array) => {
      const copy = new array.constructor(array.length * 2);
      copy.set(array);
      return copy;
    };
    this.#x0 = larger(this.#x0);
    this.#y0 = larger(this.#y0);
    this.#x1 = larger(this.#x1);
    this.#y1 = larger(this.#y1);
    this.#start = larger(this.#start);
    this.#span = larger(this.#span);
    this.#look = larger(this.#look);
  }

  #at(slot, now) {
    const span = this.#span[slot];
    const t = span ? Math.min(1, (now - this.#start[slot]) / span) : 1;
    return [this.#x0[slot] + (this.#x1[slot] - this.#x0[slot]) * t, this.#y0[slot] + (this.#y1[slot] - this.#y0[slot]) * t];
  }

  /** Where an entity is drawn now, in the unit square; null if it is not there or no point. */
  position(id, now) {
    const slot = this.#slots.get(id);
    return slot === undefined ? null : this.#at(slot, now);
  }

  #lookOf({ kind = "", properties }) {
    const { heading, mag } = properties;
    const size = typeof mag === "number" ? Math.max(1, Math.min(4, Math.round(mag / 1.6))) : kind === "town" ? 0 : 1;
    const isArrow = ARROW_KINDS.has(kind) && typeof heading === "number";
    const key = `${kind}/${size}/${isArrow}`;
    let style = this.#styles.get(key);
    if (style === undefined) {
      style = Math.min(this.#styles.size, 2047);
      this.#styles.set(key, style);
      this.#looks[style] = { kind, size, isArrow };
      this.#spriteKey = "";
    }
    const direction = isArrow ? Math.round((((heading % 360) + 360) % 360) / (360 / DIRECTIONS)) % DIRECTIONS : 0;
    return style * DIRECTIONS + direction;
  }

  /** Tells whether something glides, so that another frame is worth drawing. */
  isMoving(now) {
    return now < this.#glidesUntil;
  }

  draw(colors, ratio, now, chosen) {
    const { canvas, camera } = this;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    this.#prepareSprites(colors, ratio);
    this.#blit(context, ratio, now);
    if (this.#shapes.size) this.#drawShapes(context, colors, ratio);
    const place = chosen && this.position(chosen, now);
    if (place) this.#ring(context, colors, ratio, place);
  }

  /**
   * Copies each point's sprite, pixel by pixel, into an image with a margin, and the image into the canvas. For ten
   * thousand small sprites that is several times as fast as as many `drawImage` calls, with or without a GPU.
   */
  #blit(context, ratio, now) {
    const { canvas, camera } = this;
    const { margin } = this.#sprites;
    const world = camera.worldPx * ratio;
    const width = canvas.width + 2 * margin;
    const height = canvas.height + 2 * margin;
    const pixels = this.#pixels;
    for (const offset of this.#drawn) pixels[offset] = 0;
    this.#drawn.length = 0;
    for (const copy of worldCopies(camera)) {
      const left = canvas.width / 2 + (copy - camera.x) * world + margin;
      const top = canvas.height / 2 - camera.y * world + margin;
      for (let slot = 0; slot < this.#ids.length; slot++) {
        const span = this.#span[slot];
        let x = this.#x1[slot];
        let y = this.#y1[slot];
        if (span) {
          const t = (now - this.#start[slot]) / span;
          if (t < 1) {
            x = this.#x0[slot] + (x - this.#x0[slot]) * t;
            y = this.#y0[slot] + (y - this.#y0[slot]) * t;
          }
        }
        const px = (x * world + left) | 0;
        const py = (y * world + top) | 0;
        if (px < margin / 2 || py < margin / 2 || px >= width - margin / 2 || py >= height - margin / 2) continue;
        const sprite = this.#sprites.byLook[this.#look[slot]];
        const at = py * width + px;
        const { offsets, colors } = sprite;
        for (let i = 0; i < offsets.length; i++) {
          const offset = at + offsets[i];
          const color = colors[i];
          if (pixels[offset] >>> 24 < color >>> 24) {
            pixels[offset] = color;
            this.#drawn.push(offset);
          }
        }
      }
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.putImageData(this.#image, -margin, -margin);
  }

  #ring(context, colors, ratio, [x, y]) {
    const { camera } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.strokeStyle = colors.text;
    context.lineWidth = 2;
    for (const copy of worldCopies(camera)) {
      context.beginPath();
      context.arc((x + copy - camera.x) * camera.worldPx + camera.width / 2, (y - camera.y) * camera.worldPx + camera.height / 2, 10, 0, 7);
      context.stroke();
    }
  }

  #drawShapes(context, colors, ratio) {
    const { camera } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.lineWidth = 2;
    const world = camera.worldPx;
    for (const copy of worldCopies(camera)) {
      const px = (lon) => (toX(lon) + copy - camera.x) * world + camera.width / 2;
      const py = (lat) => (toY(lat) - camera.y) * world + camera.height / 2;
      for (const { kind = "", geometry } of this.#shapes.values()) {
        const color = colors.ofKind(kind);
        context.beginPath();
        for (const line of linesOf(geometry)) {
          line.forEach(([lon, lat], i) => (i ? context.lineTo(px(lon), py(lat)) : context.moveTo(px(lon), py(lat))));
          if (line.length === 1) context.rect(px(line[0][0]) - 2, py(line[0][1]) - 2, 4, 4);
        }
        if (geometry.type.endsWith("Polygon")) {
          context.fillStyle = `${color}33`;
          context.fill("evenodd");
        }
        context.strokeStyle = color;
        context.stroke();
      }
    }
  }

  /** Draws each look once, in all its directions, and keeps its pixels: offsets in the image and colours. */
  #prepareSprites(colors, ratio) {
    const { canvas } = this;
    const step = Math.max(0, Math.min(6, Math.round(this.camera.zoom / 2)));
    const key = `${colors.theme}/${ratio}/${step}/${this.#looks.length}/${canvas.width}/${canvas.height}`;
    if (key === this.#spriteKey) return;
    this.#spriteKey = key;
    const cell = Math.ceil(30 * ratio);
    const margin = cell;
    const width = canvas.width + 2 * margin;
    this.#image = new ImageData(width, canvas.height + 2 * margin);
    this.#pixels = new Uint32Array(this.#image.data.buffer);
    this.#drawn = [];
    const pad = new OffscreenCanvas(cell, cell).getContext("2d", { willReadFrequently: true });
    const byLook = [];
    this.#looks.forEach((look, style) => {
      for (let direction = 0; direction < (look.isArrow ? DIRECTIONS : 1); direction++) {
        pad.setTransform(1, 0, 0, 1, 0, 0);
        pad.clearRect(0, 0, cell, cell);
        pad.setTransform(ratio, 0, 0, ratio, cell / 2, cell / 2);
        pad.rotate((direction / DIRECTIONS) * 2 * Math.PI);
        drawLook(pad, look, step, colors);
        byLook[style * DIRECTIONS + direction] = pixelsOf(pad, cell, width);
      }
    });
    this.#sprites = { margin, byLook };
  }

  /** Returns the id of the entity at a place of the screen, the nearest one; null if there is none. */
  find([tapX, tapY], now) {
    const { camera } = this;
    let best = null;
    let least = TAP_PX;
    for (const copy of worldCopies(camera)) {
      for (let slot = 0; slot < this.#ids.length; slot++) {
        const [x, y] = this.#at(slot, now);
        const px = (x + copy - camera.x) * camera.worldPx + camera.width / 2;
        const py = (y - camera.y) * camera.worldPx + camera.height / 2;
        const distance = Math.hypot(px - tapX, py - tapY);
        if (distance < least) [best, least] = [this.#ids[slot], distance];
      }
    }
    return best ?? this.#findShape(tapX, tapY);
  }

  #findShape(tapX, tapY) {
    const { camera } = this;
    for (const [id, { geometry }] of this.#shapes) {
      for (const line of linesOf(geometry)) {
        for (const [lon, lat] of line) {
          const x = toX(lon) - camera.x;
          const px = (x - Math.round(x)) * camera.worldPx + camera.width / 2;
          const py = (toY(lat) - camera.y) * camera.worldPx + camera.height / 2;
          if (Math.hypot(px - tapX, py - tapY) < TAP_PX) return id;
        }
      }
    }
    return null;
  }
}

/** The lines, rings and single positions of any geometry. */
function linesOf({ type, coordinates }) {
  if (type === "Point") return [[coordinates]];
  if (type === "MultiPoint") return coordinates.map((position) => [position]);
  if (type === "LineString") return [coordinates];
  return type === "MultiPolygon" ? coordinates.flat() : coordinates;
}

function drawLook(context, { kind, size, isArrow }, step, colors) {
  const radius = kind === "town" ? 1.3 + step * 0.15 : 1.9 + step * 0.45 + (size - 1) * 1.9;
  context.fillStyle = colors.ofKind(kind);
  context.strokeStyle = colors.sea;
  context.lineWidth = 1;
  context.beginPath();
  if (isArrow) {
    const length = radius * 1.7;
    context.moveTo(0, -length);
    context.lineTo(length * 0.68, length * 0.8);
    context.lineTo(0, length * 0.42);
    context.lineTo(-length * 0.68, length * 0.8);
    context.closePath();
  } else context.arc(0, 0, Math.min(radius, 13), 0, 7);
  context.globalAlpha = size > 1 ? 0.62 : 1;
  context.fill();
  context.globalAlpha = 1;
  if (step > 2 && kind !== "town") context.stroke();
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
