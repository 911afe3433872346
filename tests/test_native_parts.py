"""The small parts of the native engine against their Python twins: filters, hashes, JSON and msgpack.

Law: what the Python side says is right; the expected answer is never written down here. Hypothesis prints how to repeat
a failure. The native part is not optional here: where it cannot be imported, these tests fail.
"""

from __future__ import annotations

import json
import math
import random
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from realtime import _native
from realtime.config import LimitsConfig
from realtime.engine.digest import digest_of, sample_hash
from realtime.engine.filters import Filter, parse_filter
from realtime.values import canonical

VECTORS = json.loads((Path(__file__).parent / "vectors" / "filters.json").read_text(encoding="utf-8"))
LIMITS = LimitsConfig(filter_bytes=1_000_000, filter_levels=32, filter_nodes=20_000)


def native_passes(key: bytes, entity: dict[str, Any]) -> bool:
    properties = {name: canonical(value) for name, value in entity["properties"].items()}
    return bool(_native.filter_passes(key, entity["id"], entity["kind"], properties))


def check_filter(filter: Filter, entity: dict[str, Any]) -> None:
    expected = filter.passes(entity["id"], entity["kind"], entity["properties"].get)
    assert native_passes(filter.key, entity) is expected, filter.key


@pytest.mark.parametrize("row", VECTORS["cases"], ids=lambda row: json.dumps(row["filter"])[:60])
def test_case(row: dict[str, Any]) -> None:
    filter = parse_filter(row["filter"], row["user"], LIMITS)
    assert native_passes(filter.key, VECTORS["entities"][row["entity"]]) is row["passes"], row["rule"]


def test_every_filter_of_the_table_on_every_entity() -> None:
    for row in VECTORS["cases"]:
        for user in VECTORS["users"]:
            for entity in VECTORS["entities"].values():
                check_filter(parse_filter(row["filter"], user, LIMITS), entity)


# Few names and values, so that comparisons often meet, and those that languages disagree about.
NAMES = st.sampled_from(["a", "b", "", "\u00fc", 'q"\\\n'])
NUMBERS = st.sampled_from(
    [0, -0.0, 1, 1.0, -1, 1.5, 2**53, 2**53 + 1, float(2**53), 2**63, -(2**63), 2**64 - 1, float(2**64), 5e-324, 1e308, 0.1 + 0.2]
)
STRINGS = st.sampled_from(
    [
        *("", "a", "A", "ab", "1", "10", "9", "true", "null", "kind", "\u00fc", "u\u0308", "\ue000", "\uffff", "\U0001f600"),
        *("a\0", "a\0b", 'a"', "a\\", "a\n", "a\x1f", "a!", "a#", "a]", "a[", "a\x7f", "eight by", "sixteen letters.", "seventeen letters"),
    ]
)
SINGLES = st.sampled_from([None, True, False])
TEXTS = st.one_of(STRINGS, st.text(max_size=3), st.text('\0\n"\\ab\u00fc', max_size=20))
REALS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.one_of(SINGLES, NUMBERS, TEXTS, st.integers(-(2**63), 2**64 - 1), REALS)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(NAMES, SCALARS, max_size=2))
ENTITIES = st.fixed_dictionaries(
    {
        "id": TEXTS.filter(bool),
        # The native engine has no kind of no letters, as no update can set one.
        "kind": st.one_of(st.none(), TEXTS.filter(bool)),
        "properties": st.dictionaries(NAMES, VALUES.filter(lambda value: value is not None)),
    }
)
LITERALS = st.one_of(SCALARS, VALUES.map(lambda value: ["literal", value]))
LEAVES = st.one_of(
    NAMES.map(lambda name: ["get", name]),
    NAMES.map(lambda name: ["get", name]),
    NAMES.map(lambda name: ["has", name]),
    st.sampled_from([["kind"], ["id"], ["user"]]),
)
ORDERS = st.sampled_from(["<", "<=", ">", ">="])


def _grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    any_operand = st.one_of(inner, LITERALS)
    two = st.one_of(st.tuples(inner, inner), st.tuples(inner, any_operand), st.tuples(any_operand, inner))
    members = st.one_of(st.lists(VALUES, max_size=4), st.lists(SCALARS, min_size=9, max_size=30))
    return st.one_of(
        st.builds(lambda operator, operands: [operator, *operands], st.sampled_from(["all", "any"]), st.lists(any_operand, max_size=3)),
        any_operand.map(lambda operand: ["!", operand]),
        st.builds(lambda operator, pair: [operator, *pair], st.sampled_from(["==", "!="]), two),
        st.builds(lambda operator, pair: [operator, *pair], ORDERS, two),
        st.builds(lambda needle, members: ["in", needle, ["literal", members]], any_operand, members),
    )


EXPRESSIONS = st.one_of(st.recursive(LEAVES, _grown, max_leaves=12), LITERALS)


