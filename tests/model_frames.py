"""How the model reads a frame: bytes to an object, and whether a delta has the structure that deltas have.

The law of the oracle holds here too: nothing of the judged package is imported. Nothing here knows the world: how a frame says something is
judged here, what it says is judged by the viewer.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn

import msgspec

from tests.model import Violation

Frame = bytes | bytearray | memoryview | str | dict[str, Any]

LEAVE_REASONS = ("deleted", "expired", "denied", "view", "moved", "filtered")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError(f"an object names a member twice: {[name for name, _ in pairs]}")
    return members


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def decoded(frame: Frame, encoding: str) -> dict[str, Any]:
    """The object in a frame: text or its UTF-8 for `json`, bytes for `msgpack`; an object is taken as it is. Raises Violation."""
    if isinstance(frame, dict):
        return frame
    try:
        if encoding == "json":
            text = frame if isinstance(frame, str) else bytes(frame).decode()
            message = json.loads(text, object_pairs_hook=_unique, parse_constant=_not_json)
        elif isinstance(frame, str):
            raise ValueError("a text frame where binary ones were agreed on")
        else:
            message = msgspec.msgpack.decode(frame)
    except (ValueError, msgspec.DecodeError) as error:
        raise Violation(f"an undecodable frame: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise Violation(f"not an object with a type: {message!r}")
    return message


def is_point(geometry: Any) -> bool:
    """Whether it is a Point of two coordinates, the one geometry that can be moved."""
    return isinstance(geometry, dict) and geometry["type"] == "Point" and len(geometry["coordinates"]) == 2


def well_formed(delta: dict[str, Any]) -> None:
    """Members have their types, empty ones are left out, what goes together is there together, no id occurs twice. Raises Violation."""
    for member, kind in (("enter", list), ("move", list), ("patch", list), ("leave", dict), ("reset", bool), ("more", bool)):
        if member in delta and not isinstance(delta[member], kind):
            raise Violation(f"`{member}` is {delta[member]!r}")
        if member in delta and kind is not bool and not delta[member]:
            raise Violation(f"`{member}` is empty and yet there")
    leave, moves = delta.get("leave", {}), delta.get("move", [])
    if not leave.keys() <= set(LEAVE_REASONS) or not all(isinstance(ids, list) and ids for ids in leave.values()):
        raise Violation(f"`leave` is {leave}")
    if not all(isinstance(move, list) and len(move) == 4 for move in moves):
        raise Violation(f"`move` is {moves}")
    if ("total" in delta) != ("sampled" in delta):
        raise Violation("`total` and `sampled` go together")
    for member, most in (("total", math.inf), ("sampled", 1), ("lag_ms", math.inf)):
        value = delta.get(member, 0)
        if isinstance(value, bool) or not isinstance(value, int if member == "total" else int | float) or not 0 <= value <= most:
            raise Violation(f"`{member}` is {value!r}")
    ids = [entity_id for entity_ids in leave.values() for entity_id in entity_ids] + [move[0] for move in moves]
    ids += [entry["id"] for entry in delta.get("enter", []) + delta.get("patch", [])]
    twice = [entity_id for entity_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise Violation(f"more than once in one delta: {twice}")
