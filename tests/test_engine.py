"""The engines against the model, each alone and the two side by side: see tests/nodes_machine.py and tests/dual_engine.py.

`HYPOTHESIS_PROFILE=long pytest tests/test_engine.py --hypothesis-seed=N` plays for minutes, twenty times as many and twice
as long games, and the same ones for the same N. What fails is shrunk, which takes up to five minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from realtime.engine import Engine, Op, Settings, Update
from realtime.engine.choice import choose_engine
from realtime.engine.reference import ReferenceEngine
from tests.conftest import ENGINES
from tests.nodes_machine import NodesMachine

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
GAMES = settings.default.max_examples if settings.default else 100

pytestmark = pytest.mark.timeout(0 if IS_LONG else 600)


def machine(name: str, make_engine: Callable[[Settings], Engine], games: int) -> Any:
    """Return the tests of an engine: so many games, all of them in the long profile."""
    Machine: Any = type(name, (NodesMachine,), {"make_engine": staticmethod(make_engine)})
    Machine.TestCase.settings = settings(
        max_examples=GAMES if IS_LONG else games,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    return Machine.TestCase


TestReferenceEngine = machine("Reference", ReferenceEngine, 40)

if "native" in ENGINES:  # and where it was not built though there is a compiler, this fails
    from realtime._native import NativeEngine
    from tests.dual_engine import DualEngine

    TestNativeEngine = machine("Native", NativeEngine, 100)
    TestBothEngines = machine("Both", DualEngine, 200)


@pytest.mark.parametrize("kind", ENGINES)
def test_tombstones_are_bounded(kind: Any) -> None:
    engine = choose_engine(kind)[1](Settings(6, 16_384, 64, 0.1, 40.0, 5), 0)
    for number in range(8):
        engine.apply([Update(Op.DELETE, f"e{number}")], 1_700_000_000.0 + number)
    assert engine.statistics()["tombstones"] == 5
    assert engine.next_expiry() == 1_700_000_003.0 + 40, "the oldest were forgotten first"
