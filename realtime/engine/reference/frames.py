"""Delta frames in both encodings, assembled from bytes that are encoded once per entity version and shared.

Law: a frame is joined from pieces and never encoded as a whole; JSON and msgpack carry the same structure. What is
kept with a state (its `enters`, `moves`, `patches`) is cleared with its wire version.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from realtime.engine import Encoding
from realtime.engine.reference.world import State
from realtime.engine.states import write_object

_json = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode
_decode = msgspec.json.decode


class Pieces:
    """The parts of one delta, how many bytes they are, and since when the oldest of them waited."""

    __slots__ = ("arrays", "leaves", "oldest", "size")

    def __init__(self) -> None:
        self.leaves: dict[str, list[bytes]] = {}  # reason -> ids
        self.arrays: dict[str, list[bytes]] = {"enter": [], "move": [], "patch": []}
        self.size = 0
        self.oldest = float("inf")  # seconds since the Unix epoch

    def add(self, pieces: list[bytes], piece: bytes, since: float) -> None:
        """Add to one of `arrays` or to a reason of `leaves` what has waited since then."""
        pieces.append(piece)
        self.size += len(piece) + 1
        if since < self.oldest:
            self.oldest = since

    def is_empty(self) -> bool:
        """Tell whether nothing was added."""
        return self.size == 0


def encode_id(id: str, encoding: Encoding) -> bytes:
    """Return an id as it stands in a frame."""
    return _json(id) if encoding is Encoding.JSON else _pack(id)


def encode_feature(state: State) -> bytes:
    """Return the whole state as a Feature in JSON."""
    found = state.enters[Encoding.JSON]
    if found is None:
        kind = b',"kind":' + _json(state.kind) if state.kind else b""
        found = b'{"type":"Feature","id":%b,"version":%d%b,"geometry":%b,"properties":%b}' % (
            _json(state.id),
            state.wire,
            kind,
            state.geometry.json,
            write_object({name: value.json for name, value in state.properties.items()}),
        )
        state.enters[Encoding.JSON] = found
    return found


def encode_enter(state: State, encoding: Encoding) -> bytes:
    """Return the whole state as it stands in `enter`."""
    if encoding is Encoding.JSON:
        return encode_feature(state)
    found = state.enters[encoding]
    if found is None:
        found = state.enters[encoding] = _pack(_decode(encode_feature(state)))
    return found


def encode_change(state: State, held: int, encoding: Encoding) -> tuple[str, bytes]:
    """Return how a client that holds version `held` learns the present one: `move`, `patch` or `enter`, and the bytes."""
    if not state.since <= held <= state.wire:  # from another life, or a lower version after a forgotten death
        return "enter", encode_enter(state, encoding)
    if state.geometry.is_point and held >= state.move_since:
        return "move", encode_move(state, encoding)
    return "patch", encode_patch(state, held, encoding)


def encode_move(state: State, encoding: Encoding) -> bytes:
    """Return `[id, version, lon, lat]`."""
    found = state.moves[encoding]
    if found is None:
        if encoding is Encoding.JSON:
            # The canonical Point ends with its coordinates: {"type":"Point","coordinates":[lon,lat]}
            coordinates = state.geometry.json[state.geometry.json.rindex(b"[") + 1 : -2]
            found = b"[%b,%d,%b]" % (_json(state.id), state.wire, coordinates)
        else:
            lon, lat = _decode(state.geometry.json)["coordinates"]
            found = _pack([state.id, state.wire, lon, lat])
        state.moves[encoding] = found
    return found


def encode_patch(state: State, held: int, encoding: Encoding) -> bytes:
    """Return the patch that turns version `held` into the present one."""
    found = state.patches.get((encoding, held))
    if found is None:
        members: dict[str, bytes] = {"id": _json(state.id), "version": b"%d" % state.wire}
        if state.geometry_version > held:
            members["geometry"] = state.geometry.json
        changed = {name: value.json for name, value in state.properties.items() if value.version > held}
        changed |= {name: b"null" for name, version in state.removed.items() if version > held}
        if changed:
            members["properties"] = write_object(changed)
        found = write_object(members)
        if encoding is Encoding.MSGPACK:
            found = _pack(_decode(found))
        state.patches[encoding, held] = found
    return found


def encode_delta(pieces: Pieces, members: dict[str, Any], encoding: Encoding) -> bytes:
    """Return the frame: `members` (small values: seq, view, more, …) and the pieces."""
    arrays = [(name, array) for name, array in pieces.arrays.items() if array]
    if encoding is Encoding.JSON:
        out = [b'{"type":"delta"']
        out += [b',"%b":%b' % (name.encode(), _json(value)) for name, value in members.items()]
        out += [b',"%b":[%b]' % (name.encode(), b",".join(array)) for name, array in arrays]
        if pieces.leaves:
            leaves = [b'"%b":[%b]' % (reason.encode(), b",".join(ids)) for reason, ids in pieces.leaves.items()]
            out.append(b',"leave":{%b}' % b",".join(leaves))
        out.append(b"}")
        return b"".join(out)
    count = 1 + len(members) + len(arrays) + bool(pieces.leaves)
    out = [bytes((0x80 | count,)), _pack("type"), _pack("delta")]
    for name, value in members.items():
        out += (_pack(name), _pack(value))
    for name, array in arrays:
        out += (_pack(name), _array(array))
    if pieces.leaves:
        out += (_pack("leave"), bytes((0x80 | len(pieces.leaves),)))
        for reason, ids in pieces.leaves.items():
            out += (_pack(reason), _array(ids))
    return b"".join(out)


def _array(items: Sequence[bytes]) -> bytes:
    """Return a msgpack array of items that are encoded already."""
    count = len(items)
    if count < 16:
        head = bytes((0x90 | count,))
    elif count < 1 << 16:
        head = struct.pack(">BH", 0xDC, count)
    else:
        head = struct.pack(">BI", 0xDD, count)
    return head + b"".join(items)
