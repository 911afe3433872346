"""One socket of the public port: first a head, then frames, or a plain answer.

Law: what is read lies in one buffer that all sockets of a loop share, and is processed, or copied, before the next one is
read. A connection holds a parser only while a frame is incomplete. Nothing is parsed that the scanner has not admitted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol, cast

from realtime.gateway.connection import Connection
from realtime.gateway.frames import CLOSE, Violation, frame_header
from realtime.gateway.handshake import HEAD_BYTES_MAX, HandshakeRefused, refusal
from realtime.gateway.upkeep import Upkeep

# What is read at once; more only where a long frame is under way, as what was read may have to wait, parsed, while a
# connection is held.
READ_BYTES = 4096
LONG_READ_BYTES = 64 * 1024
PARSERS_IDLE_MAX = 16


class Parser(Protocol):
    """Parses and unmasks the frames of one connection at a time."""

    def parse(self, connection: Connection, data: memoryview) -> None:
        """Hand the frames that these bytes complete to the connection."""

    @property
    def violation(self) -> Violation | None:
        """What it found against a frame; it parses no more then."""

    @property
    def is_fresh(self) -> bool:
        """Whether, between frames, another connection can have it."""


class Port(Protocol):
    """The listener, as its sockets use it."""

    upkeep: Upkeep
    reading: Reading
    parsers: Parsers

    def arrived(self, arrival: Arrival) -> None:
        """Take note of a new socket."""

    def departed(self, arrival: Arrival) -> None:
        """Forget a socket that is gone and was no connection."""

    def serve(self, arrival: Arrival, head: bytes, early: bytes) -> None:
        """Answer a request, or make it a connection. Raises `HandshakeRefused`."""

    def note_refusal(self, refused: HandshakeRefused) -> None:
        """Count a request that was refused."""


class Reading:
    """One buffer for all sockets of a loop: what was read is processed before the next one is read."""

    __slots__ = ("_small", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(LONG_READ_BYTES))
        self._small = self.view[:READ_BYTES]

    def room(self, expected_bytes: int) -> memoryview:
        """Return where to read to, when so much of a frame is still to come: frames that came at once may have to wait parsed."""
        return self._small if expected_bytes <= READ_BYTES else self.view[:expected_bytes]


class Parsers:
    """Those that nobody uses at the moment: between frames a connection needs none, and most are idle."""

    __slots__ = ("_idle", "_make")

    def __init__(self, make: Callable[[], Parser]) -> None:
        self._make = make
        self._idle: list[Parser] = []

    def take(self) -> Parser:
        """Return a parser that is between frames."""
        return self._idle.pop() if self._idle else self._make()

    def give_back(self, parser: Parser) -> None:
        """Take back one that is between frames."""
        if len(self._idle) < PARSERS_IDLE_MAX and parser.is_fresh:
            self._idle.append(parser)


class Stream(asyncio.BufferedProtocol):
    """A socket of the public port: what its head said, if that has come, is its connection."""

    __slots__ = ("_arrival", "_connection", "_parser", "_port", "transport")
    transport: asyncio.Transport

    def __init__(self, port: Port) -> None:
        self._port = port
        self._arrival: Arrival | None = None
        self._connection: Connection | None = None
        self._parser: Parser | None = None  # while a frame is incomplete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases
        self._arrival = Arrival(self._port, self)
        self._port.arrived(self._arrival)

    def get_buffer(self, size_hint: int) -> memoryview:
        """Return where to read to."""
        return self._port.reading.room(0 if self._connection is None else self._connection.scanner.outstanding_bytes)

    def buffer_updated(self, size: int) -> None:
        """Process what was read."""
        data = self._port.reading.view[:size]
        if self._connection is not None:
            self._receive(self._connection, data)
        elif self._arrival is not None:
            self._arrival.receive(bytes(data))

    def upgrade(self, connection: Connection, answer: bytes, early: bytes) -> None:
        """Be a connection from now on; `early` came right behind the head."""
        self._arrival = None
        self._connection = connection
        self.transport.write(answer)
        connection.opened(self)
        if early:
            self._receive(connection, memoryview(early))

    def _receive(self, connection: Connection, data: memoryview) -> None:
        if connection.is_discarding:
            return
        scanner = connection.scanner
        admitted = scanner.scan(data)
        violation = self._parse(connection, data[:admitted]) if admitted else scanner.violation
        if violation is not None and not connection.is_discarding:
            connection.violate(violation)

    def _parse(self, connection: Connection, data: memoryview) -> Violation | None:
        parser, self._parser = self._parser or self._port.parsers.take(), None
        parser.parse(connection, data)
        violation = parser.violation or connection.scanner.violation
        if violation is None:
            if connection.scanner.is_between_frames:
                self._port.parsers.give_back(parser)
            else:
                self._parser = parser
        return violation

    def send(self, opcode: int, payload: bytes) -> None:
        """Write a frame."""
        self.transport.write(frame_header(opcode, len(payload)) + payload)

    def send_rest(self, rest: bytes) -> None:
        """Write the end of a frame that the pump has begun."""
        self.transport.write(rest)

    def send_close(self, code: int, reason: bytes) -> None:
        """Write a close frame."""
        self.send(CLOSE, code.to_bytes(2, "big") + reason)

    def eof_received(self) -> bool:
        if self._connection is not None:
            self._connection.peer_ended()
        return False

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.block()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.unblock()

    def connection_lost(self, error: Exception | None) -> None:
        if self._connection is not None:
            self._connection.lost()
        elif self._arrival is not None:
            self._port.departed(self._arrival)
        self._connection = self._arrival = self._parser = None


class Arrival:
    """A socket until its head is read, or until its plain answer is taken."""

    __slots__ = ("_head", "_is_answered", "_port", "stream")

    def __init__(self, port: Port, stream: Stream) -> None:
        self.stream = stream
        self._port = port
        self._head = bytearray()
        self._is_answered = False

    def receive(self, data: bytes) -> None:
        """Take more of the head."""
        if self._is_answered:
            return
        searched = max(len(self._head) - 3, 0)
        self._head += data
        end = self._head.find(b"\r\n\r\n", searched)
        if end < 0 and len(self._head) <= HEAD_BYTES_MAX:
            return
        head, early = bytes(self._head[:end]), bytes(self._head[end + 4 :])
        self._head.clear()
        try:
            if not 0 <= end <= HEAD_BYTES_MAX:
                raise HandshakeRefused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a head over {HEAD_BYTES_MAX} bytes")
            self._port.serve(self, head, early)
        except HandshakeRefused as refused:
            self._port.note_refusal(refused)
            self.answer(refusal(refused))

    def answer(self, data: bytes) -> None:
        """Send an answer and wait for the peer's FIN; the handshake timeout still runs."""
        transport = self.stream.transport
        self._is_answered = True
        try:
            transport.write(data)
            transport.write_eof()
        except OSError:  # reset by the peer, and not noticed yet
            transport.abort()

    def expire(self) -> None:
        """The head, or taking the answer, took too long."""
        if not self._is_answered:
            self._port.upkeep.count("handshake_timeout")
        self.stream.transport.abort()

    def evict(self) -> None:
        """Make room for a newer one."""
        self._port.upkeep.count("half_open_evicted")
        self.stream.transport.abort()
