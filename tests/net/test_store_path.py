"""`realtime serve --set store.path=…` under load, killed with -9 and started again: what it promised to keep is there.

A dozen times, or as often as REALTIME_RESTARTS says; once by hand it was a hundred.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from realtime.client import Backoff, Client
from realtime.errors import CloseCode
from tests.fake_server import within
from tests.net.test_serve import REALTIME, TIMEOUT_S

pytestmark = pytest.mark.anyio

RESTARTS = int(os.environ.get("REALTIME_RESTARTS", "12"))
SEED = random.randrange(2**32)
INTERVAL_S = 0.1
ENTITIES = 300
BOX = [-10.0, -10.0, 190.0, 10.0]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Process:
    """A server that keeps its world in a file."""

    def __init__(self, path: Path, engine: str) -> None:
        self._path, self._engine = path, engine
        self._process: asyncio.subprocess.Process | None = None
        self._ports = ["0", "0"]
        self.ws = self.http = ""

    async def start(self) -> None:
        """Start it, from the second time on with the ports that it had."""
        settings = {"store.path": self._path, "store.interval_ms": INTERVAL_S * 1000, "engine.kind": self._engine, "server.drain_s": 0}
        arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        self._process = await asyncio.create_subprocess_exec(
            *REALTIME, "serve", "--port", self._ports[0], "--http-port", self._ports[1], *arguments,
            cwd=self._path.parent, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            lines = [(await self._process.stdout.readline()).decode().strip() for _ in range(2)]
        assert all(lines), f"it ended with {await self._process.wait()}"
        self.ws, self.http = lines
        self._ports = [self.ws.rpartition(":")[2].removesuffix("/ws"), self.http.rpartition(":")[2]]

    async def end(self, number: int) -> int:
        """Send it a signal and wait for its end; return the exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        await asyncio.wait_for(self._process.communicate(), TIMEOUT_S)
        assert self._process.returncode is not None
        return self._process.returncode


class Publisher:
    """Publishes whole Features without a pause, and notes when each version was acknowledged."""

    def __init__(self, process: Process, seed: int) -> None:
        self._process = process
        self._random = random.Random(seed)
        self.version = 0
        self.sent: dict[str, int] = {}  # newest versions, but for those that a kill cost
        self.acknowledged: list[tuple[float, dict[str, int]]] = []  # when, and what
        self.durable: dict[str, int] = {}  # acknowledged as being on the disk

    async def run(self) -> None:
        """Publish until the server is gone."""
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            while True:
                updates = [self._update() for _ in range(self._random.randrange(1, 60))]
                is_durable = self._random.random() < 0.1
                url = f"{self._process.http}/v1/updates" + ("?durable=1" if is_durable else "")
                try:
                    answer = await client.post(url, json={"updates": updates})
                except httpx.TransportError:
                    return
                assert answer.status_code == 200, answer.text
                assert answer.json()["accepted"] == len(updates)
                versions = {update["id"]: update["version"] for update in updates}
                self.acknowledged.append((time.monotonic(), versions))
                if is_durable:
                    self.durable |= self.sent
                await asyncio.sleep(self._random.random() * 0.004)

    def _update(self) -> dict[str, Any]:
        self.version += 1
        id = f"bus-{self._random.randrange(ENTITIES)}"
        self.sent[id] = self.version
        geometry = {"type": "Point", "coordinates": [self.version % 180, self._random.uniform(-9, 9)]}
        return {"type": "Feature", "id": id, "version": self.version, "geometry": geometry, "properties": {"n": self.version}}

    def promised(self, killed: float) -> dict[str, int]:
        """Return the least version that each entity has after a kill at that time."""
        found = dict(self.durable)
        for when, versions in self.acknowledged:
            if when < killed - max(1.0, 2 * INTERVAL_S):
                found |= {id: max(version, found.get(id, 0)) for id, version in versions.items()}
        return found


async def entities(process: Process) -> dict[str, dict[str, Any]]:
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        collection = (await client.get(f"{process.http}/v1/entities")).json()
    return {feature["id"]: feature for feature in collection["features"]}


