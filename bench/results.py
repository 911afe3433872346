"""How a measurement is kept: one JSON shape for all commands.

Law: no figure without the command that made it, the seed, the machine and the spread. What was repeated is written with
every repetition; a verdict is computed here, from the median and the bound of `bench.targets`, and by nobody else.

A command makes a `Result`, adds what it measured, and finishes:

    result = Result.begin("engine", seed=given.seed, options={"sessions": 1000})
    result.row("changes applied", [411e3, 405e3, 409e3], "changes/s", key="engine_changes", facts={"conflated": 0.02})
    result.row("bytes per delta, JSON", [41.2], "bytes")
    result.plots.append(Plot("p99 by rate", "line", "changes/s", "ms", [Series("p99", [(1e5, 3.1), (2e5, 4.4)])]))
    result.tables.append(Table("what a connection costs", ["part", "bytes"], [["socket", 1300], ["session", 2100]]))
    result.notes.append("the load process took all of its core: rates are a lower bound")
    return result.finish(given.json)          # prints the rows; writes FILE if there is one; 0, or 1 if a target is missed

A row's `key` names its target in `bench.targets`; rows without one are figures without a bound. A row that must not be
judged, because something else than what it is about was measured, is given `void="why"`. `facts` are what has to stand
beside a figure: the encoding, the bytes per delta, the share conflated away, where the bottleneck was.

As JSON a result is an object with the members of `Result`, rows as in `Row`; `python -m bench report FILE…` reads them.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Literal, Self

import msgspec
from msgspec import Struct, field

from bench.targets import TARGETS

FORMAT = 1
ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("realtime-geo", "picows", "uvloop", "msgspec", "rtree")

Verdict = Literal["met", "not met", "void", ""]
Fact = str | int | float | bool


class Row(Struct, kw_only=True, omit_defaults=True):
    """One figure. `value` is the median of `samples`, `min` and `max` their extremes; of very many only these are kept."""

    name: str
    value: float
    unit: str = ""
    min: float = 0.0
    max: float = 0.0
    samples: list[float] = []
    key: str = ""  # of `bench.targets`
    target: float | None = None
    better: Literal["more", "less"] = "more"
    verdict: Verdict = ""
    note: str = ""
    facts: dict[str, Fact] = {}


class Series(Struct, omit_defaults=True):
    """One line of a plot: (x, y) points; or the bars of one colour: (label, y)."""

    name: str
    points: list[tuple[float | str, float]]


class Plot(Struct, omit_defaults=True):
    """What the report draws. `mark` is a horizontal line with its text: a bound."""

    title: str
    kind: Literal["line", "bar"]
    x: str  # what the axis says, unit included
    y: str
    series: list[Series]
    x_log: bool = False
    y_log: bool = False
    mark: tuple[float, str] | None = None


class Table(Struct, omit_defaults=True):
    """A small table, numbers as numbers."""

    title: str
    columns: list[str]
    rows: list[list[str | int | float]]
    note: str = ""


class Host(Struct):
    """The machine."""

    processor: str
    cores: list[int]  # those that this process may use
    memory_bytes: int
    system: str
    python: str
    load: float  # the average of the last minute as the command began: whoever else was there


class Result(Struct, kw_only=True):
    """What one command measured."""

    format: int = FORMAT
    bench: str  # the command's name
    command: str  # the whole of it, to be run again
    started: str  # UTC, ISO 8601
    seconds: float = 0.0  # that it all took
    seed: int = 0
    host: Host
    versions: dict[str, str]
    options: dict[str, Any] = {}
    rows: list[Row] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: Any = None  # whatever else a command wants to keep

    @classmethod
    def begin(cls, bench: str, *, seed: int = 0, options: Mapping[str, Any] | None = None) -> Self:
        """Return an empty result with what is known before anything is measured."""
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        return cls(
            bench=bench, command=command(), started=started, seed=seed, host=host(), versions=versions(), options=dict(options or {})
        )

    def row(
        self,
        name: str,
        samples: Sequence[float] | float,
        unit: str = "",
        *,
        key: str = "",
        void: str = "",
        note: str = "",
        facts: Mapping[str, Fact] | None = None,
    ) -> Row:
        """Add a figure that was measured once or several times; judge it where `key` names a target. Returns the row."""
        row = judged(name, [samples] if isinstance(samples, (int, float)) else samples, unit, key=key, void=void)
        row.note = " ".join(filter(None, (row.note, note)))
        row.facts = dict(facts or {})
        self.rows.append(row)
        return row

    def close(self) -> None:
        """Note how long it took."""
        self.seconds = round(time.time() - datetime.fromisoformat(self.started).timestamp(), 1)

    def finish(self, path: Path | None = None) -> int:
        """Print the rows, write the file; return the exit code: 1 if a target was not met."""
        self.close()
        print(text(self))
        if path is not None:
            write(path, self)
        return int(any(row.verdict in ("not met", "void") for row in self.rows))


def judged(name: str, samples: Sequence[float], unit: str = "", *, key: str = "", void: str = "") -> Row:
    """Return a row for repeated measurements, judged by the target that `key` names."""
    assert samples, f"{name}: nothing was measured"
    values = [float(sample) for sample in samples]
    row = Row(name=name, value=median(values), unit=unit, min=min(values), max=max(values), samples=values, key=key)
    if key:
        target = TARGETS[key]
        assert unit == target.unit, f"{name}: {unit} instead of {target.unit}"
        row.target, row.better = target.bound, target.better
        row.verdict = "met" if reaches(row.value, target.bound, target.better) else "not met"
        if reaches(row.min, target.bound, target.better) != reaches(row.max, target.bound, target.better):
            row.note = "the bound lies within the spread"
    if void:
        row.verdict, row.note = "void", void
    return row


def reaches(value: float, bound: float, better: str) -> bool:
    """Tell whether a figure is on the good side of its bound; NaN is not."""
    return value >= bound if better == "more" else value <= bound


# As text


def number(value: float) -> str:
    """Return a figure with about four digits: 15,300,000; 412.3; 0.8731."""
    size = abs(value)
    if size >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 100 else f"{value:.2f}" if size >= 10 else f"{value:.3f}" if size >= 1 else f"{value:.4g}"


def shown(value: Fact) -> str:
    """Return a figure or a text as it is printed."""
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def spread(row: Row) -> str:
    """Return what the repetitions vary between; empty for a single one."""
    return "" if row.min == row.max else f"{number(row.min)} to {number(row.max)}"


def aim(row: Row) -> str:
    """Return the bound as it is said."""
    return "" if row.target is None else f"at {'least' if row.better == 'more' else 'most'} {number(row.target)}"


def text(result: Result) -> str:
    """Return the result as it is printed."""
    width = max((len(row.name) for row in result.rows), default=0)
    lines = [f"{result.bench}: {result.seconds:.0f} s, seed {result.seed}, {result.host.processor}, python {result.host.python}"]
    for row in result.rows:
        parts = [f"{number(row.value)} {row.unit}".strip(), f"({spread(row)})" if spread(row) else "", aim(row), row.verdict.upper()]
        lines.append(f"  {row.name:<{width}}  " + "  ".join(filter(None, parts)))
        beside = "; ".join(f"{name} {shown(value)}" for name, value in row.facts.items())
        lines += [f"  {'':<{width}}    {more}" for more in (beside, row.note) if more]
    for table in result.tables:
        lines += ["", *table_lines(table)]
    return "\n".join(lines + [f"  note: {note}" for note in result.notes])


def table_lines(table: Table) -> list[str]:
    """Return a table as lines of text, numbers to the right."""
    cells = [table.columns, *([shown(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(table.columns))]
    is_number = [all(_is_number(row[place]) for row in table.rows) for place in range(len(table.columns))]
    lines = [f"  {table.title}"]
    for row in cells:
        aligned = (cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, is_number, strict=True))
        lines.append("    " + "  ".join(aligned).rstrip())
    return [*lines, f"    {table.note}"] if table.note else lines


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# As JSON


def write(path: Path, result: Result) -> None:
    """Write a result, its directory included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def read(path: Path) -> Result:
    """Read a result. Raises `ValueError` with the file's name for what is none."""
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: not a result: {error}") from None
    if result.format != FORMAT:
        raise ValueError(f"{path}: format {result.format}; this reads {FORMAT}")
    return result


# The machine


def command() -> str:
    """Return the command that is running."""
    return shlex.join(("python", "-m", "bench", *sys.argv[1:]))


def host() -> Host:
    """Return what is to be known about the machine."""
    return Host(
        processor=processor(),
        cores=sorted(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=platform.platform(),
        python=platform.python_version(),
        load=round(os.getloadavg()[0], 2),
    )


def processor() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def versions() -> dict[str, str]:
    """Return what was measured: the commit, where there is one, and the packages that carry the load."""
    found = {}
    git = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    if git.returncode == 0:
        found["commit"] = git.stdout.strip()
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
