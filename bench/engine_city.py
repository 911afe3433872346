"""The engine alone in the dense city: how many changes it applies, matches, frames and drains in a second of a core.

Law: what counts is the processor's time between the first change and the last frame of a window, in which every session
is flushed each time it is due; what share of a core that was, by the clock on the wall, is told. The engine's clock is
simulated, so that the flush interval is what it says however fast the machine is. Deltas are counted by parsing the
frames of a sample of sessions; some of those keep whole mirrors, which must equal brute force at the end, or there is
no figure.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from time import perf_counter, thread_time
from typing import Any, NamedTuple

import msgspec

from bench.crowd import Crowd, count_deltas
from bench.engines import FLUSH_INTERVAL_S, FRAME_BYTES, make
from realtime.client.mirror import Mirror
from realtime.config import Config
from realtime.engine import Encoding, Update, Verdict
from realtime.errors import ErrorCode, Refused
from realtime.gateway.body import new_cutter
from realtime.intake import new_intake

TOO_LONG = Refused(ErrorCode.TOO_BIG, "a line of the bench is too long")
STEP_S = 0.01  # simulated; changes are applied in batches of so much of it
START_S = 1_700_000_000.0
PARSED = 40  # sessions whose frames are parsed
MIRRORED = 8  # of them, those that keep a mirror
PAIR_SAMPLES = 20_000  # changes whose pairs are counted by brute force
FILL_BATCH = 1000
FILL_STEPS_MAX = 100_000  # a fill that has not ended by then never does


class Rate(NamedTuple):
    """One window."""

    changes: int
    apply_s: float
    take_s: float  # in take_dirty
    drain_s: float
    frames: int
    frame_bytes: tuple[int, int]  # by encoding
    deltas: float
    wall_s: float  # between the first and the last of it, by the clock on the wall

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.apply_s + self.take_s + self.drain_s


class Filled(NamedTuple):
    """What it took to show everybody their view for the first time."""

    entities_s: float
    sessions_s: float
    enters: int
    frame_bytes: int


class CityRun:
    """An engine, a crowd, and simulated time."""

    def __init__(self, kind: str, crowd: Crowd, rate: float) -> None:
        self.crowd = crowd
        self.rate = rate  # changes a second of simulated time
        self.engine = make(kind)
        self._intake = new_intake(self.engine, kind, Config())
        self._cutter = new_cutter(kind, b"\n", Config().limits.entity_bytes)
        self.now = START_S
        self.sessions: list[int] = []
        self._encodings: dict[int, Encoding] = {}
        self._mirrors: dict[int, Mirror] = {}
        self._parsed: set[int] = set()

    def fill(self) -> Filled:
        """Put the entities in, open all sessions, and drain what they are shown."""
        batches = _batches(list(self.crowd.upserts()), FILL_BATCH)
        begun = thread_time()
        for batch in batches:
            verdicts = self.engine.apply(batch, self.now)
            assert verdicts.count(Verdict.ACCEPTED) == len(batch), "the world was not taken in"
        entities_s = thread_time() - begun
        chance = random.Random(f"{self.crowd.seed} sample")
        sample = chance.sample(range(len(self.crowd.seats)), min(PARSED, len(self.crowd.seats)))
        seconds, enters, frame_bytes = 0.0, 0, 0
        for place, seat in enumerate(self.crowd.seats):
            # One after the other over one flush interval, so that their flushes are spread as they are in a server.
            self.now += FLUSH_INTERVAL_S / len(self.crowd.seats)
            begun = thread_time()
            session = self.crowd.open(self.engine, seat, self.now)
            seconds += thread_time() - begun
            self.sessions.append(session)
            self._encodings[session] = seat.encoding
            if place in sample:
                self._parsed.add(session)
            if place in sample[:MIRRORED]:
                self._mirrors[session] = Mirror()
            more = self._flush()
            seconds, enters, frame_bytes = seconds + more[0], enters + more[1], frame_bytes + more[2]
        more = self.settle()
        return Filled(entities_s, seconds + more[0], enters + more[1], frame_bytes + more[2])

    def settle(self) -> tuple[float, int, int]:
        """Flush until nobody is owed anything: seconds, entities told (by parsing), bytes."""
        seconds, deltas, size = 0.0, 0, 0
        for _ in range(FILL_STEPS_MAX):
            due = self.engine.next_due()
            if due is None:
                return seconds, deltas, size
            self.now = max(self.now, due)
            more = self._flush()
            seconds, deltas, size = seconds + more[0], deltas + more[1], size + more[2]
        raise RuntimeError("the outboxes never became empty")

    def _flush(self) -> tuple[float, int, int]:
        begun = thread_time()
        frames = [(session, self.engine.drain(session, FRAME_BYTES, self.now)) for session in self.engine.take_dirty(self.now)]
        seconds, deltas, size = thread_time() - begun, 0, 0
        for session, frame in frames:
            if frame is not None:
                deltas += self._keep(session, frame)
                size += len(frame)
        return seconds, deltas, size

    def _keep(self, session: int, frame: bytes) -> int:
        """Count what is in a frame, and apply it where a mirror is kept."""
        encoding = self._encodings[session]
        mirror = self._mirrors.get(session)
        if mirror is not None:
            mirror.apply(msgspec.json.decode(frame) if encoding is Encoding.JSON else msgspec.msgpack.decode(frame))
        return count_deltas(frame, encoding)

    def window(self, changes: Sequence[Update] | Sequence[dict[str, Any]] | Sequence[bytes]) -> Rate:
        """Apply changes, a step of simulated time after the other, and drain every session that is due in each.

        Updates are given to the engine; objects, as a program publishes them, and lines of NDJSON to the intake before it.
        """
        batches = _batches(changes, max(1, round(self.rate * STEP_S)))
        step_s = len(batches[0]) / self.rate
        apply: Any = self.engine.apply if isinstance(changes[0], Update) else self._take
        if isinstance(changes[0], bytes):
            batches, apply = [b"".join(batch) for batch in batches], self._take_lines
        engine, parsed, now = self.engine, self._parsed, self.now
        encodings = self._encodings
        kept: list[tuple[int, bytes]] = []
        sizes = [0, 0]
        frames, apply_s, take_s, drain_s = 0, 0.0, 0.0, 0.0
        accepted, began = 0, 0.0
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            began = perf_counter()
            for batch in batches:
                now += step_s
                begun = thread_time()
                verdicts = apply(batch, now)
                applied = thread_time()
                due = engine.take_dirty(now)
                taken = thread_time()
                for session in due:
                    frame = engine.drain(session, FRAME_BYTES, now)
                    if frame is not None:
                        frames += 1
                        sizes[encodings[session]] += len(frame)
                        if session in parsed:
                            kept.append((session, frame))
                drained = thread_time()
                apply_s, take_s, drain_s = apply_s + applied - begun, take_s + taken - applied, drain_s + drained - taken
                accepted += verdicts.count(Verdict.ACCEPTED)
        finally:
            wall_s = perf_counter() - began
            gc.enable()
            gc.unfreeze()
        assert accepted == len(changes), "changes were refused"
        self.now = now
        return Rate(len(changes), apply_s, take_s, drain_s, frames, (sizes[0], sizes[1]), self._deltas(kept, sizes), wall_s)

    def _take(self, objects: Any, now: float) -> list[Any]:
        verdicts: list[Any] = []
        self._intake.take(iter(objects), verdicts, now)
        return verdicts

    def _take_lines(self, text: bytes, now: float) -> list[Any]:
        verdicts: list[Any] = []
        self._intake.take(iter(self._cutter.cut(text, TOO_LONG)), verdicts, now)
        return verdicts

    def _deltas(self, kept: list[tuple[int, bytes]], sizes: list[int]) -> float:
        """Return how many deltas the window had: its bytes, by the bytes per delta of the frames that were parsed."""
        deltas, size = [0, 0], [0, 0]
        for session, frame in kept:
            encoding = self._encodings[session]
            deltas[encoding] += self._keep(session, frame)
            size[encoding] += len(frame)
        return sum(sizes[encoding] * deltas[encoding] / size[encoding] for encoding in Encoding if size[encoding])

    def faults(self) -> list[str]:
        """Settle, and return what is wrong with the mirrors: nothing, or there is no figure."""
        self.settle()
        found = []
        for session, mirror in self._mirrors.items():
            right = self.crowd.seen(self.crowd.seats[self.sessions.index(session)])
            held = {id: (entity["version"], *entity["geometry"]["coordinates"]) for id, entity in mirror.entities.items()}
            check = self.engine.check(session)
            if held != right:
                found.append(f"session {session}: {len(held.items() ^ right.items())} entities differ from brute force")
            if check is None or (check.count, check.digest, check.pending) != (len(mirror), mirror.digest, 0):
                found.append(f"session {session}: the engine's check is {check}")
        return found


def _batches(items: Sequence[Any], size: int) -> list[Any]:
    return [items[first : first + size] for first in range(0, len(items), size)]
