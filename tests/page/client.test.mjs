/** The client of `client.js` while it is connected: what it sends and when, what it tells its page, how it heals. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { FakeNet, WELCOME, point, settle, subject } from "./fakes.mjs";

const BOX = [0, 0, 1, 1];
const BOX2 = [1, 1, 2, 2];
const delta = (seq, members) => ({ type: "delta", seq, ...members });
const status = ({ client }) => client.status;

// Opening

test("identifies itself, then looks, in the JSON subprotocol", async () => {
  const net = new FakeNet({ token: "secret", bbox: BOX, zoom: 3, filter: ["==", ["kind"], "bus"], ids: ["a"], max_hz: 2 });
  assert.equal(status(net).state, "connecting");
  await settle();
  assert.deepEqual([net.socket.url, net.socket.protocols], ["ws://127.0.0.1:1/ws", ["realtime.v1.json"]]);
  net.open();
  const [identify, view] = net.socket.sent;
  assert.deepEqual([identify.type, identify.token], ["identify", "secret"]);
  assert.equal(identify.client.startsWith("client.js"), true);
  assert.deepEqual(
    { ...view, id: undefined, at: undefined },
    {
      type: "view",
      bbox: BOX,
      zoom: 3,
      filter: ["==", ["kind"], "bus"],
      ids: ["a"],
      max_hz: 2,
      id: undefined,
      at: undefined,
    },
  );
  net.serve(WELCOME);
  assert.deepEqual(status(net), { state: "open" });
  assert.equal(net.client.welcome.world, "w");
  assert.equal(net.socket.sent.length, 2);
});

test("sends no view before the page says at what to look", async () => {
  const net = new FakeNet({ filter: ["has", "x"] });
  await net.start();
  assert.deepEqual(net.sent("view"), []);
  net.client.look({ bbox: BOX });
  assert.deepEqual(
    net.sent("view").map(({ bbox, filter }) => ({ bbox, filter })),
    [{ bbox: BOX, filter: ["has", "x"] }],
  );
});

test("a view too long for a client that is not identified waits for the welcome", async () => {
  const net = new FakeNet({ bbox: BOX, filter: ["==", ["get", "a"], "ü".repeat(8500)] });
  await settle();
  net.open();
  assert.deepEqual(net.sent("view"), []);
  net.serve(WELCOME);
  assert.equal(net.sent("view").length, 1);
});

test("a view may name entities, and show nothing else", async () => {
  const net = new FakeNet({ bbox: null, ids: ["a"] });
  await net.start();
  assert.deepEqual(
    net.sent("view").map(({ bbox, ids }) => ({ bbox, ids })),
    [{ bbox: null, ids: ["a"] }],
  );
});

test("takes an http address for a ws one", async () => {
  const net = new FakeNet({ url: "https://example.org/live/ws?x=1" });
  await settle();
  assert.equal(net.socket.url, "wss://example.org/live/ws?x=1");
});

test("an address that a browser refuses is not tried again", async () => {
  const refusing = class {
    constructor() {
      throw new SyntaxError("no such address");
    }
  };
  const net = new FakeNet({ WebSocket: refusing });
  await settle();
  assert.deepEqual(status(net), { state: "closed", code: 1006, reason: "SyntaxError: no such address", retry_ms: null });
});

test("a connection that never gets a welcome is given up", async () => {
  const net = new FakeNet({ bbox: BOX });
  await settle();
  net.open();
  await net.clock.advance(9_000);
  assert.equal(status(net).state, "connecting");
  await net.clock.advance(1_000);
  assert.equal(status(net).state, "closed");
  assert.ok(status(net).retry_ms >= 0);
  assert.equal(net.socket.closes.length, 1);
});

// Views

test("views go out at most 20 times a second, and the newest wins", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.start();
  for (let n = 1; n <= 200; n++) {
    net.client.look({ bbox: [n, 0, n + 1, 1] });
    await net.clock.advance(5);
  }
  await net.clock.advance(1000);
  const views = net.sent("view");
  for (let n = 20; n < views.length; n++) assert.ok(views[n].at - views[n - 20].at >= 1000, "more than 20 a second");
  assert.ok(views.length >= 18, `only ${views.length}`);
  assert.deepEqual(views.at(-1).bbox, [200, 0, 201, 1]);
  assert.equal(new Set(views.map(({ id }) => id)).size, views.length);
});

test("fewer views where the welcome says so", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.start({ limits: { ...WELCOME.limits, views_per_s: 2 } });
  await net.clock.advance(100);
  net.client.look({ bbox: BOX2 });
  await net.clock.advance(399);
  assert.equal(net.sent("view").length, 1);
  await net.clock.advance(1);
  assert.equal(net.sent("view").length, 2);
});

test("the first view after a pause goes out at once", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.start();
  await net.clock.advance(50);
  net.client.look({ zoom: 7 });
  assert.deepEqual([net.sent("view").at(-1).bbox, net.sent("view").at(-1).zoom], [BOX, 7]);
});

test("what is not named stays, undefined takes away, and later changes of an object are not seen", async () => {
  const net = new FakeNet({ bbox: BOX, zoom: 3 });
  const filter = ["has", "x"];
  await net.start();
  await net.clock.advance(100);
  net.client.look({ filter, zoom: undefined });
  filter[1] = "y";
  await net.clock.advance(100);
  net.client.look({ ids: ["a"] });
  const view = net.sent("view").at(-1);
  assert.deepEqual([view.bbox, view.filter, view.ids, "zoom" in view], [BOX, ["has", "x"], ["a"], false]);
});

// Events

test("events tell what each delta did, and then the delta", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a", "b", "c");
  net.events.length = 0;
  net.serve(
    delta(2, {
      view: 1,
      leave: { view: ["a"] },
      enter: [point("d")],
      move: [["b", 2, 5, 6]],
      patch: [{ id: "c", version: 2, properties: { x: 1 } }],
      lag_ms: 3,
      more: true,
    }),
  );
  const [entered, moved, patched, left, changed] = net.events;
  assert.deepEqual(entered, ["enter", point("d"), undefined]);
  assert.deepEqual(moved, ["move", point("b", 2, [5, 6]), point("b")]);
  assert.deepEqual(patched, ["patch", point("c", 2, [1, 2], { x: 1 }), point("c")]);
  assert.deepEqual(left, ["leave", { id: "a", reason: "view", feature: point("a") }]);
  assert.equal(net.events.length, 5);
  const { seq, view, lag_ms, isFilling, total, sampled, reset } = changed[1];
  assert.deepEqual(
    { seq, view, lag_ms, isFilling, total, sampled, reset },
    { seq: 2, view: 1, lag_ms: 3, isFilling: true, total: 3, sampled: 1, reset: false },
  );
  assert.deepEqual([...net.client.entities.keys()].sort(), ["b", "c", "d"]);
  assert.deepEqual([net.client.stats.deltas, net.client.stats.changes, net.client.stats.lag_ms], [2, 7, 3]);
});

test("a listener that throws costs nobody else anything", async () => {
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  try {
    const net = new FakeNet({ bbox: BOX });
    for (const name of ["enter", "change", "status", "stats"]) {
      net.client.on(name, () => {
        throw new Error(name);
      });
    }
    await net.startWith("a");
    await net.clock.advance(1000);
    net.serve(delta(2, { enter: [point("b")] }));
    assert.deepEqual([...net.client.entities.keys()], ["a", "b"]);
    assert.equal(net.client.stats.bad_frames, 0);
    assert.equal(status(net).state, "open");
    assert.deepEqual(new Set(reported), new Set(["enter", "change", "status", "stats"]));
  } finally {
    delete globalThis.reportError;
  }
});

test("a listener can be taken away, and can close the connection", async () => {
  const net = new FakeNet({ bbox: BOX });
  const heard = [];
  const end = net.client.on("enter", (feature) => heard.push(feature.id));
  net.client.on("change", () => net.client.close());
  await net.start();
  end();
  net.serve(delta(1, { reset: true, enter: [point("a")] }));
  await net.clock.advance(100_000);
  assert.deepEqual(heard, []);
  assert.equal(net.sockets.length, 1);
});

test("what else the server says is passed on, known or not", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.start();
  net.serve({ type: "message", channel: "c", id: 1, data: {} }, { type: "from the future" });
  assert.deepEqual(
    net.heard("message").map(({ type }) => type),
    ["message", "from the future"],
  );
  assert.equal(net.client.send({ type: "ping", t: 1 }), true);
  assert.equal(net.sent("ping")[0].t, 1);
  net.lose(1006);
  assert.equal(net.client.send({ type: "ping" }), false);
});

test("tracks tell where a point was last and before, and when", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a", "b");
  const start = net.clock.time;
  assert.deepEqual(net.client.tracks.get("a"), { from: [1, 2], to: [1, 2], since: start, at: start });
  await net.clock.advance(700);
  net.serve(delta(2, { move: [["a", 2, 3, 4]], patch: [{ id: "b", version: 2, properties: { x: 1 } }] }));
  assert.deepEqual(net.client.tracks.get("a"), { from: [1, 2], to: [3, 4], since: start, at: start + 700 });
  assert.deepEqual(net.client.tracks.get("b").at, start);
  await net.clock.advance(300);
  // A reset does not tear what is there before and after.
  net.serve(delta(3, { reset: true, enter: [point("a", 3, [5, 6])] }));
  assert.deepEqual(net.client.tracks.get("a"), { from: [3, 4], to: [5, 6], since: start + 700, at: start + 1000 });
  assert.equal(net.client.tracks.has("b"), false);
  net.serve(
    delta(4, {
      patch: [
        {
          id: "a",
          version: 4,
          geometry: {
            type: "LineString",
            coordinates: [
              [0, 0],
              [1, 1],
            ],
          },
        },
      ],
    }),
  );
  assert.equal(net.client.tracks.has("a"), false);
});

// Refused views

const refusal = (ref, code, message) => ({ type: "error", ref, code, message });

test("a refused filter is reported and taken back, and a pan sent with it is not lost", async () => {
  const net = new FakeNet({ bbox: BOX, filter: ["has", "x"] });
  await net.startWith("a");
  await net.clock.advance(100);
  net.client.look({ bbox: BOX2, filter: ["nonsense"] });
  const { id } = net.sent("view").at(-1);
  net.serve(refusal(id, "bad_filter", "filter[0]: no such operator"));
  const [error] = net.heard("error");
  assert.deepEqual(
    [error.code, error.message, error.ref, error.view.filter],
    ["bad_filter", "filter[0]: no such operator", id, ["nonsense"]],
  );
  await net.clock.advance(100);
  const again = net.sent("view").at(-1);
  assert.deepEqual([again.bbox, again.filter], [BOX2, ["has", "x"]]);
  assert.ok(again.id > id);
  assert.deepEqual(net.client.view.filter, ["has", "x"]);
  await net.clock.advance(1000);
  assert.equal(net.sent("view").length, 3);
});

test("a refused filter costs a pan that was sent after it nothing, either", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  await net.clock.advance(100);
  net.client.look({ filter: ["nonsense"] });
  const refused = net.sent("view").at(-1).id;
  await net.clock.advance(100);
  net.client.look({ bbox: BOX2 }); // with the same filter, as its refusal has not come yet
  const next = net.sent("view").at(-1).id;
  net.serve(refusal(refused, "bad_filter", "filter: bad"));
  await net.clock.advance(100);
  net.serve(refusal(next, "bad_filter", "filter: bad"));
  await net.clock.advance(100);
  const last = net.sent("view").at(-1);
  assert.deepEqual([last.bbox, last.filter], [BOX2, undefined]);
  assert.equal(net.heard("error").length, 2);
});

test("what was wanted after a refused view stays wanted", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  await net.clock.advance(100);
  net.client.look({ filter: ["nonsense"] });
  const { id } = net.sent("view").at(-1);
  net.client.look({ filter: ["has", "y"] });
  net.serve(refusal(id, "bad_filter", "filter: bad"));
  await net.clock.advance(100);
  assert.deepEqual(net.sent("view").at(-1).filter, ["has", "y"]);
});

test("a view that was accepted and not yet answered is what is gone back to", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  await net.clock.advance(100);
  net.client.look({ filter: ["has", "good"] });
  await net.clock.advance(100);
  net.client.look({ filter: ["nonsense"] });
  net.serve(refusal(net.sent("view").at(-1).id, "bad_filter", "filter: bad"));
  assert.deepEqual(net.client.view.filter, ["has", "good"]);
});

test("a first view that is refused is reported; what is looked at next is sent, as a first view", async () => {
  const net = new FakeNet({ bbox: BOX, filter: ["nonsense"] });
  await net.start();
  net.serve(refusal(net.sent("view")[0].id, "bad_filter", "filter: bad"));
  await net.clock.advance(1000);
  assert.equal(net.sent("view").length, 1);
  net.client.look({ bbox: BOX2 });
  assert.equal(net.sent("view").length, 2);
  net.serve(refusal(net.sent("view")[1].id, "bad_filter", "filter: bad"));
  net.client.look({ filter: null });
  await net.clock.advance(100);
  assert.deepEqual([net.sent("view")[2].bbox, net.sent("view")[2].filter], [BOX2, null]);
  assert.equal(net.heard("error").length, 2);
});

test("any other error is passed on and changes nothing", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  net.serve({ type: "error", code: "forbidden", message: "publish: this session may not", ref: "p1" });
  assert.deepEqual(net.heard("error")[0].view, undefined);
  await net.clock.advance(1000);
  assert.equal(net.sent("view").length, 1);
  assert.equal(status(net).state, "open");
});

// Healing

test("a lost delta is healed: what comes is ignored until a reset", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  net.serve(delta(3, { enter: [point("c")] }));
  assert.equal(net.sent("refresh").length, 1);
  assert.equal(net.heard("error")[0].code, "bad_frame");
  net.serve(delta(4, { move: [["c", 2, 0, 0]] }));
  assert.deepEqual([...net.client.entities.keys()], ["a"]);
  assert.equal(net.client.stats.agrees, false);
  net.serve(delta(5, { reset: true, enter: [point("a", 2), point("c", 2)] }), delta(6, { move: [["c", 3, 0, 0]] }));
  assert.equal(net.client.entities.get("c").version, 3);
  assert.deepEqual([net.client.stats.heals, net.client.stats.bad_frames], [1, 1]);
});

test("frames that cannot be read do not end the connection", async () => {
  for (const bad of [
    "{",
    "null",
    "7",
    '"x"',
    '{"type":"delta"}',
    '{"type":"delta","seq":2,"enter":[null]}',
    '{"type":"delta","seq":2,"move":7}',
  ]) {
    const net = new FakeNet({ bbox: BOX });
    await net.startWith("a");
    net.serve(bad);
    assert.equal(net.client.stats.bad_frames, 1, bad);
    assert.equal(net.sent("refresh").length, 1, bad);
    net.serve(delta(3, { reset: true, enter: [point("b")] }));
    assert.deepEqual([...net.client.entities.keys()], ["b"], bad);
    assert.equal(status(net).state, "open");
  }
});

test("a binary frame, and a fault that stays, cost a refresh now and then", async () => {
  const net = new FakeNet({ bbox: BOX, checkIntervalMs: 0 });
  await net.startWith("a");
  for (let n = 0; n < 100; n++) {
    net.socket.onmessage({ data: new ArrayBuffer(3) });
    await net.clock.advance(100);
  }
  const count = net.sent("refresh").length;
  assert.ok(count >= 4 && count <= 6, `${count} in 10 s`);
});

test("a refresh that is not answered is asked for again", async () => {
  const net = new FakeNet({ bbox: BOX, checkIntervalMs: 0 });
  await net.startWith("a");
  net.serve(delta(7, {}));
  await net.clock.advance(10_000);
  assert.ok(net.sent("refresh").length >= 4);
  net.serve(delta(9, { reset: true }));
  const count = net.sent("refresh").length;
  await net.clock.advance(10_000);
  assert.equal(net.sent("refresh").length, count);
});

test("the mirror is checked, and healed only if it is wrong", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  await net.clock.advance(11_000);
  assert.equal(net.sent("check").length, 1);
  assert.equal(net.client.stats.agrees, null);
  const right = () => ({
    type: "check",
    seq: net.client.mirror.seq,
    count: net.client.entities.size,
    digest: net.client.mirror.digest,
    pending: 4,
  });
  net.serve(right());
  assert.deepEqual([net.client.stats.agrees, net.client.stats.checks, net.client.stats.pending], [true, 1, 4]);
  assert.equal(net.sent("refresh").length, 0);
  await net.clock.advance(10_000);
  net.serve({ ...right(), digest: "00000000" });
  assert.equal(net.client.stats.agrees, false);
  assert.equal(net.sent("refresh").length, 1);
  // Until the reset has come, checks say nothing: what they would say is known.
  net.serve({ ...right(), digest: "00000000" });
  assert.deepEqual([net.client.stats.checks, net.sent("refresh").length], [2, 1]);
  net.serve(delta(2, { reset: true, enter: [point("a", 9)] }), { type: "check", seq: 2, count: 1, digest: digest("a", 9), pending: 0 });
  assert.deepEqual([net.client.stats.agrees, net.client.stats.heals], [true, 1]);
});

const digest = (id, version) => subject.digestOf(id, version).toString(16).padStart(8, "0");

test("a wrong count alone is healed, too", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  net.serve({ type: "check", seq: 1, count: 2, digest: net.client.mirror.digest, pending: 0 });
  assert.equal(net.sent("refresh").length, 1);
});

test("a check of another delta is not compared; of a later one, it tells that a delta was lost", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  net.serve(delta(2, { enter: [point("b")] }));
  net.serve({ type: "check", seq: 1, count: 9, digest: "ffffffff", pending: 0 });
  assert.deepEqual([net.sent("refresh").length, net.client.stats.checks], [0, 0]);
  net.serve({ type: "check", seq: 3, count: 2, digest: net.client.mirror.digest, pending: 0 });
  assert.equal(net.sent("refresh").length, 1);
});

test("a check before the first delta is right if nothing is held", async () => {
  const net = new FakeNet();
  await net.start();
  net.client.check();
  net.serve({ type: "check", seq: 0, count: 0, digest: "00000000", pending: 0 });
  assert.equal(net.client.stats.agrees, true);
});

test("a connection on which nothing comes any more is given up", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  await net.clock.advance(12_000);
  net.serve({ type: "check", seq: 1, count: 1, digest: net.client.mirror.digest, pending: 0 });
  await net.clock.advance(12_000);
  assert.equal(net.sockets.length, 1, "it answered the first check");
  await net.clock.advance(10_000);
  assert.deepEqual([net.heard("status").at(-2)?.code ?? net.heard("status").at(-1).code, net.sockets[0].closes], [1006, [1000]]);
});

test("no checks where the page wants none", async () => {
  const net = new FakeNet({ bbox: BOX, checkIntervalMs: 0 });
  await net.startWith("a");
  await net.clock.advance(300_000);
  assert.deepEqual([net.sent("check").length, net.sockets.length], [0, 1]);
  assert.ok(net.heard("stats").length >= 299);
});
