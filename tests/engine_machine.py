"""Drives an engine, the brute-force model and the Python mirror together, by random operations.

`EngineMachine` is a hypothesis state machine; tests/test_engine.py runs it on every engine and on broken ones. After
every step the engine's own invariants are checked, after every frame the promises, and whenever all is quiet each
mirror must be what brute force says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from realtime.client.mirror import Mirror
from realtime.config import LimitsConfig, PublishConfig
from realtime.engine import Encoding, Engine, Settings, Verdict, View
from realtime.engine.filters import parse_filter
from realtime.engine.reference import ReferenceEngine
from realtime.geo import view_boxes
from realtime.updates import UpdateParser
from tests.model import ModelLimits, World
from tests.model_viewer import Viewer

LIMITS = ModelLimits(tombstone_s=40.0, tombstones_max=5, entities_per_view=6)
FLUSH_INTERVAL_S = 1 / 16
START = 1_700_000_000.0
TICK_S = 1 / 64  # keeps the milliseconds of versions exact in any arithmetic
VERDICTS = {
    Verdict.ACCEPTED: "accepted",
    Verdict.UNCHANGED: "unchanged",
    Verdict.STALE: "stale",
    Verdict.UNKNOWN_ENTITY: ("rejected", "unknown_entity"),
}

IDS = [f"e{n}" for n in range(9)] + ["zürich–1"]
LONGITUDES = [-180, -179.5, -10, 0, 0.5, 10, 10.25, 179.5, 180]
LATITUDES = [-90, -1, 0, 0.5, 45.125, 90]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    1.0,
    -0.0,
    2.5,
    "",
    "x",
    "y",
    "ü",
    2**53 + 1,
    [],
    [1, {"a": None}],
    {"b": {"c": [1.0]}},
    {"b": {"c": [True]}},
]

position = st.tuples(st.sampled_from(LONGITUDES), st.sampled_from(LATITUDES)).map(list)
point = position.map(lambda p: {"type": "Point", "coordinates": p})
high_point = position.map(lambda p: {"type": "Point", "coordinates": [*p, 12.5]})
line = st.lists(position, min_size=2, max_size=3).map(lambda ps: {"type": "LineString", "coordinates": ps})
polygon = st.lists(position, min_size=3, max_size=4).map(lambda ps: {"type": "Polygon", "coordinates": [[*ps, ps[0]]]})
points = st.lists(position, min_size=1, max_size=3).map(lambda ps: {"type": "MultiPoint", "coordinates": ps})
fiji = st.just({"type": "MultiLineString", "coordinates": [[[179.5, 0], [180, 0]], [[-180, 0], [-179.5, 0.5]]]})
geometry = st.one_of(point, point, point, high_point, line, polygon, points, fiji)
properties = st.dictionaries(st.sampled_from(["a", "b", "c", "speed"]), st.sampled_from(VALUES), max_size=4)
unseen = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from([None, "bus", "tram"]),
        "min_zoom": st.sampled_from([None, 0, 5, 10]),
        "rank": st.sampled_from([None, 0, 0.25, 0.5, 1]),
        "access": st.sampled_from([None, ["public"], ["group:a"], ["user:u", "group:b"], []]),
        "ttl": st.sampled_from([None, 1, 3.5]),
    },
)
version = st.one_of(st.none(), st.none(), st.integers(-3, 8))  # relative to the seen one

FILTERS: list[Any] = [
    None,
    None,
    ["==", ["kind"], "bus"],
    [">", ["get", "a"], 0],
    ["any", ["has", "b"], ["==", ["get", "c"], ["user"]]],
    ["!", ["in", ["get", "a"], ["literal", [1, "x", True]]]],
    ["!=", ["id"], "e1"],
]
BOXES: list[Any] = [
    None,
    [-180, -90, 180, 90],
    [-200, -90, 200, 90],
    [-1, -1, 1, 1],
    [0, 0, 0, 0],
    [0.25, -1, 10, 46],
    [170, -10, 190, 10],
    [170, -10, 180, 10],
    [-180, -10, -179.75, 10],
    [530, -90, 545, 90],
    [-11, -90, 11, 90],
]
view = st.fixed_dictionaries(
    {"bbox": st.sampled_from(BOXES)},
    optional={
        "zoom": st.sampled_from([3, 5, 12]),
        "filter": st.sampled_from(FILTERS),
        "ids": st.lists(st.sampled_from(IDS), max_size=3),
        "max_hz": st.sampled_from([0.5, 4]),
        "id": st.sampled_from([1, 2, "v"]),
    },
)
PRINCIPALS = [(), ("group:a",), ("group:b",), ("user:u", "group:a")]
principals = st.sampled_from(PRINCIPALS)
budget = st.sampled_from([1, 300, 450, 1_000, 1_000_000])


class Client:
    """One connection: the engine's session, the judge, and the mirror of the package."""

    def __init__(self, machine: EngineMachine, rights: tuple[str, ...], encoding: Encoding) -> None:
        self.machine, self.encoding = machine, encoding
        self.number = machine.engine.open(rights, "u", encoding)
        self.viewer = Viewer(machine.world, rights, "u", "json" if encoding is Encoding.JSON else "msgpack")
        self.mirror = Mirror()
        self.is_paused = False
        self.is_taken = False
        self.has_view = False

    def look(self, message: dict[str, Any], have: dict[str, int] | None = None) -> None:
        filter = message.get("filter")
        parsed = None if filter is None else parse_filter(filter, "u", LimitsConfig())
        view = View(
            view_boxes(message["bbox"]),
            message.get("zoom", 24.0),
            parsed,
            frozenset(message.get("ids", ())),
            message.get("max_hz", 0.0),
            message.get("id"),
        )
        self.machine.engine.look(self.number, view, have, self.machine.now)
        self.viewer.look(message)
        self.has_view = True

    def drain(self, budget: int) -> bool:
        frame = self.machine.engine.drain(self.number, budget, self.machine.now)
        if frame is None:
            return False
        message = self.viewer.feed(frame)
        decode = msgspec.json.decode if self.encoding is Encoding.JSON else msgspec.msgpack.decode
        self.mirror.apply(decode(frame))
        assert self.mirror.entities == self.viewer.mirror, "the package's mirror differs from the judge's"
        assert len(frame) <= budget or _pieces(message) <= 1, f"a frame of {len(frame)} bytes for a budget of {budget}"
        return True

    def check(self) -> int:
        check = self.machine.engine.check(self.number)
        if check is None:
            return 0
        self.viewer.check_frame({"type": "check", **check._asdict()})
        assert self.mirror.agrees(check._asdict())
        return check.pending


