"""A server, the native load client and a publisher: one trial with windows of load.

Law: a window is measured while load is on before and after it, by counts that clients made between two moments. Waits are
measured from when a change was due. Mirrors are compared once all is quiet, by testing every entity against every view.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from bench.api import Api
from bench.client import Schedule
from bench.dense import WORKLOADS, DenseCity
from bench.knee import Window
from bench.load_client import LoadClient, Publisher
from bench.servers import HOSTED, PLAIN, ServerProcess, core_busy_s, cores, pin

FEATURES_PER_REQUEST = 1000
GRACE_S = 1.0  # after a window, in which a publisher that is late goes on; what is left then is given up
LEAD_S = 0.3  # from the decision to publish to the first change
PATIENCE_S = 120.0  # for whatever should not take long
SAMPLE_INTERVAL_S = 1.0  # of the server's metrics
STALLED_RECEIVE_BYTES = 4096  # SO_RCVBUF of those who do not read, or slowly: the kernel shall not do it for them
SLOW_BYTES_PER_S = 4000.0
PAN_INTERVAL_MS, PAN_SHARE = 1000.0, 0.2
CHECKS = 500  # connections of a group that are asked for a check


class LoadOptions(Struct, frozen=True):
    """What a trial is made of."""

    viewers: int = 1000
    entities: int = 100_000
    workload: str = "dense"
    fan_out: float = 50.0
    flush_interval_ms: float = 100.0
    encoding: str = "json"
    publish: str = "inprocess"
    batch_ms: float = 2.0
    engine: str = "auto"
    stalled: float = 0.0
    slow: float = 0.0
    panning: float = 0.0
    whole: int = 50
    level: str = "versions"
    seed: int = 1


class LoadWindow(Window, frozen=True, kw_only=True):
    """A window as `bench.knee` knows it, and what else was seen."""

    frames_per_s: float
    told_per_change: float  # (change, reading viewer) pairs that a perfect server tells of, per change: by brute force on a sample
    max_ms: float
    server_resident_bytes: int
    publisher_cpu: float  # of the load's core; 0 if the server itself publishes
    load_turn_p99_ms: float  # what a round of reads took: so late a reading may be because of the load process
    checked_connections: int
    refused: int
    lost: int  # connections that ended, but for those that do not read
    groups: dict[str, Any]  # what the load client says of each
    sizes: list[tuple[float, float]]  # of frames: (bytes, count)


class Compared(Struct, frozen=True):
    """What the mirrors were found to be when all was quiet."""

    whole: int  # mirrors compared with brute force
    wrong: int
    sampled: int  # mirrors that are a sample of what their view shows, and so could only be checked
    entities: int  # in the whole mirrors
    checks: int  # answers of the server that were compared with a connection's own count and digest
    checks_wrong: int
    faults: dict[str, int]
    examples: dict[str, str]

    @property
    def are_right(self) -> bool:
        """Whether there is nothing wrong."""
        return self.whole + self.checks > 0 and not (self.wrong or self.checks_wrong or self.faults)

    def text(self) -> str:
        """Return it in words."""
        faults = "".join(f"; {count} x {fault} ({self.examples.get(fault, '')})" for fault, count in self.faults.items())
        return (
            f"{self.whole} whole mirrors with {self.entities:,} entities compared with brute force: {self.wrong} wrong"
            f"{f' ({self.sampled} more are samples)' if self.sampled else ''}; "
            f"{self.checks} digests compared with the server's: {self.checks_wrong} wrong{faults}"
        )


class LoadTrial:
    """A server and its viewers, as an async context manager: `window()` publishes and measures, `compare()` compares."""

    def __init__(self, options: LoadOptions) -> None:
        self.options = options
        self.engine = ""  # that runs
        self._cores = cores()
        self.city = WORKLOADS[options.workload](options.seed, options.viewers, options.entities, options.fan_out)
        settings = {"limits.flush_interval_ms": options.flush_interval_ms, "engine.kind": options.engine, **self.city.settings}
        if options.workload == DenseCity.name:
            settings["limits.entities_per_view"] = max(10_000, options.entities)  # nothing is sampled: all can be compared, and is told
        program = HOSTED if options.publish == "inprocess" else PLAIN
        server_core, load_core = self._cores or (None, None)
        self.server = ServerProcess(settings, server_core, program)
        self.client = LoadClient(load_core)
        self._publisher = Publisher(load_core)
        self._moved = 0  # moves published
        self._groups = self._seat()
        self._told = self.city.told(self._groups["readers"])

    def _seat(self) -> dict[str, list[int]]:
        """Return who is in which group: each kind is spread over all viewers."""
        shares = {"stalled": self.options.stalled, "slow": self.options.slow, "panning": self.options.panning}
        left = list(range(self.options.viewers))
        groups: dict[str, list[int]] = {}
        for name, share in shares.items():
            count = min(round(self.options.viewers * share), len(left) - 1)
            if count > 0:
                groups[name] = [left[place * len(left) // count] for place in range(count)]
                left = [place for place in left if place not in set(groups[name])]
        groups["readers"] = left
        return groups

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
            if self._cores:
                pin(0, self._cores[1])
            await stack.enter_async_context(self.server)
            await stack.enter_async_context(self.client)
            if self.options.publish == "http":
                await stack.enter_async_context(self._publisher)
            self._api = Api(self.server.http_url)
            stack.callback(self._api.close)
            self.engine = str(msgspec.json.decode(await self._api.request("GET", "/readyz")).get("engine", ""))
            await self._fill()
            self._started = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._started.aclose()

    async def _fill(self) -> None:
        """Publish the entities, prepare the moves, connect everybody."""
        lines = [msgspec.json.encode(feature) for feature in self.city.features()]
        for first in range(0, len(lines), FEATURES_PER_REQUEST):
            verdict = await self._api.publish(lines[first : first + FEATURES_PER_REQUEST])
            assert verdict.rejected_total == 0, "the entities were not taken in"
        if self.options.publish == "inprocess":
            await self.server.ask({"do": "prepare", **{name: getattr(self.options, name) for name in ("workload", "seed", "entities")}})
        else:
            with tempfile.TemporaryDirectory() as scratch:
                await asyncio.to_thread(self.city.write_moves, Path(scratch) / "moves")
                await self._publisher.load(Path(scratch) / "moves")
        for group, places in self._groups.items():
            whole = self.options.whole if group == "readers" else min(self.options.whole // 5, len(places)) if group == "panning" else 0
            settings: dict[str, float] = {"patience_s": PATIENCE_S}
            if group in ("stalled", "slow"):
                settings |= {"receive_buffer_bytes": STALLED_RECEIVE_BYTES, "read_bytes_per_s": SLOW_BYTES_PER_S}
            settings |= {"pan_interval_ms": PAN_INTERVAL_MS, "pan_share": PAN_SHARE}
            found = await self.client.connect(
                self.server.address,
                self.city.looks(places, min(whole, len(places))),
                group=group,
                encoding=self.options.encoding,
                mode={"readers": "reader"}.get(group, group),
                level=self.options.level,
                **settings,
            )
            if found["filled"] != len(places):
                raise RuntimeError(f"{group}: {found['filled']} of {len(places)} views were filled: {found}; {self.server.errors()}")

    # Load

    async def window(self, rate: float, warm_up_s: float, seconds: float) -> LoadWindow:
        """Publish `rate` changes a second for warm-up and window; return what was seen of the window."""
        schedule = Schedule(monotonic() + LEAD_S, rate, self._moved + self.options.entities + 1)
        count = round(rate * (warm_up_s + seconds))
        await self.client.schedule(schedule)
        if "panning" in self._groups:
            await self.client.resume("panning")
        publishing = asyncio.ensure_future(self._publish(schedule, count, schedule.start + warm_up_s + seconds + GRACE_S))
        try:
            await asyncio.sleep(max(0.0, schedule.start + warm_up_s - monotonic()))
            await self.client.reset_counts()
            begin = await self._moment()
            outbox, resident_bytes = await self._sample(schedule.start + warm_up_s + seconds)
            end = await self._moment()
            published = await asyncio.wait_for(publishing, PATIENCE_S)
        finally:
            publishing.cancel()
        self._moved += int(published["sent"])
        self.city.advance(self._moved)
        return self._window(rate, begin, end, outbox, resident_bytes, published)

    def _window(
        self, rate: float, begin: _Moment, end: _Moment, outbox: list[tuple[float, float]], resident_bytes: int, published: dict[str, Any]
    ) -> LoadWindow:
        elapsed = end.time - begin.time
        readers = end.stats["groups"]["readers"]
        gone = _differences(begin.stats["groups"], end.stats["groups"])
        offered = rate * self._told
        waits = readers["waits_ms"]
        per_flush = max(offered * self.options.flush_interval_ms / 1000, 1.0)
        publisher_cpu = float(published.get("cpu_s", 0.0)) / max(float(published.get("seconds", elapsed)), 1e-9)
        return LoadWindow(
            rate=rate,
            viewers=self.options.viewers,
            seconds=elapsed,
            taken_per_s=(end.accepted - begin.accepted) / elapsed,
            deltas_per_s=gone["deltas"] / elapsed,
            p50_ms=waits.get("p50", 0.0),
            p99_ms=waits.get("p99", 0.0),
            max_ms=waits.get("max", 0.0),
            outbox_growth=_slope(outbox) * elapsed / per_flush,
            publisher_late_s=published["behind_max_s"],
            server_cpu=(end.server_cpu_s - begin.server_cpu_s) / elapsed,
            load_cpu=(end.stats["cpu_s"] - begin.stats["cpu_s"]) / elapsed,
            others_cpu=(end.others_cpu_s - begin.others_cpu_s) / elapsed - publisher_cpu,
            bytes_per_delta=gone["bytes"] / max(gone["deltas"], 1),
            conflated=max(0.0, 1 - (readers["deltas"] - begin.stats["groups"]["readers"]["deltas"]) / elapsed / max(offered, 1e-9)),
            faults=gone["faults"],
            frames_per_s=gone["frames"] / elapsed,
            told_per_change=self._told,
            server_resident_bytes=resident_bytes,
            publisher_cpu=publisher_cpu,
            load_turn_p99_ms=end.stats["turns_ms"].get("p99", 0.0),
            checked_connections=end.stats["checked_connections"],
            refused=published["refused"],
            lost=sum(sum(group["closed"].values()) for name, group in end.stats["groups"].items() if name not in ("stalled", "slow")),
            groups={name: {key: value for key, value in group.items() if key != "sizes"} for name, group in end.stats["groups"].items()},
            sizes=[(size, count) for size, count in readers["sizes"]],
        )

    async def _publish(self, schedule: Schedule, count: int, until: float) -> dict[str, Any]:
        if self.options.publish == "inprocess":
            command = {"do": "play", "count": count, "first_move": self._moved, "until": until, "batch_ms": self.options.batch_ms}
            return await self.server.ask({**command, **schedule._asdict()})
        parts = urlsplit(self.server.http_url)
        assert parts.hostname is not None and parts.port is not None
        address = (parts.hostname, parts.port)
        return await self._publisher.publish(address, schedule, count, self._moved, until=until, batch_ms=self.options.batch_ms)

    async def _moment(self) -> _Moment:
        metrics = await self._api.metrics()
        stats = await self.client.stats()
        server_s, busy_s = self.server.cpu_s(), sum(core_busy_s(core) for core in self._cores or ())
        accepted = metrics['realtime_updates_total{verdict="accepted"}']
        return _Moment(stats["at"], accepted, server_s, busy_s - server_s - stats["cpu_s"], stats)

    async def _sample(self, until: float) -> tuple[list[tuple[float, float]], int]:
        """Return (time, entities in all outboxes) for every second until then, and the server's memory at its largest."""
        samples, resident_bytes = [], 0
        while True:
            metrics = await self._api.metrics()
            samples.append((monotonic(), metrics["realtime_outbox_entities"]))
            resident_bytes = max(resident_bytes, self.server.resident_bytes())
            left = until - monotonic()
            if left <= 0:
                return samples, resident_bytes
            await asyncio.sleep(min(left, SAMPLE_INTERVAL_S))

    # The mirrors

    async def compare(self) -> Compared:
        """Wait until all is quiet, then compare whole mirrors with brute force, and others with what the server says they must be."""
        if "panning" in self._groups:
            await self.client.hold("panning")
        await self._quiet()
        checks = [await self.client.check(group, CHECKS, PATIENCE_S) for group in ("readers", "panning") if group in self._groups]
        wrong = whole = sampled = entities = 0
        for mirror in await self.client.mirrors():
            if not mirror["is_open"]:
                continue
            if mirror["sampled"] != 1:
                sampled += 1
                continue
            seat = self.city.seats[self._groups[mirror["group"]][mirror["viewer"]]]
            whole += 1
            entities += len(mirror["entities"])
            wrong += {state[0]: state for state in mirror["entities"]} != self.city.expected(seat, mirror["view"]["bbox"])
        faults: Counter[str] = Counter()
        examples: dict[str, str] = {}
        for group in (await self.client.stats())["groups"].values():
            faults.update(group["faults"])
            examples |= group["examples"]
        asked, checks_wrong = (sum(check[name] for check in checks) for name in ("asked", "wrong"))
        unanswered = asked - sum(check["answered"] for check in checks) + sum(check["pending"] for check in checks)
        return Compared(whole, wrong, sampled, entities, asked, checks_wrong + unanswered, dict(faults), examples)

    async def _quiet(self) -> None:
        """Wait until those who read have got nothing for a few flush periods."""
        still_s = self.options.flush_interval_ms / 1000 * 3 + 0.5
        stop, before, since = monotonic() + PATIENCE_S, -1, monotonic()
        while monotonic() < stop and monotonic() - since < still_s:
            await asyncio.sleep(0.1)
            groups = (await self.client.stats())["groups"]
            frames = sum(groups[name]["frames"] for name in ("readers", "panning") if name in groups)
            if frames != before:
                before, since = frames, monotonic()


class _Moment(Struct, frozen=True):
    time: float
    accepted: float
    server_cpu_s: float
    others_cpu_s: float  # of anybody but the server and the load client
    stats: dict[str, Any]


def _differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int]:
    """Return what was added to all groups' counts."""
    found: Counter[str] = Counter()
    for name, group in after.items():
        for key in ("frames", "bytes", "deltas"):
            found[key] += group[key] - before[name][key]
        found["faults"] += sum(group["faults"].values())
    return found


def _slope(samples: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line of least squares, per second."""
    count = len(samples)
    mean_x, mean_y = sum(x for x, _ in samples) / count, sum(y for _, y in samples) / count
    square = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / square if square else 0.0
