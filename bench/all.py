"""`python -m bench all`: every promise in turn, and the table of them.

Law: nothing is measured here. A step is one of the other commands in a process of its own, which writes its result; the
table is made of the rows that carry a promise's key. A step that fails, hangs or says nothing leaves its promises
unmeasured, and the exit code says so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bench import command_line
from bench.html import page
from bench.results import ROOT, Result, Row, Table, aim, number, read, spread, table_lines
from bench.targets import TARGETS

END_S = 10.0  # that a hanging command is given after it was told to end


class Step(NamedTuple):
    """One command, and what it is cut down to when only its working is to be seen."""

    name: str  # of the file that it writes
    arguments: tuple[str, ...]
    keys: tuple[str, ...]  # of the promises that it measures
    quick: tuple[str, ...] = ()  # arguments that come after the others
    half_of: str = ""  # a step whose first figure, halved, is this one's --rate
    patience_s: float = 1800.0


SIZES = (10_000, 1_000_000)
QUICK_ENGINE = ("--repeat", "1", "--sessions", "50", "--entities", "2000", "--changes", "2000", "--viewports", "4000", "8000")
QUICK_LOAD = ("--viewers", "50", "--entities", "1000", "--fan-out", "10", "--seconds", "1", "--warm-up", "0.3")
QUICK_SEARCH = ("--tolerance", "1", "--repeat", "1", "--confirm-seconds", "1", "--viewers-max", "100")
NO_PROMISE = ("--promise", "none", "--repetitions", "1", "--rate", "200")
THRICE = ("--repetitions", "3")
PACKED = ("--encoding", "msgpack", "--flush-interval-ms", "100", "--warm-up", "12")
TO_100 = ("--fan-out", "100")
IN_FAST_FLUSHES = ("--flush-interval-ms", "10")


def _load(name: str, keys: tuple[str, ...], *arguments: str, half_of: str = "") -> Step:
    return Step(name, ("load", *arguments), keys, (*QUICK_LOAD, *NO_PROMISE), half_of)


# Rates under `load` are somewhat more than what is promised takes.
STEPS = (
    Step(
        "engine",
        ("engine",),
        ("engine_pairs", "engine_changes", "viewports_cost", "entity_bytes"),
        (*QUICK_ENGINE, "--memory-entities", "5000"),
    ),
    Step(
        "rtree", ("rtree",), tuple(f"rtree_{what}_{size}" for size in SIZES for what in ("query", "insert", "move")), ("--repetitions", "1")
    ),
    Step("memory", ("memory", "--parts"), ("connection_bytes",), ("--connections", "1000")),
    Step(
        "nodes",
        ("nodes",),
        ("bus_changes", "bus_bare", "start_1000000"),
        ("--rates", "2000", "--seconds", "1", "--entities", "1000", "--city", "2000"),
    ),
    Step("micro", ("micro",), (), ("--max-time", "0.02")),
    _load("load-1000", ("deltas_1000",), *PACKED, *TO_100, "--viewers", "1000", "--rate", "102000", "--promise", "throughput", *THRICE),
    _load("load-5000", ("deltas_5000",), *PACKED, *TO_100, "--viewers", "5000", "--rate", "65000", "--promise", "throughput", *THRICE),
    _load("load-ndjson", ("ndjson_changes",), *PACKED, "--publish", "http", "--rate", "151500", "--promise", "ingest", *THRICE),
    # So few changes that hardly a viewer is told twice within a flush interval, from a publisher that hardly collects.
    _load("load-idle", ("idle_p50", "idle_p99"), "--rate", "2", "--seconds", "60", "--batch-ms", "0.2", "--promise", "idle", *THRICE),
    Step("capacity-fast", ("capacity", "--search", "rate", *IN_FAST_FLUSHES), (), (*QUICK_LOAD, *QUICK_SEARCH)),
    _load("load-half", ("half_p99",), "--stalled", "0.01", "--promise", "half", *IN_FAST_FLUSHES, *THRICE, half_of="capacity-fast"),
    # No spacing of flushes: as many frames as there is time for.
    *(
        _load(
            f"yardstick-{sockets}",
            (f"yardstick_{sockets}",),
            *("--viewers", str(sockets), "--flush-interval-ms", "0", "--rate", "5000", "--level", "count", "--yardstick", *THRICE),
        )
        for sockets in (1000, 5000)
    ),
    Step("compare", ("compare",), ("replaced", "nats"), ("--viewers", "50", "--entities", "500", "--seconds", "1", "--windows", "3")),
    Step("capacity", ("capacity",), (), (*QUICK_LOAD, *QUICK_SEARCH)),
)


def chosen(names: Sequence[str]) -> list[Step]:
    """Return the steps of these names, or those that measure promises of these keys; all where there is no name."""
    return [step for step in STEPS if not names or step.name in names or set(step.keys) & set(names)]


def take(step: Step, out: Path, seed: int, is_quick: bool) -> str:
    """Run a step; return what is wrong with it, or nothing. A bound that is not met is nothing wrong."""
    path, log = out / f"{step.name}.json", out / f"{step.name}.log"
    path.unlink(missing_ok=True)
    arguments = list(step.arguments)
    if step.half_of:
        source = out / f"{step.half_of}.json"
        if not source.exists() or not (found := read(source).rows):
            return f"{step.half_of} has to have found something first"
        arguments += ["--rate", f"{found[0].value / 2:.0f}"]
    arguments += [*(step.quick if is_quick else ()), "--seed", str(seed), "--json", str(path)]
    with log.open("wb") as output:
        # A group of its own: whatever a command has started by the time that it hangs is ended with it.
        running = subprocess.Popen(
            [sys.executable, "-m", "bench", *arguments],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = running.wait(step.patience_s)
        except BaseException as error:
            _end(running)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return f"it had not ended after {step.patience_s:.0f} s, see {log}"
    if not path.exists():
        return f"it ended with {code}, see {log}"
    try:
        read(path)
    except ValueError as error:
        return str(error)
    return ""


def _end(running: subprocess.Popen[bytes]) -> None:
    """End a group of processes, politely first."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal_number)
        with suppress(subprocess.TimeoutExpired):
            running.wait(END_S)
            if signal_number == signal.SIGKILL:
                return


