"""The other processes of this machine that share the public port, as the API speaks for them.

Law: each process counts for itself and answers for its own sessions; nobody adds anything up before it is asked for. A
process that does not answer in time is left out of a list, and stays in the sums with what it said before. The sums never
fall when one of the others is started again: what the old one had said is kept.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import msgspec
from msgspec import Struct
from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from realtime.counters import Counters, Histogram
from realtime.gateway.answers import SessionLine
from realtime.gateway.session import Gate, Session
from realtime.node import Node

TALLY, SESSIONS, EXPLAIN = "tally", "sessions", "explain"
SESSIONS_PER_TURN = 500
ADDED = ("sessions", "outbox_entities", "pairs")  # of the engines' statistics; the world is the same everywhere

PROCESS = secrets.token_hex(8)  # of this start of this process


class Tally(Struct):
    """What one process has counted."""

    process: str
    counters: dict[str, Any]
    statistics: dict[str, int | float]
    flush_lag: dict[str, Any]
    own: list[tuple[str, str, bool, float]]  # of the operating system: name, meaning, whether it only grows, value


_process = ProcessCollector(registry=None)
_tally = msgspec.msgpack.Decoder(Tally)


def tally(node: Node) -> Tally:
    """Return what this process has counted."""
    own = [
        (metric.name, metric.documentation, metric.type == "counter", sample.value)
        for metric in _process.collect()
        for sample in metric.samples
    ]
    return Tally(PROCESS, _told(node.counters), dict(node.engine.statistics()), _told_histogram(node.engine.flush_lag), own)


async def answer(gate: Gate, worker: int, what: str, argument: str) -> bytes:
    """Answer what another process asks of this one; nothing where there is nothing to say."""
    if what == TALLY:
        return msgspec.msgpack.encode(tally(gate.node))
    if what == SESSIONS:
        return msgspec.json.encode(await session_lines(gate, worker)).strip(b"[]")
    if what == EXPLAIN:
        name, _, id = argument.partition(" ")
        return explain(gate, name, id)
    return b""


def explain(gate: Gate, name: str, id: str) -> bytes:
    """Return why a session of this process sees an entity or does not, as JSON; nothing where the session is not here."""
    session = gate.sessions.get(name)
    if session is None or session.number == 0:
        return b""
    return msgspec.json.encode(gate.node.engine.explain(session.number, id))


async def session_lines(gate: Gate, worker: int | None) -> list[SessionLine]:
    """Return a line for each session of this process, a few in each turn of the loop."""
    lines = []
    for place, session in enumerate(list(gate.sessions.values()), 1):
        if session.number:
            lines.append(_line(gate.node, session, worker))
        if place % SESSIONS_PER_TURN == 0:
            await asyncio.sleep(0)
    return lines


def _line(node: Node, session: Session, worker: int | None) -> SessionLine:
    counts = node.engine.statistics(session.number)
    return SessionLine(
        session.name,
        session.who.user,
        session.client,
        session.peer,
        session.encoding,
        int(counts["seq"]),
        int(counts["total"]),
        int(counts["shown"]),
        int(counts["outbox"]),
        msgspec.UNSET if worker is None else worker,
    )


class Sums:
    """What all processes have counted together. A tally that another process sent is not trusted to be well-formed."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._last: dict[int, Tally] = {}  # by number
        self._past: list[Tally] = []  # one: of all that were there and are not any more
        self._present: set[int] = set()  # who answered at last

    def hear(self, answers: dict[int, bytes]) -> None:
        """Take note of what the others said."""
        self._present = set()
        for number, body in answers.items():
            try:
                heard = _tally.decode(body)
            except (msgspec.DecodeError, UnicodeError):
                continue
            last = self._last.get(number)
            if last is not None and last.process != heard.process:
                self._retire(last)
            self._last[number] = heard
            self._present.add(number)

    def _retire(self, last: Tally) -> None:
        """Keep the sum of what is gone: one tally, however many there were."""
        counters, flush_lag = Counters(), Histogram()
        for one in (*self._past, last):
            _add(counters, one.counters)
            _add_histogram(flush_lag, one.flush_lag)
        pairs = sum(one.statistics.get("pairs", 0) for one in (*self._past, last))
        self._past = [Tally("", _told(counters), {"pairs": pairs}, _told_histogram(flush_lag), [])]

    def counters(self) -> Counters:
        """Return the counters of all."""
        total = Counters()
        _add(total, _told(self._node.counters))
        for one in (*self._past, *self._last.values()):
            _add(total, one.counters)
        return total

    def flush_lag(self) -> Histogram:
        """Return the flush lag of all."""
        total = Histogram()
        _add_histogram(total, _told_histogram(self._node.engine.flush_lag))
        for one in (*self._past, *self._last.values()):
            _add_histogram(total, one.flush_lag)
        return total

    def statistics(self) -> dict[str, int | float]:
        """Return this engine's statistics, with those that are not of the world added up."""
        total = dict(self._node.engine.statistics())
        for key in ADDED:
            gone = sum(one.statistics.get(key, 0) for one in self._past)
            total[key] += gone + sum(
                one.statistics.get(key, 0) for number, one in self._last.items() if key == "pairs" or number in self._present
            )
        return total

    def by_worker(self, count: int) -> list[Metric]:
        """Return what is told of each process apart."""
        tallies = {0: tally(self._node)} | {number: self._last[number] for number in sorted(self._present)}
        up = GaugeMetricFamily("realtime_worker_up", "1 where a process answers.", labels=["worker"])
        for number in range(count):
            up.add_metric([str(number)], float(number in tallies))
        sessions = GaugeMetricFamily("realtime_worker_sessions", "Sessions of each process.", labels=["worker"])
        families: dict[str, Metric] = {"up": up, "sessions": sessions}
        for number, one in tallies.items():
            sessions.add_metric([str(number)], one.statistics.get("sessions", 0))
            for name, meaning, grows, value in one.own:
                family = families.get(name)
                if family is None:
                    family = families[name] = (CounterMetricFamily if grows else GaugeMetricFamily)(name, meaning, labels=["worker"])
                family.add_metric([str(number)], value)  # type: ignore[attr-defined]
        return list(families.values())


# Counters on their way


def _told(counters: Counters) -> dict[str, Any]:
    """Return all counts by name, whichever there are."""
    return {name: _told_histogram(value) if isinstance(value, Histogram) else value for name, value in vars(counters).items()}


def _told_histogram(histogram: Histogram) -> dict[str, Any]:
    return {"counts": list(histogram.counts), "sum": histogram.sum}


def _add(counters: Counters, told: dict[str, Any]) -> None:
    """Add counts that have the shape of ours, and nothing else."""
    for name, value in vars(counters).items():
        other = told.get(name)
        if isinstance(value, Histogram):
            if isinstance(other, dict):
                _add_histogram(value, other)
        elif isinstance(value, dict):
            if isinstance(other, dict):
                for key, count in other.items():
                    if isinstance(count, int):
                        value[key] = value.get(key, 0) + count
        elif isinstance(other, int | float):
            setattr(counters, name, value + other)


def _add_histogram(histogram: Histogram, told: dict[str, Any]) -> None:
    counts, total = told.get("counts"), told.get("sum")
    if isinstance(counts, list) and isinstance(total, int | float) and len(counts) == len(histogram.counts):
        histogram.counts = [mine + theirs for mine, theirs in zip(histogram.counts, counts, strict=True)]
        histogram.sum += total
