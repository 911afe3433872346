"""When a client comes back, and that many of them do not do so at once."""

from __future__ import annotations

import random

import pytest

from realtime.client import Backoff
from realtime.client.backoff import comes_back
from realtime.errors import CLOSE_CODES


@pytest.mark.parametrize("code", CLOSE_CODES)
def test_known_codes_as_the_table_says(code: int) -> None:
    assert comes_back(int(code)) is CLOSE_CODES[code].comes_back


@pytest.mark.parametrize(("code", "is_back"), [(1006, True), (3000, True), (4499, True), (4500, False), (4777, False), (4999, False)])
def test_unknown_codes_by_their_range(code: int, is_back: bool) -> None:
    assert comes_back(code) is is_back


def test_the_longest_pause_doubles_up_to_the_maximum() -> None:
    backoff = Backoff(base_s=1, max_s=20, choose=lambda: 1.0)
    assert [backoff.wait_s(0) for _ in range(7)] == [1, 2, 4, 8, 16, 20, 20]
    assert [backoff.wait_s(0) for _ in range(10_000)][-1] == 20


def test_only_a_connection_that_lasted_ends_the_growing() -> None:
    backoff = Backoff(base_s=1, stable_s=5, choose=lambda: 1.0)
    assert [backoff.wait_s(lasted) for lasted in (0, 4.9, 4.9, 5, 0)] == [1, 2, 4, 1, 2]


def test_pauses_are_spread_over_their_whole_length() -> None:
    """Of a thousand clients in their third attempt, each tenth of the pause gets its tenth, more or less."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    generator = random.Random(seed)
    pauses = []
    for _ in range(1000):
        backoff = Backoff(base_s=1, choose=generator.random)
        pauses.append([backoff.wait_s(0) for _ in range(3)][-1])
    tenths = [sum(1 for pause in pauses if tenth <= pause / 0.4 < tenth + 1) for tenth in range(10)]
    assert sum(tenths) == 1000
    assert min(tenths) > 40  # of 100; less has a chance of one in a billion
