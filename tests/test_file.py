"""A node's world in a file: what is kept comes back, whatever the disk does serving goes on, and nothing is ever half kept."""

# ruff: noqa: ASYNC240 - files of a few kilobytes are read in the loop here, between two steps of a test
from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from realtime.cluster import file as module
from realtime.cluster import log
from realtime.cluster.file import FileRefused, WorldFile, classify, new_world_file
from realtime.config import load
from realtime.counters import Counters
from realtime.engine import FeedKind
from realtime.engine.states import split
from realtime.errors import ConfigError, ErrorCode, Refused
from realtime.node import Node
from tests.fake_server import within
from tests.test_log import file_size_limit

pytestmark = [pytest.mark.usefixtures("engine_kind"), pytest.mark.anyio]

INTERVAL_S = 0.01
SEED = random.randrange(2**32)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "world"


@asynccontextmanager
async def keeping(path: Path, *settings: str, interval_s: float = INTERVAL_S) -> AsyncIterator[tuple[Node, WorldFile]]:
    """Yield a node and the file that keeps it."""
    node = Node(load(settings=settings), Counters())
    file = WorldFile(node, str(path), interval_s)
    await file.start()
    try:
        yield node, file
    finally:
        await within(file.close())
        node.close()
    node.engine.verify()
    assert node.engine.statistics()["feeds"] == 0


def states(node: Node) -> dict[str, bytes]:
    """Return all that a node knows."""
    feed = node.engine.open_feed(FeedKind.ASKED)
    node.engine.offer_all(feed)
    found: dict[str, bytes] = {}
    while node.engine.feed_size(feed):
        found |= split(node.engine.take_feed(feed, 1, 2**20)[0])
    node.engine.close_feed(feed)
    return found


async def stored(path: Path, *settings: str) -> tuple[dict[str, bytes], str]:
    """Return what a node that starts on a copy of the file knows, as one would after a crash at this moment; and its world."""
    copy = path.parent / "copy"
    shutil.copyfile(path, copy)
    try:
        async with keeping(copy, *settings) as (node, _):
            return states(node), node.world
    finally:
        copy.unlink()


def point(id: str, version: int, **members: Any) -> dict[str, Any]:
    geometry = {"type": "Point", "coordinates": [version % 180, 1]}
    return {"type": "Feature", "id": id, "version": version, "geometry": geometry, "properties": {"n": version}} | members


def updates(count: int, seed: int) -> list[dict[str, Any]]:
    """Return updates of all kinds, of a few hundred entities."""
    choose = random.Random(seed)
    found: list[dict[str, Any]] = []
    for _ in range(count):
        id = f"bus-{choose.randrange(count // 10 + 1)}"
        match choose.randrange(6):
            case 0:
                found.append({"op": "delete", "id": id})
            case 1:
                found.append({"op": "move", "id": id, "lon": choose.uniform(-180, 180), "lat": choose.uniform(-90, 90)})
            case 2:
                found.append({"op": "patch", "id": id, "properties": {"n": None, "text": "ü" * choose.randrange(100)}})
            case 3:
                found.append(point(id, 1, ttl=choose.choice([0.0, 1000.0]), access=["user:a", "group:b"], kind="bus", rank=0.25))
            case _:
                found.append(point(id, choose.randrange(1, 1000), min_zoom=choose.uniform(0, 20)))
    return found


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(INTERVAL_S / 4)

    await within(wait())


def told(caplog: pytest.LogCaptureFixture, text: str) -> int:
    """Return how many lines of the log say this."""
    return sum(text in record.getMessage() for record in caplog.records)


# What is kept


async def test_a_world_comes_back_as_it_was(path: Path) -> None:
    print("seed", SEED)
    async with keeping(path) as (node, file):
        world = node.world
        node.publish(updates(3000, SEED))
        before = states(node)
        assert node.engine.statistics()["tombstones"] > 10
        await within(file.settle())
        assert await stored(path) == (before, world)
        node.publish(updates(3000, SEED + 1))
        before = states(node)
    assert (await stored(path)) == (before, world), "closing writes the rest"
    async with keeping(path) as (node, file):
        assert (states(node), node.world) == (before, world)
        assert file.status()["degraded"] is None
        node.publish(updates(3000, SEED + 2))
        before = states(node)
    assert (await stored(path)) == (before, world)