@settings(max_examples=1000, deadline=None)
@given(EXPRESSIONS, st.one_of(st.none(), STRINGS), st.lists(ENTITIES, min_size=1, max_size=4))
def test_random_filters(expression: Any, user: str | None, entities: list[dict[str, Any]]) -> None:
    filter = parse_filter(expression, user, LIMITS)
    for entity in entities:
        check_filter(filter, entity)


A, B = ["get", "a"], ["get", "b"]
PAIRS: list[tuple[Any, Any]] = [(A, B), (A, A), (A, ["id"]), (["kind"], B), (["id"], ["id"]), (["has", "a"], B), (B, ["has", "a"])]


@settings(max_examples=300, deadline=None)
@given(ORDERS, st.tuples(SCALARS, SCALARS), TEXTS.filter(bool))
def test_two_properties_are_compared(order: str, pair: tuple[Any, Any], id: str) -> None:
    entity = {"id": id, "kind": None, "properties": {name: value for name, value in zip("ab", pair, strict=True) if value is not None}}
    for operator in (order, "==", "!="):
        for left, right in PAIRS:
            check_filter(parse_filter([operator, left, right], None, LIMITS), entity)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 40])
def test_strings_differ_in_whichever_character(length: int) -> None:
    text = "x" * length
    entity = {"id": text, "kind": text, "properties": {"a": text}}
    for source in (["id"], ["kind"], A):
        for place in range(length):
            other = text[:place] + "y" + text[place + 1 :]
            for members in ([other], [other, "a"], [other, *map(str, range(20))]):
                assert not native_passes(parse_filter(["in", source, ["literal", members]], None, LIMITS).key, entity)
                assert native_passes(parse_filter(["in", source, ["literal", [*members, text]]], None, LIMITS).key, entity)


@pytest.mark.parametrize("count", [2, 8, 9, 100, 400])
@pytest.mark.parametrize("where", ["property", "id", "kind"])
def test_each_member_of_a_list_is_found_and_no_other(count: int, where: str) -> None:
    members = [f"bus-{n}" for n in range(count)] + [n * 0.5 for n in range(count)]
    source = ["get", "x"] if where == "property" else [where]
    filter = parse_filter(["in", source, ["literal", members]], None, LIMITS)
    for n in range(count + 10):
        text = f"bus-{n}"
        entity: dict[str, Any] = {"id": text, "kind": text, "properties": {"x": text}}
        assert native_passes(filter.key, entity) is (n < count)
        entity = {"id": "0", "kind": None, "properties": {"x": n * 0.5}}
        assert native_passes(filter.key, entity) is (n < count and where == "property")
        entity["properties"]["x"] += 0.25
        assert not native_passes(filter.key, entity)


def test_levels_and_nodes_up_to_the_limits_of_a_filter() -> None:
    deep: Any = ["get", "a"]
    for n in range(30):
        deep = ["==", ["has", "b"], deep] if n % 2 else ["==", deep, ["!", ["has", "b"]]]
    wide = ["all", *(["any", ["!=", ["get", "a"], n], ["has", "b"]] for n in range(2000))]
    for properties in ({}, {"a": True}, {"a": 7}, {"b": 1}, {"a": True, "b": 1}):
        for expression in (deep, wide):
            check_filter(parse_filter(expression, None, LIMITS), {"id": "x", "kind": None, "properties": properties})


@pytest.mark.parametrize(
    "key",
    [
        *(
            b"",
            b"[",
            b"[]",
            b"nul",
            b'["get"]',
            b'["get",1]',
            b'["==",1]',
            b'["frob"]',
            b'["in",1,["a"]',
            b'["in",1,"a"]',
            b'["in",1,[[]]]',
        ),
        *(
            b"true ",
            b" true",
            b"01",
            b"1e999",
            b'"a',
            b'"\\x"',
            b'"\\ud800"',
            b'["!",' * 65 + b"true" + b"]" * 65,
            b'["kind","a"]',
            b"\xff",
        ),
    ],
)
def test_what_is_no_key_is_refused(key: bytes) -> None:
    with pytest.raises(ValueError, match="filter key"):
        _native.filter_passes(key, "a", None, {})


JSON_VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(TEXTS, inner, max_size=5)), max_leaves=40
)


def check_transcoding(data: bytes) -> None:
    packed = _native.transcode(data)
    value = msgspec.json.decode(data)
    again = msgspec.msgpack.decode(packed)
    # As Python has 1 == 1.0 == True, the types are compared through their JSON; -0.0 and 0.0 differ there too.
    assert msgspec.json.encode(again) == msgspec.json.encode(value)
    assert packed == msgspec.msgpack.encode(value), "the smallest forms are chosen"


@settings(max_examples=500, deadline=None)
@given(JSON_VALUES)
def test_random_values_become_msgpack(value: Any) -> None:
    check_transcoding(canonical(value))
    check_transcoding(msgspec.json.encode(value))


@settings(max_examples=200, deadline=None)
@given(JSON_VALUES)
def test_json_that_another_wrote_becomes_msgpack(value: Any) -> None:
    check_transcoding(json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode())


