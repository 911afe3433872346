"""What the hub and a worker say to each other, and the unix socket that carries it.

A frame is its length (four bytes, big-endian, of what follows), its kind (one byte) and a body: a batch of whole states,
or one of the messages below as msgpack. The worker speaks first, with `Hello`; the hub answers with `Who`. Each side
then tells what it has to tell; answers carry the number of the question.

Law: what is read waits in one queue, in order, and while more than `QUEUE_BYTES_HIGH` wait nothing more is read. Bytes that
are no frame, and messages that are none, end the connection and nothing else. Only processes of the same user get a word.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections import deque
from typing import Any, Protocol, cast

import msgspec
from msgspec import Struct

from realtime.messages import Rejected

FORMAT = 1
FRAME_BYTES_MAX = 64 * 1024 * 1024
QUEUE_BYTES_HIGH = 1024 * 1024  # that were read and wait; beyond it nothing is read
QUEUE_BYTES_LOW = 256 * 1024
WRITE_BYTES_HIGH = 512 * 1024  # that the socket has not taken; beyond it no states are written
WRITE_BYTES_LOW = 64 * 1024

_HEAD = struct.Struct(">IB")
_LENGTH_BYTES = 4
_STATES, _MESSAGE = 0, 1
_PEER_CREDENTIALS = struct.Struct("3i")  # process, user, group

logger = logging.getLogger(__name__)


# Worker to hub


class Hello(Struct, frozen=True, array_like=True, tag="hello"):
    """The first word."""

    format: int
    worker: int
    process: str  # a new one whenever a worker starts
    world: str  # of what it holds; "": it has never held a whole world


class Told(Struct, frozen=True, array_like=True, tag="told"):
    """The worker has told all that it holds."""


class Publish(Struct, frozen=True, array_like=True, tag="publish"):
    """Updates of a session."""

    number: int
    updates: list[Any]
    forbidden: list[str]  # ids of them that the session may not publish
    refused: list[tuple[int, str, str]]  # place, code, message of those for which a nil stands


class KeepView(Struct, frozen=True, array_like=True, tag="keep"):
    """A user's newest view message, as JSON."""

    user: str
    view: bytes


class FindView(Struct, frozen=True, array_like=True, tag="find"):
    """Asks for a user's newest view message."""

    number: int
    user: str


class Answer(Struct, frozen=True, array_like=True, tag="answer"):
    """Answers `Ask`."""

    number: int
    body: bytes


# Hub to worker


class Who(Struct, frozen=True, array_like=True, tag="who"):
    """What the hub is; again whenever that has changed. `wants_all`: it has to be told what the worker holds."""

    world: str
    number: int  # of the node; every worker has the hub's, as only the hub gives versions
    epoch: str
    wants_all: bool = False


class Anew(Struct, frozen=True, array_like=True, tag="anew"):
    """Everything is told again: what is not named until `Whole` is not there any more."""


class Whole(Struct, frozen=True, array_like=True, tag="whole"):
    """All that the hub held when the worker came, or when it said `Anew`, has been told."""


class Verdicts(Struct, frozen=True, array_like=True, tag="verdicts"):
    """Answers `Publish`; None: nothing was taken, as the hub is not ready."""

    number: int
    result: Counts | None


class Counts(Struct, frozen=True, array_like=True):
    """What became of a batch, as `realtime.node.Result` has it."""

    accepted: int
    unchanged: int
    stale: int
    rejected: list[Rejected]
    rejected_total: int


class FoundView(Struct, frozen=True, array_like=True, tag="found"):
    """Answers `FindView`."""

    number: int
    view: bytes  # empty: there is none


class Ask(Struct, frozen=True, array_like=True, tag="ask"):
    """Asks for what only the worker knows, see `realtime.gateway.others`."""

    number: int
    what: str
    argument: str


ToHub = Hello | Told | Publish | KeepView | FindView | Answer
ToWorker = Who | Anew | Whole | Verdicts | FoundView | Ask
Message = ToHub | ToWorker

to_hub: msgspec.msgpack.Decoder[ToHub] = msgspec.msgpack.Decoder(ToHub)
to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)


class Owner(Protocol):
    """Who uses a pipe."""

    def opened(self, pipe: Pipe) -> None:
        """The peer is one of ours."""

    def urgent(self, pipe: Pipe, message: Any) -> bool:
        """Take a message at once, ahead of what waits; return whether it was one of that sort. Raises ValueError for a wrong one."""

    def writable(self, pipe: Pipe) -> None:
        """States may be written again."""

    def lost(self, pipe: Pipe) -> None:
        """The connection is gone."""


class BadFrame(ValueError):
    """The peer sent what is no frame, or no message that belongs here."""