async def test_nobody_has_to_ask(path: Path) -> None:
    async with keeping(path) as (node, file):
        empty = file.status()["bytes"]
        node.publish([point("a", 1)])
        await until(lambda: file.status()["bytes"] > empty)
        await until(lambda: file.status()["synced_s"] < INTERVAL_S)
        assert (await stored(path))[0] == states(node)


async def test_what_settled_is_in_the_file_however_much_is_published_meanwhile(path: Path) -> None:
    async with keeping(path, interval_s=60) as (node, file):  # so that nothing is written but for whoever asks

        async def publish(id: int) -> None:
            for version in range(1, 8):
                node.publish([point(f"{id}-{n}", version) for n in range(20)])
                await file.settle()
                found = path.read_bytes()
                reader = log.Reader(len(found))
                reader.wanted = len(found)
                kept = {key: state for batch in reader.take(found[reader.place :]) for key, state in split(batch)}
                assert all(b'{"n":%d}' % version in kept[f"{id}-{n}"] for n in range(20))

        await within(asyncio.gather(*(publish(id) for id in range(5))))


async def test_what_is_published_before_the_start_and_while_it_reads_is_kept_too(path: Path) -> None:
    async with keeping(path) as (node, _):
        node.publish([point(f"old-{n}", 1) for n in range(2000)])
    node = Node(load(), Counters())
    node.publish([point("early", 1), point("old-1", 7)])
    file = WorldFile(node, str(path), INTERVAL_S)
    starting = asyncio.ensure_future(file.start())
    while node.is_whole:  # noqa: ASYNC110 - until it reads; the native engine is through a few turns later
        await asyncio.sleep(0)
    node.publish([point("meanwhile", 1), point("old-2", 7)])
    assert not starting.done()
    await within(starting)
    assert node.is_whole
    before = states(node)
    assert len(before) == 2002
    await within(file.settle())
    await file.close()
    node.close()
    assert (await stored(path))[0] == before


async def test_a_world_that_is_older_than_its_file_is_kept(path: Path) -> None:
    node = Node(load(), Counters())
    node.publish([point("early", 1)])
    file = WorldFile(node, str(path), INTERVAL_S)
    await file.start()
    await within(file.settle())
    await file.close()
    node.close()
    assert (await stored(path))[0].keys() == {"early"}


async def test_a_deadline_that_came_meanwhile_is_a_death(path: Path) -> None:
    async with keeping(path) as (node, _):
        node.publish([point("short", 1, ttl=0.001), point("long", 1, ttl=1000)])
    found, _ = await stored(path)
    assert len(found["short"]) < len(found["long"])
    async with keeping(path) as (node, _):
        assert node.engine.get("short") is None
        assert node.engine.get("long") is not None


# Replacing the file


async def test_a_file_stays_in_proportion_and_loses_nothing_while_it_is_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    print("seed", SEED)
    monkeypatch.setattr(module, "SPARE_BYTES", 20_000)
    monkeypatch.setattr(module, "SYNC_BYTES", 10_000)
    choose = random.Random(SEED)
    async with keeping(path) as (node, file):
        world = node.world
        number = 0
        while file.status()["rewrites"] < 10 or not file.status()["rewriting"]:
            number += 1
            node.publish(updates(200, choose.randrange(2**32)))
            if number % 7 == 0:
                settled = states(node)
                await within(file.settle())
                kept, kept_world = await stored(path)
                assert kept_world == world
                assert all(id in kept and version_of(kept[id]) >= version_of(state) for id, state in settled.items())
            await asyncio.sleep(choose.choice([0, 0, INTERVAL_S / 3]))
        before = states(node)
    assert await stored(path) == (before, world)
    alone = sum(map(len, before.values()))
    assert path.stat().st_size < 2 * (alone + 2000) + 20_000 + 200_000  # and what came while it was being replaced
    assert os.listdir(path.parent) == [path.name]


