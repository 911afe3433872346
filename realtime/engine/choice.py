"""Which engine runs: the native one where it was built, else the reference engine.

Law: the only place that asks whether `realtime._native` is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from realtime.engine import Engine, Settings, states
from realtime.engine.reference import ReferenceEngine
from realtime.errors import ConfigError

EngineKind = Literal["native", "reference"]

Split = Callable[[bytes], list[tuple[str, bytes]]]
Join = Callable[[Iterable[bytes]], bytes]

try:
    from realtime._native import NativeEngine, join_states, split_states
except ImportError as error:
    _missing: str | None = str(error)
else:
    _missing = None


def choose_engine(kind: Literal["auto", "native", "reference"]) -> tuple[EngineKind, Callable[[Settings, int], Engine]]:
    """Return the kind of engine that `engine.kind` means here, and what makes one of (settings, node number).

    Raises `ConfigError` where the native engine is asked for by name and is not there.
    """
    if kind == "reference" or (kind == "auto" and _missing is not None):
        return "reference", ReferenceEngine
    if _missing is not None:
        raise ConfigError(f"engine.kind: the native engine was not built when this was installed ({_missing})")
    return "native", NativeEngine


def choose_batches(kind: EngineKind) -> tuple[Split, Join]:
    """Return what takes batches of states apart and puts them together, as `realtime.engine.states` does, for a kind of engine."""
    return (states.split, states.join) if kind == "reference" else (split_states, join_states)
