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
import { Inspector } from "./inspector.js";
import { Labels } from "./labels.js";
import { Notices } from "./notices.js";
import { Kinds, Panel } from "./panel.js";
import { Points } from "./points.js";

const by = (id) => document.getElementById(id);
const KNOWN_KINDS = { bus: 1, aircraft: 2, quake: 3, town: "town" };
const RATIO_MAX = 2; // more pixels than this nobody sees, and each of them costs
const FRAME_TIMES_MAX = 600;
const PICK_PX = 250; // how far from the middle the keyboard picks
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
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  readColors();
  kinds.show(client.entities, colors);
  inspector.paint(colors);
  invalidate(true);
}

const camera = new Camera();
const client = connect(undefined, { bbox: null, zoom: camera.zoom });
const ground = new Ground(by("ground"), camera, () => invalidate(true));
const points = new Points(by("points"), camera, client.tracks);
const labels = new Labels(by("labels"), by("scale"), camera, () => invalidate(true));
const panel = new Panel();
const inspector = new Inspector(followAnew, () => choose(null));
const kinds = new Kinds(filterAnew);
const editor = new FilterEditor(
  { box: by("editor"), field: by("filter"), marks: by("marks"), error: by("filter-error"), apply: by("apply"), clear: by("clear") },
  (filter) => {
    typed = filter;
    filterAnew();
  },
);
const notices = new Notices(client, by("notice"), showWorld);

// Frames

const frameTimes = []; // milliseconds that drawing took, the last few hundred; read by tests and the curious
window.realtimeConsole = { client, camera, points, frameTimes };
let isGroundStale = true;
let isFrameAsked = false;

function invalidate(withGround = false) {
  isGroundStale ||= withGround;
  if (isFrameAsked) return;
  isFrameAsked = true;
  requestAnimationFrame(draw);
}

function draw() {
  isFrameAsked = false;
  const begin = performance.now();
  follow(begin);
  const ratio = Math.min(devicePixelRatio || 1, RATIO_MAX);
  if (isGroundStale) {
    isGroundStale = false;
    ground.draw(colors, ratio);
    labels.draw(colors, ratio);
  }
  points.draw(colors, ratio, begin, inspector.id);
  frameTimes.push(performance.now() - begin);
  if (frameTimes.length > FRAME_TIMES_MAX) frameTimes.shift();
  if (points.isMoving(begin)) invalidate();
}

function resize() {
  const ratio = Math.min(devicePixelRatio || 1, RATIO_MAX);
  for (const canvas of [by("ground"), by("points"), by("labels")]) {
    canvas.width = Math.round(innerWidth * ratio);
    canvas.height = Math.round(innerHeight * ratio);
  }
  camera.resize(innerWidth, innerHeight);
}

// What is asked of the server

camera.onChange(() => {
  client.look({ bbox: camera.bbox().map((degrees) => Number(degrees.toFixed(6))), zoom: Number(camera.zoom.toFixed(2)) });
  invalidate(true);
});

let typed; // the filter of the editor
const asked = new Map(); // the last few filters asked for, as JSON -> what was typed of each

function filterAnew() {
  const parts = [typed, kinds.filter].filter((part) => part !== undefined);
  const filter = parts.length > 1 ? ["all", ...parts] : parts[0];
  asked.set(JSON.stringify(filter), typed);
  if (asked.size > 16) asked.delete(asked.keys().next().value);
  client.look({ filter });
  notices.stir();
}

client.on("error", ({ code, message, view }) => {
  if (code !== "bad_filter") return notices.tell(message);
  const isCombined = JSON.stringify(view?.filter) !== JSON.stringify(typed);
  editor.refuse(isCombined && message.startsWith("filter[1]") ? `filter${message.slice("filter[1]".length)}` : message);
  // The client now goes back to the filter that the server took last: so does what the chips are combined with.
  queueMicrotask(() => (typed = asked.get(JSON.stringify(client.view.filter))));
});

// What comes back

client.on("change", (change) => {
  points.apply(change, performance.now());
  if (inspector.id !== null) {
    const left = change.left.find(({ id }) => id === inspector.id);
    inspector.update(client.entities.get(inspector.id), left?.reason, colors);
  }
  if (!change.isFilling && !client.stats.checks) client.check(); // the first one need not wait
  notices.stir();
  invalidate();
});

