"""The load client: a WebSocket connection that holds a whole mirror and finds out whether every frame is right.

Law: it takes a few microseconds per frame and less than one per entity, so that a thousand of them fit into one process
beside the publisher; what it counts is what it applied to its mirror, and what it waits for is measured from the time
at which a change was due to be published, whether or not anybody was late.

The WebSocket part knows as much of RFC 6455 as a client of this server needs: no extensions, no fragments.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Struct

from bench.workloads import BBox

SUBPROTOCOLS = {"json": "realtime.v1.json", "msgpack": "realtime.v1.msgpack"}
RECEIVE_BUFFER_BYTES = 4096  # SO_RCVBUF of a client that will stop reading: the kernel holds no more than a few KiB for it

CUT_ENTITIES = 500  # with fewer, no delta here is as long as the server lets it be

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING = 0, 1, 2, 8, 9
_FIN, _MASKED = 0x80, 0x80
_KEY = b"\0\0\0\0"  # masks with zeros: right on the wire, and nobody on this loopback needs protection from ourselves

Held = tuple[str, int, float, float]  # id, version, lon, lat


class Point(Struct, gc=False):
    coordinates: tuple[float, float]


class Feature(Struct, gc=False):
    id: str
    version: int
    geometry: Point


class Patch(Struct, gc=False):
    id: str
    version: int
    geometry: Point | None = None


class Delta(Struct, tag="delta", gc=False):
    seq: int
    reset: bool = False
    more: bool = False
    total: int | None = None
    enter: list[Feature] = []
    move: list[Held] = []
    patch: list[Patch] = []
    leave: dict[str, list[str]] = {}


class Check(Struct, tag="check", gc=False):
    seq: int
    count: int
    digest: str
    pending: int


class Welcome(Struct, tag="welcome"):
    protocol: int


class Error(Struct, tag="error"):
    code: str
    message: str


class Pong(Struct, tag="pong"):
    pass


class Drain(Struct, tag="drain"):
    reconnect_ms: int


ServerMessage = Delta | Check | Welcome | Error | Pong | Drain
_DECODERS: dict[str, Callable[[bytes], ServerMessage]] = {
    "json": msgspec.json.Decoder(ServerMessage).decode,
    "msgpack": msgspec.msgpack.Decoder(ServerMessage).decode,
}
_ENCODERS = {"json": msgspec.json.encode, "msgpack": msgspec.msgpack.encode}


class Schedule(NamedTuple):
    """When changes are due: the one with version `first_version + n` at `start + n / rate`, on the monotonic clock."""

    start: float
    rate: float
    first_version: int

    def version_due(self, now: float) -> int:
        """Return the newest version that is due."""
        return self.first_version + int((now - self.start) * self.rate)


class Tally:
    """What a group of viewers applied, and what was wrong with it. `restart()` begins another count."""

    def __init__(self) -> None:
        self.schedule: Schedule | None = None  # None: nothing to measure waiting by
        self.faults: Counter[str] = Counter()  # kept over restarts: a wrong frame is never forgiven
        self.closed: Counter[str] = Counter()  # connections by how they ended
        self.restart()

    def restart(self) -> None:
        """Count from zero."""
        self.frames = 0
        self.frame_bytes = 0
        self.deltas = 0  # entities entered, moved, patched or gone from a mirror
        self.waits: Counter[int] = Counter()  # steps of the schedule from due to applied -> entities


class Viewer(asyncio.Protocol):
    """One connection with one view. Deltas are applied as they come; `is_filled` once the view was answered in full."""

    def __init__(self, bbox: BBox, encoding: str, tally: Tally) -> None:
        self.bbox = bbox
        self.mirror: dict[str, Held] = {}
        self.check: Check | None = None  # the last one
        self.is_filled = False
        self.is_open = False
        self.is_reading = True
        self.tally = tally
        self._encoding = encoding
        self._decode = _DECODERS[encoding]
        self._seq = 0
        self._rest = b""  # of a frame that is not whole yet; before the upgrade, of the response's head
        self._transport: asyncio.Transport | None = None
        self._close_code: int | None = None

    # The connection

    async def open(self, host: str, port: int, receive_buffer_bytes: int = 0) -> None:
        """Connect and send the view. Raises OSError."""
        loop = asyncio.get_running_loop()
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        one.setblocking(False)
        if receive_buffer_bytes:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            await loop.sock_connect(one, (host, port))
        except BaseException:
            one.close()
            raise
        await loop.create_connection(lambda: self, sock=one)
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOLS[self._encoding]}\r\n\r\n"
        )
        self._write(head.encode())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none, but do the same

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.is_open = False
        how = str(self._close_code) if self._close_code is not None else "reset" if error is not None else "cut"
        self.tally.closed[how] += 1

    def close(self) -> None:
        """Leave with 1000, without waiting for the answer."""
        if self._transport is not None:
            self._close_code = 1000
            self._send_frame(_CLOSE, (1000).to_bytes(2, "big"))
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def stop_reading(self) -> None:
        """Take nothing more from the socket."""
        if self._transport is not None and self.is_reading:
            self.is_reading = False
            self._transport.pause_reading()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message."""
        self._send_frame(_TEXT if self._encoding == "json" else _BINARY, _ENCODERS[self._encoding](message))

    def ask_check(self) -> None:
        """Ask what the mirror must amount to; the answer becomes `check`."""
        self.check = None
        self.send({"type": "check"})

    def _send_frame(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        length = bytes((_MASKED | size,)) if size < 126 else bytes((_MASKED | 126,)) + size.to_bytes(2, "big")
        self._write(bytes((_FIN | opcode,)) + length + _KEY + payload)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    # Frames

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        if not self.is_open:
            at = self._take_head(data)
        while self.is_open and end - at >= 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                start = at + 4
                length = int.from_bytes(data[at + 2 : start], "big")
            elif length == 127:
                start = at + 10
                length = int.from_bytes(data[at + 2 : start], "big")
            if start + length > end or start > end:
                break
            self._on_frame(data[at], data[start : start + length])
            at = start + length
        self._rest = data[at:]

    def _take_head(self, data: bytes) -> int:
        """Return where the frames begin, 0 while the head is not whole; the view is sent as soon as it is."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return 0
        if not data.startswith(b"HTTP/1.1 101 "):
            self.tally.faults[f"upgrade: {data[:12].decode('latin-1')}"] += 1
            self.abort()
            return end + 4
        self.is_open = True
        self.send({"type": "view", "bbox": self.bbox})
        return end + 4

    def _on_frame(self, first: int, payload: bytes) -> None:
        opcode = first & 0x0F
        if opcode in (_TEXT, _BINARY):
            try:
                message = self._decode(payload)
            except msgspec.DecodeError as error:
                self.tally.faults[f"undecodable: {error}"] += 1
                return
            if type(message) is Delta:
                self.tally.frame_bytes += len(payload)
                self._apply(message)
            elif type(message) is Check:
                self.check = message
            elif type(message) is Error:
                self.tally.faults[f"error: {message.code}"] += 1
        elif opcode == _PING:
            self._send_frame(10, payload)
        elif opcode == _CLOSE:
            self._close_code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            self._send_frame(_CLOSE, payload[:2])
        elif opcode == _CONTINUATION:
            self.tally.faults["a fragment"] += 1

    def _apply(self, delta: Delta) -> None:
        """Apply a delta, note how long each entity in it was due, and everything that is wrong with it."""
        tally, mirror = self.tally, self.mirror
        faults = tally.faults
        if delta.seq != self._seq + 1:
            faults["seq: not the next one"] += 1
        self._seq = delta.seq
        if delta.reset:
            mirror.clear()
        schedule, waits = tally.schedule, tally.waits
        due = 0 if schedule is None else schedule.version_due(monotonic())
        for move in delta.move:
            id, version, _, _ = move
            held = mirror.get(id)
            if held is None or held[1] >= version:
                faults["move: not held" if held is None else "move: version not above the held one"] += 1
            mirror[id] = move
            waits[due - version] += 1
        for feature in delta.enter:
            held = mirror.get(feature.id)
            if held is not None and held[1] >= feature.version:
                faults["enter: version not above the held one"] += 1
            mirror[feature.id] = (feature.id, feature.version, *feature.geometry.coordinates)
            waits[due - feature.version] += 1
        for patch in delta.patch:
            held = mirror.get(patch.id)
            if held is None or held[1] >= patch.version:
                faults["patch: not held" if held is None else "patch: version not above the held one"] += 1
                continue
            place = held[2:] if patch.geometry is None else patch.geometry.coordinates
            mirror[patch.id] = (patch.id, patch.version, *place)
            waits[due - patch.version] += 1
        gone = 0
        for ids in delta.leave.values():
            gone += len(ids)
            for id in ids:
                if mirror.pop(id, None) is None:
                    faults["leave: not held"] += 1
        tally.frames += 1
        told = len(delta.move) + len(delta.enter) + len(delta.patch) + gone
        tally.deltas += told
        if delta.total is not None and not delta.more:
            # A delta that was cut, as the last one of a fill mostly is, may leave changes for the next.
            may_be_cut = not self.is_filled or told >= CUT_ENTITIES
            self.is_filled = True
            if not may_be_cut and delta.total != len(mirror):
                faults["total: not the size of the mirror"] += 1
