"""Several processes on one port: real ones, that are killed; what viewers see, what publishers are told, what operators read.

Who has which session is the kernel's choice, so the tests connect until everybody has one. A final state is waited for by
asking; timeouts only end what has gone wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import stat
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import connect

import realtime.cluster.pipe
from realtime.cli.supervise import reserve
from realtime.client import Client
from realtime.cluster.hub import Hub
from realtime.cluster.pipe import FORMAT, FRAME_BYTES_MAX, Hello, Told, frame, frame_of
from realtime.cluster.workers import Place, make_directory
from realtime.config import Config
from realtime.counters import Counters
from realtime.errors import ConfigError, ErrorCode, Refused
from realtime.node import Node
from tests.conftest import ENGINES

TIMEOUT_S = 30.0
TOKENS = 'identity.tokens={t = {user = "u", publish = ["bus-*"]}, looker = {user = "v"}}'


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def bus(id: str, lon: float, lat: float = 0.0, **members: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": id, "geometry": {"type": "Point", "coordinates": [lon, lat]}, "properties": {}} | members


async def until(holds: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until it holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            with suppress(httpx.HTTPError):
                if value := await holds():
                    return value
            await asyncio.sleep(0.02)


class Server:
    """`realtime serve --workers`, and where it is."""

    def __init__(self, process: asyncio.subprocess.Process, http: httpx.AsyncClient) -> None:
        self.process = process
        self.http = http
        self.ws = self.api = ""

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), TIMEOUT_S)).decode().strip()

    async def end(self) -> tuple[int, str, str]:
        out, err = await asyncio.wait_for(self.process.communicate(), TIMEOUT_S)
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()

    async def hurry(self) -> None:
        """Tell it to end at once, and wait until it has."""
        ending = asyncio.ensure_future(self.process.communicate())
        while not ending.done():
            with suppress(ProcessLookupError):
                self.process.terminate()
            await asyncio.wait({ending}, timeout=0.1)

    def workers(self) -> dict[int, int]:
        """Return the process of each worker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        found = {}
        for child in children:
            with suppress(FileNotFoundError):
                arguments = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if b"realtime.cli.worker" in arguments:
                    found[int(arguments[arguments.index(b"realtime.cli.worker") + 1])] = int(child)
        return found

    def kill(self, number: int) -> None:
        os.kill(self.workers()[number], signal.SIGKILL)

    async def get(self, path: str, **query: str) -> Any:
        answer = await self.http.get(self.api + path, params=query)
        return answer.json() if "json" in answer.headers["content-type"] else answer.text

    async def publish(self, *updates: dict[str, Any]) -> dict[str, Any]:
        verdict: dict[str, Any] = (await self.http.post(f"{self.api}/v1/updates", json={"updates": updates})).json()
        return verdict

    async def is_complete(self) -> bool:
        answer = await self.http.get(f"{self.api}/readyz")
        return answer.status_code == 200 and not answer.json()["degraded"]

    async def sessions(self) -> dict[str, int]:
        """Return which worker has which session."""
        return {line["name"]: line["worker"] for line in (await self.get("/v1/sessions"))["sessions"]}

    async def metric(self, name: str, **labels: str) -> float:
        wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
        lines = [line.split() for line in (await self.get("/metrics")).splitlines() if line.startswith(f"{wanted} ")]
        return float(lines[0][1])


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Starts servers on free ports and waits until they say where they are; what is left at the end is killed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    servers: list[Server] = []
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:

        async def serve(count: int, *settings: str, is_ready: bool = True, ports: tuple[str, str] = ("0", "0")) -> Server:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "realtime", "serve", "--workers", str(count), "--port", ports[0], "--http-port", ports[1],
                "--set", TOKENS, *(part for setting in settings for part in ("--set", setting)),
                cwd=tmp_path, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
            )  # fmt: skip
            server = Server(process, http)
            servers.append(server)
            if is_ready:
                server.ws, server.api = await server.line(), await server.line()
                assert server.api, (await server.end())[2]
            return server

        yield serve
        for server in servers:
            with suppress(TimeoutError):
                async with asyncio.timeout(TIMEOUT_S):
                    await server.hurry()
            if server.process.returncode is None:
                server.process.kill()  # and those that it started end by themselves
                await server.process.communicate()


