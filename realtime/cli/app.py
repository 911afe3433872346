"""The commands, in the order in which one meets them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from realtime.cli.config import config
from realtime.cli.demo import demo
from realtime.cli.replay import replay
from realtime.cli.serve import serve
from realtime.cli.watch import watch

app = typer.Typer(
    help="Live maps: each viewer sees, now, exactly what is inside their viewport and passes their filter.",
    no_args_is_help=True,
    add_completion=False,
    # Rich's tracebacks show local variables, and those may be tokens.
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        try:
            print(f"realtime {version('realtime-geo')}")
        except PackageNotFoundError:
            print("realtime, not installed as a package")
        raise typer.Exit


@app.callback()
def realtime(
    _: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Live maps: each viewer sees, now, exactly what is inside their viewport and passes their filter."""


for command in (demo, serve, replay, watch, config):
    app.command()(command)
