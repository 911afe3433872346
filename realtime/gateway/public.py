"""What the public port answers to a plain GET: the health check; the console and the client module where they are there.

Law: nothing here tells anything about the world or its sessions; that is the API's, on a port of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from realtime.node import Node


class Page(NamedTuple):
    """One plain response."""

    status: int
    content_type: str
    body: bytes


class Public:
    """The pages of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def get(self, path: str, headers: Mapping[str, str]) -> Page | None:
        """Return the page at a path; None: there is none."""
        if path == "/healthz":
            return Page(200, "text/plain; charset=utf-8", b"ok\n")
        return None
