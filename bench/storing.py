"""`python -m bench store`: ways to keep a world in one local file, and what they cost an event loop that has no time.

Law: the loop is busy all the time, a millisecond a turn, as a node under load is; what is told as its lag is how long it
did not get to run between two turns, because a thread had the interpreter or the processor. All contenders keep the same
states, in the same number at a time; what they need of a batch is made in the loop, all else in one thread.

    log    the file of `store.path`: batches under a checksum at the end of a file, synced each interval
    blobs  SQLite (WAL, synchronous NORMAL), a row for 256 KB of states
    rows   SQLite, a row for each entity, inserted or updated

Then the whole of it: a node of 1,000,000 entities with its file, changed at a rate, replaced once, and started again.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from bench import command_line
from bench.results import Result, Table
from realtime.cluster import disk_thread
from realtime.cluster import file as world_file
from realtime.cluster.file import WorldFile
from realtime.cluster.log import Log, Reader, seal
from realtime.config import load
from realtime.counters import Counters
from realtime.engine.states import Alive, join, write
from realtime.node import Node

WORK_S = 0.001  # of each turn
INTERVAL_S = 0.5
BATCH_BYTES = 16 * 1024
BLOB_BYTES = 256 * 1024
PAGE_BYTES = 4096
DAMAGES = 40
State = tuple[str, bytes]


def state(number: int, version: int) -> State:
    """Return an entity's state of about 250 bytes."""
    id = f"vehicle-{number:07d}"
    place = b'{"type":"Point","coordinates":[%d.%03d5,%d.5]}' % (number % 358 - 179, version % 1000, number % 178 - 89)
    properties = b'{"line":"%d","speed":%d.5,"heading":%d,"state":"moving","next":"stop-%d","delay_s":%d}' % (
        number % 900, version % 37, version % 360, version % 5000, version % 600,
    )  # fmt: skip
    seen = 1_000_000 + version
    return id, write(Alive(id, seen, True, seen, 60.0, 4e9 + number * 0.001, "bus", 0.0, 0.5, ["public"], place, properties))


