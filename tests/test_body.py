"""Bodies: however a stream is cut into pieces, its lines are the same, and no more of it is kept than one line may have."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from realtime.errors import ErrorCode, Refused
from realtime.gateway.body import Lines, decoded

LINE_BYTES_MAX = 8
SEPARATORS = st.sampled_from([b"\n", b"\x1e"])


@given(SEPARATORS, st.lists(st.text("ab \r\n\x1e", max_size=12).map(str.encode), max_size=8))
def test_lines_do_not_depend_on_how_the_stream_is_cut(separator: bytes, pieces: list[bytes]) -> None:
    lines = Lines(separator, LINE_BYTES_MAX)
    found: list[bytes | None] = []
    for piece in pieces:
        found += [line if line is None or len(line) <= LINE_BYTES_MAX else None for line in lines.feed(piece)]
    found += lines.end()
    whole = b"".join(pieces).split(separator)
    # A blank line that is too long may count as a line or not; it is no update either way.
    expected = [line if len(line) <= LINE_BYTES_MAX else None for line in whole if line.strip() or len(line) > LINE_BYTES_MAX]
    assert [line for line in found if line is not None] == [line for line in expected if line is not None]
    assert found.count(None) <= expected.count(None)
    assert found.count(None) >= sum(len(line) > LINE_BYTES_MAX and bool(line.strip()) for line in whole)


def test_a_line_without_an_end_is_not_kept() -> None:
    lines = Lines(b"\n", LINE_BYTES_MAX)
    for _ in range(1000):
        assert lines.feed(b"x" * 100) == []
        assert len(lines._rest) <= LINE_BYTES_MAX
    assert lines.feed(b"\nok\n") == [None, b"ok"]
    assert lines.end() == []


def _codes(*updates: bytes | Raw | None) -> list[Any]:
    return [item.code if isinstance(item, Refused) else item for item in decoded(updates, 100_000)]


def test_what_cannot_be_decoded_costs_one_update() -> None:
    assert _codes(b'{"id":1}', b"{", b"\xff", b"1 2", b"NaN", b"1e999", b'"\\ud800"', None, Raw(b"[1]"), b" {} \r") == [
        {"id": 1},
        ErrorCode.BAD_UPDATE,
        ErrorCode.BAD_UPDATE,
        ErrorCode.BAD_UPDATE,
        ErrorCode.BAD_UPDATE,
        ErrorCode.BAD_VALUE,
        ErrorCode.BAD_UPDATE,
        ErrorCode.TOO_BIG,
        [1],
        {},
    ]


def test_nesting_and_size_are_bounded() -> None:
    deep = b"[" * 49_000 + b"]" * 49_000
    assert _codes(deep, b'"' + b"x" * 100_000 + b'"', json.dumps("fine").encode()) == [ErrorCode.BAD_UPDATE, ErrorCode.TOO_BIG, "fine"]