class Viewers:
    """Clients that look, each at its own box, with whoever of the workers they came to."""

    def __init__(self, server: Server, stack: AsyncExitStack, seed: int) -> None:
        self.server = server
        self.clients: dict[str, Client] = {}  # by the name of the first session
        self.boxes: dict[str, list[float]] = {}
        self.connections: dict[str, int] = {}
        self._stack = stack
        self._random = random.Random(seed)

    async def add(self, **options: Any) -> str:
        client = await self._stack.enter_async_context(Client(self.server.ws, check_interval_s=0.5, **options))
        west, south = self._random.uniform(-10, 5), self._random.uniform(-10, 5)
        box = [west, south, west + self._random.uniform(1, 10), south + self._random.uniform(1, 10)]
        await asyncio.wait_for(client.look(box), TIMEOUT_S)
        assert client.welcome is not None
        name = client.welcome.session
        self.clients[name], self.boxes[name] = client, box
        return name

    async def fill(self, count: int) -> None:
        """Have at least so many, and one with each worker."""
        workers = set(self.server.workers())
        while len(self.clients) < count or set((await self.server.sessions()).values()) != workers:
            await self.add(encoding=self._random.choice(("json", "msgpack")), token=self._random.choice(("t", None)))
            assert len(self.clients) < 200

    async def agree(self) -> bool:
        """Tell whether every mirror is what brute force finds in the hub's world, and each server says so, too."""
        world = {feature["id"]: feature for feature in (await self.server.get("/v1/entities"))["features"]}
        for name, client in self.clients.items():
            west, south, east, north = self.boxes[name]
            seen = {
                id: feature["geometry"]
                for id, feature in world.items()
                if west <= feature["geometry"]["coordinates"][0] <= east and south <= feature["geometry"]["coordinates"][1] <= north
            }
            if {id: feature["geometry"] for id, feature in client.entities.items()} != seen:
                return False
        return True


async def publish_on(server: Server, stop: asyncio.Event, seed: int, count: int) -> int:
    """Publish moves, births and deaths until told to stop; return how many were taken. A hub that is not there is waited for."""
    chosen = random.Random(seed)
    taken = 0
    while not stop.is_set():
        updates = [
            {"op": "delete", "id": f"bus-{chosen.randrange(count)}"}
            if chosen.random() < 0.05
            else bus(f"bus-{chosen.randrange(count)}", chosen.uniform(-10, 15), chosen.uniform(-10, 15))
            for _ in range(chosen.randrange(1, 40))
        ]
        with suppress(httpx.HTTPError):
            taken += (await server.publish(*updates))["accepted"]
        await asyncio.sleep(0.005)
    return taken


# What viewers see


@pytest.mark.parametrize("engine", ENGINES)
async def test_viewers_on_all_workers_see_everything(serve: Any, engine: str) -> None:
    server = await serve(3, f"engine.kind={engine}")
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        viewers = Viewers(server, stack, 1)
        publishing = asyncio.create_task(publish_on(server, stop, 2, 300))
        await viewers.fill(12)
        await asyncio.sleep(0.5)
        stop.set()
        assert await publishing > 0
        assert await until(viewers.agree)
        for client in viewers.clients.values():
            check = await client.check()
            assert (check.pending, check.count) == (0, len(client.entities))
            assert client.statistics.heals == 0
    server.process.terminate()
    code, out, err = await server.end()
    assert (code, out) == (0, "")
    assert "Traceback" not in err


async def test_a_view_that_a_user_had_elsewhere_is_found(serve: Any) -> None:
    server = await serve(2)
    await server.publish(bus("a", 1, 1), bus("b", 100, 1))
    async with AsyncExitStack() as stack:
        seen: dict[int, Any] = {}
        while len(seen) < 2:
            one = await stack.enter_async_context(connect(server.ws))
            await one.send('{"type":"identify","token":"looker"}')
            name = json.loads(await one.recv())["session"]
            seen[(await server.sessions())[name]] = one
        for number, box in ((0, [0, 0, 2, 2]), (1, [99, 0, 101, 2])):
            await seen[number].send(json.dumps({"type": "view", "bbox": box, "id": 7}))
            assert json.loads(await seen[number].recv())["view"] == 7
            other = seen[1 - number]
            # The hub hears of a view when the loop that took it comes round.
            for _ in range(200):
                await other.send('{"type":"view","last":true,"id":8}')
                answer = json.loads(await asyncio.wait_for(other.recv(), TIMEOUT_S))
                while answer.get("view") != 8 and answer["type"] != "error":
                    answer = json.loads(await asyncio.wait_for(other.recv(), TIMEOUT_S))
                shown = [feature["id"] for feature in answer.get("enter", ())]
                if shown == (["a"], ["b"])[number] or number == 0:
                    break
            assert shown == (["a"], ["b"])[number]


