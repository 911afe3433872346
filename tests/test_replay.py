"""Traces: every row as its file has it, every mistake with its line, and a clock that waits for nobody."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from realtime.config import LimitsConfig, PublishConfig
from realtime.demo.replay import BATCH_ROWS_MAX, LAP_GAP_S, SHIPPED, Row, Trace, TraceError, find_trace, paced, repeated
from realtime.updates import UpdateParser


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def mistake(path: Path) -> str:
    with pytest.raises(TraceError) as caught:
        list(Trace(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path)).lstrip(",: ")


# CSV


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".CSV"])
def test_a_row_is_a_feature_with_what_its_cells_say(write: Any, suffix: str) -> None:
    path = write(
        f"a{suffix}",
        "t,id,lon,lat,kind,state,label,speed,heading,alt,mag,battery,code,note\r\n"
        '2.5,7,-97.5,30.25,bus,801,"12, Main ""St""",10.7,0,-12,1e1,0.5,007,1a\r\n'
        "3,x y,0,0,,,,,,,,,,\r\n",
    )
    first, second = Trace(path)
    assert first == Row(
        2.5,
        {
            "type": "Feature",
            "id": "7",
            "kind": "bus",
            "geometry": {"type": "Point", "coordinates": [-97.5, 30.25]},
            "properties": {
                "state": "801",
                "label": '12, Main "St"',
                "speed": 10.7,
                "heading": 0,
                "alt": -12,
                "mag": 10,
                "battery": 0.5,
                "code": "007",
                "note": "1a",
            },
        },
    )
    assert second == Row(3, {"type": "Feature", "id": "x y", "geometry": {"type": "Point", "coordinates": [0, 0]}, "properties": {}})


def test_a_row_without_a_time_is_due_with_the_one_before(write: Any) -> None:
    assert [row.t for row in Trace(write("a.csv", "t,id,lon,lat\n5,a,1,1\n,b,1,1\n6,c,1,1\n"))] == [5, 5, 6]
    assert [row.t for row in Trace(write("a.csv", "id,lon,lat\na,1,1\n\nb,1,1\n"))] == [0, 0]


def test_a_prefix_keeps_worlds_apart(write: Any) -> None:
    assert [row.update["id"] for row in Trace(write("a.csv", "id,lon,lat\n7,1,1\n"), "bus-")] == ["bus-7"]
    assert [row.update["id"] for row in Trace(write("a.ndjson", '{"type":"Feature","id":7,"geometry":null}'), "bus-")] == ["bus-7"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "line 1: the head line has no column id"),
        ("id,lon\n", "line 1: the head line has no column lat"),
        ("id,lon,lat\na,1,1\nb,1\n", "line 3: 3 cells are expected, as in the head line, not 2"),
        ("id,lon,lat\n,1,1\n", "line 2: id: blank"),
        ("id,lon,lat\na,,1\n", "line 2: lon: a number is expected, not ''"),
        ("id,lon,lat\na,1,nan\n", "line 2: lat: a number is expected, not 'nan'"),
        ("t,id,lon,lat\nnoon,a,1,1\n", "line 2: t: a number is expected, not 'noon'"),
        ("id,lon,lat,speed\na,1,1,fast\n", "line 2: speed: a number is expected, not 'fast'"),
        ('id,lon,lat\n"a"b,1,1\n', "line 2: ',' expected after '\"'"),
    ],
)
def test_mistakes_in_csv_name_their_line(write: Any, text: str, expected: str) -> None:
    assert mistake(write("a.csv", text)) == expected


def test_files_that_are_not_what_their_name_says(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(b"id,lon,lat\n")
    assert mistake(path).startswith("not gzip, or cut off: ")
    path.write_bytes(gzip.compress(b"id,lon,lat\n" + b"a,1,1\n" * 50_000)[:-20])
    assert mistake(path).startswith("not gzip, or cut off: ")
    path = tmp_path / "b.csv"
    path.write_bytes(b"id,lon,lat\n\xff,1,1\n")
    assert "not UTF-8" in mistake(path)
    for name in ("a", "a.gz", "a.json", "a.geojson", "a.txt.gz"):
        with pytest.raises(TraceError, match=r"a name that ends in \.csv, \.geojsonl"):
            Trace(tmp_path / name)


# GeoJSON text sequences


def feature(id: Any, **members: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": id, "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}} | members


