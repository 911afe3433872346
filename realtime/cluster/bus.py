"""The bus: how nodes hear of each other's changes, by one Redis stream for each shard.

Out: a feed of what this node accepted itself is written as batches of whole states, at most every few milliseconds; what
happens to an entity in between is conflated. In: each stream is read on from the last entry read, and merged.

Law: an entry is written once more rather than lost, and merging it twice does no harm. Nothing is retried here: what
fails ends the run, the caller finds out what a cut has done (`survey`) and runs it again. What was being written
when it failed goes back into the feed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from redis.exceptions import ResponseError

from realtime.cluster.link import BLOCK_MS, Link
from realtime.cluster.shards import START, Cut, Found, Shard, StreamId, judge, parse_stream_id
from realtime.cluster.trouble import WrongFormat
from realtime.engine import FeedKind
from realtime.errors import ErrorCode, Refused
from realtime.node import Node

ENTRY_BYTES = 32 * 1024  # of states in an entry, on average; one is merged without a pause
ENTRIES_PER_READ = 32  # of each stream
COUNTED = ("entries_written", "bytes_written", "entries_read", "bytes_read", "entries_bad", "states_stored")
LISTEN_NOTE_S = 10.0  # between two lines about entries that cannot be used

logger = logging.getLogger(__name__)


class Bus:
    """The streams of all shards, as one node writes and reads them."""

    def __init__(self, node: Node, link: Link, shards: Sequence[Shard], relay_interval_s: float) -> None:
        self.shards = shards
        self.stored_feed = 0  # hears of everything that is read for the shards of `stored`; 0: none
        self.stored: set[int] = set()
        self._node = node
        self._link = link
        self._interval_s = relay_interval_s
        self._epoch = node.epoch.encode()
        self._feed = node.engine.open_feed(FeedKind.LOCAL)
        self._in_flight: list[bytes] = []  # batches that are being written
        self._states_in_flight = 0
        self._states_written = 0
        self._wake = asyncio.Event()
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()  # each until so many states are written
        self._noted = -LISTEN_NOTE_S
        node.on_offer.append(self._wake.set)
        node.backlog = lambda: self.backlog

    # Out

    @property
    def feed(self) -> int:
        """What the others are told is offered there."""
        return self._feed

    @property
    def backlog(self) -> int:
        """How many entities of this node the others have not been told of."""
        return self._node.engine.feed_size(self._feed)

    def offer_all(self) -> None:
        """Tell the others everything."""
        self._node.engine.offer_all(self._feed)
        self._wake.set()

    async def relay(self) -> None:
        """Write what this node accepts, until something fails."""
        while True:
            if not self.backlog:
                self._wake.clear()
                await self._wake.wait()
            began = time.monotonic()
            while self.backlog:
                await self._write_round()
                if time.monotonic() - began >= self._interval_s:
                    break
            await asyncio.sleep(max(0.0, began + self._interval_s - time.monotonic()))

    async def _write_round(self) -> None:
        before = self.backlog
        batches = self._node.engine.take_feed(self._feed, len(self.shards), ENTRY_BYTES * len(self.shards))
        self._in_flight = [batch for batch in batches if batch]
        self._states_in_flight = before - self.backlog
        async with asyncio.TaskGroup() as tasks:
            for group in self._link.groups():
                tasks.create_task(self._write_group(group, batches))
        self._states_written += self._states_in_flight
        self._in_flight, self._states_in_flight = [], 0
        while self._waiters and self._waiters[0][0] <= self._states_written:
            _, waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def _write_group(self, group: Sequence[int], batches: Sequence[bytes]) -> None:
        """Write the batches of the shards that share a server."""
        mine = [self.shards[number] for number in group if batches[number]]
        if not mine:
            return
        counters = self._node.counters.bus
        async with self._link.client(mine[0].number).pipeline(transaction=False) as pipe:
            for shard in mine:
                pipe.xadd(shard.log, {b"e": self._epoch, b"s": batches[shard.number]})
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        for shard, answer in zip(mine, answers, strict=True):
            if isinstance(answer, Exception):
                raise answer
            shard.note_added(parse_stream_id(answer))
            counters["entries_written"] += 1
            counters["bytes_written"] += len(batches[shard.number])

    async def settle(self) -> None:
        """Return once Redis has everything that was accepted before; raise `Refused` if the run ends before that."""
        ahead = self._states_in_flight + self.backlog  # a feed is told in order
        if not ahead:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((self._states_written + ahead, waiter))
        self._wake.set()
        await waiter

    def put_back(self) -> None:
        """Note that the run has ended: what was being written may not have been, and nobody waits for it any more."""
        batches, self._in_flight, self._states_in_flight = self._in_flight, [], 0
        for batch in batches:
            self._node.merge(batch, self._feed)
        while self._waiters:
            _, waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(unavailable())

    # In

    async def survey(self) -> list[Cut]:
        """Return what has happened to each shard since it was read last; of what was never read, `NONE`."""
        cuts = []
        for shard in self.shards:
            found = await self._find(shard)
            cuts.append(Cut.NONE if shard.position is None else judge(shard.position, shard.added, found))
        return cuts

    async def _find(self, shard: Shard) -> Found:
        return Found(
            await self._end(shard),
            await read_id(self._link, shard, shard.trimmed),
            has_position=await self._has(shard, shard.position or START),
            has_added=await self._has(shard, shard.added),
        )

    async def _end(self, shard: Shard) -> StreamId:
        """Return the id of the newest entry that there ever was in a stream."""
        try:
            info = await self._link.client(shard.number).xinfo_stream(shard.log)
        except ResponseError as error:
            if "no such key" in str(error):
                return START
            raise
        return parse_stream_id(info["last-generated-id"])

    async def _has(self, shard: Shard, id: StreamId) -> bool:
        return bool(await self._link.client(shard.number).xrange(shard.log, str(id), str(id), count=1))

    async def read(self, group: Sequence[int]) -> None:
        """Read the streams of the shards that share a server, until something fails."""
        client = self._link.reader(group[0])
        shards = {self.shards[number].log.encode(): self.shards[number] for number in group}
        while True:
            answer = await client.xread(_positions(shards.values()), count=ENTRIES_PER_READ, block=BLOCK_MS)
            await self._take(shards, answer, is_reload=False)

    async def catch_up(self) -> None:
        """Read all streams up to where they are now, our own entries included: they name what a reload must not miss."""
        for shard in self.shards:
            end = await self._end(shard)
            client = self._link.client(shard.number)
            while (shard.position or START) < end:
                before = shard.position
                answer = await client.xread(_positions((shard,)), count=ENTRIES_PER_READ)
                await self._take({shard.log.encode(): shard}, answer, is_reload=True)
                if shard.position == before:  # trimmed, or deleted by hand
                    shard.position = end

    async def ask_again(self, shard: Shard, after: StreamId) -> None:
        """Read entries once more, for the feed of what is to be stored; those behind the end of now, `read` brings."""
        end, position = await self._end(shard), after
        client = self._link.client(shard.number)
        while position < end:
            entries = await client.xrange(shard.log, f"({position}", str(end), count=ENTRIES_PER_READ)
            if not entries:
                return
            await self._node.merge_sliced((batch, self.stored_feed) for _, batch in self._batches(entries))
            position = parse_stream_id(entries[-1][0] or b"")

    async def _take(self, shards: dict[bytes, Shard], answer: Any, *, is_reload: bool) -> None:
        for name, entries in _streams(answer):
            shard = shards[name]
            last = parse_stream_id(entries[-1][0])
            # Before: of what is half merged when this is cut off, the end must be missed, too, if it is lost meanwhile.
            shard.note_added(last)
            # Our own entries say nothing new, except to the store and to a reload.
            is_all = is_reload or shard.number in self.stored
            batches = [batch for epoch, batch in self._batches(entries) if epoch != self._epoch or is_all]
            if batches:
                # The feed is asked for each time: the writer may have closed it while this waited for its turn.
                await self._node.merge_sliced((batch, self.stored_feed if shard.number in self.stored else 0) for batch in batches)
            # Only now: a position that is ahead of the world would be stored as `applied`.
            shard.position = last
            self._node.counters.bus_lag_s = max(0.0, time.time() - shard.position.ms / 1000)

    def _batches(self, entries: Iterable[Any]) -> Iterator[tuple[bytes, bytes]]:
        """Yield epoch and batch of each entry that is one; count the others."""
        counters = self._node.counters.bus
        for id, fields in entries:
            counters["entries_read"] += 1
            epoch, batch = (fields.get(b"e"), fields.get(b"s")) if fields else (None, None)
            if isinstance(epoch, bytes) and isinstance(batch, bytes):
                counters["bytes_read"] += len(batch)
                yield epoch, batch
            else:
                counters["entries_bad"] += 1
                if time.monotonic() - self._noted >= LISTEN_NOTE_S:
                    self._noted = time.monotonic()
                    logger.warning("entry %s of a stream is none of ours: passed over (%d so far)", id, counters["entries_bad"])


async def read_id(link: Link, shard: Shard, key: str) -> StreamId:
    """Return the id that a key of a shard has; the start if there is no such key."""
    id = await link.client(shard.number).get(key)
    try:
        return START if id is None else parse_stream_id(id)
    except ValueError:
        raise WrongFormat(f"{key} has no id of a stream") from None


def unavailable() -> Refused:
    """Return what is said to who asked for more than this node can promise now."""
    return Refused(ErrorCode.UNAVAILABLE, "durable: the store cannot be reached; what was accepted is applied on this node only")


def _positions(shards: Iterable[Shard]) -> dict[Any, Any]:
    return {shard.log: str(shard.position or START) for shard in shards}


def _streams(answer: Any) -> Iterable[tuple[bytes, Any]]:
    """Return the streams of an answer of XREAD with their entries; none where nothing came in time."""
    return ((name, entries) for name, entries in answer or () if entries)
