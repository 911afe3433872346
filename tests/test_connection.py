"""The client as a whole: when it comes back and when not, how it ends, and what its consumers see."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from realtime.client import Applied, Backoff, Client, Closed, Status
from realtime.errors import CLOSE_CODES
from tests.fake_server import BOX, FakeServer, client_of, feature, looking, until, within


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# Looking


# Coming back


@pytest.mark.parametrize("code", [*(int(code) for code in CLOSE_CODES if 1000 <= code < 5000), 4444, 4555])
async def test_close_codes(code: int) -> None:
    is_back = CLOSE_CODES[code].comes_back if code in set(CLOSE_CODES) else code < 4500  # type: ignore[index]
    async with FakeServer() as server, client_of(server) as client:
        changes = aiter(client)
        peer = await server.peer()
        await peer.welcome()
        look = asyncio.create_task(client.look(BOX))
        await peer.expect("view")
        await peer.close(code, "why")
        if is_back:
            await (await server.peer()).show(feature("a"))
            await within(look)
            return
        for call in (look, client.look(BOX), client.check(), client.publish([]), client.wait_open()):
            with pytest.raises(Closed, match="why"):
                await within(call)
        if code == 1000:
            assert [change async for change in changes] == []
        else:
            with pytest.raises(Closed, match="why"):
                await within(anext(changes))
            with pytest.raises(Closed, match="why"):
                await within(anext(aiter(client)))
        assert client.status == Status("closed", code, "why")
        assert server.accepted == 1


async def test_pauses_grow_while_nobody_is_there_and_end_when_somebody_is() -> None:
    async with FakeServer() as server:
        port = server.port
    statuses: list[Status] = []
    backoff = Backoff(base_s=0.001, max_s=0.02, choose=lambda: 1.0)
    async with Client(f"ws://127.0.0.1:{port}/ws", backoff=backoff, on_status=statuses.append) as client:
        look = asyncio.create_task(client.look(BOX))
        await until(lambda: len(statuses) > 14)
        waits = [status.retry_s for status in statuses if status.state == "waiting"]
        assert waits[:6] == [0.001, 0.002, 0.004, 0.008, 0.016, 0.02]
        assert all(status.code == 1006 and status.reason for status in statuses if status.state == "waiting")
        async with FakeServer(port) as server:
            await (await server.peer()).show(feature("a"))
            await within(look)


async def test_a_server_that_welcomes_nobody_is_left_with_growing_pauses() -> None:
    statuses: list[Status] = []
    backoff = Backoff(base_s=0.001, max_s=0.02, stable_s=60, choose=lambda: 1.0)
    async with FakeServer() as server, client_of(server, backoff=backoff, on_status=statuses.append):
        for how in ("no message", "welcome", "close", "reset"):
            peer = await server.peer()
            if how == "no message":
                await peer.connection.send("hello")
            elif how == "welcome":
                await peer.welcome()
                await peer.close(1012)
            elif how == "close":
                await peer.close(1013)
            else:
                peer.reset()
        await server.peer()
        waits = [status.retry_s for status in statuses if status.state == "waiting"]
        assert waits == [0.001, 0.002, 0.004, 0.008]


async def test_drain_is_left_when_it_says_and_come_back_from_at_once() -> None:
    backoff = Backoff(base_s=1000, choose=lambda: 1.0)  # a pause of its own would be noticed
    async with FakeServer() as server, client_of(server, backoff=backoff) as client:
        peer, _ = await looking(server, client, feature("a"))
        begun = time.monotonic()
        await peer.send("drain", reconnect_ms=150)
        await peer.delta(enter=[feature("b")])
        await until(lambda: "b" in client.entities)  # nothing is missed meanwhile
        assert await peer.wait_gone() == 1000
        assert time.monotonic() - begun >= 0.15
        peer = await server.peer()
        await peer.welcome()
        assert (await peer.expect("view"))["have"] == {"a": 1, "b": 1}


async def test_a_server_that_closes_before_the_drain_is_over_is_come_back_to_after_it() -> None:
    backoff = Backoff(base_s=1000, choose=lambda: 1.0)
    async with FakeServer() as server, client_of(server, backoff=backoff):
        peer = await server.peer()
        await peer.welcome()
        begun = time.monotonic()
        await peer.send("drain", reconnect_ms=200)
        await peer.close(1012)
        await server.peer()
        assert time.monotonic() - begun >= 0.2


# Healing


# Publishing


# Whoever consumes


async def test_a_slow_consumer_gets_merged_changes_of_a_mirror_that_is_current() -> None:
    async with FakeServer() as server, client_of(server) as client:
        peer, _ = await looking(server, client, feature("a"), feature("b"), feature("gone"))
        changes = aiter(client)
        assert set((await within(anext(changes))).entered) == {"a", "b", "gone"}
        await peer.delta(leave={"moved": ["gone"]})
        for version in range(2, 500):
            await peer.delta(move=[["a", version, version / 10, 0]], enter=[feature(f"brief{version}")])
            await peer.delta(leave={"filtered": [f"brief{version}"]})
        await until(lambda: client.entities["a"]["version"] == 499)
        await until(lambda: client.statistics.deltas == peer.seq)
        assert await within(anext(changes)) == Applied([], ["a"], [], {"gone": "moved"}, False)


async def test_whoever_stops_iterating_costs_nothing() -> None:
    async with FakeServer() as server, client_of(server) as client:
        await looking(server, client, feature("a"))
        async for _ in client:
            break
        await until(lambda: not client._keeper._changes)


async def test_leaving_closes_the_connection_and_ends_what_waits() -> None:
    async with FakeServer() as server:
        async with client_of(server) as client:
            look = asyncio.create_task(client.look(BOX))
            peer = await server.peer()
            await peer.welcome()
            await peer.expect("view")
            call = asyncio.create_task(client.publish([]))
            await peer.expect("publish")
            changes = aiter(client)
        assert await peer.wait_gone() == 1000
        for waiting in (look, call):
            with pytest.raises(Closed):
                await within(waiting)
        assert [change async for change in changes] == []
        assert client.status.state == "closed"


async def test_a_callback_that_raises_costs_the_client_nothing() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    def fails(status: Status) -> None:
        raise RuntimeError(status.state)

    async with FakeServer() as server, client_of(server, on_status=fails) as client:
        look = asyncio.create_task(client.look(BOX))
        await (await server.peer()).show(feature("a"))
        await within(look)
        assert [str(context["exception"]) for context in reported] == ["connecting", "open"]


def test_bad_arguments() -> None:
    for bad in ("http://x/ws", "", "ws://"):
        with pytest.raises(ValueError, match="url"):
            Client(bad)
    with pytest.raises(ValueError, match="encoding"):
        Client("ws://x", encoding="xml")  # type: ignore[arg-type]


async def test_outside_of_its_context_it_does_nothing() -> None:
    client = Client("ws://127.0.0.1:1/ws")
    with pytest.raises(RuntimeError):
        await client.look(BOX)
    await client.aclose()
    with pytest.raises(Closed):
        await client.look(BOX)
