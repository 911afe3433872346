"""The commands as processes of their own: what a shell, a supervisor and a terminal get from them.

Each runs outside of the repository, on free ports, and is waited for by what it says, never by a pause. Timeouts only
end what has gone wrong.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import os
import pty
import re
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from realtime.demo.replay import SHIPPED

TIMEOUT_S = 20.0
AUSTIN = [-98.2, 30.0, -97.3, 30.8]
REALTIME = [sys.executable, "-m", "realtime"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Command:
    """A running `realtime` command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """Return the next line of stdout; nothing at its end."""
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), TIMEOUT_S)).decode()

    async def end(self) -> tuple[int, str, str]:
        """Wait for the end; return the exit code and what was still written to stdout and stderr."""
        out, err = await asyncio.wait_for(self.process.communicate(), TIMEOUT_S)
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


class Server(Command):
    """A running `realtime serve`, and where it is."""

    ws = http = ""

    @asynccontextmanager
    async def viewer(self, bbox: list[float] | None) -> AsyncIterator[ClientConnection]:
        """Connect and look; the first delta has been read."""
        async with connect(self.ws) as socket:
            await socket.send(json.dumps({"type": "view", "bbox": bbox, "id": 1}))
            assert (await message(socket))["type"] == "welcome"
            assert (await message(socket))["type"] == "delta"
            yield socket

    async def entities(self) -> dict[str, dict[str, Any]]:
        async with httpx.AsyncClient() as client:
            collection = (await client.get(f"{self.http}/v1/entities")).json()
        return {feature["id"]: feature for feature in collection["features"]}

    async def publish(self, *updates: dict[str, Any]) -> None:
        async with httpx.AsyncClient() as client:
            verdict = (await client.post(f"{self.http}/v1/updates", json={"updates": list(updates)})).json()
        assert verdict["accepted"] == len(updates)


