"""What a client says of its connection: the states it has, how it ends, and what is counted."""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec import Struct

BROKEN = 1006  # how a connection ended that nobody closed, as RFC 6455 numbers it


class Closed(ConnectionError):
    """There is no connection any more: the one that a call was made on is gone, or the client stays away for good."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Status(NamedTuple):
    """How the connection is. `waiting`: it comes back after `retry_s`; `closed`: it does not."""

    state: Literal["connecting", "open", "waiting", "closed"]
    code: int | None = None  # how the last connection ended; 1006: it broke, or never was
    reason: str = ""
    retry_s: float | None = None


class Statistics(Struct):
    """What was counted since the client was made."""

    connections: int = 0  # welcomes
    deltas: int = 0  # applied
    bytes: int = 0  # of all messages received
    lag_ms: float | None = None  # of the newest delta that says it
    checks: int = 0  # comparisons with the server's digest
    heals: int = 0  # times that the mirror was in doubt and was asked for anew
    errors: int = 0  # refusals by the server

    @property
    def reconnects(self) -> int:
        """How often the client came back."""
        return max(self.connections - 1, 0)
