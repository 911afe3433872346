"""`python -m bench city`: a thousand viewers of one city, and whether what they were promised holds.

Law: all of them hold full mirrors, and all mirrors are compared.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from bench import command_line
from bench.client import RECEIVE_BUFFER_BYTES, Tally, Viewer
from bench.report import Verdict, city_verdicts, conclude, load_warnings, print_rows, window_rows
from bench.results import Result, write
from bench.trial import Options, Trial, Window, add_options, options_of

REFRESHES = 3
REFRESH_INTERVAL_S = 0.2  # above what `views_per_s` allows, so that each is answered


async def run_city(
    options: Options, rates: list[float], warm_up_s: float, seconds: float, stalled: float, profile_s: float, path: Path | None
) -> int:
    """Load one server with each rate in turn; print what was measured; return the exit code (that of the worst window)."""
    result = Result.begin("city", seed=options.seed, options=msgspec.structs.asdict(options))
    windows: list[Window] = []
    verdicts: list[list[Verdict]] = []
    texts: list[str] = []
    async with Trial(options, is_hosted=profile_s > 0) as trial:
        tally, stalled_tally = Tally(), Tally()
        places = trial.city.by_shown() if stalled else range(options.viewers)
        stalling = round(options.viewers * stalled)
        readers = await trial.group(places[stalling:], tally)
        sleepers = await trial.group(places[:stalling], stalled_tally, RECEIVE_BUFFER_BYTES)
        filled = trial.server.resident_bytes()
        print(f"{len(readers) + len(sleepers)} viewers, {options.entities} entities, {options.encoding}, published {options.publish}")
        print(f"  server after the fill  {filled / 1e6:,.0f} MB resident")
        for viewer in sleepers:
            viewer.stop_reading()
        await ask_much(sleepers)
        for rate in rates:
            profiling = asyncio.ensure_future(_profile(trial, warm_up_s, profile_s))
            window = await trial.load(rate, warm_up_s, seconds, tally)
            texts.append(await profiling)
            mirrors = await trial.compare(readers)
            windows.append(window)
            verdicts.append(city_verdicts(window, mirrors, options.flush_interval_ms))
            print_rows(window_rows(window))
            print(texts[-1], end="")
            conclude(verdicts[-1], load_warnings([window]))
        if sleepers:
            closed = (await trial.metrics())['realtime_connections_closed_total{code="4000"}']
            print(f"  {len(sleepers)} viewers stopped reading; closed with 4000: {closed:.0f}")
        if path is not None:
            _fill(result, windows, verdicts)
            result.close()
            write(path, result)
    return max(int(not all(verdict.is_met for verdict in each)) for each in verdicts)


def _fill(result: Result, windows: list[Window], verdicts: list[list[Verdict]]) -> None:
    for window in windows:
        at = f" at {window.offered_per_s:,.0f} changes/s"
        result.row(f"deltas applied{at}", window.deltas_per_s, "deltas/s", facts={"bytes per delta": round(window.bytes_per_delta, 1)})
        result.row(f"p99 publish to apply{at}", window.waits.p99_ms, "ms", facts={"conflated": round(window.conflated, 3)})
    result.notes = [f"{'met' if verdict.is_met else 'not met'}: {verdict.text}" for each in verdicts for verdict in each]
    result.details = {"windows": windows, "verdicts": verdicts}


async def ask_much(viewers: list[Viewer]) -> None:
    """Let viewers ask for their whole view a few times: more than the buffers of a socket hold, if nobody reads it."""
    for _ in range(REFRESHES):
        for viewer in viewers:
            viewer.send({"type": "refresh"})
        await asyncio.sleep(REFRESH_INTERVAL_S)


async def _profile(trial: Trial, warm_up_s: float, seconds: float) -> str:
    if seconds <= 0:
        return ""
    await asyncio.sleep(warm_up_s)
    answer = await trial.server.ask({"do": "profile", "seconds": seconds, "lines": 30})
    return str(answer["text"])


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = command_line.parser("city", "Viewers of one city, every mirror compared with brute force.")
    add_options(parser)
    add = parser.add_argument
    add("--rate", type=float, nargs="+", default=[1500.0], metavar="CHANGES_PER_S", help="several: one after the other")
    add("--warm-up", type=float, default=5.0, metavar="SECONDS", help="of load before what is measured")
    add("--seconds", type=float, default=30.0)
    add("--stalled", type=float, default=0.0, metavar="SHARE", help="of the viewers stop reading")
    add("--profile", type=float, default=0.0, metavar="SECONDS", help="run cProfile in the server; it gets much slower")
    given = parser.parse_args(arguments)
    running = run_city(options_of(given), given.rate, given.warm_up, given.seconds, given.stalled, given.profile, given.json)
    return command_line.run(running)
