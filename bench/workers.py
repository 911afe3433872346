"""`python -m bench workers`: what joins two processes on one machine, a unix socket or an embedded Valkey.

Law: the same servers, the same changes and the same probes, whatever joins them; one process alone is beside them, as what
the second one costs. Each is a process of its own, and they share this machine's cores as the system deals them. What is
counted is what the second process made of it.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import msgspec

from bench import command_line
from bench.nodes import ACCEPTED, SETTLE_S, STATES, Pair, metrics, pair, valkey
from bench.results import Plot, Result, Series, Table
from bench.servers import HOSTED, ServerProcess
from realtime.cluster.workers import Place, socket_path

KEPT_MIN = 0.95  # of what was taken, told to the second process; what is missing was conflated away
SETTINGS = {"limits.flush_interval_ms": 10}
SHARES = (0.0, 0.1, 0.5)  # of the rate of the slower join; the probes alone first


class Joined(Pair):
    """Two processes, or one; the first publishes from inside."""

    async def rate(self, rate: float, seconds: float) -> tuple[float, float, float]:
        """Publish at a rate; return what the first took, what the second was told, and what that cost of cores, all per second."""
        playing = self.play(rate, seconds + 2 * SETTLE_S)
        await asyncio.sleep(SETTLE_S)
        begun, one, two, cpu = time.monotonic(), await metrics(self.http, self.first), await metrics(self.http, self.second), self._cpu_s()
        await asyncio.sleep(seconds)
        one_end, two_end = await metrics(self.http, self.first), await metrics(self.http, self.second)
        took, cores = time.monotonic() - begun, self._cpu_s() - cpu
        await playing
        await asyncio.sleep(SETTLE_S)
        told = ACCEPTED if self.first is self.second else STATES
        return (one_end[ACCEPTED] - one[ACCEPTED]) / took, (two_end[told] - two[told]) / took, cores / took

    def _cpu_s(self) -> float:
        return sum(server.cpu_s() for server in {self.first, self.second})


@asynccontextmanager
async def alone() -> AsyncIterator[Joined]:
    """Run one process."""
    async with ServerProcess(SETTINGS, None, HOSTED) as one, httpx.AsyncClient(timeout=60) as http:
        yield Joined(one, one, http)


@asynccontextmanager
async def by_socket() -> AsyncIterator[Joined]:
    """Run a hub and a worker, each on ports of its own."""
    with tempfile.TemporaryDirectory(prefix="rt-") as directory:
        offset_s = time.time() - time.monotonic()
        places = [Place(number, 2, socket_path(directory), offset_s, []) for number in range(2)]
        programs = [(*HOSTED, "--place", msgspec.json.encode(place).decode()) for place in places]
        async with (
            ServerProcess(SETTINGS, None, programs[0]) as hub,
            ServerProcess(SETTINGS, None, programs[1]) as worker,
            httpx.AsyncClient(timeout=60) as http,
        ):
            yield Joined(hub, worker, http)


@asynccontextmanager
async def by_valkey() -> AsyncIterator[Joined]:
    """Run two nodes that share a Valkey of their own."""
    async with valkey() as url, pair(url) as nodes:
        yield Joined(nodes.first, nodes.second, nodes.http)


JOINS: dict[str, Callable[[], AbstractAsyncContextManager[Joined]]] = {
    "one process": alone,
    "two, unix socket": by_socket,
    "two, Valkey": by_valkey,
}


async def measure(result: Result, rates: list[float], seconds: float, seed: int) -> None:
    """Find for each join the highest rate that the second process is told of; then measure latencies, for all at the same rates."""
    best: dict[str, float] = {}
    series: list[Series] = []
    table: list[list[str | float]] = []
    for name, join in JOINS.items():
        points: list[tuple[float | str, float]] = []
        async with join() as joined:
            await joined.fill(seed)
            for rate in rates:
                taken, told, cores = await joined.rate(rate, seconds)
                points.append((rate, told))
                table.append([name, round(rate), round(taken), round(told), round(cores, 2)])
                if told >= KEPT_MIN * taken:
                    best[name] = max(best.get(name, 0.0), told)
        series.append(Series(name, points))
        result.row(f"changes, {name}", [best.get(name, 0.0)], "changes/s")
    base = min(best.values(), default=rates[0])  # whoever kept up with none of the rates has to show what it does at a low one
    for name, join in JOINS.items():
        async with join() as joined:
            await joined.fill(seed)
            for share in SHARES:
                found = await joined.latencies(base * share, seconds)
                quantiles = statistics.quantiles(found, n=100)
                at = f"publish over HTTP to a viewer of the other, {name}, at {base * share:,.0f} changes/s"
                result.row(f"{at}, p50", [quantiles[49]], "ms", facts={"probes": len(found)})
                result.row(f"{at}, p99", [quantiles[98]], "ms")
    result.tables.append(Table("changes/s", ["join", "published", "taken", "told", "cores"], table))
    result.plots.append(Plot("told to the second process", "line", "published, changes/s", "told, changes/s", series))
    result.notes.append("told below taken: the rest was conflated away, or the second process could not keep up")


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = command_line.parser("workers", "Two processes on one machine, joined by a unix socket or by a Valkey.")
    rates = [20_000.0, 50_000.0, 100_000.0, 150_000.0, 200_000.0]
    parser.add_argument("--rate", type=float, nargs="+", default=rates, metavar="CHANGES_PER_S")
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args(arguments)

    async def run() -> int:
        result = Result.begin("workers", seed=given.seed, options={"rates": given.rate, "seconds": given.seconds})
        await measure(result, given.rate, given.seconds, given.seed)
        return result.finish(given.json)

    return command_line.run(run())
