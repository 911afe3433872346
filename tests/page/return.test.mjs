/** The client of `client.js` when its connection is lost: whether and when it comes back, and what it says that it holds. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { FakeNet, WELCOME, point, settle } from "./fakes.mjs";

const BOX = [0, 0, 1, 1];
const BOX2 = [1, 1, 2, 2];
const HOUR_MS = 3_600_000;
const delta = (seq, members) => ({ type: "delta", seq, ...members });
const status = ({ client }) => client.status;

/** Loses the newest connection; returns how long the client stays away, having waited for it. */
async function waitAfter(net, code) {
  const count = net.sockets.length;
  net.lose(code);
  const { retry_ms } = status(net);
  if (retry_ms === null) return null;
  if (retry_ms >= 1) await net.clock.advance(retry_ms - 1);
  assert.equal(net.sockets.length, count, "it came back too early");
  await net.clock.advance(1);
  assert.equal(net.sockets.length, count + 1, "it did not come back");
  return retry_ms;
}

// Whether and when

test("the backoff doubles up to half a minute, and is a random part of that", async () => {
  for (const chance of [0, 0.5, 0.999]) {
    const net = new FakeNet({ bbox: BOX });
    net.clock.chance = chance;
    await settle();
    const waits = [];
    for (let n = 0; n < 9; n++) waits.push(await waitAfter(net, 1006));
    assert.deepEqual(
      waits.map((wait) => Math.round(wait)),
      [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000].map((ms) => Math.round(ms * chance)),
    );
  }
});

test("a connection that lasted makes the backoff begin anew, one that was cut at once does not", async () => {
  const net = new FakeNet({ bbox: BOX });
  await settle();
  for (let n = 0; n < 4; n++) await waitAfter(net, 1006);
  await net.start();
  await net.clock.advance(1000);
  assert.equal(await waitAfter(net, 4000), 4000);
  await net.start();
  await net.clock.advance(6000);
  assert.equal(await waitAfter(net, 4000), 250);
});

test("whether it comes back is in the close code", async () => {
  const comesBack = [1001, 1002, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013, 4000, 4001, 4002, 4003, 4004, 4499, 3000];
  const staysAway = [1000, 1003, 4500, 4501, 4502, 4503, 4999];
  for (const code of [...comesBack, ...staysAway]) {
    const net = new FakeNet({ bbox: BOX, token: "t" });
    await net.start();
    net.lose(code, "why");
    assert.deepEqual([status(net).state, status(net).code, status(net).reason], ["closed", code, "why"]);
    await net.clock.advance(HOUR_MS);
    assert.equal(net.sockets.length > 1, comesBack.includes(code), `after ${code}`);
  }
});

test("a failure after which no close comes is one, too", async () => {
  const net = new FakeNet({ bbox: BOX });
  await settle();
  net.socket.onerror({});
  assert.deepEqual([status(net).state, status(net).code, status(net).retry_ms], ["closed", 1006, 250]);
  await net.clock.advance(250);
  net.socket.readyState = 3;
  net.socket.onerror({});
  assert.equal(status(net).state, "connecting", "a close follows");
});

test("it comes back from anything when the page says so", async () => {
  const net = new FakeNet({ bbox: BOX, token: "old" });
  await net.start();
  net.lose(4500);
  net.client.token = "new";
  net.client.connect();
  net.client.connect();
  await net.start();
  assert.equal(net.sockets.length, 2);
  assert.equal(net.sent("identify")[0].token, "new");
  net.client.connect();
  await settle();
  assert.equal(net.sockets.length, 2);
});

test("nothing happens any more once the page has closed it", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  net.client.look({ zoom: 4 });
  net.client.close();
  assert.deepEqual([status(net).state, status(net).retry_ms, net.socket.closes], ["closed", null, [1000]]);
  assert.deepEqual([net.clock.waiting, net.document.listeners], [0, 0]);
  net.socket.onclose({ code: 1006, reason: "" });
  net.document.turn("hidden");
  net.document.turn("visible");
  await net.clock.advance(HOUR_MS);
  assert.equal(net.sockets.length, 1);
  assert.deepEqual([...net.client.entities.keys()], ["a"]);
});

