"""What a change costs as the number of viewports grows, while the number of viewers at its place stays the same.

Law: the two worlds have the same hot places, the same entities and moves, and as many viewers that see them; they
differ in how many others look elsewhere. Those crowd around towns of very unequal size, in among the hot places, at the
zooms at which people look. Time is the processor's. What is compared is alternated, window by window, in one process.
"""

from __future__ import annotations

import gc
import math
import random
from bisect import bisect
from collections.abc import Iterator
from itertools import accumulate
from time import thread_time
from typing import NamedTuple

from bench.engine_city import START_S, STEP_S
from bench.engines import FLUSH_INTERVAL_S, FRAME_BYTES, make
from bench.workloads import DIGITS, METRES_PER_DEGREE, BBox
from realtime.engine import Encoding, Op, Update, Verdict, View
from realtime.geo import point, view_boxes

PLACES = 64
VIEWERS_AT_PLACE = 50
ENTITIES_AT_PLACE = 50
PLACE_DEGREES = 0.01  # entities stay within so much of their place, which all its viewers see
MOVE_METRES = (12.0, 60.0)
TOWNS = 5000
TOWN_SPREAD_DEGREES = 0.08
ZOOMS = (11, 16)
PIXELS = (1920, 1080)


class Cost(NamedTuple):
    """One window."""

    apply_us: float  # a change
    all_us: float  # with the frames
    candidates: float  # sessions found in the index, a change


