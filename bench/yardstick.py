"""`python -m bench yardstick`: how many frames a second the kernel lets one core send, with nothing else to do.

Law: sockets, their options, the sizes of frames and the cores are those of the server that is compared with it; the
median of some repetitions is what it is compared with, and the least and the most stand beside it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from bench import command_line
from bench.load_client import NativeProcess
from bench.results import Fact, Result
from bench.servers import cores
from realtime.config import LimitsConfig

WARM_UP_S = 0.3
SENDER_CPU_MIN = 0.95  # it does nothing but send
REFUSED_MAX = 0.5  # of all calls; beyond it the receiver was what was measured

Sizes = list[tuple[float, float]]  # (bytes, weight)


class Pace(Struct, frozen=True):
    """What was sent, by repetition."""

    sockets: int
    bytes_mean: float  # of a frame
    frames_per_s: list[float]
    bytes_per_s: list[float]
    refused: float  # the share of calls for which a socket took nothing
    sender_cpu: float  # of a core
    receiver_cpu: float


async def measure(sockets: int, sizes: Sizes, seconds: float, repetitions: int, seed: int = 1) -> Pace:
    """Send frames of these sizes on so many sockets for some seconds, `repetitions` times."""
    limits, placed = LimitsConfig(), cores()
    total = sum(weight for _, weight in sizes)
    async with NativeProcess("send", placed and placed[0]) as sender, NativeProcess("send", placed and placed[1]) as receiver:
        port = (await sender.ask("listen", send_buffer_bytes=limits.send_buffer_bytes, unsent_bytes=limits.unsent_bytes))["port"]
        await asyncio.gather(receiver.ask("connect", port=port, sockets=sockets), sender.ask("accept", sockets=sockets))
        await sender.ask("run", sizes=sizes, seconds=WARM_UP_S, seed=seed)
        runs = []
        before = await receiver.ask("stats")
        for repetition in range(repetitions):
            runs.append(await sender.ask("run", sizes=sizes, seconds=seconds, seed=seed + repetition))
        after = await receiver.ask("stats")
    elapsed = sum(run["seconds"] for run in runs)
    return Pace(
        sockets=sockets,
        bytes_mean=sum(size * weight for size, weight in sizes) / total,
        frames_per_s=[run["frames"] / run["seconds"] for run in runs],
        bytes_per_s=[run["bytes"] / run["seconds"] for run in runs],
        refused=sum(run["refused"] for run in runs) / sum(run["calls"] for run in runs),
        sender_cpu=sum(run["cpu_s"] for run in runs) / elapsed,
        receiver_cpu=(after["cpu_s"] - before["cpu_s"]) / elapsed,
    )


def read_sizes(path: Path) -> Sizes:
    """Return the sizes of frames that `python -m bench load --json` recorded."""
    found: Any = msgspec.json.decode(path.read_bytes())
    return [(float(size), float(count)) for size, count in found["details"]["sizes"]]


def add_pace(result: Result, pace: Pace) -> None:
    """Add what was measured to a result."""
    median = sorted(pace.frames_per_s)[len(pace.frames_per_s) // 2]
    facts: dict[str, Fact] = {
        "processor time a frame, us": round(pace.sender_cpu / median * 1e6, 2),
        "GB/s": round(sorted(pace.bytes_per_s)[len(pace.bytes_per_s) // 2] / 1e9, 3),
        "sender's core": f"{pace.sender_cpu:.0%}",
        "receiver's core": f"{pace.receiver_cpu:.0%}",
        "calls refused": f"{pace.refused:.1%}",
    }
    note = ""
    if pace.refused > REFUSED_MAX:
        note = "the receiver was the bottleneck"
    elif pace.sender_cpu < SENDER_CPU_MIN:
        note = "somebody else took the sender's core: a frame costs what stands beside it, the rate is a lower bound"
    result.row(f"send(), {pace.sockets:,} sockets, {pace.bytes_mean:,.0f} bytes", pace.frames_per_s, "frames/s", facts=facts, note=note)


async def run_yardstick(result: Result, sockets: list[int], mixtures: list[Sizes], seconds: float, repetitions: int) -> None:
    """Measure each number of sockets with each mixture of sizes."""
    for count in sockets:
        for mixture in mixtures:
            add_pace(result, await measure(count, mixture, seconds, repetitions, result.seed))


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = command_line.parser("yardstick", "Frames a second that a bare send() loop reaches.")
    add = parser.add_argument
    add("--sockets", type=int, nargs="+", default=[1000, 5000])
    add("--bytes", type=int, nargs="+", default=[128, 512, 4096, 16384, 65536], help="sizes of frames, one after the other")
    add("--recorded", type=Path, metavar="FILE", help="the sizes that `load --json FILE` recorded, in their proportions, instead")
    add("--seconds", type=float, default=1.0, help="of each repetition")
    add("--repetitions", type=int, default=5)
    given = parser.parse_args(arguments)
    result = Result.begin("yardstick", seed=given.seed, options={"sockets": given.sockets, "seconds": given.seconds})
    mixtures = [read_sizes(given.recorded)] if given.recorded is not None else [[(float(size), 1.0)] for size in given.bytes]

    async def running() -> int:
        await run_yardstick(result, given.sockets, mixtures, given.seconds, given.repetitions)
        return result.finish(given.json)

    return command_line.run(running())
