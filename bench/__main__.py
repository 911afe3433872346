"""The commands: `python -m bench COMMAND …`. Exit code 0: every bound was met; 1: one was not; 2: a wrong command line.

Law: a command is a module with `main(arguments) -> exit code`, and a line in the table below. Only the one that is
asked for is imported, so that what one of them needs (a browser, a compiler, a peer) is nobody else's business.
"""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "all": ("bench.all", "every promise in turn, and the table of them"),
    "engine": ("bench.engine", "the engine alone: pairs, changes, deltas, cost by viewports, memory per entity"),
    "micro": ("bench.micro.run", "its parts alone, by pytest-benchmark: R-tree, filters, drain, frames, decode"),
    "rtree": ("bench.rtree", "the R-tree of viewports against Boost.Geometry and the rtree package"),
    "yardstick": ("bench.yardstick", "frames a second against a bare send() loop on as many sockets"),
    "load": ("bench.load", "a server under load from native clients: deltas/s, latency, mirrors compared"),
    "capacity": ("bench.capacity", "what this machine carries: the knee in viewers, changes/s and deltas/s"),
    "nodes": ("bench.nodes", "two nodes over one Valkey: throughput, latency, starting on a full store"),
    "memory": ("bench.memory", "what an idle connection costs"),
    "compare": ("bench.compare", "the same workload against the replaced design, NATS, Tile38 and the reference engine"),
    "city": ("bench.city", "a thousand viewers of one city, every mirror compared with brute force"),
    "stall": ("bench.stall", "what clients that stop reading cost the others"),
    "workers": ("bench.workers", "two processes on one machine, joined by a unix socket or by a Valkey: changes/s, latency"),
    "store": ("bench.storing", "ways to keep a world in a local file, and what they cost a busy loop"),
    "demo": ("bench.demo", "what `realtime demo` takes of a core"),
    "console": ("bench.frames", "how smoothly the console draws, in Chromium"),
    "report": ("bench.html", "one HTML page from the results that --json wrote"),
}


def usage() -> str:
    """Return the help."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(("usage: python -m bench COMMAND …    (COMMAND --help: its options)", "", *lines))


def main(arguments: list[str]) -> int:
    """Run a command; return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] not in COMMANDS:
        print(f"{arguments[0]}: there is no such command\n\n{usage()}", file=sys.stderr)
        return 2
    code: int = import_module(COMMANDS[arguments[0]][0]).main(arguments[1:])
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
