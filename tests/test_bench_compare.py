"""The comparison sees what a peer does wrong, measures waits from when changes were due, and guesses no ratio."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from bench.compare import Found, conclude
from bench.peers.peer import Measured, Mirrors
from bench.peers.viewers import Viewers
from bench.results import Result

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="the viewers of peers are compiled"),
]

RATE, WARM_UP_S, SECONDS = 300.0, 0.3, 1.0
Tamper = Callable[[int, bytes], bytes | None]  # (number of the message, payload) -> payload, or None to lose it


class Broker:
    """As much of nats-server as the viewers need, which can be told to be a bad one."""

    def __init__(self, tamper: Tamper, delay_s: float = 0.0) -> None:
        self._tamper, self._delay_s = tamper, delay_s
        self._subscribers: dict[bytes, list[tuple[asyncio.StreamWriter, bytes]]] = {}
        self._number = 0

    async def on_publisher(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.startswith(b"PUB "):
                _, subject, size = line.split()
                payload = (await reader.readexactly(int(size) + 2))[:-2]
                asyncio.get_running_loop().call_later(self._delay_s, self._deliver, subject, payload)
        writer.close()

    def _deliver(self, subject: bytes, payload: bytes) -> None:
        for writer, sid in self._subscribers.get(subject, ()):
            self._number += 1
            told = self._tamper(self._number, payload)
            if told is not None and not writer.is_closing():
                message = b"MSG %b %b %d\r\n%b\r\n" % (subject, sid, len(told), told)
                assert len(message) < 126
                # In two frames, so that what is cut anywhere is put together again.
                writer.write(b"".join(bytes((0x82, len(part))) + part for part in (message[:7], message[7:])))

    async def on_viewer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = head.partition(b"Sec-WebSocket-Key: ")[2].split(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        writer.write(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accept)
        _, length = await reader.readexactly(2)
        size = int.from_bytes(await reader.readexactly(2), "big") if length == 0x80 | 126 else length & 0x7F
        text = (await reader.readexactly(4 + size))[4:]
        for line in text.splitlines():
            if line.startswith(b"SUB "):
                _, subject, sid = line.split()
                self._subscribers.setdefault(subject, []).append((writer, sid))
        writer.write(b"\x82\x06PONG\r\n")
        await reader.read()
        writer.close()


@asynccontextmanager
async def _measured(tamper: Tamper = lambda _, payload: payload, delay_s: float = 0.0) -> AsyncIterator[Measured]:
    broker = Broker(tamper, delay_s)
    viewers = Viewers(seed=3, viewers=30, entities=200, sampled=10)
    try:
        async with (
            await asyncio.start_server(broker.on_publisher, "127.0.0.1", 0) as publishing,
            await asyncio.start_server(broker.on_viewer, "127.0.0.1", 0) as viewing,
        ):
            port, publish_port = (one.sockets[0].getsockname()[1] for one in (viewing, publishing))
            yield await viewers.measure("nats", RATE, WARM_UP_S, SECONDS, {}, port=port, publish_port=publish_port, core=None)
    finally:
        viewers.close()


async def test_a_peer_that_delivers_is_found_right() -> None:
    async with _measured() as found:
        assert found.mirrors is not None and found.filled is not None
        assert (found.filled.wrong, found.mirrors.wrong, found.mirrors.compared) == (0, 0, 10)
        assert found.came == found.expected > 0
        assert found.changes == RATE * SECONDS
        assert found.over_fetched_per_s > 0  # tiles are larger than views
        assert (found.faults, found.closed) == (0, 0)


async def test_what_is_lost_is_missed() -> None:
    async with _measured(lambda number, payload: None if number % 10 == 0 else payload) as found:
        assert found.mirrors is not None
        assert found.came < found.expected * 0.95
        assert math.isinf(found.p99_ms), "a tenth never came: one in a hundred waits for ever"
        assert found.mirrors.missing + found.mirrors.stale > 0
        assert found.window().taken_per_s < found.rate * 0.95


async def test_what_is_changed_on_the_way_is_a_fault() -> None:
    async with _measured(lambda _, payload: payload.replace(b",30.", b",31.")) as found:
        assert found.faults > 0
        assert found.window().faults > 0


async def test_a_wait_counts_from_when_the_change_was_due() -> None:
    async with _measured(delay_s=0.25) as found:
        assert 250 <= found.p50_ms <= found.p99_ms < 10_000


MIRRORS = Mirrors(10, 0, 1000)


def _found(name: str, load: float, deliveries: float, is_lower_bound: bool = False) -> Found:
    one = Measured(
        rate=load,
        viewers=1000,
        seconds=8.0,
        changes=800,
        expected=800,
        came=800,
        taken_per_s=load,
        wanted_per_s=deliveries,
        over_fetched_per_s=0.0,
        p50_ms=1.0,
        p99_ms=2.0,
        max_ms=3.0,
        growth_s=0.0,
        cpu={"server": 0.9},
        filled=MIRRORS,
        mirrors=MIRRORS,
    )
    beyond = msgspec.structs.replace(one, rate=load * 2, wanted_per_s=deliveries * 1.5, p99_ms=math.inf)
    return Found(name, {}, ["serve"], one, [one, beyond], load, "the server's core", is_lower_bound, 500.0)


def _concluded(**found: Found) -> Result:
    result = Result.begin("compare")
    conclude(result, found)
    msgspec.json.encode(result)
    return result


def test_ratios_are_taken_against_the_most_that_a_peer_did() -> None:
    result = _concluded(
        native=_found("realtime, native engine", 90_000, 6e6), replaced=_found("old", 150, 8e3), nats=_found("NATS", 2e4, 1e6)
    )
    rows = {row.key: row for row in result.rows if row.key}
    assert rows["replaced"].value == 600
    assert rows["nats"].value == 4.0, "deliveries beyond the bound count in its favour"
    assert {row.verdict for row in rows.values()} == {"met"}


@pytest.mark.parametrize(
    ("key", "ours", "load", "why"),
    [
        ("native", "realtime, native engine", 60.0, "not that design"),
        ("native", "realtime, native engine", 0.0, "sustained nothing"),
        ("reference", "realtime, reference engine", 150.0, "reference engine"),
    ],
)
def test_a_ratio_that_would_not_be_honest_is_void(key: str, ours: str, load: float, why: str) -> None:
    result = _concluded(**{key: _found(ours, 90_000, 6e6), "replaced": _found("old", load, 3e3)})
    (row,) = (row for row in result.rows if row.key)
    assert row.verdict == "void" and why in row.note


def test_a_peer_that_could_do_more_makes_no_ratio() -> None:
    result = _concluded(native=_found("realtime, native engine", 90_000, 6e6), nats=_found("NATS", 2e4, 1e6, is_lower_bound=True))
    (row,) = (row for row in result.rows if row.key)
    assert row.verdict == "void" and "flatter" in row.note


def test_a_missing_side_makes_no_ratio() -> None:
    assert not [row for row in _concluded(native=_found("realtime, native engine", 1e5, 5e6)).rows if row.key]
