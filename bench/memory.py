"""What an idle connection costs in resident memory: `python -m bench memory`.

A server in a process of its own, as `realtime serve` runs it; clients in this one open connections stage by stage
(upgraded, identified, a view of 200 entities, a pong, a change of all of them). After each stage the server collects its
garbage and says how large it is. A bare uvloop server is measured alike.

Law: what is told is growth of the server's resident set over connections, nothing else subtracted, nothing trimmed. The
tables of parts come from a second run, as looking costs memory itself: by class what the garbage collector knows, by line
what Python's allocators gave out. What C and C++ allocate by themselves is in the first table only.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import os
import resource
import socket
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import command_line
from bench.results import ROOT, Plot, Result, Series, Table
from bench.targets import TARGETS
from realtime.cli.serve import serve_until_told
from realtime.config import load
from realtime.server import Server

PER_ADDRESS = 2000  # connections from one 127.0.0.x, well below its ports
WINDOW = 100  # clients that do a step at once; below the server's limit of half-open ones
DOWNTOWN = [13.3, 52.4, 13.5, 52.6]
ENTITIES = 200  # in each view
TIMEOUT_S = 20.0
SETTLE_S = 1.0  # what is published has gone out by then
IDLE, BUSY = "idle with a view", "after a change of all"
PATIENT = {"limits.identify_timeout_s": 3600, "server.port": 0, "http.port": 0, "server.drain_s": 0}


# The server's side


def resident_bytes() -> int:
    """Return how much of this process is in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def classes() -> dict[str, list[int]]:
    """Return {class: [count, bytes]} of what the garbage collector knows."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for thing in gc.get_objects():
        name = f"{type(thing).__module__}.{type(thing).__qualname__}"
        counts[name] += 1
        sizes[name] += sys.getsizeof(thing)
    return {name: [counts[name], sizes[name]] for name in counts}


def lines() -> dict[str, int]:
    """Return {file:line: bytes} of what Python's allocators gave out."""
    statistics = tracemalloc.take_snapshot().statistics("lineno") if tracemalloc.is_tracing() else []
    found: Counter[str] = Counter()
    for statistic in statistics:
        frame = statistic.traceback[0]
        path = frame.filename.split("site-packages/")[-1].replace(f"{ROOT}/", "")
        found[f"{path}:{frame.lineno}"] += statistic.size
    return dict(found)


async def answer(is_detailed: bool, publish: Callable[[Sequence[dict[str, Any]]], object] = list) -> None:
    """Answer each line of stdin with one that says how large this process is; one that is not empty is published first."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        if line.strip():
            publish(msgspec.json.decode(line))
            await asyncio.sleep(SETTLE_S)
        gc.collect()
        look: dict[str, Any] = {"resident": resident_bytes()}
        if is_detailed:
            look |= {"classes": classes(), "lines": lines()}
        print(msgspec.json.encode(look).decode(), flush=True)


async def serve_bare(is_detailed: bool) -> None:
    """Accept connections and do nothing with them."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await answer(is_detailed)
    server.close()


def host(kind: str, settings: Sequence[str], is_detailed: bool) -> None:
    """Be the server."""
    import uvloop

    if is_detailed:
        tracemalloc.start()
    if kind == "bare":
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_bare(is_detailed))
        return

    async def live(server: Server) -> None:
        print(server.url.rpartition(":")[2].partition("/")[0], flush=True)
        await answer(is_detailed, server.publish)

    serve_until_told(load(settings=list(settings)), live)


