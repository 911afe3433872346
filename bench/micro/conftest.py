"""What the suites share: the engine of a benchmark, filled or empty.

Law: a benchmark without an engine in its name measures what both use; one with an engine exists for each that is built.
"""

from __future__ import annotations

import random

import pytest

from bench.engine_city import START_S
from bench.engines import NATIVE, REFERENCE, available, make
from realtime.engine import Encoding, Engine, View

ENTITIES = 2000
VIEWPORTS = 10_000
SEED = 1


@pytest.fixture(scope="module", params=[NATIVE, REFERENCE])
def kind(request: pytest.FixtureRequest) -> str:
    """The engine's name; skipped where it is not built."""
    name: str = request.param
    if not available([name]):
        pytest.skip(f"the {name} engine is not built")
    return name


@pytest.fixture
def engine(kind: str) -> Engine:
    """An empty engine."""
    return make(kind)


@pytest.fixture(scope="module")
def crowded(kind: str) -> Engine:
    """An engine with viewports all over the world, and nothing in it."""
    made, chance = make(kind), random.Random(SEED)
    for _ in range(VIEWPORTS):
        west, south, width = chance.uniform(-179, 178), chance.uniform(-85, 84), chance.uniform(0.05, 0.5)
        session = made.open((), None, Encoding.JSON)
        made.look(session, View(((west, south, west + width, south + width),)), None, START_S)
        made.drain(session, 1 << 20, START_S)
    made.take_dirty(START_S)
    return made
