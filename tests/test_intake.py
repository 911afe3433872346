"""Both intakes give the same items the same verdicts, in any form, from any source; and one knows when it is over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from realtime._native import Intake as NativeIntake
from realtime._native import Lines as NativeLines
from realtime._native import NativeEngine
from realtime.config import Config, LimitsConfig
from realtime.engine import Engine, Settings, Verdict
from realtime.engine.reference import ReferenceEngine
from realtime.errors import ErrorCode, Refused
from realtime.gateway.body import Lines
from realtime.geo import WORLD
from realtime.intake import Allows, Intake, PlainIntake, new_intake

CONFIG = Config(limits=msgspec.structs.replace(LimitsConfig(), entity_bytes=400, entity_properties=4))
SETTINGS = Settings(100, CONFIG.limits.entity_bytes, CONFIG.limits.entity_properties, 0.05, 3600.0, 1000)
NOW = 1_700_000_000.0
TOO_LONG = Refused(ErrorCode.TOO_BIG, "line: too long")


class Way:
    """One engine and the way into it."""

    def __init__(self, kind: str) -> None:
        self.engine: Engine = NativeEngine(SETTINGS) if kind == "native" else ReferenceEngine(SETTINGS)
        self.intake: Intake = new_intake(self.engine, kind, CONFIG)

    def take(self, items: Any, allows: Allows | None = None, is_over: Callable[[], bool] | None = None) -> list[Any]:
        """Return what became of the items: a refusal as its code and message."""
        verdicts: list[Verdict | Refused] = []
        self.intake.take(iter(items), verdicts, NOW, allows, is_over)
        return [(item.code, item.message) if isinstance(item, Refused) else item for item in verdicts]

    def world(self) -> list[bytes]:
        """Return all there is."""
        return self.engine.search((WORLD,), 24.0, None)


@pytest.fixture(params=["reference", "native"])
def way(request: pytest.FixtureRequest) -> Way:
    return Way(request.param)


def move(id: str, lon: Any = 1.5, **members: Any) -> dict[str, Any]:
    return {"op": "move", "id": id, "lon": lon, "lat": 2} | members


def feature(id: str, lon: Any = 0.25, **members: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": id, "geometry": {"type": "Point", "coordinates": [lon, 2]}, "properties": {"n": lon}} | members


def _some(random: Random, count: int) -> list[Any]:
    """Return updates, good and bad, that the short way takes and that it does not."""
    return [_one(random, random.choice("abcdefgé")) for _ in range(count)]


def _one(random: Random, id: str) -> Any:
    line = {"type": "LineString", "coordinates": [[0, 0], [1.0, 1]]}
    some = {random.choice("npq"): random.choice([None, 1.0, "x\n", [1, {"b": 2, "a": 1}]])}
    return random.choice(
        [
            feature(id, random.randrange(4)),
            feature(id, random.uniform(-180, 180), version=random.randrange(1, 9), access=["user:ann", "public"]),
            feature(id, geometry=line, ttl=5, rank=0.25),
            move(id, random.uniform(-180, 180)),
            move(id, 1e-9),
            move(id, 181),
            move(id, version=random.randrange(12)),
            {"op": "patch", "id": id, "properties": some},
            {"op": "patch", "id": id, "properties": {"x": "y" * random.randrange(300)}, "kind": None},
            {"op": "patch", "id": id, "properties": dict.fromkeys("abcde", 1)},
            {"op": "delete", "id": id},
            {"op": "delete", "id": 7},
            [id],
        ]
    )


@pytest.mark.parametrize("seed", range(5))
def test_every_form_of_an_update_gets_the_same_verdict(seed: int) -> None:
    updates = _some(Random(seed), 400)
    texts = [json.dumps(update).encode() for update in updates]
    stream = b"\r\n".join(texts) + b"\n \n{\n1e999\n" + b"x" * 3000 + b"\nnull"
    allows = {"a", "b", "c", "é", "f"}.__contains__
    for rights in (None, allows):
        objects, raws, plain_lines, lines = ([Way("reference"), Way("native")] for _ in range(4))
        expected = objects[0].take([*updates, TOO_LONG], rights)
        assert objects[1].take([*updates, TOO_LONG], rights) == expected
        for one in raws:
            assert one.take([Raw(text) for text in texts] + [TOO_LONG], rights) == expected
        for cutters, ways in ((Lines, plain_lines), (NativeLines, lines)):
            for one in ways:
                cutter = cutters(b"\n", 2000)
                found = one.take(cutter.cut(stream[:7000], TOO_LONG), rights)
                found += one.take(cutter.cut(stream[7000:], TOO_LONG), rights)
                found += one.take([TOO_LONG if line is None else Raw(line) for line in cutter.end()], rights)
                assert found[: len(updates)] == expected[:-1]
                codes = [code for code, _ in found[len(updates) :]]
                assert codes == [ErrorCode.BAD_UPDATE, ErrorCode.BAD_VALUE, ErrorCode.TOO_BIG, ErrorCode.BAD_UPDATE]
        worlds = [one.world() for one in (*objects, *raws, *plain_lines, *lines)]
        decoded = [[msgspec.json.decode(one) for one in world] for world in worlds]
        assert all(world == decoded[0] for world in decoded) and decoded[0]
        for one in (*objects, *raws, *plain_lines, *lines):
            one.engine.verify()


def test_it_is_asked_often_enough_whether_it_is_over(way: Way) -> None:
    looks: list[int] = []
    verdicts: list[Verdict | Refused] = []

    def is_over() -> bool:
        looks.append(len(verdicts))
        return len(looks) % 3 == 0

    # What the parser must be asked about, however it comes, counts for more.
    slow = [feature(str(n), geometry={"type": "MultiPoint", "coordinates": [[n, 0]]}) for n in range(100)]
    fast = [feature(str(n)) for n in range(100)]
    for items in (fast, slow, [Raw(msgspec.json.encode(one)) for one in slow], [TOO_LONG] * 100, [7] * 100):
        looks.clear()
        verdicts.clear()
        source = iter(items)
        while way.intake.take(source, verdicts, NOW, None, is_over):
            assert len(looks) % 3 == 0
        assert len(verdicts) == 100
        gaps = [after - before for before, after in zip([0, *looks], [*looks, 100], strict=True)]
        assert max(gaps) <= way.intake.look_updates
        if items is slow and isinstance(way.intake, NativeIntake):
            assert max(gaps) == 1


def test_a_source_that_breaks_leaves_the_verdicts_of_what_was_applied(way: Way) -> None:
    def broken() -> Iterator[Any]:
        yield feature("a")
        yield move("nobody")
        raise OSError("the source broke")

    verdicts: list[Verdict | Refused] = []
    with pytest.raises(OSError, match="the source broke"):
        way.intake.take(broken(), verdicts, NOW)
    assert verdicts == [Verdict.ACCEPTED, Verdict.UNKNOWN_ENTITY]
    assert len(way.world()) == 1


def test_what_is_taken_may_be_published_from_within(way: Way) -> None:
    def nested() -> Iterator[Any]:
        for n in range(20):
            way.take([feature(f"inner-{n}"), Raw(b'{"op":"delete","id":"inner-0"}')])
            yield feature(f"outer-{n}", properties={"s": ["x", n]})

    assert way.take(nested()) == [Verdict.ACCEPTED] * 20
    ids = {msgspec.json.decode(one)["id"] for one in way.world()}
    assert ids == {f"{name}-{n}" for name in ("inner", "outer") for n in range(20)} - {"inner-0"}


def test_who_is_asked_about_rights_cannot_publish_meanwhile() -> None:
    native = Way("native")

    def allows(id: str) -> bool:
        native.take([move(id)])
        return True

    with pytest.raises(RuntimeError, match="who may publish"):
        native.take([move("a")], allows)
    assert native.take([feature("a")]) == [Verdict.ACCEPTED]


def test_a_bug_in_what_is_asked_is_nobodys_verdict(way: Way) -> None:
    def allows(id: str) -> bool:
        raise ZeroDivisionError(id)

    with pytest.raises(ZeroDivisionError):
        way.take([feature("a")], allows)
    assert way.world() == []


def test_without_a_native_engine_the_plain_intake_is_used() -> None:
    assert isinstance(Way("reference").intake, PlainIntake)
    assert isinstance(Way("native").intake, NativeIntake)
