"""`python -m bench compare`: the same city over the design that is replaced, NATS, Tile38, and both engines.

Law: what arrives is compared with brute force first, and only then is speed looked for: the highest rate at which p99
stays under the bound and nothing lags behind. A peer that cannot run here is named with what it lacks, and a ratio
without its two sides is void, not guessed.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Callable, Mapping, Sequence

import msgspec
import uvloop
from msgspec import Struct

from bench.command_line import parser, raise_file_limit
from bench.knee import Bounds, Search, Window
from bench.peers.nats import Nats
from bench.peers.ours import Ours, by_native
from bench.peers.peer import Measured, Peer, Unavailable
from bench.peers.replaced import Replaced, Tuned
from bench.peers.tile38 import Tile38
from bench.peers.viewers import Viewers
from bench.results import Fact, Result, Table

LEAST, MOST = 5.0, 2e6  # changes/s between which a knee is looked for
TOLERANCE = 0.15
REPLACED_LEAST = 100.0  # changes/s that the replaced design is known to sustain: a rebuild below it is not that design
CORRECT_SHARE = 0.5  # of the rate that a search begins with, at which mirrors are looked at first
CORRECT_S = 3.0
BREAKS = (RuntimeError, OSError, EOFError)  # what a peer that does not live, or hangs, ends a measurement with


class Found(Struct):
    """What was found of one peer."""

    name: str
    versions: dict[str, str]
    commands: list[str]
    correct: Measured  # at a low rate, before the search
    measured: list[Measured]  # every window of the search, in order
    load: float  # changes/s that it sustains
    why: str  # what ran out above that
    is_lower_bound: bool  # something else ran out first, or nothing did
    p99_ms: float  # the bound

    @property
    def best(self) -> Measured | None:
        """The last window that held at the sustained rate."""
        held = [one for one in self.measured if one.rate == self.load and one.p99_ms <= self.p99_ms]
        return held[-1] if held else None

    @property
    def most_per_s(self) -> float:
        """The most deliveries per second of any window, those beyond the bound included."""
        return max((one.wanted_per_s for one in self.measured), default=0.0)


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    given = _parser().parse_args(arguments)
    raise_file_limit()
    options = {name: getattr(given, name) for name in ("viewers", "entities", "seconds", "p99_ms", "windows")}
    result = Result.begin("compare", seed=given.seed, options=options)
    viewers = Viewers(given.seed, given.viewers, given.entities)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = {}
            for key, make in peers(viewers).items():
                if key in given.peers:
                    one = _find(runner, make(), given, result.notes)
                    if one is not None:
                        found[key] = one
    finally:
        viewers.close()
    conclude(result, found)
    return result.finish(given.json)


def _parser() -> argparse.ArgumentParser:
    made = parser("compare", "The same city over other designs, and over both engines.")
    add = made.add_argument
    names = ("replaced", "tuned", "nats", "tile38", "reference", "native")
    add("--peers", nargs="+", choices=names, default=list(names), metavar="PEER", help=f"of {', '.join(names)}; all by default")
    add("--viewers", type=int, default=1000)
    add("--entities", type=int, default=10_000)
    add("--seconds", type=float, default=8.0, help="of a window; the one that confirms is twice as long")
    add("--windows", type=int, default=12, help="for one peer, at most")
    add("--p99-ms", type=float, default=500.0, help="the bound, from due to arrived")
    return made


def peers(viewers: Viewers) -> dict[str, Callable[[], Peer]]:
    """Return what makes each peer."""
    return {
        "replaced": lambda: Replaced(viewers),
        "tuned": lambda: Tuned(viewers),
        "nats": lambda: Nats(viewers),
        "tile38": lambda: Tile38(viewers),
        "reference": lambda: Ours("reference", by_native(viewers, "reference"), start_rate=1000.0),
        "native": lambda: Ours("native", by_native(viewers, "native"), start_rate=10_000.0),
    }


def _find(runner: asyncio.Runner, peer: Peer, given: argparse.Namespace, notes: list[str]) -> Found | None:
    """Look at what arrives, then search; None where the peer cannot run."""
    try:
        versions = runner.run(peer.prepare())
    except Unavailable as error:
        print(f"{peer.name}: skipped: {error}")
        notes.append(f"{peer.name} was skipped: {error}")
        return None
    print(f"{peer.name}: {', '.join(f'{name} {version}' for name, version in versions.items())}".rstrip(": "), flush=True)
    try:
        correct = runner.run(peer.measure(peer.start_rate * CORRECT_SHARE, CORRECT_S))
    except BREAKS as error:
        print(f"  it does not work: {error}", flush=True)
        notes.append(f"{peer.name} does not work: {error}")
        return None
    print(f"  {correct.rate:,.0f} changes/s: {_arrived(correct)}", flush=True)
    measured: list[Measured] = []

    def measure(rate: float, is_confirmation: bool) -> Window:
        try:
            one = runner.run(peer.measure(rate, given.seconds * (2 if is_confirmation else 1)))
        except BREAKS as error:  # a peer that breaks under a load does not carry it
            print(f"  {rate:,.0f} changes/s: {error}", flush=True)
            notes.append(f"{peer.name} broke at {rate:,.0f} changes/s: {error}")
            return broken(rate, given.viewers)
        measured.append(one)
        print(f"  {rate:,.0f} changes/s: {_speed(measured[-1])}", flush=True)
        return measured[-1].window()

    bounds = Bounds(p99_ms=given.p99_ms)
    search = Search(measure, bounds, least=LEAST, most=MOST, tolerance=TOLERANCE, confirmations=1, windows_max=given.windows)
    knee = search.run(peer.start_rate)
    load = knee.load or max((candidate.load for candidate in knee.candidates if candidate.holds), default=0.0)
    if load > knee.load:
        notes.append(f"{peer.name}: {load:,.0f} changes/s was not confirmed by a longer window: there were none left, or it failed")
    is_lower_bound = knee.is_lower_bound or all(candidate.holds for candidate in knee.candidates)
    return Found(peer.name, versions, peer.commands(), correct, measured, load, str(knee.bottleneck), is_lower_bound, given.p99_ms)


def broken(rate: float, viewers: int) -> Window:
    """Return the window of a peer that did not live to its end."""
    return Window(
        rate=rate,
        viewers=viewers,
        seconds=0.0,
        taken_per_s=0.0,
        deltas_per_s=0.0,
        p50_ms=math.inf,
        p99_ms=math.inf,
        outbox_growth=0.0,
        faults=1,
    )


def _arrived(one: Measured) -> str:
    mirrors, filled = one.mirrors, one.filled
    if mirrors is None or filled is None:
        return "not all was sent, and so nothing could be compared"
    what = [
        f"{count} {name}" for name, count in (("missing", mirrors.missing), ("stale", mirrors.stale), ("ghosts", mirrors.ghosts)) if count
    ]
    return f"{mirrors.wrong} of {mirrors.compared} mirrors wrong ({', '.join(what) or 'nothing'}), {filled.wrong} before the first change"


def _speed(one: Measured) -> str:
    cpu = ", ".join(f"{name} {share:.0%}" for name, share in one.cpu.items())
    return (
        f"{one.wanted_per_s:,.0f} deliveries/s, p50 {one.p50_ms:,.0f} ms, p99 {one.p99_ms:,.0f} ms, {cpu}, load {one.load_cpu:.0%}, "
        f"others {one.others_cpu:.0%}{', given up' if one.is_given_up else ''}"
    )


def conclude(result: Result, found: Mapping[str, Found]) -> None:
    """Add what was found to a result: a row for each peer, the two tables, the ratios."""
    for one in found.values():
        result.versions |= one.versions
        best = one.best
        facts: dict[str, Fact] = (
            {} if best is None else {"deliveries/s": best.wanted_per_s, "p99 ms": best.p99_ms, "ran out above": one.why}
        )
        result.row(
            f"{one.name}: sustained",
            one.load,
            "changes/s",
            facts=facts,
            note="something else than this server ran out: it could do more" if one.is_lower_bound else "",
        )
        result.notes.append(f"{one.name} ran as: {'; '.join(one.commands)}")
    if found:
        result.tables += [_arrivals(found), _speeds(found), _beyond(found)]
    ours = found.get("native") or found.get("reference")
    _ratio(result, "replaced", ours, found.get("replaced"), lambda one: one.load, lambda one: one.load)
    _ratio(result, "nats", ours, found.get("nats"), _deliveries, lambda one: one.most_per_s)
    result.details = {name: msgspec.to_builtins(one) for name, one in found.items()}


def _deliveries(one: Found) -> float:
    return one.best.wanted_per_s if one.best is not None else 0.0


def _ratio(
    result: Result,
    key: str,
    ours: Found | None,
    theirs: Found | None,
    value: Callable[[Found], float],
    their_value: Callable[[Found], float],
) -> None:
    """Add how many times as much the server does as a peer; the peer counts with the most that it ever did."""
    if ours is None or theirs is None:
        return
    void = ""
    if not their_value(theirs) or not value(ours):
        void = "one of the two sustained nothing"
    elif key == "replaced" and theirs.load < REPLACED_LEAST:
        void = f"the rebuild sustains less than the {REPLACED_LEAST:,.0f} changes/s that the design is known to: it is not that design"
    elif theirs.is_lower_bound:
        void = f"{theirs.name} could do more than was found ({theirs.why} ran out): the ratio would flatter"
    elif "native" not in ours.name:
        void = "measured with the reference engine"
    ratio = value(ours) / their_value(theirs) if their_value(theirs) else 0.0
    note = f"{ours.name} against {theirs.name}" + (": it could do more than was found" if ours.is_lower_bound else "")
    result.row(f"ratio, {key}", ratio, "x", key=key, void=void, note=note)


def _arrivals(found: Mapping[str, Found]) -> Table:
    """Return the table of what the mirrors were, at a low rate and at the sustained one."""
    rows: list[list[str | int | float]] = []
    for one in found.values():
        for measured in (one.correct, one.best):
            if measured is not None and measured.mirrors is not None and measured.filled is not None:
                mirrors = measured.mirrors
                counts = (mirrors.compared, measured.filled.wrong, mirrors.wrong, mirrors.missing, mirrors.stale, mirrors.ghosts)
                rows.append([one.name, round(measured.rate), *counts, measured.faults, measured.closed])
    columns = ["peer", "changes/s", "mirrors", "wrong at first", "wrong at the end", "missing", "stale", "ghosts", "faults", "closed"]
    return Table("what arrived, against brute force", columns, rows, "ghosts: entities that left a view, of which its viewer was not told")


def _speeds(found: Mapping[str, Found]) -> Table:
    """Return the table of the sustained rates."""
    rows: list[list[str | int | float]] = []
    for one in found.values():
        best = one.best
        if best is None:
            rows.append([one.name, *[0] * 8, "-", one.why])
            continue
        figures = (round(best.rate), best.fan_out, round(best.wanted_per_s), best.over_fetched_per_s / max(best.wanted_per_s, 1e-9))
        cpu = " ".join(f"{name} {share:.0%}" for name, share in best.cpu.items())
        rows.append([one.name, *figures, best.p50_ms, best.p99_ms, best.conflated, best.load_cpu, cpu, one.why])
    columns = [
        "peer",
        "changes/s",
        "fan-out",
        "deliveries/s",
        "over-fetch",
        "p50 ms",
        "p99 ms",
        "conflated",
        "load",
        "servers",
        "ran out above",
    ]
    return Table("the highest rate that is sustained", columns, rows, "deliveries are those wanted: inside a view, or told of leaving it")


def _beyond(found: Mapping[str, Found]) -> Table:
    """Return the table of the lowest rate that each did not sustain: where and how it stalls."""
    rows: list[list[str | int | float]] = []
    for one in found.values():
        failed = [measured for measured in one.measured if measured.rate > one.load * 1.001]
        if failed:
            least = min(failed, key=lambda measured: (measured.rate, -measured.p50_ms))
            busiest = max(least.cpu, key=lambda name: least.cpu[name])
            figures = (round(least.rate), round(least.wanted_per_s), _ms(least.p50_ms), _ms(least.p99_ms), least.silence_max_s)
            rows.append([one.name, *figures, f"{busiest} {least.cpu[busiest]:.0%}", round(one.most_per_s)])
    columns = ["peer", "changes/s", "deliveries/s", "p50 ms", "p99 ms", "silence s", "busiest", "most deliveries/s of any window"]
    return Table("the lowest rate that is not", columns, rows, "never: so much of it did not come while it was waited for")


def _ms(value: float) -> float | str:
    return value if math.isfinite(value) else "never"
