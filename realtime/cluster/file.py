"""A node's world in one local file, for the node that has no Redis.

Law: what this node has accepted is in its feed, in the file, or on its way from the one to the other; where that way
breaks, the whole world is offered anew, to a new file. The loop only takes states out and seals them, in slices of at
most 5 ms of a turn; every call that touches the disk is made in one thread, and never for each entity.

A file grows by what changes. Once it is twice as large as the world was, a second one is begun beside it that gets the
whole world; meanwhile what changes goes to both. The second then takes the place of the first. A file whose end nobody
knows any more (a full disk, an error of the device) is left behind in the same way, and so is a damaged one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from realtime.cluster.disk_thread import DiskThread
from realtime.cluster.log import TORN_BYTES_MAX, FileRefused, Log, Reader, seal
from realtime.config import Config
from realtime.engine import FeedKind
from realtime.errors import ConfigError, ErrorCode, Refused
from realtime.node import SLICE_S, Node

__all__ = ["CLASSES", "FileRefused", "WorldFile", "classify", "new_world_file"]

STORE = "store"  # what a node without its file is said to do without
RECORD_BYTES = 16 * 1024  # of states in one record: what a torn one costs, and what is merged at once when it is read
SYNC_BYTES = 8 * 1024 * 1024  # of a new file, between two syncs: the last one is short, so that no round waits long for it
SPARE_BYTES = 16 * 1024 * 1024  # by which a file may grow however small the world is
INTERVAL_MIN_S = 0.005  # between two looks at the feed
RETRY_MAX_S = 30.0
PROGRESS_S = 2.0

# What each word means that is logged, counted and shown.
CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "full": "the disk, a quota or a limit of the file's size is reached",
        "readonly": "the file system or the directory takes no writes",
        "moved": "the file was moved away, deleted or replaced",
        "io": "the device or the file system failed",
        "other": "an error without a class",
    }
)
_ERRORS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "full"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "readonly"),
    **dict.fromkeys((errno.ESTALE, errno.ENOENT, errno.ENOTDIR), "moved"),
}

logger = logging.getLogger(__name__)


def classify(error: BaseException) -> str:
    """Return the word of `CLASSES` for an error."""
    if not isinstance(error, OSError):
        return "other"
    return _ERRORS.get(error.errno or 0, "io")


def new_world_file(node: Node, config: Config) -> WorldFile | None:
    """Return what keeps the node's world as the settings say; None if nothing does. Raises `ConfigError`."""
    if not config.store.path:
        return None
    if config.redis.url:
        raise ConfigError("store.path: not beside redis.url, for then Redis keeps the world")
    return WorldFile(node, config.store.path, config.store.interval_ms / 1000)


