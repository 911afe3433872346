"""The viewers and the publisher of a peer: a native program, one for each wire, over the same city.

Law: the city that the program reads is `bench.workloads.City`, move for move; what the servers took of their cores is
read at the same two moments between which deliveries are counted.
"""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import tempfile
from array import array
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from bench.build import build
from bench.peers.peer import Measured, Mirrors
from bench.peers.programs import Program
from bench.servers import core_busy_s
from bench.workloads import City

PATIENCE_S = 60.0  # beyond warm-up and window: connecting, filling, becoming quiet
SPARE = 1.5  # a city's file is written for a search that goes on to larger rates


class Viewers:
    """A city and its file, and the program that looks at it."""

    def __init__(self, seed: int, viewers: int, entities: int, sampled: int = 50) -> None:
        self.seed, self.viewers, self.entities, self.sampled = seed, viewers, entities, sampled
        self._directory = tempfile.TemporaryDirectory(prefix="realtime-bench-")
        self._moves = 0

    def close(self) -> None:
        """Remove the file."""
        self._directory.cleanup()

    def city(self) -> City:
        """Return the city as it is before the first move."""
        return City(self.seed, self.viewers, self.entities)

    def _file(self, moves: int) -> Path:
        """Return the city as `bench/native/peer_city.h` reads it, with at least so many moves."""
        path = Path(self._directory.name) / "city"
        if moves > self._moves:
            self._moves = round(moves * SPARE)
            _write(path, self.city(), self._moves)
        return path

    async def measure(
        self,
        name: str,
        rate: float,
        warm_up_s: float,
        seconds: float,
        servers: Mapping[str, Program],
        *,
        port: int,
        publish_port: int,
        core: int | None,
    ) -> Measured:
        """Run `bench/native/{name}.cpp` against `servers` that run; return what it found. Raises RuntimeError if it fails."""
        program = await asyncio.to_thread(build, name)
        path = await asyncio.to_thread(self._file, math.ceil(rate * (warm_up_s + seconds)) + 1)
        options = {"city": path, "port": port, "publish-port": publish_port, "sampled": self.sampled}
        options |= {"rate": rate, "warm-up": warm_up_s, "seconds": seconds}
        command = [str(program), *(str(part) for key, value in options.items() for part in (f"--{key}", value))]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_pinning(core)
        )
        try:
            async with asyncio.timeout(warm_up_s + seconds + PATIENCE_S):
                return await self._read(process, rate, servers)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _read(self, process: asyncio.subprocess.Process, rate: float, servers: Mapping[str, Program]) -> Measured:
        assert process.stdout is not None and process.stderr is not None
        moments: dict[str, dict[str, float]] = {}
        while line := await process.stdout.readline():
            found = msgspec.json.decode(line)
            if found["at"] == "done":
                return self._measured(rate, found, moments["begin"], moments["end"])
            moments[found["at"]] = _moment(servers)
        said = (await process.stderr.read()).decode(errors="replace").strip()
        servers_said = "; ".join(f"{name}: {text[-300:]}" for name, one in servers.items() if (text := one.errors()))
        raise RuntimeError(f"the viewers ended: {said or await process.wait()} ({servers_said})")

    def _measured(self, rate: float, found: dict[str, Any], begin: dict[str, float], end: dict[str, float]) -> Measured:
        elapsed = max(end["time"] - begin["time"], 1e-3)
        cpu = {name: (value - begin[name]) / elapsed for name, value in end.items() if name not in ("time", "busy")}
        load_cpu = found["load_cpu_s"] / found["seconds"]
        waits = {name: math.inf if found[f"{name}_s"] is None else found[f"{name}_s"] * 1000 for name in ("p50", "p99", "max")}
        return Measured(
            rate=rate,
            viewers=self.viewers,
            seconds=found["seconds"],
            changes=found["taken"],
            expected=found["expected"],
            came=found["came"],
            taken_per_s=rate * found["came"] / max(found["expected"], 1),
            wanted_per_s=(found["wanted"] + found["left"]) / found["seconds"],
            over_fetched_per_s=found["over_fetched"] / found["seconds"],
            p50_ms=waits["p50"],
            p99_ms=waits["p99"],
            max_ms=waits["max"],
            growth_s=found["growth_s"],
            silence_max_s=found["silence_max_s"],
            behind_max_s=found["behind_max_s"],
            cpu=cpu,
            load_cpu=load_cpu,
            others_cpu=max(0.0, (end["busy"] - begin["busy"]) / elapsed - sum(cpu.values()) - load_cpu),
            is_given_up=found["is_given_up"],
            closed=found["closed"],
            faults=found["errors"] + found["backwards"] + found["distorted"],
            filled=msgspec.convert(found["filled"], Mirrors),
            mirrors=msgspec.convert(found["mirrors"], Mirrors),
        )


def _pinning(core: int | None) -> Any:
    return None if core is None else lambda: os.sched_setaffinity(0, {core})


def _moment(servers: Mapping[str, Program]) -> dict[str, float]:
    busy = sum(core_busy_s(core) for core in sorted(os.sched_getaffinity(0)))
    return {"time": asyncio.get_running_loop().time(), "busy": busy, **{name: one.cpu_s() for name, one in servers.items()}}


def _write(path: Path, city: City, moves: int) -> None:
    views = array("d", [edge for view in city.views for edge in view])
    first = array("d", [part for place in city.positions for part in place])
    moved, entities = array("d"), array("I")
    for move in islice(city.moves(), moves):
        moved.append(move.lon)
        moved.append(move.lat)
        entities.append(move.entity)
    with path.open("wb") as file:
        file.write(b"CITY0001")
        array("Q", [len(city.views), len(city.positions), moves]).tofile(file)
        for part in (views, first, moved, entities):
            part.tofile(file)
