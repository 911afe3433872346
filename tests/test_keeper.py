"""A mirror over many connections: what is named in `have` and when it is not, and how whatever is wrong is healed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from realtime.client import Applied
from realtime.engine.digest import digest_of, format_digest
from realtime.errors import Refused
from tests.fake_server import BOX, FakeServer, client_of, feature, looking, resumed, until, within


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def digest(*held: tuple[str, int]) -> str:
    value = 0
    for id, version in held:
        value ^= digest_of(id, version)
    return format_digest(value)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_it_comes_back_and_says_what_it_holds(encoding: Any) -> None:
    async with FakeServer() as server, client_of(server, encoding=encoding) as client:
        peer, _ = await looking(server, client, feature("a", 3), feature("b", 4))
        await peer.delta(move=[["a", 7, 1, 1]])
        await until(lambda: client.entities["a"]["version"] == 7)
        since = time.monotonic()
        peer, view = await resumed(server, peer)
        away_ms = view.pop("away_ms")
        assert view == {"type": "view", "id": view["id"], "bbox": BOX, "have": {"a": 7, "b": 4}, "world": "w1"}
        assert 0 <= away_ms <= (time.monotonic() - since) * 1000 + 100
        await peer.delta(view=view["id"], leave={"moved": ["b"]})  # believed: no reset, and deltas count from 1 again
        await until(lambda: list(client.entities) == ["a"])
        assert (client.mirror.seq, client.statistics.reconnects, client.statistics.heals) == (1, 1, 0)


async def test_away_is_counted_from_the_last_frame_that_told_of_the_mirror() -> None:
    """A connection that is welcomed and dies before its first delta has told nothing."""
    async with FakeServer() as server, client_of(server) as client:
        peer, _ = await looking(server, client, feature("a"))
        begun = time.monotonic()
        peer, view = await resumed(server, peer)
        await asyncio.sleep(0.2)
        await peer.send("pong", t=None)
        peer, view = await resumed(server, peer)
        assert view["away_ms"] >= 200
        assert view["away_ms"] <= (time.monotonic() - begun) * 1000 + 100


async def test_another_world_is_told_nothing() -> None:
    async with FakeServer() as server, client_of(server) as client:
        peer, _ = await looking(server, client, feature("a"), feature("b"))
        changes = aiter(client)
        await within(anext(changes))
        peer, view = await resumed(server, peer, world="w2")
        assert view == {"type": "view", "id": view["id"], "bbox": BOX}
        assert client.entities.keys() == {"a", "b"}, "what is held is shown until something else comes"
        await peer.delta(view=view["id"], reset=True, enter=[feature("b", 1)])
        assert await within(anext(changes)) == Applied(["b"], [], [], {"a": "reset"}, True)


async def test_what_is_too_much_to_have_is_forgotten_first() -> None:
    async with FakeServer() as server, client_of(server) as client:
        peer, _ = await looking(server, client, *(feature(f"e{number}") for number in range(10)))
        changes = aiter(client)
        await within(anext(changes))
        peer, view = await resumed(server, peer, have_entities=7)
        assert len(view["have"]) == 7
        assert view["have"].keys() == client.entities.keys()
        change = await within(anext(changes))
        assert set(change.left.values()) == {"forgotten"}
        assert len(change.left) == 3


async def test_have_is_left_out_where_the_message_would_be_too_long() -> None:
    async with FakeServer() as server, client_of(server) as client:
        peer, _ = await looking(server, client, *(feature(f"{'long' * 10}{number}") for number in range(100)))
        peer, view = await resumed(server, peer)
        assert "have" not in view
        assert "world" not in view
        assert client.statistics.errors == 0


async def test_a_message_that_was_too_big_is_not_sent_again() -> None:
    async with FakeServer() as server, client_of(server) as client:
        peer, _ = await looking(server, client, feature("a"))
        peer, view = await resumed(server, peer)
        assert "have" in view
        await peer.close(1009)
        peer = await server.peer()
        await peer.welcome()
        view = await peer.expect("view")
        assert "have" not in view
        await peer.delta(view=view["id"], reset=True, enter=[feature("a", 2)])
        await until(lambda: client.entities["a"]["version"] == 2)
        peer, view = await resumed(server, peer)
        assert view["have"] == {"a": 2}, "what is held now may be told again"


async def test_a_refused_have_is_not_a_refused_view() -> None:
    told: list[Refused] = []
    async with FakeServer() as server, client_of(server, on_error=told.append) as client:
        peer, _ = await looking(server, client, feature("a"))
        peer, view = await resumed(server, peer)
        await peer.send("error", code="bad_view", message="have: no", ref=view["id"])
        again = await peer.expect("view")
        assert again == {"type": "view", "id": view["id"], "bbox": BOX}
        await peer.send("error", code="bad_view", message="bbox: no longer", ref=view["id"])
        await until(lambda: told)
        assert str(told[0]) == "bbox: no longer"


async def test_a_wrong_digest_is_healed_by_a_refresh() -> None:
    async with FakeServer() as server, client_of(server, check_interval_s=0.02) as client:
        peer, view = await looking(server, client, feature("a", 1), feature("b", 2))
        changes = aiter(client)
        await within(anext(changes))
        await peer.expect("check")
        await peer.send("check", seq=1, count=2, digest=digest(("a", 1), ("b", 2)), pending=0)
        await peer.expect("check")
        assert (client.statistics.checks, client.statistics.heals) == (1, 0)
        await peer.send("check", seq=1, count=2, digest=digest(("a", 1), ("b", 3)), pending=0)
        while (await peer.receive())["type"] != "refresh":
            pass
        await peer.delta(view=view["id"], move=[["a", 9, 5, 5]])  # was on its way, and is not believed
        await peer.delta(view=view["id"], reset=True, enter=[feature("a", 9), feature("b", 3)])
        await peer.delta(view=view["id"], move=[["a", 10, 5, 5]])
        await until(lambda: client.entities["a"]["version"] == 10)
        assert client.mirror.digest == digest(("a", 10), ("b", 3))
        assert client.statistics.heals == 1
        first = await within(anext(changes))
        assert (first.is_reset, set(first.entered)) == (True, {"a", "b"})
        assert server.accepted == 1


WRONG: dict[str, dict[str, Any]] = {
    "a delta was lost": {"type": "delta", "seq": 3, "enter": [feature("b")]},
    "unknown moves": {"type": "delta", "seq": 2, "move": [["b", 9, 0, 0]]},
    "goes back": {"type": "delta", "seq": 2, "patch": [{"id": "a", "version": 1}]},
    "no id": {"type": "delta", "seq": 2, "enter": [{"version": 1}]},
    "no version": {"type": "delta", "seq": 2, "enter": [{"id": "b"}]},
    "no list": {"type": "delta", "seq": 2, "move": 7},
    "no seq": {"type": "delta"},
    "a check ahead": {"type": "check", "seq": 2, "count": 1, "digest": digest(("a", 5)), "pending": 0},
    "no type": {},
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_frame_that_does_not_fit_is_healed(wrong: str) -> None:
    async with FakeServer() as server, client_of(server) as client:
        peer, view = await looking(server, client, feature("a", 5))
        await peer.connection.send(peer.encode(WRONG[wrong]), text=True)
        await peer.expect("refresh")
        await peer.delta(view=view["id"], reset=True, enter=[feature("c", 7)])
        await until(lambda: client.entities == {"c": feature("c", 7)})
        assert client.statistics.heals == 1
        asked = asyncio.create_task(client.check())
        await peer.expect("check")
        await peer.send("check", seq=peer.seq, count=1, digest=digest(("c", 7)), pending=0)
        await within(asked)
        assert client.statistics.heals == 1


@pytest.mark.parametrize("garbage", ["{", "[]", "7", ""])
async def test_garbage_is_healed(garbage: str) -> None:
    async with FakeServer() as server, client_of(server):
        peer = await server.peer()
        await peer.welcome()
        await peer.connection.send(garbage)
        await peer.expect("refresh")


async def test_where_no_reset_comes_it_comes_back_without_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime.client.link.ANSWER_TIMEOUT_S", 0.1)
    async with FakeServer() as server, client_of(server) as client:
        peer, _ = await looking(server, client, feature("a"))
        await peer.delta(move=[["x", 1, 0, 0]])
        await peer.expect("refresh")
        await peer.delta(enter=[feature("b")])
        assert await peer.wait_gone() == 1000
        peer = await server.peer()
        await peer.welcome()
        message = await peer.receive()
        if message["type"] == "refresh":
            message = await peer.expect("view")
        assert "have" not in message
        await peer.delta(view=message["id"], reset=True, enter=[feature("b", 2)])
        await until(lambda: client.entities == {"b": feature("b", 2)})


async def test_a_check_before_the_first_delta_says_nothing() -> None:
    """Of what was held before, the server has not spoken yet."""
    async with FakeServer() as server, client_of(server) as client:
        peer, _ = await looking(server, client, feature("a"))
        peer, _ = await resumed(server, peer)
        asked = asyncio.create_task(client.check())
        await peer.expect("check")
        await peer.send("check", seq=0, count=0, digest="00000000", pending=0)
        await within(asked)
        assert client.statistics.heals == 0
        assert client.entities
