"""Merged changes: whoever takes them, however seldom, knows what the mirror holds and nothing too much is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.client import Applied, Changes, Closed, Mirror

IDS = "abcde"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def applied(entered: str = "", moved: str = "", patched: str = "", left: dict[str, str] | None = None, is_reset: bool = False) -> Applied:
    return Applied(list(entered), list(moved), list(patched), left or {}, is_reset)


@pytest.mark.parametrize(
    ("deltas", "merged"),
    [
        ([applied("a"), applied(moved="a"), applied(patched="a")], applied("a")),
        ([applied("a"), applied(left={"a": "moved"})], None),
        ([applied(moved="a"), applied(moved="ba")], applied(moved="ab")),
        ([applied(moved="a"), applied(patched="a"), applied(moved="a")], applied(patched="a")),
        ([applied(patched="a"), applied(left={"a": "view"})], applied(left={"a": "view"})),
        ([applied(left={"a": "view"}), applied("a")], applied("a")),
        ([applied(left={"a": "view"}), applied("a"), applied(left={"a": "deleted"})], applied(left={"a": "deleted"})),
        ([applied("a"), applied(left={"a": "reset"}, is_reset=True)], applied(is_reset=True)),
    ],
)
def test_merging(deltas: list[Applied], merged: Applied | None) -> None:
    changes = Changes()
    for delta in deltas:
        changes.add(delta)
    assert changes.take_nowait() == merged
    assert changes.take_nowait() is None


def test_an_entity_that_was_renewed_and_leaves_is_told() -> None:
    changes = Changes()
    changes.add(applied("a"), renewed={"a"})
    changes.add(applied(left={"a": "moved"}))
    assert changes.take_nowait() == applied(left={"a": "moved"})


def test_what_is_held_at_the_start_comes_first() -> None:
    changes = Changes("ab")
    changes.add(applied("c", left={"a": "view"}))
    assert changes.take_nowait() == applied("bc", is_reset=True)
    assert Changes().take_nowait() is None


@st.composite
def games(draw: st.DrawFn) -> list[dict[str, Any] | None]:
    """Deltas that fit each other, and None where the consumer takes what there is."""
    held: set[str] = set()
    version = 0
    steps: list[dict[str, Any] | None] = []
    for _ in range(draw(st.integers(1, 30))):
        if draw(st.integers(0, 3)) == 0:
            steps.append(None)
            continue
        delta: dict[str, Any] = {"enter": [], "move": [], "patch": [], "leave": {}}
        if draw(st.integers(0, 7)) == 0:
            delta["reset"] = True
            held.clear()
        for id in draw(st.sets(st.sampled_from(IDS))):
            version += 1
            how = draw(st.sampled_from(["enter", "move", "patch", "leave"] if id in held else ["enter"]))
            if how == "enter":
                delta["enter"].append({"id": id, "version": version, "geometry": None, "properties": {}})
                held.add(id)
            elif how == "move":
                delta["move"].append([id, version, version, 0])
            elif how == "patch":
                delta["patch"].append({"id": id, "version": version, "properties": {"n": version}})
            else:
                delta["leave"].setdefault(draw(st.sampled_from(["view", "moved"])), []).append(id)
                held.discard(id)
        steps.append(delta)
    return [*steps, None]


@given(games())
def test_a_consumer_that_takes_now_and_then_knows_the_mirror(steps: list[dict[str, Any] | None]) -> None:
    mirror, changes = Mirror(), Changes()
    known: dict[str, Any] = {}
    for step in steps:
        if step is not None:
            renewed = {feature["id"] for feature in step["enter"] if feature["id"] in mirror.entities}
            changes.add(mirror.apply(step | {"seq": mirror.seq + 1}), renewed)
            continue
        taken = changes.take_nowait()
        if taken is not None:
            named = [*taken.entered, *taken.moved, *taken.patched, *taken.left]
            assert len(named) == len(set(named))
            assert taken.left.keys() <= known.keys(), "what is not known leaves"
            assert set(taken.moved + taken.patched) <= known.keys(), "what is not known changes"
            if taken.is_reset:  # whoever clears, too, is right
                assert mirror.entities.keys() == set(taken.entered)
            for id in taken.left:
                del known[id]
            for id in taken.entered:
                known[id] = mirror.entities[id]
            for id in taken.moved:
                known[id] = known[id] | {name: mirror.entities[id][name] for name in ("geometry", "version")}
                assert known[id]["properties"] == mirror.entities[id]["properties"], "more than its place has changed"
            for id in taken.patched:
                known[id] = mirror.entities[id]
        assert known == mirror.entities


@pytest.mark.parametrize("error", [None, Closed(4500, "stay away")])
async def test_the_iteration_ends_behind_what_waits(error: Closed | None) -> None:
    changes = Changes()
    changes.add(applied("a"))
    changes.end(error)
    seen = []

    async def consume() -> None:
        async for change in changes:
            seen.append(change)

    if error is None:
        await consume()
    else:
        with pytest.raises(Closed, match="stay away"):
            await consume()
    assert seen == [applied("a")]


async def test_the_iteration_waits() -> None:
    changes = Changes()
    waiting = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    assert not waiting.done()
    changes.add(applied())  # a delta that changes nothing is no item
    await asyncio.sleep(0)
    assert not waiting.done()
    changes.add(applied("a"))
    assert await waiting == applied("a")
