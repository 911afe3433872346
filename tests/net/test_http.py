"""The API's port over real sockets: what breaks HTTP, what is slow, what is big; and that nobody else notices.

Timeouts are set short and what is asserted are multiples of them. Raw requests are written out, as the point of them
is that no client library would send them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from uvicorn.server import ServerState

import realtime.node
from realtime.gateway import http
from realtime.gateway.http import ApiServer, bind
from realtime.gateway.http_connection import CONNECTIONS_PER_REQUEST
from tests.api_node import NDJSON, configured, feature, ndjson, on_port, open_gate
from tests.spied_engine import replace

pytestmark = pytest.mark.usefixtures("engine_kind")

HOST = b"Host: localhost\r\n"
LAST = b"Connection: close\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST
POST = b"POST /v1/updates HTTP/1.1\r\n" + HOST + b"Content-Type: application/x-ndjson\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
DELETE = b'{"op":"delete","id":"smuggled"}'


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


@asynccontextmanager
async def connected(server: ApiServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def talk(server: ApiServer, *parts: bytes) -> bytes:
    """Send the parts and return what comes until the server closes."""
    async with connected(server) as (reader, writer):
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0)
        return await reader.read()


def answers(received: bytes) -> list[tuple[int, bytes]]:
    """Return status and body of each response; all must be whole."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        length = int(headers.get(b"content-length", 0))
        assert len(rest) >= length
        found.append((int(status.split()[1]), rest[:length]))
        received = rest[length:]
    return found


async def is_well(server: ApiServer) -> bool:
    return answers(await talk(server, HEALTH + LAST + b"\r\n")) == [(200, b"ok\n")]


async def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def state_of(server: ApiServer) -> ServerState:
    """Return uvicorn's sets of what is open."""
    assert server._shared is not None
    return server._shared.state


async def at_rest(server: ApiServer) -> None:
    """Return once nothing is open."""
    state = state_of(server)
    await wait_for(lambda: not state.connections and not state.tasks)


# What breaks HTTP

MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n",
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "one word": b"GET\r\n\r\n",
    "no Host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /healthz HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "bare LF everywhere": b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
    "bare LF in a header": b"GET /healthz HTTP/1.1\r\nX: y\nHost: localhost\r\n\r\n",
    "bare LF at the end": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\n",
    "bare CR": b"GET /healthz HTTP/1.1\r\nX: y\rHost: localhost\r\n" + HOST + b"\r\n",
    "folded header": b"GET /healthz HTTP/1.1\r\nX: y\r\n z\r\n" + HOST + b"\r\n",
    "space before the colon": b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "NUL": b"GET /healthz HTTP/1.1\r\nHost: local\0host\r\n\r\n",
    "non-ASCII target": "GET /ü HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n" + DELETE,
    "negative length": POST + b"Content-Length: -1\r\n\r\n" + DELETE,
    "length with a sign": POST + b"Content-Length: +31\r\n\r\n" + DELETE,
    "unknown transfer coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two transfer codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunk size of letters": CHUNKED + b"zz\r\nab\r\n",
    "negative chunk size": CHUNKED + b"-1\r\nab\r\n",
    "chunk size over 64 bits": CHUNKED + b"F" * 25 + b"\r\nab",
    "chunk size with bare LF": CHUNKED + b"2\nab\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"2\r\nabXX0\r\n\r\n",
    "a body in one-byte chunks": CHUNKED + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n",
    "length and transfer coding": POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED)
