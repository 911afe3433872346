"""How fast something goes, over the last few seconds."""

from __future__ import annotations

from collections import deque

WINDOW_S = 3.0


class Meter:
    """Counts, and says how many a second lately. Times are seconds of any clock that does not fall."""

    def __init__(self, now: float) -> None:
        self.total = 0
        self._start = now
        self._marks: deque[tuple[float, int]] = deque([(now, 0)])  # time and total, oldest first

    def add(self, count: int, now: float) -> None:
        """Count."""
        self.total += count
        self._marks.append((now, self.total))

    def per_s(self, now: float) -> float:
        """Return the rate over the last `WINDOW_S`, or since the start if that is less."""
        while len(self._marks) > 1 and self._marks[1][0] <= now - WINDOW_S:
            self._marks.popleft()
        since, total = self._marks[0]
        since = max(since, now - WINDOW_S)
        return (self.total - total) / (now - since) if now > since else 0.0
