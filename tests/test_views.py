"""Views over a connection: the newest wins, a refused one is taken back, and none is lost between connections."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from realtime.errors import ErrorCode, Refused
from tests.fake_server import BOX, FakeServer, client_of, feature, looking, until, within


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_look_is_over_when_the_whole_view_is_there(encoding: Any) -> None:
    async with FakeServer() as server, client_of(server, encoding=encoding, token="secret", name="me/1") as client:
        look = asyncio.create_task(client.look(BOX, zoom=7, filter=["==", ["kind"], "bus"], ids=("a", "b"), max_hz=2))
        peer = await server.peer()
        assert await peer.welcome() == {"type": "identify", "token": "secret", "client": "me/1"}
        view = await peer.expect("view")
        members = {"bbox": BOX, "zoom": 7, "filter": ["==", ["kind"], "bus"], "ids": ["a", "b"], "max_hz": 2}
        assert view == {"type": "view", "id": view["id"]} | members
        await peer.delta(view=view["id"], reset=True, enter=[feature("a", 5)], more=True)
        await until(lambda: client.entities)
        assert not look.done()
        await peer.delta(view=view["id"], enter=[feature("b", 6)], total=2, sampled=1, lag_ms=3.5)
        await within(look)
        assert client.entities == {"a": feature("a", 5), "b": feature("b", 6)}
        assert (client.mirror.total, client.status.state, client.statistics.lag_ms, client.statistics.deltas) == (2, "open", 3.5, 2)
        assert client.welcome is not None
        assert client.welcome.limits.have_entities == 100


async def test_the_newest_view_wins_at_most_so_many_a_second() -> None:
    rate = 50.0
    async with FakeServer() as server, client_of(server) as client:
        peer = await server.peer()
        await peer.welcome(views_per_s=rate)
        begun = time.monotonic()
        looks = []
        for step in range(100):
            looks.append(asyncio.create_task(client.look([step, 0, step + 1, 1])))
            await asyncio.sleep(0.002)
        views = [await peer.expect("view")]
        while views[-1]["bbox"][0] != 99:
            views.append(await peer.expect("view"))
        assert len(views) <= 1 + (time.monotonic() - begun) * rate
        assert [view["id"] for view in views] == sorted({view["id"] for view in views})
        await peer.delta(view=views[-1]["id"], reset=True, total=0, sampled=1)
        await within(asyncio.gather(*looks))


async def test_views_are_not_sent_without_end_to_a_server_that_answers_none() -> None:
    async with FakeServer() as server, client_of(server) as client:
        peer = await server.peer()
        await peer.welcome(views_per_s=1e6)
        looks = []
        for step in range(200):
            looks.append(asyncio.create_task(client.look([step, 0, step + 1, 1])))
            await asyncio.sleep(0)
        asked = asyncio.create_task(client.check())
        views = []
        while (message := await peer.receive())["type"] == "view":
            views.append(message)
        assert message["type"] == "check"
        assert len(views) <= 64
        await peer.send("check", seq=0, count=0, digest="00000000", pending=0)
        await within(asked)
        await peer.delta(view=views[-1]["id"], reset=True)
        while views[-1]["bbox"][0] != 199:
            views.append(await peer.expect("view"))
        await peer.delta(view=views[-1]["id"])
        await within(asyncio.gather(*looks))


async def test_a_refused_view_raises_and_the_one_before_it_goes_on() -> None:
    async with FakeServer() as server, client_of(server) as client:
        peer, good = await looking(server, client, feature("a"))
        look = asyncio.create_task(client.look([3, 0, 2, 1]))
        bad = await peer.expect("view")
        await peer.send("error", code="bad_view", message="bbox: wrong", ref=bad["id"])
        with pytest.raises(Refused, match="bbox: wrong") as refused:
            await within(look)
        assert refused.value.code is ErrorCode.BAD_VIEW
        await peer.delta(view=good["id"], enter=[feature("b")])
        await until(lambda: "b" in client.entities)
        peer.reset()
        back = await server.peer()
        await back.welcome()
        assert (await back.expect("view"))["bbox"] == BOX


async def test_a_first_view_that_is_refused_leaves_nothing_to_look_at() -> None:
    async with FakeServer() as server, client_of(server) as client:
        look = asyncio.create_task(client.look("box"))  # type: ignore[arg-type]
        peer = await server.peer()
        await peer.welcome()
        await peer.send("error", code="bad_view", message="bbox: wrong", ref=(await peer.expect("view"))["id"])
        with pytest.raises(Refused):
            await within(look)
        asyncio.get_running_loop().call_soon(peer.reset)
        peer = await server.peer()
        await peer.welcome()
        asked = asyncio.create_task(client.check())
        await peer.expect("check")
        asked.cancel()


async def test_a_view_that_no_message_holds_is_refused_here() -> None:
    async with FakeServer() as server, client_of(server) as client:
        look = asyncio.create_task(client.look(BOX, filter=["==", ["id"], "x" * 5000]))
        peer = await server.peer()
        await peer.welcome()
        with pytest.raises(Refused) as refused:
            await within(look)
        assert refused.value.code is ErrorCode.TOO_BIG
        look = asyncio.create_task(client.look(BOX))
        await peer.delta(view=(await peer.expect("view"))["id"], reset=True)
        await within(look)


async def test_a_cancelled_look_is_still_wanted() -> None:
    async with FakeServer() as server, client_of(server) as client:
        look = asyncio.create_task(client.look(BOX))
        await asyncio.sleep(0)
        look.cancel()
        peer = await server.peer()
        await peer.show(feature("a"))
        await until(lambda: client.entities)


async def test_what_nobody_could_send_is_a_type_error() -> None:
    async with FakeServer() as server, client_of(server) as client:
        with pytest.raises(TypeError):
            await client.look(BOX, filter=object())


async def test_the_newest_view_is_not_lost_while_there_is_no_connection() -> None:
    async with FakeServer() as server, client_of(server) as client:
        peer = await server.peer()
        await peer.welcome()
        await client.wait_open()
        looks = [asyncio.create_task(client.look([step, 0, 90, 1])) for step in range(3)]
        peer.reset()
        peer = await server.peer()
        looks.append(asyncio.create_task(client.look([7, 0, 90, 1])))
        await asyncio.sleep(0)
        await peer.welcome()
        view = await peer.expect("view")
        while view["bbox"] != [7, 0, 90, 1]:
            view = await peer.expect("view")
        await peer.delta(view=view["id"], reset=True)
        await within(asyncio.gather(*looks))