async def message(socket: ClientConnection) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), TIMEOUT_S))
    return value


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts commands; what is left of them at the end is killed."""
    processes: list[asyncio.subprocess.Process] = []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}

    async def start(*arguments: str, by: list[str] | None = None, **variables: str) -> Command:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(by or []), *REALTIME, *arguments, cwd=tmp_path, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
            env=environment | variables,
        )  # fmt: skip
        processes.append(process)
        return Command(process)

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture
def serve(start: Callable[..., Any]) -> Callable[..., Any]:
    """Starts servers on free ports and waits until they say where they are."""

    async def serve(*arguments: str, **named: Any) -> Server:
        ports = [] if "--http-port" in arguments else ["--http-port", "0"]
        server = Server((await start("serve", "--port", "0", *ports, *arguments, **named)).process)
        server.ws, server.http = (await server.line()).strip(), (await server.line()).strip()
        assert server.http, (await server.end())[2]
        return server

    return serve


# Starting


async def test_when_ready_it_says_where_it_is_in_two_bare_lines(start: Any) -> None:
    server = await start("serve", "--port", "0", "--http-port", "0")
    first, second = await server.line(), await server.line()
    assert re.fullmatch(r"ws://127\.0\.0\.1:\d+/ws\n", first)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+\n", second)
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{second.strip()}/healthz")).status_code == 200
    async with connect(first.strip()) as socket:
        await socket.send('{"type":"identify"}')
        assert (await message(socket))["type"] == "welcome"
    server.signal(signal.SIGTERM)
    code, out, err = await server.end()
    assert (code, out) == (0, "")
    assert "Traceback" not in err


async def test_without_the_api_there_is_one_line(start: Any) -> None:
    server = await start("serve", "--port", "0", "--set", "http.enabled=false")
    assert (await server.line()).startswith("ws://")
    server.signal(signal.SIGINT)
    code, out, _ = await server.end()
    assert (code, out) == (0, "")


async def test_every_source_of_settings_reaches_the_server(serve: Any, tmp_path: Path) -> None:
    """One setting from each, as `welcome` says them back; and flags over all."""
    (tmp_path / "my.toml").write_text("[limits]\nmessage_bytes = 20001\nhave_entities = 31\nentities_per_view = 41\n[server]\nport = 1")
    server = await serve("--config", "my.toml", "--set", "limits.entities_per_view=43",
                         REALTIME_LIMITS__HAVE_ENTITIES="32", REALTIME_LIMITS__ENTITIES_PER_VIEW="42")  # fmt: skip
    async with connect(server.ws) as socket:
        await socket.send('{"type":"identify"}')
        limits = (await message(socket))["limits"]
    assert (limits["message_bytes"], limits["have_entities"], limits["entities_per_view"]) == (20001, 32, 43)


async def test_bad_configuration_ends_with_2_and_a_port_in_use_with_1(start: Any) -> None:
    command = await start("serve", "--config", "absent.toml")
    assert await command.end() == (2, "", "realtime: bad configuration: absent.toml: No such file or directory\n")
    command = await start("serve", REALTIME_SERVER__PROT="1")
    code, out, err = await command.end()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("realtime: bad configuration: environment variable REALTIME_SERVER__PROT: server.prot: no such key; allowed are ")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = await start("serve", "--port", port, "--http-port", "0")
        expected = f"realtime: cannot listen on 127.0.0.1:{port} ({{0}}.host, {{0}}.port): Address already in use\n"
        assert await command.end() == (1, "", expected.format("server"))
        command = await start("serve", "--port", "0", "--http-port", port)
        assert await command.end() == (1, "", expected.format("http"))


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
async def test_the_limit_of_open_files_is_raised(serve: Any) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = await serve(by=["sh", "-c", 'ulimit -Sn 200; exec "$@"', "sh"])
    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)


# Ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_asks_clients_to_go_then_closes_them_with_1012(serve: Any, number: int) -> None:
    server = await serve("--set", "server.drain_s=0.3")
    async with server.viewer(AUSTIN) as stays:
        server.signal(number)
        drain = await message(stays)
        assert drain["type"] == "drain"
        assert 0 <= drain["reconnect_ms"] <= 300
        with pytest.raises(ConnectionClosed):
            await message(stays)
        assert stays.close_code == 1012
    code, out, err = await server.end()
    assert (code, out) == (0, "")
    assert "Traceback" not in err


async def test_it_ends_as_soon_as_all_have_gone(serve: Any) -> None:
    server = await serve("--set", "server.drain_s=3600")
    async with server.viewer(AUSTIN) as goes:
        server.signal(signal.SIGTERM)
        assert (await message(goes))["type"] == "drain"
    code, _, _ = await server.end()
    assert code == 0


async def test_a_second_signal_ends_it_at_once(serve: Any) -> None:
    server = await serve("--set", "server.drain_s=3600")
    async with server.viewer(AUSTIN) as stays:
        server.signal(signal.SIGTERM)
        assert (await message(stays))["type"] == "drain"
        server.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            await message(stays)
        assert stays.close_code == 1012
    code, _, err = await server.end()
    assert code == 0
    assert "Traceback" not in err


# Replaying


def last_rows(path: Path, count: int | None = None) -> tuple[int, dict[str, dict[str, str]]]:
    """Return how many rows a trace has, and the last of each id."""
    with gzip.open(path, "rt", newline="") as file:
        rows = list(islice(csv.DictReader(file), count))
    return len(rows), {row["id"]: row for row in rows}


async def test_a_replay_leaves_the_world_as_the_file_ends(serve: Any, start: Any, tmp_path: Path) -> None:
    count, expected = last_rows(SHIPPED["austin"], 4000)
    with gzip.open(SHIPPED["austin"], "rt") as whole:
        (tmp_path / "part.csv").write_text("".join(islice(whole, count + 1)))
    server = await serve()
    replay = await start("replay", "part.csv", "--speed", "inf", "--to", server.http)
    code, out, err = await replay.end()
    assert (code, err) == (0, "")
    counts = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:accepted|unchanged|stale|rejected)", out)]
    assert out.startswith(f"{count:,} rows in ")
    assert len(counts) == 4
    assert sum(counts[:2]) == count
    held = await server.entities()
    assert held.keys() == expected.keys()
    for id, row in expected.items():
        assert held[id]["geometry"]["coordinates"] == [float(row["lon"]), float(row["lat"])]
        assert held[id]["properties"]["state"] == row["state"]


async def test_a_recording_has_a_short_name_and_runs_at_its_pace(serve: Any, start: Any) -> None:
    server = await serve()
    replay = await start("replay", "austin", "--loop", "--speed", "60", "--prefix", "bus-", "--to", server.http)
    async with server.viewer(AUSTIN) as viewer:
        delta = await message(viewer)
        while not delta.get("enter"):
            delta = await message(viewer)
        assert all(feature["id"].startswith("bus-") and feature["kind"] == "bus" for feature in delta["enter"])
        replay.signal(signal.SIGINT)
        code, out, err = await replay.end()
        assert (code, err) == (130, "")
        # At 60 times the pace the 45,385 reports of ten hours take ten minutes.
        rows = re.match(r"([\d,]+) rows in [\d.]+ s", out)
        assert rows is not None
        assert int(rows[1].replace(",", "")) < 45_385 / 2


async def test_a_replay_says_what_was_refused(serve: Any, start: Any, tmp_path: Path) -> None:
    server = await serve()
    (tmp_path / "some.csv").write_text("id,lon,lat\na,1,1\nb,181,1\n")
    code, out, err = await (await start("replay", "some.csv", "--to", server.http)).end()
    assert code == 0
    assert "1 accepted, 0 unchanged, 0 stale, 1 rejected" in out
    assert err.startswith("rejected: b: bad_geometry: ")
    (tmp_path / "all.csv").write_text("id,lon,lat\nb,181,1\n")
    code, _, err = await (await start("replay", "all.csv", "--to", server.http)).end()
    assert code == 1
    assert err.endswith("realtime: the server took none of it\n")
    (tmp_path / "bad.csv").write_text("id,lon,lat\nc,1,1\nd,1\n")
    code, out, err = await (await start("replay", "bad.csv", "--to", server.http)).end()
    assert (code, err) == (1, "realtime: bad.csv, line 3: 3 cells are expected, as in the head line, not 2\n")


async def test_a_replay_without_a_server_says_how_to_start_one(start: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    code, out, err = await (await start("replay", "austin", "--to", url)).end()
    assert (code, out) == (1, "")
    assert err == f"realtime: {url}: Connection refused; `realtime serve` starts a server, --to says where it is\n"


async def test_a_replay_waits_for_a_server_that_comes_back(serve: Any, start: Any, tmp_path: Path) -> None:
    rows = [f"{place},{place % 7},{place / 100},1" for place in range(120)]
    (tmp_path / "a.csv").write_text("t,id,lon,lat\n" + "\n".join(rows))
    server = await serve()
    async with server.viewer([-1, 0, 2, 2]) as viewer:
        replay = await start("replay", "a.csv", "--speed", "60", "--to", server.http)
        await message(viewer)
        server.process.kill()
    await server.process.wait()
    again = await serve("--http-port", server.http.rpartition(":")[2])
    code, out, err = await replay.end()
    assert (code, err) == (0, "")
    assert out.startswith("120 rows in ")
    assert {feature["geometry"]["coordinates"][0] for feature in (await again.entities()).values()} == {n / 100 for n in range(113, 120)}


# Watching


def point(id: str, lon: float, lat: float, **members: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": id, "geometry": {"type": "Point", "coordinates": [lon, lat]}, "properties": {}} | members


async def test_watch_prints_a_line_for_each_change(serve: Any, start: Any) -> None:
    server = await serve()
    await server.publish(point("a", 1, 1, kind="bus", version=10), point("far", 50, 1, kind="bus"), point("tram", 1, 1, kind="tram"))
    watch = await start("watch", "--bbox", "-2,-1,3,3", "--filter", '["==",["kind"],"bus"]', "--url", server.ws)
    assert re.fullmatch(r"enter a 10 1,1 bus lag [\d.]+ ms\n", await watch.line())
    steps = [
        ({"op": "move", "id": "a", "lon": -1.5, "lat": 1.25, "version": 11}, r"move  a 11 -1\.5,1\.25 bus lag [\d.]+ ms\n"),
        ({"op": "patch", "id": "a", "properties": {"x": 1}, "version": 12}, r"patch a 12 -1\.5,1\.25 bus lag [\d.]+ ms\n"),
        ({"op": "move", "id": "a", "lon": 9, "lat": 9, "version": 13}, r"leave a 12 -1\.5,1\.25 bus lag [\d.]+ ms moved\n"),
        (point("a", 2, 2, kind="bus", version=14), r"enter a 14 2,2 bus lag [\d.]+ ms\n"),
        ({"op": "delete", "id": "a", "version": 15}, r"leave a 14 2,2 bus lag [\d.]+ ms deleted\n"),
    ]
    for update, expected in steps:
        await server.publish(update)
        assert re.fullmatch(expected, await watch.line())
    watch.signal(signal.SIGINT)
    assert await watch.end() == (0, "", "")


async def test_watch_comes_back_with_the_server_and_says_why_it_cannot(serve: Any, start: Any) -> None:
    server = await serve()
    code, out, err = await (await start("watch", "--filter", '["nonsense"]', "--url", server.ws)).end()
    assert (code, out) == (2, "")
    assert err.startswith('realtime: filter[0]: unknown operator "nonsense"')
    server.signal(signal.SIGTERM)
    await server.end()
    code, out, err = await (await start("watch", "--url", server.ws)).end()
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "`realtime serve` starts a server" in err
    guarded = await serve("--set", "identity.anonymous=never", "--set", 'identity.tokens={t0ken = {user = "u"}}')
    code, _, err = await (await start("watch", "--url", guarded.ws)).end()
    assert code == 1
    assert re.fullmatch(f"realtime: {guarded.ws}: 4500: .+\n", err)
    watch = await start("watch", "--url", guarded.ws, REALTIME_TOKEN="t0ken")
    await guarded.publish(point("a", 1, 1))
    assert (await watch.line()).startswith("enter a ")


async def test_watch_ends_quietly_when_nobody_reads_it(serve: Any, start: Any) -> None:
    server = await serve()
    await server.publish(point("a", 1, 1))
    watch = await start("watch", "--url", server.ws, by=["sh", "-c", '"$@" | head -n 1', "sh"])
    assert (await watch.line()).startswith("enter a ")
    ending = asyncio.ensure_future(watch.end())
    while not ending.done():
        await server.publish({"op": "move", "id": "a", "lon": 1.0 + int.from_bytes(os.urandom(2)) / 1e6, "lat": 1})
        await asyncio.wait({ending}, timeout=0.05)
    assert ending.result() == (0, "", "")


async def test_in_a_terminal_watch_is_a_table(serve: Any, tmp_path: Path) -> None:
    server = await serve()
    await server.publish(point("bus-7", 1, 1, kind="bus"))
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *REALTIME, "watch", "--url", server.ws, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "20"},
    )  # fmt: skip
    os.close(theirs)
    try:
        shown = b"".join(await asyncio.wait_for(asyncio.to_thread(lambda: list(_until(ours, b"mirror right"))), TIMEOUT_S))
        assert b"bus-7" in shown
        process.send_signal(signal.SIGINT)
        rest = b"".join(await asyncio.wait_for(asyncio.to_thread(lambda: list(_until(ours, None))), TIMEOUT_S))
        assert b"Traceback" not in rest
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)


def _until(terminal: int, words: bytes | None) -> Iterator[bytes]:
    """Yield what a terminal shows until it has shown the words, or to its end."""
    shown = b""
    while words is None or words not in shown:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # how Linux says that the other side has gone
            return
        if not chunk:
            return
        shown += chunk
        yield chunk
