"""Programs of peers: started in a directory of their own, watched, and ended by their process ids.

Law: nothing listens anywhere but on loopback, nothing outlives the block that started it, and nothing is ended that was
not started here.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from bench.peers.peer import Unavailable

START_S, STOP_S = 15.0, 5.0
_TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def find(name: str, hint: str) -> str:
    """Return where a program is. Raises `Unavailable` with the hint."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/local/go/bin")
    if path is None:
        raise Unavailable(f"{name} is not installed ({hint})")
    return path


def version_of(*command: str) -> str:
    """Return the version that a program says it has, or the line in which it says none. Raises `Unavailable` if it does not run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{shlex.join(command)}: {error}") from None
    if done.returncode:
        raise Unavailable(f"{shlex.join(command)}: {(done.stderr or done.stdout).strip()[:200]}")
    line = (done.stdout or done.stderr).strip().splitlines()[0]
    found = re.search(r"\d+\.\d+\.\d+", line)
    return found[0] if found else line


class Program:
    """One running program. Use it as an async context manager; it is ready once it listens on `port` or has said a line."""

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        *,
        core: int | None = None,
        port: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = [str(part) for part in command]
        self.line = ""  # the first that it said; only where it has no `port`
        self._directory = directory
        self._core = core
        self._port = port
        self._environment = {**os.environ, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self.command,
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._errors if self._port else subprocess.PIPE,
            stderr=self._errors,
            preexec_fn=self._pin,
        )
        try:
            async with asyncio.timeout(START_S):
                await (self._wait_port() if self._port else self._wait_line())
        except BaseException as error:
            said = self.errors()
            await self.__aexit__()
            if isinstance(error, TimeoutError):
                raise RuntimeError(f"{self.command[0]} does not become ready: {said}") from None
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        self._errors.close()

    def _pin(self) -> None:
        if self._core is not None:  # before it starts a thread, as those inherit it
            os.sched_setaffinity(0, {self._core})

    async def _wait_port(self) -> None:
        while True:
            self._check()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return

    async def _wait_line(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        self.line = (await self._process.stdout.readline()).decode().strip()
        if not self.line:
            await self._process.wait()
            self._check()

    def _check(self) -> None:
        assert self._process is not None
        if self._process.returncode is not None:
            raise RuntimeError(f"{self.command[0]} ended: {self.errors()}")

    def errors(self) -> str:
        """Return the end of what it wrote."""
        self._errors.seek(0)
        return self._errors.read()[-2000:].decode(errors="replace").strip()

    def cpu_s(self) -> float:
        """Return the processor time that it has used."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
