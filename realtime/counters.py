"""What the server counts about itself.

Law: counting is adding to a number; nothing here knows how the numbers are shown. Names are those of the metrics,
without their prefix.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from realtime.errors import CLOSE_CODES

NO_CLOSE_FRAME = 1006  # as RFC 6455 calls a connection that ended without one
OTHER_CLOSE = 0
_COUNTED_CLOSES = frozenset((*map(int, CLOSE_CODES), NO_CLOSE_FRAME))

LATENCY_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """Counts of observations by upper bound, in seconds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BOUNDS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last: beyond every bound
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, count up to it), as Prometheus has it."""
        result, running = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            result.append((bound, float(running)))
        return result


class Counters:
    """All counts of one server."""

    def __init__(self) -> None:
        self.updates: Counter[str] = Counter()  # accepted, unchanged, stale, rejected
        self.states: Counter[str] = Counter()  # told by other nodes or a store: accepted, unchanged, stale, bad
        self.bus: Counter[str] = Counter()  # entries and bytes that went over the bus, by name
        self.troubles: Counter[str] = Counter()  # with Redis or a file, by class
        self.bus_lag_s = 0.0  # between the writing and the merging of the entry read last, by the clocks of two machines
        self.rejected: Counter[str] = Counter()  # updates and messages by error code
        self.closed: Counter[int] = Counter()  # connections by close code; 0: any that is not in the table
        self.events: Counter[str] = Counter()  # what the connections and the API met, by name
        self.frames = 0  # deltas written
        self.frame_bytes = 0
        self.loop_lag = Histogram()  # how late a timer of the event loop runs

    def count(self, name: str) -> None:
        """Count an event by name."""
        self.events[name] += 1

    def count_close(self, code: int) -> None:
        """Count the end of a connection. Clients may choose codes, too; those that mean nothing here are one."""
        self.closed[code if code in _COUNTED_CLOSES else OTHER_CLOSE] += 1
