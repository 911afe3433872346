"""Two engines behind one seam: every call goes to both, and what they answer must be the same.

Law: frames are compared decoded, whatever the order of members; everything else as it is, batches of states byte for byte.
What engines may choose for themselves (the numbers of sessions, the moment until which an expiry may be late, which of
those that are to die at the same moment die first where only so many may) is not compared.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from realtime._native import NativeEngine
from realtime.counters import Histogram
from realtime.engine import Check, Encoding, FeedKind, Merged, Settings, Update, Verdict, View
from realtime.engine.filters import Filter
from realtime.engine.reference import ReferenceEngine
from realtime.geo import Box

DECODE = {Encoding.JSON: msgspec.json.decode, Encoding.MSGPACK: msgspec.msgpack.decode}


class DualEngine:
    """The reference engine and the native one, which must not differ. Sessions have the numbers of the reference."""

    def __init__(self, settings: Settings, node_number: int = 0) -> None:
        self.reference, self.native = ReferenceEngine(settings, node_number), NativeEngine(settings, node_number)
        self._natives: dict[int, int] = {}
        self._encodings: dict[int, Encoding] = {}
        self._dying: Counter[str] = Counter()  # how much more often it died in the reference engine

    @property
    def flush_lag(self) -> Histogram:
        lag, other = self.reference.flush_lag, self.native.flush_lag
        assert lag.counts == other.counts
        return lag

    def apply(self, batch: Sequence[Update], now: float) -> list[Verdict]:
        verdicts = self.reference.apply(batch, now)
        assert self.native.apply(batch, now) == verdicts
        return verdicts

    def open(self, principals: Iterable[str], user: str | None, encoding: Encoding) -> int:
        names = list(principals)
        session = self.reference.open(names, user, encoding)
        self._natives[session] = self.native.open(names, user, encoding)
        self._encodings[session] = encoding
        return session

    def look(self, session: int, view: View, have: Mapping[str, int] | None, now: float) -> None:
        self.reference.look(session, view, have, now)
        self.native.look(self._natives[session], view, have, now)

    def allow(self, session: int, principals: Iterable[str], now: float) -> None:
        names = list(principals)
        self.reference.allow(session, names, now)
        self.native.allow(self._natives[session], names, now)

    def refresh(self, session: int, now: float) -> None:
        self.reference.refresh(session, now)
        self.native.refresh(self._natives[session], now)

    def close(self, session: int) -> None:
        self.reference.close(session)
        self.native.close(self._natives.pop(session))

    def take_dirty(self, now: float) -> list[int]:
        taken = self.reference.take_dirty(now)
        assert self.native.take_dirty(now) == [self._natives[session] for session in taken]
        return taken

    def next_due(self) -> float | None:
        due = self.reference.next_due()
        assert self.native.next_due() == due
        return due

    def drain(self, session: int, budget: int, now: float) -> bytes | None:
        frame = self.reference.drain(session, budget, now)
        other = self.native.drain(self._natives[session], budget, now)
        if frame is None or other is None:
            assert frame is other, f"only one engine has something to say: {frame!r}, {other!r}"
            return frame
        decode = DECODE[self._encodings[session]]
        expected, answered = decode(frame), decode(other)
        assert answered == expected, f"the frames differ:\n{expected}\n{answered}"
        assert repr(_sorted(answered)) == repr(_sorted(expected)), "the frames differ in the types of their values"
        return other

    def check(self, session: int) -> Check | None:
        check = self.reference.check(session)
        assert self.native.check(self._natives[session]) == check
        return check

    def search(self, boxes: Sequence[Box], zoom: float, filter: Filter | None) -> list[bytes]:
        found = self.reference.search(boxes, zoom, filter)
        other = self.native.search(boxes, zoom, filter)
        assert [msgspec.json.decode(feature) for feature in other] == [msgspec.json.decode(feature) for feature in found]
        return found

    def get(self, id: str) -> bytes | None:
        feature, other = self.reference.get(id), self.native.get(id)
        assert (feature is None and other is None) or msgspec.json.decode(feature or b"") == msgspec.json.decode(other or b"")
        return feature

    def explain(self, session: int, id: str) -> dict[str, Any]:
        answer = self.reference.explain(session, id)
        assert self.native.explain(self._natives[session], id) == answer
        return answer

    def expire(self, now: float, deaths_max: int = sys.maxsize) -> list[str]:
        dead, others = self.reference.expire(now, deaths_max), self.native.expire(now, deaths_max)
        assert len(others) == len(dead)
        self._dying.update(dead)
        self._dying.subtract(others)
        if len(dead) < deaths_max:  # none is left whose time has come
            assert not any(self._dying.values()), f"they let others die: {self._dying}"
            self._dying.clear()
            assert deaths_max < sys.maxsize or others == dead
        return dead

    def next_expiry(self) -> float | None:
        return self.reference.next_expiry()

    def renumber(self, node_number: int) -> None:
        self.reference.renumber(node_number)
        self.native.renumber(node_number)

    def open_feed(self, kind: FeedKind) -> int:
        feed = self.reference.open_feed(kind)
        assert self.native.open_feed(kind) == feed
        return feed

    def close_feed(self, feed: int) -> None:
        self.reference.close_feed(feed)
        self.native.close_feed(feed)

    def offer_all(self, feed: int) -> None:
        self.reference.offer_all(feed)
        self.native.offer_all(feed)

    def feed_size(self, feed: int) -> int:
        size = self.reference.feed_size(feed)
        assert self.native.feed_size(feed) == size
        return size

    def take_feed(self, feed: int, shards: int, bytes_max: int) -> list[bytes]:
        batches = self.reference.take_feed(feed, shards, bytes_max)
        others = self.native.take_feed(feed, shards, bytes_max)
        assert others == batches, f"the batches differ:\n{batches}\n{others}"
        return others

    def merge(self, batch: bytes, now: float, feed: int = 0) -> Merged:
        merged = self.reference.merge(batch, now, feed)
        other = self.native.merge(batch, now, feed)
        assert other == merged, f"of {batch!r} the one makes {merged}, the other {other}"
        return merged

    def begin_reload(self) -> None:
        self.reference.begin_reload()
        self.native.begin_reload()

    def end_reload(self, now: float, entities_max: int) -> bool:
        is_over = self.reference.end_reload(now, entities_max)
        assert self.native.end_reload(now, entities_max) == is_over
        return is_over

    def statistics(self, session: int | None = None) -> dict[str, int | float]:
        numbers = self.reference.statistics(session)
        other = self.native.statistics(None if session is None else self._natives[session])
        assert other.keys() == numbers.keys()
        for name, number in numbers.items():
            if name == "outbox_entities":  # of the native engine's changes that nobody looked at yet each counts
                assert other[name] >= number
            elif name != "pairs":
                assert other[name] == number, name
        return numbers

    def verify(self) -> None:
        self.reference.verify()
        self.native.verify()


def _sorted(value: Any) -> Any:
    """The same value with the members of its objects in one order."""
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
