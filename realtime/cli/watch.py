"""`realtime watch`: what a viewer gets, live in the terminal.

Law: it is a client like any other and shows what its mirror holds. Where stdout is no terminal it prints one line a
change, so that it can be piped: what, id, version, position, and the lag of the frame that brought it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from realtime.cli.exits import Exit, fail

if TYPE_CHECKING:
    from rich.live import Live

    from realtime.cli.viewer import Viewer
    from realtime.cli.watch_table import Table

REFRESH_S = 0.125  # of the table
STATUS_S = 5.0  # between two lines on stderr


def watch(
    bbox: Annotated[str, typer.Option(metavar="W,S,E,N", help="What to look at, in degrees.")] = "-180,-90,180,90",
    zoom: Annotated[float, typer.Option(metavar="Z", help="Zoom level; entities may ask for a least one.")] = 24.0,
    filter: Annotated[str | None, typer.Option(metavar="JSON", help='Filter expression, as \'["==", ["kind"], "bus"]\'.')] = None,
    url: Annotated[str, typer.Option(metavar="URL", help="Where viewers connect.")] = "ws://127.0.0.1:8765/ws",
    token: Annotated[str | None, typer.Option(envvar="REALTIME_TOKEN", show_envvar=True, help="Who is watching.")] = None,
) -> None:
    """Show what a viewer of a part of the world gets, live.

    In a terminal: a table of what changed last. Otherwise: one line
    a change. Ctrl-C ends it.
    """
    from realtime.cli.viewer import Unwatchable, Viewer

    box, expression = _parse_bbox(bbox), None if filter is None else _parse_filter(filter)
    try:
        viewer = Viewer(url, box, zoom, expression, token)
        asyncio.run(_show(viewer) if sys.stdout.isatty() else _print(viewer))
    except KeyboardInterrupt:
        sys.exit(Exit.DONE)
    except BrokenPipeError:
        # Whoever read our lines has enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.DONE)
    except Unwatchable as error:
        fail(Exit.USAGE if error.is_usage else Exit.FAILED, str(error))


def _parse_bbox(text: str) -> list[float]:
    try:
        return list(msgspec.json.decode(f"[{text}]", type=tuple[float, float, float, float]))
    except msgspec.DecodeError:
        fail(Exit.USAGE, f"--bbox {text}: west,south,east,north in degrees is expected")


def _parse_filter(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        fail(Exit.USAGE, f"--filter: JSON is expected: {error}")


async def _print(viewer: Viewer) -> None:
    """Print a line for each change to stdout, and every few seconds how the whole is doing to stderr."""
    from realtime.cli.meter import Meter
    from realtime.cli.watch_table import line, status

    meter = Meter(time.monotonic())

    async def report() -> None:
        while True:
            await asyncio.sleep(STATUS_S)
            print(status(viewer.client, meter, time.monotonic()), file=sys.stderr)

    async with _beside(report()):
        async for changes in viewer.changes():
            meter.add(len(changes), time.monotonic())
            for change in changes:
                print(line(change, viewer.client.statistics.lag_ms))
            sys.stdout.flush()


async def _show(viewer: Viewer) -> None:
    """Keep a table of the newest changes on the screen."""
    from rich.live import Live

    from realtime.cli.watch_table import Table

    table = Table(viewer.client, time.monotonic())
    with Live(console=table.console, auto_refresh=False, screen=True) as live:
        async with _beside(_paint(live, table)):
            async for changes in viewer.changes():
                table.add(changes, time.monotonic())


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do something beside the body, until it ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


async def _paint(live: Live, table: Table) -> None:
    while True:
        live.update(table.rendered(time.monotonic()), refresh=True)
        await asyncio.sleep(REFRESH_S)
