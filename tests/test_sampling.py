"""The sample: who is in it, and that it stands until it must be chosen again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.engine.sampling import Key, Threshold, choose, must_choose, sample_key

LIMIT = 100


def keys(count: int, rank: float = 0.5, first: int = 0) -> list[Key]:
    return [sample_key(rank, f"bus-{n}") for n in range(first, first + count)]


def shown(held: list[Key], threshold: Threshold) -> int:
    return sum(threshold is None or key < threshold for key in held)


class Viewer:
    """Sees `held`, with a threshold that is chosen when it must be."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.threshold: Threshold = None
        self.choices = 0

    def look(self, held: list[Key]) -> int:
        if must_choose(shown(held, self.threshold), self.threshold, self.limit):
            self.threshold = choose(held, len(held), self.limit)
            self.choices += 1
        return shown(held, self.threshold)


@given(st.sets(st.integers(0, 10_000), max_size=300), st.integers(1, 200))
def test_three_quarters_of_the_maximum_lie_below_the_threshold_or_all(numbers: set[int], limit: int) -> None:
    held = [(0.5, number) for number in numbers]
    target = max(1, limit * 3 // 4)
    threshold = choose(held, len(held), limit)
    assert (threshold is None) is (len(held) <= target)
    assert shown(held, threshold) == min(target, len(held))


def test_it_is_chosen_when_more_is_shown_than_may_be() -> None:
    viewer = Viewer()
    assert viewer.look(keys(LIMIT)) == LIMIT
    assert viewer.threshold is None
    assert viewer.look(keys(LIMIT + 1)) == 75
    assert viewer.choices == 1


def test_in_between_it_stands() -> None:
    viewer = Viewer()
    held = keys(400)
    viewer.look(held)
    threshold = viewer.threshold
    below = sorted(key for key in held if threshold is not None and key < threshold)
    rest = [key for key in held if key not in below]
    for count in (75, 60, 50, 51, 75):  # half of the maximum is not under half
        assert viewer.look(below[:count] + rest) == count
    more = sorted(keys(400, rank=0.1, first=1_000))
    assert viewer.look(below + rest + more[:25]) == LIMIT  # the maximum is not above it
    assert (viewer.threshold, viewer.choices) == (threshold, 1)


def test_under_half_of_the_maximum_it_is_chosen_again() -> None:
    viewer = Viewer()
    held = keys(400)
    viewer.look(held)
    threshold = viewer.threshold
    assert threshold is not None
    below = [key for key in held if key < threshold]
    rest = [key for key in held if key >= threshold]
    assert viewer.look(below[:49] + rest) == 75
    assert viewer.choices == 2
    assert viewer.threshold is not None and viewer.threshold > threshold


def test_when_no_more_are_left_all_are_shown() -> None:
    viewer = Viewer()
    held = keys(400)
    viewer.look(held)
    threshold = viewer.threshold
    assert threshold is not None
    below = [key for key in held if key < threshold]
    rest = [key for key in held if key >= threshold]
    assert viewer.look(below[:40] + rest[:35]) == 75
    assert viewer.threshold is None


def test_what_is_not_sampled_is_not_chosen_for_being_few() -> None:
    for count in (0, 1, LIMIT):
        assert not must_choose(count, None, LIMIT)


@pytest.mark.parametrize("limit", [1, 2, 3, 10_000])
def test_a_chosen_sample_need_not_be_chosen_again(limit: int) -> None:
    held = [(0.5, number) for number in range(limit + 1)]
    threshold = choose(held, len(held), limit)
    count = shown(held, threshold)
    assert 1 <= count <= limit
    assert not must_choose(count, threshold, limit)


def test_the_important_ones_are_seen_first() -> None:
    minor, major = keys(300, rank=0.9), keys(60, rank=0.1)
    threshold = choose(minor + major, 360, LIMIT)
    assert shown(major, threshold) == 60
    assert shown(minor, threshold) == 15


def test_panning_flickers_nothing() -> None:
    """Two views that overlap show the same of what is in both."""
    viewer = Viewer()
    left, both, right = keys(150), keys(150, first=150), keys(150, first=300)
    viewer.look(left + both)
    before = [key for key in both if viewer.threshold is None or key < viewer.threshold]
    viewer.look(both + right)
    after = [key for key in both if viewer.threshold is None or key < viewer.threshold]
    assert before == after
    assert viewer.choices == 1


def test_a_sample_is_even_over_ids_that_differ_in_one_digit() -> None:
    held = keys(2_000)
    threshold = choose(held, len(held), 1_000)
    per_hundred = [shown(held[n : n + 100], threshold) for n in range(0, 2_000, 100)]
    assert 20 <= min(per_hundred) <= max(per_hundred) <= 56  # 37.5 on average, within 4 standard deviations
