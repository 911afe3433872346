"""What is published and who looks at it: a city of moving things and of viewers, the same for the same seed.

Law: a workload is a pure function of its seed and its sizes, so that two processes, or a run and its check afterwards,
have the same one without telling each other. Viewers, entities and moves draw from streams of their own: more viewers
do not change the entities. Every move goes further than 10 metres, and an entity moves again only after all others.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

CENTRE = (-97.74, 30.27)  # degrees; Austin
SPREAD_DEGREES = 0.1  # standard deviation of viewers and of entities around the centre
HALF_WIDTH_DEGREES = (0.02, 0.06)  # of a view, uniformly
MOVE_METRES = (12.0, 60.0)  # the lower end leaves room for rounding
RADIUS_METRES = (12.0, 40.0)  # of a round trip; a side of a square is longer by the root of 2
METRES_PER_DEGREE = 111_320.0
DIGITS = 6  # of a published coordinate; 0.1 m
CELL_DEGREES = 0.01

BBox = tuple[float, float, float, float]  # west, south, east, north
Position = tuple[float, float]  # lon, lat


class Move(NamedTuple):
    """One change: an entity's next version and place."""

    entity: int
    version: int
    lon: float
    lat: float


def entity_id(entity: int) -> str:
    """Return the id under which an entity is published."""
    return f"bus-{entity}"


class City:
    """Entities and viewers around one centre; `moves()` goes on for ever and keeps `positions` and `versions` up to date."""

    def __init__(self, seed: int, viewers: int, entities: int) -> None:
        self.seed = seed
        place = random.Random(f"{seed} entities")
        self.positions: list[Position] = [_around(place) for _ in range(entities)]
        self.versions = list(range(1, entities + 1))  # of the entities; one counter for all
        looks = random.Random(f"{seed} views")
        self.views: list[BBox] = [_view(looks) for _ in range(viewers)]

    def by_shown(self) -> list[int]:
        """Return the places of the views in `views`, those that show most entities first."""
        shown = [sum(inside(view, lon, lat) for lon, lat in self.positions) for view in self.views]
        return sorted(range(len(shown)), key=lambda place: -shown[place])

    def features(self) -> Iterator[dict[str, Any]]:
        """Yield the entities as updates, as they are now."""
        for entity, (lon, lat) in enumerate(self.positions):
            yield {
                "type": "Feature",
                "id": entity_id(entity),
                "version": self.versions[entity],
                "kind": "bus",
                "geometry": {"type": "Point", "coordinates": [lon, lat]},
                "properties": {"route": f"r{entity % 40}", "speed": entity % 17, "destination": f"Terminal {entity % 90}"},
            }

    def moves(self) -> Iterator[Move]:
        """Yield one move after the other: all entities in a random order, then all in another one."""
        chance = random.Random(f"{self.seed} moves")
        order = list(range(len(self.positions)))
        version = len(order)
        stretch = 1 / math.cos(math.radians(CENTRE[1]))
        while True:
            chance.shuffle(order)
            for entity in order:
                lon, lat = self.positions[entity]
                metres, angle = chance.uniform(*MOVE_METRES), chance.uniform(0.0, 2 * math.pi)
                degrees = metres / METRES_PER_DEGREE
                lon = round(lon + degrees * stretch * math.sin(angle), DIGITS)
                lat = round(lat + degrees * math.cos(angle), DIGITS)
                version += 1
                self.positions[entity] = (lon, lat)
                self.versions[entity] = version
                yield Move(entity, version, lon, lat)


class Rounds:
    """Moves that repeat: in each round all entities move once, in an order of its own, and `ROUNDS` later come by again.

    So a publisher prepares them all before the first is due, at any rate and for any time: the n-th move is known by n
    alone. Each entity goes round a polygon of its own about its home, whose sides are longer than 10 metres.
    """

    ROUNDS = 4

    def __init__(self, seed: int, homes: list[Position]) -> None:
        chance = random.Random(f"{seed} rounds")
        self.entities = len(homes)
        self._homes = homes
        self.places: list[list[Position]] = [[] for _ in range(self.ROUNDS)]  # by round and entity
        self.orders: list[list[int]] = []
        for lon, lat in homes:
            radius = chance.uniform(*RADIUS_METRES) / METRES_PER_DEGREE
            angle, stretch = chance.uniform(0.0, 2 * math.pi), 1 / math.cos(math.radians(lat))
            for places in self.places:
                angle += 2 * math.pi / self.ROUNDS
                places.append((round(lon + radius * stretch * math.sin(angle), DIGITS), round(lat + radius * math.cos(angle), DIGITS)))
        for _ in range(self.ROUNDS):
            order = list(range(self.entities))
            chance.shuffle(order)
            self.orders.append(order)

    def moves(self) -> Iterator[Move]:
        """Yield the moves of all rounds in turn, with the versions that they have the first time."""
        version = self.entities
        for order, places in zip(self.orders, self.places, strict=True):
            for entity in order:
                version += 1
                yield Move(entity, version, *places[entity])

    def after(self, moves: int) -> tuple[list[int], list[Position]]:
        """Return all entities' versions and places after so many moves: entities have 1 to n at first, moves one each from there."""
        versions, positions = list(range(1, self.entities + 1)), list(self._homes)
        whole, part = divmod(moves, self.entities)
        for number in range(max(0, whole - 1), whole + 1):  # nothing before the last whole round is left
            order, places = self.orders[number % self.ROUNDS], self.places[number % self.ROUNDS]
            for place, entity in enumerate(order if number < whole else order[:part]):
                versions[entity] = self.entities * (number + 1) + 1 + place
                positions[entity] = places[entity]
        return versions, positions


def _around(chance: random.Random) -> Position:
    return round(chance.gauss(CENTRE[0], SPREAD_DEGREES), DIGITS), round(chance.gauss(CENTRE[1], SPREAD_DEGREES), DIGITS)


def _view(chance: random.Random) -> BBox:
    (lon, lat), half = _around(chance), chance.uniform(*HALF_WIDTH_DEGREES)
    return round(lon - half, DIGITS), round(lat - half, DIGITS), round(lon + half, DIGITS), round(lat + half, DIGITS)


def inside(bbox: BBox, lon: float, lat: float) -> bool:
    """Tell whether a view shows a place; its edges belong to it."""
    return bbox[0] <= lon <= bbox[2] and bbox[1] <= lat <= bbox[3]


def count_pairs(city: City, views: list[BBox], first: int, count: int) -> int:
    """Return how many (change, viewer) pairs a perfect server tells of, for `count` moves of a fresh `city` from the `first` on.

    A pair counts where the view shows the old or the new place.
    """
    cells: dict[tuple[int, int], list[BBox]] = {}
    for view in views:
        west, south, east, north = (math.floor(degrees / CELL_DEGREES) for degrees in view)
        for x in range(west, east + 1):
            for y in range(south, north + 1):
                cells.setdefault((x, y), []).append(view)
    moves = city.moves()
    for _ in range(first):
        next(moves)
    pairs = 0
    old = list(city.positions)
    for _ in range(count):
        move = next(moves)
        seen: set[BBox] = set()
        for lon, lat in (old[move.entity], (move.lon, move.lat)):
            near = cells.get((math.floor(lon / CELL_DEGREES), math.floor(lat / CELL_DEGREES)), ())
            seen.update(view for view in near if inside(view, lon, lat))
        pairs += len(seen)
        old[move.entity] = (move.lon, move.lat)
    return pairs
