/** The entities that are more than one point: lines, areas, several points. Few as a rule, and drawn one by one. */

import { toX, toY } from "./camera.js";
import { worldCopies } from "./ground.js";

export class Shapes {
  #features = new Map(); // by id

  get count() {
    return this.#features.size;
  }

  put(feature) {
    this.#features.set(feature.id, feature);
  }

  remove(id) {
    this.#features.delete(id);
  }

  draw(context, camera, colors) {
    context.lineWidth = 2;
    const world = camera.worldPx;
    for (const copy of worldCopies(camera)) {
      const px = (lon) => (toX(lon) + copy - camera.x) * world + camera.width / 2;
      const py = (lat) => (toY(lat) - camera.y) * world + camera.height / 2;
      for (const { kind = "", geometry } of this.#features.values()) {
        const color = colors.ofKind(kind);
        context.beginPath();
        for (const line of linesOf(geometry)) {
          line.forEach(([lon, lat], i) => (i ? context.lineTo(px(lon), py(lat)) : context.moveTo(px(lon), py(lat))));
          if (line.length === 1) context.rect(px(line[0][0]) - 2, py(line[0][1]) - 2, 4, 4);
        }
        context.strokeStyle = color;
        context.stroke();
        if (geometry.type.endsWith("Polygon")) {
          context.fillStyle = `${color}33`;
          context.fill("evenodd");
        }
      }
    }
  }

  /** Returns the id of a shape whose line passes within `reach` pixels of a place of the screen; null if none does. */
  find([tapX, tapY], camera, reach) {
    const world = camera.worldPx;
    for (const [id, { geometry }] of this.#features) {
      for (const copy of worldCopies(camera)) {
        const px = ([lon, lat]) => [(toX(lon) + copy - camera.x) * world + camera.width / 2, (toY(lat) - camera.y) * world + camera.height / 2];
        for (const line of linesOf(geometry)) {
          let from = px(line[0]);
          for (const position of line) {
            const to = px(position);
            if (distance(tapX, tapY, from, to) < reach) return id;
            from = to;
          }
        }
      }
    }
    return null;
  }
}

/** The lines, rings and single positions of any geometry. */
function linesOf({ type, coordinates }) {
  if (type === "MultiPoint") return coordinates.map((position) => [position]);
  if (type === "LineString") return [coordinates];
  return type === "MultiPolygon" ? coordinates.flat() : coordinates;
}

/** From a point to a piece of a line. */
function distance(x, y, [x0, y0], [x1, y1]) {
  const square = (x1 - x0) ** 2 + (y1 - y0) ** 2;
  const t = square ? Math.max(0, Math.min(1, ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / square)) : 0;
  return Math.hypot(x0 + (x1 - x0) * t - x, y0 + (y1 - y0) * t - y);
}
