"""The search finds a knee that is known, through noise, from either side, and says what ran out."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from bench.knee import VOTES, Bottleneck, Bounds, Candidate, Knee, Search, Window, bottleneck, strain

BOUNDS = Bounds(p99_ms=500.0, outbox_growth=2.0, conflated=0.2)
TOLERANCE = 0.1


def _window(load: float, **more: float) -> Window:
    figures: dict[str, float] = {
        "rate": load,
        "viewers": 1000,
        "seconds": 1.0,
        "taken_per_s": load,
        "deltas_per_s": 50 * load,
        "p50_ms": 10.0,
        "p99_ms": 20.0,
        "outbox_growth": 0.1,
    }
    return Window(**(figures | more))  # type: ignore[arg-type]


class _Machine:
    """A server that queues as an M/M/1 does, and stands still for a moment now and then."""

    def __init__(self, capacity: float, seed: int = 0, noise: float = 0.0, hiccups: float = 0.0) -> None:
        self.capacity = capacity
        self.windows = 0
        self._chance = random.Random(seed)
        self._noise, self._hiccups = noise, hiccups

    @property
    def knee(self) -> float:
        """Where p99 = 20 / (1 - used) ms reaches its bound."""
        return self.capacity * (1 - 20.0 / BOUNDS.p99_ms)

    def __call__(self, load: float, is_confirmation: bool) -> Window:
        self.windows += 1
        used = load / self.capacity
        waits = 20.0 / (1 - used) if used < 1 else 5000.0
        waits *= self._chance.lognormvariate(0, self._noise)
        if self._chance.random() < self._hiccups:
            waits *= 30
        return _window(load, p99_ms=waits, outbox_growth=0.2 if used < 1 else 20 * used, server_cpu=min(1.0, used))


def _search(machine: Callable[[float, bool], Window], start: float, most: float = 1e7, windows_max: int = 60) -> Knee:
    return Search(machine, BOUNDS, least=10.0, most=most, tolerance=TOLERANCE, windows_max=windows_max).run(start)


@pytest.mark.parametrize("start", [10.0, 900.0, 5_000.0, 4e6])
def test_a_quiet_machine_s_knee_is_found_from_wherever_the_search_begins(start: float) -> None:
    machine = _Machine(12_345.0)
    knee = _search(machine, start)
    assert machine.knee / (1 + TOLERANCE) <= knee.load <= machine.knee
    assert len(knee.confirmed) == 3
    assert knee.bottleneck is Bottleneck.SERVER
    assert not knee.is_open
    assert not knee.is_lower_bound


@pytest.mark.parametrize("seed", range(40))
def test_noise_and_hiccups_do_not_mislead_it_far(seed: int) -> None:
    machine = _Machine(50_000.0, seed, noise=0.3, hiccups=0.08)
    knee = _search(machine, 1000.0)
    assert machine.knee * 0.8 <= knee.load <= machine.capacity, f"seed {seed}: {knee.load}"
    assert machine.windows <= 60


def test_one_hiccup_is_outvoted_and_one_lucky_window_too() -> None:
    asked: list[float] = []

    def machine(load: float, is_confirmation: bool) -> Window:
        asked.append(load)
        is_odd_one = asked.count(load) == 1
        if load <= 100:
            return _window(load, p99_ms=9999.0 if is_odd_one else 20.0)
        return _window(load, p99_ms=490.0 if is_odd_one else 9999.0)

    knee = _search(machine, 100.0)
    assert knee.load == 100.0
    assert knee.candidates[0].holds
    assert len(knee.candidates[0].windows) == VOTES


def test_a_load_that_holds_clearly_is_asked_once_and_one_near_the_bound_is_asked_again() -> None:
    told: list[Candidate] = []
    knee = Search(lambda load, _: _window(load, p99_ms=load), BOUNDS, least=1.0, most=1e6, tolerance=TOLERANCE, tell=told.append).run(10.0)
    assert knee.load == pytest.approx(500, rel=TOLERANCE)
    assert told == knee.candidates
    searched = told[: -1 if told[-1].windows == knee.confirmed else None]
    assert all(len(candidate.windows) == 1 for candidate in searched if candidate.load <= 0.7 * BOUNDS.p99_ms)
    assert all(len(candidate.windows) > 1 for candidate in searched if candidate.load > 0.7 * BOUNDS.p99_ms)


def test_what_does_not_hold_for_longer_is_lowered_until_it_does() -> None:
    def machine(load: float, is_confirmation: bool) -> Window:
        return _window(load, outbox_growth=9.0 if load > (800 if is_confirmation else 1000) else 0.0)

    knee = _search(machine, 100.0)
    assert 700 <= knee.load <= 800


def test_a_machine_that_carries_nothing_and_one_that_carries_all() -> None:
    nothing = _search(lambda load, _: _window(load, p99_ms=1e9), 100.0)
    assert (nothing.load, nothing.confirmed) == (0.0, [])
    everything = _search(lambda load, _: _window(load), 100.0, most=6400.0)
    assert everything.load == 6400.0
    assert everything.is_open
    assert everything.is_lower_bound


def test_the_number_of_windows_is_bounded() -> None:
    machine = _Machine(1e6, seed=3, noise=2.0, hiccups=0.5)
    _search(machine, 100.0, windows_max=20)
    assert machine.windows <= 20


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"p99_ms": 501.0}, False),
        ({"outbox_growth": 2.1}, False),
        ({"taken_per_s": 97.0}, False),
        ({"taken_per_s": 99.0}, True),
        ({"conflated": 0.1}, True),
        ({"conflated": 0.3}, False),
        ({"faults": 1}, False),
    ],
)
def test_each_promise_counts(change: dict[str, float], holds: bool) -> None:
    assert (strain(_window(100.0, **change), BOUNDS) <= 1) == holds


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"server_cpu": 0.99, "load_cpu": 0.5}, Bottleneck.SERVER),
        ({"server_cpu": 0.93, "load_cpu": 1.0}, Bottleneck.LOAD),
        ({"server_cpu": 0.6, "others_cpu": 0.8}, Bottleneck.OTHERS),
        ({"server_cpu": 0.6, "publisher_late_s": 0.5}, Bottleneck.PUBLISHER),
        ({"server_cpu": 0.6, "blocked": 0.2}, Bottleneck.SOCKETS),
        ({"server_cpu": 0.6, "conflated": 0.5}, Bottleneck.ENTITIES),
        ({"server_cpu": 0.6}, Bottleneck.UNKNOWN),
        ({"server_cpu": 0.99, "faults": 2}, Bottleneck.FAULTS),
    ],
)
def test_it_says_what_ran_out(change: dict[str, float], why: Bottleneck) -> None:
    assert bottleneck([_window(100.0, **change)]) is why
