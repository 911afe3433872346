"""How the hub tells workers what changes: with workers that stop and go on, come and leave, each is told all there is.

A worker here is a node of its own behind a pipe of this file, which takes what is written as slowly as a test wants.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from realtime.cluster.pipe import Anew, Pipe, Whole, to_worker
from realtime.cluster.relay import FEEDS_MAX, Peer, Relay
from realtime.cluster.retelling import Retelling
from realtime.config import Config
from realtime.counters import Counters
from realtime.engine import FeedKind
from realtime.geo import WORLD
from realtime.node import Node

pytestmark = pytest.mark.usefixtures("engine_kind")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def feature(id: str, lon: float = 0.0, **members: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": id, "geometry": {"type": "Point", "coordinates": [lon, 0.0]}, "properties": {}} | members


def world(node: Node) -> list[Any]:
    """Return all entities without their versions: one that was dead in between may look to a worker as if nothing had happened."""
    found = [msgspec.json.decode(feature) for feature in node.engine.search((WORLD,), 24.0, None)]
    return [{name: value for name, value in feature.items() if name != "version"} for feature in found]


def end_reload(node: Node) -> None:
    """As `Node.end_reload` does it, at once."""
    while not node.engine.end_reload(node.now(), 1000):
        pass
    node.is_reloading = False
    node.reloads += 1


class SlowPipe:
    """What is written waits here until the test lets the worker read it."""

    def __init__(self) -> None:
        self.is_paused = False
        self.node = Node(Config(), Counters())
        self._retelling = Retelling(self.node)
        self.owed: set[str] = set()  # what the worker must hold once it is told that it is whole
        self.is_whole = False
        self.written_paused = 0
        self.unread: list[bytes | Anew | Whole] = []

    def write(self, frames: bytes) -> None:
        self.written_paused += self.is_paused
        self.unread.append(frames)

    def send(self, message: object) -> None:
        assert isinstance(message, Anew | Whole)
        self.unread.append(message)

    async def read(self, count: int) -> None:
        """Let the worker take so many writes."""
        taken, self.unread = self.unread[:count], self.unread[count:]
        for frames in taken:
            if isinstance(frames, Anew):
                self._retelling.begin()
                continue
            if isinstance(frames, Whole):
                if self._retelling.is_on:
                    await self._retelling.end()
                assert self.owed <= {found["id"] for found in world(self.node)}
                self.is_whole = True
                continue
            while frames:
                size = int.from_bytes(frames[:4], "big")
                assert frames[4] == 0
                merged = self.node.merge(self._retelling.part(frames[5 : 4 + size]))
                assert merged.bad == 0
                frames = frames[4 + size :]


class Play:
    """A hub, its workers, and a seeded game with them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.node = Node(Config(), Counters())
        self.wholes: list[int] = []
        self.relay = Relay(self.node, lambda peer: self.wholes.append(peer.number))
        self.pipes: dict[int, tuple[Peer, SlowPipe]] = {}
        self.serial = 0

    def join(self) -> SlowPipe:
        pipe = SlowPipe()
        if self.relay.is_whole:
            pipe.owed = {found["id"] for found in world(self.node)}
        self.serial += 1
        peer = Peer(cast("Pipe", pipe), self.serial, tells=False)
        self.pipes[self.serial] = (peer, pipe)
        self.relay.add(peer)
        return pipe

    def publish(self, count: int) -> None:
        for _ in range(count):
            id = f"e{self.random.randrange(300)}"
            if self.random.random() < 0.15:
                self.node.publish([{"op": "delete", "id": id}])
                for _, pipe in self.pipes.values():
                    pipe.owed.discard(id)
            else:
                self.node.publish([feature(id, self.random.randrange(170), ttl=self.random.choice((None, 1000)))])

    async def step(self) -> None:
        reading: list[SlowPipe] = []
        acts: list[tuple[float, Callable[[], object]]] = [
            (6, lambda: self.publish(self.random.randrange(1, 60))),
            (1, lambda: len(self.pipes) < 7 and self.join()),
            (0.7, self._leave),
            (3, lambda: self._any(lambda peer, pipe: setattr(pipe, "is_paused", True))),
            (3, lambda: self._any(self._resume)),
            (6, lambda: self._any(lambda peer, pipe: reading.append(pipe))),
            (0.3, self._reload),
        ]
        weights, calls = zip(*acts, strict=True)
        self.random.choices(calls, weights)[0]()
        for pipe in reading:
            await pipe.read(self.random.randrange(1, 4))

    def _any(self, act: Callable[[Peer, SlowPipe], object]) -> None:
        if self.pipes:
            act(*self.random.choice(list(self.pipes.values())))

    def _reload(self) -> None:
        """Begin one, or end it: what was not named meanwhile dies."""
        if not self.node.is_reloading:
            self.node.begin_reload()
            return
        end_reload(self.node)
        left = {found["id"] for found in world(self.node)}
        for _, pipe in self.pipes.values():
            pipe.owed &= left
        self.relay.wake()

    def _resume(self, peer: Peer, pipe: SlowPipe) -> None:
        pipe.is_paused = False
        self.relay.wake()

    def _leave(self) -> None:
        if len(self.pipes) > 1:
            peer, _ = self.pipes.pop(self.random.choice(list(self.pipes)))
            self.relay.remove(peer)

    async def settle(self) -> None:
        """Let all read, until there is nothing left to tell."""
        for peer, pipe in self.pipes.values():
            self._resume(peer, pipe)
        for _ in range(2000):
            await asyncio.sleep(0)
            for _, pipe in self.pipes.values():
                await pipe.read(1000)
            self.relay.wake()
            if all(self._is_quiet(*both) for both in self.pipes.values()):
                return
            await asyncio.sleep(0.001)
        raise AssertionError("workers are not told all there is")

    def _is_quiet(self, peer: Peer, pipe: SlowPipe) -> bool:
        is_due = self.relay.is_whole and not peer.tells
        return peer.is_in_step and not self.relay.backlog(peer) and not pipe.unread and (peer.is_whole or not is_due)


