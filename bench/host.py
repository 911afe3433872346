"""A program with the server embedded, which can do two things more: publish a workload from inside, and profile itself.

    python -m bench.host [--set section.key=value]…

Law: it says where it listens as `realtime serve` does, then obeys one JSON object a line on stdin, each answered on
stdout by one with its `number`: {"do":"publish", …} plays a city's moves in process, {"do":"prepare", …} and
{"do":"play", …} those of a dense city, at any rate, {"do":"profile", …} runs cProfile for some seconds. Else it is
`realtime serve`, and ends as that does.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import io
import pstats
import sys
from collections.abc import Sequence
from time import monotonic, thread_time
from typing import Any

import msgspec

from bench.api import Verdict
from bench.client import Schedule
from bench.dense import WORKLOADS
from bench.publish import Published, publish
from bench.workloads import City, Move, entity_id
from realtime.cli.serve import serve_until_told
from realtime.cluster.workers import Place
from realtime.config import load
from realtime.server import Server

TIMER_S = 0.0015  # by which a timer may be late
BATCH_CHANGES_MAX = 20_000  # given to the server at once by a publisher that is late; it slices them


class Playing:
    """The city that is published from inside; it goes on where the last command left it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._moves: Any = None

    async def play(self, command: dict[str, Any]) -> dict[str, Any]:
        """Publish `count` moves of the city as they come due."""
        if self._moves is None:
            self._moves = City(command["seed"], 0, command["entities"]).moves()
        schedule = Schedule(command["start"], command["rate"], command["first_version"])
        done = await publish(schedule, self._moves, command["count"], self._send)
        answer: dict[str, Any] = msgspec.to_builtins(done)
        return answer

    async def _send(self, moves: Sequence[Move]) -> Verdict:
        updates = [{"op": "move", "id": entity_id(m.entity), "version": m.version, "lon": m.lon, "lat": m.lat} for m in moves]
        result = await self._server.publish_sliced(updates)
        return Verdict(result.accepted, result.unchanged, result.stale, result.rejected_total)


class Rounds:
    """Moves that are prepared as updates, so that nothing but their version has to be written when they are due."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._updates: list[dict[str, Any]] = []

    def prepare(self, command: dict[str, Any]) -> dict[str, Any]:
        """Make the moves of a workload."""
        self._updates = WORKLOADS[command["workload"]](command["seed"], 0, command["entities"]).prepared()
        gc.collect()
        gc.freeze()  # a publisher would have a few hundred updates; what the collector thinks of these is not the server's
        return {"updates": len(self._updates)}

    async def play(self, command: dict[str, Any]) -> dict[str, Any]:
        """Publish `count` moves from the `first_move` on as they come due, every `batch_ms` what is due by then, `until` it is over."""
        schedule = Schedule(command["start"], command["rate"], command["first_version"])
        count, batch_s, updates = command["count"], command["batch_ms"] / 1000, self._updates
        done = Published()
        place, cpu_before = command["first_move"] % len(updates), thread_time()
        await asyncio.sleep(max(0.0, schedule.start - monotonic()))
        while done.sent < count and (begun := monotonic()) < command["until"]:
            due = min(count, schedule.version_due(begun) - schedule.first_version + 1, done.sent + BATCH_CHANGES_MAX)
            due = max(due, done.sent)  # a timer may fire a little early, before anything is due
            batch = updates[place : place + due - done.sent]  # up to the end of the last round; the rest is due at once
            if batch:
                done.behind_max_s = max(done.behind_max_s, begun - schedule.start - done.sent / schedule.rate)
                for version, update in enumerate(batch, schedule.first_version + done.sent):
                    update["version"] = version
                result = await self._server.publish_sliced(batch)
                place = (place + len(batch)) % len(updates)
                done.sent += len(batch)
                done.accepted += result.accepted
                done.refused += len(batch) - result.accepted
            next_due = schedule.start + done.sent / schedule.rate
            if next_due > begun + batch_s:
                await _sleep_until(next_due)
            else:
                await asyncio.sleep(max(0.0, begun + batch_s - monotonic()))
        answer: dict[str, Any] = msgspec.to_builtins(done)
        return {**answer, "process_cpu_s": thread_time() - cpu_before}


async def _sleep_until(due: float) -> None:
    """Sleep until a time of the monotonic clock; the loop turns over for the last of it, as its timers know only milliseconds."""
    await asyncio.sleep(max(0.0, due - TIMER_S - monotonic()))
    while monotonic() < due:  # noqa: ASYNC110 - time is no event
        await asyncio.sleep(0)


async def profile(seconds: float, lines: int) -> dict[str, Any]:
    """Profile this process; return the functions that took most time, as `pstats` prints them."""
    profiler = cProfile.Profile()
    profiler.enable()
    await asyncio.sleep(seconds)
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(lines)
    return {"text": text.getvalue()}


async def obey(server: Server) -> None:
    """Take commands until stdin ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    playing, rounds = Playing(server), Rounds(server)
    tasks: set[asyncio.Task[None]] = set()

    async def answer(command: dict[str, Any]) -> None:
        if command["do"] == "publish":
            result = await playing.play(command)
        elif command["do"] == "prepare":
            result = rounds.prepare(command)
        elif command["do"] == "play":
            result = await rounds.play(command)
        else:
            result = await profile(command["seconds"], command["lines"])
        print(msgspec.json.encode({"number": command["number"], **result}).decode(), flush=True)

    while line := await reader.readline():
        task = loop.create_task(answer(msgspec.json.decode(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()


async def live(server: Server) -> None:
    """Say where the server is, and take commands until stdin ends."""
    print(server.url, server.http_url, sep="\n", flush=True)
    await obey(server)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.host")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--place", type=lambda text: msgspec.json.decode(text, type=Place), metavar="JSON", help="one of several workers")
    given = parser.parse_args()
    serve_until_told(load(settings=given.set), live, given.place)
