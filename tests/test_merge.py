"""Feeds, merging and reloads, rule by rule, on each engine; what comes of them together is played in tests/nodes_machine.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from realtime.client.mirror import Mirror
from realtime.config import LimitsConfig, PublishConfig
from realtime.engine import Encoding, Engine, FeedKind, Merged, Settings, Verdict, View
from realtime.engine.choice import choose_engine
from realtime.engine.states import join, split
from realtime.geo import WORLD
from realtime.updates import UpdateParser
from tests.conftest import ENGINES
from tests.model_nodes import Told, shard_of

NOW = 1_700_000_000.0
TOMBSTONE_S = 40.0
SETTINGS = Settings(100, 16_384, 64, 1 / 16, TOMBSTONE_S, 5)
ALL_BYTES = 1 << 30
POINT = {"type": "Point", "coordinates": [1, 2]}

ACCEPTED, UNCHANGED, STALE, BAD = Merged(1, 0, 0, 0), Merged(0, 1, 0, 0), Merged(0, 0, 1, 0), Merged(0, 0, 0, 1)


def alive(id: str, seen: int, wire: int | None = None, **changed: Any) -> Told:
    """A state, some of it changed."""
    content: dict[str, Any] = {"rank": 0.5, "geometry": POINT, "properties": {"n": 1}, "access": frozenset(("public",))}
    return Told(id, seen, wire=seen if wire is None else wire, **(content | changed))


def dead(id: str, seen: int, died: float = NOW, reason: str = "deleted", **changed: Any) -> Told:
    return Told(id, seen, died=died, reason=reason, **({"access": frozenset(("public",))} | changed))


class Node:
    """An engine, at a time of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.now = engine, NOW
        self.parser = UpdateParser(LimitsConfig(), PublishConfig())

    def publish(self, *updates: dict[str, Any]) -> list[Verdict]:
        return self.engine.apply([self.parser.parse(update) for update in updates], self.now)

    def hear(self, *told: Told, feed: int = 0) -> Merged:
        return self.engine.merge(join(state.to_bytes() for state in told), self.now, feed)

    def take(self, feed: int, bytes_max: int = ALL_BYTES) -> list[Told]:
        """Take from a feed, into one shard."""
        [batch] = self.engine.take_feed(feed, 1, bytes_max)
        self.engine.verify()
        return [Told.from_bytes(raw) for _, raw in split(batch)] if batch else []

    def ids(self, feed: int) -> list[str]:
        return [told.id for told in self.take(feed)]

    def knows(self, id: str) -> Told:
        """What is told of an entity."""
        feed = self.engine.open_feed(FeedKind.ASKED)
        self.hear(Told(id), feed=feed)
        [told] = self.take(feed)
        self.engine.close_feed(feed)
        return told

    def version(self, id: str) -> int | None:
        """The wire version that clients see."""
        feature = self.engine.get(id)
        return None if feature is None else int(msgspec.json.decode(feature)["version"])

    def reload(self, *told: Told) -> None:
        self.engine.begin_reload()
        self.hear(*told)
        assert self.engine.end_reload(self.now, sys.maxsize)


class Wire:
    """A session and the mirror at its other end."""

    def __init__(self, node: Node, *principals: str) -> None:
        self.node, self.mirror = node, Mirror()
        self.session = node.engine.open(principals, None, Encoding.JSON)
        node.engine.look(self.session, View((WORLD,)), None, node.now)

    def read(self) -> dict[str, Any]:
        """Read until there is nothing more; return what the deltas told of entities, one for each way at most."""
        told: dict[str, Any] = {}
        while (due := self.node.engine.next_due()) is not None:
            self.node.now = max(self.node.now, due)
            for session in self.node.engine.take_dirty(self.node.now):
                frame = self.node.engine.drain(session, 1_000_000, self.node.now)
                if frame is not None:
                    delta = msgspec.json.decode(frame)
                    self.mirror.apply(delta)
                    members = {how: delta[how] for how in ("enter", "move", "patch", "leave") if how in delta}
                    assert not members.keys() & told.keys()
                    told |= members
        check = self.node.engine.check(self.session)
        assert check is not None
        assert self.mirror.agrees(check._asdict())
        return told


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest) -> Callable[[], Node]:
    return lambda: Node(choose_engine(request.param)[1](SETTINGS, 0))


