"""The demo's world: what it says of itself is true, and it publishes as anybody would."""

from __future__ import annotations

import asyncio
import itertools
import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.config import LimitsConfig, PublishConfig
from realtime.demo import world
from realtime.demo.world import EARTH_KM, PACE, REPORT_INTERVAL_S, Aircraft, Flight, Town, town_feature, towns
from realtime.engine import Op
from realtime.updates import UpdateParser

LONGEST_S = 10_000.0  # half around the globe at the slowest pace takes less

lon = st.floats(-179, 179)
lat = st.floats(-80, 80)


def km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The haversine distance."""
    (lon1, lat1), (lon2, lat2) = ([math.radians(c) for c in place] for place in (a, b))
    h = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_KM * math.asin(min(1, math.sqrt(h)))


def town(name: str, lon: float, lat: float) -> Town:
    return Town(name, name, "XX", 1_000_000, lon, lat)


@given(lon, lat, lon, lat, st.floats(0, 1))
def test_a_flight_is_on_its_great_circle_at_its_speed(lon1: float, lat1: float, lon2: float, lat2: float, share: float) -> None:
    whole = km((lon1, lat1), (lon2, lat2))
    if not 300 < whole < 19_000:
        return
    flight = Flight(town("a", lon1, lat1), town("b", lon2, lat2), 230.0, 1000.0)
    assert flight.length_km == pytest.approx(whole, rel=1e-6)
    assert flight.duration_s == pytest.approx(whole * 1000 / 230 / PACE, rel=1e-6)
    x, y, heading = flight.at(1000 + share * flight.duration_s)
    assert km((lon1, lat1), (x, y)) == pytest.approx(share * whole, abs=0.5)
    assert km((lon1, lat1), (x, y)) + km((x, y), (lon2, lat2)) == pytest.approx(whole, abs=0.5)
    assert 0 <= heading <= 360


@pytest.mark.parametrize(("to", "heading"), [((0, 40), 0), ((60, 0), 90), ((0, -40), 180), ((-60, 0), 270)])
def test_headings_are_those_of_a_compass(to: tuple[float, float], heading: float) -> None:
    flight = Flight(town("a", 0, 0), town("b", *to), 230.0, 0.0)
    assert math.isclose((flight.at(flight.duration_s / 2)[2] - heading + 180) % 360, 180, abs_tol=0.5)


def test_each_aircraft_reports_once_in_its_interval_and_flies_on_from_where_it_arrived() -> None:
    aircraft = Aircraft(towns(), 50, Random(7))
    seen: dict[str, list[dict[str, Any]]] = {}
    now, step = 0.0, 0.5
    for _ in range(int(LONGEST_S / step)):
        now += step
        for update in aircraft.reports(now, step):
            seen.setdefault(update["id"], []).append(update | {"now": now})
    assert len(seen) == 50
    parser = UpdateParser(LimitsConfig(), PublishConfig())
    for updates in seen.values():
        assert len(updates) == pytest.approx(LONGEST_S / REPORT_INTERVAL_S, abs=2)
        assert parser.parse(updates[0]).op is Op.UPSERT
        legs = [update for update in updates if update.get("type") == "Feature"]
        assert len(legs) > 1, "it never arrived"
        for before, after in itertools.pairwise(legs):
            assert after["properties"]["from"] == before["properties"]["to"]
        for before, after in itertools.pairwise(updates):
            parser.parse(after)
            if after.get("op") == "patch":
                way = km(tuple(before["geometry"]["coordinates"]), tuple(after["geometry"]["coordinates"]))
                assert way == pytest.approx(after["properties"]["speed"] * PACE * (after["now"] - before["now"]) / 1000, rel=0.02, abs=0.5)


def test_towns_are_shown_by_their_size() -> None:
    features = [town_feature(each) for each in towns()]
    assert len(features) == 5000
    zooms = [feature["min_zoom"] for feature in features]
    assert zooms == sorted(zooms), "a smaller town is shown before a larger one"
    assert sum(zoom <= 2 for zoom in zooms) < 200, "a map of the world would be full of them"
    parser = UpdateParser(LimitsConfig(), PublishConfig())
    assert len({parser.parse(feature).id for feature in features}) == 5000


async def test_all_of_it_is_published_and_accepted() -> None:
    parser = UpdateParser(LimitsConfig(), PublishConfig())
    kinds: dict[str, set[str]] = {}
    all_there = asyncio.Event()

    def publish(updates: Any) -> None:
        for update in updates:
            parsed = parser.parse(update)
            if parsed.kind:
                kinds.setdefault(parsed.kind, set()).add(parsed.id)
                assert parsed.kind not in ("quake", "bus") or parsed.ttl, "what is not reported any more has to go by itself"
        if len(kinds.get("aircraft", ())) == 30 and kinds.keys() >= {"town", "bus", "quake"}:
            all_there.set()

    task = asyncio.ensure_future(world.run(publish, aircraft=30))
    done, _ = await asyncio.wait({task, asyncio.ensure_future(all_there.wait())}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    assert done, f"only { ({kind: len(ids) for kind, ids in kinds.items()}) }"
    assert not task.done(), task.exception()
    task.cancel()
    await asyncio.wait({task})
    assert len(kinds["quake"]) > 100
