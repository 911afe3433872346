"""The gateway's connection without a socket: whatever happens in whatever order, it keeps its law.

A transport that is none records what is written and says when its buffer is full; the loop's callbacks run when the
machine says so.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from realtime.config import LimitsConfig
from realtime.errors import CloseCode
from realtime.gateway.complaints import Complaints
from realtime.gateway.connection import Connection
from realtime.gateway.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, FrameScanner, Violation
from realtime.gateway.handshake import Upgrade
from realtime.gateway.upkeep import Upkeep

STATE = b"state" * 30
LANE_BYTES, HIGH_BYTES, LOW_BYTES = 1000, 300, 100
LIMITS = msgspec.structs.replace(LimitsConfig(), control_lane_bytes=LANE_BYTES)


class FakeLoop:
    """Callbacks that wait for the machine."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self.soon.append((callback, arguments))

    def run(self) -> None:
        for _ in range(len(self.soon)):
            callback, arguments = self.soon.popleft()
            callback(*arguments)


class FakeTransport:
    """Takes everything, and notes what it was told."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real  # for the questions to the kernel
        self.buffer_bytes = 0
        self.is_reading = True
        self.ended: str | None = None
        self.has_sent_eof = False

    def get_extra_info(self, name: str) -> socket.socket:
        return self._real

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert high > low > 16

    def get_write_buffer_size(self) -> int:
        return self.buffer_bytes

    def pause_reading(self) -> None:
        assert self.is_reading and self.ended is None
        self.is_reading = False

    def resume_reading(self) -> None:
        assert not self.is_reading and self.ended is None
        self.is_reading = True

    def is_closing(self) -> bool:
        return self.ended is not None

    def write_eof(self) -> None:
        assert self.ended is None and not self.has_sent_eof
        self.has_sent_eof = True

    def close(self) -> None:
        self.ended = self.ended or "close"

    def abort(self) -> None:
        self.ended = "abort"


class FakeWriter:
    """Notes the frames that are written, and fills the transport with them."""

    def __init__(self, transport: FakeTransport) -> None:
        self.transport: Any = transport
        self.connection: Connection | None = None
        self.frames: list[tuple[int, bytes]] = []
        self.close_code: int | None = None
        self.is_full = False

    def send(self, opcode: int, payload: bytes) -> None:
        assert self.close_code is None, "a frame behind the close frame"
        assert not self.transport.has_sent_eof and self.transport.ended is None, "a frame after the end"
        assert opcode != PING or not self.is_full, "a ping to a socket that takes nothing"
        self.frames.append((opcode, payload))
        self.transport.buffer_bytes += len(payload)
        if self.transport.buffer_bytes > HIGH_BYTES and not self.is_full:
            self.is_full = True
            assert self.connection is not None
            self.connection.block()

    def send_close(self, code: int, reason: bytes) -> None:
        assert self.close_code is None, "two close frames"
        assert len(reason) <= 123
        self.close_code = code

    def drain(self, size: int) -> None:
        """Take bytes out of the transport."""
        self.transport.buffer_bytes -= size
        if self.is_full and self.transport.buffer_bytes <= LOW_BYTES:
            self.is_full = False
            assert self.connection is not None
            self.connection.unblock()


class Noting:
    """A handler that notes what it gets, and raises when told to."""

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self.closed: list[int] = []
        self.is_inside = False  # a call of the connection is running
        self.raises = False
        self.connection: Connection | None = None

    def on_open(self, connection: Connection) -> None:
        self.connection = connection

    def on_message(self, data: str | bytes) -> None:
        assert not self.closed, "a message after the end"
        self.messages.append(data)
        if self.raises:
            raise RuntimeError("raised on purpose")

    def on_writable(self) -> None:
        assert not self.closed
        assert self.connection is not None and not self.connection.is_paused

    def on_close(self, code: int) -> None:
        assert not self.is_inside, "on_close came from inside a call"
        self.closed.append(code)


class Life(RuleBasedStateMachine):
    """One connection, from its upgrade to the loss of its socket."""

    @initialize(fate=st.integers(0, 30))
    def open(self, fate: int = 0) -> None:
        """Nothing ends the connection for the first `fate` steps; otherwise few would live to see anything."""
        self.loop = FakeLoop()
        quiet = logging.getLogger("test_connection_machine")
        quiet.disabled = True
        loop: Any = self.loop
        upkeep = Upkeep(LIMITS, loop, lambda name: None, Complaints(quiet, self.loop.time))
        self.socket = socket.socket()
        self.transport = FakeTransport(self.socket)
        self.writer = FakeWriter(self.transport)
        self.handler = Noting()
        self.lost: list[Connection] = []
        scanner = FrameScanner(1000, 4, frozenset((TEXT,)))
        self.connection = Connection(upkeep, self.handler, Upgrade("", None, True), "192.0.2.1", 1, scanner, self.lost.append)
        self.upkeep = upkeep
        self.writer.connection = self.connection
        self.connection.opened(self.writer)
        self.connection.identified()
        self.sent: list[bytes] = []  # by the control lane
        self.spoken: list[str] = []  # by the peer
        self.steps = 0
        self.fate = fate

    @contextmanager
    def call(self) -> Iterator[Connection]:
        """A call from the handler: `on_close` must not come from inside it."""
        self.handler.is_inside = True
        yield self.connection
        self.handler.is_inside = False

    is_fated = precondition(lambda self: self.steps >= self.fate)
    is_there = precondition(lambda self: not self.lost)
    is_open = precondition(lambda self: self.connection.is_open)
    is_heard = precondition(
        lambda self: not self.lost and not self.connection.is_discarding and self.transport.is_reading and self.transport.ended is None
    )

    @is_open
    @rule(sizes=st.lists(st.integers(0, 200), min_size=1, max_size=5))
    def send_control(self, sizes: list[int]) -> None:
        for size in sizes:
            data = b"%d " % len(self.sent) + b"*" * size
            with self.call() as connection:
                connection.send_control(data)
            self.sent.append(data)

    @rule()
    def send_state(self) -> None:
        with self.call() as connection:
            if not connection.is_paused:
                connection.send_state(STATE)

    @rule(is_held=st.booleans())
    def hold(self, is_held: bool) -> None:
        with self.call() as connection:
            connection.hold_reading(is_held)

    @is_fated
    @rule(code=st.sampled_from([CloseCode.NORMAL, CloseCode.RATE_LIMITED]), reason=st.text(max_size=200))
    def close(self, code: CloseCode, reason: str) -> None:
        was_open = self.connection.is_open
        with self.call() as connection:
            connection.close(code, reason)
        if was_open:
            assert self.control_written() == self.sent, "a close left out what was to be sent before it"
            assert self.writer.close_code == code

    @is_fated
    @rule(code=st.sampled_from([CloseCode.BUG, CloseCode.SLOW_CONSUMER]))
    def abort(self, code: CloseCode) -> None:
        with self.call() as connection:
            connection.abort(code)

    @is_heard
    @rule(count=st.integers(1, 5))
    def speak(self, count: int) -> None:
        for _ in range(count):
            text = str(len(self.spoken))
            self.connection.receive(TEXT, True, text.encode())
            self.spoken.append(text)

    @is_heard
    @rule()
    def speak_in_fragments(self) -> None:
        text = str(len(self.spoken))
        self.connection.receive(TEXT, False, text.encode())
        self.connection.receive(PING, True, b"within")
        self.connection.receive(CONTINUATION, True, b"")
        self.spoken.append(text)

    @is_heard
    @rule(opcode=st.sampled_from([PING, PONG]))
    def knock(self, opcode: int) -> None:
        self.connection.receive(opcode, True, b"knock")

    @is_heard
    @is_fated
    @rule()
    def knock_too_often(self) -> None:
        for _ in range(101):
            if not self.connection.is_discarding:
                self.connection.receive(PING, True, b"knock")
        assert not self.connection.is_open

    @is_heard
    @is_fated
    @rule(payload=st.sampled_from([b"", b"\x03\xe8", b"\x03\xe9bye", b"\x03", b"\x0f\xa0", b"\x03\xe8\xff"]))
    def peer_closes(self, payload: bytes) -> None:
        self.connection.receive(CLOSE, True, payload)

    @is_heard
    @is_fated
    @rule()
    def bad_text(self) -> None:
        self.connection.receive(TEXT, True, b"\xff")

    @is_heard
    @is_fated
    @rule()
    def violate(self) -> None:
        self.connection.violate(Violation(CloseCode.PROTOCOL_ERROR, "on purpose"))

    @is_there
    @is_fated
    @rule()
    def raise_from_now_on(self) -> None:
        self.handler.raises = True

    @is_there
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        """The socket takes some of what lies in the transport."""
        if self.transport.buffer_bytes:
            self.writer.drain(data.draw(st.integers(1, self.transport.buffer_bytes)))

    @rule()
    def turn(self) -> None:
        self.loop.run()

    @rule()
    def tick(self) -> None:
        self.pass_time(0.1)

    @is_fated
    @rule(passes=st.sampled_from([3.0, 11.0, 30.0]))
    def tick_long(self, passes: float) -> None:
        self.pass_time(passes)

    def pass_time(self, passes: float) -> None:
        """Let the clock run, and the upkeep do what is due."""
        self.loop.now += passes
        connection = self.connection
        for queue, act in (
            (self.upkeep.unidentified, lambda: connection.close(CloseCode.IDENTIFY_TIMEOUT)),
            (self.upkeep.closing, connection.cut),
            (self.upkeep.pings, lambda: connection.ping(self.loop.now)),
            (self.upkeep.watched, lambda: connection.judge(self.loop.now)),
        ):
            if queue.take_due(self.loop.now, 1):
                act()

    @is_there
    @precondition(lambda self: self.steps >= self.fate + 10 and self.transport.ended is None)
    @rule()
    def peer_ends(self) -> None:
        self.connection.peer_ended()

    @is_there
    @precondition(lambda self: self.steps >= self.fate + 10)
    @rule()
    def lose(self) -> None:
        self.transport.ended = self.transport.ended or "lost"
        self.connection.lost()

    def control_written(self) -> list[bytes]:
        """Return what was written of the control lane."""
        return [payload for opcode, payload in self.writer.frames if opcode == TEXT and payload != STATE]

    @invariant()
    def is_told_once(self) -> None:
        if not hasattr(self, "connection"):
            return
        self.steps += 1
        assert len(self.handler.closed) <= 1
        if self.connection.is_open:
            assert not self.handler.closed
            assert self.connection.code is None
        else:
            assert self.connection.code is not None
            assert self.handler.closed or any(callback == self.connection._tell for callback, _ in self.loop.soon)

    @invariant()
    def is_bounded(self) -> None:
        if hasattr(self, "connection"):
            assert self.connection.control_bytes <= LANE_BYTES
            assert self.connection.is_paused or not self.connection.control_bytes
            if self.connection.control_bytes * 2 >= LANE_BYTES:
                assert not self.transport.is_reading or self.transport.ended is not None

    @invariant()
    def keeps_order(self) -> None:
        if not hasattr(self, "connection"):
            return
        written = self.control_written()
        assert written == self.sent[: len(written)], "the control lane lost or moved something"
        if self.connection.is_open and not self.connection.is_paused:
            assert written == self.sent
        assert self.handler.messages == self.spoken[: len(self.handler.messages)]

    @invariant()
    def ends_in_bounded_time(self) -> None:
        if hasattr(self, "connection") and not self.connection.is_open and not self.lost:
            assert self.connection in self.upkeep.closing or self.transport.ended is not None

    def teardown(self) -> None:
        if hasattr(self, "connection"):
            if not self.lost:
                self.lose()
            self.loop.run()
            assert len(self.handler.closed) == 1
            assert self.lost == [self.connection]
            for queue in (self.upkeep.unidentified, self.upkeep.closing, self.upkeep.pings, self.upkeep.watched):
                assert not len(queue), "it is still kept"
            self.socket.close()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)


def test_binary_is_the_opcode_of_a_binary_subprotocol() -> None:
    life = Life()
    life.open()
    scanner = FrameScanner(1000, 4, frozenset((BINARY,)))
    connection = Connection(life.upkeep, Noting(), Upgrade("", None, False), "", 2, scanner, lambda lost: None)
    connection.opened(life.writer)
    connection.send_control(b"a")
    connection.send_state(b"b")
    connection.send_control("c")
    assert life.writer.frames == [(BINARY, b"a"), (BINARY, b"b"), (TEXT, b"c")]
    life.socket.close()
