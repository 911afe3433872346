"""The engines that can be measured, made alike.

Law: every engine gets the same bounds; one that is not built is told as missing and never replaced by another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from realtime.engine import Engine, Settings
from realtime.engine.reference import ReferenceEngine

FLUSH_INTERVAL_S = 0.1
SETTINGS = Settings(
    entities_per_view=1_000_000,  # nothing is sampled: a brute-force count would have to sample as the engine does
    entity_bytes=16 * 1024,
    entity_properties=64,
    flush_interval_s=FLUSH_INTERVAL_S,
    tombstone_s=3600.0,
    tombstones_max=1_000_000,
)
FRAME_BYTES = 256 * 1024
NATIVE, REFERENCE = "native", "reference"


def _native() -> Callable[[Settings, int], Engine]:
    made: Callable[[Settings, int], Engine] = import_module("realtime._native").NativeEngine
    return made


_MAKERS: dict[str, Callable[[], Callable[[Settings, int], Engine]]] = {NATIVE: _native, REFERENCE: lambda: ReferenceEngine}


def make(kind: str, settings: Settings = SETTINGS) -> Engine:
    """Return a new engine. Raises ImportError where it is not built."""
    return _MAKERS[kind]()(settings, 0)


def available(kinds: Sequence[str] = (NATIVE, REFERENCE)) -> list[str]:
    """Return those of `kinds` that are built here."""
    found = []
    for kind in kinds:
        try:
            _MAKERS[kind]()
        except ImportError:
            continue
        found.append(kind)
    return found
