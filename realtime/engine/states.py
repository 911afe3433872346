"""States: what one node tells another of an entity, and the batches that they travel in.

Law: a state is whole, so whoever has two of an entity needs only the newer one. It has one form in bytes: what `read`
takes is exactly what an engine writes, and all else is refused with `ValueError`. A batch comes from a network or a disk:
what can be found in it is found, however broken the rest is.

A state is one msgpack array, a batch an array of them; see `Alive`, `Dead` and `Unknown` for the members. Integers and
heads are the shortest ones, reals 64 bits wide, a batch's head always 32 bits wide, so that batches can be joined.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from realtime.engine import Settings
from realtime.errors import Refused
from realtime.geo import Geometry, parse_geometry
from realtime.values import VERSION_MAX, canonical, parse_id

PRINCIPALS_MAX = 1_000  # of one entity
PRINCIPAL_BYTES_MAX = 256
NESTING_MAX = 8  # of arrays and maps in what may be a state; a real one nests two deep

ALIVE, DEAD, UNKNOWN = 0x9C, 0x96, 0x91  # the first byte of a state: an array of twelve members, of six, of one
NEVER = float("inf")

_ARRAY32 = 0xDD
_HEAD_BYTES = 5


class Alive(msgspec.Struct, array_like=True, frozen=True):
    """A living entity."""

    id: str
    seen: int  # the newest accepted version
    by_publisher: bool  # whether the publisher counts its versions
    wire: int  # the version of the last change that a client could see
    ttl: float  # seconds; 0: none
    deadline: float  # seconds since the Unix epoch; 0: none
    kind: str  # "": it has none
    min_zoom: float
    rank: float
    access: list[str]  # principals in the order of their UTF-8 bytes
    geometry: bytes  # canonical JSON
    properties: bytes  # an object; its names in any order, all else canonical JSON


class Dead(msgspec.Struct, array_like=True, frozen=True):
    """An entity that is remembered as dead."""

    id: str
    seen: int
    by_publisher: bool
    died: float  # seconds since the Unix epoch
    is_expired: bool  # it was not deleted
    access: list[str]  # who could see it


class Unknown(msgspec.Struct, array_like=True, frozen=True):
    """An entity that neither lives nor is remembered."""

    id: str


class Told(NamedTuple):
    """A state that was read, with what had to be parsed of it."""

    state: Alive | Dead | Unknown
    geometry: Geometry | None = None
    properties: Mapping[str, bytes] = MappingProxyType({})  # canonical JSON by name; of what is not alive: empty

    @property
    def id(self) -> str:
        """Of the entity."""
        return self.state.id


_encode = msgspec.msgpack.Encoder().encode
# The first byte of a state says how many members it has, and by that what it is.
_DECODERS: dict[int, msgspec.msgpack.Decoder[Any]] = {
    ALIVE: msgspec.msgpack.Decoder(Alive),
    DEAD: msgspec.msgpack.Decoder(Dead),
    UNKNOWN: msgspec.msgpack.Decoder(Unknown),
}
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_json = msgspec.json.Encoder().encode


def write(state: Alive | Dead | Unknown) -> bytes:
    """Return a state's bytes."""
    return _encode(state)


def death(raw: bytes) -> float:
    """Return when the entity of a state died or will; `NEVER` where it has no deadline or the state cannot be read."""
    decoder = _DECODERS.get(raw[0]) if raw else None
    try:
        state = None if decoder is None else decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return NEVER
    return state.died if isinstance(state, Dead) else state.deadline or NEVER if isinstance(state, Alive) else NEVER


def in_order(access: Iterable[str]) -> list[str]:
    """Return principals as a state has them: in the order of their UTF-8 bytes."""
    return sorted(access)  # code points have the same order as their bytes


def read(raw: bytes, settings: Settings) -> Told:
    """Return the state that stands in `raw`, checked within the bounds; raise `ValueError`."""
    decoder = _DECODERS.get(raw[0]) if raw else None
    if decoder is None:
        raise ValueError("state: an array of 12, 6 or 1 members is expected")
    try:
        state = decoder.decode(raw)
        if _encode(state) != raw:
            raise ValueError("state: not in the form that engines write")
        parse_id(state.id)
        return _checked(state, settings)
    except (Refused, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"state: {error}") from None


def _checked(state: Alive | Dead | Unknown, settings: Settings) -> Told:
    if isinstance(state, Unknown):
        return Told(state)
    _check_version(state.seen, VERSION_MAX)
    _check_access(state.access)
    if isinstance(state, Dead):
        _check_finite(state.died)
        return Told(state)
    _check_version(state.wire, state.seen)
    _check_finite(state.ttl, state.deadline, state.min_zoom, state.rank)
    if state.ttl < 0 or not 0 <= state.rank <= 1:
        raise ValueError("state: ttl is at least 0, rank lies within 0 and 1")
    if state.kind:
        parse_id(state.kind, "kind")
    properties = _read_properties(state.properties)
    # As an update's: each property counts with its name, its value, a colon and a comma.
    size = len(state.geometry) + (len(state.properties) - 1 if properties else 0)
    if len(properties) > settings.entity_properties or size > settings.entity_bytes:
        raise ValueError("state: larger than an entity may be")
    geometry = parse_geometry(msgspec.json.decode(state.geometry), settings.entity_bytes)
    if geometry.json != state.geometry:
        raise ValueError("geometry: not canonical JSON")
    return Told(state, geometry, properties)


