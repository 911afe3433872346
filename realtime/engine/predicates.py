"""Filter trees, and the closures that evaluate them.

A tree is what `realtime.engine.filters` makes of an expression, the whole interface between the language and what
evaluates it:

    None, True, False, a float, a str     that literal; numbers are finite doubles, zero has no sign
    ("literal",)                          any array or object: it equals nothing, so which one makes no difference
    ("kind",)  ("id",)                    a member of the entity; the kind may be null
    ("get", name)  ("has", name)          a property or null; whether it is there and not null
    ("!", tree)  ("all", tree...)  ("any", tree...)
    ("==" "!=" "<" "<=" ">" ">=", tree, tree)
    ("in", tree, (scalar...))             the scalars are distinct literals

Law: evaluation never raises and never compares across types. Python alone would take `True` for 1, compare integers
beyond 2^53 more exactly than JSON's doubles, and refuse to order or hash some values; so each comparison looks at the
exact type first and makes a float of a number. Strings compare by code point, as Python's do.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TypeAlias

Tree: TypeAlias = "bool | float | str | tuple[Tree, ...] | None"
Getter: TypeAlias = Callable[[str], object]
Test: TypeAlias = Callable[[str, "str | None", Getter], bool]
_Value: TypeAlias = Callable[[str, "str | None", Getter], object]
_Match: TypeAlias = Callable[[object], bool]
_Order: TypeAlias = Callable[["float | str", "float | str"], bool]

COMPOUND: Tree = ("literal",)

_ORDERS: Mapping[str, _Order] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_MIRRORED: Mapping[str, str] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
COMPARISONS = frozenset(["==", "!=", *_ORDERS])


def compile_tree(tree: Tree) -> Test:
    """Return what tells of an entity, given as (id, kind, properties' getter), whether the tree is exactly true."""
    match tree:
        case ("all", *operands):
            return _all([compile_tree(operand) for operand in operands])
        case ("any", *operands):
            return _any([compile_tree(operand) for operand in operands])
        case ("!", operand):
            return _not(compile_tree(operand))
        case ("==", left, right):
            return _equality(left, right)
        case ("!=", left, right):
            return _not(_equality(left, right))
        case (("<" | "<=" | ">" | ">=") as order, left, right):
            return _ordering(order, left, right)
        case ("in", needle, tuple(members)):
            return _applied(_is_one_of(members), needle)
        case ("has", str(name)):
            return lambda _id, _kind, get: get(name) is not None
        case ("get", str(name)):
            return lambda _id, _kind, get: get(name) is True
        case True:
            return lambda _id, _kind, _get: True
    return lambda _id, _kind, _get: False  # other literals, id and kind are never `true`


def _value(tree: Tree) -> _Value:
    match tree:
        case ("get", str(name)):
            return lambda _id, _kind, get: get(name)
        case ("kind",):
            return lambda _id, kind, _get: kind
        case ("id",):
            return lambda id, _kind, _get: id
        case ("literal",):
            return lambda _id, _kind, _get: tree
        case tuple():
            return compile_tree(tree)
    return lambda _id, _kind, _get: tree


def _all(tests: list[Test]) -> Test:
    def test(id: str, kind: str | None, get: Getter) -> bool:
        # A loop, as a generator would cost more than most tests do.
        for one in tests:  # noqa: SIM110
            if not one(id, kind, get):
                return False
        return True

    return test


def _any(tests: list[Test]) -> Test:
    def test(id: str, kind: str | None, get: Getter) -> bool:
        for one in tests:  # noqa: SIM110
            if one(id, kind, get):
                return True
        return False

    return test


def _not(test: Test) -> Test:
    return lambda id, kind, get: not test(id, kind, get)


def _applied(match: _Match, operand: Tree) -> Test:
    """`match` of what the operand evaluates to. The common operands are read without another call."""
    match operand:
        case ("get", str(name)):
            return lambda _id, _kind, get: match(get(name))
        case ("kind",):
            return lambda _id, kind, _get: match(kind)
        case ("id",):
            return lambda id, _kind, _get: match(id)
    value = _value(operand)
    return lambda id, kind, get: match(value(id, kind, get))


def _is_literal(tree: Tree) -> bool:
    return type(tree) is not tuple or tree == COMPOUND


def _equality(left: Tree, right: Tree) -> Test:
    if _is_literal(right):
        return _applied(_is(right), left)
    if _is_literal(left):
        return _applied(_is(left), right)
    left_value, right_value = _value(left), _value(right)
    return lambda id, kind, get: _equal(left_value(id, kind, get), right_value(id, kind, get))


def _equal(left: object, right: object) -> bool:
    if type(left) is str:
        return type(right) is str and left == right
    if type(left) is float or type(left) is int:
        return (type(right) is float or type(right) is int) and float(left) == float(right)
    # What is left is null, true and false, each one object in Python; an array or object is not even itself.
    return left is right and (left is None or type(left) is bool)


def _is(literal: Tree) -> _Match:
    """`_equal` with one side known beforehand."""
    if type(literal) is str:
        return lambda value: value == literal
    if type(literal) is float:
        return lambda value: (type(value) is float or type(value) is int) and float(value) == literal
    if type(literal) is tuple:
        return lambda _value: False
    return lambda value: value is literal


def _is_one_of(members: tuple[Tree, ...]) -> _Match:
    """`_equal` with any of `members`, in constant time. Numbers have a set of their own, as Python has True in {1.0}."""
    strings = frozenset(member for member in members if type(member) is str)
    numbers = frozenset(member for member in members if type(member) is float)
    has_null, has_true, has_false = (any(member is single for member in members) for single in (None, True, False))

    def match(value: object) -> bool:
        if type(value) is str:
            return value in strings
        if type(value) is float or type(value) is int:
            return float(value) in numbers
        return (value is None and has_null) or (value is True and has_true) or (value is False and has_false)

    return match


def _ordering(order: str, left: Tree, right: Tree) -> Test:
    if _is_literal(right):
        return _applied(_is_before(_ORDERS[order], right), left)
    if _is_literal(left):
        return _applied(_is_before(_ORDERS[_MIRRORED[order]], left), right)
    compare, left_value, right_value = _ORDERS[order], _value(left), _value(right)

    def test(id: str, kind: str | None, get: Getter) -> bool:
        a, b = left_value(id, kind, get), right_value(id, kind, get)
        if type(a) is str:
            return type(b) is str and compare(a, b)
        if type(a) is float or type(a) is int:
            return (type(b) is float or type(b) is int) and compare(float(a), float(b))
        return False

    return test


def _is_before(compare: _Order, literal: Tree) -> _Match:
    """An ordering whose right side is known beforehand."""
    if type(literal) is str:
        return lambda value: type(value) is str and compare(value, literal)
    if type(literal) is float:
        return lambda value: (type(value) is float or type(value) is int) and compare(float(value), literal)
    return lambda _value: False
