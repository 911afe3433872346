"""Deltas over real sockets, with either engine: what the native one writes past the gateway comes as if the gateway had written it.

The C++ half alone, over socket pairs, is native/tests/test_pump.cpp.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, TypeVar

import msgspec
import pytest
import uvloop

from realtime.client.mirror import Mirror
from realtime.config import load
from realtime.errors import CloseCode
from realtime.gateway.connection import Connection
from realtime.gateway.flush import Pump
from realtime.gateway.session import Session
from realtime.server import Server
from tests.net.raw import BINARY, CLOSE, PING, PONG, TEXT, Frame, Raw, close_frame, connect, frame, request

T = TypeVar("T")
WORLD = [-180, -90, 180, 90]
CALM = {"limits.flush_interval_ms": 1, "limits.messages_per_s": 1e6, "limits.messages_burst": 100_000, "limits.views_per_s": 1e6}


class Live:
    """A server in a thread of its own."""

    def __init__(self, engine: str, loop: str, settings: dict[str, Any]) -> None:
        settings = {"server.port": 0, "server.drain_s": 0, "http.enabled": "false", "engine.kind": engine, **CALM, **settings}
        self._config = load(settings=[f"{key}={value}" for key, value in settings.items()])
        self._factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
        self._is_up, self._stop = threading.Event(), asyncio.Event()
        self._viewers: list[Viewer] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._is_up.wait(20)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._factory) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with Server(self._config) as self.server:
            self.port = int(self.server.url.rpartition(":")[2].partition("/")[0])
            self._is_up.set()
            await self._stop.wait()

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the server's loop, and what it left for the next turns."""

        async def call() -> T:
            result = function()
            await asyncio.sleep(0.005)
            return result

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(30)

    def publish(self, *updates: dict[str, Any]) -> None:
        """Publish from inside."""
        self.call(lambda: self.server.publish(updates))

    @property
    def connections(self) -> set[Connection]:
        """Those of its public port."""
        assert self.server._listener is not None
        return self.server._listener.connections

    @property
    def pump(self) -> Pump:
        """What writes its deltas."""
        assert self.server._flusher is not None
        return self.server._flusher.pump

    def viewer(self, **how: Any) -> Viewer:
        """Return a client, which is closed with this."""
        self._viewers.append(Viewer(self.port, **how))
        return self._viewers[-1]

    def close(self) -> None:
        """End it."""
        for viewer in self._viewers:
            viewer.raw.socket.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture(params=["reference", "native"])
