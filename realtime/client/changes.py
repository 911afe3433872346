"""What happened to the mirror since its consumer last looked, as one merged change.

Law: a consumer that is slow gets newer changes, not more of them. Nothing is queued: per entity there is one word about
what became of it, so what waits is bounded by what the consumer knows and what the mirror holds. The merged change says
exactly how to get from the one to the other: what came and went again meanwhile is not mentioned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Self

from realtime.client.mirror import Applied


class Changes:
    """Merges what deltas did, and is an asynchronous iterator over what they did since its last item."""

    def __init__(self, held: Iterable[str] = ()) -> None:
        # id -> whether the consumer has it already; what is held at the start is its first change.
        self._entered: dict[str, bool] = dict.fromkeys(held, False)
        self._moved: dict[str, None] = {}  # a set that keeps its order
        self._patched: dict[str, None] = {}
        self._left: dict[str, str] = {}
        self._is_reset = bool(self._entered)
        self._news = asyncio.Event()
        self._is_over = False
        self._error: Exception | None = None

    def add(self, applied: Applied, renewed: Collection[str] = ()) -> None:
        """Merge what one delta did; `renewed` names those of `entered` that the mirror held before."""
        for id, reason in applied.left.items():
            is_known = self._entered.pop(id, True)
            self._moved.pop(id, None)
            self._patched.pop(id, None)
            if is_known:
                self._left[id] = reason
        for id in applied.entered:
            if id not in self._entered:
                self._entered[id] = id in self._left or id in renewed
            self._left.pop(id, None)
            self._moved.pop(id, None)
            self._patched.pop(id, None)
        for id in applied.moved:
            if id not in self._entered and id not in self._patched:
                self._moved[id] = None
        for id in applied.patched:
            if id not in self._entered:
                self._moved.pop(id, None)
                self._patched[id] = None
        self._is_reset = self._is_reset or applied.is_reset
        self._news.set()

    def end(self, error: Exception | None) -> None:
        """Nothing more comes: once what waits is taken, the iteration stops, or raises `error`."""
        self._is_over, self._error = True, error
        self._news.set()

    def take_nowait(self) -> Applied | None:
        """Return what happened since the last call; None: nothing did."""
        if not (self._entered or self._moved or self._patched or self._left or self._is_reset):
            return None
        applied = Applied(list(self._entered), list(self._moved), list(self._patched), self._left, self._is_reset)
        self._entered, self._moved, self._patched, self._left, self._is_reset = {}, {}, {}, {}, False
        return applied

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Applied:
        while True:
            applied = self.take_nowait()
            if applied is not None:
                return applied
            if self._is_over:
                raise self._error or StopAsyncIteration
            self._news.clear()
            await self._news.wait()