@pytest.fixture
def node(make: Callable[[], Node]) -> Node:
    return make()


def feature(id: str, version: int | None = None, **members: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": id, "version": version, "geometry": POINT, "properties": {"n": 1}, **members}


# Versions: the higher seen version wins whole


def test_what_is_told_is_all_that_was_told(node: Node) -> None:
    told = alive(
        "a", 30, 20, by_publisher=True, ttl=5.0, deadline=NOW + 3, kind="bus", min_zoom=4.0, rank=0.25, access=frozenset(("group:a",))
    )
    assert node.hear(told) == ACCEPTED
    assert node.knows("a") == told
    assert node.version("a") == 20, "what was unknown is born in the version that others show"
    gone = dead("a", 31, NOW - 7, "expired", access=frozenset(("group:b",)))
    assert node.hear(gone) == ACCEPTED
    assert node.knows("a") == gone
    assert node.knows("b") == Told("b")


@pytest.mark.parametrize("seen", [9, 10])
def test_what_is_not_newer_is_stale_and_changes_nothing(node: Node, seen: int) -> None:
    node.hear(alive("living", 10, 5), dead("buried", 10))
    other = {"kind": "bus", "rank": 0.0, "access": frozenset(("group:a",)), "ttl": 9.0, "properties": {"m": 2}}
    for told in (alive("living", seen, **other), dead("living", seen), alive("buried", seen, **other), dead("buried", seen, NOW - 1)):
        assert node.hear(told) == STALE
    assert node.hear(Told("living")) == STALE
    assert node.knows("living") == alive("living", 10, 5)
    assert node.knows("buried") == dead("buried", 10)


def test_an_update_and_a_state_know_of_each_other(node: Node) -> None:
    node.publish(feature("a", 10))
    assert node.hear(alive("a", 10)) == STALE
    assert node.hear(alive("a", 12, properties={"n": 2})) == ACCEPTED
    assert node.publish(feature("a", 12)) == [Verdict.STALE]
    assert node.publish(feature("a", 13)) == [Verdict.ACCEPTED]


def test_who_counts_the_versions_is_told(node: Node) -> None:
    node.hear(alive("counted", 10, by_publisher=True), dead("buried", 20, by_publisher=True), alive("given", 30))
    node.publish(feature("counted", kind="bus"), feature("buried"), feature("given", kind="bus"))
    assert node.version("counted") == 11
    assert node.version("buried") == 21
    assert (node.version("given") or 0) > 1_000_000, "a number of the node's own"


@pytest.mark.parametrize(("wire", "becomes"), [(4, 30), (5, 30), (6, 6), (30, 30)])
def test_the_wire_version_grows(node: Node, wire: int, becomes: int) -> None:
    node.hear(alive("a", 10, 5))
    assert node.hear(alive("a", 30, wire, properties={"n": 2})) == ACCEPTED
    assert node.version("a") == becomes


@pytest.mark.parametrize("wire", [4, 9, 30])
def test_what_nobody_sees_changes_no_wire_version(node: Node, wire: int) -> None:
    node.hear(alive("a", 10, 5))
    unseen = {"access": frozenset(("group:a",)), "rank": 0.0, "min_zoom": 3.0, "ttl": 9.0, "deadline": NOW + 9, "by_publisher": True}
    assert node.hear(alive("a", 30, wire, **unseen)) == UNCHANGED
    assert node.knows("a") == alive("a", 30, 5, **unseen)


def test_the_order_of_properties_is_no_change(node: Node) -> None:
    node.hear(alive("a", 10, properties={"n": 1, "m": 2}))
    assert node.hear(alive("a", 11, properties={"m": 2, "n": 1})) == UNCHANGED
    assert node.hear(alive("a", 12, properties={"m": 2})) == ACCEPTED


@pytest.mark.parametrize(("wire", "becomes"), [(5, 30), (20, 30), (21, 21), (30, 30)])
def test_the_dead_come_back_above_all_that_a_client_held(node: Node, wire: int, becomes: int) -> None:
    """Else who reads slowly would be told of a version below the one it holds, or of the same one with another content."""
    node.hear(alive("a", 12))
    slow = Wire(node)
    slow.read()
    node.hear(dead("a", 20))
    assert node.hear(alive("a", 30, wire, kind="bus")) == ACCEPTED
    assert node.version("a") == becomes
    assert [entered["version"] for entered in slow.read()["enter"]] == [becomes]


def test_a_client_is_told_a_patch_of_what_was_merged(node: Node) -> None:
    node.hear(alive("a", 10, properties={"n": 1, "m": 2, "o": 3}))
    wire = Wire(node)
    wire.read()
    node.hear(alive("a", 12, 11, properties={"n": 1, "m": 4}))
    assert wire.read()["patch"] == [{"id": "a", "version": 11, "properties": {"m": 4, "o": None}}]
    node.hear(alive("a", 14, 13, properties={"n": 1, "m": 4}, geometry={"type": "Point", "coordinates": [3, 4]}))
    assert wire.read()["move"] == [["a", 13, 3, 4]]
    node.hear(alive("a", 15, kind="bus", properties={"n": 1}))
    assert [entered["version"] for entered in wire.read()["enter"]] == [15]
    node.hear(dead("a", 16))
    assert wire.read()["leave"] == {"deleted": ["a"]}


def test_a_right_that_is_revoked_elsewhere_is_revoked_here(node: Node) -> None:
    node.hear(alive("a", 10))
    wire = Wire(node)
    wire.read()
    assert node.hear(alive("a", 11, 10, access=frozenset(("group:a",)))) == UNCHANGED
    assert wire.read()["leave"] == {"denied": ["a"]}


# Deaths and times


@pytest.mark.parametrize("reason", ["deleted", "expired"])
def test_the_living_die_for_the_reason_that_is_told(node: Node, reason: str) -> None:
    node.hear(alive("a", 10))
    wire = Wire(node)
    wire.read()
    assert node.hear(dead("a", 11, NOW - 1000, reason)) == ACCEPTED, "also if that was long ago"
    assert wire.read()["leave"] == {reason: ["a"]}


def test_a_death_that_everybody_has_forgotten_is_not_remembered(node: Node) -> None:
    assert node.hear(dead("a", 10, NOW - TOMBSTONE_S)) == STALE
    assert node.hear(alive("a", 10, deadline=NOW - TOMBSTONE_S)) == STALE
    assert node.knows("a") == Told("a")
    assert node.hear(dead("a", 10, NOW - TOMBSTONE_S + 1)) == ACCEPTED
    assert node.hear(dead("a", 11, NOW - 1000)) == ACCEPTED, "something is known of it"


@pytest.mark.parametrize(("deadline", "is_dead"), [(NOW - 3, True), (NOW, True), (NOW + 1, False)])
def test_a_deadline_that_has_come_is_a_death_at_that_time(node: Node, deadline: float, is_dead: bool) -> None:
    for seen, known in ((10, []), (20, [alive("a", 15)])):
        node.hear(*known)
        told = alive("a", seen, 5 if not known else seen, ttl=7.0, deadline=deadline, kind=None if not known else "bus")
        assert node.hear(told) == ACCEPTED
        assert node.knows("a") == (dead("a", seen, deadline, "expired") if is_dead else told)


def test_deadlines_are_those_that_are_told(node: Node) -> None:
    node.hear(alive("a", 10, ttl=100.0, deadline=NOW + 5), alive("b", 10, ttl=3.0), alive("c", 10, deadline=NOW + 7))
    assert node.engine.next_expiry() == NOW + 5
    assert node.engine.expire(NOW + 4) == []
    node.hear(alive("a", 11, 10, ttl=100.0, deadline=NOW + 20), alive("c", 11, 10, deadline=NOW + 6))
    assert node.engine.expire(NOW + 5) == []
    assert node.engine.expire(NOW + 6) == ["c"]
    node.now = NOW + 10
    node.publish(feature("b"), {"op": "move", "id": "a", "lon": 5, "lat": 5})
    assert node.engine.expire(NOW + 100) == [], "an update counts its ttl from now, and a Feature without one has none"
    assert node.engine.expire(NOW + 110) == ["a"]


def test_tombstones_are_remembered_from_their_burial_here(node: Node) -> None:
    node.hear(dead("a", 10, NOW - 30))
    assert node.engine.next_expiry() == NOW + TOMBSTONE_S
    node.engine.expire(NOW + TOMBSTONE_S - 1)
    assert node.knows("a") == dead("a", 10, NOW - 30)
    node.now = NOW + TOMBSTONE_S - 1
    node.hear(dead("a", 11, NOW - 29))
    node.engine.expire(NOW + TOMBSTONE_S)
    assert node.knows("a").seen == 11
    node.engine.expire(node.now + TOMBSTONE_S)
    assert node.knows("a") == Told("a")


# Feeds


def test_each_feed_is_offered_what_it_is_for(node: Node) -> None:
    local, all_, asked = map(node.engine.open_feed, FeedKind)
    node.publish(feature("accepted", 5), feature("accepted", 5), {"op": "patch", "id": "nobody"}, {"op": "delete", "id": "deleted"})
    assert [node.ids(feed) for feed in (local, all_, asked)] == [["accepted", "deleted"], ["accepted", "deleted"], []]
    node.publish(feature("accepted", 6))
    assert [node.ids(feed) for feed in (local, all_, asked)] == [["accepted"], ["accepted"], []], (
        "what was unchanged has another seen version"
    )
    node.publish(feature("accepted", 6), {"op": "delete", "id": "deleted", "version": 1})
    node.hear(alive("told", 5), alive("accepted", 7, 5), alive("accepted", 3), dead("gone", 5), Told("unknown"))
    assert [node.ids(feed) for feed in (local, all_, asked)] == [[], ["told", "accepted", "gone"], []]
    node.hear(alive("told", 5), alive("accepted", 7, 5), Told("unknown"), feed=asked)
    assert [node.ids(feed) for feed in (local, all_, asked)] == [[], [], ["told", "accepted", "unknown"]]
    node.hear(alive("mortal", 5, deadline=NOW + 1))
    node.ids(all_)
    node.engine.expire(NOW + 1)
    assert [node.ids(feed) for feed in (local, all_, asked)] == [[], [], []], "each node sees for itself what expires"


def test_a_feed_tells_the_present_once_and_in_the_order_of_the_first_offer(node: Node) -> None:
    feed = node.engine.open_feed(FeedKind.LOCAL)
    node.publish(feature("a", 1), feature("b", 1), feature("c", 1), feature("a", 2, kind="bus"), {"op": "delete", "id": "b", "version": 9})
    assert node.engine.feed_size(feed) == node.engine.statistics()["feeds"] == 3
    told = node.take(feed)
    assert [state.id for state in told] == ["a", "b", "c"]
    assert [state.seen for state in told] == [2, 9, 1]
    assert node.engine.take_feed(feed, 3, ALL_BYTES) == [b"", b"", b""]
    node.publish(feature("c", 2), feature("a", 3))
    assert node.ids(feed) == ["c", "a"], "what was told waits at the end again"


def test_a_feed_gives_as_many_bytes_as_were_asked_for_and_one_state_more_at_most(node: Node) -> None:
    feed = node.engine.open_feed(FeedKind.LOCAL)
    node.publish(*(feature(f"e{n}", 1) for n in range(5)))
    each = len(alive("e0", 1, min_zoom=None).to_bytes())
    assert len(node.take(feed, 0)) == 1
    assert len(node.take(feed, each)) == 1
    assert len(node.take(feed, each + 1)) == 2
    assert len(node.take(feed, ALL_BYTES)) == 1
    assert node.take(feed, 0) == []


@pytest.mark.parametrize("shards", [1, 2, 5, 64])
def test_each_shard_has_a_batch_of_its_own(node: Node, shards: int) -> None:
    feed = node.engine.open_feed(FeedKind.LOCAL)
    ids = [f"zürich–{n}" for n in range(20)]
    node.publish(*map(feature, ids))
    batches = node.engine.take_feed(feed, shards, ALL_BYTES)
    assert [[id for id, _ in split(batch)] if batch else [] for batch in batches] == [
        [id for id in ids if shard_of(id, shards) == shard] for shard in range(shards)
    ]


def test_all_are_offered_the_living_in_the_order_of_their_births_then_the_dead(node: Node) -> None:
    node.publish(*(feature(id, 1) for id in "dbeca"))
    node.publish({"op": "delete", "id": "c", "version": 2}, {"op": "delete", "id": "b", "version": 2}, feature("c", 3), feature("d", 3))
    feed = node.engine.open_feed(FeedKind.LOCAL)
    node.engine.offer_all(feed)
    assert node.ids(feed) == ["d", "e", "a", "c", "b"]
    node.publish(feature("a", 4), feature("new", 1))
    node.engine.offer_all(feed)
    assert node.ids(feed) == ["a", "new", "d", "e", "c", "b"]


def test_feeds_are_numbered_anew(node: Node) -> None:
    feeds = [node.engine.open_feed(FeedKind.ALL) for _ in range(8)]
    assert feeds == [1, 2, 3, 4, 5, 6, 7, 8]
    with pytest.raises(ValueError, match="feed"):
        node.engine.open_feed(FeedKind.ASKED)
    node.publish(feature("a"))
    node.engine.close_feed(3)
    assert node.engine.statistics()["feeds"] == 7
    assert node.engine.open_feed(FeedKind.LOCAL) == 3
    assert node.engine.feed_size(3) == 0
    node.engine.verify()


def test_a_feed_that_is_not_open_is_refused_before_anything_changes(node: Node) -> None:
    calls: list[Callable[[], object]] = [
        lambda: node.hear(alive("a", 1), feed=2),
        lambda: node.engine.take_feed(2, 1, 1),
        lambda: node.engine.offer_all(2),
        lambda: node.engine.feed_size(2),
        lambda: node.engine.close_feed(2),
    ]
    node.engine.open_feed(FeedKind.ALL)
    for call in calls:
        with pytest.raises(LookupError):
            call()
    assert node.engine.get("a") is None


def test_the_dead_of_whom_others_have_not_been_told_are_not_forgotten(node: Node) -> None:
    feed = node.engine.open_feed(FeedKind.LOCAL)
    node.publish({"op": "delete", "id": "a", "version": 5})
    node.now += 1
    node.hear(dead("b", 5))
    assert node.engine.next_expiry() is None
    node.now += 1000
    node.engine.expire(node.now)
    assert node.knows("b").seen == 5, "those behind it are kept, too"
    assert [told.seen for told in node.take(feed)] == [5]
    assert node.engine.next_expiry() == NOW + TOMBSTONE_S
    node.engine.expire(node.now)
    assert node.knows("a") == Told("a")
    assert node.knows("b") == Told("b")


def test_the_number_of_the_dead_is_bounded_also_while_nobody_listens(node: Node) -> None:
    feed = node.engine.open_feed(FeedKind.LOCAL)
    node.publish(*({"op": "delete", "id": f"e{n}", "version": 5} for n in range(SETTINGS.tombstones_max + 2)))
    assert node.engine.statistics()["tombstones"] == SETTINGS.tombstones_max
    assert node.take(feed)[:3] == [Told("e0"), Told("e1"), dead("e2", 5, by_publisher=True)]


def test_versions_are_given_in_the_name_of_the_node(node: Node) -> None:
    node.engine.renumber(77)
    node.publish(feature("a"))
    assert (node.version("a") or 0) % 4096 == 77
    for number in (-1, 4096):
        with pytest.raises((ValueError, OverflowError)):
            node.engine.renumber(number)


# Reloads


def test_a_reload_leaves_what_it_names_and_kills_the_rest(node: Node) -> None:
    feed = node.engine.open_feed(FeedKind.ALL)
    node.hear(*(alive(id, 10) for id in ("same", "stale", "newer", "gone", "updated")), dead("buried", 10))
    node.ids(feed)
    wire = Wire(node)
    wire.read()
    node.engine.begin_reload()
    node.hear(alive("same", 10), alive("stale", 9), alive("newer", 11, 10), alive("born", 5))
    node.publish(feature("updated", 12), feature("published", 1))
    assert node.engine.end_reload(node.now, sys.maxsize)
    assert wire.read()["leave"] == {"deleted": ["gone"]}
    assert sorted(wire.mirror.entities) == ["born", "newer", "published", "same", "stale", "updated"]
    assert node.ids(feed) == ["newer", "born", "updated", "published", "gone"]
    assert (node.knows("gone").seen, node.knows("gone").reason) == (10, "deleted")
    assert node.knows("buried").seen == 10
    assert node.hear(alive("gone", 10)) == STALE


def test_a_reload_does_not_kill_what_others_have_not_been_told(node: Node) -> None:
    feeds = dict(zip(FeedKind, map(node.engine.open_feed, FeedKind), strict=True))
    node.publish(feature("a", 1))
    assert node.engine.feed_size(feeds[FeedKind.LOCAL]) == node.engine.feed_size(feeds[FeedKind.ALL]) == 1
    node.reload()
    assert node.engine.get("a") is not None
    node.ids(feeds[FeedKind.LOCAL])
    node.reload()
    assert node.engine.get("a") is None, "it stands in a feed of another kind, which does not save it"


def test_a_reload_ends_in_slices(node: Node) -> None:
    node.hear(*(alive(f"e{n}", 10) for n in range(4)))
    node.engine.begin_reload()
    assert not node.engine.end_reload(node.now, 1)
    assert [node.version(f"e{n}") for n in range(4)] == [None, 10, 10, 10], "the first born is looked at first"
    node.hear(alive("e3", 10), alive("e0", 11), alive("new", 1))
    slices = 1
    while not node.engine.end_reload(node.now, 1):
        slices += 1
        assert slices <= 5
    assert [node.version(f"e{n}") for n in range(4)] == [11, None, None, 10]
    assert node.version("new") == 1
    assert node.engine.end_reload(node.now, 1), "there is none any more"
    node.hear(alive("later", 1))
    assert node.engine.end_reload(node.now, 1)
    assert node.version("later") == 1


def test_a_reload_that_begins_again_forgets_what_was_named(node: Node) -> None:
    node.engine.begin_reload()
    node.hear(alive("first", 1), alive("both", 1))
    node.reload(alive("both", 1))
    assert node.engine.get("first") is None
    assert node.engine.get("both") is not None


def test_two_nodes_that_tell_each_other_everything_are_the_same(make: Callable[[], Node]) -> None:
    """Also where each has missed all that the other took: the same entities, updated on both."""
    nodes = [make(), make()]
    feeds = []
    for number, node in enumerate(nodes):
        node.engine.renumber(100 + number)
        feeds.append(node.engine.open_feed(FeedKind.LOCAL))
        node.publish(*(feature(f"e{n}", kind=f"k{number}") for n in range(number, 10, number + 1)))
        node.now += 1
        node.publish({"op": "delete", "id": f"e{number}"}, *({"op": "patch", "id": f"e{n}", "rank": 0.25} for n in range(4, 8, number + 1)))
    for _ in range(2):
        for number, node in enumerate(nodes):
            for batch in nodes[1 - number].engine.take_feed(feeds[1 - number], 3, ALL_BYTES):
                assert node.engine.merge(batch or join([]), node.now).bad == 0
    known = [[node.knows(f"e{n}") for n in range(10)] for node in nodes]
    assert [vars(one) | {"wire": 0} for one in known[0]] == [vars(other) | {"wire": 0} for other in known[1]]
    assert all(feeds_left == 0 for feeds_left in (node.engine.statistics()["feeds"] for node in nodes)), "what was told is told on"
