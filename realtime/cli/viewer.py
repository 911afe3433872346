"""What a viewer sees, as the terminal shows it: the client's deltas taken apart into single changes.

Law: a change is told with the state that the mirror has right after it; of what left, with the last state it had.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from realtime.client.mirror import Mirror

CHECK_S = 2.0  # between two comparisons of the mirror with the world


class Change(NamedTuple):
    """What happened to one entity."""

    what: str  # enter, move, patch, leave
    feature: dict[str, Any]
    reason: str  # of a leave


class Unwatchable(Exception):
    """There is nothing to watch: no server, not let in, the view refused. `is_usage`: the view is wrong."""

    def __init__(self, message: str, is_usage: bool = False) -> None:
        super().__init__(message)
        self.is_usage = is_usage


class Viewer:
    """A connection that looks at one view."""

    def __init__(self, url: str, view: dict[str, Any], token: str | None) -> None:
        self.url = url
        self.mirror = Mirror()
        self.lag_ms = 0.0  # of the newest delta
        self.is_right: bool | None = None  # whether the mirror agreed with the last check; None: not checked yet
        self.is_connected = False
        self._view = view
        self._token = token

    async def deltas(self) -> AsyncIterator[list[Change]]:
        """Yield the changes of each delta. Raises `Unwatchable`."""
        try:
            async with connect(self.url, subprotocols=["realtime.v1.json"], max_size=None) as socket:  # type: ignore[list-item]
                identify = {"type": "identify", "client": "realtime watch"} | ({} if self._token is None else {"token": self._token})
                await socket.send(json.dumps(identify))
                await socket.send(json.dumps({"type": "view", "id": "watch"} | self._view))
                self.is_connected = True
                asking = asyncio.create_task(_keep_asking(socket))
                try:
                    async for frame in socket:
                        changes = self._take(json.loads(frame))
                        if changes is not None:
                            yield changes
                finally:
                    asking.cancel()
            raise Unwatchable(f"{self.url}: the server closed the connection: {socket.close_code} {socket.close_reason}".rstrip())
        except ConnectionClosed as error:
            raise Unwatchable(f"{self.url}: the connection ended: {error}") from None
        except (OSError, InvalidHandshake, InvalidURI) as error:
            raise Unwatchable(f"{self.url}: {getattr(error, 'strerror', None) or error}") from None

    def _take(self, message: dict[str, Any]) -> list[Change] | None:
        match message["type"]:
            case "delta":
                return self._apply(message)
            case "check":
                self.is_right = self.mirror.agrees(message)
            case "error" if message.get("ref") == "watch":
                raise Unwatchable(message["message"], is_usage=True)
        return None

    def _apply(self, delta: dict[str, Any]) -> list[Change]:
        before = dict(self.mirror.entities) if delta.get("reset") or delta.get("leave") else {}
        applied = self.mirror.apply(delta)
        self.lag_ms = delta.get("lag_ms", self.lag_ms)
        now = self.mirror.entities
        changes = [Change("leave", before[id], reason) for id, reason in applied.left.items()]
        for what, ids in (("enter", applied.entered), ("move", applied.moved), ("patch", applied.patched)):
            changes += [Change(what, now[id], "") for id in ids]
        return changes


async def _keep_asking(socket: ClientConnection) -> None:
    while True:
        await asyncio.sleep(CHECK_S)
        await socket.send('{"type":"check"}')