const STATES = { connecting: ["connecting", "warn"], open: ["live", "good"], closed: ["reconnecting", "bad"] };
client.on("status", ({ state, retry_ms }) => {
  const [text, lamp] = STATES[state];
  by("state").textContent = retry_ms === null ? "closed" : text;
  by("lamp").className = `lamp ${lamp}`;
  by("map").classList.toggle("stale", state !== "open" && client.stats.connections > 0);
  notices.show();
});

setInterval(() => {
  inspector.age();
  kinds.show(client.entities, colors);
  notices.show();
}, 500);
setInterval(() => panel.show(client, colors), 1000);

// What a person does

function choose(id) {
  const wasFollowing = inspector.follows;
  inspector.show(id === null ? null : (client.entities.get(id) ?? null), colors);
  if (IS_SMALL.matches) by("panel").hidden = inspector.id !== null || !isPanelOpen; // there is room for one of them
  if (wasFollowing) followAnew();
  invalidate();
}

/** An entity that is followed is shown wherever it goes. */
function followAnew() {
  client.look({ ids: inspector.follows ? [inspector.id] : undefined });
  invalidate();
}

function follow(now) {
  const position = inspector.follows ? points.position(inspector.id, now) : null;
  if (position && (Math.abs(position[0] - camera.x) > 1e-9 || Math.abs(position[1] - camera.y) > 1e-9)) {
    camera.set({ x: position[0], y: position[1] });
  }
}

function stopFollowing() {
  if (!inspector.follows) return;
  inspector.setFollows(false);
  followAnew();
}

function showWorld() {
  stopFollowing();
  camera.showWorld(isPanelOpen && !IS_SMALL.matches ? by("panel").getBoundingClientRect().right : 0);
}

let isPanelOpen = !IS_SMALL.matches;
function fold(isOpen) {
  isPanelOpen = isOpen;
  if (isOpen && IS_SMALL.matches) choose(null);
  by("panel").hidden = !isOpen;
  by("fold").setAttribute("aria-expanded", String(isOpen));
  document.body.classList.toggle("folded", !isOpen);
}

camera.listen(by("map"), { onTap: (at) => choose(points.find(at, performance.now())), onPan: stopFollowing, onWorld: showWorld });
by("zoom-in").addEventListener("click", () => camera.set({ zoom: camera.zoom + 1 }));
by("zoom-out").addEventListener("click", () => camera.set({ zoom: camera.zoom - 1 }));
by("world").addEventListener("click", showWorld);
const flip = () => setTheme(colors.theme === "dark" ? "light" : "dark");
by("theme").addEventListener("click", flip);
by("fold").addEventListener("click", () => fold(!isPanelOpen));
by("tiles").addEventListener("change", (event) => (ground.tileUrl = event.target.value.trim()));
by("map").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault(); // or it would press the button that gets the focus
  choose(points.find([camera.width / 2, camera.height / 2], performance.now(), PICK_PX));
  if (inspector.id !== null) by("entity-close").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "t") flip();
  if (event.key === "p") fold(!isPanelOpen);
  if (event.key === "Escape" && inspector.id !== null) {
    if (by("inspector").contains(document.activeElement)) by("map").focus();
    choose(null);
  }
});
const prefersLight = matchMedia("(prefers-color-scheme: light)");
prefersLight.addEventListener("change", () => setTheme(prefersLight.matches ? "light" : "dark"));
addEventListener("resize", resize);

// Where one looks, as the address remembers it: #zoom/lat/lon

function goToAddress() {
  const place = /^#([\d.]+)\/(-?[\d.]+)\/(-?[\d.]+)/.exec(location.hash)?.slice(1).map(Number);
  if (place?.every(Number.isFinite)) camera.goto(place[2], place[1], place[0]);
  else showWorld();
}
let addressTimer = 0;
camera.onChange(() => {
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => history.replaceState(null, "", `#${camera.address}`), 300);
});
addEventListener("hashchange", goToAddress);

setTheme(document.documentElement.dataset.theme);
fold(isPanelOpen);
resize();
goToAddress();
ground.load().catch(() => notices.tell("The land outlines could not be loaded."));
labels.load().catch(() => notices.tell("The names of towns could not be loaded."));