# What kills do


async def test_a_worker_that_is_killed_under_load_comes_back_and_nothing_else_happens(serve: Any) -> None:
    server = await serve(3)
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        viewers = Viewers(server, stack, 3)
        publishing = asyncio.create_task(publish_on(server, stop, 4, 300))
        await viewers.fill(9)
        before = await server.sessions()
        world = (await server.get("/readyz"))["world"]
        frames = await server.metric("realtime_frames_total")
        for number in (1, 2):
            old = server.workers()[number]
            server.kill(number)
            # It is known at once, or was there again already.
            await until(lambda old=old, number=number: _replaced(server, number, old))
            await until(server.is_complete)
            assert await server.metric("realtime_frames_total") >= frames, "a sum fell when a worker was started again"
            frames = await server.metric("realtime_frames_total")
        stop.set()
        await publishing
        assert await until(viewers.agree)
        after = await server.sessions()
        kept = {name for name, number in before.items() if number == 0}
        assert kept
        assert kept <= after.keys()
        assert (await server.get("/readyz"))["world"] == world
        assert all(client.statistics.heals == 0 for client in viewers.clients.values())


async def _replaced(server: Server, number: int, old: int) -> bool:
    return server.workers().get(number, old) != old


async def test_a_hub_that_is_killed_gets_the_world_back_from_the_others(serve: Any) -> None:
    server = await serve(3)
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        viewers = Viewers(server, stack, 5)
        await server.publish(*(bus(f"still-{place}", place / 50 - 5, 0, ttl=3600) for place in range(500)))
        await server.publish(*({"op": "delete", "id": f"still-{place}"} for place in range(0, 500, 50)))
        publishing = asyncio.create_task(publish_on(server, stop, 6, 300))
        await viewers.fill(9)
        before = await server.sessions()
        ready = await server.get("/readyz")
        for _ in range(2):
            old = server.workers()[0]
            server.kill(0)
            await until(lambda old=old: _replaced(server, 0, old))
            await until(server.is_complete)
        stop.set()
        await publishing
        again = await server.get("/readyz")
        assert again["world"] == ready["world"]
        assert again["epoch"] != ready["epoch"]
        still = {feature["id"] for feature in (await server.get("/v1/entities"))["features"] if feature["id"].startswith("still-")}
        assert still == {f"still-{place}" for place in range(500) if place % 50}
        assert await until(viewers.agree)
        elsewhere = {name for name, number in before.items() if number}
        assert elsewhere
        assert elsewhere <= (await server.sessions()).keys(), "a viewer of another worker was cut"
        # A delete of before the kill is still known to be newer than an old version.
        assert (await server.publish(bus("still-50", 0, version=1)))["stale"] == 1


async def test_when_all_are_killed_it_is_another_world(serve: Any) -> None:
    server = await serve(2)
    await server.publish(bus("a", 1))
    world = (await server.get("/readyz"))["world"]
    for pid in server.workers().values():
        os.kill(pid, signal.SIGKILL)

    async def has_another_world() -> bool:
        ready = await server.get("/readyz")
        return bool(ready["world"] != world and not ready["degraded"])

    await until(has_another_world)
    assert (await server.get("/v1/entities"))["features"] == []


async def test_what_is_in_a_file_comes_back_though_all_are_killed(serve: Any, tmp_path: Path) -> None:
    server = await serve(2, f"store.path={tmp_path / 'world'}", "store.interval_ms=20")
    await server.publish(bus("a", 1), bus("b", 2))
    answer = await server.http.post(f"{server.api}/v1/updates?durable=1", json=bus("c", 3))
    assert answer.json()["accepted"] == 1
    ready = await server.get("/readyz")
    for pid in server.workers().values():
        os.kill(pid, signal.SIGKILL)

    async def is_back() -> bool:
        again = await server.get("/readyz")
        return bool(again["epoch"] != ready["epoch"] and not again["degraded"])

    await until(is_back)
    assert (await server.get("/readyz"))["world"] == ready["world"]
    async with AsyncExitStack() as stack:
        viewers = Viewers(server, stack, 12)
        await viewers.fill(2)
        assert await until(viewers.agree)
    assert [feature["id"] for feature in (await server.get("/v1/entities"))["features"]] == ["a", "b", "c"]


# Publishing over a WebSocket


