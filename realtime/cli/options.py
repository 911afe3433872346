"""Options that several commands have, and what is loaded from them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from realtime.cli.exits import Exit, fail
from realtime.config import Config, Flag, load
from realtime.errors import ConfigError

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file with settings; it needs only those that differ from the defaults."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="One setting, as --set limits.flush_interval_ms=100. May be given several times."
    ),
]


def configured(path: Path | None, settings: Iterable[str] | None, flags: Iterable[Flag] = ()) -> Config:
    """Return the configuration of all sources; end the command with exit code 2 if one is wrong."""
    try:
        return load(path, os.environ, settings or (), flags)
    except ConfigError as error:
        fail(Exit.USAGE, f"bad configuration: {error}")
