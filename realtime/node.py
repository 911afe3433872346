"""One node: the world it serves, and the one path by which updates get into it.

Law: what publishers send passes `Node._apply`, what other nodes or a store tell passes `Node.merge`, and nothing else
changes the world: taken in, counted, and then whoever flushes is told. Node knows of no store and no bus; those who do
set what it offers them. A node's time never falls: it is the wall clock at the start plus what a monotonic clock counted
since.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, Protocol

import msgspec
from msgspec import Struct, field

from realtime.config import Config
from realtime.counters import Counters
from realtime.engine import Engine, Merged, Settings, Verdict
from realtime.engine.choice import choose_engine
from realtime.errors import ErrorCode, Refused
from realtime.intake import Allows, Intake, new_intake
from realtime.messages import Rejected

REJECTED_MAX = 1000  # refusals that a result names; the others are counted
VIEWS_MAX = 10_000  # users whose last view is kept
SLICE_S = 0.005  # of a loop turn, for applying batches
BATCH_UPDATES = 1000  # whose verdicts are held before they are counted; a refusal holds on to more than its text
DEATHS_PER_TURN = 32
RELOAD_ENTITIES = 2000  # looked at in a loop turn when a reload ends


class Result(Struct):
    """What became of a batch. `rejected` names the first 1,000."""

    accepted: int = 0
    unchanged: int = 0
    stale: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    rejected_total: int = 0

    def reject(self, index: int, refused: Refused) -> None:
        """Note a refusal."""
        self.rejected_total += 1
        if len(self.rejected) < REJECTED_MAX:
            self.rejected.append(Rejected(index, refused.code, refused.message))


class ViewStore(Protocol):
    """Where the views of users are kept beyond this process."""

    def keep(self, user: str, view: bytes) -> None:
        """Keep a user's newest view message, some time soon."""

    async def find(self, user: str) -> bytes | None:
        """Return a user's newest view message; raise `Refused` (unavailable) if nobody can say."""


