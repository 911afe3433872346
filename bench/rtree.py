"""The R-tree of the engine against that of Boost.Geometry (`quadratic<16>`) and the `rtree` package, on the same boxes.

    python -m bench rtree        (or python -m bench.rtree)

Law: every tree gets the same boxes in the same order; each run is a process of its own on one core, ours and theirs in
turn, and a ratio compares two runs that followed one another. Needs g++ (or what `CXX` names) and the package
`boost-headers`. What is timed, and on which boxes, is said at the top of bench/native/rtree.cpp.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from array import array
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import thread_time_ns
from typing import NamedTuple

import msgspec

from bench.command_line import parser
from bench.results import ROOT, Result, Table

FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-fno-plt")
SOURCE = ROOT / "bench" / "native" / "rtree.cpp"
TREES = ("realtime", "boost")
OPERATIONS = ("insert", "query", "pan", "jump", "walk", "query_moved", "query_rebuilt", "erase")
PACKAGE_COUNT_MAX = 10_000  # boxes; one at a time from Python, more would take minutes
PACKAGE_OPERATIONS = 1_000


class Case(NamedTuple):
    """What is indexed, and how much of it."""

    kind: str  # viewports or points
    size: int

    def __str__(self) -> str:
        return f"{self.size:,} {self.kind}"


CASES = (Case("viewports", 10_000), Case("viewports", 1_000_000), Case("points", 10_000), Case("points", 1_000_000))


class Measured(msgspec.Struct):
    """One run of one tree: nanoseconds per call, by operation; how many a search found; the tree's size after the inserts."""

    insert: float
    query: float
    pan: float
    jump: float
    walk: float
    query_moved: float
    query_rebuilt: float
    erase: float
    found: float
    found_moved: float
    bytes: int

    def ns(self, operation: str) -> float:
        """Return the figure of an operation."""
        value: float = getattr(self, operation)
        return value


def build(directory: Path) -> Path:
    """Compile the program; return its path. Raises `RuntimeError` where the compiler or Boost's headers are missing."""
    compiler = os.environ.get("CXX", "g++")
    boost = find_spec("boost_headers")
    if shutil.which(compiler) is None:
        raise RuntimeError(f"{compiler}: not found; set CXX to a C++17 compiler")
    if boost is None or boost.origin is None:
        raise RuntimeError("Boost's headers are missing: pip install boost-headers")
    program = directory / "rtree"
    include = Path(boost.origin).parent / "include"
    subprocess.run([compiler, *FLAGS, "-isystem", str(include), str(SOURCE), "-o", str(program)], check=True)
    return program


def run(program: Path, tree: str, case: Case, seed: int) -> bytes:
    """Return what a run prints."""
    return subprocess.run([program, tree, case.kind, str(case.size), str(seed)], check=True, stdout=subprocess.PIPE).stdout


def measure_package(workload: bytes) -> dict[str, float]:
    """Time the `rtree` package on a workload; return nanoseconds per call, by operation."""
    from rtree.index import Index

    numbers = array("d", workload)
    boxes_count, queries_count, pans_count = (int(number) for number in numbers[:3])
    queries_at = 3 + 4 * boxes_count
    pans_at = queries_at + 4 * queries_count
    boxes = [tuple(numbers[at : at + 4]) for at in range(3, queries_at, 4)]
    queries = [tuple(numbers[at : at + 4]) for at in range(queries_at, pans_at, 4)][:PACKAGE_OPERATIONS]
    pans = [
        (int(numbers[at]), tuple(numbers[at + 1 : at + 5])) for at in range(pans_at, pans_at + 5 * min(pans_count, PACKAGE_OPERATIONS), 5)
    ]
    index, ns = Index(), {}
    begun = thread_time_ns()
    for handle, box in enumerate(boxes):
        index.insert(handle, box)
    ns["insert"] = (thread_time_ns() - begun) / len(boxes)
    begun = thread_time_ns()
    for box in queries:
        for _ in index.intersection(box):
            pass
    ns["query"] = (thread_time_ns() - begun) / len(queries)
    begun = thread_time_ns()
    for handle, box in pans:
        index.delete(handle, boxes[handle])
        index.insert(handle, box)
        boxes[handle] = box
    ns["pan"] = (thread_time_ns() - begun) / len(pans)
    return ns


