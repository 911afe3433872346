"""The client's side: `mirror` has no I/O, `connection` drives one over a WebSocket."""

from realtime.client.backoff import Backoff
from realtime.client.changes import Changes
from realtime.client.connection import Client, Closed, Statistics, Status
from realtime.client.mirror import Applied, Mirror, MirrorError

__all__ = ["Applied", "Backoff", "Changes", "Client", "Closed", "Mirror", "MirrorError", "Statistics", "Status"]
