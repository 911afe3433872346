"""The two tables of codes are complete, and docs/protocol.md repeats them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from realtime.errors import CLOSE_CODES, CloseCode, ErrorCode, Refused

PROTOCOL = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"


def table(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading of docs/protocol.md, without its head."""
    section = PROTOCOL.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip().strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_every_close_code_has_a_rule() -> None:
    assert list(CLOSE_CODES) == list(CloseCode), "in the same order"
    assert all(rule.meaning for rule in CLOSE_CODES.values())


@pytest.mark.parametrize("code", CloseCode)
def test_our_own_codes_say_by_their_range_who_comes_back(code: CloseCode) -> None:
    if code >= 4000:
        assert CLOSE_CODES[code].comes_back is (code < 4500)
    else:
        assert 1000 <= code <= 1015
        assert code not in (1004, 1005, 1006, 1015), "RFC 6455 keeps these off the wire"


def test_the_protocol_page_has_the_close_codes() -> None:
    written = [(int(code), meaning, answer) for code, meaning, answer in table("Close codes")]
    assert written == [(int(code), rule.meaning, "yes" if rule.comes_back else "no") for code, rule in CLOSE_CODES.items()]


def test_the_protocol_page_has_the_error_codes() -> None:
    rows = table("Error codes")
    assert [code.strip("`") for code, _ in rows] == [str(code) for code in ErrorCode]
    assert all(meaning for _, meaning in rows)


def test_codes_are_spelled_as_on_the_wire() -> None:
    for code in ErrorCode:
        assert re.fullmatch("[a-z_]+", code)
        assert code.name == code.upper()


def test_a_refusal_carries_code_and_message() -> None:
    refused = Refused(ErrorCode.BAD_ID, "id: a string is expected")
    assert (refused.code, refused.message, str(refused)) == (ErrorCode.BAD_ID, "id: a string is expected", "id: a string is expected")
    assert isinstance(refused, ValueError)
