"""How fast the load client itself is: `python -m bench.replay`.

A native program stands in for the server and tells every viewer the same prepared frames as fast as the sockets take
them. Law: a load client is fit for a server that delivers less than this; so what it needed of its core stands beside it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from time import monotonic
from typing import Any

import msgspec

from bench import command_line
from bench.build import build
from bench.client import Schedule
from bench.load_client import LoadClient, Look
from bench.results import Result
from bench.servers import cores, pin

PATIENCE_S = 60.0
WHOLE = 50


async def replay(encoding: str, connections: int, entities: int, moves_per_frame: int, frames: int) -> dict[str, Any]:
    """Let a load client read so many frames on each connection; return what was sent, and what it took to read it."""
    placed = cores()
    program = await asyncio.to_thread(build, "replay")
    arguments = (encoding, *map(str, (connections, entities, moves_per_frame, frames)))
    sender = await asyncio.create_subprocess_exec(program, *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert sender.stdin is not None and sender.stdout is not None
    try:
        if placed:
            pin(sender.pid, placed[0])
        port = int(await sender.stdout.readline())
        async with LoadClient(placed and placed[1]) as client, asyncio.timeout(PATIENCE_S):
            looks = [Look({"bbox": [-98, 30, -97, 31]}, whole=place < WHOLE) for place in range(connections)]
            found = await client.connect(("127.0.0.1", port), looks, encoding=encoding)
            assert found["filled"] == connections, found
            await client.schedule(Schedule(monotonic(), 1e9, entities + 1))  # all of it is due at once
            await client.reset_counts()
            before = await client.stats()
            sender.stdin.write(b"go\n")
            sent: dict[str, Any] = msgspec.json.decode(await sender.stdout.readline())
            while (after := await client.stats())["groups"]["readers"]["moves"] < sent["moves"]:
                assert not after["groups"]["readers"]["faults"], after["groups"]["readers"]["examples"]
                await asyncio.sleep(0.02)
            seconds = after["at"] - before["at"]
            group = after["groups"]["readers"]
            return {
                **sent,
                "read_s": seconds,
                "cpu_s": after["cpu_s"] - before["cpu_s"],
                "faults": group["faults"],
                "moves": group["moves"],
            }
    finally:
        sender.stdin.close()
        await sender.wait()


async def run_replay(result: Result, encodings: list[str], moves: int) -> int:
    """Measure few long frames for 1,000 connections and more short ones for 5,000, in each encoding."""
    for encoding in encodings:
        for connections, entities, per_frame in ((1000, 5000, 1000), (5000, 1000, 100)):
            found = await replay(encoding, connections, entities, per_frame, max(1, moves // connections // per_frame))
            core_s = found["moves"] / found["cpu_s"]
            name = f"load client, {encoding}, {connections:,} connections, {per_frame:,} deltas a frame"
            facts = {
                "bytes per delta": round(found["bytes"] / found["moves"], 1),
                "deltas/s in fact": round(found["moves"] / found["read_s"]),
                "its core": f"{found['cpu_s'] / found['read_s']:.0%}",
            }
            result.row(name, core_s, "deltas a second of its core", facts=facts)
    return result.finish()


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = command_line.parser("replay", "How fast the load client itself is.")
    parser.add_argument("--encoding", nargs="+", choices=("json", "msgpack"), default=["json", "msgpack"])
    parser.add_argument("--moves", type=int, default=20_000_000, help="that are read in each case")
    given = parser.parse_args(arguments)
    return command_line.run(run_replay(Result.begin("replay", seed=given.seed), given.encoding, given.moves))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
