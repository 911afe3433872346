/**
 * Types of `client.js`: the browser's side of `realtime`. In a page with MapLibre GL JS (3 or newer):
 *
 *     import { connect, bindSource } from "http://127.0.0.1:8765/client.js";
 *     const client = connect("ws://127.0.0.1:8765/ws", { filter: ["==", ["kind"], "bus"] });
 *     map.on("load", () => bindSource(client, map, "buses"));  // and a layer with source "buses"
 *
 * Members of messages are spelled as on the wire (`max_hz`, `retry_ms`), everything else as usual in JavaScript.
 */

export type Position = number[];

export type Geometry =
  | { type: "Point"; coordinates: Position }
  | { type: "MultiPoint" | "LineString"; coordinates: Position[] }
  | { type: "MultiLineString" | "Polygon"; coordinates: Position[][] }
  | { type: "MultiPolygon"; coordinates: Position[][][] };

export type Properties = { [name: string]: unknown };

/** An entity. Never changed once it is in a mirror, only replaced: keep it as long as you like, but do not write to it. */
export interface Feature {
  readonly type: "Feature";
  readonly id: string;
  readonly version: number;
  readonly kind?: string;
  readonly geometry: Geometry;
  readonly properties: Readonly<Properties>;
}

/** [west, south, east, north] in degrees; east above 180 where it crosses the antimeridian. */
export type Bbox = readonly [number, number, number, number];

/** What a client looks at. The server takes its default for what is missing. */
export interface View {
  /** null shows nothing but `ids`. */
  bbox?: Bbox | null;
  /** MapLibre's scale; entities with a `min_zoom` above it are not shown. Default 24. */
  zoom?: number;
  /** An expression such as `["==", ["kind"], "bus"]`; see docs/filters.md. */
  filter?: unknown;
  /** At most 100 entities to be shown wherever they are. */
  ids?: readonly string[] | null;
  /** The most deltas a second, at least 0.1. */
  max_hz?: number | null;
}

export interface Welcome {
  type: "welcome";
  protocol: number;
  session: string;
  user: string | null;
  node: string;
  epoch: string;
  world: string;
  limits: { message_bytes: number; have_entities: number; views_per_s: number; entities_per_view: number };
}

export interface Delta {
  type?: "delta";
  seq: number;
  view?: string | number;
  reset?: boolean;
  enter?: Feature[];
  move?: [id: string, version: number, lon: number, lat: number][];
  patch?: { id: string; version: number; geometry?: Geometry; properties?: Properties }[];
  leave?: { [reason: string]: string[] };
  more?: boolean;
  total?: number;
  sampled?: number;
  lag_ms?: number;
}

export interface Check {
  type?: "check";
  seq: number;
  count: number;
  digest: string;
  pending?: number;
}

export interface Leave {
  id: string;
  /** `deleted`, `expired`, `denied`, `view`, `moved`, `filtered`; or `reset`: it was cleared and did not come back. */
  reason: string;
  /** As it was held. */
  feature: Feature;
}

/** What a delta did to a mirror. An entity is in one of the four at most. */
export interface Change {
  entered: Feature[];
  moved: Feature[];
  patched: Feature[];
  left: Leave[];
  /** What was held of the entities that changed; of all, where the mirror was reset. */
  before: Map<string, Feature>;
  reset: boolean;
}

/** A delta, once it is applied. */
export interface ChangeEvent extends Change {
  seq: number;
  /** The id of the view that it belongs to. */
  view: string | number | undefined;
  /** The age of the oldest change in it, by the server's clock. */
  lag_ms: number | undefined;
  /** How many entities the view matches, and the share of them that is shown; as told last. */
  total: number | null;
  sampled: number;
  /** More of what the view shows is on its way. */
  isFilling: boolean;
}

/** A delta that cannot be applied: the server's fault, or a frame was lost. */
export class MirrorError extends Error {}

