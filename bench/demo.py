"""What the demo costs: `python -m bench demo`.

One viewer of the whole world, and of Austin after that, in another process; counted is what the system says that
`realtime demo` took of a core, server, simulation and all.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from pathlib import Path

from realtime.client import Client

BOUND = 0.6  # of a core
VIEWS = {"the world": ([-180.0, -85.0, 180.0, 85.0], 2.0), "Austin": ([-98.1, 30.0, -97.4, 30.6], 11.0)}
SETTLE_S = 8.0  # in which everything is published for the first time


def cpu_s(pid: int) -> float:
    """Return the processor time of a process, in seconds: fields 14 and 15 of /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(pid: int, url: str, seconds: float) -> bool:
    """Look, print what each view costs; return whether all stay within the bound."""
    is_within = True
    loop = asyncio.get_running_loop()
    async with Client(url) as client:
        await asyncio.sleep(SETTLE_S)
        for name, (bbox, zoom) in VIEWS.items():
            await client.look(bbox, zoom=zoom)
            before, begin, deltas = cpu_s(pid), loop.time(), client.statistics.deltas
            await asyncio.sleep(seconds)
            share = (cpu_s(pid) - before) / (loop.time() - begin)
            frames = (client.statistics.deltas - deltas) / seconds
            is_within &= share <= BOUND
            print(f"{name:10} {share:5.1%} of a core, {len(client.entities):,} entities in view, {frames:.1f} deltas/s")
        check = await client.check()
        print(f"the mirror agrees with the server's digest; {check.pending} pending")
    return is_within


def main(arguments: list[str]) -> int:
    """Start the demo, measure, end it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each view")
    seconds = parser.parse_args(arguments).seconds
    command = [sys.executable, "-m", "realtime", "demo", "--port", "0", "--http-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stdout is not None
            page = demo.stdout.readline().strip()
            is_within = asyncio.run(measure(demo.pid, page.replace("http", "ws", 1) + "ws", seconds))
        finally:
            demo.terminate()
    return 0 if is_within else 1
