/**
 * Where the map looks: Web Mercator, and what fingers, mice and keys do to it. It knows no entities and draws nothing.
 *
 * Law: x and y are of the unit square that holds the world once (0, 0 is 180° west, 85° north); x is unbounded, so that
 * one can go round. Zoom is MapLibre's: the world is 512 * 2^zoom CSS pixels wide.
 */

const LATITUDE_MAX = 85.051129;
const ZOOM_MIN = 0.4;
const ZOOM_MAX = 19;
const KEY_STEP_PX = 110;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const slackPx = ({ pointerType }) => (pointerType === "mouse" ? 4 : 10); // no finger holds still

export const toX = (lon) => lon / 360 + 0.5;
export const toY = (lat) => {
  const s = Math.sin((Math.max(-LATITUDE_MAX, Math.min(LATITUDE_MAX, lat)) * Math.PI) / 180);
  return 0.5 - Math.log((1 + s) / (1 - s)) / (4 * Math.PI);
};
export const toLon = (x) => (x - 0.5) * 360;
export const toLat = (y) => (Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180) / Math.PI;

export class Camera {
  x = 0.5;
  y = 0.5;
  zoom = ZOOM_MIN;
  width = 1;
  height = 1;
  #listeners = [];

  /** Calls `listener` after every change. */
  onChange(listener) {
    this.#listeners.push(listener);
  }

  get worldPx() {
    return 512 * 2 ** this.zoom;
  }

  resize(width, height) {
    this.width = width;
    this.height = height;
    this.set({});
  }

  /** Moves the middle, or the zoom around a point of the screen (`at`, CSS pixels). */
  set({ x = this.x, y = this.y, zoom = this.zoom, at = null }) {
    const zoomed = Math.max(this.#zoomMin(), Math.min(ZOOM_MAX, zoom));
    if (at) {
      const before = this.worldPx;
      const after = 512 * 2 ** zoomed;
      x += (at[0] - this.width / 2) * (1 / before - 1 / after);
      y += (at[1] - this.height / 2) * (1 / before - 1 / after);
    }
    this.zoom = zoomed;
    const half = Math.min(0.5, this.height / 2 / this.worldPx);
    this.x = x - Math.floor(x);
    this.y = Math.max(half, Math.min(1 - half, y));
    for (const listener of this.#listeners) listener();
  }

  goto(lon, lat, zoom = this.zoom) {
    this.set({ x: toX(lon), y: toY(lat), zoom });
  }

  /** Never so far out that there is less of the world than screen. */
  #zoomMin() {
    return Math.max(ZOOM_MIN, Math.log2(this.height / 512));
  }

  /** Where it looks, as an address has it: zoom/lat/lon. */
  get address() {
    return `${this.zoom.toFixed(2)}/${toLat(this.y).toFixed(4)}/${toLon(this.x).toFixed(4)}`;
  }

  /** What is on the screen, [west, south, east, north]; east goes on above 180. */
  bbox() {
    const halfX = Math.min(0.5, this.width / 2 / this.worldPx);
    const halfY = this.height / 2 / this.worldPx;
    return [
      toLon(this.x - halfX),
      toLat(Math.min(1, this.y + halfY)),
      toLon(this.x + halfX),
      toLat(Math.max(0, this.y - halfY)),
    ];
  }

  /** Shows the world once, as far as there is room for it; what lies left of `left` pixels does not count as room. */
  showWorld(left = 0) {
    const zoom = Math.max(this.#zoomMin(), Math.log2((this.width - left) / 512));
    this.set({ x: 0.5 - left / 2 / (512 * 2 ** zoom), y: 0.42, zoom });
  }

  /**
   * Lets a person move the camera at `element`. `onTap([x, y])`: a click or tap that moved nothing; `onPan()`: a move;
   * `onWorld()`: the world is asked for.
   */
  listen(element, { onTap, onPan, onWorld }) {
    const fingers = new Map();
    let moved = 0;
    const middle = () => {
      const all = [...fingers.values()];
      const sum = all.reduce((a, b) => [a[0] + b[0], a[1] + b[1]]);
      const spread = all.length > 1 ? Math.hypot(all[0][0] - all[1][0], all[0][1] - all[1][1]) : 0;
      return { at: [sum[0] / all.length, sum[1] / all.length], spread };
    };
    element.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      element.setPointerCapture(event.pointerId);
      if (!fingers.size) moved = 0;
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      element.classList.add("dragging");
    });
    element.addEventListener("pointermove", (event) => {
      if (!fingers.has(event.pointerId)) return;
      const before = middle();
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      const after = middle();
      const dx = after.at[0] - before.at[0];
      const dy = after.at[1] - before.at[1];
      moved += Math.abs(dx) + Math.abs(dy) + Math.abs(after.spread - before.spread);
      if (moved < slackPx(event)) return;
      onPan();
      const zoom = this.zoom + (before.spread && after.spread ? Math.log2(after.spread / before.spread) : 0);
      this.set({ x: this.x - dx / this.worldPx, y: this.y - dy / this.worldPx, zoom, at: after.at });
    });
    const lift = (event) => {
      if (!fingers.delete(event.pointerId)) return;
      if (fingers.size) return;
      element.classList.remove("dragging");
      if (event.type === "pointerup" && moved < slackPx(event)) onTap([event.clientX, event.clientY]);
    };
    element.addEventListener("pointerup", lift);
    element.addEventListener("pointercancel", lift);
    element.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const lines = event.deltaMode === 1 ? event.deltaY * 20 : event.deltaY;
        const change = Math.max(-1, Math.min(1, -lines / (event.ctrlKey ? 90 : 340)));
        this.set({ zoom: this.zoom + change, at: [event.clientX, event.clientY] });
      },
      { passive: false },
    );
    element.addEventListener("dblclick", (event) => {
      this.set({ zoom: this.zoom + (event.shiftKey ? -1 : 1), at: [event.clientX, event.clientY] });
    });
    element.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const { key } = event;
      const [dx, dy] = ARROWS[key] ?? [0, 0];
      if (key in ARROWS) {
        onPan();
        this.set({ x: this.x + (dx * KEY_STEP_PX) / this.worldPx, y: this.y + (dy * KEY_STEP_PX) / this.worldPx });
      } else if (key === "+" || key === "=") this.set({ zoom: this.zoom + 0.5 });
      else if (key === "-") this.set({ zoom: this.zoom - 0.5 });
      else if (key === "0") onWorld();
      else return;
      event.preventDefault();
    });
  }
}
