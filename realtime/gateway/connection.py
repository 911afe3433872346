"""One WebSocket after its upgrade: two lanes out, whole messages in, pings, and an end in bounded time.

Law: what waits here is bounded by `control_lane_bytes` and the transport's high mark, whatever the peer does. The
handler is called until the first `close`, `abort`, violation or loss, then exactly once more, with `on_close`, which
never comes from inside a call of this class. Behind every close stands a deadline that cuts the socket. After a
violation what the peer sends is read and thrown away.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable
from typing import Protocol

from realtime.errors import CLOSE_CODES, CloseCode
from realtime.gateway.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    LOST,
    NO_CODE,
    PING,
    PONG,
    TEXT,
    Assembler,
    FrameScanner,
    Violation,
    parse_close,
    whole,
)
from realtime.gateway.handshake import Upgrade
from realtime.gateway.pulse import Pulse
from realtime.gateway.upkeep import Upkeep

WRITE_BUFFER_HIGH_BYTES = 64 * 1024
WRITE_BUFFER_LOW_BYTES = 16 * 1024  # stated, as uvloop's default is 16 bytes
_REASON_BYTES_MAX = 123
# When a connection has ended, the kernel tries that long to deliver what it still holds. Not before: it counts a window
# smaller than its next segment as no progress, and would cut who reads slowly with a small buffer.
_LINGER_MS = 30_000
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST and drops what the kernel still holds

# Why nothing is read: bits of `Connection._held_by`.
_LANE, _HANDLER = 1, 2


class Handler(Protocol):
    """What lives above a connection; made by a factory, one for each."""

    def on_open(self, connection: Connection) -> None:
        """The upgrade is done."""

    def on_message(self, data: str | bytes) -> None:
        """One whole message: text as str, binary as bytes."""

    def on_writable(self) -> None:
        """The connection was paused and no longer is."""

    def on_close(self, code: int) -> None:
        """It is over.

        `code` is what this side closed with; else the peer's, if it is one of CLOSE_CODES below 4000; else NO_CODE; LOST
        if the peer was gone without a close frame.
        """


class Pump(Protocol):
    """Writes the state lane past the connection: see `realtime.gateway.flush`."""

    def open(self, session: int, fileno: int, opcode: int) -> None:
        """Write the session's deltas to a socket, whenever that is `direct`."""

    def close(self, session: int) -> None:
        """Never touch that socket again."""

    def set_direct(self, session: int, is_direct: bool) -> None:
        """Say whether nothing else waits to be written to that socket."""

    def take_written(self, session: int) -> int:
        """Return how many bytes went to that socket since this was asked before."""


class FrameWriter(Protocol):
    """Writes frames to the socket."""

    @property
    def transport(self) -> asyncio.Transport:
        """The socket's transport."""

    def send(self, opcode: int, payload: bytes) -> None:
        """Write a frame."""

    def send_rest(self, rest: bytes) -> None:
        """Write the end of a frame that the pump has begun."""

    def send_close(self, code: int, reason: bytes) -> None:
        """Write a close frame; nothing can be written after it."""


