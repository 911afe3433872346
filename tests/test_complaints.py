"""One line per kind and second."""

from __future__ import annotations

import logging

import pytest

from realtime.gateway.complaints import Complaints


def test_a_line_per_kind_and_second(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    complaints = Complaints(logging.getLogger("test_complaints"), lambda: now[0])
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            complaints.note("a", "refused: a")
        complaints.note("b", "refused: b")
        now[0] += 1.0
        complaints.note("a", "refused: a")
        now[0] += 0.9
        complaints.note("a", "refused: a")
        now[0] += 0.1
        complaints.note("a", "refused: a")
    assert [record.getMessage() for record in caplog.records] == [
        "refused: a",
        "refused: b",
        "refused: a (4 more since the last such line)",
        "refused: a (1 more since the last such line)",
    ]
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert all(record.exc_info is None for record in caplog.records)


def test_an_exception_has_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(logging.getLogger("test_complaints"), lambda: 0.0)
    for n in range(3):
        try:
            raise ValueError(f"number {n}")
        except ValueError:
            complaints.exception("x", "it raised")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "ValueError: number 0" in caplog.text