async def test_what_changes_while_the_file_is_replaced_is_in_the_new_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entity is published once, so that nothing that was lost is written again by a later change."""
    monkeypatch.setattr(module, "SPARE_BYTES", 5000)
    async with keeping(path, interval_s=0.005) as (node, file):
        node.publish([point(f"first-{n}", 1, properties={"text": "x" * 500}) for n in range(2000)])
        rewrites = meanwhile = 0
        while rewrites < 3 or meanwhile < 20:
            is_rewriting = file.status()["rewriting"]
            meanwhile += is_rewriting
            node.publish([point(f"{node.engine.statistics()['entities']}", 1, properties={"text": "x" * 1000})])
            await asyncio.sleep(0)
            if file.status()["rewrites"] > rewrites:
                rewrites = file.status()["rewrites"]
                before = states(node)
                await within(file.settle())
                kept, _ = await stored(path)
                assert before.items() <= kept.items()


async def test_who_waits_for_a_broken_file_waits_for_the_new_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round of a new file that has not its place yet settles nothing."""
    async with keeping(path) as (node, file):
        node.publish([point(f"{n}", 1, properties={"text": "x" * 1000}) for n in range(3000)])
        await within(file.settle())
        take_place, is_in_place = log.Log.take_place_of, False

        def noted(self: log.Log, other: log.Log, is_kept: bool) -> None:
            nonlocal is_in_place
            take_place(self, other, is_kept)
            is_in_place = True

        monkeypatch.setattr(log.Log, "take_place_of", noted)
        assert file._log is not None
        file._log.is_bad = True  # as a failure leaves it, before it is noted
        node.publish([point("a", 1)])
        await within(file.settle())
        assert is_in_place
        assert (await stored(path))[0] == states(node)


