"""The crowd as a load: viewers with filters and rights, and moves that are known beforehand at any rate.

Law: as `bench.workloads`: a pure function of its seed and sizes, so that the server process that publishes it, the load
client and the comparison at the end have the same one. `fan_out` is how many viewers a change has to be told to, rights
and filters considered; the views are made as wide as that takes.
"""

from __future__ import annotations

import csv
import gzip
import math
import random
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from bench.crowd import FILTERS, GROUP, ZOOM, Crowd, Seat
from bench.load_client import Look
from bench.workloads import DIGITS, BBox, Position, Rounds, inside

SAMPLE_MOVES = 5000  # by which fan-out is estimated: to about one in a hundred
SCALINGS = 3
CELL_DEGREES = 0.02  # of the grid by which they are found; a view with more than `CELLS_MAX` cells is tried for every move
CELLS_MAX = 2000
TOKENS = {True: "member", False: "guest"}  # of who is in the group, and who is not
TOWNS = Path(__file__).resolve().parent.parent / "realtime" / "demo" / "data" / "towns_geonames_5000.csv.gz"
TOWN_SPREAD_KM = 5.0  # standard deviation, of whatever is around a town
CITY_ZOOMS, WORLD_ZOOMS = (11.0, 16.0), (3.0, 6.0)
WORLD_SHARE = 0.02  # of the viewers look at a part of the world
PIXELS = (1920, 1080)


