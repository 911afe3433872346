"""The world: what is there now, what died lately, and how an update, or what another node tells, turns the one state into the next.

Law: a `State` is never changed by an update that a client could see; the next one takes its place, so that old and
new can be matched against the same view. Only what no view can tell apart (seen version, deadline) is set in place.
The world knows nothing of sessions.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Any, NamedTuple

import msgspec

from realtime.engine import Op, Settings, Update, Verdict
from realtime.engine.digest import digest_of
from realtime.engine.sampling import Key, sample_key
from realtime.engine.states import Alive, Dead, Told, Unknown, in_order, write_object
from realtime.engine.states import write as write_state
from realtime.geo import Box, Geometry
from realtime.values import VERSION_MAX, next_version

REMOVED_MAX = 64  # removed properties remembered per entity, for patches
KNOWN_MAX = 8  # wire versions remembered per entity: which versions of a client's `have` can be believed

INFINITE = float("inf")

_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode


class Property(NamedTuple):
    """One property: its canonical JSON and the wire version that last changed it."""

    json: bytes
    version: int


class State:
    """One state of an entity, as the world knows it."""

    __slots__ = (
        "access",
        "by_publisher",
        "deadline",
        "enters",
        "fingerprint",
        "geometry",
        "geometry_version",
        "id",
        "key",
        "kind",
        "known",
        "min_zoom",
        "move_since",
        "moves",
        "patches",
        "properties",
        "rank",
        "removed",
        "seen",
        "since",
        "ttl",
        "wire",
    )

    id: str
    seen: int  # the newest accepted version
    wire: int  # the version of the last change that a client could see
    by_publisher: bool  # whether the publisher counts this entity's versions
    since: int  # the oldest wire version from which a patch can be told: of its birth, the last change of kind, …
    move_since: int  # the oldest wire version since which only the coordinates of a Point changed
    known: deque[int]  # the last wire versions; shared by the states of one life
    kind: str
    geometry: Geometry
    geometry_version: int  # the wire version that last changed it
    properties: dict[str, Property]  # shared with the next state where nothing changed
    removed: dict[str, int]  # removed property -> the version that removed it, oldest first
    min_zoom: float
    rank: float
    key: Key  # for sampling
    access: frozenset[str]
    ttl: float  # seconds; 0: none
    deadline: float  # seconds since the Unix epoch; infinite: none
    # Written by the frames, at most once per wire version and encoding.
    enters: list[bytes | None]
    moves: list[bytes | None]
    patches: dict[tuple[int, int], bytes]  # (encoding, held version) -> bytes
    fingerprint: int  # of id and wire version, in the digest; -1: not yet computed

    def value(self, name: str) -> Any:
        """Return a property's value for a filter; None where it is missing."""
        found = self.properties.get(name)
        return None if found is None else _decode(found.json)

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes that it is matched by."""
        return self.geometry.boxes

    def digest(self) -> int:
        """Return its part of a mirror's digest."""
        if self.fingerprint < 0:
            self.fingerprint = digest_of(self.id, self.wire)
        return self.fingerprint


class Tombstone(NamedTuple):
    """What is remembered of a dead entity."""

    seen: int
    by_publisher: bool
    is_expired: bool  # it was not deleted
    died: float  # wherever that was; all nodes tell the same
    access: frozenset[str]  # who could see it: nobody else may learn that it was there
    buried: float  # when this engine learned of it; from then on it is remembered so long


class Change(NamedTuple):
    """What an update made of the world. `old` and `new` are one object where no view can tell them apart."""

    verdict: Verdict
    old: State | None = None
    new: State | None = None


