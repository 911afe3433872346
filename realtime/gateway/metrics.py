"""What /metrics tells: one collector that reads the counters and the engine when it is asked.

Law: nothing is counted here, and nothing is registered globally. A label is from a fixed table, never a user, an id
or anything else that a client chooses; what has not happened yet is there as 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from realtime.counters import Histogram
from realtime.errors import CLOSE_CODES, ErrorCode
from realtime.gateway.others import Sums
from realtime.node import Node

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# name -> (key of the engine's statistics, meaning)
_GAUGES = {
    "realtime_sessions": ("sessions", "Sessions that have identified themselves."),
    "realtime_entities": ("entities", "Entities in the world."),
    "realtime_tombstones": ("tombstones", "Deaths remembered."),
    "realtime_feed_entities": ("feeds", "Entities whose state other nodes or a store have still to be told."),
    "realtime_outbox_entities": ("outbox_entities", "Entities whose copy may be out of date, over all sessions."),
}
_MERGED = ("accepted", "unchanged", "stale", "bad")
_VERDICTS = ("accepted", "unchanged", "stale", "rejected")


class ServerCollector(Collector):
    """The metrics of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.sums = Sums(node)

    def collect(self) -> Iterable[Metric]:
        counters, statistics, flush_lag = self.sums.counters(), self.sums.statistics(), self.sums.flush_lag()
        for name, (key, meaning) in _GAUGES.items():
            yield GaugeMetricFamily(name, meaning, statistics[key])
        yield _labelled("realtime_updates", "Updates by what became of them.", "verdict", counters.updates, _VERDICTS)
        yield _labelled("realtime_states", "States told by others, by what became of them.", "verdict", counters.states, _MERGED)
        yield _labelled("realtime_bus", "What went over the bus and into the store, by name.", "event", counters.bus, ())
        yield _labelled("realtime_troubles", "Failures of Redis or of a file, by class.", "class", counters.troubles, ())
        yield GaugeMetricFamily("realtime_bus_backlog", "Entities that the other nodes have still to be told of.", self._node.backlog())
        yield GaugeMetricFamily("realtime_bus_lag_seconds", "Age of the bus entry read last.", counters.bus_lag_s)
        yield GaugeMetricFamily("realtime_degraded", "1 while /readyz names troubles.", int(bool(self._node.degraded)))
        yield _labelled("realtime_rejected", "Updates and messages refused, by error code.", "code", counters.rejected, ErrorCode)
        yield _labelled("realtime_connections_closed", "WebSockets closed, by close code.", "code", counters.closed, CLOSE_CODES)
        yield _labelled("realtime_events", "What connections and the API met, by name.", "event", counters.events, ())
        yield CounterMetricFamily("realtime_frames", "Deltas written.", counters.frames)
        yield CounterMetricFamily("realtime_frame_bytes", "Bytes of the deltas written.", counters.frame_bytes)
        yield CounterMetricFamily("realtime_pairs", "Pairs of a change and a session it was matched with.", statistics["pairs"])
        yield _histogram("realtime_flush_lag_seconds", "Age of the oldest change in a delta as it is written.", flush_lag)
        yield _histogram("realtime_loop_lag_seconds", "How late the event loop ran its timers.", counters.loop_lag)


class WorkersCollector(Collector):
    """What is told of each process that shares the public port."""

    def __init__(self, sums: Sums) -> None:
        self.count = 0
        self._sums = sums

    def collect(self) -> Iterable[Metric]:
        return self._sums.by_worker(self.count)


class Metrics:
    """A registry of one node's metrics and its process's."""

    def __init__(self, node: Node) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._server = ServerCollector(node)
        self._process = ProcessCollector(registry=None)
        self._workers = WorkersCollector(self._server.sums)
        self._registry.register(self._server)
        self._registry.register(self._process)

    def hear(self, count: int, answers: dict[int, bytes]) -> None:
        """Take note of what the other processes of this machine said; from now on each is told of apart."""
        if not self._workers.count:
            self._registry.unregister(self._process)
            self._workers.count = count
            self._registry.register(self._workers)
        self._server.sums.hear(answers)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


def _labelled(name: str, meaning: str, label: str, counts: Mapping[str, int] | Mapping[int, int], known: Iterable[str | int]) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=[label])
    for value, count in {**dict.fromkeys(map(_text, known), 0), **{_text(value): count for value, count in counts.items()}}.items():
        family.add_metric([value], count)
    return family


def _text(value: str | int) -> str:
    """Return a label's value; an enum's is its value, not its name."""
    return value.value if isinstance(value, ErrorCode) else str(int(value)) if isinstance(value, int) else value


def _histogram(name: str, meaning: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, meaning, buckets=histogram.buckets(), sum_value=histogram.sum)