test("nor does it open a connection when its token comes after that", async () => {
  let give;
  const net = new FakeNet({ bbox: BOX, token: () => new Promise((resolve) => (give = resolve)) });
  await settle();
  net.client.close();
  give("late");
  await settle();
  assert.equal(net.sockets.length, 0);
});

test("of an old connection nothing is heard", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  const old = net.socket;
  await waitAfter(net, 1006);
  old.onmessage({ data: JSON.stringify(delta(2, { enter: [point("b")] })) });
  old.onclose({ code: 4500, reason: "" });
  assert.deepEqual([status(net).state, [...net.client.entities.keys()]], ["connecting", ["a"]]);
});

// Drain

test("a node that goes away is left when the time has come, and what it says until then is heard", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  net.serve({ type: "drain", reconnect_ms: 3000 });
  await net.clock.advance(2000);
  net.serve(delta(2, { enter: [point("b")] }));
  await net.clock.advance(999);
  assert.deepEqual([net.sockets.length, status(net).state], [1, "open"]);
  await net.clock.advance(1);
  assert.equal(net.sockets.length, 2);
  assert.deepEqual(net.sockets[0].closes, [1000]);
  await net.start();
  assert.deepEqual(net.sent("view")[0].have, { a: 1, b: 1 });
});

test("a drain is no failure: after it the backoff begins anew", async () => {
  const net = new FakeNet({ bbox: BOX });
  await settle();
  for (let n = 0; n < 4; n++) await waitAfter(net, 1006);
  await net.start();
  net.serve({ type: "drain", reconnect_ms: 100 });
  await net.clock.advance(100);
  assert.equal(await waitAfter(net, 1006), 250);
});

test("a node that closes before has said when to come back", async () => {
  for (const code of [1012, 1001, 1006]) {
    const net = new FakeNet({ bbox: BOX });
    await net.startWith("a");
    net.serve({ type: "drain", reconnect_ms: 3000 });
    await net.clock.advance(1000);
    assert.equal(await waitAfter(net, code), 2000);
    assert.equal(await waitAfter(net, 1006), 250, "the wait is used up: it backs off");
  }
});

// Tokens

test("a function is asked for a token for each connection", async () => {
  let count = 0;
  const net = new FakeNet({ bbox: BOX, token: async () => `t${++count}` });
  await net.start();
  await waitAfter(net, 1006);
  await net.start();
  assert.deepEqual(
    net.sockets.map((socket) => socket.sent[0].token),
    ["t1", "t2"],
  );
});

test("a function that returns another token than the refused one is reason enough to come back", async () => {
  for (const code of [4500, 4501]) {
    const tokens = ["a", "b", "b", "c"];
    const net = new FakeNet({ bbox: BOX, token: () => tokens.shift() });
    await net.start();
    await waitAfter(net, code);
    await net.start();
    assert.equal(net.sent("identify")[0].token, "b");
    net.lose(code);
    await net.clock.advance(HOUR_MS);
    assert.equal(net.sockets.length, 2, "the same token again");
    assert.equal(status(net).retry_ms, null);
    tokens.unshift("b");
    net.client.connect();
    await net.start();
    assert.equal(net.sent("identify")[0].token, "b", "the page asked for it");
    await waitAfter(net, code);
    await net.start();
    assert.equal(net.sent("identify")[0].token, "c");
  }
});

test("a function that fails is asked again later", async () => {
  let count = 0;
  const token = () => {
    if (++count < 3) throw new Error("the sign-in service is down");
    return "t";
  };
  const net = new FakeNet({ bbox: BOX, token });
  await settle();
  assert.equal(net.sockets.length, 0);
  assert.deepEqual([status(net).reason, status(net).retry_ms], ["no token: Error: the sign-in service is down", 250]);
  assert.equal(net.heard("status").length, 1, "the page had time to listen");
  await net.clock.advance(250);
  await net.clock.advance(500);
  assert.equal(net.sockets.length, 1);
});

// What is held

