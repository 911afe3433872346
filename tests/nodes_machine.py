"""Drives two engines that tell each other what happens in them, and everything that a feed can be asked and told.

`NodesMachine` adds a second node (`there`) to the world and the sessions of tests/engine_machine.py (`here`): it has
another number and updates of its own. Batches of states travel between the two in any order, twice, cut off, or not at all; then they
are offered again. A third node is made up: its states are drawn. Whenever all has been exchanged the two worlds must be
the same, and what sessions are shown meanwhile is held to the same promises as ever.

Law: no version is given twice, neither by publishers nor by what is made up, for who does that is promised nothing. And all is
exchanged before a tombstone that it may concern can be forgotten: beyond `tombstone_s` nothing is promised either.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from realtime.engine import Engine, FeedKind
from realtime.engine.states import parts_of, read
from tests import engine_operations as drawn
from tests.engine_machine import LIMITS, SETTINGS, EngineMachine
from tests.model_nodes import Feed, SharedWorld, Told, shard_of

NUMBER_THERE = 2000
NUMBERS_HERE = [0, 1000, 4095]
EXCHANGE_S = LIMITS.tombstone_s - 10  # what is made up died up to 5 s before
EVERYTHING = 1 << 30  # bytes
FEEDS_MAX = 8
KINDS = {FeedKind.LOCAL: "local", FeedKind.ALL: "all", FeedKind.ASKED: "asked"}

_raws = msgspec.msgpack.Decoder(list[msgspec.Raw])


class Node:
    """An engine, the model of its world, the feed of what it has to tell, and what it was told and has not taken in yet."""

    def __init__(self, engine: Engine, world: SharedWorld) -> None:
        self.engine, self.world = engine, world
        self.told: list[tuple[bytes, Node | None]] = []  # batches, and who told them; None: nobody whom one could ask again
        self.relay = self.open_feed(FeedKind.LOCAL)

    def open_feed(self, kind: FeedKind) -> int:
        feed = self.engine.open_feed(kind)
        assert feed not in self.world.feeds
        assert feed > 0
        self.world.feeds[feed] = Feed(KINDS[kind])  # type: ignore[arg-type]
        return feed

    def close_feed(self, feed: int) -> None:
        self.engine.close_feed(feed)
        del self.world.feeds[feed]

    def offer_all(self, feed: int) -> None:
        self.engine.offer_all(feed)
        self.world.offer_all(feed)

    def take(self, feed: int, shards: int, bytes_max: int) -> list[bytes]:
        """Take batches: what stands in them is what the model says, each state in its shard, and as much as was asked for."""
        batches = self.engine.take_feed(feed, shards, bytes_max)
        assert len(batches) == shards
        assert all(batch[:1] == b"\xdd" for batch in batches if batch), "a batch has another head"
        found = [states(batch)[::-1] if batch else [] for batch in batches]
        waiting, size = self.world.feeds[feed].ids, 0
        while waiting and (size < bytes_max or size == 0):
            id = waiting.pop(0)
            shard = found[shard_of(id, shards)]
            assert shard, f"{id} is not told, or in another shard"
            raw = shard.pop()
            told, expected = Told.from_bytes(raw), self.world.tell(id)
            assert told == expected, f"told is {told}, and not {expected}"
            size += len(raw)
        assert not any(found), f"more is told than was to be told: {found}"
        assert all(batch == b"" or states(batch) for batch in batches), "an empty batch has bytes"
        return [batch for batch in batches if batch]

    def everything(self) -> dict[str, Told]:
        """All that the engine knows, by what it tells of it."""
        feed = self.open_feed(FeedKind.ASKED)
        self.offer_all(feed)
        batches = self.take(feed, 1, EVERYTHING)
        self.close_feed(feed)
        return {told.id: told for batch in batches for told in map(Told.from_bytes, states(batch))}

    def verify(self) -> None:
        self.engine.verify()
        numbers = self.engine.statistics()
        counted = {
            "entities": len(self.world.entities),
            "tombstones": len(self.world.tombstones),
            "feeds": sum(len(feed.ids) for feed in self.world.feeds.values()),
        }
        assert {name: numbers[name] for name in counted} == counted
        for number, feed in self.world.feeds.items():
            assert self.engine.feed_size(number) == len(feed.ids)


def states(batch: bytes) -> list[bytes]:
    return [bytes(raw) for raw in _raws.decode(batch)]


def batch_of(*raws: bytes) -> bytes:
    return b"\xdd" + len(raws).to_bytes(4, "big") + b"".join(raws)


class NodesMachine(EngineMachine):
    """Random operations on two worlds that tell each other, and on the sessions of one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.here = Node(self.engine, self.world)
        self.there = Node(self.new_engine(), SharedWorld(LIMITS, node_number=NUMBER_THERE))
        self.there.engine.renumber(NUMBER_THERE)
        self.used: dict[str, set[int]] = defaultdict(set)  # per id the versions that somebody has given
        self.exchanged = self.now  # when there was nothing to be told any more
        self.forsaken: dict[str, int] = {}  # what a reload let die here alone: id -> its version then

    # Time and versions

    def let_pass(self, seconds: float) -> None:
        if self.now + seconds - self.exchanged >= EXCHANGE_S:
            self.exchange_all()
        super().let_pass(seconds)

    def expire(self) -> None:
        super().expire()
        assert self.there.engine.expire(self.now) == self.there.world.expire(self.now)

    def versioned(self, world: SharedWorld, update: dict[str, Any], relative: int | None) -> dict[str, Any]:
        """Also of another node nobody uses a version again, unless it is stale."""
        update = super().versioned(world, update, relative)
        known = world.entities.get(update["id"]) or world.tombstones.get(update["id"])
        seen, is_counted = (known.seen, known.by_publisher) if known else (0, False)
        version = update.get("version", seen + 1 if is_counted else 0)
        if version <= seen:
            return update
        version = self.unused(update["id"], version)
        return update | {"version": version}

    def unused(self, id: str, version: int) -> int:
        """Return the next version that nobody has given, and give it."""
        while version in self.used[id]:
            version += 1
        self.used[id].add(version)
        return version

    def apply(self, engine: Engine, world: SharedWorld, batch: list[dict[str, Any]]) -> None:
        super().apply(engine, world, batch)
        for id in {update["id"] for update in batch}:
            known = world.entities.get(id) or world.tombstones.get(id)
            if known:
                self.used[id].add(known.seen)

    # What is told

    def merge(self, node: Node, batch: bytes, feed: int = 0, cut: int | None = None) -> None:
        """Let a node take in a batch, or only so many bytes of it, and offer what is in it to one of its feeds."""
        data, whole, at = batch[:cut], [], 5
        for raw in states(batch):
            at += len(raw)
            if at <= len(data):
                whole.append(Told.from_bytes(raw))
        with self.noticing():
            verdicts = Counter(node.world.merge(told, self.now, feed) for told in whole)
        merged = node.engine.merge(data, self.now, feed)
        expected = (*(verdicts[name] for name in ("accepted", "unchanged", "stale")), int(len(data) < len(batch)))
        assert tuple(merged) == expected, f"{whole}: {merged}, and not {expected}"

    def other(self, node: Node) -> Node:
        return self.there if node is self.here else self.here

    def relay(self, node: Node, shards: int, bytes_max: int) -> None:
        self.other(node).told.extend((batch, node) for batch in node.take(node.relay, shards, bytes_max))

    def exchange_all(self) -> None:
        """All is told and taken in, what was told last first; then the worlds are the same."""
        for _ in range(9):
            for node in (self.here, self.there):
                self.relay(node, 1, EVERYTHING)
                while node.told:
                    self.merge(node, node.told.pop()[0])
            if not (self.here.told or self.there.told or self.here.world.feeds[self.here.relay].ids):
                break
        else:
            raise AssertionError("they tell each other the same again and again")
        self.exchanged = self.now
        self.expire()  # a timer may be late on one of them
        self.compare()

    def compare(self) -> None:
        """The same lives in both worlds in the same state, and what both remember as dead died the same death."""
        mine, others = self.here.everything(), self.there.everything()
        for id in mine.keys() | others.keys():
            one, other = mine.get(id, Told(id)), others.get(id, Told(id))
            if max(one.seen, other.seen) <= self.forsaken.get(id, 0):
                continue
            if one.wire == other.wire == 0 and not (one.seen and other.seen):
                continue  # only one of them remembers that it is dead
            plain, its = replace(one, wire=bool(one.wire), died=0.0), replace(other, wire=bool(other.wire), died=0.0)
            assert plain == its, f"after all was told, one node has {one}, the other {other}"

    @rule(node=st.booleans(), shards=st.integers(1, 5), bytes_max=st.sampled_from([1, 300, 1_000, EVERYTHING, EVERYTHING]))
    def tell(self, node: bool, shards: int, bytes_max: int) -> None:
        self.relay(self.here if node else self.there, shards, bytes_max)

    @precondition(lambda self: self.here.told or self.there.told)
    @rule(data=st.data(), again=st.booleans(), shared=st.booleans(), soon=drawn.soon)
    def hear(self, data: Any, again: bool, shared: bool, soon: int) -> None:
        """A batch arrives, not the one told first, and maybe not for the last time."""
        node = data.draw(st.sampled_from([node for node in (self.here, self.there) if node.told]))
        at = data.draw(st.integers(0, len(node.told) - 1))
        feed = data.draw(st.sampled_from(sorted(node.world.feeds))) if shared else 0
        self.merge(node, node.told[at][0], feed)
        if not again:
            del node.told[at]
        self.flush_soon(soon)

    @precondition(lambda self: self.here.told or self.there.told)
    @rule(data=st.data())
    def lose(self, data: Any) -> None:
        """A batch does not arrive: whoever told it offers all of it again."""
        node = data.draw(st.sampled_from([node for node in (self.here, self.there) if node.told]))
        batch, teller = node.told.pop(data.draw(st.integers(0, len(node.told) - 1)))
        if teller is None:
            self.merge(node, batch)
        else:
            self.merge(teller, batch, teller.relay)

    @precondition(lambda self: self.here.told)
    @rule(data=st.data(), soon=drawn.soon)
    def hear_a_part(self, data: Any, soon: int) -> None:
        batch = data.draw(st.sampled_from([batch for batch, _ in self.here.told]))
        self.merge(self.here, batch, cut=data.draw(st.integers(0, len(batch) - 1)))
        self.flush_soon(soon)

    @precondition(lambda self: self.here.told)
    @rule(data=st.data(), noise=st.binary(max_size=3), length=st.integers(0, 3))
    def hear_noise(self, data: Any, noise: bytes, length: int) -> None:
        """Some bytes are others. What is another state then says a version for the second time, so it is left out."""
        batch = data.draw(st.sampled_from([batch for batch, _ in self.here.told]))
        at = data.draw(st.integers(0, len(batch)))
        spoilt = batch[:at] + noise + batch[at + length :]
        told, parts = states(batch), parts_of(spoilt)[0]
        for part in parts:
            try:
                read(part, SETTINGS)
            except ValueError:
                continue
            if part not in told:
                return
        before = self.here.engine.statistics()
        with self.noticing():
            verdicts = Counter(self.here.world.merge(Told.from_bytes(part), self.now) for part in parts if part in told)
        merged = self.here.engine.merge(spoilt, self.now)
        assert (merged.accepted, merged.unchanged, merged.stale) == tuple(verdicts[name] for name in ("accepted", "unchanged", "stale"))
        assert merged.bad or spoilt == batch or len(parts) < len(told), f"nothing of {spoilt!r} is bad, {before}"

    @rule(soon=drawn.soon)
    def exchange(self, soon: int) -> None:
        self.exchange_all()
        self.flush_soon(soon)

    # What happens elsewhere

    @rule(changes=st.lists(st.tuples(drawn.ids, drawn.happening, drawn.version), min_size=1, max_size=6, unique_by=lambda c: c[0]))
    def happen_there(self, changes: list[tuple[str, dict[str, Any], int | None]]) -> None:
        batch = [self.versioned(self.there.world, {"id": id, **change}, version) for id, change, version in changes]
        self.apply(self.there.engine, self.there.world, batch)

    @rule(features=drawn.crowd, version=drawn.version)
    def crowd_there(self, features: dict[str, Any], version: int | None) -> None:
        batch = [({"type": "Feature", "id": id, **members}, version) for id, members in features.items()]
        self.apply(self.there.engine, self.there.world, [self.versioned(self.there.world, *change) for change in batch])

    @rule(told=st.lists(drawn.told, min_size=1, max_size=4), soon=drawn.soon)
    def hear_of_others(self, told: list[drawn.MadeUp], soon: int) -> None:
        """A third node tells both. What is not newer than what is known everywhere may say anything."""
        batch = batch_of(*(self.made_up(one).to_bytes() for one in told))
        self.there.told.append((batch, None))
        self.merge(self.here, batch)
        self.flush_soon(soon)

    def made_up(self, draft: drawn.MadeUp) -> Told:
        """Give a state that was made up its versions and times."""
        told = draft.told
        known = [self.known(node, told.id) for node in (self.here, self.there)]
        if draft.how == "unknown":
            return Told(told.id)
        if draft.how == "stale":
            seen = max(1, min(known) - draft.above)
            return replace(told, seen=seen, wire=seen if told.reason is None else 0) if seen <= min(known) else Told(told.id)
        seen = self.unused(told.id, self.seen_by_others(told.id, draft.above, known))
        if told.reason is not None:
            return replace(told, seen=seen, died=self.now - draft.ago)
        wire = max(1, seen - draft.below)
        while wire < seen and wire in self.used[told.id]:
            wire += 1
        self.used[told.id].add(wire)
        deadline = {"due": self.now - draft.ago, "mortal": self.now + 1 + draft.ago}.get(draft.how)
        return replace(told, seen=seen, wire=wire, deadline=deadline)

    def seen_by_others(self, id: str, above: int, known: list[int]) -> int:
        """Return a version relative to the one that is known here, but above all of what may be forgotten before all is exchanged."""
        graves = [node.world.tombstones[id] for node in (self.here, self.there) if id in node.world.tombstones]
        if all(known) and all(grave.buried >= self.exchanged for grave in graves):
            return max(1, known[0] + above)
        return max(*known, 100) + abs(above) + 1

    def known(self, node: Node, id: str) -> int:
        known = node.world.entities.get(id) or node.world.tombstones.get(id)
        return known.seen if known else 0

    @rule(number=st.sampled_from(NUMBERS_HERE))
    def renumber(self, number: int) -> None:
        self.engine.renumber(number)
        self.world.node_number = number

    # Other feeds

    @precondition(lambda self: self.extra_feeds())
    @rule(doomed=drawn.doomed, soon=drawn.soon)
    def stall(self, doomed: list[str], soon: int) -> None:
        """Who reads a feed does not, for so long that what died could be forgotten."""
        self.publish(*(({"op": "delete", "id": id}, None) for id in doomed))
        self.let_pass(LIMITS.tombstone_s + 1)
        self.expire()
        self.flush_soon(soon)

    @precondition(lambda self: len(self.world.feeds) < FEEDS_MAX - 2)
    @rule(kind=st.sampled_from(FeedKind), has_all=st.booleans())
    def open_feed(self, kind: FeedKind, has_all: bool) -> None:
        feed = self.here.open_feed(kind)
        if has_all:
            self.here.offer_all(feed)

    def extra_feeds(self) -> list[int]:
        return sorted(self.world.feeds.keys() - {self.here.relay})

    @precondition(lambda self: self.extra_feeds())
    @rule(data=st.data(), shards=st.integers(1, 5), bytes_max=st.sampled_from([0, 1, 200, 500, EVERYTHING]))
    def take(self, data: Any, shards: int, bytes_max: int) -> None:
        feed = data.draw(st.sampled_from(self.extra_feeds()))
        self.here.take(feed, shards, bytes_max)

    @precondition(lambda self: self.extra_feeds())
    @rule(data=st.data())
    def offer_all(self, data: Any) -> None:
        self.here.offer_all(data.draw(st.sampled_from(sorted(self.world.feeds))))

    @precondition(lambda self: self.extra_feeds())
    @rule(data=st.data())
    def close_feed(self, data: Any) -> None:
        self.here.close_feed(data.draw(st.sampled_from(self.extra_feeds())))

    # The world is loaded anew

    @rule(absent=st.lists(drawn.ids, max_size=6))
    def begin_reload(self, absent: list[str]) -> None:
        """A store is read, which has what there is there, but for what it lacks."""
        stored = self.there.everything()
        self.engine.begin_reload()
        self.world.named = set()
        self.merge(self.here, batch_of(*(told.to_bytes() for id, told in stored.items() if id not in absent)))

    @precondition(lambda self: self.world.named is not None)
    @rule(
        entities_max=st.integers(1, 4),
        changes=st.lists(st.tuples(drawn.ids, drawn.happening), max_size=3, unique_by=lambda c: c[0]),
        soon=drawn.soon,
    )
    def end_reload(self, entities_max: int, changes: list[tuple[str, dict[str, Any]]], soon: int) -> None:
        """The reload ends in slices, between which things happen."""
        for _ in range(len(self.world.entities) + len(changes) + 2):
            is_over = self.engine.end_reload(self.now, entities_max)
            for id in [id for id in self.world.entities if self.engine.get(id) is None]:
                assert id in self.world.forsaken(), f"a reload kills {id}"
                self.forsaken[id] = max(self.forsaken.get(id, 0), self.world.entities[id].seen)
                self.world.kill(id, self.now)
            if is_over:
                break
            if changes:
                id, change = changes.pop()
                self.publish(({"id": id, **change}, None))
                self.flush_soon(soon)
        else:
            raise AssertionError("a reload does not end")
        assert not self.world.forsaken(), "a reload leaves alive what it does not name"
        self.world.named = None
        self.flush_soon(soon)

    @invariant()
    def feeds_hold(self) -> None:
        self.here.verify()
        self.there.verify()

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:
            self.exchange_all()
        super().teardown()
