"""When sessions are served: views applied, deltas written, in slices of at most 5 ms of a loop turn.

Law: one callback at a time does all of it. It is put into the loop by the first change after idle, and runs at the
end of that turn; while sessions wait for their flush period it is put there by a timer. Nothing else drains.

Who waits is known to a pump. The native engine's writes deltas to sockets itself, without a Python object for any of
them, and gives out whom it cannot serve; any other engine's gives out everybody. Whoever is given out is served by hand.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol, TypeVar

from realtime.engine import Engine
from realtime.gateway.complaints import Complaints
from realtime.node import SLICE_S, Node

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Flushed(Protocol):
    """A session, as it is served here."""

    def perform(self, now: float) -> None:
        """Do what the client asked for and what has waited for its turn."""

    def flush(self, now: float) -> None:
        """Write the next delta, if the socket takes data."""

    def finish(self, rest: bytes) -> None:
        """Write the rest of a delta that the pump has begun."""

    def fail(self) -> None:
        """End the session: serving it raised."""


class Pump(Protocol):
    """The sessions that wait to be drained; what it is told of sockets is in `realtime.gateway.connection`."""

    @property
    def sockets(self) -> int:
        """How many sockets it may write to."""

    @property
    def waiting(self) -> int:
        """How many sessions wait."""

    @property
    def session(self) -> int:
        """The session that was served last."""

    @property
    def rest(self) -> bytes:
        """What is to be written for it by hand; empty: it is to be drained."""

    def open(self, session: int, fileno: int, opcode: int) -> None:
        """Write the session's deltas to a socket, whenever that is `direct`."""

    def close(self, session: int) -> None:
        """Never touch that socket again."""

    def set_direct(self, session: int, is_direct: bool) -> None:
        """Say whether nothing else waits to be written to that socket."""

    def take_written(self, session: int) -> int:
        """Return how many bytes went to that socket since this was asked before."""

    def take(self, now: float) -> None:
        """Let those wait that are dirty and due."""

    def push(self, session: int) -> None:
        """Let one more wait."""

    def run(self, now: float, seconds: float) -> bool:
        """Write for so long, and one delta at least; return whether `session` is to be served by hand before it goes on."""

    def take_counts(self) -> tuple[int, int]:
        """Return the frames and the bytes of payload that were written since this was asked before."""


class HandPump:
    """Writes nothing."""

    rest = b""
    sockets = 0

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[int] = deque()
        self.session = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def open(self, session: int, fileno: int, opcode: int) -> None:
        """Nothing is written here."""

    def close(self, session: int) -> None:
        """Nor was it."""

    def set_direct(self, session: int, is_direct: bool) -> None:
        """Nor will it."""

    def take_written(self, session: int) -> int:
        return 0

    def take(self, now: float) -> None:
        self._waiting.extend(self._engine.take_dirty(now))

    def push(self, session: int) -> None:
        self._waiting.append(session)

    def run(self, now: float, seconds: float) -> bool:
        if not self._waiting:
            return False
        self.session = self._waiting.popleft()
        return True

    def take_counts(self) -> tuple[int, int]:
        return 0, 0


def new_pump(node: Node) -> Pump:
    """Return the pump that goes with a node's engine: its own, if it has one."""
    make: Callable[[int], Pump] | None = getattr(node.engine, "new_pump", None)
    return HandPump(node.engine) if make is None else make(node.config.limits.frame_bytes)


class Flusher:
    """Serves the sessions of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sessions: dict[int, Flushed] = {}
        self._asking: OrderedDict[Flushed, None] = OrderedDict()  # sessions whose view, refresh or check has its turn, in order
        self.pump = new_pump(node)
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
        self.pump.push(number)
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
        self.pump.take(now)
        # Alternately, and each for as long as the other, so that neither a storm of views nor one of changes starves the other.
        while self._asking or self.pump.waiting:
            begin = time.perf_counter()
            if self._asking:
                asking, _ = self._asking.popitem(last=False)
                self._serve(asking, asking.perform, now)
            if self.pump.waiting:
                middle = time.perf_counter()
                self._pump(now, min(middle - begin, stop - middle) if self._asking else stop - middle)
            if time.perf_counter() >= stop:  # at the end, so that each turn gets something done
                break
        self._count()
        if self._asking or self.pump.waiting:
            self.wake()
        else:
            self._sleep()

    def _pump(self, now: float, seconds: float) -> None:
        """Let the pump write for so long, or until there is somebody to be served by hand."""
        try:
            is_by_hand = self.pump.run(now, seconds)
        except Exception:  # noqa: BLE001  a bug of the engine's: it costs the session whose delta it was
            self._complaints.exception("serve", "serving a session failed")
            if (session := self._sessions.get(self.pump.session)) is not None:
                self._end(session)
            return
        if is_by_hand and (session := self._sessions.get(self.pump.session)) is not None:
            if rest := self.pump.rest:
                self._serve(session, session.finish, rest)
            else:
                self._serve(session, session.flush, now)

    def _count(self) -> None:
        frames, frame_bytes = self.pump.take_counts()
        if frames:
            self._node.counters.frames += frames
            self._node.counters.frame_bytes += frame_bytes

    def _serve(self, session: Flushed, call: Callable[[T], None], argument: T) -> None:
        try:
            call(argument)
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
