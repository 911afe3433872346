"""The design that this project replaces, rebuilt from its description: two Bun services with Redis between them.

Law: it is given what it had: both cores, and ioredis as it comes. `Tuned` is the same with the one switch thrown that
somebody would try first (commands of one moment go out in one write); it is shown beside, and is not the yardstick.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from bench.build import cache
from bench.peers.peer import Measured, Unavailable
from bench.peers.programs import Program, find, free_port, version_of
from bench.peers.viewers import Viewers
from bench.workloads import entity_id

SOURCES = Path(__file__).resolve().parent / "replaced"
INSTALL_S = 300.0
FITTING = ("bun-linux-x64", "bun-linux-x64-baseline", "bun-linux-aarch64")  # the first that runs here


class Replaced:
    """See `Peer`."""

    name = "the replaced design"
    start_rate = 50.0
    warm_up_s = 5.0  # Bun compiles what is hot, and is slow until then
    is_tuned = False

    def __init__(self, viewers: Viewers) -> None:
        self._viewers = viewers
        self._commands: list[str] = []

    async def prepare(self) -> dict[str, str]:
        """See `Peer`."""
        self._redis = find("redis-server", "Debian's package redis-server")
        self._modules = await asyncio.to_thread(install)
        self._bun = bun_of(self._modules)
        ioredis = json.loads((self._modules / "ioredis" / "package.json").read_text())["version"]
        return {"redis-server": version_of(self._redis, "--version"), "bun": version_of(self._bun, "--version"), "ioredis": ioredis}

    def commands(self) -> list[str]:
        """See `Peer`."""
        return self._commands

    async def measure(self, rate: float, seconds: float) -> Measured:
        """See `Peer`."""
        with self._directory() as directory:
            async with AsyncExitStack() as stack:
                redis_port = free_port()
                redis = [self._redis, "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(directory), "--maxclients", "20000"]
                redis += ["--save", "", "--appendonly", "no"]
                environment = {"AUTO_PIPELINING": "1" if self.is_tuned else "0"}
                processor = [self._bun, "filter-processor.ts", str(redis_port), "entities.json"]
                websocket = [self._bun, "websocket.ts", str(redis_port)]
                servers = {
                    "redis": await stack.enter_async_context(Program(redis, directory, port=redis_port)),
                    "filter-processor": await stack.enter_async_context(Program(processor, directory, environment=environment)),
                    "websocket": await stack.enter_async_context(Program(websocket, directory, environment=environment)),
                }
                self._commands = [subprocess.list2cmdline(command) for command in (redis, processor, websocket)]
                port = int(servers["websocket"].line)
                return await self._viewers.measure(
                    "replaced", rate, self.warm_up_s, seconds, servers, port=port, publish_port=redis_port, core=None
                )

    @contextmanager
    def _directory(self) -> Iterator[Path]:
        """Make a directory from which the services run: sources, modules, and what their backend knows of the world."""
        with tempfile.TemporaryDirectory(prefix="realtime-bench-") as name:
            directory = Path(name)
            for source in SOURCES.glob("*.ts"):
                shutil.copy(source, directory)
            (directory / "node_modules").symlink_to(self._modules)
            city = self._viewers.city()
            world = [
                {"id": entity_id(entity), "version": version, "lon": lon, "lat": lat}
                for entity, (version, (lon, lat)) in enumerate(zip(city.versions, city.positions, strict=True))
            ]
            (directory / "entities.json").write_text(json.dumps(world))
            yield directory


class Tuned(Replaced):
    """The same with ioredis' automatic pipelining."""

    name = "the replaced design, tuned"
    start_rate = 100.0
    is_tuned = True


def install() -> Path:
    """Install what `package-lock.json` names, once; return the modules. Raises `Unavailable`."""
    lock = (SOURCES / "package-lock.json").read_bytes()
    place = cache() / f"replaced-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not (place / "node_modules").exists():
        npm = find("npm", "it comes with Node.js")
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=place.parent))
        try:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCES / name, scratch)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            if done.returncode:
                raise Unavailable(f"npm ci: {done.stderr.strip()[-300:]}")
            if not place.exists():
                scratch.rename(place)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"npm ci took longer than {INSTALL_S:.0f} s") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return place / "node_modules"


def bun_of(modules: Path) -> str:
    """Return a Bun that runs on this processor. Raises `Unavailable`."""
    for name in FITTING:
        program = modules / "@oven" / name / "bin" / "bun"
        if os.access(program, os.X_OK):
            try:
                version_of(str(program), "--version")
            except Unavailable:
                continue
            return str(program)
    raise Unavailable("no Bun of the npm package runs on this machine")