/** The client's copy of the entities that its view shows. No I/O, no clock. */
export class Mirror {
  readonly entities: Map<string, Feature>;
  /** Of the last delta applied. */
  seq: number;
  total: number | null;
  sampled: number;
  isFilling: boolean;
  /** Of what is held, as `check` frames carry it. */
  readonly digest: string;
  /** Applies one delta, wholly or not at all. Throws `MirrorError`, or TypeError for what is no delta. */
  apply(delta: Delta): Change;
  /** Whether a `check` says the same; it can be compared only right behind the delta that it names. */
  agrees(check: Check): boolean;
  /** Returns {id: version} of at most `max` entities to resume with; the rest is forgotten. */
  have(max?: number): { [id: string]: number };
  /** Begins a new connection: deltas count from 1 again, what is held stays. */
  restart(): void;
  clear(): void;
}

/** An entity's part of a mirror's digest, an unsigned 32-bit number. */
export function digestOf(id: string, version: number): number;

/**
 * Where a point was reported last and before. All times are on the scale of `performance.now()`, in milliseconds.
 * To glide, be at `from` when `to` comes in at `at`, and reach `to` after `at - since` more milliseconds.
 */
export interface Track {
  from: Position;
  to: Position;
  /** When `from` came in; equal to `at` as long as there was but one report. */
  since: number;
  at: number;
}

export type Status =
  | { state: "connecting" | "open" }
  | {
      state: "closed";
      /** The close code; 1006 also where the client gave up on a connection that does not answer. */
      code: number;
      reason: string;
      /** How long it stays away; null: until `connect()`. */
      retry_ms: number | null;
    };

/** Counted from the start on, but for the last three. */
export interface Stats {
  connections: number;
  deltas: number;
  /** Entered, moved, patched and left. */
  changes: number;
  /** Received; exact as long as text is ASCII, and a little low where it is not. */
  bytes: number;
  checks: number;
  /** Refreshes asked for because the mirror was in doubt. */
  heals: number;
  /** Frames that could not be read or applied. */
  bad_frames: number;
  /** Of the last delta that carried it. */
  lag_ms: number;
  /** Entities whose copy was out of date at the last check; 0: the mirror was the present. */
  pending: number | null;
  /** Whether the mirror was right at the last check; null: not known yet. */
  agrees: boolean | null;
}

export interface ErrorEvent {
  /** An error code of the protocol; or `bad_frame`: what came could not be read or applied, and is healed. */
  code: string;
  /** Opens with the place of the fault, such as `filter[2][1]`. */
  message: string;
  /** Id of the refused view or publish. */
  ref?: string | number;
  /** The refused view, where it was one. */
  view?: View;
}

export interface Events {
  /** An entity came into the mirror; `before` where it replaces what was held of it. */
  enter: (feature: Feature, before: Feature | undefined) => void;
  /** A point has other coordinates. */
  move: (feature: Feature, before: Feature) => void;
  /** Properties or geometry changed. */
  patch: (feature: Feature, before: Feature) => void;
  leave: (leave: Leave) => void;
  /** A delta was applied; comes after the events above, which tell the same one by one. */
  change: (change: ChangeEvent) => void;
  status: (status: Status) => void;
  /** The server refused something, or sent what makes no sense. The connection goes on. */
  error: (error: ErrorEvent) => void;
  /** Once a second while connected. */
  stats: (stats: Stats) => void;
  /** Whatever else the server sends: `ack`, `pong`, `message`, `job`. */
  message: (message: { type: string; [member: string]: unknown }) => void;
}

export interface Options extends View {
  /**
   * Who one is; a function is asked anew for each connection. Where its token was refused or has expired, the client
   * comes back as soon as it returns another one.
   */
  token?: Token;
  /** Show nothing while the tab is hidden, and everything at once when it is shown. Default true. */
  pauseWhenHidden?: boolean;
  /** How often the mirror is compared with the server's digest; also finds dead connections. 0: never. Default 10,000. */
  checkIntervalMs?: number;
  /** A constructor, where there is no global one (Node.js before 22): that of the package `ws`, say. */
  WebSocket?: unknown;
  /** Clocks and the like in place of the real ones, for tests. */
  env?: Partial<Environment>;
}