class DenseCity(Crowd):
    """Viewers and entities around one centre."""

    name = "dense"

    def __init__(self, seed: int, viewers: int, entities: int, fan_out: float = 50.0) -> None:
        super().__init__(seed, viewers, entities)
        self.zooms = [ZOOM] * viewers
        self.rounds = Rounds(seed, list(self.city.positions))
        if viewers:
            self._widen(fan_out)

    def _widen(self, fan_out: float) -> None:
        """Make the views as wide as it takes for a change to be told to `fan_out` viewers."""
        for _ in range(SCALINGS):
            scale = math.sqrt(fan_out / max(self.told(range(len(self.seats))), 1e-3))
            self.seats = [seat._replace(bbox=_scaled(seat.bbox, scale)) for seat in self.seats]

    @property
    def settings(self) -> dict[str, Any]:
        """What the server has to know of who looks."""
        group = GROUP.removeprefix("group:")
        return {"identity.tokens": f'{{{TOKENS[True]} = {{user = "ann", groups = ["{group}"]}}, {TOKENS[False]} = {{user = "bob"}}}}'}

    def looks(self, places: Sequence[int], whole: int) -> list[Look]:
        """Return what the viewers at some places of `seats` send; so many of them, evenly spread, hold whole mirrors."""
        chosen = {place * len(places) // whole for place in range(whole)} if whole else set()
        return [
            Look(
                {"bbox": self.seats[place].bbox, "zoom": self.zooms[place], "filter": FILTERS[self.seats[place].filter]},
                TOKENS[self.seats[place].is_member],
                number in chosen,
            )
            for number, place in enumerate(places)
        ]

    def told(self, places: Sequence[int]) -> float:
        """Return to how many of the viewers at some places a change has to be told: the mean of a sample of moves."""
        cells: dict[tuple[int, int], list[Seat]] = {}
        wide = []
        for seat in map(self.seats.__getitem__, places):
            west, south, east, north = (math.floor(degrees / CELL_DEGREES) for degrees in seat.bbox)
            if (east - west) * (north - south) > CELLS_MAX:
                wide.append(seat)
                continue
            for x in range(west, east + 1):
                for y in range(south, north + 1):
                    cells.setdefault((x, y), []).append(seat)
        moves = list(islice(self.rounds.moves(), self.rounds.entities * 2))
        chance = random.Random(f"{self.seed} sample")
        some = chance.sample(range(self.rounds.entities, len(moves)), min(SAMPLE_MOVES, self.rounds.entities))
        found = 0
        for move in map(moves.__getitem__, some):
            old, new = self.rounds.places[0][move.entity], (move.lon, move.lat)
            near = {id(seat): seat for seat in wide}
            for lon, lat in (old, new):
                near.update((id(seat), seat) for seat in cells.get((math.floor(lon / CELL_DEGREES), math.floor(lat / CELL_DEGREES)), ()))
            found += sum((inside(seat.bbox, *old) or inside(seat.bbox, *new)) and self.shows(seat, move.entity) for seat in near.values())
        return found / len(some)

    def advance(self, moves: int) -> None:
        """Let the world be as it is after so many moves in all."""
        self.city.versions, self.city.positions = self.rounds.after(moves)

    def prepared(self) -> list[dict[str, Any]]:
        """Return the moves of all rounds as updates; their versions are to be set by whoever publishes them."""
        return [{"op": "move", "id": self.ids[move.entity], "version": 0, "lon": move.lon, "lat": move.lat} for move in self.rounds.moves()]

    def write_moves(self, path: Path) -> None:
        """Write the moves of all rounds as the native publisher reads them."""
        with path.open("w") as file:
            file.writelines(f"{self.ids[move.entity]} {move.lon!r} {move.lat!r}\n" for move in self.rounds.moves())

    def expected(self, seat: Seat, bbox: BBox) -> dict[str, list[Any]]:
        """Return what a viewer must hold that now looks at `bbox`, by brute force: {id: [id, version, [lon, lat], properties, kind]}."""
        if not self._features:
            self._features = list(self.features())
        found = {}
        for id, (version, lon, lat) in self.seen(seat._replace(bbox=bbox)).items():
            feature = self._features[int(id.rpartition("-")[2])]
            found[id] = [id, version, [lon, lat], feature["properties"], feature["kind"]]
        return found

    _features: Sequence[dict[str, Any]] = ()  # for their properties, which moves leave alone


class Towns(DenseCity):
    """Viewers and entities around the world's towns, by population; most look at a city, some at a part of the world."""

    name = "towns"

    def __init__(self, seed: int, viewers: int, entities: int, fan_out: float = 0.0) -> None:
        super().__init__(seed, 0, entities)
        towns = read_towns()
        heights = list(accumulate(population for _, population in towns))
        chance = random.Random(f"{seed} towns' entities")
        self.city.positions = [_near(chance, towns, heights) for _ in range(entities)]
        self.rounds = Rounds(seed, list(self.city.positions))
        chance = random.Random(f"{seed} towns' views")
        base = Crowd(seed, viewers, 0).seats
        for seat in base:
            zoom = round(chance.uniform(*(WORLD_ZOOMS if chance.random() < WORLD_SHARE else CITY_ZOOMS)), 2)
            self.zooms.append(zoom)
            self.seats.append(seat._replace(bbox=_viewport(_near(chance, towns, heights), zoom)))


WORKLOADS = {workload.name: workload for workload in (DenseCity, Towns)}


def read_towns() -> list[tuple[Position, int]]:
    """Return the places of towns and their population."""
    with gzip.open(TOWNS, "rt", encoding="utf-8") as file:
        return [((float(row["lon"]), float(row["lat"])), int(row["population"])) for row in csv.DictReader(file)]


def _near(chance: random.Random, towns: list[tuple[Position, int]], heights: list[int]) -> Position:
    (lon, lat), _ = towns[min(bisect(heights, chance.random() * heights[-1]), len(towns) - 1)]
    degrees = TOWN_SPREAD_KM / 111.32
    lon = chance.gauss(lon, degrees / math.cos(math.radians(lat)))
    return round(min(max(lon, -179.9), 179.9), DIGITS), round(min(max(chance.gauss(lat, degrees), -84.0), 84.0), DIGITS)


def _viewport(centre: Position, zoom: float) -> BBox:
    """Return what a screen shows around a place."""
    degrees = 360 / (256 * 2**zoom)
    half_x, half_y = degrees * PIXELS[0] / 2, degrees * PIXELS[1] / 2 * math.cos(math.radians(centre[1]))
    west, east = max(centre[0] - half_x, -180.0), min(centre[0] + half_x, 180.0)
    south, north = max(centre[1] - half_y, -90.0), min(centre[1] + half_y, 90.0)
    return round(west, DIGITS), round(south, DIGITS), round(east, DIGITS), round(north, DIGITS)


def _scaled(bbox: BBox, scale: float) -> BBox:
    lon, lat = (bbox[0] + bbox[2]) / 2, (bbox[1] + bbox[3]) / 2
    half_x, half_y = (bbox[2] - bbox[0]) / 2 * scale, (bbox[3] - bbox[1]) / 2 * scale
    return round(lon - half_x, DIGITS), round(lat - half_y, DIGITS), round(lon + half_x, DIGITS), round(lat + half_y, DIGITS)