async def test_what_breaks_http_is_400_and_ends_the_connection(request_: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Behind it comes a request that must not be taken for one."""
    smuggled = POST + b"Content-Length: %d\r\n\r\n" % len(DELETE) + DELETE
    async with on_port() as (server, gate):
        [(status, body)] = answers(await talk(server, request_ + smuggled))
        assert status == 400
        assert set(json.loads(body)) == {"code", "message"}
        assert not gate.node.counters.updates["accepted"]
        assert await is_well(server)
    assert not caplog.records


@pytest.mark.parametrize(
    "head",
    [
        HEALTH + b"X: " + b"a" * (16 * 1024) + b"\r\n\r\n",
        HEALTH + b"X: " + b"a" * (16 * 1024),
        HEALTH + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n",
        HEALTH + b"".join(b"X-%d: 1\r\n" % number for number in range(3000)) + b"\r\n",
        HEALTH + b"".join(b"X-%d: 1\r\n" % number for number in range(129)) + LAST + b"\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
    ids=["16 KiB", "without an end", "1 MiB", "3,000 headers", "129 headers", "target"],
)
async def test_a_head_that_is_too_big_is_431(head: bytes) -> None:
    async with on_port() as (server, _):
        [(status, body)] = answers(await talk(server, head))
        assert (status, json.loads(body)["code"]) == (431, "too_big")
        assert await is_well(server)


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/entities?filter=%0d%0aX-Evil:%201",
        b"/v1/entities/a%0d%0aX-Evil:%201",
        b"/%0d%0aX-Evil:%201",
        b"/v1/explain?session=%0d%0aX-Evil:%201",
    ],
)
async def test_nothing_of_a_request_is_repeated(target: bytes) -> None:
    async with on_port() as (server, _):
        request = b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"Referer: evil\r\nUser-Agent: evil\r\n" + LAST + b"\r\n"
        received = await talk(server, request)
        assert answers(received)[0][0] in (400, 404)
        assert b"evil" not in received.lower()


async def test_an_encoded_body_is_415_and_not_inflated() -> None:
    async with on_port() as (server, _):
        request = POST + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n" + LAST + b"\r\n\x1f\x8b\x08\x00"
        assert answers(await talk(server, request))[0][0] == 415


# Several requests on one connection


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with on_port() as (server, _):
        publish = POST + b"Content-Length: %d\r\n\r\n" % len(DELETE) + DELETE
        first, second, third = answers(await talk(server, HEALTH + b"\r\n" + publish + HEALTH + LAST + b"\r\n"))
        assert (first, third) == ((200, b"ok\n"), (200, b"ok\n"))
        assert (second[0], json.loads(second[1])["accepted"]) == (200, 1)


async def test_there_is_no_websocket_here_and_nothing_is_smuggled_behind_an_upgrade() -> None:
    async with on_port() as (server, _):
        for upgrade in (b"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", b"h2c"):
            request = HEALTH + b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n\r\n" + HEALTH + LAST + b"\r\n"
            assert answers(await talk(server, request)) == [(200, b"ok\n")] * 2
        connect = b"CONNECT localhost:1 HTTP/1.1\r\n" + HOST + LAST + b"\r\n"
        assert answers(await talk(server, connect))[0][0] == 404


async def test_the_answer_comes_to_a_client_that_has_closed_its_half() -> None:
    async with on_port() as (server, _), connected(server) as (reader, writer):
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(DELETE) + DELETE)
        writer.write_eof()
        [(status, body)] = answers(await reader.read())
        assert (status, json.loads(body)["accepted"]) == (200, 1)


async def test_expect_100_continue() -> None:
    async with on_port() as (server, _):
        async with connected(server) as (reader, writer):
            writer.write(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(DELETE) + LAST + b"\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            writer.write(DELETE)
            assert answers(await reader.read())[0][0] == 200
        async with connected(server) as (reader, writer):
            writer.write(POST + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n")
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413 ")


# Slow ones


async def test_a_body_that_pauses_is_408_and_tells_what_was_applied() -> None:
    async with on_port(body_timeout_s=0.05) as (server, gate):
        line = DELETE + b"\n"
        [(status, body)] = answers(await talk(server, POST + b"Content-Length: 1000\r\n\r\n" + line + DELETE))
        verdict = json.loads(body)
        assert (status, verdict["code"], verdict["accepted"]) == (408, "bad_message", 1)
        request = POST.replace(b"x-ndjson", b"json") + b"Content-Length: 1000\r\n\r\n{"
        assert answers(await talk(server, request))[0][0] == 408
        assert gate.node.counters.updates["accepted"] == 1


async def test_a_body_may_take_longer_than_its_timeout_in_all() -> None:
    async with on_port(body_timeout_s=0.5) as (server, _), connected(server) as (reader, writer):
        lines = 8
        writer.write(POST + LAST + b"Content-Length: %d\r\n\r\n" % (lines * (len(DELETE) + 1)))
        for _ in range(lines):
            await asyncio.sleep(0.1)
            writer.write(DELETE + b"\n")
        [(status, body)] = answers(await reader.read())
        assert (status, json.loads(body)["accepted"]) == (200, lines)


async def test_lines_are_applied_as_they_arrive() -> None:
    async with on_port() as (server, gate), connected(server) as (_, writer):
        writer.write(CHUNKED)
        for number in range(3):
            line = json.dumps(feature(f"bus-{number}")).encode() + b"\n"
            writer.write(b"%x\r\n" % len(line) + line + b"\r\n")
            await wait_for(lambda: gate.node.engine.get(f"bus-{number}") is not None)  # noqa: B023


async def test_a_client_that_goes_away_keeps_what_was_applied_and_costs_nothing_more() -> None:
    async with on_port() as (server, gate):
        for is_reset in (False, True):
            async with connected(server) as (_, writer):
                writer.write(POST + b"Content-Length: 1000\r\n\r\n" + DELETE + b"\n" + DELETE)
                await wait_for(lambda: gate.node.counters.updates["accepted"] == 1 + is_reset)  # noqa: B023
                if is_reset:
                    one = writer.get_extra_info("socket")
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await at_rest(server)
        assert gate.node.counters.updates["accepted"] == 2
        assert await is_well(server)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", HEALTH, HEALTH + b"\r\n" + b"GET /he", HEALTH + b"\r\n"])
async def test_a_head_has_to_be_there_in_time(sent: bytes) -> None:
    async with on_port({"handshake_timeout_s": 0.2}) as (server, _):
        loop = asyncio.get_running_loop()
        began = loop.time()
        received = await talk(server, sent)
        assert 0.1 < loop.time() - began < 10
        is_partial = bool(sent) and not sent.endswith(b"\r\n\r\n")
        statuses = [status for status, _ in answers(received)]
        assert statuses == [200] * sent.count(b"\r\n\r\n") + [408] * is_partial


async def test_a_dribbled_head_does_not_win_time() -> None:
    async with on_port({"handshake_timeout_s": 0.2}) as (server, _), connected(server) as (reader, writer):
        closed = asyncio.ensure_future(reader.read())
        count = 0
        while not closed.done():
            writer.write(HEALTH[count % len(HEALTH) :][:1])
            count += 1
            await asyncio.wait([closed], timeout=0.02)
        assert count < 100
        assert answers(closed.result())[0][0] == 408


async def test_the_rest_of_a_body_that_nobody_reads_is_not_waited_for() -> None:
    """An unknown route is answered at once; what is still sent is dropped, and not for ever."""
    async with on_port({"handshake_timeout_s": 0.2}) as (server, _), connected(server) as (reader, writer):
        writer.write(b"POST /nothing HTTP/1.1\r\n" + HOST + b"Content-Length: 100000000\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 404 ")
        closed = asyncio.ensure_future(reader.read())
        while not writer.transport.is_closing():
            writer.write(b"x" * 1000)
            await asyncio.wait([closed], timeout=0.01)
        await asyncio.wait([closed])
        closed.exception()


async def test_who_reads_nothing_is_cut_and_the_others_are_served() -> None:
    async with on_port({"write_stall_s": 0.2}) as (server, gate):
        gate.node.publish([feature(f"bus-{number}", properties={"text": "x" * 15_000}) for number in range(1500)])
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(b"GET /v1/entities HTTP/1.1\r\n" + HOST + b"\r\n")
            while not gate.node.counters.events["http_write_stall"]:
                assert await is_well(server)
        await at_rest(server)


async def test_who_reads_slowly_gets_everything() -> None:
    async with on_port({"write_stall_s": 0.3}) as (server, gate), connected(server) as (reader, writer):
        gate.node.publish([feature(f"bus-{number}", properties={"text": "x" * 15_000}) for number in range(600)])
        writer.write(b"GET /v1/entities HTTP/1.1\r\n" + HOST + LAST + b"\r\n")
        received = bytearray()
        while piece := await reader.read(500_000):
            received += piece
            await asyncio.sleep(0.05)
        [(status, body)] = answers(bytes(received))
        assert (status, len(json.loads(body)["features"])) == (200, 600)


# Many and much


async def test_a_hundred_thousand_updates_leave_the_loop_to_others() -> None:
    count = 100_000
    async with on_port() as (server, gate), httpx.AsyncClient(base_url=server.url) as client:
        body = ndjson([{"op": "delete", "id": f"bus-{number}"} for number in range(count)])
        batch = asyncio.ensure_future(client.post("/v1/updates", content=body, headers=NDJSON, timeout=100))
        others = 0
        while not batch.done():
            assert await is_well(server)
            assert (await client.post("/v1/updates", json=feature("other"))).json()["rejected_total"] == 0
            others += 1
        assert (await batch).json()["accepted"] == count
        # Each of these rounds is many turns of the loop, and without slices there would be one.
        assert others > 5
        assert gate.node.engine.statistics()["tombstones"] == count


async def test_large_json_bodies_are_sliced_too() -> None:
    async with on_port() as (server, _), httpx.AsyncClient(base_url=server.url) as client:
        updates = [{"op": "delete", "id": f"bus-{number}", "note": "x" * 100} for number in range(25_000)]
        batch = asyncio.ensure_future(client.post("/v1/updates", json={"updates": updates}, timeout=100))
        others = 0
        while not batch.done():
            others += await is_well(server)
        assert (await batch).json()["accepted"] == 25_000
        assert others > 5


async def test_requests_beyond_the_limit_are_503_and_the_rest_go_on() -> None:
    limit = 4
    async with on_port(requests=limit, body_timeout_s=30) as (server, gate):
        async with connected(server) as one, connected(server) as two, connected(server) as three, connected(server) as four:
            for _, writer in (one, two, three, four):
                writer.write(POST + LAST + b"Content-Length: %d\r\n\r\n" % len(DELETE))
            await wait_for(lambda: len(state_of(server).tasks) == limit)
            received = await talk(server, HEALTH + LAST + b"\r\n")
            assert answers(received)[0][0] == 503
            assert b"retry-after: 1\r\n" in received
            for reader, writer in (one, two, three, four):
                writer.write(DELETE)
                assert answers(await reader.read())[0][0] == 200
        assert await is_well(server)
        assert gate.node.counters.events["http_503"] == 1


async def test_connections_are_bounded() -> None:
    limit = 3
    async with on_port(requests=limit) as (server, gate):
        most = limit * CONNECTIONS_PER_REQUEST
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(most)]
        await wait_for(lambda: len(state_of(server).connections) == most)
        for _ in range(10):
            [(status, _)] = answers(await talk(server))
            assert status == 503
        assert gate.node.counters.events["http_full"] == 10
        for _, writer in idle:
            writer.close()
        await at_rest(server)
        assert await is_well(server)


# Start and stop


async def test_an_embedded_server_touches_no_signals_and_no_loggers() -> None:
    watched = [logging.getLogger(name) for name in (None, "uvicorn", "uvicorn.error", "uvicorn.access", "starlette", "realtime")]

    def state() -> list[Any]:
        loggers = [(list(one.handlers), one.level, one.propagate, one.disabled) for one in watched]
        return [*loggers, *(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))]

    before = state()
    async with on_port() as (server, _):
        assert await is_well(server)
        assert state() == before
    assert state() == before


async def test_a_bug_is_logged_with_its_traceback_and_costs_one_request(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with on_port() as (server, gate):
        replace(monkeypatch, gate.node, "get", lambda *_: 1 / 0)
        request = b"GET /v1/entities/a HTTP/1.1\r\n" + HOST + LAST + b"\r\n"
        assert answers(await talk(server, request)) == [(500, b'{"code":"unavailable","message":"internal error"}')]
        assert await is_well(server)
        monkeypatch.undo()
    [record] = caplog.records
    assert record.name == "realtime.gateway.http_connection"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_stop_ends_what_is_open_and_frees_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "STOP_S", 0.1)
    config = configured(body_timeout_s=60)
    async with open_gate(config) as gate:
        server = ApiServer(gate)
        await server.start(config)
        port = server.port
        async with connected(server) as (idle, _), connected(server) as (busy, writer):
            writer.write(POST + b"Content-Length: 100\r\n\r\n" + DELETE + b"\n")
            await wait_for(lambda: gate.node.counters.updates["accepted"] == 1)
            await server.stop()
            assert await idle.read() == b""
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await busy.readexactly(1)
        again = ApiServer(gate)
        sockets = await bind("127.0.0.1", port)
        sockets[0].close()
        await again.start(configured(port=port))
        assert await is_well(again)
        await again.stop()
        await again.stop()


async def test_stop_lets_a_running_request_end() -> None:
    config = configured()
    async with open_gate(config) as gate:
        server = ApiServer(gate)
        await server.start(config)
        async with connected(server) as (reader, writer):
            writer.write(POST + b"Content-Length: %d\r\n\r\n" % (len(DELETE) + 1) + DELETE)
            await wait_for(lambda: bool(state_of(server).tasks))
            stop = asyncio.ensure_future(server.stop())
            await asyncio.sleep(0)
            writer.write(b"\n")
            [(status, body)] = answers(await reader.read())
            await stop
        assert (status, json.loads(body)["accepted"]) == (200, 1)


async def test_stop_does_not_wait_for_a_long_batch(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(http, "STOP_S", 0.02)
    monkeypatch.setattr(realtime.node, "SLICE_S", 0.0)  # so that a batch is long on any engine
    count = 100_000
    async with on_port() as (server, gate), connected(server) as (_, writer):
        body = json.dumps({"updates": [{"op": "delete", "id": f"{number}"} for number in range(count)]}).encode()
        writer.write(POST.replace(b"x-ndjson", b"json") + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await wait_for(lambda: gate.node.counters.updates["accepted"] > 0)
        await server.stop()
        applied = gate.node.counters.updates["accepted"]
        await asyncio.sleep(0.05)
        assert gate.node.counters.updates["accepted"] == applied < count
    assert not caplog.records


async def test_where_it_can_be_reached() -> None:
    for host, url in (("127.0.0.1", "http://127.0.0.1"), ("0.0.0.0", "http://127.0.0.1"), ("localhost", "http://localhost")):
        async with on_port(host=host) as (server, _), httpx.AsyncClient() as client:
            assert server.url == f"{url}:{server.port}"
            assert (await client.get(f"{server.url}/healthz")).status_code == 200
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = configured(port=taken.getsockname()[1])
        async with open_gate(config) as gate:
            server = ApiServer(gate)
            with pytest.raises(OSError, match="in use"):
                await server.start(config)
            await server.stop()
