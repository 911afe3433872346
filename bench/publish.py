"""The open loop: changes are published when they are due, whatever the server does.

Law: the schedule is fixed before the first change. A publisher that is late sends all that is due, and everybody
measures from when it was due: a server that stalls the publisher cannot make its own latency look better (what is
called coordinated omission).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from time import monotonic

from msgspec import Struct

from bench.api import Api, Verdict
from bench.client import Schedule
from bench.workloads import Move, entity_id

BATCH_S = 0.02  # changes that are due are collected for so long, as a publisher would that reads from somewhere
BATCH_CHANGES_MAX = 1000

Send = Callable[[Sequence[Move]], Awaitable[Verdict]]


class Published(Struct):
    """What a publisher did."""

    sent: int = 0
    accepted: int = 0
    refused: int = 0  # stale, unchanged or rejected: none of this workload should be
    behind_max_s: float = 0.0  # the longest time by which a batch was sent later than its first change was due


def to_line(move: Move) -> bytes:
    """Return a move as the API takes it."""
    return b'{"op":"move","id":"%b","version":%d,"lon":%a,"lat":%a}' % (
        entity_id(move.entity).encode(),
        move.version,
        move.lon,
        move.lat,
    )


def over_http(api: Api) -> Send:
    """Return what publishes a batch over the HTTP API."""

    async def send(moves: Sequence[Move]) -> Verdict:
        return await api.publish(map(to_line, moves))

    return send


async def publish(schedule: Schedule, moves: Iterator[Move], count: int, send: Send) -> Published:
    """Publish `count` moves as they come due; return once the last was answered for."""
    done = Published()
    while done.sent < count:
        begun = monotonic()
        due = min(count, schedule.version_due(begun) - schedule.first_version + 1)
        batch = list(islice(moves, min(due - done.sent, BATCH_CHANGES_MAX))) if due > done.sent else []
        if batch:
            done.behind_max_s = max(done.behind_max_s, begun - schedule.start - done.sent / schedule.rate)
            verdict = await send(batch)
            done.sent += len(batch)
            done.accepted += verdict.accepted
            done.refused += len(batch) - verdict.accepted
        await asyncio.sleep(max(0.0, begun + BATCH_S - monotonic()))
    return done
