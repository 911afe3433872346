"""One trial: a server, a city that is published to it, and viewers who find out what arrives.

Law: a window is measured while load is on before and after it, so nothing in it is start or end. Whether the mirrors
are right is decided once all is quiet, by testing every entity against every view, without an index.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from time import monotonic, process_time
from typing import Self

import msgspec
from msgspec import Struct

from bench.api import Api
from bench.client import Schedule, Tally, Viewer
from bench.publish import Published, over_http, publish
from bench.servers import HOSTED, PLAIN, ServerProcess, core_busy_s, cores, pin
from bench.workloads import City, count_pairs, entity_id, inside
from realtime.engine.digest import digest_of, format_digest

CONNECTING = 50  # connections opened at once
FEATURES_PER_REQUEST = 500
PATIENCE_S = 60.0  # for everything that should not take long: connecting, filling, becoming quiet
SAMPLE_INTERVAL_S = 1.0  # of the server's metrics
LAG_INTERVAL_S = 0.01
LEAD_S = 0.3  # from the decision to publish to the first change


class Options(Struct, frozen=True):
    """What a trial is made of."""

    viewers: int = 1000
    entities: int = 10_000
    flush_interval_ms: float = 100.0
    encoding: str = "json"
    publish: str = "http"
    seed: int = 1
    write_stall_s: float = 10.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let a parser take what a trial is made of, but for the seed, which all take."""
    default = Options()
    add = parser.add_argument
    add("--viewers", type=int, default=default.viewers)
    add("--entities", type=int, default=default.entities)
    add("--flush-interval-ms", type=float, default=default.flush_interval_ms)
    add("--encoding", choices=("json", "msgpack"), default=default.encoding)
    add("--publish", choices=("http", "inprocess"), default=default.publish)


def options_of(given: argparse.Namespace, **more: float) -> Options:
    """Return the options that were given, and `more`."""
    names = ("viewers", "entities", "flush_interval_ms", "encoding", "publish", "seed")
    return msgspec.structs.replace(Options(**{name: getattr(given, name) for name in names}), **more)


class Waits(Struct, frozen=True):
    """From due to applied, over all entities applied, in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float


class Window(Struct, frozen=True):
    """What was measured between two moments of steady load."""

    seconds: float
    offered_per_s: float  # changes
    taken_per_s: float  # changes that the server accepted
    pairs_offered_per_s: float  # (change, reading viewer) pairs that a perfect server tells of
    deltas_per_s: float  # entities applied to mirrors
    frames_per_s: float
    bytes_per_delta: float
    waits: Waits
    server_cpu: float  # share of one core
    server_resident_bytes: int  # the most that was seen
    load_cpu: float
    others_cpu: float  # what anybody else took of the two cores, the kernel's work for our sockets included
    load_lag_p99_ms: float  # how late the load process ran its timers
    outbox_mean: float  # entities in all outboxes of the server
    outbox_slope_per_s: float
    outbox: list[float]  # over time
    refused: int
    behind_max_s: float  # of the publisher

    @property
    def fan_out(self) -> float:
        """Viewers told per change, were nothing conflated."""
        return self.pairs_offered_per_s / self.offered_per_s

    @property
    def server_us_per_change(self) -> float:
        """The server's processor time for a change and all that comes of it; hardly moved by others on the machine."""
        return self.server_cpu / max(self.taken_per_s, 1e-9) * 1e6

    @property
    def conflated(self) -> float:
        """The share of what was offered that was never told, because something newer was."""
        return max(0.0, 1 - self.deltas_per_s / self.pairs_offered_per_s)


class Mirrors(Struct, frozen=True):
    """What the mirrors were found to be when all was quiet."""

    compared: int
    wrong: int  # other than brute force over all entities has it
    digests_wrong: int  # other than the server's `check` says
    entities: int  # held, over all mirrors
    faults: dict[str, int]  # frames that were wrong by themselves

    @property
    def are_right(self) -> bool:
        """Whether there is nothing wrong."""
        return self.compared > 0 and not (self.wrong or self.digests_wrong or self.faults)


