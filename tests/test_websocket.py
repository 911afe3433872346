"""The public port against peers that are slow, many, silent or hostile: what each costs, and that nobody else notices.

Timeouts are set short and asserted as multiples of themselves; a bystander echoes wherever somebody misbehaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

import realtime.gateway.websocket
from realtime.errors import CloseCode
from realtime.gateway.connection import WRITE_BUFFER_HIGH_BYTES, Connection
from realtime.gateway.handshake import HEAD_BYTES_MAX, Endpoint
from realtime.gateway.stream import READ_BYTES
from realtime.gateway.websocket import COUNTS, TCP_NOTSENT_LOWAT, Listener
from tests.echo_server import Echo, Running
from tests.net.raw import BINARY, CLOSE, PING, PONG, TEXT, Frame, Raw, close_frame, connect, frame, request

LATE = 4  # times its timeout is when a thing must have happened, on a busy machine

both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def wait(condition: Callable[[], bool], timeout_s: float) -> float:
    """Wait until a condition holds; return how long that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, "it did not happen in time"
        time.sleep(0.01)
    return time.monotonic() - started


def only(listener: Listener) -> Connection:
    (connection,) = listener.connections
    return connection


def newest(listener: Listener) -> Connection:
    return max(listener.connections, key=lambda connection: connection.serial)


@contextlib.contextmanager
def bystander(server: Running) -> Iterator[None]:
    """Somebody who is served before, meanwhile and afterwards."""
    with connect(server.port) as raw:
        raw.echo(b"before")
        yield
        started = time.monotonic()
        raw.echo(b"after")
        assert time.monotonic() - started < 1


class Silent(Echo):
    """Takes messages and answers none."""

    def on_message(self, data: str | bytes) -> None:
        """Nothing."""


class Unidentified(Echo):
    """Never identifies itself."""

    def on_open(self, connection: Connection) -> None:
        self.connection = connection


class Flooding(Echo):
    """Writes state as long as the socket takes it, after the first message."""

    written_bytes = 0

    def on_message(self, data: str | bytes) -> None:
        self.on_writable()

    def on_writable(self) -> None:
        while self.connection is not None and self.connection.is_open and not self.connection.is_paused:
            self.connection.send_state(b"*" * 2000)
            self.written_bytes += 2004

    @property
    def taken_bytes(self) -> int:
        """What the kernel has taken."""
        return self.written_bytes - (0 if self.connection is None else self.connection.buffered_bytes)


# Handshake


