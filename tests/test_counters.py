"""Counts and histograms."""

from __future__ import annotations

import math

import pytest

from realtime.counters import LATENCY_BOUNDS_S, NO_CLOSE_FRAME, OTHER_CLOSE, Counters, Histogram
from realtime.errors import CLOSE_CODES


def test_a_bucket_counts_what_is_at_most_its_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, math.nextafter(1, 2), 2.0, math.nextafter(2, 3), 100.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.buckets() == [("1.0", 2.0), ("2.0", 4.0), ("+Inf", 6.0)]
    assert histogram.sum == pytest.approx(106)


def test_an_empty_histogram_has_all_its_buckets() -> None:
    buckets = Histogram().buckets()
    assert [bound for bound, _ in buckets] == [*map(str, LATENCY_BOUNDS_S), "+Inf"]
    assert {count for _, count in buckets} == {0.0}
    assert list(LATENCY_BOUNDS_S) == sorted(set(LATENCY_BOUNDS_S))


def test_events_are_counted_by_name() -> None:
    counters = Counters()
    for name in ("ping", "ping", "cut"):
        counters.count(name)
    assert counters.events == {"ping": 2, "cut": 1}


def test_clients_cannot_invent_labels_by_closing_with_odd_codes() -> None:
    counters = Counters()
    for code in (*range(1000, 5000), -1, 10**6):
        counters.count_close(code)
    known = {*map(int, CLOSE_CODES), NO_CLOSE_FRAME}
    assert set(counters.closed) == known | {OTHER_CLOSE}
    assert all(counters.closed[code] == 1 for code in known)
    assert counters.closed.total() == 4002
