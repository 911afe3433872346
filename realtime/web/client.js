/**
 * The browser's side of `realtime`: a mirror of what a view shows, the connection that keeps it right, and the way
 * from there into a MapLibre source. Types, events and options are in `client.d.ts`.
 *
 * Law: a delta is applied wholly or not at all, and a Feature in the mirror is never changed, only replaced. Whatever
 * does not fit, a frame, a digest, ends in a reset. Nothing that a page's listener throws reaches the connection.
 */

const SUBPROTOCOL = "realtime.v1.json";
const LIMITS = { message_bytes: 16 * 1024, have_entities: 4000, views_per_s: 20 }; // until a welcome tells others
const VIEW_MEMBERS = ["bbox", "zoom", "filter", "ids", "max_hz"];
const BACKOFF_BASE_MS = 500;
const BACKOFF_MAX_MS = 30_000;
const STABLE_MS = 5000; // after which a connection was a good one, and the backoff begins anew
const WELCOME_TIMEOUT_MS = 10_000;
const HEAL_INTERVAL_MS = 2000; // between two refreshes, should a fault stay
const TICK_MS = 1000;

const ENVIRONMENT = {
  now: () => performance.now(),
  wall: () => Date.now(),
  random: () => Math.random(),
  setTimeout: (call, ms) => setTimeout(call, ms),
  clearTimeout: (timer) => clearTimeout(timer),
  document: globalThis.document,
};

const utf8 = new TextEncoder();
const hashed = new Uint8Array(256); // 128 bytes of id and 16 digits at most

const reportError = (error) => (globalThis.reportError ?? console.error)(error);

