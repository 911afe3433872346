"""Recorded movement: read from a file, and let go at the pace at which it was recorded.

Law: a trace is what its file says, row by row: ids verbatim, blank cells absent, nothing filtered, nothing invented.
Reading is lazy, so a file may be longer than memory; what is wrong with it names the file and the line. Pacing is an
open loop: the trace's clock goes on however long a batch takes, and what became due meanwhile comes in the next.

Two kinds of file, each also gzipped (`.gz`):

- CSV (`.csv`) with a head line that names at least `id,lon,lat`. `t` is seconds, `kind` the kind; `state` and `label`
  are texts, `speed`, `heading`, `alt` and `mag` numbers; a cell of any other column is a number if JSON would call it
  one, otherwise a text.
- GeoJSON text sequences (`.geojsonl .geojsons .geojson-seq .ndjson .jsonl`), a Feature in each line or after each RS
  (RFC 8142). Its time is the first of `t` and `time` of the Feature, then of its properties: seconds as a number
  (milliseconds from 1e11 on) or a date as ISO 8601 writes it. A Feature without a time is due with the one before it.
  Whatever else an update may have (`kind`, `ttl`, `version`, even `op`) goes through as it is; a number as id becomes
  a text.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast

import msgspec

Update = dict[str, Any]

TICK_S = 0.02  # the least time between two batches; a row is at most this late
BATCH_ROWS_MAX = 1000
LAP_GAP_S = 1.0  # of the trace's time, between its end and its next beginning
MILLISECONDS_FROM = 1e11  # seconds of the year 5138; milliseconds of 1973
CSV_SUFFIXES = (".csv",)
SEQUENCE_SUFFIXES = (".geojsonl", ".geojsons", ".geojson-seq", ".ndjson", ".jsonl")

_DATA = Path(__file__).parent / "data"
SHIPPED = {
    "austin": _DATA / "austin_bus_2017-03-21_am.csv.gz",
    "earthquakes": _DATA / "earthquakes_usgs_2018-02.csv.gz",
}  # short name -> file; data/CREDITS.md says whose they are

_RECORD_SEPARATOR = b"\x1e"
_NUMBER_COLUMNS = frozenset({"speed", "heading", "alt", "mag"})
_TEXT_COLUMNS = frozenset({"state", "label"})
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class _CsvReader(Protocol):
    """What `csv.reader` returns."""

    line_num: int

    def __next__(self) -> list[str]: ...

    def __iter__(self) -> Iterator[list[str]]: ...


class TraceError(ValueError):
    """A file that is no trace; says where and why."""


class Row(NamedTuple):
    """One report of a trace."""

    t: float  # seconds on the trace's own clock
    update: Update


class Trace:
    """The rows of a file. Each iteration reads it anew, from the beginning.

    `prefix` is put before every id, for traces whose ids would meet in one world. Raises `TraceError` for a name whose
    suffix says nothing; opening and reading raise `OSError` and `TraceError`.
    """

    def __init__(self, path: Path, prefix: str = "") -> None:
        self.path = path
        self.prefix = prefix
        self.bytes_read = 0  # of the file as it lies there, compressed or not
        suffixes = [suffix.lower() for suffix in path.suffixes]
        self._is_gzip = suffixes[-1:] == [".gz"]
        kind = suffixes[-2 if self._is_gzip else -1 :][:1]
        if kind and kind[0] in CSV_SUFFIXES:
            self._read: Callable[[IO[bytes]], Iterator[Row]] = self._csv_rows
        elif kind and kind[0] in SEQUENCE_SUFFIXES:
            self._read = self._sequence_rows
        else:
            raise TraceError(f"{path}: a name that ends in {', '.join(CSV_SUFFIXES + SEQUENCE_SUFFIXES)}, with or without .gz, is expected")

    @property
    def bytes_total(self) -> int:
        """How long the file is, in the bytes that `bytes_read` counts."""
        return self.path.stat().st_size

    def __iter__(self) -> Iterator[Row]:
        self.bytes_read = 0
        with self.path.open("rb") as raw, gzip.GzipFile(fileobj=raw) if self._is_gzip else nullcontext(raw) as file:
            try:
                for row in self._read(cast(IO[bytes], file)):
                    self.bytes_read = raw.tell()
                    yield row
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise TraceError(f"{self.path}: not gzip, or cut off: {error}") from None

    # CSV

    def _csv_rows(self, file: IO[bytes]) -> Iterator[Row]:
        with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            try:
                yield from self._cells_rows(reader)
            except csv.Error as error:
                raise self._wrong(reader.line_num, str(error)) from None
            except UnicodeDecodeError:
                raise self._wrong(reader.line_num + 1, "not UTF-8") from None

    def _cells_rows(self, reader: _CsvReader) -> Iterator[Row]:
        columns = next(reader, [])
        for name in ("id", "lon", "lat"):
            if name not in columns:
                raise self._wrong(1, f"the head line has no column {name}")
        t = 0.0
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(columns):
                raise self._wrong(reader.line_num, f"{len(columns)} cells are expected, as in the head line, not {len(cells)}")
            try:
                row = _csv_row(dict(zip(columns, cells, strict=True)), t, self.prefix)
            except ValueError as error:
                raise self._wrong(reader.line_num, str(error)) from None
            t = row.t
            yield row

    # GeoJSON text sequences

    def _sequence_rows(self, file: IO[bytes]) -> Iterator[Row]:
        t = 0.0
        for line, record in _records(file):
            try:
                row = _feature_row(msgspec.json.decode(record), t, self.prefix)
            except msgspec.DecodeError as error:
                raise self._wrong(line, f"not JSON: {error}") from None
            except (ValueError, RecursionError) as error:
                raise self._wrong(line, str(error)) from None
            t = row.t
            yield row

    def _wrong(self, line: int, why: str) -> TraceError:
        return TraceError(f"{self.path}, line {line}: {why}")


def find_trace(name: str) -> Path:
    """Return the file that a name stands for: a path, or the short name of a recording that comes with the package."""
    path = Path(name)
    return path if path.exists() else SHIPPED.get(name, path)


def _csv_row(cells: Mapping[str, str], before: float, prefix: str) -> Row:
    """Return the row that is in the cells; raise `ValueError` naming the column."""
    properties: dict[str, Any] = {}
    for name, text in cells.items():
        if text and name not in ("t", "id", "lon", "lat", "kind"):
            properties[name] = _value(name, text)
    if not cells["id"]:
        raise ValueError("id: blank")
    update: Update = {
        "type": "Feature",
        "id": prefix + cells["id"],
        "geometry": {"type": "Point", "coordinates": [_number("lon", cells["lon"]), _number("lat", cells["lat"])]},
        "properties": properties,
    }
    if cells.get("kind"):
        update["kind"] = cells["kind"]
    return Row(_number("t", cells["t"]) if cells.get("t") else before, update)


def _value(name: str, text: str) -> int | float | str:
    if name in _NUMBER_COLUMNS:
        return _number(name, text)
    if name in _TEXT_COLUMNS or _JSON_NUMBER.fullmatch(text) is None:
        return text
    return _number(name, text)


def _number(name: str, text: str) -> int | float:
    """Return the number in a cell, an integer as one."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}: a number is expected, not {text[:40]!r}")
    return int(number) if number.is_integer() and abs(number) <= 2**53 else number


