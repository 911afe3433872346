"""Three nodes and one Redis, and everything that may happen to them: what viewers get is right all along, and in the end.

The Austin buses are published to all three nodes, viewers are spread over them and come back elsewhere when their node
dies. Meanwhile connections to Redis are cut, it is killed and comes back with its data, with older data and empty, it is
frozen, and nodes are killed and come back, the one that writes the store among them. Afterwards nothing is published,
and all nodes and all viewers have what brute force says; and once more after all nodes were killed at once, so that there
was nothing left but what Redis had.

`REALTIME_NODES_SECONDS` lets faults go on for longer than each once, `REALTIME_NODES_VIEWERS` sets another number than 30,
`REALTIME_NODES_SPEED` another speed than 300 (80 where it is long), `REALTIME_NODES_SEED` the seed that a run printed.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from realtime.demo.replay import SHIPPED, Row, Trace
from tests.model_values import json_equal
from tests.node_faults import Faults, LoopLag, until
from tests.node_processes import NodeProcess, nodes
from tests.node_publishers import STAFF, Anywhere, ByEntity, Publishers
from tests.node_viewers import NodeViewer
from tests.redis_servers import valkey
from tests.trace_viewers import Habits

SECONDS = float(os.environ.get("REALTIME_NODES_SECONDS", "0"))
VIEWERS = int(os.environ.get("REALTIME_NODES_VIEWERS", "30"))
IS_LONG = SECONDS > 0
SPEED = float(os.environ.get("REALTIME_NODES_SPEED", "80" if IS_LONG else "300"))  # what one process can judge
NODES = 3
CALM_S = 20.0 if IS_LONG else 4.0
FROZEN_S = 20.0 if IS_LONG else 2.5  # longer than a command may take
CONNECTIONS_S = 5.0 if IS_LONG else 1.5  # between two cuts of connections
FAULTS_S = 60.0  # what each fault once may take
CONVERGE_S = 20.0
LAG_MORE_S = 0.05  # what faults may add to the lag of a loop
SETTINGS = (
    'identity.tokens={staff={user="anna",groups=["staff"]},guest={user="gus"}}',
    "limits.send_buffer_bytes=32768",  # so that whoever reads slowly has an outbox soon
    "limits.write_stall_s=120",  # whom a busy machine makes slow is not to be closed for it: that is another test's
    "limits.pong_timeout_s=120",
    "server.drain_s=0.2",
    "redis.timeout_s=1",
    "redis.connect_timeout_s=1",
    "redis.patience_s=30",
    "redis.lease_s=3",  # so that a killed node's places are taken within the test
    "redis.retention_s=5",  # and what is stored is trimmed
    "redis.store_interval_ms=200",
)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


def habits(number: int) -> Habits:
    """Return what the viewer of this number is like: most pan, some see everything, some are slow, some are reset."""
    who: dict[str, Any] = {"encoding": "json" if number % 2 else "msgpack"}
    if number % 5 == 0:
        who |= {"token": "staff", "user": "anna", "principals": ("user:anna", STAFF)}
    elif number % 5 == 1:
        who |= {"token": "guest", "user": "gus", "principals": ("user:gus",)}
    slower = max(1, VIEWERS / 30)  # one process judges them all
    match number % 10:
        case 0 | 1 if number < 20:
            return Habits(**who, pan_s=0)
        case 2:
            return Habits(**who, pan_s=4 * slower, read_s=0.1, buffer_bytes=2048)
        case 3 | 4:
            return Habits(**who, pan_s=2 * slower, reset_s=4 * slower)
        case _:
            return Habits(**who, pan_s=(0.7, 2, 5)[number % 3] * slower)


def rows_of_the_morning() -> list[Row]:
    """Return what is published, when most of the buses are on their way."""
    rows = list(Trace(SHIPPED["austin"]))
    wanted_s = SPEED * (CALM_S + max(FAULTS_S, SECONDS))
    return [row for row in rows if row.t >= rows[-1].t - wanted_s]


async def converged(every: list[NodeProcess], publishers: Publishers) -> None:
    """Wait until each node has what the model has."""
    differences: list[str] = []
    world = publishers.world

    async def are_equal() -> bool:
        differences.clear()
        for node in every:
            found = await node.entities()
            differences.extend(f"{node.name} lacks {id}" for id in world.entities.keys() - found.keys())
            differences.extend(f"{node.name} still has {found[id]}" for id in found.keys() - world.entities.keys())
            for id in found.keys() & world.entities.keys():
                if not world.is_present(found[id]):
                    differences.append(f"{node.name} has {found[id]}, the present is {world.entities[id].state.feature}")
        return not differences

    await until(are_equal, lambda: f"{len(differences)} differences: " + "; ".join(differences[:5]), CONVERGE_S)


async def play(directory: Path, kind: type[Publishers]) -> tuple[Publishers, Faults, Counter[str]]:
    """Publish to three nodes, do everything to them; all that viewers get must be right."""
    seed = int(os.environ.get("REALTIME_NODES_SEED", random.randrange(1 << 32)))
    print("seed", seed)
    began = time.monotonic()
    async with valkey() as redis, nodes(directory, NODES, f"redis.url={redis.url}", *SETTINGS) as every:
        publishers = kind(every, rows_of_the_morning(), SPEED, seed)
        viewers = [
            NodeViewer(f"viewer {number}", every, number % NODES, publishers.world, habits(number), seed + number, publishers.expire)
            for number in range(VIEWERS)
        ]
        lag = LoopLag(every)
        faults = Faults(redis, every, publishers, frozen_s=FROZEN_S, connections_s=CONNECTIONS_S, seed=seed)
        try:
            async with asyncio.TaskGroup() as tasks:
                for viewer in viewers:
                    tasks.create_task(viewer.run(), name=viewer.name)
                publishing = tasks.create_task(publishers.run())
                await asyncio.sleep(CALM_S / 2)  # all are there by then, and have seen their first world
                lag.phase = "coming"
                await lag.look()
                lag.phase = "calm"
                watching = tasks.create_task(lag.watch())
                await asyncio.sleep(CALM_S)
                lag.phase = "faults"
                await faults.run(SECONDS)
                lag.phase = "after"
                publishers.finish()
                await publishing
                await faults.well()
                await converged(every, publishers)
                await faults.all_killed()
                await faults.well()
                await converged(every, publishers)
                for viewer in viewers:
                    viewer.quiet()
                watching.cancel()
        except BaseException as error:
            for node in every:
                error.add_note(f"{node.name} said:\n{node.said()[-3000:]}")
            raise
        counts: Counter[str] = sum((viewer.counts for viewer in viewers), Counter())
        print(
            f"{time.monotonic() - began:.1f} s, {publishers.lag_s:.2f} s late at most, {time.process_time():.1f} s of CPU to judge so far"
        )
        print(f"{dict(publishers.ops)}, {dict(publishers.verdicts)}, {publishers.again} again; nodes: {dict(publishers.answers)}")
        print(f"{dict(faults.counts)}")
        print(f"held {sum(viewer.held for viewer in viewers)}; {dict(counts)}")
        for phase in lag.counts:
            print(f"loop lag, {phase}: p99 {lag.quantile_s(phase) * 1000:.1f} ms, at most {lag.most_s(phase) * 1000:g} ms")

        # A viewer holds what its node has, in the very versions.
        worlds = {node.name: await node.entities() for node in every}
        for viewer in viewers:
            there = worlds[viewer.node.name]
            for id, held in viewer.mirror.items():
                assert json_equal(held, there[id]), (viewer.name, viewer.node.name, held, there[id])
        assert lag.quantile_s("faults") <= lag.quantile_s("calm") + LAG_MORE_S
    return publishers, faults, counts


def everything_happened(faults: Faults, counts: Counter[str]) -> None:
    """What was to be done was done, and what was to be seen was seen."""
    for what in (
        "with_its_data",
        "with_older_data",
        "empty",
        "frozen",
        "lease_holder_killed",
        "node_killed",
        "both_killed",
        "connections cut",
    ):
        assert faults.counts[what] > 0, what
    assert faults.counts["leases of the killed"] > 0
    for what in ("enter", "patch", "check", "leave:view", "resumed", "RST", "lost its node"):
        assert counts[what] > 0, what


@pytest.mark.timeout(300 + 4 * SECONDS)
async def test_each_entity_through_one_node(tmp_path: Path) -> None:
    publishers, faults, counts = await play(tmp_path, ByEntity)
    everything_happened(faults, counts)
    for op in ("upsert", "patch", "move", "delete"):
        assert publishers.ops[op] > 0, op
    for what in ("move", "leave:deleted", "leave:expired", "leave:moved", "leave:filtered"):
        assert counts[what] > 0, what


@pytest.mark.timeout(300 + 4 * SECONDS)
async def test_whole_features_through_any_node(tmp_path: Path) -> None:
    publishers, faults, counts = await play(tmp_path, Anywhere)
    everything_happened(faults, counts)
    assert publishers.verdicts["unchanged"] == 0
