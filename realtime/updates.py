"""Decodes what publishers send into `Update`s: Features, patches, moves, deletes.

Law: an update that leaves this file is complete and right by itself; all that can still be wrong with it depends on
the world. Geometry and properties become canonical bytes here, once. What is wrong is `Refused` with the field's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from realtime.config import LimitsConfig, PublishConfig
from realtime.engine import Op, Update
from realtime.errors import ConfigError, ErrorCode, Refused
from realtime.geo import Geometry, parse_geometry, point
from realtime.values import canonical, parse_id, parse_version, too_many_bytes

ACCESS_PRINCIPALS_MAX = 64
MIN_ZOOM_MAX = 64.0
MIN_ZOOM_DEFAULT = -64.0  # the least that a view may have: without a `min_zoom` an entity is shown at every zoom
TTL_MAX_S = 10 * 366 * 86_400.0
RANK_DEFAULT = 0.5

_decoder = msgspec.json.Decoder()


def parse_principal(value: object, name: str) -> str:
    """Return `value` if it is a principal: `public`, `user:ID` or `group:NAME`."""
    if value == "public":
        return "public"
    if isinstance(value, str):
        kind, _, rest = value.partition(":")
        if kind in ("user", "group"):
            return f"{kind}:{_named(rest, name)}"
    raise Refused(ErrorCode.BAD_UPDATE, f"{name}: public, user:ID or group:NAME is expected")


class UpdateParser:
    """Turns decoded objects into updates, within the limits of one configuration."""

    def __init__(self, limits: LimitsConfig, publish: PublishConfig) -> None:
        """Raises `ConfigError` for a default that is none."""
        self._limits = limits
        try:
            self._default_access = _access(publish.default_access, "publish.default_access")
        except Refused as refused:
            raise ConfigError(refused.message) from None
        self._by_op: dict[object, Callable[[Mapping[str, Any], str, int], Update]] = {
            "patch": self._patch,
            "move": self._move,
            "delete": self._delete,
        }

    def parse_json(self, json: bytes | msgspec.Raw) -> Update:
        """Return the update that a JSON text stands for; raise `Refused`."""
        try:
            value = _decoder.decode(json)
        except msgspec.ValidationError:
            raise Refused(ErrorCode.BAD_VALUE, "update: a number is beyond the range of a double") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _bad("update: not JSON") from None
        return self.parse(value)

    def parse(self, value: object) -> Update:
        """Return the update that a decoded object stands for; raise `Refused`."""
        if not isinstance(value, Mapping):
            raise _bad("update: an object is expected")
        op = value.get("op")
        if op is None:
            if value.get("type") != "Feature":
                raise _bad("update: a Feature, or an object with `op` patch, move or delete, is expected")
            return self._feature(value, parse_id(value.get("id")), _version(value))
        decode = self._by_op.get(op) if isinstance(op, str) else None
        if decode is None:
            raise _bad("op: patch, move or delete is expected")
        return decode(value, parse_id(value.get("id")), _version(value))

    def _feature(self, value: Mapping[str, Any], id: str, version: int) -> Update:
        geometry = self._geometry(value.get("geometry"))
        properties = self._properties(value.get("properties"), False)
        get = value.get
        return Update(
            Op.UPSERT,
            id,
            version,
            geometry,
            properties,
            _kind(get("kind")),
            _min_zoom(get("min_zoom")),
            _rank(get("rank")),
            self._access_or_default(get("access")),
            _ttl(get("ttl")),
        )

    def _patch(self, value: Mapping[str, Any], id: str, version: int) -> Update:
        geometry: Geometry | None = None
        properties: Mapping[str, bytes | None] | None = None
        if "geometry" in value:
            geometry = self._geometry(value["geometry"])
        if "properties" in value:
            properties = self._properties(value["properties"], True)
        return Update(
            Op.PATCH,
            id,
            version,
            geometry,
            properties,
            _kind(value["kind"]) if "kind" in value else None,
            _min_zoom(value["min_zoom"]) if "min_zoom" in value else None,
            _rank(value["rank"]) if "rank" in value else None,
            self._access_or_default(value["access"]) if "access" in value else None,
            _ttl(value["ttl"]) if "ttl" in value else None,
        )

    def _access_or_default(self, value: object) -> frozenset[str]:
        return self._default_access if value is None else _access(value, "access")

    def _move(self, value: Mapping[str, Any], id: str, version: int) -> Update:
        return Update(Op.MOVE, id, version, point(value.get("lon"), value.get("lat")))

    def _delete(self, value: Mapping[str, Any], id: str, version: int) -> Update:
        return Update(Op.DELETE, id, version)

    def _geometry(self, value: object) -> Geometry:
        return parse_geometry(value, self._limits.entity_positions, self._limits.entity_bytes)

    def _properties(self, value: object, is_patch: bool) -> dict[str, bytes | None]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise _bad("properties: an object is expected, or null")
        result: dict[str, bytes | None] = {}
        bytes_max, count_max = self._limits.entity_bytes, self._limits.entity_properties
        count = size = 0
        for name, item in value.items():
            if not isinstance(name, str):
                raise Refused(ErrorCode.BAD_VALUE, "properties: keys are strings")
            encoded_name = canonical(name, "properties")
            if item is not None:  # a property that is null is absent
                json = result[name] = canonical(item, "properties", bytes_max)
                count += 1
                size += len(encoded_name) + len(json)
            elif is_patch:
                result[name] = None
            # Refused before all of it is read: what is far too much costs no more than what is a little too much.
            if count > count_max:
                raise Refused(ErrorCode.TOO_BIG, f"properties: at most {count_max} are allowed")
            if size > bytes_max:
                raise too_many_bytes("properties", bytes_max)
        return result


def _bad(why: str) -> Refused:
    return Refused(ErrorCode.BAD_UPDATE, why)


def _version(value: Mapping[str, Any]) -> int:
    version = value.get("version")
    return 0 if version is None else parse_version(version)


def _named(value: object, name: str) -> str:
    """Return a text that is bounded as an id is, and is none."""
    try:
        return parse_id(value, name)
    except Refused as refused:
        raise _bad(refused.message) from None


def _kind(value: object) -> str:
    return "" if value is None else _named(value, "kind")


def _real(value: object, name: str, low: float, high: float, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    raise _bad(f"{name}: a number from {low:.12g} to {high:.12g} is expected, or null")


def _min_zoom(value: object) -> float:
    return _real(value, "min_zoom", 0, MIN_ZOOM_MAX, MIN_ZOOM_DEFAULT)


def _rank(value: object) -> float:
    return _real(value, "rank", 0, 1, RANK_DEFAULT)


def _ttl(value: object) -> float:
    ttl = _real(value, "ttl", 0, TTL_MAX_S, 0.0)
    if ttl == 0 and value is not None:
        raise _bad("ttl: more than 0 seconds are expected, or null")
    return ttl


def _access(value: object, name: str) -> frozenset[str]:
    if not isinstance(value, (list, tuple)) or len(value) > ACCESS_PRINCIPALS_MAX:
        raise _bad(f"{name}: an array of at most {ACCESS_PRINCIPALS_MAX} principals is expected, or null")
    return frozenset(parse_principal(principal, name) for principal in value)
