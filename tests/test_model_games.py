"""The judge of frames plays at random against a small server that is right by construction, and against the same with one fault at a time.

The law: the server here shares with the judge the world and the predicates, never a decision about a frame; a failure names its seed.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from tests.model import ModelLimits, View, Violation, World, allowed, sampling_keys, sees_without_sample
from tests.model_frames import is_point
from tests.model_values import digest, json_equal
from tests.model_viewer import Viewer

NOW = 1_700_000_000.0


class Toy:
    """A server for one session that is right by construction: each time it compares all that it sent with all that it should show."""

    def __init__(self, world: World, fault: str = "", have: dict[str, Any] | None = None) -> None:
        self.world, self.fault = world, fault
        self.sent: dict[str, Any] = dict(have or {})
        self.secret = {entity_id for entity_id in self.sent if not self.may_know(entity_id, ())}
        self.view, self.id, self.principals = View(), None, frozenset[str]()
        self.threshold: tuple[float, int] | None = None
        self.seq, self.reset, self.answer, self.fill, self.lost = 0, have is None, False, set[str](), set[str]()

    def may_know(self, entity_id: str, principals: Any) -> bool:
        entity, tombstone = self.world.entities.get(entity_id), self.world.tombstones.get(entity_id)
        return allowed(entity.settings.access if entity else tombstone.access if tombstone else (), principals)

    def look(self, message: dict[str, Any]) -> None:
        self.view, self.id, self.answer = View.from_message(message), message["id"], True
        self.fill |= self.pending()

    def refresh(self) -> None:
        self.sent, self.reset, self.answer, self.secret = {}, True, True, set()
        self.fill |= self.pending()

    def matching(self) -> dict[str, Any]:
        principals = [*self.principals, "user:x"] if self.fault == "ignores access" else self.principals
        found = {i: e for i, e in self.world.entities.items() if sees_without_sample(e, self.view, principals, None)}
        return {entity_id: entity.state.feature for entity_id, entity in found.items()}

    def visible(self) -> dict[str, Any]:
        """With the sample, whose threshold stands as long as it can."""
        matching, limit = self.matching(), self.world.limits.entities_per_view
        keys = sampling_keys(self.world, matching)
        below = [i for i in keys if self.threshold is None or keys[i] < self.threshold]
        if len(below) > limit or (self.threshold is not None and 2 * len(below) < limit):
            order = sorted(keys, key=keys.__getitem__)
            below = order[: 3 * limit // 4]
            self.threshold = keys[order[len(below)]] if len(order) > len(below) else None
        if self.fault == "samples by luck" and self.threshold is not None:
            below = sorted(keys)[: len(below)]
        return {entity_id: matching[entity_id] for entity_id in below}

    def pending(self) -> set[str]:
        visible = self.visible()
        known = self.sent.keys() | visible.keys()
        stale = {i for i in known if i not in visible or i not in self.sent or self.sent[i]["version"] != visible[i]["version"]}
        return (stale | (self.secret & self.sent.keys() - visible.keys())) - self.lost

    def reason(self, entity_id: str) -> str:
        entity, tombstone = self.world.entities.get(entity_id), self.world.tombstones.get(entity_id)
        if self.fault == "forgets whom it may tell" or entity_id not in self.secret or self.may_know(entity_id, self.principals):
            if entity is None:
                return tombstone.reason if tombstone else "deleted"
            if not allowed(entity.settings.access, self.principals):
                return "denied"
            if self.fault != "takes no version for the reason" and self.sent[entity_id]["version"] == entity.state.version:
                return "view"
            return "filtered" if self.view.meets(entity.state) else "moved"
        return "deleted"

    def drain(self, budget: int, rng: random.Random) -> dict[str, Any] | None:
        """The next delta, of at most `budget` entities."""
        visible, pending = self.visible(), self.pending()
        if self.fault == "loses an offer" and pending and rng.random() < 0.1:
            self.lost.add(min(pending))
        if not (pending or self.reset or self.answer):
            return None
        self.seq += 1
        out: dict[str, Any] = {"type": "delta", "seq": self.seq, "view": self.id}
        out.update({"reset": True} if self.reset else {})
        for entity_id in sorted(pending, key=lambda i: (i in visible, i))[:budget]:
            self.write(out, entity_id, visible.get(entity_id))
        was_filling = bool(self.fill) or self.reset or self.answer
        self.fill &= self.pending()
        if self.fill and self.fault != "ends every fill at once":
            out["more"] = True
        elif was_filling:
            total = len(self.matching()) + (self.fault == "counts one too many")
            out.update(total=total, sampled=len(self.visible()) / total if total else 1)
        self.reset, self.answer = False, bool(self.fill)
        return out

    def write(self, out: dict[str, Any], entity_id: str, new: Any) -> None:
        old = self.sent.get(entity_id)
        if new is None:
            if self.fault != "swallows leaves":
                out.setdefault("leave", {}).setdefault(self.reason(entity_id), []).append(entity_id)
            del self.sent[entity_id]
            return
        self.secret.discard(entity_id)
        self.sent[entity_id] = new
        if old is None or self.fault == "enters all" or old.get("kind") != new.get("kind") or old["version"] > new["version"]:
            out.setdefault("enter", []).append(new)
            return
        same = json_equal(old["properties"], new["properties"]) or self.fault == "moves whatever else changed"
        if same and is_point(old["geometry"]) and is_point(new["geometry"]):
            out.setdefault("move", []).append([entity_id, new["version"], *new["geometry"]["coordinates"]])
            return
        gone = {name: None for name in old["properties"] if name not in new["properties"] and self.fault != "keeps what is removed"}
        changed = {n: v for n, v in new["properties"].items() if n not in old["properties"] or not json_equal(v, old["properties"][n])}
        out.setdefault("patch", []).append({"id": entity_id, "version": new["version"], "properties": gone | changed})
        if not json_equal(old["geometry"], new["geometry"]):
            out["patch"][-1]["geometry"] = new["geometry"]

    def check(self) -> dict[str, Any]:
        """What the session knows that the client holds."""
        own = digest((i, f["version"]) for i, f in self.sent.items())
        return {"type": "check", "seq": self.seq, "count": len(self.sent), "digest": own, "pending": len(self.pending())}


def some_update(rng: random.Random, world: World) -> dict[str, Any]:
    """A valid update, sometimes stale, sometimes of what is not there."""
    update: dict[str, Any] = {"id": rng.choice("abcdefgh")}
    lon, lat = rng.choice([-180, -4, 0, 4, 8, 180]), rng.choice([-4, 0, 4])
    point = {"type": "Point", "coordinates": [lon, lat] + [7] * (rng.random() < 0.1)}
    properties = {name: rng.choice([None, 1, 1.0, True, "x", {"y": None}]) for name in rng.sample("pqr", rng.randrange(3))}
    match rng.randrange(6):
        case 0 | 1:
            update |= {"type": "Feature", "geometry": point, "properties": properties}
        case 2:
            update |= {"op": "patch", "properties": properties}
            update |= {"geometry": point} if rng.random() < 0.3 else {}
        case 3 | 4:
            update |= {"op": "move", "lon": lon, "lat": lat}
        case 5:
            update |= {"op": "delete"}
    if update.get("op", "patch") == "patch":
        for member, values in (
            ("kind", ["bus", None]),
            ("min_zoom", [None, 3, 9]),
            ("access", [None, [], ["user:x"], ["public"]]),
            ("rank", [None, 0, 0.5, 1]),
            ("ttl", [None, 1, 5]),
        ):
            if rng.random() < 0.2:
                update[member] = rng.choice(values)
    if rng.random() < 0.3:
        update["version"] = max(world.changed.get(update["id"], 0), world.serial) + rng.randrange(-2, 9) or 1
    return update


def some_view(rng: random.Random, number: int) -> dict[str, Any]:
    """A view message with an id of its own."""
    view: dict[str, Any] = {
        "id": number,
        "bbox": rng.choice([None, [-5, -5, 5, 5], [0, -5, 190, 5], [-180, -90, 180, 90], [170, -1, 181, 1]]),
    }
    if rng.random() < 0.3:
        view["ids"] = rng.sample("abcdefgh", 2)
    if rng.random() < 0.4:
        view["filter"] = rng.choice([["has", "p"], ["!=", ["kind"], "bus"], ["==", ["get", "q"], 1]])
    return view | ({"zoom": 5} if rng.random() < 0.3 else {})


def play(seed: int, fault: str = "") -> Counter[str]:
    """One game of a toy server against the judge, and against a second one that gets each frame late; what the frames carried."""
    rng = random.Random(seed)
    limits = ModelLimits(tombstone_s=rng.choice([4, 100]), tombstones_max=rng.choice([2, 100]), entities_per_view=rng.choice([4, 100]))
    world, now, looks = World(limits, default_access=["public"]), NOW, 0
    counts: Counter[str] = Counter()
    held_last: dict[str, Any] = {}
    for game in range(3):
        have = {i: f for i, f in held_last.items() if rng.random() < 0.9}
        if game and rng.random() < 0.5:
            have["never"] = {"type": "Feature", "id": "never", "version": 4, "geometry": None, "properties": {}}
        believed = game > 0
        toy = Toy(world, fault, have if believed else None)
        viewer, late = Viewer(world), Viewer(world, strict_present=False)
        for judge in (viewer, late) if believed else ():
            judge.resume(have)
        frames: list[dict[str, Any]] = []
        for step in range(60):
            now += rng.randrange(32) / 64
            match 0 if step == 0 else rng.randrange(12):
                case 0:
                    looks += 1
                    message = some_view(rng, looks)
                    for each in (viewer, late, toy):
                        each.look(message)
                case 1 if rng.random() < 0.3:
                    for each in (viewer, late, toy):
                        each.refresh()
                case 2 if rng.random() < 0.5:
                    rights = frozenset(rng.choice([(), ("user:x",)]))
                    viewer.allow(rights)
                    late.allow(rights)
                    toy.principals = rights
                case 3:
                    world.expire(now)
                case 4 | 5 | 6:
                    frames += [] if (frame := toy.drain(rng.choice([1, 3, 99]), rng)) is None else [viewer.feed(frame)]
                case 7 if not toy.reset:
                    viewer.feed(toy.check())
                case 8:
                    for frame in frames:
                        late.feed(frame)
                    frames.clear()
                case _:
                    world.apply(some_update(rng, world), now)
        while (frame := toy.drain(3, rng)) is not None:
            frames.append(viewer.feed(frame))
        viewer.settled()
        viewer.feed(toy.check())
        for frame in frames:
            late.feed(frame)
        late.settled()
        counts += viewer.counts
        held_last = viewer.mirror
    return counts


@pytest.mark.parametrize("way", ["", "enters all"])
def test_a_right_server_is_right(way: str) -> None:
    counts: Counter[str] = Counter()
    for seed in range(150):
        try:
            counts += play(seed, way)
        except Violation as violation:
            violation.add_note(f"seed {seed}")
            raise
    reasons = {f"leave:{reason}" for reason in ("deleted", "expired", "denied", "view", "moved", "filtered")}
    assert {"enter", "reset", "check"} | reasons <= counts.keys()
    assert {"move", "patch"} <= counts.keys() or way == "enters all"


@pytest.mark.parametrize(
    "fault",
    [
        "ignores access",
        "samples by luck",
        "takes no version for the reason",
        "forgets whom it may tell",
        "loses an offer",
        "ends every fill at once",
        "counts one too many",
        "swallows leaves",
        "moves whatever else changed",
        "keeps what is removed",
    ],
)
def test_a_faulty_server_is_found(fault: str) -> None:
    for seed in range(150):
        try:
            play(seed, fault)
        except Violation:
            return
    pytest.fail(f"150 games did not find that the server {fault}")
