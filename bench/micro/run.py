"""`python -m bench micro`: runs the suites by pytest, and keeps what they found in the common shape.

Law: the figures are pytest-benchmark's: the median, least and most of the rounds, divided by what one round does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import command_line
from bench.engines import NATIVE, REFERENCE
from bench.results import ROOT, Plot, Result, Row, Series
from bench.servers import cores

SUITES = Path(__file__).resolve().parent


def rows(found: dict[str, Any]) -> list[Row]:
    """Return the rows of what `--benchmark-json` wrote: microseconds for one of whatever a round does many of."""
    made = []
    for one in sorted(found["benchmarks"], key=lambda one: (one["group"] or "", one["name"])):
        stats, per = one["stats"], one["extra_info"].get("per", 1)
        suite = Path(one["fullname"].partition("::")[0]).stem.removeprefix("test_")
        made.append(
            Row(
                name=f"{suite}: {one['name'].removeprefix('test_')}",
                value=stats["median"] * 1e6 / per,
                unit="us",
                min=stats["min"] * 1e6 / per,
                max=stats["max"] * 1e6 / per,
                facts={"rounds": stats["rounds"], "in a round": per},
            )
        )
    return made


def ratios(found: Sequence[Row]) -> Plot:
    """Return how many times faster the native engine is, part by part."""
    times = {row.name: row.value for row in found}
    pairs = [(name, name.replace(NATIVE, REFERENCE)) for name in times if f"[{NATIVE}" in name and name.replace(NATIVE, REFERENCE) in times]
    points: list[tuple[float | str, float]] = [
        (native.replace(NATIVE, "").replace("[]", "").replace("[-", "["), times[reference] / times[native]) for native, reference in pairs
    ]
    return Plot("native against reference", "bar", "part", "times faster", [Series("ratio", points)], y_log=True)


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = command_line.parser("micro", "The parts alone, by pytest-benchmark.")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="only the benchmarks that match, as pytest's -k")
    parser.add_argument("--max-time", type=float, default=0.5, metavar="SECONDS", help="for one benchmark")
    given = parser.parse_args(arguments)
    result = Result.begin("micro", seed=given.seed, options={"k": given.k, "max_time": given.max_time})
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "micro.json"
        command = [sys.executable, "-m", "pytest", str(SUITES), "-q", "-p", "no:cacheprovider", f"--benchmark-json={path}"]
        command += [
            "--benchmark-columns=median,min,max,rounds",
            f"--benchmark-max-time={given.max_time}",
            "--benchmark-disable-gc",
            "-k",
            given.k,
        ]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (*sys.path, str(ROOT))))}
        two, usable = cores(), os.sched_getaffinity(0)
        if two is not None:
            os.sched_setaffinity(0, {two[0]})  # inherited
        try:
            code = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL if given.json else None, check=False
            ).returncode
        finally:
            os.sched_setaffinity(0, usable)
        if code or not path.exists():
            print(f"the suites failed with {code}", file=sys.stderr)
            return code or 1
        found: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    result.rows = rows(found)
    ratio = ratios(result.rows)
    if ratio.series[0].points:
        result.plots.append(ratio)
    return result.finish(given.json)