def batches(states: Sequence[State], size: int) -> Iterator[bytes]:
    """Cut states into batches of about this many bytes."""
    step = max(1, size // max(1, sum(len(raw) for _, raw in states[:100]) // max(1, len(states[:100]))))
    for first in range(0, len(states), step):
        yield join(raw for _, raw in states[first : first + step])


class Contender(Protocol):
    """A way to keep states."""

    def open(self, path: str) -> None: ...
    def close(self) -> None: ...
    def prepare(self, states: Sequence[State]) -> Any:
        """Make of states what is written; in the loop."""

    def write(self, prepared: Any) -> None:
        """Write and commit; in the thread."""

    def renew(self, prepared: Sequence[Any]) -> Iterator[Callable[[], None]]:
        """Yield the steps, for the thread, that leave nothing in the file but these states."""

    def read(self, path: str) -> int:
        """Read everything, checked, as batches; return how many states that was."""


class LogFile:
    """The file of `store.path`."""

    def open(self, path: str) -> None:
        self._log = Log.open(path, "bench")

    def prepare(self, states: Sequence[State]) -> list[bytes]:
        return [part for batch in batches(states, BATCH_BYTES) for part in seal(batch)]

    def write(self, prepared: list[bytes]) -> None:
        self._log.append(prepared)
        self._log.sync()

    def renew(self, prepared: Sequence[list[bytes]]) -> Iterator[Callable[[], None]]:
        made: list[Log] = []
        yield lambda: made.append(Log.create(self._log.path + ".new", "bench"))
        (new,) = made
        for parts in prepared:
            yield lambda parts=parts: new.append(parts)  # type: ignore[misc]
            if new.size_bytes % world_file.SYNC_BYTES < BLOB_BYTES:
                yield new.sync
        yield lambda: new.take_place_of(self._log, is_kept=False)
        self._log = new

    def close(self) -> None:
        self._log.close()

    def read(self, path: str) -> int:
        log = Log.open(path, "bench")
        reader, count = Reader(log.size_bytes), 0
        while not reader.is_through:
            for batch in reader.take(log.read(reader.place, reader.wanted)):
                count += int.from_bytes(batch[1:5], "big")
        log.close()
        return count


class Blobs:
    """Batches as rows of SQLite, each with a checksum, for SQLite has none but in its WAL."""

    table = "CREATE TABLE IF NOT EXISTS batches(number INTEGER PRIMARY KEY, checksum INTEGER, batch BLOB)"

    def open(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for command in ("journal_mode=WAL", "locking_mode=EXCLUSIVE", "synchronous=NORMAL", "cache_size=-65536"):
            self._database.execute(f"PRAGMA {command}")
        self._database.execute(self.table)

    def prepare(self, states: Sequence[State]) -> list[tuple[Any, ...]]:
        return [(zlib.crc32(batch), batch) for batch in batches(states, BLOB_BYTES)]

    def write(self, prepared: list[tuple[Any, ...]]) -> None:
        self._database.execute("BEGIN")
        self._insert(prepared)
        self._database.execute("COMMIT")

    def _insert(self, prepared: list[tuple[Any, ...]]) -> None:
        self._database.executemany("INSERT INTO batches(checksum, batch) VALUES(?, ?)", prepared)

    def renew(self, prepared: Sequence[list[tuple[Any, ...]]]) -> Iterator[Callable[[], None]]:
        (last,) = self._database.execute("SELECT max(number) FROM batches").fetchone()
        for rows in prepared:
            yield lambda rows=rows: self.write(rows)  # type: ignore[misc]
        for first in range(0, last + 1, 100):
            yield lambda first=first: self._delete(first, last)  # type: ignore[misc]

    def _delete(self, first: int, last: int) -> None:
        self._database.execute("DELETE FROM batches WHERE number BETWEEN ? AND ?", (first, min(first + 99, last)))

    def close(self) -> None:
        self._database.close()

    def read(self, path: str) -> int:
        """One batch at a time, so that what is broken costs as little as it can."""
        count = 0
        try:
            database = sqlite3.connect(path)
            (last,) = database.execute("SELECT max(number) FROM batches").fetchone()
        except sqlite3.DatabaseError:
            return 0
        for number in range((last or 0) + 1):
            try:
                found = database.execute("SELECT checksum, batch FROM batches WHERE number = ?", (number,)).fetchone()
            except sqlite3.DatabaseError:
                continue
            if found is not None and zlib.crc32(found[1]) == found[0]:
                count += int.from_bytes(found[1][1:5], "big")
        database.close()
        return count


class Rows(Blobs):
    """Each entity a row of SQLite."""

    table = "CREATE TABLE IF NOT EXISTS entities(id TEXT PRIMARY KEY, state BLOB) WITHOUT ROWID"

    def prepare(self, states: Sequence[State]) -> list[tuple[Any, ...]]:
        return list(states)

    def _insert(self, prepared: list[tuple[Any, ...]]) -> None:
        self._database.executemany("INSERT INTO entities VALUES(?, ?) ON CONFLICT(id) DO UPDATE SET state = excluded.state", prepared)

    def renew(self, prepared: Sequence[list[tuple[Any, ...]]]) -> Iterator[Callable[[], None]]:
        return iter(())

    def read(self, path: str) -> int:
        count = 0
        try:
            database = sqlite3.connect(path)
            rows = database.execute("SELECT state FROM entities")
            while some := rows.fetchmany(64):
                whole = [raw for (raw,) in some if raw]  # of a broken page may come anything, for nothing is checked
                join(whole)
                count += len(whole)
            database.close()
        except sqlite3.DatabaseError:
            return count
        return count


CONTENDERS: dict[str, Callable[[], Contender]] = {"log": LogFile, "blobs": Blobs, "rows": Rows}


class BusyLoop:
    """Keeps the loop at work and notes how long it does not get to run."""

    def __init__(self) -> None:
        self.gaps: list[float] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.gaps = []
        task = asyncio.ensure_future(self._work())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _work(self) -> None:
        ended = time.perf_counter()
        while True:
            begun = time.perf_counter()
            self.gaps.append(begun - ended)
            while time.perf_counter() - begun < WORK_S:
                pass
            ended = time.perf_counter()
            await asyncio.sleep(0)

    def lag(self) -> tuple[float, float]:
        """Return p99 and maximum in milliseconds."""
        ordered = sorted(self.gaps) or [0.0]
        return 1000 * ordered[int(0.99 * (len(ordered) - 1))], 1000 * ordered[-1]


def written_bytes() -> int:
    """Return how many bytes this process has handed to write()."""
    return next(int(line.split()[1]) for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("wchar"))


async def measure(name: str, directory: Path, entities: int, seed: int, seconds: float) -> list[str | int | float]:
    """Measure one contender; return its line of the table."""
    made, path, busy = CONTENDERS[name](), directory / name, BusyLoop()
    thread = disk_thread.DiskThread("bench")
    do = thread.call

    world = [state(number, 1) for number in range(entities)]
    await do(made.open, str(path))
    for first in range(0, entities, 20_000):
        await do(made.write, made.prepare(world[first : first + 20_000]))
    rounds = Rounds(entities, seed)
    before, begun = written_bytes(), time.perf_counter()
    async with busy.running():
        while time.perf_counter() - begun < seconds:
            due = time.perf_counter() + INTERVAL_S
            await do(made.write, made.prepare(rounds.take()))
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
    paced, bytes_per_change = busy.lag(), (written_bytes() - before) / rounds.taken
    rounds.taken, begun, slowest = 0, time.perf_counter(), 0.0
    async with busy.running():
        while time.perf_counter() - begun < seconds:
            prepared_round, called = made.prepare(rounds.take()), time.perf_counter()
            await do(made.write, prepared_round)
            slowest = max(slowest, time.perf_counter() - called)
    rate = rounds.taken / (time.perf_counter() - begun)
    prepared = [made.prepare(world[first : first + 1000]) for first in range(0, entities, 1000)]
    begun = time.perf_counter()
    async with busy.running():
        for step in made.renew(prepared):
            await do(step)
    renewed, renewing = time.perf_counter() - begun, busy.lag()
    made.close()
    thread.close()
    begun = time.perf_counter()
    assert made.read(str(path)) >= entities, f"{name}: not all is there"
    read_s = time.perf_counter() - begun
    first_page, worst = damage(CONTENDERS[name](), directory / f"{name}-damaged", seed)
    size = path.stat().st_size / 1e6
    return [name, rate, slowest, *paced, bytes_per_change, renewed, *renewing, size, read_s, 100 * first_page, 100 * worst]


class Rounds:
    """What is written at a time: 10,000 of the entities, each time in another state than the last time."""

    def __init__(self, entities: int, seed: int) -> None:
        choose = random.Random(seed)
        some = [choose.sample(range(entities), min(10_000, entities)) for _ in range(4)]
        self._rounds = [[state(number, version) for number in numbers] for version in (2, 3) for numbers in some]
        self._next = self.taken = 0

    def take(self) -> list[State]:
        """Return the next ones."""
        found = self._rounds[self._next % len(self._rounds)]
        self._next += 1
        self.taken += len(found)
        return found


def damage(made: Contender, path: Path, seed: int) -> tuple[float, float]:
    """Return the share of 20,000 states that are gone with the first page of the file, and with the worst of some others."""
    made.open(str(path))
    made.write(made.prepare([state(number, 1) for number in range(20_000)]))
    made.close()
    choose, pages = random.Random(seed), path.stat().st_size // PAGE_BYTES
    lost = []
    for page in (0, *(choose.randrange(1, pages) for _ in range(DAMAGES))):
        with path.open("r+b") as file:
            file.seek(page * PAGE_BYTES + 64)  # in the first page not the words that say whose file it is
            kept = file.read(PAGE_BYTES - 64)
            file.seek(page * PAGE_BYTES + 64)
            file.write(bytes(len(kept)))
            file.flush()
            lost.append(1.0 - made.read(str(path)) / 20_000)
            file.seek(page * PAGE_BYTES + 64)
            file.write(kept)
    return lost[0], max(lost[1:])


COLUMNS = [
    "", "changes/s", "slowest s", "lag p99 ms", "max", "bytes/change", "replace s", "lag p99 ms", "max", "file MB", "read s",
    "lost: page 1 %", "other",
]  # fmt: skip


async def measure_node(result: Result, directory: Path, entities: int, rate: int, seconds: float) -> None:
    """Measure a node with its file."""
    path, busy, config = directory / "node", BusyLoop(), load()
    node = Node(config, Counters())
    choose = random.Random(1)
    moves = [{"op": "move", "id": f"vehicle-{choose.randrange(entities):07d}", "lon": n % 180, "lat": 1} for n in range(rate)]
    for first in range(0, entities, 1000):
        merged = node.merge(join(raw for _, raw in (state(n, 1) for n in range(first, min(first + 1000, entities)))))
        assert not merged.bad, "the states are not as an engine writes them"
    await _publish(node, busy, moves, seconds)
    p99, worst = busy.lag()
    result.row(f"node without a file: loop lag at {rate:,} changes/s, p99", p99, "ms", facts={"max": worst})
    file = WorldFile(node, str(path), INTERVAL_S)
    await file.start()
    file._rewrite_bytes, begun = 0, time.perf_counter()  # however small the world is
    async with busy.running():
        await file.settle()
        while file.status()["rewriting"] or not file.status()["rewrites"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    p99, worst = busy.lag()
    facts = {"lag p99 ms": p99, "max": worst}
    result.row("node: writing its world for the first time, and replacing the file", time.perf_counter() - begun, "s", facts=facts)
    await _publish(node, busy, moves, seconds)
    p99, worst = busy.lag()
    result.row(f"node with its file: loop lag at {rate:,} changes/s, p99", p99, "ms", facts={"max": worst})
    begun = time.perf_counter()
    await file.settle()
    result.row("node: settling", 1000 * (time.perf_counter() - begun), "ms")
    await file.close()
    node = Node(config, Counters())
    file, begun = WorldFile(node, str(path), INTERVAL_S), time.perf_counter()
    await file.start()
    facts = {"entities": node.engine.statistics()["entities"], "MB": file.status()["bytes"] / 1e6}
    result.row("node: starting on the file", time.perf_counter() - begun, "s", facts=facts)
    await file.close()


async def _publish(node: Node, busy: BusyLoop, moves: list[dict[str, Any]], seconds: float) -> None:
    """Publish `moves` each second, ten times a second a tenth."""
    few = len(moves) // 10
    async with busy.running():
        begun = time.perf_counter()
        for number in range(int(10 * seconds)):
            await node.publish_sliced(moves[number % 10 * few : (number % 10 + 1) * few])
            await asyncio.sleep(max(0.0, begun + number / 10 - time.perf_counter()))


async def run_all(given: Any) -> int:
    """Measure what is asked for."""
    if given.no_naps:
        disk_thread.NAP_S, disk_thread.NAP_INTERVAL_S = 0.0, 3600.0
    result = Result.begin("store", seed=given.seed, options={"entities": given.entities, "seconds": given.seconds})
    directory = Path(tempfile.mkdtemp(prefix="realtime-store-", dir=given.directory))
    try:
        lines = [await measure(name, directory, given.entities, given.seed, given.seconds) for name in given.contender]
        result.tables.append(Table("ways to keep a world in a file, the loop busy all the time", COLUMNS, lines))
        if not given.no_node:
            await measure_node(result, directory, given.entities, given.rate, given.seconds)
    finally:
        shutil.rmtree(directory)
    return result.finish(given.json)


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = command_line.parser("store", (__doc__ or "").partition("\n")[0])
    parser.add_argument("--entities", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each phase")
    parser.add_argument("--rate", type=int, default=50_000, help="changes/s of the node")
    parser.add_argument("--contender", nargs="*", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--no-naps", action="store_true", help="let the thread see how it gets the interpreter")
    parser.add_argument("--no-node", action="store_true", help="the contenders alone")
    parser.add_argument("--directory", type=Path, help="on the disk to be measured; by default where temporary files are")
    return command_line.run(run_all(parser.parse_args(arguments)))
