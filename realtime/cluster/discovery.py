"""Who is the master, by the sentinels; who has which slots, by a cluster's nodes.

Law: an answer is taken at its word only as far as those who gave it can know: of the sentinels a majority has to answer,
and the newest configuration among them wins, as one that was cut off still names the old master.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import redis.exceptions as errors
from redis.asyncio import Redis

from realtime.cluster.connections import Place, Pool

Answer = TypeVar("Answer")
MakeClient = Callable[[Place], Redis]


class Slots:
    """Which node of a cluster serves which slot."""

    def __init__(self, ranges: Sequence[tuple[int, int, Place]]) -> None:
        """`ranges` are (first slot, last slot, node)."""
        self._ranges = sorted(ranges)
        self._firsts = [first for first, _, _ in self._ranges]
        self.places = list(dict.fromkeys(place for _, _, place in self._ranges))

    def owner(self, slot: int) -> Place:
        """Return the node that serves a slot; raise `ClusterDownError` if none does."""
        index = bisect_right(self._firsts, slot) - 1
        if index >= 0:
            _, last, place = self._ranges[index]
            if slot <= last:
                return place
        raise errors.ClusterDownError(f"slot {slot} is served by no node")


def parse_slots(answer: Any, asked: Place) -> Slots:
    """Read the answer to CLUSTER SLOTS; raise `InvalidResponse`. A node that does not know its own name is where it was asked."""
    ranges = []
    try:
        for first, last, (host, port, *_), *_replicas in answer:
            name = host.decode() if host else ""
            ranges.append((int(first), int(last), (asked[0] if name in ("", "?") else name, int(port))))
    except (TypeError, ValueError, AttributeError):
        raise errors.InvalidResponse("CLUSTER SLOTS was answered in no known form") from None
    return Slots(ranges)


async def ask_cluster(places: Sequence[Place], make_client: MakeClient) -> Slots:
    """Return the slots by the first node that tells them all; raise why the last one asked did not."""

    async def ask(place: Place) -> Slots:
        client = make_client(place)
        try:
            # In two words: the answer is then as it came, and not as redis-py reads it.
            answer = await client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
        finally:
            _close(client)
        slots = parse_slots(answer, place)
        if not slots.places:
            raise errors.ClusterDownError("no slot is served by any node")
        return slots

    (slots,) = await _answers([ask(place) for place in places], 1)
    return slots


async def ask_sentinels(places: Sequence[Place], name: str, make_client: MakeClient) -> Place:
    """Return where the master is; raise why a majority of the sentinels did not say."""

    async def ask(place: Place) -> tuple[int, Place]:
        client = make_client(place)
        try:
            answer = await client.execute_command("SENTINEL", "MASTER", name)  # type: ignore[no-untyped-call]
        finally:
            _close(client)
        return parse_master(answer)

    answers = await _answers([ask(place) for place in places], len(places) // 2 + 1)
    _, place = max(answers)
    return place


def parse_master(answer: Any) -> tuple[int, Place]:
    """Read the answer to SENTINEL MASTER: the number of the configuration and where the master is; raise `InvalidResponse`."""
    try:
        state = dict(zip(answer[::2], answer[1::2], strict=True))
        return int(state[b"config-epoch"]), (state[b"ip"].decode(), int(state[b"port"]))
    except (TypeError, ValueError, KeyError, AttributeError):
        raise errors.InvalidResponse("SENTINEL MASTER was answered in no known form") from None


def _close(client: Redis) -> None:
    assert isinstance(client.connection_pool, Pool)
    client.connection_pool.close_nowait()


async def _answers(asked: Sequence[Coroutine[Any, Any, Answer]], wanted: int) -> list[Answer]:
    """Ask all at once and return the first so many answers; raise the last error if there are fewer."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    found: list[Answer] = []
    failure: Exception = errors.ConnectionError("nobody was asked")
    try:
        for next_answer in asyncio.as_completed(tasks):
            try:
                found.append(await next_answer)
            except (errors.RedisError, OSError) as error:
                failure = error
            if len(found) >= wanted:
                return found
        raise failure
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
