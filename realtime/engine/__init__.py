"""The engine's seam: what a core of this server is given and what it gives back.

An engine holds the world, the views and the outboxes. Law: it has no I/O, no clock, no logging and starts nothing by
itself; ids, numbers and bytes cross the seam, message Structs do not; `now` is an argument, in seconds since the Unix
epoch, and never falls. Every engine answers alike: the same calls in the same order give the same decoded frames.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

from realtime.counters import Histogram
from realtime.engine.filters import Filter
from realtime.geo import Box, Geometry


class Op(IntEnum):
    """What an update asks for."""

    UPSERT = 0
    PATCH = 1
    MOVE = 2
    DELETE = 3


class Verdict(IntEnum):
    """What became of an update. From `UNKNOWN_ENTITY` on it was refused."""

    ACCEPTED = 0
    UNCHANGED = 1
    STALE = 2
    UNKNOWN_ENTITY = 3
    TOO_MANY_BYTES = 4
    TOO_MANY_PROPERTIES = 5
    NO_VERSION_LEFT = 6


class Encoding(IntEnum):
    """How a session's frames are written."""

    JSON = 0
    MSGPACK = 1


class Update(NamedTuple):
    """One update, decoded and checked. `None` is what it does not name; an upsert names everything."""

    op: Op
    id: str
    version: int = 0  # 0: the engine gives one
    geometry: Geometry | None = None
    properties: Mapping[str, bytes | None] | None = None  # canonical JSON; None: removed by a patch
    kind: str | None = None  # "": it has none
    min_zoom: float | None = None
    rank: float | None = None  # 0..1, lower is more important
    access: frozenset[str] | None = None  # principals
    ttl: float | None = None  # seconds; 0: it does not expire


class View(NamedTuple):
    """What a session looks at."""

    boxes: tuple[Box, ...] = ()
    zoom: float = 24.0
    filter: Filter | None = None
    ids: frozenset[str] = frozenset()
    max_hz: float = 0.0  # 0: as often as flush_interval_ms allows
    id: str | int | None = None  # of the view message; echoed


class Check(NamedTuple):
    """What a client's mirror must amount to right behind delta `seq`."""

    seq: int
    count: int  # type: ignore[assignment]  # the field's name on the wire; nobody counts in this tuple
    digest: str
    pending: int  # entities in the outbox


class FeedKind(IntEnum):
    """Which changes are offered to a feed by themselves."""

    LOCAL = 0  # what `apply` accepted, or found unchanged
    ALL = 1  # that, what `merge` took over, and what a reload let die
    ASKED = 2  # none: only what `merge` and `offer_all` are told to


class Merged(NamedTuple):
    """What became of the states of a batch."""

    accepted: int
    unchanged: int
    stale: int
    bad: int  # malformed, or with a value out of its bounds


class Settings(NamedTuple):
    """The bounds an engine works within; their defaults stand in `realtime.config`."""

    entities_per_view: int
    entity_bytes: int
    entity_properties: int
    flush_interval_s: float
    tombstone_s: float
    tombstones_max: int


class Engine(Protocol):
    """A core. Sessions are named by the number that `open` gives."""

    flush_lag: Histogram  # of every delta drained: the age of the oldest change in it, in seconds

    def apply(self, batch: Sequence[Update], now: float) -> list[Verdict]:
        """Apply updates in order, each wholly or not at all; offer what changed to the sessions that it concerns."""

    def open(self, principals: Iterable[str], user: str | None, encoding: Encoding) -> int:
        """Return a new session that shows nothing yet. Everybody has the principal `public`."""

    def look(self, session: int, view: View, have: Mapping[str, int] | None, now: float) -> None:
        """Give the session another view. `have` ({id: version}), believed, is what the client of a first view holds."""

    def allow(self, session: int, principals: Iterable[str], now: float) -> None:
        """Give the session other rights."""

    def refresh(self, session: int, now: float) -> None:
        """Declare the session's mirror empty and offer it everything anew."""

    def close(self, session: int) -> None:
        """Forget the session."""

    def take_dirty(self, now: float) -> list[int]:
        """Return the sessions that have something to send and whose rate allows it; each must be drained in time.

        A session is returned once until it is drained, however much later that is.
        """

    def next_due(self) -> float | None:
        """Return when `take_dirty` will return something next; None: not before something happens."""

    def drain(self, session: int, budget: int, now: float) -> bytes | None:
        """Return the session's next delta, of at most `budget` bytes or one entity; None if there is nothing to say."""

    def check(self, session: int) -> Check | None:
        """Return count and digest of what the client must hold now, computed from the world.

        None while a reset is on its way: until its delta is out, what the client holds is nobody's business.
        """

    def search(self, boxes: Sequence[Box], zoom: float, filter: Filter | None) -> list[bytes]:
        """Return the entities there as Features in JSON, ordered by id, without regard to rights and samples."""

    def get(self, id: str) -> bytes | None:
        """Return one entity as a Feature in JSON."""

    def explain(self, session: int, id: str) -> dict[str, Any]:
        """Tell which predicate lets the entity through to the session or stops it."""

    def expire(self, now: float, deaths_max: int = sys.maxsize) -> list[str]:
        """Let entities die whose time has come, at most `deaths_max`, and forget old tombstones; return their ids."""

    def next_expiry(self) -> float | None:
        """Return when `expire` will have something to do next."""

    # Feeds: the outboxes of other nodes and of stores. What travels is a batch of whole states, see docs/nodes.md. A
    # feed holds names; what it tells is the state at the moment of telling, so what happens in between is conflated.

    def renumber(self, node_number: int) -> None:
        """Give versions as the node of this number (0..4095) from now on."""

    def open_feed(self, kind: FeedKind) -> int:
        """Return a new feed, from 1 on; at most 8 at once, ValueError. A closed one's number may be given again."""

    def close_feed(self, feed: int) -> None:
        """Forget the feed and what is in it."""

    def offer_all(self, feed: int) -> None:
        """Offer every entity and every tombstone. What is in the feed already keeps its place."""

    def feed_size(self, feed: int) -> int:
        """Return how many entities are in the feed."""

    def take_feed(self, feed: int, shards: int, bytes_max: int) -> list[bytes]:
        """Take states out, first offered first, until they reach `bytes_max` bytes, and one at least if there is any.

        Returns a batch for each shard, empty bytes where there is nothing for it; an entity's shard is
        `fmix32(fnv1a32(id)) % shards`.
        """

    def merge(self, batch: bytes, now: float, feed: int = 0) -> Merged:
        """Take over the states that are newer than what is known; offer all that are named to `feed`, if one is given."""

    def begin_reload(self) -> None:
        """Note from now on which entities `merge` and `apply` name."""

    def end_reload(self, now: float, entities_max: int) -> bool:
        """Let those of the next `entities_max` entities die that were not named since and are in no LOCAL feed.

        True when all were looked at; then the reload is over.
        """

    def statistics(self, session: int | None = None) -> dict[str, int | float]:
        """Return counts of everything held, or of what one session costs."""

    def verify(self) -> None:
        """Check every invariant; raise AssertionError with what is wrong."""
