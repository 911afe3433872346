"""The native load client finds what is wrong, and counts what is right; so do the publisher and the yardstick beside it."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from time import monotonic
from typing import Any

import msgspec
import pytest

from bench.build import build
from bench.client import Schedule
from bench.dense import DenseCity
from bench.load import why_void
from bench.load_client import LoadClient, Look
from bench.load_trial import LoadOptions, LoadTrial
from bench.workloads import METRES_PER_DEGREE, Rounds
from bench.yardstick import measure

pytestmark = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="no C++ compiler")

ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of the key that the load client always sends
ENCODE: dict[str, Callable[[Any], bytes]] = {"json": msgspec.json.encode, "msgpack": msgspec.msgpack.encode}


def framed(payload: bytes, encoding: str) -> bytes:
    """Return a WebSocket frame of a server."""
    size = len(payload)
    head = bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2, "big") if size < 1 << 16 else b"\x7f" + size.to_bytes(8, "big")
    return (b"\x81" if encoding == "json" else b"\x82") + head + payload


def delta(seq: int, **members: Any) -> dict[str, Any]:
    return {"type": "delta", "seq": seq, **members}


def feature(id: str, version: int, lon: float = 1.5, lat: float = -2.25, **properties: Any) -> dict[str, Any]:
    geometry = {"type": "Point", "coordinates": [lon, lat]}
    return {"type": "Feature", "id": id, "version": version, "kind": "bus", "geometry": geometry, "properties": properties}


def filled(*features: dict[str, Any]) -> dict[str, Any]:
    """Return the first delta of a connection."""
    return delta(1, view=1, reset=True, enter=list(features), total=len(features), sampled=1)


@asynccontextmanager
async def serving(data: bytes, piece: int = 1 << 20) -> AsyncIterator[tuple[str, int]]:
    """Serve everybody who asks for a view these bytes, in pieces; then leave the connection open."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n".encode())
        await reader.readexactly(2)  # the beginning of the view
        for first in range(0, len(data), piece):
            writer.write(data[first : first + piece])
            await writer.drain()
            await asyncio.sleep(0)
        while await reader.read(4096):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]


