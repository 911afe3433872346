// The filter-processor: finds out for each change of an entity which users see it, and tells each of them.
// Law: where users look is asked of Redis for every change anew (GEORADIUS, then one GET per candidate); nothing of it is
// kept here. All candidates of a change are asked for at once, so that it does not wait for each; the changes of a batch
// are taken one after the other, which is faster than all at once (fewer promises alive), and keeps them in order.
//
//   bun filter-processor.ts REDIS_PORT ENTITIES.json        prints "ready"; the file is what the backend knows, a list of Entity

import Redis from "ioredis";
import {
  ENTITY_CHANGES,
  type Entity,
  filteredEvents,
  IS_TUNED,
  shows,
  type UserMessage,
  VIEWPORT_GEO,
  VIEWPORT_UPDATES,
  type Viewport,
  type ViewportUpdate,
  viewportKey,
} from "./shapes";

const CANDIDATE_RADIUS_KM = 50;
const BATCH_CHANGES_MAX = 10;
const BATCH_TIMEOUT_MS = 10;

const redisPort = Number(process.argv[2]);
const redis = new Redis(redisPort, "127.0.0.1", { enableAutoPipelining: IS_TUNED });
const subscriber = new Redis(redisPort, "127.0.0.1", { enableReadyCheck: false });
const known: Entity[] = await Bun.file(process.argv[3]!).json();
const entities = new Map(known.map((entity) => [entity.id, entity]));

let pending: Entity[] = [];
let timer: ReturnType<typeof setTimeout> | null = null;
let isBusy = false;

function onChange(entity: Entity): void {
  entities.set(entity.id, entity);
  pending.push(entity);
  if (pending.length >= BATCH_CHANGES_MAX) void work();
  else timer ??= setTimeout(() => void work(), BATCH_TIMEOUT_MS);
}

/** Process what is pending, batch after batch; what comes in meanwhile waits. */
async function work(): Promise<void> {
  if (timer !== null) clearTimeout(timer);
  timer = null;
  if (isBusy) return;
  isBusy = true;
  while (pending.length > 0) {
    const batch = pending.slice(0, BATCH_CHANGES_MAX);
    pending = pending.slice(BATCH_CHANGES_MAX);
    for (const entity of batch) await tellWhoeverSees(entity);
  }
  isBusy = false;
}

async function tellWhoeverSees(entity: Entity): Promise<void> {
  const candidates = (await redis.georadius(VIEWPORT_GEO, entity.lon, entity.lat, CANDIDATE_RADIUS_KM, "km")) as string[];
  const viewports = await Promise.all(candidates.map((userId) => redis.get(viewportKey(userId))));
  const affected = candidates.filter((_, place) => {
    const text = viewports[place];
    return text !== null && shows(JSON.parse(text) as Viewport, entity);
  });
  await Promise.all(affected.map((userId) => tell(userId, { type: "batch", events: [entity] })));
}

async function onViewport({ userId, viewport }: ViewportUpdate): Promise<void> {
  await redis.geoadd(VIEWPORT_GEO, (viewport.west + viewport.east) / 2, (viewport.south + viewport.north) / 2, userId);
  const events = [...entities.values()].filter((entity) => shows(viewport, entity));
  await tell(userId, { type: "replace-all", events });
}

async function tell(userId: string, message: UserMessage): Promise<void> {
  await redis.publish(filteredEvents(userId), JSON.stringify(message));
}

subscriber.on("message", (channel: string, text: string) => {
  if (channel === ENTITY_CHANGES) onChange(JSON.parse(text) as Entity);
  else void onViewport(JSON.parse(text) as ViewportUpdate);
});
await subscriber.subscribe(ENTITY_CHANGES, VIEWPORT_UPDATES);
console.log("ready");
