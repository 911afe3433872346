"""Writes mirror.json: deltas for the mirrors of every language to replay, and what must come of them.

    python -m tests.vectors.make_mirror

Law: the deltas are those of the reference engine in random runs, and what is expected never comes from a mirror: count
and digest are the engine's `check`, the last mirror is what the engine says that the session sees. The same seeds
give the same file on every machine: of `random` only `random()` is used, whose sequence Python keeps.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from realtime.client.mirror import Mirror
from realtime.config import LimitsConfig, PublishConfig
from realtime.engine import Encoding, Settings, View
from realtime.engine.filters import parse_filter
from realtime.engine.reference import ReferenceEngine
from realtime.geo import view_boxes
from realtime.updates import UpdateParser
from realtime.values import VERSION_MAX

PATH = Path(__file__).with_name("mirror.json")
START = 1_700_000_000.0  # seconds since the Unix epoch
FLUSH_INTERVAL_S = 1 / 16  # sums of it are exact, and so are the milliseconds in versions
FRAME_BYTES = 64 * 1024
LIMITS = LimitsConfig()

IDS = [
    *("bus-1", "bus-2", "bus-10", "7", "07", "-1", "null", "bus@7", "bus@7@8", "a b", " leading", "trailing ", "%s", "<b>"),
    *("Zürich", "Zu\u0308rich", "東京", "😀", "👩\u200d👧", "\ue000", "\uffff", "\u2028", '"quoted"', "back\\slash"),
    *("__proto__", "constructor", "toString", "hasOwnProperty", "é" * 64, "x" * 128),
    *(f"tram/{n}" for n in range(10)),
]
VERSIONED = {id for n, id in enumerate(IDS) if n % 4 == 1}  # by their publisher
NAMES = ["speed", "route", "a", "", "id", "kind", "type", "__proto__", "constructor", "ключ", "𝒌"]
VALUES: list[Any] = [
    *(None, None, None, None, True, False, 0, -0.0, 1, 12.5, -3, "", "x", "20", "ü😀", "\u2028\u0000", '"\\/'),
    *(5e-324, 1e308, 1e21, -1e-7, 0.1 + 0.2, 2**53, 2**53 + 1, 2**64 - 1, -(2**63)),
    *([], {}, [1, [2, [3.0]]], {"a": None, "b": [None]}, {"": {"c": [True]}}, [{"__proto__": {"x": 1}}]),
]
KINDS = ["bus", "tram", "Straßenbahn", None]
BOXES: list[Any] = [[-180, -90, 180, 90], [-1, -1, 4, 4], [0, 0, 10, 10], [3, -5, 20, 5], [170, -10, 190, 10], None]
FILTERS: list[Any] = [
    None,
    None,
    ["==", ["kind"], "bus"],
    ["has", "speed"],
    ["!", ["in", ["get", "route"], ["literal", ["x", "20", True]]]],
]
RIGHTS: list[tuple[str, ...]] = [(), ("group:a",), ("user:u",), ("user:u", "group:a")]

T = TypeVar("T")


class Dice:
    """Random choices that are the same in every version of Python."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def chance(self, share: float) -> bool:
        return self._random() < share

    def below(self, count: int) -> int:
        return int(self._random() * count)

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def number(self, low: float, high: float) -> float:
        return round(low + self._random() * (high - low), 6)