async def test_a_bug_on_the_way_to_the_file_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What had been taken out of the feed by then is written with everything else."""
    async with keeping(path, interval_s=60) as (node, file):
        node.publish([point("a", 1)])
        await within(file.settle())

        def breaks(_: bytes) -> tuple[bytes, bytes]:
            monkeypatch.undo()
            raise ValueError("a bug")

        monkeypatch.setattr(module, "seal", breaks)
        node.publish([point("b", 1)])
        with pytest.raises(Refused, match="other"):
            await within(file.settle())
        file._wake.set()
        await until(lambda: not node.degraded and file.status()["rewrites"])
        assert (await stored(path))[0].keys() == {"a", "b"}


def version_of(state: bytes) -> int:
    return int(msgspec.msgpack.decode(state)[1])


async def test_a_link_stays_a_link(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 100)
    (path.parent / "elsewhere").mkdir()
    path.symlink_to("elsewhere/world")
    async with keeping(path) as (node, file):
        node.publish(updates(200, 1))
        await until(lambda: file.status()["rewrites"])
    assert path.is_symlink()
    assert os.listdir(path.parent / "elsewhere") == ["world"]


# Who may


async def test_a_second_server_is_refused_and_the_first_goes_on(path: Path) -> None:
    async with keeping(path) as (node, file):
        other = WorldFile(Node(load(), Counters()), str(path), INTERVAL_S)
        with pytest.raises(FileRefused, match=f"store.path: {path}: another server has it open"):
            await other.start()
        await other.close()
        node.publish([point("a", 1)])
        await within(file.settle())
        assert (await stored(path))[0].keys() == {"a"}


async def test_a_file_of_something_else_is_refused(path: Path) -> None:
    path.write_bytes(b"precious")
    file = WorldFile(Node(load(), Counters()), str(path), INTERVAL_S)
    with pytest.raises(FileRefused, match="something else"):
        await file.start()
    await file.close()
    assert path.read_bytes() == b"precious"


def test_the_settings_say_whether_there_is_one(path: Path) -> None:
    assert new_world_file(Node(load(), Counters()), load()) is None
    config = load(settings=[f"store.path={path}", "redis.url=redis://127.0.0.1"])
    with pytest.raises(ConfigError, match=r"not beside redis\.url"):
        new_world_file(Node(load(), Counters()), config)


# Damage


async def test_a_torn_end_is_cut_off_and_said_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with keeping(path, interval_s=60) as (node, file):
        world = node.world
        node.publish([point("a", 1)])
        await within(file.settle())
        size = path.stat().st_size
        node.publish([point("a", 2), point("b", 1)])
    whole = path.read_bytes()
    for cut in {size + 1, size + 20, len(whole) - 1}:
        path.write_bytes(whole[:cut])
        caplog.clear()
        async with keeping(path) as (node, file):
            assert node.world == world
            assert b'"version":1' in (node.engine.get("a") or b"")
            assert file.status()["torn_bytes"] == cut - size
            assert told(caplog, f"{cut - size} bytes are cut off") == 1
            node.publish([point("c", 1)])
        caplog.clear()
        async with keeping(path) as (node, file):
            assert (states(node).keys(), node.world) == ({"a", "c"}, world)
        assert caplog.records == [] or told(caplog, "cut off") == 0


async def test_a_hole_makes_another_world_and_the_broken_file_is_kept(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ends = []
    async with keeping(path, interval_s=60) as (node, file):
        world = node.world
        for id in "abc":
            node.publish([point(id, 1)])
            await within(file.settle())
            ends.append(path.stat().st_size)
    broken = bytearray(path.read_bytes())
    broken[ends[1] - 5] ^= 4
    path.write_bytes(broken)
    async with keeping(path) as (node, file):
        assert states(node).keys() == {"a", "c"}
        another = node.world
        assert another != world
        node.publish([point("d", 1)])
        await until(lambda: file.status()["rewrites"] == 1)
        assert told(caplog, "damaged") == 1
    kept = (path.parent / "world.broken").read_bytes()
    assert kept[: len(broken)] == broken
    caplog.clear()
    async with keeping(path) as (node, file):
        assert (states(node).keys(), node.world) == ({"a", "c", "d"}, another)
        await until(lambda: file.status()["synced_s"] < INTERVAL_S)
        assert file.status()["rewrites"] == 0
    assert told(caplog, "damaged") == 0
    assert sorted(os.listdir(path.parent)) == ["world", "world.broken"]


async def test_states_that_are_no_longer_valid_are_not_thrown_away(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with keeping(path) as (node, _):
        world = node.world
        node.publish([point("small", 1), point("large", 1, properties={"text": "x" * 500})])
    before = path.read_bytes()
    async with keeping(path, "limits.entity_bytes=200") as (node, file):
        assert states(node).keys() == {"small"}
        assert node.world != world
        await until(lambda: file.status()["rewrites"])
    assert told(caplog, "1 states are not valid here") == 1
    assert (path.parent / "world.broken").read_bytes() == before


async def test_an_end_longer_than_a_write_leaves_behind_is_damage(path: Path) -> None:
    async with keeping(path) as (node, _):
        world = node.world
        node.publish([point("a", 1)])
    with path.open("ab") as file:
        file.write(bytes(log.TORN_BYTES_MAX + 1))
    before = path.read_bytes()
    async with keeping(path) as (node, kept):
        assert states(node).keys() == {"a"}
        assert node.world != world
        await until(lambda: kept.status()["rewrites"])
    assert (path.parent / "world.broken").read_bytes() == before


# A disk that fails


class Disk:
    """Lets writing fail for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.error: Exception | None = None
        self.calls = 0
        real = getattr(log, name)

        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.error is not None:
                raise self.error
            return real(*arguments)

        monkeypatch.setattr(log, name, call)


