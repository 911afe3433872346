"""The client and the server together: whatever happens to the connection, the mirror becomes what brute force says."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from typing import Any, Literal

import pytest

from realtime.client import Backoff, Client, Closed
from realtime.config import Config, load
from realtime.errors import ErrorCode, Refused
from realtime.server import Server
from tests.fake_server import until, within
from tests.model import View, World, brute_force
from tests.model_values import json_equal

pytestmark = pytest.mark.usefixtures("engine_kind")

BOX = [-98.0, 30.0, -97.0, 31.0]
START_S = 1_700_000_000.0
TOKENS = 'identity.tokens={publisher={user="p",publish=["bus-*"]},viewer={user="v"}}'
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


def config(*settings: str, port: int = 0) -> Config:
    return load(settings=[f"server.port={port}", "http.enabled=false", *settings])


def client_of(server: Server, **options: Any) -> Client:
    return Client(server.url, **({"backoff": Backoff(base_s=0.001, max_s=0.05)} | options))


def cut(client: Client) -> None:
    """Reset the connection, as a network does."""
    link = client._link
    assert link is not None
    link.socket.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    link.socket.transport.abort()


class Source:
    """Publishes random changes to a server and to the model, alike."""

    def __init__(self, seed: int, ids: int = 60) -> None:
        self.world = World()
        self._random = random.Random(seed)
        self._ids = [f"bus-{number}" for number in range(ids)]
        self._version = 0

    def updates(self, count: int) -> list[dict[str, Any]]:
        """Return this many updates, applied to the model."""
        found = []
        for _ in range(count):
            self._version += 1
            update = self._update(self._random.choice(self._ids)) | {"version": self._version}
            verdict = self.world.apply(update, START_S)
            if not isinstance(verdict, tuple):  # an unknown entity
                found.append(update)
        return found

    def _update(self, id: str) -> dict[str, Any]:
        choose = self._random
        lon, lat = choose.uniform(-98.3, -96.7), choose.uniform(29.7, 31.3)
        match choose.randrange(8):
            case 0:
                return {"op": "delete", "id": id}
            case 1 | 2 | 3:
                return {"op": "move", "id": id, "lon": lon, "lat": lat}
            case 4:
                return {"op": "patch", "id": id, "properties": {"n": choose.choice([None, 1, 2]), "tags": {"a": [choose.random()]}}}
            case _:
                geometry = {"type": "Point", "coordinates": [lon, lat]}
                kind = choose.choice(["bus", "tram"])
                return {"type": "Feature", "id": id, "kind": kind, "geometry": geometry, "properties": {"n": choose.randrange(3)}}


async def settled(client: Client, world: World, view: dict[str, Any]) -> None:
    """Wait until the server says that nothing is pending; then the mirror must be brute force's."""
    async with asyncio.timeout(20):
        while True:
            try:
                check = await client.check()
            except Closed:  # the connection was cut under it
                continue
            if check.pending == 0 and check.seq == client.mirror.seq > 0:
                break
            await asyncio.sleep(0.02)
    assert json_equal(client.entities, brute_force(world, View.from_message(view), (), None))
    assert (check.count, check.digest) == (len(client.entities), client.mirror.digest)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_converges_over_resets_pans_and_filters(encoding: Literal["json", "msgpack"]) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    choose, source = random.Random(seed), Source(seed)
    async with Server(config("limits.flush_interval_ms=2")) as server, client_of(server, encoding=encoding) as client:
        server.publish(source.updates(200))
        consumed: dict[str, Any] = {}
        consuming = asyncio.create_task(consume(client, consumed, choose))
        view: dict[str, Any] = {"bbox": BOX}
        await within(client.look(**view))
        for _ in range(12):
            match choose.randrange(3):
                case 0:
                    await within(client.wait_open())
                    cut(client)
                case 1:
                    west = choose.uniform(-98.3, -97.3)
                    view = {"bbox": [west, 30, west + 0.7, 31], "filter": choose.choice([None, ["==", ["kind"], "tram"], ["has", "n"]])}
                    await within(client.look(**view))
                case _:
                    pass
            for _ in range(10):
                server.publish(source.updates(5))
                await asyncio.sleep(0.001)
        await settled(client, source.world, view)
        assert client.statistics.heals == 0
        await until(lambda: json_equal(consumed, client.entities))
        consuming.cancel()
    server.node.engine.verify()


async def consume(client: Client, consumed: dict[str, Any], choose: random.Random) -> None:
    """Keep a copy by what the iteration says, slower than it comes."""
    async for change in client:
        for id in change.left:
            del consumed[id]
        for id in [*change.entered, *change.moved, *change.patched]:
            consumed[id] = client.entities[id]
        await asyncio.sleep(choose.random() * 0.03)


async def test_a_resume_brings_only_what_changed() -> None:
    source = Source(7)
    async with Server(config()) as server, client_of(server) as client:
        server.publish(source.updates(300))
        await within(client.look(BOX))
        await settled(client, source.world, {"bbox": BOX})
        assert len(client.entities) > 10
        changes = aiter(client)
        await within(anext(changes))
        before = {id: feature["version"] for id, feature in client.entities.items()}
        cut(client)
        server.publish(source.updates(5))
        await until(lambda: client.statistics.connections == 2)
        await settled(client, source.world, {"bbox": BOX})
        change = changes.take_nowait()
        assert change is not None
        assert not change.is_reset
        touched = {*change.entered, *change.moved, *change.patched, *change.left}
        assert touched == {
            id for id in before.keys() | client.entities.keys() if before.get(id) != client.entities.get(id, {}).get("version")
        }
        assert len(touched) <= 5


