"""Bytes to messages and back: whatever comes is a message, `Undecodable` or `Refused` with its place, never anything else."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime import messages
from realtime.config import LimitsConfig
from realtime.errors import ErrorCode, Refused

pack = msgspec.msgpack.encode


def in_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def read(data: str | bytes) -> messages.ClientMessage:
    return messages.to_message(messages.decode_object(data))


def refusal(value: dict[Any, Any]) -> tuple[ErrorCode, str]:
    with pytest.raises(Refused) as caught:
        messages.to_message(value)
    caught.value.message.encode()
    assert len(caught.value.message) < 300
    return caught.value.code, caught.value.message


# Messages of every type, whole

WHOLE: list[tuple[dict[str, Any], messages.ClientMessage]] = [
    ({"type": "identify"}, messages.Identify()),
    ({"type": "identify", "token": "t" * 4096, "client": "map/1.2"}, messages.Identify("t" * 4096, "map/1.2")),
    ({"type": "view", "bbox": None}, messages.View(None)),
    (
        {
            "type": "view",
            "bbox": [0, 0, 1, 1],
            "zoom": 3,
            "filter": ["has", "a"],
            "ids": ["a"],
            "max_hz": 2,
            "id": "v1",
            "have": {"a": 1, "b": 2.0},
            "world": "w",
            "away_ms": 5,
            "last": False,
        },
        messages.View([0, 0, 1, 1], 3.0, ["has", "a"], ["a"], 2.0, "v1", {"a": 1, "b": 2.0}, "w", 5.0, False),
    ),
    ({"type": "view", "last": True}, messages.View(last=True)),
    ({"type": "refresh"}, messages.Refresh()),
    ({"type": "check"}, messages.CheckRequest()),
    ({"type": "publish", "updates": [1, {}, None], "id": 7}, messages.Publish([1, {}, None], 7)),
    ({"type": "subscribe", "channels": {}}, messages.Subscribe()),
    ({"type": "unsubscribe", "channels": []}, messages.Unsubscribe()),
    ({"type": "ack", "jobs": []}, messages.JobsShown()),
    ({"type": "ping", "t": 1.5}, messages.Ping(1.5)),
    ({"type": "ping", "t": "now"}, messages.Ping("now")),
]


@pytest.mark.parametrize(("value", "message"), WHOLE, ids=lambda value: str(value)[:40])
def test_both_encodings_carry_the_same_message(value: dict[str, Any], message: messages.ClientMessage) -> None:
    assert read(in_json(value)) == read(pack(value)) == message
    assert read(in_json(value | {"unknown": {"member": [1]}})) == message, "unknown members are ignored"


@pytest.mark.parametrize(
    "message",
    [
        messages.Welcome(1, "s", None, "node-0", "e", "w", messages.WelcomeLimits(1, 2, 3.5, 4)),
        messages.Check(0, 0, "00000000", 0),
        messages.Ack(1, 2, 3, [messages.Rejected(0, ErrorCode.BAD_ID, "id: …")], 1, "p"),
        messages.Pong(1),
        messages.Error(ErrorCode.BAD_VIEW, "bbox: …", 7),
        messages.Drain(100),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_the_server_says_is_the_same_in_both_encodings(message: messages.ServerMessage) -> None:
    text, packed = messages.encode(message, True), messages.encode(message, False)
    assert json.loads(text) == msgspec.msgpack.decode(packed)
    assert json.loads(text)["type"] == type(message).__name__.lower()


def test_an_id_that_there_is_none_of_is_left_out() -> None:
    assert "id" not in json.loads(messages.encode(messages.Ack(0, 0, 0, [], 0), True))
    assert "ref" not in json.loads(messages.encode(messages.Error(ErrorCode.BAD_VIEW, "x"), True))
    assert json.loads(messages.encode(messages.Pong(None), True)) == {"type": "pong", "t": None}


def test_a_pong_echoes_the_same_number() -> None:
    for t in (0, 1, 1.5, -1e300, 2**53 + 1, "x", None):
        message = read(in_json({"type": "ping", "t": t}))
        assert isinstance(message, messages.Ping)
        assert json.loads(messages.encode(messages.Pong(message.t), True))["t"] == t
        assert type(message.t) is type(t)


# What is no object

UNDECODABLE_TEXT: dict[str, str] = {
    "empty": "",
    "blank": " ",
    "cut": '{"type":"ping"',
    "number": "7",
    "string": '"ping"',
    "null": "null",
    "array": "[]",
    "true": "true",
    "nan": '{"type":"ping","t":NaN}',
    "infinity": '{"type":"ping","t":Infinity}',
    "minus infinity": '{"type":"ping","t":-Infinity}',
    "1e400": '{"type":"ping","t":1e400}',
    "-1e400": '{"type":"view","bbox":[-1e400,0,0,0]}',
    "bom": '\ufeff{"type":"ping"}',
    "trailing junk": '{"type":"ping"} x',
    "two objects": '{"type":"ping"}{"type":"ping"}',
    "trailing comma": '{"type":"ping",}',
    "comment": '{"type":"ping"} // no',
    "single quotes": "{'type':'ping'}",
    "lone surrogate": '{"type":"ping","t":"\\ud800"}',
    "surrogates in the wrong order": '{"type":"ping","t":"\\udc00\\ud800"}',
    "raw control character": '{"type":"ping","t":"\n"}',
    "leading zero": '{"type":"ping","t":01}',
    "hexadecimal": '{"type":"ping","t":0x1}',
    "NUL": "\x00",
    "10 MB number": '{"type":"ping","t":' + "1" * 10_000_000 + "}",
    "10 MB negative number": '{"type":"ping","t":-' + "1" * 10_000_000 + "}",
}
UNDECODABLE_BYTES: dict[str, bytes] = {
    "empty": b"",
    "nil": b"\xc0",
    "array": b"\x90",
    "number": b"\x07",
    "string": b"\xa4ping",
    "never used": b"\xc1",
    "cut": b"\x81\xa4type",
    "trailing junk": pack({"type": "ping"}) + b"\x00",
    "map of 4 billion": b"\xdf\xff\xff\xff\xff",
    "array of 4 billion": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "string of 4 billion": b"\x81\xa1a\xdb\xff\xff\xff\xffx",
    "bytes of 4 billion": b"\x81\xa1a\xc6\xff\xff\xff\xffx",
    "extension of 4 billion": b"\x81\xa1a\xc9\xff\xff\xff\xff\x01x",
    "no UTF-8": b"\x81\xa4type\xa1\xff",
    "no UTF-8 in a key": b"\x81\xa1\xff\x01",
    "an object as a key": b"\x81\x80\x01",
    "timestamp out of range": b"\x81\xa1a\xc7\x0c\xff" + b"\xff" * 12,
    "JSON": b'{"type":"ping"}',
}


@pytest.mark.parametrize("data", [*UNDECODABLE_TEXT.values(), *UNDECODABLE_BYTES.values()], ids=[*UNDECODABLE_TEXT, *UNDECODABLE_BYTES])
def test_what_is_no_object_is_undecodable(data: str | bytes) -> None:
    with pytest.raises(messages.Undecodable) as caught:
        messages.decode_object(data)
    # It goes into a close frame.
    assert len(str(caught.value).encode()) <= 123


def deep(depth: int, is_array: bool) -> tuple[str, bytes]:
    """Return a view whose filter nests as deep, in both encodings."""
    open, close, packed = ("[", "]", b"\x91") if is_array else ('{"a":', "}", b"\x81\xa1a")
    text = '{"type":"view","bbox":null,"filter":' + open * depth + "1" + close * depth + "}"
    return text, b"\x83\xa4type\xa4view\xa4bbox\xc0\xa6filter" + packed * depth + b"\x01"


@pytest.mark.parametrize("is_array", [True, False])
@pytest.mark.parametrize("depth", [10, 33, 500, 990, 1_100, 20_000, 200_000])
def test_depth_ends_in_a_message_or_undecodable(depth: int, is_array: bool) -> None:
    for data in deep(depth, is_array):
        if depth <= 500:
            assert isinstance(read(data), messages.View)
        else:
            try:
                read(data)
            except messages.Undecodable:
                continue
            assert depth < 1_100


@given(st.binary(max_size=60))
@example(b"\x81\xa4type\xc4\x04ping")
@example(b"\x81\xa4type\xd6\xff\xff\xff\xff\xff")
@example(b"\x81\x90\xc0")
@example(b"\x81\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\x01")
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    for encoded in (data, data.decode("latin-1"), b"\x82\xa4type\xa4view" + data, b"\x82\xa4type\xa4ping\xa1t" + data):
        try:
            read(encoded)
        except (messages.Undecodable, Refused) as error:
            str(error).encode()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
names = ["type", "token", "client", "bbox", "zoom", "filter", "ids", "max_hz", "id", "have", "world", "away_ms", "last", "updates", "t"]


@given(
    st.sampled_from([value["type"] for value, _ in WHOLE]), st.dictionaries(st.sampled_from(names) | st.integers(), anything, max_size=4)
)
def test_any_object_is_a_message_or_refused(kind: str, members: dict[Any, Any]) -> None:
    value = {"type": kind} | members
    reference = messages.reference_of(value)
    if reference is not None:
        messages.encode(messages.Error(ErrorCode.BAD_MESSAGE, "", reference), False)
    try:
        message = messages.to_message(value)
    except Refused as error:
        refused = error
    else:
        refused = None
        assert type(message).__struct_config__.tag == value["type"]
    if refused is not None:
        assert refused.code in (ErrorCode.BAD_MESSAGE, ErrorCode.BAD_VIEW)
        assert refused.message.partition(": ")[2]


# Wrong members

NO_TEXT: list[Any] = [7, 1.5, True, [], {}, "x" * 129]
NO_NUMBER: list[Any] = [True, "1", [], {}, None]
WRONG: dict[tuple[str, str], list[Any]] = {
    ("identify", "token"): [7, True, [], {}, "x" * 4097],
    ("identify", "client"): NO_TEXT,
    ("view", "zoom"): [*NO_NUMBER, -64.1, 64.1, math.nan, math.inf, 10**400],
    ("view", "max_hz"): [True, "1", [], {}, 0, -1, 0.09, 1e7, math.nan, math.inf],
    ("view", "id"): [True, 1.5, [], {}, "x" * 129, 2**63, -(2**63) - 1, 10**400],
    ("view", "have"): [True, 7, "x", [], [["a", 1]], {"a": None}, {"a": "1"}, {"a": True}, {"a": [1]}],
    ("view", "world"): NO_TEXT,
    ("view", "away_ms"): [True, "1", [], {}, -1, math.nan, 10**400],
    ("view", "last"): [1, 0, "true", None, [], {}],
    ("publish", "updates"): [None, 7, "x", {}, True],
    ("publish", "id"): [True, 1.5, [], {}, "x" * 129, 2**63],
    ("ping", "t"): [True, [], {}, "x" * 129, 10**400],
}


@pytest.mark.parametrize(("kind", "member", "wrong"), [(kind, member, wrong) for (kind, member), many in WRONG.items() for wrong in many])
def test_a_bad_member_is_named(kind: str, member: str, wrong: Any) -> None:
    value = {"type": kind, "bbox": None, "updates": [], member: wrong}
    code, message = refusal(value)
    assert code is (ErrorCode.BAD_VIEW if kind == "view" else ErrorCode.BAD_MESSAGE)
    assert message.startswith(member)


@pytest.mark.parametrize(
    "value", [{}, *({"type": type} for type in (None, 7, True, "", "Ping", "delta", "welcome", ["ping"], {"ping": 1}, b"ping"))]
)
def test_an_unknown_type_names_the_known_ones(value: dict[str, Any]) -> None:
    code, message = refusal(value)
    assert code is ErrorCode.BAD_MESSAGE
    assert message == "type: one of identify, view, refresh, check, publish, subscribe, unsubscribe, ack, ping is expected"


def test_updates_are_required() -> None:
    assert refusal({"type": "publish"})[0] is ErrorCode.BAD_MESSAGE
    assert "`updates`" in refusal({"type": "publish"})[1]


def test_keys_that_are_no_strings_are_a_bad_message() -> None:
    for key in (1, None, b"type", (), 1.5):
        assert refusal({"type": "ping", key: 1})[0] is ErrorCode.BAD_MESSAGE


def test_the_last_of_equal_keys_counts() -> None:
    assert read('{"type":"view","type":"ping","t":1,"t":2}') == messages.Ping(2)


def test_zero_has_no_sign_that_breaks_anything() -> None:
    message = read('{"type":"view","bbox":[-0,-0.0,0,0e5],"zoom":-0}')
    assert isinstance(message, messages.View)
    assert message.bbox == [0, 0, 0, 0]
    assert message.zoom == 0


@pytest.mark.parametrize(
    ("value", "expected"), [("x", "x"), ("", ""), ("x" * 128, "x" * 128), (7, 7), (-(2**63), -(2**63)), (2**63 - 1, 2**63 - 1)]
)
def test_an_error_refers_to_what_may_be_an_id(value: Any, expected: Any) -> None:
    assert messages.reference_of({"id": value}) == expected


@pytest.mark.parametrize("value", [None, True, 1.0, "x" * 129, [], {}, 2**63, 10**4000, b"x"])
def test_an_error_refers_to_nothing_else(value: Any) -> None:
    assert messages.reference_of({"id": value}) is None
    assert messages.reference_of({}) is None


# Time and memory: at the size limit of a message, in proportion to it

BYTES_MAX = LimitsConfig().message_bytes
FILLED: dict[str, Callable[[int], str | bytes]] = {
    "a million keys": lambda size: "{" + ",".join(f'"{n:06}":1' for n in range(size // 11)) + "}",
    "numbers": lambda size: '{"a":[' + ",".join(["1.25"] * (size // 5)) + "]}",
    "one number": lambda size: '{"a":0.' + "1" * (size - 8) + "}",
    "long exponents": lambda size: '{"a":[' + ",".join(["1234567890123456789e-300"] * (size // 25)) + "]}",
    "escapes": lambda size: '{"a":"' + "\\u00e9" * (size // 6) + '"}',
    "arrays": lambda size: '{"a":[' + ",".join(["[]"] * (size // 3)) + "]}",
    "packed arrays": lambda size: b"\x81\xa1a\xdd" + size.to_bytes(4, "big") + b"\x90" * size,
    "packed keys": lambda size: pack({f"{n:06}": 1 for n in range(size // 8)}),
}


def seconds(data: str | bytes) -> float:
    """Return the best time of a few, of the processor: what else runs on the machine only adds."""
    gc.disable()
    try:
        best = math.inf
        for _ in range(5):
            start = time.thread_time()
            messages.decode_object(data)
            best = min(best, time.thread_time() - start)
        return best
    finally:
        gc.enable()


@pytest.mark.parametrize("shape", FILLED)
def test_decoding_takes_time_in_proportion_to_size(shape: str) -> None:
    """Sixteen times as much takes about sixteen times as long; were it quadratic, it would take 256 times.

    What lies between is for caches and for pages that the larger one touches first, which cost several times as much.
    """
    whole, part = FILLED[shape](BYTES_MAX), FILLED[shape](BYTES_MAX // 16)
    assert any(seconds(whole) <= 100 * seconds(part) for _ in range(5))
