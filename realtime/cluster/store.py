"""The store: the world in Redis, a hash for each shard, written from the stream by one node at a time.

Law: `applied` is an id up to which the hash has everything that the stream ever said; it is set in one transaction with
the last states that make it true, and that transaction fails where the writer's lease is not this node's. The hash may
know more than `applied` says, never less. The stream is not trimmed beyond it.

What is written is the state that this node's world has, not the one that the entry had: it is as new or newer, and
an entity that changed a thousand times between two rounds is written once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from realtime.cluster.bus import Bus, read_id
from realtime.cluster.leases import NotOurs, begin, commit
from realtime.cluster.link import Link
from realtime.cluster.shards import START, Shard, StreamId
from realtime.engine import FeedKind
from realtime.engine.choice import choose_batches
from realtime.engine.states import UNKNOWN, death
from realtime.node import Node

SCAN_STATES = 1000  # per answer of a scan
CHUNK_BYTES = 256 * 1024  # of states, written in one transaction
TRIM_INTERVAL_S = 5.0
PROGRESS_S = 2.0

logger = logging.getLogger(__name__)


class Loader:
    """Reads what is stored into the world."""

    def __init__(self, node: Node, link: Link) -> None:
        self._node = node
        self._link = link
        _, self._join = choose_batches(node.engine_kind)
        self._began = self._told = 0.0
        self._states = 0

    async def load(self, shards: Sequence[Shard]) -> None:
        """Merge the hashes of these shards; afterwards they are to be read on from what `applied` said before."""
        self._began = self._told = time.monotonic()
        self._states = 0
        async with asyncio.TaskGroup() as tasks:
            for shard in shards:
                tasks.create_task(self._load(shard))
        if self._states:
            logger.info("%d entities were loaded in %.1f s", self._states, time.monotonic() - self._began)

    async def _load(self, shard: Shard) -> None:
        applied = await read_id(self._link, shard, shard.applied)
        await self._scan(shard)
        shard.position = applied

    async def _scan(self, shard: Shard) -> None:
        client = self._link.client(shard.number)
        cursor = 0
        while True:
            cursor, found = await _scan(client, shard, cursor)
            if found:
                await self._node.merge_sliced(((self._join(found.values()), 0),))
                self._states += len(found)
                if time.monotonic() - self._told >= PROGRESS_S:
                    self._told = time.monotonic()
                    logger.info("loading: %d entities so far", self._states)
            if not cursor:
                return


class Writer:
    """Writes what the streams say, for the shards whose lease this node gets."""

    def __init__(self, node: Node, link: Link, bus: Bus, *, interval_s: float, lease_s: float, retention_s: float) -> None:
        self._node = node
        self._link = link
        self._bus = bus
        self._split, _ = choose_batches(node.engine_kind)
        self._owner = node.epoch.encode()
        self._interval_s = interval_s
        self._lease_s = lease_s
        self._retention_ms = int(retention_s * 1000)
        self._applied: dict[int, StreamId] = {}  # of the shards that are this node's to write
        self._leased: set[int] = set()  # those, and after the end of a run those whose lease may not have run out
        self._trimmed = 0.0
        self._sweeping: tuple[int, int] = (0, 0)  # shard and cursor of the sweep's next page

    async def run(self, on_written: Callable[[], None]) -> None:
        """Take leases and write, until something fails; `on_written` hears of every round that did not."""
        self._bus.stored_feed = self._node.engine.open_feed(FeedKind.ASKED)
        leased = -self._lease_s
        while True:
            began = time.monotonic()
            if began - leased >= self._lease_s / 4:
                leased = began
                for shard in self._bus.shards:
                    if shard.number not in self._applied:
                        await self._take(shard)
            await self._write()
            if began - self._trimmed >= TRIM_INTERVAL_S:
                self._trimmed = began
                await self._trim()
            await self._sweep()
            on_written()
            await asyncio.sleep(max(0.0, began + min(self._interval_s, self._lease_s / 4) - time.monotonic()))

    def stop(self) -> None:
        """Note that the run has ended. The leases run out by themselves."""
        self._applied.clear()
        self._bus.stored.clear()
        if self._bus.stored_feed:
            self._node.engine.close_feed(self._bus.stored_feed)
            self._bus.stored_feed = 0

    async def release(self) -> None:
        """Give the leases back, so that another node goes on at once."""
        leased, self._leased = self._leased, set()
        for shard in (self._bus.shards[number] for number in leased):
            self._lose(shard)
            try:
                async with self._link.client(shard.number).pipeline(transaction=True) as pipe:
                    await begin(pipe, shard.writer, self._owner)
                    pipe.delete(shard.writer)
                    await commit(pipe)
            except NotOurs:
                continue

    async def _take(self, shard: Shard) -> None:
        """Become the writer of a shard if nobody is."""
        client = self._link.client(shard.number)
        is_free = await client.set(shard.writer, self._owner, nx=True, px=int(self._lease_s * 1000))
        if not is_free and await client.get(shard.writer) != self._owner:
            return
        applied = await read_id(self._link, shard, shard.applied)
        self._leased.add(shard.number)
        # From now on the reader offers what it reads; what it read before, beyond `applied`, is read again.
        self._bus.stored.add(shard.number)
        self._applied[shard.number] = applied
        await self._bus.ask_again(shard, applied)

    def _lose(self, shard: Shard) -> None:
        self._applied.pop(shard.number, None)
        self._leased.discard(shard.number)
        self._bus.stored.discard(shard.number)

    async def _write(self) -> None:
        """Write every state that has been offered, and how far that goes."""
        if not self._applied:
            return
        engine, feed = self._node.engine, self._bus.stored_feed
        positions = {number: self._bus.shards[number].position or START for number in self._applied}
        left = engine.feed_size(feed)
        chunks: dict[int, bytes] = {}
        while left > 0:
            before = engine.feed_size(feed)
            batches = engine.take_feed(feed, len(self._bus.shards), CHUNK_BYTES)
            left -= before - engine.feed_size(feed)
            # What this node has accepted and not told must not be stored: if it died now, only who loads would know of it.
            await self._bus.settle()
            for number, batch in enumerate(batches):
                if batch and number in self._applied:
                    if left > 0:
                        await self._write_chunk(self._bus.shards[number], batch, None)
                    else:
                        chunks[number] = batch
        for number in list(self._applied):
            position = positions[number]
            await self._write_chunk(self._bus.shards[number], chunks.get(number, b""), position)

    async def _write_chunk(self, shard: Shard, batch: bytes, applied: StreamId | None) -> None:
        """Write states, and with the last of them up to where the hash is complete; renew the lease."""
        alive: dict[str, bytes] = {}
        gone: list[str] = []
        for id, state in self._split(batch) if batch else ():
            if state[0] == UNKNOWN:
                gone.append(id)
            else:
                alive[id] = state
        try:
            async with self._link.client(shard.number).pipeline(transaction=True) as pipe:
                await begin(pipe, shard.writer, self._owner, shard.entities)
                if alive:
                    pipe.hset(shard.entities, mapping=alive)  # type: ignore[arg-type]
                if gone:
                    pipe.hdel(shard.entities, *gone)
                if applied is not None and applied > self._applied[shard.number]:
                    pipe.set(shard.applied, str(applied))
                pipe.pexpire(shard.writer, int(self._lease_s * 1000))
                await commit(pipe)
        except NotOurs:
            self._lose(shard)
            return
        if applied is not None:
            self._applied[shard.number] = applied
        self._node.counters.bus["states_stored"] += len(alive) + len(gone)

    async def _trim(self) -> None:
        """Forget what is stored and old. Age is counted back from the newest entry, so that no clock decides."""
        for number, applied in self._applied.items():
            shard = self._bus.shards[number]
            newest = (shard.position or START).ms
            oldest = min(applied, StreamId(max(0, newest - self._retention_ms), 0))
            if oldest > START:
                # First it is said, then done: who comes back later must not take what was trimmed for lost.
                client = self._link.client(number)
                await client.set(shard.trimmed, str(oldest))
                await client.xtrim(shard.log, minid=str(oldest), approximate=True)

    async def _sweep(self) -> None:
        """Look at one page of one hash, and forget the deaths in it that are too old to matter; the next time at the next."""
        number, cursor = self._sweeping
        if number not in self._applied:
            self._sweeping = ((number + 1) % len(self._bus.shards), 0)
            return
        shard = self._bus.shards[number]
        client = self._link.client(number)
        cursor, found = await _scan(client, shard, cursor)
        self._sweeping = (number, cursor) if cursor else ((number + 1) % len(self._bus.shards), 0)
        old = self._node.now() - 2 * self._node.config.limits.tombstone_s
        gone = [id for id, state in found.items() if death(state) < old]
        if gone:
            try:
                async with client.pipeline(transaction=True) as pipe:
                    await begin(pipe, shard.writer, self._owner)
                    pipe.hdel(shard.entities, *gone)
                    await commit(pipe)
            except NotOurs:
                self._lose(shard)


async def _scan(client: Redis, shard: Shard, cursor: int) -> tuple[int, dict[bytes, bytes]]:
    """Return the next cursor, 0 at the end, and a page of a hash."""
    answer: Any = await client.hscan(shard.entities, cursor, count=SCAN_STATES)
    return int(answer[0]), answer[1]
