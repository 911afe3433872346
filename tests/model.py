"""The truth, by brute force: what the world is after a list of updates, and what a view of it must show.

This file is the oracle that judges the server. Its law:
- it imports nothing of the package that it judges (a test reads its imports);
- it has no index, no cache, no outbox: a question about a view looks at every entity;
- it takes valid updates, views and filters only; bad input is tested elsewhere. The one refusal that it knows is `unknown_entity`.

Times are float seconds since the Unix epoch, and always arguments. Times that are multiples of 1/64 s make the milliseconds in assigned
versions exact in any arithmetic. Nothing dies or is forgotten by itself: only `World.expire` looks at the clock for that, so that a driver
that calls the server's and the model's at the same moments gets the same deaths.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tests.model_values import Box, fmix32, fnv1a_32, geometry_boxes, json_equal, passes, view_boxes

Feature = dict[str, Any]  # as a client sees it: type, id, version, kind (if it has one), geometry, properties
Verdict = str | tuple[str, str]  # "accepted", "unchanged", "stale" or ("rejected", code)
Key = tuple[float, int]  # the sampling key: lower is shown first

PUBLIC = "public"
YEAR_2020_S = 1_577_836_800
NUMBERS_PER_MS = 4096
RANK_DEFAULT = 0.5
ZOOM_DEFAULT = 24.0


class Violation(AssertionError):
    """What was shown is not what was promised."""


@dataclass(frozen=True)
class ModelLimits:
    """The limits that change what is right, spelled as the server's settings."""

    tombstone_s: float = 3600.0
    tombstones_max: int = 1_000_000
    entities_per_view: int = 10_000


@dataclass(frozen=True)
class Settings:
    """What publishers set beside the content and clients never see; it may change while the wire version stands."""

    access: frozenset[str]
    min_zoom: float | None  # None: shown at every zoom
    rank: float


@dataclass(frozen=True)
class State:
    """One wire state of an entity, or its death (`feature` is None, `reason` says deleted or expired)."""

    order: int  # the world's serial when it came to be: of two states of an entity the later one has the greater
    id: str
    version: int  # the wire version; of a death the seen version
    kind: str | None
    properties: dict[str, Any]
    feature: Feature | None
    boxes: tuple[Box, ...]
    reason: str | None
    settings: list[Settings]  # all that were in force while this was the state, oldest first


@dataclass
class Entity:
    """A living entity: its present state, and what decides about the next update."""

    state: State
    seen: int
    by_publisher: bool
    ttl: float | None
    deadline: float | None

    @property
    def settings(self) -> Settings:
        """Those in force now."""
        return self.state.settings[-1]


@dataclass
class Tombstone:
    """What is remembered of a dead entity."""

    seen: int
    by_publisher: bool
    reason: str
    died: float
    access: frozenset[str]  # as it was at its death: decides what a client that claims to hold it may learn
    buried: float  # when this world learned of the death