class Publisher:
    """Makes random updates."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._versions = dict.fromkeys(VERSIONED, 0)

    def update(self, id: str | None = None) -> dict[str, Any]:
        """Return a random update, or the Feature that brings `id` into the world."""
        dice = self._dice
        roll = dice.below(24) if id is None else 24
        id = id or dice.pick(IDS)
        if roll == 0:
            body: dict[str, Any] = {"op": "delete"}
        elif roll < 9:
            body = {"op": "move", "lon": dice.number(-2, 12), "lat": dice.number(-2, 12)}
        elif roll < 20:
            body = {"op": "patch", "properties": self._properties(3)} | self._unseen(0.05)
            if dice.chance(0.1):
                body["geometry"] = self._geometry()
            if dice.chance(0.1):
                body["kind"] = dice.pick(KINDS)
        else:
            kind = {} if dice.chance(0.2) else {"kind": dice.pick(KINDS)}
            body = {"type": "Feature", "geometry": self._geometry(), "properties": self._properties(5)} | kind | self._unseen(0.15)
        return {"id": id} | body | self._version(id)

    def _version(self, id: str) -> dict[str, int]:
        if id not in self._versions:
            return {}
        # Some count from one, some end at the largest version there is, so that digests see both.
        step = self._versions[id] = self._versions[id] + 1 + self._dice.below(3)
        return {"version": step if len(id) % 2 else VERSION_MAX - 5000 + step}

    def _properties(self, count_max: int) -> dict[str, Any]:
        return {self._dice.pick(NAMES): self._dice.pick(VALUES) for _ in range(self._dice.below(count_max + 1))}

    def _unseen(self, share: float) -> dict[str, Any]:
        dice = self._dice
        if not dice.chance(share):
            return {}
        return dice.pick([{"min_zoom": 8}, {"access": ["group:a"]}, {"access": ["user:u"]}, {"ttl": 1.5}, {"rank": 0.1}])

    def _position(self) -> list[float]:
        return self._dice.pick(
            [[self._dice.number(-2, 12), self._dice.number(-2, 12)], [self._dice.below(11), self._dice.below(11)], [180, 0], [-179.5, 1e-7]]
        )

    def _geometry(self) -> dict[str, Any]:
        roll = self._dice.below(12)
        a, b, c = self._position(), self._position(), self._position()
        if roll == 0:
            return {"type": "LineString", "coordinates": [a, b, c]}
        if roll == 1:
            return {"type": "Polygon", "coordinates": [[a, b, c, a]]}
        if roll == 2:
            return {"type": "Point", "coordinates": [*a, 12.5]}
        return {"type": "Point", "coordinates": a}


class Run:
    """One client of one engine: its deltas, each with what the engine says that the client holds then."""

    def __init__(self, name: str, seed: int, entities_per_view: int = 10_000) -> None:
        self.name = name
        self.seed = seed
        self.dice = Dice(seed)
        self.publisher = Publisher(self.dice)
        settings = Settings(
            entities_per_view=entities_per_view,
            entity_bytes=LIMITS.entity_bytes,
            entity_properties=LIMITS.entity_properties,
            flush_interval_s=FLUSH_INTERVAL_S,
            tombstone_s=20.0,
            tombstones_max=10,
        )
        self.engine = ReferenceEngine(settings)
        self.now = START
        self.steps: list[dict[str, Any]] = []
        self.views = 0
        self._parser = UpdateParser(LIMITS, PublishConfig())
        self._session = self.engine.open((), "u", Encoding.JSON)
        self._mirror = Mirror()  # only to know what a client that resumes would name
        self._told: tuple[int | None, float] = (None, 1)

    def populate(self) -> None:
        """Bring every entity into the world."""
        self.engine.apply([self._parser.parse(self.publisher.update(id)) for id in IDS], self.now)

    def publish(self, count: int) -> None:
        """Apply so many random updates, some of which are refused."""
        self.engine.apply([self._parser.parse(self.publisher.update()) for _ in range(count)], self.now)
        self.now += FLUSH_INTERVAL_S
        self.engine.expire(self.now)

    def look(self, have: dict[str, int] | None = None, bbox: Any = None, filter: Any = None, **members: Any) -> None:
        """Give the client another view."""
        self.views += 1
        parsed = None if filter is None else parse_filter(filter, "u", LIMITS)
        self.engine.look(self._session, View(view_boxes(bbox), filter=parsed, id=self.views, **members), have, self.now)

    def look_around(self) -> None:
        """Give the client a random view."""
        ids = frozenset(self.dice.pick(IDS) for _ in range(self.dice.below(4)))
        self.look(None, self.dice.pick(BOXES), self.dice.pick(FILTERS), zoom=self.dice.pick([5.0, 12.0]), ids=ids)

    def allow(self) -> None:
        """Give the client random rights."""
        self.engine.allow(self._session, self.dice.pick(RIGHTS), self.now)

    def refresh(self) -> None:
        """Let the client ask for a reset."""
        self.engine.refresh(self._session, self.now)

    def resume(self, entities_max: int | None) -> None:
        """Let the client come back, naming at most so many entities that it holds; None: naming nothing."""
        self.engine.close(self._session)
        self._session = self.engine.open((), "u", Encoding.JSON)
        self._mirror.restart()
        step: dict[str, Any] = {"restart": True}
        have = None
        if entities_max is not None:
            # Which ones are left to each client; the vectors let it forget all or none.
            have = self._mirror.have(len(self._mirror) if entities_max else 0)
            step["forget"] = not entities_max
        self.steps.append(step)
        self.look(have, BOXES[0])

    def flush(self, budget: int = FRAME_BYTES, frames_max: int = 1_000_000) -> None:
        """Let the client read until there is nothing to say, or so many deltas."""
        while frames_max and (due := self.engine.next_due()) is not None:
            self.now = max(self.now, due)
            for session in self.engine.take_dirty(self.now):
                frame = self.engine.drain(session, budget, self.now)
                if frame is not None:
                    self._record(json.loads(frame))
                    frames_max -= 1

    def _record(self, delta: dict[str, Any]) -> None:
        self._mirror.apply(delta)
        check = self.engine.check(self._session)
        assert check is not None
        assert check.seq == delta["seq"]
        if "total" in delta:
            self._told = (delta["total"], delta["sampled"])
        total, sampled = self._told
        step = {"count": check.count, "digest": check.digest, "total": total, "sampled": sampled, "delta": ordered(delta)}
        self.steps.append(step)

    def finish(self) -> dict[str, Any]:
        """Let the client read to the end, and return the run."""
        self.flush()
        shown = [id for id in IDS if self.engine.explain(self._session, id).get("sees")]
        features = [json.loads(self.engine.get(id) or b"null") for id in shown]
        return {"name": self.name, "seed": self.seed, "steps": self.steps, "mirror": features}


def ordered(delta: dict[str, Any]) -> dict[str, Any]:
    """Return the delta with its entities ordered by id: their order means nothing and is the engine's own business."""

    def by_id(item: Any) -> str:
        return str(item["id"] if isinstance(item, dict) else item[0])

    members: dict[str, Any] = {name: sorted(delta[name], key=by_id) for name in ("enter", "move", "patch") if name in delta}
    if "leave" in delta:
        members["leave"] = {reason: sorted(ids) for reason, ids in sorted(delta["leave"].items())}
    return delta | members


