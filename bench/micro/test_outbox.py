"""Offer and drain: what a change costs by how many see it, and what a frame costs by what is in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.crowd import Crowd, count_deltas
from bench.engine_city import START_S
from realtime.engine import Encoding, Engine, Op, Update, View
from realtime.geo import WORLD, point

COUNT = 1000
FRAME_BYTES = 1 << 24


def _look(engine: Engine, encoding: Encoding) -> int:
    session = engine.open((), None, encoding)
    engine.look(session, View((WORLD,)), None, START_S)
    while engine.drain(session, FRAME_BYTES, START_S) is not None:
        pass
    return session


def _moves(turn: int) -> list[Update]:
    return [Update(Op.MOVE, f"bus-{n}", COUNT + turn, point(n * 0.01, turn % 1000 * 0.01)) for n in range(COUNT)]


def _patches(turn: int) -> list[Update]:
    return [Update(Op.PATCH, f"bus-{n}", COUNT + turn, None, {"speed": b"%d" % (turn + 20)}) for n in range(COUNT)]


def _filled(engine: Engine) -> None:
    city = (update._replace(access=frozenset({"public"})) for update in Crowd(1, 1, COUNT).upserts())
    engine.apply(list(city), START_S)


@pytest.mark.parametrize("viewers", [1, 50])
def test_offer(benchmark: Any, engine: Engine, viewers: int) -> None:
    """Apply moves that so many sessions see; conflated, for nobody drains."""
    _filled(engine)
    for _ in range(viewers):
        _look(engine, Encoding.JSON)
    turn = 0

    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        nonlocal turn
        turn += 1
        return (_moves(turn), START_S), {}

    benchmark.pedantic(engine.apply, setup=setup, rounds=20, warmup_rounds=2)
    benchmark.extra_info["per"] = COUNT * viewers


@pytest.mark.parametrize("encoding", list(Encoding), ids=lambda encoding: encoding.name.lower())
@pytest.mark.parametrize("changes", [_moves, _patches], ids=["moves", "patches"])
@pytest.mark.parametrize("is_shared", [False, True], ids=["first", "shared"])
def test_frame(benchmark: Any, engine: Engine, encoding: Encoding, changes: Callable[[int], list[Update]], is_shared: bool) -> None:
    """Drain a frame of a thousand; `shared`: another session was told the same before."""
    _filled(engine)
    session, other = _look(engine, encoding), _look(engine, encoding)
    turn, sizes = 0, []

    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        nonlocal turn
        turn += 1
        engine.drain(other, FRAME_BYTES, START_S + turn)
        engine.apply(changes(turn), START_S + turn)
        if is_shared:
            engine.drain(other, FRAME_BYTES, START_S + turn)
        return (session, FRAME_BYTES, START_S + turn), {}

    def drain(session: int, budget: int, now: float) -> bytes | None:
        frame = engine.drain(session, budget, now)
        sizes.append(frame)
        return frame

    benchmark.pedantic(drain, setup=setup, rounds=20, warmup_rounds=2)
    assert sizes[-1] is not None
    assert count_deltas(sizes[-1], encoding) == COUNT
    benchmark.extra_info["per"] = COUNT


@pytest.mark.parametrize("encoding", list(Encoding), ids=lambda encoding: encoding.name.lower())
def test_fill(benchmark: Any, engine: Engine, encoding: Encoding) -> None:
    """Show a session a thousand entities for the first time; others have seen them."""
    _filled(engine)
    session = _look(engine, encoding)

    def fill() -> None:
        engine.refresh(session, START_S)
        engine.drain(session, FRAME_BYTES, START_S)

    benchmark(fill)
    benchmark.extra_info["per"] = COUNT