test("it says what it holds, of which world, and for how long it was away; once it knows the limits", async () => {
  const net = new FakeNet({ bbox: BOX, zoom: 4 });
  await net.startWith("a", "__proto__");
  await net.clock.advance(400);
  net.serve(delta(2, { move: [["a", 7, 5, 5]] }));
  await net.clock.advance(300);
  await waitAfter(net, 1006);
  await settle();
  net.open();
  assert.deepEqual(net.sent("view"), []);
  await net.clock.advance(50);
  net.serve(WELCOME);
  const [view] = net.sent("view");
  assert.deepEqual(Object.entries(view.have), [
    ["a", 7],
    ["__proto__", 1],
  ]);
  assert.deepEqual([view.bbox, view.zoom, view.world, view.away_ms], [BOX, 4, "w", 300 + 250 + 50]);
  net.serve(delta(1, { view: view.id, patch: [{ id: "a", version: 8, properties: { x: 1 } }] }));
  assert.deepEqual(net.client.entities.get("a").properties, { x: 1 });
  await net.clock.advance(100);
  net.client.look({ bbox: BOX2 });
  assert.equal("have" in net.sent("view")[1], false);
});

test("connections that fail, or say nothing of the view, do not make it seem less long away", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  const lost = net.clock.time;
  await waitAfter(net, 1006);
  await waitAfter(net, 1006);
  await net.start();
  await net.clock.advance(1000);
  net.serve({ type: "pong" });
  await waitAfter(net, 1006);
  await net.start();
  assert.equal(net.sent("view")[0].away_ms, net.clock.time - lost);
});

test("an answer with a reset is an answer, too", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a", "b");
  await waitAfter(net, 1006);
  await net.start({ world: "w2" });
  assert.equal("have" in net.sent("view")[0], false, "of another world nothing is held");
  net.events.length = 0;
  net.serve(delta(1, { reset: true, view: net.sent("view")[0].id, enter: [point("b", 2)] }));
  assert.deepEqual(
    net.heard("leave").map(({ id, reason }) => [id, reason]),
    [["a", "reset"]],
  );
  assert.deepEqual([...net.client.entities.keys()], ["b"]);
  await waitAfter(net, 1006);
  await net.start({ world: "w2" });
  assert.deepEqual([net.sent("view")[0].have, net.sent("view")[0].world], [{ b: 2 }, "w2"]);
});

test("it does not say what it holds where that is too many, too long, in doubt or nothing", async () => {
  const few = { limits: { ...WELCOME.limits, have_entities: 2 } };
  const short = { limits: { ...WELCOME.limits, message_bytes: 200 } }; // characters, but not bytes
  const cases = [
    [["a", "b"], few, true],
    [["a", "b", "c"], few, false],
    [["é".repeat(64)], {}, true],
    [["é".repeat(64)], short, false],
    [[], {}, false],
  ];
  for (const [ids, welcome, isSaid] of cases) {
    const net = new FakeNet({ bbox: BOX });
    await net.startWith(...ids);
    await waitAfter(net, 1006);
    await net.start(welcome);
    assert.equal("have" in net.sent("view")[0], isSaid, JSON.stringify([ids, welcome]));
    assert.equal(net.client.entities.size, ids.length, "what is shown stays until it is known what to show");
  }
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  net.serve(delta(5, {}));
  await waitAfter(net, 1006);
  await net.start();
  assert.equal("have" in net.sent("view")[0], false);
  net.serve(delta(1, { reset: true, enter: [point("c")] }));
  assert.deepEqual([...net.client.entities.keys()], ["c"]);
});

test("after 1009 it comes back without, and with it again after the next delta", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  await waitAfter(net, 1006);
  await net.start();
  assert.equal("have" in net.sent("view")[0], true);
  await waitAfter(net, 1009);
  await waitAfter(net, 1006);
  await net.start();
  assert.equal("have" in net.sent("view")[0], false);
  net.serve(delta(1, { reset: true, enter: [point("a", 2)] }));
  await waitAfter(net, 1006);
  await net.start();
  assert.deepEqual(net.sent("view")[0].have, { a: 2 });
});

