"""The command `realtime`: one file a command, and what they share.

Law: Typer and Rich are imported under here and nowhere else. A command imports what it runs when it runs, so that
`serve` starts without the demo and `--help` without the server.
"""

import sys

from realtime.cli.exits import Exit


def main() -> None:
    """Run the command line of this process. Ctrl-C ends it without a traceback, also while it is still importing."""
    try:
        from realtime.cli.app import app

        app(prog_name="realtime")
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
