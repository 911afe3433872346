"""The rules of RFC 6455 for the frames of a client, and whole messages out of them. No I/O.

Law: a frame is judged by its header, before its payload is kept anywhere: what is too big or against the rules is
found as soon as the bytes that say so have come. Frames before the first violation count, nothing after it does; nor
does anything after a close frame.
"""

from __future__ import annotations

import codecs
from typing import NamedTuple

from realtime.errors import CloseCode

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

# RFC 6455's names for what no close frame says.
NO_CODE = 1005  # it had no code
LOST = 1006  # there was none

_FIN, _RESERVED, _OPCODE, _IS_CONTROL = 0x80, 0x70, 0x0F, 0x08
_MASKED, _LENGTH = 0x80, 0x7F
_HEADER_BYTES_MAX = 10  # without the masking key, which is skipped like payload
_MASKING_KEY_BYTES = 4
_CONTROL_BYTES_MAX = 125

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


def frame_header(opcode: int, size: int) -> bytes:
    """Return what stands before the payload in a frame of a server, which is whole and not masked."""
    if size <= _CONTROL_BYTES_MAX:
        return bytes((_FIN | opcode, size))
    if size < 1 << 16:
        return bytes((_FIN | opcode, 126)) + size.to_bytes(2, "big")
    return bytes((_FIN | opcode, 127)) + size.to_bytes(8, "big")


class Violation(NamedTuple):
    """What a frame broke, as it is said in the close frame."""

    code: CloseCode
    reason: str


class FrameScanner:
    """Follows the frames in a stream of bytes by their headers alone.

    `message_bytes_max` may be changed at any time and holds from the next header on. `violation` is the first one;
    after it nothing is admitted any more.
    """

    __slots__ = (
        "_fragments",
        "_fragments_max",
        "_header",
        "_is_closed",
        "_is_within",
        "_kinds",
        "_message_bytes",
        "_skip",
        "message_bytes_max",
        "violation",
    )

    def __init__(self, message_bytes_max: int, fragments_max: int, kinds: frozenset[int]) -> None:
        self.message_bytes_max = message_bytes_max
        self.violation: Violation | None = None
        self._fragments_max = fragments_max
        self._kinds = kinds  # which of TEXT and BINARY are spoken here
        self._skip = 0  # bytes of masking key and payload that are still to come
        self._header = b""  # of a header that came in pieces
        self._is_closed = False  # a close frame has come
        self._is_within = False  # a fragmented message has begun
        self._message_bytes = 0  # of that message so far
        self._fragments = 0

    @property
    def is_between_frames(self) -> bool:
        """Whether what was scanned ends with a whole frame."""
        return self._skip == 0 and not self._header

    @property
    def outstanding_bytes(self) -> int:
        """How much of the present frame is still to come, as far as its header says."""
        return self._skip

    def scan(self, data: memoryview) -> int:
        """Return how many of the next bytes of the stream may be processed: all, or those before the violation."""
        if self.violation is not None:
            return 0
        at, size = 0, len(data)
        while True:
            if self._skip >= size - at:
                self._skip -= size - at
                return size
            at += self._skip
            self._skip = 0
            if self._is_closed:
                return at
            came = len(self._header)
            header = self._header + bytes(data[at : at + _HEADER_BYTES_MAX])
            header_bytes = self._judge(header)
            if self.violation is not None:
                return at
            if header_bytes == 0:
                self._header = header
                return size
            self._header = b""
            at += header_bytes - came

    def _judge(self, header: bytes) -> int:
        """Return the length of the header, 0 if more of it is needed; note a violation."""
        if len(header) < 2:
            return 0
        first, second = header[0], header[1]
        opcode, length, header_bytes = first & _OPCODE, second & _LENGTH, 2
        self.violation = self._judge_start(first, second)
        if self.violation is not None:
            return 0
        if length > _CONTROL_BYTES_MAX:
            header_bytes = 4 if length == 126 else 10
            if len(header) < header_bytes:
                return 0
            length = int.from_bytes(header[2:header_bytes], "big")
            if length < (126 if header_bytes == 4 else 1 << 16) or length >> 63:
                self.violation = Violation(CloseCode.PROTOCOL_ERROR, "a length that is not encoded as it must be")
                return 0
        if opcode == CLOSE:
            self._is_closed = True
        elif not opcode & _IS_CONTROL:
            self._count(opcode, length, is_last=bool(first & _FIN))
        self._skip = length + _MASKING_KEY_BYTES
        return header_bytes

    def _judge_start(self, first: int, second: int) -> Violation | None:
        """Judge the first two bytes of a header."""
        opcode, length = first & _OPCODE, second & _LENGTH
        if first & _RESERVED:
            return Violation(CloseCode.PROTOCOL_ERROR, "a reserved bit is set")
        if not second & _MASKED:
            return Violation(CloseCode.PROTOCOL_ERROR, "a frame that is not masked")
        if opcode & _IS_CONTROL:
            if opcode > PONG:
                return Violation(CloseCode.PROTOCOL_ERROR, "a reserved opcode")
            if not first & _FIN or length > _CONTROL_BYTES_MAX:
                return Violation(CloseCode.PROTOCOL_ERROR, "a control frame that is fragmented or too long")
            return None
        if opcode > BINARY:
            return Violation(CloseCode.PROTOCOL_ERROR, "a reserved opcode")
        if (opcode == CONTINUATION) != self._is_within:
            return Violation(CloseCode.PROTOCOL_ERROR, "a continuation without a start, or a start within a message")
        if opcode != CONTINUATION and opcode not in self._kinds:
            return Violation(CloseCode.WRONG_FRAME_TYPE, "the subprotocol has the other frame type")
        return None

    def _count(self, opcode: int, length: int, *, is_last: bool) -> None:
        """Count a data frame towards its message."""
        if opcode != CONTINUATION:
            self._message_bytes = self._fragments = 0
        self._message_bytes += length
        self._fragments += 1
        self._is_within = not is_last
        if self._message_bytes > self.message_bytes_max:
            self.violation = Violation(CloseCode.TOO_BIG, f"a message over {self.message_bytes_max} bytes")
        elif self._fragments > self._fragments_max:
            self.violation = Violation(CloseCode.TOO_BIG, f"a message in more than {self._fragments_max} fragments")