def _pieces(delta: dict[str, Any]) -> int:
    return sum(len(delta.get(how, ())) for how in ("enter", "move", "patch")) + sum(map(len, delta.get("leave", {}).values()))


class EngineMachine(RuleBasedStateMachine):
    """Random operations on one world and up to four sessions."""

    make_engine: Callable[[Settings], Engine] = ReferenceEngine

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.world = World(LIMITS)
        self.engine = type(self).make_engine(
            Settings(LIMITS.entities_per_view, 16_384, 64, FLUSH_INTERVAL_S, LIMITS.tombstone_s, LIMITS.tombstones_max)
        )
        self.parser = UpdateParser(LimitsConfig(), PublishConfig())
        self.clients: list[Client] = []
        self.last_deltas: dict[str, dict[str, Any]] = {}

    def publish(self, update: dict[str, Any], relative: int | None) -> None:
        known = self.world.entities.get(update["id"]) or self.world.tombstones.get(update["id"])
        if relative is not None:
            # A publisher that uses a version again after its tombstone was forgotten cannot be told from one that says nothing new.
            past = max((state.version for state in self.world.states.get(update["id"], [])), default=100)
            update = update | {"version": max(1, known.seen + relative if known else past + abs(relative) + 1)}
        expected = self.world.apply(update, self.now)
        (verdict,) = self.engine.apply([self.parser.parse(update)], self.now)
        assert VERDICTS[verdict] == expected, f"{update}: {verdict.name}, and not {expected}"

    # The world changes

    @initialize(features=st.lists(st.tuples(st.sampled_from(IDS), point, properties), max_size=9))
    def populate(self, features: list[Any]) -> None:
        for id, geometry, properties in features:
            self.publish({"type": "Feature", "id": id, "geometry": geometry, "properties": properties}, None)

    @rule(id=st.sampled_from(IDS), geometry=geometry, properties=st.none() | properties, unseen=unseen, version=version)
    def upsert(self, id: str, geometry: Any, properties: Any, unseen: dict[str, Any], version: int | None) -> None:
        self.publish({"type": "Feature", "id": id, "geometry": geometry, "properties": properties, **unseen}, version)

    @rule(id=st.sampled_from(IDS), properties=properties, geometry=st.none() | geometry, unseen=unseen, version=version)
    def patch(self, id: str, properties: Any, geometry: Any, unseen: dict[str, Any], version: int | None) -> None:
        place = {} if geometry is None else {"geometry": geometry}
        self.publish({"op": "patch", "id": id, "properties": properties, **place, **unseen}, version)

    @rule(id=st.sampled_from(IDS), position=position, version=version)
    def move(self, id: str, position: list[float], version: int | None) -> None:
        self.publish({"op": "move", "id": id, "lon": position[0], "lat": position[1]}, version)

    @rule(id=st.sampled_from(IDS), access=st.sampled_from([["group:a"], ["group:b"], [], None]))
    def grant(self, id: str, access: Any) -> None:
        self.publish({"op": "patch", "id": id, "access": access}, None)

    @rule(id=st.sampled_from(IDS), version=version)
    def delete(self, id: str, version: int | None) -> None:
        self.publish({"op": "delete", "id": id}, version)

    @rule(ticks=st.sampled_from([1, 4, 32, 64, 300, 3000]))
    def wait(self, ticks: int) -> None:
        self.now += ticks * TICK_S
        assert self.engine.expire(self.now) == self.world.expire(self.now)

    # Sessions come, look and go

    @precondition(lambda self: len(self.clients) < 4)
    @rule(rights=principals, encoding=st.sampled_from(Encoding), message=view)
    def connect(self, rights: tuple[str, ...], encoding: Encoding, message: dict[str, Any]) -> None:
        client = Client(self, rights, encoding)
        self.clients.append(client)
        client.look(message)

    @precondition(lambda self: self.clients)
    @rule(
        data=st.data(),
        message=view,
        lie=st.dictionaries(st.sampled_from(IDS), st.integers(-2, 3), max_size=2),
        rights=st.none() | principals,
    )
    def resume(self, data: Any, message: dict[str, Any], lie: dict[str, int], rights: tuple[str, ...] | None) -> None:
        """A client is cut off and comes back with what it holds, some of it made up."""
        old = self.clients.pop(data.draw(st.integers(0, len(self.clients) - 1)))
        self.engine.close(old.number)
        held = dict(old.viewer.mirror)
        for id, difference in lie.items():
            entity = self.world.entities.get(id)
            version = max(1, (entity.state.version if entity else 100) + difference)
            real = self.world.history(id).get(version)
            held[id] = real or {"type": "Feature", "id": id, "version": version, "geometry": None, "properties": {}}
        client = Client(self, tuple(old.viewer.principals) if rights is None else rights, old.encoding)
        self.clients.append(client)
        client.viewer.resume(held)
        client.mirror = old.mirror
        client.mirror.clear()
        client.mirror.restart()
        for feature in held.values():
            client.mirror._put(feature)
        client.look(message, {id: feature["version"] for id, feature in held.items()})

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), message=view)
    def look(self, data: Any, message: dict[str, Any]) -> None:
        data.draw(st.sampled_from(self.clients)).look(message)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), rights=principals)
    def allow(self, data: Any, rights: tuple[str, ...]) -> None:
        client = data.draw(st.sampled_from(self.clients))
        self.engine.allow(client.number, rights, self.now)
        client.viewer.allow(rights)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def refresh(self, data: Any) -> None:
        client = data.draw(st.sampled_from(self.clients))
        self.engine.refresh(client.number, self.now)
        client.viewer.refresh()

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def disconnect(self, data: Any) -> None:
        client = data.draw(st.sampled_from(self.clients))
        self.clients.remove(client)
        self.engine.close(client.number)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def pause(self, data: Any) -> None:
        client = data.draw(st.sampled_from(self.clients))
        client.is_paused = not client.is_paused

    # Frames go out

    @rule(budget=budget)
    def flush(self, budget: int) -> None:
        """One flush of whoever is due, as the gateway does it."""
        taken = set(self.engine.take_dirty(self.now))
        for client in self.clients:
            client.is_taken = client.is_taken or client.number in taken
            if client.is_taken and not client.is_paused:
                client.is_taken = False
                client.drain(budget)

    @rule(budget=budget)
    def settle(self, budget: int) -> None:
        """The source is quiet and every client reads: as many flush periods as the outboxes fill, then all must be right."""
        for client in self.clients:
            client.is_paused = False
        for _ in range(200):
            self.flush(budget)
            due = self.engine.next_due()
            if due is None:
                break
            self.now = max(self.now, -(-due // TICK_S) * TICK_S)
            assert self.engine.expire(self.now) == self.world.expire(self.now)
        else:
            raise AssertionError("the outboxes do not get empty")
        for client in self.clients:
            assert client.check() == 0, "something is pending though nothing is due"
            client.viewer.settled()

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def check(self, data: Any) -> None:
        data.draw(st.sampled_from(self.clients)).check()

    @invariant()
    def invariants_hold(self) -> None:
        self.engine.verify()
        assert len(self.engine.search(view_boxes([-180, -90, 180, 90]), 24.0, None)) == sum(
            (entity.settings.min_zoom or 0) <= 24 for entity in self.world.entities.values()
        )
        for client in self.clients:
            assert self.engine.statistics(client.number)["outbox"] <= client.viewer.bound(), "the outbox is larger than its bound"

    def teardown(self) -> None:
        self.settle(1_000_000)
