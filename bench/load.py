"""`python -m bench load`: a server under load from native clients; deltas/s, latency, mirrors compared with brute force.

Law: a window is judged only if it lasted long enough, nobody was wrong, nothing lagged behind, and the load process was not
what ran out; else the row says why it is void. What is counted is what clients applied.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec

from bench import command_line
from bench.dense import WORKLOADS, DenseCity
from bench.load_trial import Compared, LoadOptions, LoadTrial, LoadWindow
from bench.results import Fact, Plot, Result, Series
from bench.yardstick import Pace, add_pace, measure

SECONDS_MIN = 30.0  # of a window that is judged
P99_MS_MAX, OUTBOX_GROWTH_MAX = 500.0, 2.0
LOAD_CPU_MAX = 0.95  # of its core; beyond it the server was waited for by nobody
YARDSTICK_S, YARDSTICK_REPETITIONS = 1.0, 5
PROMISES = ("none", "throughput", "ingest", "idle", "half", "frames")


def why_void(windows: Sequence[LoadWindow], compared: Compared) -> str:
    """Say why a run must not be judged; empty if it may."""
    found = []
    if any(window.seconds < SECONDS_MIN * 0.99 for window in windows):
        found.append(f"windows of less than {SECONDS_MIN:.0f} s")
    if not compared.are_right:
        found.append("mirrors or frames were wrong")
    if any(window.p99_ms > P99_MS_MAX for window in windows):
        found.append(f"p99 above {P99_MS_MAX:.0f} ms")
    if any(window.outbox_growth > OUTBOX_GROWTH_MAX for window in windows):
        found.append("outboxes grew")
    if any(window.refused for window in windows):
        found.append("changes were refused")
    if any(window.lost for window in windows):
        found.append("connections were lost")
    return "; ".join(found)


def facts_of(options: LoadOptions, windows: Sequence[LoadWindow]) -> dict[str, Fact]:
    """Return what has to stand beside a figure: of the window in the middle."""
    one = sorted(windows, key=lambda window: window.deltas_per_s)[len(windows) // 2]
    return {
        "encoding": options.encoding,
        "published": options.publish,
        "changes/s taken": round(one.taken_per_s),
        "told": round(one.told_per_change, 1),
        "bytes per delta": round(one.bytes_per_delta, 1),
        "conflated" if options.workload == DenseCity.name else "conflated or not in the sample": f"{one.conflated:.1%}",
        "frames/s": round(one.frames_per_s),
        "deltas a frame": round(one.deltas_per_s / max(one.frames_per_s, 1e-9), 1),
        "p50 ms": round(one.p50_ms, 2),
        "p99 ms": round(one.p99_ms, 2),
        "server's core": f"{one.server_cpu:.0%}",
        "load's core": f"{one.load_cpu + one.publisher_cpu:.0%}",
        "others": f"{one.others_cpu:.0%} of a core",
        "publisher late by ms": round(one.publisher_late_s * 1000, 1),
        "outboxes grew by": f"{one.outbox_growth:+.2f} flushes",
        "checked connections": one.checked_connections,
        "server MB": round(one.server_resident_bytes / 1e6),
    }


def add_rows(result: Result, options: LoadOptions, rate: float, windows: Sequence[LoadWindow], compared: Compared, promise: str) -> None:
    """Add what was measured of one rate; judge it by what it promises."""
    void, facts = why_void(windows, compared), facts_of(options, windows)
    at = f"{options.viewers:,} connections, {rate:,.0f} changes/s"
    lasts = f"deltas_{options.viewers}" if promise == "throughput" and options.publish == "inprocess" else ""
    result.row(f"deltas applied, {at}", [w.deltas_per_s for w in windows], "deltas/s", key=lasts, void=void if lasts else "", facts=facts)
    takes = "ndjson_changes" if promise == "ingest" and options.publish == "http" else ""
    result.row(f"changes taken in, {at}", [w.taken_per_s for w in windows], "changes/s", key=takes, void=void if takes else "")
    p50, p99 = {"idle": ("idle_p50", "idle_p99"), "half": ("", "half_p99")}.get(promise, ("", ""))
    result.row(f"p50 due to applied, {at}", [w.p50_ms for w in windows], "ms", key=p50, void=void if p50 else "")
    result.row(f"p99 due to applied, {at}", [w.p99_ms for w in windows], "ms", key=p99, void=void if p99 else "")
    for window in windows:
        if window.load_cpu + window.publisher_cpu > LOAD_CPU_MAX:
            result.notes.append(f"{at}: the load's core was full: rates are a lower bound of the server's, latencies an upper one")
        if window.others_cpu > 0.25:
            result.notes.append(f"{at}: somebody else took {window.others_cpu:.0%} of a core")


def add_yardstick(result: Result, pace: Pace, frames_per_s: Sequence[float], promise: str) -> None:
    """Add the share of the bare loop's frames that the server reached, which only means something if the server was full."""
    add_pace(result, pace)
    bare = median(pace.frames_per_s)
    key = f"yardstick_{pace.sockets}" if promise == "frames" else ""
    name = f"frames/s against a bare send() loop, {pace.sockets:,} sockets"
    result.row(name, [frames / bare for frames in frames_per_s], "x", key=key)


