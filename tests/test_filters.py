"""The filter language: the table of cases, what is refused and where, the limits, and which filters are one.

Law: every expected answer is written down, here or in vectors/filters.json, none is computed. Random filters are in
test_predicates.py.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from realtime.config import LimitsConfig
from realtime.engine.filters import Filter, parse_filter
from realtime.errors import ErrorCode, Refused

LIMITS = LimitsConfig()
VECTORS = json.loads((Path(__file__).parent / "vectors" / "filters.json").read_text(encoding="utf-8"))


def parse(expression: object, user: str | None = None, **limits: int) -> Filter:
    return parse_filter(expression, user, msgspec.structs.replace(LIMITS, **limits))


NO_PROPERTIES: dict[str, object] = {}
absent = NO_PROPERTIES.get


def passes(filter: Filter, entity: dict[str, Any]) -> bool:
    return filter.passes(entity["id"], entity["kind"], entity["properties"].get)


def refusal(expression: object, **limits: int) -> str:
    with pytest.raises(Refused) as caught:
        parse(expression, None, **limits)
    assert caught.value.code is ErrorCode.BAD_FILTER
    assert len(caught.value.message) < 400, "it goes back to the client on one line, whatever was sent"
    assert caught.value.message.isprintable()
    return caught.value.message


def test_the_table_is_whole() -> None:
    assert len(VECTORS["cases"]) >= 150
    assert len(VECTORS["refused"]) >= 40
    spelled = {row["filter"][0] for row in VECTORS["cases"] if isinstance(row["filter"], list)}
    assert spelled == {"all", "any", "!", "==", "!=", "<", "<=", ">", ">=", "in", "has", "get", "literal", "kind", "id", "user"}
    assert {row["user"] for row in VECTORS["cases"]} <= set(VECTORS["users"])
    assert {row["entity"] for row in VECTORS["cases"]} == set(VECTORS["entities"])


@pytest.mark.parametrize("row", VECTORS["cases"], ids=lambda row: json.dumps(row["filter"])[:60])
def test_case(row: dict[str, Any]) -> None:
    entity = VECTORS["entities"][row["entity"]]
    filter = parse(row["filter"], row["user"])
    assert passes(filter, entity) is row["passes"], row["rule"]
    # Entities reach the engine by msgspec and as canonical bytes; how a number was spelled must make no difference.
    again = msgspec.json.decode(msgspec.json.encode(entity))
    assert passes(filter, again) is row["passes"], row["rule"]


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: json.dumps(row["filter"])[:60])
def test_refused(row: dict[str, Any]) -> None:
    assert refusal(row["filter"]).startswith(row["place"] + ": "), row["why"]


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        (["==", "kind", "bus"], '["==", ["kind"], "bus"]'),
        (["!=", "id", "bus-7"], '["!=", ["id"], "bus-7"]'),
        (["==", "$id", 7], '["==", ["id"], 7]'),
        ([">=", "speed", 1.5], '[">=", ["get", "speed"], 1.5]'),
        (["in", "kind", "bus", "tram"], '["in", ["kind"], ["literal", ["bus", "tram"]]]'),
        (["==", "Straße", "Zürich"], '["==", ["get", "Straße"], "Zürich"]'),
        (["in", "state", "open"], '["in", ["get", "state"], ["literal", ["open"]]]'),
        (["has", ["get", "x"]], '["has", "x"]'),
        (["in", ["kind"], ["bus"]], '["literal", [...]]'),
        (["within", {}], "all any ! == != < <= > >= in has get literal kind id user"),
    ],
)
def test_refusal_helps(expression: object, hint: str) -> None:
    assert hint in refusal(expression)


def test_refusal_repeats_little_of_what_was_sent() -> None:
    """`refusal` checks the length of the line and that it is one."""
    for text in ("x" * 10_000, "\n\r\x1b[31m", '"]; DROP', "\u202e\U0001f600" * 1000, "\ud800"):
        for expression in (
            [text],
            ["==", text, 1],
            ["==", 1, text],
            ["in", text, text, text],
            ["has", ["get", text]],
            ["in", ["id"], text],
        ):
            refusal(expression)
    for number in (10**5000, math.nan):  # Python itself refuses to spell so long an integer
        refusal(["==", "x", number])
        refusal(["in", "x", number])


LONE = "\ud800"


@pytest.mark.parametrize(
    ("expression", "place"),
    [
        (math.nan, "filter"),
        (math.inf, "filter"),
        (["<", ["get", "x"], -math.inf], "filter[2]"),
        (["literal", math.nan], "filter[1]"),
        (["in", ["get", "x"], ["literal", [1, math.nan]]], "filter[2][1][1]"),
        (["literal", {"a": [math.nan]}], "filter[1][0]"),  # inside an object: the object's place, then what is below
        (2**64, "filter"),
        (["==", ["get", "x"], -(2**63) - 1], "filter[2]"),
        (["==", ["get", "x"], 10**400], "filter[2]"),
        (LONE, "filter"),
        (["==", ["get", "x"], "a" + LONE], "filter[2]"),
        (["get", LONE], "filter[1]"),
        (["has", LONE], "filter[1]"),
        ([LONE, 1], "filter[0]"),
        (["==", LONE, "x"], "filter[1]"),
        (["in", ["kind"], ["literal", ["a", LONE]]], "filter[2][1][1]"),
        (["literal", {LONE: 1}], "filter[1]"),
        (["literal", {1: 1}], "filter[1]"),
        (b"bus", "filter"),
        (["==", ["get", "x"], b"bus"], "filter[2]"),
        (["literal", [datetime.datetime(2020, 1, 1)]], "filter[1][0]"),
        (["literal", {"a", "b"}], "filter[1]"),
        (("get", "x"), "filter"),
    ],
)
def test_what_no_subprotocol_carries(expression: object, place: str) -> None:
    assert refusal(expression).startswith(place + ": ")


def test_integers_reach_to_64_bits() -> None:
    for integer in (2**64 - 1, -(2**63)):
        assert parse(["==", ["get", "x"], integer]).passes("id", None, {"x": float(integer)}.get)


def test_bytes_are_counted_as_compact_json_in_utf8() -> None:
    expression = ["==", ["get", "name"], "Zürich, 10°"]
    size = len('["==",["get","name"],"Zürich, 10°"]'.encode())
    parse(expression, filter_bytes=size)
    assert refusal(expression, filter_bytes=size - 1) == f"filter: longer than {size - 1} bytes as JSON"


def test_bytes_at_the_default_limit() -> None:
    def of(size: int) -> object:
        return ["==", ["get", "x"], "a" * (size - len('["==",["get","x"],""]'))]

    parse(of(8192))
    assert "8192 bytes" in refusal(of(8193))


@pytest.mark.parametrize("limit", [29, 30, 31, 1000])
def test_a_list_too_long_is_not_read_to_its_end(limit: int) -> None:
    room = (limit - len('["in",["id"],["literal",[]]]') + 1) // 2
    parse(["in", ["id"], ["literal", [1] * room]], filter_bytes=limit)
    why = f"filter: longer than {limit} bytes as JSON"
    assert refusal(["in", ["id"], ["literal", [1] * (room + 1)]], filter_bytes=limit) == why
    # What cannot be encoded stands at the end; had it been reached, it would be the reason.
    assert refusal(["in", ["id"], ["literal", [1] * limit + [math.nan]]], filter_bytes=limit) == why
    assert refusal(["literal", {str(n): math.nan for n in range(limit)}], filter_bytes=limit) == why
    assert refusal(["all", *[True] * limit, math.nan], filter_bytes=limit, filter_nodes=10_000) == why


def test_the_early_count_of_bytes_never_refuses_what_fits() -> None:
    for expression in (["all"], ["all", 1], ["literal", []], ["literal", [[], [[]], {}, {"": 1}, 1, ""]], ["in", 1, ["literal", [1]]]):
        size = len(msgspec.json.encode(expression))
        parse(expression, filter_bytes=size)
        refusal(expression, filter_bytes=size - 1)


def nested(levels: int, inner: object = True) -> Any:
    for _ in range(levels):
        inner = ["!", inner]
    return inner


def boxed(levels: int) -> Any:
    inner: Any = 1
    for level in range(levels):
        inner = [inner] if level % 2 else {"a": inner}
    return inner


def test_levels_are_pairs_of_brackets() -> None:
    for expression, levels in [
        (True, 0),
        (["kind"], 1),
        (["==", ["get", "x"], 1], 2),
        (["in", ["get", "x"], ["literal", ["a"]]], 3),
        (["literal", [[{"a": []}]]], 5),
    ]:
        if levels:
            parse(expression, filter_levels=levels)
        if levels > 1:
            assert f"more than {levels - 1} levels" in refusal(expression, filter_levels=levels - 1)


def test_levels_at_the_default_limit() -> None:
    assert passes(parse(nested(16)), VECTORS["entities"]["bus"])
    assert refusal(nested(17)) == "filter" + "[1]" * 16 + ": nested more than 16 levels deep"
    parse(["literal", boxed(15)])
    refusal(["literal", boxed(16)])


@pytest.mark.parametrize("levels", [100, 1_000, 50_000])
@pytest.mark.parametrize("limit", [16, 1_000_000])
def test_deep_nesting_is_refused_and_nothing_else(levels: int, limit: int) -> None:
    deep = boxed(levels)
    for expression in (
        nested(levels),
        ["all", True, nested(levels)],
        ["literal", deep],
        ["==", ["get", "x"], ["literal", deep]],
        ["in", ["get", "x"], ["literal", [deep]]],
        ["in", nested(levels), ["literal", [1]]],
    ):
        assert "levels deep" in refusal(expression, filter_levels=limit, filter_nodes=1_000_000, filter_bytes=10_000_000)


def test_the_deepest_filter_that_any_setting_allows_is_evaluated() -> None:
    filter = parse(nested(32), filter_levels=1_000_000)
    assert passes(filter, VECTORS["entities"]["bus"])
    assert "32 levels" in refusal(nested(33), filter_levels=1_000_000)


def test_nodes_are_expressions_and_literals() -> None:
    for expression, nodes in [
        (True, 1),
        (["get", "x"], 1),
        (["literal", [1, [2], {"a": 3}]], 1),
        (["==", ["get", "x"], 1], 3),
        (["in", ["get", "x"], ["literal", ["a", "b", "c"]]], 3),
        (["all", ["==", ["kind"], "bus"], ["!", ["has", "x"]]], 6),
    ]:
        parse(expression, filter_nodes=nodes)
        if nodes > 1:
            assert refusal(expression, filter_nodes=nodes - 1) == f"filter: more than {nodes - 1} expressions and literals"


def test_nodes_at_the_default_limit() -> None:
    parse(["all", *[True] * 255])
    assert "256" in refusal(["all", *[True] * 256])


def test_a_list_of_a_thousand_members_is_one_node() -> None:
    members = [f"b{n}" for n in range(1000)]
    filter = parse(["in", ["id"], ["literal", members]])
    assert all(filter.passes(id, None, absent) for id in members)
    assert not any(filter.passes(id, None, absent) for id in ("b1000", "b", "", "b01"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["==", ["get", "x"], 1], ["==", ["get", "x"], 1.0]),
        (["==", ["get", "x"], 0], ["==", ["get", "x"], -0.0]),
        (["==", ["get", "x"], 2**53], ["==", ["get", "x"], 2**53 + 1]),
        (["==", ["get", "x"], 5], ["==", ["get", "x"], ["literal", 5]]),
        (["literal", True], True),
        (["in", ["get", "x"], ["literal", [1, 2]]], ["in", ["get", "x"], ["literal", [2.0, 1, 2]]]),
        (["in", ["get", "x"], ["literal", ["a"]]], ["in", ["get", "x"], ["literal", ["a", ["a"], {"b": 1}]]]),
        (["==", ["get", "x"], ["literal", [1]]], ["==", ["get", "x"], ["literal", {"a": 2}]]),
    ],
)
def test_equal_filters_are_one(one: object, other: object) -> None:
    assert parse(one) == parse(other)
    assert hash(parse(one)) == hash(parse(other))
    assert {parse(one): "interned"}[parse(other)] == "interned"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (True, 1),
        (False, 0),
        (None, False),
        ("true", True),
        ("1", 1),
        ("kind", ["kind"]),
        ("", ["literal", []]),
        (["==", ["get", "x"], True], ["==", ["get", "x"], 1]),
        (["==", ["get", "x"], None], ["==", ["get", "x"], False]),
        (["==", ["get", "x"], "a"], ["==", ["get", "x"], "A"]),
        (["==", ["get", "x"], "\u00fc"], ["==", ["get", "x"], "u\u0308"]),
        (["==", ["get", "x"], 0.1], ["==", ["get", "x"], 0.1 + 1e-17 * 2]),
        (["==", ["get", "x"], 1], ["!=", ["get", "x"], 1]),
        (["==", ["get", "x"], 1], ["==", ["get", "y"], 1]),
        (["get", "x"], ["has", "x"]),
        (["id"], ["kind"]),
        (["in", ["get", "x"], ["literal", [True]]], ["in", ["get", "x"], ["literal", [1]]]),
        (["in", ["get", "x"], ["literal", []]], ["in", ["get", "x"], ["literal", [None]]]),
        (["all", ["all", True], True], ["all", ["all", True, True]]),
    ],
)
def test_different_filters_are_two(one: object, other: object) -> None:
    assert parse(one) != parse(other)
    assert len({parse(one), parse(other)}) == 2


def test_the_user_is_bound() -> None:
    mine = ["==", ["get", "owner"], ["user"]]
    assert parse(mine, "ada") == parse(mine, "ada")
    assert len({parse(mine, "ada"), parse(mine, "bob"), parse(mine, None)}) == 3
    assert parse(mine, "ada") == parse(["==", ["get", "owner"], "ada"], "bob")
    assert parse(["==", ["kind"], "bus"], "ada") == parse(["==", ["kind"], "bus"], None)
    # A user is a string whatever it spells; it can neither become an operator nor a literal of another type.
    assert parse(["user"], "true") != parse(True)
    assert not passes(parse(["user"], "true"), VECTORS["entities"]["bus"])


def test_a_filter_is_immutable() -> None:
    filter = parse(["kind"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        filter.key = b"null"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        filter.extra = 1  # type: ignore[attr-defined]


def test_a_filter_keeps_nothing_of_what_it_was_made_of() -> None:
    members: list[Any] = ["a"]
    expression = ["in", ["kind"], ["literal", members]]
    filter = parse(expression)
    members[0] = "b"
    expression[0] = "bogus"
    assert filter.passes("id", "a", absent)
    assert filter == parse(["in", ["kind"], ["literal", ["a"]]])


def test_only_properties_that_matter_are_asked_for() -> None:
    asked: list[str] = []

    def get(name: str) -> object:
        asked.append(name)
        return None

    assert not parse(["all", ["==", ["kind"], "bus"], ["has", "x"]]).passes("id", "tram", get)
    assert parse(["any", ["==", ["kind"], "tram"], ["has", "x"]]).passes("id", "tram", get)
    assert asked == []


def test_the_page_for_users_is_true() -> None:
    """Every example of docs/filters.md is a filter, and every message in its table is what one gets."""
    page = (Path(__file__).parent.parent / "docs" / "filters.md").read_text(encoding="utf-8")
    examples = [json.loads(line) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(examples) >= 5
    for example in examples:
        parse(example["filter"] if isinstance(example, dict) else example, "ada")
    table = re.findall(r"^\| `(\[.*\])` \| `(filter.*)` \|$", page, re.MULTILINE)
    assert len(table) >= 5
    for expression, message in table:
        assert refusal(json.loads(expression)).startswith(message.removesuffix("…"))
    for setting in ("filter_bytes", "filter_levels", "filter_nodes"):
        assert f"`limits.{setting}`" in page
