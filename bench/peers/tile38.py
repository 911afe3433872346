"""Tile38: one geofence channel for each viewer, and a connection that is subscribed to it.

Law: nothing of it is kept on disk, which is in its favour; it has one core, as all servers that are compared.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.build import cache
from bench.peers.peer import Measured, Unavailable
from bench.peers.programs import START_S, Program, find, free_port, version_of
from bench.peers.viewers import Viewers
from bench.servers import cores

MODULE = "github.com/tidwall/tile38/cmd/tile38-server@latest"
INSTALL_S = 600.0


class Tile38:
    """See `Peer`."""

    name = "Tile38 geofences"
    start_rate = 100.0
    warm_up_s = 2.0

    def __init__(self, viewers: Viewers) -> None:
        self._viewers = viewers
        self._commands: list[str] = []

    async def prepare(self) -> dict[str, str]:
        """See `Peer`."""
        found = shutil.which("tile38-server")
        self._server = found if found is not None else await asyncio.to_thread(install)
        return {"tile38-server": module_version(self._server) or version_of(self._server, "--version")}

    def commands(self) -> list[str]:
        """See `Peer`."""
        return self._commands

    async def measure(self, rate: float, seconds: float) -> Measured:
        """See `Peer`."""
        server_core, load_core = cores() or (None, None)
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="realtime-bench-") as directory:
            command = [self._server, "-h", "127.0.0.1", "-p", str(port), "-d", directory, "--appendonly", "no", "-q"]
            self._commands = [f"GOMAXPROCS=1 {' '.join(command)}"]
            async with Program(command, Path(directory), core=server_core, port=port, environment={"GOMAXPROCS": "1"}) as server:
                return await self._viewers.measure(
                    "tile38", rate, self.warm_up_s, seconds, {"tile38-server": server}, port=port, publish_port=port, core=load_core
                )


def install() -> str:
    """Install it with Go, once; return the program. Raises `Unavailable`."""
    place = cache() / "go"
    program = place / "tile38-server"
    if not program.exists():
        go = find("go", "or put a tile38-server into PATH")
        environment = {**os.environ, "GOBIN": str(place), "GOFLAGS": ""}
        command = [go, "install", MODULE]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{' '.join(command)} took longer than {INSTALL_S:.0f} s") from None
        if done.returncode:
            raise Unavailable(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1].strip()}")
    return str(program)


def module_version(program: str) -> str:
    """Return the version of the module that a program was built of, as its build says; empty where nobody can read it."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        return ""
    told = subprocess.run([go, "version", "-m", program], capture_output=True, text=True, timeout=START_S, check=False)
    return next((line.split()[2] for line in told.stdout.splitlines() if line.startswith("\tmod\t")), "")