def _records(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield each record with the number of the line that it begins in: a line, or what follows an RS."""
    record, start = b"", 1
    is_sequence = False
    for place, line in enumerate(file, 1):
        if line.startswith(_RECORD_SEPARATOR):
            is_sequence = True
        if not is_sequence:
            if not line.isspace():
                yield place, line
            continue
        head, *more = line.split(_RECORD_SEPARATOR)
        record += head
        for following in more:
            if record and not record.isspace():
                yield start, record
            record, start = following, place
    if record and not record.isspace():
        yield start, record


def _feature_row(value: Any, before: float, prefix: str) -> Row:
    """Return the row that a decoded record is; raise `ValueError`."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "FeatureCollection":
        raise ValueError("a sequence of Features is expected, one a line, not a FeatureCollection; `jq -c '.features[]'` makes one of it")
    if not isinstance(value, dict) or (kind != "Feature" and "op" not in value):
        raise ValueError("a GeoJSON Feature is expected")
    id = value.get("id")
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise ValueError("id: a text or an integer is expected")
    time = _time(value, value.get("properties"))
    return Row(before if time is None else time, value | {"id": f"{prefix}{id}"})


def _time(*places: Any) -> float | None:
    """Return the first time that is in one of the objects, in seconds."""
    for place in places:
        for name in ("t", "time"):
            value = place.get(name) if isinstance(place, dict) else None
            if isinstance(value, str):
                try:
                    return datetime.fromisoformat(value).timestamp()
                except ValueError:
                    raise ValueError(f"{name}: seconds or an ISO 8601 date is expected, not {value[:40]!r}") from None
            if isinstance(value, int | float) and not isinstance(value, bool):
                return value / 1000 if abs(value) >= MILLISECONDS_FROM else float(value)
    return None


# Pace


class Batch(NamedTuple):
    """What is due now."""

    rows: list[Row]
    lag_s: float  # how late the first of them is


def repeated(trace: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows over and over; the clock goes on by the trace's span and `LAP_GAP_S`. Raises `TraceError` if there are none."""
    offset = 0.0
    while True:
        first = last = None
        for row in trace:
            first = row.t if first is None else first
            last = row.t if last is None else max(last, row.t)
            yield Row(row.t + offset, row.update)
        if first is None or last is None:
            raise TraceError("nothing to repeat: the trace has no rows")
        offset += last - first + LAP_GAP_S


async def paced(rows: Iterable[Row], speed: float = 1.0) -> AsyncIterator[Batch]:
    """Yield rows as they become due: the first now, the others `speed` times as fast as their clock says.

    `speed` is above 0; `math.inf` is as fast as they are taken. A row whose time falls behind the one before it is due
    at once. The consumer's time is not waited for: what becomes due meanwhile follows in the next batches.
    """
    if not speed > 0:
        raise ValueError("speed: above 0 is expected")
    loop = asyncio.get_running_loop()
    start = loop.time()
    origin: float | None = None
    batch: list[Row] = []
    first_due = due = start
    for row in rows:
        origin = row.t if origin is None else origin
        due = start + (row.t - origin) / speed
        if batch and (len(batch) >= BATCH_ROWS_MAX or due > loop.time()):
            yield Batch(batch, max(loop.time() - first_due, 0.0))
            batch = []
        if not batch:
            wait = due - loop.time()
            if wait > 0:
                # A tick at least, so that a dense trace costs batches and not rows.
                await asyncio.sleep(max(wait, TICK_S))
            first_due = due
        batch.append(row)
    if batch:
        yield Batch(batch, max(loop.time() - first_due, 0.0))