@pytest.mark.parametrize("suffix", [".geojsonl", ".geojsons", ".geojson-seq", ".ndjson", ".jsonl", ".ndjson.gz"])
def test_lines_and_record_separators(write: Any, suffix: str) -> None:
    features = [feature("a", t=1), feature("b", kind="bus", ttl=5, version=9), feature(3, t=2.5)]
    expected = [Row(1, features[0]), Row(1, features[1]), Row(2.5, features[2] | {"id": "3"})]
    lines = [json.dumps(one) for one in features]
    assert list(Trace(write(f"a{suffix}", "\n".join(lines)))) == expected
    assert list(Trace(write(f"a{suffix}", "\r\n\n".join(lines) + "\n\n"))) == expected
    assert list(Trace(write(f"a{suffix}", "".join(f"\x1e{line}\n" for line in lines)))) == expected
    pretty = "".join(f"\x1e{json.dumps(one, indent=2)}\n" for one in features)
    assert list(Trace(write(f"a{suffix}", pretty))) == expected
    assert list(Trace(write(f"a{suffix}", "\x1e" + "\x1e".join(lines)))) == expected


def test_operations_go_through_as_they_are(write: Any) -> None:
    lines = [{"op": "move", "id": "a", "lon": 1, "lat": 2, "t": 4}, {"op": "delete", "id": "a"}]
    assert [row.update for row in Trace(write("a.ndjson", "\n".join(map(json.dumps, lines))))] == lines


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"t": 5}, 5),
        ({"time": 5.5, "properties": {"t": 9}}, 5.5),
        ({"properties": {"t": 9}}, 9),
        ({"properties": {"time": 1519776000000}}, 1519776000),  # as USGS has it
        ({"t": 1519776000}, 1519776000),
        ({"properties": {"time": "2018-02-28T00:00:00Z"}}, 1519776000),
        ({"properties": {"time": "2018-02-28T01:00:00.500+01:00"}}, 1519776000.5),
        ({"properties": {"time": None}}, 0),
        ({"properties": None, "t": True}, 0),
    ],
)
def test_where_a_feature_has_its_time(write: Any, members: dict[str, Any], expected: float) -> None:
    (row,) = Trace(write("a.ndjson", json.dumps(feature("a", **members))))
    assert row == Row(expected, feature("a", **members))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"type":"Feature","id":1}\n{"type":', "line 2: not JSON: "),
        ('\x1e{"type":"Feature","id":1}\n\x1e{\n"type":', "line 2: not JSON: "),
        ("[]", "line 1: a GeoJSON Feature is expected"),
        ('{"type":"Point"}', "line 1: a GeoJSON Feature is expected"),
        ('{"type":"Feature"}', "line 1: id: a text or an integer is expected"),
        ('{"type":"Feature","id":true}', "line 1: id: a text or an integer is expected"),
        ('{"type":"FeatureCollection","features":[]}', "line 1: a sequence of Features is expected, one a line, not a FeatureCollection"),
        ('{"type":"Feature","id":1,"time":"noon"}', "line 1: time: seconds or an ISO 8601 date is expected, not 'noon'"),
        ("[" * 100_000, "line 1: "),
    ],
)
def test_mistakes_in_sequences_name_their_line(write: Any, text: str, expected: str) -> None:
    assert mistake(write("a.geojsonl", text)).startswith(expected)


# What comes along


def test_the_recordings_that_come_along_are_read_cell_by_cell() -> None:
    """Each against the csv module's own reading, and each row is one that the server takes."""
    parser = UpdateParser(LimitsConfig(), PublishConfig())
    for name, entities in (("austin", 329), ("earthquakes", 1707)):
        trace = Trace(find_trace(name))
        rows = list(trace)
        assert trace.bytes_read == trace.bytes_total
        with gzip.open(SHIPPED[name], "rt", encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        assert len(rows) == len(lines)
        assert len({row.update["id"] for row in rows}) == entities
        assert [row.t for row in rows] == sorted(row.t for row in rows)
        for row, line in zip(rows, lines, strict=True):
            given = {column: text for column, text in line.items() if text}
            assert row.t == float(given.pop("t"))
            assert row.update["id"] == given.pop("id")
            assert row.update["geometry"] == {"type": "Point", "coordinates": [float(given.pop("lon")), float(given.pop("lat"))]}
            assert row.update["kind"] == given.pop("kind")
            assert row.update["properties"] == {key: text if key in ("state", "label") else float(text) for key, text in given.items()}
        for row in rows[::97]:
            parser.parse(row.update)


def test_a_file_wins_over_a_recordings_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_trace("austin") == SHIPPED["austin"]
    Path("austin").touch()
    assert find_trace("austin") == Path("austin")
    assert find_trace("nothing.csv") == Path("nothing.csv")


# Pace


def rows_at(*times: float) -> list[Row]:
    return [Row(t, {"id": str(place)}) for place, t in enumerate(times)]


async def taken(rows: Any, speed: float) -> tuple[list[str], float]:
    start = time.monotonic()
    ids = [row.update["id"] async for batch in paced(rows, speed) for row in batch.rows]
    return ids, time.monotonic() - start


async def test_rows_come_in_order_no_sooner_than_they_are_due() -> None:
    start = time.monotonic()
    seen = []
    async for batch in paced(rows_at(100, 100, 101, 103, 102.5, 104), speed=10):
        seen += [(row.update["id"], row.t, time.monotonic() - start) for row in batch.rows]
    assert [id for id, _, _ in seen] == ["0", "1", "2", "3", "4", "5"]
    for _, t, elapsed in seen:
        assert elapsed >= (t - 100) / 10 - 0.001


async def test_infinite_speed_waits_for_nothing_and_keeps_batches_small() -> None:
    sizes = [len(batch.rows) async for batch in paced(rows_at(*range(0, 2_500_000, 1000)), math.inf)]
    assert sum(sizes) == 2500
    assert max(sizes) <= BATCH_ROWS_MAX


async def test_the_clock_does_not_wait_for_the_consumer() -> None:
    """A consumer that is late once finds all that became due in one batch, which says how late it is."""
    batches = []
    async for batch in paced(rows_at(*(place / 10 for place in range(10))), speed=10):
        batches.append(batch)
        if len(batches) == 1:
            time.sleep(0.2)  # noqa: ASYNC251 - the whole trace is due by then
    assert [row.update["id"] for batch in batches for row in batch.rows] == [str(place) for place in range(10)]
    assert len(batches) == 2
    assert batches[1].lag_s >= 0.1


async def test_a_dense_trace_costs_batches_and_not_rows() -> None:
    batches = [batch async for batch in paced(rows_at(*(place / 1000 for place in range(200))))]
    assert sum(len(batch.rows) for batch in batches) == 200
    assert len(batches) <= 25


async def test_speeds_that_are_none() -> None:
    for speed in (0, -1, math.nan):
        with pytest.raises(ValueError, match="speed: above 0"):
            await anext(paced([], speed))
    assert await taken([], 1) == ([], pytest.approx(0, abs=0.1))


def test_laps_follow_each_other_and_time_goes_on() -> None:
    rows = rows_at(5, 6, 8)
    laps = list(islice(repeated(rows), 7))
    span = 3 + LAP_GAP_S
    assert [row.t for row in laps] == [5, 6, 8, 5 + span, 6 + span, 8 + span, 5 + 2 * span]
    assert [row.update["id"] for row in laps] == ["0", "1", "2", "0", "1", "2", "0"]
    with pytest.raises(TraceError, match="no rows"):
        next(repeated([]))


def test_reading_is_lazy() -> None:
    def endless() -> Iterator[Row]:
        yield from rows_at(0)
        raise AssertionError("read ahead")

    async def first() -> None:
        async for _ in paced(endless()):
            return

    with pytest.raises(AssertionError, match="read ahead"):
        asyncio.run(first())
    trace = Trace(SHIPPED["austin"])
    next(iter(trace))
    assert trace.bytes_read < trace.bytes_total
