"""What the commands have in common: how they are started, what every parser takes, and the loop that a run has.

Law: a run whose load client has a bug ends at its first exception; figures that such a client made are none.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop


def parser(name: str, text: str) -> argparse.ArgumentParser:
    """Return a command's parser with what all of them take: `--seed` and `--json`."""
    made = argparse.ArgumentParser(prog=f"python -m bench {name}", description=text)
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    return made


def raise_file_limit() -> int:
    """Allow this process, and those that it starts, as many files as the system lets it; return how many."""
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    return files_max


def run(running: Coroutine[Any, Any, int]) -> int:
    """Run a command to its end on uvloop; return its exit code."""
    raise_file_limit()
    code: int = uvloop.run(_unless_broken(running))
    return code


async def _unless_broken(running: Coroutine[Any, Any, int]) -> int:
    """End the run at the first exception in a callback."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(running)
    found: list[dict[str, Any]] = []

    def on_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        found.append(context)
        task.cancel()

    loop.set_exception_handler(on_exception)
    try:
        return await task
    except asyncio.CancelledError:
        if not found:
            raise
        raise RuntimeError(found[0]["message"]) from found[0].get("exception")
