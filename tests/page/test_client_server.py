"""`client.js` in Node.js, and a real server: whatever happens to the connection, the mirror becomes what the server shows.

Law: what a mirror must be is asked of the server's world, as an operator sees it, never of a mirror or a digest.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest

from realtime.config import Config
from realtime.server import Server
from tests.page.test_client_js import node

__all__ = ["node"]

HERE = Path(__file__).parent
WAIT_S = 20.0
AUSTIN = [-98.0, 30.0, -97.0, 31.0]
NEAR = [-97.6, 30.0, -97.0, 31.0]
BUSES = ["==", ["kind"], "bus"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def configured(port: int = 0) -> Config:
    config = Config()
    return msgspec.structs.replace(
        config,
        server=msgspec.structs.replace(config.server, port=port, drain_s=0.5),
        http=msgspec.structs.replace(config.http, enabled=False),
    )


class Cable:
    """A TCP relay to a server, that can be cut."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def plugged(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        try:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        finally:
            server.close()
            self.cut()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Abort all connections, as a network does."""
        for writer in self._writers:
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._writers.add(sink)
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            sink.transport.abort()
        finally:
            sink.close()
            self._writers.discard(sink)


class Viewer:
    """A viewer.mjs."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def ask(self, name: str, argument: Any = None) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, argument]).encode() + b"\n")
        line = await asyncio.wait_for(self._process.stdout.readline(), WAIT_S)
        return json.loads(line)

    async def wait(self, is_so: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Ask until something is so; return what was told then."""
        try:
            async with asyncio.timeout(WAIT_S):
                told: dict[str, Any] = await self.ask("tell")
                while not is_so(told):
                    told = await self.ask("tell", 20)
                return told
        except TimeoutError:
            told = await self.ask("tell")
            told["entities"] = len(told["entities"])
            pytest.fail(f"never: {what}: {told}")

    async def wait_for_mirror(self, server: Server, bbox: list[float] | None, filter: Any = None) -> dict[str, Any]:
        """Wait until the mirror is what the server has there."""
        expected = {one["id"]: one for one in server.entities(bbox, filter=filter)} if bbox else {}
        return await self.wait(lambda told: told["entities"] == expected, "the mirror is what the server shows")


@asynccontextmanager
async def viewer(node: str, url: str, tmp_path: Path) -> AsyncIterator[Viewer]:
    module = tmp_path / "client.mjs"
    module.write_text(files("realtime.web").joinpath("client.js").read_text())
    environment = os.environ | {"REALTIME_CLIENT_MODULE": module.as_uri(), "REALTIME_URL": url}
    process = await asyncio.create_subprocess_exec(
        node, "--experimental-websocket", str(HERE / "viewer.mjs"), stdin=PIPE, stdout=PIPE, env=environment, limit=16 * 1024 * 1024
    )
    try:
        one = Viewer(process)
        yield one
        await one.ask("close")
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class World:
    """Random updates of a few hundred entities."""

    def __init__(self, seed: int) -> None:
        print(f"seed {seed}")
        self._random = random.Random(seed)

    def updates(self, count: int) -> list[dict[str, Any]]:
        return [self._update() for _ in range(count)]

    def _update(self) -> dict[str, Any]:
        chance, id = self._random.random(), f"e-{self._random.randrange(300)}"
        if chance < 0.05:
            return {"op": "delete", "id": id}
        if chance < 0.5:
            return {"op": "move", "id": id, "lon": self._longitude(), "lat": self._random.uniform(30, 31)}
        if chance < 0.7:
            return {"op": "patch", "id": id, "properties": {self._random.choice("abc"): self._random.choice([None, 1, {"x": [2]}, "ü"])}}
        geometry = {"type": "Point", "coordinates": [self._longitude(), 30.5]}
        kind = self._random.choice(["bus", "tram"])
        return {"type": "Feature", "id": id, "kind": kind, "geometry": geometry, "properties": {"a": self._random.randrange(9)}}

    def _longitude(self) -> float:
        return self._random.uniform(-98.2, -96.8)


async def test_the_mirror_follows_views_and_changes(node: str, tmp_path: Path) -> None:
    world = World(1)
    async with Server(configured()) as server, viewer(node, server.url, tmp_path) as client:
        server.publish(world.updates(500))
        await client.ask("look", {"bbox": AUSTIN})
        await client.wait_for_mirror(server, AUSTIN)
        for n in range(60):
            server.publish(world.updates(20))
            if n % 7 == 0:
                await client.ask("look", {"bbox": [-98 + n / 100, 30, -97 + n / 100, 31], "filter": BUSES if n % 2 else None})
            await asyncio.sleep(0.01)
        await client.ask("look", {"bbox": NEAR, "filter": BUSES})
        told = await client.wait_for_mirror(server, NEAR, BUSES)
        assert len(told["entities"]) > 20
        await client.ask("look", {"filter": None})
        await client.wait_for_mirror(server, NEAR)
        before = told["stats"]["checks"]
        told = await client.wait(lambda told: told["stats"]["checks"] > before and told["stats"]["agrees"], "a check agrees")
        assert (told["stats"]["heals"], told["stats"]["bad_frames"], told["resets"], told["errors"]) == (0, 0, 1, [])


async def test_a_refused_filter_costs_only_itself(node: str, tmp_path: Path) -> None:
    async with Server(configured()) as server, viewer(node, server.url, tmp_path) as client:
        server.publish(World(2).updates(500))
        await client.ask("look", {"bbox": AUSTIN, "filter": BUSES})
        await client.wait_for_mirror(server, AUSTIN, BUSES)
        await client.ask("look", {"bbox": NEAR, "filter": ["all", ["=", ["kind"], "bus"]]})
        told = await client.wait_for_mirror(server, NEAR, BUSES)
        assert [(error["code"], error["message"].startswith("filter[1]")) for error in told["errors"]] == [("bad_filter", True)]
        assert told["view"]["filter"] == BUSES


async def test_a_lost_connection_is_resumed(node: str, tmp_path: Path) -> None:
    world = World(3)
    async with Server(configured()) as server:
        cable = Cable(int(server.url.rpartition(":")[2].removesuffix("/ws")))
        async with cable.plugged() as url, viewer(node, url, tmp_path) as client:
            server.publish(world.updates(1000))
            await client.ask("look", {"bbox": AUSTIN})
            await client.wait_for_mirror(server, AUSTIN)
            for n in range(3):
                cable.cut()
                server.publish(world.updates(100))
                await client.wait(lambda told, n=n: told["stats"]["connections"] == n + 2, "it came back")  # type: ignore[misc]
                told = await client.wait_for_mirror(server, AUSTIN)
            assert told["resets"] == 1, "only the first connection was told everything"
            told = await client.wait(lambda told: told["stats"]["agrees"], "a check agrees")
            assert (told["stats"]["heals"], told["stats"]["bad_frames"]) == (0, 0)


async def test_another_server_in_its_place_is_another_world(node: str, tmp_path: Path) -> None:
    world = World(4)
    async with Server(configured()) as server:
        port = int(server.url.rpartition(":")[2].removesuffix("/ws"))
        async with viewer(node, server.url, tmp_path) as client:
            server.publish(world.updates(500))
            await client.ask("look", {"bbox": AUSTIN})
            told = await client.wait_for_mirror(server, AUSTIN)
            await server.drain()
            await server.stop()
            async with Server(configured(port)) as other:
                other.publish(world.updates(300))
                await client.wait(lambda now: now["world"] not in (told["world"], None), "it came back")
                told = await client.wait_for_mirror(other, AUSTIN)
                assert told["resets"] == 2
                other.publish(world.updates(300))
                await client.wait_for_mirror(other, AUSTIN)


async def test_a_hidden_tab_holds_nothing_and_a_shown_one_everything(node: str, tmp_path: Path) -> None:
    world = World(5)
    async with Server(configured()) as server, viewer(node, server.url, tmp_path) as client:
        server.publish(world.updates(500))
        await client.ask("look", {"bbox": AUSTIN})
        await client.wait_for_mirror(server, AUSTIN)
        await client.ask("turn", "hidden")
        await client.wait_for_mirror(server, None)
        server.publish(world.updates(500))
        await client.ask("turn", "visible")
        await client.wait_for_mirror(server, AUSTIN)


async def test_a_spoilt_mirror_is_found_out_and_healed(node: str, tmp_path: Path) -> None:
    async with Server(configured()) as server, viewer(node, server.url, tmp_path) as client:
        server.publish(World(6).updates(500))
        await client.ask("look", {"bbox": AUSTIN})
        told = await client.wait_for_mirror(server, AUSTIN)
        await client.ask("spoil", next(iter(told["entities"])))
        await client.ask("check")
        told = await client.wait_for_mirror(server, AUSTIN)
        assert (told["stats"]["heals"], told["resets"]) == (1, 2)
        await client.wait(lambda told: told["stats"]["agrees"], "a check agrees")
