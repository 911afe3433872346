"""The server itself as a peer, with one engine or the other: native viewers over WebSocket, moves over HTTP as NDJSON.

Law: the same city, the same open loop and the same comparison with brute force as for every other peer. Whatever measures
is given to `Ours`; `by_native` returns what does so by default.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import msgspec

from bench.api import Api
from bench.client import Schedule
from bench.load_client import LoadClient, Look, Publisher
from bench.peers.peer import Measured, Mirrors, Unavailable
from bench.peers.viewers import Viewers
from bench.servers import ServerProcess, core_busy_s, cores
from bench.workloads import count_pairs, entity_id, inside

FLUSH_INTERVAL_MS = 100
FEATURES_PER_REQUEST = 500
LEAD_S = 0.3  # from the decision to publish to the first change
SAMPLE_INTERVAL_S = 0.5  # of the outboxes
GRACE_S = 5.0  # after the window, in which a publisher that is late goes on; a mirror is compared only if all was sent
BODY_S = 0.1  # of streaming before the verdicts are asked for
QUIET_S, PATIENCE_S = 0.6, 30.0
PAIRS_MOVES_MAX = 20_000  # by which the fan-out is estimated; entities move in a random order, so any will do
GROUP = "readers"

Measure = Callable[[float, float], Awaitable[Measured]]  # (changes a second, seconds)


class Ours:
    """See `Peer`."""

    def __init__(self, kind: str, measure: Measure, *, start_rate: float, warm_up_s: float = 2.0) -> None:
        self.name = f"realtime, {kind} engine"
        self.start_rate, self.warm_up_s = start_rate, warm_up_s
        self._kind, self._measure = kind, measure

    async def prepare(self) -> dict[str, str]:
        """See `Peer`."""
        if self._kind == "native" and find_spec("realtime._native") is None:
            raise Unavailable("realtime._native is not built")
        return {}  # every result names those

    def commands(self) -> list[str]:
        """See `Peer`."""
        return [f"python -m realtime serve {' '.join(f'--set {name}={value}' for name, value in settings(self._kind).items())}"]

    async def measure(self, rate: float, seconds: float) -> Measured:
        """See `Peer`."""
        return await self._measure(rate, seconds)


def settings(kind: str) -> dict[str, Any]:
    """Return what the server is told beside its ports."""
    return {"engine.kind": kind, "limits.flush_interval_ms": FLUSH_INTERVAL_MS}


def by_native(viewers: Viewers, kind: str, warm_up_s: float = 2.0, encoding: str = "msgpack") -> Measure:
    """Return what measures a server with the native load client and the native publisher."""

    async def measure(rate: float, seconds: float) -> Measured:
        server_core, load_core = cores() or (None, None)
        async with (
            ServerProcess(settings(kind), server_core) as server,
            LoadClient(load_core) as client,
            Publisher(load_core) as publisher,
        ):
            run = Run(viewers, server, client, publisher)
            await run.fill(encoding)
            return await run.load(rate, warm_up_s, seconds)

    return measure


class Moment(NamedTuple):
    """What is read at the two ends of a window."""

    time: float
    accepted: float
    server_cpu_s: float
    load_cpu_s: float  # without the publisher's
    busy_s: float  # of all cores, by whomever


class Run:
    """One server, loaded once."""

    def __init__(self, viewers: Viewers, server: ServerProcess, client: LoadClient, publisher: Publisher) -> None:
        self._viewers = viewers
        self._city = viewers.city()
        self._server, self._client, self._publisher = server, client, publisher
        self._api = Api(server.http_url)

    async def fill(self, encoding: str) -> None:
        """Publish the world, and let the viewers look."""
        lines = [msgspec.json.encode(feature) for feature in self._city.features()]
        for first in range(0, len(lines), FEATURES_PER_REQUEST):
            await self._api.publish(lines[first : first + FEATURES_PER_REQUEST])
        count, sampled = len(self._city.views), min(self._viewers.sampled, len(self._city.views))
        whole = {place * count // sampled for place in range(sampled)}
        looks = [Look({"bbox": bbox}, whole=place in whole) for place, bbox in enumerate(self._city.views)]
        found = await self._client.connect(self._server.address, looks, group=GROUP, encoding=encoding, level="versions")
        if found["filled"] != count:
            raise RuntimeError(f"{found['filled']} of {count} views were filled: {found}")

    async def load(self, rate: float, warm_up_s: float, seconds: float) -> Measured:
        """Publish, and measure what comes after the warm-up."""
        first, count = round(rate * warm_up_s), round(rate * (warm_up_s + seconds))
        filled = await self._compare()
        with tempfile.TemporaryDirectory(prefix="realtime-bench-") as scratch:
            path = Path(scratch) / "moves"
            with path.open("w") as file:  # and the city is from here on as it is to become
                file.writelines(f"{entity_id(move.entity)} {move.lon!r} {move.lat!r}\n" for move in islice(self._city.moves(), count))
            await self._publisher.load(path)
        schedule = Schedule(monotonic() + LEAD_S, rate, len(self._city.positions) + 1)
        await self._client.schedule(schedule)
        until = schedule.start + warm_up_s + seconds + GRACE_S
        publishing = asyncio.ensure_future(self._publisher.publish(self._api_address(), schedule, count, 0, until=until, body_s=BODY_S))
        await asyncio.sleep(schedule.start + warm_up_s - monotonic())
        await self._client.reset_counts()
        begin = await self._moment()
        outboxes = await self._sample_outboxes(schedule.start + warm_up_s + seconds)
        end = await self._moment()
        stats = await self._client.stats()
        published = await publishing
        await self._quiet()
        mirrors = await self._compare() if published["sent"] == count else None
        fan_out = self._fan_out(first, count)
        return self._measured(rate, count - first, fan_out, (begin, end), stats["groups"][GROUP], outboxes, published, (filled, mirrors))

    def _api_address(self) -> tuple[str, int]:
        host, _, port = self._server.http_url.rpartition("//")[2].partition(":")
        return host, int(port.rstrip("/"))

    async def _moment(self) -> Moment:
        metrics, stats = await self._api.metrics(), await self._client.stats()
        busy_s = sum(core_busy_s(core) for core in cores() or ())
        return Moment(monotonic(), metrics['realtime_updates_total{verdict="accepted"}'], self._server.cpu_s(), stats["cpu_s"], busy_s)

    async def _sample_outboxes(self, until: float) -> list[float]:
        samples = []
        while (left := until - monotonic()) > 0:
            await asyncio.sleep(min(left, SAMPLE_INTERVAL_S))
            samples.append((await self._api.metrics())["realtime_outbox_entities"])
        return samples

    async def _quiet(self) -> None:
        """Wait until no frame has come for a few flush intervals."""
        stop, before, since = monotonic() + PATIENCE_S, -1, monotonic()
        while monotonic() < stop and monotonic() - since < QUIET_S:
            await asyncio.sleep(0.1)
            frames = (await self._client.stats())["groups"][GROUP]["frames"]
            if frames != before:
                before, since = frames, monotonic()

    async def _compare(self) -> Mirrors:
        """Compare the mirrors that are held whole with every entity tested against their views, and all others with digests."""
        world = [
            (entity_id(entity), version, lon, lat)
            for entity, (version, (lon, lat)) in enumerate(zip(self._city.versions, self._city.positions, strict=True))
        ]
        found = [_difference(mirror, world) for mirror in await self._client.mirrors()]
        missing, stale, ghosts, entities = (sum(counts) for counts in zip(*found, strict=True))
        checked = await self._client.check(GROUP)
        wrong_digests = checked["asked"] - checked["answered"] + checked["wrong"] + checked["pending"]
        wrong = sum(any(counts[:3]) for counts in found)
        return Mirrors(checked["asked"], max(wrong, wrong_digests), entities, missing, stale, ghosts)

    def _fan_out(self, first: int, count: int) -> float:
        some = min(count - first, PAIRS_MOVES_MAX)
        return count_pairs(self._viewers.city(), self._city.views, first, some) / some

    def _measured(
        self,
        rate: float,
        changes: int,
        fan_out: float,
        window: tuple[Moment, Moment],
        group: dict[str, Any],
        outboxes: Sequence[float],
        published: dict[str, Any],
        mirrors: tuple[Mirrors, Mirrors | None],
    ) -> Measured:
        begin, end = window
        elapsed = end.time - begin.time
        taken_per_s = (end.accepted - begin.accepted) / elapsed
        server, load, busy = ((end[place] - begin[place]) / elapsed for place in (2, 3, 4))
        load += published["cpu_s"] / max(published["seconds"], 1e-3)
        third = max(1, len(outboxes) // 3)
        grown = _mean(outboxes[-third:]) - _mean(outboxes[:third])
        expected = round(changes * fan_out)
        waits = group["waits_ms"]
        return Measured(
            rate=rate,
            viewers=len(self._city.views),
            seconds=elapsed,
            changes=changes,
            expected=expected,
            came=round(expected * min(1.0, taken_per_s / rate)),
            taken_per_s=taken_per_s,
            wanted_per_s=group["deltas"] / elapsed,
            over_fetched_per_s=0.0,
            p50_ms=waits.get("p50", 0.0),
            p99_ms=waits.get("p99", 0.0),
            max_ms=waits.get("max", 0.0),
            growth_s=grown / (rate * fan_out),  # of what waits, as the time in which so much comes in
            behind_max_s=published["behind_max_s"],
            cpu={"realtime": server},
            load_cpu=load,
            others_cpu=max(0.0, busy - server - load),
            conflated=max(0.0, 1 - group["deltas"] / elapsed / (rate * fan_out)),
            bytes_per_delta=group["bytes"] / max(group["deltas"], 1),
            closed=sum(group["closed"].values()),
            faults=sum(group["faults"].values()) + published["refused"],
            filled=mirrors[0],
            mirrors=mirrors[1],
        )


def _difference(mirror: dict[str, Any], world: Iterable[tuple[str, int, float, float]]) -> tuple[int, int, int, int]:
    """Return how many entities a mirror lacks, holds in another state, holds though out of view, and should hold."""
    bbox = mirror["view"]["bbox"]
    should = {id: (version, [lon, lat]) for id, version, lon, lat in world if inside(bbox, lon, lat)}
    held = {entity[0]: (entity[1], entity[2]) for entity in mirror["entities"]}
    stale = sum(id in held and held[id] != state for id, state in should.items())
    return len(should.keys() - held.keys()), stale, len(held.keys() - should.keys()), len(should)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
