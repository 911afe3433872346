"""What it costs to ask a filter about an entity."""

from __future__ import annotations

from typing import Any

import pytest

from bench.crowd import FILTERS, Crowd
from bench.engine_city import START_S
from bench.micro.conftest import ENTITIES
from realtime.config import LimitsConfig
from realtime.engine import Engine
from realtime.engine.filters import parse_filter
from realtime.geo import WORLD

NAMES = ("kind", "in 30", "number", "any", "all", "not in", "has", "kind and in 20", "any of two", "has and number")


@pytest.fixture(scope="module")
def filled(kind: str) -> Engine:
    """An engine with entities."""
    from bench.engines import make

    made = make(kind)
    made.apply(list(Crowd(1, 1, ENTITIES).upserts()), START_S)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_ask(benchmark: Any, filled: Engine, name: str) -> None:
    """Ask a filter about every entity; it is joined with a question that none passes, so that nothing is written."""
    expression = ["all", FILTERS[NAMES.index(name)], ["==", ["get", "no such"], 1]]
    filter = parse_filter(expression, None, LimitsConfig())
    found = benchmark(filled.search, (WORLD,), 24.0, filter)
    assert found == []
    benchmark.extra_info["per"] = ENTITIES


def test_read(benchmark: Any) -> None:
    """Read an expression and make the filter of it."""
    benchmark(parse_filter, FILTERS[7], None, LimitsConfig())
