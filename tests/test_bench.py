"""The benchmark finds what is wrong, and counts what is right: else none of its figures is worth printing."""

from __future__ import annotations

import asyncio
import json
import math
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from bench.city import run_city
from bench.client import Schedule, Tally, Viewer
from bench.report import city_verdicts, conclude
from bench.trial import Mirrors, Options, Waits, Window
from bench.workloads import METRES_PER_DEGREE, City, count_pairs, inside

# The workload


def test_moves_go_further_than_ten_metres_and_every_entity_has_its_turn() -> None:
    city = City(seed=3, viewers=0, entities=50)
    before, moves_of = list(city.positions), city.moves()
    for _ in range(4):
        moves = list(islice(moves_of, 50))
        assert sorted(move.entity for move in moves) == list(range(50))
        for move in moves:
            lon, lat = before[move.entity]
            x = (move.lon - lon) * math.cos(math.radians(lat)) * METRES_PER_DEGREE
            y = (move.lat - lat) * METRES_PER_DEGREE
            assert math.hypot(x, y) > 10
            before[move.entity] = (move.lon, move.lat)
    assert city.positions == before


def test_one_seed_is_one_city_whatever_the_number_of_viewers() -> None:
    one, other = City(seed=5, viewers=10, entities=20), City(seed=5, viewers=3, entities=20)
    assert one.views[:3] == other.views
    assert list(islice(one.moves(), 60)) == list(islice(other.moves(), 60))
    assert one.versions == other.versions
    assert City(seed=6, viewers=3, entities=20).positions != City(seed=5, viewers=3, entities=20).positions


def test_pairs_are_those_of_brute_force() -> None:
    city = City(seed=7, viewers=40, entities=60)
    places, moves = list(city.positions), city.moves()
    pairs = 0
    for place, move in enumerate(islice(moves, 300)):
        new = (move.lon, move.lat)
        if place >= 100:
            pairs += sum(inside(view, *places[move.entity]) or inside(view, *new) for view in city.views)
        places[move.entity] = new
    assert pairs > 0
    assert count_pairs(City(seed=7, viewers=0, entities=60), city.views, 100, 200) == pairs


# The client


