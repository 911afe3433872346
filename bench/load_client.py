"""The native load client as a process: one method for each command of `bench/native/load.cpp`.

Law: it is ended here, by its process id; what it answers is believed only if there is no `error` in it.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from bench.build import build
from bench.client import Schedule
from bench.servers import pin

LINE_BYTES_MAX = 1 << 26  # of an answer; histograms make a few hundred KB
END_S = 5.0


class Look(msgspec.Struct, omit_defaults=True):
    """What one viewer looks at, and who it is."""

    view: dict[str, Any]  # of the protocol, without `type` and `id`
    token: str = ""  # empty: anonymous
    whole: bool = False  # hold places and properties, to be compared


class NativeProcess:
    """A native program that obeys one JSON object a line. Use it as an async context manager."""

    def __init__(self, name: str, core: int | None, arguments: Sequence[str] = ()) -> None:
        self._name, self._core, self._arguments = name, core, arguments
        self._process: asyncio.subprocess.Process | None = None
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        program = await asyncio.to_thread(build, self._name)
        self._process = await asyncio.create_subprocess_exec(
            program, *self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=LINE_BYTES_MAX
        )
        if self._core is not None:
            pin(self._process.pid, self._core)
        self._reading = asyncio.ensure_future(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()  # which it takes for `quit`
        try:
            async with asyncio.timeout(END_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._reading is not None:
            await self._reading

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    async def ask(self, what: str, **parts: Any) -> dict[str, Any]:
        """Give a command; return its answer, whenever that comes. Raises RuntimeError for one that is refused."""
        assert self._process is not None and self._process.stdin is not None
        self._number += 1
        number, answer = self._number, asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._process.stdin.write(msgspec.json.encode({"number": number, "do": what, **parts}) + b"\n")
        await self._process.stdin.drain()
        result: dict[str, Any] = await answer
        if "error" in result:
            raise RuntimeError(f"{self._name}: {what}: {result['error']}")
        return result

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = msgspec.json.decode(line)
            waiting = self._asked.pop(answer["number"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(RuntimeError(f"{self._name} ended"))


class LoadClient(NativeProcess):
    """Thousands of viewers in one process."""

    def __init__(self, core: int | None = None) -> None:
        super().__init__("load", core)

    async def connect(
        self,
        address: tuple[str, int],
        viewers: Sequence[Look],
        *,
        group: str = "readers",
        encoding: str = "json",
        mode: str = "reader",
        level: str = "versions",
        patience_s: float = 60.0,
        **settings: float,
    ) -> dict[str, Any]:
        """Connect viewers, wait until their views are filled; return how many are: {open, filled, closed, faults}.

        `mode` is reader, slow (`read_bytes_per_s`), stalled (reads nothing once it is filled) or panning
        (`pan_interval_ms`, `pan_share` of the view's width); `level` is what is checked of those that are not `whole`:
        versions, or count for none. `receive_buffer_bytes` is their SO_RCVBUF.
        """
        return await self.ask(
            "connect",
            host=address[0],
            port=address[1],
            group=group,
            encoding=encoding,
            mode=mode,
            level=level,
            patience_s=patience_s,
            viewers=viewers,
            **settings,
        )

    async def schedule(self, schedule: Schedule) -> None:
        """Tell when changes are due, so that waits can be measured."""
        await self.ask("schedule", **schedule._asdict())

    async def reset_counts(self) -> float:
        """Count from zero; return the time at which that was done, of the monotonic clock."""
        return float((await self.ask("reset_counts"))["at"])

    async def stats(self) -> dict[str, Any]:
        """Return what was counted: {at, cpu_s, turns_ms, checked_connections, whole_connections, groups: {name: {…}}}."""
        return await self.ask("stats")

    async def send(self, group: str, message: dict[str, Any]) -> None:
        """Let all viewers of a group send a message."""
        await self.ask("send", group=group, message=message)

    async def stall(self, group: str) -> None:
        """Let a group stop reading."""
        await self.ask("stall", group=group)

    async def hold(self, group: str) -> None:
        """Let a group pan no more."""
        await self.ask("hold", group=group)

    async def resume(self, group: str) -> None:
        """Let a group read, or pan, on."""
        await self.ask("resume", group=group)

    async def check(self, group: str, count: int = 1_000_000, patience_s: float = 60.0) -> dict[str, int]:
        """Compare mirrors with what the server says they must be; return {asked, answered, wrong, pending}."""
        return await self.ask("check", group=group, count=count, patience_s=patience_s)

    async def mirrors(self) -> list[dict[str, Any]]:
        """Return the mirrors that are held whole: {group, viewer, is_open, sampled, view, entities}.

        An entity is [id, version, [lon, lat] (or another geometry as GeoJSON), properties, kind].
        """
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "mirrors"
            await self.ask("mirrors", path=str(path))
            return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]

    async def close(self, group: str) -> None:
        """Close a group's connections with 1000 and forget them."""
        await self.ask("close", group=group)


class Publisher(NativeProcess):
    """Posts moves as NDJSON over HTTP, in an open loop."""

    def __init__(self, core: int | None = None) -> None:
        super().__init__("publish", core)

    async def load(self, path: Path) -> int:
        """Read moves, a line `id lon lat` each; return how many."""
        return int((await self.ask("load", path=str(path)))["moves"])

    async def publish(
        self,
        address: tuple[str, int],
        schedule: Schedule,
        count: int,
        first_move: int,
        *,
        until: float,
        batch_ms: float = 2.0,
        body_s: float = 1.0,
    ) -> dict[str, Any]:
        """Publish `count` moves from the `first_move` on, but none after `until`, a time of the monotonic clock.

        Returns {sent, accepted, refused, behind_max_s, answer_max_s, cpu_s, …}.
        """
        return await self.ask(
            "publish",
            host=address[0],
            port=address[1],
            count=count,
            first_move=first_move,
            until=until,
            batch_ms=batch_ms,
            body_s=body_s,
            **schedule._asdict(),
        )
