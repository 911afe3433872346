/** The mirror of `client.js`, by the vectors that every language's mirror replays. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { point, subject } from "./fakes.mjs";

const { Mirror, MirrorError, digestOf, toDiff } = subject;
const vectors = JSON.parse(readFileSync(new URL("../vectors/mirror.json", import.meta.url), "utf8"));

const byId = (features) => new Map(features.map((feature) => [feature.id, feature]));

function replay(run, onStep = () => {}) {
  const mirror = new Mirror();
  let isForgotten = false;
  for (const { restart, forget, delta, ...expected } of run.steps) {
    if (restart) {
      mirror.restart();
      if (forget) mirror.clear();
      isForgotten = forget ?? false;
      continue;
    }
    const change = mirror.apply(delta);
    const { digest, total, sampled } = mirror;
    assert.deepEqual({ count: mirror.entities.size, digest, total, sampled }, expected, `after delta ${delta.seq}`);
    assert.equal(mirror.seq, delta.seq);
    assert.equal(mirror.isFilling, delta.more ?? false);
    assert.ok(mirror.agrees({ seq: delta.seq, count: expected.count, digest: expected.digest }));
    onStep(mirror, change, isForgotten);
    isForgotten = false;
  }
  assert.deepEqual(mirror.entities, byId(run.mirror));
}

for (const run of vectors.runs) test(`replay: ${run.name}`, () => replay(run));

for (const { name, first, delta } of vectors.refusals) {
  test(`refused, and nothing changes: ${name}`, () => {
    const mirror = new Mirror();
    mirror.apply(first);
    const state = () => structuredClone({ ...mirror, digest: mirror.digest });
    const before = state();
    assert.throws(() => mirror.apply(delta), MirrorError);
    assert.deepEqual(state(), before);
  });
}

test("what is no delta at all is thrown out, and nothing changes", () => {
  for (const bad of [null, 7, { seq: 1, enter: 5 }, { seq: 1, enter: [null] }, { seq: 1, move: [null] }, { seq: 1, leave: null }]) {
    const mirror = new Mirror();
    assert.throws(() => mirror.apply(bad));
    assert.equal(mirror.seq, 0);
    assert.equal(mirror.entities.size, 0);
  }
});

test("a change tells what was before, entity by entity", () => {
  for (const run of vectors.runs) {
    const last = new Map();
    replay(run, (mirror, { entered, moved, patched, left, before, reset }) => {
      const touched = new Set();
      for (const feature of [...entered, ...moved, ...patched]) {
        assert.equal(mirror.entities.get(feature.id), feature);
        // After a restart that forgot, nothing was before: the mirror is the only judge of that.
        if (before.has(feature.id)) assert.deepEqual(before.get(feature.id), last.get(feature.id));
        touched.add(feature.id);
      }
      for (const feature of [...moved, ...patched]) assert.ok(before.get(feature.id).version < feature.version);
      for (const { id, feature, reason } of left) {
        assert.ok(!mirror.entities.has(id));
        assert.equal(feature.id, id);
        assert.ok(reset === (reason === "reset"));
        touched.add(id);
      }
      for (const [id, feature] of last) if (!touched.has(id) && mirror.entities.has(id)) assert.equal(mirror.entities.get(id), feature);
      last.clear();
      for (const [id, feature] of mirror.entities) last.set(id, feature);
    });
  }
});

test("the digest of an entity", () => {
  assert.equal(digestOf("bus-7", 17), 0x24418085);
  assert.equal(digestOf("Zürich", 1), 0x12ed0b3b);
  assert.equal(digestOf("😀", 2 ** 53 - 2 ** 32), 0xe07ff1bd);
});

test("have forgets what it does not name", () => {
  const mirror = new Mirror();
  mirror.apply({ seq: 1, enter: ["a", "__proto__", "c"].map((id) => point(id, 7)) });
  const have = mirror.have(2);
  assert.deepEqual(Object.keys(have), [...mirror.entities.keys()]);
  assert.deepEqual(Object.entries(have), [
    ["a", 7],
    ["__proto__", 7],
  ]);
  const only = new Mirror();
  only.apply({ seq: 1, enter: ["a", "__proto__"].map((id) => point(id, 7)) });
  assert.equal(mirror.digest, only.digest);
});

// The diffs, applied as MapLibre documents it: remove, add, update; in an update geometry, removals, additions.

function applyDiff(source, diff) {
  if (diff.removeAll) source.clear();
  for (const id of diff.remove ?? []) assert.ok(source.delete(id), `${id} is removed and was not there`);
  for (const feature of diff.add ?? []) source.set(feature.properties.id, feature);
  for (const { id, newGeometry, removeProperties = [], addOrUpdateProperties = [] } of diff.update ?? []) {
    const feature = source.get(id);
    assert.ok(feature, `${id} is updated and was not there`);
    const properties = { ...feature.properties };
    for (const name of removeProperties) assert.ok(Object.hasOwn(properties, name) && delete properties[name]);
    for (const { key, value } of addOrUpdateProperties)
      Object.defineProperty(properties, key, { value, enumerable: true, configurable: true, writable: true });
    source.set(id, { ...feature, geometry: newGeometry ?? feature.geometry, properties });
  }
}

function asShown(entities) {
  return new Map(
    Array.from(entities, ([id, { geometry, kind, properties }]) => {
      return [id, { type: "Feature", id, geometry, properties: { ...properties, id, ...(kind === undefined ? {} : { kind }) } }];
    }),
  );
}

for (const run of vectors.runs) {
  for (const every of [1, 3]) {
    test(`a source follows the mirror, a diff every ${every} deltas: ${run.name}`, () => {
      const source = new Map();
      const shown = new Map();
      let dirty = null;
      let count = 0;
      replay(run, (mirror, { entered, moved, patched, left, reset }, isForgotten) => {
        if (reset || isForgotten) dirty = null;
        for (const { id } of [...entered, ...moved, ...patched, ...left]) dirty?.add(id);
        if (++count % every) return;
        const diff = toDiff(shown, mirror.entities, dirty);
        dirty = new Set();
        if (diff) applyDiff(source, diff);
        assert.deepEqual(source, asShown(mirror.entities));
        assert.deepEqual(shown, mirror.entities);
        assert.equal(toDiff(shown, mirror.entities, [...mirror.entities.keys(), "unknown"]), null);
      });
    });
  }
}

test("a diff says no more than what changed", () => {
  const mirror = new Mirror();
  const shown = new Map();
  const first = mirror.apply({ seq: 1, reset: true, enter: [point("a", 1, [1, 2], { x: 1, y: { z: [1] } }), point("b")] });
  assert.deepEqual(toDiff(shown, mirror.entities, null), {
    removeAll: true,
    add: first.entered.map(({ id, geometry, properties }) => ({
      type: "Feature",
      id,
      geometry,
      properties: { ...properties, id, kind: "bus" },
    })),
  });
  mirror.apply({ seq: 2, move: [["a", 2, 3, 4]] });
  assert.deepEqual(toDiff(shown, mirror.entities, ["a", "b"]), {
    add: [],
    update: [{ id: "a", newGeometry: { type: "Point", coordinates: [3, 4] } }],
    remove: [],
  });
  mirror.apply({ seq: 3, patch: [{ id: "a", version: 3, properties: { x: null, q: 5, id: "forged", kind: "forged" } }] });
  assert.deepEqual(toDiff(shown, mirror.entities, ["a"]).update, [
    { id: "a", addOrUpdateProperties: [{ key: "q", value: 5 }], removeProperties: ["x"] },
  ]);
  mirror.apply({ seq: 4, leave: { view: ["a"] } });
  mirror.apply({ seq: 5, enter: [{ ...point("a", 5), kind: undefined }] });
  assert.deepEqual(toDiff(shown, mirror.entities, ["a"]).update, [
    { id: "a", newGeometry: { type: "Point", coordinates: [1, 2] }, addOrUpdateProperties: [], removeProperties: ["y", "q", "kind"] },
  ]);
  mirror.apply({ seq: 6, leave: { deleted: ["a"] } });
  assert.deepEqual(toDiff(shown, mirror.entities, ["a", "b"]), { add: [], update: [], remove: ["a"] });
});
