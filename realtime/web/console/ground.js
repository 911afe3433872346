/**
 * What lies under the entities: sea, land, and tiles if somebody asked for them. It is drawn again only when the camera
 * moves, the theme changes or a tile comes in.
 *
 * Law: nothing is loaded from elsewhere unless a person set a tile URL.
 */

import { toX, toY } from "./camera.js";

const TILES_MAX = 256;
const COARSE_BELOW_ZOOM = 2.6; // where a degree is a few pixels, a tenth of the points draws the same coast
const COARSE_DEGREES = 0.25;

export class Ground {
  #land = []; // polygons: { west, east, north, south, fine, coarse }, in the unit square
  #tiles = new Map(); // url -> Image, oldest first
  #tileUrl = "";
  #onReady;

  constructor(canvas, camera, onReady) {
    this.canvas = canvas;
    this.camera = camera;
    this.#onReady = onReady;
  }

  async load() {
    this.#land = polygonsOf(await (await fetch("/console/land.json")).json());
    this.#onReady();
  }

  /** Sets the raster tiles below the entities; an empty text takes them away. */
  set tileUrl(url) {
    this.#tileUrl = /^https?:.*\{z\}.*$/.test(url) ? url : "";
    this.#tiles.clear();
    this.#onReady();
  }

  draw(colors, ratio) {
    const { canvas, camera } = this;
    const context = canvas.getContext("2d", { alpha: false });
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = colors.sea;
    context.fillRect(0, 0, camera.width, camera.height);
    this.#drawLand(context, colors, ratio);
    if (this.#tileUrl) this.#drawTiles(context);
  }

  #drawLand(context, colors, ratio) {
    const { camera } = this;
    const world = camera.worldPx;
    const halfX = camera.width / 2 / world;
    const halfY = camera.height / 2 / world;
    context.fillStyle = colors.land;
    context.strokeStyle = colors.shore;
    context.lineWidth = 1 / world;
    const first = Math.floor(camera.x - halfX) - 1; // a polygon goes on beyond the edge of its own copy of the world
    for (let copy = first; copy <= camera.x + halfX; copy++) {
      context.setTransform(world * ratio, 0, 0, world * ratio, ratio * ((copy - camera.x) * world + camera.width / 2), ratio * (camera.height / 2 - camera.y * world));
      for (const polygon of this.#land) {
        if (polygon.west + copy > camera.x + halfX || polygon.east + copy < camera.x - halfX) continue;
        if (polygon.north > camera.y + halfY || polygon.south < camera.y - halfY) continue;
        const path = camera.zoom < COARSE_BELOW_ZOOM ? polygon.coarse : polygon.fine;
        if (!path) continue;
        context.fill(path, "evenodd");
        context.stroke(path);
      }
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  #drawTiles(context) {
    const { camera } = this;
    const z = Math.max(0, Math.min(19, Math.round(camera.zoom + 1)));
    const count = 2 ** z;
    const size = camera.worldPx / count;
    const left = Math.floor((camera.x * camera.worldPx - camera.width / 2) / size);
    const right = Math.floor((camera.x * camera.worldPx + camera.width / 2) / size);
    const top = Math.max(0, Math.floor((camera.y * camera.worldPx - camera.height / 2) / size));
    const bottom = Math.min(count - 1, Math.floor((camera.y * camera.worldPx + camera.height / 2) / size));
    for (let x = left; x <= right; x++) {
      for (let y = top; y <= bottom; y++) {
        const image = this.#tile(z, ((x % count) + count) % count, y);
        if (!image.complete || !image.naturalWidth) continue;
        const px = Math.round(x * size - camera.x * camera.worldPx + camera.width / 2);
        const py = Math.round(y * size - camera.y * camera.worldPx + camera.height / 2);
        context.drawImage(image, px, py, Math.ceil(size), Math.ceil(size));
      }
    }
  }

  #tile(z, x, y) {
    const url = this.#tileUrl.replace("{z}", z).replace("{x}", x).replace("{y}", y);
    let image = this.#tiles.get(url);
    if (!image) {
      image = new Image();
      image.onload = this.#onReady;
      image.referrerPolicy = "no-referrer";
      image.src = url;
      this.#tiles.set(url, image);
      if (this.#tiles.size > TILES_MAX) this.#tiles.delete(this.#tiles.keys().next().value);
    }
    return image;
  }
}

/** Which copies of the world are on the screen, as whole numbers to be added to x. */
export function worldCopies(camera) {
  const half = camera.width / 2 / camera.worldPx;
  const copies = [];
  for (let copy = Math.floor(camera.x - half); copy <= Math.floor(camera.x + half); copy++) copies.push(copy);
  return copies;
}

/** Rings are [x, y, dx, dy, …] in steps of a fraction of a degree. */
function polygonsOf({ steps_per_degree: steps, polygons }) {
  return polygons.map((rings) => {
    const polygon = { west: Infinity, east: -Infinity, north: Infinity, south: -Infinity, fine: new Path2D(), coarse: new Path2D() };
    for (const ring of rings) {
      let lon = 0;
      let lat = 0;
      let [coarseLon, coarseLat] = [Infinity, Infinity];
      for (let i = 0; i < ring.length; i += 2) {
        lon += ring[i] / steps;
        lat += ring[i + 1] / steps;
        const x = toX(lon);
        const y = toY(lat);
        polygon.west = Math.min(polygon.west, x);
        polygon.east = Math.max(polygon.east, x);
        polygon.north = Math.min(polygon.north, y);
        polygon.south = Math.max(polygon.south, y);
        if (i) polygon.fine.lineTo(x, y);
        else polygon.fine.moveTo(x, y);
        if (i && Math.abs(lon - coarseLon) < COARSE_DEGREES && Math.abs(lat - coarseLat) < COARSE_DEGREES) continue;
        [coarseLon, coarseLat] = [lon, lat];
        if (i) polygon.coarse.lineTo(x, y);
        else polygon.coarse.moveTo(x, y);
      }
      polygon.fine.closePath();
      polygon.coarse.closePath();
    }
    if ((polygon.east - polygon.west) * 360 < 2 * COARSE_DEGREES) polygon.coarse = null; // less than a pixel or two
    return polygon;
  });
}
