"""What nodes tell each other, by brute force: whole states, the feeds that they wait in, and a world that takes them over.

The law of the oracle holds here too: nothing of the judged package is imported, and only valid states are taken. A feed is a list of ids;
what is told of an id is written down anew each time, as a `Told`, which is equal to another if no node could tell the two apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from tests.model import Entity, Settings, State, Tombstone, Verdict, World
from tests.model_values import fmix32, fnv1a_32, json_equal

FeedKind = Literal["local", "all", "asked"]
NO_MIN_ZOOM = -64.0  # how a state says that its entity is shown at every zoom


@dataclass(frozen=True)
class Told:
    """A state as it travels. Of the dead `reason` says deleted or expired; nothing is known of an id that was seen at 0."""

    id: str
    seen: int = 0
    by_publisher: bool = False
    access: frozenset[str] = frozenset()
    reason: str | None = None
    died: float = 0.0
    wire: int = 0
    ttl: float | None = None
    deadline: float | None = None
    kind: str | None = None
    min_zoom: float | None = None
    rank: float = 0.0
    geometry: Any = None
    properties: Any = None

    @classmethod
    def from_bytes(cls, raw: bytes) -> Told:
        """Read one state."""
        members = msgspec.msgpack.decode(raw)
        if len(members) == 1:
            return cls(*members)
        if len(members) == 6:
            entity_id, seen, by_publisher, died, is_expired, access = members
            return cls(entity_id, seen, by_publisher, frozenset(access), "expired" if is_expired else "deleted", died)
        entity_id, seen, by_publisher, wire, ttl, deadline, kind, min_zoom, rank, access, geometry, properties = members
        return cls(
            entity_id,
            seen,
            by_publisher,
            frozenset(access),
            wire=wire,
            ttl=ttl or None,
            deadline=deadline or None,
            kind=kind or None,
            min_zoom=None if min_zoom == NO_MIN_ZOOM else min_zoom,
            rank=rank,
            geometry=json.loads(geometry),
            properties=json.loads(properties),
        )

    def to_bytes(self) -> bytes:
        """Write it down as an engine does, but for the form of numbers, which is only right where they are whole or have few digits."""
        access = sorted(self.access, key=str.encode)
        if self.seen == 0:
            return msgspec.msgpack.encode([self.id])
        if self.reason is not None:
            return msgspec.msgpack.encode([self.id, self.seen, self.by_publisher, float(self.died), self.reason == "expired", access])
        settings = [float(self.ttl or 0), float(self.deadline or 0), self.kind or ""]
        seen_by = [float(NO_MIN_ZOOM if self.min_zoom is None else self.min_zoom), float(self.rank), access]
        geometry = b'{"type":"%b","coordinates":%b}' % (self.geometry["type"].encode(), _canonical(self.geometry["coordinates"]))
        content = [geometry, _canonical(self.properties)]
        return msgspec.msgpack.encode([self.id, self.seen, self.by_publisher, self.wire, *settings, *seen_by, *content])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Told) and self._plain() == other._plain() and json_equal(self._content(), other._content())

    __hash__ = None  # type: ignore[assignment]

    def _plain(self) -> list[Any]:
        return [value for name, value in vars(self).items() if name not in ("geometry", "properties")]

    def _content(self) -> list[Any]:
        return [self.geometry, self.properties]


def _canonical(value: Any) -> bytes:
    """The canonical JSON of a value."""
    return msgspec.json.encode(_whole(value), order="sorted")


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def shard_of(entity_id: str, shards: int) -> int:
    """The shard that tells of an entity."""
    return fmix32(fnv1a_32(entity_id.encode())) % shards


@dataclass
class Feed:
    """What is still to be told to somebody, first offered first."""

    kind: FeedKind
    ids: list[str] = field(default_factory=list)

    def offer(self, entity_id: str) -> None:
        """What is in it already keeps its place."""
        if entity_id not in self.ids:
            self.ids.append(entity_id)


@dataclass
class SharedWorld(World):
    """A world that tells others what happens in it, and takes over what they tell."""

    feeds: dict[int, Feed] = field(default_factory=dict)
    named: set[str] | None = None  # while a reload goes on: the ids that were spoken of since it began

    def apply(self, update: Mapping[str, Any], now: float) -> Verdict:
        verdict = super().apply(update, now)
        if verdict in ("accepted", "unchanged"):
            self._name(update["id"])
            self._offer(update["id"], "local", "all")
        return verdict

    def is_owed(self, entity_id: str) -> bool:
        return any(entity_id in feed.ids for feed in self.feeds.values())

    def is_local(self, entity_id: str) -> bool:
        """Whether this node took an update of it that it has not told yet."""
        return any(entity_id in feed.ids for feed in self.feeds.values() if feed.kind == "local")

    def tell(self, entity_id: str) -> Told:
        """What is told of an entity now."""
        entity, tombstone = self.entities.get(entity_id), self.tombstones.get(entity_id)
        if entity is not None and entity.state.feature is not None:
            return Told(
                entity_id,
                entity.seen,
                entity.by_publisher,
                entity.settings.access,
                wire=entity.state.version,
                ttl=entity.ttl,
                deadline=entity.deadline,
                kind=entity.state.kind,
                min_zoom=entity.settings.min_zoom,
                rank=entity.settings.rank,
                geometry=entity.state.feature["geometry"],
                properties=entity.state.properties,
            )
        if tombstone is not None:
            return Told(entity_id, tombstone.seen, tombstone.by_publisher, tombstone.access, tombstone.reason, tombstone.died)
        return Told(entity_id)

    def offer_all(self, number: int) -> None:
        """The living in the order of their births, then the dead in the order of their burials."""
        for entity_id in [*self.entities, *self.tombstones]:
            self.feeds[number].offer(entity_id)

    def merge(self, told: Told, now: float, number: int = 0) -> str:
        """Take over one state, and offer it to one feed more; the verdict."""
        verdict = self._merge(told, now)
        self._name(told.id)
        if verdict != "stale":
            self._offer(told.id, "all")
        if number:
            self.feeds[number].offer(told.id)
        return verdict

    def _merge(self, told: Told, now: float) -> str:
        entity, tombstone = self.entities.get(told.id), self.tombstones.get(told.id)
        known = entity or tombstone
        if told.seen <= (known.seen if known else 0):
            return "stale"
        reason, died = told.reason, told.died
        if reason is None and told.deadline is not None and told.deadline <= now:
            reason, died = "expired", told.deadline
        if reason is not None and known is None and died + self.limits.tombstone_s <= now:
            return "stale"
        self._touch(told.id)
        if reason is not None:
            self._leave_tombstone(told.id, Tombstone(told.seen, told.by_publisher, reason, died, told.access, now))
            return "accepted"
        settings = Settings(told.access, told.min_zoom, told.rank)
        if entity is not None and entity.state.feature is not None:
            present = [entity.state.kind, entity.state.feature["geometry"], entity.state.properties]
            if json_equal(present, [told.kind, told.geometry, told.properties]):
                if settings != entity.settings:
                    entity.state.settings.append(settings)
                self._live(entity.state, told)
                return "unchanged"
        shown = entity.state.version if entity else tombstone.seen if tombstone else 0  # the highest version that a client can hold
        version = told.wire if told.wire > shown else told.seen
        state = self._state(told.id, version, told.kind, told.geometry, told.properties, settings)
        self.tombstones.pop(told.id, None)
        self.states.setdefault(told.id, []).append(state)
        self._live(state, told)
        return "accepted"

    def _live(self, state: State, told: Told) -> None:
        self.entities[told.id] = Entity(state, told.seen, told.by_publisher, told.ttl, told.deadline)

    def kill(self, entity_id: str, now: float) -> None:
        """A reload ends, and the entity was not in it."""
        entity = self.entities[entity_id]
        self._touch(entity_id)
        self._bury(entity_id, entity.seen, entity.by_publisher, "deleted", now)
        self._offer(entity_id, "all")

    def forsaken(self) -> set[str]:
        """The living that die when the reload ends."""
        assert self.named is not None
        return {entity_id for entity_id in self.entities.keys() - self.named if not self.is_local(entity_id)}

    def _name(self, entity_id: str) -> None:
        if self.named is not None:
            self.named.add(entity_id)

    def _offer(self, entity_id: str, *kinds: FeedKind) -> None:
        for feed in self.feeds.values():
            if feed.kind in kinds:
                feed.offer(entity_id)
