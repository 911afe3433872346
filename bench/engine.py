"""`python -m bench engine`: the engine alone, without a socket.

Three parts, each for every engine that is built: `city` (a dense city at full speed), `viewports` (what a change costs
as the number of viewports elsewhere grows), `memory` (what an entity costs). The targets are the native engine's.

Law: one core, time is the processor's, and nothing else in the process is at work while it is counted; what is compared
is alternated in one run. The garbage collector is off in a window: what it would go through are the changes that the
bench itself prepared.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

from bench import command_line
from bench.crowd import Crowd, Pairs
from bench.dense import DenseCity
from bench.engine_city import PAIR_SAMPLES, CityRun, Filled, Rate
from bench.engine_memory import footprint
from bench.engine_viewports import VIEWERS_AT_PLACE, Cost, ViewportsRun
from bench.engines import FLUSH_INTERVAL_S, NATIVE, REFERENCE, available
from bench.results import Fact, Plot, Result, Series, Table
from bench.servers import cores, pin
from bench.workloads import Move
from realtime.engine import Encoding


class Sizes(NamedTuple):
    """How much one engine is given to do."""

    rate: float  # changes a second of simulated time: it says how many changes a flush finds, so it is near what the engine can do
    changes: int  # of a window
    viewports: tuple[int, int]
    viewport_changes: int  # of a window
    entities: int  # whose memory is measured


SIZES = {
    NATIVE: Sizes(400_000.0, 200_000, (10_000, 1_000_000), 40_000, 1_000_000),
    REFERENCE: Sizes(2000.0, 1000, (10_000, 100_000), 400, 100_000),
}
TOLD_SHARE = 0.0375  # of the sessions are told of a change: both promises are then one, 15 million pairs are 400,000 changes
MOVES = 20  # of each entity, before its memory is read a second time

# The dense city


def run_city(result: Result, kind: str, given: argparse.Namespace) -> None:
    """Add what the engine does in the dense city."""
    crowd = DenseCity(given.seed, given.sessions, given.entities, given.fan_out or given.sessions * TOLD_SHARE)
    run = CityRun(kind, crowd, given.rate or SIZES[kind].rate)
    filled = run.fill()
    rates: list[Rate] = []
    pairs: list[Pairs] = []
    for repetition in range(1 + given.repeat):  # the first is the warm-up
        before = list(crowd.city.positions)
        moves = crowd.moves(given.changes or SIZES[kind].changes)
        given_as: dict[str, Callable[[Sequence[Move]], Any]] = {"updates": crowd.updates, "objects": crowd.objects, "lines": crowd.lines}
        rate = run.window(given_as[given.take](moves))
        if repetition:
            rates.append(rate)
            pairs.append(_pairs(crowd, moves[:PAIR_SAMPLES], before))
    faults = run.faults()
    for fault in faults:
        result.notes.append(f"{kind}: {fault}")
    _city_rows(result, kind, rates, pairs, given.take, "the mirrors are wrong" if faults else "")
    _city_table(result, kind, rates, filled, given.entities)


def _pairs(crowd: Crowd, moves: Sequence[Move], places: list[tuple[float, float]]) -> Pairs:
    old = []
    for move in moves:
        old.append(places[move.entity])
        places[move.entity] = (move.lon, move.lat)
    return crowd.pairs(moves, old)


def _city_rows(result: Result, kind: str, rates: list[Rate], pairs: list[Pairs], take: str, void: str) -> None:
    both = list(zip(rates, pairs, strict=True))
    told = median(pair.matched for pair in pairs)
    facts: dict[str, Fact] = {
        "encoding": "half JSON, half msgpack",
        "given": take,
        "bytes per delta": round(median(sum(rate.frame_bytes) / max(rate.deltas, 1) for rate in rates), 1),
        "conflated away": f"{median(max(0.0, 1 - rate.deltas / (pair.matched * rate.changes)) for rate, pair in both):.1%}",
        "sessions told per change": round(told, 1),
        "flush interval ms": round(FLUSH_INTERVAL_S * 1000),
        "share of the core had": f"{median(rate.seconds / rate.wall_s for rate in rates):.0%}",
    }
    is_native = kind == NATIVE
    result.row(
        f"{kind}: pairs matched",
        [pair.matched * rate.changes / rate.seconds for rate, pair in both],
        "pairs/s",
        key="engine_pairs" if is_native else "",
        void=void,
        facts=facts,
    )
    result.row(
        f"{kind}: changes",
        [rate.changes / rate.seconds for rate in rates],
        "changes/s",
        key="engine_changes" if is_native else "",
        void=void,
    )
    result.row(f"{kind}: deltas drained", [rate.deltas / rate.seconds for rate in rates], "deltas/s", void=void)
    judged = [pair.judged * rate.changes / rate.seconds for rate, pair in both]
    result.row(f"{kind}: pairs judged", judged, "pairs/s", note="the view shows the old or the new place; rights and filter are asked")


def _city_table(result: Result, kind: str, rates: list[Rate], filled: Filled, entities: int) -> None:
    changes, seconds = sum(rate.changes for rate in rates), sum(rate.seconds for rate in rates)
    deltas, frames = sum(rate.deltas for rate in rates), sum(rate.frames for rate in rates)
    parts = {
        "apply": sum(rate.apply_s for rate in rates),
        "take_dirty": sum(rate.take_s for rate in rates),
        "drain": sum(rate.drain_s for rate in rates),
    }
    rows: list[list[str | int | float]] = [[f"time in {name}, share", part / seconds] for name, part in parts.items()]
    rows += [[f"time in {name}, us per change", part / changes * 1e6] for name, part in parts.items()]
    rows += [["drain, ns per delta", parts["drain"] / max(deltas, 1) * 1e9], ["deltas per frame", deltas / max(frames, 1)]]
    for encoding in Encoding:
        size = sum(rate.frame_bytes[encoding] for rate in rates)
        rows.append([f"frames in {encoding.name.lower()}, MB/s", size / seconds / 1e6])
    rows += [
        ["fill: entities taken in per second", entities / filled.entities_s],
        ["fill: entities shown per second", filled.enters / filled.sessions_s],
        ["fill: MB", filled.frame_bytes / 1e6],
    ]
    result.tables.append(Table(f"{kind}: where the time goes in the dense city", ["what", "figure"], rows))
    series = [Series(name, [(kind, part / changes * 1e6)]) for name, part in parts.items()]
    result.plots.append(Plot(f"{kind}: what a change costs", "bar", "engine", "us per change", series))


# Viewports


def run_viewports(result: Result, kind: str, given: argparse.Namespace) -> None:
    """Add what a change costs with few and with many viewports elsewhere."""
    few, many = given.viewports or SIZES[kind].viewports
    rate = given.rate or SIZES[kind].rate
    runs = [ViewportsRun(kind, given.seed, viewports, rate) for viewports in (few, many)]
    changes = SIZES[kind].viewport_changes
    costs: list[list[Cost]] = [[], []]
    for repetition in range(1 + given.repeat):
        for run, found in zip(runs, costs, strict=True):
            cost = run.window(changes)
            if repetition:
                found.append(cost)
    pairs = list(zip(*costs, strict=True))
    is_target = kind == NATIVE and (few, many) == SIZES[kind].viewports
    result.row(
        f"{kind}: cost of a change, {many:,} against {few:,} viewports",
        [large.all_us / small.all_us for small, large in pairs],
        "x",
        key="viewports_cost" if is_target else "",
        facts={
            "viewers at its place": VIEWERS_AT_PLACE,
            "candidates": f"{median(c.candidates for c in costs[0]):.1f} and {median(c.candidates for c in costs[1]):.1f}",
            "of apply alone": round(median(large.apply_us / small.apply_us for small, large in pairs), 2),
        },
    )
    for viewports, found, run in zip((few, many), costs, runs, strict=True):
        facts = {
            "apply us": round(median(cost.apply_us for cost in found), 2),
            "us to open, look and fill a session": round(run.open_us, 1),
        }
        result.row(f"{kind}: a change among {viewports:,} viewports", [cost.all_us for cost in found], "us", facts=facts)


# Memory


def run_memory(result: Result, kind: str, given: argparse.Namespace) -> None:
    """Add what an entity costs."""
    entities = given.memory_entities or SIZES[kind].entities
    found = footprint(kind, entities, given.moves, given.seed)
    is_target = kind == NATIVE and entities == SIZES[kind].entities
    for name, beside, resident, json in (
        ("as published", found.beside, found.resident_bytes, found.json_bytes),
        (f"after {found.moves} moves of each", found.beside_after, found.resident_bytes_after, found.json_bytes_after),
    ):
        facts = {"entities": entities, "resident": round(resident / entities, 1), "its JSON": round(json / entities, 1)}
        is_last = beside == max(found.beside, found.beside_after)  # the worse of the two is what is judged
        result.row(f"{kind}: memory per entity, {name}", beside, "bytes", key="entity_bytes" if is_target and is_last else "", facts=facts)


PARTS: dict[str, Callable[[Result, str, argparse.Namespace], None]] = {"city": run_city, "viewports": run_viewports, "memory": run_memory}


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = command_line.parser("engine", "The engine alone: no sockets, one core, simulated time.")
    add = parser.add_argument
    add("--engine", nargs="+", choices=(NATIVE, REFERENCE), default=[NATIVE, REFERENCE], help="those that are not built are left out")
    add("--part", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    add("--take", choices=("updates", "objects", "lines"), default="updates", help="decoded updates, objects as published, or NDJSON")
    add("--repeat", type=int, default=5, metavar="WINDOWS", help="after one of warm-up")
    add("--sessions", type=int, default=1000)
    add("--entities", type=int, default=100_000)
    add("--fan-out", type=float, metavar="SESSIONS", help="that a change is told to; by default 37.5 of 1,000")
    add("--changes", type=int, metavar="COUNT", help=f"of a window; by default {_of('changes')}")
    add("--rate", type=float, metavar="CHANGES_PER_S", help=f"of simulated time; by default {_of('rate')}")
    add("--viewports", type=int, nargs=2, metavar=("FEW", "MANY"), help=f"by default {_of('viewports')}")
    add("--memory-entities", type=int, metavar="COUNT", help=f"by default {_of('entities')}")
    add("--moves", type=int, default=MOVES, help="of each entity whose memory is measured")
    given = parser.parse_args(arguments)
    kinds = available(given.engine)
    options = {name: value for name, value in vars(given).items() if name not in ("json", "seed")}
    result = Result.begin("engine", seed=given.seed, options=options)
    result.notes += [f"{kind}: not built here" for kind in given.engine if kind not in kinds]
    usable, two = os.sched_getaffinity(0), cores()
    if two is not None:
        pin(0, two[0])
    try:
        for kind in kinds:
            for part in given.part:
                PARTS[part](result, kind, given)
    finally:
        os.sched_setaffinity(0, usable)
    return result.finish(given.json)


def _of(name: str) -> str:
    return ", ".join(f"{kind} {getattr(sizes, name)}" for kind, sizes in SIZES.items())