def engine(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def start(engine: str, loop: str) -> Iterator[Callable[..., Live]]:
    running: list[Live] = []

    def start(**settings: Any) -> Live:
        running.append(Live(engine, loop, {f"limits.{name}": value for name, value in settings.items()}))
        return running[-1]

    yield start
    for live in running:
        live.close()


def bus(number: int = 0, step: int = 0, text: str = "") -> dict[str, Any]:
    """Return a Feature that each step moves and changes."""
    place = {"type": "Point", "coordinates": [step % 100 / 10, number / 100]}
    return {"type": "Feature", "id": f"bus-{number}", "geometry": place, "properties": {"step": step, "text": text}}


class Viewer:
    """A client with a mirror, which notes what came in order."""

    def __init__(self, port: int, *, subprotocol: str = "realtime.v1.json", receive_bytes: int | None = None) -> None:
        self.raw = connect(port, request(Sec_WebSocket_Protocol=subprotocol), receive_bytes=receive_bytes)
        self.is_text = subprotocol.endswith("json")
        self.mirror = Mirror()
        self.messages: list[dict[str, Any]] = []
        self.frames: list[Frame] = []

    def send(self, type: str, **members: Any) -> None:
        message = {"type": type, **members}
        self.raw.send(frame(TEXT, msgspec.json.encode(message)) if self.is_text else frame(BINARY, msgspec.msgpack.encode(message)))

    def take(self) -> dict[str, Any] | None:
        """Read one frame; return its message if it is one."""
        one = self.raw.frame()
        self.frames.append(one)
        if one.opcode >= CLOSE:
            return None
        assert one.opcode == (TEXT if self.is_text else BINARY)
        message: dict[str, Any] = (msgspec.json.decode if self.is_text else msgspec.msgpack.decode)(one.payload)
        self.messages.append(message)
        if message["type"] == "delta":
            assert message["seq"] == self.mirror.seq + 1, "a delta was lost or overtaken"
            self.mirror.apply(message)
        return message

    def until(self, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read until a message is so; return it."""
        while True:
            message = self.take()
            if message is not None and is_so(message):
                return message

    def has(self, type: str, **members: Any) -> None:
        """Read until a message with these members has come."""
        expected = {"type": type, **members}.items()
        while not any(message.items() >= expected for message in self.messages):
            self.take()

    def until_gone(self) -> None:
        """Read until the server has hung up."""
        with suppress(ConnectionError):
            while True:
                self.take()

    def look(self) -> None:
        """See the world."""
        self.send("view", bbox=WORLD, id="all")
        self.until(lambda message: message["type"] == "delta" and message.get("view") == "all" and not message.get("more"))

    def sees(self, number: int, step: int) -> None:
        """Read until the mirror has a bus at its step."""
        while self.mirror.entities.get(f"bus-{number}", {}).get("properties", {}).get("step") != step:
            self.take()


@contextmanager
def by_hand(live: Live, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Note the sessions that are flushed by hand."""
    flushed: list[int] = []
    flush = Session.flush

    def noted(self: Session, now: float) -> None:
        flushed.append(self.number)
        flush(self, now)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "flush", noted)
        yield flushed


@pytest.mark.parametrize("subprotocol", ["realtime.v1.json", "realtime.v1.msgpack"])
def test_mirrors_follow_and_no_python_runs_for_a_delta(
    start: Callable[..., Live], engine: str, subprotocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = start(entity_bytes=100_000)
    viewers = [live.viewer(subprotocol=subprotocol) for _ in range(5)]
    live.publish(*(bus(number) for number in range(20)))
    for viewer in viewers:
        viewer.look()
    frames = live.server.counters.frames
    with by_hand(live, monkeypatch) as flushed:
        for step in range(1, 51):
            text = "*" * (step * step * 30)  # past each length of header
            live.publish(bus(step % 20, step, text))
            for viewer in viewers:
                viewer.sees(step % 20, step)
    assert bool(flushed) == (engine == "reference")
    assert all(viewer.mirror.entities == viewers[0].mirror.entities for viewer in viewers)
    assert live.server.counters.frames - frames == 50 * len(viewers)
    assert live.pump.sockets == (len(viewers) if engine == "native" else 0)
    assert live.server.counters.frame_bytes >= sum(len(one.payload) for viewer in viewers for one in viewer.frames) * 0.9
    live.call(live.server.node.engine.verify)


def test_who_stops_reading_gets_what_is_newest_and_no_torn_frame(
    start: Callable[..., Live], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = start(write_stall_s=60, send_buffer_bytes=16_384, unsent_bytes=4096)
    viewer, other = live.viewer(receive_bytes=4096), live.viewer()
    for one in (viewer, other):
        one.look()
    step = 0
    for again in range(3):
        first = step
        while True:
            step += 1
            live.publish(*(bus(number, step, f"{again} {'*' * 3000}") for number in range(4)))
            other.sees(3, step)
            if step % 10 == 0:
                viewer.send("ping", t=step)
            if live.call(lambda: sum(connection.is_paused for connection in live.connections)) and step % 10 == 0:
                break
            assert step < first + 2000
        viewer.send("ping", t=f"last {again}")
        viewer.sees(3, step)
        viewer.has("pong", t=f"last {again}")
        assert viewer.mirror.entities == other.mirror.entities
    # What waited is written by hand, and then the way is direct again.
    for step in range(10_000, 10_003):
        live.publish(bus(0, step))
        viewer.sees(0, step)
    with by_hand(live, monkeypatch) as flushed:
        live.publish(bus(0, 20_000))
        viewer.sees(0, 20_000)
    assert bool(flushed) == (engine == "reference")


def test_a_check_is_right_behind_its_delta(start: Callable[..., Live]) -> None:
    live = start()
    viewer = live.viewer()
    live.publish(*(bus(number) for number in range(30)))
    viewer.look()
    for step in range(1, 60):
        live.call(lambda step=step: live.server.publish([bus(step % 30, step)]))  # type: ignore[misc]
        if step % 3 == 0:
            viewer.send("refresh")
        viewer.send("check")
        live.call(lambda step=step: live.server.publish([bus(step * 7 % 30, step)]))  # type: ignore[misc]
        check = viewer.until(lambda message: message["type"] == "check")
        assert check["seq"] == viewer.mirror.seq
        assert (check["count"], check["digest"]) == (len(viewer.mirror.entities), viewer.mirror.digest)


def test_control_frames_do_not_cut_into_deltas(start: Callable[..., Live]) -> None:
    live = start(send_buffer_bytes=16_384, unsent_bytes=4096, control_frames_per_s=1e6, control_lane_bytes=10_000_000)
    viewer = live.viewer(receive_bytes=4096)
    viewer.look()
    for step in range(1, 300):
        live.publish(bus(step % 5, step, "*" * 2000))
        viewer.raw.send(frame(PING, str(step).encode()))
        viewer.send("view", bbox=WORLD, id=step, oops=1)
        viewer.send("subscribe", channels={}, id=step)
    viewer.sees(299 % 5, 299)
    viewer.has("delta", view=299)
    pongs = [int(one.payload) for one in viewer.frames if one.opcode == PONG]
    assert pongs == sorted(pongs)
    while sum(message["type"] == "error" for message in viewer.messages) < 299:
        viewer.take()


def test_who_reads_slowly_is_not_cut_and_who_reads_nothing_is(start: Callable[..., Live]) -> None:
    """The pulse knows of what the pump writes."""
    stall_s = 1.0
    live = start(write_stall_s=stall_s, pong_timeout_s=60, send_buffer_bytes=16_384, unsent_bytes=4096)
    slow, deaf = live.viewer(receive_bytes=4096), live.viewer(receive_bytes=4096)
    for one in (slow, deaf):
        one.look()
    step, began = 0, time.monotonic()
    while time.monotonic() - began < 3 * stall_s or not live.server.counters.closed[CloseCode.SLOW_CONSUMER]:
        assert time.monotonic() - began < 20 * stall_s
        step += 1
        live.publish(*(bus(number, step, "*" * 2000) for number in range(10)))
        slow.raw._buffer += slow.raw.socket.recv(2000)
        time.sleep(0.02)
    assert live.server.counters.closed[CloseCode.SLOW_CONSUMER] == 1
    assert len(live.connections) == 1
    deaf.until_gone()


async def publish_on(server: Server, interval_s: float = 0.01) -> None:
    """Publish until cancelled."""
    for step in count():
        server.publish([bus(0, step)])
        await asyncio.sleep(interval_s)


def test_who_reads_and_says_nothing_is_cut_for_its_pong(start: Callable[..., Live]) -> None:
    live = start(ping_interval_s=0.1, pong_timeout_s=0.4)
    viewer = live.viewer()
    viewer.look()
    began = time.monotonic()
    publishing = asyncio.run_coroutine_threadsafe(publish_on(live.server), live._loop)
    viewer.until_gone()
    publishing.cancel()
    assert viewer.frames[-1].close_code == CloseCode.NO_PONG
    assert time.monotonic() - began < 5


def test_no_socket_gets_what_was_meant_for_one_that_had_its_number(start: Callable[..., Live]) -> None:
    live = start(connections_half_open=512)
    for step in range(1, 40):
        viewers = [live.viewer() for _ in range(3)]
        for viewer in viewers:
            viewer.look()
        live.call(lambda step=step: live.server.publish([bus(0, step)]))  # type: ignore[misc]
        live._loop.call_soon_threadsafe(lambda step=step: live.server.publish([bus(1, step)]))  # type: ignore[misc]
        for viewer in viewers:
            viewer.raw.reset()
        raws = [Raw(live.port) for _ in range(3)]
        live.publish(bus(0, step + 1))
        for raw in raws:
            raw.socket.setblocking(False)
            with pytest.raises(BlockingIOError):
                raw.socket.recv(1)
            raw.socket.settimeout(10)
            raw.upgrade()
            raw.socket.close()
    assert live.server.counters.closed[CloseCode.BUG] == 0
    assert live.pump.sockets == 0


def test_nothing_comes_behind_a_close_frame(start: Callable[..., Live]) -> None:
    live = start(flush_interval_ms=0)
    publishing = asyncio.run_coroutine_threadsafe(publish_on(live.server, 0.001), live._loop)
    for _ in range(30):
        viewer = live.viewer()
        viewer.look()
        viewer.raw.send(frame(TEXT, b"no JSON"))
        while viewer.frames[-1].opcode != CLOSE:
            viewer.take()
        viewer.raw.send(close_frame(int(CloseCode.UNDECODABLE)))
        assert viewer.raw.frames() == []
    publishing.cancel()
    live.call(lambda: None)
    assert live.pump.sockets == 0
