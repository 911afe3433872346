"""The R-tree of the viewports as an engine uses it: found by a change, put in, moved by a pan."""

from __future__ import annotations

import random
from typing import Any

from bench.engine_city import START_S
from bench.micro.conftest import SEED
from realtime.engine import Encoding, Engine, Op, Update, View
from realtime.geo import point

COUNT = 200


def test_change_that_nobody_sees(benchmark: Any, crowded: Engine) -> None:
    """Move entities near a pole, where no viewport is: what a change costs at least."""
    crowded.apply(
        [Update(Op.UPSERT, f"e{n}", 1, point(n * 0.01, 89.0), {}, "", -64.0, 0.5, frozenset({"public"}), 0.0) for n in range(COUNT)],
        START_S,
    )
    turn = 1

    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        nonlocal turn
        turn += 1
        return ([Update(Op.MOVE, f"e{n}", turn, point(n * 0.01, 89.0 + turn % 900 * 0.001)) for n in range(COUNT)], START_S), {}

    benchmark.pedantic(crowded.apply, setup=setup, rounds=50, warmup_rounds=3)
    benchmark.extra_info["per"] = COUNT


def test_pan(benchmark: Any, crowded: Engine) -> None:
    """Let viewers pan over empty land by a fifth of their view."""
    chance = random.Random(SEED)
    panning = []
    for _ in range(COUNT):
        session = crowded.open((), None, Encoding.JSON)
        panning.append((session, chance.uniform(-179, 178), chance.uniform(-60, 70)))
    turn = 0

    def pan() -> None:
        nonlocal turn
        turn += 1
        for session, west, south in panning:
            shift = turn % 10 * 0.02
            crowded.look(session, View(((west + shift, south, west + shift + 0.1, south + 0.1),)), None, START_S)

    benchmark(pan)
    benchmark.extra_info["per"] = COUNT
    for session, _, _ in panning:
        crowded.close(session)


def test_open_look_close(benchmark: Any, crowded: Engine) -> None:
    """Open a session, let it look at empty land, drain its first frame, close it."""

    def come_and_go() -> None:
        session = crowded.open((), None, Encoding.JSON)
        crowded.look(session, View(((10.0, 89.5, 10.1, 89.6),)), None, START_S)
        crowded.drain(session, 1 << 20, START_S)
        crowded.close(session)

    benchmark(come_and_go)
    crowded.take_dirty(START_S)