class _Wire(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += bytes(data)


def _opened() -> Viewer:
    viewer = Viewer((0.0, 0.0, 1.0, 1.0), "json", Tally())
    viewer.connection_made(_Wire())
    viewer.data_received(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
    return viewer


def _frame(message: dict[str, Any]) -> bytes:
    payload = json.dumps(message).encode()
    length = bytes((len(payload),)) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
    return b"\x81" + length + payload


def _delta(seq: int, **members: Any) -> dict[str, Any]:
    return {"type": "delta", "seq": seq, **members}


def _feature(id: str, version: int, lon: float, lat: float) -> dict[str, Any]:
    return {"type": "Feature", "id": id, "version": version, "geometry": {"type": "Point", "coordinates": [lon, lat]}, "properties": {}}


_STORY = (
    _delta(1, reset=True, total=2, sampled=1, enter=[_feature("a", 3, 0.1, 0.2), _feature("b", 4, 0.5, 0.5)]),
    _delta(2, move=[["a", 5, 0.15, 0.2]]),
    _delta(3, patch=[{"id": "b", "version": 6, "properties": {"x": 1}}], leave={"moved": ["a"]}),
)


@pytest.mark.parametrize("size", [1, 3, 50, 10_000])
def test_frames_are_applied_however_they_are_cut(size: int) -> None:
    viewer = _opened()
    stream = b"".join(map(_frame, _STORY))
    for first in range(0, len(stream), size):
        viewer.data_received(stream[first : first + size])
    assert viewer.mirror == {"b": ("b", 6, 0.5, 0.5)}
    assert viewer.is_filled
    assert not viewer.tally.faults
    assert (viewer.tally.frames, viewer.tally.deltas) == (3, 5)
    assert viewer.tally.frame_bytes == sum(len(json.dumps(delta)) for delta in _STORY)


@pytest.mark.parametrize(
    ("delta", "fault"),
    [
        (_delta(3), "seq"),
        (_delta(2, move=[["c", 9, 0.1, 0.1]]), "move: not held"),
        (_delta(2, move=[["a", 3, 0.1, 0.1]]), "move: version"),
        (_delta(2, enter=[_feature("a", 2, 0.1, 0.1)]), "enter: version"),
        (_delta(2, patch=[{"id": "c", "version": 9}]), "patch: not held"),
        (_delta(2, patch=[{"id": "b", "version": 4}]), "patch: version"),
        (_delta(2, leave={"moved": ["c"]}), "leave: not held"),
        (_delta(2, total=3), "total"),
        ({"type": "error", "code": "bad_view", "message": ""}, "error: bad_view"),
        ({"type": "surprise"}, "undecodable"),
    ],
)
def test_a_wrong_frame_is_a_fault(delta: dict[str, Any], fault: str) -> None:
    viewer = _opened()
    viewer.data_received(_frame(_STORY[0]) + _frame(delta))
    assert [name for name in viewer.tally.faults if name.startswith(fault)]
    assert viewer.tally.faults.total() == 1


def test_waiting_is_measured_from_when_a_change_was_due() -> None:
    viewer = _opened()
    viewer.data_received(_frame(_STORY[0]))
    viewer.tally.restart()
    # One change is due every 10 s from 100 s ago on: that with version 5 since 90 s, whenever it was published.
    viewer.tally.schedule = Schedule(start=monotonic() - 100, rate=0.1, first_version=4)
    viewer.data_received(_frame(_STORY[1]))
    assert viewer.tally.waits == {9: 1}


# The verdict

_GOOD = Window(
    seconds=30.0,
    offered_per_s=1500.0,
    taken_per_s=1500.0,
    pairs_offered_per_s=75_000.0,
    deltas_per_s=75_000.0,
    frames_per_s=9000.0,
    bytes_per_delta=40.0,
    waits=Waits(60.0, 120.0, 150.0),
    server_cpu=0.8,
    server_resident_bytes=10**8,
    load_cpu=0.4,
    others_cpu=0.1,
    load_lag_p99_ms=2.0,
    outbox_mean=4000.0,
    outbox_slope_per_s=3.0,
    outbox=[4000.0],
    refused=0,
    behind_max_s=0.02,
)
_RIGHT = Mirrors(1000, 0, 0, 500_000, {})


def test_a_good_run_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert conclude(city_verdicts(_GOOD, _RIGHT, 100.0), []) == 0
    assert "NOT MET" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"taken_per_s": 1400.0},
        {"deltas_per_s": 70_000.0},
        {"waits": Waits(60.0, 501.0, 600.0)},
        {"outbox_slope_per_s": 500.0},
        {"refused": 1},
    ],
)
def test_each_bound_that_is_not_met_fails_the_run(change: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    fields = {name: getattr(_GOOD, name) for name in _GOOD.__struct_fields__}
    assert conclude(city_verdicts(Window(**(fields | change)), _RIGHT, 100.0), []) == 1
    assert capsys.readouterr().out.count("NOT MET") == 1


@pytest.mark.parametrize(
    "mirrors", [Mirrors(0, 0, 0, 0, {}), Mirrors(9, 1, 0, 0, {}), Mirrors(9, 0, 1, 0, {}), Mirrors(9, 0, 0, 0, {"seq": 1})]
)
def test_a_wrong_mirror_fails_the_run(mirrors: Mirrors) -> None:
    assert conclude(city_verdicts(_GOOD, mirrors, 100.0), []) == 1


# The whole


@pytest.mark.parametrize(("encoding", "publish"), [("json", "http"), ("msgpack", "inprocess")])
def test_a_small_city(encoding: str, publish: str, tmp_path: Path) -> None:
    options = Options(viewers=40, entities=400, flush_interval_ms=20.0, encoding=encoding, publish=publish)
    path = tmp_path / "city.json"
    code = asyncio.run(run_city(options, [200.0], warm_up_s=0.3, seconds=1.0, stalled=0.1, profile_s=0.0, path=path))
    assert code == 1  # 200 changes a second are fewer than the bound
    written = json.loads(path.read_text())
    (window,), (verdicts,) = written["details"]["windows"], written["details"]["verdicts"]
    assert window["pairs_offered_per_s"] > 0
    assert window["refused"] == 0
    mirrors_are_right, what = verdicts[-1]
    assert mirrors_are_right, what
    assert what.startswith("mirrors: 36 ")
