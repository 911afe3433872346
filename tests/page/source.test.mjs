/** `bindSource`: a map's source that follows the mirror, and a client that follows the map. And the types. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { FakeNet, point, settle, subject } from "./fakes.mjs";

const delta = (seq, members) => ({ type: "delta", seq, ...members });

/** A GeoJSON source that may take its time. */
class FakeSource {
  diffs = [];
  shown = new Map();
  isSlow = false;

  updateData(diff) {
    this.diffs.push(diff);
    if (diff.removeAll) this.shown.clear();
    for (const id of diff.remove ?? []) this.shown.delete(id);
    for (const feature of diff.add ?? []) this.shown.set(feature.properties.id, feature.geometry.coordinates);
    for (const { id, newGeometry } of diff.update ?? []) if (newGeometry && this.shown.has(id)) this.shown.set(id, newGeometry.coordinates);
    return this.isSlow ? new Promise((resolve) => (this.finish = resolve)) : this;
  }
}

class FakeMap {
  sources = new Map();
  listeners = new Set();
  frames = [];
  west = 0;

  getSource = (id) => this.sources.get(id);
  addSource = (id, source) => this.sources.set(id, Object.assign(new FakeSource(), { source }));
  getBounds = () => ({ getWest: () => this.west, getSouth: () => 1, getEast: () => this.west + 2, getNorth: () => 3 });
  getZoom = () => 4.5;
  on = (name, listener) => this.listeners.add(listener);
  off = (name, listener) => this.listeners.delete(listener);
  requestFrame = (call) => this.frames.push(call);

  /** An animation frame. */
  async frame() {
    const frames = this.frames;
    this.frames = [];
    for (const call of frames) await call();
    await settle();
    return frames.length;
  }

  pan(west) {
    this.west = west;
    for (const listener of this.listeners) listener();
  }
}

async function bound(options = {}) {
  const net = new FakeNet();
  const map = new FakeMap();
  await net.start();
  const end = subject.bindSource(net.client, map, "live", { requestFrame: map.requestFrame, ...options });
  return { net, map, end, source: () => map.getSource("live") };
}

const entitiesOf = (client) => new Map(Array.from(client.entities, ([id, { geometry }]) => [id, geometry.coordinates]));

test("the source is made with string ids, and the client looks at what the map shows", async () => {
  const { net, map, source } = await bound();
  assert.deepEqual(source().source, { type: "geojson", promoteId: "id", data: { type: "FeatureCollection", features: [] } });
  const { bbox, zoom } = net.sent("view")[0];
  assert.deepEqual([bbox, zoom], [[0, 1, 2, 3], 4.5]);
  await net.clock.advance(50);
  map.pan(10);
  assert.deepEqual(net.sent("view")[1].bbox, [10, 1, 12, 3]);
});

test("a source that is there is used, and the map is not followed where the page does not want it", async () => {
  const net = new FakeNet({ bbox: [0, 0, 1, 1] });
  const map = new FakeMap();
  const own = new FakeSource();
  map.sources.set("live", own);
  await net.startWith("a");
  subject.bindSource(net.client, map, "live", { requestFrame: map.requestFrame, follow: false });
  await map.frame();
  assert.deepEqual(own.shown, entitiesOf(net.client));
  assert.equal(map.listeners.size, 0);
  assert.equal(net.sent("view").length, 1);
});

test("deltas between two frames are one diff", async () => {
  const { net, map, source } = await bound();
  await map.frame();
  const before = source().diffs.length;
  net.serve(delta(1, { reset: true, enter: [point("a"), point("b")] }));
  net.serve(
    delta(2, { move: [["a", 2, 5, 5]] }),
    delta(3, { move: [["a", 3, 6, 6]], leave: { view: ["b"] } }),
    delta(4, { enter: [point("c")] }),
  );
  assert.equal(await map.frame(), 1);
  assert.equal(source().diffs.length, before + 1);
  assert.deepEqual(source().shown, entitiesOf(net.client));
  net.serve(delta(5, { enter: [point("d")] }), delta(6, { leave: { view: ["d"] } }), delta(7, { move: [["a", 4, 7, 7]] }));
  await map.frame();
  assert.deepEqual(source().diffs.at(-1), {
    add: [],
    update: [{ id: "a", newGeometry: { type: "Point", coordinates: [7, 7] } }],
    remove: [],
  });
  assert.equal(await map.frame(), 0, "nothing changed, and no frame is asked for");
});

