"""What a viewer sees, as the terminal shows it: the client's merged changes taken apart into single ones.

Law: a change is told with the state that the mirror has then; of what left, with the last state that was told. The
first connection has to come about; one that is lost later comes back by itself.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from realtime.client import Applied, Changes, Client, Closed, Status
from realtime.errors import CLOSE_CODES, CloseCode, ErrorCode, Refused

CHECK_INTERVAL_S = 2.0  # between two comparisons of the mirror with the world; somebody is looking


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
    """A client that looks at one view. Raises `Unwatchable` for a URL that is none."""

    def __init__(self, url: str, bbox: list[float], zoom: float, filter: Any, token: str | None) -> None:
        try:
            self.client = Client(
                url,
                token=token,
                name="realtime watch",
                check_interval_s=CHECK_INTERVAL_S,
                on_status=self._on_status,
                on_error=self._on_error,
            )
        except ValueError as error:
            raise Unwatchable(str(error), is_usage=True) from None
        self._view = (bbox, zoom, filter)
        self._told: dict[str, dict[str, Any]] = {}  # the entities that the consumer knows, as it was told them
        self._changes = Changes()

    async def changes(self) -> AsyncIterator[list[Change]]:
        """Yield what happened since the last item. Raises `Unwatchable`."""
        async with self.client:
            self._changes = aiter(self.client)
            looking = asyncio.create_task(self._look())
            try:
                async for applied in self._changes:
                    yield self._taken_apart(applied)
            except Closed as closed:
                raise Unwatchable(f"{self.client.url}: {_why(closed.code, closed.reason)}") from None
            finally:
                looking.cancel()

    async def _look(self) -> None:
        bbox, zoom, filter = self._view
        try:
            await self.client.look(bbox, zoom=zoom, filter=filter)
        except Refused as refused:
            is_usage = refused.code in (ErrorCode.BAD_VIEW, ErrorCode.BAD_FILTER)
            self._changes.end(Unwatchable(refused.message, is_usage))
        except Closed:
            return  # the changes say so themselves

    def _on_status(self, status: Status) -> None:
        if status.state == "waiting" and self.client.statistics.connections == 0:
            why = _why(status.code, status.reason)
            self._changes.end(Unwatchable(f"{self.client.url}: {why}; `realtime serve` starts a server, --url says where it is"))

    def _on_error(self, refused: Refused) -> None:
        print(f"refused: {refused.code}: {refused.message}", file=sys.stderr)

    def _taken_apart(self, applied: Applied) -> list[Change]:
        held = self.client.entities
        changes = [Change("leave", self._told.pop(id), reason) for id, reason in applied.left.items()]
        for what, ids in (("enter", applied.entered), ("move", applied.moved), ("patch", applied.patched)):
            for id in ids:
                self._told[id] = held[id]
                changes.append(Change(what, held[id], ""))
        return changes


def _why(code: int | None, reason: str) -> str:
    """Return why a connection ended: the server's own words, or what its code stands for."""
    if code is None or code not in set(CloseCode):
        return reason or "no connection"
    return f"{code}: {reason or CLOSE_CODES[CloseCode(code)].meaning}"
