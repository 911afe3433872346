"""The judge is judged: each broken engine of tests/mutants.py is found out, and the engine itself is not.

Law: what finds a mutant is what a client could see. The engine's own invariants are not asked, for they may be broken
together with it. The games are the same in every run; a mutant that survives them all is a hole in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from realtime.client.mirror import Mirror
from realtime.config import LimitsConfig, PublishConfig
from realtime.engine import Encoding, Settings, View
from realtime.engine.reference import ReferenceEngine
from realtime.geo import WORLD
from realtime.updates import UpdateParser
from tests.engine_machine import EngineMachine
from tests.mutants import LOSES_THE_FIRST_OFFER, MUTANTS, Mutant

GAMES = settings(
    max_examples=300,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate,),
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


class Unexamined(ReferenceEngine):
    """The engine as clients see it."""

    def verify(self) -> None:
        """Say nothing."""


def play() -> tuple[int, AssertionError | None]:
    """Play until the judge finds something wrong; return how many games that took, and what it said, or None."""
    games = 0

    def make_engine(settings: Settings) -> Unexamined:
        nonlocal games
        games += 1
        return Unexamined(settings)

    class Machine(EngineMachine):
        pass

    Machine.make_engine = staticmethod(make_engine)
    try:
        run_state_machine_as_test(Machine, settings=GAMES)
    except AssertionError as error:
        return games - 1, error  # the last one is played again to tell of it
    return games, None


def test_the_engine_itself_survives() -> None:
    games, error = play()
    assert error is None, error
    assert games >= GAMES.max_examples


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_mutant_is_killed(mutant: Mutant) -> None:
    with mutant.applied():
        games, error = play()
    assert error is not None, f"an engine that {mutant.fault} survived {games} games"
    print(f"killed in game {games}: {error}")


def test_a_mutant_of_what_is_not_there_is_refused() -> None:
    mutant = Mutant("has a fault", ReferenceEngine, "_there_is_no_such_function", lambda whole: whole)
    with pytest.raises(AssertionError, match="would be no mutant"), mutant.applied():
        pass


def test_mutants_are_undone() -> None:
    for mutant in MUTANTS:
        whole = vars(mutant.owner)[mutant.attribute]
        with mutant.applied():
            assert vars(mutant.owner)[mutant.attribute] is not whole
        assert vars(mutant.owner)[mutant.attribute] is whole


class Wire:
    """One client, of which nothing is known but what it says: an engine, a session and the mirror at its other end."""

    def __init__(self, features: list[dict[str, Any]], encoding: Encoding, *principals: str) -> None:
        self.engine = ReferenceEngine(Settings(100, 16_384, 64, 1 / 16, 3600.0, 100))
        self.parser = UpdateParser(LimitsConfig(), PublishConfig())
        self.now = 1_700_000_000.0
        self.publish(*features)
        self.decode: Callable[[bytes], Any] = msgspec.json.decode if encoding is Encoding.JSON else msgspec.msgpack.decode
        self.session = self.engine.open(principals, None, encoding)
        self.mirror = Mirror()
        self.engine.look(self.session, View((WORLD,)), None, self.now)
        self.read()

    def publish(self, *updates: Mapping[str, Any]) -> None:
        self.engine.apply([self.parser.parse(update) for update in updates], self.now)

    def read(self) -> None:
        """Read until the engine has nothing more to say."""
        while (due := self.engine.next_due()) is not None:
            self.now = max(self.now, due)
            for session in self.engine.take_dirty(self.now):
                frame = self.engine.drain(session, 1_000_000, self.now)
                if frame is not None:
                    self.mirror.apply(self.decode(frame))

    def agrees(self) -> bool:
        """Ask for a `check` as a client does, and compare."""
        check = self.engine.check(self.session)
        assert check is not None
        assert check.pending == 0
        return self.mirror.agrees(check._asdict())


def feature(id: str, lon: float, access: list[str] | None = None) -> dict[str, Any]:
    geometry = {"type": "Point", "coordinates": [lon, 0]}
    return {"type": "Feature", "id": id, "geometry": geometry, "properties": {"n": 1}, "access": access}


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize(
    "change",
    [
        feature("new", 5),
        {"op": "move", "id": "a", "lon": 9, "lat": 9},
        {"op": "patch", "id": "a", "properties": {"n": 2}},
        {"op": "patch", "id": "a", "access": ["group:others"]},
        {"op": "delete", "id": "a"},
    ],
    ids=["enter", "move", "patch", "denied", "deleted"],
)
def test_an_engine_that_loses_one_offer_is_found_by_check(change: dict[str, Any], encoding: Encoding) -> None:
    """The client knows nothing but its own mirror: the digest differs, and a refresh heals it."""
    with LOSES_THE_FIRST_OFFER.applied():
        wire = Wire([feature("a", 1), feature("b", 2), feature("c", 3, ["group:mine"])], encoding, "group:mine")
        assert wire.agrees()
        wire.publish(change)
        wire.read()
        assert not wire.agrees(), "what was lost is not missed"
        wire.publish({"op": "move", "id": "b", "lon": 8, "lat": 8}, {"op": "patch", "id": "c", "properties": {"n": 3}})
        wire.read()
        assert wire.mirror.entities["c"]["properties"] == {"n": 3}
        assert not wire.agrees(), "what arrives later hides what was lost"
        wire.engine.refresh(wire.session, wire.now)
        wire.read()
        assert wire.agrees()
        if change.get("access") is None:
            assert list(wire.mirror.entities.values()) == [msgspec.json.decode(found) for found in wire.engine.search((WORLD,), 24.0, None)]


def test_check_finds_nothing_where_nothing_is_lost() -> None:
    wire = Wire([feature("a", 1), feature("b", 2)], Encoding.JSON)
    for number in range(20):
        wire.publish(
            {"op": "move", "id": "ab"[number % 2], "lon": number, "lat": 0}, {"op": "patch", "id": "a", "properties": {"n": number}}
        )
        wire.read()
        assert wire.agrees()
