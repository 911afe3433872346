"""The small truths that the model of the world rests on: when values are equal, which boxes touch, what a filter says, what a hash is.

The law of the oracle holds here too: nothing of the judged package is imported, every rule is written down in its plainest form, and only
valid input is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

Number = float | Fraction


class Subject(Protocol):
    """What a filter may ask about."""

    @property
    def id(self) -> str: ...

    @property
    def kind(self) -> str | None: ...

    @property
    def properties(self) -> dict[str, Any]: ...


def json_equal(a: Any, b: Any) -> bool:
    """Equal as JSON values: 1 = 1.0 and 0 = -0, true is not 1, the order of an object's members says nothing."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(json_equal(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(json_equal, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    return type(a) is type(b) and bool(a == b)


def fnv1a_32(data: bytes) -> int:
    """FNV-1a with the 32-bit offset basis and prime."""
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def fmix32(value: int) -> int:
    """MurmurHash3's 32-bit finaliser."""
    value ^= value >> 16
    value = (value * 0x85EBCA6B) & 0xFFFFFFFF
    value ^= value >> 13
    value = (value * 0xC2B2AE35) & 0xFFFFFFFF
    return value ^ (value >> 16)


def digest(held: Iterable[tuple[str, int]]) -> str:
    """The digest of a mirror, from (id, version) pairs: the XOR of one hash each, so the order says nothing; 8 hex digits."""
    total = 0
    for entity_id, version in held:
        total ^= fmix32(fnv1a_32(f"{entity_id}@{version}".encode()))
    return f"{total:08x}"


class Box(NamedTuple):
    """Degrees. West and east may be fractions where a wrapped view has no exact double."""

    west: Number
    south: Number
    east: Number
    north: Number

    def touches(self, other: Box) -> bool:
        """Inclusive: a shared edge or corner is enough."""
        return self.west <= other.east and other.west <= self.east and self.south <= other.north and other.south <= self.north


def geometry_boxes(geometry: Mapping[str, Any]) -> tuple[Box, ...]:
    """The one or two boxes by which an entity is found.

    It is the planar box of all positions, unless that touches both +180 and -180 without any single part doing so: then the parts (the
    Points, LineStrings or Polygons of a Multi geometry) with a centre at longitude 0 or more make the eastern box, the others the western.
    """
    parts = [_planar(part) for part in _parts(geometry)]
    whole = _union(parts)
    if not _spans(whole) or any(map(_spans, parts)):
        return (whole,)
    eastern = [part for part in parts if (part.west + part.east) / 2 >= 0]
    western = [part for part in parts if (part.west + part.east) / 2 < 0]
    return (_union(eastern), _union(western))


def _parts(geometry: Mapping[str, Any]) -> list[list[Any]]:
    """For each part of a geometry the list of its positions; a polygon's are those of all its rings."""
    coordinates = geometry["coordinates"]
    match geometry["type"]:
        case "Point":
            return [[coordinates]]
        case "MultiPoint":
            return [[position] for position in coordinates]
        case "LineString":
            return [coordinates]
        case "MultiLineString":
            return list(coordinates)
        case "Polygon":
            return [[position for ring in coordinates for position in ring]]
        case "MultiPolygon":
            return [[position for ring in polygon for position in ring] for polygon in coordinates]
    raise ValueError(f"not a geometry with coordinates: {geometry['type']!r}")


def _planar(positions: list[Any]) -> Box:
    longitudes = [position[0] for position in positions]
    latitudes = [position[1] for position in positions]
    return Box(min(longitudes), min(latitudes), max(longitudes), max(latitudes))


def _union(boxes: list[Box]) -> Box:
    return Box(min(b.west for b in boxes), min(b.south for b in boxes), max(b.east for b in boxes), max(b.north for b in boxes))


def _spans(box: Box) -> bool:
    return box.west <= -180 and box.east >= 180


def view_boxes(bbox: Iterable[float]) -> tuple[Box, ...]:
    """Every copy of a view's box, shifted by whole turns, that touches the strip from -180 to 180 in which entities are.

    A box at least 360 degrees wide is the world. That 180 and -180 are one meridian comes by itself: a box that ends at 180 has a copy that
    ends at -180. The shifts are exact, because the doubles as published decide.
    """
    west, south, east, north = bbox
    if west > east or south > north:
        raise ValueError(f"not a valid view box: {west}, {south}, {east}, {north}")
    exact_west, exact_east = Fraction(west), Fraction(east)
    if exact_east - exact_west >= 360:
        return (Box(-180, south, 180, north),)
    first, last = math.ceil((exact_west - 180) / 360), math.floor((exact_east + 180) / 360)
    turns = range(first, last + 1)
    return tuple(Box(_number(exact_west - 360 * turn), south, _number(exact_east - 360 * turn), north) for turn in turns)


def _number(value: Fraction) -> Number:
    """The double if there is one that is exactly this, because comparing doubles is a hundred times faster."""
    rounded = float(value)
    return rounded if rounded == value else value


def passes(expression: Any, subject: Subject, user: str | None) -> bool:
    """Whether a (valid) filter lets an entity through: no filter does, others where they evaluate to exactly true."""
    return expression is None or evaluate(expression, subject, user) is True


def evaluate(expression: Any, subject: Subject, user: str | None) -> Any:
    """The value of a filter expression, by recursion. A missing property is null."""

    def value(operand: Any) -> Any:
        return evaluate(operand, subject, user)

    match expression:
        case ["literal", constant]:
            return constant
        case ["get", name]:
            return subject.properties.get(name)
        case ["has", name]:
            return name in subject.properties
        case ["kind"]:
            return subject.kind
        case ["id"]:
            return subject.id
        case ["user"]:
            return user
        case ["all", *operands]:
            return all(value(operand) is True for operand in operands)
        case ["any", *operands]:
            return any(value(operand) is True for operand in operands)
        case ["!", operand]:
            return value(operand) is not True
        case ["==", left, right]:
            return _same(value(left), value(right))
        case ["!=", left, right]:
            return not _same(value(left), value(right))
        case ["<" | "<=" | ">" | ">=" as operator, left, right]:
            return _ordered(operator, value(left), value(right))
        case ["in", needle, ["literal", options]]:
            return any(_same(value(needle), option) for option in options)
        case list() | dict():
            raise ValueError(f"not a valid filter: {expression!r}")
    return expression


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(a: Any, b: Any) -> bool:
    """Equality in filters: numbers as doubles; values of unlike types differ; arrays and objects equal nothing, not even themselves."""
    if _is_number(a) and _is_number(b):
        return float(a) == float(b)
    return type(a) is type(b) and isinstance(a, str | bool | None) and a == b


def _ordered(operator: str, a: Any, b: Any) -> bool:
    """Order in filters: two numbers as doubles, two strings by code point (as Python compares them), anything else is false."""
    if _is_number(a) and _is_number(b):
        a, b = float(a), float(b)
    elif not (isinstance(a, str) and isinstance(b, str)):
        return False
    return bool({"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[operator])
