/**
 * The names of towns, above the entities, so that they can be read where many entities are; and the scale.
 *
 * Law: largest towns first; a name that would touch another one is left out. Drawn again only when the camera moves or the
 * theme changes.
 */

import { toLat, toX, toY } from "./camera.js";
import { worldCopies } from "./ground.js";

const LABEL_PX = 12;
const LABELS_MAX = 120;
const ABOVE_PX = 11; // of a town's place, for the middle of its name
const PEOPLE_AT_ZOOM_0 = 30_000_000; // a quarter of that with each further zoom
const SCALE_PX = 110;
const METERS_AROUND = 40_075_017; // the equator

export class Labels {
  #places = []; // { name, x, y, population, half }, largest first
  #onReady;

  constructor(canvas, scale, camera, onReady) {
    this.canvas = canvas;
    this.scale = scale;
    this.camera = camera;
    this.#onReady = onReady;
  }

  async load() {
    const rows = await (await fetch("/console/places.json")).json();
    this.#places = rows.map(([name, lon, lat, population]) => ({ name, x: toX(lon), y: toY(lat), population, half: 0 }));
    this.#onReady();
  }

  draw(colors, ratio) {
    const { canvas, camera } = this;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, camera.width, camera.height);
    context.font = `500 ${LABEL_PX}px Inter, system-ui, "DejaVu Sans", sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    context.lineWidth = 3;
    context.strokeStyle = colors.halo;
    context.fillStyle = colors.label;
    const world = camera.worldPx;
    const copies = worldCopies(camera);
    const least = PEOPLE_AT_ZOOM_0 / 4 ** camera.zoom;
    const taken = [];
    for (const place of this.#places) {
      if (place.population < least || taken.length >= LABELS_MAX) break;
      for (const copy of copies) {
        const x = Math.round((place.x + copy - camera.x) * world + camera.width / 2);
        const y = Math.round((place.y - camera.y) * world + camera.height / 2);
        if (x < -50 || y < 0 || x > camera.width + 50 || y > camera.height + ABOVE_PX) continue;
        const half = (place.half ||= context.measureText(place.name).width / 2 + 4);
        if (taken.some((box) => Math.abs(box[0] - x) < box[2] + half && Math.abs(box[1] - y) < LABEL_PX * 2)) continue;
        taken.push([x, y, half]);
        context.strokeText(place.name, x, y - ABOVE_PX);
        context.fillText(place.name, x, y - ABOVE_PX);
        context.fillRect(x - 1, y - 1, 2, 2);
      }
    }
    this.#drawScale();
  }

  /** A round length that fits, at the middle of the screen: Mercator's scale grows with the latitude. */
  #drawScale() {
    const { camera, scale } = this;
    const metersPerPx = (METERS_AROUND * Math.cos((toLat(camera.y) * Math.PI) / 180)) / camera.worldPx;
    const most = SCALE_PX * metersPerPx;
    const power = 10 ** Math.floor(Math.log10(most));
    const meters = power * [5, 2, 1].find((step) => step * power <= most);
    scale.textContent = meters < 1000 ? `${meters} m` : `${(meters / 1000).toLocaleString("en")} km`;
    scale.style.width = `${Math.round(meters / metersPerPx)}px`;
  }
}
