/**
 * The entities on the map: where each of them is this instant, and the one pass that draws them.
 *
 * Law: positions are kept in flat arrays, by slot, and a frame is one pass over them; nothing is allocated per entity
 * and frame. A point glides from where it is drawn to where it was last reported, for as long as its reports are apart.
 */

import { toX, toY } from "./camera.js";
import { worldCopies } from "./ground.js";
import { Shapes } from "./shapes.js";
import { Sprites } from "./sprites.js";
import { Trails } from "./trails.js";

const GLIDE_MS_MAX = 15_000; // reports further apart than this are no motion
const GLIDE_MS_MIN = 60;
const GLIDE_DEGREES_MAX = 5; // further is a jump
const TAP_PX = 14;

export class Points {
  #slots = new Map(); // id -> slot
  #ids = []; // slot -> id
  #x0 = new Float64Array(1024);
  #y0 = new Float64Array(1024);
  #x1 = new Float64Array(1024);
  #y1 = new Float64Array(1024);
  #start = new Float64Array(1024); // when the glide began; performance.now()
  #span = new Float64Array(1024); // how long it takes; 0: it stands
  #look = new Uint16Array(1024);
  #shapes = new Shapes();
  #sprites = new Sprites();
  #trails = new Trails();
  #image = null; // the canvas and a margin around it
  #pixels = null; // of the image, as 32-bit numbers
  #glidesUntil = 0;
  drawn = 0; // points that the last frame showed; one that is on two copies of the world counts twice
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
    const { id, kind = "", geometry } = feature;
    if (geometry.type !== "Point") {
      this.#remove(id);
      this.#shapes.put(feature);
      return;
    }
    this.#shapes.remove(id);
    const x = toX(geometry.coordinates[0]);
    const y = toY(geometry.coordinates[1]);
    let slot = this.#slots.get(id);
    const isNew = slot === undefined;
    if (isNew) slot = this.#addSlot(id);
    this.#look[slot] = this.#sprites.lookOf(feature);
    if (!isNew && isUpdate && x === this.#x1[slot] && y === this.#y1[slot]) return; // it glides on
    const track = this.tracks.get(id);
    const apart = track ? track.at - track.since : 0;
    const [hereX, hereY] = isNew ? [x, y] : this.#at(slot, now);
    const isFar = Math.max(Math.abs(x - hereX), Math.abs(y - hereY)) * 360 > GLIDE_DEGREES_MAX;
    const isMotion = this.glides && isUpdate && !isNew && !isFar && apart > GLIDE_MS_MIN && apart < GLIDE_MS_MAX;
    this.#x0[slot] = isMotion ? hereX : x;
    this.#y0[slot] = isMotion ? hereY : y;
    this.#x1[slot] = x;
    this.#y1[slot] = y;
    this.#start[slot] = now;
    this.#span[slot] = isMotion ? apart : 0;
    if (isMotion) {
      this.#glidesUntil = Math.max(this.#glidesUntil, now + apart);
      this.#trails.add(id, kind, hereX, hereY, this.#ids.length);
    } else this.#trails.remove(id);
  }

  #addSlot(id) {
    const slot = this.#ids.length;
    if (slot === this.#x0.length) this.#grow();
    this.#slots.set(id, slot);
    this.#ids.push(id);
    return slot;
  }

  #remove(id) {
    this.#shapes.remove(id);
    this.#trails.remove(id);
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

  /** Tells whether something glides, so that another frame is worth drawing. */
  isMoving(now) {
    return now < this.#glidesUntil;
  }

  draw(colors, ratio, now, chosen) {
    const { canvas, camera } = this;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    this.#sprites.prepare(colors, ratio, camera.zoom, canvas.width);
    this.#blit(ratio, now);
    const { margin } = this.#sprites;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.putImageData(this.#image, -margin, -margin);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.globalCompositeOperation = "destination-over"; // below the points
    this.#trails.draw(context, camera, colors, (id) => this.position(id, now));
    if (this.#shapes.count) this.#shapes.draw(context, camera, colors);
    context.globalCompositeOperation = "source-over";
    const place = chosen && this.position(chosen, now);
    if (place) this.#ring(context, colors, place);
  }

  /**
   * Copies each point's sprite, pixel by pixel, into an image with a margin, which is then put onto the canvas. For ten
   * thousand small sprites that is several times as fast as as many `drawImage` calls, with or without a GPU.
   */
  #blit(ratio, now) {
    const { canvas, camera } = this;
    const { margin, stride: width, phases } = this.#sprites;
    const height = canvas.height + 2 * margin;
    if (this.#image?.width !== width || this.#image.height !== height) {
      this.#image = new ImageData(width, height);
      this.#pixels = new Uint32Array(this.#image.data.buffer);
    }
    const pixels = this.#pixels.fill(0);
    const [x0, y0, x1, y1, start, span, look, sprites] = [this.#x0, this.#y0, this.#x1, this.#y1, this.#start, this.#span, this.#look, this.#sprites];
    const world = camera.worldPx * ratio;
    const near = margin / 2;
    const count = this.#ids.length;
    this.drawn = 0;
    for (const copy of worldCopies(camera)) {
      const left = canvas.width / 2 + (copy - camera.x) * world + margin;
      const top = canvas.height / 2 - camera.y * world + margin;
      for (let slot = 0; slot < count; slot++) {
        const t = span[slot] ? Math.min(1, (now - start[slot]) / span[slot]) : 1;
        const x = (x0[slot] + (x1[slot] - x0[slot]) * t) * world + left;
        const y = (y0[slot] + (y1[slot] - y0[slot]) * t) * world + top;
        if (!(x >= near && y >= near && x < width - near && y < height - near)) continue;
        this.drawn++;
        const px = x | 0;
        const py = y | 0;
        const { offsets, colors } = sprites.get(look[slot], (((y - py) * phases) | 0) * phases + (((x - px) * phases) | 0));
        const at = py * width + px;
        for (let i = 0; i < offsets.length; i++) {
          const offset = at + offsets[i];
          const color = colors[i];
          if (pixels[offset] >>> 24 <= color >>> 24) pixels[offset] = color; // no blending: the less transparent wins
        }
      }
    }
  }

  #ring(context, colors, [x, y]) {
    const { camera } = this;
    context.strokeStyle = colors.text;
    context.lineWidth = 2;
    for (const copy of worldCopies(camera)) {
      context.beginPath();
      context.arc((x + copy - camera.x) * camera.worldPx + camera.width / 2, (y - camera.y) * camera.worldPx + camera.height / 2, 11, 0, 7);
      context.stroke();
    }
  }

  /** Returns the id of the entity that is nearest to a place of the screen, within `reach` pixels; null if there is none. */
  find(place, now, reach = TAP_PX) {
    const { camera } = this;
    let best = null;
    let least = reach;
    for (const copy of worldCopies(camera)) {
      for (let slot = 0; slot < this.#ids.length; slot++) {
        const [x, y] = this.#at(slot, now);
        const px = (x + copy - camera.x) * camera.worldPx + camera.width / 2;
        const py = (y - camera.y) * camera.worldPx + camera.height / 2;
        const distance = Math.hypot(px - place[0], py - place[1]);
        if (distance < least) [best, least] = [this.#ids[slot], distance];
      }
    }
    return best ?? this.#shapes.find(place, camera, reach);
  }
}
