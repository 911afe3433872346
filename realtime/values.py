"""What a value is: ids, JSON values, versions; and their canonical bytes.

Law: whatever passes here can be encoded in every subprotocol and comes back as the same value; two values are
equal as JSON exactly when their canonical bytes are equal. What does not pass is `Refused` with the field's name.

Canonical JSON: no white space, object keys sorted, a number that is a whole one within 64 bits written as an
integer (so 1, 1.0 and 1e0 are one, and -0 is 0), any other as the shortest decimal that gives the double back.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from typing import Any

import msgspec

from realtime.errors import ErrorCode, Refused

ID_BYTES_MAX = 128
DEPTH_MAX = 32
INTEGER_MIN = -(1 << 63)
INTEGER_MAX = (1 << 64) - 1
VERSION_MAX = (1 << 53) - (1 << 32)

# Versions that a node gives count milliseconds from here, times the number of nodes that may exist.
VERSION_EPOCH_S = 1_577_836_800  # 2020-01-01T00:00:00Z
NODE_NUMBERS = 4096

_encode: Callable[[Any], bytes] = msgspec.json.Encoder(order="sorted").encode
# Categories Cc (control characters): U+0000-001F, U+007F-009F. An id with one of them cannot be logged safely.
_CONTROL = frozenset(chr(c) for c in range(0xA0) if unicodedata.category(chr(c)) == "Cc")


def parse_id(value: object, name: str = "id") -> str:
    """Return `value` if it is an id: 1 to 128 bytes of UTF-8 without control characters."""
    if type(value) is not str:
        raise Refused(ErrorCode.BAD_ID, f"{name}: a string is expected")
    if value.isascii():
        if value.isprintable() and 0 < len(value) <= ID_BYTES_MAX:
            return value
    else:
        try:
            length = len(value.encode())
        except UnicodeEncodeError:
            raise Refused(ErrorCode.BAD_ID, f"{name}: not encodable in UTF-8") from None
        if length <= ID_BYTES_MAX and _CONTROL.isdisjoint(value):
            return value
    raise Refused(ErrorCode.BAD_ID, f"{name}: 1 to {ID_BYTES_MAX} bytes without control characters are allowed")


def parse_version(value: object) -> int:
    """Return a publisher's version: an integer from 1 to `VERSION_MAX`."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is int and 1 <= value <= VERSION_MAX:
        return value
    raise Refused(ErrorCode.BAD_VERSION, f"version: an integer from 1 to {VERSION_MAX} is expected")


def next_version(seen: int, now: float, node_number: int) -> int:
    """Return the smallest version that a node may give: above `seen`, of this node, and not before its time.

    `now` is in seconds since the Unix epoch. Two nodes never give the same number, as theirs differ modulo 4096.
    """
    floor = max(seen + 1, int((now - VERSION_EPOCH_S) * 1000) * NODE_NUMBERS)
    return floor + (node_number - floor) % NODE_NUMBERS


def canonical(value: object, name: str = "value", bytes_max: int | None = None) -> bytes:
    """Return the canonical JSON of `value`, made of None, bool, int, float, str, list, tuple and dict.

    What is longer than `bytes_max` is `Refused`, however much longer at about the cost of what is a little longer.
    """
    if type(value) is str:
        json = _encode(_text(value, name))
    elif type(value) is float or type(value) is int:
        json = _encode(_number(value, name))
    elif value is None or type(value) is bool:
        json = _encode(value)
    else:
        json = _encode(_Reading(name, bytes_max).normal(value, 1))
    if bytes_max is not None and len(json) > bytes_max:
        raise too_many_bytes(name, bytes_max)
    return json


def too_many_bytes(name: str, bytes_max: int) -> Refused:
    """Return the refusal of what is longer than allowed."""
    return Refused(ErrorCode.TOO_BIG, f"{name}: at most {bytes_max} bytes are allowed")


def _bad(name: str, why: str) -> Refused:
    return Refused(ErrorCode.BAD_VALUE, f"{name}: {why}")


def _number(value: int | float, name: str) -> int | float:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _bad(name, "numbers are finite")
        if value.is_integer() and INTEGER_MIN <= value <= INTEGER_MAX:
            return int(value)
        return float(value)
    if not INTEGER_MIN <= value <= INTEGER_MAX:
        raise _bad(name, "integers have at most 64 bits")
    return int(value)


def _text(value: str, name: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _bad(name, "a string is not made of Unicode scalar values") from None
    return value


class _Reading:
    """One reading of one value. It counts as it descends, so that it ends soon after the value is known to be too long."""

    __slots__ = ("_bytes_left", "_bytes_max", "_name")

    def __init__(self, name: str, bytes_max: int | None) -> None:
        self._name = name
        self._bytes_max = bytes_max
        self._bytes_left = bytes_max

    def normal(self, value: Any, depth: int) -> Any:
        """Return `value` with its numbers brought into their one form; depth counts arrays and objects."""
        if value is None or type(value) is bool:
            return value
        if isinstance(value, str):
            return _text(str(value), self._name)
        if isinstance(value, (int, float)):
            return _number(value, self._name)
        if depth > DEPTH_MAX:
            raise _bad(self._name, f"arrays and objects nest at most {DEPTH_MAX} deep")
        if isinstance(value, (list, tuple)):
            self._spend(len(value))
            return [self.normal(item, depth + 1) for item in value]
        if isinstance(value, dict):
            self._spend(len(value))
            result = {}
            for key, item in value.items():
                if not isinstance(key, str):
                    raise _bad(self._name, "keys are strings")
                result[_text(str(key), self._name)] = self.normal(item, depth + 1)
            return result
        raise _bad(self._name, f"{type(value).__name__} is no JSON value")

    def _spend(self, members: int) -> None:
        """A member takes two bytes at least: itself, and a comma or bracket."""
        if self._bytes_left is not None and self._bytes_max is not None:
            self._bytes_left -= 2 * members
            if self._bytes_left < 0:
                raise too_many_bytes(self._name, self._bytes_max)
