"""The Austin buses over real sockets, ten hours in a minute: what fifty viewers get is right, frame by frame, and at the end.

The server is a process of its own, run as its users run it. The trace is published over its API with versions, every
update after the model has taken it; so a frame can only say what the model has in its history. Beside what the file
says, buses are deleted (and come back with their next report), and notices come that expire.

`REALTIME_TRACE_SPEED` sets another speed than 600, `REALTIME_TRACE_SEED` the seed that a run printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from realtime.demo.replay import SHIPPED, Row, Trace, paced
from realtime.engine.choice import choose_engine
from tests.model_values import json_equal
from tests.trace_viewers import Habits, TraceViewer, TraceWorld

SPEED = float(os.environ.get("REALTIME_TRACE_SPEED", "600"))
VIEWERS = 50
NOTICE_TTL_S = 1.5
AHEAD_S = 0.25  # the model lets notices die this much earlier than the server, whose clock is not ours
STAFF = "group:staff"
SETTINGS = (
    'identity.tokens={staff={user="anna",groups=["staff"]},guest={user="gus"}}',
    "limits.send_buffer_bytes=32768",  # so that whoever reads slowly has an outbox soon
    "limits.write_stall_s=60",  # whom a busy machine makes slow is not to be closed for it: that is another test's
    "limits.pong_timeout_s=60",
)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@asynccontextmanager
async def server_process(directory: Path, *settings: str) -> AsyncIterator[tuple[str, str]]:
    """Run `realtime serve` there; yield where viewers and publishers connect. It must end with 0 and have nothing to complain of."""
    options = [option for setting in settings for option in ("--set", setting)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "realtime", "serve", "--port", "0", "--http-port", "0", *options),
        cwd=directory,
        env={name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        lines = [(await process.stdout.readline()).decode().strip() for _ in range(2)]
        if not all(lines):
            raise AssertionError((await process.stderr.read()).decode())
        complaining = asyncio.create_task(process.stderr.read())
        yield lines[0], lines[1]
        process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(process.wait(), 30)
        complaints = (await complaining).decode()
        assert code == 0, complaints
        assert "Traceback" not in complaints, complaints
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Source:
    """Replays the file to the server, and to the model first."""

    def __init__(self, api: str, seed: int, rows: list[Row]) -> None:
        self.rows = rows
        self.world = TraceWorld()
        self.verdicts: Counter[str] = Counter()  # the model's
        self.ops: Counter[str] = Counter()
        self.reported: dict[str, dict[str, Any]] = {}  # by bus what the file said last, but for what was deleted since
        self.lag_s = 0.0  # how late a batch was at most
        self._api = api
        self._random = random.Random(seed)
        self._version = 0
        self._deadlines: list[float] = []

    async def run(self) -> None:
        async with httpx.AsyncClient(base_url=self._api) as http:
            async for batch in paced(self.rows, SPEED):
                self.lag_s = max(self.lag_s, batch.lag_s)
                before = self.verdicts.copy()
                updates = [self._applied(update) for row in batch.rows for update in self._updates(row.update)]
                answer = (await http.post("/v1/updates", json={"updates": updates})).json()
                # The server's word on each batch is the model's.
                expected = self.verdicts - before
                assert {name: answer[name] for name in ("accepted", "unchanged", "stale")} == {
                    name: expected[name] for name in ("accepted", "unchanged", "stale")
                }
                assert answer["rejected_total"] == 0, answer
        await asyncio.sleep(NOTICE_TTL_S + 2 * AHEAD_S)
        self.expire()

    def expire(self) -> None:
        """Let die in the model whose time has come."""
        now = time.time() + AHEAD_S
        if self._deadlines and self._deadlines[0] <= now:
            while self._deadlines and self._deadlines[0] <= now:
                heapq.heappop(self._deadlines)
            self.world.expire(now)

    def _updates(self, report: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what is made of one row: the report, and now and then a deletion or a notice."""
        id = report["id"]
        self.reported[id] = report
        updates = [self._report(report)]
        if self._random.random() < 0.01:
            updates.append({"op": "delete", "id": id})
            del self.reported[id]
        if self._random.random() < 0.02:
            text = {"text": f"{id} passed", "of": [1, {"nested": None}]}
            notice = {"type": "Feature", "id": f"notice-{self._version}", "kind": "notice", "geometry": report["geometry"]}
            updates.append(notice | {"properties": text, "ttl": NOTICE_TTL_S})
        return updates

    def _report(self, report: dict[str, Any]) -> dict[str, Any]:
        """Return an update that makes the bus what the row says: the Feature, or the move or patch that comes to the same."""
        number = sum(report["id"].encode())
        settings: dict[str, Any] = {}
        if number % 5 == 0:
            settings["min_zoom"] = 12
        if number % 7 == 0:
            settings["access"] = [STAFF]
        entity = self.world.entities.get(report["id"])
        if entity is None or self._random.random() < 0.4:
            return report | settings
        held = entity.state.properties
        if json_equal(held, report["properties"]) and self._random.random() < 0.7:
            lon, lat = report["geometry"]["coordinates"]
            return {"op": "move", "id": report["id"], "lon": lon, "lat": lat}
        changed: dict[str, Any] = {name: value for name, value in report["properties"].items() if not json_equal(held.get(name), value)}
        changed |= dict.fromkeys(held.keys() - report["properties"].keys())
        return {"op": "patch", "id": report["id"], "geometry": report["geometry"], "properties": changed, "kind": report.get("kind")}

    def _applied(self, update: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        update = update | {"version": self._version}
        now = time.time()
        verdict = self.world.apply(update, now)
        assert isinstance(verdict, str), f"{update}: {verdict}"
        self.verdicts[verdict] += 1
        self.ops[update.get("op", "upsert")] += 1
        if "ttl" in update:
            heapq.heappush(self._deadlines, now + update["ttl"])
        return update


def habits(number: int, stop_from: int) -> Habits:
    """Return what the viewer of this number is like: most pan, some are slow, some are reset, one stops."""
    encoding = "json" if number % 2 else "msgpack"
    who: dict[str, Any] = {"encoding": encoding}
    if number % 5 == 0:
        who |= {"token": "staff", "user": "anna", "principals": ("user:anna", STAFF)}
    elif number % 5 == 1:
        who |= {"token": "guest", "user": "gus", "principals": ("user:gus",)}
    if number == 0:
        # It sees everything, so that what it does not read is soon more than any buffer holds.
        return Habits(**who, pan_s=0, buffer_bytes=4096, stop_from=stop_from)
    if number <= 3:
        return Habits(**who, pan_s=0)
    if number <= 11:
        # Longer than frames are apart, but what one read of the socket brings must not last as long as a write stall.
        return Habits(**who, pan_s=4, read_s=0.05 * 2 ** (number % 3), buffer_bytes=2048)
    if number <= 21:
        return Habits(**who, pan_s=2, reset_s=4)
    return Habits(**who, pan_s=(0.3, 1, 3)[number % 3])


async def largest_outbox(api: str, viewer: TraceViewer) -> int:
    """Return how large the outbox of a viewer's session became while it did not read."""
    largest = 0
    async with httpx.AsyncClient(base_url=api) as http:
        while not viewer.counts["stopped"] or viewer.is_stopped:
            await asyncio.sleep(0.2)
            if viewer.is_stopped:
                sessions = (await http.get("/v1/sessions")).json()["sessions"]
                largest = max([largest, *(one["outbox"] for one in sessions if one["name"] == viewer.session)])
    return largest


@asynccontextmanager
async def explained(api: str) -> AsyncIterator[None]:
    """Let what fails say whom the server has closed, and why."""
    try:
        yield
    except BaseException as error:
        async with httpx.AsyncClient(base_url=api) as http:
            metrics = (await http.get("/metrics")).text
        error.add_note("\n".join(line for line in metrics.splitlines() if "connections_closed" in line))
        raise


class Played(NamedTuple):
    """What there was in a run."""

    source: Source
    counts: Counter[str]  # of all viewers
    outbox: int  # of the viewer that stops, at most


async def play(directory: Path, rows: list[Row], viewer_count: int, stop_from: int, *settings: str) -> Played:
    """Replay rows to a server of its own and that many viewers; all that they get must be right.

    One of them stops reading when there are `stop_from` entities.
    """
    seed = int(os.environ.get("REALTIME_TRACE_SEED", random.randrange(1 << 32)))
    print("seed", seed)
    nominal_s = (rows[-1].t - rows[0].t) / SPEED
    async with server_process(directory, *SETTINGS, *settings) as (url, api):
        source = Source(api, seed, rows)
        viewers = [
            TraceViewer(f"viewer {number}", url, source.world, habits(number, stop_from), seed + number, source.expire)
            for number in range(viewer_count)
        ]
        begun = time.monotonic()
        async with explained(api), asyncio.TaskGroup() as group:
            for viewer in viewers:
                group.create_task(viewer.run(), name=viewer.name)
            watching = group.create_task(largest_outbox(api, viewers[0]))
            await source.run()
            took_s = time.monotonic() - begun
            outbox = await watching
            for viewer in viewers:
                viewer.quiet()
        counts: Counter[str] = sum((viewer.counts for viewer in viewers), Counter())
        print(f"{took_s:.1f} s for {nominal_s:.1f}, {source.lag_s:.2f} s late at most, {time.process_time():.1f} s of CPU to judge")
        print(f"{dict(source.ops)}, {dict(source.verdicts)}")
        print(f"held {sum(viewer.held for viewer in viewers)}, outbox {outbox}; {dict(counts)}")

        # The model that judged has not lost its way: what it says of the buses is what the file said last.
        buses = {id: entity for id, entity in source.world.entities.items() if not id.startswith("notice")}
        assert buses.keys() == source.reported.keys()
        for id, entity in buses.items():
            said = source.reported[id]
            assert entity.state.feature is not None
            assert json_equal(
                [said[name] for name in ("geometry", "properties", "kind")],
                [entity.state.feature[name] for name in ("geometry", "properties", "kind")],
            )
        async with httpx.AsyncClient(base_url=api) as http:
            assert (await http.get("/readyz")).json()["engine"] == (settings[0].partition("=")[2] if settings else choose_engine("auto")[0])
            found = {one["id"]: one for one in (await http.get("/v1/entities", params={"bbox": "-180,-90,180,90"})).json()["features"]}
        assert json_equal(found, {id: entity.state.feature for id, entity in source.world.entities.items()})
    return Played(source, counts, outbox)


@pytest.mark.timeout(600)
async def test_fifty_viewers_of_austin(tmp_path: Path) -> None:
    rows = list(Trace(SHIPPED["austin"]))
    source, counts, outbox = await play(tmp_path, rows, VIEWERS, 250)
    # What was to be seen was seen.
    assert sum(source.ops.values()) > len(rows)
    assert source.verdicts["unchanged"] > len(rows) / 100
    for what in ("enter", "move", "patch", "check", "leave:deleted", "leave:expired", "leave:view", "leave:moved", "leave:filtered"):
        assert counts[what] > 0, what
    assert counts["stopped"] == 1
    assert counts["RST"] >= counts["resumed"] > 0
    assert outbox > 100, "the viewer that stopped was not noticed"


@pytest.mark.skipif(choose_engine("auto")[0] == "reference", reason="the test above is on the reference engine already")
@pytest.mark.timeout(300)
async def test_half_as_many_on_the_reference_engine_for_a_while(tmp_path: Path) -> None:
    rows = list(Trace(SHIPPED["austin"]))
    rows = rows[-len(rows) // 3 :]  # when most of them are on their way
    source, counts, _ = await play(tmp_path, rows, VIEWERS // 2, 100, "engine.kind=reference")
    assert sum(source.ops.values()) > len(rows)
    for what in ("enter", "move", "patch", "leave:view"):
        assert counts[what] > 0, what
