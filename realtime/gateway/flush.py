"""When sessions are served: views applied, deltas written, in slices of at most 5 ms of a loop turn.

Law: one callback at a time does all of it. It is put into the loop by the first change after idle, and runs at the
end of that turn; while sessions wait for their flush period it is put there by a timer. Nothing else drains.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from typing import Protocol

from realtime.gateway.complaints import Complaints
from realtime.node import SLICE_S, Node

logger = logging.getLogger(__name__)


class Flushed(Protocol):
    """A session, as it is served here."""

    def perform(self, now: float) -> None:
        """Do what the client asked for and what has waited for its turn."""

    def flush(self, now: float) -> None:
        """Write the next delta, if the socket takes data."""

    def fail(self) -> None:
        """End the session: serving it raised."""


class Flusher:
    """Serves the sessions of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sessions: dict[int, Flushed] = {}
        self._asking: OrderedDict[Flushed, None] = OrderedDict()  # sessions whose view, refresh or check has its turn, in order
        self._dirty: deque[int] = deque()  # taken from the engine, not yet drained
        self._is_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = float("inf")
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        self._complaints = Complaints(logger, time.monotonic)
        node.on_change = self.wake

    def add(self, number: int, session: Flushed) -> None:
        """Serve a session from now on."""
        self._sessions[number] = session

    def remove(self, number: int) -> None:
        """Forget a session."""
        self._sessions.pop(number, None)

    def ask(self, session: Flushed) -> None:
        """Let the session perform, when its turn comes."""
        self._asking[session] = None
        self.wake()

    def resume(self, number: int) -> None:
        """Drain a session that was taken while its socket was paused."""
        self._dirty.append(number)
        self.wake()

    def wake(self) -> None:
        """Something may have become dirty: look at the end of this turn."""
        if not self._is_scheduled and not self._is_closed:
            self._is_scheduled = True
            self._loop.call_soon(self._run)

    def close(self) -> None:
        """Stop serving."""
        self._is_closed = True
        self._cancel_timer()

    def _run(self) -> None:
        self._is_scheduled = False
        if self._is_closed:
            return
        stop = time.perf_counter() + SLICE_S
        now = self._node.now()
        self._dirty.extend(self._node.engine.take_dirty(now))
        # Alternately, so that neither a storm of views nor one of changes starves the other.
        while self._asking or self._dirty:
            if self._asking:
                asking, _ = self._asking.popitem(last=False)
                self._serve(asking, False, now)
            if self._dirty:
                session = self._sessions.get(self._dirty.popleft())
                if session is not None:
                    self._serve(session, True, now)
            if time.perf_counter() >= stop:  # at the end, so that each turn gets something done
                break
        if self._asking or self._dirty:
            self.wake()
        else:
            self._sleep()

    def _serve(self, session: Flushed, is_flush: bool, now: float) -> None:
        try:
            if is_flush:
                session.flush(now)
            else:
                session.perform(now)
        except Exception:  # noqa: BLE001  a bug: it costs this session, and nobody else notices
            self._complaints.exception("serve", "serving a session failed")
            self._end(session)

    def _end(self, session: Flushed) -> None:
        try:
            session.fail()
        except Exception:  # noqa: BLE001  nor does anybody where even that fails
            self._complaints.exception("end", "ending a session failed")

    def _sleep(self) -> None:
        """Set the timer for the next session that is due."""
        due = self._node.engine.next_due()
        if due is None:
            return
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(max(due - self._node.now(), 0.0), self._on_timer)

    def _on_timer(self) -> None:
        self._cancel_timer()
        self.wake()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