@dataclass
class World:
    """Every entity, every tombstone, and every wire state that there ever was."""

    limits: ModelLimits = field(default_factory=ModelLimits)
    default_access: Collection[str] = (PUBLIC,)
    node_number: int = 0
    entities: dict[str, Entity] = field(default_factory=dict)
    tombstones: dict[str, Tombstone] = field(default_factory=dict)  # oldest first
    states: dict[str, list[State]] = field(default_factory=dict)  # per id, oldest first, across deaths and re-creations
    serial: int = 0  # grows with everything that happens
    changed: dict[str, int] = field(default_factory=dict)  # per id the serial of the last thing that happened to it
    forgotten: dict[str, int] = field(default_factory=dict)  # per id the serial at which its last tombstone was forgotten

    def apply(self, update: Mapping[str, Any], now: float) -> Verdict:
        """Take one update as published: a Feature, or an object with `op`; the verdict."""
        entity_id, op = update["id"], update.get("op", "upsert")
        entity = self.entities.get(entity_id)
        known = entity or self.tombstones.get(entity_id)
        seen = known.seen if known else 0
        version = update.get("version")
        if version is not None and version <= seen:
            return "stale"
        if op in ("patch", "move") and entity is None:
            return ("rejected", "unknown_entity")
        by_publisher = version is not None or (known is not None and known.by_publisher)
        if version is None:
            version = seen + 1 if by_publisher else self._assigned(seen, now)
        self._touch(entity_id)
        if op == "delete":
            self._bury(entity_id, version, by_publisher, "deleted", now)
            return "accepted"
        return self._upsert(update, op, entity, version, by_publisher, now)

    def expire(self, now: float) -> list[str]:
        """Let die whose deadline is not after `now`, and forget the tombstones that have been kept long enough; the ids that died."""
        due = [entity for entity in self.entities.values() if entity.deadline is not None and entity.deadline <= now]
        due.sort(key=lambda entity: (entity.deadline, entity.state.id.encode()))
        for entity in due:
            self._touch(entity.state.id)
            self._bury(entity.state.id, entity.seen, entity.by_publisher, "expired", now)
        for entity_id, tombstone in list(self.tombstones.items()):
            if self.is_owed(entity_id) or tombstone.buried + self.limits.tombstone_s > now:
                break
            self._forget(entity_id)
        return [entity.state.id for entity in due]

    def is_owed(self, entity_id: str) -> bool:
        """Whether others still have to be told of the entity: then its tombstone is kept, and those behind it. Here there are no others."""
        return False

    def history(self, entity_id: str) -> dict[int, Feature]:
        """Every wire state that the entity ever had, by wire version (the newest, should a version come again after a forgotten death)."""
        return {state.version: state.feature for state in self.states.get(entity_id, []) if state.feature is not None}

    def _assigned(self, seen: int, now: float) -> int:
        """The smallest number above `seen`, not below the clock's, that equals the node's number modulo 4096."""
        clock = math.floor((Fraction(now) - YEAR_2020_S) * 1000) * NUMBERS_PER_MS
        least = max(seen + 1, clock, 1)
        return least + (self.node_number - least) % NUMBERS_PER_MS

    def _upsert(self, update: Mapping[str, Any], op: str, entity: Entity | None, version: int, by_publisher: bool, now: float) -> Verdict:
        """A Feature sets everything anew; a patch what it names, where null means the default; a move two coordinates and nothing else."""
        old = entity.state.feature if entity else None

        def chosen(member: str, held: Any, default: Any) -> Any:
            if op == "upsert" or (op == "patch" and member in update):
                named = update.get(member)
                return default if named is None else named
            return held

        kind = chosen("kind", entity and entity.state.kind, None)
        properties = {} if op == "upsert" or old is None else dict(old["properties"])
        if op != "move":
            properties.update(copy.deepcopy(update.get("properties") or {}))
        properties = {name: value for name, value in properties.items() if value is not None}
        geometry = {"type": "Point", "coordinates": [update["lon"], update["lat"]]} if op == "move" else update.get("geometry")
        if geometry is None:
            assert old is not None, "a Feature has a geometry"
            geometry = old["geometry"]
        geometry = {"type": geometry["type"], "coordinates": copy.deepcopy(geometry["coordinates"])}
        before = entity.settings if entity else None
        settings = Settings(
            access=frozenset(chosen("access", before and before.access, self.default_access)),
            min_zoom=chosen("min_zoom", before and before.min_zoom, None),
            rank=chosen("rank", before and before.rank, RANK_DEFAULT),
        )
        ttl = chosen("ttl", entity and entity.ttl, None)
        deadline = None if ttl is None else now + ttl
        if entity is not None and old is not None:
            content = [kind, geometry, properties]
            if json_equal(content, [entity.state.kind, old["geometry"], old["properties"]]):
                if settings != entity.settings:
                    entity.state.settings.append(settings)
                entity.seen, entity.by_publisher, entity.ttl, entity.deadline = version, by_publisher, ttl, deadline
                return "unchanged"
        state = self._state(update["id"], version, kind, geometry, properties, settings)
        self.entities[state.id] = Entity(state, version, by_publisher, ttl, deadline)
        self.tombstones.pop(state.id, None)
        self.states.setdefault(state.id, []).append(state)
        return "accepted"

    def _state(
        self, entity_id: str, version: int, kind: str | None, geometry: Any, properties: dict[str, Any], settings: Settings
    ) -> State:
        feature: Feature = {"type": "Feature", "id": entity_id, "version": version, "geometry": geometry, "properties": properties}
        if kind is not None:
            feature["kind"] = kind
        return State(self.serial, entity_id, version, kind, properties, feature, geometry_boxes(geometry), None, [settings])

    def _bury(self, entity_id: str, seen: int, by_publisher: bool, reason: str, now: float) -> None:
        """Let die what was here."""
        entity, earlier = self.entities.get(entity_id), self.tombstones.get(entity_id)
        access = entity.settings.access if entity else earlier.access if earlier else frozenset(self.default_access)
        self._leave_tombstone(entity_id, Tombstone(seen, by_publisher, reason, now, access, now))

    def _leave_tombstone(self, entity_id: str, tombstone: Tombstone) -> None:
        """Leave the newest tombstone of all, and forget the oldest beyond the limit."""
        self.entities.pop(entity_id, None)
        self.tombstones.pop(entity_id, None)
        self.tombstones[entity_id] = tombstone
        seen, reason = tombstone.seen, tombstone.reason
        death = State(self.serial, entity_id, seen, None, {}, None, (), reason, [])
        self.states.setdefault(entity_id, []).append(death)
        while len(self.tombstones) > self.limits.tombstones_max:
            self._forget(next(iter(self.tombstones)))

    def _touch(self, entity_id: str) -> None:
        self.serial += 1
        self.changed[entity_id] = self.serial

    def _forget(self, entity_id: str) -> None:
        self._touch(entity_id)
        del self.tombstones[entity_id]
        self.forgotten[entity_id] = self.serial


