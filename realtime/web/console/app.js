/**
 * The console: a client, a camera, and what is drawn of the one through the other.
 *
 * Law: a frame is drawn when something changed or glides, and not otherwise. What is on the screen is what the server is
 * asked for; what is typed is the server's to judge.
 */

import { connect } from "/client.js";
import { Camera } from "./camera.js";
import { FilterEditor } from "./editor.js";
import { Ground } from "./ground.js";
import { Inspector, Kinds, Panel } from "./panel.js";
import { Points } from "./points.js";

const by = (id) => document.getElementById(id);
const KNOWN_KINDS = { bus: 1, aircraft: 2, quake: 3, town: "town" };
const EMPTY_AFTER_MS = 2500;
const IS_SMALL = matchMedia("(max-width: 640px)");

// Colours, as the style sheet has them

let colors;
function readColors() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(`--${name}`).trim();
  const byKind = new Map();
  colors = {
    theme: document.documentElement.dataset.theme,
    ofKind(kind) {
      let color = byKind.get(kind);
      if (!color) {
        const own = KNOWN_KINDS[kind] ?? ([...kind].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) >>> 0, 7) % 3) + 4;
        byKind.set(kind, (color = value(`kind-${own}`)));
      }
      return color;
    },
  };
  for (const name of ["sea", "land", "shore", "label", "halo", "text", "accent"]) colors[name] = value(name);
}
const preferred = matchMedia("(prefers-color-scheme: light)");
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  readColors();
  invalidate(true);
}

// Where one looks, as the address remembers it: #zoom/lat/lon

const camera = new Camera();
const place = /^#([\d.]+)\/(-?[\d.]+)\/(-?[\d.]+)/.exec(location.hash);

const client = connect(undefined, { bbox: null, zoom: camera.zoom });
const ground = new Ground(by("ground"), camera, () => invalidate(true));
const points = new Points(by("points"), camera, client.tracks);
const panel = new Panel();
const inspector = new Inspector(() => follow(performance.now()), () => choose(null));
const kinds = new Kinds(look);
const editor = new FilterEditor(
  { box: by("editor"), field: by("filter"), marks: by("marks"), error: by("filter-error"), apply: by("apply"), clear: by("clear") },
  (filter) => {
    typed = filter;
    look();
  },
);
let typed; // the filter of the editor
let isGroundStale = true;
let isFrameAsked = false;

function invalidate(withGround = false) {
  isGroundStale ||= withGround;
  if (isFrameAsked) return;
  isFrameAsked = true;
  requestAnimationFrame(draw);
}

const frameTimes = []; // milliseconds that drawing took, the last 600; read by tests and the curious
window.realtimeConsole = { client, camera, points, frameTimes };

function draw(now) {
  isFrameAsked = false;
  const begin = performance.now();
  follow(begin);
  const ratio = Math.min(devicePixelRatio || 1, 2);
  if (isGroundStale) {
    isGroundStale = false;
    ground.draw(colors, ratio);
  }
  points.draw(colors, ratio, begin, inspector.id);
  frameTimes.push(performance.now() - begin);
  if (frameTimes.length > 600) frameTimes.shift();
  if (points.isMoving(now)) invalidate();
}

function follow(now) {
  const position = inspector.follows && inspector.id !== null ? points.position(inspector.id, now) : null;
  if (position && (Math.abs(position[0] - camera.x) > 1e-9 || Math.abs(position[1] - camera.y) > 1e-9)) {
    camera.set({ x: position[0], y: position[1] });
  }
}

function resize() {
  const ratio = Math.min(devicePixelRatio || 1, 2);
  for (const canvas of [by("ground"), by("points")]) {
    canvas.width = Math.round(innerWidth * ratio);
    canvas.height = Math.round(innerHeight * ratio);
  }
  camera.resize(innerWidth, innerHeight);
}

// What is asked of the server

function look() {
  const parts = [...kinds.hidden].map((kind) => ["!=", ["kind"], kind]);
  if (typed !== undefined) parts.push(typed);
  const filter = parts.length > 1 ? ["all", ...parts] : parts[0];
  const ids = inspector.follows && inspector.id !== null ? [inspector.id] : undefined;
  client.look({ bbox: camera.bbox().map((degrees) => Number(degrees.toFixed(6))), zoom: Number(camera.zoom.toFixed(2)), filter, ids });
}

let hashTimer = 0;
camera.onChange(() => {
  look();
  invalidate(true);
  clearTimeout(hashTimer);
  hashTimer = setTimeout(() => {
    const lon = (camera.x - 0.5) * 360;
    const [, south, , north] = camera.bbox();
    history.replaceState(null, "", `#${camera.zoom.toFixed(2)}/${((south + north) / 2).toFixed(4)}/${lon.toFixed(4)}`);
  }, 300);
});

