"""What a worker does while it is told everything although it holds much of it already.

What is not named from `begin` to `end` does not exist any more. Law: the dead count only at the end. A tombstone would name
what lives here, and where a reload let that die it is no newer: the entity would stay.
"""

from __future__ import annotations

from realtime.engine.choice import choose_batches
from realtime.engine.states import ALIVE, DEAD
from realtime.node import Node


class Retelling:
    """One at a time. `is_on` from `begin` to `end`."""

    def __init__(self, node: Node) -> None:
        self.is_on = False
        self._node = node
        self._deaths: list[bytes] = []  # batches of those that wait
        self._split, self._join = choose_batches(node.engine_kind)

    def begin(self) -> None:
        """Everything is told from here on, whatever was told before."""
        self._deaths.clear()
        self.is_on = True
        self._node.begin_reload()

    def part(self, batch: bytes) -> bytes:
        """Return what of a batch is to be merged now: whoever lives. One that cannot be parted goes whole: `merge` counts it."""
        if not self.is_on:
            return batch
        try:
            parts = [state for _, state in self._split(batch)]
        except ValueError:
            return batch
        alive = [state for state in parts if state[0] == ALIVE]
        if len(alive) == len(parts):
            return batch
        self._deaths.append(self._join([state for state in parts if state[0] == DEAD]))
        return self._join(alive)

    async def end(self) -> None:
        """That was everything."""
        await self._node.end_reload()
        self.is_on = False
        deaths, self._deaths = self._deaths, []
        await self._node.merge_sliced((batch, 0) for batch in deaths)