def measure(program: Path, case: Case, repetitions: int, seed: int) -> dict[str, list[Measured]]:
    """Run both trees in turn; return the runs by tree."""
    runs: dict[str, list[Measured]] = {tree: [] for tree in TREES}
    for _ in range(repetitions):
        for tree in TREES:
            runs[tree].append(msgspec.json.decode(run(program, tree, case, seed), type=Measured))
    ours, theirs = runs["realtime"][0], runs["boost"][0]
    # Boxes that rounding alone makes touch are few.
    assert theirs.found <= ours.found <= 1.01 * theirs.found + 0.1, f"{case}: we found {ours.found} a search, they {theirs.found}"
    return runs


def ratios(runs: dict[str, list[Measured]], operation: str) -> list[float]:
    """Return how many times as long theirs took as ours, for each repetition."""
    return [theirs.ns(operation) / ours.ns(operation) for ours, theirs in zip(runs["realtime"], runs["boost"], strict=True)]


def add_case(result: Result, case: Case, runs: dict[str, list[Measured]], package: dict[str, float]) -> None:
    """Add the rows and the table of a case."""
    moves = [min(pair) for pair in zip(ratios(runs, "pan"), ratios(runs, "jump"), strict=True)]
    for name, samples in (("query", ratios(runs, "query")), ("insert", ratios(runs, "insert")), ("move", moves)):
        key = f"rtree_{name}_{case.size}" if case.kind == "viewports" else ""
        said = "move (pan or jump, the worse)" if name == "move" else name
        result.row(f"{said}, {case}: Boost's time to ours", samples, "x", key=key)
    rows: list[list[str | int | float]] = []
    for operation in OPERATIONS:
        ours, theirs = ([each.ns(operation) for each in runs[tree]] for tree in TREES)
        if any(ours):
            ratio = f"{median(ratios(runs, operation)):.2f}"
            beside = f"{package[operation]:,.0f}" if operation in package else ""
            rows.append([operation, *(text for both in (ours, theirs) for text in shown(both)), ratio, beside])
    columns = ["operation", "ours, ns", "spread", "Boost, ns", "spread", "ratio", "rtree package, ns"]
    last = runs["realtime"][-1]
    note = f"a search finds {last.found:,.1f}, after the moves {last.found_moved:,.1f}; ours takes {last.bytes / case.size:.1f} bytes a box"
    result.tables.append(Table(str(case), columns, rows, note))


def shown(samples: list[float]) -> tuple[str, str]:
    """Return median and spread."""
    return f"{median(samples):,.0f}", f"{min(samples):,.0f}-{max(samples):,.0f}"


def command_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    made = parser("rtree", "The R-tree of the engine against Boost.Geometry's and the rtree package.")
    made.add_argument("--repetitions", type=int, default=5)
    made.add_argument("--core", type=int, help="that all runs are pinned to; default: the last one allowed")
    return made


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    given = command_parser().parse_args(arguments)
    core = max(os.sched_getaffinity(0)) if given.core is None else given.core
    result = Result.begin("rtree", seed=given.seed, options={"repetitions": given.repetitions, "core": core, "flags": list(FLAGS)})
    result.notes.append("time of the thread, in ns a call; query_moved: after all moves; query_rebuilt: in a new tree with the same boxes")
    with TemporaryDirectory() as directory:
        try:
            program = build(Path(directory))
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 2
        os.sched_setaffinity(0, {core})  # the processes that are started inherit it
        details = {}
        for case in CASES:
            runs = measure(program, case, given.repetitions, given.seed)
            package = measure_package(run(program, "workload", case, given.seed)) if case.size <= PACKAGE_COUNT_MAX else {}
            add_case(result, case, runs, package)
            details[str(case)] = {**runs, "rtree package": package}
        result.details = details
    return result.finish(given.json)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
