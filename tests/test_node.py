"""The publish path of a node: verdicts, slices of loop turns, expiry, and time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import anyio
import msgspec
import pytest

import realtime.node
from realtime.config import Config, LimitsConfig
from realtime.counters import Counters
from realtime.errors import ErrorCode, Refused
from realtime.node import REJECTED_MAX, SLICE_S, Node, Result
from realtime.values import VERSION_MAX

pytestmark = pytest.mark.usefixtures("engine_kind")


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


def make_node(**limits: Any) -> Node:
    return Node(Config(limits=msgspec.structs.replace(LimitsConfig(), **limits)), Counters())


def bus(id: str = "bus-7", lon: float = 0, **members: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": id, "geometry": {"type": "Point", "coordinates": [lon, 0]}, "properties": {}} | members


def codes(result: Result) -> list[tuple[int, ErrorCode]]:
    return [(rejected.index, rejected.code) for rejected in result.rejected]


MIXED: list[Any] = [
    bus("a"),  # accepted
    bus("a"),  # unchanged
    {"op": "move", "id": "nobody", "lon": 0, "lat": 0},  # 2
    bus("a", 1, version=1),  # stale: versions that a node gives are far above
    7,  # 4
    bus("b", version=5),  # accepted
    bus("b", 1, version=5),  # stale
    Refused(ErrorCode.BAD_MESSAGE, "line: no JSON"),  # 7
    {"op": "delete", "id": "c"},  # accepted: a tombstone
    bus("d", version=VERSION_MAX),  # accepted
    bus("d", 1),  # 10: no version is left
    bus("e", 181),  # 11
]
MIXED_REJECTED = [
    (2, ErrorCode.UNKNOWN_ENTITY),
    (4, ErrorCode.BAD_UPDATE),
    (7, ErrorCode.BAD_MESSAGE),
    (10, ErrorCode.BAD_VERSION),
    (11, ErrorCode.BAD_GEOMETRY),
]


def check_mixed(node: Node, result: Result) -> None:
    assert (result.accepted, result.unchanged, result.stale, result.rejected_total) == (4, 1, 2, 5)
    assert sorted(codes(result)) == MIXED_REJECTED
    assert node.counters.updates == {"accepted": 4, "unchanged": 1, "stale": 2, "rejected": 5}
    assert node.counters.rejected == {code: 1 for _, code in MIXED_REJECTED}
    assert [node.engine.get(id) is not None for id in "abcde"] == [True, True, False, True, False]


def test_each_update_gets_its_verdict() -> None:
    node = make_node()
    check_mixed(node, node.publish(MIXED))


async def test_a_batch_in_slices_gets_the_same_verdicts() -> None:
    node = make_node()
    check_mixed(node, await node.publish_sliced(MIXED))
    node.close()


async def test_indices_go_on_over_the_pieces_of_a_stream() -> None:
    async def pieces() -> AsyncIterator[Sequence[Any]]:
        for piece in (MIXED[:3], [], MIXED[3:8], MIXED[8:]):
            yield piece

    node = make_node()
    check_mixed(node, await node.publish_sliced(pieces()))
    node.close()


def test_only_the_first_thousand_refusals_are_named() -> None:
    result = make_node().publish([None] * (REJECTED_MAX + 5))
    assert [rejected.index for rejected in result.rejected] == list(range(REJECTED_MAX))
    assert result.rejected_total == REJECTED_MAX + 5


def test_what_the_engine_refuses_names_field_and_limit() -> None:
    node = make_node(entity_properties=2, entity_bytes=300)
    node.publish([bus("a", properties={"p": 1, "q": 2}), bus("b", properties={"p": "x" * 200})])
    result = node.publish(
        [
            {"op": "patch", "id": "a", "properties": {"r": 3}},
            {"op": "patch", "id": "b", "properties": {"q": "x" * 200}},
            {"op": "patch", "id": "nobody"},
        ]
    )
    assert [(one.code, one.message) for one in result.rejected] == [
        (ErrorCode.TOO_BIG, "properties: at most 2 are allowed"),
        (ErrorCode.TOO_BIG, "geometry and properties: at most 300 bytes are allowed"),
        (ErrorCode.UNKNOWN_ENTITY, "id: no such entity; send it as a Feature first"),
    ]
    node.engine.verify()


def test_who_may_not_publish_an_id_is_told_so_and_nothing_else_happens() -> None:
    node = make_node()
    result = node.publish(
        [bus("mine"), bus("yours"), {"op": "delete", "id": "yours"}, {"op": "move", "id": "yours"}], {"mine"}.__contains__
    )
    assert result.accepted == 1
    # What is wrong by itself is said first.
    assert codes(result) == [(1, ErrorCode.FORBIDDEN), (2, ErrorCode.FORBIDDEN), (3, ErrorCode.BAD_GEOMETRY)]
    assert node.engine.get("yours") is None
    assert node.engine.statistics()["tombstones"] == 0


def test_whoever_flushes_is_told_after_every_batch() -> None:
    node, calls = make_node(), []
    node.on_change = lambda: calls.append(node.engine.get("bus-7") is not None)
    node.publish([bus()])
    assert calls == [True]


# Slices


class Turns:
    """Numbers the turns of the loop, and says in which of them batches were applied; each takes `cost_s` of a made-up clock."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch, cost_s: float) -> None:
        self.now = 0.0
        self.turn = 0
        self.applied: list[int] = []  # the turn of each batch: of what is applied between two looks at the clock
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        clock = SimpleNamespace(perf_counter=lambda: self.now, monotonic=time.monotonic, time=time.time)
        monkeypatch.setattr(realtime.node, "time", clock)
        intake = node._intake

        def take(items: Any, verdicts: Any, now: float, allows: Any, is_over: Callable[[], bool]) -> bool:
            def look() -> bool:
                self.applied.append(self.turn)
                self.now += cost_s
                return is_over()

            return intake.take(items, verdicts, now, allows, look)

        monkeypatch.setattr(node, "_intake", SimpleNamespace(take=take, look_updates=intake.look_updates))
        self._count()

    def _count(self) -> None:
        self.turn += 1
        if not self._is_over:
            self._loop.call_soon(self._count)

    def stop(self) -> None:
        self._is_over = True


