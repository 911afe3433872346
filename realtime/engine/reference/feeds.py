"""Feeds: the outboxes of other nodes and of stores, and what is noted while the world is loaded anew.

Law: a feed is a set of names in the order of the first offer, and never a queue of changes: what is told of an entity is
its state when it is taken out, so an outage of whoever reads a feed costs the names of what changed and nothing else.
What was taken is not in the feed any more. Feeds know names alone; the world gives the states.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from realtime.engine import FeedKind
from realtime.engine.digest import sample_hash
from realtime.engine.states import join

FEEDS_MAX = 8


class Feeds:
    """The open feeds by number."""

    def __init__(self) -> None:
        self._kinds: dict[int, FeedKind] = {}
        self._names: dict[int, OrderedDict[str, None]] = {}  # in the order of the first offer

    def __len__(self) -> int:
        """Entities in all feeds together."""
        return sum(map(len, self._names.values()))

    def open(self, kind: FeedKind) -> int:
        """Return a new feed's number; raise `ValueError` where there are enough."""
        if len(self._kinds) == FEEDS_MAX:
            raise ValueError(f"at most {FEEDS_MAX} feeds are open at once")
        feed = next(number for number in range(1, FEEDS_MAX + 1) if number not in self._kinds)
        self._kinds[feed] = FeedKind(kind)
        self._names[feed] = OrderedDict()
        return feed

    def close(self, feed: int) -> None:
        """Forget a feed."""
        del self._kinds[feed], self._names[feed]

    def size(self, feed: int) -> int:
        """Return how many entities are in a feed."""
        return len(self._names[feed])

    def offer(self, feed: int, ids: Iterable[str]) -> None:
        """Offer entities to one feed; what is in it already keeps its place."""
        names = self._names[feed]
        for id in ids:
            names.setdefault(id, None)

    def offer_applied(self, id: str) -> None:
        """Offer what a publisher updated to the feeds that want it."""
        for feed, kind in self._kinds.items():
            if kind is not FeedKind.ASKED:
                self._names[feed].setdefault(id, None)

    def offer_merged(self, id: str) -> None:
        """Offer what others told to the feeds that want it."""
        for feed, kind in self._kinds.items():
            if kind is FeedKind.ALL:
                self._names[feed].setdefault(id, None)

    def is_owed(self, id: str) -> bool:
        """Tell whether an entity is in any feed."""
        return any(id in names for names in self._names.values())

    def is_local(self, id: str) -> bool:
        """Tell whether an entity is in a LOCAL feed: this node took an update of it, and others do not know it yet."""
        return any(id in self._names[feed] for feed, kind in self._kinds.items() if kind is FeedKind.LOCAL)

    def take(self, feed: int, shards: int, bytes_max: int, tell: Callable[[str], bytes]) -> list[bytes]:
        """Take states out, first offered first, until they reach `bytes_max` bytes, and one at least; a batch for each shard."""
        names = self._names[feed]
        told: list[list[bytes]] = [[] for _ in range(shards)]
        size = 0
        while names and (size < bytes_max or size == 0):
            id, _ = names.popitem(last=False)
            state = tell(id)
            size += len(state)
            told[sample_hash(id) % shards].append(state)
        return [join(states) if states else b"" for states in told]

    def verify(self) -> None:
        """Check what must hold between the fields."""
        assert self._kinds.keys() == self._names.keys(), "a feed without a kind"
        assert len(self._kinds) <= FEEDS_MAX, "too many feeds"


class Reload:
    """One reload: which entities were named since it began, and which are still to be looked at."""

    def __init__(self) -> None:
        self.named: set[str] = set()
        self._left: list[str] | None = None  # those that lived when its end began, first born last

    def take(self, living: Iterable[str], entities_max: int) -> list[str]:
        """Return the next of the living that nobody named, out of so many."""
        if self._left is None:
            self._left = list(living)[::-1]
        start = max(0, len(self._left) - entities_max)
        few = self._left[start:][::-1]
        del self._left[start:]
        return [id for id in few if id not in self.named]

    def is_over(self) -> bool:
        """Tell whether all have been looked at."""
        return self._left == []
