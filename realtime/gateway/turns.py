"""How often a session may ask: a bucket for its messages, and turns for what it asks of the engine.

Law: what comes too often is either counted against the client (`Bucket`) or waits (`Turn`); of what waits there is
never more than one. Who asks for what takes long waits the longer, so that no session takes more than its share of
the processor by asking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Bucket:
    """Tokens that come back at `per_s` a second, `burst` of them at most. `clock` gives seconds; only differences count."""

    __slots__ = ("_at", "_burst", "_clock", "_per_s", "_tokens")

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float]) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._tokens = burst
        self._at = clock()

    def take(self) -> bool:
        """Take one token; False if there is none."""
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._at) * self._per_s, self._burst)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Load:
    """What a session's requests have cost: after each it rests, so that they take at most `share_max` of the time."""

    __slots__ = ("_share_max", "rests_until")

    def __init__(self, share_max: float) -> None:
        self._share_max = share_max
        self.rests_until = float("-inf")  # in the loop's time

    def add(self, cost_s: float, now: float) -> None:
        """Note what a request has cost."""
        self.rests_until = max(self.rests_until, now) + cost_s / self._share_max


class Turn:
    """One kind of request: the newest one waits until `interval_s` after the last one was performed, and while the session rests."""

    __slots__ = ("_interval_s", "_is_pending", "_last", "_load", "_timer", "is_due")

    def __init__(self, interval_s: float, load: Load) -> None:
        self._interval_s = interval_s
        self._load = load
        self._last = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._is_pending = False
        self.is_due = False  # a request waits and its turn has come

    def ask(self, ready: Callable[[], None]) -> None:
        """Note a request; `ready` is called once its turn has come."""
        if self._is_pending:
            return
        self._is_pending = True
        loop = asyncio.get_running_loop()
        wait = max(self._last + self._interval_s, self._load.rests_until) - loop.time()
        if wait > 0:
            self._timer = loop.call_later(wait, self._come, ready)
        else:
            self._come(ready)

    def _come(self, ready: Callable[[], None]) -> None:
        self.is_due = True
        ready()

    def done(self) -> None:
        """The request was performed."""
        self._is_pending = self.is_due = False
        self._last = asyncio.get_running_loop().time()

    def cancel(self) -> None:
        """Forget the request."""
        self._is_pending = self.is_due = False
        if self._timer is not None:
            self._timer.cancel()
