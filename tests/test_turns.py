"""Buckets and turns."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.gateway.turns import Bucket, Load, Turn
from tests.fake_wire import until


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(bucket: Bucket, attempts: int) -> int:
    return sum(bucket.take() for _ in range(attempts))


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    bucket = Bucket(50, 100, clock)
    assert taken(bucket, 200) == 100
    clock.now += 1
    assert taken(bucket, 200) == 50
    clock.now += 0.5
    assert taken(bucket, 200) == 25
    clock.now += 3600
    assert taken(bucket, 200) == 100, "no more than the burst is saved up"


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 30)), max_size=30))
def test_never_more_than_the_burst_and_what_came_back(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    bucket = Bucket(5, 10, clock)
    count = 0
    for wait, attempts in steps:
        clock.now += wait
        count += taken(bucket, attempts)
        assert count <= 10 + 5 * clock.now + 1e-6


async def test_the_first_request_has_its_turn_at_once() -> None:
    turn, calls = Turn(3600, Load(1)), []
    turn.ask(lambda: calls.append(turn.is_due))
    assert calls == [True]


async def test_requests_before_the_turn_are_one() -> None:
    turn, calls = Turn(0.03, Load(1)), []
    loop = asyncio.get_running_loop()
    turn.ask(lambda: None)
    turn.done()
    done_at = loop.time()
    for _ in range(5):
        turn.ask(lambda: calls.append(loop.time()))
        assert not turn.is_due
    await until(lambda: bool(calls))
    turn.ask(lambda: calls.append(0.0))
    assert turn.is_due
    assert len(calls) == 1
    assert calls[0] - done_at >= 0.03 - 0.002  # timers may run a clock's tick early


async def test_a_cancelled_request_never_has_its_turn() -> None:
    turn, other, calls = Turn(0.01, Load(1)), Turn(0.03, Load(1)), []
    for one in (turn, other):
        one.ask(lambda: None)
        one.done()
    turn.ask(lambda: calls.append("cancelled"))
    other.ask(lambda: calls.append("other"))
    turn.cancel()
    await until(lambda: bool(calls))
    assert calls == ["other"]
    assert not turn.is_due


async def test_after_what_took_long_the_next_request_waits_the_longer() -> None:
    load = Load(0.1)
    turn, other, calls = Turn(0, load), Turn(0, load), []
    loop = asyncio.get_running_loop()
    begin = loop.time()
    turn.ask(lambda: None)
    turn.done()
    load.add(0.004, begin)
    turn.ask(lambda: calls.append(loop.time()))
    other.ask(lambda: calls.append(loop.time()))
    assert not turn.is_due
    assert not other.is_due, "it is one session, whatever it asks for"
    await until(lambda: len(calls) == 2)
    assert min(calls) - begin >= 0.04 - 0.002


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), max_size=30))
def test_requests_take_no_more_than_their_share(steps: list[tuple[float, float]]) -> None:
    """Whoever keeps to its rests has, at their end, taken at most the share of all the time."""
    load, now, cost = Load(0.1), 0.0, 0.0
    for wait, each in steps:
        now = max(now + wait, load.rests_until) + each
        load.add(each, now)
        cost += each
    assert cost <= 0.1 * max(now, load.rests_until) + 1e-9