GOOD_HEADS = {
    "plain": request(),
    "firefox": request(Connection="keep-alive, Upgrade"),
    "upper case": request(Upgrade="WebSocket", Connection="UPGRADE"),
    "lists": request(Upgrade="h2c, websocket", Connection="Upgrade,keep-alive"),
    "query": request("/ws?a=b&c"),
    "own origin": request(Host="localhost:8765", Origin="http://localhost:8765"),
    "listed origin": request(Origin="https://maps.example.com"),
    "proxied": request(Host="maps.example.com", Origin="https://maps.example.com"),
    "json": request(Sec_WebSocket_Protocol="realtime.v1.json"),
    "length 0": request(Content_Length="0"),
    "deflate offered": request(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"),
}
MARK = "reflected-by-no-means"
BAD_HEADS = {
    "post": (400, request(method="POST")),
    "mark as method": (400, request(method=MARK)),
    "http 1.0": (400, request(version="HTTP/1.0")),
    "mark as version": (400, request(version=MARK)),
    "one token": (400, MARK.encode() + b"\r\n\r\n"),
    "no request line": (400, b"\r\n\r\n"),
    "relative target": (400, request(MARK)),
    "absolute target": (400, request("http://127.0.0.1/ws")),
    "no host": (400, request(Host=None)),
    "two hosts": (400, request(host="127.0.0.1", Host="127.0.0.1")),
    "folded": (400, request(X=f"a\r\n {MARK}")),
    "no colon": (400, request(X=f"a\r\n{MARK}")),
    "space before colon": (400, request(X=f"a\r\n{MARK} : b")),
    "bare lf": (400, request(X=f"a\n{MARK}: b")),
    "not ascii": (400, request(X="é" + MARK)),
    "not utf-8": (400, request(X="\xff\xfe" + MARK)),
    "nul": (400, request(X="\x00")),
    "body": (400, request(Content_Length="5")),
    "chunked": (400, request(Transfer_Encoding="chunked")),
    "no key": (400, request(Sec_WebSocket_Key=None)),
    "mark as key": (400, request(Sec_WebSocket_Key=MARK)),
    "short key": (400, request(Sec_WebSocket_Key="AAAA")),
    "old version": (400, request(Sec_WebSocket_Version="8")),
    "no version": (400, request(Sec_WebSocket_Version=None)),
    "unknown subprotocols": (400, request(Sec_WebSocket_Protocol=f"{MARK}, realtime.v2.json")),
    "no upgrade": (426, request(Upgrade=None)),
    "other upgrade": (426, request(Upgrade="h2c")),
    "no connection": (426, request(Connection="keep-alive")),
    "other path": (404, request(f"/{MARK}")),
    "path below": (404, request("/ws/")),
    "foreign origin": (403, request(Origin=f"http://{MARK}.example.com")),
    "null origin": (403, request(Origin="null")),
    "suffix": (403, request(Origin="https://maps.example.com.evil.example")),
    "prefix": (403, request(Origin="https://evil-maps.example.com")),
    "other port": (403, request(Origin="https://maps.example.com:444")),
    "other scheme": (403, request(Origin="http://maps.example.com")),
    "two origins": (403, request(Origin="https://maps.example.com\r\nOrigin: http://evil.example")),
    "rebound name": (403, request(Host="evil.example:8765", Origin="http://evil.example:8765")),
    "many headers": (431, request(**{f"X{n}": "y" for n in range(129)})),
    "long head": (431, request(X="*" * HEAD_BYTES_MAX)),
}


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def strict(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A server as it is in production, but for the handler."""
    with Running(loop=request.param, endpoint=Endpoint(), origins=["https://maps.example.com"]) as server:
        yield server


@pytest.mark.parametrize("name", GOOD_HEADS)
def test_good_head(name: str, strict: Running) -> None:
    with connect(strict.port, GOOD_HEADS[name]) as raw:
        raw.echo()


@pytest.mark.parametrize("name", BAD_HEADS)
def test_bad_head(name: str, strict: Running, caplog: pytest.LogCaptureFixture) -> None:
    status, head = BAD_HEADS[name]
    with bystander(strict), caplog.at_level(logging.DEBUG), Raw(strict.port) as raw:
        before = strict.counts[f"handshake_refused_{status}"]
        raw.send(head)
        answer = raw.answer()
        whole = raw.until_end()
        assert answer.status == status
        assert int(answer.headers["content-length"]) == len(whole)
        assert "close" in answer.headers["connection"]
        assert MARK not in str(answer)
        assert strict.counts[f"handshake_refused_{status}"] == before + 1
    lines = [record for record in caplog.records if record.name.startswith(("realtime", "picows", "asyncio"))]
    assert all(record.exc_info is None and MARK not in record.getMessage() for record in lines)


def test_refusals_are_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    with Running(endpoint=Endpoint()) as server, caplog.at_level(logging.INFO):
        started = time.monotonic()
        for _ in range(50):
            with Raw(server.port) as raw:
                raw.send(request(method="POST"))
                assert raw.answer().status == 400
        elapsed = time.monotonic() - started
    lines = [record for record in caplog.records if record.name.startswith("realtime")]
    assert 1 <= len(lines) <= 1 + elapsed
    assert server.counts["handshake_refused_400"] == 50


def test_answers_of_426_and_of_a_wrong_version_say_what_would_do(strict: Running) -> None:
    with Raw(strict.port) as raw:
        raw.send(request(Upgrade=None))
        headers = raw.answer().headers
        assert (headers["upgrade"], headers["connection"]) == ("websocket", "upgrade, close")
    with Raw(strict.port) as raw:
        raw.send(request(Sec_WebSocket_Version="8"))
        assert raw.answer().headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize(
    ("offered", "chosen", "is_text"),
    [
        (None, None, True),
        ("realtime.v1.msgpack", "realtime.v1.msgpack", False),
        ("x, realtime.v1.msgpack, realtime.v1.json", "realtime.v1.msgpack", False),
        ("realtime.v1.json,realtime.v1.msgpack", "realtime.v1.json", True),
        ("REALTIME.V1.MSGPACK, realtime.v1.json", "realtime.v1.json", True),
    ],
)
def test_subprotocol(offered: str | None, chosen: str | None, is_text: bool, strict: Running) -> None:
    """The client's first that is known wins; the other frame type is refused."""
    spoken, other = (TEXT, BINARY) if is_text else (BINARY, TEXT)
    with Raw(strict.port) as raw:
        answer = raw.upgrade(request(Sec_WebSocket_Protocol=offered))
        assert answer.headers.get("sec-websocket-protocol") == chosen
        assert "sec-websocket-extensions" not in answer.headers
        raw.echo(opcode=spoken)
        raw.send(frame(other, b"x", fin=False))
        assert [frame.close_code for frame in raw.frames()] == [1003]


def test_a_head_may_come_byte_by_byte(strict: Running) -> None:
    with Raw(strict.port) as raw:
        head = request()
        for at in range(len(head) - 1):
            raw.send(head[at : at + 1])
        raw.upgrade(head[-1:])
        raw.echo()


class Page(NamedTuple):
    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str]


@both_loops
def test_plain_pages(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[Mapping[str, str]] = []

    def get(path: str, headers: Mapping[str, str]) -> Page | None:
        asked.append(headers)
        if path == "/raises":
            raise RuntimeError("secret")
        return {"/healthz": Page(200, "text/plain", b"ok\n", {"X-A": "b"}), "/long": Page(200, "text/plain", b"*" * 5_000_000, {})}.get(
            path
        )

    with Running(loop=loop, endpoint=Endpoint(), public_get=get, handshake_timeout_s=0.5) as server, bystander(server):
        for path, status, body in (
            ("/healthz?x", 200, b"ok\n"),
            ("/none", 404, b"nothing is here\n"),
            ("/raises", 500, b"internal error\n"),
        ):
            with Raw(server.port) as raw:
                raw.send(request(path, Upgrade=None, Connection="keep-alive", Accept="a/b"))
                answer = raw.answer()
                assert (answer.status, raw.until_end()) == (status, body)
                if status == 200:
                    assert answer.headers["x-a"] == "b"
        assert asked[0]["accept"] == "a/b"
        with Raw(server.port) as raw:
            raw.send(request("/long"))
            raw.answer()
            assert len(raw.until_end()) == 5_000_000
        with Raw(server.port, receive_bytes=4096) as raw:  # and one who does not take it
            raw.send(request("/long"))
            wait(lambda: server.listener is not None and server.listener.half_open == 0, LATE * 0.5)
    assert sum(record.exc_info is not None for record in caplog.records) == 1


# Many, slow and silent peers before the upgrade


@both_loops
def test_slow_heads_do_not_keep_others_out(loop: str) -> None:
    timeout_s, half_open = 0.5, 40
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Running(loop=loop, handshake_timeout_s=timeout_s, connections_half_open=half_open))
        stack.enter_context(bystander(server))
        started = time.monotonic()
        slow = [stack.enter_context(Raw(server.port)) for _ in range(3 * half_open)]
        for raw in slow:
            with contextlib.suppress(ConnectionError):  # evicted already
                raw.send(b"GET /ws HT")
        assert server.listener is not None and server.listener.half_open <= half_open
        connecting = time.monotonic()
        with connect(server.port) as raw:
            raw.echo()
        assert time.monotonic() - connecting < timeout_s, "the handshake waited for the slow ones"
        for raw in slow:
            with contextlib.suppress(ConnectionError):
                raw.send(b"T")
            assert raw.until_end() == b""
        assert time.monotonic() - started < LATE * timeout_s
    assert server.counts["half_open_evicted"] >= 2 * half_open
    assert server.counts["half_open_evicted"] + server.counts["handshake_timeout"] >= 3 * half_open


@both_loops
def test_who_never_identifies_is_closed(loop: str) -> None:
    timeout_s = 0.3
    with Running(Unidentified, loop=loop, identify_timeout_s=timeout_s) as server, connect(server.port) as raw:
        started = time.monotonic()
        assert raw.frame().close_code == CloseCode.IDENTIFY_TIMEOUT
        assert 0.9 * timeout_s < time.monotonic() - started < LATE * timeout_s
        wait(lambda: server.closed == [CloseCode.IDENTIFY_TIMEOUT], 1)


def test_connections_in_all() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Running(connections=3))
        inside = [stack.enter_context(connect(server.port)) for _ in range(3)]
        with connect(server.port) as raw:
            assert [frame.close_code for frame in raw.frames()] == [CloseCode.FULL]
        for raw in inside:
            raw.echo()
        inside[0].reset()
        wait(lambda: server.listener is not None and len(server.listener.connections) == 2, 2)
        stack.enter_context(connect(server.port)).echo()
        assert server.counts["connections_refused"] == 1
        assert server.counts["connections_opened"] == 4


