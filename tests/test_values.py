"""What passes as an id, a version and a value, and that canonical bytes are equal exactly where values are."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.errors import ErrorCode, Refused
from realtime.values import (
    INTEGER_MAX,
    INTEGER_MIN,
    NODE_NUMBERS,
    VERSION_EPOCH_S,
    VERSION_MAX,
    canonical,
    next_version,
    parse_id,
    parse_version,
)

# Few of each, so that equal values spelled differently come up by themselves.
numbers = st.one_of(
    st.sampled_from([0, -0.0, 0.0, 1, 1.0, -1, -1.0, 2**53, 2.0**53, 2**53 + 1, 2**63, 2.0**63, 2**64 - 1, 2.0**64, 1e22, 0.1, 5e-324]),
    st.integers(INTEGER_MIN, INTEGER_MAX),
    st.floats(allow_nan=False, allow_infinity=False),
)
texts = st.one_of(st.sampled_from(["", "a", "b", "é", "e\u0301", "\x00", "\U0001f600", '"', "\u2028"]), st.text(max_size=5))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8)


def equal(a: Any, b: Any) -> bool:
    """Equal as JSON values, told without any encoding."""
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b  # Python compares integers and doubles exactly
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def respelled(value: Any, change: Callable[[float], Any]) -> Any:
    """Return the same value in other words: members in another order, numbers as `change` spells them."""
    if isinstance(value, dict):
        return {key: respelled(item, change) for key, item in reversed(value.items())}
    if isinstance(value, list):
        return tuple(respelled(item, change) for item in value)
    return change(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def as_double(number: float) -> float:
    return float(number) if float(number) == number else number


def as_integer(number: float) -> float:
    return int(number) if number == int(number) and INTEGER_MIN <= number <= INTEGER_MAX else number


def code_of(call: Callable[[], object]) -> tuple[ErrorCode, str]:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.code, caught.value.message


def nested(depth: int, open: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = open(value)
    return value


# Canonical bytes


@given(values, values)
@example(1, True)
@example(0, False)
@example(-0.0, 0)
@example([], {})
@example(None, "null")
@example(2**53 + 1, 2.0**53)
@example({"a": 1, "b": [2.0]}, {"b": [2], "a": 1.0})
@example({"a": None}, {})
def test_bytes_are_equal_exactly_where_values_are(a: Any, b: Any) -> None:
    assert (canonical(a) == canonical(b)) is equal(a, b)


@given(values)
def test_another_spelling_of_the_same_value_has_the_same_bytes(value: Any) -> None:
    assert canonical(respelled(value, as_double)) == canonical(value) == canonical(respelled(value, as_integer))


@given(values)
def test_what_is_accepted_comes_back_in_both_encodings(value: Any) -> None:
    json_bytes = canonical(value)
    from_json = msgspec.json.decode(json_bytes)
    assert equal(from_json, value)
    assert equal(json.loads(json_bytes), value), "another JSON reader reads something else"
    assert equal(msgspec.msgpack.decode(msgspec.msgpack.encode(from_json)), value)
    assert canonical(from_json) == json_bytes


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1e22)
@example(1e23)
@example(9007199254740993.0)
@example(2.2250738585072011e-308)
@example(1.7976931348623157e308)
def test_a_number_comes_back_as_the_same_double(number: float) -> None:
    """Zero excepted, which has no sign as a value."""
    for spelling in (number, msgspec.json.decode(f"{number!r}"), msgspec.json.decode(f"{number:.30e}")):
        back = float(msgspec.json.decode(canonical(spelling)))
        assert struct.pack(">d", back) == struct.pack(">d", number + 0.0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, b"1"),
        (-0.0, b"0"),
        (1e20, b"1e20"),
        (0.1, b"0.1"),
        (INTEGER_MIN, b"-9223372036854775808"),
        (INTEGER_MAX, b"18446744073709551615"),
        (2.0**63, b"9223372036854775808"),
        ({"b": 1, "a": [True, None, "é"]}, '{"a":[true,null,"é"],"b":1}'.encode()),
        ((1, (2.0,)), b"[1,[2]]"),
    ],
)
def test_canonical_forms(value: Any, expected: bytes) -> None:
    assert canonical(value) == expected


class Bus(IntEnum):
    SEVEN = 7


class Name(str):
    __slots__ = ()


def test_subclasses_are_what_they_are_made_of() -> None:
    assert canonical([Bus.SEVEN, Name("x"), {Name("y"): Bus.SEVEN}]) == b'[7,"x",{"y":7}]'
    assert canonical(Bus.SEVEN) == b"7"


# What is refused


@pytest.mark.parametrize(
    "open", [lambda value: [value], lambda value: {"a": value}, lambda value: (value,)], ids=["arrays", "objects", "tuples"]
)
def test_nesting_ends_at_32(open: Callable[[Any], Any]) -> None:
    assert canonical(nested(32, open))
    for depth in (33, 100, 5_000):
        assert code_of(lambda depth=depth: canonical(nested(depth, open), "a")) == (
            ErrorCode.BAD_VALUE,
            "a: arrays and objects nest at most 32 deep",
        )


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (math.nan, "numbers are finite"),
        (math.inf, "numbers are finite"),
        (-math.inf, "numbers are finite"),
        (INTEGER_MAX + 1, "integers have at most 64 bits"),
        (INTEGER_MIN - 1, "integers have at most 64 bits"),
        (10**400, "integers have at most 64 bits"),
        ("\ud800", "a string is not made of Unicode scalar values"),
        ("\udc00\ud800", "a string is not made of Unicode scalar values"),
        (b"x", "bytes is no JSON value"),
        ({1, 2}, "set is no JSON value"),
        (1j, "complex is no JSON value"),
    ],
)
def test_what_not_every_encoding_can_carry_is_refused(value: Any, why: str) -> None:
    for holder in (value, [value], {"a": value}, {"a": [[value]]}):
        assert code_of(lambda holder=holder: canonical(holder, "speed")) == (ErrorCode.BAD_VALUE, f"speed: {why}")


@pytest.mark.parametrize("key", [1, None, True, b"a", ("a",), "\ud800"])
def test_keys_are_strings(key: Any) -> None:
    code, message = code_of(lambda: canonical({key: 1}, "a"))
    assert code is ErrorCode.BAD_VALUE
    assert message.startswith("a: ")


def test_a_limit_of_bytes_is_met_to_the_byte() -> None:
    for value in ("x" * 98, 10**15, ["x", [1.0, None], {"abc": True}], [0] * 40):
        size = len(canonical(value))
        assert canonical(value, "a", size) == canonical(value)
        assert code_of(lambda value=value, size=size: canonical(value, "a", size - 1)) == (
            ErrorCode.TOO_BIG,
            f"a: at most {size - 1} bytes are allowed",
        )


def test_what_is_far_too_long_is_not_read_to_its_end() -> None:
    read = 0

    class Number(float):
        def is_integer(self) -> bool:
            nonlocal read
            read += 1
            return super().is_integer()

    with pytest.raises(Refused):
        canonical([[Number(0.5)] for _ in range(10_000)], "a", 1_000)
    assert read == 0
    with pytest.raises(Refused):
        canonical([[Number(0.5)] * 10 for _ in range(400)], "a", 1_000)
    assert read <= 100


# Ids


@pytest.mark.parametrize("id", ["a", " ", "bus-7", "x" * 128, "é" * 64, "\U0001f600" * 32, "\u2028", "a b", "\xa0", "#/?%"])
def test_ids(id: str) -> None:
    assert parse_id(id) == id


@pytest.mark.parametrize(
    "id",
    [
        "",
        "x" * 129,
        "é" * 64 + "x",
        "\U0001f600" * 33,
        "a\x00",
        "\n",
        "\x7f",
        "\x80",
        "\x9f",
        "é\x1f",
        "\ud800",
        None,
        7,
        True,
        b"a",
        ["a"],
        Name("a"),
    ],
)
def test_no_ids(id: object) -> None:
    code, message = code_of(lambda: parse_id(id, "entity"))
    assert code is ErrorCode.BAD_ID
    assert message.startswith("entity: ")
    message.encode()


@given(st.text(max_size=140))
def test_an_id_is_1_to_128_bytes_without_control_characters(text: str) -> None:
    encoded = text.encode()
    is_id = 1 <= len(encoded) <= 128 and not any(c < " " or "\x7f" <= c <= "\x9f" for c in text)
    try:
        assert parse_id(text) == text
        assert is_id
    except Refused:
        assert not is_id


# Versions


@pytest.mark.parametrize(("value", "expected"), [(1, 1), (1.0, 1), (VERSION_MAX, VERSION_MAX), (float(VERSION_MAX), VERSION_MAX)])
def test_versions(value: object, expected: int) -> None:
    assert parse_version(value) == expected
    assert type(parse_version(value)) is int


@pytest.mark.parametrize("value", [0, -1, 1.5, VERSION_MAX + 1, 1e300, 10**400, math.nan, math.inf, True, False, None, "1", [1]])
def test_no_versions(value: object) -> None:
    assert code_of(lambda: parse_version(value)) == (ErrorCode.BAD_VERSION, f"version: an integer from 1 to {VERSION_MAX} is expected")


@given(
    st.integers(0, VERSION_MAX),
    st.floats(VERSION_EPOCH_S - 1e6, VERSION_EPOCH_S + 1e9),
    st.integers(0, NODE_NUMBERS - 1),
)
def test_a_given_version_is_the_smallest_that_may_be_given(seen: int, now: float, node: int) -> None:
    version = next_version(seen, now, node)
    milliseconds = int((now - VERSION_EPOCH_S) * 1000)

    def may_be(version: int) -> bool:
        return version > seen and version >= milliseconds * NODE_NUMBERS and version % NODE_NUMBERS == node

    assert may_be(version) and version >= 1
    assert not may_be(version - NODE_NUMBERS)


@given(
    st.integers(0, VERSION_MAX), st.floats(VERSION_EPOCH_S, VERSION_EPOCH_S + 1e9), st.lists(st.integers(0, 4095), min_size=2, unique=True)
)
def test_two_nodes_never_give_the_same_version(seen: int, now: float, nodes: list[int]) -> None:
    given = [next_version(seen, now, node) for node in nodes]
    assert len(set(given)) == len(given)
    assert max(given) - min(given) < NODE_NUMBERS