BATCHES = 24


def updates(node: Node, publisher: int, batches: int = BATCHES) -> list[Any]:
    return [bus(f"{publisher}-{n}") for n in range(batches * node._intake.look_updates)]


@pytest.mark.parametrize("publishers", [1, 7])
@pytest.mark.parametrize("batches_per_slice", [1, 3])
async def test_one_slice_a_turn_however_many_publish(monkeypatch: pytest.MonkeyPatch, publishers: int, batches_per_slice: int) -> None:
    node = make_node()
    turns = Turns(node, monkeypatch, SLICE_S / (batches_per_slice - 0.5))
    results = await asyncio.gather(*(node.publish_sliced(updates(node, n)) for n in range(publishers)))
    turns.stop()
    assert sum(result.accepted for result in results) == publishers * len(updates(node, 0))
    assert max(Counter(turns.applied).values()) <= batches_per_slice
    # The loop is not idle either: a slice at least every other turn.
    assert len(turns.applied) == publishers * BATCHES
    slices = len(set(turns.applied))
    assert turns.applied[-1] - turns.applied[0] <= 2 * slices
    assert slices <= publishers * BATCHES / batches_per_slice + publishers
    node.close()


async def test_a_small_batch_does_not_wait_for_a_big_one(monkeypatch: pytest.MonkeyPatch) -> None:
    node = make_node()
    turns = Turns(node, monkeypatch, SLICE_S)
    big = asyncio.ensure_future(node.publish_sliced(updates(node, 0, batches=50)))
    await asyncio.sleep(0)
    await node.publish_sliced([bus("small")])
    assert not big.done()
    assert len(turns.applied) <= 5
    assert (await big).accepted == len(updates(node, 0, batches=50))
    turns.stop()
    node.close()


async def test_updates_of_one_publisher_keep_their_order() -> None:
    node = make_node()
    await node.publish_sliced([bus(lon=n % 100, version=n) for n in range(1, 100)])
    feature = msgspec.json.decode(node.engine.get("bus-7") or b"")
    assert feature["version"] == 99
    node.close()