async def test_a_restart_on_the_same_port_is_another_world() -> None:
    source = Source(8)
    statuses: list[Any] = []
    async with Server(config()) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        server.publish(source.updates(300))
        client = client_of(server, on_status=statuses.append)
        await client.__aenter__()
        try:
            await within(client.look(BOX))
            await settled(client, source.world, {"bbox": BOX})
            await server.stop()
            await until(lambda: statuses[-1].state == "waiting")
            assert client.entities, "what is held is shown while there is no server"
            source = Source(9)  # its versions are lower than those held
            async with Server(config(port=port)) as restarted:
                restarted.publish(source.updates(100))
                await until(lambda: client.statistics.connections == 2)
                await settled(client, source.world, {"bbox": BOX})
                restarted.publish(source.updates(100))
                await settled(client, source.world, {"bbox": BOX})
                assert client.statistics.heals == 0
        finally:
            await client.aclose()


async def test_drain_sends_the_clients_away_before_it_is_over() -> None:
    async with Server(config("server.drain_s=0.5")) as server:
        source = Source(10)
        clients = [client_of(server) for _ in range(5)]
        for client in clients:
            await client.__aenter__()
        server.publish(source.updates(100))
        await asyncio.gather(*(within(client.look(BOX)) for client in clients))
        begun = asyncio.get_running_loop().time()
        await within(server.drain())
        assert asyncio.get_running_loop().time() - begun < 3 * 0.5
        await until(lambda: all(client.status.state != "open" for client in clients))
        for client in clients:
            await client.aclose()


async def test_corruption_is_found_by_the_digest_and_healed() -> None:
    source = Source(11)
    async with Server(config()) as server, client_of(server, check_interval_s=0.05) as client:
        server.publish(source.updates(300))
        await within(client.look(BOX))
        await settled(client, source.world, {"bbox": BOX})
        id = next(iter(client.entities))
        client.mirror._remove(id)  # as if a frame had not said so
        await until(lambda: id in client.entities)
        await settled(client, source.world, {"bbox": BOX})
        assert client.statistics.heals == 1
        assert client.statistics.reconnects == 0


async def test_publishing_over_the_socket() -> None:
    async with Server(config(TOKENS)) as server:
        source = Source(12)
        async with client_of(server, token="publisher") as publisher, client_of(server, token="viewer", encoding="msgpack") as viewer:
            await within(viewer.look(BOX))
            ack = await within(publisher.publish([*source.updates(50), {"op": "delete", "id": "tram-1"}]))
            assert ack.rejected_total == 1
            assert ack.rejected[0].code is ErrorCode.FORBIDDEN
            await settled(viewer, source.world, {"bbox": BOX})
            with pytest.raises(Refused) as refused:
                await within(viewer.publish([]))
            assert refused.value.code is ErrorCode.FORBIDDEN
            assert (publisher.welcome.user, viewer.welcome.user) == ("p", "v")  # type: ignore[union-attr]


async def test_who_is_not_let_in_stays_away() -> None:
    async with Server(config(TOKENS, 'identity.anonymous="never"')) as server:
        for token in (None, "wrong"):
            async with client_of(server, token=token) as client:
                with pytest.raises(Closed) as closed:
                    await within(client.look(BOX))
                assert closed.value.code == 4500
                assert client.status.state == "closed"


@pytest.mark.parametrize(
    "bad", [{"bbox": [0, 0, 1]}, {"bbox": BOX, "filter": ["bus"]}, {"bbox": BOX, "zoom": 1e9}, {"bbox": BOX, "max_hz": 0}]
)
async def test_refused_views_say_why_and_cost_nothing(bad: dict[str, Any]) -> None:
    async with Server(config()) as server, client_of(server) as client:
        server.publish([{"type": "Feature", "id": "a", "geometry": {"type": "Point", "coordinates": [-97.5, 30.5]}, "properties": {}}])
        await within(client.look(BOX))
        with pytest.raises(Refused) as refused:
            await within(client.look(**bad))
        assert refused.value.code in (ErrorCode.BAD_VIEW, ErrorCode.BAD_FILTER)
        assert refused.value.message.split(":")[0].startswith(("bbox", "filter", "zoom", "max_hz"))
        server.publish([{"op": "move", "id": "a", "lon": -97.4, "lat": 30.5}])
        await until(lambda: client.entities["a"]["geometry"]["coordinates"] == [-97.4, 30.5])


async def test_a_view_too_long_for_a_message_and_a_have_too_long_for_one() -> None:
    source = Source(13)
    async with Server(config("limits.message_bytes=600")) as server, client_of(server) as client:
        server.publish(source.updates(300))
        await within(client.look(BOX))
        with pytest.raises(Refused):
            await within(client.look(BOX, filter=["==", ["id"], "x" * 600]))
        assert len(client.entities) > 20  # at 20 bytes each they do not fit
        cut(client)
        await until(lambda: client.statistics.connections == 2)
        await settled(client, source.world, {"bbox": BOX})


async def test_more_than_may_be_named_is_forgotten_and_comes_again() -> None:
    source = Source(14)
    async with Server(config("limits.have_entities=5")) as server, client_of(server) as client:
        server.publish(source.updates(300))
        await within(client.look(BOX))
        cut(client)
        await until(lambda: client.statistics.connections == 2)
        await settled(client, source.world, {"bbox": BOX})
        assert client.statistics.heals == 0