def changes() -> Run:
    """Everything is shown, and changes."""
    run = Run("changes", 1)
    run.look(bbox=BOXES[0])
    run.flush()
    run.populate()
    for _ in range(70):
        run.publish(run.dice.below(9))
        run.flush()
    return run


def views() -> Run:
    """The client looks here and there; its rights change; it asks for a reset now and then."""
    run = Run("views", 2)
    run.populate()
    for _ in range(40):
        run.look_around()
        run.flush()
        run.publish(run.dice.below(8))
        if run.dice.chance(0.2):
            run.allow()
        if run.dice.chance(0.1):
            run.refresh()
        run.flush()
    run.look(bbox=BOXES[0])
    return run


def samples() -> Run:
    """More matches than is shown."""
    run = Run("samples", 3, entities_per_view=12)
    run.populate()
    for n in range(60):
        if n % 6 == 0:
            run.look(bbox=BOXES[0])
        if n % 6 == 4:
            run.look_around()
        run.publish(run.dice.below(9))
        run.flush()
    return run


def conflation() -> Run:
    """The client reads little at a time while much changes, and looks elsewhere in the middle of a fill."""
    run = Run("conflation", 4)
    run.populate()
    run.look(bbox=BOXES[0])
    for n in range(50):
        run.publish(run.dice.below(15))
        run.flush(600 + run.dice.below(1200), frames_max=1 + run.dice.below(2))
        if n % 8 == 7:
            run.look_around()
        if n % 16 == 9:
            run.refresh()
    run.look(bbox=BOXES[0])
    return run


