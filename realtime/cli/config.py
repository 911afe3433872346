"""`realtime config`: what is in force, and what there is to be set."""

from __future__ import annotations

from typing import Annotated

import typer

from realtime.cli.exits import Exit, fail
from realtime.cli.options import ConfigFile, Settings, configured


def config(
    file: ConfigFile = None,
    settings: Settings = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Print every setting with its default and its reason instead.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference page of all settings instead.")] = False,
) -> None:
    """Print the settings that are in force, and which engine runs.

    It is TOML that --config takes, except that tokens are left out.
    """
    from realtime.config.text import defaults_toml, effective_toml, reference_markdown

    if (defaults or markdown) and ((defaults and markdown) or file or settings):
        fail(Exit.USAGE, "--defaults and --markdown go with nothing else: they print what does not depend on any source")
    if defaults:
        text = defaults_toml()
    elif markdown:
        text = reference_markdown()
    else:
        loaded = configured(file, settings)
        from realtime.cli.serve import make_server

        text = effective_toml(loaded, make_server(loaded).node.engine_kind)
    print(text, end="")
