"""The judge is judged: each broken engine of tests/mutants.py, tests/node_mutants.py and tests/native_mutants.py is found
out, and the engines themselves are not.

Law: what finds a mutant is what a client could see, or of faults of nodes what another node could see. The engine's own
invariants are not asked, for they may be broken together with it; but for mutants of which clients see nothing. The games
are the same in every run; a mutant that survives them all is a hole in the tests.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from realtime.client.mirror import Mirror
from realtime.config import LimitsConfig, PublishConfig
from realtime.engine import Encoding, Settings, View
from realtime.engine.choice import choose_engine
from realtime.engine.reference import ReferenceEngine
from realtime.geo import WORLD
from realtime.updates import UpdateParser
from tests import native_mutants
from tests.conftest import COMPILER, ENGINES
from tests.engine_machine import EngineMachine
from tests.faulty_engine import NATIVE, FaultyEngine, build
from tests.mutants import LOSES_THE_FIRST_OFFER, MUTANTS, Mutant
from tests.native_mutants import ITSELF, NATIVE_MUTANTS, MakeEngine, NativeMutant
from tests.node_mutants import NODE_MUTANTS
from tests.nodes_machine import NodesMachine

pytestmark = pytest.mark.timeout(600)

MACHINES = [EngineMachine, NodesMachine]

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


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> FaultyEngine:
    """A native engine that can be given faults."""
    if COMPILER is None:
        pytest.skip("there is no C++ compiler to build an engine with faults")
    return build(tmp_path_factory.mktemp("faulty"))


def play(make: MakeEngine, machine: type[EngineMachine]) -> tuple[int, Exception | None]:
    """Play until the judge finds something wrong; return how many games that took, and what it said, or None."""
    games = 0

    class Machine(machine):  # type: ignore[misc, valid-type]
        make_engine = staticmethod(make)

        def __init__(self) -> None:
            nonlocal games
            games += 1
            super().__init__()

    try:
        run_state_machine_as_test(Machine, settings=GAMES)
    except (AssertionError, RuntimeError) as error:  # the latter is how the native engine says that it must not send something
        return games - 1, error  # the last one is played again to tell of it
    return games, None


@pytest.mark.parametrize("machine", MACHINES)
def test_the_engine_itself_survives(machine: type[EngineMachine]) -> None:
    games, error = play(Unexamined, machine)
    assert error is None, error
    assert games >= GAMES.max_examples


@pytest.mark.parametrize("machine", MACHINES)
def test_the_native_engine_itself_survives(machine: type[EngineMachine], faulty: FaultyEngine) -> None:
    with ITSELF.applied(faulty) as make:
        games, error = play(make, machine)
    assert error is None, error
    assert games >= GAMES.max_examples


@pytest.mark.parametrize("mutant", [*MUTANTS, *NODE_MUTANTS], ids=lambda mutant: mutant.fault)
def test_a_mutant_is_killed(mutant: Mutant) -> None:
    with mutant.applied():
        games, error = play(Unexamined, NodesMachine if mutant in NODE_MUTANTS else EngineMachine)
    assert error is not None, f"an engine that {mutant.fault} survived {games} games"
    print(f"killed in game {games}: {error}")


@pytest.mark.parametrize("mutant", NATIVE_MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_native_mutant_is_killed(mutant: NativeMutant, faulty: FaultyEngine) -> None:
    with mutant.applied(faulty) as make:
        games, error = play(make, NodesMachine if mutant.is_of_nodes else EngineMachine)
    assert error is not None, f"a native engine that {mutant.fault} survived {games} games"
    print(f"killed in game {games}: {error}")


def points() -> set[str]:
    """Where the native engine can be broken."""
    return set(re.findall(r"FAULT\((\w+)\)", (NATIVE / "faults.h").read_text(encoding="utf-8")))


def test_the_engines_are_given_the_same_faults() -> None:
    assert {mutant.twin for mutant in NATIVE_MUTANTS} - {None} == {mutant.fault for mutant in [*MUTANTS, *NODE_MUTANTS]}
    assert {mutant.point for mutant in NATIVE_MUTANTS} - {""} == points()


@pytest.mark.skipif("native" not in ENGINES, reason="the native engine was not built")
def test_the_engine_that_is_shipped_can_be_given_none() -> None:
    from realtime import _native

    path = str(_native.__file__)
    assert not hasattr(ctypes.CDLL(path), "realtime_break")
    content = Path(path).read_bytes()
    assert not [point for point in points() if point.encode() in content]


def test_a_mutant_of_what_is_not_there_is_refused() -> None:
    mutant = Mutant("has a fault", ReferenceEngine, "_there_is_no_such_function", lambda whole: whole)
    with pytest.raises(AssertionError, match="would be no mutant"), mutant.applied():
        pass


@pytest.mark.parametrize(
    "mutant",
    [
        NativeMutant("has a fault", None, "THERE_IS_NO_SUCH_POINT"),
        NativeMutant("has a fault", None, seam=lambda engine: {"there_is_no_such_method": lambda self: None}),
    ],
    ids=["point", "method"],
)
def test_a_native_mutant_of_what_is_not_there_is_refused(mutant: NativeMutant, faulty: FaultyEngine) -> None:
    with pytest.raises(AssertionError, match="would be no mutant"), mutant.applied(faulty) as make:
        make(SETTINGS)


def test_mutants_are_undone() -> None:
    for mutant in [*MUTANTS, *NODE_MUTANTS]:
        whole = vars(mutant.owner)[mutant.attribute]
        with mutant.applied():
            assert vars(mutant.owner)[mutant.attribute] is not whole
        assert vars(mutant.owner)[mutant.attribute] is whole


SETTINGS = Settings(100, 16_384, 64, 1 / 16, 3600.0, 100)


class Wire:
    """One client, of which nothing is known but what it says: an engine, a session and the mirror at its other end."""

    def __init__(self, make: MakeEngine, features: list[dict[str, Any]], encoding: Encoding, *principals: str) -> None:
        self.engine = make(SETTINGS)
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


@pytest.fixture(params=ENGINES)
def losing_one_offer(request: pytest.FixtureRequest) -> Iterator[MakeEngine]:
    """What makes engines that lose one offer, of each kind."""
    if request.param == "reference":
        with LOSES_THE_FIRST_OFFER.applied():
            yield ReferenceEngine
    else:
        with native_mutants.LOSES_THE_FIRST_OFFER.applied(request.getfixturevalue("faulty")) as make:
            yield make


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
def test_an_engine_that_loses_one_offer_is_found_by_check(change: dict[str, Any], encoding: Encoding, losing_one_offer: MakeEngine) -> None:
    """The client knows nothing but its own mirror: the digest differs, and a refresh heals it."""
    wire = Wire(losing_one_offer, [feature("a", 1), feature("b", 2), feature("c", 3, ["group:mine"])], encoding, "group:mine")
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


@pytest.mark.usefixtures("engine_kind")
def test_check_finds_nothing_where_nothing_is_lost() -> None:
    wire = Wire(lambda settings: choose_engine("auto")[1](settings, 0), [feature("a", 1), feature("b", 2)], Encoding.JSON)
    for number in range(20):
        wire.publish(
            {"op": "move", "id": "ab"[number % 2], "lon": number, "lat": 0}, {"op": "patch", "id": "a", "properties": {"n": number}}
        )
        wire.read()
        assert wire.agrees()
