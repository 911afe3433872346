"""A WebSocket client made of a socket and nothing else, that can break every rule.

Law: it sends exactly what it is told to and reads what comes; nothing is answered by itself. Every wait has a timeout.
"""

from __future__ import annotations

import base64
import socket
import struct
from hashlib import sha1
from types import TracebackType
from typing import NamedTuple, Self

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
TIMEOUT_S = 10.0
MASK = b"\x37\xfa\x21\x3d"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Frame(NamedTuple):
    """A frame that came from the server."""

    opcode: int
    payload: bytes
    is_last: bool = True

    @property
    def close_code(self) -> int | None:
        """The code of a close frame, None if it has none."""
        assert self.opcode == CLOSE, self
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else None


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length: int | None = None,
    wide: int = 0,
) -> bytes:
    """Return the bytes of a frame. `length` is what its header claims, `wide` the bytes that the length takes (0: as few as it needs)."""
    size = len(payload) if length is None else length
    wide = wide or (1 if size < 126 else 2 if size < 65536 else 8)
    second = {1: size, 2: 126, 8: 127}[wide] | (0 if mask is None else 0x80)
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode, second]) + (b"" if wide == 1 else size.to_bytes(wide, "big"))
    if mask is None:
        return head + payload
    repeated = mask * (len(payload) // 4 + 1)
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated[: len(payload)], "big")).to_bytes(len(payload), "big")
    return head + mask + masked


def close_frame(code: int | None = 1000, reason: bytes = b"") -> bytes:
    """Return a close frame."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def request(path: str = "/ws", *, version: str = "HTTP/1.1", method: str = "GET", **headers: str | None) -> bytes:
    """Return the head of an upgrade; headers by name with `_` for `-`, None leaves one out."""
    values: dict[str, str | None] = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
    }
    values |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in values.items() if value is not None)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Answer(NamedTuple):
    """The answer to a request, up to the end of its body; `rest` came behind its head."""

    status: int
    headers: dict[str, str]
    rest: bytes


class Raw:
    """A socket to a server on this machine."""

    def __init__(self, port: int, *, source: str | None = None, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        if source is not None:
            self.socket.bind((source, 0))
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def answer(self) -> Answer:
        """Read the head of an answer."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status, *lines = head.decode("ascii").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return Answer(int(status.split(" ")[1]), headers, self._buffer)

    def upgrade(self, head: bytes | None = None) -> Answer:
        """Become a WebSocket."""
        self.send(request() if head is None else head)
        answer = self.answer()
        assert answer.status == 101, answer
        guid = KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        assert answer.headers["sec-websocket-accept"] == base64.b64encode(sha1(guid).digest()).decode()
        return answer

    def frame(self) -> Frame:
        """Read one frame."""
        first, second = self._take(2)
        assert not second & 0x80, "a masked frame from the server"
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
        assert not first & 0x70, "a reserved bit from the server"
        return Frame(first & 0xF, self._take(size), bool(first & 0x80))

    def frames(self) -> list[Frame]:
        """Read all frames until the server closes its side or resets."""
        found = []
        try:
            while True:
                found.append(self.frame())
        except ConnectionError:
            return found

    def until_end(self) -> bytes:
        """Read what comes until the server closes its side or resets."""
        try:
            while True:
                self._more()
        except ConnectionError:
            return self._buffer

    def echo(self, payload: bytes = b"hello", opcode: int = TEXT) -> None:
        """Assert that a message comes back."""
        self.send(frame(opcode, payload))
        assert self.frame() == Frame(opcode, payload)

    def reset(self) -> None:
        """Close with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _more(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the server closed its side")
        self._buffer += data


def connect(port: int, head: bytes | None = None, *, source: str | None = None, receive_bytes: int | None = None) -> Raw:
    """Return a WebSocket."""
    raw = Raw(port, source=source, receive_bytes=receive_bytes)
    raw.upgrade(head)
    return raw