async def ready(process: Process) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        found: dict[str, Any] = (await client.get(f"{process.http}/readyz")).json()
    return found


@asynccontextmanager
async def serving(path: Path, engine: str) -> AsyncIterator[Process]:
    process = Process(path, engine)
    await process.start()
    try:
        yield process
    finally:
        await process.end(signal.SIGKILL)


async def shown(client: Client, process: Process) -> None:
    """Wait until the server's digest is that of the mirror and nothing is pending; then compare it with the world."""
    while True:
        check = await client.check()
        if check.pending == 0 and client.mirror.digest == check.digest:
            break
    held = await entities(process)
    assert {id: feature["version"] for id, feature in client.entities.items()} == {id: one["version"] for id, one in held.items()}
    assert all(client.entities[id]["properties"] == one["properties"] for id, one in held.items())


def count_clears(client: Client) -> Callable[[], int]:
    """Return what counts how often the client's mirror was cleared by a reset."""
    clear, clears = client.mirror.clear, 0

    def counted() -> None:
        nonlocal clears
        clears += 1
        clear()

    client.mirror.clear = counted  # type: ignore[method-assign]
    return lambda: clears


@pytest.mark.timeout(60 + 10 * RESTARTS)
async def test_killed_at_any_moment_it_comes_back_with_its_world(tmp_path: Path, engine_kind: str) -> None:
    print("seed", SEED)
    choose = random.Random(SEED)
    least: dict[str, int] = {}  # what the run before had at its start: nothing of it may go back
    async with serving(tmp_path / "world", engine_kind) as process:
        world = (await ready(process))["world"]
        publisher = Publisher(process, choose.randrange(2**32))
        async with Client(process.ws, backoff=Backoff(base_s=0.01, max_s=0.05)) as client:
            await within(client.look(BOX))
            cleared = count_clears(client)
            for number in range(RESTARTS):
                publishing = asyncio.ensure_future(publisher.run())
                await asyncio.sleep(choose.uniform(0.0, 3.0 if number % 5 == 0 else 0.5))
                killed = time.monotonic()
                await process.end(signal.SIGKILL)
                await within(publishing)
                promised = publisher.promised(killed)
                held, clears = len(client.entities), cleared()
                await process.start()
                state = await ready(process)
                assert (state["world"], state["whole"], state["degraded"]) == (world, True, False)
                versions = {id: feature["version"] for id, feature in (await entities(process)).items()}
                for id, version in (least | {i: max(v, least.get(i, 0)) for i, v in promised.items()}).items():
                    assert versions.get(id, 0) >= version, f"{id} is at {versions.get(id)}, and {version} was promised"
                assert all(version <= publisher.sent[id] for id, version in versions.items())
                least = versions
                publisher.acknowledged.clear()
                publisher.sent, publisher.durable = dict(versions), dict(versions)  # the rest is lost, as it may be
                await within(client.wait_open())
                await within(shown(client, process))
                assert client.welcome is not None and client.welcome.world == world
                assert not held or cleared() == clears, "it did not resume"
            assert client.statistics.heals == 0, "what it resumed with was right each time"
            assert client.statistics.connections == RESTARTS + 1
            assert client.status.code != CloseCode.BUG
    assert (tmp_path / "world").stat().st_mode & 0o777 == 0o600


async def test_after_sigterm_nothing_is_missing_and_a_second_server_is_refused(tmp_path: Path, engine_kind: str) -> None:
    path = tmp_path / "world"
    async with serving(path, engine_kind) as process:
        publisher = Publisher(process, SEED)
        publishing = asyncio.ensure_future(publisher.run())
        while publisher.version < 500:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        second = await asyncio.create_subprocess_exec(
            *REALTIME, "serve", "--port", "0", "--http-port", "0", "--set", f"store.path={path}",
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(second.communicate(), TIMEOUT_S)
        assert (second.returncode, out) == (1, b"")
        assert err.decode() == f"realtime: store.path: {path}: another server has it open\n"
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        before = await entities(process)
        assert await process.end(signal.SIGTERM) == 0
        await process.start()
        assert await entities(process) == before
