"""The client's side: `mirror` has no I/O, `connection` drives one over a WebSocket."""

from realtime.client.backoff import Backoff
from realtime.client.changes import Changes
from realtime.client.connection import Client
from realtime.client.mirror import Applied, Mirror, MirrorError
from realtime.client.status import Closed, Statistics, Status

__all__ = ["Applied", "Backoff", "Changes", "Client", "Closed", "Mirror", "MirrorError", "Statistics", "Status"]