def _check_version(version: int, version_max: int) -> None:
    if not 1 <= version <= version_max:
        raise ValueError(f"version: an integer from 1 to {version_max} is expected")


def _check_finite(*numbers: float) -> None:
    if not all(map(math.isfinite, numbers)):
        raise ValueError("state: numbers are finite")


def _check_access(access: list[str]) -> None:
    if len(access) > PRINCIPALS_MAX or any(len(principal.encode()) > PRINCIPAL_BYTES_MAX for principal in access):
        raise ValueError(f"access: at most {PRINCIPALS_MAX} principals of at most {PRINCIPAL_BYTES_MAX} bytes are allowed")
    if access != in_order(set(access)):
        raise ValueError("access: each principal once, in order, is expected")


def _read_properties(json: bytes) -> dict[str, bytes]:
    properties = {name: bytes(value) for name, value in _members.decode(json).items()}
    for value in properties.values():
        if value == b"null" or canonical(msgspec.json.decode(value), "properties") != value:
            raise ValueError("properties: canonical JSON other than null is expected")
    if write_object(properties) != json:  # a name twice or in another form, white space
        raise ValueError("properties: not canonical JSON")
    return properties


def write_object(members: dict[str, bytes]) -> bytes:
    """Return the JSON object of these members, which are JSON."""
    return b"{" + b",".join(_json(name) + b":" + json for name, json in members.items()) + b"}"


# Batches


def join(states: Iterable[bytes]) -> bytes:
    """Return the batch of these states."""
    parts = list(states)
    return bytes((_ARRAY32,)) + len(parts).to_bytes(4, "big") + b"".join(parts)


def parts_of(batch: bytes) -> tuple[list[bytes], bool]:
    """Return what may be states, as far as they can be found, and whether that was all of the batch."""
    if len(batch) < _HEAD_BYTES or batch[0] != _ARRAY32:
        return [], False
    parts: list[bytes] = []
    at = _HEAD_BYTES
    for _ in range(int.from_bytes(batch[1:_HEAD_BYTES], "big")):
        end = _skip(batch, at, NESTING_MAX)
        if end < 0:
            return parts, False
        parts.append(batch[at:end])
        at = end
    return parts, at == len(batch)


def split(batch: bytes) -> list[tuple[str, bytes]]:
    """Return the states of a batch with their ids, unread but for those.

    Raises `ValueError` if not all of the batch can be found, or if a part is no array that begins with an id.
    """
    parts, is_whole = parts_of(batch)
    if not is_whole:
        raise ValueError("batch: broken")
    return [(_id_of(part), part) for part in parts]


def _id_of(part: bytes) -> str:
    end = _skip(part, 1, 0) if 0x91 <= part[0] <= 0x9F else -1
    if end < 0:
        raise ValueError("batch: not made of states")
    try:
        return parse_id(msgspec.msgpack.decode(part[1:end]))
    except (Refused, msgspec.MsgspecError, UnicodeError) as error:
        raise ValueError(f"batch: {error}") from None


def _skip(data: bytes, at: int, nesting_max: int) -> int:
    """Return where the msgpack value that begins at `at` ends; -1 if it is none, is cut off or nests too deep."""
    if at >= len(data):
        return -1
    head = data[at]
    if head <= 0x7F or head >= 0xE0:  # small integers
        return at + 1
    if head <= 0x9F:  # small maps and arrays
        count = head & 0x0F
        return _skip_all(data, at + 1, count if head >= 0x90 else 2 * count, nesting_max)
    if head <= 0xBF:  # short strings
        return _within(data, at + 1 + (head & 0x1F))
    fixed = _FIXED_BYTES.get(head)
    if fixed is not None:
        return _within(data, at + 1 + fixed)
    counted = _COUNTED_BYTES.get(head)
    if counted is None:  # 0xc1, which nothing has
        return -1
    length_bytes, extra_bytes = counted
    begin = at + 1 + length_bytes
    if begin > len(data):
        return -1
    length = int.from_bytes(data[at + 1 : begin], "big")
    if head < 0xDC:
        return _within(data, begin + extra_bytes + length)
    return _skip_all(data, begin, length if head < 0xDE else 2 * length, nesting_max)


def _skip_all(data: bytes, at: int, count: int, nesting_max: int) -> int:
    if nesting_max == 0:
        return -1
    for _ in range(count):
        at = _skip(data, at, nesting_max - 1)
        if at < 0:
            break
    return at


def _within(data: bytes, end: int) -> int:
    return end if end <= len(data) else -1


# Bytes behind the head: nil, false, true; reals; integers; extensions of a fixed size, with their type.
_FIXED_BYTES = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}
_FIXED_BYTES |= {first + n: 1 << n for first in (0xCC, 0xD0) for n in range(4)} | {0xD4 + n: 1 + (1 << n) for n in range(5)}
# Bytes of the length, and of the type of an extension: bytes, extensions, strings, arrays, maps.
_COUNTED_BYTES = {0xC4 + n: (1 << n, 0) for n in range(3)} | {0xC7 + n: (1 << n, 1) for n in range(3)}
_COUNTED_BYTES |= {0xD9 + n: (1 << n, 0) for n in range(3)} | {first + n: (2 << n, 0) for first in (0xDC, 0xDE) for n in range(2)}
