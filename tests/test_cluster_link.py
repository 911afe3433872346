"""Each way to reach Redis, against real servers: it connects, it carries every command that is used, it says what is wrong."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis.exceptions as errors
from redis.crc import key_slot

from realtime.cluster.link import BLOCK_MS, Link
from realtime.cluster.trouble import classify
from realtime.config import RedisConfig
from realtime.errors import ConfigError
from tests.fault_proxy import FaultProxy
from tests.redis_links import PASSWORD, acl_line, failure, linked, trouble_of, use
from tests.redis_servers import Cluster, SentinelPair, cluster3, redis_server, sentinel_pair, valkey


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}  # as the server runs; test_connections.py runs on both loops


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    return str(file)


# One server


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
async def test_one_server(unix: bool) -> None:
    async with valkey(unix=unix) as server, linked(server.url + ("?db=3" if unix else "/3")) as link:
        await link.open()
        assert link.groups() == link.read_groups() == [[0, 1, 2, 3]]
        await use(link, 0)
        await use(link, 3)
        assert await server.call("DBSIZE") == 0
        clients = [line for line in (await server.call("CLIENT", "LIST")).decode().splitlines() if "name=realtime:node_1 " in line]
        assert len(clients) == 2  # for commands, for reads
        assert all(" resp=2 " in line for line in clients)
        assert link.connections == 2


async def test_a_blocking_read_that_finds_nothing_is_no_trouble_and_one_that_is_not_answered_is() -> None:
    async with valkey() as server, FaultProxy(server.host, server.port) as proxy, linked(proxy.url, timeout_s=0.2) as link:
        await link.open()
        began = time.monotonic()
        assert not await link.reader(0).xread({"realtime:{0}:log": "0-0"}, block=BLOCK_MS)
        assert time.monotonic() - began > 2 * 0.2
        proxy.half_open()  # the server is gone, and nothing says so
        with pytest.raises(errors.TimeoutError):
            await link.reader(0).xread({"realtime:{0}:log": "0-0"}, block=BLOCK_MS)
        assert time.monotonic() - began < 3 * (BLOCK_MS / 1000 + 0.2)
        await link.reset()
        await use(link, 0)


async def test_a_reset_drops_everything_once_for_all_who_saw_the_same_trouble() -> None:
    async with valkey() as server, linked(server.url) as link:
        await link.open()
        old, seen = link.client(0), link.generation
        reading = asyncio.ensure_future(link.reader(0).xread({"realtime:{0}:log": "0-0"}, block=60_000))
        await server.wait_blocked()
        await asyncio.gather(*(link.reset(seen) for _ in range(5)))
        assert link.generation == seen + 1
        with pytest.raises(errors.ConnectionError):
            await reading
        with pytest.raises(errors.ConnectionError):
            await old.ping()
        await use(link, 0)


async def test_server_that_is_not_there_or_goes_away() -> None:
    async with valkey() as server, linked(server.url, timeout_s=0.3) as link:
        await server.kill()
        assert await failure(link) == "refused"
        await server.start()
        await link.open()
        server.freeze()
        began = time.monotonic()
        assert await failure(link) == "timeout"
        assert await failure(link) == "timeout"  # nor one that takes the connection and says nothing
        assert time.monotonic() - began < 5 * 2 * 0.3
        server.thaw()
        await link.open()
        reading = asyncio.ensure_future(link.reader(0).xread({"realtime:{0}:log": "0-0"}, block=60_000))
        await server.wait_blocked()
        await server.restart()
        assert await trouble_of(reading) == "lost"  # the reader always learns of it
        await use(link, 1)


@pytest.mark.parametrize(
    ("how", "word"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), "full"),
        (("REPLICAOF", "127.0.0.1", "1"), "readonly"),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), "misconf"),
        (("CONFIG", "SET", "requirepass", "s3cret"), ""),
        (("SET", "realtime:{0}:log", "a text"), "wrongtype"),
    ],
)
async def test_a_server_that_takes_no_writes(how: tuple[str, ...], word: str) -> None:
    async with redis_server() as server, linked(server.url) as link:
        await link.open()
        await server.call(*how)
        if not word:  # who is in stays in; who comes is asked
            await link.open()
            await link.reset()
            assert await failure(link) == "password"
            return
        for transaction in (False, True):
            async with link.client(0).pipeline(transaction=transaction) as pipe:
                pipe.xadd("realtime:{0}:log", {"e": "e", "s": "s"})
                assert await trouble_of(pipe.execute()) == word
        assert await link.client(0).get("realtime:world") is None  # and the connection still has its answers in order


async def test_a_server_that_is_loading() -> None:
    async with valkey(settings=["key-load-delay 100"]) as server, linked(server.url) as link:
        async with link.client(0).pipeline(transaction=False) as pipe:
            for number in range(10_000):
                pipe.set(f"k{number}", b"")
            await pipe.execute()
        await server.kill()
        starting = asyncio.ensure_future(server.start())
        words = set()
        while not starting.done():
            try:
                await link.open()
            except errors.RedisError as error:
                words.add(classify(error))
            await asyncio.sleep(0.02)
        await starting
        assert "loading" in words
        assert words <= {"loading", "lost", "refused", "timeout"}


async def test_what_is_no_redis_and_what_has_no_name() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listener, linked(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}") as link:
        assert await failure(link) == "format"
    async with linked("redis://no-such-host.invalid") as link:
        assert await failure(link) in ("dns", "timeout")
    async with linked("unix:///nowhere/at/all") as link:
        assert await failure(link) == "refused"


# Sentinels


def sentinel_settings(pair: SentinelPair) -> dict[str, Any]:
    return {"mode": "sentinel", "sentinels": pair.addresses, "sentinel_name": pair.name}


async def test_failover_and_an_old_master_that_comes_back(password_file: str) -> None:
    async with sentinel_pair() as pair:
        for server in (pair.master, pair.replica):
            await server.add_user(acl_line())
        settings = sentinel_settings(pair) | {"username": "realtime", "password_file": password_file}
        async with linked(pair.url, **settings) as link:
            await link.open()
            assert link.groups() == [[0, 1, 2, 3]]
            await use(link, 0)
            await link.client(0).set("realtime:world", b"before")
            await pair.master.kill()
            assert await failure(link) in ("lost", "refused")
            await pair.wait_master(pair.replica)
            await link.open()
            await link.client(0).set("realtime:world", b"after")
            # Back, and for a while sure to be the master: the place is asked for at each connect, not remembered.
            await pair.master.start()
            for _ in range(10):
                await link.reset()
                assert await link.client(0).get("realtime:world") == b"after"
            await use(link, 1)


async def test_a_replica_is_refused_whoever_names_it() -> None:
    async with sentinel_pair() as pair, linked(pair.url, **sentinel_settings(pair)) as link:

        async def find() -> tuple[str, int]:
            return pair.replica.host, pair.replica.port

        link._find_master = find  # type: ignore[method-assign]
        assert await failure(link) == "readonly"


async def test_sentinels_that_are_gone_or_know_no_such_master() -> None:
    async with sentinel_pair() as pair:
        async with linked(pair.url, **(sentinel_settings(pair) | {"sentinel_name": "another"})) as link:
            assert await failure(link) != ""
        async with linked(pair.url, timeout_s=0.3, connect_timeout_s=0.3, **sentinel_settings(pair)) as link:
            await pair.sentinels[0].kill()
            await link.open()
            await use(link, 0)
            pair.sentinels[1].freeze()
            await link.client(0).ping()  # who is connected needs none of them
            await link.reset()
            assert await failure(link) == "timeout"  # one of three is no majority
            pair.sentinels[1].thaw()
            await link.open()


# Cluster


async def owners(cluster: Cluster, shards: int) -> list[list[int]]:
    """Return which shards share a node, as the nodes have it."""
    groups: dict[int, list[int]] = {}
    for shard in range(shards):
        groups.setdefault((await cluster.owner(key_slot(b"%d" % shard))).port, []).append(shard)
    return list(groups.values())


async def test_a_cluster(password_file: str) -> None:
    async with cluster3() as cluster:
        for server in cluster.servers:
            await server.add_user(acl_line())
        settings = {"mode": "cluster", "shards": 8, "username": "realtime", "password_file": password_file}
        async with linked(cluster.url, **settings) as link:
            with pytest.raises(errors.ConnectionError, match="has answered yet"):
                link.client(0)
            await link.open()
            assert link.groups() == await owners(cluster, 8)
            assert len(link.groups()) == 3
            assert link.read_groups() == [[shard] for shard in range(8)]
            for shard in range(8):
                await use(link, shard)

            # A slot that moves: ASK while it does, MOVED when it has.
            slot = key_slot(b"3")
            source = await cluster.owner(slot)
            target = cluster.servers[(cluster.servers.index(source) + 1) % 3]
            await cluster.begin_move(slot, source, target)
            assert await trouble_of(link.client(3).get("realtime:{3}:no-such-key")) == "moved"
            await cluster.end_move(slot, source, target)
            assert await trouble_of(link.client(3).get("realtime:{3}:applied")) == "moved"
            before = link.groups()
            await link.reset()
            assert link.groups() == await owners(cluster, 8) != before
            assert await link.client(3).get("realtime:{3}:applied") is not None
            await use(link, 3)


async def test_a_cluster_whose_node_is_gone() -> None:
    async with cluster3() as cluster:
        async with linked(
            cluster.url, mode="cluster", shards=8, nodes=[f"127.0.0.1:{server.port}" for server in cluster.servers[1:]]
        ) as link:
            await link.open()
            lost = cluster.servers[0]  # the one that is asked first
            shard = next(shard for shard in range(8) if key_slot(b"%d" % shard) < 5462)
            await lost.kill()
            assert await trouble_of(link.client(shard).get(f"realtime:{{{shard}}}:applied")) in ("lost", "refused")
            await link.reset()  # the others know
            with pytest.raises(errors.RedisError):
                await link.open()
            await lost.start()
            await cluster.wait_ready()
            await link.reset()
            await link.open()
            await use(link, shard)
        async with linked(cluster.url, mode="cluster", nodes=[f"127.0.0.1:{cluster.servers[1].port}"]) as link:
            await lost.kill()
            await link.reset()  # also for who starts now
            assert link.groups()
        for server in cluster.servers:
            await server.kill()
        async with linked(cluster.url, mode="cluster") as link:
            assert await failure(link) == "refused"


async def test_one_server_that_is_called_a_cluster() -> None:
    async with redis_server() as server, linked(server.url, mode="cluster") as link:
        assert await failure(link) == "format"


# What is decided without a server


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": ""}, "an address is expected"),
        ({"url": "unix:///s", "mode": "cluster"}, "a unix socket leads to one server"),
        ({"url": "unix:///s", "mode": "sentinel"}, "a unix socket leads to one server"),
        ({"url": "redis://a/1", "mode": "cluster"}, "database 0 only"),
        ({"url": "redis://a", "mode": "sentinel", "sentinel_name": ""}, "redis.sentinel_name"),
        ({"url": "redis://a:0"}, "a port from 1 to 65,535"),
        ({"url": "redis://a", "mode": "cluster", "nodes": ["b:70000"]}, "a port from 1 to 65,535"),
    ],
)
def test_settings_that_do_not_fit_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Link(RedisConfig(**settings), "n")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@a",
        "redis://user:s3cret@a:6379/0",
        "redis://a?password=s3cret",
        "redis://a/0?password=s3cret",
        "rediss://s3cret@a",
        "unix://:s3cret@/path",
        "unix:///path?db=1&password=s3cret",
        "http://a",
        "redis:a",
        "redis://",
        "redis://a b",
        "redis://a/zero",
        "redis://[::1",
        "redis://a\n",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"url": url}, RedisConfig)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://a.example", "a.example:6379"),
        ("rediss://a.example:7000/2", "a.example:7000"),
        ("redis://[::1]:7000/", "::1:7000"),
        ("unix:///run/redis.sock?db=2", "/run/redis.sock"),
    ],
)
def test_urls(url: str, address: str) -> None:
    config = msgspec.convert({"url": url}, RedisConfig)
    link = Link(config, "n")
    assert link.address == address
    assert repr(link) == f"<Link {address} single>"