@pytest.mark.parametrize("seed", range(6))
async def test_every_worker_is_told_everything_whoever_stops_meanwhile(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime.cluster.relay.BATCH_BYTES", 600)
    monkeypatch.setattr("realtime.cluster.relay.WRITE_BYTES_MAX", 2500)
    monkeypatch.setattr("realtime.cluster.relay.INTERVAL_S", 0.0)
    play = Play(seed)
    play.publish(100)
    play.join()
    for place in range(400):
        if place == 40:
            play.relay.become_whole()
            for _, pipe in play.pipes.values():
                pipe.owed = {found["id"] for found in world(play.node)}
        await play.step()
        for _ in range(play.random.randrange(4)):
            await asyncio.sleep(0)
        if place % 50 == 0:
            play.node.engine.verify()
    await play.settle()
    for peer, pipe in play.pipes.values():
        assert world(pipe.node) == world(play.node)
        assert peer.is_whole and pipe.is_whole
        assert pipe.written_paused == 0
    for peer, _ in play.pipes.values():
        play.relay.remove(peer)
    play.node.engine.verify()
    assert [play.node.engine.open_feed(FeedKind.ASKED) for _ in range(8)] == list(range(1, 9)), "a feed stayed open"
    play.relay.close()


async def test_those_in_step_share_one_feed_and_get_the_same_bytes() -> None:
    play = Play(1)
    play.publish(300)
    pipes = [play.join() for _ in range(6)]
    await play.settle()
    taken: list[int] = []
    take = play.node.engine.take_feed
    play.relay._engine = cast("Any", _Spied(play.node.engine, lambda feed: taken.append(feed)))
    play.publish(50)
    play.relay.wake()
    await play.settle()
    assert take is not None
    assert len(set(taken)) == 1
    assert all(world(pipe.node) == world(play.node) for pipe in pipes)
    play.relay.close()


class _Spied:
    def __init__(self, engine: Any, note: Callable[[int], None]) -> None:
        self._engine = engine
        self._note = note

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def take_feed(self, feed: int, shards: int, bytes_max: int) -> list[bytes]:
        self._note(feed)
        batches: list[bytes] = self._engine.take_feed(feed, shards, bytes_max)
        return batches


async def test_a_worker_that_reads_nothing_costs_names_and_holds_nobody_up() -> None:
    play = Play(2)
    play.publish(300)
    stuck, fine = play.join(), play.join()
    await play.settle()
    stuck.is_paused = True
    for _ in range(50):
        play.publish(200)
        await asyncio.sleep(0.003)
        await fine.read(1000)
    assert world(fine.node) == world(play.node)
    peer = next(peer for peer, pipe in play.pipes.values() if pipe is stuck)
    assert peer.feed
    assert play.relay.backlog(peer) <= 300  # of ten thousand changes
    assert not stuck.written_paused
    await play.settle()
    assert world(stuck.node) == world(play.node)
    play.relay.close()


async def test_more_workers_than_feeds_take_turns() -> None:
    play = Play(3)
    play.publish(200)
    others = [play.node.engine.open_feed(FeedKind.LOCAL) for _ in range(8 - FEEDS_MAX + 1)]
    for _ in range(9):
        play.join()
    play.relay.become_whole()
    await play.settle()
    assert sorted(play.wholes) == list(range(1, 10))
    assert all(world(pipe.node) == world(play.node) for _, pipe in play.pipes.values())
    for feed in others:
        play.node.engine.close_feed(feed)
    play.relay.close()


async def test_whoever_tells_what_it_holds_is_whole_only_after_that_came_back() -> None:
    play = Play(4)
    play.relay.become_whole()
    pipe = SlowPipe()
    peer = Peer(cast("Pipe", pipe), 1, tells=True)
    play.pipes[1] = (peer, pipe)
    play.relay.add(peer)
    await play.settle()
    assert not peer.is_whole
    for _ in range(50):  # nor while there is always something new
        play.publish(30)
        await asyncio.sleep(0)
        await pipe.read(1)
        assert not peer.is_whole
    other = Node(Config(), Counters())
    other.publish([feature(f"x{place}") for place in range(100)])
    feed = other.engine.open_feed(FeedKind.ASKED)
    other.engine.offer_all(feed)
    play.node.merge(other.engine.take_feed(feed, 1, 1 << 20)[0])
    pipe.owed = {found["id"] for found in world(other)}
    play.relay.told(peer)
    await play.settle()
    assert pipe.is_whole
    play.relay.close()


async def one_falls_behind(monkeypatch: pytest.MonkeyPatch) -> tuple[Play, SlowPipe, Peer, Peer]:
    """Return one of two workers, which fell behind with nearly all of a hundred entities in the shared feed, and both peers."""
    monkeypatch.setattr("realtime.cluster.relay.BATCH_BYTES", 300)
    monkeypatch.setattr("realtime.cluster.relay.WRITE_BYTES_MAX", 300)
    play = Play(6)
    stuck, _ = play.join(), play.join()
    await play.settle()
    (behind, _), (other, _) = play.pipes.values()
    stuck.is_paused = True
    play.node.publish([feature(f"e{place}") for place in range(100)])
    play.relay._run()
    assert behind.feed and behind.copied > 90
    return play, stuck, behind, other


async def test_one_that_fell_behind_is_told_all_though_the_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    play, stuck, _, other = await one_falls_behind(monkeypatch)
    del play.pipes[other.number]
    play.relay.remove(other)
    await play.settle()
    assert len(world(stuck.node)) == 100
    play.relay.close()


async def test_one_that_fell_behind_is_whole_when_it_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    play, stuck, behind, _ = await one_falls_behind(monkeypatch)
    play.relay.become_whole()
    for _ in range(20):
        play.relay._run()
    stuck.owed = {f"e{place}" for place in range(100)}
    stuck.is_paused = False
    for _ in range(200):
        play.relay._run()
        await stuck.read(1)
    assert behind.is_whole and stuck.is_whole
    play.relay.close()


@pytest.mark.parametrize("has_begun", [False, True], ids=["before", "behind"])
async def test_what_a_worker_is_told_is_no_word_of_a_store(has_begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload lets die what nobody names, whoever falls behind meanwhile."""
    monkeypatch.setattr("realtime.cluster.relay.BATCH_BYTES", 300)
    monkeypatch.setattr("realtime.cluster.relay.WRITE_BYTES_MAX", 300)
    play = Play(5)
    play.relay.become_whole()
    stuck, fine = play.join(), play.join()
    await play.settle()
    stuck.is_paused = True
    play.node.publish([feature(f"e{place}") for place in range(100)])
    if has_begun:
        play.relay._run()
        assert any(peer.copied for peer, _ in play.pipes.values())
    play.node.begin_reload()
    for _ in range(100):
        play.relay._run()
        await fine.read(1000)
    assert len(world(fine.node)) == 100
    end_reload(play.node)
    assert world(play.node) == []
    await play.settle()
    assert world(stuck.node) == world(fine.node) == []
    play.relay.close()


def test_a_whole_is_a_message_that_workers_know() -> None:
    assert to_worker.decode(msgspec.msgpack.encode(Whole())) == Whole()
