"""One connection: what is asked for is answered, refused or lost, and a server that is gone is told from a slow one."""

from __future__ import annotations

import asyncio
import time

import pytest

from realtime.client import Closed
from realtime.errors import ErrorCode, Refused
from tests.fake_server import BOX, FakeServer, client_of, feature, until, within


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_refusal_that_no_call_waits_for_is_told() -> None:
    told: list[Refused] = []
    async with FakeServer() as server, client_of(server, on_error=told.append) as client:
        peer = await server.peer()
        await peer.welcome()
        await peer.send("error", code="unsupported", message="later")
        await peer.send("error", code="of_a_later_version", message="what", ref=77)
        await until(lambda: len(told) == 2)
        assert [(refused.code, refused.message) for refused in told] == [("unsupported", "later"), ("unavailable", "what")]
        assert client.statistics.errors == 2


async def test_a_server_that_says_nothing_more_is_left() -> None:
    async with FakeServer() as server, client_of(server, check_interval_s=0.05) as client:
        peer = await server.peer()
        await peer.welcome()
        begun = time.monotonic()
        peer = await server.peer()
        assert time.monotonic() - begun >= 0.05
        await peer.welcome()
        await client.wait_open()
        assert client.statistics.connections == 2


async def test_a_server_that_is_slow_is_not_left() -> None:
    """A frame that takes many check intervals to come in is no sign of death."""
    async with FakeServer() as server, client_of(server, check_interval_s=0.1) as client:
        look = asyncio.create_task(client.look(BOX))
        peer = await server.peer()
        await peer.welcome()
        view = await peer.expect("view")
        payload = peer.encode({"type": "delta", "seq": 1, "view": view["id"], "reset": True, "enter": [feature("a", 1, pad="x" * 300)]})
        frame = bytes([0x81, 126, len(payload) >> 8, len(payload) & 255]) + payload
        for start in range(0, len(frame), 20):
            peer.connection.transport.write(frame[start : start + 20])
            await asyncio.sleep(0.03)
        await within(look)
        assert server.accepted == 1


async def test_publish_is_answered_by_its_verdicts() -> None:
    async with FakeServer() as server, client_of(server) as client:
        calls = [asyncio.create_task(client.publish([feature(id)])) for id in "ab"]
        peer = await server.peer()
        await peer.welcome()
        first, second = await peer.expect("publish"), await peer.expect("publish")
        verdicts = {"accepted": 0, "unchanged": 1, "stale": 0, "rejected": [], "rejected_total": 0}
        await peer.send("error", code="forbidden", message="publish: no", ref=second["id"])
        await peer.send("ack", id=first["id"], **verdicts)
        ack = await within(calls[0])
        assert (ack.accepted, ack.unchanged) == (0, 1)
        with pytest.raises(Refused, match="publish: no"):
            await within(calls[1])


async def test_publish_whose_answer_is_lost_says_so() -> None:
    async with FakeServer() as server, client_of(server) as client:
        call = asyncio.create_task(client.publish([feature("a")]))
        asked = asyncio.create_task(client.check())
        peer = await server.peer()
        await peer.welcome()
        await peer.receive()
        await peer.receive()
        peer.reset()
        for waiting in (call, asked):
            with pytest.raises(Closed):
                await within(waiting)
        await (await server.peer()).welcome()
        await within(client.wait_open())


async def test_publish_that_is_too_long_is_not_sent() -> None:
    async with FakeServer() as server, client_of(server) as client:
        call = asyncio.create_task(client.publish([feature("a", pad="x" * 5000)]))
        peer = await server.peer()
        await peer.welcome()
        with pytest.raises(Refused) as refused:
            await within(call)
        assert refused.value.code is ErrorCode.TOO_BIG
        assert client.status.state == "open"
