"""The filter language: reading an expression, and the filter that it becomes.

Law: an expression is judged once, here, and comes out as one canonical tree with the user bound. The key, by which
equal filters are one, and what evaluates the filter are both made from that tree and from nothing else; another
engine may compile it for itself. What was accepted can be evaluated on every entity: evaluation knows no errors.

The language, its reasons and its limits are told in docs/filters.md; tests/vectors/filters.json is its table of
cases for all implementations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, TypeAlias

import msgspec

from realtime.config import LimitsConfig
from realtime.engine.predicates import COMPARISONS, COMPOUND, Getter, Test, Tree, compile_tree
from realtime.errors import ErrorCode, Refused
from realtime.values import DEPTH_MAX, INTEGER_MAX, INTEGER_MIN

Source: TypeAlias = object  # decoded JSON, not yet judged

_QUOTE_CHARACTERS = 32  # how much of what was sent an error repeats


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter, immutable; filters of one `key` are equal.

    `tree` is what was meant, as nested tuples (see `realtime.engine.predicates`), with the user bound: two users of
    a filter that mentions `["user"]` have two filters, one that does not mention it is the same for everybody.
    Compare keys, not trees: to Python, a tree with `True` and one with `1.0` are equal.
    """

    key: bytes
    tree: Tree = field(compare=False, repr=False)
    _test: Test = field(compare=False, repr=False)

    def passes(self, id: str, kind: str | None, get: Getter) -> bool:
        """Whether the filter evaluates to exactly `true` for the entity whose properties `get` returns, decoded.

        `get(name)` is None where there is no such property. It is called only for properties that are needed.
        """
        return self._test(id, kind, get)


def parse_filter(expression: object, user: str | None, limits: LimitsConfig) -> Filter:
    """Return the filter that `expression`, a decoded JSON value, means for `user` (None: anonymous), who is encodable in UTF-8.

    Raises `Refused` with `BAD_FILTER`; the message opens with the place of the fault, such as `filter[2][1]`: element
    1 of element 2 of the expression. A fault inside an object is placed at the object.
    """
    tree = _Parser(user, limits).expression(expression, "filter", 1)
    # Last, as only now it is known that the expression can be encoded at all.
    if len(msgspec.json.encode(expression)) > limits.filter_bytes:
        _refuse("filter", f"longer than {limits.filter_bytes} bytes as JSON")
    return Filter(msgspec.json.encode(tree), tree, compile_tree(tree))


class _Arity(NamedTuple):
    least: int
    most: float
    takes: str


_ANY = _Arity(0, math.inf, "any number of operands")
_NONE = _Arity(0, 0, "no operand")
_ONE = _Arity(1, 1, "one operand")
_TWO = _Arity(2, 2, "two operands")
_VALUE = _Arity(1, 1, "one value")
_NAME = _Arity(1, 1, "the name of one property")

_OPERATORS: Mapping[str, _Arity] = {
    "all": _ANY,
    "any": _ANY,
    "!": _ONE,
    "==": _TWO,
    "!=": _TWO,
    "<": _TWO,
    "<=": _TWO,
    ">": _TWO,
    ">=": _TWO,
    "in": _TWO,
    "has": _NAME,
    "get": _NAME,
    "literal": _VALUE,
    "kind": _NONE,
    "id": _NONE,
    "user": _NONE,
}


def _refuse(place: str, why: str) -> NoReturn:
    raise Refused(ErrorCode.BAD_FILTER, f"{place}: {why}")


def _quoted(value: Source) -> str:
    """A scalar as it may stand in a message: on one line, short, printable. `...` for anything else."""
    if type(value) is str and value[:_QUOTE_CHARACTERS].isprintable():
        return json.dumps(value if len(value) <= _QUOTE_CHARACTERS else value[:_QUOTE_CHARACTERS] + "...", ensure_ascii=False)
    if value is None or type(value) in (bool, float) or (type(value) is int and INTEGER_MIN <= value <= INTEGER_MAX):
        return json.dumps(value)
    return "..."


def _property_hint(value: Source) -> str:
    """What the author of the legacy syntax, where a bare string names a property, would have to write for it."""
    if value in ("kind", "id", "$id"):
        return '["kind"]' if value == "kind" else '["id"]'
    return f'["get", {_quoted(value if type(value) is str else "name")}]'


def _is_literal(source: Source) -> bool:
    return type(source) is not list or source[:1] == ["literal"]


