"""`python -m bench stall`: what clients that stop reading cost the server, and the others.

Law: phases alternate (A: all read, B: some stop) in one run against one server, alike in everything else, so that what
the machine does meanwhile falls on both. The others are the same connections throughout.

Who stops are those whose views show most, for a client to which little is sent is not noticed. They have a small receive
buffer, and in both kinds of phase ask for their whole view a few times: in B that is more than a socket's buffers hold.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from bench import command_line
from bench.city import ask_much
from bench.client import RECEIVE_BUFFER_BYTES, Tally
from bench.report import STALL_RATIO_MAX, Verdict, conclude, load_warnings, mirrors_verdict, print_rows
from bench.results import Result, write
from bench.trial import Options, Trial, Window, add_options, options_of

CLOSED = 'realtime_connections_closed_total{code="4000"}'
STALLED_BYTES_MAX = 512 * 1024  # outbox of a city's view, one frame, the write buffer; kernel buffers are not resident memory


class Phase(Struct, frozen=True):
    """One phase."""

    kind: str  # A or B
    window: Window
    closed: int  # with 4000
    grown_bytes: int  # of the server's memory, from before the clients stopped to its largest in the window


async def run_stall(options: Options, rate: float, warm_up_s: float, seconds: float, stalled: float, pairs: int, path: Path | None) -> int:
    """Run A and B alternately, `pairs` times each; print what was measured; return the exit code."""
    result = Result.begin("stall", seed=options.seed, options=msgspec.structs.asdict(options))
    phases: list[Phase] = []
    stalling = max(1, round(options.viewers * stalled))
    async with Trial(options) as trial:
        others = Tally()
        places = trial.city.by_shown()
        readers = await trial.group(places[stalling:], others)
        for kind in "AB" * pairs:
            phase = await _phase(trial, kind, places[:stalling], rate, warm_up_s, seconds, others)
            phases.append(phase)
            print(f"{kind}: {stalling if kind == 'B' else 0} of {options.viewers} viewers stop reading")
            print_rows(_rows(phase))
        mirrors = await trial.compare(readers)
    verdicts = [*_verdicts(phases, stalling), mirrors_verdict(mirrors)]
    if path is not None:
        _fill(result, phases, verdicts)
        result.close()
        write(path, result)
    return conclude(verdicts, load_warnings(phase.window for phase in phases))


def _fill(result: Result, phases: list[Phase], verdicts: list[Verdict]) -> None:
    for kind, name in (("A", "all read"), ("B", "some stop reading")):
        p99 = [phase.window.waits.p99_ms for phase in phases if phase.kind == kind]
        result.row(f"p99 publish to apply of the others, {name}", p99, "ms")
    result.notes = [f"{'met' if verdict.is_met else 'not met'}: {verdict.text}" for verdict in verdicts]
    result.details = {"phases": phases, "verdicts": verdicts}


async def _phase(trial: Trial, kind: str, stalling: list[int], rate: float, warm_up_s: float, seconds: float, others: Tally) -> Phase:
    sleepers = await trial.group(stalling, Tally(), RECEIVE_BUFFER_BYTES)
    closed, resident = (await trial.metrics())[CLOSED], trial.server.resident_bytes()
    if kind == "B":
        for viewer in sleepers:
            viewer.stop_reading()
    await ask_much(sleepers)
    window = await trial.load(rate, warm_up_s, seconds, others)
    phase = Phase(kind, window, int((await trial.metrics())[CLOSED] - closed), window.server_resident_bytes - resident)
    trial.forget(sleepers)
    return phase


def _rows(phase: Phase) -> list[tuple[str, str]]:
    window, waits = phase.window, phase.window.waits
    return [
        (
            "the others",
            f"{window.deltas_per_s:,.0f} deltas/s, p50 {waits.p50_ms:,.0f} ms, p99 {waits.p99_ms:,.0f} ms, max {waits.max_ms:,.0f} ms",
        ),
        ("closed with 4000", f"{phase.closed}"),
        ("server", f"{window.server_cpu:.0%} of one core, {phase.grown_bytes / 1e6:+,.1f} MB"),
        ("load process", f"{window.load_cpu:.0%} of one core, timers late by {window.load_lag_p99_ms:,.1f} ms (p99)"),
    ]


def _verdicts(phases: list[Phase], stalling: int) -> list[Verdict]:
    without, with_ = ([phase for phase in phases if phase.kind == kind] for kind in "AB")
    p99_a, p99_b = (sum(phase.window.waits.p99_ms for phase in kind) / len(kind) for kind in (without, with_))
    ratio = p99_b / p99_a
    closed = [phase.closed for phase in with_]
    grown = max(phase.grown_bytes for phase in with_) / stalling
    return [
        Verdict(
            ratio <= STALL_RATIO_MAX,
            f"the others' p99 with and without: {p99_b:,.0f} / {p99_a:,.0f} ms = {ratio:.2f}, at most {STALL_RATIO_MAX}",
        ),
        Verdict(all(count == stalling for count in closed), f"closed with 4000: {closed}, {stalling} each"),
        Verdict(
            grown <= STALLED_BYTES_MAX,
            f"server memory per stalled client: {grown / 1024:,.0f} KiB, at most {STALLED_BYTES_MAX // 1024:,} KiB",
        ),
    ]


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = command_line.parser("stall", "The same load with and without clients that stop reading.")
    add_options(parser)
    add = parser.add_argument
    add("--rate", type=float, default=700.0, metavar="CHANGES_PER_S")
    add("--warm-up", type=float, default=3.0, metavar="SECONDS", help="of load before what is measured")
    add("--seconds", type=float, default=8.0, help="of each phase that are measured")
    add("--stalled", type=float, default=0.1, metavar="SHARE", help="of the viewers stop reading in every second phase")
    add("--write-stall-s", type=float, default=7.0, help="the server's setting; to be seen, it ends within what is measured")
    add("--pairs", type=int, default=2, help="of phases without and with")
    given = parser.parse_args(arguments)
    options = options_of(given, write_stall_s=given.write_stall_s)
    return command_line.run(run_stall(options, given.rate, given.warm_up, given.seconds, given.stalled, given.pairs, given.json))