export type Token = string | undefined | (() => string | undefined | Promise<string | undefined>);

export interface Environment {
  now(): number;
  wall(): number;
  random(): number;
  setTimeout(call: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
  document: unknown;
}

/**
 * A mirror that is kept right over a connection, which comes back by itself: after a random part of half a second, twice
 * that, and so on to 30 s; after `reconnect_ms` where the server says so; not at all after the codes 1000, 1003 and
 * 4500 to 4999. It then names what it holds, and gets only what has changed.
 */
export class Client {
  constructor(url?: string | URL, options?: Options);
  readonly mirror: Mirror;
  /** Those of the mirror. */
  readonly entities: Map<string, Feature>;
  /** By id, of the entities that are points. */
  readonly tracks: Map<string, Track>;
  /** What is looked at or wanted. What the server refused is taken back to what it took last. */
  readonly view: View;
  readonly welcome: Welcome | null;
  readonly status: Status;
  readonly stats: Stats;
  /** Used from the next connection on. To refresh a session's: `send({type: "identify", token})`. */
  token: Token;
  /**
   * Looks at something else. What is not named stays as it is; undefined takes a member away. At most 20 views a
   * second are sent, the newest wins. A refused one is reported as an `error` and costs the later ones nothing.
   */
  look(view: View): void;
  /** Calls `listener` at each event of that name; returns a function that ends it. */
  on<Name extends keyof Events>(name: Name, listener: Events[Name]): () => void;
  /** Comes back at once, whatever the server said when it closed. Does nothing where there is a connection. */
  connect(): void;
  /** Ends the connection; the mirror stays as it is. */
  close(): void;
  /** Asks for everything anew. Like all that follow, tells whether there was a connection to ask on. */
  refresh(): boolean;
  /** Asks for the server's digest now; heals the mirror where it differs. */
  check(): boolean;
  /** Sends any message of the protocol. */
  send(message: { type: string; [member: string]: unknown }): boolean;
}

/** Opens a connection. Without a URL, to the server that this module was loaded from; `http` stands for `ws` in one. */
export function connect(url?: string | URL, options?: Options): Client;

/** What `updateData` of a MapLibre GeoJSON source takes. Ids are strings: the source needs `promoteId: "id"`. */
export interface SourceDiff {
  removeAll?: boolean;
  remove?: string[];
  add?: { type: "Feature"; id: string; geometry: Geometry; properties: { [name: string]: any } }[];
  update?: {
    id: string;
    newGeometry?: Geometry;
    addOrUpdateProperties?: { key: string; value: any }[];
    removeProperties?: string[];
  }[];
}

/**
 * Returns the diff by which a source that shows `shown` shows `entities`, or null if it does; makes `shown` so.
 * Only `ids` are looked at; null: everything is removed and added anew.
 */
export function toDiff(
  shown: Map<string, Feature>,
  entities: ReadonlyMap<string, Feature>,
  ids?: Iterable<string> | null,
): SourceDiff | null;

/** What is used of a MapLibre map. */
export interface BoundMap {
  getSource(id: string): any;
  addSource(id: string, source: any): unknown;
  getBounds(): { getWest(): number; getSouth(): number; getEast(): number; getNorth(): number };
  getZoom(): number;
  on(type: "move", listener: () => void): unknown;
  off(type: "move", listener: () => void): unknown;
}

/**
 * Lets the GeoJSON source `sourceId` of a map show the mirror, and with `follow` (the default) the client look at what
 * the map shows. To be called once the style is loaded; adds the source if it is missing, and fills it again after a
 * change of style. The entities' `id` and `kind` are among the properties that a style sees. Returns a function that ends it.
 */
export function bindSource(
  client: Client,
  map: BoundMap,
  sourceId: string,
  options?: { follow?: boolean; requestFrame?: (call: () => void) => unknown },
): () => void;
