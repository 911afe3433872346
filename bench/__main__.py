"""The commands: `python -m bench city`, `python -m bench stall`. Exit code 1: a bound was not met."""

from __future__ import annotations

import argparse
import asyncio
import resource
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from bench.city import run_city
from bench.stall import run_stall
from bench.trial import Options


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--viewers", type=int, default=1000)
    add("--entities", type=int, default=10_000)
    add("--flush-interval-ms", type=float, default=100.0)
    add("--encoding", choices=("json", "msgpack"), default="json")
    add("--publish", choices=("http", "inprocess"), default="http")
    add("--seed", type=int, default=1)
    add("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures what a server carries.")
    commands = parser.add_subparsers(dest="command", required=True)
    city = commands.add_parser("city", parents=[common], help="viewers of one city, every mirror compared")
    city.add_argument("--rate", type=float, nargs="+", default=[1500.0], metavar="CHANGES_PER_S", help="several: one after the other")
    city.add_argument("--warm-up", type=float, default=5.0, metavar="SECONDS", help="of load before what is measured")
    city.add_argument("--seconds", type=float, default=30.0)
    city.add_argument("--stalled", type=float, default=0.0, metavar="SHARE", help="of the viewers stop reading")
    city.add_argument("--profile", type=float, default=0.0, metavar="SECONDS", help="run cProfile in the server; it gets much slower")
    stall = commands.add_parser("stall", parents=[common], help="with and without clients that stop reading")
    stall.add_argument("--rate", type=float, default=700.0, metavar="CHANGES_PER_S")
    stall.add_argument("--warm-up", type=float, default=3.0, metavar="SECONDS", help="of load before what is measured")
    stall.add_argument("--seconds", type=float, default=8.0, help="of each phase that are measured")
    stall.add_argument("--stalled", type=float, default=0.1, metavar="SHARE", help="of the viewers stop reading in every second phase")
    stall.add_argument("--write-stall-s", type=float, default=7.0, help="the server's setting; to be seen, it ends within what is measured")
    stall.add_argument("--pairs", type=int, default=2, help="of phases without and with")
    return parser


def _run(given: argparse.Namespace) -> Coroutine[Any, Any, int]:
    options = Options(
        viewers=given.viewers,
        entities=given.entities,
        flush_interval_ms=given.flush_interval_ms,
        encoding=given.encoding,
        publish=given.publish,
        seed=given.seed,
        write_stall_s=getattr(given, "write_stall_s", 10.0),
    )
    if given.command == "city":
        return run_city(options, given.rate, given.warm_up, given.seconds, given.stalled, given.profile, given.json)
    return run_stall(options, given.rate, given.warm_up, given.seconds, given.stalled, given.pairs, given.json)


async def _unless_broken(running: Coroutine[Any, Any, int]) -> int:
    """End the run at the first exception in a callback: figures of a load client with a bug are none."""
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


def main() -> int:
    """Run the command; return its exit code."""
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    code: int = uvloop.run(_unless_broken(_run(_parser().parse_args())))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
