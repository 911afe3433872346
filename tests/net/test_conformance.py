"""RFC 6455 as the gateway keeps it, over real sockets: what public conformance suites ask, written from the RFC.

Each case is a list of chunks to send and what must come back. A case runs with its bytes in one piece, and again with
one byte per send, as a parser that is right must not care. A bystander on the same server echoes after every case.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.echo_server import Running
from tests.net.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, Raw, close_frame, connect, frame, request

MESSAGE_BYTES = 200_000
FRAGMENTS = 16


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with Running(loop=request.param, message_bytes_before_identify=MESSAGE_BYTES, fragments=FRAGMENTS, close_timeout_s=1.0) as running:
        yield running


@pytest.fixture
def bystander(server: Running) -> Iterator[Raw]:
    with connect(server.port) as raw:
        raw.echo()
        yield raw
        raw.echo()


class Case(NamedTuple):
    name: str
    sent: bytes
    back: list[Frame]  # before the close frame
    code: int | None  # of the server's close frame; None: the connection stays, and the case closes it with 1000


def text(payload: bytes) -> Frame:
    return Frame(TEXT, payload)


HI, GREEK = b"Hello", "κόσμε".encode()
PARTS = frame(TEXT, b"frag", fin=False) + frame(CONTINUATION, b"ment")

FRAMING = [
    *(Case(f"text of {n} bytes", frame(TEXT, b"*" * n), [text(b"*" * n)], None) for n in (0, 1, 125, 126, 127, 128, 65535, 65536, 65537)),
    *(Case(f"binary of {n} bytes", frame(BINARY, b"\xfe" * n), [Frame(BINARY, b"\xfe" * n)], None) for n in (0, 125, 126, 65535, 65536)),
    Case("a zero mask", frame(TEXT, HI, mask=b"\0\0\0\0"), [text(HI)], None),
    Case("unmasked", frame(TEXT, HI, mask=None), [], 1002),
    Case("16 bits for 125", frame(TEXT, b"*" * 125, wide=2), [], 1002),
    Case("64 bits for 65535", frame(TEXT, b"*" * 65535, wide=8), [], 1002),
    Case("exactly the limit", frame(BINARY, b"*" * MESSAGE_BYTES), [Frame(BINARY, b"*" * MESSAGE_BYTES)], None),
    Case("one over the limit", frame(BINARY, b"*" * (MESSAGE_BYTES + 1)), [], 1009),
    *(Case(f"claims {n:#x}", frame(BINARY, b"", length=n, wide=8), [], 1009) for n in (1 << 20, 10 << 20, 1 << 32, (1 << 63) - 1)),
    *(Case(f"claims {n:#x}", frame(BINARY, b"", length=n, wide=8), [], 1002) for n in (1 << 63, (1 << 64) - 1, 0xFFFF_FFFF_0000_0000)),
]
PINGS = [
    *(
        Case(
            f"ping of {n} bytes",
            frame(PING, b"\x00\xff" * (n // 2) + b"!" * (n % 2)),
            [Frame(PONG, b"\x00\xff" * (n // 2) + b"!" * (n % 2))],
            None,
        )
        for n in (0, 1, 125)
    ),
    Case("ping of 126 bytes", frame(PING, b"*" * 126), [], 1002),
    Case("unsolicited pong", frame(PONG, b"unasked") + frame(TEXT, HI), [text(HI)], None),
    Case("unsolicited pong, then ping", frame(PONG, b"unasked") + frame(PING, b"p"), [Frame(PONG, b"p")], None),
    Case("ten pings", b"".join(frame(PING, b"%d" % n) for n in range(10)), [Frame(PONG, b"%d" % n) for n in range(10)], None),
    Case("fragmented ping", frame(PING, b"p", fin=False) + frame(CONTINUATION), [], 1002),
    Case("fragmented pong", frame(PONG, b"p", fin=False) + frame(CONTINUATION), [], 1002),
]
RESERVED = [
    *(Case(f"rsv {rsv} on {opcode:#x}", frame(opcode, HI, rsv=rsv), [], 1002) for rsv in range(1, 8) for opcode in (TEXT, PING)),
    Case("rsv on a close frame", frame(CLOSE, b"\x03\xe8", rsv=4), [], 1002),
    Case("rsv after a message", frame(TEXT, HI) + frame(TEXT, HI, rsv=2) + frame(PING), [text(HI)], 1002),
    Case("rsv on a continuation", frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", rsv=1), [], 1002),
    *(
        Case(f"opcode {opcode:#x}", frame(opcode, payload), [], 1002)
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        for payload in (b"", HI)
    ),
    Case("opcode 5 after a message", frame(TEXT, HI) + frame(5) + frame(PING), [text(HI)], 1002),
]
FRAGMENTED = [
    Case("two fragments", PARTS, [text(b"fragment")], None),
    Case("two binary fragments", frame(BINARY, b"\xff", fin=False) + frame(CONTINUATION, b"\xfe"), [Frame(BINARY, b"\xff\xfe")], None),
    Case("empty fragments", frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION), [text(b"")], None),
    Case("only the middle", frame(TEXT, fin=False) + frame(CONTINUATION, b"mid", fin=False) + frame(CONTINUATION), [text(b"mid")], None),
    Case(
        "a ping within",
        frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"b"),
        [Frame(PONG, b"p"), text(b"ab")],
        None,
    ),
    Case("two in a row", PARTS + PARTS, [text(b"fragment")] * 2, None),
    Case("continuation of nothing", frame(CONTINUATION, b"x"), [], 1002),
    Case("open continuation of nothing", frame(CONTINUATION, b"x", fin=False) + frame(TEXT, HI), [], 1002),
    Case("continuation after the end", PARTS + frame(CONTINUATION, b"x"), [text(b"fragment")], 1002),
    Case("text within a message", frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), [], 1002),
    Case("binary within a message", frame(TEXT, b"a", fin=False) + frame(BINARY, b"b", fin=False), [], 1002),
    Case(
        "as many as allowed",
        frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", fin=False) * (FRAGMENTS - 2) + frame(CONTINUATION, b"c"),
        [text(b"a" + b"b" * 14 + b"c")],
        None,
    ),
    Case("one more", frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", fin=False) * FRAGMENTS, [], 1009),
    Case("a bomb of empty ones", frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 500, [], 1009),
    Case("the sum is one over", frame(BINARY, b"*" * 150_000, fin=False) + frame(CONTINUATION, b"*" * 50_001), [], 1009),
    Case(
        "the sum is exact",
        frame(BINARY, b"*" * 150_000, fin=False) + frame(CONTINUATION, b"*" * 50_000),
        [Frame(BINARY, b"*" * MESSAGE_BYTES)],
        None,
    ),
]
GOOD_TEXT = [
    GREEK,
    "Hello-µ@ßöäüàá-UTF-8!!".encode(),
    b"\x00",
    *(chr(point).encode() for point in (0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFD, 0xFFFE, 0xFFFF, 0x1FFFE, 0x10FFFF)),
]
BAD_TEXT = [
    GREEK + b"\xed\xa0\x80" + b"edited",  # a lone surrogate
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",  # a pair of them
    b"\xf4\x90\x80\x80",  # over 0x10FFFF
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xc0\x80",  # longer than needed
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\x80",
    b"\xbf\xbf",
    b"\xc3",  # cut off
    b"\xe2\x82",
    b"\xf0\x9f\x98",
    b"\xc3(",
    b"\xfe",
    b"\xff",
    HI + b"\xce\xba\xe1\xbd",
]
UTF8 = [
    *(Case(f"good {payload!r}", frame(TEXT, payload), [text(payload)], None) for payload in GOOD_TEXT),
    *(Case(f"bad {payload!r}", frame(TEXT, payload), [], 1007) for payload in BAD_TEXT),
    *(Case(f"bad in fragments {p!r}", frame(TEXT, p[:1], fin=False) + frame(CONTINUATION, p[1:]), [], 1007) for p in BAD_TEXT),
    Case("a character over two fragments", frame(TEXT, GREEK[:3], fin=False) + frame(CONTINUATION, GREEK[3:]), [text(GREEK)], None),
    Case(
        "a byte per fragment",
        frame(TEXT, b"", fin=False)
        + b"".join(frame(CONTINUATION, GREEK[n : n + 1], fin=False) for n in range(10))
        + frame(CONTINUATION, GREEK[10:]),
        [text(GREEK)],
        None,
    ),
    Case("bad before the end", frame(TEXT, GREEK, fin=False) + frame(CONTINUATION, b"\xf4\x90", fin=False), [], 1007),
    Case("bytes that are no text, as binary", frame(BINARY, b"\xff\xfe"), [Frame(BINARY, b"\xff\xfe")], None),
]
CLOSING = [
    *(
        Case(f"close {code}", close_frame(code), [], code)
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
    ),
    *(Case(f"close {code}", close_frame(code), [], 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)),
    Case("close without a code", close_frame(None), [], 1000),
    Case("close of one byte", frame(CLOSE, b"\x03"), [], 1002),
    Case("close with a reason", close_frame(1000, b"bye"), [], 1000),
    Case("close with the longest reason", close_frame(1000, b"*" * 123), [], 1000),
    Case("close that is too long", close_frame(1000, b"*" * 124), [], 1002),
    Case("close with a bad reason", close_frame(1000, GREEK + b"\xed\xa0\x80"), [], 1007),
    Case("close twice", close_frame(1000) * 2, [], 1000),
    Case("message after close", frame(TEXT, HI) + close_frame(1000) + frame(TEXT, b"late") + frame(PING), [text(HI)], 1000),
    Case("nonsense after close", close_frame(1001) + frame(5, HI), [], 1001),
    Case("close within a message", frame(TEXT, b"a", fin=False) + close_frame(1000) + frame(CONTINUATION, b"b"), [], 1000),
]
CASES = [*FRAMING, *PINGS, *RESERVED, *FRAGMENTED, *UTF8, *CLOSING]


def run(case: Case, raw: Raw) -> None:
    """Assert what comes back, and that the server ends the socket."""
    expected = 1000 if case.code is None else case.code
    if case.code is None:
        raw.send(close_frame(1000))
    frames = raw.frames()
    assert frames[:-1] == case.back
    assert frames[-1].close_code == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, server: Running, bystander: Raw) -> None:
    started = time.monotonic()
    with connect(server.port) as raw:
        raw.send(case.sent)
        run(case, raw)
    assert time.monotonic() - started < server.limits.close_timeout_s, "only the deadline ended it"


@pytest.mark.parametrize("case", [case for case in CASES if len(case.sent) < 2000], ids=lambda case: case.name)
def test_case_byte_by_byte(case: Case, server: Running, bystander: Raw) -> None:
    with connect(server.port) as raw:
        with contextlib.suppress(ConnectionError):  # the end may come before the last byte is sent
            for at in range(len(case.sent)):
                raw.send(case.sent[at : at + 1])
        with contextlib.suppress(ConnectionError):
            run(case, raw)
            return
    pytest.fail("the connection was reset")


def test_frames_that_come_with_the_head(server: Running) -> None:
    """A client that does not wait for the 101 loses nothing."""
    with Raw(server.port) as raw:
        raw.send(request() + frame(TEXT, HI) + frame(PING, b"p") + frame(BINARY, b"*" * 100_000))
        assert raw.answer().status == 101
        assert [raw.frame() for _ in range(3)] == [text(HI), Frame(PONG, b"p"), Frame(BINARY, b"*" * 100_000)]


def test_what_follows_a_violation_is_not_processed(server: Running, bystander: Raw) -> None:
    with connect(server.port) as raw:
        raw.send(frame(TEXT, HI) + frame(TEXT, HI, rsv=1) + frame(TEXT, b"late") * 50 + frame(PING) + close_frame(1000))
        frames = raw.frames()
        assert frames[0] == text(HI)
        assert [frames[1].close_code] == [1002]
        assert len(frames) == 2


def test_a_close_frame_survives_a_flood_behind_the_violation(server: Running, bystander: Raw) -> None:
    """The server reads on and throws away, so that no RST overtakes the close frame."""
    with connect(server.port) as raw:
        raw.send(frame(3) + b"\x00" * 2_000_000)
        assert [frame.close_code for frame in raw.frames()] == [1002]


def test_who_does_not_hang_up_is_cut(server: Running) -> None:
    with connect(server.port) as raw:
        started = time.monotonic()
        raw.send(frame(3))
        assert raw.frame().close_code == 1002
        mine = server.call(lambda listener: max(listener.connections, key=lambda connection: connection.serial))
        while server.call(lambda listener: mine in listener.connections):
            assert time.monotonic() - started < 3 * server.limits.close_timeout_s
            time.sleep(0.05)
        assert time.monotonic() - started >= 0.9 * server.limits.close_timeout_s


def test_many_messages_in_one_piece_and_in_odd_pieces(server: Running) -> None:
    messages = [bytes([n % 251]) * (n * 37 % 3000) for n in range(200)]
    stream = b"".join(frame(BINARY, message) for message in messages)
    for step in (len(stream), 4093, 1):
        sent, expected = (stream, messages) if step > 1 else (stream[:5000], messages[:2])
        with connect(server.port) as raw:
            for at in range(0, len(sent), step):
                raw.send(sent[at : at + step])
            assert [raw.frame() for _ in expected] == [Frame(BINARY, message) for message in expected]


def test_long_and_short_messages_mixed_to_a_slow_reader(server: Running) -> None:
    """Many wait in the transport at once; each keeps its own header."""
    sizes = (30_000, 9_000, 5, 9_000, 8_192, 8_193, 0, 150_000)
    messages = [bytes([n + 1]) * sizes[n % len(sizes)] for n in range(40)]
    with connect(server.port, receive_bytes=4096) as raw:
        raw.send(b"".join(frame(BINARY, message) for message in messages[:8]))
        for n, message in enumerate(messages):
            assert raw.frame() == Frame(BINARY, message)
            if n + 8 < len(messages):
                raw.send(frame(BINARY, messages[n + 8]))


def test_close_behind_many_messages_comes_after_their_answers(server: Running) -> None:
    messages = [bytes([n % 251]) * 2000 for n in range(200)]
    with connect(server.port) as raw:
        raw.send(b"".join(frame(BINARY, message) for message in messages) + close_frame(1001))
        frames = raw.frames()
        assert frames[:-1] == [Frame(BINARY, message) for message in messages]
        assert frames[-1].close_code == 1001
