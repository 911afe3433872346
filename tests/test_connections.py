"""Connections to Redis and their pool: no cancel gives anybody a wrong answer or loses a place, nothing connects anew unseen."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis.exceptions as errors

from realtime.cluster.connections import Client, Password, Pool, TcpConnection, Tls, parse_place
from realtime.cluster.trouble import classify
from realtime.config import RedisConfig
from realtime.errors import ConfigError
from tests.fault_proxy import FaultProxy
from tests.redis_servers import Server, make_certificates, valkey, wait_for

KEYS = 50


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@asynccontextmanager
async def shared(place: Server | FaultProxy, connections_max: int = 4, timeout_s: float = 5.0) -> AsyncIterator[tuple[Client, Pool]]:
    pool = Pool(
        TcpConnection,
        connections_max,
        timeout_s,
        host="127.0.0.1",
        port=place.port,
        protocol=2,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        driver_info=None,
    )
    try:
        yield Client(connection_pool=pool), pool
    finally:
        pool.close_nowait()


async def fill(server: Server) -> None:
    for key in range(KEYS):
        await server.call("SET", f"k{key}", f"v{key}")


async def ask(client: Client, draw: random.Random) -> bool:
    """Ask in one of the ways in which a client can, and tell whether the answer is the right one."""
    key = draw.randrange(KEYS)
    want = b"v%d" % key
    way = draw.random()
    if way < 0.6:
        return await client.get(f"k{key}") == want
    async with client.pipeline(transaction=way < 0.85) as pipe:
        if way < 0.75:
            await pipe.watch(f"k{key}")
            if await pipe.get(f"k{key}") != want:
                return False
            pipe.multi()  # type: ignore[no-untyped-call]
        pipe.get(f"k{key}")
        pipe.get(f"k{key}")
        return await pipe.execute() == [want, want]


@pytest.mark.timeout(180)
async def test_ten_thousand_cancels_and_never_a_wrong_answer() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    ends: Counter[str] = Counter()
    connections_max, cancels = 100, 10_000

    async def one(client: Client) -> None:
        task = asyncio.ensure_future(ask(client, draw))
        # Shorter than most answers take; some are cancelled before they have begun, some in the turn in which they end.
        await asyncio.sleep(draw.uniform(0, 0.3))
        is_cancelled = task.cancel()
        try:
            right = await task
        except asyncio.CancelledError:
            ends["cancelled"] += 1
        else:
            ends["right" if right else "wrong"] += 1
            ends["swallowed"] += is_cancelled

    async with valkey(persists=False) as server, FaultProxy(server.host, server.port) as proxy:
        await fill(server)
        proxy.latency_s = 0.05  # there and back
        async with shared(proxy, connections_max) as (client, pool):

            async def many() -> None:
                while ends["cancelled"] < cancels:
                    await one(client)

            # More than there are connections, so that some are cancelled while they wait for one.
            await asyncio.gather(*(many() for _ in range(3 * connections_max)))
            print(dict(ends), "connections made:", proxy.connections)
            assert ends["wrong"] == ends["swallowed"] == 0
            assert ends["right"] > 100
            idle, in_use = pool.sizes
            assert (idle <= connections_max, in_use) == (True, 0)
            # Every place is still there: as many at once as there are.
            proxy.latency_s = 0.0
            held = await asyncio.gather(*(pool.get_connection() for _ in range(connections_max)))
            assert pool.sizes == (0, connections_max)
            for connection in held:
                await pool.release(connection)
            assert await client.get("k7") == b"v7"


async def test_a_cancel_of_who_is_next_in_turn_passes_the_turn_on() -> None:
    async with valkey(persists=False) as server, shared(server, 1) as (_, pool):
        connection = await pool.get_connection()
        first = asyncio.ensure_future(pool.get_connection())
        second = asyncio.ensure_future(pool.get_connection())
        await asyncio.sleep(0.01)
        await pool.release(connection)
        first.cancel()
        assert await second is connection
        assert first.cancelled()


async def test_who_waits_in_vain_for_a_connection_is_told() -> None:
    async with valkey(persists=False) as server, shared(server, 1, timeout_s=0.1) as (client, pool):
        connection = await pool.get_connection()
        with pytest.raises(errors.TimeoutError, match="all 1 connections are in use") as caught:
            await client.ping()
        assert classify(caught.value) == "timeout"
        await pool.release(connection)
        assert await client.ping()


async def test_a_command_is_sent_once_even_if_it_was_done_and_the_answer_was_lost() -> None:
    async with valkey(persists=False) as server, FaultProxy(server.host, server.port) as proxy, shared(proxy) as (client, _):
        assert await client.ping()
        for count in range(1, 6):
            proxy.cut_after_execution()
            with pytest.raises(errors.ConnectionError) as caught:
                await client.incr("n")
            assert classify(caught.value) == "lost"
            assert await server.call("GET", "n") == b"%d" % count
        assert proxy.executed == 5
        assert await client.incr("n") == 6  # and the next one finds a connection that works


async def test_a_request_that_was_cut_in_the_middle_does_nothing() -> None:
    async with valkey(persists=False) as server, FaultProxy(server.host, server.port) as proxy, shared(proxy) as (client, _):
        assert await client.ping()
        for count_bytes in (1, 7, 20, 5000):
            proxy.cut_after(count_bytes, "up")
            with pytest.raises(errors.ConnectionError):
                await client.set("a", b"x" * 10_000)
        assert await server.call("EXISTS", "a") == 0


async def test_a_transaction_whose_connection_was_dropped_does_not_go_on_without_its_watch() -> None:
    async with valkey(persists=False) as server, FaultProxy(server.host, server.port) as proxy, shared(proxy) as (client, _):
        await server.call("SET", "a", "mine")
        pipe = client.pipeline()
        await pipe.watch("a")
        proxy.cut()
        await server.call("SET", "a", "theirs")
        pipe.multi()  # type: ignore[no-untyped-call]
        pipe.set("a", "mine again")
        # Not a WatchError, which would mean that nothing was done: of a broken connection nobody knows.
        with pytest.raises(errors.ConnectionError):
            await pipe.execute()
        await pipe.reset()  # type: ignore[no-untyped-call]
        assert await server.call("GET", "a") == b"theirs"


async def test_what_is_asked_behind_a_watch_fails_as_what_it_is() -> None:
    async with valkey(persists=False) as server, FaultProxy(server.host, server.port) as proxy, shared(proxy) as (client, _):
        pipe = client.pipeline()
        await pipe.watch("a")
        proxy.cut()
        with pytest.raises(errors.ConnectionError):
            await pipe.get("a")
        await pipe.reset()  # type: ignore[no-untyped-call]


async def test_a_transaction_that_lost_is_told_from_one_whose_answer_was_lost() -> None:
    async with valkey(persists=False) as server, FaultProxy(server.host, server.port) as proxy, shared(proxy) as (client, _):
        async with client.pipeline() as pipe:
            await pipe.watch("a")
            pipe.multi()  # type: ignore[no-untyped-call]
            pipe.set("a", "mine")
            await server.call("SET", "a", "theirs")
            with pytest.raises(errors.WatchError):
                await pipe.execute()
        assert await server.call("GET", "a") == b"theirs"
        async with client.pipeline() as pipe:
            await pipe.watch("a")
            pipe.multi()  # type: ignore[no-untyped-call]
            pipe.set("a", "mine")
            proxy.cut_after_execution()
            with pytest.raises(errors.ConnectionError):
                await pipe.execute()
        assert await server.call("GET", "a") == b"mine"


async def test_closing_drops_also_what_is_in_use() -> None:
    async with valkey(persists=False) as server, shared(server) as (client, pool):
        reading = asyncio.ensure_future(client.xread({"s": "0-0"}, block=60_000))
        await server.wait_blocked()
        pool.close_nowait()
        with pytest.raises(errors.ConnectionError):
            await reading
        with pytest.raises(errors.ConnectionError, match="reset"):
            await client.ping()
        assert pool.sizes[1] == 0
        assert not any(connection.is_connected for connection in pool._available_connections)


async def test_closing_while_somebody_connects() -> None:
    async with valkey(persists=False) as server, FaultProxy(server.host, server.port) as proxy, shared(proxy) as (client, pool):
        proxy.latency_s = 0.05
        pool.connection_kwargs["client_name"] = "slow"  # so that there is a handshake to be interrupted
        command = asyncio.ensure_future(client.get("a"))
        await wait_for_connections(proxy)
        pool.close_nowait()
        with pytest.raises(errors.ConnectionError):
            await command
        assert pool.sizes == (1, 0)
        assert not pool._available_connections[0].is_connected


async def wait_for_connections(proxy: FaultProxy) -> None:
    async def is_taken() -> bool:
        return proxy.connections > 0

    await wait_for(is_taken, "a connection")


async def test_a_frozen_server_that_takes_no_bytes_holds_no_socket() -> None:
    """A transport that is closed politely would wait for its bytes to be taken."""
    async with valkey(persists=False) as server, shared(server, 2, timeout_s=0.2) as (client, pool):
        assert await client.ping()
        server.freeze()
        began = time.monotonic()
        for _ in range(4):
            with pytest.raises(errors.TimeoutError):
                await client.set("a", bytes(32 << 20))
        assert time.monotonic() - began < 4 * 5 * 0.2
        assert not any(connection.is_connected for connection in pool._available_connections)
        gc.collect()
        server.thaw()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            count = (await server.call("INFO", "clients"))["connected_clients"]
            if count == 1:  # who asks
                return
        raise AssertionError(f"{count} connections are left")


@pytest.mark.parametrize(
    "reply",
    [
        b"*2\r\n$3\r\n0-1\r\n*2\r\n$1\r\ns\r\n$5\r\nstate\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nd\r\n",
        b"%1\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n0-1\r\n$1\r\nx\r\n",
    ],
    ids=["array", "push of RESP3", "map of RESP3"],
)
def test_the_parser_does_not_leak(reply: bytes) -> None:
    """hiredis before 3.5 kept a list of every push."""
    reader = hiredis.Reader()

    def take(count: int) -> int:
        before = sys.getallocatedblocks()
        for _ in range(count):
            reader.feed(reply)
            reader.gets()
        return sys.getallocatedblocks() - before

    take(1000)
    assert take(20_000) < 2000


# What connections are made with


def test_a_password_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    password = Password("ann", str(file))
    assert password.get_credentials() == ("ann", "first")
    file.write_text("second\r\n")
    assert password.get_credentials() == ("ann", "second")
    assert Password("", str(file)).get_credentials() == ("second",)
    assert Password("ann", "").get_credentials() == ("ann", "")
    assert "second" not in repr(password) + repr(vars(password))


def test_a_credential_of_the_service_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "redis").write_text("p w")
    password = Password("", "credential:redis")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(errors.AuthenticationError, match="CREDENTIALS_DIRECTORY is not set"):
        password.get_credentials()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert password.get_credentials() == ("p w",)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "empty"), (b"\n", "empty"), (b"x" * 5000, "too long"), (b"\xff\xfe", "not UTF-8")],
)
def test_a_password_file_that_is_none(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(errors.AuthenticationError, match=message) as caught:
        Password("", str(file)).get_credentials()
    assert classify(caught.value) == "password"


async def test_a_password_that_cannot_be_read_leaves_no_connection_that_looks_ready(tmp_path: Path) -> None:
    async with valkey(persists=False) as server:
        await server.call("CONFIG", "SET", "requirepass", "s3cret")
        file = tmp_path / "password"
        password = Password("", str(file))
        pool = Pool(TcpConnection, 1, 1.0, port=server.port, protocol=2, driver_info=None, credential_provider=password)
        client = Client(connection_pool=pool)
        for _ in range(3):
            with pytest.raises(errors.AuthenticationError, match="cannot be read"):
                await client.get("a")
        file.write_text("s3cret")
        assert await client.get("a") is None
        pool.close_nowait()


def test_certificates_are_read_anew_when_they_change(tmp_path: Path) -> None:
    files = make_certificates(tmp_path / "1")
    tls = Tls(RedisConfig(ca_file=files.ca_file, cert_file=files.client_cert_file, key_file=files.client_key_file))
    first = tls.context()
    assert tls.context() is first
    make_certificates(tmp_path / "1")
    assert tls.context() is not first
    Path(files.ca_file).unlink()
    with pytest.raises(OSError, match="No such file") as caught:
        tls.context()
    assert classify(caught.value) == "tls"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a.example", ("a.example", 5)),
        ("a:7", ("a", 7)),
        ("[::1]", ("::1", 5)),
        ("[::1]:7", ("::1", 7)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
    ],
)
def test_places(text: str, place: tuple[str, int]) -> None:
    assert parse_place(text, 5) == place


@pytest.mark.parametrize("text", ["a:0", "a:65536", "[::1]:99999"])
def test_no_places(text: str) -> None:
    with pytest.raises(ConfigError, match="a port from 1 to 65,535"):
        parse_place(text, 5)


async def test_hiredis_is_what_parses() -> None:
    connection: Any = TcpConnection()
    assert type(connection._parser).__name__ == "_AsyncHiredisParser"
