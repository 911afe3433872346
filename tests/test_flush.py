"""When sessions are served: at once after idle, spaced after that, in slices, and each for itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import realtime.gateway.flush
from realtime.client.mirror import Mirror
from realtime.errors import CloseCode
from realtime.gateway.flush import Flusher
from realtime.gateway.session import Gate
from realtime.node import SLICE_S
from tests.fake_wire import WORLD, Viewer, bus, open_gate, override, until

pytestmark = pytest.mark.usefixtures("engine_kind")


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


async def watching(gate: Gate, count: int = 1, **view: Any) -> list[Viewer]:
    """Return viewers of the world whose first view has been answered."""
    viewers = [Viewer(gate) for _ in range(count)]
    for viewer in viewers:
        viewer.send("view", bbox=WORLD, **view)
    for viewer in viewers:
        await viewer.wait("delta")
    return viewers


def delta_times(viewer: Viewer) -> list[float]:
    return [time for time, message in zip(viewer.wire.times, viewer.got(), strict=True) if message["type"] == "delta"]


def place_of(viewer: Viewer, id: str) -> list[float] | None:
    mirror = Mirror()
    for delta in viewer.got("delta"):
        mirror.apply(delta)
    return mirror.entities[id]["geometry"]["coordinates"] if id in mirror.entities else None


async def publish_for(gate: Gate, seconds: float) -> int:
    """Publish a change each millisecond or so; return how many."""
    stop = asyncio.get_running_loop().time() + seconds
    count = 0
    while asyncio.get_running_loop().time() < stop:
        count += 1
        gate.node.publish([bus(lon=count % 180)])
        await asyncio.sleep(0.001)
    return count


# Timing

INTERVAL_S = 0.04


async def test_the_first_change_after_idle_goes_out_in_the_same_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    # A clock that stands still, so that no slice ends on a busy machine.
    monkeypatch.setattr(realtime.gateway.flush, "time", SimpleNamespace(perf_counter=lambda: 0.0, monotonic=time.monotonic))
    async with open_gate(flush_interval_ms=INTERVAL_S * 1000) as gate:
        gate.node.publish([bus("first"), bus("second")])
        viewers = await watching(gate, 20)
        for n in range(2, 5):
            await asyncio.sleep(2 * INTERVAL_S)  # idle: the last frame is longer ago than the flush period
            gate.node.publish([bus("first", n), bus("second", n)])
            assert all(len(viewer.got("delta")) == n - 1 for viewer in viewers)
            await asyncio.sleep(0)  # what was put into the loop before this runs first
            assert all(len(viewer.got("delta")) == n for viewer in viewers)


async def test_a_view_after_idle_is_answered_in_the_same_turn() -> None:
    async with open_gate(flush_interval_ms=INTERVAL_S * 1000) as gate:
        gate.node.publish([bus()])
        viewer = Viewer(gate)
        viewer.send("view", bbox=WORLD)
        # One round to apply it, one to write what it shows.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [feature["id"] for feature in viewer.got("delta")[0]["enter"]] == ["bus-7"]


async def test_further_changes_are_spaced_by_the_flush_interval() -> None:
    async with open_gate(flush_interval_ms=INTERVAL_S * 1000) as gate:
        (viewer,) = await watching(gate)
        changes = await publish_for(gate, 8 * INTERVAL_S)
        await until(lambda: len(viewer.got("delta")) >= 5)
        times = delta_times(viewer)
        assert len(times) <= 2 + (times[-1] - times[0]) / INTERVAL_S
        assert len(times) <= changes / 2, "nothing was conflated"


async def test_the_last_change_is_never_lost() -> None:
    async with open_gate(flush_interval_ms=INTERVAL_S * 1000) as gate:
        (viewer,) = await watching(gate)
        for n in range(50):
            gate.node.publish([bus(lon=n)])
            if n % 7 == 0:
                await asyncio.sleep(0.001)
        await until(lambda: place_of(viewer, "bus-7") == [49, 0])


async def test_a_view_may_ask_for_fewer_frames() -> None:
    async with open_gate(flush_interval_ms=2.0) as gate:
        (slow,), (fast,) = await watching(gate, max_hz=1 / INTERVAL_S), await watching(gate)
        await publish_for(gate, 5 * INTERVAL_S)
        times = delta_times(slow)
        assert len(times) <= 2 + (times[-1] - times[0]) / INTERVAL_S
        assert len(fast.got("delta")) >= 2 * len(times)


async def test_one_who_waits_long_delays_nobody() -> None:
    """The timer is set anew for whoever is due before."""
    async with open_gate(flush_interval_ms=INTERVAL_S * 1000) as gate:
        gate.node.publish([bus()])
        (slow,), (fast,) = await watching(gate, max_hz=0.1), await watching(gate)
        gate.node.publish([bus(lon=2)])
        await fast.wait("delta", 2)
        gate.node.publish([bus(lon=1)])
        await fast.wait("delta", 3)
        assert len(slow.got("delta")) == 1


# Sockets that take nothing


async def test_a_paused_session_costs_nothing_until_it_reads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_gate() as gate:
        viewer, reader = await watching(gate, 2)
        viewer.pause()
        flushes = 0
        flush = viewer.session.flush

        def counted(now: float) -> None:
            nonlocal flushes
            flushes += 1
            flush(now)

        override(monkeypatch, viewer.session, "flush", counted)
        for n in range(20):
            gate.node.publish([bus(lon=n)])
            await reader.wait("delta", n + 2)
        assert flushes <= 1
        assert len(viewer.got("delta")) == 1
        viewer.resume()
        assert (await viewer.wait("delta", 2))["enter"][0]["geometry"]["coordinates"] == [19, 0]


# Bugs


@pytest.mark.parametrize("call", ["flush", "perform"])
async def test_an_exception_in_one_session_costs_only_that_one(
    call: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gate() as gate:
        viewers = await watching(gate, 5)
        broken, others = viewers[2], [*viewers[:2], *viewers[3:]]

        def fails(_: float) -> None:
            raise RuntimeError(f"a bug in {call}")

        override(monkeypatch, broken.session, call, fails)
        with caplog.at_level(logging.ERROR, "realtime"):
            for viewer in viewers:
                viewer.send("view", bbox=[0, 0, 1, 1], id="next")
            gate.node.publish([bus()])
            for viewer in others:
                await until(lambda viewer=viewer: any("enter" in delta for delta in viewer.got("delta")))
        assert broken.wire.closed is CloseCode.BUG
        assert all(viewer.wire.closed is None for viewer in others)
        assert f"a bug in {call}" in caplog.text
        assert gate.node.counters.events["session_failed"] == 1


async def test_not_even_a_failing_end_stops_the_others(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async with open_gate() as gate:
        broken, other = await watching(gate, 2)

        def fails(*_: Any) -> None:
            raise RuntimeError("a bug in the end")

        override(monkeypatch, broken.session, "flush", fails)
        override(monkeypatch, broken.session, "fail", fails)
        with caplog.at_level(logging.ERROR, "realtime"):
            gate.node.publish([bus()])
            await other.wait("delta", 2)
        assert "a bug in the end" in caplog.text


async def test_a_bug_in_thousands_of_sessions_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(sessions=500, cost_s=0.0)
    service.on_flush = fail
    with caplog.at_level(logging.ERROR, "realtime"):
        service.dirty(range(500))
        await until(lambda: len(service.failed) == 500)
    assert len(caplog.records) < 10
    service.flusher.close()


def fail(_: int) -> None:
    raise RuntimeError("a bug")


# Slices


class Member:
    """A session that notes in which turn it was served."""

    def __init__(self, service: Service, number: int) -> None:
        self.service = service
        self.number = number

    def perform(self, now: float) -> None:
        self.service.note(("perform", self.number))

    def flush(self, now: float) -> None:
        self.service.note(("flush", self.number))
        self.service.on_flush(self.number)

    def fail(self) -> None:
        self.service.failed.append(self.number)


class Service:
    """A flusher over sessions and an engine that are none, and a clock that each of them moves on by `cost_s`."""

    def __init__(self, sessions: int, cost_s: float, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
        self.cost_s = cost_s
        self.clock = 0.0
        self.turn = 0
        self.served: list[tuple[int, tuple[str, int]]] = []  # (turn, what)
        self.failed: list[int] = []
        self.on_flush: Callable[[int], None] = lambda _: None
        self._dirty: list[int] = []
        if monkeypatch is not None:
            fake = SimpleNamespace(perf_counter=lambda: self.clock, monotonic=time.monotonic)
            monkeypatch.setattr(realtime.gateway.flush, "time", fake)
        engine = SimpleNamespace(take_dirty=self._take, next_due=lambda: None)
        node = SimpleNamespace(engine=engine, now=time.time, on_change=None)
        self.flusher = Flusher(node)  # type: ignore[arg-type]
        self.members = [Member(self, number) for number in range(sessions)]
        for member in self.members:
            self.flusher.add(member.number, member)
        self._loop = asyncio.get_running_loop()
        self._count()

    def _count(self) -> None:
        self.turn += 1
        if not self.flusher._is_closed:
            self._loop.call_soon(self._count)

    def _take(self, _: float) -> list[int]:
        taken, self._dirty = self._dirty, []
        return taken

    def dirty(self, numbers: Any) -> None:
        self._dirty.extend(numbers)
        self.flusher.wake()

    def note(self, what: tuple[str, int]) -> None:
        self.clock += self.cost_s
        self.served.append((self.turn, what))

    def per_turn(self) -> list[int]:
        return list(Counter(turn for turn, _ in self.served).values())


@pytest.mark.parametrize("per_slice", [1, 4, 20])
async def test_a_turn_serves_what_fits_into_a_slice(per_slice: int, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(100, SLICE_S / (per_slice - 0.5), monkeypatch)
    service.dirty(range(100))
    await until(lambda: len(service.served) == 100)
    assert [what for _, what in service.served] == [("flush", number) for number in range(100)], "in order, each once"
    assert max(service.per_turn()) <= per_slice
    turns = [turn for turn, _ in service.served]
    assert turns[-1] - turns[0] < 100 / per_slice + 1, "no turn was let pass"
    service.flusher.close()


async def test_however_slow_each_turn_gets_something_done(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(10, 100 * SLICE_S, monkeypatch)
    service.dirty(range(10))
    await until(lambda: len(service.served) == 10)
    assert set(service.per_turn()) == {1}
    service.flusher.close()


async def test_views_and_changes_do_not_starve_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(40, SLICE_S / 3, monkeypatch)
    service.dirty(range(40))
    for member in service.members:
        service.flusher.ask(member)
    await until(lambda: len(service.served) == 80)
    kinds = [kind for _, (kind, _) in service.served]
    for end in range(2, 80):
        assert abs(kinds[:end].count("flush") - kinds[:end].count("perform")) <= 1
    service.flusher.close()


async def test_who_asks_often_is_served_once() -> None:
    service = Service(2, 0.0)
    for _ in range(100):
        service.flusher.ask(service.members[0])
    service.flusher.ask(service.members[1])
    await until(lambda: len(service.served) == 2)
    await asyncio.sleep(0)
    assert [what for _, what in service.served] == [("perform", 0), ("perform", 1)]
    service.flusher.close()


async def test_who_is_gone_is_not_served() -> None:
    service = Service(3, 0.0)
    service.dirty([0, 1, 2])
    service.flusher.remove(1)
    service.flusher.remove(1)
    await until(lambda: len(service.served) == 2)
    assert [number for _, (_, number) in service.served] == [0, 2]
    service.flusher.close()


async def test_after_close_nobody_is_served() -> None:
    service = Service(1, 0.0)
    service.dirty([0])
    service.flusher.close()
    service.flusher.close()
    for _ in range(5):
        await asyncio.sleep(0)
    service.flusher.ask(service.members[0])
    for _ in range(5):
        await asyncio.sleep(0)
    assert service.served == []
