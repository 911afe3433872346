"""States and their batches: the bytes that they are, what is no state, and that both engines agree about every one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.engine import Engine, FeedKind, Merged, Op, Settings, Update, Verdict, states
from realtime.engine.choice import choose_engine
from realtime.engine.states import (
    NESTING_MAX,
    PRINCIPAL_BYTES_MAX,
    PRINCIPALS_MAX,
    Alive,
    Dead,
    Unknown,
    join,
    parts_of,
    read,
    split,
    write,
)
from realtime.geo import WORLD, point
from realtime.values import VERSION_MAX
from tests import engine_operations as drawn
from tests.conftest import ENGINES

NOW = 1_700_000_000.0
SETTINGS = Settings(100, 1_024, 8, 0.05, 40.0, 100)
POINT = b'{"type":"Point","coordinates":[13.4,52.5]}'
# A property counts with a colon and a comma, as an update's does.
LARGEST = b'{"a":"%b"}' % (b"x" * (SETTINGS.entity_bytes - len(POINT) - len('"a":"",')))
Members = list[Any]


def alive(**changed: Any) -> Members:
    """The members of a state, some of them others."""
    members = {
        "id": "bus-7",
        "seen": 300,
        "by_publisher": True,
        "wire": 17,
        "ttl": 30.0,
        "deadline": NOW + 30,
        "kind": "bus",
        "min_zoom": 5.0,
        "rank": 0.25,
        "access": ["group:a", "user:u"],
        "geometry": POINT,
        "properties": b'{"speed":12.5,"line":"M41"}',
    }
    assert changed.keys() <= members.keys()
    return [*(members | changed).values()]


def dead(**changed: Any) -> Members:
    members = {"id": "bus-7", "seen": 300, "by_publisher": False, "died": NOW, "is_expired": True, "access": ["public"]}
    assert changed.keys() <= members.keys()
    return [*(members | changed).values()]


def packed(members: Members) -> bytes:
    return msgspec.msgpack.encode(members)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return choose_engine(request.param)[1](SETTINGS, 0)


@pytest.fixture(params=ENGINES)
def batches(request: pytest.FixtureRequest) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
    """`split` and `join`, in each of their makes."""
    if request.param == "reference":
        return split, join
    from realtime import _native

    return _native.split_states, _native.join_states


VECTORS = [
    (
        packed(alive()),
        "9c a56275732d37 cd012c c3 11 cb403e000000000000 cb41d954fc47800000 a3627573 cb4014000000000000 cb3fd0000000000000"
        " 92 a767726f75703a61 a6757365723a75 c42a" + POINT.hex() + " c41b" + b'{"speed":12.5,"line":"M41"}'.hex(),
    ),
    (packed(dead()), "96 a56275732d37 cd012c c2 cb41d954fc40000000 c3 91 a67075626c6963"),
    (packed(["zürich–1"]), "91 ab7ac3bc72696368e28093 31"),
]


@pytest.mark.parametrize(("raw", "expected"), VECTORS, ids=["alive", "dead", "unknown"])
def test_the_bytes_of_a_state_are_these(raw: bytes, expected: str) -> None:
    assert raw == bytes.fromhex(expected)
    assert write(read(raw, SETTINGS).state) == raw


def test_an_engine_tells_these_bytes(engine: Engine) -> None:
    everything = [packed(alive()), packed(dead(id="dead")), packed(["nobody"])]
    feed = engine.open_feed(FeedKind.ASKED)
    assert engine.merge(join(everything), NOW, feed) == Merged(2, 0, 1, 0)
    assert engine.take_feed(feed, 1, 1_000_000) == [join(everything)]


def test_an_engine_tells_reals_whatever_it_was_given(engine: Engine) -> None:
    feed = engine.open_feed(FeedKind.LOCAL)
    engine.apply([Update(Op.UPSERT, "a", 1, point(1, 2), {}, "", 3, 1, frozenset(("public",)), 5)], 1_700_000_000)
    [batch] = engine.take_feed(feed, 1, 1)
    [(_, raw)] = split(batch)
    assert raw == packed(alive(id="a", seen=1, wire=1, ttl=5.0, deadline=NOW + 5, kind="", min_zoom=3.0, rank=1.0, access=["public"],
                               geometry=b'{"type":"Point","coordinates":[1,2]}', properties=b"{}"))  # fmt: skip


GOOD = {
    "the highest versions": alive(seen=VERSION_MAX, wire=VERSION_MAX),
    "the lowest versions": alive(seen=1, wire=1),
    "no deadline, no ttl, no kind": alive(ttl=0.0, deadline=0.0, kind=""),
    "a deadline without a ttl": alive(ttl=0.0),
    "nobody may see it": alive(access=[]),
    "as many principals as may be": alive(access=[f"{n:04}" for n in range(PRINCIPALS_MAX)]),
    "as long a principal as may be": alive(access=["x" * PRINCIPAL_BYTES_MAX]),
    "principals in the order of their bytes": alive(access=["", "Z", "a", "é", "\uffff", "\U00010000"]),
    "as long an id as may be": alive(id="x" * 128),
    "an id in UTF-8": alive(id="ü" * 64),
    "names in any order": alive(properties=b'{"b":1,"a":{"x":null,"y":[]}}'),
    "names with escapes": alive(properties=rb'{"\"":1,"\\":2,"\n":3,"\u0001":4,"/":5,"ab\"c":6,"":7}'),
    "the same but for escapes": alive(properties=rb'{"ab":1,"a\"b":2,"a\\b":3}'),
    "as many properties as may be": alive(properties=b'{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1}'),
    "no property": alive(properties=b"{}"),
    "as many bytes as may be": alive(properties=LARGEST),
    "a deep property": alive(properties=b'{"a":%b%b}' % (b"[" * 32, b"]" * 32)),
    "numbers as they are written": alive(
        properties=b'{"a":[1e300,-0.5,1e-7,18446744073709551615,-9223372036854775808,1.8446744073709552e19]}'
    ),
    "a polygon": alive(geometry=b'{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,0]]]}'),
    "a high point": alive(geometry=b'{"type":"Point","coordinates":[180,-90,12.5]}'),
    "dead for ever": dead(died=-1e300),
    "dead in the highest version": dead(seen=VERSION_MAX),
}
BAD = {
    "no version": alive(seen=0, wire=0),
    "no wire version": alive(wire=0),
    "a version that is too high": alive(seen=VERSION_MAX + 1),
    "a version of 64 bits": alive(seen=2**64 - 1),
    "a negative version": alive(seen=-1),
    "a wire version above the seen one": alive(seen=16),
    "a version that is a real": alive(seen=300.0),
    "a version that is text": alive(seen="300"),
    "1 for true": alive(by_publisher=1),
    "nil for false": alive(by_publisher=None),
    "an integer for a real": alive(ttl=30),
    "a negative ttl": alive(ttl=-1.0),
    "an endless ttl": alive(ttl=math.inf),
    "no number": alive(deadline=math.nan),
    "an endless deadline": alive(deadline=math.inf),
    "an endless zoom": alive(min_zoom=-math.inf),
    "a rank above 1": alive(rank=1.0000001),
    "a rank below 0": alive(rank=-0.1),
    "an empty id": alive(id=""),
    "an id that is too long": alive(id="x" * 129),
    "an id of too many bytes": alive(id="ü" * 65),
    "a control character in an id": alive(id="a\x7f"),
    "a control character beyond ASCII": alive(id="a\x85"),
    "an id in bytes": alive(id=b"bus-7"),
    "a kind that is too long": alive(kind="x" * 129),
    "a control character in a kind": alive(kind="a\n"),
    "a kind that is nil": alive(kind=None),
    "principals out of order": alive(access=["user:u", "group:a"]),
    "a principal twice": alive(access=["group:a", "group:a"]),
    "too many principals": alive(access=[f"{n:04}" for n in range(PRINCIPALS_MAX + 1)]),
    "a principal that is too long": alive(access=["x" * (PRINCIPAL_BYTES_MAX + 1)]),
    "a principal that is a number": alive(access=[1]),
    "principals in a map": alive(access={}),
    "geometry as text": alive(geometry=POINT.decode()),
    "no geometry": alive(geometry=b"null"),
    "half a geometry": alive(geometry=POINT[:-1]),
    "more than a geometry": alive(geometry=POINT + b" "),
    "white space": alive(geometry=b'{"type":"Point", "coordinates":[13.4,52.5]}'),
    "members in another order": alive(geometry=b'{"coordinates":[13.4,52.5],"type":"Point"}'),
    "another member": alive(geometry=b'{"type":"Point","coordinates":[13.4,52.5],"bbox":null}'),
    "another type": alive(geometry=b'{"type":"Circle","coordinates":[13.4,52.5]}'),
    "no position": alive(geometry=b'{"type":"LineString","coordinates":[]}'),
    "a ring that is open": alive(geometry=b'{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,1]]]}'),
    "a position beyond the pole": alive(geometry=b'{"type":"Point","coordinates":[13.4,90.5]}'),
    "a position beyond the meridian": alive(geometry=b'{"type":"Point","coordinates":[180.00000000000003,5]}'),
    "a whole number with a point": alive(geometry=b'{"type":"Point","coordinates":[13.0,52.5]}'),
    "minus zero": alive(geometry=b'{"type":"Point","coordinates":[-0,52.5]}'),
    "a number longer than it has to be": alive(properties=b'{"a":0.10}'),
    "a number with an exponent that needs none": alive(properties=b'{"a":1e1}'),
    "a number beyond all doubles": alive(properties=b'{"a":1e999}'),
    "an integer beyond 64 bits": alive(properties=b'{"a":18446744073709551616}'),
    "a property that is null": alive(properties=b'{"a":null}'),
    "a property twice": alive(properties=b'{"a":1,"a":1}'),
    "a property twice, once with escapes": alive(properties=b'{"a":1,"\\u0061":1}'),
    "an escape that is none of the short ones": alive(properties=b'{"a":"\\u000a"}'),
    "an escaped slash": alive(properties=b'{"a":"\\/"}'),
    "half a pair of surrogates": alive(properties=b'{"a":"\\ud800"}'),
    "members of a value out of order": alive(properties=b'{"a":{"y":1,"x":1}}'),
    "a property too deep": alive(properties=b'{"a":%b%b}' % (b"[" * 33, b"]" * 33)),
    "properties that never end": alive(properties=b'{"a":%b' % (b"[" * 900)),
    "properties that are an array": alive(properties=b"[]"),
    "properties with a comma": alive(properties=b'{"a":1,}'),
    "properties in bytes that are no text": alive(properties=b'{"a":"\xff"}'),
    "too many properties": alive(properties=b'{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1}'),
    "too many bytes": alive(properties=LARGEST.replace(b"x", b"xx", 1)),
    "a member less": alive()[:-1],
    "a member more": [*alive(), None],
    "an empty array": [],
    "two members": ["bus-7", 300],
    "dead without a version": dead(seen=0),
    "dead at no time": dead(died=math.nan),
    "dead at a whole number": dead(died=1),
    "neither deleted nor expired": dead(is_expired=None),
    "an unknown number": [7],
    "no id": [""],
}
# The same values in other bytes than an engine writes.
BAD_BYTES = {
    "a longer head": b"\xdc\x00\x01\xa1a",
    "a longer text head": b"\x91\xd9\x01a",
    "a longer integer": packed(dead()).replace(b"\xcd\x01\x2c", b"\xce\x00\x00\x01\x2c"),
    "a signed integer": packed(dead()).replace(b"\xcd\x01\x2c", b"\xd1\x01\x2c"),
    "a shorter real": packed(alive()).replace(b"\xcb\x40\x14\x00\x00\x00\x00\x00\x00", b"\xca\x40\xa0\x00\x00"),
    "a longer head of bytes": packed(alive()).replace(b"\xc4\x2a", b"\xc5\x00\x2a"),
    "text that is no UTF-8": b"\x91\xa2\xc3\x28",
    "text that is half a pair of surrogates": b"\x91\xa3\xed\xa0\x80",
    "a map": b"\x81\xa1a\xa1b",
    "a number": b"\x07",
    "an extension": b"\xd4\x01\x00",
    "nil": b"\xc0",
}
BAD_STATES = {name: packed(members) for name, members in BAD.items()} | BAD_BYTES


@pytest.mark.parametrize("raw", [packed(members) for members in GOOD.values()], ids=GOOD)
def test_this_is_a_state(raw: bytes, engine: Engine) -> None:
    feed = engine.open_feed(FeedKind.ASKED)
    assert write(read(raw, SETTINGS).state) == raw
    assert engine.merge(join([raw]), -2e300, feed) == Merged(1, 0, 0, 0)
    assert engine.take_feed(feed, 1, 1) == [join([raw])]
    engine.verify()


@pytest.mark.parametrize("raw", BAD_STATES.values(), ids=BAD_STATES)
def test_this_is_none(raw: bytes, engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"state|properties|geometry|access|version"):
        read(raw, SETTINGS)
    feed = engine.open_feed(FeedKind.ASKED)
    good, another = packed(alive(id="good")), packed(dead(id="another"))
    assert engine.merge(join([good, raw, another]), NOW, feed) == Merged(2, 0, 0, 1)
    assert engine.take_feed(feed, 1, 1_000_000) == [join([good, another])], "what is no state was offered"
    assert engine.merge(join([raw]), NOW) == Merged(0, 0, 0, 1)
    engine.verify()


def test_as_many_bytes_as_may_be_are_those_of_an_update(engine: Engine) -> None:
    value = LARGEST.removeprefix(b'{"a":').removesuffix(b"}")
    update = Update(Op.UPSERT, "a", 1, point(13.4, 52.5), {"a": value}, "", 0.0, 0.5, frozenset(), 0.0)
    assert engine.apply([update], NOW) == [Verdict.ACCEPTED]
    assert engine.apply([update._replace(version=2, properties={"a": value[:-1] + b'x"'})], NOW) == [Verdict.TOO_MANY_BYTES]


def test_what_is_bad_is_not_stale_though_it_is_old(engine: Engine) -> None:
    assert engine.merge(join([packed(alive(seen=400))]), NOW) == Merged(1, 0, 0, 0)
    assert engine.merge(join([packed(alive(properties=b'{"a":null}'))]), NOW) == Merged(0, 0, 0, 1)
    assert engine.merge(join([packed(alive(geometry=b"{}"))]), NOW) == Merged(0, 0, 0, 1)
    assert engine.merge(join([packed(alive())]), NOW) == Merged(0, 0, 1, 0)


# Batches

STATES = [packed(alive()), packed(dead(id="b")), packed(["c"])]


def test_batches_are_cut_and_joined(batches: Any) -> None:
    cut, joined = batches
    assert joined([]) == b"\xdd\x00\x00\x00\x00"
    assert cut(joined([])) == []
    batch = joined(iter(STATES))
    assert batch == b"\xdd\x00\x00\x00\x03" + b"".join(STATES)
    assert cut(batch) == [("bus-7", STATES[0]), ("b", STATES[1]), ("c", STATES[2])]
    assert joined(state for _, state in cut(batch)) == batch


def nested(depth: int) -> bytes:
    """An array that begins with an id and nests so deep."""
    return b"\x92\xa1a" + b"\x91" * (depth - 2) + b"\x90"


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\xdd\x00\x00\x00",
        b"\x93" + b"".join(STATES),
        b"\xdc\x00\x03" + b"".join(STATES),
        join(STATES)[:-1],
        join(STATES) + b"\xc0",
        b"\xdd\x00\x00\x00\x04" + b"".join(STATES),
        b"\xdd\xff\xff\xff\xff" + b"".join(STATES),
        join([*STATES, b"\xc1"]),
        join([*STATES, b"\x90"]),
        join([*STATES, b"\x91\x07"]),
        join([*STATES, b"\x91\x91\xa1a"]),
        join([*STATES, b"\x91\xa0"]),
        join([*STATES, b"\x91\xa1\x00"]),
        join([*STATES, b"\x91\xa2\xc3\x28"]),
        join([*STATES, b"\xa1a"]),
        join([*STATES, b"\x81\xa1a\xc0"]),
        join([*STATES, nested(NESTING_MAX + 1)]),
        join([*STATES, b"\x92\xa1a\xdd\xff\xff\xff\xff"]),
        join([*STATES, b"\x92\xa1a\xc6\xff\xff\xff\xff"]),
    ],
    ids=lambda broken: broken[-12:].hex(),
)
def test_what_is_no_batch_is_refused(broken: bytes, batches: Any) -> None:
    with pytest.raises(ValueError, match="batch"):
        batches[0](broken)


def test_a_part_may_be_any_array_that_begins_with_an_id(batches: Any) -> None:
    parts = [
        nested(NESTING_MAX),
        b"\x93\xa1b\xc7\x01\x07\x00\xd8\x01" + bytes(16),
        b"\x94\xa1c\xca\x00\x00\x00\x00\xd3" + bytes(8) + b"\x81\x01\x02",
    ]
    assert batches[0](join(parts)) == list(zip("abc", parts, strict=True))


def test_what_is_cut_off_anywhere_is_found_as_far_as_it_goes(engine: Engine) -> None:
    batch, ends = join(STATES), [5 + sum(map(len, STATES[:n])) for n in range(1, 4)]
    for size in range(len(batch)):
        parts, is_whole = parts_of(batch[:size])
        assert parts == STATES[: sum(end <= size for end in ends)]
        assert not is_whole
        merged = engine.merge(batch[:size], NOW)
        assert merged.bad == 1
        assert merged.accepted + merged.stale == len(parts)
        engine.verify()


@pytest.mark.skipif("native" not in ENGINES, reason="the native engine was not built")
@given(
    told=st.lists(drawn.told, min_size=1, max_size=4),
    edits=st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 3), st.binary(max_size=3)), max_size=3),
)
def test_the_engines_agree_about_any_bytes(told: list[drawn.MadeUp], edits: list[tuple[int, int, bytes]]) -> None:
    """States that were tampered with: whatever is made of them, both engines make the same."""
    from realtime._native import split_states
    from tests.dual_engine import DualEngine

    engine = DualEngine(SETTINGS)
    feed = engine.open_feed(FeedKind.ALL)
    assert engine.merge(join(dated(draft, 100) for draft in told), NOW).bad == 0
    batch = join(dated(draft, 110) for draft in told)
    for at, length, instead in edits:
        at %= len(batch) + 1
        batch = batch[:at] + instead + batch[at + length :]
    merged = engine.merge(batch, NOW, feed)
    assert merged.bad or parts_of(batch)[1]
    engine.verify()
    engine.take_feed(feed, 2, 1_000_000)
    engine.search((WORLD,), 24.0, None)
    assert cut_or_none(split, batch) == cut_or_none(split_states, batch)


def dated(draft: drawn.MadeUp, seen: int) -> bytes:
    seen += draft.above
    return replace(
        draft.told, seen=seen, wire=0 if draft.told.reason else seen - draft.below, died=NOW if draft.told.reason else 0.0
    ).to_bytes()


def cut_or_none(cut: Callable[[bytes], Any], batch: bytes) -> Any:
    try:
        return cut(batch)
    except ValueError:
        return None


def test_the_forms_are_what_their_names_say() -> None:
    assert read(packed(alive()), SETTINGS).state == Alive(*alive())
    assert read(packed(dead()), SETTINGS).state == Dead(*dead())
    assert read(packed(["a"]), SETTINGS).state == Unknown("a")
    told = read(packed(alive()), SETTINGS)
    assert told.id == "bus-7"
    assert told.geometry == point(13.4, 52.5)
    assert told.properties == {"speed": b"12.5", "line": b'"M41"'}


def test_when_a_state_dies() -> None:
    alive = states.Alive("a", 2, True, 1, 5.0, 0.0, "", 0.0, 0.5, ["public"], b'{"type":"Point","coordinates":[0,0]}', b"{}")
    assert states.death(states.write(alive)) == states.NEVER
    assert states.death(states.write(msgspec.structs.replace(alive, deadline=7.0))) == 7.0
    assert states.death(states.write(states.Dead("a", 2, True, 9.0, False, ["public"]))) == 9.0
    for nothing in (states.write(states.Unknown("a")), b"", b"\xc1", b"\x96", b"\x96\xff\xff\xff\xff\xff\xff"):
        assert states.death(nothing) == states.NEVER
