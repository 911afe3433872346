"""An engine that a test listens in on: every call goes through, and some do something else first.

The native engine has no attributes that could be replaced, so the node is given this one in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from realtime.node import Node


class SpiedEngine:
    """The engine of a node, with something of it replaced."""

    def __init__(self, engine: Any, **replaced: Any) -> None:
        self._engine = engine
        vars(self).update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def replace(monkeypatch: pytest.MonkeyPatch, node: Node, name: str, call: Callable[..., Any]) -> Any:
    """Replace a call of the node's engine; return the original."""
    engine = node.engine
    monkeypatch.setattr(node, "engine", SpiedEngine(engine, **{name: call}))
    return getattr(engine, name)