// What comes back

client.on("change", (change) => {
  points.apply(change, performance.now());
  if (inspector.id !== null) {
    const feature = client.entities.get(inspector.id);
    const left = change.left.find(({ id }) => id === inspector.id);
    if (left) inspector.gone(left.reason);
    else if (feature && change.before.has(feature.id)) inspector.show(feature, colors);
  }
  lastChange = performance.now();
  if (!wasChecked && !change.isFilling) wasChecked = client.check(); // the first comparison comes at once, not after ten seconds
  invalidate();
});

client.on("error", ({ code, message }) => {
  if (code === "bad_filter") editor.refuse(shifted(message));
  else notice(message, "error");
});

/** The editor's filter may stand inside an `all` with the chips' filters: take their share of the place away. */
function shifted(message) {
  const inner = kinds.hidden.size ? `filter[${kinds.hidden.size + 1}]` : null;
  return inner && message.startsWith(inner) ? `filter${message.slice(inner.length)}` : message;
}

let wasChecked = false;
let lastChange = performance.now();
let openedAt = 0;
client.on("status", (status) => {
  const names = { connecting: "connecting", open: "live", closed: status.retry_ms === null ? "closed" : "reconnecting" };
  by("state").textContent = names[status.state];
  by("lamp").className = `lamp ${status.state === "open" ? "good" : status.state === "closed" ? "bad" : "warn"}`;
  if (status.state === "open") openedAt = performance.now();
  tick();
});

client.on("stats", () => panel.show(client, colors));

// Notices: disconnected, empty, refused

let told = null; // { text, until }
function notice(text, kind) {
  told = { text, until: performance.now() + (kind === "error" ? 8000 : 4000) };
  tick();
}

function tick() {
  const now = performance.now();
  inspector.age();
  kinds.show(client.entities, colors);
  const { status } = client;
  const isEmpty = status.state === "open" && !client.entities.size && now - Math.max(openedAt, lastChange) > EMPTY_AFTER_MS;
  let text = "";
  let act = null;
  if (status.state === "closed") {
    text = status.retry_ms === null ? `Closed: ${status.reason || status.code}.` : "The connection is lost. What you see is from before; it is coming back by itself.";
    act = ["Try now", () => client.connect()];
  } else if (told && told.until > now) {
    text = told.text;
  } else if (isEmpty && client.view.filter !== undefined && client.view.filter !== null) {
    text = "Nothing here passes the filter.";
  } else if (isEmpty) {
    text = "Nothing here yet. Zoom out, or publish something.";
    act = ["Show the world", () => camera.set({ zoom: 0 })];
  }
  by("notice").hidden = !text;
  by("notice-text").textContent = text;
  by("notice-act").hidden = !act;
  if (act) {
    by("notice-act").textContent = act[0];
    by("notice-act").onclick = act[1];
  }
}
setInterval(tick, 500);

// What a person does

function choose(id) {
  inspector.show(id === null ? null : (client.entities.get(id) ?? null), colors);
  if (IS_SMALL.matches) by("panel").hidden = id !== null || !isPanelOpen;
  look();
  invalidate();
}

let isPanelOpen = !IS_SMALL.matches;
function fold(isOpen) {
  isPanelOpen = isOpen;
  by("panel").hidden = !isOpen;
  by("fold").setAttribute("aria-expanded", String(isOpen));
}

camera.listen(by("map"), (at) => choose(points.find(at, performance.now())));
by("zoom-in").addEventListener("click", () => camera.set({ zoom: camera.zoom + 1 }));
by("zoom-out").addEventListener("click", () => camera.set({ zoom: camera.zoom - 1 }));
by("world").addEventListener("click", () => camera.set({ x: 0.5, y: 0.42, zoom: 0 }));
const flip = () => setTheme(colors.theme === "dark" ? "light" : "dark");
by("theme").addEventListener("click", flip);
by("fold").addEventListener("click", () => fold(!isPanelOpen));
by("tiles").addEventListener("change", (event) => (ground.tileUrl = event.target.value.trim()));
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "t") flip();
  if (event.key === "p") fold(!isPanelOpen);
  if (event.key === "Escape") choose(null);
});
preferred.addEventListener("change", () => setTheme(preferred.matches ? "light" : "dark"));
addEventListener("resize", resize);

setTheme(preferred.matches ? "light" : "dark");
fold(isPanelOpen);
if (place) camera.goto(Number(place[3]), Number(place[2]), Number(place[1]));
resize();
ground.load().catch(() => notice("The land outlines could not be loaded.", "error"));