async def run_load(options: LoadOptions, given: argparse.Namespace) -> int:
    """Load one server with each rate in turn; return the exit code."""
    result = Result.begin("load", seed=options.seed, options=msgspec.to_builtins(options))
    kept: list[dict[str, Any]] = []
    frames: list[float] = []
    points: list[tuple[float | str, float]] = []
    sizes: list[tuple[float, float]] = []
    right = True
    async with LoadTrial(options) as trial:
        result.versions["engine"] = trial.engine
        for rate in given.rate:
            windows = [await trial.window(rate, given.warm_up, given.seconds) for _ in range(given.repetitions)]
            compared = await trial.compare()
            right = right and compared.are_right
            add_rows(result, options, rate, windows, compared, given.promise)
            result.notes.append(f"{rate:,.0f} changes/s: {compared.text()}")
            frames, sizes = [window.frames_per_s for window in windows], windows[-1].sizes
            points.append((rate, median(window.p99_ms for window in windows)))
            kept.append({"rate": rate, "windows": windows, "compared": compared})
    if given.yardstick and sizes:
        pace = await measure(options.viewers, sizes, YARDSTICK_S, YARDSTICK_REPETITIONS, options.seed)
        add_yardstick(result, pace, frames, given.promise)
    if len(points) > 1:
        mark = (P99_MS_MAX, "the bound")
        result.plots.append(Plot("From due to applied, p99", "line", "changes/s", "ms", [Series("p99", points)], True, True, mark))
    result.details = {"rates": kept, "sizes": sizes, "command": trial.server.command}
    code = result.finish(given.json)
    return code if right else 1


def options_of(given: argparse.Namespace) -> LoadOptions:
    """Return what a parser with `add_options` was given."""
    return LoadOptions(**{name: getattr(given, name) for name in LoadOptions.__struct_fields__})


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let a parser take what a load is made of, but for the seed, which all take."""
    default = LoadOptions()
    add = parser.add_argument
    add("--viewers", type=int, default=default.viewers)
    add("--entities", type=int, default=default.entities)
    add("--workload", choices=tuple(WORKLOADS), default=default.workload, help="one dense city, or the world's towns by population")
    add("--fan-out", type=float, default=default.fan_out, help="viewers that a change has to be told to; of the dense city")
    add("--flush-interval-ms", type=float, default=default.flush_interval_ms)
    add("--encoding", choices=("json", "msgpack"), default=default.encoding)
    add("--publish", choices=("inprocess", "http"), default=default.publish)
    add("--batch-ms", type=float, default=default.batch_ms, help="the publisher collects what is due for so long")
    add("--engine", choices=("auto", "native", "reference"), default=default.engine)
    add("--stalled", type=float, default=default.stalled, metavar="SHARE", help="of the viewers read nothing once they are filled")
    add("--slow", type=float, default=default.slow, metavar="SHARE", help="of the viewers read a few KB a second")
    add("--panning", type=float, default=default.panning, metavar="SHARE", help="of the viewers look elsewhere each second")
    add("--whole", type=int, default=default.whole, metavar="COUNT", help="viewers who hold whole mirrors, which are compared")
    add("--level", choices=("versions", "count"), default=default.level, help="what is checked of all others")


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = command_line.parser("load", "A server under load from native clients.")
    add_options(parser)
    add = parser.add_argument
    add("--rate", type=float, nargs="+", default=[1000.0], metavar="CHANGES_PER_S", help="several: one after the other")
    add("--warm-up", type=float, default=5.0, metavar="SECONDS", help="of load before what is measured")
    add("--seconds", type=float, default=30.0)
    add("--repetitions", type=int, default=1)
    add("--promise", choices=PROMISES, default="none", help="which of the promises the run is judged by")
    add("--yardstick", action="store_true", help="send the frames of the last rate in a bare loop, too, and compare")
    given = parser.parse_args(arguments)
    return command_line.run(run_load(options_of(given), given))