async def test_a_publisher_that_goes_away_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Any]:
        yield bus("before")
        raise OSError("the source broke")

    async def cut() -> AsyncIterator[Sequence[Any]]:
        yield [bus("before")]
        raise OSError("the source broke")

    node = make_node()
    turns = Turns(node, monkeypatch, SLICE_S)
    cancelled = asyncio.ensure_future(node.publish_sliced(updates(node, 0)))
    waiting = asyncio.ensure_future(node.publish_sliced(updates(node, 1)))
    while not turns.applied:  # noqa: ASYNC110  each turn counts
        await asyncio.sleep(0)
    cancelled.cancel()
    waiting.cancel()
    await asyncio.gather(cancelled, waiting, return_exceptions=True)
    for source in (broken(), cut()):
        with pytest.raises(OSError, match="the source broke"):
            await node.publish_sliced(source)
    with anyio.fail_after(5):
        assert (await node.publish_sliced([bus("after")])).accepted == 1
    turns.stop()
    node.close()


# Expiry and time


async def wait_until_gone(node: Node, id: str) -> None:
    changed = anyio.Event()
    node.on_change = changed.set
    with anyio.fail_after(10):
        while node.engine.get(id) is not None:
            await changed.wait()
            changed = anyio.Event()
            node.on_change = changed.set


async def test_an_entity_dies_when_its_time_has_come() -> None:
    node = make_node()
    before = node.now()
    node.publish([bus(ttl=0.05)])
    await wait_until_gone(node, "bus-7")
    assert node.now() - before >= 0.05
    node.close()


async def test_an_update_puts_off_death_and_a_nearer_deadline_brings_it_on() -> None:
    node = make_node()
    node.publish([bus("late", ttl=0.05), bus("soon", ttl=3600)])
    node.publish([{"op": "patch", "id": "late", "ttl": 3600}, {"op": "patch", "id": "soon", "ttl": 0.05}])
    await wait_until_gone(node, "soon")
    assert node.engine.get("late") is not None
    node.close()


async def test_after_close_nothing_runs_any_more() -> None:
    node = make_node()
    node.publish([bus(ttl=0.02)])
    node.close()
    node.close()
    await asyncio.sleep(0.1)
    assert node.engine.get("bus-7") is not None


def test_outside_of_a_loop_publishing_needs_no_timer() -> None:
    node = make_node()
    assert node.publish([bus(ttl=1)]).accepted == 1
    assert node.engine.expire(node.now() + 1) == ["bus-7"]


def test_time_is_the_wall_clock_and_never_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    node = make_node()
    assert abs(node.now() - time.time()) < 60
    before = node.now()
    for wall_clock in (0.0, 4e9):
        monkeypatch.setattr(time, "time", lambda wall_clock=wall_clock: wall_clock)
        after = node.now()
        assert before <= after <= before + 60
        before = after


def test_every_node_is_an_epoch_and_a_world_of_its_own() -> None:
    one, other = make_node(), make_node()
    assert len({one.epoch, other.epoch, one.world, other.world}) == 4
    assert one.name == "node-0"


# Kept views


def test_the_newest_view_of_a_user_is_kept() -> None:
    node = make_node()
    assert node.kept_view("ann") is None
    node.keep_view("ann", {"type": "view", "bbox": None, "id": 1})
    node.keep_view(
        "ann",
        {"type": "view", "bbox": [0, 0, 1, 1], "zoom": 3, "id": 2, "have": {"a": 1}, "world": "w", "away_ms": 1, "last": True, "x": 1},
    )
    assert node.kept_view("ann") == {"type": "view", "bbox": [0, 0, 1, 1], "zoom": 3}, "without what belongs to one message"


def test_of_too_many_views_those_kept_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime.node, "VIEWS_MAX", 2)
    node = make_node()
    for user in ("ann", "bob", "ann", "cid"):
        node.keep_view(user, {"type": "view", "bbox": None})
    assert [node.kept_view(user) is not None for user in ("ann", "bob", "cid")] == [True, False, True]
