"""`realtime demo`: the server with a world that is alive, and the page to look at it.

Law: the world is published through `Server.publish`, as anybody's would be. stdout carries the address of the page,
once it can be opened, and nothing else.
"""

from __future__ import annotations

import asyncio
import sys
import webbrowser
from typing import TYPE_CHECKING, Annotated

import typer

from realtime.cli.options import ConfigFile, Settings, configured
from realtime.cli.serve import serve_until_told
from realtime.config import Flag

if TYPE_CHECKING:
    from realtime.server import Server

ENTITIES_PER_VIEW = 20_000  # all of them may be looked at at once


def demo(
    file: ConfigFile = None,
    port: Annotated[str | None, typer.Option(metavar="N", help="Public port, for viewers (server.port); 0 picks a free one.")] = None,
    http_port: Annotated[str | None, typer.Option(metavar="N", help="API port, for publishers (http.port); 0 picks a free one.")] = None,
    settings: Settings = None,
    aircraft: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="How many aircraft fly.")] = 10_000,
    opens: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Run the server with a world that is alive.

    The 5,000 largest towns, aircraft between them, the recorded
    buses of Austin at ten times their pace, and a recorded week of
    earthquakes. It prints the address of a page; open that.
    """
    flags = {("--port", "server.port"): port, ("--http-port", "http.port"): http_port}
    config = configured(
        file,
        [f"limits.entities_per_view={ENTITIES_PER_VIEW}", *(settings or ())],
        [Flag(*names, text) for names, text in flags.items() if text is not None],
    )

    async def live(server: Server) -> None:
        from realtime.demo import world

        task = asyncio.create_task(world.run(server.publish, aircraft=aircraft))
        print(f"{server.page_url}/")
        sys.stdout.flush()
        if opens:
            webbrowser.open(f"{server.page_url}/")
        await task

    serve_until_told(config, live)
