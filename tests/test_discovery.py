"""Who is the master and who has which slots: what is made of the answers, right or wrong."""

from __future__ import annotations

import pytest
import redis.exceptions as errors

from realtime.cluster.connections import Place, Pool, TcpConnection
from realtime.cluster.discovery import Slots, ask_sentinels, parse_master, parse_slots
from realtime.cluster.trouble import classify


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Sentinel:
    """A client of a sentinel that answers by itself, or is gone."""

    def __init__(self, host: bytes, epoch: int) -> None:
        self.connection_pool = Pool(TcpConnection, 1, 1.0)
        self._host = host
        self._epoch = epoch

    async def execute_command(self, *words: str) -> list[bytes]:
        assert words == ("SENTINEL", "MASTER", "mine")
        if not self._host:
            raise errors.TimeoutError("gone")
        return [b"name", b"mine", b"ip", self._host, b"port", b"6379", b"config-epoch", b"%d" % self._epoch]


async def ask(*sentinels: tuple[bytes, int]) -> Place:
    places = [(f"s{index}", 26379) for index in range(len(sentinels))]
    return await ask_sentinels(places, "mine", lambda place: Sentinel(*sentinels[places.index(place)]))  # type: ignore[arg-type, return-value]


async def test_the_newest_configuration_wins() -> None:
    """A sentinel that was cut off still names the old master. 12 is newer than 3, whatever the digits' order."""
    assert await ask((b"old", 3), (b"new", 12)) == ("new", 6379)
    assert await ask((b"new", 12), (b"old", 3)) == ("new", 6379)
    assert await ask((b"new", 4)) == ("new", 6379)


async def test_a_majority_has_to_answer() -> None:
    assert await ask((b"a", 1), (b"", 0), (b"a", 1)) == ("a", 6379)
    for sentinels in ([(b"a", 1), (b"", 0), (b"", 0)], [(b"a", 1), (b"", 0)], [(b"", 0)]):
        with pytest.raises(errors.TimeoutError):
            await ask(*sentinels)


def test_slots_that_nobody_serves() -> None:
    a, b = ("a", 1), ("b", 2)
    slots = Slots([(100, 199, b), (0, 99, a), (300, 16383, a)])
    assert [slots.owner(slot) for slot in (0, 99, 100, 199, 300, 16383)] == [a, a, b, b, a, a]
    for slot in (200, 299):
        with pytest.raises(errors.ClusterDownError) as caught:
            slots.owner(slot)
        assert classify(caught.value) == "moved"
    assert sorted(slots.places) == [a, b]


def test_answers_of_a_cluster() -> None:
    answer = [[0, 99, [b"10.0.0.1", 7000, b"id"], [b"10.0.0.2", 7001, b"id"]], [100, 16383, [b"", 7002, b"id", []]], [7, 7, [None, 1, b""]]]
    assert parse_slots(answer[:2], ("asked", 1)).owner(50) == ("10.0.0.1", 7000)
    assert parse_slots(answer[:2], ("asked", 1)).owner(100) == ("asked", 7002)
    assert parse_slots(answer[2:], ("asked", 1)).owner(7) == ("asked", 1)
    for bad in (None, [1], [[0, 1]], [[0, 1, []]], [["x", 1, [b"a", 1]]]):
        with pytest.raises(errors.InvalidResponse):
            parse_slots(bad, ("asked", 1))


def test_answers_of_a_sentinel() -> None:
    assert parse_master([b"name", b"m", b"ip", b"10.0.0.1", b"port", b"7000", b"config-epoch", b"4"]) == (4, ("10.0.0.1", 7000))
    for bad in (None, [b"ip"], [b"ip", b"a"], [b"ip", b"a", b"port", b"x", b"config-epoch", b"1"]):
        with pytest.raises(errors.InvalidResponse):
            parse_master(bad)
