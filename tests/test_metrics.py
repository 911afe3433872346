"""/metrics: what was counted is what is shown, by names and labels that do not depend on what clients send."""

from __future__ import annotations

import logging
import re

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from realtime.counters import Histogram
from realtime.errors import CLOSE_CODES, ErrorCode
from tests.api_node import NDJSON, feature, in_memory, join, ndjson
from tests.conftest import ROOT
from tests.spied_engine import SpiedEngine

pytestmark = pytest.mark.usefixtures("engine_kind")

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def read(text: str) -> Samples:
    """Return every sample by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_counts_are_shown() -> None:
    async with in_memory() as (client, gate):
        updates = [
            feature("a"),
            feature("a"),
            feature("b", version=3),
            feature("b", version=2),
            {"op": "move", "id": "c", "lon": 0, "lat": 0},
            1,
        ]
        await client.post("/v1/updates", content=ndjson(updates), headers=NDJSON)
        await client.delete("/v1/entities/b")
        session, _ = join(gate)
        lag = Histogram()
        lag.observe(0.003)
        gate.node.engine = SpiedEngine(gate.node.engine, flush_lag=lag)
        gate.node.counters.loop_lag.observe(99)
        session.on_close(4000)
        response = await client.get("/metrics")
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        samples = read(response.text)

    def value(name: str, **labels: str) -> float:
        return samples["realtime_" + name, tuple(sorted(labels.items()))]

    assert [value("updates_total", verdict=verdict) for verdict in ("accepted", "unchanged", "stale", "rejected")] == [3, 1, 1, 2]
    assert (value("rejected_total", code="unknown_entity"), value("rejected_total", code="bad_update")) == (1, 1)
    assert (value("entities"), value("tombstones"), value("sessions"), value("outbox_entities")) == (1, 1, 0, 0)
    assert value("connections_closed_total", code="4000") == 1
    assert (value("loop_lag_seconds_count"), value("loop_lag_seconds_sum")) == (1, 99)
    assert (value("flush_lag_seconds_bucket", le="0.0025"), value("flush_lag_seconds_bucket", le="0.005")) == (0, 1)
    assert (value("loop_lag_seconds_bucket", le="10.0"), value("loop_lag_seconds_bucket", le="+Inf")) == (0, 1)
    assert samples["process_start_time_seconds", ()] > 0


async def test_labels_are_a_fixed_table_and_there_from_the_start() -> None:
    async with in_memory() as (client, _):
        samples = read((await client.get("/metrics")).text)
    labels: dict[str, set[str]] = {name: set() for name, _ in samples}
    for name, pairs in samples:
        labels[name] |= {value for _, value in pairs}
    assert labels["realtime_updates_total"] == {"accepted", "unchanged", "stale", "rejected"}
    assert labels["realtime_rejected_total"] == {str(code) for code in ErrorCode}
    assert labels["realtime_connections_closed_total"] == {str(int(code)) for code in CLOSE_CODES}
    assert len({name for name in labels if name.startswith("realtime_")}) >= 10


async def test_nothing_global_is_touched() -> None:
    before = set(REGISTRY._names_to_collectors)
    async with in_memory() as (client, _), in_memory() as (other, _):
        await client.post("/v1/updates", json=feature("a"))
        assert read((await client.get("/metrics")).text)["realtime_entities", ()] == 1
        assert read((await other.get("/metrics")).text)["realtime_entities", ()] == 0
    assert set(REGISTRY._names_to_collectors) == before
    assert logging.getLogger("prometheus_client").handlers == []


async def test_the_docs_name_the_metrics() -> None:
    page = (ROOT / "docs" / "publishing.md").read_text()
    documented = dict(re.findall(r"^\| `(realtime_\w+)(?:\{\w+\})?` \| (\w+) \|", page, re.MULTILINE))
    async with in_memory() as (client, _):
        families = text_string_to_metric_families((await client.get("/metrics")).text)
        shown = {family.name + "_total" * (family.type == "counter"): family.type for family in families}
    assert documented == {name: kind for name, kind in shown.items() if name.startswith("realtime_")}
