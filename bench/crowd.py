"""The dense city as an engine sees it: entities with rights, sessions with rights, filters and encodings, and moves.

Law: a pure function of seed and sizes, as `bench.workloads` is; what a perfect engine would do with it is computed here
by brute force from the views, the rights and the filters, without asking any engine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from bench.workloads import CELL_DEGREES, BBox, City, Move, entity_id, inside
from realtime.config import LimitsConfig, PublishConfig
from realtime.engine import Encoding, Engine, Op, Update, View
from realtime.engine.filters import Filter, parse_filter
from realtime.geo import point, view_boxes
from realtime.updates import UpdateParser

GROUP = "group:a"
GROUP_SHARE = 0.2  # of the entities are for the group alone; half of the sessions are in it
KINDS = ("bus", "tram", "bike")
KIND_WEIGHTS = (7, 2, 1)
ZOOM = 14.0

# Ten filters of the sort that a map's legend makes; they let through three quarters of the entities on average.
FILTERS: tuple[Any, ...] = (
    ["==", ["kind"], "bus"],
    ["in", ["get", "route"], ["literal", [f"r{route}" for route in range(30)]]],
    [">=", ["get", "speed"], 3],
    ["any", ["==", ["kind"], "tram"], [">", ["get", "speed"], 5]],
    ["all", ["!=", ["get", "destination"], "Terminal 7"], ["<", ["get", "speed"], 14]],
    ["!", ["==", ["get", "route"], "r5"]],
    ["has", "speed"],
    ["all", ["==", ["kind"], "bus"], ["in", ["get", "route"], ["literal", [f"r{route}" for route in range(20)]]]],
    ["any", ["==", ["get", "speed"], 0], ["!=", ["kind"], "bike"]],
    ["all", ["has", "route"], ["<=", ["get", "speed"], 12]],
)


class Seat(NamedTuple):
    """One session: what it looks at, what it may see, how it is written to."""

    bbox: BBox
    filter: int  # place in FILTERS
    is_member: bool
    encoding: Encoding


class Pairs(NamedTuple):
    """(change, session) pairs per change, on average."""

    judged: float  # the view shows the old or the new place: rights and filter have to be asked
    matched: float  # and rights and filter let the change through: it has to be told


class Crowd:
    """Entities, sessions and moves. `moves()` goes on for ever and keeps the places up to date."""

    def __init__(self, seed: int, sessions: int, entities: int) -> None:
        self.seed = seed
        self.city = City(seed, sessions, entities)
        chance = random.Random(f"{seed} crowd")
        self.kinds = chance.choices(KINDS, KIND_WEIGHTS, k=entities)
        self.is_for_group = [chance.random() < GROUP_SHARE for _ in range(entities)]
        self.seats = [
            Seat(bbox, place // 4 % len(FILTERS), place // 2 % 2 == 0, Encoding(place % 2)) for place, bbox in enumerate(self.city.views)
        ]
        self.filters: list[Filter] = [parse_filter(filter, None, LimitsConfig()) for filter in FILTERS]
        self.ids = [entity_id(entity) for entity in range(entities)]
        self._moves = self.city.moves()
        self._passes: list[bytes] = []

    def features(self) -> Iterator[dict[str, Any]]:
        """Yield the entities as a publisher would send them, as they are now."""
        for entity, feature in enumerate(self.city.features()):
            access = [GROUP] if self.is_for_group[entity] else ["public"]
            yield feature | {"kind": self.kinds[entity], "access": access}

    def upserts(self) -> Iterator[Update]:
        """Yield them decoded."""
        parse = UpdateParser(LimitsConfig(), PublishConfig()).parse
        return map(parse, self.features())

    def open(self, engine: Engine, seat: Seat, now: float) -> int:
        """Open a session and let it look; return its number."""
        session = engine.open([GROUP] if seat.is_member else [], None, seat.encoding)
        engine.look(session, View(view_boxes(seat.bbox), ZOOM, self.filters[seat.filter]), None, now)
        return session

    def moves(self, count: int) -> list[Move]:
        """Return the next moves."""
        return list(islice(self._moves, count))

    def updates(self, moves: Sequence[Move]) -> list[Update]:
        """Return moves as updates."""
        ids = self.ids
        return [Update(Op.MOVE, ids[move.entity], move.version, point(move.lon, move.lat)) for move in moves]

    def objects(self, moves: Sequence[Move]) -> list[dict[str, Any]]:
        """Return moves as a program publishes them."""
        ids = self.ids
        return [{"op": "move", "id": ids[move.entity], "version": move.version, "lon": move.lon, "lat": move.lat} for move in moves]

    def lines(self, moves: Sequence[Move]) -> list[bytes]:
        """Return moves as lines of NDJSON."""
        return [msgspec.json.encode(object) + b"\n" for object in self.objects(moves)]

    # What is right

    def passes(self, filter: int, entity: int) -> bool:
        """Tell whether an entity passes a filter; moves do not change that."""
        if not self._passes:
            features = list(self.features())
            getters = [feature["properties"].get for feature in features]
            entities = list(zip(self.ids, self.kinds, getters, strict=True))
            self._passes = [bytes(one.passes(*entity) for entity in entities) for one in self.filters]
        return self._passes[filter][entity] == 1

    def shows(self, seat: Seat, entity: int) -> bool:
        """Tell whether rights and filter of a session let an entity through, wherever it is."""
        return (seat.is_member or not self.is_for_group[entity]) and self.passes(seat.filter, entity)

    def seen(self, seat: Seat) -> dict[str, tuple[int, float, float]]:
        """Return what a session must hold once all is quiet: {id: (version, lon, lat)}, by brute force over all entities."""
        city = self.city
        return {
            self.ids[entity]: (city.versions[entity], lon, lat)
            for entity, (lon, lat) in enumerate(city.positions)
            if inside(seat.bbox, lon, lat) and self.shows(seat, entity)
        }

    def pairs(self, moves: Sequence[Move], before: Sequence[tuple[float, float]]) -> Pairs:
        """Return how many sessions a change is judged for and told to, for moves that began at the places `before`."""
        cells: dict[tuple[int, int], list[Seat]] = {}
        for seat in self.seats:
            west, south, east, north = (math.floor(degrees / CELL_DEGREES) for degrees in seat.bbox)
            for x in range(west, east + 1):
                for y in range(south, north + 1):
                    cells.setdefault((x, y), []).append(seat)
        judged = matched = 0
        for move, old in zip(moves, before, strict=True):
            new = (move.lon, move.lat)
            near = [cells.get((math.floor(lon / CELL_DEGREES), math.floor(lat / CELL_DEGREES)), ()) for lon, lat in (old, new)]
            both = near[0] if near[0] is near[1] else {id(seat): seat for seats in near for seat in seats}.values()
            for seat in both:
                if inside(seat.bbox, *old) or inside(seat.bbox, *new):
                    judged += 1
                    matched += self.shows(seat, move.entity)
        return Pairs(judged / len(moves), matched / len(moves))


class Parsed(msgspec.Struct):
    """A delta frame, as far as it takes to count what is in it."""

    enter: list[msgspec.Raw] = []
    move: list[msgspec.Raw] = []
    patch: list[msgspec.Raw] = []
    leave: dict[str, list[str]] = {}

    @property
    def deltas(self) -> int:
        """Entities that it tells of."""
        return len(self.enter) + len(self.move) + len(self.patch) + sum(map(len, self.leave.values()))


_PARSERS = {Encoding.JSON: msgspec.json.Decoder(Parsed).decode, Encoding.MSGPACK: msgspec.msgpack.Decoder(Parsed).decode}


def count_deltas(frame: bytes, encoding: Encoding) -> int:
    """Return how many entities a frame tells of, by parsing it."""
    return _PARSERS[encoding](frame).deltas
