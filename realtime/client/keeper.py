"""Keeps a mirror right over many connections: what was wrong is healed, what is held is named to the next one.

Law: no I/O and no clock; `now` is an argument. Where the mirror is in doubt, after a frame that does not fit or a digest
that differs, nothing is believed before the next reset. What is claimed in `have` was held, of the world it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

from realtime.client.changes import Changes
from realtime.client.mirror import Applied, Mirror
from realtime.client.status import Closed, Statistics
from realtime.errors import CloseCode


class Keeper:
    """See above."""

    def __init__(self, statistics: Statistics) -> None:
        self.mirror = Mirror()
        self.is_in_doubt = False
        self.may_have = True  # `have` was not too much for the server
        self._statistics = statistics
        self._world: str | None = None  # whose versions are held
        self._fresh_at = 0.0  # when what is held was the newest last
        self._changes: WeakSet[Changes] = WeakSet()
        self._closed: Closed | None = None

    # Over one connection

    def begin(self) -> None:
        """Begin a new connection: its deltas count from 1; what is held stays until one says otherwise."""
        self.mirror.restart()

    def apply(self, delta: Mapping[str, Any], world: str) -> bool:
        """Apply a delta; return False where it means nothing, because a reset is waited for.

        Raises `MirrorError`, or what Python raises for members of wrong types; the mirror is in doubt then.
        """
        if self.is_in_doubt:
            if not delta.get("reset"):
                return False
            self.mirror.seq = delta["seq"] - 1  # whatever was missed, it is cleared
        renewed = frozenset(feature["id"] for feature in delta.get("enter", ()) if feature["id"] in self.mirror.entities)
        applied = self.mirror.apply(delta)
        self.is_in_doubt = False
        self._world, self.may_have = world, True
        self._statistics.deltas += 1
        self._statistics.lag_ms = delta.get("lag_ms", self._statistics.lag_ms)
        self._tell(applied, renewed)
        return True

    def agrees(self, check: Mapping[str, Any]) -> bool:
        """Tell whether the mirror is what a `check` says, as far as that can be told."""
        # Before the first delta there is nothing of this connection to compare, and while a reset is on its way nothing at all.
        if self.mirror.seq == 0 or self.is_in_doubt:
            return True
        self._statistics.checks += 1
        return self.mirror.agrees(check)

    def doubt(self) -> None:
        """Believe nothing before the next reset."""
        self.is_in_doubt = True
        self._statistics.heals += 1

    def heard(self, now: float) -> None:
        """A frame came: up to now the server has told what changed."""
        if self.mirror.seq and not self.is_in_doubt:
            self._fresh_at = now

    # From one to the next

    def have(self, world: str, entities_max: int, now: float) -> dict[str, Any] | None:
        """Return the members of a first view that say what is held; None where a reset is the better answer.

        What goes beyond `entities_max` is forgotten.
        """
        if not (self.may_have and self._world == world and self.mirror.entities and not self.is_in_doubt):
            return None
        held = list(self.mirror.entities)
        have = self.mirror.have(entities_max)
        if len(have) < len(held):
            self._tell(Applied([], [], [], {id: "forgotten" for id in held if id not in have}, False))
        return {"have": have, "world": world, "away_ms": max(0.0, (now - self._fresh_at) * 1000)}

    # Who is told

    def changes(self) -> Changes:
        """Return a new iterator over what happens from what is held now on."""
        changes = Changes(self.mirror.entities)
        if self._closed is not None:
            _end(changes, self._closed)
        self._changes.add(changes)
        return changes

    def end(self, closed: Closed) -> None:
        """Nothing will happen any more."""
        self._closed = closed
        for changes in list(self._changes):
            _end(changes, closed)

    def _tell(self, applied: Applied, renewed: frozenset[str] = frozenset()) -> None:
        for changes in list(self._changes):
            changes.add(applied, renewed)


def _end(changes: Changes, closed: Closed) -> None:
    changes.end(None if closed.code == CloseCode.NORMAL else Closed(closed.code, closed.reason))