async def test_what_sessions_publish_is_acknowledged_with_the_hubs_verdicts(serve: Any) -> None:
    """The same verdicts, whoever has the session; and one after the other."""
    server = await serve(3)
    huge = 1 << 70  # which msgpack cannot carry, and the hub would refuse
    updates: list[Any] = [
        bus("bus-x", 1, version=5),
        bus("bus-x", 2, version=4),
        bus("tram", 1),
        {"op": "move", "id": "bus-nobody", "lon": 1, "lat": 1},
        7,
        bus("bus-y", 1, properties={"n": huge}),
        bus("tram", 1, properties={"n": huge}),
        {"op": "delete", "id": "bus-x"},
    ]
    said = []
    async with AsyncExitStack() as stack:
        viewers = Viewers(server, stack, 7)
        workers: set[int] = set()
        while len(workers) < 3:
            name = await viewers.add(token="t")
            number = (await server.sessions())[name]
            if number in workers:
                continue
            workers.add(number)
            named = [
                update | {"id": f"{update['id']}-{number}"} if isinstance(update, dict) and "id" in update else update for update in updates
            ]
            said.append(await viewers.clients[name].publish(named))
            assert [(rejected.index, rejected.code) for rejected in said[-1].rejected] == [
                (2, ErrorCode.FORBIDDEN),
                (3, ErrorCode.UNKNOWN_ENTITY),
                (4, ErrorCode.BAD_UPDATE),
                (5, ErrorCode.BAD_VALUE),
                (6, ErrorCode.BAD_VALUE),
            ]
            assert (said[-1].accepted, said[-1].stale, said[-1].rejected_total) == (2, 1, 5)
        assert len({msgspec.json.encode(msgspec.structs.replace(ack, id=0)) for ack in said}) == 1
        # Of many that are under way at once each is answered, in the order of its connection.
        clients = [client for client in viewers.clients.values() if client.token == "t"]
        for client in clients:
            acks = await asyncio.gather(*(client.publish([bus("bus-z", place, version=None)]) for place in range(30)))
            assert [(ack.accepted, ack.stale) for ack in acks] == [(1, 0)] * 30
            held = (await server.get("/v1/entities/bus-z"))["geometry"]["coordinates"]
            assert held == [29, 0]
        assert await server.metric("realtime_updates_total", verdict="stale") == 3


async def test_without_a_hub_publishing_is_unavailable_and_looking_goes_on(serve: Any) -> None:
    server = await serve(2)
    async with AsyncExitStack() as stack:
        viewers = Viewers(server, stack, 8)
        name = await viewers.add(token="t")
        while (await server.sessions())[name] != 1:
            name = await viewers.add(token="t")
        client = viewers.clients[name]
        assert (await client.publish([bus("bus-1", 0)])).accepted == 1
        server.kill(0)
        codes = []
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                try:
                    ack = await client.publish([bus("bus-1", len(codes))])
                except Refused as refused:
                    codes.append(refused.code)
                    await asyncio.sleep(0.02)
                else:
                    break
        assert ack.accepted == 1
        assert set(codes) == {ErrorCode.UNAVAILABLE}
        assert client.welcome is not None
        assert client.welcome.session == name


# What operators read


async def test_metrics_sessions_and_explanations_are_of_all_workers(serve: Any) -> None:
    server = await serve(3)
    await server.publish(bus("a", 0), bus("far", 170))
    async with AsyncExitStack() as stack:
        viewers = Viewers(server, stack, 9)
        await viewers.fill(8)
        lines = (await server.get("/v1/sessions"))["sessions"]
        assert {line["name"] for line in lines} == viewers.clients.keys()
        counts = {number: sum(line["worker"] == number for line in lines) for number in range(3)}
        assert await server.metric("realtime_sessions") == len(lines)
        for number, count in counts.items():
            assert await server.metric("realtime_worker_sessions", worker=str(number)) == count
            assert await server.metric("realtime_worker_up", worker=str(number)) == 1
            assert await server.metric("process_resident_memory_bytes", worker=str(number)) > 1e6
        assert await server.metric("realtime_entities") == 2
        assert await server.metric("realtime_updates_total", verdict="accepted") == 2
        assert await server.metric("realtime_flush_lag_seconds_count") >= 0
        opened = await server.metric("realtime_events_total", event="connections_opened")
        assert opened == len(lines)
        text = await server.get("/metrics")
        names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
        assert len(names) == len(set(names))
        for line in lines:
            told = await server.get("/v1/explain", session=line["name"], entity="far")
            assert (told["exists"], told["box"], told["sees"]) == (True, False, False)
        assert "no such session" in (await server.get("/v1/explain", session="nobody", entity="far"))["message"]


