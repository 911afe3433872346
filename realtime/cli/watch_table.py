"""How `realtime watch` shows changes: a line each, or a table of the newest.

Law: ids, kinds and reasons come from publishers; what a terminal might take for a command is never printed.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from rich.console import Console, Group
from rich.table import Table as Grid
from rich.text import Text

from realtime.cli.meter import Meter
from realtime.cli.viewer import Change
from realtime.client import Client

FRAME_LINES = 7  # of the screen, beside the entities: two of status, head, borders
STYLES = {"enter": "green", "move": "cyan", "patch": "yellow", "leave": "red"}


def line(change: Change, lag_ms: float | None) -> str:
    """Return a change as one line: what, id, version, position, kind, the lag of the newest frame; of a leave also why."""
    id, version, kind, position = cells(change.feature)
    words = [f"{change.what:<5}", id, version, position, kind, "" if lag_ms is None else f"lag {lag_ms:.1f} ms", change.reason]
    return " ".join(word for word in words if word)


def status(client: Client, meter: Meter, now: float) -> str:
    """Return how the whole is doing, in one line."""
    if client.status.state != "open":
        retry_s = client.status.retry_s
        return f"{client.status.state}{'' if retry_s is None else f', again within {retry_s:.1f} s'}: {client.status.reason}".rstrip(": ")
    mirror, counted = client.mirror, client.statistics
    words = [f"{len(mirror):,} entities", f"{meter.total:,} changes", f"{meter.per_s(now):,.0f}/s"]
    if mirror.sampled < 1:
        words[0] += f" of {mirror.total:,}"
    if counted.lag_ms is not None:
        words.append(f"lag {counted.lag_ms:.0f} ms")
    if counted.heals:
        words.append(f"mirror healed {counted.heals} times (checks: {counted.checks})")
    else:
        words.append(f"mirror right (checks: {counted.checks})" if counted.checks else "mirror not checked yet")
    return ", ".join(words)


def cells(feature: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return id, version, kind and position of a Feature, fit for a terminal."""
    return _shown(feature["id"]), str(feature["version"]), _shown(feature.get("kind") or ""), _position(feature["geometry"])


def _position(geometry: dict[str, Any]) -> str:
    """Return where a geometry is: a point's coordinates, or its type and where it begins."""
    place = geometry["coordinates"]
    while place and isinstance(place[0], list):
        place = place[0]
    begin = ",".join(f"{number:.6f}".rstrip("0").rstrip(".") for number in place[:2])
    return begin if geometry["type"] == "Point" else f"{geometry['type']}:{begin}"


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


class Table:
    """The entities that changed last, newest first, as many as the screen has room for."""

    def __init__(self, client: Client, now: float) -> None:
        self.console = Console()
        self._client = client
        self._meter = Meter(now)
        self._newest: OrderedDict[str, tuple[float, Change]] = OrderedDict()  # by id; the newest last

    def add(self, changes: list[Change], now: float) -> None:
        """Note what happened."""
        self._meter.add(len(changes), now)
        for change in changes:
            self._newest[change.feature["id"]] = (now, change)
            self._newest.move_to_end(change.feature["id"])
        while len(self._newest) > max(self.console.height, FRAME_LINES + 1):
            self._newest.popitem(last=False)

    def rendered(self, now: float) -> Group:
        """Return the screen."""
        grid = Grid(box=None, expand=True, header_style="bold", pad_edge=False)
        for name in ("", "id", "kind", "position", "version", "ago"):
            grid.add_column(name, no_wrap=True, justify="right" if name == "ago" else "left")
        for at, change in list(reversed(self._newest.values()))[: max(self.console.height - FRAME_LINES, 1)]:
            id, version, kind, position = cells(change.feature)
            what = Text(f"{change.what} {change.reason}".strip(), STYLES[change.what])
            grid.add_row(what, Text(id), Text(kind), position, version, f"{now - at:.0f} s")
        style = "bold" if self._client.status.state == "open" else "bold red"
        return Group(Text(self._client.url, "dim"), Text(status(self._client, self._meter, now), style), Text(), grid)
