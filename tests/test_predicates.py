"""Random filters: the compiled ones against an oracle, the tree against both, and one meaning written in many ways.

Law: `Oracle` is written from the rules of docs/filters.md and shares nothing with the package. It reads the expression
as it was sent, so parsing, the canonical tree and the closures are all on trial. Hypothesis prints how to repeat a failure.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.config import LimitsConfig
from realtime.engine.filters import Filter, parse_filter
from realtime.errors import ErrorCode, Refused

VECTORS = json.loads((Path(__file__).parent / "vectors" / "filters.json").read_text(encoding="utf-8"))
# Random filters are about meaning; some are longer than a client's may be.
LIMITS = LimitsConfig(filter_bytes=100_000)


def passes(filter: Filter, entity: dict[str, Any]) -> bool:
    return filter.passes(entity["id"], entity["kind"], entity["properties"].get)


class Oracle:
    """The rules of the language, one after the other, on the expression as it was sent."""

    def __init__(self, user: str | None, entity: dict[str, Any]) -> None:
        self.user = user
        self.entity = entity

    def passes(self, expression: Any) -> bool:
        return self.value(expression) is True

    def value(self, expression: Any) -> Any:
        if not isinstance(expression, list):
            return expression
        operator, *operands = expression
        if operator == "literal":
            return operands[0]
        if operator == "user":
            return self.user
        if operator in ("id", "kind"):
            return self.entity[operator]
        if operator in ("get", "has"):
            found = self.entity["properties"].get(operands[0])
            return found if operator == "get" else found is not None
        if operator == "in":
            return any(self.equal(self.value(operands[0]), member) for member in operands[1][1])
        values = [self.value(operand) for operand in operands]
        if operator == "all":
            return not [value for value in values if value is not True]
        if operator == "any":
            return bool([value for value in values if value is True])
        if operator == "!":
            return values[0] is not True
        left, right = values
        if operator in ("==", "!="):
            return self.equal(left, right) == (operator == "==")
        if self.kind(left) != self.kind(right) or self.kind(left) not in ("number", "string"):
            return False
        a, b = self.rank(left), self.rank(right)
        return {"<": a < b, "<=": a < b or a == b, ">": b < a, ">=": b < a or a == b}[operator]

    def equal(self, a: Any, b: Any) -> bool:
        if self.kind(a) != self.kind(b) or self.kind(a) == "other":
            return False
        return bool(self.rank(a) == self.rank(b))

    @staticmethod
    def kind(value: Any) -> str:
        if value is None:
            return "null"
        if value is True or value is False:
            return "boolean"
        if isinstance(value, (int, float)):
            return "number"
        return "string" if isinstance(value, str) else "other"

    @staticmethod
    def rank(value: Any) -> Any:
        """What two values of one kind are compared by."""
        if isinstance(value, str):
            return [ord(character) for character in value]
        return value if value is None or isinstance(value, bool) else float(value)


@pytest.mark.parametrize("row", VECTORS["cases"], ids=lambda row: json.dumps(row["filter"])[:60])
def test_the_oracle_knows_the_rules(row: dict[str, Any]) -> None:
    assert Oracle(row["user"], VECTORS["entities"][row["entity"]]).passes(row["filter"]) is row["passes"]


# Few names and values, and those that languages disagree about, so that comparisons often meet.
NAMES = st.sampled_from(["a", "b", ""])
NUMBERS = st.sampled_from([0, -0.0, 1, 1.0, -1, 1.5, 2**53, 2**53 + 1, float(2**53), 2**64 - 1, float(2**64), 5e-324, 1e308])
STRINGS = st.sampled_from(
    ["", "a", "A", "1", "10", "9", "true", "null", "kind", "\u00fc", "u\u0308", "\ue000", "\uffff", "\U0001f600", "a\0"]
)
SCALARS = st.one_of(st.sampled_from([None, True, False]), NUMBERS, STRINGS, st.integers(-(2**63), 2**64 - 1), st.text(max_size=3))
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(NAMES, SCALARS, max_size=2))
ENTITIES = st.fixed_dictionaries(
    {
        "id": STRINGS.filter(bool),
        "kind": st.one_of(st.none(), STRINGS),
        "properties": st.dictionaries(NAMES, VALUES.filter(lambda value: value is not None)),
    }
)
USERS = st.one_of(st.none(), STRINGS)
LITERALS = st.one_of(SCALARS, VALUES.map(lambda value: ["literal", value]))
LEAVES = st.one_of(
    NAMES.map(lambda name: ["get", name]),
    NAMES.map(lambda name: ["get", name]),
    NAMES.map(lambda name: ["has", name]),
    st.sampled_from([["kind"], ["id"], ["user"]]),
)


def _grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    any_operand = st.one_of(inner, LITERALS)
    two = st.one_of(st.tuples(inner, any_operand), st.tuples(any_operand, inner))
    return st.one_of(
        st.builds(lambda operator, operands: [operator, *operands], st.sampled_from(["all", "any"]), st.lists(any_operand, max_size=3)),
        any_operand.map(lambda operand: ["!", operand]),
        st.builds(lambda operator, pair: [operator, *pair], st.sampled_from(["==", "!="]), two),
        st.builds(lambda operator, pair: [operator, *pair], st.sampled_from(["<", "<=", ">", ">="]), two),
        st.builds(lambda needle, members: ["in", needle, ["literal", members]], any_operand, st.lists(VALUES, max_size=4)),
    )


EXPRESSIONS = st.one_of(st.recursive(LEAVES, _grown, max_leaves=6), LITERALS)


@settings(max_examples=1000, deadline=None)
@given(EXPRESSIONS, USERS, st.lists(ENTITIES, min_size=1, max_size=4))
def test_random_filters_agree_with_the_oracle(expression: Any, user: str | None, entities: list[dict[str, Any]]) -> None:
    filter = parse_filter(expression, user, LIMITS)
    for entity in entities:
        expected = Oracle(user, entity).passes(expression)
        assert passes(filter, entity) is expected
        assert Oracle(None, entity).passes(spelled(filter.tree)) is expected, "the tree alone says what is meant"


def spelled(tree: Any) -> Any:
    """A tree as an expression again, without its limits and with the user as a literal."""
    match tree:
        case ("literal",):
            return ["literal", []]
        case ("in", needle, members):
            return ["in", spelled(needle), ["literal", list(members)]]
        case (("get" | "has") as operator, name):
            return [operator, name]
        case (operator, *operands):
            return [operator, *map(spelled, operands)]
    assert tree is None or type(tree) in (bool, float, str)
    return tree


def respelled(expression: Any, data: st.DataObject) -> Any:
    """An expression of the same meaning, written otherwise."""
    if not isinstance(expression, list):
        if type(expression) is int:
            expression = float(expression)
        return ["literal", expression] if data.draw(st.booleans()) else expression
    operator, *operands = expression
    if operator == "in":
        members = data.draw(st.permutations(operands[1][1]))
        return ["in", respelled(operands[0], data), ["literal", members + members[:1]]]
    if operator == "literal" and not isinstance(operands[0], (list, dict)):
        return respelled(operands[0], data)
    if operator in ("get", "has", "literal"):
        return expression
    return [operator, *(respelled(operand, data) for operand in operands)]


@settings(deadline=None)
@given(EXPRESSIONS, st.data())
def test_random_filters_written_otherwise_are_one(expression: Any, data: st.DataObject) -> None:
    assert parse_filter(expression, "ada", LIMITS) == parse_filter(respelled(expression, data), "ada", LIMITS)


@settings(deadline=None)
@given(
    st.recursive(
        VALUES, lambda inner: st.lists(st.one_of(st.sampled_from(["all", "==", "in", "get", "literal", "kind"]), inner), max_size=4)
    )
)
def test_random_json_is_taken_or_refused_with_its_place(value: Any) -> None:
    try:
        filter = parse_filter(value, "ada", LIMITS)
    except Refused as refused:
        code, message = refused.code, refused.message
    else:
        assert passes(filter, VECTORS["entities"]["bus"]) in (True, False)
        return
    assert code is ErrorCode.BAD_FILTER
    place, _, why = message.partition(": ")
    assert why
    found = value
    for index in place.removeprefix("filter").replace("]", "").split("[")[1:]:
        found = found[int(index)]
