"""What a peer is to the comparison, and what is measured of it.

Law: a peer is started anew for each measurement and ended with it, so none begins with what another left. All are
measured alike: in an open loop, waits counted from when a change was due, mirrors compared with brute force.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from bench.knee import Window

FLUSH_S = 0.1  # what a wait may grow by over a window counts in these, as outboxes do


class Unavailable(Exception):
    """A peer cannot run here; the text says what is missing."""


class Mirrors(Struct, frozen=True):
    """What sampled viewers hold, against every entity tested with every one of their views."""

    compared: int
    wrong: int  # mirrors in which anything of the following is
    entities: int  # that they should hold
    missing: int = 0
    stale: int = 0  # held in an older version
    ghosts: int = 0  # held, though no longer in view


class Measured(Struct, frozen=True, kw_only=True):
    """One rate. Shares of a core are of one core; a figure that never came is infinite."""

    rate: float  # changes/s that were due
    viewers: int
    seconds: float
    changes: int  # due in the window
    expected: int  # (change, viewer) pairs of those that had to be told
    came: int  # and were, in or after the window; what conflation left out counts as told
    taken_per_s: float  # changes that were taken in, or all of whose viewers were told
    wanted_per_s: float  # told in the window, of what was or is inside a view: "deliveries"
    over_fetched_per_s: float  # told though outside of the view
    p50_ms: float
    p99_ms: float
    max_ms: float
    growth_s: float  # of the mean wait, from the first quarter of the window to the last
    silence_max_s: float = 0.0  # the longest time without any delivery
    behind_max_s: float = 0.0  # of the publisher
    cpu: dict[str, float] = {}  # of each process of the server side
    load_cpu: float = 0.0
    others_cpu: float = 0.0
    conflated: float = 0.0
    bytes_per_delta: float = 0.0
    is_given_up: bool = False  # waits got so long that the load was stopped
    closed: int = 0  # connections that were lost
    faults: int = 0  # errors, messages that were not what was published, versions that went back
    filled: Mirrors | None = None  # before the first change
    mirrors: Mirrors | None = None  # when all was quiet

    @property
    def fan_out(self) -> float:
        """Viewers to be told of a change."""
        return self.expected / max(self.changes, 1)

    def window(self) -> Window:
        """Return it as the search for the knee takes it."""
        # Before all is told, a mirror can only be behind; afterwards nothing may be missing from it or old in it.
        is_told = self.mirrors is not None and self.came >= self.expected
        lost = self.mirrors.missing + self.mirrors.stale if self.mirrors is not None and is_told else 0
        return Window(
            rate=self.rate,
            viewers=self.viewers,
            seconds=self.seconds,
            taken_per_s=self.taken_per_s,
            deltas_per_s=self.wanted_per_s,
            p50_ms=self.p50_ms,
            p99_ms=self.p99_ms,
            outbox_growth=max(0.0, self.growth_s / FLUSH_S),
            publisher_late_s=self.behind_max_s,
            server_cpu=max(self.cpu.values(), default=0.0),  # each process of a peer has one thread that does the work
            load_cpu=self.load_cpu,
            others_cpu=self.others_cpu,
            bytes_per_delta=self.bytes_per_delta,
            conflated=self.conflated,
            faults=self.closed + self.faults + lost,
        )


class Peer(Protocol):
    """Something that carries the city's changes to its viewers."""

    name: str
    start_rate: float  # changes/s that the search begins with
    warm_up_s: float  # of load before what is measured

    async def prepare(self) -> dict[str, str]:
        """Make sure that it can run; return the versions of what runs. Raises `Unavailable`."""

    def commands(self) -> list[str]:
        """Return the commands that its last measurement ran."""

    async def measure(self, rate: float, seconds: float) -> Measured:
        """Start it, load it with `rate` changes a second, end it."""