/** An entity's part of a mirror's digest: fmix32(FNV-1a-32 of the UTF-8 of `id@version`). */
export function digestOf(id, version) {
  const { written } = utf8.encodeInto(`${id}@${version}`, hashed);
  let h = 0x811c9dc5;
  for (let i = 0; i < written; i++) h = Math.imul(h ^ hashed[i], 0x01000193);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

export class MirrorError extends Error {}

/** The client's copy of the entities that its view shows. */
export class Mirror {
  entities = new Map(); // id -> Feature with a `version`
  seq = 0; // of the last delta applied
  total = null; // entities that the view matches
  sampled = 1; // the share of them that is shown
  isFilling = false; // the last delta promised more
  #digest = 0;

  get digest() {
    return (this.#digest >>> 0).toString(16).padStart(8, "0");
  }

  /** Returns {id: version} to resume with, of at most `max` entities; the rest is forgotten. */
  have(max = Infinity) {
    for (const id of [...this.entities.keys()].slice(max)) this.#take(id);
    return Object.fromEntries(Array.from(this.entities.values(), ({ id, version }) => [id, version]));
  }

  restart() {
    this.seq = 0;
    this.isFilling = false;
  }

  clear() {
    this.entities.clear();
    this.#digest = 0;
  }

  agrees(check) {
    return check.seq === this.seq && check.count === this.entities.size && check.digest === this.digest;
  }

  /** Applies one delta and returns what it did. Throws and changes nothing if it does not fit. */
  apply(delta) {
    this.#verify(delta);
    const { reset = false, enter = [], move = [], patch = [], leave = {} } = delta;
    const before = new Map(reset ? this.entities : []);
    const left = [];
    if (reset) this.clear();
    for (const [reason, ids] of Object.entries(leave)) {
      for (const id of ids) left.push({ id, reason, feature: this.#take(id) });
    }
    const entered = enter.map((feature) => this.#put(feature, before));
    const moved = move.map(([id, version, lon, lat]) => {
      const geometry = { type: "Point", coordinates: [lon, lat] };
      return this.#put({ ...this.entities.get(id), version, geometry }, before);
    });
    const patched = patch.map((change) => this.#put(patchedFeature(this.entities.get(change.id), change), before));
    if (reset) {
      for (const [id, feature] of before) if (!this.entities.has(id)) left.push({ id, reason: "reset", feature });
    }
    this.seq = delta.seq;
    this.isFilling = Boolean(delta.more);
    if ("total" in delta) [this.total, this.sampled] = [delta.total, delta.sampled];
    return { entered, moved, patched, left, before, reset };
  }

  #verify({ seq, reset, enter = [], move = [], patch = [], leave = {} }) {
    if (seq !== this.seq + 1) throw new MirrorError(`delta ${seq} came after ${this.seq}`);
    const held = reset ? new Map() : this.entities;
    const named = new Set();
    const name = (id, doing, version) => {
      if (named.has(id)) throw new MirrorError(`${id} stands twice in a delta`);
      named.add(id);
      if (!doing) return;
      const old = held.get(id);
      if (!old) throw new MirrorError(`${id} ${doing} and is not held`);
      if (version <= old.version) throw new MirrorError(`${id} goes from version ${old.version} to ${version}`);
    };
    for (const feature of enter) name(feature.id);
    for (const [id, version] of move) name(id, "moves", version);
    for (const { id, version } of patch) name(id, "changes", version);
    for (const id of Object.values(leave).flat()) name(id, "leaves", Infinity);
  }

  #put(feature, before) {
    const old = this.entities.get(feature.id);
    if (old) {
      before.set(old.id, old);
      this.#digest ^= digestOf(old.id, old.version);
    }
    this.entities.set(feature.id, feature);
    this.#digest ^= digestOf(feature.id, feature.version);
    return feature;
  }

  #take(id) {
    const feature = this.entities.get(id);
    this.entities.delete(id);
    this.#digest ^= digestOf(id, feature.version);
    return feature;
  }
}

/** The entity after a patch: each named property is replaced whole, null removes it. */
function patchedFeature(feature, { version, geometry = feature.geometry, properties = {} }) {
  // Spread defines members, where assigning would trip over a property that is named `__proto__`.
  const changed = { ...feature.properties, ...properties };
  for (const [name, value] of Object.entries(properties)) if (value === null) delete changed[name];
  return { ...feature, version, geometry, properties: changed };
}

export function connect(url, options) {
  return new Client(url, options);
}

/** A mirror that is kept right: views go out, deltas come in, events tell what they did. */
export class Client {
  mirror = new Mirror();
  tracks = new Map(); // id -> where a point was reported last and before
  welcome = null;
  status = { state: "closed", code: 1000, reason: "not started", retry_ms: null };
  stats = { connections: 0, deltas: 0, changes: 0, bytes: 0, checks: 0, heals: 0, bad_frames: 0, lag_ms: 0, pending: null, agrees: null };
  token;

  #url;
  #options;
  #env;
  #listeners = new Map();
  #timers = new Map();
  #socket = null;
  #turn = 0; // counts attempts: a token that comes after another one began is of no use
  #isOpen = false; // it has been welcomed
  #attempt = 0; // of those that failed in a row
  #sentToken;
  #refusedToken; // with which there is no use in coming back
  #openedAt = 0;
  #frameAt = 0; // when anything came last
  #probedAt = -Infinity; // when a check was asked for last
  #returnAt = null; // when a `drain` asks to come back
  #view; // wanted
  #isLooking; // the page has said at what
  #base = null; // the last view known to be applied
  #sent = new Map(); // id -> view, sent and neither answered nor refused
  #viewId = 0;
  #firstId = 0; // of the connection's first view
  #viewSentAt = -Infinity;
  #world = null; // whose versions the mirror holds
  #freshAt = 0; // when it was kept up to date last, by the wall clock: others stop while a machine sleeps
  #mayHave = true; // `have` has not been refused
  #isBroken = false; // the mirror is in doubt until the next reset
  #refreshedAt = -Infinity;

  constructor(url, options = {}) {
    const base = url === undefined ? import.meta.url : globalThis.location?.href;
    this.#url = new URL(url ?? "ws", base).href.replace(/^http/, "ws");
    this.#options = { pauseWhenHidden: true, checkIntervalMs: 10_000, ...options };
    this.#env = { ...ENVIRONMENT, ...options.env };
    this.token = options.token;
    const { bbox = null, zoom, filter, ids, max_hz } = options;
    this.#want({ bbox, zoom, filter, ids, max_hz });
    this.#isLooking = options.bbox !== undefined;
    this.connect();
  }

  get entities() {
    return this.mirror.entities;
  }

  get view() {
    return this.#view;
  }

  /** Comes back at once, whatever the server said when it closed. */
  connect() {
    if (this.#socket) return;
    this.#attempt = 0;
    this.#refusedToken = undefined;
    this.#env.document?.addEventListener("visibilitychange", this.#onVisibility);
    globalThis.addEventListener?.("online", this.#hurry);
    this.#open();
  }

  close() {
    this.#env.document?.removeEventListener("visibilitychange", this.#onVisibility);
    globalThis.removeEventListener?.("online", this.#hurry);
    this.#release();
    this.#setStatus("closed", { code: 1000, reason: "closed by the page", retry_ms: null });
  }

  look(view) {
    this.#want(view);
    this.#isLooking = true;
    this.#lookSoon();
  }

  send(message) {
    return this.#write(JSON.stringify(message));
  }

  refresh() {
    this.#refreshedAt = this.#env.now();
    return this.send({ type: "refresh" });
  }

  check() {
    this.#probedAt = this.#env.now();
    return this.send({ type: "check" });
  }

  on(name, listener) {
    if (!this.#listeners.has(name)) this.#listeners.set(name, new Set());
    this.#listeners.get(name).add(listener);
    return () => this.#listeners.get(name).delete(listener);
  }

  #emit(name, ...event) {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        listener(...event);
      } catch (error) {
        reportError(error);
      }
    }
  }

  #setStatus(state, more) {
    this.status = { state, ...more };
    this.#emit("status", this.status);
  }

  #after(name, ms, call) {
    this.#env.clearTimeout(this.#timers.get(name));
    const timer = this.#env.setTimeout(() => {
      this.#timers.delete(name);
      call();
    }, ms);
    this.#timers.set(name, timer);
  }

  #write(text) {
    if (this.#socket?.readyState !== 1) return false;
    this.#socket.send(text);
    return true;
  }

  async #open() {
    this.#release();
    const turn = this.#turn;
    this.#setStatus("connecting");
    let token;
    try {
      await null; // a page that has just made this has no listeners on it yet
      token = typeof this.token === "function" ? await this.token() : await this.token;
    } catch (error) {
      if (turn === this.#turn) this.#lose(1006, `no token: ${error}`);
      return;
    }
    if (turn !== this.#turn) return;
    if (token !== undefined && token === this.#refusedToken) return this.#lose(4500, "no other token than the refused one", null);
    this.#sentToken = token;
    let socket;
    try {
      socket = new (this.#options.WebSocket ?? WebSocket)(this.#url, [SUBPROTOCOL]);
    } catch (error) {
      return this.#lose(1006, String(error), null); // a wrong address stays wrong
    }
    this.#socket = socket;
    const ifOurs = (call) => (event) => this.#socket === socket && call(event);
    socket.onopen = ifOurs(() => {
      this.send({ type: "identify", token, client: "client.js/1" });
      this.#sendView();
    });
    socket.onmessage = ifOurs((event) => this.#onFrame(event.data));
    socket.onclose = ifOurs((event) => this.#lose(event.code, event.reason));
    // A close follows, but not in Node.js 20 where the connection failed.
    socket.onerror = ifOurs(() => socket.readyState === 0 && this.#lose(1006, "no connection"));
    this.#after("welcome", WELCOME_TIMEOUT_MS, () => this.#lose(1006, "no welcome in time"));
  }

  /** Lets go of all that belongs to one connection. */
  #release() {
    const socket = this.#socket;
    this.#socket = this.#returnAt = null;
    this.#turn += 1;
    this.#isOpen = false;
    this.#firstId = 0;
    this.#sent.clear();
    this.mirror.restart();
    for (const timer of this.#timers.values()) this.#env.clearTimeout(timer);
    this.#timers.clear();
    socket?.close(1000);
  }

  #lose(code, reason, wait = this.#waitAfter(code)) {
    this.#release();
    if (wait !== null) this.#after("retry", wait, () => this.#open());
    this.#setStatus("closed", { code, reason, retry_ms: wait });
  }

  /** How many milliseconds to stay away; null: until the page does something about it. */
  #waitAfter(code) {
    const now = this.#env.now();
    if (code === 1009) this.#mayHave = false;
    if ((code === 4500 || code === 4501) && typeof this.token === "function") this.#refusedToken = this.#sentToken;
    else if (code === 1000 || code === 1003 || (code >= 4500 && code < 5000)) return null;
    if (this.#returnAt !== null) return Math.max(0, this.#returnAt - now);
    if (this.#isOpen && now - this.#openedAt >= STABLE_MS) this.#attempt = 0;
    // Full jitter: the clients of a server that died come back spread over the whole time.
    return this.#env.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** this.#attempt++);
  }

  #hurry = () => {
    if (this.status.state === "closed" && this.status.retry_ms !== null) this.#open();
  };

  #tick = () => {
    this.#after("tick", TICK_MS, this.#tick);
    if (this.#isBroken) this.#heal();
    const { checkIntervalMs } = this.#options;
    if (checkIntervalMs && this.#env.now() - Math.max(this.#probedAt, this.#openedAt) >= checkIntervalMs) {
      // A check is always answered: if nothing came at all, the connection is dead.
      if (this.#probedAt > this.#frameAt) return this.#lose(1006, "the server does not answer");
      this.check();
    }
    this.#emit("stats", this.stats);
  };

  #want(view) {
    // A copy, as the page may change its objects later.
    this.#view = JSON.parse(JSON.stringify({ ...this.#view, ...view }));
  }

  get #limits() {
    return this.#isOpen ? { ...LIMITS, ...this.welcome.limits } : LIMITS;
  }

  get #isHidden() {
    return this.#options.pauseWhenHidden && this.#env.document?.visibilityState === "hidden";
  }

  #onVisibility = () => {
    if (!this.#options.pauseWhenHidden) return;
    if (!this.#isHidden) this.#hurry();
    this.#sendView(); // at once: timers are slow in a hidden tab, and whoever comes back is waiting
  };

  #lookSoon() {
    const interval = 1000 / Math.min(LIMITS.views_per_s, this.#limits.views_per_s);
    const wait = this.#viewSentAt + interval - this.#env.now();
    if (wait <= 0) this.#sendView();
    else this.#after("view", wait, () => this.#sendView());
  }

  #sendView() {
    if (!this.#isLooking || this.#socket?.readyState !== 1) return;
    const isFirst = !this.#firstId;
    const view = { type: "view", id: this.#viewId + 1, ...(this.#isHidden ? { bbox: null } : this.#view) };
    let text = JSON.stringify(view);
    if (isFirst) {
      // What is held, or is long, waits for the welcome, which tells the limits.
      const { message_bytes, have_entities } = this.#limits;
      if (!this.#isOpen && (this.entities.size || utf8.encode(text).length > message_bytes)) return;
      const isResumable = this.#mayHave && !this.#isBroken && this.entities.size && this.#world === this.welcome.world;
      if (isResumable && this.entities.size <= have_entities) {
        const away_ms = Math.max(0, this.#env.wall() - this.#freshAt);
        const longer = JSON.stringify({ ...view, have: this.mirror.have(), world: this.#world, away_ms });
        if (utf8.encode(longer).length <= message_bytes) text = longer;
      }
      this.#firstId = view.id;
    }
    this.#viewId = view.id;
    this.#viewSentAt = this.#env.now();
    if (!this.#isHidden) this.#sent.set(view.id, this.#view);
    this.#write(text);
  }

  /** Takes back what was wrong with a view, so that later ones are not refused for the same thing. */
  #onRefused({ ref, code, message }) {
    const refused = this.#sent.get(ref);
    this.#sent.delete(ref);
    if (ref === this.#firstId) this.#firstId = 0; // as for the server: nothing has been looked at
    if (!this.#firstId && message.startsWith("have")) {
      this.#mayHave = false;
      return this.#lookSoon();
    }
    // The server refuses in order: what was sent before this and still stands is accepted.
    let base = this.#base;
    for (const [id, view] of this.#sent) if (id < ref) base = view;
    if (!base || !refused) return;
    const named = VIEW_MEMBERS.filter((member) => message.startsWith(member));
    const wanted = { ...this.#view };
    for (const member of named.length ? named : VIEW_MEMBERS) {
      if (JSON.stringify(wanted[member]) === JSON.stringify(refused[member])) wanted[member] = base[member];
    }
    this.#view = wanted;
    if (JSON.stringify(wanted) !== JSON.stringify(refused)) this.#lookSoon();
  }

  #onFrame(text) {
    this.#frameAt = this.#env.now();
    this.stats.bytes += text.length;
    try {
      this.#onMessage(JSON.parse(text));
    } catch (error) {
      this.stats.bad_frames += 1;
      this.#emit("error", { code: "bad_frame", message: String(error) });
      this.#breakDown();
    }
    if (this.mirror.seq) this.#freshAt = this.#env.wall();
  }

  #onMessage(message) {
    switch (message.type) {
      case "welcome":
        return this.#onWelcome(message);
      case "delta":
        return this.#onDelta(message);
      case "check":
        return this.#onCheck(message);
      case "drain":
        return this.#onDrain(message);
      case "error":
        this.#emit("error", { ...message, view: this.#sent.get(message.ref) });
        return this.#onRefused(message);
      case undefined:
        throw new TypeError("no message of the protocol");
      default:
        this.#emit("message", message);
    }
  }

  #onWelcome(welcome) {
    this.#env.clearTimeout(this.#timers.get("welcome"));
    this.welcome = welcome;
    this.#isOpen = true;
    this.#openedAt = this.#env.now();
    this.stats.connections += 1;
    this.#after("tick", TICK_MS, this.#tick);
    this.#setStatus("open");
    if (!this.#firstId) this.#sendView();
  }

  /** The node is going away: stays until it is time to go elsewhere, so that nothing is missed meanwhile. */
  #onDrain({ reconnect_ms }) {
    this.#attempt = 0;
    this.#returnAt = this.#env.now() + reconnect_ms;
    this.#after("retry", reconnect_ms, () => this.#open());
  }

  #onDelta(delta) {
    if (this.#isBroken) {
      if (!delta.reset) return;
      this.mirror.seq = delta.seq - 1; // whatever was missed, it is cleared
    }
    const change = this.mirror.apply(delta);
    if (delta.reset) this.#isBroken = false;
    this.#world = this.welcome.world;
    this.#mayHave = true;
    this.#base = this.#sent.get(delta.view) ?? this.#base;
    for (const id of this.#sent.keys()) if (id <= delta.view) this.#sent.delete(id);
    const { entered, moved, patched, left, before } = change;
    const { stats, mirror } = this;
    stats.deltas += 1;
    stats.changes += entered.length + moved.length + patched.length + left.length;
    stats.lag_ms = delta.lag_ms ?? stats.lag_ms;
    this.#track(change);
    for (const [name, features] of Object.entries({ enter: entered, move: moved, patch: patched })) {
      for (const feature of features) this.#emit(name, feature, before.get(feature.id));
    }
    for (const leave of left) this.#emit("leave", leave);
    const { seq, view, lag_ms } = delta;
    this.#emit("change", { ...change, seq, view, lag_ms, total: mirror.total, sampled: mirror.sampled, isFilling: mirror.isFilling });
  }

  #track({ entered, moved, patched, left }) {
    const now = this.#env.now();
    for (const { id } of left) this.tracks.delete(id);
    for (const { id, geometry } of [...entered, ...moved, ...patched]) {
      const to = geometry.coordinates;
      const old = this.tracks.get(id);
      if (geometry.type !== "Point") this.tracks.delete(id);
      else if (!old) this.tracks.set(id, { from: to, to, since: now, at: now });
      else if (to[0] !== old.to[0] || to[1] !== old.to[1]) this.tracks.set(id, { from: old.to, to, since: old.at, at: now });
    }
  }

  #onCheck(check) {
    // It comes right behind the delta that it names: an earlier one says nothing, a later one that a delta was lost.
    if (this.#isBroken || check.seq < this.mirror.seq) return;
    this.stats.checks += 1;
    this.stats.pending = check.pending;
    this.stats.agrees = this.mirror.agrees(check);
    if (!this.stats.agrees) this.#breakDown();
  }

  #breakDown() {
    this.#isBroken = true;
    this.stats.agrees = false;
    this.#heal();
  }

  #heal() {
    if (this.#env.now() - this.#refreshedAt >= HEAL_INTERVAL_MS && this.refresh()) this.stats.heals += 1;
  }
}

/** An entity's properties as a style sees them: with `id`, for `promoteId`, and `kind`. */
function flatProperties({ id, kind, properties }) {
  return kind === undefined ? { ...properties, id } : { ...properties, id, kind };
}

function toFeature(entity) {
  return { type: "Feature", id: entity.id, geometry: entity.geometry, properties: flatProperties(entity) };
}

/** The diff by which a source that shows `shown` shows `entities`, as far as `ids` go (null: anew); makes `shown` so. */
export function toDiff(shown, entities, ids = null) {
  if (ids === null) {
    shown.clear();
    for (const [id, entity] of entities) shown.set(id, entity);
    return { removeAll: true, add: Array.from(entities.values(), toFeature) };
  }
  const diff = { add: [], update: [], remove: [] };
  for (const id of ids) {
    const old = shown.get(id);
    const entity = entities.get(id);
    if (old === entity) continue;
    if (!entity) {
      shown.delete(id);
      diff.remove.push(id);
      continue;
    }
    shown.set(id, entity);
    if (old) diff.update.push(toUpdate(old, entity));
    else diff.add.push(toFeature(entity));
  }
  return diff.add.length + diff.update.length + diff.remove.length ? diff : null;
}

function toUpdate(old, entity) {
  const update = { id: entity.id };
  if (entity.geometry !== old.geometry) update.newGeometry = entity.geometry;
  if (entity.properties !== old.properties) {
    const [before, after] = [flatProperties(old), flatProperties(entity)];
    const changed = Object.entries(after).filter(([key, value]) => value !== before[key]);
    update.addOrUpdateProperties = changed.map(([key, value]) => ({ key, value }));
    update.removeProperties = Object.keys(before).filter((key) => !Object.hasOwn(after, key));
  }
  return update;
}

/**
 * Lets a source show the mirror, and the client look at what the map shows. At most one diff an animation frame, none
 * while the map is busy with the last: what changes meanwhile is conflated by entity.
 */
export function bindSource(client, map, sourceId, { follow = true, requestFrame = (call) => requestAnimationFrame(call) } = {}) {
  const shown = new Map(); // what the source was given
  let dirty = null; // ids that may differ from it; null: all
  let source = null;
  let isWaiting = false; // for a frame, or for the map
  let isBound = true;

  const flush = async () => {
    isWaiting = false;
    const present = map.getSource(sourceId);
    if (present !== source) [source, dirty] = [present, null]; // another style, another source
    if (!isBound || !source) return;
    const diff = toDiff(shown, client.entities, dirty);
    dirty = new Set();
    if (!diff) return;
    try {
      isWaiting = true;
      await source.updateData(diff);
    } catch (error) {
      dirty = null;
      return reportError(error);
    } finally {
      isWaiting = false;
    }
    if (dirty?.size !== 0) flushSoon();
  };
  const flushSoon = () => {
    if (isWaiting) return;
    isWaiting = true;
    requestFrame(flush);
  };
  const onChange = ({ entered, moved, patched, left, reset }) => {
    if (reset || dirty?.size > 2 * (shown.size + client.entities.size) + 1000) dirty = null;
    if (dirty) for (const { id } of [...entered, ...moved, ...patched, ...left]) dirty.add(id);
    flushSoon();
  };
  const look = () => {
    const bounds = map.getBounds();
    client.look({ bbox: [bounds.getWest(), bounds.getSouth(), bounds.getEast(), bounds.getNorth()], zoom: map.getZoom() });
  };

  if (!map.getSource(sourceId)) {
    map.addSource(sourceId, { type: "geojson", promoteId: "id", data: { type: "FeatureCollection", features: [] } });
  }
  const unsubscribe = client.on("change", onChange);
  if (follow) {
    map.on("move", look);
    look();
  }
  flushSoon();
  return () => {
    isBound = false;
    unsubscribe();
    map.off("move", look);
  };
}
