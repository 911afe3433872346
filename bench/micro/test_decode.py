"""From the bytes that a publisher sent to updates."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.crowd import Crowd
from bench.engine_city import START_S
from bench.publish import to_line
from realtime.config import Config, LimitsConfig, PublishConfig
from realtime.engine import Engine, Verdict
from realtime.intake import new_intake
from realtime.updates import UpdateParser

COUNT = 1000
POLYGON = {
    "type": "Feature",
    "id": "zone-1",
    "kind": "zone",
    "geometry": {"type": "Polygon", "coordinates": [[[x % 20 * 0.01, x // 20 * 0.01] for x in range(100)] + [[0, 0]]]},
    "properties": {"name": "a zone", "level": 3},
}
PATCH = {"op": "patch", "id": "bus-1", "version": 9, "properties": {"speed": 12.5, "route": None}}


def lines(what: str) -> list[bytes]:
    """Return updates as lines of NDJSON."""
    crowd = Crowd(1, 1, COUNT)
    if what == "move":
        return [to_line(move) for move in crowd.moves(COUNT)]
    if what == "feature":
        return [msgspec.json.encode(feature) for feature in crowd.features()]
    return [msgspec.json.encode(POLYGON if what == "polygon" else PATCH)] * (COUNT // 10)


@pytest.mark.parametrize("what", ["move", "feature", "patch", "polygon"])
def test_decode(benchmark: Any, what: str) -> None:
    """Decode lines one by one into updates, as the reference engine is fed."""
    found = lines(what)
    decode, parse = msgspec.json.decode, UpdateParser(LimitsConfig(), PublishConfig()).parse
    updates = benchmark(lambda: [parse(decode(line)) for line in found])
    benchmark.extra_info["per"] = len(updates)


@pytest.mark.parametrize("form", ["objects", "lines"])
@pytest.mark.parametrize("what", ["move", "feature"])
def test_take_in(benchmark: Any, engine: Engine, kind: str, what: str, form: str) -> None:
    """Take in changes that nobody sees, decoding included: what every change costs before anybody looks."""
    crowd = Crowd(1, 1, COUNT)
    intake = new_intake(engine, kind, Config())
    intake.take(iter(list(crowd.features())), [], START_S)
    verdicts: list[Any] = []

    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        verdicts.clear()
        moves = crowd.moves(COUNT)
        objects = crowd.objects(moves) if what == "move" else list(crowd.features())
        items = objects if form == "objects" else [msgspec.Raw(msgspec.json.encode(item)) for item in objects]
        return (iter(items), verdicts, START_S), {}

    benchmark.pedantic(intake.take, setup=setup, rounds=30, warmup_rounds=3)
    assert verdicts == [Verdict.ACCEPTED] * COUNT
    benchmark.extra_info["per"] = COUNT
