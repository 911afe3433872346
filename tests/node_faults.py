"""What is done to nodes and their Redis while they are watched, and how late their loops run meanwhile.

Law: one thing at a time, but for connections, which are killed all along; the next comes when every node says that it is
well again. A node is killed when it has been well for as long as publishers remember.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import httpx
from redis.exceptions import RedisError

from tests.node_processes import NodeProcess
from tests.node_publishers import AGAIN_S, Publishers
from tests.redis_servers import Server

WELL_S = 30.0
LOOK_S = 0.05
DOWN_S = 0.4
NOTICED_S = 1.2  # within which a node looks whether the world is still there
LEASED_S = 30.0  # within which somebody has a lease again
LAG_INTERVAL_S = 0.5
QUANTILE = 0.99
_CLIENT = re.compile(rb"^id=(\d+) .*?\bname=realtime:", re.MULTILINE)


async def until(condition: Callable[[], Awaitable[bool]], what: Callable[[], str], timeout_s: float = WELL_S) -> None:
    """Wait until a condition is true; say what is wrong if it does not become so."""
    end = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:g} s: {what()}")
        await asyncio.sleep(LOOK_S)


class LoopLag:
    """How late the loops of all nodes ran their timers, in each of several phases."""

    def __init__(self, nodes: Sequence[NodeProcess]) -> None:
        self.phase = ""
        self.counts: dict[str, Counter[float]] = {}  # phase -> upper bound -> timers at most so late, over all nodes
        self._nodes = nodes
        self._seen: dict[tuple[str, int], dict[float, float]] = {}

    async def watch(self) -> None:
        """Look at all nodes again and again."""
        while True:
            await self.look()
            await asyncio.sleep(LAG_INTERVAL_S)

    async def look(self) -> None:
        """Add what was counted since the last look to the phase."""
        phase = self.counts.setdefault(self.phase, Counter())
        for node in self._nodes:
            if not node.is_up:
                continue
            life = (node.name, node.lives)
            try:
                found = await node.loop_lag()
            except httpx.TransportError:
                if node.lives == life[1]:
                    raise
                continue
            before = self._seen.get(life, {})
            self._seen[life] = found
            for bound, count in found.items():
                phase[bound] += int(count - before.get(bound, 0))

    def quantile_s(self, phase: str, share: float = QUANTILE) -> float:
        """Return the lag that a share of the timers did not exceed: straight lines between the bounds."""
        counts = sorted(self.counts[phase].items())
        wanted = share * counts[-1][1]
        below_s, below = 0.0, 0
        for bound, count in counts:
            if count >= wanted:
                return below_s if bound == float("inf") else below_s + (bound - below_s) * (wanted - below) / max(1, count - below)
            below_s, below = bound, count
        return below_s

    def most_s(self, phase: str) -> float:
        """Return the bound that no timer exceeded."""
        counts = sorted(self.counts[phase].items())
        return next(bound for bound, count in counts if count == counts[-1][1])


class Faults:
    """Everything that happens, in an order of chance."""

    def __init__(
        self, redis: Server, nodes: Sequence[NodeProcess], publishers: Publishers, *, frozen_s: float, connections_s: float, seed: int
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._redis = redis
        self._nodes = nodes
        self._publishers = publishers
        self._frozen_s = frozen_s
        self._connections_s = connections_s
        self._random = random.Random(seed)
        self._unwell: dict[str, str] = {}
        self._asking = asyncio.Lock()  # a connection of ours that asks is not to be cut as well

    async def run(self, at_least_s: float) -> None:
        """Do each thing once, and go on until the time is over."""
        end = time.monotonic() + at_least_s
        kinds = [
            *(self.with_its_data, self.with_older_data, self.empty, self.emptied, self.frozen),
            *(self.lease_holder_killed, self.node_killed, self.both_killed),
        ]
        cutting = asyncio.create_task(self._cut_connections())
        try:
            rounds = 0
            while not rounds or time.monotonic() < end:
                for fault in self._random.sample(kinds, len(kinds)):
                    if rounds and time.monotonic() >= end:
                        break
                    self.counts[fault.__name__] += 1
                    print(f"{time.strftime('%H:%M:%S')} {fault.__name__}", flush=True)
                    await fault()
                    await self.well()
                rounds += 1
        finally:
            cutting.cancel()
            await asyncio.gather(cutting, return_exceptions=True)
        await self.well()

    async def well(self) -> None:
        """Wait until no node does without anything."""

        async def is_well() -> bool:
            self._unwell = {}
            for node in self._nodes:
                ready = await node.ready()
                if ready["degraded"] or not ready["whole"]:
                    self._unwell[node.name] = str(ready)
            return not self._unwell

        await until(is_well, lambda: str(self._unwell))

    # Connections

    async def _cut_connections(self) -> None:
        while True:
            await asyncio.sleep(self._connections_s * self._random.uniform(0.5, 1.5))
            try:
                async with self._asking:
                    await self._cut()
            except (RedisError, OSError):
                self.counts["nothing to cut"] += 1  # it is down or frozen

    async def _cut(self) -> None:
        """Cut all connections, or one of the nodes'."""
        if self._random.random() < 0.5:
            await self._redis.call("CLIENT", "KILL", "TYPE", "normal")
        else:
            ids = _CLIENT.findall(await self._redis.call("CLIENT", "LIST"))
            if not ids:
                return
            await self._redis.call("CLIENT", "KILL", "ID", self._random.choice(ids))
        self.counts["connections cut"] += 1

    # Redis

    async def with_its_data(self) -> None:
        """Redis is killed and comes back as it was."""
        await self._redis.kill()
        await asyncio.sleep(DOWN_S)
        await self._redis.start()

    async def with_older_data(self) -> None:
        """Redis is killed and comes back as it was before."""
        self._redis.keep()
        await asyncio.sleep(2 * DOWN_S)
        await self._redis.kill()
        await asyncio.sleep(DOWN_S)
        await self._redis.start(data="older")

    async def empty(self) -> None:
        """Redis is killed and comes back without anything."""
        await self._redis.kill()
        await asyncio.sleep(DOWN_S)
        await self._redis.start(data="none")

    async def emptied(self) -> None:
        """Everything in Redis is deleted, and no connection is cut for it."""
        async with self._asking:
            await self._redis.call("FLUSHALL")
        await asyncio.sleep(NOTICED_S)

    async def frozen(self) -> None:
        """Redis answers nothing, with all its sockets open."""
        self._redis.freeze()
        try:
            await asyncio.sleep(self._frozen_s)
            readies = [await node.ready() for node in self._nodes]
            assert all(ready["degraded"] for ready in readies), f"frozen for {self._frozen_s} s, and nobody has noticed: {readies}"
        finally:
            self._redis.thaw()

    # Nodes

    async def lease_holder_killed(self) -> None:
        """The node that writes most of the store is killed, and comes back."""
        # Right after another fault all leases may be those of a former life, until they run out.
        end = time.monotonic() + LEASED_S
        while time.monotonic() < end:
            writers: Counter[str] = Counter()
            async with self._asking:
                for key in await self._redis.call("KEYS", "*:writer"):
                    owner = await self._redis.call("GET", key)
                    writers[(owner or b"").decode()] += 1
            epochs = [(await node.ready())["epoch"] for node in self._nodes]
            holder = max(range(len(epochs)), key=lambda number: writers[epochs[number]])
            if writers[epochs[holder]]:
                self.counts["leases of the killed"] += writers[epochs[holder]]
                await self._kill(holder)
                return
            await asyncio.sleep(LOOK_S)
        raise AssertionError(f"no node became a writer of the store within {LEASED_S} s: {writers}")

    async def node_killed(self) -> None:
        """Any node is killed, and comes back."""
        await self._kill(self._random.randrange(len(self._nodes)))

    async def _kill(self, number: int) -> None:
        node = self._nodes[number]
        well_since = time.monotonic()
        while time.monotonic() - well_since < AGAIN_S:
            if (await node.ready())["degraded"]:
                well_since = time.monotonic()
            await asyncio.sleep(LOOK_S)
        await node.kill()
        self._publishers.note_kill(number)
        await asyncio.sleep(DOWN_S)
        await node.start()

    async def all_killed(self) -> None:
        """Nothing was published for a while; all nodes are killed at once, and come back."""
        for node in self._nodes:
            await node.kill()
        async with asyncio.TaskGroup() as tasks:
            for node in self._nodes:
                tasks.create_task(node.start())

    async def both_killed(self) -> None:
        """Redis is killed, then a node that could not tell what it has accepted since; both come back, Redis as it was or not."""
        number = self._random.randrange(len(self._nodes))
        self._redis.keep()
        await asyncio.sleep(DOWN_S)
        begun = time.monotonic()
        await self._redis.kill()
        await asyncio.sleep(DOWN_S)
        await self._nodes[number].kill()
        self._publishers.note_kill(number, begun - AGAIN_S)
        await self._redis.start(data=self._random.choice(["present", "older", "none"]))
        await self._nodes[number].start()
