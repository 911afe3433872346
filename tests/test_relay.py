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

from realtime.cluster.pipe import Pipe, Whole, to_worker
from realtime.cluster.relay import FEEDS_MAX, Peer, Relay
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


class SlowPipe:
    """What is written waits here until the test lets the worker read it."""

    def __init__(self) -> None:
        self.is_paused = False
        self.node = Node(Config(), Counters())
        self.owed: set[str] = set()  # what the worker must hold once it is told that it is whole
        self.is_whole = False
        self.written_paused = 0
        self._frames: list[bytes | None] = []  # None: it was told that it is whole

    def write(self, frames: bytes) -> None:
        self.written_paused += self.is_paused
        self._frames.append(frames)

    def send(self, message: object) -> None:
        assert isinstance(message, Whole)
        self._frames.append(None)

    def read(self, count: int) -> None:
        """Let the worker take so many writes."""
        for frames in self._frames[:count]:
            if frames is None:
                assert self.owed <= {found["id"] for found in world(self.node)}
                self.is_whole = True
                continue
            while frames:
                size = int.from_bytes(frames[:4], "big")
                assert frames[4] == 0
                merged = self.node.merge(frames[5 : 4 + size])
                assert merged.bad == 0
                frames = frames[4 + size :]
        del self._frames[:count]


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

    def step(self) -> None:
        acts: list[tuple[float, Callable[[], object]]] = [
            (6, lambda: self.publish(self.random.randrange(1, 60))),
            (1, lambda: len(self.pipes) < 7 and self.join()),
            (0.7, self._leave),
            (3, lambda: self._any(lambda peer, pipe: setattr(pipe, "is_paused", True))),
            (3, lambda: self._any(self._resume)),
            (6, lambda: self._any(lambda peer, pipe: pipe.read(self.random.randrange(1, 4)))),
            (0.3, self._reload),
        ]
        weights, calls = zip(*acts, strict=True)
        self.random.choices(calls, weights)[0]()

    def _any(self, act: Callable[[Peer, SlowPipe], object]) -> None:
        if self.pipes:
            act(*self.random.choice(list(self.pipes.values())))

    def _reload(self) -> None:
        """Begin one, or end it: what was not named meanwhile dies."""
        if not self.node.is_reloading:
            self.node.begin_reload()
            return
        while not self.node.engine.end_reload(self.node.now(), 1000):
            pass
        self.node.is_reloading = False
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
                pipe.read(1000)
            self.relay.wake()
            if all(peer.is_in_step and not self.relay.backlog(peer) for peer, _ in self.pipes.values()):
                return
            await asyncio.sleep(0.001)
        raise AssertionError("workers are not told all there is")


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
        play.step()
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
        fine.read(1000)
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


def test_a_whole_is_a_message_that_workers_know() -> None:
    assert to_worker.decode(msgspec.msgpack.encode(Whole())) == Whole()