class WorldFile:
    """Keeps a node's world in a file. Use `start`, then `close`."""

    def __init__(self, node: Node, path: str, interval_s: float) -> None:
        self._node = node
        self._path = os.path.realpath(path)  # a link stays one when the file is replaced
        self._interval_s = max(interval_s, INTERVAL_MIN_S)
        self._disk = DiskThread("realtime-file")
        self._log: Log | None = None
        self._next: Log | None = None  # the file that is being made to take its place
        self._feed = 0
        self._rewrite_bytes = 0  # how long the file may get
        self._is_damaged = False  # a new one is due, beside which it is kept
        self._trouble: tuple[str, float] | None = None  # a word of CLASSES, and since when
        self._rewrite_trouble = ""  # why the file could not be replaced, while it is well itself
        self._rewrite_due = 0.0  # not before then, of the monotonic clock
        self._pause_s = 0.0  # before the next attempt
        self._synced = time.monotonic()
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None
        self._torn_bytes = self._broken_bytes = self._bad_states = self._rewrites = 0

    # From start to end

    async def start(self) -> None:
        """Lock the file, take over its world, and keep it from now on. Raises `FileRefused`; nothing is changed then."""
        node = self._node
        try:
            log = self._log = await self._disk.call(Log.open, self._path, node.world)
        except BaseException:
            self._disk.close()
            raise
        node.is_whole = False
        node.settle = self.settle
        had = node.engine.statistics()
        early = node.engine.open_feed(FeedKind.LOCAL)  # what is published while the file is read
        await self._load(log)
        self._feed = node.engine.open_feed(FeedKind.ALL)
        if had["entities"] or had["tombstones"] or node.engine.feed_size(early):
            node.engine.offer_all(self._feed)
        node.engine.close_feed(early)
        node.is_whole = True
        self._synced = time.monotonic()
        self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Write what is left and give the file up."""
        self._is_closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
            self._node.engine.close_feed(self._feed)
        log, self._log = self._log, None
        if log is not None:
            await self._disk.call(log.close)
        self._disk.close()

    async def settle(self) -> None:
        """Return once what was published before is on the disk; raise `Refused` (unavailable) if it does not get there."""
        if self._trouble is not None or self._is_closing or self._task is None or self._task.done():
            raise _unsettled(self._trouble[0] if self._trouble else "closing")
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._wake.set()
        await done

    def status(self) -> dict[str, Any]:
        """Return how the file is: the class of its trouble or None, sizes, seconds since all was last on the disk."""
        return {
            "degraded": self._trouble[0] if self._trouble else None,
            "bytes": self._log.size_bytes if self._log else 0,
            "synced_s": time.monotonic() - self._synced,
            "rewriting": self._next is not None,
            "rewrites": self._rewrites,
            "torn_bytes": self._torn_bytes,
            "broken_bytes": self._broken_bytes,
            "bad_states": self._bad_states,
        }

    # Reading

    async def _load(self, log: Log) -> None:
        """Merge what the file has; where something is missing in its middle, it is another world from now on."""
        began = told = time.monotonic()
        bad = self._node.counters.states["bad"]
        reader = Reader(log.size_bytes)
        while not reader.is_through:
            data = await self._disk.call(log.read, reader.place, reader.wanted)
            await self._node.merge_sliced((batch, 0) for batch in reader.take(data))
            if time.monotonic() - told >= PROGRESS_S:
                told = time.monotonic()
                logger.info("%s: %d of %d MB are read", self._path, reader.place >> 20, log.size_bytes >> 20)
        self._bad_states = self._node.counters.states["bad"] - bad
        self._broken_bytes = reader.broken_bytes
        await self._end_file(log, max(0, log.size_bytes - reader.end))
        self._is_damaged = bool(log.world is None or self._broken_bytes or self._bad_states or self._torn_bytes > TORN_BYTES_MAX)
        # Versions that clients hold may be missing, and what was deleted be back: that is not the history they know.
        self._node.world = secrets.token_hex(8) if self._is_damaged or log.world is None else log.world
        self._rewrite_bytes = 2 * reader.snapshot_bytes + SPARE_BYTES
        entities = int(self._node.engine.statistics()["entities"])
        if self._is_damaged:
            logger.warning(
                "%s: damaged: %d bytes cannot be read, %d states are not valid here; %d entities are left, as a new world;"
                " the file will be kept beside the new one, its name ending in .broken",
                self._path, self._broken_bytes + self._torn_bytes, self._bad_states, entities,
            )  # fmt: skip
        elif entities:
            logger.info("%s: %d entities were read in %.1f s", self._path, entities, time.monotonic() - began)

    async def _end_file(self, log: Log, torn_bytes: int) -> None:
        """Cut off what is no record any more at the end of a file; more than one write leaves behind is left there, as damage."""
        self._torn_bytes = torn_bytes
        if not torn_bytes or torn_bytes > TORN_BYTES_MAX or log.is_bad:
            return
        try:
            await self._disk.call(log.cut, log.size_bytes - torn_bytes)
        except OSError:
            log.is_bad = True  # nothing may be written behind it
        logger.warning("%s: the last write had not come to its end: %d bytes are cut off", self._path, torn_bytes)

    # Writing

    async def _keep(self) -> None:
        """Write what changes, each interval, until told to close; then once more."""
        try:
            while not self._is_closing:
                await self._attempt()
                await self._sleep()
            self._rewrite_due = float("inf") if self._is_well() else 0.0
            await self._attempt()
        finally:
            self._refuse("closing")

    def _is_well(self) -> bool:
        assert self._log is not None
        return not self._log.is_bad

    async def _attempt(self) -> None:
        """Write one round, or replace the file where that is due; note what fails."""
        assert self._log is not None
        try:
            if self._is_well():
                await self._write_round()
            is_due = self._is_damaged or self._log.size_bytes > self._rewrite_bytes
            if not self._is_well() or (is_due and time.monotonic() >= self._rewrite_due):
                await self._rewrite()
            if self._is_well():
                self._clear()
        except Exception as error:  # noqa: BLE001  whatever it is, serving goes on, and this is tried again
            self._note(error)

    async def _write_round(self) -> None:
        """Write what the feed has now, and have it on the disk; whoever waited for that is told."""
        waiting: list[asyncio.Future[None]] = []
        if self._is_well():  # otherwise they wait for the new file
            waiting, self._waiting = self._waiting, waiting
        began = time.monotonic()
        try:
            await self._drain(self._feed, self._write)
            if self._is_well():
                assert self._log is not None
                await self._disk.call(self._log.sync)
                self._synced = began
        except BaseException as error:
            for done in waiting:
                if not done.done():
                    done.set_exception(_unsettled(classify(error)))
            raise
        for done in waiting:
            if not done.done():
                done.set_result(None)

    async def _drain(self, feed: int, write: Callable[[list[bytes]], None]) -> None:
        """Hand over what is in a feed now, slice by slice. What comes meanwhile stands behind it and is left there."""
        left = self._node.engine.feed_size(feed)
        while left > 0:
            records, count = self._take_slice(feed, left)
            left -= count
            await self._disk.call(write, records)

    def _take_slice(self, feed: int, count_max: int) -> tuple[list[bytes], int]:
        """Return sealed records of about `count_max` entities of a feed, if that does not take too long, and how many those are."""
        engine = self._node.engine
        stop = time.perf_counter() + SLICE_S / 2  # the other half is for what else goes on in this turn
        records: list[bytes] = []
        size = before = engine.feed_size(feed)
        while size and before - size < count_max and time.perf_counter() < stop:
            (batch,) = engine.take_feed(feed, 1, RECORD_BYTES)
            records += seal(batch)
            size = engine.feed_size(feed)
        return records, before - size

    def _write(self, records: list[bytes]) -> None:
        """Append to the file, and to the one that is being made; in the thread. What the first has is safe whatever the second does."""
        assert self._log is not None
        if not self._log.is_bad:
            self._log.append(records)
        if self._next is not None:
            self._next.append(records)

    # Replacing the file

    async def _rewrite(self) -> None:
        """Make a file of the whole world, in slices, while rounds go on, and put it in the place of the present one."""
        assert self._log is not None
        engine = self._node.engine
        was_well = self._is_well()
        log = await self._disk.call(Log.create, self._path + ".new", self._node.world)
        asked = engine.open_feed(FeedKind.ASKED)
        if not was_well:  # all of it is asked for now, and written once is enough
            engine.close_feed(self._feed)
            self._feed = engine.open_feed(FeedKind.ALL)
        engine.offer_all(asked)
        try:
            self._next = log
            await self._fill(log, asked, was_well)
            await self._disk.call(log.append, list(seal(b'{"snapshot":%d}' % log.size_bytes)))
            await self._write_round()
            await self._disk.call(log.take_place_of, self._log, self._is_damaged)
        except BaseException:
            self._next = None
            await asyncio.shield(self._disk.call(log.discard))
            raise
        finally:
            engine.close_feed(asked)
        self._log, self._next = log, None
        self._rewrite_bytes = 2 * log.size_bytes + SPARE_BYTES
        self._is_damaged = False
        self._rewrites += 1
        self._synced = time.monotonic()

    async def _fill(self, log: Log, asked: int, was_well: bool) -> None:
        """Write the whole world to the new file; each interval, or when somebody waits for it, a round."""
        engine = self._node.engine
        synced_bytes, due = 0, time.monotonic() + self._interval_s
        while left := engine.feed_size(asked):
            if was_well and self._is_closing:
                raise InterruptedError(errno.EINTR, "it is time to go")
            records, _ = self._take_slice(asked, left)
            await self._disk.call(log.append, records)
            if log.size_bytes - synced_bytes >= SYNC_BYTES:
                synced_bytes = log.size_bytes
                await self._disk.call(log.sync)
            if time.monotonic() >= due or (self._waiting and was_well):
                due = time.monotonic() + self._interval_s
                await self._write_round()

    # Trouble

    def _note(self, error: Exception) -> None:
        """Note a failure; the first of its kind is told. What is not the disk's is said in full."""
        word = classify(error)
        if isinstance(error, InterruptedError):
            return
        if word == "other" and self._log is not None:
            logger.error("%s: an error without a class", self._path, exc_info=error)
            self._log.is_bad = True  # what was taken out of the feed may not have been written
        self._node.counters.troubles[word] += 1
        self._pause_s = min(max(2 * self._pause_s, self._interval_s), RETRY_MAX_S)
        if self._is_well():
            self._rewrite_due = time.monotonic() + self._pause_s
            if word != self._rewrite_trouble:
                self._rewrite_trouble = word
                logger.warning("%s: it grows, as no new one can be made: %s (%s)", self._path, word, CLASSES[word])
            return
        if self._trouble is None or self._trouble[0] != word:
            logger.warning("%s: degraded: %s (%s); what changes is kept in memory alone", self._path, word, CLASSES[word])
        self._trouble = (word, self._trouble[1] if self._trouble else time.monotonic())
        self._node.degraded = self._node.degraded | {STORE: word}
        self._refuse(word)

    def _clear(self) -> None:
        """Note that the file is well."""
        if time.monotonic() >= self._rewrite_due:
            self._pause_s, self._rewrite_trouble = 0.0, ""
        if self._trouble is not None:
            word, since = self._trouble
            self._trouble = None
            self._node.degraded = {name: why for name, why in self._node.degraded.items() if name != STORE}
            logger.info("%s: well again after %.1f s (%s)", self._path, time.monotonic() - since, word)

    def _refuse(self, word: str) -> None:
        """Tell whoever waits that it will not happen."""
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            if not done.done():
                done.set_exception(_unsettled(word))

    async def _sleep(self) -> None:
        """Wait for the next round: an interval, longer after failures, shorter if somebody wants to know."""
        pause_s = self._interval_s if self._is_well() else max(self._pause_s, self._interval_s)
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()


def _unsettled(word: str) -> Refused:
    return Refused(ErrorCode.UNAVAILABLE, f"durable: not kept, for store.path is in trouble: {word}")