class Trial:
    """A server and its viewers, as an async context manager. `group()` adds viewers, `load()` publishes and measures."""

    def __init__(self, options: Options, *, is_hosted: bool = False) -> None:
        self.options = options
        self._cores = cores()
        program = HOSTED if is_hosted or options.publish == "inprocess" else PLAIN
        settings = {"limits.flush_interval_ms": options.flush_interval_ms, "limits.write_stall_s": options.write_stall_s}
        self.server = ServerProcess(settings, self._cores[0] if self._cores else None, program)
        self.city = City(options.seed, options.viewers, options.entities)
        self._moves = self.city.moves()
        self._moved = 0  # moves published
        self._viewers: list[Viewer] = []
        self._tallies: list[Tally] = []

    async def __aenter__(self) -> Self:
        self._cores_before = os.sched_getaffinity(0)
        if self._cores:
            pin(0, self._cores[1])
        await self.server.__aenter__()
        try:
            self._publishing, self._watching = Api(self.server.http_url), Api(self.server.http_url)
            lines = [msgspec.json.encode(feature) for feature in self.city.features()]
            for first in range(0, len(lines), FEATURES_PER_REQUEST):
                await self._publishing.publish(lines[first : first + FEATURES_PER_REQUEST])
        except BaseException:
            await self.server.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for viewer in self._viewers:
            viewer.close()
        await asyncio.sleep(0)
        self._publishing.close()
        self._watching.close()
        await self.server.__aexit__()
        os.sched_setaffinity(0, self._cores_before)

    # Viewers

    async def group(self, places: Iterable[int], tally: Tally, receive_buffer_bytes: int = 0) -> list[Viewer]:
        """Connect viewers with the city's views at `places`, and wait until their views are filled."""
        if tally not in self._tallies:
            self._tallies.append(tally)
        viewers = [Viewer(self.city.views[place], self.options.encoding, tally) for place in places]
        self._viewers += viewers
        async with asyncio.timeout(PATIENCE_S):
            for first in range(0, len(viewers), CONNECTING):
                some = viewers[first : first + CONNECTING]
                for viewer in some:
                    await viewer.open(*self.server.address, receive_buffer_bytes)
                while not all(viewer.is_filled for viewer in some):  # noqa: ASYNC110 - a thousand events would cost more
                    await asyncio.sleep(0.01)
        return viewers

    def forget(self, viewers: Iterable[Viewer]) -> None:
        """Cut connections and let them go."""
        for viewer in viewers:
            viewer.abort()
            self._viewers.remove(viewer)

    # Load

    async def load(self, rate: float, warm_up_s: float, seconds: float, tally: Tally) -> Window:
        """Publish `rate` changes a second for warm-up and window; measure the window by one tally's viewers."""
        gc.collect()
        gc.freeze()  # the mirrors live as long as the trial; looking at them again and again is not the server's fault
        gc.disable()
        schedule = Schedule(monotonic() + LEAD_S, rate, self._moved + self.options.entities + 1)
        for each in self._tallies:
            each.schedule = schedule
        count = round(rate * (warm_up_s + seconds))
        publishing = asyncio.ensure_future(self._publish(schedule, count))
        lag = _Lag()
        try:
            await asyncio.sleep(schedule.start + warm_up_s - monotonic())
            tally.restart()
            lag.restart()
            begin = await self._moment()
            outbox, resident_bytes = await self._sample(schedule.start + warm_up_s + seconds)
            end = await self._moment()
            deltas, frames, frame_bytes = tally.deltas, tally.frames, tally.frame_bytes
            lag.stop()
            published = await asyncio.wait_for(publishing, PATIENCE_S)
            await self._quiet()
        finally:
            lag.stop()
            publishing.cancel()
            gc.enable()
            gc.unfreeze()
        elapsed = end.time - begin.time
        skipped = self._moved + round(rate * warm_up_s)
        self._moved += count
        readers = [viewer.bbox for viewer in self._viewers if viewer.tally is tally]
        fresh = City(self.options.seed, 0, self.options.entities)
        pairs = count_pairs(fresh, readers, skipped, self._moved - skipped)
        return Window(
            seconds=elapsed,
            offered_per_s=rate,
            taken_per_s=(end.accepted - begin.accepted) / elapsed,
            pairs_offered_per_s=pairs / seconds,
            deltas_per_s=deltas / elapsed,
            frames_per_s=frames / elapsed,
            bytes_per_delta=frame_bytes / max(deltas, 1),
            waits=_waits(tally.waits, rate),
            server_cpu=(end.server_cpu_s - begin.server_cpu_s) / elapsed,
            server_resident_bytes=resident_bytes,
            load_cpu=(end.load_cpu_s - begin.load_cpu_s) / elapsed,
            others_cpu=(end.others_cpu_s - begin.others_cpu_s) / elapsed,
            load_lag_p99_ms=lag.p99_s() * 1000,
            outbox_mean=sum(value for _, value in outbox) / len(outbox),
            outbox_slope_per_s=_slope(outbox),
            outbox=[value for _, value in outbox],
            refused=published.refused,
            behind_max_s=published.behind_max_s,
        )

    async def _publish(self, schedule: Schedule, count: int) -> Published:
        if self.options.publish == "http":
            return await publish(schedule, self._moves, count, over_http(self._publishing))
        command = {"do": "publish", "seed": self.options.seed, "entities": self.options.entities, "count": count, **schedule._asdict()}
        answer = await self.server.ask(command)
        for _ in range(count):
            next(self._moves)
        return msgspec.convert(answer, Published)

    async def _moment(self) -> _Moment:
        metrics = await self._watching.metrics()
        server_s, load_s = self.server.cpu_s(), process_time()
        busy_s = sum(core_busy_s(core) for core in self._cores or ())
        return _Moment(monotonic(), metrics['realtime_updates_total{verdict="accepted"}'], server_s, load_s, busy_s - server_s - load_s)

    async def _sample(self, until: float) -> tuple[list[tuple[float, float]], int]:
        """Return (time, entities in all outboxes) for every second until then, and the server's memory at its largest."""
        samples, resident_bytes = [], 0
        while True:
            metrics = await self._watching.metrics()
            samples.append((monotonic(), metrics["realtime_outbox_entities"]))
            resident_bytes = max(resident_bytes, self.server.resident_bytes())
            left = until - monotonic()
            if left <= 0:
                return samples, resident_bytes
            await asyncio.sleep(min(left, SAMPLE_INTERVAL_S))

    async def _quiet(self) -> None:
        """Wait until no frame has come for a few flush periods."""
        still_s = self.options.flush_interval_ms / 1000 * 3 + 0.5
        stop, before, since = monotonic() + PATIENCE_S, -1, monotonic()
        while monotonic() < stop and monotonic() - since < still_s:
            await asyncio.sleep(0.05)
            frames = sum(tally.frames for tally in self._tallies)
            if frames != before:
                before, since = frames, monotonic()

    async def metrics(self) -> dict[str, float]:
        """Return the server's metrics."""
        return await self._watching.metrics()

    # The mirrors

    async def compare(self, viewers: Sequence[Viewer]) -> Mirrors:
        """Compare every mirror with brute force and with what the server says it must be."""
        for viewer in viewers:
            viewer.ask_check()
        stop = monotonic() + PATIENCE_S
        while any(viewer.is_open and viewer.check is None for viewer in viewers) and monotonic() < stop:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        world = [
            (entity_id(entity), version, lon, lat)
            for entity, (version, (lon, lat)) in enumerate(zip(self.city.versions, self.city.positions, strict=True))
        ]
        digests = {(id, version): digest_of(id, version) for id, version, _, _ in world}
        wrong = digests_wrong = 0
        faults: Counter[str] = Counter()
        for viewer in viewers:
            bbox, mirror, check = viewer.bbox, viewer.mirror, viewer.check
            wrong += mirror != {state[0]: state for state in world if inside(bbox, state[2], state[3])}
            digest = 0
            for id, version, _, _ in mirror.values():
                digest ^= digests.get((id, version), 0)
            is_proven = check is not None and check.pending == 0 and (check.count, check.digest) == (len(mirror), format_digest(digest))
            digests_wrong += not is_proven
        for tally in self._tallies:
            faults.update(tally.faults)
        return Mirrors(len(viewers), wrong, digests_wrong, sum(len(viewer.mirror) for viewer in viewers), dict(faults))


