"""What an entity costs in resident memory, beside its own JSON: run in a process of its own.

    python -m bench.engine_memory ENGINE ENTITIES MOVES SEED

Law: a fresh process that holds one engine and nothing else of size; what is made to feed it is made in small batches
and let go. Before the first reading the allocator gives back what it keeps for later, so that the entities cannot hide
in it; before the others it does not, for what it keeps is resident, too. An entity's own JSON is the Feature as the
engine answers it, to the byte.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.engine_city import START_S
from bench.engines import SETTINGS, make
from bench.servers import ROOT
from realtime.config import LimitsConfig, PublishConfig
from realtime.engine import Engine, Op, Update, Verdict
from realtime.geo import point
from realtime.updates import UpdateParser

BATCH = 2000
PATIENCE_S = 1800.0
SPREAD_DEGREES = 2.0
STEP_DEGREES = 0.0003  # some 30 m
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Footprint(Struct, frozen=True):
    """What was found; bytes are of all entities together."""

    entities: int
    moves: int  # of each entity, before the second reading
    json_bytes: int
    json_bytes_after: int
    resident_bytes: int  # more than before the entities
    resident_bytes_after: int  # once each of them has moved

    @property
    def beside(self) -> float:
        """Bytes per entity beside its JSON."""
        return (self.resident_bytes - self.json_bytes) / self.entities

    @property
    def beside_after(self) -> float:
        """The same once all have moved."""
        return (self.resident_bytes_after - self.json_bytes_after) / self.entities


def footprint(kind: str, entities: int, moves: int, seed: int) -> Footprint:
    """Measure in a fresh process."""
    command = [sys.executable, "-P", "-m", "bench.engine_memory", kind, str(entities), str(moves), str(seed)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (*sys.path, str(ROOT))))}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=PATIENCE_S)
    return msgspec.json.decode(done.stdout, type=Footprint)


def _give_back() -> None:
    """Let the allocator give back what it keeps for later, where it can (glibc's can)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def _properties(number: int) -> dict[str, str | int]:
    return {"route": f"r{number % 40}", "speed": number % 17, "destination": f"Terminal {number % 90}"}


def _upserts(first: int, count: int, chance: random.Random) -> list[Update]:
    parse = UpdateParser(LimitsConfig(), PublishConfig()).parse
    return [
        parse(
            {
                "type": "Feature",
                "id": f"bus-{number}",
                "version": 1,
                "geometry": {"type": "Point", "coordinates": [_near(chance, -97.74), _near(chance, 30.27)]},
                "properties": _properties(number),
            }
        )
        for number in range(first, first + count)
    ]


def _near(chance: random.Random, degrees: float) -> float:
    return round(chance.gauss(degrees, SPREAD_DEGREES), 6)


def _moves(first: int, count: int, version: int, chance: random.Random) -> list[Update]:
    """Return a move of each entity. Where it was is not kept here: it has a place of its own, and goes a step around it."""
    updates = []
    for number in range(first, first + count):
        angle = chance.uniform(0, 2 * math.pi)
        lon, lat = -99.74 + number % 1000 * 0.004 + STEP_DEGREES * math.sin(angle), 28.27 + number % 997 * 0.004 + version * STEP_DEGREES
        updates.append(Update(Op.MOVE, f"bus-{number}", version, point(round(lon, 6), round(lat, 6))))
    return updates


def _json_bytes(updates: list[Update], first: int) -> int:
    """Return the length of the entities' Features once these updates are applied."""
    frame = len('{"type":"Feature","id":"","version":,"geometry":,"properties":}')
    total = 0
    for number, update in enumerate(updates, first):
        assert update.geometry is not None
        properties = len(msgspec.json.encode(_properties(number)))
        total += frame + len(update.id) + len(str(update.version)) + len(update.geometry.json) + properties
    return total


def _apply(engine: Engine, updates: list[Update], now: float) -> None:
    verdicts = engine.apply(updates, now)
    assert verdicts.count(Verdict.ACCEPTED) == len(updates), "updates were refused"


def _measure(kind: str, entities: int, moves: int, seed: int) -> Footprint:
    chance = random.Random(f"{seed} memory")
    # Everything that is loaded or cached on first use is there before the first reading.
    warm = make(kind, SETTINGS)
    _apply(warm, _upserts(0, BATCH, chance), START_S)
    _apply(warm, _moves(0, BATCH, 2, chance), START_S)
    del warm
    engine = make(kind, SETTINGS)
    _give_back()
    before = _resident_bytes()
    sizes = [0, 0]
    for turn in range(moves + 1):
        size = 0
        for first in range(0, entities, BATCH):
            count = min(BATCH, entities - first)
            updates = _moves(first, count, turn + 1, chance) if turn else _upserts(first, count, chance)
            _apply(engine, updates, START_S + turn)
            size += _json_bytes(updates, first) if turn in (0, moves) else 0
        del updates
        if turn == 0:
            filled = moved = _resident_bytes() - before
            sizes = [size, size]
        elif turn == moves:
            moved = _resident_bytes() - before
            sizes[1] = size
    # Last, as an engine may keep what it made to answer: the lengths above are those of its own Features.
    some = _moves(0, min(entities, BATCH), moves + 2, chance)
    _apply(engine, some, START_S + moves + 1)
    assert _json_bytes(some, 0) == sum(len(engine.get(update.id) or b"") for update in some), "the lengths are wrong"
    return Footprint(entities, moves, sizes[0], sizes[1], filled, moved)


if __name__ == "__main__":
    _kind, _entities, _turns, _seed = sys.argv[1], *map(int, sys.argv[2:])
    print(msgspec.json.encode(_measure(_kind, _entities, _turns, _seed)).decode())