async def test_a_worker_that_hangs_is_left_out(serve: Any) -> None:
    server = await serve(2)
    pid = server.workers()[1]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert await server.metric("realtime_worker_up", worker="1") == 0
        assert (await server.get("/v1/sessions"))["sessions"] == []
        for _ in range(30):
            assert (await server.publish(*(bus(f"b{place}", place / 100) for place in range(500))))["rejected_total"] == 0
    finally:
        os.kill(pid, signal.SIGCONT)
    await until(lambda: _is_up(server))


def _exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


async def _is_up(server: Server) -> bool:
    return await server.metric("realtime_worker_up", worker="1") == 1


# The socket between them


def _directory(server: Server) -> Path:
    """Return the directory of the hub's socket, as the kernel lists it."""
    pid = server.workers()[0]
    inodes = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) == 8 and fields[7].endswith("/hub") and f"socket:[{fields[6]}]" in inodes:
            return Path(fields[7]).parent
    raise AssertionError("the hub listens nowhere")


def _garbage(seed: int) -> list[bytes]:
    chosen = random.Random(seed)
    hello = frame_of(Hello(FORMAT, 1, "p", ""))
    return [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">IB", FRAME_BYTES_MAX + 1, 0),
        struct.pack(">IB", 0, 0),
        struct.pack(">IB", 50, 0) + b"too short",
        frame(0, b"states without a word before"),
        frame(9, b"of no kind"),
        frame(1, b"\xc1"),
        frame_of(Told()),
        frame_of(Hello(FORMAT + 1, 1, "p", "")),
        frame_of(Hello(FORMAT, 0, "p", "")),
        frame_of(Hello(FORMAT, 99, "p", "")),
        hello + hello,
        hello + frame(0, b""),
        hello + frame(0, chosen.randbytes(5000)),
        hello + frame(0, b"\xdd\xff\xff\xff\xff" + chosen.randbytes(300)),
        hello + frame(1, msgspec.msgpack.encode(["publish", 1, [7] * 50, [], [[-1, "x", "y"], [99, "x", "y"], [0, "x", "y"]]])),
        hello + frame(1, msgspec.msgpack.encode(["keep", "u", b"\xff not JSON"])),
        hello + frame(1, msgspec.msgpack.encode(["answer", 5, b"to nothing"])),
        *(hello + frame(chosen.randrange(3), chosen.randbytes(chosen.randrange(1, 400))) for _ in range(20)),
        *(chosen.randbytes(chosen.randrange(1, 400)) for _ in range(20)),
    ]


async def test_bytes_that_are_no_frames_do_no_harm(serve: Any) -> None:
    server = await serve(2)
    await server.publish(bus("a", 0))
    path = str(_directory(server) / "hub")
    hub = server.workers()[0]
    for data in _garbage(10):
        one = socket.socket(socket.AF_UNIX)
        with one:
            one.settimeout(TIMEOUT_S)
            one.connect(path)
            with suppress(OSError):
                one.sendall(data)
                one.shutdown(socket.SHUT_WR)
                while one.recv(65536):
                    pass
    await until(server.is_complete)
    assert server.workers()[0] == hub
    assert [feature["id"] for feature in (await server.get("/v1/entities"))["features"]] == ["a"]
    async with AsyncExitStack() as stack:
        viewers = Viewers(server, stack, 11)
        await viewers.fill(2)
        await server.publish(bus("b", 0, 0), bus("c", 1, 1))
        assert await until(viewers.agree)
    server.process.terminate()
    _, _, err = await server.end()
    assert "Traceback" not in err


async def test_only_the_same_user_gets_to_the_socket(serve: Any) -> None:
    server = await serve(2)
    directory = _directory(server)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "hub").stat().st_mode) == 0o600
    if os.geteuid() == 0:
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(directory / 'hub')!r})"
        nobody = await asyncio.create_subprocess_exec(
            "/usr/bin/env", "python3", "-c", code, user=65534, stderr=asyncio.subprocess.PIPE
        )  # fmt: skip
        _, err = await asyncio.wait_for(nobody.communicate(), TIMEOUT_S)
        assert b"PermissionError" in err
    server.process.terminate()
    await server.end()
    assert not directory.exists()