class _Moment(Struct, frozen=True):
    time: float
    accepted: float
    server_cpu_s: float
    load_cpu_s: float
    others_cpu_s: float


class _Lag:
    """How late this process runs its timers."""

    def __init__(self) -> None:
        self._lags: list[float] = []
        self._timer: asyncio.TimerHandle | None = None
        self._watch(monotonic())

    def _watch(self, due: float) -> None:
        now = monotonic()
        self._lags.append(max(now - due, 0.0))
        self._timer = asyncio.get_running_loop().call_later(LAG_INTERVAL_S, self._watch, now + LAG_INTERVAL_S)

    def restart(self) -> None:
        """Forget what was seen."""
        self._lags.clear()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def p99_s(self) -> float:
        """Return the lag that one in a hundred exceeds."""
        lags = sorted(self._lags)
        return lags[len(lags) * 99 // 100] if lags else 0.0


def _waits(steps: Counter[int], rate: float) -> Waits:
    """Return percentiles of waits that were counted in steps of the schedule; a step counts as waited to its end."""
    total = sum(steps.values())
    found: list[float] = []
    for share in (0.5, 0.99):
        running, place = 0, 0
        for place in sorted(steps):
            running += steps[place]
            if running >= total * share:
                break
        found.append((place + 1) / rate * 1000)
    return Waits(found[0], found[1], (max(steps, default=0) + 1) / rate * 1000)


def _slope(samples: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line of least squares, per second."""
    count = len(samples)
    mean_x, mean_y = sum(x for x, _ in samples) / count, sum(y for _, y in samples) / count
    square = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / square if square else 0.0
