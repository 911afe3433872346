"""A world that is alive, for whoever looks for the first time: towns, aircraft between them, recorded buses and earthquakes.

Law: it publishes as anybody would, through one function that takes updates, and knows nothing else of the server. What
is simulated is seeded; what is recorded keeps its order. Everything but the earthquakes runs at ten times its pace, so
that one sees it move.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import math
from collections.abc import Callable, Iterable
from importlib.resources import as_file, files
from random import Random
from typing import Any, NamedTuple

from realtime.demo.replay import Row, Trace, find_trace, paced, repeated

Publish = Callable[[Iterable[dict[str, Any]]], object]

PACE = 10.0
AIRCRAFT = 10_000
REPORT_INTERVAL_S = 10.0  # of one aircraft
AIRCRAFT_TICK_S = 0.05
AIRPORTS = 1500  # the largest towns, as often as they have people
FLIGHT_KM_MIN = 300.0
EARTH_KM = 6371.0
BUS_TTL_S = 300.0
QUAKE_TTL_S = 86_400.0
# From which zoom on a town of at least so many people is shown.
TOWN_ZOOMS = ((5_000_000, 2.0), (1_000_000, 3.5), (300_000, 5.0), (0, 6.5))


class Town(NamedTuple):
    """One row of the towns file."""

    id: str
    name: str
    country: str
    population: int
    lon: float
    lat: float


def towns() -> list[Town]:
    """Return the towns, largest first."""
    with as_file(files("realtime.demo") / "data" / "towns_geonames_5000.csv.gz") as path, gzip.open(path, "rt", encoding="utf-8") as file:
        return [
            Town(row["id"], row["name"], row["country"], int(row["population"]), float(row["lon"]), float(row["lat"]))
            for row in csv.DictReader(file)
        ]


def town_feature(town: Town) -> dict[str, Any]:
    """Return a town as an update."""
    return {
        "type": "Feature",
        "id": f"town-{town.id}",
        "kind": "town",
        "min_zoom": next(zoom for population, zoom in TOWN_ZOOMS if town.population >= population),
        "rank": 0.4,
        "geometry": {"type": "Point", "coordinates": [town.lon, town.lat]},
        "properties": {"name": town.name, "country": town.country, "population": town.population},
    }


Vector = tuple[float, float, float]


def _vector(lon: float, lat: float) -> Vector:
    lam, phi = math.radians(lon), math.radians(lat)
    return (math.cos(phi) * math.cos(lam), math.cos(phi) * math.sin(lam), math.sin(phi))


class Flight:
    """A great circle from one town to another, flown at one speed.

    Position: spherical linear interpolation (K. Shoemake, "Animating rotation with quaternion curves", 1985).
    """

    def __init__(self, start: Town, end: Town, speed_mps: float, departure: float) -> None:
        self.start, self.end = start, end
        self.speed_mps = speed_mps
        self.departure = departure
        self._from, self._to = _vector(start.lon, start.lat), _vector(end.lon, end.lat)
        self._angle = math.acos(max(-1.0, min(1.0, sum(a * b for a, b in zip(self._from, self._to, strict=True)))))
        self.duration_s = self._angle * EARTH_KM * 1000 / speed_mps / PACE

    @property
    def length_km(self) -> float:
        """How far it goes."""
        return self._angle * EARTH_KM

    def at(self, now: float) -> tuple[float, float, float]:
        """Return longitude, latitude and heading in degrees."""
        share = max(0.0, min(1.0, (now - self.departure) / self.duration_s))
        x, y, z = self._point(share)
        lon, lat = math.degrees(math.atan2(y, x)), math.degrees(math.asin(max(-1.0, min(1.0, z))))
        x2, y2, z2 = self._point(min(1.0, share + 1e-3))
        east = -x2 * math.sin(math.radians(lon)) + y2 * math.cos(math.radians(lon))
        north = (z2 - z) / max(1e-9, math.cos(math.radians(lat)))
        return lon, lat, math.degrees(math.atan2(east, north)) % 360

    def _point(self, share: float) -> Vector:
        sine = math.sin(self._angle)
        a, b = math.sin((1 - share) * self._angle) / sine, math.sin(share * self._angle) / sine
        (x0, y0, z0), (x1, y1, z1) = self._from, self._to
        return (a * x0 + b * x1, a * y0 + b * y1, a * z0 + b * z1)


class Aircraft:
    """All aircraft; each of them flies on when it has arrived."""

    def __init__(self, places: list[Town], count: int, random: Random) -> None:
        self._places = places[:AIRPORTS]
        self._weights = [math.sqrt(town.population) for town in self._places]
        self._random = random
        self._flights: list[Flight | None] = [None] * count
        self._next = 0
        self._owed = 0.0  # reports that are due, with a fraction

    def reports(self, now: float, elapsed_s: float) -> list[dict[str, Any]]:
        """Return the updates that are due, in turn, so that each aircraft reports once in `REPORT_INTERVAL_S`."""
        self._owed = min(self._owed + elapsed_s * len(self._flights) / REPORT_INTERVAL_S, len(self._flights))
        due = []
        while self._owed >= 1:
            self._owed -= 1
            due.append(self._report(self._next, now))
            self._next = (self._next + 1) % len(self._flights)
        return due

    def _report(self, number: int, now: float) -> dict[str, Any]:
        flight = self._flights[number]
        is_new = flight is None or now > flight.departure + flight.duration_s
        if flight is None or is_new:
            is_first = flight is None
            flight = self._flights[number] = self._fly(flight.end if flight else None, now, is_first)
        lon, lat, heading = flight.at(now)
        geometry = {"type": "Point", "coordinates": [round(lon, 5), round(lat, 5)]}
        properties: dict[str, Any] = {"speed": round(flight.speed_mps, 1), "heading": round(heading, 1)}
        if not is_new:
            return {"op": "patch", "id": f"aircraft-{number}", "geometry": geometry, "properties": properties}
        properties |= {"name": f"RT {number}", "from": flight.start.name, "to": flight.end.name}
        return {"type": "Feature", "id": f"aircraft-{number}", "kind": "aircraft", "geometry": geometry, "properties": properties}

    def _fly(self, start: Town | None, now: float, is_under_way: bool) -> Flight:
        while True:
            origin = start or self._town()
            flight = Flight(origin, self._town(), self._random.uniform(200, 260), now)
            if FLIGHT_KM_MIN <= flight.length_km < 0.95 * math.pi * EARTH_KM:
                break
        if is_under_way:
            flight.departure = now - self._random.random() * flight.duration_s
        return flight

    def _town(self) -> Town:
        return self._random.choices(self._places, self._weights)[0]


async def run(publish: Publish, *, aircraft: int = AIRCRAFT, seed: int = 1) -> None:
    """Publish the world until cancelled."""
    places = towns()
    publish(town_feature(town) for town in places)
    await asyncio.gather(_fly(publish, Aircraft(places, aircraft, Random(seed))), _drive(publish), _quake(publish))


async def _fly(publish: Publish, aircraft: Aircraft) -> None:
    loop = asyncio.get_running_loop()
    before = loop.time() - REPORT_INTERVAL_S  # all of them report at once, to begin with, in slices
    while True:
        now = loop.time()
        due = aircraft.reports(now, now - before)
        before = now
        for first in range(0, len(due), 100):
            publish(due[first : first + 100])
            await asyncio.sleep(0)
        await asyncio.sleep(AIRCRAFT_TICK_S)


async def _drive(publish: Publish) -> None:
    trace = Trace(find_trace("austin"), "bus-")
    rows = (row for row in repeated(trace) if _is_somewhere(row))
    async for batch in paced(rows, PACE):
        publish(row.update | {"ttl": BUS_TTL_S} for row in batch.rows)


async def _quake(publish: Publish) -> None:
    """Publish the earthquakes as they came: those of the first day at once, as of the day before, then one after the other."""
    trace = Trace(find_trace("earthquakes"), "quake-")
    rows = list(trace)
    past = [row for row in rows if row.t < QUAKE_TTL_S]
    publish(row.update | {"ttl": max(1.0, row.t)} for row in past)
    to_come = [row for row in rows if row.t >= QUAKE_TTL_S]
    await asyncio.sleep(to_come[0].t - QUAKE_TTL_S)
    async for batch in paced(repeated(to_come)):
        publish(row.update | {"ttl": QUAKE_TTL_S} for row in batch.rows)


def _is_somewhere(row: Row) -> bool:
    """Tell whether a bus knew where it was: a fix at 0, 0 is none."""
    return (row.update.get("geometry") or {}).get("coordinates") != [0, 0]