class World:
    """Entities by id, tombstones by id, oldest burial first, and the deadlines to come.

    A tombstone of which `is_owed` says that others still have to be told is not forgotten by time.
    """

    def __init__(self, settings: Settings, node_number: int, is_owed: Callable[[str], bool] = lambda id: False) -> None:
        self._settings = settings
        self.node_number = node_number
        self._is_owed = is_owed
        self.entities: dict[str, State] = {}
        self.tombstones: OrderedDict[str, Tombstone] = OrderedDict()
        self._deadlines: list[tuple[float, str]] = []  # a heap; an entity stands in it at or before its deadline
        self._queued: dict[str, float] = {}  # id -> the earliest time at which it stands in the heap

    def apply(self, update: Update, now: float) -> Change:
        """Apply one update."""
        old = self.entities.get(update.id)
        before: State | Tombstone | None = old if old is not None else self.tombstones.get(update.id)
        seen = 0 if before is None else before.seen
        version, by_publisher = update.version, True
        if version:
            if version <= seen:
                return Change(Verdict.STALE, old, old)
        elif before is not None and before.by_publisher:
            version = seen + 1
        else:
            version, by_publisher = next_version(seen, now, self.node_number), False
        if version > VERSION_MAX:
            return Change(Verdict.NO_VERSION_LEFT, old, old)
        if update.op is Op.DELETE:
            access = old.access if old else before.access if isinstance(before, Tombstone) else frozenset(("public",))
            self._bury(update.id, Tombstone(version, by_publisher, False, now, access, now))
            return Change(Verdict.ACCEPTED, old, None)
        if old is None:
            if update.op is not Op.UPSERT:
                return Change(Verdict.UNKNOWN_ENTITY)
            change = self._create(update, version)
        else:
            change = self._alter(old, update, version)
        if change.verdict <= Verdict.UNCHANGED and change.new is not None:
            self._keep(change.new, version, by_publisher)
            self._schedule(change.new, now + change.new.ttl if change.new.ttl else INFINITE)
        return change

    def _keep(self, state: State, seen: int, by_publisher: bool) -> None:
        state.seen, state.by_publisher = seen, by_publisher
        self.entities[state.id] = state
        self.tombstones.pop(state.id, None)

    def merge(self, told: Told, now: float) -> Change:
        """Take over a state that another node tells, if it is newer than what is known; the higher seen version wins whole."""
        state = told.state
        old = self.entities.get(state.id)
        tombstone = self.tombstones.get(state.id)
        known = old or tombstone
        if isinstance(state, Unknown) or (known is not None and state.seen <= known.seen):
            return Change(Verdict.STALE, old, old)
        if isinstance(state, Alive) and state.deadline and state.deadline <= now:
            state = Dead(state.id, state.seen, state.by_publisher, state.deadline, True, state.access)
        if isinstance(state, Dead):
            if known is None and state.died + self._settings.tombstone_s <= now:
                return Change(Verdict.STALE)  # everybody has forgotten it
            access = frozenset(state.access)
            self._bury(state.id, Tombstone(state.seen, state.by_publisher, state.is_expired, state.died, access, now))
            return Change(Verdict.ACCEPTED, old, None)
        update = Update(
            Op.UPSERT,
            state.id,
            0,
            told.geometry,
            told.properties,
            state.kind,
            state.min_zoom,
            state.rank,
            frozenset(state.access),
            state.ttl,
        )
        wire = _next_wire(state, known)
        change = self._create(update, wire) if old is None else self._alter(old, update, wire)
        assert change.new is not None and change.verdict <= Verdict.UNCHANGED, "what was told is too big, and that was checked"
        self._keep(change.new, state.seen, state.by_publisher)
        self._schedule(change.new, state.deadline or INFINITE)
        return change

    def let_die(self, state: State, now: float) -> None:
        """Bury a living entity that is nowhere else, in the version that it has."""
        self._bury(state.id, Tombstone(state.seen, state.by_publisher, False, now, state.access, now))

    def tell(self, id: str) -> bytes:
        """Return the entity's present state as others are told it."""
        state = self.entities.get(id)
        if state is not None:
            return write_state(
                Alive(
                    id,
                    state.seen,
                    state.by_publisher,
                    state.wire,
                    float(state.ttl),  # an update may have named integers
                    0.0 if state.deadline == INFINITE else float(state.deadline),
                    state.kind,
                    float(state.min_zoom),
                    float(state.rank),
                    in_order(state.access),
                    state.geometry.json,
                    write_object({name: value.json for name, value in state.properties.items()}),
                )
            )
        dead = self.tombstones.get(id)
        if dead is not None:
            return write_state(Dead(id, dead.seen, dead.by_publisher, float(dead.died), dead.is_expired, in_order(dead.access)))
        return write_state(Unknown(id))

    def _create(self, update: Update, version: int) -> Change:
        state = State()
        state.id = update.id
        state.wire = state.since = state.move_since = state.geometry_version = version
        state.known = deque((version,), KNOWN_MAX)
        state.kind = update.kind or ""
        assert update.geometry is not None and update.properties is not None
        state.geometry = update.geometry
        state.properties = {name: Property(json, version) for name, json in update.properties.items() if json is not None}
        state.removed = {}
        state.min_zoom = state.rank = state.ttl = 0.0
        _set_unseen(state, update)
        _clear_frames(state)
        return Change(self._too_big(state) or Verdict.ACCEPTED, None, state)

    def _alter(self, old: State, update: Update, version: int) -> Change:
        kind = old.kind if update.kind is None else update.kind
        geometry = old.geometry if update.geometry is None else update.geometry
        properties, removed, dropped = _changed_properties(old, update, version)
        if kind == old.kind and geometry.json == old.geometry.json and properties is old.properties:
            return Change(Verdict.UNCHANGED, old, _unchanged(old, update))
        state = _copy(old)
        _clear_frames(state)
        state.wire = version
        state.properties, state.removed = properties, removed
        state.since = max(old.since, dropped)
        if kind != old.kind:
            state.kind, state.since = kind, version
        if geometry.json != old.geometry.json:
            state.geometry, state.geometry_version = geometry, version
        if properties is not old.properties or not (geometry.is_point and old.geometry.is_point):
            state.move_since = version
        _set_unseen(state, update)
        refused = self._too_big(state) if properties is not old.properties or update.geometry is not None else None
        if refused is not None:
            return Change(refused, old, old)
        state.known.append(version)
        return Change(Verdict.ACCEPTED, old, state)

    def _too_big(self, state: State) -> Verdict | None:
        if len(state.properties) > self._settings.entity_properties:
            return Verdict.TOO_MANY_PROPERTIES
        size = len(state.geometry.json) + sum(len(_encode(name)) + len(p.json) + 2 for name, p in state.properties.items())
        return Verdict.TOO_MANY_BYTES if size > self._settings.entity_bytes else None

    def _bury(self, id: str, tombstone: Tombstone) -> None:
        self.entities.pop(id, None)
        self.tombstones.pop(id, None)
        self.tombstones[id] = tombstone
        while len(self.tombstones) > self._settings.tombstones_max:
            self.tombstones.popitem(last=False)

    def _schedule(self, state: State, deadline: float) -> None:
        state.deadline = deadline
        if state.deadline < self._queued.get(state.id, INFINITE):
            self._queued[state.id] = state.deadline
            heappush(self._deadlines, (state.deadline, state.id))

    def expire(self, now: float, deaths_max: int) -> Iterator[State]:
        """Bury the entities whose deadline has come, one by one, earliest first; then forget the tombstones that are old.

        Each is yielded right after its death, while those behind it are still alive: what is made of it sees one change.
        """
        dead: list[State] = []
        while self._deadlines and self._deadlines[0][0] <= now and len(dead) < deaths_max:
            due, id = heappop(self._deadlines)
            if self._queued.get(id) != due:
                continue
            del self._queued[id]
            state = self.entities.get(id)
            if state is None or state.deadline == INFINITE:
                continue
            if state.deadline > due:  # even if that has come, too: others may come before it
                self._queued[id] = state.deadline
                heappush(self._deadlines, (state.deadline, id))
                continue
            dead.append(state)
        dead.sort(key=lambda state: (state.deadline, state.id))
        for state in dead:
            self._bury(state.id, Tombstone(state.seen, state.by_publisher, True, now, state.access, now))
            yield state
        while True:
            forgettable = self._next_forgettable()
            if forgettable is None or forgettable[0] > now:
                break
            del self.tombstones[forgettable[1]]

    def _next_forgettable(self) -> tuple[float, str] | None:
        """Return when which tombstone is forgotten next: the oldest; while that is still to be told, none is."""
        for id, oldest in self.tombstones.items():
            return None if self._is_owed(id) else (oldest.buried + self._settings.tombstone_s, id)
        return None

    def next_expiry(self) -> float | None:
        """Return when `expire` will have something to do."""
        times = [self._deadlines[0][0]] if self._deadlines else []
        forgettable = self._next_forgettable()
        if forgettable is not None:
            times.append(forgettable[0])
        return min(times, default=None)

    def verify(self) -> None:
        """Check what must hold between the fields."""
        for id, state in self.entities.items():
            assert state.id == id and id not in self.tombstones, f"{id}: dead and alive"
            assert state.since <= state.wire <= state.seen, f"{id}: versions out of order"
            assert state.known[-1] == state.wire, f"{id}: its own version is not known"
            assert len(state.removed) <= REMOVED_MAX, f"{id}: remembers too much"
            newest = max(
                [state.geometry_version, state.move_since, *(p.version for p in state.properties.values()), *state.removed.values()]
            )
            assert newest <= state.wire, f"{id}: changed after its wire version"
            assert state.deadline == INFINITE or self._queued.get(id, INFINITE) <= state.deadline, f"{id}: would never expire"
        buried = [tombstone.buried for tombstone in self.tombstones.values()]
        assert buried == sorted(buried), "tombstones out of order"
        assert len(buried) <= self._settings.tombstones_max, "too many tombstones"