class Pipe(asyncio.Protocol):
    """One connection between the hub and a worker, as either of them has it."""

    def __init__(self, owner: Owner, decoder: msgspec.msgpack.Decoder[Any]) -> None:
        self.is_paused = False  # the socket takes nothing for now
        self.is_open = False
        self._owner = owner
        self._decoder = decoder
        self._transport: asyncio.Transport | None = None
        self._partial = bytearray()
        self._queue: deque[tuple[bytes | Message, int]] = deque()  # with how many bytes each was
        self._queue_bytes = 0
        self._has_more = asyncio.Event()
        self._is_reading = True

    # Reading

    async def take(self) -> list[bytes | Message]:
        """Wait for what comes next; return a run of states as batches, or one message. Empty: the connection is gone."""
        while not self._queue:
            if not self.is_open:
                return []
            self._has_more.clear()
            await self._has_more.wait()
        if not isinstance(self._queue[0][0], bytes):
            return [self._next()]
        run: list[bytes | Message] = []
        while self._queue and isinstance(self._queue[0][0], bytes):
            run.append(self._next())
        return run

    def _next(self) -> bytes | Message:
        item, size = self._queue.popleft()
        self._queue_bytes -= size
        if self._queue_bytes < QUEUE_BYTES_LOW and not self._is_reading and self._transport is not None and self.is_open:
            self._is_reading = True
            self._transport.resume_reading()
        return item

    def data_received(self, data: bytes) -> None:
        if not self.is_open:
            return
        self._partial += data
        try:
            self._cut()
        except ValueError as error:
            logger.warning("a connection between workers is ended: %s", error)
            self.abort()

    def _cut(self) -> None:
        """Cut what was read into frames."""
        start, end = 0, len(self._partial)
        with memoryview(self._partial) as view:
            while self.is_open and end - start >= _HEAD.size:
                length, kind = _HEAD.unpack_from(view, start)
                if not 1 <= length <= FRAME_BYTES_MAX:
                    raise BadFrame(f"a frame of {length} bytes")
                if end - start < _LENGTH_BYTES + length:
                    break
                self._put(kind, bytes(view[start + _HEAD.size : start + _LENGTH_BYTES + length]), length)
                start += _LENGTH_BYTES + length
        del self._partial[:start]

    def _put(self, kind: int, body: bytes, size: int) -> None:
        if kind == _STATES:
            item: bytes | Message = body
        elif kind == _MESSAGE:
            try:
                item = cast("Message", self._decoder.decode(body))
            except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
                raise BadFrame(f"not a message: {type(error).__name__}") from None
            if self._owner.urgent(self, item):
                return
        else:
            raise BadFrame(f"a frame of kind {kind}")
        self._queue.append((item, size))
        self._queue_bytes += size
        self._has_more.set()
        if self._queue_bytes > QUEUE_BYTES_HIGH and self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    # Writing

    def send(self, message: Message) -> None:
        """Write a message, whether the socket takes data or not: whoever sends bounds how many there are."""
        if self.is_open:
            self.write(frame_of(message))

    def write(self, frames: bytes) -> None:
        """Write whole frames."""
        if self.is_open and self._transport is not None:
            self._transport.write(frames)

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()
        self._end()

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not _is_ours(transport.get_extra_info("socket")):
            logger.warning("a connection of another user is ended")
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_BYTES_HIGH, low=WRITE_BYTES_LOW)
        self.is_open = True
        self._owner.opened(self)

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        if self.is_open:
            self._owner.writable(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end()

    def _end(self) -> None:
        """What was read and not taken is dropped: whoever comes again is told everything anew."""
        if self.is_open:
            self.is_open = False
            self._partial = bytearray()
            self._queue.clear()
            self._queue_bytes = 0
            self._has_more.set()
            self._owner.lost(self)


def frame(kind: int, body: bytes) -> bytes:
    """Return a frame. Raises ValueError for a body that is too long for one."""
    if len(body) >= FRAME_BYTES_MAX:
        raise ValueError(f"a frame has at most {FRAME_BYTES_MAX} bytes")
    return _HEAD.pack(len(body) + 1, kind) + body


def frame_of(message: Message) -> bytes:
    """Return the frame of a message."""
    return frame(_MESSAGE, msgspec.msgpack.encode(message))


def states_frame(batch: bytes) -> bytes:
    """Return the frame of a batch of states."""
    return frame(_STATES, batch)


def _is_ours(one: Any) -> bool:
    """Tell whether the process at the other end is one of this user. The directory says so already; this does not rely on it."""
    peer_credentials = getattr(socket, "SO_PEERCRED", None)
    if peer_credentials is None:
        return True
    _, user, _ = _PEER_CREDENTIALS.unpack(one.getsockopt(socket.SOL_SOCKET, peer_credentials, _PEER_CREDENTIALS.size))
    return bool(user == os.geteuid())