class Connection:
    """One WebSocket.

    `message_bytes_max` may be set at any time. `is_paused`: the transport's buffer is over its high mark or control
    bytes wait; write no state then. `subprotocol` is the name that was agreed on, None if none was offered.
    """

    __slots__ = (
        "_assembler",
        "_fileno",
        "_handler",
        "_held_by",
        "_held_frames",
        "_is_blocked",
        "_is_reading",
        "_lane",
        "_on_lost",
        "_opcode",
        "_pong",
        "_pulse",
        "_pump",
        "_session",
        "_transport",
        "_upkeep",
        "_writer",
        "code",
        "control_bytes",
        "is_discarding",
        "is_open",
        "is_paused",
        "is_text",
        "peer",
        "scanner",
        "serial",
        "subprotocol",
    )

    def __init__(
        self,
        upkeep: Upkeep,
        handler: Handler,
        upgrade: Upgrade,
        peer: str,
        serial: int,
        scanner: FrameScanner,
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.is_text = upgrade.is_text
        self.subprotocol = upgrade.subprotocol
        self.peer = peer  # its address, without the port
        self.serial = serial  # 1, 2, … over the connections of a listener
        self.scanner = scanner
        self.is_open = False  # messages go in and out
        self.is_paused = False
        self.is_discarding = False  # what comes from the peer is thrown away unread
        self.code: int | None = None  # what `on_close` gets, once it is known
        self.control_bytes = 0  # wait in the control lane
        self._upkeep = upkeep
        self._handler: Handler | None = handler
        self._on_lost = on_lost
        self._opcode = TEXT if upgrade.is_text else BINARY
        self._writer: FrameWriter | None = None  # from opened() to lost()
        self._transport: asyncio.Transport | None = None
        self._fileno = -1
        self._pump: Pump | None = None  # from let_pump() to the end
        self._session = 0  # its number there
        self._is_blocked = False  # the transport's buffer is over its high mark
        self._lane: deque[tuple[int, bytes]] | None = None  # (opcode, payload), while blocked; an empty deque has 600 bytes
        self._pong: bytes | None = None  # the newest, while blocked
        self._assembler: Assembler | None = None  # while a message comes in fragments
        self._pulse = Pulse(upkeep.limits, upkeep.loop.time())
        self._is_reading = True
        self._held_by = 0
        self._held_frames: deque[tuple[int, bool, bytes]] | None = None  # were parsed already when reading was held

    # What the handler calls

    @property
    def message_bytes_max(self) -> int:
        """The longest message that is taken."""
        return self.scanner.message_bytes_max

    @message_bytes_max.setter
    def message_bytes_max(self, value: int) -> None:
        self.scanner.message_bytes_max = value

    @property
    def buffered_bytes(self) -> int:
        """What waits in user space to be written."""
        return self.control_bytes + (0 if self._transport is None else self._transport.get_write_buffer_size())

    def identified(self) -> None:
        """The first message came: the identify timeout is over."""
        self._upkeep.unidentified.discard(self)

    def send_control(self, data: str | bytes) -> None:
        """Send a message in order and without loss; it waits while the socket takes nothing.

        A str goes out as text, bytes as the subprotocol has them. More than `control_lane_bytes` that wait end the
        connection with SLOW_CONSUMER.
        """
        if not self.is_open:
            return
        opcode = self._opcode
        if isinstance(data, str):
            opcode, data = TEXT, data.encode()
        if not self._is_blocked:
            self._write(opcode, data)
            return
        lane_bytes_max = self._upkeep.limits.control_lane_bytes
        if self.control_bytes + len(data) > lane_bytes_max:
            self.abort(CloseCode.SLOW_CONSUMER)
            return
        if self._lane is None:
            self._lane = deque()
        self._lane.append((opcode, data))
        self.control_bytes += len(data)
        if self.control_bytes * 2 >= lane_bytes_max:
            self._hold(_LANE, True)

    def send_state(self, data: bytes) -> None:
        """Write a message at once; only while not paused."""
        if self.is_open:
            self._write(self._opcode, data)

    def send_rest(self, rest: bytes) -> None:
        """Write what the socket did not take of a frame that the pump has begun."""
        if self.is_open:
            assert self._writer is not None
            self._writer.send_rest(rest)
            self._judge_direct()

    def let_pump(self, pump: Pump, session: int) -> None:
        """Let a pump write the session's state to the socket from now on, while nothing else waits to be written."""
        if self.is_open:
            pump.open(session, self._fileno, self._opcode)
            self._pump, self._session = pump, session
            self._judge_direct()

    def hold_pump(self) -> None:
        """Let the pump write nothing until something was sent here: it must come right behind the next state."""
        if self._pump is not None:
            self._pump.set_direct(self._session, False)

    def hold_reading(self, is_held: bool) -> None:
        """Read nothing more, or go on; messages that were read already wait meanwhile."""
        self._hold(_HANDLER, is_held)

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Send what waits and a close frame, and wait for the peer's; the deadline cuts whoever takes too long."""
        if not self.is_open:
            return
        self._end(code)
        self._flush_lane(even_if_blocked=True)
        self._send_close(code, reason)
        self._read_to_the_end()

    def abort(self, code: CloseCode | int) -> None:
        """End the connection at once; the close frame goes along if the socket takes it without waiting."""
        if self._transport is None:
            return
        if self.is_open and not self._is_blocked and self._transport.get_write_buffer_size() == 0:
            self._send_close(code, "")
            self._end(code)
            self._transport.abort()
        else:
            self._end(code)
            self.cut()

    # What the wire calls

    def opened(self, writer: FrameWriter) -> None:
        """The upgrade is done and the 101 written."""
        now = self._upkeep.loop.time()
        self._writer = writer
        self._transport = writer.transport
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_HIGH_BYTES, low=WRITE_BUFFER_LOW_BYTES)
        self._fileno = self._transport.get_extra_info("socket").fileno()
        self.is_open = True
        self._upkeep.unidentified.add(self, now)
        self._upkeep.pings.add(self, now)
        if self._handler is not None:
            self._call(self._handler.on_open, self)

    def receive(self, opcode: int, is_last: bool, payload: bytes) -> None:
        """Take a frame that the scanner has admitted."""
        if not self.is_open:
            if opcode == CLOSE and self._transport is not None and not self.is_discarding:
                self._hang_up()
            return
        self._pulse.heard()
        if opcode in (PING, PONG):
            self._receive_control(opcode, payload)
        elif self._held_by or self._held_frames:
            if self._held_frames is None:
                self._held_frames = deque()
            self._held_frames.append((opcode, is_last, payload))
        else:
            self._take(opcode, is_last, payload)

    def violate(self, violation: Violation) -> None:
        """The peer broke the rules: say so, and take no more of what it sends."""
        self._upkeep.count("protocol_error")
        if self.is_open:
            self._end(violation.code)
            self._flush_lane(even_if_blocked=True)
            self._send_close(violation.code, violation.reason)
            self._read_to_the_end()
        self._discard()

    def block(self) -> None:
        """The transport's buffer is over its high mark."""
        now = self._upkeep.loop.time()
        self._is_blocked = self.is_paused = True
        self._pulse.blocked(now)
        if self.is_open:
            self._upkeep.watched.add(self, now)

    def unblock(self) -> None:
        """The transport's buffer is below its low mark."""
        self._is_blocked = False
        if not self.is_open:
            return
        self._flush_lane()
        if self._is_blocked:
            return
        self.is_paused = False
        self._hold(_LANE, False)
        if self._handler is not None:
            self._call(self._handler.on_writable)

    def peer_ended(self) -> None:
        """The peer has closed its side of the socket; it sends no more, not even a close frame."""
        if self.is_open and self._transport is not None:
            self._end(LOST)
            self._transport.abort()

    def lost(self) -> None:
        """The socket is gone."""
        self._end(LOST)
        self._upkeep.closing.discard(self)
        self._writer = self._transport = None
        self._on_lost(self)
        self._tell()

    # What the upkeep calls

    def ping(self, now: float) -> None:
        """Send a ping, unless one is on its way or the socket takes nothing; the write stall judges that."""
        if not self.is_open or self.is_paused or self._pulse.awaits_pong:
            return
        self._write(PING, b"")
        self._note_pumped()
        self._pulse.pinged(now)
        self._upkeep.watched.add(self, now)

    def judge(self, now: float) -> bool:
        """Cut a peer that takes no byte or owes a pong for too long; return whether to look again."""
        if not self.is_open:
            return False
        self._note_pumped()
        code = self._pulse.judge(now, self._outstanding_bytes(), is_paused=self.is_paused, is_deaf=not self._is_reading)
        if code is not None:
            self.abort(code)
        return self.is_open and (self.is_paused or self._pulse.awaits_pong)

    def cut(self) -> None:
        """End the socket now, and drop what the kernel still holds of it."""
        if self._transport is not None:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    def fail(self) -> None:
        """A bug of this side ends the connection."""
        self._upkeep.count("handler_error")
        self.close(CloseCode.BUG, "internal error")

    # Messages in

    def _receive_control(self, opcode: int, payload: bytes) -> None:
        """Answer a ping, take a pong; whoever sends too many is closed."""
        if not self._pulse.admits_control(opcode == PONG, self._upkeep.loop.time()):
            self.violate(Violation(CloseCode.POLICY, "more control frames than control_frames_per_s"))
        elif opcode == PING and self._is_blocked:
            self._pong = payload
        elif opcode == PING:
            self._write(PONG, payload)

    def _take(self, opcode: int, is_last: bool, payload: bytes) -> None:
        """Process a data or close frame."""
        if opcode == CLOSE:
            self._receive_close(payload)
            return
        try:
            message = whole(opcode, payload) if is_last and opcode != CONTINUATION else self._assemble(opcode, is_last, payload)
        except UnicodeDecodeError:
            self.violate(Violation(CloseCode.BAD_UTF8, "text that is not UTF-8"))
            return
        if message is not None and self._handler is not None:
            self._call(self._handler.on_message, message)

    def _assemble(self, opcode: int, is_last: bool, payload: bytes) -> str | bytes | None:
        """Return the message that a fragment completes, if it does."""
        if self._assembler is None:
            self._assembler = Assembler()
        message = self._assembler.add(opcode, is_last, payload)
        if is_last:
            self._assembler = None
        return message

    def _receive_close(self, payload: bytes) -> None:
        """Answer the peer's close frame with its own code, and hang up."""
        said = parse_close(payload)
        if isinstance(said, Violation):
            self.violate(said)
            return
        self._upkeep.count("closed_by_peer")
        is_known = said in CLOSE_CODES and said < CloseCode.SLOW_CONSUMER  # from there on the codes are the server's alone
        self._end(said if is_known else NO_CODE)
        self._flush_lane(even_if_blocked=True)
        self._send_close(CloseCode.NORMAL if said == NO_CODE else said, "")
        self._hang_up()

    def _hold(self, why: int, is_held: bool) -> None:
        """Add or remove a reason to read nothing."""
        before = self._held_by
        self._held_by = before | why if is_held else before & ~why
        if bool(before) == bool(self._held_by):
            return
        if self._held_by:
            self._read(False)
        else:
            self._upkeep.loop.call_soon(self._release)

    def _release(self) -> None:
        """Process the frames that waited, in order, then read on."""
        while self._held_frames and self.is_open and not self._held_by:
            self._take(*self._held_frames.popleft())
        if not self._held_by:
            self._read(True)

    def _read(self, is_reading: bool) -> None:
        """Read from the socket, or not."""
        if self._transport is None or self._transport.is_closing() or self._is_reading == is_reading:
            return
        self._is_reading = is_reading
        if is_reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _read_to_the_end(self) -> None:
        """Read on, whatever held it, so that the peer's close frame or FIN is seen."""
        self._held_frames = None
        self._held_by = 0
        self._read(True)

    # Bytes out

    def _write(self, opcode: int, data: bytes) -> None:
        """Write a frame; one of `is_open` or `_end`'s callers vouches for the writer."""
        assert self._writer is not None
        self._pulse.wrote(len(data))
        self._writer.send(opcode, data)
        self._judge_direct()

    def _judge_direct(self) -> None:
        """Tell the pump whether what it writes would come behind all that was written here."""
        if self._pump is not None:
            assert self._transport is not None
            self._pump.set_direct(self._session, self._transport.get_write_buffer_size() == 0)

    def _note_pumped(self) -> None:
        """Let the pulse know what the pump has written."""
        if self._pump is not None:
            self._pulse.pumped(self._pump.take_written(self._session))

    def _flush_lane(self, even_if_blocked: bool = False) -> None:
        """Write the newest pong and the control lane, as far as the transport takes it."""
        if self._pong is not None:
            pong, self._pong = self._pong, None
            self._write(PONG, pong)
        while self._lane and (even_if_blocked or not self._is_blocked):
            opcode, data = self._lane.popleft()
            self.control_bytes -= len(data)
            self._write(opcode, data)

    def _outstanding_bytes(self) -> int:
        """What was written and not acknowledged, over transport and kernel."""
        assert self._transport is not None
        queued = struct.unpack("i", fcntl.ioctl(self._fileno, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
        return self._transport.get_write_buffer_size() + int(queued)

    # The end

    def _end(self, code: int) -> None:
        """From here on the handler gets nothing but its `on_close`, and the peer has a deadline."""
        if self.code is None:
            self.code = int(code)
            self._upkeep.loop.call_soon(self._tell)
            self._upkeep.closing.add(self, self._upkeep.loop.time())
            if self._transport is not None:
                self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _LINGER_MS)
        self.is_open = False
        if self._pump is not None:
            self._pump.close(self._session)
            self._pump = None
        self._upkeep.unidentified.discard(self)
        self._upkeep.pings.discard(self)
        self._upkeep.watched.discard(self)

    def _tell(self) -> None:
        """Call `on_close`, once."""
        handler, self._handler = self._handler, None
        self._lane = self._held_frames = None
        self.control_bytes = 0
        if handler is not None:
            self._call(handler.on_close, self.code)

    def _send_close(self, code: int, reason: str) -> None:
        assert self._writer is not None
        whole = reason.encode()[:_REASON_BYTES_MAX].decode(errors="ignore")
        self._writer.send_close(int(code), whole.encode())

    def _discard(self) -> None:
        """Tell the peer that nothing more comes, and wait for its FIN with deaf ears.

        Closing right away with unread bytes would send RST, and the peer could lose the close frame to it.
        """
        if not self.is_discarding and self._transport is not None and not self._transport.is_closing():
            self.is_discarding = True
            try:
                self._transport.write_eof()
            except OSError:  # reset by the peer, and not noticed yet
                self._transport.abort()

    def _hang_up(self) -> None:
        """Both close frames are on their way: the server ends the socket first."""
        self.is_discarding = True
        if self._transport is not None:
            self._transport.close()

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        """Call the handler; what it raises costs this connection alone."""
        try:
            callback(*arguments)
        except Exception:  # noqa: BLE001 - logged there
            self._upkeep.complaints.exception("handler", "a connection's handler raised")
            self.fail()
