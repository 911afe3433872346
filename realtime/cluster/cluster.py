"""A node among others: how it comes into the world that Redis keeps, stays in it, and gets over the loss of Redis.

Law: one thing at a time is true, connected or not. While it is, numbers are leased, streams are written and read, and
what this node has the lease for is stored. Whatever fails ends all of that; then everything is asked anew: who has the
world, what a cut has done, and only then it goes on. Viewers and publishers of this node notice nothing but `degraded`.
"""

from __future__ import annotations

import asyncio
import logging
import random

from redis.exceptions import RedisError, ResponseError

from realtime.cluster.bus import COUNTED, Bus, unavailable
from realtime.cluster.leases import NodeNumber, NotOurs
from realtime.cluster.link import Link
from realtime.cluster.shards import Cut, Shard
from realtime.cluster.store import Loader, Writer
from realtime.cluster.trouble import CLASSES, Trouble, WrongFormat, classify
from realtime.cluster.views import Viewports
from realtime.config import Config
from realtime.node import Node

RETRY_S = (0.1, 2.0)  # the first pause between two attempts, and the longest
REDIS, STORE = "redis", "store"  # what may be done without for a while
GOODBYE_S = 1.0  # for telling what is left, and giving leases back

logger = logging.getLogger(__name__)


class Cluster:
    """What connects a node with Redis."""

    def __init__(self, node: Node, config: Config) -> None:
        redis = config.redis
        self._node = node
        self._config = redis
        self._link = Link(redis, node.epoch)
        self._shards = [Shard(redis.prefix, number) for number in range(redis.shards)]
        self._number = NodeNumber(node, self._link, redis.prefix, redis.lease_s)
        self._bus = Bus(node, self._link, self._shards, redis.relay_interval_ms / 1000)
        self._loader = Loader(node, self._link)
        self._writer = Writer(
            node, self._link, self._bus, interval_s=redis.store_interval_ms / 1000, lease_s=redis.lease_s, retention_s=redis.retention_s
        )
        self._viewports = Viewports(self._link)
        self._trouble = Trouble(logger)
        self._task: asyncio.Task[None] | None = None
        self._is_known = False  # Redis has answered, and nothing has failed since
        self._is_up = False  # and the world is whole
        self._is_lost = False  # Redis has not what it had, whatever its streams look like
        self._must_reload = False  # a gap was found, and no reload has come to its end since
        self._pause_s = RETRY_S[0]  # before the next attempt
        self._whole = asyncio.Event()
        # Whatever may be counted is there from the start.
        node.counters.troubles.update(dict.fromkeys(CLASSES, 0))
        node.counters.bus.update(dict.fromkeys(COUNTED, 0))
        node.is_whole = False
        node.settle = self.settle
        node.view_store = self._viewports

    @property
    def feed(self) -> int:
        """What the other nodes are told is offered there."""
        return self._bus.feed

    # From start to end

    async def start(self) -> None:
        """Come into the world; return once it is whole, or when patience is over: then without Redis, degraded."""
        self._task = asyncio.create_task(self._live())
        while not self._whole.is_set():
            try:
                async with asyncio.timeout(self._config.patience_s):
                    await self._whole.wait()
            except TimeoutError:
                if not self._is_known:
                    logger.warning("Redis does not answer: this node goes on by itself until it does")
                    self._node.is_whole = True
                    return

    async def stop(self) -> None:
        """Tell the others what is left to tell, if that is quickly done, and go."""
        if self._task is None:
            return
        try:
            async with asyncio.timeout(GOODBYE_S):
                if self._is_up:
                    await self._bus.settle()
        except Exception as error:  # noqa: BLE001  leaving is no time for complaints; what is left is said
            logger.warning("%d entities were not told to the other nodes: %s", self._bus.backlog, classify(error))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._writer.release()
                await self._number.release()
        except (RedisError, OSError, TimeoutError, NotOurs):
            logger.info("leases are left to run out")
        self._writer.stop()
        self._number.draw()
        await self._link.aclose()

    async def settle(self) -> None:
        """Return once Redis has what was accepted before; raise `Refused` if it cannot be said."""
        if not self._is_up:
            raise unavailable()
        await self._bus.settle()

    # Connected or not

    async def _live(self) -> None:
        while True:
            try:
                await self._link.open()
                await self._enter()
                await self._stay()
            except Exception as error:  # noqa: BLE001  whatever it is, viewers are served, and it is tried again
                self._note(REDIS, error)
            finally:
                self._is_known = self._is_up = False
                self._bus.put_back()
                self._viewports.put_back()
            await self._reset()
            await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))
            self._pause_s = min(2 * self._pause_s, RETRY_S[1])

    async def _reset(self) -> None:
        try:
            await self._link.reset()
        except Exception as error:  # noqa: BLE001  as above
            self._note(REDIS, error)

    async def _enter(self) -> None:
        """Find out where we are, and get the world from the store where that is needed."""
        await self._check_format()
        self._is_lost = not await self._number.hold() or self._is_lost
        self._is_known = True
        self._is_lost = await self._find_world() or self._is_lost
        cuts = [Cut.LOST] * len(self._shards) if self._is_lost and self._node.is_whole else await self._bus.survey()
        lost = [shard for shard, cut in zip(self._shards, cuts, strict=True) if cut is Cut.LOST]
        if lost:
            logger.warning("Redis has lost what it knew: this node tells all that it holds")
            for shard in lost:
                shard.forget()
            self._bus.offer_all()
        self._is_lost = False
        self._must_reload = self._must_reload or Cut.GAP in cuts
        if self._must_reload:
            await self._reload()
            self._must_reload = False
        else:
            await self._loader.load([shard for shard in self._shards if shard.position is None])
            await self._bus.catch_up()

    async def _reload(self) -> None:
        """Read everything that is stored, because entries were missed; what is not there any more was deleted."""
        logger.warning("this node was away for too long to be told what happened: it reads the store anew")
        self._node.begin_reload()
        await self._loader.load(self._shards)
        await self._bus.catch_up()
        await self._node.end_reload()

    async def _check_format(self) -> None:
        key, ours = f"{self._config.prefix}:format", f"1 {self._config.shards}".encode()
        home = self._link.home(key)
        if not await home.set(key, ours, nx=True) and (theirs := await home.get(key)) != ours:
            raise WrongFormat(f"{key} says {theirs!r}, and redis.shards of this node is {self._config.shards}")

    async def _find_world(self) -> bool:
        """Take over the world's id, or name it; return whether it is another one than before."""
        key = f"{self._config.prefix}:world"
        home = self._link.home(key)
        is_new = await home.set(key, self._node.world, nx=True)
        found = await home.get(key)
        if not isinstance(found, bytes) or not found:
            raise ResponseError(f"{key} is gone again")
        before, self._node.world = self._node.world, found.decode("utf-8", "replace")
        return bool(is_new) or before != self._node.world

    async def _stay(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for group in self._link.read_groups():
                tasks.create_task(self._bus.read(group))
            tasks.create_task(self._bus.relay())
            tasks.create_task(self._keep_number())
            tasks.create_task(self._keep_store())
            tasks.create_task(self._viewports.write())
            tasks.create_task(self._recover())
            self._is_up = True
            self._node.is_whole = True
            self._whole.set()

    async def _recover(self) -> None:
        """Be well again once the others have been told: if what can be read cannot be written, every attempt gets as far as here."""
        await self._bus.settle()
        self._pause_s = RETRY_S[0]
        self._clear(REDIS)

    async def _keep_number(self) -> None:
        while True:
            await asyncio.sleep(self._config.lease_s / 4)
            if not await self._number.hold():
                self._is_lost = True
                raise ConnectionError("Redis was emptied while the connection held")  # as good as a cut

    async def _keep_store(self) -> None:
        """Write what is this node's to write. A command that Redis refuses is the store's trouble, not the bus's."""
        pause = RETRY_S[0]
        while True:
            try:
                await self._writer.run(lambda: self._clear(STORE))
            except (ResponseError, WrongFormat) as error:
                self._note(STORE, error)
            finally:
                self._writer.stop()
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_S[1])

    # Trouble

    def _note(self, part: str, error: Exception) -> None:
        """Note what a part suffers from; a bug is said in full, an error of Redis' never: it may repeat what was sent."""
        word = self._trouble.note(part, error)
        if word == "other":
            logger.error("%s: %s, which has no class", part, type(error).__name__, exc_info=None if _is_redis(error) else error)
        self._node.counters.troubles[word] += 1
        self._node.degraded = self._node.degraded | {part: word}

    def _clear(self, part: str) -> None:
        self._trouble.clear(part)
        self._node.degraded = {name: word for name, word in self._node.degraded.items() if name != part}


def _is_redis(error: BaseException) -> bool:
    """Whether an error, or one of a group, is of Redis' own."""
    return any(map(_is_redis, error.exceptions)) if isinstance(error, BaseExceptionGroup) else isinstance(error, RedisError)
