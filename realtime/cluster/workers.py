"""Several processes on one machine: which place each has among them.

Law: there is one hub, worker 0. It alone takes updates and gives versions; whatever the others hold they have from it, so
all of them can be lost but one. How they are started, and started again, is `realtime.cli.supervise`'s.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from msgspec import Struct

from realtime.errors import ConfigError

HUB = 0
SOCKET_NAME = "hub"
SOCKET_PATH_BYTES_MAX = 107  # what the kernel has room for
# What a frame between workers has room for, several times over.
MESSAGE_BYTES_MAX = ENTITY_BYTES_MAX = 8 * 1024 * 1024


class Place(Struct, frozen=True):
    """What a process is told of its place."""

    number: int  # 0: the hub
    count: int
    path: str  # of the hub's socket
    clock_offset_s: float  # wall clock less monotonic clock, the same for all: a deadline comes for all at once
    holders: list[int]  # of a hub: who holds the world already, because it is not the first hub

    @property
    def is_hub(self) -> bool:
        """Whether this is the one that takes updates."""
        return self.number == HUB


def make_directory() -> tempfile.TemporaryDirectory[str]:
    """Make the private directory of the hub's socket. Raises `ConfigError` where the path would be too long."""
    made = tempfile.TemporaryDirectory(prefix="realtime-", ignore_cleanup_errors=True)  # mode 0700
    if len(socket_path(made.name).encode()) > SOCKET_PATH_BYTES_MAX:
        name = made.name
        made.cleanup()
        raise ConfigError(f"TMPDIR: {name} is too long for the path of a unix socket")
    return made


def socket_path(directory: str) -> str:
    """Return where the hub listens."""
    return str(Path(directory) / SOCKET_NAME)
