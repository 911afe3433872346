"""Boxes of views and of geometries: what meets, what is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.errors import ErrorCode, Refused
from realtime.geo import VIEW_LONGITUDE_MAX, WORLD, Box, boxes_meet, parse_geometry, point, view_boxes

MANY = 10_000
BELOW_180 = math.nextafter(180, 0)
ABOVE_180 = math.nextafter(180, 360)

# Edges and what lies right beside them, over several turns of the globe.
edges = st.sampled_from([-180.0, -BELOW_180, -90.0, -0.7, 0.0, 0.1, 0.7, 45.5, 179.5, BELOW_180, 180.0])
longitudes = edges | st.floats(-180, 180)
view_longitudes = st.builds(lambda edge, turns: edge + 360 * turns, longitudes, st.integers(-3, 3)) | st.floats(-36_000, 36_000)
latitudes = st.sampled_from([-90.0, 0.0, 90.0]) | st.floats(-90, 90)


def refused(bbox: Any) -> str:
    with pytest.raises(Refused) as caught:
        view_boxes(bbox)
    assert caught.value.code is ErrorCode.BAD_VIEW
    return caught.value.message


def bad(geometry: Any, positions_max: int = MANY) -> tuple[ErrorCode, str]:
    with pytest.raises(Refused) as caught:
        parse_geometry(geometry, positions_max)
    assert caught.value.message.startswith("geometry: ")
    return caught.value.code, caught.value.message


def boxes_of(kind: str, coordinates: Any) -> tuple[Box, ...]:
    return parse_geometry({"type": kind, "coordinates": coordinates}, MANY).boxes


# Views


@given(view_longitudes, view_longitudes, latitudes, latitudes, longitudes, latitudes)
@example(ABOVE_180 - 360, ABOVE_180 - 360, 0, 0, BELOW_180, 0)
@example(BELOW_180, BELOW_180, 0, 0, BELOW_180, 0)
@example(-200.0, 0.7, 0, 0, 0.7, 0)
@example(-180.0, BELOW_180, 0, 0, 180.0, 0)
@example(1e-15, 360.0, 0, 0, 5e-16, 0)
@example(170.0, 180.0, 0, 0, -180.0, 0)
@example(-180.0, -170.0, 0, 0, 180.0, 0)
@example(540.0, 541.0, 0, 0, 180.0, 0)
def test_a_view_meets_a_point_exactly_where_arithmetic_says_so(a: float, b: float, c: float, d: float, lon: float, lat: float) -> None:
    west, east, south, north = min(a, b), max(a, b), min(c, d), max(c, d)
    # How far the point is east of west, going around the globe, without any rounding.
    way = (Fraction(lon) - Fraction(west)) % 360
    expected = way <= Fraction(east) - Fraction(west) and south <= lat <= north
    assert boxes_meet(view_boxes([west, south, east, north]), point(lon, lat).boxes) is expected


@given(view_longitudes, view_longitudes, st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_the_boxes_of_a_view_are_ordered_and_within_the_world(a: float, b: float, c: float, d: float) -> None:
    boxes = view_boxes([min(a, b), min(c, d), max(a, b), max(c, d)])
    assert len(boxes) <= 2
    for min_x, min_y, max_x, max_y in boxes:
        assert WORLD[0] <= min_x <= max_x <= WORLD[2]
        assert WORLD[1] <= min_y <= max_y <= WORLD[3]


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        (None, ()),
        ([-10, -20, 30, 40], ((-10, -20, 30, 40),)),
        ((-10, -20, 30, 40), ((-10, -20, 30, 40),)),
        ([5, 5, 5, 5], ((5, 5, 5, 5),)),
        ([170, 0, 190, 1], ((170, 0, 180, 1), (-180, 0, -170, 1))),
        ([-190, 0, -170, 1], ((170, 0, 180, 1), (-180, 0, -170, 1))),
        ([530, 0, 550, 1], ((170, 0, 180, 1), (-180, 0, -170, 1))),
        ([170, 0, 180, 1], ((170, 0, 180, 1), (-180, 0, -180, 1))),
        ([-180, 0, -170, 1], ((-180, 0, -170, 1), (180, 0, 180, 1))),
        ([180, 0, 190, 1], ((-180, 0, -170, 1), (180, 0, 180, 1))),
        ([-180, 0, 180, 1], ((-180, 0, 180, 1),)),
        ([-180, 0, 179, 1], ((-180, 0, 179, 1), (180, 0, 180, 1))),
        ([-1, 0, 359, 1], ((-180, 0, 180, 1),)),
        ([-1, 0, 358, 1], ((-1, 0, 180, 1), (-180, 0, -2, 1))),
        ([-1e9, -90, 1e9, 90], (WORLD,)),
        ([-1.7e308, -1.7e308, 1.7e308, 1.7e308], (WORLD,)),
        ([0, -91, 1, 91], ((0, -90, 1, 90),)),
        ([0, 90, 1, 90], ((0, 90, 1, 90),)),
        ([0, 91, 1, 92], ()),
        ([0, -1e308, 1, -91], ()),
    ],
)
def test_view_boxes(bbox: Any, expected: tuple[Box, ...]) -> None:
    assert view_boxes(bbox) == expected


@pytest.mark.parametrize(
    "bbox",
    [
        [],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        "0,0,1,1",
        {"west": 0},
        7,
        True,
        [0, 0, 1, None],
        [0, 0, 1, "1"],
        [0, 0, 1, True],
        [[0], 0, 1, 1],
        [0, 0, 1, math.nan],
        [math.nan, 0, 1, 1],
        [-math.inf, 0, 1, 1],
        [0, 0, math.inf, 1],
        [0, -math.inf, 1, math.inf],
        [-(10**400), 0, 10**400, 1],
        [0, 0, 10**310, 1],
    ],
)
def test_what_is_no_bbox(bbox: Any) -> None:
    assert refused(bbox).startswith("bbox: ")


def test_a_bbox_in_the_wrong_order_says_how_the_antimeridian_is_crossed() -> None:
    assert "an east above 180" in refused([170, 0, -170, 1])
    assert "an east above 180" not in refused([0, 1, 1, 0])


def test_longitudes_beyond_a_hundred_turns_are_refused_unless_it_is_the_world() -> None:
    edge = VIEW_LONGITUDE_MAX
    assert len(view_boxes([edge - 1, 0, edge, 1])) == 1
    assert "36000" in refused([edge, 0, edge + 1, 1])
    assert "36000" in refused([-edge - 1, 0, -edge, 1])
    assert view_boxes([0, 0, edge + 1, 1]) == ((-180, 0, 180, 1),)


@pytest.mark.parametrize(
    ("other", "meets"),
    [
        ((10, 10, 20, 20), True),
        ((20, 20, 30, 30), True),
        ((0, 0, 10, 10), True),
        ((12, 12, 13, 13), True),
        ((0, 0, 30, 30), True),
        ((math.nextafter(20, 30), 10, 30, 20), False),
        ((0, 10, math.nextafter(10, 0), 20), False),
        ((10, 21, 20, 22), False),
    ],
)
def test_boxes_touch_inclusively(other: Box, meets: bool) -> None:
    one: Box = (10, 10, 20, 20)
    assert boxes_meet([one], [other]) is meets
    assert boxes_meet([other], [one]) is meets
    assert boxes_meet([(50, 50, 51, 51), one], [(60, 60, 61, 61), other]) is meets
    assert not boxes_meet([], [other])


# Geometries

LINE = [[0, 0], [1, 2]]
RING = [[0, 0], [4, 0], [4, 3], [0, 0]]
GOOD = {
    "Point": [1, 2],
    "MultiPoint": [[1, 2], [3, 4]],
    "LineString": LINE,
    "MultiLineString": [LINE, [[5, 5], [6, 7], [8, 9]]],
    "Polygon": [RING, [[1, 1], [2, 1], [2, 2], [1, 1]]],
    "MultiPolygon": [[RING], [RING, RING]],
}


def wrapped(coordinates: Any) -> Any:
    return [coordinates]


def first_of(coordinates: Any) -> Any:
    return coordinates[0]


def deep_hole(coordinates: Any) -> Any:
    """Replace the innermost first array by an empty one."""
    if isinstance(coordinates[0], list):
        return [deep_hole(coordinates[0]), *coordinates[1:]]
    return []


@pytest.mark.parametrize("kind", GOOD)
def test_the_six_types_are_kept_as_they_are(kind: str) -> None:
    geometry = parse_geometry({"bbox": [0, 0, 0, 0], "coordinates": GOOD[kind], "type": kind}, MANY)
    assert msgspec.json.decode(geometry.json) == {"type": kind, "coordinates": GOOD[kind]}
    assert geometry.json.startswith(b'{"type":"')
    assert geometry.is_point is (kind == "Point")
    assert len(geometry.boxes) == 1


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize(
    "spoil", [wrapped, first_of, deep_hole, str, lambda _: None, lambda _: [], lambda _: {}, lambda _: [None], lambda _: [[]]]
)
def test_the_six_types_badly_nested(kind: str, spoil: Any) -> None:
    assert bad({"type": kind, "coordinates": spoil(GOOD[kind])})[0] is ErrorCode.BAD_GEOMETRY


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        [],
        "Point",
        {},
        {"type": "Point"},
        {"coordinates": [0, 0]},
        {"type": None, "coordinates": [0, 0]},
        {"type": ["Point"], "coordinates": [0, 0]},
        {"type": "point", "coordinates": [0, 0]},
        {"type": "GeometryCollection", "geometries": []},
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [0, 0]}},
    ],
)
def test_what_is_no_geometry(geometry: Any) -> None:
    assert bad(geometry)[0] is ErrorCode.BAD_GEOMETRY


@pytest.mark.parametrize(
    "position",
    [
        [],
        [0],
        [0, 0, 0, 0],
        [0, None],
        ["0", 0],
        [True, 0],
        [0, 0, True],
        [[0], 0],
        {"lon": 0},
        [math.nan, 0],
        [0, math.nan],
        [0, 0, math.nan],
        [math.inf, 0],
        [0, 0, -math.inf],
        [ABOVE_180, 0],
        [-ABOVE_180, 0],
        [0, math.nextafter(90, 91)],
        [0, -math.nextafter(90, 91)],
        [1e308, 0],
        [0, -1e308],
        [10**400, 0],
        [0, 0, 10**400],
        [0, 0, -(10**309)],
    ],
)
def test_what_is_no_position(position: Any) -> None:
    assert bad({"type": "Point", "coordinates": position})[0] is ErrorCode.BAD_GEOMETRY
    assert bad({"type": "LineString", "coordinates": [[0, 0], position]})[0] is ErrorCode.BAD_GEOMETRY


def test_an_altitude_is_a_value_and_obeys_the_rules_of_values() -> None:
    assert parse_geometry({"type": "Point", "coordinates": [1, 2, 1e300]}, 1).json == b'{"type":"Point","coordinates":[1,2,1e300]}'
    assert bad({"type": "Point", "coordinates": [1, 2, 10**20]})[0] is ErrorCode.BAD_VALUE


@pytest.mark.parametrize("position", [[180, 90], [-180, -90], [5e-324, -5e-324], [-0.0, 0.0], [0, 0, -11_000.5]])
def test_poles_meridians_and_tiny_numbers_are_positions(position: list[float]) -> None:
    geometry = parse_geometry({"type": "Point", "coordinates": position}, 1)
    assert geometry.boxes == ((position[0], position[1], position[0], position[1]),)
    assert geometry.is_point is (len(position) == 2)


@given(longitudes, latitudes)
def test_a_point_is_found_by_the_smallest_view_around_it(lon: float, lat: float) -> None:
    assert point(lon, lat) == parse_geometry({"type": "Point", "coordinates": [lon, lat]}, 1)
    assert boxes_meet(view_boxes([lon, lat, lon, lat]), point(lon, lat).boxes)


@pytest.mark.parametrize(("lon", "lat"), [(None, 0), (0, None), ("0", 0), (math.nan, 0), (181, 0), (0, 91)])
def test_a_point_of_what_is_no_coordinate(lon: object, lat: object) -> None:
    with pytest.raises(Refused) as caught:
        point(lon, lat)
    assert caught.value.code is ErrorCode.BAD_GEOMETRY


def test_equal_geometries_have_equal_bytes() -> None:
    one = parse_geometry({"type": "LineString", "coordinates": [[0, 1.0], [-0.0, 2]]}, MANY)
    other = parse_geometry({"type": "LineString", "coordinates": ((0.0, 1), (0, 2.0))}, MANY)
    assert one.json == other.json


@pytest.mark.parametrize(("kind", "coordinates"), [("LineString", [[0, 0]]), ("MultiLineString", [LINE, [[0, 0]]])])
def test_a_line_has_two_positions(kind: str, coordinates: Any) -> None:
    assert "two positions" in bad({"type": kind, "coordinates": coordinates})[1]


@pytest.mark.parametrize("ring", [[[0, 0], [1, 0], [0, 0]], [[0, 0], [1, 0], [1, 1], [0, 1]], [[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 0, 2]]])
def test_a_ring_is_closed(ring: Any) -> None:
    for kind, coordinates in (("Polygon", [RING, ring]), ("MultiPolygon", [[RING], [ring]])):
        assert "ring" in bad({"type": kind, "coordinates": coordinates})[1]
    closed = [[0, 0], [1, 0], [1, 1], [-0.0, 0.0]]
    assert boxes_of("Polygon", [closed]) == ((0, 0, 1, 1),)


@pytest.mark.parametrize(
    ("kind", "coordinates", "count"),
    [("Point", [0, 0], 1), ("LineString", LINE, 2), ("Polygon", [RING, RING], 8), ("MultiPolygon", [[RING], [RING]], 8)],
)
def test_positions_are_limited_at_both_edges(kind: str, coordinates: Any, count: int) -> None:
    geometry = {"type": kind, "coordinates": coordinates}
    assert parse_geometry(geometry, count)
    if kind != "Point":
        assert bad(geometry, count - 1) == (ErrorCode.TOO_BIG, f"geometry: at most {count - 1} positions are allowed")


def test_bytes_are_limited_at_both_edges() -> None:
    geometry = {"type": "LineString", "coordinates": [[0.123456789, 1], [2, 3]]}
    size = len(b"[[0.123456789,1],[2,3]]")
    assert parse_geometry(geometry, MANY, size)
    with pytest.raises(Refused) as caught:
        parse_geometry(geometry, MANY, size - 1)
    assert (caught.value.code, caught.value.message) == (ErrorCode.TOO_BIG, f"geometry: at most {size - 1} bytes are allowed")


EAST_LINE, WEST_LINE = [[179, 0], [180, 1]], [[-180, 1], [-178, 2]]


@pytest.mark.parametrize(
    ("kind", "coordinates", "expected"),
    [
        # Two parts, each at its side of the antimeridian: nothing in between.
        ("MultiLineString", [EAST_LINE, WEST_LINE], ((179, 0, 180, 1), (-180, 1, -178, 2))),
        ("MultiLineString", [WEST_LINE, EAST_LINE], ((179, 0, 180, 1), (-180, 1, -178, 2))),
        ("MultiPoint", [[180, 3], [-180, 4]], ((180, 3, 180, 3), (-180, 4, -180, 4))),
        ("MultiPoint", [[180, 3], [-180, 4], [10, 0], [-10, 5]], ((10, 0, 180, 3), (-180, 4, -10, 5))),
        ("MultiLineString", [EAST_LINE, WEST_LINE, [[-20, 0], [20, 0]]], ((-20, 0, 180, 1), (-180, 1, -178, 2))),
        # One that touches only one side, or one part that touches both, has one box.
        ("MultiLineString", [EAST_LINE, [[-179, 0], [-178, 0]]], ((-179, 0, 180, 1),)),
        ("LineString", [[-180, 0], [180, 1]], ((-180, 0, 180, 1),)),
        ("MultiLineString", [EAST_LINE, [[-180, 0], [180, 1]]], ((-180, 0, 180, 1),)),
        ("Polygon", [[[-180, -90], [180, -90], [180, -60], [-180, -60], [-180, -90]]], ((-180, -90, 180, -60),)),
        # A polygon's hole belongs to its part, wherever it is said to be.
        ("Polygon", [[[170, 0], [180, 0], [180, 1], [170, 0]], [[-180, 0], [-170, 0], [-170, 1], [-180, 0]]], ((-180, 0, 180, 1),)),
    ],
)
def test_what_touches_both_sides_of_the_antimeridian(kind: str, coordinates: Any, expected: tuple[Box, ...]) -> None:
    assert boxes_of(kind, coordinates) == expected


def test_fiji_is_not_seen_from_greenwich() -> None:
    fiji = boxes_of("MultiLineString", [EAST_LINE, WEST_LINE])
    assert boxes_meet(view_boxes([179, -10, 181, 10]), fiji)
    assert boxes_meet(view_boxes([-181, -10, -179, 10]), fiji)
    assert not boxes_meet(view_boxes([-90, -90, 90, 90]), fiji)


@given(
    st.lists(st.lists(st.tuples(longitudes, latitudes), min_size=2, max_size=4), min_size=1, max_size=4),
    st.sampled_from(["MultiLineString", "MultiPoint"]),
)
def test_every_position_lies_in_a_box_of_its_geometry(lines: list[list[tuple[float, float]]], kind: str) -> None:
    coordinates: Any = lines if kind == "MultiLineString" else [position for line in lines for position in line]
    boxes = boxes_of(kind, coordinates)
    assert len(boxes) <= 2
    for line in lines:
        for lon, lat in line:
            assert boxes_meet(boxes, [(lon, lat, lon, lat)])
