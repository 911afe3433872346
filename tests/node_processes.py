"""Nodes as processes of their own, joined by one Redis: started, killed and started again where they were.

    async with nodes(directory, 3, "redis.url=…") as (first, second, third):
        first.url, first.api            where viewers and publishers connect, also after a restart
        await first.kill()              -9
        await first.start()             returns once it serves

Law: a node's ports are free ones when it is made, and its own until the end: they lie outside of what the system hands out
to outgoing connections, so that none of those has taken them while the node was down. What a node writes to stderr is kept
over its lives, and no node outlives the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

START_S = 30.0
STOP_S = 30.0
PORT_TRIES = 100
UNPRIVILEGED = 10_000  # the lowest port that is tried
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_BUCKET = re.compile(r'^realtime_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


def lasting_port() -> int:
    """Return a free port that no outgoing connection is given."""
    try:
        first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        first_given = 32768
    for _ in range(PORT_TRIES):
        port = random.randrange(UNPRIVILEGED, first_given)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class NodeProcess:
    """One node: its place, and the process that is there at the moment."""

    def __init__(self, name: str, directory: Path, settings: tuple[str, ...]) -> None:
        self.name = name
        self.lives = 0  # begun ones; it grows before a kill, so that who is cut off by it can tell
        self.is_up = False
        self.complaints = directory / f"{name}.log"
        self._directory = directory
        self._port, self._http_port = lasting_port(), lasting_port()
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where viewers connect."""
        return f"ws://127.0.0.1:{self._port}/ws"

    @property
    def api(self) -> str:
        """Where publishers do."""
        return f"http://127.0.0.1:{self._http_port}"

    async def start(self) -> None:
        """Start it where it was; return once it serves."""
        assert self._process is None
        options = [option for setting in self._settings for option in ("--set", setting)]
        with self.complaints.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "realtime", "serve", "--port", str(self._port), "--http-port", str(self._http_port), *options),
                cwd=self._directory,
                env={name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")},
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                preexec_fn=_die_with_parent,
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S):
            lines = [(await self._process.stdout.readline()).decode().strip() for _ in range(2)]
        assert lines == [self.url, self.api], f"{self.name}: {lines}\n{self.said()}"
        self.is_up = True

    async def kill(self) -> None:
        """Kill -9, if it runs."""
        process, self._process = self._process, None
        self.is_up = False
        self.lives += 1
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    async def stop(self) -> None:
        """Stop as a service manager does; it must end with 0."""
        process, self._process = self._process, None
        self.is_up = False
        self.lives += 1
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await process.communicate()
        except BaseException:
            process.kill()
            await process.communicate()
            raise
        assert process.returncode == 0, self.said()

    def said(self) -> str:
        """Return what all its lives wrote to stderr."""
        return self.complaints.read_text(errors="replace")

    # What it says of itself

    async def _get(self, path: str, **params: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.api, timeout=10) as http:
            return await http.get(path, params=params)

    async def ready(self) -> dict[str, Any]:
        """Return what /readyz answers."""
        found: dict[str, Any] = (await self._get("/readyz")).json()
        return found

    async def entities(self) -> dict[str, dict[str, Any]]:
        """Return all of its world by id."""
        found = (await self._get("/v1/entities", bbox="-180,-90,180,90")).json()
        return {feature["id"]: feature for feature in found["features"]}

    async def loop_lag(self) -> dict[float, float]:
        """Return how many timers ran at most how late, by upper bound in seconds, since this life began."""
        return {float(bound): float(count) for bound, count in _BUCKET.findall((await self._get("/metrics")).text)}


@asynccontextmanager
async def nodes(directory: Path, count: int, *settings: str) -> AsyncIterator[list[NodeProcess]]:
    """Run so many nodes; they must end with 0 and have had no bug to complain of."""
    every = [NodeProcess(f"node {number}", directory, settings) for number in range(count)]
    async with AsyncExitStack() as stack:
        for node in every:
            stack.push_async_callback(node.kill)
        async with asyncio.TaskGroup() as tasks:
            for node in every:
                tasks.create_task(node.start())
        yield every
        async with asyncio.TaskGroup() as tasks:
            for node in every:
                tasks.create_task(node.stop())
        for node in every:
            assert "Traceback" not in node.said(), f"{node.name}:\n{node.said()}"