def hot_places(seed: int) -> list[tuple[float, float]]:
    """Return the places where things move: some of the towns, so that they lie among everybody else's."""
    return towns(seed)[:: TOWNS // PLACES][:PLACES]


def towns(seed: int) -> list[tuple[float, float]]:
    """Return the towns, the largest first."""
    chance = random.Random(f"{seed} towns")
    return [(chance.uniform(-179, 179), chance.uniform(-60, 70)) for _ in range(TOWNS)]


def others(seed: int) -> Iterator[BBox]:
    """Yield viewports without end that see none of the hot places."""
    chance = random.Random(f"{seed} viewports")
    where = towns(seed)
    heights = list(accumulate(1 / (rank + 10) for rank in range(TOWNS)))  # the first tenth of the towns holds six tenths of the viewers
    hot: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for lon, lat in hot_places(seed):
        for x in range(-2, 3):
            for y in range(-2, 3):
                hot.setdefault((math.floor(lon) + x, math.floor(lat) + y), []).append((lon, lat))
    while True:
        lon, lat = where[min(bisect(heights, chance.random() * heights[-1]), TOWNS - 1)]
        lon, lat = chance.gauss(lon, TOWN_SPREAD_DEGREES), chance.gauss(lat, TOWN_SPREAD_DEGREES)
        width = 360 / (256 * 2 ** chance.uniform(*ZOOMS))
        half_x, half_y = width * PIXELS[0] / 2, width * PIXELS[1] / 2 * math.cos(math.radians(lat))
        near = hot.get((math.floor(lon), math.floor(lat)), ())
        if all(abs(lon - x) > half_x + PLACE_DEGREES or abs(lat - y) > half_y + PLACE_DEGREES for x, y in near):
            yield (lon - half_x, lat - half_y, lon + half_x, lat + half_y)


class ViewportsRun:
    """An engine with so many viewports, and things that move at the hot places."""

    def __init__(self, kind: str, seed: int, viewports: int, rate: float) -> None:
        self.engine = make(kind)
        self.now = START_S
        self._rate = rate
        self._chance = random.Random(f"{seed} hot moves")
        self._places = hot_places(seed)
        hot = len(self._places) * VIEWERS_AT_PLACE
        assert viewports >= hot, f"at least {hot} viewports are at the hot places"
        self.open_us = self._open(seed, viewports - hot)
        self._where: list[tuple[float, float]] = []
        self._versions = 0
        entities = [(place, number) for number in range(ENTITIES_AT_PLACE) for place in range(len(self._places))]
        self._ids = [f"{place}-{number}" for place, number in entities]
        self._homes = [self._places[place] for place, _ in entities]
        self._where = list(self._homes)
        access, properties = frozenset({"public"}), {"speed": b"9"}
        self.engine.apply(
            [
                Update(Op.UPSERT, id, 1, point(*home), properties, "", -64.0, 0.5, access, 0.0)
                for id, home in zip(self._ids, self._homes, strict=True)
            ],
            self.now,
        )
        self._versions = 1
        self._settle()

    def _open(self, seed: int, cold: int) -> float:
        """Open the sessions, those at the hot places in among the others; return microseconds per session."""
        chance = random.Random(f"{seed} order")
        hot = [place for place in self._places for _ in range(VIEWERS_AT_PLACE)]
        chance.shuffle(hot)
        positions = sorted(chance.sample(range(cold + len(hot)), len(hot)))
        elsewhere, engine = others(seed), self.engine
        due = iter([*positions, -1])
        following, place, seconds = next(due), iter(hot), 0.0
        for number in range(cold + len(hot)):
            if number == following:
                following = next(due)
                (lon, lat), half = next(place), chance.uniform(0.02, 0.06)
                bbox = (lon - half, lat - half, lon + half, lat + half)
            else:
                bbox = next(elsewhere)
            begun = thread_time()
            self.now += FLUSH_INTERVAL_S / 5000  # the hot ones' flushes are spread over the interval
            session = engine.open((), None, Encoding.JSON)
            engine.look(session, View(view_boxes(bbox)), None, self.now)
            for dirty in engine.take_dirty(self.now):
                engine.drain(dirty, FRAME_BYTES, self.now)
            seconds += thread_time() - begun
        return seconds / (cold + len(hot)) * 1e6

    def _settle(self) -> None:
        while (due := self.engine.next_due()) is not None:
            self.now = max(self.now, due)
            for session in self.engine.take_dirty(self.now):
                self.engine.drain(session, FRAME_BYTES, self.now)

    def window(self, changes: int) -> Cost:
        """Move entities and drain whoever is due."""
        batches = self._updates(changes)
        step_s = len(batches[0]) / self._rate
        engine, now, apply_s, drain_s = self.engine, self.now, 0.0, 0.0
        pairs = engine.statistics()["pairs"]
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            for batch in batches:
                now += step_s
                begun = thread_time()
                verdicts = engine.apply(batch, now)
                applied = thread_time()
                for session in engine.take_dirty(now):
                    engine.drain(session, FRAME_BYTES, now)
                drained = thread_time()
                apply_s, drain_s = apply_s + applied - begun, drain_s + drained - applied
                assert verdicts.count(Verdict.ACCEPTED) == len(batch), "changes were refused"
        finally:
            gc.enable()
            gc.unfreeze()
        self.now = now
        pairs = engine.statistics()["pairs"] - pairs
        return Cost(apply_s / changes * 1e6, (apply_s + drain_s) / changes * 1e6, pairs / changes)

    def _updates(self, changes: int) -> list[list[Update]]:
        """Return moves of entities drawn at random, each by more than ten metres and within reach of its place."""
        chance, updates = self._chance, []
        for _ in range(changes):
            entity = chance.randrange(len(self._ids))
            (x, y), (lon, lat) = self._homes[entity], self._where[entity]
            metres, angle = chance.uniform(*MOVE_METRES), chance.uniform(0.0, 2 * math.pi)
            if max(abs(lon - x), abs(lat - y)) > PLACE_DEGREES / 2:  # back towards the place
                angle = math.atan2(x - lon, y - lat)
            degrees = metres / METRES_PER_DEGREE
            stretch = 1 / math.cos(math.radians(lat))
            where = round(lon + degrees * stretch * math.sin(angle), DIGITS), round(lat + degrees * math.cos(angle), DIGITS)
            self._where[entity] = where
            self._versions += 1
            updates.append(Update(Op.MOVE, self._ids[entity], self._versions, point(*where)))
        size = max(1, round(self._rate * STEP_S))
        return [updates[first : first + size] for first in range(0, changes, size)]
