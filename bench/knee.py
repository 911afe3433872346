"""The search for the knee: the highest load at which everything that is promised still holds.

Law: no load is believed because it held once by luck or refused because it failed once by bad luck. A window that holds
by a wide margin is believed; one that fails, or is near a bound, is repeated, and the majority decides. What was found
is confirmed by longer windows, or lowered until it is. The number of windows is bounded. Nothing here knows a server:
`measure` is given, and so this can be tested on a synthetic one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

STEP = 2.0  # from one load to the next while the knee is not between two
CLEAR = 0.7  # of a bound: what holds by more is not asked again
VOTES = 3  # windows for a load, at most; odd
LOWERING = 0.05  # of the load, when a confirmation fails
CPU_MAX = 0.92  # share of a core from which on it is what ran out
LATE_MAX_S = 0.1  # by which a publisher sends a batch later than it was due, without being called late
CONFLATED_MAX = 0.1  # where nothing else ran out, so much of it is the workload's doing
TAKEN_MIN = 0.98  # of what was offered, which has to be taken in; the rest is the window's edge


class Window(Struct, frozen=True, kw_only=True):
    """What was seen of one load. What the measuring side cannot know stays 0."""

    rate: float  # changes a second that were due
    viewers: int
    seconds: float
    taken_per_s: float  # changes that the server accepted
    deltas_per_s: float  # entities that the clients applied
    p50_ms: float  # from when a change was due to when it was applied
    p99_ms: float
    outbox_growth: float  # entities in all outboxes: by how many flushes' worth they grew over the window; 1 is noise
    publisher_late_s: float = 0.0
    server_cpu: float = 0.0  # of one core
    load_cpu: float = 0.0  # of one core, the busiest of the load's threads
    others_cpu: float = 0.0  # of one core, by whoever else is on this machine
    blocked: float = 0.0  # share of sessions whose socket took no data at some time
    bytes_per_delta: float = 0.0
    conflated: float = 0.0  # share of what was offered that was never told because something newer was
    faults: int = 0  # frames that were wrong, connections that were lost


class Bounds(Struct, frozen=True):
    """What must hold."""

    p99_ms: float = 500.0
    outbox_growth: float = 2.0
    conflated: float = 1.0  # share of what was offered that may be told by something newer; 1: any


class Bottleneck(StrEnum):
    """What ran out first."""

    SERVER = "the server's core"
    LOAD = "the load client's core"
    PUBLISHER = "the publisher, which fell behind its schedule"
    SOCKETS = "socket buffers: clients took data more slowly than it came"
    OTHERS = "somebody else on this machine"
    FAULTS = "wrong frames or lost connections"
    ENTITIES = "the workload: its entities change more often than anybody is told"
    UNKNOWN = "nothing that was watched"


class Candidate(NamedTuple):
    """One load, every window of it, and what the majority said."""

    load: float
    windows: list[Window]
    holds: bool


class Knee(NamedTuple):
    """What was found. `load` is 0 where not even the smallest load held."""

    load: float
    confirmed: list[Window]  # the longer windows at `load`
    candidates: list[Candidate]  # all that were tried, in order
    is_open: bool  # the largest load that was allowed held: the knee lies beyond
    bottleneck: Bottleneck

    @property
    def is_lower_bound(self) -> bool:
        """Whether the server could do more than was found: something else ran out first."""
        return self.is_open or self.bottleneck in (Bottleneck.LOAD, Bottleneck.PUBLISHER, Bottleneck.OTHERS)


Measure = Callable[[float, bool], Window]  # (load, whether it is a confirmation and may take longer)


def strain(window: Window, bounds: Bounds) -> float:
    """Return how near a window is to the nearest bound: below 1 it holds, above it does not."""
    if window.faults or window.taken_per_s < window.rate * TAKEN_MIN:
        return math.inf
    return max(window.p99_ms / bounds.p99_ms, window.outbox_growth / bounds.outbox_growth, window.conflated / bounds.conflated)


def bottleneck(windows: Sequence[Window]) -> Bottleneck:
    """Return what ran out in windows that failed."""
    if not windows:
        return Bottleneck.UNKNOWN
    if any(window.faults for window in windows):
        return Bottleneck.FAULTS

    def mean(name: str) -> float:
        return sum(float(getattr(window, name)) for window in windows) / len(windows)

    server, load = mean("server_cpu"), mean("load_cpu")
    if load >= CPU_MAX and load >= server:
        return Bottleneck.LOAD
    if server >= CPU_MAX:
        return Bottleneck.SERVER
    if load >= CPU_MAX:
        return Bottleneck.LOAD
    if server + mean("others_cpu") >= CPU_MAX + 0.25:
        return Bottleneck.OTHERS
    if mean("publisher_late_s") > LATE_MAX_S:
        return Bottleneck.PUBLISHER
    if mean("blocked") > 0.01:
        return Bottleneck.SOCKETS
    if mean("conflated") > CONFLATED_MAX:
        return Bottleneck.ENTITIES
    return Bottleneck.UNKNOWN


class Search:
    """One search. `run()` returns the knee of `measure` between `least` and `most`, within `tolerance` of its value."""

    def __init__(
        self,
        measure: Measure,
        bounds: Bounds,
        *,
        least: float,
        most: float,
        tolerance: float = 0.1,
        confirmations: int = 3,
        windows_max: int = 60,
        tell: Callable[[Candidate], None] = lambda _: None,
    ) -> None:
        assert 0 < least <= most
        self._measure = measure
        self._bounds = bounds
        self._least, self._most = least, most
        self._tolerance = tolerance
        self._confirmations = confirmations
        self._windows_left = windows_max
        self._tell = tell
        self._candidates: list[Candidate] = []

    def run(self, start: float) -> Knee:
        """Search from `start` on: by doubling or halving until the knee lies between two loads, then by bisection."""
        low, high = self._bracket(min(max(start, self._least), self._most))
        while low and high and high / low > 1 + self._tolerance and self._windows_left > self._confirmations:
            middle = math.sqrt(low * high)
            if self._holds(middle):
                low = middle
            else:
                high = middle
        return self._confirm(low)

    def _bracket(self, load: float) -> tuple[float, float]:
        """Return a load that holds and one that does not; 0 for one that there is none of."""
        if self._holds(load):
            low = load
            while low < self._most and self._windows_left > self._confirmations:
                load = min(low * STEP, self._most)
                if not self._holds(load):
                    return low, load
                low = load
            return low, 0.0
        high = load
        while high > self._least and self._windows_left > self._confirmations:
            load = max(high / STEP, self._least)
            if self._holds(load):
                return load, high
            high = load
        return 0.0, high

    def _holds(self, load: float) -> bool:
        """Measure a load until it is decided."""
        windows: list[Window] = []
        votes = 0
        while len(windows) < VOTES and self._windows_left > 0:
            found = self._strain_of(load, False, windows)
            votes += 1 if found <= 1 else -1
            if (len(windows) == 1 and found <= CLEAR) or abs(votes) > VOTES // 2:
                break
        return self._note(load, windows, votes > 0)

    def _strain_of(self, load: float, is_confirmation: bool, windows: list[Window]) -> float:
        self._windows_left -= 1
        windows.append(self._measure(load, is_confirmation))
        return strain(windows[-1], self._bounds)

    def _note(self, load: float, windows: list[Window], holds: bool) -> bool:
        candidate = Candidate(load, windows, holds)
        self._candidates.append(candidate)
        self._tell(candidate)
        return holds

    def _confirm(self, load: float) -> Knee:
        """Measure what was found again, longer; lower it until most of the windows hold."""
        confirmed: list[Window] = []
        while load >= self._least and self._windows_left >= self._confirmations:
            windows: list[Window] = []
            held = sum(self._strain_of(load, True, windows) <= 1 for _ in range(self._confirmations))
            if self._note(load, windows, held > self._confirmations // 2):
                confirmed = windows
                break
            load *= 1 - LOWERING
        failed = [candidate for candidate in self._candidates if not candidate.holds]
        above = min(failed, key=lambda candidate: candidate.load) if failed else None
        is_open = bool(confirmed) and load >= self._most
        why = bottleneck(above.windows) if above is not None else bottleneck(confirmed)
        return Knee(load if confirmed else 0.0, confirmed, self._candidates, is_open, why)