def test_refused_connections_are_bounded_like_half_open_ones() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Running(connections=1, connections_half_open=10))
        stack.enter_context(connect(server.port))
        refused = [stack.enter_context(connect(server.port)) for _ in range(50)]
        assert server.listener is not None and server.listener.half_open <= 10
        assert [raw.frame().close_code for raw in refused[-10:]] == [CloseCode.FULL] * 10


def test_connections_per_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime.gateway.websocket, "is_loopback", lambda host: False)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Running(connections_per_address=2))
        first = [stack.enter_context(connect(server.port, source="127.0.0.2")) for _ in range(2)]
        with connect(server.port, source="127.0.0.2") as raw:
            assert raw.frame().close_code == CloseCode.FULL
        stack.enter_context(connect(server.port, source="127.0.0.3")).echo()
        first[0].reset()
        wait(lambda: server.listener is not None and len(server.listener.connections) == 2, 2)
        stack.enter_context(connect(server.port, source="127.0.0.2")).echo()


def test_loopback_is_exempt_from_the_limit_per_address() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Running(connections_per_address=1))
        for _ in range(3):
            stack.enter_context(connect(server.port)).echo()


# Too much, too big, too often


@both_loops
def test_what_a_header_claims_is_refused_before_it_comes(loop: str) -> None:
    with Running(Unidentified, loop=loop, identify_timeout_s=60) as server, bystander_of(server):
        for claimed in (server.limits.message_bytes_before_identify + 1, server.limits.message_bytes + 1, 10 << 20):
            head = frame(TEXT, b"", length=claimed, wide=2 if claimed < 65536 else 8)
            for size in (len(head) - 4, len(head)):  # without and with the masking key
                with connect(server.port) as raw:
                    raw.send(head[:size])
                    assert [frame.close_code for frame in raw.frames()] == [CloseCode.TOO_BIG]