class Host:
    """A server in a process of its own."""

    def __init__(self, kind: str, settings: Sequence[str], is_detailed: bool) -> None:
        command = [sys.executable, "-m", "bench.memory", "--host", kind, *(part for one in settings for part in ("--set", one))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
        self._process = subprocess.Popen(
            [*command, *(["--parts"] if is_detailed else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self.port = int(self._line())

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the server did not start, or ended")
        return line

    def look(self, updates: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        """Return how large it is, after these updates."""
        assert self._process.stdin is not None
        self._process.stdin.write((msgspec.json.encode(updates) if updates else b"") + b"\n")
        self._process.stdin.flush()
        found: dict[str, Any] = msgspec.json.decode(self._line())
        return found

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


# The clients' side


def connected(number: int, port: int) -> socket.socket:
    """Return a socket to the server, from an address that is not used up."""
    client = socket.socket()
    client.settimeout(TIMEOUT_S)
    client.bind((f"127.0.0.{2 + number // PER_ADDRESS}", 0))
    client.connect(("127.0.0.1", port))
    return client


def upgrade(client: socket.socket) -> None:
    """Ask for a WebSocket, as a browser does."""
    key = base64.b64encode(os.urandom(16)).decode()
    client.sendall(
        (
            "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept-Language: en\r\n"
            "Sec-WebSocket-Protocol: realtime.v1.json\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        ).encode()
    )


def said(message: dict[str, Any]) -> Callable[[socket.socket], None]:
    """Return a step that sends a message."""
    payload = msgspec.json.encode(message)
    mask = b"\x01\x02\x03\x04"
    length = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    frame = b"\x81" + length + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return lambda client: client.sendall(frame)


def until(client: socket.socket, mark: bytes) -> None:
    """Read until something has come, and what lies behind it."""
    seen = b""
    while mark not in seen:
        piece = client.recv(65536)
        if not piece:
            raise RuntimeError(f"the server hung up before {mark!r}")
        seen += piece


def step(clients: Sequence[socket.socket], ask: Callable[[socket.socket], None], mark: bytes) -> None:
    """Let all clients ask and get their answer, some at a time."""
    for first in range(0, len(clients), WINDOW):
        window = clients[first : first + WINDOW]
        for client in window:
            ask(client)
        for client in window:
            until(client, mark)


def feature(number: int, moved: float = 0.0) -> dict[str, Any]:
    """Return an entity downtown."""
    place = [13.3 + number % 20 * 0.01 + moved, 52.4 + number // 20 * 0.01]
    return {"type": "Feature", "id": f"bus-{number}", "geometry": {"type": "Point", "coordinates": place}, "properties": {"line": "7"}}


def stages(host: Host, kind: str, count: int) -> tuple[dict[str, dict[str, Any]], list[socket.socket]]:
    """Open connections; return what the server said before and after each stage, and the connections."""
    # The first ones pay for what is made once: code, caches, pools.
    clients = [connected(number, host.port) for number in range(WINDOW)]
    looks: dict[str, dict[str, Any]] = {}
    steps: list[tuple[str, Callable[[socket.socket], None], bytes]] = [
        ("upgraded", upgrade, b"\r\n\r\n"),
        ("identified", said({"type": "identify"}), b'"welcome"'),
        ("with its first view", said({"type": "view", "id": 1, "bbox": DOWNTOWN, "zoom": 14}), b'"view":1'),
        (IDLE, said({"type": "ping", "t": 1}), b'"pong"'),
    ]
    if kind != "bare":
        for _, ask, mark in steps:
            step(clients, ask, mark)
        host.look([feature(number) for number in range(ENTITIES)])
        step(clients, lambda client: None, b"bus-")
    looks["before"] = host.look()
    new: list[socket.socket] = []
    for first in range(WINDOW, WINDOW + count, WINDOW):
        window = [connected(number, host.port) for number in range(first, min(first + WINDOW, WINDOW + count))]
        if kind != "bare":
            step(window, steps[0][1], steps[0][2])
        new += window
    looks["accepted" if kind == "bare" else "upgraded"] = host.look()
    if kind != "bare":
        for name, ask, mark in steps[1:]:
            step(new, ask, mark)
            looks[name] = host.look()
        host.look([feature(number, 0.001) for number in range(ENTITIES)])
        step(new, lambda client: None, b'"move"')
        looks[BUSY] = host.look()
    return looks, clients + new


def measure(kind: str, options: argparse.Namespace, is_detailed: bool) -> dict[str, dict[str, Any]]:
    """Run one server and its clients; return what the server said at each stage."""
    settings = [f"{key}={value}" for key, value in PATIENT.items()] + options.set
    host = Host(kind, [] if kind == "bare" else settings, is_detailed)
    try:
        looks, clients = stages(host, kind, options.connections)
        for client in clients:
            client.close()
        return looks
    finally:
        host.close()


def add_parts(result: Result, looks: dict[str, dict[str, Any]], count: int) -> None:
    """Add tables of what grew from before to the last stage."""
    before, after = looks["before"], next(reversed(looks.values()))
    grown: list[list[str | int | float]] = []
    for name, (number, size) in after["classes"].items():
        old_number, old_size = before["classes"].get(name, (0, 0))
        if size - old_size >= count:
            grown.append([name, round((size - old_size) / count), round((number - old_number) / count, 2)])
    grown.sort(key=lambda row: -float(row[1]))
    result.tables.append(Table("by class, as the garbage collector knows them", ["class", "bytes/connection", "objects/connection"], grown))
    found = {line: (size - before["lines"].get(line, 0)) / count for line, size in after["lines"].items()}
    lines: list[list[str | int | float]] = [
        [line, round(size)] for line, size in sorted(found.items(), key=lambda item: -item[1]) if size >= 8
    ]
    note = f"{sum(found.values()):,.0f} bytes in all; C and C++ allocate more by themselves"
    result.tables.append(Table("by line, as Python's allocators gave it out", ["line", "bytes/connection"], lines, note))


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code: 1 where an idle connection costs more than is promised."""
    parser = command_line.parser("memory", "Measures what an idle connection costs.")
    add = parser.add_argument
    add("--connections", type=int, default=5000)
    add("--set", action="append", default=[], metavar="section.key=value")
    add("--parts", action="store_true", help="tell what the parts cost, from a second run")
    add("--host", choices=("bare", "server"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.host:
        host(options.host, options.set, options.parts)
        return 0
    command_line.raise_file_limit()
    count = options.connections
    result = Result.begin("memory", seed=options.seed, options={"connections": count, "set": options.set})
    by_stage: list[tuple[float | str, float]] = []
    for kind in ("bare", "server"):
        looks = measure(kind, options, False)
        for stage, look in list(looks.items())[1:]:
            grown = (look["resident"] - looks["before"]["resident"]) / count
            name = "a bare uvloop connection" if kind == "bare" else stage
            by_stage.append((name, grown))
            result.row(f"{name}, growth of the resident set", grown, "bytes", key="connection_bytes" if stage == IDLE else "")
    bound = TARGETS["connection_bytes"].bound
    result.plots.append(Plot("an idle connection", "bar", "stage", "bytes", [Series("bytes", by_stage)], mark=(bound, f"{bound:,.0f}")))
    if options.parts:
        add_parts(result, measure("server", options, True), count)
    return result.finish(options.json)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
