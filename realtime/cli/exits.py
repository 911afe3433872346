"""How a command ends: its exit codes, and its last words.

Law: whatever goes wrong for a reason that the user can act on is one line on stderr that begins with the program's
name, and one of these codes. A traceback is a bug.
"""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import NoReturn


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    FAILED = 1  # it could not be done: a port in use, no server, a file that is no trace
    USAGE = 2  # the command line or the configuration is wrong; nothing was tried
    INTERRUPTED = 130  # Ctrl-C before the end


def fail(code: Exit, message: str) -> NoReturn:
    """End the command with its last words."""
    print(f"realtime: {message}", file=sys.stderr)
    sys.exit(code)