@contextlib.contextmanager
def bystander_of(server: Running) -> Iterator[None]:
    """One who answers pings: for servers that echo nothing."""
    with connect(server.port) as raw:
        yield
        raw.send(frame(PING, b"still there"))
        assert raw.frame() == Frame(PONG, b"still there")


class Growing(Echo):
    """Allows longer messages after the first."""

    def on_message(self, data: str | bytes) -> None:
        super().on_message(data)
        assert self.connection is not None
        self.connection.message_bytes_max = 100_000


def test_the_limit_grows_when_the_handler_says_so() -> None:
    with Running(Growing) as server, connect(server.port) as raw:
        raw.echo(b"*" * 16384)
        raw.echo(b"*" * 100_000)
        raw.send(frame(TEXT, b"*" * 100_001))
        assert raw.frame().close_code == CloseCode.TOO_BIG


@both_loops
def test_buffers_stay_small_under_a_flood(loop: str) -> None:
    """picows doubles its buffer when reads fill it; reads never do, and a parser that has grown is not kept."""
    with Running(Silent, loop=loop) as server, connect(server.port) as raw:
        small = frame(TEXT, b"*" * 100) * 5000
        for _ in range(20):
            raw.send(small)
        raw.send(frame(PING, b"done"))
        assert raw.frame() == Frame(PONG, b"done")
        assert server.call(idle_parsers) == [READ_BYTES]
        raw.send(frame(TEXT, b"*" * 16384) + frame(PING, b"long"))
        assert raw.frame() == Frame(PONG, b"long")
        raw.send(frame(PING))
        assert raw.frame() == Frame(PONG, b"")
        assert server.call(idle_parsers) == [READ_BYTES]