def resumption() -> Run:
    """The connection is lost again and again, in the middle of fills, too; once for longer than deaths are remembered."""
    run = Run("resumption", 5)
    run.populate()
    run.look(bbox=BOXES[0])
    for n in range(12):
        run.flush(1500, frames_max=1 + run.dice.below(4))
        run.publish(12)
        if n == 7:
            run.now += 60
            run.engine.expire(run.now)
        run.resume(run.dice.pick([None, 0, 1, 1]))
        run.flush(2000, frames_max=3)
        run.publish(4)
    return run


def point(id: str, version: int) -> dict[str, Any]:
    """An entity for a case that is made by hand."""
    return {"type": "Feature", "id": id, "version": version, "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {"a": 1}}


def refusals() -> list[dict[str, Any]]:
    """Deltas that break the protocol, each for a mirror that holds `a` and `b` in version 5 after delta 1."""
    case = {
        "a delta was lost": {"seq": 3},
        "a delta comes again": {"seq": 1},
        "a reset after a lost delta": {"seq": 3, "reset": True, "enter": [point("c", 1)]},
        "an unheld entity moves": {"seq": 2, "move": [["c", 6, 0, 0]]},
        "an unheld entity is patched": {"seq": 2, "patch": [{"id": "c", "version": 6}]},
        "an unheld entity leaves": {"seq": 2, "leave": {"view": ["c"]}},
        "an entity leaves after a reset": {"seq": 2, "reset": True, "leave": {"deleted": ["a"]}},
        "an entity moves after a reset": {"seq": 2, "reset": True, "move": [["a", 6, 0, 0]]},
        "a move to the held version": {"seq": 2, "move": [["a", 5, 0, 0]]},
        "a patch to an older version": {"seq": 2, "patch": [{"id": "a", "version": 4, "properties": {"a": 2}}]},
        "an entity enters twice": {"seq": 2, "enter": [point("c", 1), point("c", 2)]},
        "an entity enters and moves": {"seq": 2, "enter": [point("a", 6)], "move": [["a", 7, 0, 0]]},
        "an entity moves and is patched": {"seq": 2, "move": [["a", 6, 0, 0]], "patch": [{"id": "a", "version": 7}]},
        "an entity leaves and enters": {"seq": 2, "leave": {"view": ["a"]}, "enter": [point("a", 6)]},
        "an entity leaves for two reasons": {"seq": 2, "leave": {"view": ["a"], "deleted": ["a"]}},
        "the last of many is wrong": {
            "seq": 2,
            "leave": {"moved": ["b"]},
            "enter": [point("c", 1)],
            "move": [["a", 6, 9, 9], ["d", 1, 0, 0]],
        },
    }
    first = {"seq": 1, "reset": True, "enter": [point("a", 5), point("b", 5)], "total": 2, "sampled": 1}
    return [{"name": name, "first": first, "delta": delta} for name, delta in case.items()]


def make() -> str:
    """Return the text of mirror.json: a delta a line, so that a change of it can be read."""
    runs = [run().finish() for run in (changes, views, samples, conflation, resumption)]
    about = [
        "Written by make_mirror.py from random runs of the reference engine.",
        "A run: each step has a delta, and what a mirror says when it has applied it. `restart`: a new connection; the mirror",
        "counts deltas from 1 again and keeps what it holds, with `forget` nothing. `mirror`: what it holds in the end.",
        "A refusal: after `first` was applied, `delta` is refused and changes nothing.",
    ]

    def lines(items: list[Any], indent: str) -> str:
        return "[\n" + ",\n".join(indent + json.dumps(item, separators=(",", ":")) for item in items) + "]"

    parts = []
    for run in runs:
        head = f'{{"name": {json.dumps(run["name"])}, "seed": {run["seed"]},'
        parts.append(f' {head}\n  "steps": {lines(run["steps"], "   ")},\n  "mirror": {lines(run["mirror"], "   ")}}}')
    return f'{{"about": {lines(about, " ")},\n"runs": [\n' + ",\n".join(parts) + f'],\n"refusals": {lines(refusals(), " ")}}}\n'


if __name__ == "__main__":
    PATH.write_text(make())
