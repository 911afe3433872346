"""The server under test: a process of its own, on a core of its own, watched from outside.

Law: what is measured is a server as anybody starts it; nothing of the load runs in its process or on its core. What was
started here is ended here, by its process id.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

ROOT = Path(__file__).resolve().parent.parent
START_S, STOP_S = 20.0, 10.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

PLAIN = ("-m", "realtime", "serve")
HOSTED = ("-m", "bench.host")  # the same server, in a program that can also publish from inside and be profiled


def cores() -> tuple[int, int] | None:
    """Return the core for the server and the one for the load; None where there are not two."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else None


def pin(pid: int, core: int) -> None:
    """Let a process (0: this one) run on one core only."""
    os.sched_setaffinity(pid, {core})


def core_busy_s(core: int) -> float:
    """Return for how long a core has been at work, for whomever, this machine's host included."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _, _, irq, softirq, steal = map(int, ticks[:8])
            return (user + nice + system + irq + softirq + steal) / _TICKS
    return 0.0


class ServerProcess:
    """One running server. Use it as an async context manager."""

    def __init__(self, settings: dict[str, Any], core: int | None, program: Sequence[str] = PLAIN) -> None:
        settings = {"server.port": 0, "http.port": 0, "server.drain_s": 0, **settings}
        self.command = [*program, *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]
        self._core = core
        self._process: asyncio.subprocess.Process | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading: asyncio.Task[None] | None = None
        self.url = self.http_url = ""

    async def __aenter__(self) -> Self:
        # Of two copies of the package, an installed one and one in the working directory, it shall run the one that runs here.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (*sys.path, str(ROOT))))}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", *self.command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        if self._core is not None:
            pin(self._process.pid, self._core)
        try:
            async with asyncio.timeout(START_S):
                self.url, self.http_url = await self._read_line(), await self._read_line()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._process
        if self._reading is not None:
            self._reading.cancel()
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_S):
                    await process.communicate()
            except TimeoutError:
                process.kill()
                await process.wait()
        self._errors.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def address(self) -> tuple[str, int]:
        """Where viewers connect."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None and parts.port is not None
        return parts.hostname, parts.port

    async def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Give a hosted server a command; return its answer, whenever that comes."""
        assert self._process is not None and self._process.stdin is not None
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read_answers())
        number = len(self._asked)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(msgspec.json.encode({"number": number, **command}) + b"\n")
        result: dict[str, Any] = await answer
        return result

    async def _read_answers(self) -> None:
        try:
            while True:
                answer = msgspec.json.decode(await self._read_line())
                self._asked[answer["number"]].set_result(answer)
        except RuntimeError as error:  # it ended: whoever waits is told
            for waiting in self._asked.values():
                if not waiting.done():
                    waiting.set_exception(error)

    async def _read_line(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended: {self.errors()}")
        return line.decode().strip()

    def errors(self) -> str:
        """Return the end of what it wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read()[-2000:].decode(errors="replace").strip()

    def cpu_s(self) -> float:
        """Return the processor time that it has used, in user and kernel mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_bytes(self) -> int:
        """Return its resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES
