"""The views of users in Redis, where the design that this one replaces kept them: `viewport:{user}`, as JSON, for a while.

Law: a user's newest view is written, not every one. What is written is what the client sent, and what is read may be
anybody's: the session judges it like a message.
"""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from redis.exceptions import RedisError

from realtime.cluster.bus import unavailable
from realtime.cluster.link import Link

WRITE_INTERVAL_S = 1.0
KEPT_S = 30 * 24 * 3600
PENDING_MAX = 10_000  # users whose view waits to be written; beyond it the oldest are not
VIEW_BYTES_MAX = 64 * 1024


class Viewports:
    """Writes and finds views."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._pending: dict[str, bytes] = {}
        self._in_flight: dict[str, bytes] = {}

    def keep(self, user: str, view: bytes) -> None:
        """Keep a user's newest view, some time soon."""
        self._pending.pop(user, None)
        self._pending[user] = view
        while len(self._pending) > PENDING_MAX:
            del self._pending[next(iter(self._pending))]

    async def find(self, user: str) -> bytes | None:
        """Return a user's newest view; raise `Refused` if Redis cannot be asked."""
        for waiting in (self._pending, self._in_flight):
            if user in waiting:
                return waiting[user]
        try:
            found = await self._link.home(_key(user)).get(_key(user))
        except (RedisError, OSError):
            raise unavailable() from None
        return found if isinstance(found, bytes) and len(found) <= VIEW_BYTES_MAX else None

    async def write(self) -> None:
        """Write what was kept, until something fails."""
        while True:
            await asyncio.sleep(WRITE_INTERVAL_S)
            self._in_flight, self._pending = self._pending, {}
            writes: dict[Redis, list[str]] = {}
            for user in self._in_flight:
                writes.setdefault(self._link.home(_key(user)), []).append(user)
            for client, users in writes.items():
                async with client.pipeline(transaction=False) as pipe:
                    for user in users:
                        pipe.set(_key(user), self._in_flight[user], ex=KEPT_S)
                    await pipe.execute()
            self._in_flight = {}

    def put_back(self) -> None:
        """Note that writing has ended: what was on its way is written the next time."""
        self._pending = self._in_flight | self._pending
        self._in_flight = {}


def _key(user: str) -> str:
    return f"viewport:{user}"
