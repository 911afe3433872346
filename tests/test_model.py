"""The oracle is right: its values, its world and its views, by examples made by hand. What judges frames is in test_model_viewer.py.

The law: no expected value here is computed by the model.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.model import (
    ModelLimits,
    View,
    Violation,
    World,
    brute_force,
    check_sample,
    sampling_key,
    sees_without_sample,
)
from tests.model_values import digest, evaluate, fmix32, fnv1a_32, geometry_boxes, json_equal

NOW = 1_700_000_000.0  # 122,163,200 s after the start of 2020
CLOCK = 122_163_200_000 * 4096
ORACLE = ("model.py", "model_values.py", "model_frames.py", "model_viewer.py", "model_nodes.py")


def bus(entity_id: str = "bus", lon: float = 0.0, lat: float = 0.0, **members: Any) -> dict[str, Any]:
    """A Feature as published: a Point."""
    return {"type": "Feature", "id": entity_id, "geometry": {"type": "Point", "coordinates": [lon, lat]}, "properties": {}, **members}


def shown(world: World, principals: tuple[str, ...] = (), user: str | None = None, **view: Any) -> set[str]:
    """The ids that a view of the whole world, unless told otherwise, shows."""
    return set(brute_force(world, View.from_message({"bbox": [-180, -90, 180, 90], **view}), principals, user))


@pytest.mark.parametrize("name", ORACLE)
def test_the_oracle_imports_nothing_of_the_package(name: str) -> None:
    tree = ast.parse((Path(__file__).parent / name).read_text())
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module or "")
        elif isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("__import__", "exec", "eval", "importlib.import_module"), ast.unparse(node)
    siblings = {f"tests.{other.removesuffix('.py')}" for other in ORACLE}
    foreign = {module for module in imported if module.split(".")[0] not in sys.stdlib_module_names and module not in siblings}
    assert "importlib" not in imported
    assert foreign <= {"msgspec"}


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1, 1.0, True),
        (0, -0.0, True),
        (True, 1, False),
        (False, 0, False),
        (None, False, False),
        (None, None, True),
        ("1", 1, False),
        ({"a": 1, "b": [2]}, {"b": [2.0], "a": 1.0}, True),
        ({"a": None}, {}, False),
        ([1, 2], [2, 1], False),
        ([1, 2], [1, 2, 3], False),
        ([True], [1], False),
        ({}, [], False),
    ],
)
def test_values_are_equal_as_json_values(a: Any, b: Any, equal: bool) -> None:
    assert json_equal(a, b) is equal
    assert json_equal(b, a) is equal


def test_hashes_are_the_published_ones() -> None:
    assert [fnv1a_32(data) for data in (b"", b"a", b"foobar")] == [0x811C9DC5, 0xE40C292C, 0xBF9CF968]
    assert [fmix32(value) for value in (0, 1)] == [0, 0x514E28B7]
    assert digest([]) == "00000000"
    assert digest([("a", 1), ("b", 2)]) == digest([("b", 2), ("a", 1)]) != digest([("a", 2), ("b", 1)])


@pytest.mark.parametrize(
    ("geometry_type", "coordinates", "boxes"),
    [
        ("Point", [10, 20, 300], [(10, 20, 10, 20)]),
        ("LineString", [[170, 0], [-170, 5]], [(-170, 0, 170, 5)]),
        ("LineString", [[180, 0], [-180, 5]], [(-180, 0, 180, 5)]),
        ("Polygon", [[[0, 0], [9, 0], [9, 8], [0, 0]], [[1, 1], [2, 1], [2, 2], [1, 1]]], [(0, 0, 9, 8)]),
        ("MultiPoint", [[180, 1], [-180, 2]], [(180, 1, 180, 1), (-180, 2, -180, 2)]),
        ("MultiPoint", [[179, 1], [-180, 2]], [(-180, 1, 179, 2)]),
        ("MultiLineString", [[[170, 0], [180, 1]], [[-180, 1], [-160, 2]], [[0, 9], [0, 9]]], [(0, 0, 180, 9), (-180, 1, -160, 2)]),
        ("MultiLineString", [[[-180, 0], [180, 1]], [[-180, 5], [-160, 6]]], [(-180, 0, 180, 6)]),
        (
            "MultiPolygon",
            [[[[170, 0], [180, 0], [180, 5], [170, 0]]], [[[-180, 0], [-175, 0], [-175, 4], [-180, 0]]]],
            [(170, 0, 180, 5), (-180, 0, -175, 4)],
        ),
    ],
)
def test_geometries_have_one_box_or_two(geometry_type: str, coordinates: Any, boxes: list[Any]) -> None:
    assert list(geometry_boxes({"type": geometry_type, "coordinates": coordinates})) == boxes


@pytest.mark.parametrize(
    ("bbox", "seen"),
    [
        ([-10, -10, 10, 10], {"0"}),
        ([0, 0, 0, 0], {"0"}),  # a corner is enough
        ([0.5, 0, 10, 10], set()),
        ([90, 0, 180, 0], {"90", "180", "-180"}),  # 180 and -180 are one meridian
        ([-180, 0, -91, 0], {"180", "-180"}),
        ([170, 0, 190, 0], {"180", "-180"}),
        ([170, 0, 270, 0], {"180", "-180", "-90"}),
        ([-270, 0, -180, 0], {"90", "180", "-180"}),
        ([530, 0, 550, 0], {"180", "-180"}),
        ([350, 0, 450, 0], {"0", "90"}),
        ([-400, 0, -41, 0], {"0", "90", "180", "-180", "-90"}),
        ([-45, 0, 269, 0], {"0", "90", "180", "-180"}),
        ([-45, 0, 270, 0], {"0", "90", "180", "-180", "-90"}),
        ([1000, 0, 1360, 0], {"0", "90", "180", "-180", "-90"}),
        ([-1e6, 5, 1e6, 90], set()),
    ],
)
def test_views_wrap(bbox: list[float], seen: set[str]) -> None:
    world = World()
    for lon in (0, 90, 180, -180, -90):
        world.apply(bus(str(lon), lon), NOW)
    assert shown(world, bbox=bbox) == seen


def test_a_wrapped_view_touches_the_very_double_that_was_published() -> None:
    world = World()
    world.apply(bus("edge", -170.1), NOW)
    assert shown(world, bbox=[-200, 0, -170.1, 0]) == {"edge"}
    assert shown(world, bbox=[-200, 0, -170.10000000000002, 0]) == set()


def test_an_entity_on_both_sides_of_the_meridian_is_not_in_between() -> None:
    world = World()
    world.apply(
        {**bus("ferry"), "geometry": {"type": "MultiLineString", "coordinates": [[[178, 0], [180, 0]], [[-180, 0], [-179, 0]]]}}, NOW
    )
    assert shown(world, bbox=[-10, -10, 10, 10]) == set()
    assert shown(world, bbox=[177, -1, 178, 1]) == shown(world, bbox=[181, -1, 182, 1]) == {"ferry"}


def test_ids_stand_in_for_the_box_alone() -> None:
    world = World()
    world.apply(bus("far", 100, min_zoom=5), NOW)
    world.apply(bus("secret", 0, access=["group:staff"]), NOW)
    view: dict[str, Any] = {"bbox": None, "ids": ["far", "secret", "nobody"]}
    assert shown(world, bbox=None) == set()
    assert shown(world, **view) == {"far"}
    assert shown(world, **view, zoom=4.9) == set()
    assert shown(world, **view, zoom=5) == {"far"}
    assert shown(world, ("group:staff",), **view, filter=["==", ["id"], "secret"]) == {"secret"}


SUBJECT = bus("bus-7", kind="bus", properties={"n": 5, "s": "b", "t": True, "list": [1], "gone": None, "deep": {"x": None}})


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (True, True),
        (["kind"], "bus"),
        (["id"], "bus-7"),
        (["user"], "anna"),
        (["get", "n"], 5),
        (["get", "kind"], None),
        (["get", "missing"], None),
        (["has", "n"], True),
        (["has", "gone"], False),
        (["==", ["get", "gone"], None], True),
        (["==", ["get", "n"], 5.0], True),
        (["==", ["get", "n"], "5"], False),
        (["!=", ["get", "n"], "5"], True),
        (["==", ["get", "t"], 1], False),
        (["==", ["get", "t"], True], True),
        (["==", ["get", "list"], ["literal", [1]]], False),
        (["!=", ["get", "list"], ["get", "list"]], True),
        (["==", ["get", "deep"], ["get", "deep"]], False),
        (["==", ["literal", 2**53], ["literal", 2**53 + 1]], True),
        (["<", ["get", "n"], 6], True),
        (["<=", ["get", "n"], 5], True),
        ([">", ["get", "s"], "a"], True),
        ([">", "\U0001f600", "￿"], True),  # by code point, not by UTF-16 unit
        ([">=", ["get", "s"], 1], False),
        (["<", ["get", "missing"], 1], False),
        (["<", ["get", "t"], 2], False),
        (["in", ["get", "n"], ["literal", [1, 5]]], True),
        (["in", ["get", "t"], ["literal", [1]]], False),
        (["in", ["get", "missing"], ["literal", [None]]], True),
        (["in", ["get", "list"], ["literal", [[1]]]], False),
        (["all"], True),
        (["any"], False),
        (["all", True, ["get", "n"]], False),  # only true is true
        (["any", ["get", "n"], ["get", "t"]], True),
        (["!", ["get", "n"]], True),
        (["!", ["get", "t"]], False),
    ],
)
def test_filters(expression: Any, value: Any) -> None:
    world = World()
    world.apply(SUBJECT, NOW)
    assert json_equal(evaluate(expression, world.entities["bus-7"].state, "anna"), value)
    assert (shown(world, (), "anna", filter=expression) == {"bus-7"}) is (value is True)


def test_versions_assigned_by_a_node() -> None:
    world = World(node_number=7)
    assert world.apply(bus(), NOW) == "accepted"
    assert world.entities["bus"].seen == CLOCK + 7
    world.apply(bus(lon=1), NOW)
    assert world.entities["bus"].seen == CLOCK + 4096 + 7
    world.apply(bus(lon=2), NOW + 1)
    assert world.entities["bus"].seen == CLOCK + 4_096_000 + 7
    world.apply({"op": "delete", "id": "bus"}, NOW - 50)
    assert world.tombstones["bus"].seen == CLOCK + 4_096_000 + 4096 + 7
    world.apply(bus(), NOW - 50)
    assert world.entities["bus"].seen == CLOCK + 4_096_000 + 2 * 4096 + 7
    assert world.apply(bus(version=99), NOW) == "stale"


def test_the_first_number_before_2020_is_above_zero() -> None:
    world = World()
    world.apply(bus(), 0.0)
    assert world.entities["bus"].seen == 4096


def test_a_publisher_that_versions_gets_the_next_number() -> None:
    world = World()
    world.apply(bus(version=5), NOW)
    world.apply({"op": "move", "id": "bus", "lon": 1, "lat": 1}, NOW)
    world.apply({"op": "patch", "id": "bus", "properties": {"a": 1}}, NOW)
    assert (world.entities["bus"].seen, world.entities["bus"].state.version) == (7, 7)
    world.apply({"op": "delete", "id": "bus"}, NOW)
    world.apply(bus(), NOW)
    assert world.entities["bus"].seen == 9


def test_stale_comes_before_unknown() -> None:
    world = World()
    assert world.apply({"op": "move", "id": "bus", "lon": 1, "lat": 1}, NOW) == ("rejected", "unknown_entity")
    assert world.apply({"op": "delete", "id": "bus", "version": 5}, NOW) == "accepted"
    assert world.apply({"op": "patch", "id": "bus", "version": 5, "properties": {}}, NOW) == "stale"
    assert world.apply({"op": "patch", "id": "bus", "version": 6, "properties": {}}, NOW) == ("rejected", "unknown_entity")
    assert world.apply(bus(version=5), NOW) == "stale"
    assert world.apply(bus(version=6), NOW) == "accepted"
    assert world.apply({"op": "delete", "id": "bus", "version": 6}, NOW) == "stale"


def test_unchanged_keeps_the_wire_version_and_takes_the_rest() -> None:
    world = World()
    world.apply(bus(version=1, lon=1, properties={"a": 1, "b": {"c": None}, "d": None}, kind="bus"), NOW)
    same = bus(version=4, lon=1.0, properties={"b": {"c": None}, "a": 1.0}, kind="bus", access=["user:x"], min_zoom=3, rank=0.1, ttl=9)
    assert world.apply(same, NOW) == "unchanged"
    entity = world.entities["bus"]
    assert (entity.seen, entity.state.version, entity.deadline) == (4, 1, NOW + 9)
    assert entity.settings.access == {"user:x"}
    assert (entity.settings.min_zoom, entity.settings.rank) == (3, 0.1)
    assert world.history("bus").keys() == {1}
    assert world.history("bus")[1]["properties"] == {"a": 1, "b": {"c": None}}
    assert world.apply({"op": "move", "id": "bus", "lon": 1, "lat": 0, "version": 5}, NOW + 1) == "unchanged"
    assert entity.deadline == NOW + 10
    assert world.apply({"op": "patch", "id": "bus", "properties": {"a": True}, "version": 6}, NOW) == "accepted"
    assert world.apply({"op": "patch", "id": "bus", "kind": None, "version": 7}, NOW) == "accepted"
    assert "kind" not in world.history("bus")[7]


def test_a_patch_sets_what_it_names() -> None:
    world = World(default_access=["group:all"])
    world.apply(bus(version=1, properties={"a": 1, "b": 2}, access=["user:x"], min_zoom=3, rank=0.1, ttl=9), NOW)
    world.apply({"op": "patch", "id": "bus", "version": 2, "properties": {"a": None, "c": [None]}, "min_zoom": None, "rank": 0.2}, NOW)
    entity = world.entities["bus"]
    assert entity.state.properties == {"b": 2, "c": [None]}
    assert entity.settings.access == {"user:x"}
    assert (entity.settings.min_zoom, entity.settings.rank, entity.ttl) == (None, 0.2, 9)
    world.apply({"op": "patch", "id": "bus", "version": 3, "access": None, "rank": None, "ttl": None}, NOW)
    entity = world.entities["bus"]
    assert entity.settings.access == {"group:all"}
    assert (entity.settings.rank, entity.deadline, entity.state.version) == (0.5, None, 2)
    world.apply(bus(version=4, access=[]), NOW)
    assert not sees_without_sample(world.entities["bus"], View.from_message({"bbox": [0, 0, 0, 0]}), ("group:all",), None)


def test_a_move_sets_two_coordinates_and_nothing_else() -> None:
    world = World()
    line = {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}
    world.apply({**bus(version=1, min_zoom=2, kind="k", properties={"a": 1}), "geometry": line}, NOW)
    world.apply({"op": "move", "id": "bus", "lon": 3, "lat": 4}, NOW)
    expected = {"type": "Feature", "id": "bus", "version": 2, "kind": "k", "properties": {"a": 1}}
    assert world.history("bus")[2] == {**expected, "geometry": {"type": "Point", "coordinates": [3, 4]}}
    assert world.entities["bus"].settings.min_zoom == 2
    world.apply(bus("high") | {"geometry": {"type": "Point", "coordinates": [3, 4, 5]}}, NOW)
    assert world.apply({"op": "move", "id": "high", "lon": 3, "lat": 4}, NOW) == "accepted"


def test_deadlines_count_from_the_last_accepted_or_unchanged_update() -> None:
    world = World()
    world.apply(bus(version=3, ttl=10), NOW)
    world.apply(bus("other", version=1, ttl=5), NOW)
    world.apply({"op": "move", "id": "bus", "lon": 0, "lat": 0}, NOW + 4)
    world.apply({"op": "move", "id": "bus", "lon": 9, "lat": 0, "version": 1}, NOW + 8)  # stale: prolongs nothing
    assert world.expire(NOW + 4.9) == []
    assert world.expire(NOW + 5) == ["other"]
    assert world.expire(NOW + 14) == ["bus"]
    assert (world.tombstones["bus"].seen, world.tombstones["bus"].reason) == (4, "expired")
    assert world.apply(bus(), NOW + 15) == "accepted"
    assert world.entities["bus"].state.version == 5
    assert [state.reason for state in world.states["bus"]] == [None, "expired", None]
    assert world.history("bus").keys() == {3, 5}


def test_tombstones_are_forgotten_by_age_and_by_number() -> None:
    world = World(ModelLimits(tombstone_s=100, tombstones_max=2))
    for entity_id in "abc":
        world.apply({"op": "delete", "id": entity_id, "version": 9}, NOW)
    assert list(world.tombstones) == ["b", "c"]
    world.apply({"op": "delete", "id": "b", "version": 10}, NOW + 50)
    world.expire(NOW + 100)
    assert list(world.tombstones) == ["b"]
    assert world.apply(bus("c", version=1), NOW + 100) == "accepted"
    assert world.apply(bus("b", version=1), NOW + 100) == "stale"
    assert world.forgotten.keys() == {"a", "c"}


def test_what_was_published_cannot_be_changed_afterwards() -> None:
    world = World()
    update = bus(version=1, properties={"a": [1]})
    world.apply(update, NOW)
    update["properties"]["a"].append(2)
    update["geometry"]["coordinates"][0] = 50
    assert world.history("bus")[1]["properties"] == {"a": [1]}
    assert world.history("bus")[1]["geometry"]["coordinates"] == [0.0, 0.0]


def test_brute_force_shows_the_wire_states() -> None:
    world = World()
    world.apply(bus("a", version=1, min_zoom=3, rank=0.2, ttl=9, kind="tram"), NOW)
    world.apply(bus("a", version=2, kind="tram"), NOW)
    world.apply(bus("b", version=1, access=["user:x"]), NOW)
    point = {"type": "Point", "coordinates": [0, 0]}
    everywhere = View.from_message({"bbox": [-180, -90, 180, 90], "zoom": 0})
    assert brute_force(world, everywhere, (), None) == {
        "a": {"type": "Feature", "id": "a", "version": 1, "kind": "tram", "geometry": point, "properties": {}}
    }
    assert brute_force(world, everywhere, ("user:x",), None).keys() == {"a", "b"}
    assert brute_force(world, None, (), None) == {}


def test_the_sampling_key_is_rank_first_and_then_the_hash() -> None:
    assert sampling_key("a") == (0.5, fmix32(0xE40C292C))
    assert sampling_key("a", 0.1) < sampling_key("b", 0.2)


KEYS = {f"e{number}": (0.5, number) for number in range(10)}


@pytest.mark.parametrize(("count", "limit"), [(10, 10), (10, 12), (8, 8), (4, 8), (6, 8)])
def test_a_sample_that_can_be(count: int, limit: int) -> None:
    check_sample(list(KEYS)[:count], KEYS, limit)


@pytest.mark.parametrize(
    ("ids", "limit", "message"),
    [
        (["e0", "e1", "e2", "e4"], 8, "'e4'"),  # a gap
        (["e0", "e1", "e2"], 8, "less than half"),
        (list(KEYS)[:9], 8, "the limit is 8"),
        (["x"], 8, "nothing that matches"),
        ([], 2, "less than half"),
    ],
)
def test_a_sample_that_cannot_be(ids: list[str], limit: int, message: str) -> None:
    with pytest.raises(Violation, match=message):
        check_sample(ids, KEYS, limit)


def test_equal_keys_are_shown_together_or_not_at_all() -> None:
    with pytest.raises(Violation):
        check_sample(["a", "b"], {"a": (0.1, 1), "b": (0.1, 2), "c": (0.1, 2)}, 2)