async def told(
    messages: Sequence[Any], encoding: str = "json", *, whole: bool = False, piece: int = 1 << 20, schedule: Schedule | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Let a load client read messages (bytes: payloads as they are); return its group's counts and its mirrors."""
    data = b"".join(framed(one if isinstance(one, bytes) else ENCODE[encoding](one), encoding) for one in messages)
    async with serving(data, piece) as address, LoadClient() as client, asyncio.timeout(30):
        if schedule is not None:
            await client.schedule(schedule)
        await client.connect(address, [Look({"bbox": [0, 0, 1, 1]}, whole=whole)], encoding=encoding, patience_s=10)
        while True:
            group: dict[str, Any] = (await client.stats())["groups"]["readers"]
            if group["frames"] + group["messages"] + sum(group["faults"].values()) + sum(group["closed"].values()) >= len(messages):
                return group, await client.mirrors()
            await asyncio.sleep(0.01)


def run(waited: Awaitable[Any]) -> Any:
    async def running() -> Any:
        return await waited

    return asyncio.run(running())


# What is right


HISTORY = [
    {"type": "welcome", "protocol": 1, "session": "s", "user": None, "limits": {"views_per_s": 20.0}},
    filled(
        feature("bus-7", 1, speed=3, route="r 1", note='a "quoted" \\ ü'),
        feature("bus-07", 2, speed=1.5),
        feature("tram-16777216", 3),
        feature("ünlike anything", 4, lon=1e-7, lat=-2.5e1, tags=["a", {"b": None}]),
        feature("bus-8", 5, x=-40000, y=1 << 40, z=True),
    ),
    delta(2, move=[["bus-7", 11, -97.740001, 30.2], ["bus-07", 12, 3, -4]], lag_ms=0.5),
    delta(3, patch=[{"id": "bus-7", "version": 13, "properties": {"speed": None, "late": False}}], leave={"moved": ["bus-8"]}),
    delta(4, move=[["tram-16777216", 123456789, 179.123456789012, -0.5]], enter=[feature("bus-8", 14, 2.5, 3.5)]),
    delta(5, patch=[{"id": "bus-07", "version": 20, "geometry": {"type": "LineString", "coordinates": [[1, 2], [3, 4.5]]}}]),
]
MIRROR = {
    "bus-7": ["bus-7", 13, [-97.740001, 30.2], {"late": False, "route": "r 1", "note": 'a "quoted" \\ ü'}, "bus"],
    "bus-07": ["bus-07", 20, {"type": "LineString", "coordinates": [[1, 2], [3, 4.5]]}, {"speed": 1.5}, "bus"],
    "tram-16777216": ["tram-16777216", 123456789, [179.123456789012, -0.5], {}, "bus"],
    "ünlike anything": ["ünlike anything", 4, [1e-7, -25.0], {"tags": ["a", {"b": None}]}, "bus"],
    "bus-8": ["bus-8", 14, [2.5, 3.5], {}, "bus"],
}


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("piece", [1, 7, 100, 1 << 20])
def test_what_is_right_is_applied_however_it_is_cut(encoding: str, piece: int) -> None:
    group, mirrors = run(told(HISTORY, encoding, whole=True, piece=piece))
    assert group["faults"] == {}
    assert (group["frames"], group["messages"], group["deltas"], group["held"]) == (5, 1, 12, 5)
    assert {state[0]: state for state in mirrors[0]["entities"]} == MIRROR
    assert group["bytes"] == sum(len(framed(ENCODE[encoding](message), encoding)) for message in HISTORY[1:])


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_long_frame_of_many_entities(encoding: str) -> None:
    entities = [feature(f"bus-{number}", number + 1, number / 1000) for number in range(30_000)]
    moves = [
        delta(2 + turn, move=[[f"bus-{number}", 40_000 * (turn + 1) + number, 1.25, turn] for number in range(30_000)]) for turn in range(2)
    ]
    group, mirrors = run(told([filled(*entities), *moves], encoding, whole=True))
    assert group["faults"] == {}
    assert group["moves"] == 60_000
    assert sorted(mirrors[0]["entities"]) == sorted([f"bus-{n}", 80_000 + n, [1.25, 1], {}, "bus"] for n in range(30_000))


# What is wrong


FILLED = filled(feature("bus-1", 10), feature("bus-2", 11), feature("aircraft-3", 12))
WRONG = [
    (delta(3, move=[]), "seq: not the next one"),
    (delta(1, move=[]), "seq: not the next one"),
    (delta(2, move=[["bus-1", 10, 0, 0]]), "move: version not above the held one"),
    (delta(2, move=[["bus-1", 9, 0, 0]]), "move: version not above the held one"),
    (delta(2, move=[["bus-3", 20, 0, 0]]), "move: not held"),
    (delta(2, move=[["aircraft-1", 20, 0, 0]]), "move: not held"),
    (delta(2, enter=[feature("bus-2", 11)]), "enter: version not above the held one"),
    (delta(2, patch=[{"id": "bus-9", "version": 20, "properties": {"a": 1}}]), "patch: not held"),
    (delta(2, patch=[{"id": "bus-1", "version": 3, "properties": {"a": 1}}]), "patch: version not above the held one"),
    (delta(2, leave={"moved": ["bus-3"]}), "leave: not held"),
    (delta(2, leave={"bored": ["bus-1"]}), "a member is not what it should be"),
    (delta(2, total=4, sampled=1), "total: not the size of the mirror"),
    (delta(2, move=[["bus-1", 20, 0]]), "an item is not what it should be"),
    (delta(2, move=[["bus-1", 20, 0, "1"]]), ""),
    (delta(2, move=[["bus-1", 1 << 33, 0, 1]]), "a version is beyond what this client keeps, 32 bits"),
    (delta(2, enter=[{"id": "bus-5", "version": 20}]), "an item is not what it should be"),
    (delta(2, surprise=1), "a delta has a member that is unknown"),
    ({"type": "error", "code": "bad_view", "message": "bbox"}, "error: bad_view"),
    ({"seq": 2, "type": "delta"}, "delta: its type is not its first member"),
    (delta(2, move=[["bus-1", 20, 0, 0], ["bus-1", 21, 0, 0]]), "delta: an id occurs twice"),
]


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize(("message", "fault"), WRONG)
def test_what_is_wrong_is_a_fault(encoding: str, message: dict[str, Any], fault: str) -> None:
    group, _ = run(told([FILLED, message], encoding, whole=True))
    assert list(group["faults"].values()) == [1]
    assert fault in group["faults"] or not fault


def test_what_comes_back_older_is_a_fault() -> None:
    group, _ = run(told([FILLED, delta(2, leave={"moved": ["bus-1"]}), delta(3, enter=[feature("bus-1", 9)])], whole=True))
    assert group["faults"] == {"enter: older than it left": 1}
    group, _ = run(told([FILLED, delta(2, leave={"deleted": ["bus-1"]}), delta(3, enter=[feature("bus-1", 9)])], whole=True))
    assert group["faults"] == {}


@pytest.mark.parametrize(
    "payload",
    [
        b'{"type":"delta","seq":2',
        b'{"type":"delta","seq":2}}',
        b'{"type":"delta","seq":2,}',
        b'{"type":"delta","seq":02}',
        b'{"type":"delta","seq":2,"move":[["bus-1",20,1.,2]]}',
        b'{"type":"delta","seq":2,"move":[["bus-1",20,.5,2]]}',
        b'{"type":"delta","seq":2,"move":[["bus-1",20,1.2.3,2]]}',
        b'{"type":"delta","seq":2,"move":[["bus-1",20,1-2,2]]}',
        b'{"type":"delta","seq":2,"move":[["bus-1",20,-,2]]}',
        b'{"type":"delta","seq":2,"move":[["bus-1",20,01,2]]}',
        b'{"type":"delta","seq":2,"move":[["bus-1",20,1,2],]}',
        b'{"type":"delta","seq":2,"move":[["bus-1",20,1,2]',
        b'{"type":"delta","seq":2,"move":[["bus-1,20,1,2]]}',
        b'{"type":"delta","seq":2,"leave":{"moved":["bus-1"]',
        b'{"type":"delta","seq":2,"leave":{"moved":["bus-1\\x"]}}',
        b"[]x",
    ],
)
def test_what_is_no_json_is_a_fault(payload: bytes) -> None:
    for whole in (False, True):
        group, _ = run(told([FILLED, payload], whole=whole))
        assert sum(group["faults"].values()) == 1, group


def test_no_mutant_of_a_frame_breaks_the_client() -> None:
    """Whatever is cut or changed in a frame, the client goes on, and a frame that is cut is a fault."""
    for encoding, encode in ENCODE.items():
        good = encode(HISTORY[1])
        cut = [good[:size] for size in range(2, len(good))]
        changed = [good[:place] + bytes((good[place] ^ 1 << place % 8,)) + good[place + 1 :] for place in range(len(good))]
        group, _ = run(told([FILLED, *cut], encoding))
        assert sum(group["faults"].values()) == len(cut)
        run(told([FILLED, *changed], encoding, whole=True))


# What is measured


def test_waiting_is_measured_from_when_a_change_was_due() -> None:
    began = monotonic()
    schedule = Schedule(began - 2.0, 10.0, 100)  # so version 110 was due a second ago, and 100 two seconds ago
    moves = [delta(2, move=[["bus-1", 100, 0, 0], ["bus-2", 110, 0, 0]])]
    group, _ = run(told([FILLED, *moves], schedule=schedule))
    slack_ms = (monotonic() - began) * 1000
    waits = group["waits_ms"]
    assert waits["count"] == 2
    assert 1000 <= waits["min"] <= 1000 + slack_ms
    assert 2000 <= waits["max"] <= 2000 + slack_ms
    assert waits["p50"] == pytest.approx(waits["min"], rel=0.01)


def test_what_arrives_before_it_was_due_is_a_fault() -> None:
    group, _ = run(told([FILLED, delta(2, move=[["bus-1", 200, 0, 0]])], schedule=Schedule(monotonic() + 100.0, 10.0, 100)))
    assert group["faults"] == {"version: received before it was due": 1}


# The workload


def test_the_moves_of_rounds_are_known_by_their_number() -> None:
    homes = [(10.0 + number / 10, 50.0) for number in range(30)]
    rounds = Rounds(3, homes)
    moves = list(rounds.moves())
    versions, positions = list(range(1, 31)), list(homes)
    for number in range(10 * 30 + 7):
        assert number % 30 or sorted(move.entity for move in moves[number % 120 : number % 120 + 30]) == list(range(30))
        assert rounds.after(number) == (versions, positions)
        move = moves[number % len(moves)]
        (lon, lat), (old_lon, old_lat) = (move.lon, move.lat), positions[move.entity]
        x, y = (lon - old_lon) * math.cos(math.radians(lat)) * METRES_PER_DEGREE, (lat - old_lat) * METRES_PER_DEGREE
        assert math.hypot(x, y) > 10
        versions[move.entity], positions[move.entity] = 31 + number, (lon, lat)


def test_views_are_as_wide_as_the_fan_out_takes() -> None:
    city = DenseCity(seed=5, viewers=200, entities=3000, fan_out=12.0)
    before = [city.rounds.places[0][move.entity] for move in islice(city.rounds.moves(), 3000, 6000)]
    told = city.pairs(list(islice(city.rounds.moves(), 3000, 6000)), before).matched
    assert told == pytest.approx(12.0, rel=0.05)
    assert city.told(range(200)) == pytest.approx(told, rel=1e-9)  # all moves of a round are in the sample


# All of it


@pytest.mark.parametrize(("encoding", "publish", "workload"), [("json", "inprocess", "dense"), ("msgpack", "http", "towns")])
def test_a_small_load(encoding: str, publish: str, workload: str) -> None:
    options = LoadOptions(
        viewers=40,
        entities=600,
        fan_out=10.0,
        encoding=encoding,
        publish=publish,
        workload=workload,
        panning=0.1,
        whole=10,
        flush_interval_ms=20,
    )

    async def running() -> None:
        async with LoadTrial(options) as trial:
            windows = [await trial.window(rate, 0.2, 1.0) for rate in (300.0, 600.0)]
            compared = await trial.compare()
            assert compared.are_right, compared
            assert compared.whole + compared.sampled == 12
            assert compared.checks == 40
            for window in windows:
                assert window.deltas_per_s > 0
                assert window.faults == window.lost == window.refused == 0
                assert 0 < window.p50_ms <= window.p99_ms <= window.max_ms
            assert "windows of less than" in why_void(windows, compared)
            held = sum(bool(mirror["entities"]) and mirror["sampled"] == 1 for mirror in await trial.client.mirrors())
            trial.city.city.versions = [version + 1 for version in trial.city.city.versions]  # as if one change had not arrived
            assert (await trial.compare()).wrong == held > 0

    asyncio.run(running())


def test_the_yardstick_receives_what_it_sent() -> None:
    pace = asyncio.run(measure(20, [(100.0, 1.0), (5000.0, 1.0)], 0.05, 3))
    assert len(pace.frames_per_s) == 3
    assert min(pace.frames_per_s) > 0
    assert sum(pace.bytes_per_s) / sum(pace.frames_per_s) == pytest.approx(2550, rel=0.2)


def test_a_program_is_built_once() -> None:
    program = build("send")
    made = program.stat().st_mtime_ns
    assert build("send") == program
    assert program.stat().st_mtime_ns == made