@pytest.mark.usefixtures("engine_kind")
async def test_the_hub_asks_the_kernel_who_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make_directory()
    node = Node(Config(), Counters())
    path = f"{directory.name}/hub"
    hub = Hub(node, Place(0, 2, path, 0.0, []))
    await hub.start()
    try:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(frame_of(Hello(FORMAT, 1, "p", "")))
        assert await asyncio.wait_for(reader.read(4), TIMEOUT_S) != b""
        writer.close()
        monkeypatch.setattr(realtime.cluster.pipe.os, "geteuid", lambda: os.getuid() + 1)
        reader, writer = await asyncio.open_unix_connection(path)
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(4), TIMEOUT_S) == b""
        writer.close()
    finally:
        await hub.stop()
        node.close()
        directory.cleanup()


# Starting and ending


async def test_the_addresses_are_printed_once_and_all_end_together(serve: Any) -> None:
    server = await serve(3, "server.drain_s=3600")
    assert re.fullmatch(r"ws://127\.0\.0\.1:\d+/ws", server.ws)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.api)
    workers = server.workers()
    assert workers.keys() == {0, 1, 2}
    async with AsyncExitStack() as stack:
        sockets = []
        for _ in range(9):
            one = await stack.enter_async_context(connect(server.ws))
            await one.send('{"type":"view","bbox":null}')
            assert json.loads(await one.recv())["type"] == "welcome"
            sockets.append(one)
        server.kill(1)
        await until(lambda: _replaced(server, 1, workers[1]))
        await until(server.is_complete)
        server.process.terminate()
        told = 0
        for one in sockets:
            with suppress(Exception):
                while json.loads(await asyncio.wait_for(one.recv(), TIMEOUT_S))["type"] != "drain":
                    pass
                told += 1
        assert told >= 9 - 6  # those of the worker that was killed are not here any more
        server.process.terminate()  # the second: nobody is waited for
        code, out, err = await server.end()
    assert (code, out) == (0, "")
    assert "Traceback" not in err
    assert not any(map(_exists, workers.values()))


async def test_a_worker_alone_can_be_told_to_go_and_comes_back(serve: Any) -> None:
    server = await serve(2)
    for number in (1, 0):
        old = server.workers()[number]
        os.kill(old, signal.SIGTERM)
        await until(lambda old=old, number=number: _replaced(server, number, old))
        await until(server.is_complete)
    server.process.send_signal(signal.SIGINT)
    code, out, _ = await server.end()
    assert (code, out) == (0, "")


async def test_workers_end_when_their_supervisor_is_killed(serve: Any) -> None:
    server = await serve(2, "server.drain_s=0")
    workers, directory = server.workers(), _directory(server)
    server.process.kill()

    async def are_gone() -> bool:
        return not any(map(_exists, workers.values()))

    await until(are_gone)
    assert not directory.exists()


async def test_what_keeps_it_from_starting_is_one_line(serve: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        expected = f"realtime: cannot listen on 127.0.0.1:{port} ({{0}}.host, {{0}}.port): Address already in use"
        for ports, section in (((port, "0"), "server"), (("0", port), "http")):
            server = await serve(2, is_ready=False, ports=ports)
            code, out, err = await server.end()
            assert (code, out) == (1, "")
            assert err.splitlines()[-1] == expected.format(section)
    server = await serve(2, "limits.entity_bytes=99999999", is_ready=False)
    assert (await server.end())[0] == 2
    server = await serve(2, 'publish.default_access=["user:"]', is_ready=False)
    code, _, err = await server.end()
    assert code == 2
    assert err.splitlines()[-1].startswith("realtime: bad configuration: ")


async def test_a_port_is_shared_with_nobody_else(serve: Any) -> None:
    server = await serve(2)
    port = server.ws.rpartition(":")[2].removesuffix("/ws")
    for count in (1, 2):
        other = await serve(count, is_ready=False, ports=(port, "0"))
        code, _, err = await other.end()
        assert code == 1
        assert "Address already in use" in err


def test_all_addresses_of_a_name_get_one_port() -> None:
    kept = reserve("localhost", 0)
    try:
        assert len({one.getsockname()[1] for one in kept}) == 1
    finally:
        for one in kept:
            one.close()
    with pytest.raises(OSError, match="assign requested address"):
        reserve("192.0.2.1", 0)


def test_a_directory_that_is_too_deep_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(ConfigError, match="too long"):
        make_directory()
    assert list(deep.iterdir()) == []
