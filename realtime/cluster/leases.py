"""Leases: what only one node at a time may be or do, written down in Redis for a while and renewed.

Law: whoever does not manage to renew in time stops before the lease runs out. No scripts: a lease is renewed, and what it
permits is done, in a transaction that fails if the lease is not this node's (WATCH).
"""

from __future__ import annotations

import asyncio
import random

from redis.asyncio.client import Pipeline
from redis.exceptions import WatchError

from realtime.cluster.link import Link
from realtime.node import Node

LEASED_MAX = 2047  # node numbers 1 to 2047 are leased, 2048 to 4095 taken at random while none can be; 0 is alone
UNLEASED = range(2048, 4096)
TRIES = 200
MARGIN = 0.7  # of a lease's time, after which it counts as lost


class NotOurs(Exception):
    """A lease is another node's."""


async def begin(pipe: Pipeline, key: str, owner: bytes, hash: str | None = None) -> None:
    """Open a transaction that will fail if the lease changes hands; raise `NotOurs` if it has.

    Redis undoes nothing: where one command of a transaction fails, the others are done. So a `hash` that the
    transaction writes is made sure of before.
    """
    await pipe.watch(key, *(() if hash is None else (hash,)))
    if await pipe.get(key) != owner:
        raise NotOurs(key)
    if hash is not None:
        await pipe.hlen(hash)
    pipe.multi()  # type: ignore[no-untyped-call]


async def commit(pipe: Pipeline) -> None:
    """End the transaction; raise `NotOurs` if the lease changed hands meanwhile: nothing was done then."""
    try:
        await pipe.execute()
    except WatchError:
        raise NotOurs from None


class NodeNumber:
    """The number by which this node's versions differ from every other node's."""

    def __init__(self, node: Node, link: Link, prefix: str, lease_s: float) -> None:
        self._node = node
        self._link = link
        self._prefix = prefix
        self._lease_s = lease_s
        self._owner = node.epoch.encode()
        self._number = 0  # leased; 0: none
        self._is_robbed = False  # of a lease that had not run out, and nobody was told yet
        self._end: asyncio.TimerHandle | None = None
        self.draw()

    def _key(self, number: int) -> str:
        return f"{self._prefix}:node:{number}"

    def draw(self) -> None:
        """Take a number that nobody else is likely to have, until one is leased."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
        self._number = 0
        self._node.renumber(random.choice(UNLEASED))

    def _keep(self, number: int, began: float) -> None:
        """Use a number for as long as the lease, asked for at `began`, is surely not over."""
        if self._end is not None:
            self._end.cancel()
        self._end = asyncio.get_running_loop().call_at(began + self._lease_s * MARGIN, self.draw)
        if self._number != number:
            self._number = number
            self._node.renumber(number)

    async def hold(self) -> bool:
        """Lease a number, or renew the one that is leased.

        Return false if a lease that cannot have run out is gone: then Redis has lost what it knew, with or without a cut.
        """
        began = asyncio.get_running_loop().time()
        lease_ms = int(self._lease_s * 1000)
        if self._number:
            key = self._key(self._number)
            try:
                async with self._link.home(key).pipeline(transaction=True) as pipe:
                    await begin(pipe, key, self._owner)
                    pipe.pexpire(key, lease_ms)
                    await commit(pipe)
            except NotOurs:
                self._is_robbed = True
                self.draw()
            else:
                self._keep(self._number, began)
                return True
        for _ in range(TRIES):
            number = random.randint(1, LEASED_MAX)
            key = self._key(number)
            if await self._link.home(key).set(key, self._owner, nx=True, px=lease_ms):
                self._keep(number, began)
                break
        is_robbed, self._is_robbed = self._is_robbed, False
        return not is_robbed

    async def release(self) -> None:
        """Give the number back."""
        if not self._number:
            return
        key = self._key(self._number)
        self.draw()
        async with self._link.home(key).pipeline(transaction=True) as pipe:
            await begin(pipe, key, self._owner)
            pipe.delete(key)
            await commit(pipe)
