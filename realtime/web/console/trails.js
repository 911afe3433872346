/**
 * Where moving points have come from: the last few places of each, as a fading line.
 *
 * Law: only while few points are shown, where one can follow each of them; the more there are, the shorter the lines.
 */

const POINTS_MAX = 2000;
const PLACES_MAX = 24;
const SEGMENTS_MAX = 4000; // of all trails, in a frame
const PIECES = 3; // a trail is drawn in so many, the oldest faintest

export class Trails {
  #places = new Map(); // id -> { kind, xy: [x, y, x, y, …], oldest first }

  /** A point was at (x, y), in the unit square, when it began to move on; `count` points are shown. */
  add(id, kind, x, y, count) {
    if (count > POINTS_MAX) return this.#places.clear();
    let trail = this.#places.get(id);
    if (!trail) this.#places.set(id, (trail = { kind, xy: [] }));
    trail.kind = kind;
    if (trail.xy.push(x, y) > 2 * PLACES_MAX) trail.xy.splice(0, 2);
  }

  remove(id) {
    this.#places.delete(id);
  }

  /** `positionOf(id)` is where a point is drawn now: the end of its trail. */
  draw(context, camera, colors, positionOf) {
    const world = camera.worldPx;
    const most = Math.max(2, Math.min(PLACES_MAX, Math.floor(SEGMENTS_MAX / this.#places.size)));
    const paths = new Map(); // "piece/kind" -> Path2D
    for (const [id, { kind, xy }] of this.#places) {
      const [x, y] = positionOf(id);
      const shift = Math.round(camera.x - x); // into the copy of the world that is nearest to the middle
      const px = (x) => (x + shift - camera.x) * world + camera.width / 2;
      const py = (y) => (y - camera.y) * world + camera.height / 2;
      if (Math.abs(px(x) - camera.width / 2) > camera.width || Math.abs(py(y) - camera.height / 2) > camera.height) continue;
      const count = xy.length / 2;
      for (let i = Math.max(0, count - most); i < count; i++) {
        const isLast = i + 1 === count;
        const piece = PIECES - 1 - Math.min(PIECES - 1, Math.floor(((count - 1 - i) * PIECES) / most));
        const key = `${piece}/${kind}`;
        let path = paths.get(key);
        if (!path) paths.set(key, (path = new Path2D()));
        path.moveTo(px(xy[2 * i]), py(xy[2 * i + 1]));
        path.lineTo(px(isLast ? x : xy[2 * i + 2]), py(isLast ? y : xy[2 * i + 3]));
      }
    }
    context.lineWidth = 2;
    context.lineCap = "round";
    for (const [key, path] of paths) {
      context.globalAlpha = 0.5 * ((Number(key[0]) + 1) / PIECES);
      context.strokeStyle = colors.ofKind(key.slice(2));
      context.stroke(path);
    }
    context.globalAlpha = 1;
  }
}
