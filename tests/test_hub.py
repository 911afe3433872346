"""The hub and those that join it, in one process over a real socket: who has what, who waits for whom, what is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

import realtime.cluster.hub
import realtime.cluster.join
from realtime.cluster.hub import Hub
from realtime.cluster.join import Join
from realtime.cluster.pipe import FORMAT, Hello, frame_of
from realtime.cluster.workers import Place, make_directory, socket_path
from realtime.config import Config
from realtime.counters import Counters
from realtime.engine import FeedKind
from realtime.errors import ErrorCode, Refused
from realtime.geo import WORLD
from realtime.node import Node

pytestmark = pytest.mark.usefixtures("engine_kind")
TIMEOUT_S = 20.0


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


def feature(id: str, lon: float = 0.0, **members: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": id, "geometry": {"type": "Point", "coordinates": [lon, 0.0]}, "properties": {}} | members


def ids(node: Node) -> list[str]:
    return [msgspec.json.decode(found)["id"] for found in node.engine.search((WORLD,), 24.0, None)]


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


class Machine:
    """A hub and workers, each of which can end and come again."""

    def __init__(self, path: str, stack: AsyncExitStack, limits: dict[str, Any]) -> None:
        self._path = path
        self._stack = stack
        self._config = msgspec.structs.replace(Config(), limits=msgspec.structs.replace(Config().limits, **limits))
        self.asked: list[str] = []

    def _place(self, number: int, holders: Iterable[int] = ()) -> Place:
        return Place(number, 4, self._path, time.time() - time.monotonic(), list(holders))

    def _node(self) -> Node:
        node = Node(self._config, Counters())
        self._stack.callback(node.close)
        return node

    async def hub(self, holders: Iterable[int] = (), *, node: Node | None = None, feed: int = 0, opens: bool = True) -> tuple[Hub, Node]:
        node = node or self._node()
        hub = Hub(node, self._place(0, holders), feed)
        self._stack.push_async_callback(hub.stop)
        await asyncio.wait_for(hub.start(), TIMEOUT_S)
        if opens:
            hub.open()
        return hub, node

    async def join(self, number: int, *, waits: bool = True) -> tuple[Join, Node]:
        node = self._node()

        async def answer(what: str, argument: str) -> bytes:
            self.asked.append(what)
            return f"{number} {argument}".encode()

        join = Join(node, self._place(number), f"process {number}", answer)
        self._stack.push_async_callback(join.stop)
        starting = asyncio.ensure_future(join.start())
        self._stack.callback(starting.cancel)
        if waits:
            await asyncio.wait_for(starting, TIMEOUT_S)
        return join, node


@pytest.fixture
async def machine(request: pytest.FixtureRequest) -> AsyncIterator[Machine]:
    directory = make_directory()
    async with AsyncExitStack() as stack:
        stack.callback(directory.cleanup)
        yield Machine(socket_path(directory.name), stack, getattr(request, "param", {}))


def cut(hub: Hub) -> None:
    """End all connections, as a bad frame would."""
    for pipe in list(hub._workers):
        pipe.abort()


# Who has what


async def test_a_worker_is_the_same_node_and_has_the_same_world(machine: Machine) -> None:
    hub, node = await machine.hub()
    node.publish([feature(f"e{place}") for place in range(500)])
    _, worker = await machine.join(2)
    assert (worker.world, worker.epoch, worker.number) == (node.world, node.epoch, node.number)
    assert ids(worker) == ids(node)
    node.publish([{"op": "delete", "id": "e7"}, feature("new", 3)])
    await until(lambda: ids(worker) == ids(node))
    assert node.degraded == {"worker 1": "gone", "worker 3": "gone"}
    # What the hub is may change: with the lease of a number, or another store.
    node.world, node.epoch = "another", "one more"
    node.renumber(77)
    await until(lambda: (worker.world, worker.epoch, worker.number) == ("another", "one more", 77))
    assert hub.count == 4


@pytest.mark.parametrize("machine", [{"tombstones_max": 1}], indirect=True)
async def test_what_the_hub_does_not_name_when_all_is_told_is_not_there_any_more(machine: Machine) -> None:
    """The worker was away when an entity died, and that was forgotten before it came back."""
    hub, node = await machine.hub()
    node.publish([feature("a"), feature("b"), feature("c")])
    _, worker = await machine.join(1)
    # Unseen by the worker, as its connection ends in the same turn.
    cut(hub)
    node.publish([{"op": "delete", "id": "a"}, {"op": "delete", "id": "b"}])
    await until(lambda: ids(worker) == ["c"] and not worker.degraded)
    worker.engine.verify()


async def test_what_a_reload_of_the_hub_lets_die_dies_everywhere(machine: Machine) -> None:
    """Such a death has the version of the living, so it is not told as a change is."""
    _, node = await machine.hub()
    node.publish([feature("a"), feature("b")])
    (_, one), (_, two) = await machine.join(1), await machine.join(2)
    node.begin_reload()
    node.publish([feature("b", 1), feature("c")])
    await node.end_reload()
    assert ids(node) == ["b", "c"]
    await until(lambda: ids(one) == ids(two) == ["b", "c"])
    node.publish([feature("a", 2)])
    await until(lambda: ids(one) == ids(two) == ["a", "b", "c"])
    await until(lambda: node.degraded == {"worker 3": "gone"})


async def test_workers_come_in_any_order_and_number(machine: Machine) -> None:
    starting = [asyncio.ensure_future(machine.join(number)) for number in (1, 2, 3)]
    await asyncio.sleep(0.05)
    node = (await machine.hub())[1]
    node.publish([feature("a")])
    for _, worker in await asyncio.gather(*starting):
        await until(lambda worker=worker: ids(worker) == ["a"])
    assert node.degraded == {}


async def test_nobody_is_whole_before_the_hub_is(machine: Machine) -> None:
    hub, node = await machine.hub(opens=False)
    join, worker = await machine.join(1, waits=False)
    node.publish([feature("a")])
    await until(lambda: ids(worker) == ["a"])
    assert node.degraded["worker 1"] == "joining"
    assert not join._is_whole.is_set()
    with pytest.raises(Refused, match="is starting"):
        await worker.publish_sliced([feature("b")])
    hub.open()
    await until(join._is_whole.is_set)


# A hub that comes after another


async def test_the_new_hub_has_the_newest_of_what_the_workers_hold(machine: Machine) -> None:
    hub, node = await machine.hub()
    node.publish([feature(f"e{place}", ttl=1000) for place in range(300)] + [{"op": "delete", "id": "e5"}])
    (_, one), (_, two) = await machine.join(1), await machine.join(2)
    await hub.stop()
    # As if the hub had told only one of them before it died.
    other = Node(Config(), Counters())
    for worker, id in ((one, "e1"), (two, "e2")):
        other.publish([feature(id, 9.0)])
        feed = other.engine.open_feed(FeedKind.ASKED)
        other.engine.offer_all(feed)
        worker.merge(other.engine.take_feed(feed, 1, 1 << 20)[0])
        other.engine.close_feed(feed)
    kept = Node(Config(), Counters())
    heard = kept.engine.open_feed(FeedKind.ASKED)
    again, _ = await machine.hub([1, 2], node=kept, feed=heard)
    assert kept.world == node.world
    assert len(ids(kept)) == 299
    for id in ("e1", "e2"):
        assert msgspec.json.decode(kept.engine.get(id) or b"null")["geometry"]["coordinates"] == [9, 0]
    assert kept.publish([feature("e5", version=1)]).stale == 1, "a death was forgotten"
    assert kept.engine.feed_size(heard) == 300, "other nodes must hear of what the old hub may not have told them"
    await until(lambda: not one.degraded and not two.degraded)
    assert ids(one) == ids(two) == ids(kept)
    kept.engine.verify()
    await again.stop()
    kept.close()


async def test_a_new_hub_does_not_wait_for_a_holder_that_is_gone_or_silent(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime.cluster.hub, "SILENCE_S", 0.05)
    _, node = await machine.hub([1, 3])
    assert node.world  # its own, a new one
    directory = make_directory()
    try:
        waiting = Hub(node, Place(0, 2, socket_path(directory.name), 0.0, [1]))
        monkeypatch.setattr(realtime.cluster.hub, "SILENCE_S", 3600.0)
        starting = asyncio.ensure_future(waiting.start())
        await asyncio.sleep(0.02)
        assert not starting.done()
        waiting.set_holders([])
        await asyncio.wait_for(starting, TIMEOUT_S)
        await waiting.stop()
    finally:
        directory.cleanup()


async def test_a_worker_with_another_world_tells_it_and_loses_nothing(machine: Machine) -> None:
    hub, node = await machine.hub()
    node.publish([feature("a"), feature("b")])
    _, worker = await machine.join(1)
    await hub.stop()
    again, other = await machine.hub()  # which waits for nobody, and so is of another world
    assert other.world != node.world
    await until(lambda: not worker.degraded)
    assert worker.world == other.world
    assert ids(worker) == ids(other) == ["a", "b"]
    assert again.count == 4


async def test_a_newer_worker_of_a_number_takes_the_place_of_the_older(machine: Machine) -> None:
    hub, node = await machine.hub()
    first, _ = await machine.join(1)
    first._place = Place(3, 4, "/nowhere", 0.0, [])  # it does not come again
    await machine.join(1)
    assert len(hub._workers) == 1
    assert "worker 1" not in node.degraded


# Publishing and views


async def test_updates_under_way_are_bounded_and_end_with_the_hub(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime.cluster.join, "IN_FLIGHT_BYTES_MAX", 3000)
    monkeypatch.setattr(realtime.cluster.join, "PUBLISH_S", 3600.0)
    hub, node = await machine.hub()
    join, worker = await machine.join(1)
    hold = asyncio.Event()

    async def stuck(message: Any) -> None:
        await hold.wait()

    monkeypatch.setattr(hub, "_publish", stuck)
    most = 0
    publishing = [asyncio.ensure_future(worker.publish_sliced([feature(f"e{place}" * 10)])) for place in range(200)]
    for _ in range(50):
        await asyncio.sleep(0)
        most = max(most, join._in_flight_bytes)
    assert 0 < most <= 3000
    await hub.stop()
    results = await asyncio.wait_for(asyncio.gather(*publishing, return_exceptions=True), TIMEOUT_S)
    assert {type(result) for result in results} == {Refused}
    assert {result.code for result in results if isinstance(result, Refused)} == {ErrorCode.UNAVAILABLE}
    assert join._in_flight_bytes == 0
    assert ids(node) == []


async def test_a_hub_that_does_not_answer_is_not_waited_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, _ = await machine.hub()
    _, worker = await machine.join(1)
    monkeypatch.setattr(realtime.cluster.join, "PUBLISH_S", 0.02)

    async def stuck(message: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(hub, "_publish", stuck)
    with pytest.raises(Refused, match="is gone"):
        await worker.publish_sliced([feature("a")])


async def test_verdicts_are_those_of_the_hub_alone(machine: Machine) -> None:
    """The same as the hub's own session gets, whatever the updates are."""
    _, node = await machine.hub()
    _, worker = await machine.join(1)
    updates: list[Any] = [
        feature("ok-1", version=7),
        feature("ok-1", version=6),
        feature("no-1"),
        {"op": "patch", "id": "no-2", "properties": {"a": 1 << 80}},
        {"op": "patch", "id": "ok-2", "properties": {"a": [1 << 80]}},
        {"op": "move", "id": 5, "lon": 0, "lat": 0},
        {"op": "move", "id": "ok-1", "lon": float("nan"), "lat": 0},
        Refused(ErrorCode.TOO_BIG, "as it came"),
        None,
        [],
        "text",
        {1: 2},
        msgspec.msgpack.Ext(5, b"x"),
        {"op": "delete", "id": "ok-3"},
    ]

    def allows(id: str) -> bool:
        return id.startswith("ok")

    said = await worker.publish_sliced(list(updates), allows)
    own = Node(Config(), Counters()).publish(list(updates), allows)
    by_index = {rejected.index: (rejected.code, rejected.message) for rejected in said.rejected}
    assert by_index == {rejected.index: (rejected.code, rejected.message) for rejected in own.rejected}
    assert (said.accepted, said.unchanged, said.stale, said.rejected_total) == (
        own.accepted,
        own.unchanged,
        own.stale,
        own.rejected_total,
    )
    assert ids(node) == ["ok-1"]


