"""Decodes what publishers send into `Update`s: Features, patches, moves, deletes.

Law: an update that leaves this file is complete and right by itself; all that can still be wrong with it depends on
the world. Geometry and properties become canonical bytes here, once. What is wrong is `Refused` with the field's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from realtime.config import LimitsConfig, PublishConfig
from realtime.engine import Op, Update
from realtime.errors import ErrorCode, Refused
from realtime.geo import Geometry, parse_geometry, point
from realtime.values import canonical, parse_id, parse_version

ACCESS_PRINCIPALS_MAX = 64
MIN_ZOOM_MAX = 64.0
TTL_MAX_S = 10 * 366 * 86_400.0
RANK_DEFAULT = 0.5


def parse_principal(value: object, name: str) -> str:
    """Return `value` if it is a principal: `public`, `user:ID` or `group:NAME`."""
    if value == "public":
        return "public"
    if isinstance(value, str):
        kind, _, rest = value.partition(":")
        if kind in ("user", "group"):
            return f"{kind}:{parse_id(rest, name)}"
    raise Refused(ErrorCode.BAD_UPDATE, f"{name}: public, user:ID or group:NAME is expected")


class UpdateParser:
    """Turns decoded objects into updates, within the limits of one configuration."""

    def __init__(self, limits: LimitsConfig, publish: PublishConfig) -> None:
        self._limits = limits
        self._default_access = frozenset(parse_principal(p, "publish.default_access") for p in publish.default_access)
        self._by_op: dict[object, Callable[[Mapping[str, Any], str, int], Update]] = {
            "patch": self._patch,
            "move": self._move,
            "delete": self._delete,
        }

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
        geometry = parse_geometry(value.get("geometry"), self._limits.entity_positions)
        properties = self._properties(value.get("properties"), False)
        get = value.get
        access = get("access")
        return Update(
            Op.UPSERT,
            id,
            version,
            geometry,
            properties,
            _kind(get("kind")),
            _min_zoom(get("min_zoom")),
            _rank(get("rank")),
            self._default_access if access is None else _access(access),
            _ttl(get("ttl")),
        )

    def _patch(self, value: Mapping[str, Any], id: str, version: int) -> Update:
        geometry: Geometry | None = None
        properties: Mapping[str, bytes | None] | None = None
        if "geometry" in value:
            geometry = parse_geometry(value["geometry"], self._limits.entity_positions)
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
            self._patched_access(value["access"]) if "access" in value else None,
            _ttl(value["ttl"]) if "ttl" in value else None,
        )

    def _patched_access(self, value: object) -> frozenset[str]:
        return self._default_access if value is None else _access(value)

    def _move(self, value: Mapping[str, Any], id: str, version: int) -> Update:
        return Update(Op.MOVE, id, version, point(value.get("lon"), value.get("lat")))

    def _delete(self, value: Mapping[str, Any], id: str, version: int) -> Update:
        return Update(Op.DELETE, id, version)

    def _properties(self, value: object, is_patch: bool) -> dict[str, bytes | None]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise _bad("properties: an object is expected, or null")
        if len(value) > self._limits.entity_properties:
            raise Refused(ErrorCode.TOO_BIG, f"properties: at most {self._limits.entity_properties} are allowed")
        result: dict[str, bytes | None] = {}
        size = 0
        for name, item in value.items():
            if not isinstance(name, str):
                raise Refused(ErrorCode.BAD_VALUE, "properties: keys are strings")
            if item is not None:
                json = canonical(item, "properties")
                size += len(json) + len(name)
                result[_name(name)] = json
            elif is_patch:
                result[_name(name)] = None
        if size > self._limits.entity_bytes:
            raise Refused(ErrorCode.TOO_BIG, f"properties: an entity has at most {self._limits.entity_bytes} bytes")
        return result


def _bad(why: str) -> Refused:
    return Refused(ErrorCode.BAD_UPDATE, why)


def _version(value: Mapping[str, Any]) -> int:
    version = value.get("version")
    return 0 if version is None else parse_version(version)


def _name(name: str) -> str:
    if not name.isascii():
        canonical(name, "properties")  # refuses lone surrogates
    return name


def _kind(value: object) -> str:
    if value is None:
        return ""
    try:
        return parse_id(value, "kind")
    except Refused as refused:
        raise _bad(refused.message) from None


def _real(value: object, name: str, low: float, high: float, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high:
        return float(value)
    raise _bad(f"{name}: a number from {low:g} to {high:g} is expected, or null")


def _min_zoom(value: object) -> float:
    return _real(value, "min_zoom", 0, MIN_ZOOM_MAX, 0.0)


def _rank(value: object) -> float:
    return _real(value, "rank", 0, 1, RANK_DEFAULT)


def _ttl(value: object) -> float:
    ttl = _real(value, "ttl", 0, TTL_MAX_S, 0.0)
    if ttl == 0 and value is not None:
        raise _bad("ttl: more than 0 seconds are expected, or null")
    return ttl


def _access(value: object) -> frozenset[str]:
    if not isinstance(value, (list, tuple)) or len(value) > ACCESS_PRINCIPALS_MAX:
        raise _bad(f"access: an array of at most {ACCESS_PRINCIPALS_MAX} principals is expected, or null")
    return frozenset(parse_principal(principal, "access") for principal in value)
