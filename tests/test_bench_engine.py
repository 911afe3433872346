"""The engine's bench counts what is there: its figures are brute force's, and a wrong frame leaves none."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main as bench_main
from bench.crowd import GROUP_SHARE, Crowd, count_deltas
from bench.engine_city import CityRun
from bench.engine_memory import footprint
from bench.engine_viewports import PLACE_DEGREES, PLACES, VIEWERS_AT_PLACE, ViewportsRun, hot_places, others
from bench.engines import NATIVE, REFERENCE, available
from bench.results import read
from bench.workloads import inside
from realtime.engine import Encoding

KINDS = available()


def test_a_crowd_is_what_its_seed_says_and_has_rights_filters_and_encodings() -> None:
    one, other = Crowd(3, 40, 200), Crowd(3, 40, 200)
    assert list(one.features()) == list(other.features())
    assert one.seats == other.seats
    assert one.moves(300) == other.moves(300)
    assert len({seat.filter for seat in one.seats}) == 10
    assert sum(seat.is_member for seat in one.seats) == sum(seat.encoding is Encoding.JSON for seat in one.seats) == 20
    many = Crowd(3, 0, 5000)
    assert sum(many.is_for_group) / 5000 == pytest.approx(GROUP_SHARE, abs=0.03)
    passed = sum(many.passes(filter, entity) for filter in range(10) for entity in range(5000)) / 50_000
    assert 0.6 < passed < 0.9


def test_pairs_are_those_of_brute_force() -> None:
    crowd = Crowd(5, 60, 100)
    before = list(crowd.city.positions)
    moves = crowd.moves(100)
    old = [before[move.entity] for move in moves]
    judged = matched = 0
    for move, place in zip(moves, old, strict=True):
        for seat in crowd.seats:
            is_near = inside(seat.bbox, *place) or inside(seat.bbox, move.lon, move.lat)
            judged += is_near
            matched += is_near and crowd.shows(seat, move.entity)
    assert 0 < matched < judged
    assert crowd.pairs(moves, old) == (judged / 100, matched / 100)


def test_deltas_are_counted_by_parsing() -> None:
    frame: dict[str, Any] = {"type": "delta", "seq": 3, "move": [["a", 2, 1.0, 2.0], ["b", 2, 1, 2]], "enter": [{"id": "c"}], "total": 4}
    frame |= {"patch": [{"id": "d"}], "leave": {"moved": ["e", "f"], "denied": ["g"]}}
    assert count_deltas(json.dumps(frame).encode(), Encoding.JSON) == 7


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_drains_what_it_matched(kind: str) -> None:
    crowd = Crowd(1, 40, 2000)
    run = CityRun(kind, crowd, 20_000.0)
    filled = run.fill()
    assert filled.enters == sum(len(crowd.seen(seat)) for seat in crowd.seats)
    before = list(crowd.city.positions)
    moves = crowd.moves(2000)
    rate = run.window(crowd.updates(moves))
    pairs = crowd.pairs(moves, [before[move.entity] for move in moves])
    # All entities moved once in one flush interval: nothing is conflated, and what is not drained yet is the last interval's.
    left = run.settle()[1]
    assert rate.deltas + left == pytest.approx(pairs.matched * len(moves), rel=0.02)
    assert rate.seconds > 0
    assert run.faults() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirror_that_differs_leaves_no_figure(kind: str) -> None:
    run = CityRun(kind, Crowd(1, 20, 500), 20_000.0)
    run.fill()
    run.crowd.city.positions = [(lon + 1e-6, lat) for lon, lat in run.crowd.city.positions]
    assert any("brute force" in fault for fault in run.faults())


def test_the_others_see_no_hot_place_and_crowd_around_towns() -> None:
    views, hot = others(4), hot_places(4)
    some = [next(views) for _ in range(2000)]
    assert len(hot) == PLACES
    reach = PLACE_DEGREES
    for west, south, east, north in some:
        assert not any(west - reach <= lon <= east + reach and south - reach <= lat <= north + reach for lon, lat in hot)
    cells = Counter((round(west), round(south)) for west, south, _, _ in some)
    assert max(cells.values()) > 10


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_viewers_are_at_a_change_s_place_however_many_look_elsewhere(kind: str) -> None:
    hot = PLACES * VIEWERS_AT_PLACE
    for viewports in (hot, hot + 800) if kind == NATIVE else (hot + 100,):
        run = ViewportsRun(kind, 2, viewports, 50_000.0)
        cost = run.window(500)
        assert cost.candidates == VIEWERS_AT_PLACE
        assert 0 < cost.apply_us < cost.all_us


def test_memory_is_read_in_a_process_of_its_own() -> None:
    found = footprint(REFERENCE, 3000, 1, 1)
    assert 100 < found.json_bytes / found.entities < 300
    assert 400 < found.beside < 10_000
    assert found.resident_bytes_after >= found.resident_bytes * 0.9


def test_the_command_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "engine.json"
    small = ["--engine", REFERENCE, "--part", "city", "--sessions", "20", "--entities", "500", "--changes", "200", "--repeat", "2"]
    assert bench_main(["engine", *small, "--json", str(path)]) == 0
    result = read(path)
    assert [len(row.samples) for row in result.rows] == [2, 2, 2, 2]
    assert all(row.value > 0 and not row.key for row in result.rows)
    assert "reference: pairs matched" in capsys.readouterr().out
