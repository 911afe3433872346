"""Bodies: however a stream is cut into pieces, its lines are the same, and no more of it is kept than one line may have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from realtime.errors import ErrorCode, Refused
from realtime.gateway.body import Lines, bounded

LINE_BYTES_MAX = 8
SEPARATORS = st.sampled_from([b"\n", b"\x1e"])


@given(SEPARATORS, st.lists(st.text("ab \r\n\x1e", max_size=12).map(str.encode), max_size=8))
def test_lines_do_not_depend_on_how_the_stream_is_cut(separator: bytes, pieces: list[bytes]) -> None:
    lines = Lines(separator, LINE_BYTES_MAX)
    found: list[bytes | None] = []
    for piece in pieces:
        found += lines.feed(piece)
    found += lines.end()
    whole = b"".join(pieces).split(separator)
    assert found == [line if len(line) <= LINE_BYTES_MAX else None for line in whole if line.strip() or len(line) > LINE_BYTES_MAX]


def test_a_line_without_an_end_is_not_kept() -> None:
    lines = Lines(b"\n", LINE_BYTES_MAX)
    for _ in range(1000):
        assert lines.feed(b"x" * 100) == []
        assert len(lines._rest) <= LINE_BYTES_MAX
    assert lines.feed(b"\nok\n") == [None, b"ok"]
    assert lines.end() == []


def test_the_publish_path_gets_them_undecoded() -> None:
    too_long = Refused(ErrorCode.TOO_BIG, "too long")
    lines = Lines(b"\n", LINE_BYTES_MAX)
    items = [*lines.cut(b'{"id":1}\n' + b"x" * 9 + b"\n\xff", too_long), *lines.cut(b"\n\n", too_long)]
    assert [bytes(item) if isinstance(item, Raw) else item for item in items] == [b'{"id":1}', too_long, b"\xff"]


def test_an_update_that_is_too_long_costs_one_update() -> None:
    items = list(bounded([Raw(b"[1]"), Raw(b"[" * 100), Raw(b"2")], 50))
    assert [item.code if isinstance(item, Refused) else bytes(item) for item in items] == [b"[1]", ErrorCode.TOO_BIG, b"2"]