async def test_views_are_kept_by_the_hub_and_found_by_all(machine: Machine) -> None:
    hub, node = await machine.hub()
    (_, one), (_, two) = await machine.join(1), await machine.join(2)
    one.keep_view("u", {"type": "view", "bbox": [0, 0, 1, 1]})
    for _ in range(100):
        found = await two.find_view("u")
        if found is not None:
            break
    assert found == {"type": "view", "bbox": [0, 0, 1, 1]}
    assert node.kept_view("u") == found
    node.keep_view("u", {"type": "view", "bbox": [2, 2, 3, 3]})
    assert await one.find_view("u") == await two.find_view("u") == {"type": "view", "bbox": [2, 2, 3, 3]}
    assert await one.find_view("nobody") is None
    await hub.stop()
    await until(lambda: one.degraded)
    assert await one.find_view("u") == {"type": "view", "bbox": [0, 0, 1, 1]}, "what this worker saw"
    assert await two.find_view("u") is None
    two.keep_view("v", {"type": "view", "bbox": None})
    _, again = await machine.hub()
    await until(lambda: again.kept_view("v"))


# Asking


async def test_whoever_does_not_answer_is_left_out(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, _ = await machine.hub()
    assert await hub.ask("x") == {}
    (one, _), _ = await machine.join(1), await machine.join(3)
    assert await hub.ask("x", "y") == {1: b"1 y", 3: b"3 y"}
    monkeypatch.setattr(realtime.cluster.hub, "ANSWER_S", 0.05)

    async def never(what: str, argument: str) -> bytes:
        machine.asked.append("in vain")
        await asyncio.Event().wait()
        return b""

    one._answer = never
    for _ in range(realtime.cluster.hub.ASKS_MAX + 5):
        assert await hub.ask("x") == {3: b"3 "}
    assert machine.asked.count("in vain") == realtime.cluster.hub.ASKS_MAX, "questions without an answer are bounded"


# First words


@pytest.mark.parametrize("is_named", [False, True])
async def test_whoever_says_nothing_is_cut(machine: Machine, monkeypatch: pytest.MonkeyPatch, is_named: bool) -> None:
    monkeypatch.setattr(realtime.cluster.hub, "HELLO_S", 0.1)
    await machine.hub()
    reader, writer = await asyncio.open_unix_connection(machine._path)
    if is_named:
        writer.write(frame_of(Hello(FORMAT, 1, "p", "")))
        assert await asyncio.wait_for(reader.read(1), TIMEOUT_S)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_to_the_end(reader), 0.4)
    else:
        await asyncio.wait_for(_to_the_end(reader), TIMEOUT_S)
    writer.close()


async def _to_the_end(reader: asyncio.StreamReader) -> None:
    while await reader.read(1000):
        pass


async def test_there_are_few_who_have_said_nothing(machine: Machine) -> None:
    hub, _ = await machine.hub()
    found = [await asyncio.open_unix_connection(machine._path) for _ in range(40)]
    await until(lambda: len(hub._workers) == realtime.cluster.hub.NAMELESS_MAX)
    for _, writer in found:
        writer.close()
    await until(lambda: not hub._workers)
    assert ids((await machine.join(1))[1]) == []
