"""`python -m bench capacity`: what this machine carries.

Two searches on one kind of load, a city with publishers and native clients: the most changes a second for so many
viewers, and the most viewers for so many changes a second; the most deltas a second is the best that either confirmed.

Law: a load is carried if p99 stays under its bound, all that was due was taken in, the outboxes do not grow, and no more
is conflated away than a given share; see `bench.knee` for how that is decided. Whoever ran out is named, and where it
was not the server, the figure is a lower bound.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from statistics import median

import uvloop
from msgspec.structs import replace

from bench.command_line import parser, raise_file_limit
from bench.knee import Bounds, Candidate, Knee, Search, Window
from bench.load import add_options, options_of
from bench.load_trial import LoadOptions, LoadTrial
from bench.results import Fact, Plot, Result, Series, Table, number

Measure = Callable[[float, int, float], Window]  # (changes a second, viewers, seconds)

RATE_MIN, RATE_MAX = 10.0, 5e6
VIEWERS_MIN = 50
FILES_APART = 300  # of the file descriptors, for everything but connections
PER_VIEWERS = 1000  # viewers that `--fan-out` is said for: views keep their size, so twice as many are told where twice as many look
CONFLATED_TOLD = 0.05  # the share from which on it belongs into the sentence
WHOLE = 10  # mirrors that are compared with brute force, each time; the digests of hundreds are compared besides


NOTHING = Window(rate=0.0, viewers=0, seconds=0.0, taken_per_s=0.0, deltas_per_s=0.0, p50_ms=0.0, p99_ms=0.0, outbox_growth=0.0, faults=1)


class Site:
    """A server under load, as `Measure`: one trial lives as long as the number of viewers stays and nothing broke."""

    def __init__(self, options: LoadOptions, warm_up_s: float) -> None:
        self.notes: list[str] = []
        self.engine = ""
        self._options, self._warm_up_s = options, warm_up_s
        self._trial: LoadTrial | None = None
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def __call__(self, rate: float, viewers: int, seconds: float) -> Window:
        """Return what was seen of a load; one under which the trial broke down is a fault."""
        try:
            return self._runner.run(self._measure(rate, viewers, seconds))
        except (OSError, EOFError, TimeoutError, RuntimeError) as error:
            why = f"{type(error).__name__}: {str(error)[:300]}"
            self.notes.append(f"{viewers:,} viewers, {rate:,.0f} changes/s: the trial broke off: {why}")
            self._runner.run(self._end())
            return replace(NOTHING, rate=rate, viewers=viewers)

    async def _measure(self, rate: float, viewers: int, seconds: float) -> Window:
        if self._trial is None or self._trial.options.viewers != viewers:
            await self._end()
            fan_out = self._options.fan_out * viewers / PER_VIEWERS
            trial = LoadTrial(replace(self._options, viewers=viewers, fan_out=fan_out))
            await trial.__aenter__()
            self._trial, self.engine = trial, trial.engine
        window = await self._trial.window(rate, self._warm_up_s, seconds)
        compared = await self._trial.compare()  # also lets the outboxes of what was too much become empty
        if not compared.are_right:
            self.notes.append(f"{viewers:,} viewers, {rate:,.0f} changes/s: {compared.text()}")
        found: Window = replace(window, load_cpu=window.load_cpu + window.publisher_cpu, faults=window.faults + (not compared.are_right))
        if found.faults:
            await self._end()  # a server that was wrong once is not asked again
        return found

    async def _end(self) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            await trial.__aexit__(None, None, None)

    def close(self) -> None:
        """End the trial."""
        self._runner.run(self._end())
        self._runner.close()


def search_rate(measure: Measure, given: argparse.Namespace) -> Knee:
    """Return the knee in changes a second, for the viewers that were given."""

    def at(load: float, is_confirmation: bool) -> Window:
        return measure(load, given.viewers, given.confirm_seconds if is_confirmation else given.seconds)

    search = Search(
        at,
        _bounds(given),
        least=RATE_MIN,
        most=RATE_MAX,
        tolerance=given.tolerance,
        confirmations=given.repeat,
        tell=lambda candidate: _tell(candidate, "changes/s"),
    )
    return search.run(given.start_rate)


def search_viewers(measure: Measure, given: argparse.Namespace) -> Knee:
    """Return the knee in viewers, for the changes a second that were given."""

    def at(load: float, is_confirmation: bool) -> Window:
        return measure(given.rate, round(load), given.confirm_seconds if is_confirmation else given.seconds)

    search = Search(
        at,
        _bounds(given),
        least=min(VIEWERS_MIN, given.viewers_max),
        most=given.viewers_max,
        tolerance=given.tolerance,
        confirmations=given.repeat,
        tell=lambda candidate: _tell(candidate, "viewers"),
    )
    return search.run(min(given.viewers, given.viewers_max))


def _bounds(given: argparse.Namespace) -> Bounds:
    return Bounds(p99_ms=given.p99_ms, conflated=given.conflated)


def _tell(candidate: Candidate, unit: str) -> None:
    window = candidate.windows[-1]
    print(
        f"  {number(round(candidate.load)):>10} {unit}: {'holds' if candidate.holds else 'fails':5} ({len(candidate.windows)} windows)"
        f"  p99 {number(window.p99_ms)} ms, {number(window.deltas_per_s)} deltas/s, outboxes {window.outbox_growth:+.1f},"
        f" server {window.server_cpu:.0%}, load {window.load_cpu:.0%}",
        flush=True,
    )


# What is said


def sentence(knee: Knee, given: argparse.Namespace) -> str:
    """Return in plain words what was found."""
    if not knee.confirmed:
        return f"this machine does not carry the smallest load that was tried; what stopped it was {knee.bottleneck}"
    viewers = number(knee.confirmed[0].viewers)
    rate = number(round(median(window.rate for window in knee.confirmed)))
    deltas, p99 = (median(figures) for figures in zip(*((window.deltas_per_s, window.p99_ms) for window in knee.confirmed), strict=True))
    conflated = median(window.conflated for window in knee.confirmed)
    lost = f", {conflated:.0%} of what changed told by something newer" if conflated > CONFLATED_TOLD else ""
    beyond = " or more" if knee.is_lower_bound else ""
    why = "nothing ran out before the search ended" if knee.is_open else f"what stopped it was {knee.bottleneck}"
    return (
        f"this machine carries {viewers} viewers of one city at {rate} changes a second{beyond}: "
        f"{number(deltas)} deltas a second{lost}, p99 {number(p99)} ms from due to applied, at most {number(given.p99_ms)} allowed; {why}"
    )


def add_knee(result: Result, knee: Knee, name: str, unit: str, plot_x: str) -> None:
    """Add what one search found: rows, plots, the table of everything that was tried."""
    if knee.confirmed:
        samples = [window.taken_per_s if unit == "changes/s" else float(window.viewers) for window in knee.confirmed]
        result.row(
            name,
            samples,
            unit,
            note="a lower bound" if knee.is_lower_bound else "",
            facts={
                "bottleneck": str(knee.bottleneck),
                "p99 ms": round(median(window.p99_ms for window in knee.confirmed), 1),
                "deltas/s": round(median(window.deltas_per_s for window in knee.confirmed)),
                "bytes per delta": round(median(window.bytes_per_delta for window in knee.confirmed), 1),
                "conflated away": f"{median(window.conflated for window in knee.confirmed):.1%}",
            },
        )
    points = [(candidate.load, window) for candidate in knee.candidates for window in candidate.windows if not window.faults]
    by_load = [(load, [window for at, window in points if at == load]) for load in sorted({load for load, _ in points})]
    waits = [
        Series("p50", [(load, median(window.p50_ms for window in windows)) for load, windows in by_load]),
        Series("p99", [(load, median(window.p99_ms for window in windows)) for load, windows in by_load]),
    ]
    result.plots.append(Plot(f"latency: {name}", "line", plot_x, "ms, due to applied", waits, x_log=True, y_log=True))
    deltas = Series("deltas/s", [(load, median(window.deltas_per_s for window in windows)) for load, windows in by_load])
    result.plots.append(Plot(f"throughput: {name}", "line", plot_x, "deltas/s", [deltas], x_log=True))
    rows: list[list[str | int | float]] = [
        [
            round(candidate.load),
            round(window.p50_ms, 1),
            round(window.p99_ms, 1),
            round(window.deltas_per_s),
            round(window.outbox_growth, 2),
            f"{window.server_cpu:.0%}",
            f"{window.load_cpu:.0%}",
            round(window.publisher_late_s * 1000),
            "holds" if candidate.holds else "fails",
        ]
        for candidate in knee.candidates
        for window in candidate.windows
    ]
    columns = [plot_x, "p50 ms", "p99 ms", "deltas/s", "outboxes", "server's core", "load's core", "publisher late ms", "the load"]
    note = "every window; a load is decided by the majority of its windows"
    result.tables.append(Table(f"what was tried: {name}", columns, rows, note))


def add_best(result: Result, knees: Sequence[Knee]) -> None:
    """Add the most deltas a second that were confirmed."""
    confirmed = [knee for knee in knees if knee.confirmed]
    if not confirmed:
        return
    best = max(confirmed, key=lambda knee: median(window.deltas_per_s for window in knee.confirmed))
    facts: dict[str, Fact] = {
        "viewers": best.confirmed[0].viewers,
        "changes/s": round(best.confirmed[0].rate),
        "bottleneck": str(best.bottleneck),
    }
    result.row("deltas/s, the most that was confirmed", [window.deltas_per_s for window in best.confirmed], "deltas/s", facts=facts)


def searched(result: Result, measure: Measure, given: argparse.Namespace) -> None:
    """Make the searches that were asked for, and add what they found."""
    knees = []
    if "rate" in given.search:
        print(f"changes/s at {given.viewers:,} viewers", flush=True)
        knees.append(search_rate(measure, given))
        add_knee(result, knees[-1], f"changes/s at {given.viewers:,} viewers", "changes/s", "changes/s")
    if "viewers" in given.search:
        print(f"viewers at {given.rate:,.0f} changes/s", flush=True)
        knees.append(search_viewers(measure, given))
        add_knee(result, knees[-1], f"viewers at {given.rate:,.0f} changes/s", "viewers", "viewers")
    add_best(result, knees)
    result.notes += [sentence(knee, given) for knee in knees]


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    made = parser("capacity", "What this machine carries: the knee in changes/s, viewers and deltas/s.")
    add_options(made)
    made.set_defaults(whole=WHOLE)
    add = made.add_argument
    add("--search", nargs="+", choices=("rate", "viewers"), default=["rate", "viewers"], help="what is raised until something gives")
    add("--rate", type=float, default=20_000.0, metavar="CHANGES_PER_S", help="for which the most viewers are looked for")
    add("--start-rate", type=float, default=5000.0, metavar="CHANGES_PER_S", help="with which the search for the most changes/s begins")
    add("--viewers-max", type=int, help="by default as many as the limit of file descriptors allows")
    add("--p99-ms", type=float, default=500.0, help="the bound, from due to applied")
    add("--conflated", type=float, default=0.2, metavar="SHARE", help="of what changed that may be told by something newer")
    add("--warm-up", type=float, default=1.5, metavar="SECONDS", help="before each window")
    add("--seconds", type=float, default=3.0, help="of a window of the search")
    add("--confirm-seconds", type=float, default=10.0, help="of a window that confirms")
    add("--repeat", type=int, default=3, metavar="WINDOWS", help="that confirm what was found; most must hold")
    add("--tolerance", type=float, default=0.1, help="share by which the load that holds may lie below one that does not")
    given = made.parse_args(arguments)
    most = raise_file_limit() - FILES_APART
    given.viewers_max = min(given.viewers_max or most, most)
    options = {name: value for name, value in vars(given).items() if name not in ("json", "seed")}
    result = Result.begin("capacity", seed=given.seed, options=options)
    site = Site(options_of(given), given.warm_up)
    try:
        searched(result, site, given)
    finally:
        site.close()
    result.versions["engine"] = site.engine
    result.notes += site.notes
    return result.finish(given.json)