def _changed_properties(old: State, update: Update, version: int) -> tuple[dict[str, Property], dict[str, int], int]:
    """Return properties and removed ones after the update, and the version of the last removal that was forgotten.

    Both dicts are the old ones themselves where nothing changed.
    """
    named = update.properties
    if named is None:
        return old.properties, old.removed, 0
    changed = {}
    for name, json in named.items():
        before = old.properties.get(name)
        if json is not None and (before is None or before.json != json):
            changed[name] = Property(json, version)
    gone = [name for name in (old.properties if update.op is Op.UPSERT else named) if name in old.properties and named.get(name) is None]
    if not changed and not gone:
        return old.properties, old.removed, 0
    properties = old.properties | changed
    removed = {name: removal for name, removal in old.removed.items() if name not in changed}
    for name in gone:
        del properties[name]
        removed[name] = version
    dropped = 0
    while len(removed) > REMOVED_MAX:
        name = next(iter(removed))
        dropped = max(dropped, removed.pop(name))
    return properties, removed, dropped


def _next_wire(told: Alive, known: State | Tombstone | None) -> int:
    """Return the wire version of a state that is told: its own, if that is above all that a client can have held."""
    held = 0 if known is None else known.wire if isinstance(known, State) else known.seen
    return told.wire if told.wire > held else told.seen


def _set_unseen(state: State, update: Update) -> None:
    """Set what no client sees from what the update names."""
    if update.min_zoom is not None:
        state.min_zoom = update.min_zoom
    if update.rank is not None:
        state.rank = update.rank
        state.key = sample_key(state.rank, state.id)
    if update.access is not None:
        state.access = update.access
    if update.ttl is not None:
        state.ttl = update.ttl


def _unchanged(old: State, update: Update) -> State:
    """Return the next state after an update that no client sees: `old` itself unless a view may tell them apart."""
    if update.ttl is not None:
        old.ttl = update.ttl
    if (
        (update.min_zoom is None or update.min_zoom == old.min_zoom)
        and (update.rank is None or update.rank == old.rank)
        and (update.access is None or update.access == old.access)
    ):
        return old
    state = _copy(old)
    _set_unseen(state, update)
    return state


def _copy(old: State) -> State:
    state = State()
    for name in State.__slots__:
        setattr(state, name, getattr(old, name))
    return state


def _clear_frames(state: State) -> None:
    state.enters = [None, None]
    state.moves = [None, None]
    state.patches = {}
    state.fingerprint = -1
