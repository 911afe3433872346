// The WebSocket service: holds the clients, and one Redis subscriber for every user who has identified.
// Law: it decides nothing about space. What arrives on a user's channel goes to all of that user's clients.
//
//   bun websocket.ts REDIS_PORT        prints the port it listens on

import type { ServerWebSocket } from "bun";
import Redis from "ioredis";
import { type Entity, filteredEvents, IS_TUNED, type UserMessage, VIEWPORT_UPDATES, viewportKey, type Viewport } from "./shapes";

interface Client {
  userId: string | null;
}

interface User {
  clients: Set<ServerWebSocket<Client>>;
  subscriber: Redis;
}

type ClientMessage = { type: "identify"; userId: string } | { type: "viewport-update"; viewport: Viewport } | { type: "ping" };

const redisPort = Number(process.argv[2]);
const redis = new Redis(redisPort, "127.0.0.1", { enableAutoPipelining: IS_TUNED });
const users = new Map<string, User>();

async function identify(socket: ServerWebSocket<Client>, userId: string): Promise<void> {
  socket.data.userId = userId;
  let user = users.get(userId);
  if (user === undefined) {
    user = { clients: new Set(), subscriber: new Redis(redisPort, "127.0.0.1", { enableReadyCheck: false }) };
    users.set(userId, user);
    user.subscriber.on("message", (_channel: string, text: string) => forward(userId, text));
    await user.subscriber.subscribe(filteredEvents(userId), `user:${userId}:notifications`);
  }
  user.clients.add(socket);
  socket.send(JSON.stringify({ type: "identified", userId }));
}

async function lookAt(userId: string, viewport: Viewport): Promise<void> {
  await redis.set(viewportKey(userId), JSON.stringify(viewport));
  await redis.publish(VIEWPORT_UPDATES, JSON.stringify({ userId, viewport }));
}

/** Hand on what the filter-processor says; a batch is taken apart into one message per event. */
function forward(userId: string, text: string): void {
  const message: UserMessage = JSON.parse(text);
  const clients = users.get(userId)?.clients ?? [];
  const texts =
    message.type === "batch" ? message.events.map((event: Entity) => JSON.stringify({ type: "event", event })) : [JSON.stringify(message)];
  for (const client of clients) {
    for (const each of texts) client.send(each);
  }
}

function leave(socket: ServerWebSocket<Client>): void {
  const { userId } = socket.data;
  const user = userId === null ? undefined : users.get(userId);
  if (userId === null || user === undefined) return;
  user.clients.delete(socket);
  if (user.clients.size === 0) {
    user.subscriber.disconnect();
    users.delete(userId);
  }
}

const server = Bun.serve<Client>({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request, self) {
    return self.upgrade(request, { data: { userId: null } }) ? undefined : new Response("a WebSocket is needed", { status: 426 });
  },
  websocket: {
    async message(socket, text) {
      const message: ClientMessage = JSON.parse(String(text));
      if (message.type === "identify") await identify(socket, message.userId);
      else if (message.type === "viewport-update" && socket.data.userId !== null) await lookAt(socket.data.userId, message.viewport);
      else if (message.type === "ping") socket.send(JSON.stringify({ type: "pong" }));
    },
    close: leave,
  },
});

await redis.ping();
console.log(server.port);