def whole(opcode: int, payload: bytes) -> str | bytes:
    """Return the message that one frame is, text as str. Raises UnicodeDecodeError."""
    return str(payload, "utf-8") if opcode == TEXT else payload


class Assembler:
    """Puts the fragments of a message together. What `FrameScanner` admits comes in the right order."""

    __slots__ = ("_decoder", "_pieces")

    def __init__(self) -> None:
        self._decoder: codecs.IncrementalDecoder | None = None
        self._pieces: list[str | bytes] = []

    def add(self, opcode: int, is_last: bool, payload: bytes) -> str | bytes | None:
        """Return the message that this frame completes, text as str; None: there is more to come.

        Raises UnicodeDecodeError with the first fragment that cannot be UTF-8, whatever would follow.
        """
        if opcode != CONTINUATION:
            if is_last:
                return whole(opcode, payload)
            self._pieces.clear()
            self._decoder = _Utf8Decoder() if opcode == TEXT else None
        self._pieces.append(payload if self._decoder is None else self._decoder.decode(payload, is_last))
        if not is_last:
            return None
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces) if self._decoder is None else "".join(pieces)  # type: ignore[arg-type]


def parse_close(payload: bytes) -> int | Violation:
    """Return the code in the payload of a close frame, NO_CODE where there is none."""
    if not payload:
        return NO_CODE
    code = int.from_bytes(payload[:2], "big")
    # 1004 to 1006 and 1015 may not be sent; what lies below 3000 otherwise is for later versions of the RFC.
    if len(payload) == 1 or not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        return Violation(CloseCode.PROTOCOL_ERROR, "a close code that may not be sent")
    try:
        str(payload[2:], "utf-8")
    except UnicodeDecodeError:
        return Violation(CloseCode.BAD_UTF8, "a close reason that is not UTF-8")
    return code
