"""`python -m bench city`: a thousand viewers of one city, and whether what they were promised holds.

Law: all of them hold full mirrors, and all mirrors are compared.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.client import RECEIVE_BUFFER_BYTES, Tally, Viewer
from bench.report import city_verdicts, conclude, load_warnings, print_rows, window_rows, write_json
from bench.trial import Options, Trial

REFRESHES = 3
REFRESH_INTERVAL_S = 0.2  # above what `views_per_s` allows, so that each is answered


async def run_city(
    options: Options, rates: list[float], warm_up_s: float, seconds: float, stalled: float, profile_s: float, path: Path | None
) -> int:
    """Load one server with each rate in turn; print what was measured; return the exit code (that of the worst window)."""
    windows, verdicts, texts = [], [], []
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
            write_json(path, options, trial.server.command, windows=windows, verdicts=verdicts)
    return max(int(not all(verdict.is_met for verdict in each)) for each in verdicts)


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