test("where what it holds is refused, it looks without", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  await waitAfter(net, 1006);
  await net.start();
  net.serve({ type: "error", code: "too_big", message: "have: at most 0 entities are allowed", ref: net.sent("view")[0].id });
  await net.clock.advance(50);
  assert.deepEqual(
    net.sent("view").map((view) => "have" in view),
    [true, false],
  );
});

test("a filter that another node refuses costs what is held nothing", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  await net.clock.advance(100);
  net.client.look({ filter: ["nonsense"] });
  await waitAfter(net, 1006);
  await net.start();
  net.serve({ type: "error", code: "bad_filter", message: "filter: bad", ref: net.sent("view")[0].id });
  await net.clock.advance(50);
  const [first, second] = net.sent("view");
  assert.deepEqual([first.filter, second.filter], [["nonsense"], undefined]);
  assert.deepEqual(second.have, { a: 1 });
});

test("what is looked at while there is no connection is looked at when there is one", async () => {
  const net = new FakeNet();
  await settle();
  net.client.look({ bbox: BOX });
  await net.start();
  assert.deepEqual(
    net.sent("view").map(({ bbox }) => bbox),
    [BOX],
  );
  net.lose(1006);
  net.client.look({ bbox: BOX2 });
  net.client.look({ zoom: 9 });
  await net.clock.advance(250);
  await net.start();
  assert.deepEqual(
    net.sent("view").map(({ bbox, zoom }) => [bbox, zoom]),
    [[BOX2, 9]],
  );
});

// Hidden tabs

test("a hidden tab looks at nothing, and is back at once", async () => {
  const net = new FakeNet({ bbox: BOX, ids: ["a"] });
  await net.startWith("a");
  net.document.turn("hidden");
  const hidden = net.sent("view").at(-1);
  assert.deepEqual([hidden.bbox, "ids" in hidden], [null, false]);
  net.client.look({ bbox: BOX2 });
  await net.clock.advance(60);
  assert.equal(net.sent("view").at(-1).bbox, null);
  net.document.turn("visible");
  assert.deepEqual([net.sent("view").at(-1).bbox, net.sent("view").at(-1).ids], [BOX2, ["a"]]);
  assert.deepEqual(net.client.view.bbox, BOX2);
});

test("what is wanted while a tab is hidden is not taken for accepted", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.startWith("a");
  net.client.look({ filter: ["nonsense"] });
  net.document.turn("hidden");
  net.serve(delta(2, { view: net.sent("view").at(-1).id, leave: { view: ["a"] } }));
  net.document.turn("visible");
  net.serve({ type: "error", code: "bad_filter", message: "filter: bad", ref: net.sent("view").at(-1).id });
  assert.equal(net.client.view.filter, undefined);
});

test("a hidden tab that connects looks at nothing until it is shown", async () => {
  const net = new FakeNet({ bbox: BOX });
  net.document.visibilityState = "hidden";
  await net.start();
  assert.deepEqual(
    net.sent("view").map(({ bbox }) => bbox),
    [null],
  );
  net.document.turn("visible");
  assert.deepEqual(
    net.sent("view").map(({ bbox }) => bbox),
    [null, BOX],
  );
});

test("a tab that is shown does not sit out its backoff", async () => {
  const net = new FakeNet({ bbox: BOX });
  await net.start();
  net.document.turn("hidden");
  for (let n = 0; n < 6; n++) await waitAfter(net, 1006);
  net.lose(1006);
  net.document.turn("visible");
  await settle();
  assert.equal(net.sockets.length, 8);
  net.lose(4500);
  net.document.turn("hidden");
  net.document.turn("visible");
  await net.clock.advance(HOUR_MS);
  assert.equal(net.sockets.length, 8, "it is not wanted there");
});

test("whoever wants a hidden tab to be kept up to date gets that", async () => {
  const net = new FakeNet({ bbox: BOX, pauseWhenHidden: false });
  await net.startWith("a");
  net.document.turn("hidden");
  await net.clock.advance(1000);
  assert.deepEqual(
    net.sent("view").map(({ bbox }) => bbox),
    [BOX],
  );
});
