/**
 * A client of a real server, told by lines on stdin what to do and answering each with a line on stdout.
 *
 * Law: it says what its client says and judges nothing.
 */

import { createInterface } from "node:readline";

const { connect } = await import(process.env.REALTIME_CLIENT_MODULE);

const document = Object.assign(new EventTarget(), { visibilityState: "visible" });
const client = connect(process.env.REALTIME_URL, { env: { document }, checkIntervalMs: 500 });
let resets = 0;
const errors = [];
client.on("change", ({ reset }) => (resets += reset));
client.on("error", (error) => errors.push(error));

const commands = {
  look: (view) => client.look(view),
  turn: (visibilityState) => {
    document.visibilityState = visibilityState;
    document.dispatchEvent(new Event("visibilitychange"));
  },
  check: () => client.check(),
  spoil: (id) => client.entities.delete(id),
  close: () => client.close(),
  /** After so many milliseconds. */
  tell: async (wait_ms = 0) => {
    if (wait_ms) await new Promise((resolve) => setTimeout(resolve, wait_ms));
    return tell();
  },
};

const tell = () => ({
  entities: Object.fromEntries(client.entities),
  digest: client.mirror.digest,
  total: client.mirror.total,
  stats: client.stats,
  status: client.status,
  view: client.view,
  world: client.welcome?.world ?? null,
  errors,
  resets,
});

for await (const line of createInterface({ input: process.stdin })) {
  const [name, argument] = JSON.parse(line);
  console.log(JSON.stringify((await commands[name](argument ?? undefined)) ?? null));
  if (name === "close") break;
}
process.exit();
