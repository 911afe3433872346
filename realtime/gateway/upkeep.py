"""Every timeout of every connection, on one timer.

Law: all timeouts of a kind are equally long, so whoever was added first is due first: a look at the head of a queue is
all that a tick costs while nothing is due. A tick takes at most `BATCH` of each kind; the rest follows a moment later,
so that ten thousand pings that are due at once do not hold up the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from realtime.config import LimitsConfig
from realtime.errors import CloseCode
from realtime.gateway.complaints import Complaints

BATCH = 256
TICK_S_MAX = 0.25
TICK_S_MIN = 0.005
TICKS_PER_TIMEOUT = 8  # a timeout is noticed at most an eighth of it late

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Things that are due `timeout_s` after they were added, in the order in which they were added."""

    __slots__ = ("_due", "timeout_s")

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._due: dict[T, float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, thing: T) -> bool:
        return thing in self._due

    def add(self, thing: T, now: float) -> None:
        """Start the clock of a thing, anew if it runs already."""
        self._due.pop(thing, None)
        self._due[thing] = now + self.timeout_s

    def discard(self, thing: T) -> None:
        """Stop its clock, if it runs."""
        self._due.pop(thing, None)

    def oldest(self) -> T:
        """Return the thing that is due next; there must be one."""
        return next(iter(self._due))

    def all(self) -> list[T]:
        """Return everything whose clock runs."""
        return list(self._due)

    def take_due(self, now: float, at_most: int) -> list[T]:
        """Remove and return what is due."""
        taken: list[T] = []
        for thing, due in self._due.items():
            if due > now or len(taken) == at_most:
                break
            taken.append(thing)
        for thing in taken:
            del self._due[thing]
        return taken


class Newcomer(Protocol):
    """A socket whose upgrade is not finished."""

    def expire(self) -> None:
        """It took too long."""

    def evict(self) -> None:
        """A newer one needs its place."""


class Kept(Protocol):
    """A connection, as it is kept here."""

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Close with a handshake."""

    def cut(self) -> None:
        """End the socket; the peer had its time to answer the close frame."""

    def ping(self, now: float) -> None:
        """Send a ping."""

    def judge(self, now: float) -> bool:
        """Cut it if the peer takes nothing or is gone; return whether it must be looked at again."""

    def fail(self) -> None:
        """An exception came out of one of these calls."""


class Upkeep:
    """What all connections of a listener share: limits, clock, counts, log and timeouts."""

    def __init__(self, limits: LimitsConfig, loop: asyncio.AbstractEventLoop, count: Callable[[str], None], complaints: Complaints) -> None:
        self.limits = limits
        self.loop = loop
        self.count = count
        self.complaints = complaints
        timeouts_s = (
            limits.handshake_timeout_s,
            limits.identify_timeout_s,
            limits.close_timeout_s,
            limits.ping_interval_s,
            limits.pong_timeout_s,
            limits.write_stall_s,
        )
        self._tick_s = min(max(min(timeouts_s) / TICKS_PER_TIMEOUT, TICK_S_MIN), TICK_S_MAX)
        self.newcomers: Deadlines[Newcomer] = Deadlines(limits.handshake_timeout_s)
        self.unidentified: Deadlines[Kept] = Deadlines(limits.identify_timeout_s)
        self.closing: Deadlines[Kept] = Deadlines(limits.close_timeout_s)
        self.pings: Deadlines[Kept] = Deadlines(limits.ping_interval_s)
        self.watched: Deadlines[Kept] = Deadlines(self._tick_s)  # those that write nothing or owe a pong
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the timer."""
        self._timer = self.loop.call_later(self._tick_s, self._tick)

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        now = self.loop.time()
        due = self.newcomers.take_due(now, BATCH)
        is_more = len(due) == BATCH
        for newcomer in due:
            newcomer.expire()
        for queue, act in (
            (self.unidentified, self._close),
            (self.closing, self._cut),
            (self.pings, self._ping),
            (self.watched, self._judge),
        ):
            connections = queue.take_due(now, BATCH)
            is_more |= len(connections) == BATCH
            for connection in connections:
                try:
                    act(connection, now)
                except Exception:  # noqa: BLE001 - logged there; it costs its connection, and never the timer of the others
                    self.complaints.exception("upkeep", "keeping up a connection raised")
                    connection.fail()
        self._timer = self.loop.call_later(TICK_S_MIN if is_more else self._tick_s, self._tick)

    def _close(self, connection: Kept, now: float) -> None:
        connection.close(CloseCode.IDENTIFY_TIMEOUT, "no first message in time")

    def _cut(self, connection: Kept, now: float) -> None:
        connection.cut()

    def _ping(self, connection: Kept, now: float) -> None:
        self.pings.add(connection, now)
        connection.ping(now)

    def _judge(self, connection: Kept, now: float) -> None:
        if connection.judge(now):
            self.watched.add(connection, now)
