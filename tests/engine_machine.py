"""Drives an engine, the brute-force model and the Python mirror together, by random operations.

`EngineMachine` is a hypothesis state machine of one world and its sessions; tests/nodes_machine.py adds other nodes to it.
tests/test_engine.py runs the whole on every engine, tests/test_mutants.py on broken ones. After every step the engine's own
invariants are checked, after every frame the promises, and whenever all is quiet each mirror must be what brute force says.

Law: an engine is reached through its seam alone, so that one machine serves all of them (`make_engine`). Most
operations are followed by a flush, for what nobody reads proves nothing; the others let the outboxes fill.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from tests import engine_operations as drawn
from tests.model import ModelLimits
from tests.model_nodes import SharedWorld
from tests.model_viewer import Viewer

# More tombstones than ids: one that was forgotten at once would let an entity be born again in a version that a client holds,
# which nobody can tell from no change. That they are bounded is tested in test_engine.py.
LIMITS = ModelLimits(tombstone_s=40.0, tombstones_max=20, entities_per_view=6)
START = 1_700_000_000.0
TICK_S = 1 / 64  # keeps the milliseconds of versions exact in any arithmetic
FLUSH_INTERVAL_S = 4 * TICK_S
PERIOD_S_MAX = 2.0  # of the views that are drawn
SETTINGS = Settings(LIMITS.entities_per_view, 16_384, 64, FLUSH_INTERVAL_S, LIMITS.tombstone_s, LIMITS.tombstones_max)
SETTLING_FLUSHES_MAX = 400
CLIENTS_MAX = 4
VERDICTS = {
    Verdict.ACCEPTED: "accepted",
    Verdict.UNCHANGED: "unchanged",
    Verdict.STALE: "stale",
    Verdict.UNKNOWN_ENTITY: ("rejected", "unknown_entity"),
}


class Client:
    """One connection: the engine's session, the judge, and the mirror of the package."""

    def __init__(self, machine: EngineMachine, rights: tuple[str, ...], encoding: Encoding) -> None:
        self.machine, self.encoding = machine, encoding
        self.number = machine.engine.open(rights, "u", encoding)
        self.viewer = Viewer(machine.world, rights, "u", "json" if encoding is Encoding.JSON else "msgpack")
        self.mirror = Mirror()
        self.paused_flushes = 0  # that it will not read
        self.is_taken = False
        self.last_frame = float("-inf")  # seconds since the Unix epoch
        self.periods = [FLUSH_INTERVAL_S]  # of the views since the last frame, in seconds
        self.lost: set[str] = set()  # by a change of rights: to be told whatever max_hz says
        self.may_hurry = False  # rights changed: max_hz does not hold until all is settled

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
        self.periods.append(max(FLUSH_INTERVAL_S, 1 / view.max_hz if view.max_hz else 0.0))

    def take(self) -> None:
        """The engine says that it is due: no sooner than its rate allows."""
        period = FLUSH_INTERVAL_S if self.may_hurry else min(self.periods)
        assert self.machine.now >= self.last_frame + period, f"due after {self.machine.now - self.last_frame} s, the period is {period} s"
        self.is_taken = True

    def lose(self, revoked: set[str]) -> None:
        """The rights to these ids were revoked: those that are held must leave at the next flush."""
        if self.machine.engine.check(self.number) is not None:  # otherwise a reset is on its way and takes all
            self.lost |= revoked
        self.may_hurry = self.may_hurry or bool(revoked) or any(map(self.viewer.is_denied, self.viewer.mirror))

    def drain(self, budget: int) -> bool:
        frame = self.machine.engine.drain(self.number, budget, self.machine.now)
        if frame is None:
            return False
        message = self.viewer.feed(frame)
        decode = msgspec.json.decode if self.encoding is Encoding.JSON else msgspec.msgpack.decode
        self.mirror.apply(decode(frame))
        assert self.mirror.entities == self.viewer.mirror, "the package's mirror differs from the judge's"
        assert len(frame) <= budget or _pieces(message) <= 1, f"a frame of {len(frame)} bytes for a budget of {budget}"
        self.last_frame, self.periods = self.machine.now, self.periods[-1:]
        self.check()
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
        self.world = SharedWorld(LIMITS)
        self.engine = self.new_engine()
        self.parser = UpdateParser(LimitsConfig(), PublishConfig())
        self.clients: list[Client] = []

    def new_engine(self) -> Engine:
        return type(self).make_engine(SETTINGS)

    def let_pass(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Whatever the model's world does meanwhile, note which rights that takes from whom."""
        seen = [(client, client.viewer.expected().keys()) for client in self.clients]
        yield
        for client, before in seen:
            client.lose({id for id in before if client.viewer.is_denied(id)})

    def publish(self, *changes: tuple[dict[str, Any], int | None]) -> None:
        """Publish one batch: of each update also its version, relative to the seen one (None: none). Ids differ."""
        batch = [self.versioned(self.world, *change) for change in changes]
        with self.noticing():
            self.apply(self.engine, self.world, batch)

    def apply(self, engine: Engine, world: SharedWorld, batch: list[dict[str, Any]]) -> None:
        expected = [world.apply(update, self.now) for update in batch]
        verdicts = engine.apply([self.parser.parse(update) for update in batch], self.now)
        assert [VERDICTS[verdict] for verdict in verdicts] == expected, f"{batch}: {verdicts}, and not {expected}"

    def versioned(self, world: SharedWorld, update: dict[str, Any], relative: int | None) -> dict[str, Any]:
        if relative is None:
            return update
        known = world.entities.get(update["id"]) or world.tombstones.get(update["id"])
        # A publisher that uses a version again after its tombstone was forgotten cannot be told from one that says nothing new.
        past = max((state.version for state in world.states.get(update["id"], [])), default=100)
        return update | {"version": max(1, known.seen + relative if known else past + abs(relative) + 1)}

    def held(self) -> list[str]:
        return sorted({id for client in self.clients for id in client.viewer.mirror})

    def shared(self) -> list[str]:
        """What more than one client holds."""
        return [id for id in self.held() if sum(id in client.viewer.mirror for client in self.clients) > 1]

    def expire(self) -> None:
        dead, expected = self.engine.expire(self.now), self.world.expire(self.now)
        assert dead == expected, f"{dead} died, and not {expected}"

    def flush_soon(self, budget: int) -> None:
        """Let one period pass and flush, unless the budget is 0."""
        if budget:
            self.let_pass(FLUSH_INTERVAL_S)
            self.expire()
            self.flush_all(budget)

    def flush_all(self, budget: int) -> None:
        """One flush of whoever is due and reads, as the gateway does it."""
        taken = set(self.engine.take_dirty(self.now))
        for client in self.clients:
            client.check()
            if client.number in taken:
                client.take()
            if client.paused_flushes:
                client.paused_flushes -= 1
            elif client.is_taken:
                client.is_taken = False
                client.drain(budget)

    # The world changes

    def publish_crowd(self, features: dict[str, Any]) -> None:
        self.publish(*(({"type": "Feature", "id": id, **members}, None) for id, members in features.items()))

    @initialize(features=drawn.crowd)
    def populate(self, features: dict[str, Any]) -> None:
        self.publish_crowd(features)

    @rule(features=drawn.crowd, soon=drawn.soon)
    def crowd(self, features: dict[str, Any], soon: int) -> None:
        self.publish_crowd(features)
        self.flush_soon(soon)

    @rule(
        id=drawn.ids,
        geometry=drawn.geometry,
        properties=st.none() | drawn.properties,
        unseen=drawn.unseen,
        version=drawn.version,
        soon=drawn.soon,
    )
    def upsert(self, id: str, geometry: Any, properties: Any, unseen: dict[str, Any], version: int | None, soon: int) -> None:
        self.publish(({"type": "Feature", "id": id, "geometry": geometry, "properties": properties, **unseen}, version))
        self.flush_soon(soon)

    @rule(id=drawn.ids, properties=drawn.properties, unseen=drawn.unseen, version=drawn.version, soon=drawn.soon)
    def patch(self, id: str, properties: Any, unseen: dict[str, Any], version: int | None, soon: int) -> None:
        self.publish(({"op": "patch", "id": id, "properties": properties, **unseen}, version))
        self.flush_soon(soon)

    @rule(id=drawn.ids, change=drawn.happening, version=drawn.version, soon=drawn.soon)
    def change(self, id: str, change: dict[str, Any], version: int | None, soon: int) -> None:
        self.publish(({"id": id, **change}, version))
        self.flush_soon(soon)

    @rule(changes=st.lists(st.tuples(drawn.ids, drawn.happening), min_size=2, max_size=6, unique_by=lambda c: c[0]), soon=drawn.soon)
    def change_many(self, changes: list[tuple[str, dict[str, Any]]], soon: int) -> None:
        self.publish(*(({"id": id, **change}, None) for id, change in changes))
        self.flush_soon(soon)

    @precondition(lambda self: self.held())
    @rule(data=st.data(), changes=st.lists(drawn.happening, min_size=1, max_size=3), soon=drawn.soon)
    def touch(self, data: Any, changes: list[dict[str, Any]], soon: int) -> None:
        """What a client holds changes, maybe more than once before it is told."""
        id = data.draw(st.sampled_from(self.held()))
        for change in changes:
            self.publish(({"id": id, **change}, None))
        self.flush_soon(soon)

    @precondition(lambda self: self.held())
    @rule(data=st.data(), moves=st.lists(drawn.move, min_size=1, max_size=4), soon=drawn.soon)
    def travel(self, data: Any, moves: list[dict[str, Any]], soon: int) -> None:
        """Some of what clients hold moves at once."""
        held = self.held()
        first = data.draw(st.integers(0, len(held) - 1))
        self.publish(*(({"id": id, **move}, None) for id, move in zip(held[first:], moves, strict=False)))
        self.flush_soon(soon)

    @precondition(lambda self: self.shared())
    @rule(data=st.data(), patches=st.lists(drawn.one_property, min_size=2, max_size=3, unique_by=tuple))
    def fall_behind(self, data: Any, patches: list[dict[str, Any]]) -> None:
        """One client does not read while the others are told: in the end they learn the same from different versions."""
        id = data.draw(st.sampled_from(self.shared()))
        laggard = data.draw(st.sampled_from([client for client in self.clients if id in client.viewer.mirror]))
        laggard.paused_flushes = len(patches) - 1
        for properties in patches:
            self.let_pass(PERIOD_S_MAX)  # so that all are due
            self.publish(({"op": "patch", "id": id, "properties": properties}, None))
            self.flush_soon(1_000_000)

    @rule(doomed=drawn.doomed, version=drawn.version, soon=drawn.soon)
    def delete(self, doomed: list[str], version: int | None, soon: int) -> None:
        self.publish(*(({"op": "delete", "id": id}, version) for id in doomed))
        self.flush_soon(soon)

    @rule(ticks=st.sampled_from([1, 4, 32, 64, 300, 3000]), deaths=st.booleans())
    def wait(self, ticks: int, deaths: bool) -> None:
        """Time passes; those whose time has come die now or, as a timer may be late, with the next flush."""
        self.let_pass(ticks * TICK_S)
        if deaths:
            self.expire()

    @rule(ticks=st.sampled_from([0, 16, 64, 300]), deaths_max=st.integers(1, 3))
    def die_piecemeal(self, ticks: int, deaths_max: int) -> None:
        """As many as may die at once do, again and again, as on a node: in the end those whose time has come are dead."""
        self.let_pass(ticks * TICK_S)
        due = {id: entity.deadline for id, entity in self.world.entities.items() if entity.deadline is not None}
        dead: list[str] = []
        while True:
            few = self.engine.expire(self.now, deaths_max)
            assert len(few) <= deaths_max
            dead += few
            if len(few) < deaths_max:
                break
        assert sorted(dead) == sorted(self.world.expire(self.now))
        assert [due[id] for id in dead] == sorted(due[id] for id in dead), "one died before another whose time came earlier"

    # Sessions come, look and go

    def connect_client(self, rights: tuple[str, ...], encoding: Encoding, message: dict[str, Any]) -> None:
        self.clients.append(Client(self, rights, encoding))
        self.clients[-1].look(message)

    @initialize(clients=st.lists(st.tuples(drawn.principals, st.sampled_from(Encoding), drawn.view), min_size=1, max_size=3))
    def arrive(self, clients: list[Any]) -> None:
        for client in clients:
            self.connect_client(*client)

    @precondition(lambda self: len(self.clients) < CLIENTS_MAX)
    @rule(rights=drawn.principals, encoding=st.sampled_from(Encoding), message=drawn.view, soon=drawn.soon)
    def connect(self, rights: tuple[str, ...], encoding: Encoding, message: dict[str, Any], soon: int) -> None:
        self.connect_client(rights, encoding, message)
        self.flush_soon(soon)

    @precondition(lambda self: self.clients)
    @rule(
        data=st.data(),
        message=drawn.view,
        lie=st.dictionaries(drawn.ids, st.integers(-2, 3), max_size=2),
        rights=st.none() | drawn.principals,
        soon=drawn.soon,
    )
    def resume(self, data: Any, message: dict[str, Any], lie: dict[str, int], rights: tuple[str, ...] | None, soon: int) -> None:
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
        self.flush_soon(soon)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), message=drawn.view, soon=drawn.soon)
    def look(self, data: Any, message: dict[str, Any], soon: int) -> None:
        data.draw(st.sampled_from(self.clients)).look(message)
        self.flush_soon(soon)

    @precondition(lambda self: self.clients and self.world.entities)
    @rule(data=st.data(), soon=drawn.soon)
    def approach(self, data: Any, soon: int) -> None:
        """A client looks at one entity, or the half of one, and at nothing else of the world."""
        entity = self.world.entities[data.draw(st.sampled_from(sorted(self.world.entities)))]
        data.draw(st.sampled_from(self.clients)).look({"bbox": list(entity.state.boxes[-1])})
        self.flush_soon(soon)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), rights=drawn.principals, soon=drawn.soon)
    def allow(self, data: Any, rights: tuple[str, ...], soon: int) -> None:
        client = data.draw(st.sampled_from(self.clients))
        self.engine.allow(client.number, rights, self.now)
        client.viewer.allow(rights)
        client.lose(client.viewer.revoked())
        client.may_hurry = True
        self.flush_soon(soon)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), soon=drawn.soon)
    def refresh(self, data: Any, soon: int) -> None:
        client = data.draw(st.sampled_from(self.clients))
        self.engine.refresh(client.number, self.now)
        client.viewer.refresh()
        self.flush_soon(soon)

    @precondition(lambda self: len(self.clients) > 1)
    @rule(data=st.data())
    def disconnect(self, data: Any) -> None:
        client = data.draw(st.sampled_from(self.clients))
        self.clients.remove(client)
        self.engine.close(client.number)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), flushes=st.sampled_from([1, 3, 10]))
    def pause(self, data: Any, flushes: int) -> None:
        data.draw(st.sampled_from(self.clients)).paused_flushes = flushes

    # Frames go out

    @rule(budget=drawn.budget)
    def flush(self, budget: int) -> None:
        self.flush_all(budget)

    @rule(budget=drawn.budget)
    def settle(self, budget: int) -> None:
        """The source is quiet and every client reads: as many flush periods as the outboxes fill, then all must be right."""
        for client in self.clients:
            client.paused_flushes = 0
        for _ in range(SETTLING_FLUSHES_MAX):
            self.flush_all(budget)
            due = self.engine.next_due()
            if due is None:
                break
            self.let_pass(max(0.0, -(-due // TICK_S) * TICK_S - self.now))
            self.expire()
        else:
            raise AssertionError("the outboxes do not get empty")
        for client in self.clients:
            assert client.check() == 0, "something is pending though nothing is due"
            client.viewer.settled()
            client.lost, client.may_hurry = set(), False

    @invariant()
    def invariants_hold(self) -> None:
        self.engine.verify()
        assert len(self.engine.search(view_boxes([-180, -90, 180, 90]), 24.0, None)) == sum(
            (entity.settings.min_zoom or 0) <= 24 for entity in self.world.entities.values()
        )
        for client in self.clients:
            assert self.engine.statistics(client.number)["outbox"] <= client.viewer.bound(), "the outbox is larger than its bound"

    @invariant()
    def revoked_is_due(self) -> None:
        """What a client holds and may not see any more leaves at the next flush, whatever max_hz says."""
        due = self.engine.next_due()
        for client in self.clients:
            client.lost &= client.viewer.revoked()
            if client.lost and not client.is_taken:
                assert due is not None, "what was revoked would stay"
                assert due <= client.last_frame + FLUSH_INTERVAL_S, f"what was revoked waits for {due - client.last_frame} s"

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # what failed before must not be hidden by what fails after it
            self.settle(1_000_000)
