"""The fast way in equals the parser: whatever it takes, `UpdateParser` takes as exactly the same update; and it takes what is usual."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from itertools import islice
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.workloads import City, entity_id
from realtime._native import Ingest
from realtime._native import Lines as NativeLines
from realtime.config import LimitsConfig, PublishConfig
from realtime.demo.world import Aircraft, town_feature, towns
from realtime.engine import Op, Update
from realtime.errors import Refused
from realtime.gateway.body import Lines
from realtime.updates import UpdateParser
from realtime.values import VERSION_MAX, canonical

LIMITS = LimitsConfig()
SMALL = msgspec.structs.replace(LIMITS, entity_bytes=60, entity_properties=3)
ACCESS = ("user:zoë", "group:ops", "public")


class Pair:
    """The parser and the fast way in, with the same limits."""

    def __init__(self, limits: LimitsConfig) -> None:
        publish = msgspec.structs.replace(PublishConfig(), default_access=ACCESS)
        self.parser = UpdateParser(limits, publish)
        self.ingest = Ingest(limits.entity_bytes, limits.entity_properties, ACCESS)

    def check_json(self, text: bytes) -> bool:
        """Assert that what the fast way takes is right; return whether it takes it."""
        found = self.ingest.decode_json(text)
        if found is not None:
            assert exact(found) == exact(self.parser.parse(msgspec.json.decode(text)))
        return found is not None

    def check_object(self, value: Any) -> bool:
        """Likewise, for a decoded object; one that the parser takes survives being carried over, however it came."""
        found = self.ingest.decode_object(value)
        try:
            expected = self.parser.parse(value)
        except Refused:
            assert found is None
            return False
        assert found is None or exact(found) == exact(expected)
        assert exact(self.ingest.decode_update(expected)) == exact(expected)
        return found is not None


def exact(update: Update) -> tuple[str, ...]:
    """What of an update can be told apart, -0.0 and 0.0, 1 and 1.0 too."""
    members = [sorted(member) if isinstance(member, frozenset) else member for member in update]
    return tuple(repr(dict(member) if isinstance(member, dict) else member) for member in members)


PAIR, SMALL_PAIR = Pair(LIMITS), Pair(SMALL)


# What is usual


def _city() -> list[dict[str, Any]]:
    city = City(1, 1, 300)
    features = list(city.features())
    moves = [
        {"op": "move", "id": entity_id(move.entity), "version": move.version, "lon": move.lon, "lat": move.lat}
        for move in islice(city.moves(), 300)
    ]
    return features + moves


def _demo() -> list[dict[str, Any]]:
    places = towns()
    aircraft = Aircraft(places, 50, Random(1))
    return [town_feature(town) for town in places[:2000]] + aircraft.reports(1000.0, 10.0) + aircraft.reports(1001.0, 10.0)


def _reports() -> list[dict[str, Any]]:
    random = Random(1)
    updates: list[dict[str, Any]] = []
    for number in range(300):
        id, lon, lat = f"véhicule {number}", random.uniform(-180, 180), random.uniform(-90, 90)
        updates.append({"op": "move", "id": id, "lon": lon, "lat": lat})
        updates.append({"op": "patch", "id": id, "properties": {"speed": random.uniform(0.1, 30), "on": number % 2 == 0, "off": None}})
        updates.append({"op": "delete", "id": id, "version": number + 1})
        properties = {"stops": ["a", "b", number], "at": {"line": 4, "share": 0.25, "stop": 'Zürich "HB"'}, "note": "a\nb\\"}
        feature = {"type": "Feature", "id": id, "geometry": {"type": "Point", "coordinates": [lon, lat, 412.5]}, "properties": properties}
        updates.append(
            feature | {"ttl": 60, "rank": 0.1, "min_zoom": 3, "kind": "tram", "access": ["group:ops", "user:ann"], "bbox": [1, 2, 3.5, 4]}
        )
    return updates


@pytest.mark.parametrize("updates", [_city, _demo, _reports])
def test_what_is_usual_goes_the_fast_way(updates: Any) -> None:
    for update in updates():
        assert PAIR.check_object(update), update
        for text in (msgspec.json.encode(update), json.dumps(update).encode(), json.dumps(update, ensure_ascii=False).encode() + b"\r"):
            assert PAIR.check_json(text), text
    mixed = [update for update in updates() if update.get("kind") != "town"]
    assert len(mixed) >= 100


def test_numbers_are_written_as_the_parser_writes_them() -> None:
    random = Random(7)
    kinds = [
        lambda: random.uniform(-180, 180),
        lambda: round(random.uniform(-180, 180), random.randrange(9)),
        lambda: random.gauss(0, 1) * 10.0 ** random.randrange(-7, 17),
        lambda: random.randrange(1, 10**15) / 10 ** random.randrange(20),
        lambda: random.randrange(10**17, 10**18) / 10 ** random.randrange(20),
        lambda: math.nextafter(round(random.uniform(-90, 90), 5), math.inf),
        lambda: random.randrange(-(2**64), 2**65),
        lambda: float(random.randrange(-(2**64), 2**65)),
    ]
    fast = 0
    for turn in range(30_000):
        number = kinds[turn % len(kinds)]()
        update = {"op": "patch", "id": "a", "properties": {"n": number}}
        if -(2**63) <= number < 2**64:
            fast += PAIR.check_object(update) + PAIR.check_json(msgspec.json.encode(update))
            spelled = f"{number:.{random.randrange(1, 25)}f}" if isinstance(number, float) else str(number)
            fast += PAIR.check_json(b'{"op":"patch","id":"a","properties":{"n":%b}}' % spelled.encode())
        else:
            assert not PAIR.check_object(update)
    assert fast > 50_000


# What is not

IDS = st.sampled_from(
    ["bus-7", "é", "a b", "", "x" * 128, "x" * 129, "é" * 64, "é" * 65, "\x7f", "\x80", "\xa0", "\x9f", "a\n", "\ud800", 7, None, True]
)
NUMBERS = st.one_of(
    st.sampled_from(
        [0, -0.0, 0.0, 1.0, 1, -1, 7.0, 180, -180.0, 180.00000000000003, 90, 1e-5, 1e-6, 1e16, 1e15, 2**53, 2**53 + 1, 2**63, 2**64]
    ),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-180, 180),
    st.integers(-(2**65), 2**65),
    st.integers(-200, 200),
    st.decimals(-180, 180, places=6).map(float),
)
TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["", "\x00", "\u2028", "\x7f", '"', "\\", "/", "\x1f", "😀", "\ud83d", "longer than sixteen bytes\n"]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
POSITIONS = st.one_of(
    st.lists(NUMBERS, min_size=2, max_size=3), st.tuples(st.floats(-180, 180), st.floats(-90, 90)), st.lists(VALUES, max_size=4)
)
GEOMETRIES = st.one_of(
    st.fixed_dictionaries({"type": st.just("Point"), "coordinates": POSITIONS}, optional={"bbox": VALUES, "id": VALUES}),
    st.fixed_dictionaries({"type": st.sampled_from(["LineString", "MultiPoint"]), "coordinates": st.lists(POSITIONS, max_size=3)}),
    st.just({"type": "MultiPoint", "coordinates": [[180, 1], [-180, 2]]}),
    VALUES,
)
PRINCIPALS = st.one_of(st.sampled_from(["public", "user:ann", "group:ops", "user:zoë", "user:", "user:a:b", "ann", "user:\x7f"]), VALUES)
UNUSUAL = {
    "op": st.sampled_from([None, "move", "patch", "delete", "upsert", "", 1]),
    "type": st.sampled_from(["Feature", "Point", None, 1]),
    "id": IDS,
    "version": st.one_of(st.none(), NUMBERS, st.sampled_from([1, VERSION_MAX, VERSION_MAX + 1, 0, True, "1"])),
    "geometry": GEOMETRIES,
    "properties": st.one_of(st.none(), st.dictionaries(TEXTS, VALUES, max_size=5), VALUES),
    "kind": IDS,
    "min_zoom": st.one_of(st.sampled_from([0, 64, 64.5, -0.0, 3.25]), VALUES),
    "rank": st.one_of(st.sampled_from([0, 1, 0.5, -0.0, 1.5]), VALUES),
    "access": st.one_of(st.none(), st.lists(PRINCIPALS, max_size=5), st.just(["public"] * 64), st.just(["public"] * 65), VALUES),
    "ttl": st.one_of(st.sampled_from([0, 60, 0.5, 316224000, 316224001]), VALUES),
    "lon": NUMBERS,
    "lat": NUMBERS,
    "bbox": VALUES,
    "x": VALUES,
}
GOOD: dict[str, Any] = {"id": "bus-7", "lon": 1.5, "lat": 2, "type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}


@st.composite
def updates(draw: st.DrawFn) -> dict[str, Any]:
    """A good update of any kind of which a few members are replaced by whatever there is, in any order."""
    update: dict[str, Any] = dict(GOOD)
    op = draw(st.sampled_from([None, None, "move", "patch", "delete"]))
    if op is not None:
        update["op"] = op
    for name in draw(st.lists(st.sampled_from(sorted(UNUSUAL)), max_size=4, unique=True)):
        update[name] = draw(UNUSUAL[name])
    for name in draw(st.lists(st.sampled_from(sorted(update)), max_size=1)):
        del update[name]
    return {name: update[name] for name in draw(st.permutations(list(update)))}


@given(updates())
def test_a_taken_object_is_what_the_parser_makes_of_it(update: dict[str, Any]) -> None:
    for pair in (PAIR, SMALL_PAIR):
        pair.check_object(update)


def _spelled(update: dict[str, Any], style: int) -> bytes:
    spaces = (",", ":") if style % 2 else (" ,\t", "\n: ")
    text = json.dumps(update, ensure_ascii=style % 4 < 2, separators=spaces)
    return text.encode(errors="surrogatepass")


@given(updates(), st.integers(0, 3))
def test_a_taken_text_is_what_the_parser_makes_of_it(update: dict[str, Any], style: int) -> None:
    for pair in (PAIR, SMALL_PAIR):
        pair.check_json(_spelled(update, style))


BYTES = rb"""" \ , : { } [ ] - + . 0 e5 E-7 1e400 null nul NaN Infinity // ,, 00 00000000000000000000 99999999999999999999
\ud800 \u0069 \u00e ,"id":"b" "i\u0064" ,"op":null ,"x":1e5 "Feature" "version":7.0, "version":1e3, "a" """.split()
PIECES = st.sampled_from(
    [*BYTES, b"[" * 40, b"", b" ", b"\x0b", b"\x00", b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xef\xbb\xbf", b"\x7f", b"\x1f"]
)


@given(updates(), st.integers(0, 3), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), PIECES), min_size=1, max_size=3))
def test_a_damaged_text_is_taken_only_where_the_parser_takes_it(
    update: dict[str, Any], style: int, cuts: list[tuple[float, int, bytes]]
) -> None:
    text = _spelled(update, style)
    for share, length, piece in cuts:
        at = int(share * len(text))
        text = text[:at] + piece + text[at + length :]
    PAIR.check_json(text)


@given(st.text("0123456789.-+eE", max_size=30), st.sampled_from([b"{}", b" {} ", b"[{}]"]))
def test_whatever_looks_like_a_number(spelled: str, form: bytes) -> None:
    PAIR.check_json(b'{"op":"patch","id":"a","properties":{"n":%b}}' % form.replace(b"{}", spelled.encode()))
    PAIR.check_json(b'{"op":"move","id":"a","lon":1,"lat":%b}' % spelled.encode())
    PAIR.check_json(b'{"op":"delete","id":"a","version":%b}' % spelled.encode())


def test_only_exact_types_go_the_fast_way() -> None:
    class Text(str):
        pass

    class Whole(int):
        pass

    move = {"op": "move", "id": "a", "lon": 1, "lat": 2}
    assert PAIR.check_object(move)
    others: list[Any] = [
        OrderedDict(move),
        move | {"id": Text("a")},
        move | {"lon": Whole(1)},
        move | {"lat": True},
        {Text("op"): "delete", "id": "a"},
    ]
    others += [move | {1: 2}, [move], None, "move", 7, move | {"lon": math.nan}, move | {"lat": math.inf}, move | {"lon": 10**30}, {}]
    for other in others:
        assert not PAIR.check_object(other)
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert not PAIR.check_object({"op": "patch", "id": "a", "properties": {"deep": deep}})


def test_every_update_is_carried_over() -> None:
    random = Random(3)
    ring = [[round(random.uniform(-180, 180), 3), round(random.uniform(-90, 90), 3)] for _ in range(4000)]
    for coordinates in ([[ring + ring[:1]]], [[[[170, 1], [180, 1], [180, 2], [170, 1]]], [[[-180, 1], [-170, 1], [-180, 2], [-180, 1]]]]):
        PAIR.check_object({"type": "Feature", "id": "a", "geometry": {"type": "MultiPolygon", "coordinates": coordinates}})
    many = {f"p{number}": None for number in range(5000)}
    update = Update(Op.PATCH, "é", properties=many | {'"': b"1"}, access=frozenset(f"user:{number}" for number in range(500)))
    assert PAIR.ingest.decode_update(update) == update
    for wrong in (("a",), Update(Op.PATCH, "\ud800"), Update(Op.PATCH, "a", -1), Update(Op.PATCH, 7), 7):  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError, OverflowError)):
            PAIR.ingest.decode_update(wrong)
    assert canonical("é") == '"é"'.encode()


# Lines


@given(
    st.sampled_from([b"\n", b"\x1e"]),
    st.integers(0, 9),
    st.lists(st.text("ab \r\n\x1e\x0b\x0c\t\x00", max_size=12).map(str.encode), max_size=8),
)
def test_lines_are_cut_as_the_gateway_cuts_them(separator: bytes, line_bytes_max: int, pieces: list[bytes]) -> None:
    native, plain = NativeLines(separator, line_bytes_max), Lines(separator, line_bytes_max)
    for piece in pieces:
        assert native.feed(piece) == plain.feed(piece)
    assert native.end() == plain.end()
    assert native.end() == []
