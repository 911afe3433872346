"""The client's copy of the entities that its view shows, kept by applying deltas.

Law: no I/O and no clock; a frame is applied wholly or, if it breaks the protocol, not at all. The mirror trusts the
server's order and nothing else: what cannot follow from what it holds is a `MirrorError`, upon which a client refreshes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from realtime.engine.digest import digest_of, format_digest


class MirrorError(ValueError):
    """A delta that cannot be applied: the server's fault, or a frame was lost."""


class Applied(NamedTuple):
    """What a delta did, by entity id."""

    entered: list[str]
    moved: list[str]
    patched: list[str]
    left: dict[str, str]  # id -> reason; `reset` for what a reset cleared and the delta did not bring back
    is_reset: bool


class Mirror:
    """Entities by id, as Features with a `version`."""

    def __init__(self) -> None:
        self.entities: dict[str, dict[str, Any]] = {}
        self.seq = 0  # of the last delta applied
        self.total: int | None = None  # entities that the view matches
        self.sampled: float = 1  # the share of them that is shown
        self.is_filling = False  # the last delta promised more
        self._digest = 0

    def __len__(self) -> int:
        return len(self.entities)

    @property
    def digest(self) -> str:
        """The digest of what is held, as `check` frames carry it."""
        return format_digest(self._digest)

    def have(self, entities_max: int) -> dict[str, int]:
        """Return {id: version} to resume with, of at most `entities_max` entities; the rest is forgotten."""
        for id in list(self.entities)[entities_max:]:
            self._remove(id)
        return {id: feature["version"] for id, feature in self.entities.items()}

    def restart(self) -> None:
        """Begin a new connection: deltas count from 1 again, what is held stays."""
        self.seq = 0
        self.is_filling = False

    def clear(self) -> None:
        """Forget everything."""
        self.entities.clear()
        self._digest = 0

    def agrees(self, check: Mapping[str, Any]) -> bool:
        """Tell whether a `check` frame, read right behind the last delta, says the same."""
        return (check["count"], check["digest"], check["seq"]) == (len(self.entities), self.digest, self.seq)

    def apply(self, delta: Mapping[str, Any]) -> Applied:
        """Apply one delta; return what it did. Raises `MirrorError` and changes nothing if it does not fit."""
        self._verify(delta)
        before = list(self.entities) if delta.get("reset") else []
        if delta.get("reset"):
            self.clear()
        left = {id: reason for reason, ids in delta.get("leave", {}).items() for id in ids}
        for id in left:
            self._remove(id)
        for feature in delta.get("enter", ()):
            self._put(dict(feature))
        for id, version, lon, lat in delta.get("move", ()):
            geometry = {"type": "Point", "coordinates": [lon, lat]}
            self._put(self.entities[id] | {"version": version, "geometry": geometry})
        for patch in delta.get("patch", ()):
            self._put(_patched(self.entities[patch["id"]], patch))
        self.seq = delta["seq"]
        self.is_filling = bool(delta.get("more"))
        if "total" in delta:
            self.total, self.sampled = delta["total"], delta["sampled"]
        left |= {id: "reset" for id in before if id not in self.entities}
        return Applied(
            [feature["id"] for feature in delta.get("enter", ())],
            [move[0] for move in delta.get("move", ())],
            [patch["id"] for patch in delta.get("patch", ())],
            left,
            bool(delta.get("reset")),
        )

    def _verify(self, delta: Mapping[str, Any]) -> None:
        if delta["seq"] != self.seq + 1:
            raise MirrorError(f"delta {delta['seq']} came after {self.seq}")
        held = {} if delta.get("reset") else self.entities
        changed = [(move[0], move[1]) for move in delta.get("move", ())]
        changed += [(patch["id"], patch["version"]) for patch in delta.get("patch", ())]
        left = [id for ids in delta.get("leave", {}).values() for id in ids]
        ids = [feature["id"] for feature in delta.get("enter", ())] + [id for id, _ in changed] + left
        if len(set(ids)) != len(ids):
            raise MirrorError("an entity stands twice in a delta")
        for id in left:
            if id not in held:
                raise MirrorError(f"{id} leaves and is not held")
        for id, version in changed:
            if id not in held:
                raise MirrorError(f"{id} changes and is not held")
            if version <= held[id]["version"]:
                raise MirrorError(f"{id} goes from version {held[id]['version']} to {version}")

    def _put(self, feature: dict[str, Any]) -> None:
        self._remove(feature["id"])
        self.entities[feature["id"]] = feature
        self._digest ^= digest_of(feature["id"], feature["version"])

    def _remove(self, id: str) -> None:
        feature = self.entities.pop(id, None)
        if feature is not None:
            self._digest ^= digest_of(id, feature["version"])


def _patched(feature: dict[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entity after a patch: each named property replaced whole, null removes it."""
    changed = dict(feature, version=patch["version"])
    if "geometry" in patch:
        changed["geometry"] = patch["geometry"]
    if "properties" in patch:
        properties = feature["properties"] | patch["properties"]
        changed["properties"] = {name: value for name, value in properties.items() if value is not None}
    return changed