@pytest.mark.parametrize("count", [0, 1, 15, 16, 31, 32, 255, 256, 257, 65535, 65536])
def test_lengths_at_which_msgpack_changes(count: int) -> None:
    check_transcoding(canonical("x" * count))
    check_transcoding(canonical("\n" + "\u00fc" * (count // 2) + "x" * (count % 2)))
    check_transcoding(canonical([0] * count))
    check_transcoding(canonical([[1.5] * count, "after"]))
    check_transcoding(canonical({f"{n:05}": [] for n in range(count)}))


def test_integers_at_which_msgpack_changes() -> None:
    edges = [0, 31, 32, 33, 127, 128, 129, 255, 256, 32767, 32768, 65535, 65536, 2**31, 2**32 - 1, 2**32, 2**53, 2**63, 2**64 - 1]
    for edge in edges:
        for value in (edge - 1, edge, edge + 1, -edge - 1, -edge, -edge + 1):
            if -(2**63) <= value < 2**64:
                check_transcoding(str(value).encode())
                assert _native.number_of(str(value).encode()) == float(value)


def test_values_nest_as_deep_as_they_may() -> None:
    check_transcoding(b"[" * 64 + b"]" * 64)
    with pytest.raises(ValueError, match="malformed"):
        _native.transcode(b"[" * 65 + b"]" * 65)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[", b"]", b"[1,]", b"[1 ]", b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,}', b"{1:2}", b'{"a",1}', b"nul", b"truest"),
        *(
            b"01",
            b"1.",
            b".5",
            b"1e",
            b"1e+",
            b"-",
            b"+1",
            b"1e999",
            b'"',
            b'"\\',
            b'"\\"',
            b'"\\x"',
            b'"\\u12"',
            b'"\\ud800"',
            b'"\\udc00"',
        ),
        *(b'"\n"', b"1 2", b"[1}", b'{"a":1]', b"NaN"),
    ],
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="malformed"):
        _native.transcode(data)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(), TEXTS))
def test_strings_are_written_as_msgspec_writes_them(text: str) -> None:
    assert _native.json_string(text) == msgspec.json.encode(text)


def test_every_character_below_u_3000_in_every_place_of_a_block() -> None:
    for first in range(0, 0x3000, 64):
        text = "".join(map(chr, range(first, first + 64)))
        for shift in range(17):
            assert _native.json_string("x" * shift + text) == msgspec.json.encode("x" * shift + text)


@settings(max_examples=1000, deadline=None)
@given(st.floats())
@example(math.nan)
@example(-math.inf)
@example(99999999.9999999)
@example(0.001)
@example(2.0**53)
def test_doubles_are_written_as_msgspec_writes_them(value: float) -> None:
    assert _native.json_double(value) == msgspec.json.encode(value)


def some_doubles(seed: int, count: int) -> list[float]:
    """Doubles of all sizes, of the sizes of coordinates, with few decimals, whole ones, and their neighbours."""
    chance = random.Random(seed)
    found: list[float] = []
    for _ in range(count):
        found.append(struct.unpack("<d", chance.randbytes(8))[0])
        found.append(chance.uniform(-180, 180))
        found.append(round(chance.uniform(-180, 180), chance.randrange(12)))
        found.append(chance.choice([1, -1]) * chance.randrange(10**17) / 10 ** chance.randrange(20))
        found.append(float(chance.randrange(10 ** chance.randrange(1, 25))))
        found.append(math.nextafter(found[-chance.randrange(1, 4)], math.inf))
    return [value for value in found if math.isfinite(value)]


@pytest.mark.parametrize("seed", range(3))
def test_many_doubles_there_and_back(seed: int) -> None:
    for value in some_doubles(seed, 5000):
        text = msgspec.json.encode(value)
        assert _native.json_double(value) == text, seed
        assert _native.transcode(text) == b"\xcb" + struct.pack(">d", value), seed
        assert _native.number_of(canonical(value)) == value, seed
        spelled = f"{value:.25e}".encode()
        assert _native.number_of(spelled) == float(spelled), seed


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**64 - 1), st.floats(), st.text(max_size=300), st.integers(0, 70_000))
def test_pieces_of_msgpack(integer: int, real: float, text: str, count: int) -> None:
    assert _native.json_uint(integer) == msgspec.json.encode(integer)
    packed_integer, packed_real, packed_text, array_head, map_head = _native.msgpack_pieces(integer, real, text, count)
    assert packed_integer == msgspec.msgpack.encode(integer)
    assert packed_real == msgspec.msgpack.encode(real)
    assert packed_text == msgspec.msgpack.encode(text)
    assert msgspec.msgpack.encode([None] * count) == array_head + b"\xc0" * count
    assert map_head == msgspec.msgpack.encode(dict.fromkeys(range(count)))[: len(map_head)]


@settings(max_examples=300, deadline=None)
@given(st.text(min_size=1, max_size=40), st.integers(0, 2**64 - 1))
def test_hashes(id: str, version: int) -> None:
    assert _native.hashes(id, version) == (digest_of(id, version), sample_hash(id))