test("after a reset the source is filled anew", async () => {
  const { net, map, source } = await bound();
  net.serve(delta(1, { reset: true, enter: [point("a"), point("b")] }));
  await map.frame();
  net.serve(delta(2, { move: [["a", 2, 5, 5]] }), delta(3, { reset: true, enter: [point("a", 3)] }));
  await map.frame();
  assert.equal(source().diffs.at(-1).removeAll, true);
  assert.deepEqual(source().shown, entitiesOf(net.client));
});

test("a map that is busy gets the next diff when it is done, with the newest of everything", async () => {
  const { net, map, source } = await bound();
  await map.frame();
  source().isSlow = true;
  net.serve(delta(1, { reset: true, enter: [point("a")] }));
  const flushing = map.frame();
  const count = source().diffs.length;
  for (let n = 2; n < 50; n++) {
    net.serve(delta(n, { move: [["a", n, n, n]] }));
    assert.equal(map.frames.length, 0);
  }
  source().isSlow = false;
  source().finish();
  await flushing;
  assert.equal(source().diffs.length, count);
  await map.frame();
  assert.equal(source().diffs.length, count + 1);
  assert.deepEqual(source().shown, new Map([["a", [49, 49]]]));
});

test("after a change of style the new source is filled", async () => {
  const { net, map, source } = await bound();
  net.serve(delta(1, { reset: true, enter: [point("a"), point("b")] }));
  await map.frame();
  map.sources.clear();
  net.serve(delta(2, { move: [["a", 2, 5, 5]] }));
  await map.frame();
  map.addSource("live", {});
  net.serve(delta(3, { move: [["b", 2, 6, 6]] }));
  await map.frame();
  assert.deepEqual(source().shown, entitiesOf(net.client));
});

test("a source that throws is given all of it again", async () => {
  const { net, map, source } = await bound();
  await map.frame();
  const { updateData } = source();
  source().updateData = () => {
    throw new Error("not ready");
  };
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  net.serve(delta(1, { reset: true, enter: [point("a")] }));
  await map.frame();
  delete globalThis.reportError;
  assert.deepEqual(reported, ["not ready"]);
  assert.equal(map.frames.length, 0, "it waits for the next change");
  source().updateData = updateData;
  net.serve(delta(2, { enter: [point("b")] }));
  await map.frame();
  assert.deepEqual(source().shown, entitiesOf(net.client));
});

test("what is remembered while no frames come is bounded by what is shown", async () => {
  const { net, map, source } = await bound();
  net.serve(delta(1, { reset: true, enter: [point("a")] }));
  await map.frame();
  for (let n = 0; n < 5000; n++) {
    net.serve(delta(2 * n + 2, { enter: [point(`e${n}`)] }), delta(2 * n + 3, { leave: { view: [`e${n}`] } }));
  }
  net.serve(delta(10_002, { enter: [point("z")] }));
  await map.frame();
  assert.deepEqual(source().shown, entitiesOf(net.client));
  assert.equal(source().diffs.at(-1).removeAll, true);
});

test("once it has ended nothing more is given to the map, or looked at", async () => {
  const { net, map, end, source } = await bound();
  await map.frame();
  net.serve(delta(1, { reset: true, enter: [point("a")] }));
  end();
  const { length } = source().diffs;
  await map.frame();
  net.serve(delta(2, { enter: [point("b")] }));
  assert.equal(await map.frame(), 0);
  assert.equal(source().diffs.length, length);
  assert.equal(map.listeners.size, 0);
});

test("the types name all that is exported, and nothing else", () => {
  const types = readFileSync(process.env.REALTIME_CLIENT_TYPES, "utf8");
  const named = [...types.matchAll(/^export (?:class|function|const) (\w+)/gm)].map((match) => match[1]);
  assert.deepEqual(named.sort(), Object.keys(subject).sort());
});