class Node:
    """World, publish path and time of one server process."""

    def __init__(self, config: Config, counters: Counters) -> None:
        limits = config.limits
        self.config = config
        self.counters = counters
        self.number = 0
        self.epoch = secrets.token_hex(8)
        self.world = secrets.token_hex(8)
        self.is_whole = True  # the world is complete; a store that is still being read says no
        self.degraded: dict[str, str] = {}  # what the node does without for now -> why, in a word
        # Returns once a store has what was published before the call, and raises `Refused` (unavailable) if none can.
        self.settle: Callable[[], Awaitable[None]] | None = None
        self.backlog: Callable[[], int] = _none  # entities whose state the other nodes have still to be told
        self.view_store: ViewStore | None = None
        # Takes updates in this node's place and returns the verdicts; raises `Refused` (unavailable). Set where only
        # another process of the machine may give versions.
        self.forward: Callable[[Iterable[Any] | AsyncIterator[Iterable[Any]], Allows | None], Awaitable[Result]] | None = None
        self.is_reloading = False  # the engine notes who is named
        self.reloads = 0  # that came to their end
        self.engine_kind, make_engine = choose_engine(config.engine.kind)
        self.engine: Engine = make_engine(
            Settings(
                entities_per_view=limits.entities_per_view,
                entity_bytes=limits.entity_bytes,
                entity_properties=limits.entity_properties,
                flush_interval_s=limits.flush_interval_ms / 1000,
                tombstone_s=limits.tombstone_s,
                tombstones_max=limits.tombstones_max,
            ),
            self.number,
        )
        self.on_change: Callable[[], None] = _nothing  # called after every change of the world or of a session
        self.on_offer: list[Callable[[], None]] = []  # called when there may be something new in a feed
        self._intake: Intake = new_intake(self.engine, self.engine_kind, config)
        self._offset = time.time() - time.monotonic()
        self._slice = asyncio.Lock()  # whoever holds it may apply; one slice in a loop turn
        self._expiry: asyncio.TimerHandle | None = None
        self._views: OrderedDict[str, bytes] = OrderedDict()  # user -> the last view message

    @property
    def name(self) -> str:
        """What clients and operators are told."""
        return f"node-{self.number}"

    def renumber(self, number: int) -> None:
        """Give versions as the node of this number from now on."""
        self.number = number
        self.engine.renumber(number)

    def now(self) -> float:
        """Return the node's time in seconds since the Unix epoch."""
        return time.monotonic() + self._offset

    def set_clock(self, offset_s: float) -> None:
        """Take the time from the monotonic clock and this offset, as other processes of the machine do. Before the first use."""
        self._offset = offset_s

    # Views

    def keep_view(self, user: str, view: dict[str, Any]) -> None:
        """Keep the user's newest view message for `last`; the views longest kept are forgotten first."""
        kept = msgspec.json.encode({name: view[name] for name in ("type", "bbox", "zoom", "filter", "ids", "max_hz") if name in view})
        self._views.pop(user, None)
        self._views[user] = kept
        while len(self._views) > VIEWS_MAX:
            self._views.popitem(last=False)
        if self.view_store is not None:
            self.view_store.keep(user, kept)

    def kept_view(self, user: str) -> dict[str, Any] | None:
        """Return the user's newest view message, as far as this node has seen it."""
        kept = self._views.get(user)
        return None if kept is None else msgspec.json.decode(kept)

    async def find_view(self, user: str) -> dict[str, Any] | None:
        """Return the user's newest view message, wherever it is kept; this node's own where the store cannot be asked."""
        if self.view_store is None:
            return self.kept_view(user)
        try:
            found = await self.view_store.find(user)
        except Refused:
            return self.kept_view(user)
        return self.kept_view(user) if found is None else _view_of(found)

    # Publishing

    def publish(self, updates: Iterable[Any], allows: Allows | None = None) -> Result:
        """Apply updates at once. `allows`, given an id, says whether the publisher may; an item may be a `Refused`."""
        result = Result()
        items = list(updates)
        for first in range(0, len(items), BATCH_UPDATES):
            self._apply(iter(items[first : first + BATCH_UPDATES]), first, result, allows, None)
        return result

    async def publish_sliced(
        self,
        updates: Iterable[Any] | AsyncIterator[Iterable[Any]],
        allows: Allows | None = None,
    ) -> Result:
        """Apply updates in slices of at most 5 ms of a loop turn, whatever else is being published meanwhile."""
        if self.forward is not None:
            return await self.forward(updates, allows)
        result = Result()
        index = 0
        if isinstance(updates, AsyncIterator):
            async for piece in updates:
                index = await self._apply_sliced(iter(piece), index, result, allows)
        else:
            await self._apply_sliced(iter(updates), 0, result, allows)
        return result

    async def _apply_sliced(self, items: Iterator[Any], index: int, result: Result, allows: Allows | None) -> int:
        may_go_on = True
        while may_go_on:
            async with self._slice:
                stop = time.perf_counter() + SLICE_S
                count, may_go_on = self._apply(items, index, result, allows, lambda: time.perf_counter() >= stop)  # noqa: B023
                index += count
                await asyncio.sleep(0)  # within the lock: the next slice, whoever's it is, waits for the next turn
        return index

    def _apply(
        self, items: Iterator[Any], first: int, result: Result, allows: Allows | None, is_over: Callable[[], bool] | None
    ) -> tuple[int, bool]:
        """Apply items until there are none or it is over; return how many, and whether there may be more."""
        verdicts: list[Verdict | Refused] = []
        try:
            may_go_on = self._intake.take(items, verdicts, self.now(), allows, is_over)
        finally:  # what was applied has happened, even if the source of the items broke
            self._count(verdicts, first, result)
            self._changed()
        return len(verdicts), may_go_on

    def _changed(self) -> None:
        self.on_change()
        for tell in self.on_offer:
            tell()
        self._schedule_expiry()

    def _count(self, verdicts: list[Verdict | Refused], first: int, result: Result) -> None:
        accepted, unchanged, stale = (verdicts.count(verdict) for verdict in (Verdict.ACCEPTED, Verdict.UNCHANGED, Verdict.STALE))
        rejected = len(verdicts) - accepted - unchanged - stale
        if rejected:
            for place, verdict in enumerate(verdicts, first):
                if isinstance(verdict, Refused):
                    self._reject(result, place, verdict)
                elif verdict > Verdict.STALE:
                    self._reject(result, place, _refusal(verdict, self.config))
        result.accepted += accepted
        result.unchanged += unchanged
        result.stale += stale
        updates = self.counters.updates
        updates["accepted"] += accepted
        updates["unchanged"] += unchanged
        updates["stale"] += stale
        updates["rejected"] += rejected

    def _reject(self, result: Result, place: int, refused: Refused) -> None:
        result.reject(place, refused)
        self.counters.rejected[refused.code] += 1

    # What others tell

    def merge(self, batch: bytes, feed: int = 0) -> Merged:
        """Take over a batch of whole states at once, see `Engine.merge`."""
        merged = self.engine.merge(batch, self.now(), feed)
        states = self.counters.states
        states["accepted"] += merged.accepted
        states["unchanged"] += merged.unchanged
        states["stale"] += merged.stale
        states["bad"] += merged.bad
        self._changed()
        return merged

    async def merge_sliced(self, batches: Iterable[tuple[bytes, int]]) -> None:
        """Take over batches, each with the feed that hears of it (0: none), in slices of at most 5 ms of a loop turn."""
        source = iter(batches)
        may_go_on = True
        while may_go_on:
            async with self._slice:
                stop = time.perf_counter() + SLICE_S
                may_go_on = False
                for batch, feed in source:
                    self.merge(batch, feed)
                    if time.perf_counter() >= stop:
                        may_go_on = True
                        break
                if may_go_on:
                    await asyncio.sleep(0)

    def begin_reload(self) -> None:
        """Note from now on who is named."""
        self.is_reloading = True
        self.engine.begin_reload()

    async def end_reload(self) -> None:
        """Let die what was not named since `engine.begin_reload`, in slices."""
        is_over = False
        while not is_over:
            async with self._slice:
                is_over = self.engine.end_reload(self.now(), RELOAD_ENTITIES)
                self._changed()
                await asyncio.sleep(0)
        self.is_reloading = False
        self.reloads += 1
        self._changed()

    # Expiry

    def _schedule_expiry(self) -> None:
        """Set the timer for the next death; nothing outside of a running loop, where `expire` is called by hand."""
        due = self.engine.next_expiry()
        if due is None or self._expiry is not None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        # A deadline that comes nearer meanwhile is at most a second late.
        self._expiry = loop.call_later(min(max(due - self.now(), 0.001), 1.0), self._expire)

    def _expire(self) -> None:
        self._expiry = None
        if self.engine.expire(self.now(), DEATHS_PER_TURN):
            self.on_change()
        self._schedule_expiry()

    def close(self) -> None:
        """Stop the timer."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None


def _nothing() -> None:
    return


def _none() -> int:
    return 0


def _view_of(kept: bytes) -> dict[str, Any] | None:
    """Return a view message that was kept elsewhere; None if it is none."""
    try:
        view = msgspec.json.decode(kept)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return view if isinstance(view, dict) else None


def _refusal(verdict: Verdict, config: Config) -> Refused:
    limits = config.limits
    match verdict:
        case Verdict.UNKNOWN_ENTITY:
            return Refused(ErrorCode.UNKNOWN_ENTITY, "id: no such entity; send it as a Feature first")
        case Verdict.TOO_MANY_BYTES:
            return Refused(ErrorCode.TOO_BIG, f"geometry and properties: at most {limits.entity_bytes} bytes are allowed")
        case Verdict.TOO_MANY_PROPERTIES:
            return Refused(ErrorCode.TOO_BIG, f"properties: at most {limits.entity_properties} are allowed")
        case _:
            return Refused(ErrorCode.BAD_VERSION, "version: no higher one is left for this entity")