def idle_parsers(listener: Listener) -> list[int]:
    """Return how many bytes each of the parsers that nobody uses takes at once."""
    idle: Any = listener.parsers._idle
    return [(len(parser._picows.get_buffer(-1)) + 1) // 2 for parser in idle]


@both_loops
def test_connections_share_parsers_but_never_while_a_frame_is_incomplete(loop: str) -> None:
    with Running(loop=loop) as server, contextlib.ExitStack() as stack:
        raws = [stack.enter_context(connect(server.port)) for _ in range(8)]
        whole = [frame(TEXT, f"from {number}".encode() * 3) for number in range(len(raws))]
        for at in range(len(whole[0])):  # byte streams that interleave, cut in headers, keys and payloads alike
            for raw, bytes_ in zip(raws, whole, strict=True):
                raw.send(bytes_[at : at + 1])
                server.call(lambda listener: None)
        for number, raw in enumerate(raws):
            assert raw.frame() == Frame(TEXT, f"from {number}".encode() * 3)
        assert 1 <= len(server.call(idle_parsers)) <= len(raws)


@both_loops
def test_a_parser_that_has_seen_a_close_frame_is_nobodys(loop: str) -> None:
    with Running(loop=loop) as server:
        for code in (1000, 1001, 4321):
            with connect(server.port) as raw:
                raw.send(frame(CLOSE, code.to_bytes(2, "big")))
                assert raw.frame().close_code == code
        with connect(server.port) as raw:
            raw.send(frame(CLOSE, (1005).to_bytes(2, "big")))
            assert raw.frame().close_code == CloseCode.PROTOCOL_ERROR
        with connect(server.port) as raw:
            raw.echo(b"as if nothing had happened")


@both_loops
def test_ping_flood_without_reading(loop: str) -> None:
    with Running(loop=loop, close_timeout_s=0.5) as server, bystander(server), connect(server.port, receive_bytes=4096) as raw:
        flooded = server.call(newest)
        with contextlib.suppress(ConnectionError, TimeoutError):
            for _ in range(100):
                raw.send(frame(PING, b"*" * 125) * 100)
                assert flooded.buffered_bytes <= WRITE_BUFFER_HIGH_BYTES + 1000
        wait(lambda: CloseCode.POLICY in server.closed, 2)


@both_loops
def test_pongs_that_wait_are_one_the_newest(loop: str) -> None:
    limits = {"control_frames_per_s": 1e9, "send_buffer_bytes": 4096, "unsent_bytes": 4096}
    with Running(Flooding, loop=loop, **limits) as server, connect(server.port, receive_bytes=4096) as raw:
        raw.send(frame(TEXT, b"go"))
        flooded = server.call(only)
        wait(lambda: flooded.is_paused, 2)
        buffered = flooded.buffered_bytes
        for n in range(2000):
            raw.send(frame(PING, b"%d" % n))
        wait(lambda: flooded._pong == b"1999", 5)
        assert flooded.buffered_bytes <= buffered
        frames = [raw.frame() for _ in range(200)]
        assert [frame.payload for frame in frames if frame.opcode == PONG] == [b"1999"]


def test_pongs_nobody_asked_for_are_limited_too() -> None:
    with Running() as server, connect(server.port) as raw:
        raw.send(frame(PONG) * 101)
        assert raw.frame().close_code == CloseCode.POLICY


# Silent and slow peers


@both_loops
def test_who_answers_no_ping_is_closed(loop: str) -> None:
    interval_s, timeout_s = 0.3, 0.3
    with (
        Running(loop=loop, ping_interval_s=interval_s, pong_timeout_s=timeout_s) as server,
        bystander_of_pings(server),
        connect(server.port) as raw,
    ):
        started = time.monotonic()
        assert raw.frame() == Frame(PING, b"")
        assert raw.frame().close_code == CloseCode.NO_PONG
        assert 0.9 * (interval_s + timeout_s) < time.monotonic() - started < LATE * (interval_s + timeout_s)
        wait(lambda: server.closed == [CloseCode.NO_PONG], 1)


@contextlib.contextmanager
def bystander_of_pings(server: Running) -> Iterator[None]:
    """One who is pinged and says nothing but what it must: pongs, and once a message instead."""
    with connect(server.port) as raw:
        stop = threading.Event()
        answered = [0]

        def answer() -> None:
            while not stop.is_set():
                if raw.frame().opcode == PING:
                    answered[0] += 1
                    raw.send(frame(PONG))

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield
        wait(lambda: answered[0] >= 4, 5)
        stop.set()
        thread.join(5)
        assert not thread.is_alive()


@both_loops
def test_who_takes_nothing_is_cut_and_who_takes_little_is_not(loop: str) -> None:
    """The reader takes so little that the kernel lets the server write less often than the stall would allow.

    Pings are on, and stand behind the data: that the pongs come late, or never, is not held against the reader either.
    """
    stall_s = 1.0
    limits = {"write_stall_s": stall_s, "ping_interval_s": 0.2, "pong_timeout_s": 0.4, "unsent_bytes": 131072}
    flooding = Flooding()
    with Running(lambda: flooding, loop=loop, **limits) as server, connect(server.port, receive_bytes=4096) as raw:
        raw.send(frame(TEXT, b"go"))
        slow = server.call(only)
        wait(lambda: slow.is_paused, 2)
        until = time.monotonic() + 3.5 * stall_s
        taken_bytes, changes = flooding.taken_bytes, [time.monotonic()]
        while time.monotonic() < until:
            raw.socket.recv(2000)
            time.sleep(0.1)
            if flooding.taken_bytes != taken_bytes:
                taken_bytes = flooding.taken_bytes
                changes.append(time.monotonic())
        changes.append(time.monotonic())
        gaps_s = [round(later - earlier, 1) for earlier, later in pairwise(changes)]
        assert slow.is_open
        assert slow.buffered_bytes <= WRITE_BUFFER_HIGH_BYTES + 2100
        assert max(gaps_s) > 1.2 * stall_s, f"the kernel took bytes after {gaps_s}, so often that this shows nothing"
        wait(lambda: not slow.is_open, LATE * stall_s)
        wait(lambda: server.closed == [CloseCode.SLOW_CONSUMER], 1)
        wait(lambda: server.listener is not None and not server.listener.connections, 1)


# Lanes


@both_loops
def test_nothing_is_read_while_the_control_lane_is_half_full(loop: str) -> None:
    """An echo whose peer does not read: it is held up, and later gets everything in order."""
    lane = 100_000
    with Running(loop=loop, control_lane_bytes=lane, send_buffer_bytes=16384) as server, connect(server.port, receive_bytes=4096) as raw:
        echoing = server.call(only)
        raw.socket.settimeout(0.3)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 100_000:
                raw.send(frame(BINARY, sent.to_bytes(4, "big") * 250))
                sent += 1
        assert sent < 100_000, "it was never held up"
        held_bytes = echoing.control_bytes
        assert lane / 2 <= held_bytes <= lane / 2 + 1000
        assert echoing.is_open and echoing.is_paused
        raw.socket.settimeout(10)
        for n in range(sent):
            assert raw.frame() == Frame(BINARY, n.to_bytes(4, "big") * 250)
        assert echoing.control_bytes == 0


class Blaring(Echo):
    """Answers each message with two megabytes in the control lane."""

    def on_message(self, data: str | bytes) -> None:
        assert self.connection is not None
        for _ in range(200):
            self.connection.send_control(b"*" * 10_000)


@both_loops
def test_a_control_lane_that_runs_over_ends_the_connection(loop: str) -> None:
    with Running(Blaring, loop=loop) as server, bystander_of(server), connect(server.port, receive_bytes=4096) as raw:
        raw.send(frame(TEXT, b"go"))
        wait(lambda: server.closed == [CloseCode.SLOW_CONSUMER], 2)


class Holding(Echo):
    """Holds reading after each message, and goes on a little later."""

    def __init__(self) -> None:
        super().__init__()
        self.is_busy = False

    def on_message(self, data: str | bytes) -> None:
        assert not self.is_busy, "a message came while reading was held"
        assert self.connection is not None
        self.is_busy = True
        self.connection.hold_reading(True)
        asyncio.get_running_loop().call_later(0.005, self._go_on, data)

    def _go_on(self, data: str | bytes) -> None:
        self.is_busy = False
        if self.connection is not None:
            self.connection.send_control(data)
            self.connection.hold_reading(False)


@both_loops
def test_held_messages_wait_in_order_and_pings_do_not(loop: str) -> None:
    with Running(Holding, loop=loop) as server, connect(server.port) as raw:
        raw.send(b"".join(frame(TEXT, b"%d" % n) for n in range(20)) + frame(PING, b"now") + close_frame(1000))
        frames = raw.frames()
        assert frames[0] == Frame(PONG, b"now")
        assert [frame.payload for frame in frames[1:-1]] == [b"%d" % n for n in range(20)]
        assert frames[-1].close_code == 1000
        assert server.counts["handler_error"] == 0


# The end


class Closing(Echo):
    """Closes or aborts as the message says."""

    def on_message(self, data: str | bytes) -> None:
        assert self.connection is not None and isinstance(data, str)
        connection, (verb, _, code) = self.connection, data.partition(" ")
        connection.send_control("first")
        if verb == "close":
            connection.close(CloseCode(int(code)), "reason é" * 30)
            connection.close(CloseCode.NORMAL)
        else:
            connection.abort(CloseCode(int(code)))
        assert self.connection is connection, "on_close came from inside"
        connection.send_control("late")
        connection.send_state(b"late")
        connection.abort(CloseCode.BUG) if verb == "abort" else None


@both_loops
@pytest.mark.parametrize("verb", ["close", "abort"])
def test_closing_from_this_side(verb: str, loop: str) -> None:
    with Running(Closing, loop=loop, close_timeout_s=1.0) as server, connect(server.port) as raw:
        started = time.monotonic()
        raw.send(frame(TEXT, f"{verb} 4500".encode()))
        assert raw.frame() == Frame(TEXT, b"first")
        last = raw.frame()
        assert last.close_code == CloseCode.BAD_TOKEN
        last.payload[2:].decode()  # cut between characters
        with contextlib.suppress(ConnectionError):  # an abort does not wait for these
            raw.send(frame(TEXT, b"ignored") + close_frame(1000))
        assert raw.until_end() == b""
        wait(lambda: server.closed == [CloseCode.BAD_TOKEN], 1)
        wait(lambda: server.listener is not None and not server.listener.connections, 1)
        assert time.monotonic() - started < 1.0, "only the deadline ended it"


@both_loops
def test_who_does_not_answer_a_close_is_cut(loop: str) -> None:
    timeout_s = 0.4
    with Running(Closing, loop=loop, close_timeout_s=timeout_s) as server, connect(server.port) as raw:
        raw.send(frame(TEXT, b"close 1012"))
        wait(lambda: server.closed == [CloseCode.RESTART], 1)  # the handler need not wait for the peer
        assert server.listener is not None and server.listener.connections
        raw.socket.settimeout(LATE * timeout_s)
        assert [frame.opcode for frame in raw.frames()] == [TEXT, 8]


@both_loops
@pytest.mark.parametrize(
    ("leave", "code"),
    [
        (lambda raw: raw.reset(), 1006),
        (lambda raw: raw.socket.close(), 1006),
        (lambda raw: raw.socket.shutdown(socket.SHUT_WR), 1006),
        (lambda raw: raw.send(frame(TEXT, b"half", fin=False) + frame(TEXT)[:1]) or raw.reset(), 1006),
        (lambda raw: raw.send(close_frame(None)), 1005),
        (lambda raw: raw.send(close_frame(1001)), 1001),
        (lambda raw: raw.send(close_frame(4000)), 1005),
        (lambda raw: raw.send(close_frame(3333)), 1005),
        (lambda raw: raw.send(close_frame(999)), 1002),
        (lambda raw: raw.send(close_frame(5000)), 1002),
        (lambda raw: raw.send(frame(TEXT, b"x") + close_frame(1015)), 1002),
        (lambda raw: raw.send(frame(7)), 1002),
        (lambda raw: raw.send(frame(7)) or raw.reset(), None),  # whichever is seen first
    ],
)
def test_every_end_is_told_once(leave: Callable[[Raw], None], code: int | None, loop: str) -> None:
    with Running(loop=loop, close_timeout_s=0.5) as server, bystander(server), connect(server.port) as raw:
        raw.echo()
        leave(raw)
        wait(lambda: len(server.closed) == 1, 2)
        wait(lambda: server.listener is not None and len(server.listener.connections) == 1, 2)
        assert server.closed[0] in ((1002, 1006) if code is None else (code,))
    assert len(server.closed) == 2


@both_loops
def test_who_sends_no_more_and_takes_nothing_is_gone_at_once(loop: str) -> None:
    """Half a socket is no WebSocket: nobody waits until the rest of the data is taken."""
    with Running(Flooding, loop=loop) as server, connect(server.port, receive_bytes=4096) as raw:
        raw.send(frame(TEXT, b"go"))
        wait(lambda: server.call(lambda listener: any(connection.is_paused for connection in listener.connections)), 2)
        raw.socket.shutdown(socket.SHUT_WR)
        wait(lambda: server.closed == [1006] and not server.call(lambda listener: listener.connections), 2)


@both_loops
def test_a_storm_of_resets(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    with Running(loop=loop) as server, bystander(server), caplog.at_level(logging.INFO):
        many = [connect(server.port) for _ in range(300)]
        halves = [Raw(server.port) for _ in range(50)]
        for n, raw in enumerate(many):
            raw.send(frame(TEXT, b"*" * 1000)[: n * 7 % 1000 + 1])
        for raw in many + halves:
            raw.reset()
        wait(lambda: server.listener is not None and len(server.listener.connections) == 1 and server.listener.half_open == 0, 5)
        assert server.closed == [1006] * 300
    assert len(caplog.records) <= 3


class Raising(Echo):
    """Raises wherever it is told to."""

    where = ""

    def on_open(self, connection: Connection) -> None:
        super().on_open(connection)
        self._raise("on_open")

    def on_message(self, data: str | bytes) -> None:
        super().on_message(data)
        self._raise("on_message" if data == "raise" else "")

    def on_writable(self) -> None:
        self._raise("on_writable")

    def on_close(self, code: int) -> None:
        super().on_close(code)
        self._raise("on_close")

    def _raise(self, where: str) -> None:
        if where == self.where:
            raise RuntimeError(f"raised on purpose in {where}")


@both_loops
@pytest.mark.parametrize("where", ["factory", "on_open", "on_message", "on_writable", "on_close"])
def test_what_a_handler_raises_costs_its_connection(where: str, loop: str, caplog: pytest.LogCaptureFixture) -> None:
    made = [0]

    def make() -> Echo:
        made[0] += 1
        if made[0] == 1:
            return Echo()  # the bystander's
        if where == "factory":
            raise RuntimeError("raised on purpose in factory")
        handler = Raising()
        handler.where = where
        return handler

    with Running(make, loop=loop, send_buffer_bytes=4096, close_timeout_s=0.2) as server, bystander(server):
        for _ in range(3):
            with connect(server.port, receive_bytes=4096) as raw:
                if where != "on_open":
                    with contextlib.suppress(ConnectionError):
                        raw.send(frame(TEXT, b"*" * 16000) * (20 if where == "on_writable" else 1) + frame(TEXT, b"raise"))
                if where == "on_close":
                    raw.send(close_frame(1000))
                assert raw.frames()[-1].close_code == (1000 if where == "on_close" else CloseCode.BUG)
    if where != "factory":
        assert server.counts["handler_error"] == 3
    traces = [record for record in caplog.records if record.exc_info]
    assert 1 <= len(traces) <= 3
    assert "raised on purpose" in caplog.text


# The listener


@both_loops
def test_stop_accepting_leaves_connections_alone(loop: str) -> None:
    with Running(loop=loop) as server, connect(server.port) as raw:
        server.call(lambda listener: listener.stop_accepting())
        raw.echo()
        with pytest.raises(ConnectionError):
            Raw(server.port)


@both_loops
def test_aclose_ends_everything_and_soon(loop: str) -> None:
    """Well-behaved, deaf, half-open: all are gone, and every handler was told, when it returns."""
    timeout_s = 0.4
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Running(Flooding, loop=loop, close_timeout_s=timeout_s, write_stall_s=60))
        silent = [stack.enter_context(connect(server.port)) for _ in range(5)]
        deaf = [stack.enter_context(connect(server.port, receive_bytes=4096)) for _ in range(5)]
        for raw in deaf:
            raw.send(frame(TEXT, b"go"))
        stack.enter_context(Raw(server.port)).send(b"GET /")
        wait(lambda: server.call(lambda listener: sum(connection.is_paused for connection in listener.connections)) == 5, 2)
        started = time.monotonic()
        listener = server.listener
        assert listener is not None
        server.call(lambda listener: listener.close_all(CloseCode.RESTART))
        server.run(listener.aclose())
        assert time.monotonic() - started < LATE * timeout_s
        assert not listener.connections and not listener.half_open
        assert server.closed == [CloseCode.RESTART] * 10
        assert [raw.frame().close_code for raw in silent] == [CloseCode.RESTART] * 5


@both_loops
def test_socket_options(loop: str) -> None:
    with Running(loop=loop) as server, connect(server.port) as raw:
        raw.echo()
        connection = server.call(only)
        assert connection._transport is not None
        accepted: socket.socket = connection._transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * server.limits.send_buffer_bytes  # the kernel doubles it
        assert accepted.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == server.limits.unsent_bytes
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0  # it cuts slow readers, see connection.py
        assert (connection.peer, connection.subprotocol, connection.serial) == ("127.0.0.1", None, 1)


def test_every_count_is_in_the_table(strict: Running) -> None:
    assert set(strict.counts) <= set(COUNTS)
