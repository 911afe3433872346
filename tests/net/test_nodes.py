"""Nodes that share a world through a real Redis: what each is told, what survives, and what a fault does to them.

The nodes live in the test's process, so that it can see into them; the Redis is a process that is killed, frozen, emptied
and given older data. A node is told to be impatient: what takes seconds by default takes tenths of them here.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from realtime.client import Backoff, Client
from realtime.cluster.shards import Shard
from realtime.config import Config, load
from realtime.engine.states import join
from realtime.server import Server
from tests import redis_servers
from tests.fault_proxy import FaultProxy
from tests.model_values import json_equal

pytestmark = [pytest.mark.usefixtures("engine_kind"), pytest.mark.timeout(120)]

WAIT_S = 30.0
WORLD = [-180, -90, 180, 90]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def valkey() -> AsyncIterator[redis_servers.Server]:
    async with redis_servers.valkey() as server:
        yield server


def config(url: str, *settings: str) -> Config:
    impatient = ("timeout_s=0.5", "connect_timeout_s=0.5", "lease_s=2", "store_interval_ms=50", "patience_s=1", "shards=3")
    return load(settings=["server.port=0", "http.port=0", f"redis.url={url}", *(f"redis.{one}" for one in impatient), *settings])


@asynccontextmanager
async def nodes(count: int, url: str, *settings: str) -> AsyncIterator[list[Server]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Server(config(url, *settings))) for _ in range(count)]


def feature(id: str, lon: float = 0.0, **more: Any) -> dict[str, Any]:
    properties = more.pop("properties", {"n": 1})
    return {"type": "Feature", "id": id, "geometry": {"type": "Point", "coordinates": [lon, 1.0]}, "properties": properties} | more


def contents(node: Server) -> dict[str, Any]:
    """Return what a node holds, but for the versions, which may differ."""
    return {one["id"]: (one["geometry"], one["properties"], one.get("kind")) for one in node.entities()}


async def come_true(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)


async def equal(*all: Server, count: int | None = None) -> None:
    """Wait until the nodes hold the same and suffer from nothing."""

    def are_equal() -> bool:
        held = [contents(node) for node in all]
        is_right = all_equal(held) and (count is None or len(held[0]) == count)
        return is_right and not any(node.node.degraded for node in all)

    await come_true(are_equal, f"equal nodes; they hold {[len(contents(node)) for node in all]}, {[node.node.degraded for node in all]}")


def all_equal(held: list[Any]) -> bool:
    return all(json_equal(one, held[0]) for one in held)


def degraded(node: Server) -> Callable[[], bool]:
    return lambda: bool(node.node.degraded)


async def stored(server: redis_servers.Server, *ids: str) -> None:
    """Wait until the hashes have these entities."""
    found: set[bytes] = set()
    for _ in range(int(WAIT_S / 0.02)):
        found = set()
        for number in range(3):
            found |= set(await server.call("HKEYS", Shard("realtime", number).entities))
        if {id.encode() for id in ids} <= found:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not stored: {sorted({id.encode() for id in ids} - found)[:5]}")


# Together


async def test_what_one_node_takes_all_hold(valkey: redis_servers.Server) -> None:
    async with nodes(3, valkey.url) as (a, b, c):
        assert a.node.world == b.node.world == c.node.world
        assert len({node.node.number for node in (a, b, c)}) == 3
        assert all(1 <= node.node.number <= 2047 for node in (a, b, c))
        a.publish([feature(f"e{n}", n / 10, kind="bus", min_zoom=3, rank=0.2, access=["group:x"]) for n in range(100)])
        b.publish([feature("b"), feature("gone")])
        await equal(a, b, c, count=102)
        b.publish([{"op": "delete", "id": "gone"}, {"op": "delete", "id": "e5"}])
        c.publish([{"op": "move", "id": "e7", "lon": 50, "lat": 5}, {"op": "patch", "id": "e8", "properties": {"n": None, "new": [1]}}])
        await equal(a, b, c, count=100)
        for node in (a, b, c):
            found = contents(node)
            assert found["e7"][0]["coordinates"] == [50, 5]
            assert found["e8"][1] == {"new": [1]}
            assert node.entities(zoom=2) == [one for one in node.entities() if one["id"] == "b"]
            node.node.engine.verify()


async def test_a_viewer_sees_what_another_node_takes(valkey: redis_servers.Server) -> None:
    async with nodes(2, valkey.url) as (a, b), Client(b.url, backoff=Backoff(base_s=0.01, max_s=0.1)) as client:
        await client.look(bbox=WORLD)
        seen = client.mirror.entities
        a.publish([feature("x")])
        await come_true(lambda: "x" in seen, "seen")
        a.publish([{"op": "move", "id": "x", "lon": 9, "lat": 9}])
        await come_true(lambda: seen["x"]["geometry"]["coordinates"] == [9, 9], "seen")
        a.publish([feature("x", access=["group:nobody"])])
        await come_true(lambda: "x" not in seen, "seen")
        a.publish([feature("y", ttl=0.3)])
        await come_true(lambda: "y" in seen, "seen")
        await come_true(lambda: "y" not in seen, "seen")


async def test_the_world_outlives_its_nodes(valkey: redis_servers.Server) -> None:
    async with nodes(1, valkey.url) as (a,):
        world, epoch = a.node.world, a.node.epoch
        a.publish([feature(f"e{n}") for n in range(50)] + [feature("gone", version=7), feature("short", ttl=0.2)])
        a.publish([{"op": "delete", "id": "gone", "version": 9}])
        held = contents(a)
    await asyncio.sleep(0.3)
    async with nodes(1, valkey.url) as (b,):
        assert (b.node.world, b.node.epoch == epoch) == (world, False)
        assert json_equal(contents(b), {id: one for id, one in held.items() if id != "short"})
        # A death is as much a part of the world: an older state does not bring it back.
        assert b.publish([feature("gone", version=8)]).stale == 1
        assert b.publish([feature("gone", version=10)]).accepted == 1


async def test_a_client_takes_what_it_holds_to_another_node(valkey: redis_servers.Server) -> None:
    async with nodes(2, valkey.url) as (a, b):
        a.publish([feature(f"e{n}", n / 10, version=5) for n in range(30)])
        await equal(a, b, count=30)
        async with httpx.AsyncClient() as http, Client(a.url, backoff=Backoff(base_s=0.01, max_s=0.1)) as client:
            await client.look(bbox=WORLD)
            await come_true(lambda: len(client.mirror.entities) == 30, "seen")
            a.publish([feature("e3", 99, version=6)])
            await come_true(lambda: client.mirror.entities["e3"]["version"] == 6, "seen")
            assert (await http.get(f"{b.http_url}/readyz")).json()["world"] == a.node.world


async def test_views_are_kept_for_their_users(valkey: redis_servers.Server) -> None:
    tokens = 'identity.tokens={t={user="ann"}}'
    async with nodes(2, valkey.url, tokens) as (a, b):
        a.publish([feature("near", 1), feature("far", 90)])
        await equal(a, b, count=2)
        async with Client(a.url, token="t") as client:
            await client.look(bbox=[0, 0, 2, 2])
            await come_true(lambda: list(client.mirror.entities) == ["near"], "seen")
        for _ in range(500):
            if await valkey.call("GET", "viewport:ann"):
                break
            await asyncio.sleep(0.02)
        assert msgspec.json.decode(await valkey.call("GET", "viewport:ann"))["bbox"] == [0, 0, 2, 2]
        assert (await b.node.find_view("ann") or {})["bbox"] == [0, 0, 2, 2]
        # What somebody else wrote there is judged like a message.
        for nonsense in (b"[1]", b"\xff", b'{"bbox":1}', b"x" * 100_000):
            await valkey.call("SET", "viewport:eve", nonsense)
            assert not (await b.node.find_view("eve") or {}).get("zoom")


# Durable


async def test_durable_is_answered_when_redis_has_it(valkey: redis_servers.Server) -> None:
    async with nodes(1, valkey.url) as (a,), httpx.AsyncClient(base_url=a.http_url or "") as http:
        answer = await http.post("/v1/updates?durable=1", json=feature("x"))
        assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
        lengths = [await valkey.call("XLEN", Shard("realtime", number).log) for number in range(3)]
        assert sum(lengths) == 1
        await valkey.kill()
        answer = await http.post("/v1/updates?durable=1", json=feature("y"))
        assert (answer.status_code, answer.json()["code"], answer.json()["accepted"]) == (503, "unavailable", 1)
        answer = await http.post("/v1/updates", json=feature("z"))
        assert answer.status_code == 200
        assert sorted(contents(a)) == ["x", "y", "z"]
        await valkey.start()
        await come_true(lambda: not a.node.degraded, "well again")
        assert (await http.post("/v1/updates?durable=1", json=feature("w"))).status_code == 200


async def test_a_node_without_a_store_promises_nothing() -> None:
    async with Server(load(settings=["server.port=0", "http.port=0"])) as alone, httpx.AsyncClient(base_url=alone.http_url or "") as http:
        answer = await http.post("/v1/updates?durable=1", json=feature("x"))
        assert (answer.status_code, answer.json()["code"]) == (400, "unsupported")
        assert not alone.entities()
        assert (await http.post("/v1/updates?durable=2", json=feature("x"))).status_code == 400


# Without Redis for a while


@pytest.mark.parametrize("data", ["present", "older", "none"])
async def test_redis_is_killed_and_comes_back(valkey: redis_servers.Server, data: Any) -> None:
    async with nodes(2, valkey.url) as (a, b):
        a.publish([feature(f"old{n}", n / 10, version=1) for n in range(20)])
        await equal(a, b, count=20)
        await stored(valkey, *(f"old{n}" for n in range(20)))
        valkey.keep()
        b.publish([feature(f"new{n}", version=1) for n in range(20)] + [{"op": "delete", "id": "old3", "version": 2}])
        a.publish([feature("old4", 77, version=2)])
        await equal(a, b, count=39)
        await stored(valkey, *(f"new{n}" for n in range(20)))
        await valkey.kill()
        for node in (a, b):
            await come_true(degraded(node), "degraded")
        # Each goes on by itself.
        a.publish([feature("a-alone", version=1), feature("both", 1, version=1), {"op": "delete", "id": "old5", "version": 2}])
        b.publish([feature("b-alone", version=1), feature("both", 2, version=2), feature("old6", 66, version=3)])
        assert contents(a)["both"][0]["coordinates"][0] == 1
        assert contents(b)["both"][0]["coordinates"][0] == 2
        await valkey.start(data)
        await equal(a, b, count=41)
        found = contents(b)
        assert "old3" not in found
        assert "old5" not in found
        assert [found[id][0]["coordinates"][0] for id in ("old4", "old6", "both")] == [77, 66, 2]
        async with nodes(1, valkey.url) as (c,):
            await equal(a, b, c, count=41)
            assert c.publish([feature("old3", version=1), feature("old5", version=1)]).stale == 2
        for node in (a, b):
            node.node.engine.verify()


async def test_a_node_that_was_away_for_too_long_reads_the_store_anew(valkey: redis_servers.Server) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(FaultProxy(valkey.host, valkey.port))
        (a,) = await stack.enter_async_context(nodes(1, valkey.url, "redis.retention_s=0.001"))
        (b,) = await stack.enter_async_context(nodes(1, proxy.url))
        a.publish([feature(f"e{n}", version=1) for n in range(30)])
        await equal(a, b, count=30)
        proxy.is_closed = True
        proxy.cut()
        await come_true(degraded(b), "degraded")
        b.publish([feature("mine", version=1), feature("e7", 7, version=5)])
        a.publish([{"op": "delete", "id": f"e{n}", "version": 2} for n in range(10)] + [feature("e11", 11, version=2)])
        await stored(valkey, "e11")
        # Even the deaths are forgotten meanwhile: only what is not there any more tells of them.
        a.publish([feature(f"more{n}", version=1) for n in range(10)])
        await stored(valkey, *(f"more{n}" for n in range(10)))
        for number in range(3):
            shard = Shard("realtime", number)
            await valkey.call("HDEL", shard.entities, *(f"e{n}" for n in range(10)))
            last = dict(zip(*[iter(await valkey.call("XINFO", "STREAM", shard.log))] * 2, strict=True))[b"last-generated-id"]
            await valkey.call("SET", shard.trimmed, last)
            await valkey.call("XTRIM", shard.log, "MINID", last)
        proxy.is_closed = False
        await come_true(lambda: not b.node.degraded, "well again")
        await equal(a, b)
        found = contents(b)
        assert sorted(found) == sorted([f"e{n}" for n in range(10, 30)] + [f"more{n}" for n in range(10)] + ["mine", "e7"])
        assert [found[id][0]["coordinates"][0] for id in ("e7", "e11")] == [7, 11]


async def test_redis_is_frozen(valkey: redis_servers.Server) -> None:
    async with nodes(2, valkey.url) as (a, b):
        a.publish([feature("x")])
        await equal(a, b, count=1)
        tasks = len(asyncio.all_tasks())
        usual = await lags(1.0)
        valkey.freeze()
        a.publish([feature(f"e{n}") for n in range(100)])
        frozen = await lags(2.0)
        await come_true(degraded(a), "degraded")
        await come_true(degraded(b), "degraded")
        frozen += await lags(1.0)
        assert len(asyncio.all_tasks()) <= tasks + 4
        valkey.thaw()
        await equal(a, b, count=101)
        # The loop of both nodes went on: its usual lateness, but for 50 ms.
        assert percentile(frozen) <= percentile(usual) + 0.05


async def lags(seconds: float) -> list[float]:
    """Return how late a timer of the loop was, again and again."""
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        due = time.monotonic() + 0.01
        await asyncio.sleep(0.01)
        found.append(time.monotonic() - due)
    return found


def percentile(found: list[float]) -> float:
    return sorted(found)[int(len(found) * 0.95)]


async def test_a_link_that_is_lost_in_silence_is_noticed(valkey: redis_servers.Server) -> None:
    async with FaultProxy(valkey.host, valkey.port) as proxy, nodes(1, valkey.url) as (a,), nodes(1, proxy.url) as (b,):
        a.publish([feature("x")])
        await equal(a, b, count=1)
        proxy.is_stalled = True  # nothing is closed, nothing comes any more
        a.publish([feature("y")])
        await come_true(degraded(b), "noticed")
        assert b.node.degraded == {"redis": "timeout"}
        proxy.is_stalled = False
        await equal(a, b, count=2)


async def test_connections_are_killed_again_and_again(valkey: redis_servers.Server) -> None:
    async with nodes(2, valkey.url) as (a, b):
        seed = random.randrange(1 << 32)
        print("seed", seed)
        choose = random.Random(seed)
        for version in range(1, 200):
            for node in (a, b):
                name = "a" if node is a else "b"
                node.publish([feature(f"{name}{choose.randrange(20)}", choose.uniform(-90, 90), version=version)])
            if version % 25 == 0:
                await valkey.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.01)
        await equal(a, b)
        assert a.counters.troubles["lost"] + b.counters.troubles["lost"] > 0
        async with nodes(1, valkey.url) as (c,):
            await equal(a, b, c)


async def test_an_answer_that_is_lost_behind_a_command_that_was_not(valkey: redis_servers.Server) -> None:
    async with FaultProxy(valkey.host, valkey.port) as proxy, nodes(1, valkey.url) as (b,), nodes(1, proxy.url) as (a,):
        a.publish([feature("x", version=1)])
        await equal(a, b, count=1)
        version = 1
        # Which request it is that is cut is chance; before long it is one that writes to a stream.
        while b.counters.states["stale"] == 0:
            version += 1
            assert version < 100, "no write was ever cut"
            lost = a.counters.troubles["lost"]
            proxy.cut_after_execution()
            a.publish([feature("x", version / 10, version=version)])
            await come_true(lambda lost=lost: a.counters.troubles["lost"] > lost, "the cut")
            await equal(a, b, count=1)
        # Written twice, applied once.
        assert b.counters.states["accepted"] == version
        assert a.entities()[0]["version"] == b.entities()[0]["version"] == version


# Starting


async def test_a_start_before_redis(valkey: redis_servers.Server) -> None:
    await valkey.kill()
    async with nodes(1, valkey.url) as (a,), httpx.AsyncClient(base_url=a.http_url or "") as http:
        assert a.node.degraded == {"redis": "refused"}
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["degraded"], ready.json()["troubles"]) == (200, True, {"redis": "refused"})
        assert 2048 <= a.node.number <= 4095
        a.publish([feature("early")])
        await valkey.start()
        await come_true(lambda: not a.node.degraded, "well again")
        assert 1 <= a.node.number <= 2047
        async with nodes(1, valkey.url) as (b,):
            await equal(a, b, count=1)


TROUBLES = {
    "readonly": ["REPLICAOF", "127.0.0.1", "1"],
    "full": ["CONFIG", "SET", "maxmemory", "1"],
    "misconf": ["CONFIG", "SET", "min-replicas-to-write", "3"],
}
CURES = {
    "readonly": ["REPLICAOF", "NO", "ONE"],
    "full": ["CONFIG", "SET", "maxmemory", "0"],
    "misconf": ["CONFIG", "SET", "min-replicas-to-write", "0"],
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_redis_that_takes_no_writes(valkey: redis_servers.Server, trouble: str) -> None:
    async with nodes(2, valkey.url) as (a, b):
        a.publish([feature("x")])
        await equal(a, b, count=1)
        await valkey.call(*TROUBLES[trouble])
        a.publish([feature("y")])
        b.publish([feature("z")])
        await come_true(lambda: trouble in {*a.node.degraded.values(), *b.node.degraded.values()}, f"{trouble}; {a.node.degraded}")
        assert sorted(contents(a)) == ["x", "y"]
        await valkey.call(*CURES[trouble])
        await equal(a, b, count=3)
        assert a.counters.troubles[trouble] + b.counters.troubles[trouble] > 0


async def test_a_start_with_a_redis_that_wants_a_password(valkey: redis_servers.Server, tmp_path: Any) -> None:
    await valkey.call("CONFIG", "SET", "requirepass", "secret")
    valkey.admin_password = "secret"
    file = tmp_path / "password"
    file.write_text("wrong\n")
    async with nodes(1, valkey.url, f'redis.password_file="{file}"') as (a,):
        assert a.node.degraded == {"redis": "password"}
        a.publish([feature("x")])
        file.write_text("secret\n")
        await come_true(lambda: not a.node.degraded, "the right password is found without a restart")
        await stored(valkey, "x")


async def test_another_number_of_shards_touches_nothing(valkey: redis_servers.Server) -> None:
    async with nodes(1, valkey.url) as (a,):
        a.publish([feature("x")])
        await stored(valkey, "x")
        async with nodes(1, valkey.url, "redis.shards=4") as (b,):
            assert b.node.degraded == {"redis": "format"}
            b.publish([feature("y")])
            await asyncio.sleep(0.3)
            assert await valkey.call("KEYS", "*{3}*") == []
            assert sorted(contents(a)) == ["x"]


async def test_nothing_is_taken_before_the_world_is_there(valkey: redis_servers.Server) -> None:
    async with nodes(1, valkey.url) as (a,), httpx.AsyncClient(base_url=a.http_url or "") as http:
        a.publish([feature("x", version=7)])
        a.node.is_whole = False
        for answer in (await http.post("/v1/updates", json=feature("x")), await http.delete("/v1/entities/x"), await http.get("/readyz")):
            assert answer.status_code == 503
        a.node.is_whole = True
        assert a.entities()[0]["version"] == 7


# What others may have put there


async def test_what_is_not_ours_is_passed_over(valkey: redis_servers.Server) -> None:
    async with nodes(2, valkey.url) as (a, b):
        a.publish([feature("x")])
        await equal(a, b, count=1)
        logs = [Shard("realtime", number).log for number in range(3)]
        alien = msgspec.msgpack.encode(["alien", 1])
        for garbage in (b"", b"\xdd", b"\xff" * 100, join([alien, b"\xc1"]), b"\xdd\xff\xff\xff\xff", b"\x91" * 100_000, b"x" * 20_000_000):
            await valkey.call("XADD", logs[0], "*", "e", "somebody", "s", garbage)
        await valkey.call("XADD", logs[1], "*", "hello", "world")
        await valkey.call("XADD", logs[1], "*", "e", "somebody", "s", "1", "more", "2")
        usual = await lags(0.5)
        a.publish([feature("y"), feature("z")])
        await equal(a, b, count=3)
        assert b.counters.states["bad"] > 0
        assert b.counters.bus["entries_bad"] == 1
        assert percentile(usual) < 1.0
        for node in (a, b):
            node.node.engine.verify()


async def test_what_is_not_ours_in_the_store_is_passed_over(valkey: redis_servers.Server) -> None:
    async with nodes(1, valkey.url) as (a,):
        a.publish([feature("x")])
        await stored(valkey, "x")
    for number in range(3):
        await valkey.call("HSET", Shard("realtime", number).entities, "bad", b"\xc1", "worse", b"", "y", msgspec.msgpack.encode(["y"]))
    async with nodes(1, valkey.url) as (b,):
        assert sorted(contents(b)) == ["x"]
        assert b.counters.states["bad"] > 0


async def test_a_key_of_another_type_is_the_stores_trouble_alone(valkey: redis_servers.Server) -> None:
    async with nodes(2, valkey.url) as (a, b):
        a.publish([feature("x")])
        await equal(a, b, count=1)
        await stored(valkey, "x")
        for number in range(3):
            await valkey.call("DEL", Shard("realtime", number).entities)
            await valkey.call("SET", Shard("realtime", number).entities, "mine")
        a.publish([feature(f"e{n}") for n in range(10)])
        await come_true(lambda: "wrongtype" in {a.node.degraded.get("store"), b.node.degraded.get("store")}, "said")
        # The nodes still hear each other.
        b.publish([feature("y")])
        await come_true(lambda: all_equal([contents(a), contents(b)]) and len(contents(a)) == 12, "the bus goes on")
        for number in range(3):
            await valkey.call("DEL", Shard("realtime", number).entities)
        await equal(a, b, count=12)
        await stored(valkey, *(f"e{n}" for n in range(10)))


# One writer


async def test_the_writers_place_is_taken_over(valkey: redis_servers.Server) -> None:
    async with nodes(2, valkey.url) as (a, b):
        owners = {await valkey.call("GET", Shard("realtime", number).writer) for number in range(3)}
        assert owners <= {a.node.epoch.encode(), b.node.epoch.encode()}
        a.publish([feature(f"e{n}") for n in range(30)])
        await equal(a, b, count=30)
        await a.stop()
        b.publish([feature(f"later{n}") for n in range(30)])
        await stored(valkey, *(f"later{n}" for n in range(30)))
        for number in range(3):
            assert await valkey.call("GET", Shard("realtime", number).writer) == b.node.epoch.encode()
            assert await valkey.call("GET", Shard("realtime", number).applied)


async def test_a_writer_whose_lease_is_anothers_writes_nothing(valkey: redis_servers.Server) -> None:
    async with nodes(1, valkey.url) as (a,):
        a.publish([feature("x")])
        await stored(valkey, "x")
        shards = [Shard("realtime", number) for number in range(3)]
        for shard in shards:
            await valkey.call("SET", shard.writer, "another", "PX", 600_000)
        await asyncio.sleep(0.2)  # what was begun
        before = [await valkey.call("GET", shard.applied) for shard in shards]
        a.publish([feature(f"e{n}") for n in range(30)])
        await come_true(lambda: a.counters.bus["entries_read"] >= 4, "read")
        await asyncio.sleep(0.3)
        assert [await valkey.call("GET", shard.applied) for shard in shards] == before
        assert sum([await valkey.call("HLEN", shard.entities) for shard in shards]) == 1
        for shard in shards:
            await valkey.call("DEL", shard.writer)
        await stored(valkey, *(f"e{n}" for n in range(30)))


async def test_a_node_number_that_is_lost_is_given_up(valkey: redis_servers.Server) -> None:
    async with nodes(1, valkey.url) as (a,):
        number = a.node.number
        await valkey.call("SET", f"realtime:node:{number}", "another", "PX", 600_000)
        await come_true(lambda: a.node.number not in (number, 0) and a.node.number < 2048, "another number")
        valkey.freeze()
        await come_true(lambda: a.node.number >= 2048, "a number of its own until Redis is back")
        a.publish([feature("x")])
        version = a.entities()[0]["version"]
        assert version % 4096 == a.node.number
        valkey.thaw()
        await come_true(lambda: a.node.number < 2048, "a leased one")


async def test_old_deaths_are_swept(valkey: redis_servers.Server) -> None:
    async with nodes(1, valkey.url, "limits.tombstone_s=0.2") as (a,):
        a.publish([feature(f"e{n}") for n in range(20)] + [feature(f"short{n}", ttl=0.1) for n in range(20)])
        await stored(valkey, "e1")
        a.publish([{"op": "delete", "id": f"e{n}"} for n in range(10)])

        for _ in range(int(WAIT_S / 0.05)):
            if sum([await valkey.call("HLEN", Shard("realtime", number).entities) for number in range(3)]) == 10:
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("the dead are still stored")
        assert len(a.entities()) == 10


# Other ways to keep Redis


async def test_a_cluster() -> None:
    async with redis_servers.cluster3() as cluster:
        async with nodes(2, cluster.url, "redis.mode=cluster") as (a, b):
            a.publish([feature(f"e{n}") for n in range(50)])
            await equal(a, b, count=50)
            await cluster.move_slot_of(Shard("realtime", 0).log)
            b.publish([feature(f"more{n}") for n in range(50)])
            await equal(a, b, count=100)
            assert await a.node.find_view("nobody") is None
        async with nodes(1, cluster.url, "redis.mode=cluster") as (c,):
            assert len(contents(c)) == 100


async def test_a_failover() -> None:
    async with redis_servers.sentinel_pair() as pair, nodes(2, pair.url, "redis.mode=sentinel") as (a, b):
        a.publish([feature(f"e{n}", version=1) for n in range(50)])
        await equal(a, b, count=50)
        await pair.master.kill()
        await come_true(degraded(a), "degraded")
        a.publish([feature(f"e{n}", 5, version=2) for n in range(25)])
        b.publish([feature(f"more{n}", version=1) for n in range(50)])
        await equal(a, b, count=100)
        await pair.master.start()
        b.publish([{"op": "delete", "id": f"e{n}", "version": 3} for n in range(10)])
        await equal(a, b, count=90)
        assert contents(b)["e20"][0]["coordinates"][0] == 5
