"""What publishers send becomes an update or is refused, by name and limit, and never fails in another way."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.config import LimitsConfig, PublishConfig
from realtime.engine import Op, Update
from realtime.errors import ConfigError, ErrorCode, Refused
from realtime.geo import point
from realtime.updates import ACCESS_PRINCIPALS_MAX, MIN_ZOOM_DEFAULT, MIN_ZOOM_MAX, RANK_DEFAULT, TTL_MAX_S, UpdateParser
from realtime.values import VERSION_MAX

PARSER = UpdateParser(LimitsConfig(), PublishConfig())
AT = {"type": "Point", "coordinates": [1, 2]}


def feature(**members: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": "bus-7", "geometry": AT, "properties": {}} | members


def patch(**members: Any) -> dict[str, Any]:
    return {"op": "patch", "id": "bus-7"} | members


def parser(**limits: int) -> UpdateParser:
    return UpdateParser(msgspec.structs.replace(LimitsConfig(), **limits), PublishConfig())


def refusal(update: Any, by: UpdateParser = PARSER) -> tuple[ErrorCode, str]:
    with pytest.raises(Refused) as caught:
        by.parse(update)
    caught.value.message.encode()
    assert "\n" not in caught.value.message
    return caught.value.code, caught.value.message


# What comes out


def test_a_feature_names_everything() -> None:
    assert PARSER.parse({"type": "Feature", "id": "bus-7", "geometry": AT, "properties": None}) == Update(
        Op.UPSERT, "bus-7", 0, point(1, 2), {}, "", MIN_ZOOM_DEFAULT, RANK_DEFAULT, frozenset(["public"]), 0.0
    )
    members = {"version": 9, "kind": "bus", "min_zoom": 3, "rank": 0, "access": ["user:ann", "group:ops"], "ttl": 60, "other": object()}
    assert PARSER.parse(feature(properties={"a": 1.0, "b": None, "c": [None]}, **members)) == Update(
        Op.UPSERT, "bus-7", 9, point(1, 2), {"a": b"1", "c": b"[null]"}, "bus", 3.0, 0.0, frozenset(["user:ann", "group:ops"]), 60.0
    )


def test_a_patch_names_what_it_names() -> None:
    assert PARSER.parse(patch()) == Update(Op.PATCH, "bus-7")
    assert PARSER.parse(patch(properties={"a": None, "b": 2})) == Update(Op.PATCH, "bus-7", properties={"a": None, "b": b"2"})
    assert PARSER.parse(patch(geometry=AT)) == Update(Op.PATCH, "bus-7", geometry=point(1, 2))
    nulls = dict.fromkeys(["kind", "min_zoom", "rank", "access", "ttl"])
    assert PARSER.parse(patch(**nulls)) == Update(
        Op.PATCH, "bus-7", 0, None, None, "", MIN_ZOOM_DEFAULT, RANK_DEFAULT, frozenset(["public"]), 0.0
    )
    for member, value, name in (("kind", "x", "kind"), ("min_zoom", 2, "min_zoom"), ("rank", 1, "rank"), ("ttl", 0.5, "ttl")):
        assert PARSER.parse(patch(**{member: value})) == Update(Op.PATCH, "bus-7")._replace(**{name: value})
    assert PARSER.parse(patch(access=[])).access == frozenset()


def test_a_move_and_a_delete() -> None:
    assert PARSER.parse({"op": "move", "id": "a", "lon": 180, "lat": -90, "version": 1.0}) == Update(Op.MOVE, "a", 1, point(180, -90))
    assert PARSER.parse({"op": "delete", "id": "a", "version": None}) == Update(Op.DELETE, "a")


def test_without_min_zoom_an_entity_is_in_every_view() -> None:
    assert PARSER.parse(feature()).min_zoom == MIN_ZOOM_DEFAULT <= -64


def test_any_mapping_is_an_object_in_process() -> None:
    view: Mapping[str, Any] = MappingProxyType(feature(properties=MappingProxyType({"a": 1})))
    assert PARSER.parse(view).properties == {"a": b"1"}


# What is refused: code, and a message that opens with the field

NO_OBJECT = (None, [], "x", 7)
NO_OP = ("upsert", "", 1, ["patch"], {}, False)
NO_ID = (None, 7, "", "a\n", "x" * 129, "\ud800", ["a"])
NO_VERSION = (0, -1, 1.5, VERSION_MAX + 1, True, "1", [], 10**400, math.nan)
NO_GEOMETRY = (None, 7, {}, [], {"type": "Point"})
NO_VALUE = (math.nan, math.inf, 2**64, "\ud800", b"x", {1: 2})
NO_KIND = (7, "", "x" * 129, "\n", "\ud800", [])
NO_ZOOM = (-0.1, 64.1, "3", True, math.nan, math.inf, 10**400, [])
NO_RANK = (-0.1, 1.1, "0", True, math.nan)
NO_TTL = (0, -1, "1", True, math.nan, math.inf, 10**400, TTL_MAX_S * 2)
NO_ACCESS = ("public", {}, 7, [7], ["Public"], ["user"], ["user:"], ["group:\n"], ["user:" + "x" * 129], [["public"]], ["\ud800"])
NO_PLACE = ({}, {"lon": 1}, {"lon": "1", "lat": 2}, {"lon": 181, "lat": 0})

REFUSED: list[tuple[Any, ErrorCode, str]] = [
    *((value, ErrorCode.BAD_UPDATE, "update: an object is expected") for value in NO_OBJECT),
    ({}, ErrorCode.BAD_UPDATE, "update: a Feature"),
    ({"type": "FeatureCollection", "features": []}, ErrorCode.BAD_UPDATE, "update: a Feature"),
    ({"type": ["Feature"], "id": "a"}, ErrorCode.BAD_UPDATE, "update: a Feature"),
    *((patch(op=op), ErrorCode.BAD_UPDATE, "op: patch, move or delete") for op in NO_OP),
    *(({"op": "move", "id": "a", **at}, ErrorCode.BAD_GEOMETRY, "geometry: ") for at in NO_PLACE),
    (patch(properties={"\ud800": None}), ErrorCode.BAD_VALUE, "properties: "),
    *(
        refused
        for shape in (feature, patch)
        for refused in (
            *((shape(id=id), ErrorCode.BAD_ID, "id: ") for id in NO_ID),
            *((shape(version=version), ErrorCode.BAD_VERSION, "version: an integer from 1 to ") for version in NO_VERSION),
            *((shape(geometry=geometry), ErrorCode.BAD_GEOMETRY, "geometry: ") for geometry in NO_GEOMETRY),
            *((shape(properties=value), ErrorCode.BAD_UPDATE, "properties: an object") for value in (7, "x", [], True)),
            *((shape(properties={"a": value}), ErrorCode.BAD_VALUE, "properties: ") for value in NO_VALUE),
            *((shape(properties={key: 1}), ErrorCode.BAD_VALUE, "properties: ") for key in (1, None, "\ud800")),
            *((shape(kind=kind), ErrorCode.BAD_UPDATE, "kind: ") for kind in NO_KIND),
            *((shape(min_zoom=zoom), ErrorCode.BAD_UPDATE, "min_zoom: a number from 0 to 64 ") for zoom in NO_ZOOM),
            *((shape(rank=rank), ErrorCode.BAD_UPDATE, "rank: a number from 0 to 1 ") for rank in NO_RANK),
            *((shape(ttl=ttl), ErrorCode.BAD_UPDATE, "ttl: ") for ttl in NO_TTL),
            *((shape(access=access), ErrorCode.BAD_UPDATE, "access: ") for access in NO_ACCESS),
        )
    ),
]


def name_of(value: object) -> str:
    """Return how a case is called: plain ASCII, and short."""
    return repr(value)[:60].encode("ascii", "backslashreplace").decode()


@pytest.mark.parametrize(("update", "code", "start"), REFUSED, ids=name_of)
def test_what_is_wrong_is_named(update: Any, code: ErrorCode, start: str) -> None:
    found, message = refusal(update)
    assert found is code
    assert message.startswith(start)


# Limits, at both edges


@pytest.mark.parametrize(
    ("member", "edges", "beyond"),
    [
        ("version", [1, VERSION_MAX], [0, VERSION_MAX + 1]),
        ("min_zoom", [0, MIN_ZOOM_MAX], [-5e-324, math.nextafter(MIN_ZOOM_MAX, 65)]),
        ("rank", [0, 1], [-5e-324, math.nextafter(1, 2)]),
        ("ttl", [5e-324, TTL_MAX_S], [0, math.nextafter(TTL_MAX_S, math.inf)]),
        ("kind", ["k", "k" * 128], ["", "k" * 129]),
        ("access", [[], [f"user:{n}" for n in range(ACCESS_PRINCIPALS_MAX)]], [[f"user:{n}" for n in range(ACCESS_PRINCIPALS_MAX + 1)]]),
    ],
)
def test_the_edges_of_members(member: str, edges: list[Any], beyond: list[Any]) -> None:
    for shape in (feature, patch):
        for value in edges:
            assert PARSER.parse(shape(**{member: value}))
        for value in beyond:
            assert refusal(shape(**{member: value}))[1].startswith(f"{member}: ")


@pytest.mark.parametrize("shape", [feature, patch])
def test_the_count_of_properties(shape: Callable[..., dict[str, Any]]) -> None:
    full = {f"p{n}": n for n in range(64)}
    assert len(PARSER.parse(shape(properties=full)).properties or ()) == 64
    assert refusal(shape(properties=full | {"one": 1})) == (ErrorCode.TOO_BIG, "properties: at most 64 are allowed")
    absent = full | {f"gone{n}": None for n in range(200)}  # a property that is null is absent
    assert PARSER.parse(shape(properties=absent)).properties is not None


@pytest.mark.parametrize("shape", [feature, patch])
def test_the_bytes_of_properties(shape: Callable[..., dict[str, Any]]) -> None:
    too_big = (ErrorCode.TOO_BIG, "properties: at most 16384 bytes are allowed")
    assert PARSER.parse(shape(properties={"a": "x" * (16_384 - 5)}))
    assert refusal(shape(properties={"a": "x" * (16_384 - 4)})) == too_big
    assert refusal(shape(properties={"a": [[1]] * 100_000})) == too_big
    # Names count as what they are on the wire, not in characters.
    assert refusal(shape(properties={"\x01" * 200 + str(n): 1 for n in range(20)})) == too_big
    assert refusal(shape(properties={"\U0001f600" * 100 + str(n): 1 for n in range(50)})) == too_big


@pytest.mark.parametrize("shape", [feature, patch])
def test_the_positions_of_a_geometry(shape: Callable[..., dict[str, Any]]) -> None:
    five = {"type": "MultiPoint", "coordinates": [[0, 0]] * 5}
    assert parser(entity_positions=5).parse(shape(geometry=five)).geometry
    assert refusal(shape(geometry=five), parser(entity_positions=4)) == (ErrorCode.TOO_BIG, "geometry: at most 4 positions are allowed")
    size = len(b"[[0,0],[0,0],[0,0],[0,0],[0,0]]")
    assert parser(entity_bytes=size).parse(shape(geometry=five)).geometry
    assert refusal(shape(geometry=five), parser(entity_bytes=size - 1))[0] is ErrorCode.TOO_BIG


# Defaults of the configuration


def test_who_names_no_access_gets_the_default_one() -> None:
    by = UpdateParser(LimitsConfig(), PublishConfig(default_access=["group:staff"]))
    assert by.parse(feature()).access == by.parse(patch(access=None)).access == frozenset(["group:staff"])
    assert by.parse(patch()).access is None
    assert by.parse(feature(access=["public"])).access == frozenset(["public"])


def test_a_default_that_is_no_principal_is_the_operators_fault() -> None:
    with pytest.raises(ConfigError, match=r"^publish\.default_access: "):
        UpdateParser(LimitsConfig(), PublishConfig(default_access=["staff"]))


# Any JSON value gives an update or `Refused`

json = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=4),
        st.sampled_from(["Feature", "patch", "move", "delete", "Point", "Polygon", "public", "user:a", 10**400, -(10**4000), "\ud800"]),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)
members = ["type", "op", "id", "version", "geometry", "properties", "kind", "min_zoom", "rank", "access", "ttl", "lon", "lat"]
likely: dict[str, Any] = {
    "type": st.just("Feature") | json,
    "op": st.sampled_from(["patch", "move", "delete", None]) | json,
    "id": st.just("a") | json,
    "geometry": st.just(AT)
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["Point", "MultiPoint", "LineString", "Polygon", "MultiLineString", "MultiPolygon"]), "coordinates": json}
    ),
}
updates = st.fixed_dictionaries(
    {"id": st.just("a") | json}, optional={member: likely.get(member, json) for member in members if member != "id"}
)


@given(updates | json)
def test_any_json_value_is_an_update_or_refused(value: Any) -> None:
    try:
        update = PARSER.parse(value)
    except Refused as refused:
        refused.message.encode()
    else:
        assert isinstance(update, Update)
        assert all(json is None or msgspec.json.decode(json) is not None for json in (update.properties or {}).values())


# Time


def seconds(update: Any) -> float:
    """Return the best time of a few, of the processor: what else runs on the machine only adds."""
    gc.disable()
    try:
        best = math.inf
        for _ in range(7):
            start = time.thread_time()
            with suppress(Refused):
                PARSER.parse(update)
            best = min(best, time.thread_time() - start)
        return best
    finally:
        gc.enable()


SHAPES: dict[str, Callable[[int], Any]] = {
    "array": lambda n: feature(properties={"a": [0.5] * n}),
    "arrays": lambda n: feature(properties={"a": [[1]] * n}),
    "object": lambda n: feature(properties={"a": {str(i): i for i in range(n)}}),
    "string": lambda n: feature(properties={"a": "é" * n * 20}),
    "line": lambda n: feature(geometry={"type": "LineString", "coordinates": [[0.5, 0.25]] * n}),
    "rings": lambda n: feature(geometry={"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]] * (n // 4)}),
    "parts": lambda n: feature(geometry={"type": "MultiPoint", "coordinates": [[-180, 0], [180, 0]] * (n // 2)}),
    "nulls": lambda n: patch(properties=dict.fromkeys(map(str, range(n)))),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_decoding_takes_time_in_proportion_to_size(shape: str) -> None:
    """Sixteen times as much takes about sixteen times as long; were it quadratic, it would take 256 times."""
    much, little = SHAPES[shape](1_600), SHAPES[shape](100)
    assert any(seconds(much) <= 100 * seconds(little) for _ in range(5))


def test_what_is_far_over_the_limit_takes_no_longer_than_what_is_within() -> None:
    within, beyond = feature(properties={"a": [0.5] * 4_000}), feature(properties={"a": [0.5] * 400_000})
    assert any(seconds(beyond) <= 3 * seconds(within) for _ in range(5))


# JSON


def json_refusal(json: bytes) -> ErrorCode:
    with pytest.raises(Refused) as caught:
        PARSER.parse_json(json)
    return caught.value.code


def test_a_text_is_decoded_and_parsed() -> None:
    assert PARSER.parse_json(b' {"op":"delete","id":"a"} \r') == Update(Op.DELETE, "a")
    assert PARSER.parse_json(msgspec.Raw(b'{"op":"delete","id":"a"}')) == Update(Op.DELETE, "a")
    for text in (b"", b"{", b"\xff", b"1 2", b"NaN", b'"\\ud800"', b"[" * 49_000 + b"]" * 49_000, b"[1]"):
        assert json_refusal(text) is ErrorCode.BAD_UPDATE
    assert json_refusal(b"1e999") is ErrorCode.BAD_VALUE
    assert json_refusal(b'{"op":"delete","id":1}') is ErrorCode.BAD_ID