class _Parser:
    """One reading of one expression. It counts as it descends, so that no input costs more than its limits."""

    def __init__(self, user: str | None, limits: LimitsConfig) -> None:
        self._user = user
        self._limits = limits
        # A filter is a value, and no value nests deeper; it also keeps all recursion far from Python's own limit.
        self._levels = min(limits.filter_levels, DEPTH_MAX)
        self._nodes_left = limits.filter_nodes
        self._bytes_left = limits.filter_bytes

    def expression(self, source: Source, place: str, level: int) -> Tree:
        """Judge an expression whose own brackets, if it has any, are the `level`-th pair; return its tree."""
        self._count_node()
        if type(source) is dict:
            _refuse(place, 'expected an expression; an object is written ["literal", {...}]')
        if type(source) is not list:
            return self._scalar(source, place)
        self._descend(source, place, level)
        operator = self._operator(source, place)
        match operator:
            case "literal":
                return self._literal(source[1], f"{place}[1]", level + 1)
            case "user":
                return self._user
            case "kind" | "id":
                return (operator,)
            case "has" | "get":
                return (operator, self._name(operator, source[1], f"{place}[1]"))
            case "in":
                needle = self.expression(source[1], f"{place}[1]", level + 1)
                return (operator, needle, self._members(source[2], f"{place}[2]", level + 1))
        operands = [self.expression(operand, f"{place}[{i}]", level + 1) for i, operand in enumerate(source[1:], 1)]
        if operator in COMPARISONS and _is_literal(source[1]) and _is_literal(source[2]):
            self._refuse_legacy(place, f"[{_quoted(operator)}, {_property_hint(source[1])}, {_quoted(source[2])}]")
        return (operator, *operands)

    def _count_node(self) -> None:
        self._nodes_left -= 1
        if self._nodes_left < 0:
            _refuse("filter", f"more than {self._limits.filter_nodes} expressions and literals")

    def _descend(self, source: list[Source] | dict[Source, Source], place: str, level: int) -> None:
        if level > self._levels:
            _refuse(place, f"nested more than {self._levels} levels deep")
        # Each member takes two bytes at least, itself and a comma or bracket. The exact count comes when all has been
        # judged; this one sees to it that a list far too long is not read to its end.
        self._bytes_left -= 2 * len(source)
        if self._bytes_left < 0:
            _refuse("filter", f"longer than {self._limits.filter_bytes} bytes as JSON")

    def _operator(self, source: list[Source], place: str) -> str:
        """Return the operator of an expression that has as many operands as the operator takes."""
        if not source:
            _refuse(place, 'expected an operator, found an empty array; an array is written ["literal", []]')
        operator = source[0]
        if type(operator) is not str:
            _refuse(f"{place}[0]", 'expected an operator as a string; an array is written ["literal", [...]]')
        arity = _OPERATORS.get(operator)
        if arity is None:
            _refuse(f"{place}[0]", f"unknown operator {_quoted(operator)}; allowed are {' '.join(_OPERATORS)}")
        count = len(source) - 1
        if operator == "in" and count >= 2 and type(source[1]) is str and type(source[2]) is not list:
            members = ", ".join(map(_quoted, source[2:4])) + (", ..." if count > 3 else "")
            self._refuse_legacy(place, f'["in", {_property_hint(source[1])}, ["literal", [{members}]]]')
        if not arity.least <= count <= arity.most:
            _refuse(place, f'"{operator}" takes {arity.takes}, found {count}')
        return operator

    def _refuse_legacy(self, place: str, hint: str) -> NoReturn:
        _refuse(place, f"two literals are compared, a bare string names no property; did you mean {hint}?")

    def _name(self, operator: str, source: Source, place: str) -> str:
        if type(source) is not str:
            inner = source[1] if type(source) is list and len(source) == 2 and source[0] == "get" else None
            hint = _quoted(inner if type(inner) is str else "name")
            _refuse(place, f'expected the name of a property as a string; did you mean ["{operator}", {hint}]?')
        return self._text(source, place)

    def _members(self, source: Source, place: str, level: int) -> tuple[Tree, ...]:
        """Judge the second operand of `in`; return its scalars, each once, in the order of their JSON.

        Arrays and objects equal nothing, so as members they are checked and left out.
        """
        if type(source) is not list or len(source) != 2 or source[0] != "literal" or type(source[1]) is not list:
            _refuse(place, 'expected a literal array, ["literal", [...]]')
        self._count_node()
        self._descend(source, place, level)
        members = self._array(source[1], f"{place}[1]", level + 1)
        distinct = {msgspec.json.encode(member): member for member in members if type(member) is not tuple}
        return tuple(distinct[key] for key in sorted(distinct))

    def _array(self, source: list[Source], place: str, level: int) -> list[Tree]:
        self._descend(source, place, level)
        return [self._literal(item, f"{place}[{i}]", level + 1) for i, item in enumerate(source)]

    def _literal(self, source: Source, place: str, level: int) -> Tree:
        """Judge any JSON value; return a scalar, or `COMPOUND` for whatever array or object."""
        if type(source) is list:
            self._array(source, place, level)
            return COMPOUND
        if type(source) is dict:
            self._descend(source, place, level)
            for key, item in source.items():
                if type(key) is not str:
                    _refuse(place, "expected strings as the keys of an object")
                self._text(key, place)
                self._literal(item, place, level + 1)
            return COMPOUND
        return self._scalar(source, place)

    def _scalar(self, source: Source, place: str) -> Tree:
        """Judge a scalar; numbers come out as doubles, zero without a sign."""
        if source is None or source is True or source is False:
            return source
        if type(source) is str:
            return self._text(source, place)
        if type(source) is int:
            if not INTEGER_MIN <= source <= INTEGER_MAX:
                _refuse(place, "expected an integer within 64 bits")
            return float(source)
        if type(source) is float:
            if not math.isfinite(source):
                _refuse(place, "expected a finite number")
            return source + 0.0  # -0.0 + 0.0 is 0.0
        _refuse(place, f"expected a JSON value, found {type(source).__name__}")

    def _text(self, source: str, place: str) -> str:
        try:
            source.encode()
        except UnicodeEncodeError:
            _refuse(place, "a string is not made of Unicode scalar values")
        return source