@dataclass(frozen=True)
class View:
    """What a session looks at, as its (valid) message says it; the sample is not part of the message and is checked, not predicted."""

    boxes: tuple[Box, ...] = ()
    zoom: float = ZOOM_DEFAULT
    filter: Any = None
    ids: frozenset[str] = frozenset()
    id: Any = None

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> View:
        """What is omitted takes its default; a null bbox is an empty box, so that only `ids` are shown."""
        bbox, zoom = message["bbox"], message.get("zoom")
        return cls(
            boxes=() if bbox is None else view_boxes(bbox),
            zoom=ZOOM_DEFAULT if zoom is None else zoom,
            filter=message.get("filter"),
            ids=frozenset(message.get("ids") or ()),
            id=message.get("id"),
        )

    def meets(self, state: State) -> bool:
        """By box or by name."""
        return state.id in self.ids or any(mine.touches(its) for mine in self.boxes for its in state.boxes)


def allowed(access: Collection[str], principals: Collection[str]) -> bool:
    """Whether rights let a session with these principals see; everybody has the implicit `public`."""
    return PUBLIC in access or any(principal in principals for principal in access)


def shows(state: State, settings: Settings, view: View, principals: Collection[str], user: str | None) -> bool:
    """Whether a view shows this state under these settings, were it not for the sample. Names stand in for the box and for nothing else."""
    return (
        view.meets(state)
        and (settings.min_zoom is None or settings.min_zoom <= view.zoom)
        and allowed(settings.access, principals)
        and passes(view.filter, state, user)
    )


def sees_without_sample(entity: Entity, view: View, principals: Collection[str], user: str | None) -> bool:
    """Whether a session may see a living entity now, were it not for the sample."""
    return shows(entity.state, entity.settings, view, principals, user)


def brute_force(world: World, view: View | None, principals: Collection[str], user: str | None) -> dict[str, Feature]:
    """V(s) without the sample: by id the wire state of every entity that the session may see. No view shows nothing."""
    if view is None:
        return {}
    return {
        entity_id: entity.state.feature
        for entity_id, entity in world.entities.items()
        if entity.state.feature is not None and sees_without_sample(entity, view, principals, user)
    }


def sampling_key(entity_id: str, rank: float = RANK_DEFAULT) -> Key:
    """Lower is shown first: the publisher's rank, then a hash of the id that is the same on every node."""
    return (rank, fmix32(fnv1a_32(entity_id.encode())))


def sampling_keys(world: World, entity_ids: Iterable[str]) -> dict[str, Key]:
    """The keys of living entities."""
    return {entity_id: sampling_key(entity_id, world.entities[entity_id].settings.rank) for entity_id in entity_ids}


def check_sample(mirror_ids: Collection[str], matching: Mapping[str, Key], entities_per_view: int) -> None:
    """Hold what is shown in quiet against the keys of all that matches; raises Violation.

    Where the threshold lies depends on the past (it stands until more than the maximum or less than half of it lies below), so it cannot be
    predicted, but only the entities with the lowest keys can be shown, at most the maximum, and at least half of it or all.
    """
    shown = set(mirror_ids)
    if not shown <= matching.keys():
        raise Violation(f"shown, but nothing that matches: {sorted(shown - matching.keys())[:5]}")
    if len(shown) > entities_per_view:
        raise Violation(f"{len(shown)} entities are shown, the limit is {entities_per_view}")
    missing = matching.keys() - shown
    if not missing:
        return
    if 2 * len(shown) < entities_per_view:
        raise Violation(
            f"{len(shown)} of {len(matching)} matching entities are shown, less than half of the limit of {entities_per_view}; "
            f"missing are {sorted(missing)[:5]}"
        )
    highest, lowest = max(shown, key=matching.__getitem__), min(missing, key=matching.__getitem__)
    if matching[highest] >= matching[lowest]:
        raise Violation(f"{highest!r} with key {matching[highest]} is shown, {lowest!r} with key {matching[lowest]} is not")
