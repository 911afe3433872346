"""Frames and messages without sockets: what is admitted, in whatever pieces the bytes come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.errors import CloseCode
from realtime.gateway.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NO_CODE,
    PING,
    TEXT,
    Assembler,
    FrameScanner,
    Violation,
    parse_close,
)
from tests.net.raw import frame

BOTH = frozenset((TEXT, BINARY))


def scanner(message_bytes_max: int = 1000, fragments_max: int = 4, kinds: frozenset[int] = BOTH) -> FrameScanner:
    return FrameScanner(message_bytes_max, fragments_max, kinds)


def admitted(one: FrameScanner, data: bytes) -> int:
    return one.scan(memoryview(data))


# Any frames, right or wrong
frames = st.builds(
    frame,
    st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING, 0xA, 0x3, 0xB]),
    st.binary(max_size=300),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 0, 0, 1, 4]),
    mask=st.sampled_from([b"\0\0\0\0", b"\1\2\3\4", b"\xff\xff\xff\xff", None]),
)


@given(data=st.lists(frames, max_size=8).map(b"".join) | st.binary(max_size=400), cuts=st.lists(st.integers(0, 2000), max_size=30))
def test_pieces_make_no_difference(data: bytes, cuts: list[int]) -> None:
    """What is admitted of a stream ends before the violating frame, or within its header where that came in pieces."""
    whole = scanner()
    end = admitted(whole, data)
    pieced = scanner()
    total = 0
    for start, stop in zip(sorted({0, *cuts}), [*sorted({0, *cuts})[1:], len(data)], strict=True):
        piece = data[start:stop]
        count = admitted(pieced, piece)
        total += count
        if count < len(piece):
            break
    assert pieced.violation == whole.violation
    if whole.violation is None:
        assert total == end
    else:
        assert end <= total <= end + 9


@given(data=st.binary(max_size=200))
def test_nothing_is_admitted_after_a_violation(data: bytes) -> None:
    one = scanner()
    assert admitted(one, frame(TEXT, b"ok") + frame(TEXT, b"x", rsv=1) + data) == len(frame(TEXT, b"ok"))
    first = one.violation
    assert admitted(one, data) == 0
    assert one.violation is first


def test_nothing_is_admitted_after_a_close_frame() -> None:
    one = scanner()
    close = frame(CLOSE, b"\x03\xe8")
    assert admitted(one, close[:4]) == 4
    assert admitted(one, close[4:] + frame(7)) == len(close) - 4
    assert admitted(one, frame(TEXT, b"late")) == 0
    assert one.violation is None


@pytest.mark.parametrize(
    ("length", "wide", "needed"),
    [(1001, 2, 4), (1 << 20, 8, 10), ((1 << 63) - 1, 8, 10)],
)
def test_too_long_is_known_with_the_last_byte_of_the_length(length: int, wide: int, needed: int) -> None:
    one = scanner()
    head = frame(BINARY, b"", length=length, wide=wide)
    for at in range(needed - 1):
        assert admitted(one, head[at : at + 1]) == 1
        assert one.violation is None
    assert admitted(one, head[needed - 1 : needed]) == 0
    assert one.violation is not None
    assert one.violation.code == CloseCode.TOO_BIG


def test_control_frames_within_a_message_count_for_nothing() -> None:
    one = scanner(message_bytes_max=2, fragments_max=2)
    admitted(one, frame(TEXT, b"a", fin=False) + frame(PING, b"*" * 125) * 10 + frame(CONTINUATION, b"b"))
    assert one.violation is None


def test_the_limit_may_change_between_frames() -> None:
    one = scanner(message_bytes_max=10)
    admitted(one, frame(TEXT, b"*" * 10))
    one.message_bytes_max = 20
    admitted(one, frame(TEXT, b"*" * 20))
    assert one.violation is None
    admitted(one, frame(TEXT, b"*" * 21))
    assert one.violation is not None


def test_one_kind_of_frames() -> None:
    one = scanner(kinds=frozenset((TEXT,)))
    admitted(one, frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b"))
    assert one.violation is None
    admitted(one, frame(BINARY, b"", length=300, wide=2)[:2])
    assert one.violation == Violation(CloseCode.WRONG_FRAME_TYPE, "the subprotocol has the other frame type")


@given(text=st.text(max_size=40), cuts=st.lists(st.integers(0, 160), max_size=5))
def test_text_is_put_together_wherever_it_is_cut(text: str, cuts: list[int]) -> None:
    data = text.encode()
    at = sorted({min(cut, len(data)) for cut in cuts} | {0})
    pieces = [data[start:stop] for start, stop in zip(at, [*at[1:], len(data)], strict=True)]
    assembler = Assembler()
    for n, piece in enumerate(pieces):
        message = assembler.add(TEXT if n == 0 else CONTINUATION, n == len(pieces) - 1, piece)
        assert message == (text if n == len(pieces) - 1 else None)


@given(data=st.binary(max_size=40))
def test_what_python_takes_for_utf8_is_utf8(data: bytes) -> None:
    try:
        expected: str | None = data.decode("utf-8", "strict")
    except UnicodeDecodeError:
        expected = None
    for split in range(len(data) + 1):
        assembler = Assembler()
        try:
            assembler.add(TEXT, False, data[:split])
            found = assembler.add(CONTINUATION, True, data[split:])
        except UnicodeDecodeError:
            found = None
        assert found == expected


def test_an_assembler_serves_one_message_after_the_other() -> None:
    assembler = Assembler()
    assert assembler.add(TEXT, False, b"a") is None
    assert assembler.add(CONTINUATION, True, b"b") == "ab"
    assert assembler.add(BINARY, False, b"\xff") is None
    assert assembler.add(CONTINUATION, True, b"\xfe") == b"\xff\xfe"
    assert assembler.add(BINARY, True, b"\xff") == b"\xff"


def test_close_codes() -> None:
    sendable = {code for code in range(1 << 16) if parse_close(code.to_bytes(2, "big")) == code}
    assert sendable == {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    assert parse_close(b"") == NO_CODE
    bad = parse_close(b"\x03")
    assert isinstance(bad, Violation)
    assert bad.code == CloseCode.PROTOCOL_ERROR
    bad = parse_close(b"\x03\xe8\xff")
    assert isinstance(bad, Violation)
    assert bad.code == CloseCode.BAD_UTF8