def table(results: Iterable[Result], missing: dict[str, str]) -> Table:
    """Return the table of all promises; `missing` says by key why one was not measured."""
    found: dict[str, tuple[Row, Result]] = {row.key: (row, result) for result in results for row in result.rows if row.key}
    rows: list[list[str | int | float]] = []
    for key, target in TARGETS.items():
        if key in found:
            row, result = found[key]
            measured = f"{number(row.value)} {row.unit}"
            rows.append([target.text, aim(row), measured, spread(row), row.verdict, result.command])
        else:
            bound = f"at {'least' if target.better == 'more' else 'most'} {number(target.bound)}"
            rows.append([target.text, bound, "", "", "not measured", missing.get(key, "")])
    return Table("what was promised", ["what", "promised", "measured", "spread", "verdict", "command"], rows)


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code: 1 unless every promise that was asked for is met."""
    parser = command_line.parser("all", "Every promise in turn, and the table of them.")
    add = parser.add_argument
    add("--only", nargs="+", default=[], metavar="STEP", help=f"{', '.join(step.name for step in STEPS)}; or keys of bench/targets.py")
    add("--out", type=Path, default=Path("bench/results"), metavar="DIRECTORY", help="where results, logs and report.html are put")
    add("--quick", action="store_true", help="cut down to see that everything works; the figures are none")
    add("--list", action="store_true", help="only say what would be run")
    given = parser.parse_args(arguments)
    steps = chosen(given.only)
    if given.list:
        for step in steps:
            print(f"{step.name}: python -m bench {' '.join(step.arguments)}  ({', '.join(step.keys)})")
        return 0
    out: Path = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    missing: dict[str, str] = {}
    for step in steps:
        print(f"{step.name} …", flush=True)
        if wrong := take(step, out, given.seed, given.quick):
            print(f"  {wrong}", flush=True)
            missing |= dict.fromkeys(step.keys, wrong)
    results = [read(path) for path in sorted(out.glob("*.json")) if path.stem in {step.name for step in steps}]
    made = table(results, missing)
    print("\n".join(table_lines(made)))
    if results:
        (out / "report.html").write_text(page(results), encoding="utf-8")
        print(f"\n{out / 'report.html'}")
    asked = {key for step in steps for key in step.keys}
    verdicts = {row.key: row.verdict for result in results for row in result.rows if row.key in asked}
    return int(any(verdicts.get(key) != "met" for key in asked))
