"""Boxes and geometries: the one place where the wire's `[west, south, east, north]` becomes `min_x, min_y, max_x, max_y`.

Law: every box that leaves this file is finite and ordered, lies within the coordinates that entities can have, and
boxes touch inclusively. 180 and -180 are one meridian: a view that touches one of them has a box at the other too.
An entity's boxes are those of its geometry as published; only one that touches both 180 and -180 has two.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from realtime.errors import ErrorCode, Refused
from realtime.values import canonical

Box = tuple[float, float, float, float]  # min_x, min_y, max_x, max_y, in degrees

WORLD: Box = (-180.0, -90.0, 180.0, 90.0)
# Beyond a hundred turns around the globe a longitude is a mistake, and no longer exact to the centimetre.
VIEW_LONGITUDE_MAX = 36_000.0
_DOUBLE_MAX = sys.float_info.max

_NESTING = {"Point": 0, "MultiPoint": 1, "LineString": 1, "MultiLineString": 2, "Polygon": 2, "MultiPolygon": 3}
# How deep below `coordinates` the parts that hang together begin: a polygon is one part, its rings are not.
_PART_NESTING = {"Point": 0, "MultiPoint": 0, "LineString": 1, "MultiLineString": 1, "Polygon": 2, "MultiPolygon": 2}


class Geometry(NamedTuple):
    """A geometry as the engine keeps it."""

    json: bytes  # canonical: {"type":…,"coordinates":…}
    boxes: tuple[Box, ...]  # one, or two where it touches both 180 and -180
    is_point: bool  # a Point of two coordinates: what `move` can speak of


def boxes_meet(one: Sequence[Box], other: Sequence[Box]) -> bool:
    """Tell whether any box of the one touches any of the other."""
    for a in one:
        for b in other:
            if a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]:
                return True
    return False


def view_boxes(bbox: object, name: str = "bbox") -> tuple[Box, ...]:
    """Return the boxes of a view's `[west, south, east, north]`: none where it shows nothing, otherwise one or two.

    At least 360 degrees wide is the world; otherwise west is brought into [-180, 180), and what reaches beyond 180
    goes on from -180. A box across the antimeridian is thus written with an east above 180. Latitudes beyond the
    poles are cut off.
    """
    if bbox is None:
        return ()
    west, south, east, north = _four_numbers(bbox, name)
    if south > north or west > east:
        hint = "; a box across the antimeridian has an east above 180" if west > east else ""
        raise Refused(ErrorCode.BAD_VIEW, f"{name}: west and south must not exceed east and north{hint}")
    if max(abs(west), abs(east)) > VIEW_LONGITUDE_MAX and east - west < 360:
        raise Refused(ErrorCode.BAD_VIEW, f"{name}: longitudes within {VIEW_LONGITUDE_MAX:.0f} degrees are allowed")
    south, north = max(south, WORLD[1]), min(north, WORLD[3])
    if south > north:
        return ()
    return tuple((min_x, south, max_x, north) for min_x, max_x in _longitudes(west, east))


def _longitudes(west: float, east: float) -> list[tuple[float, float]]:
    """Return the stretches of [-180, 180] that west to east covers.

    Every difference taken here is exact, as its result is a smaller number on the same grid of doubles: the edges
    of a view are neither widened nor narrowed by being brought around the globe.
    """
    if max(abs(west), abs(east)) > VIEW_LONGITUDE_MAX:
        return [(-180.0, 180.0)]
    turns = math.floor((west + 180) / 360) * 360
    if west - turns < -180:  # the sum was rounded up to the next turn
        turns -= 360
    west, beyond = west - turns, east - (turns + 360)  # where it ends, should it go on from -180
    if beyond >= west:
        return [(-180.0, 180.0)]
    if beyond > -180:
        return [(west, 180.0), (-180.0, beyond)]
    stretches = [(west, east - turns)]
    if beyond == -180:
        stretches.append((-180.0, -180.0))
    if west == -180:
        stretches.append((180.0, 180.0))
    return stretches


def _four_numbers(bbox: object, name: str) -> list[float]:
    if not isinstance(bbox, (list, tuple)) or len(bbox) != 4:
        raise Refused(ErrorCode.BAD_VIEW, f"{name}: [west, south, east, north] is expected, or null")
    for value in bbox:
        # Compared rather than asked for being finite: an integer may be too long to become a double.
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not -_DOUBLE_MAX <= value <= _DOUBLE_MAX:
            raise Refused(ErrorCode.BAD_VIEW, f"{name}: four finite numbers are expected")
    return [float(value) for value in bbox]


def point(lon: object, lat: object) -> Geometry:
    """Return the Point of two coordinates."""
    position = [lon, lat]
    x, y = _position(position)
    return _point(position, x, y)


def parse_geometry(value: object, positions_max: int, bytes_max: int | None = None) -> Geometry:
    """Return the geometry of a GeoJSON object of one of the six types with coordinates.

    `bytes_max` bounds its coordinates as canonical JSON.
    """
    if not isinstance(value, dict):
        raise _bad("an object with `type` and `coordinates` is expected")
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in _NESTING:
        raise _bad(f"type: one of {', '.join(_NESTING)} is expected")
    coordinates = value.get("coordinates")
    if kind == "Point":
        x, y = _position(coordinates)
        return _point(coordinates, x, y)
    parts: list[list[tuple[float, float]]] = []
    count = _collect(coordinates, kind, _NESTING[kind], parts, 0, positions_max)
    if count == 0:
        raise _bad("coordinates: at least one position is expected")
    json = b'{"type":"' + kind.encode() + b'","coordinates":' + canonical(coordinates, "geometry", bytes_max) + b"}"
    return Geometry(json, _boxes(parts), False)


def _bad(why: str) -> Refused:
    return Refused(ErrorCode.BAD_GEOMETRY, f"geometry: {why}")


def _point(position: Any, x: float, y: float) -> Geometry:
    json = b'{"type":"Point","coordinates":' + canonical(position, "geometry") + b"}"
    return Geometry(json, ((x, y, x, y),), len(position) == 2)


def _position(value: Any) -> tuple[float, float]:
    """Return longitude and latitude of a position: two or three finite numbers, the first two in range."""
    if not isinstance(value, (list, tuple)) or not 2 <= len(value) <= 3:
        raise _bad("a position is an array of two or three numbers")
    for number in value:
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            raise _bad("a position is an array of two or three numbers")
        if not -_DOUBLE_MAX <= number <= _DOUBLE_MAX:  # false for NaN, too
            raise _bad("coordinates are finite")
    x, y = value[0], value[1]
    if not (-180 <= x <= 180 and -90 <= y <= 90):
        raise _bad("longitude lies within 180 and latitude within 90 degrees")
    return float(x), float(y)


def _collect(value: Any, kind: str, nesting: int, parts: list[list[tuple[float, float]]], count: int, count_max: int) -> int:
    """Append the positions of `value` to `parts`, a new part where one begins; return the count of all so far."""
    if nesting == 0:
        if count >= count_max:
            raise Refused(ErrorCode.TOO_BIG, f"geometry: at most {count_max} positions are allowed")
        if _PART_NESTING[kind] == 0:
            parts.append([])
        parts[-1].append(_position(value))
        return count + 1
    if not isinstance(value, (list, tuple)) or not value:
        raise _bad(f"coordinates of a {kind}: arrays nested {_NESTING[kind] + 1} deep, none empty, are expected")
    if nesting == _PART_NESTING[kind]:
        parts.append([])
    before = count
    for item in value:
        count = _collect(item, kind, nesting - 1, parts, count, count_max)
    if nesting == 1:
        _check_line(value, kind, count - before)
    return count


def _check_line(line: Any, kind: str, count: int) -> None:
    if kind.endswith("LineString") and count < 2:
        raise _bad("a line has at least two positions")
    if kind.endswith("Polygon") and (count < 4 or list(line[0]) != list(line[-1])):
        raise _bad("a polygon's ring has at least four positions, the last equal to the first")


def _boxes(parts: list[list[tuple[float, float]]]) -> tuple[Box, ...]:
    whole = _box([position for part in parts for position in part])
    if whole[0] > -180 or whole[2] < 180:
        return (whole,)
    east: list[tuple[float, float]] = []
    west: list[tuple[float, float]] = []
    for part in parts:
        min_x, _, max_x, _ = _box(part)
        if min_x == -180 and max_x == 180:
            return (whole,)
        (east if min_x + max_x >= 0 else west).extend(part)
    return (_box(east), _box(west))


def _box(positions: list[tuple[float, float]]) -> Box:
    xs = [x for x, _ in positions]
    ys = [y for _, y in positions]
    return (min(xs), min(ys), max(xs), max(ys))