@pytest.mark.parametrize("call", ["_write_all", "_sync"])
@pytest.mark.parametrize(
    ("number", "word"), [(errno.ENOSPC, "full"), (errno.EDQUOT, "full"), (errno.EIO, "io"), (errno.EROFS, "readonly"), (0, "other")]
)
async def test_serving_goes_on_without_the_disk_and_all_is_kept_when_it_is_back(
    path: Path, call: str, number: int, word: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    disk = Disk(monkeypatch, call)
    async with keeping(path) as (node, file):
        world = node.world
        node.publish([point(f"before-{n}", 1) for n in range(500)])
        await within(file.settle())
        disk.error = OSError(number, "faked") if number else RuntimeError("faked")
        node.publish([point("meanwhile", 1), point("before-3", 2), {"op": "delete", "id": "before-4"}])
        with pytest.raises(Refused, match=word) as refused:
            await within(file.settle())
        assert refused.value.code == ErrorCode.UNAVAILABLE
        await until(lambda: node.degraded == {"store": word})
        assert file.status()["degraded"] == word
        calls = disk.calls
        await until(lambda: disk.calls > calls + 3)  # it is tried again
        node.publish([point("later", 1)])
        with pytest.raises(Refused, match=word):
            await within(file.settle())
        assert told(caplog, f"degraded: {word}") == 1
        assert node.counters.troubles[word] >= 3
        disk.error = None
        await until(lambda: not node.degraded)
        assert told(caplog, "well again") == 1
        node.publish([point("after", 1)])
        await within(file.settle())
        before = states(node)
        assert await stored(path) == (before, world)
    assert os.listdir(path.parent) == [path.name]


async def test_a_full_disk_in_earnest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_MAX_S", 2 * INTERVAL_S)
    async with keeping(path) as (node, file):
        node.publish([point("a", 1)])
        await within(file.settle())
        with file_size_limit(100_000):
            for version in range(2, 6):
                node.publish([point(f"{n}", version, properties={"text": "x" * 300}) for n in range(500)])
                with suppress(Refused):
                    await within(file.settle())
            await until(lambda: node.degraded == {"store": "full"})
            assert (await stored(path))[0].keys() >= {"a"}
        await until(lambda: not node.degraded)
        await within(file.settle())
        before = states(node)
        assert (await stored(path))[0] == before


async def test_a_rewriting_that_fails_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The file goes on to grow; that is said once, and tried again."""
    monkeypatch.setattr(module, "SPARE_BYTES", 1000)
    create, failing, tries = log.Log.create.__func__, True, 0  # type: ignore[attr-defined]

    def fails(cls: type[log.Log], path: str, world: str) -> log.Log:
        nonlocal tries
        tries += 1
        if failing:
            raise OSError(errno.ENOSPC, "faked")
        made: log.Log = create(cls, path, world)
        return made

    monkeypatch.setattr(log.Log, "create", classmethod(fails))
    async with keeping(path) as (node, file):
        while tries < 3:
            node.publish(updates(50, tries))
            await within(file.settle())
        assert node.degraded == {}
        assert told(caplog, "it grows") == 1
        assert (await stored(path))[0] == states(node)
        failing = False
        await until(lambda: file.status()["rewrites"])
        assert (await stored(path))[0] == states(node)


async def test_a_file_that_was_deleted_is_made_anew_and_another_one_is_not_replaced(path: Path) -> None:
    async with keeping(path) as (node, file):
        node.publish([point("a", 1)])
        await within(file.settle())
        path.unlink()
        node.publish([point("b", 1)])
        await until(lambda: path.exists() and not node.degraded and file.status()["rewrites"])
        assert (await stored(path))[0].keys() == {"a", "b"}
        path.unlink()
        path.write_bytes(b"somebody else's")
        node.publish([point("c", 1)])
        await until(lambda: node.degraded == {"store": "moved"})
        assert path.read_bytes() == b"somebody else's"
        path.unlink()
        await until(lambda: not node.degraded)
        await within(file.settle())
        assert (await stored(path))[0].keys() == {"a", "b", "c"}


async def test_a_file_that_can_only_be_read_is_served(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with keeping(path) as (node, _):
        world = node.world
        node.publish([point("a", 1)])
    real, is_read_only = os.open, True

    def opens(name: str, flags: int, mode: int = 0o777) -> int:
        if is_read_only and flags & (os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(name, flags, mode)

    monkeypatch.setattr(os, "open", opens)
    async with keeping(path) as (node, _):
        assert (node.world, states(node).keys()) == (world, {"a"})
        await until(lambda: node.degraded == {"store": "readonly"})
        node.publish([point("b", 1)])
        is_read_only = False
        await until(lambda: not node.degraded)
    assert (await stored(path))[0].keys() == {"a", "b"}


async def test_closing_tries_once_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, "_write_all")
    async with keeping(path) as (node, file):
        node.publish([point("a", 1)])
        await within(file.settle())
        monkeypatch.setattr(file, "_interval_s", 60.0)
        disk.error = OSError(errno.ENOSPC, "faked")
        node.publish([point("b", 1)])
        with pytest.raises(Refused):
            await within(file.settle())
        disk.error = None
    assert (await stored(path))[0].keys() == {"a", "b"}
    with pytest.raises(Refused, match="closing"):
        await file.settle()


def test_every_error_has_a_class() -> None:
    assert {classify(OSError(number, "")) for number in errno.errorcode} <= module.CLASSES.keys()
    assert classify(ValueError()) == "other"
