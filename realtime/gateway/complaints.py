"""Log lines about what can happen thousands of times a second.

Law: at most one line per kind and second, however often it happens; the next line says how many were left out. A line
holds text of this program alone, nothing that a peer sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

INTERVAL_S = 1.0


class Complaints:
    """The sampled log of one listener. `clock` gives seconds; only their differences count."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._clock = clock
        self._next: dict[str, float] = {}  # kind -> when its next line may be written
        self._left_out: dict[str, int] = {}  # kind -> how often it happened since its last line

    def note(self, kind: str, text: str) -> None:
        """Say that something was refused: the peer's fault."""
        self._say(logging.INFO, kind, text, has_traceback=False)

    def exception(self, kind: str, text: str) -> None:
        """Say that something was raised, with its traceback: a fault of this program. Call it while handling."""
        self._say(logging.ERROR, kind, text, has_traceback=True)

    def _say(self, level: int, kind: str, text: str, *, has_traceback: bool) -> None:
        now = self._clock()
        if now < self._next.get(kind, now):
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        self._next[kind] = now + INTERVAL_S
        left_out = self._left_out.pop(kind, 0)
        more = f" ({left_out} more since the last such line)" if left_out else ""
        self._logger.log(level, "%s%s", text, more, exc_info=has_traceback or None)
