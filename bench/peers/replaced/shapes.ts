// What the two services tell each other and their clients, and under which names it lies in Redis.
// Law: both services take these from here, so neither can misspell what the other listens to.

/** An entity as a publisher sends it and as a client gets it; coordinates in degrees. */
export interface Entity {
  id: string;
  version: number;
  lon: number;
  lat: number;
}

/** What a user looks at, in degrees; edges belong to it. */
export interface Viewport {
  west: number;
  south: number;
  east: number;
  north: number;
}

export interface ViewportUpdate {
  userId: string;
  viewport: Viewport;
}

/** What goes to one user: a batch becomes one WebSocket message for each of its events. */
export type UserMessage =
  | { type: "replace-all"; events: Entity[] }
  | { type: "batch"; events: Entity[] };

/** Whether ioredis may put commands of one moment into one write. It does not by itself; it is what one would try first. */
export const IS_TUNED = process.env["AUTO_PIPELINING"] === "1";

export const ENTITY_CHANGES = "entity-changes"; // channel: Entity
export const VIEWPORT_UPDATES = "viewport-updates"; // channel: ViewportUpdate
export const VIEWPORT_GEO = "viewport:geo"; // GEO set: the centre of each user's viewport
export const viewportKey = (userId: string): string => `viewport:${userId}`; // string: Viewport
export const filteredEvents = (userId: string): string => `user:${userId}:filtered-events`; // channel: UserMessage

export function shows(viewport: Viewport, entity: Entity): boolean {
  return (
    viewport.west <= entity.lon && entity.lon <= viewport.east && viewport.south <= entity.lat && entity.lat <= viewport.north
  );
}
