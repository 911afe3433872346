"""The file's format: whatever a crash or a disk does to it, what is read was written, and what is not ours is left alone."""

from __future__ import annotations

import os
import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from realtime.cluster import log as module
from realtime.cluster.log import HEAD, MAGIC, MARK, FileRefused, Log, Reader, seal
from tests.conftest import missing

WORLD = "0123456789abcdef"
BATCHES = [b"\xdd first", b"\xdd second, " + MARK + b" within", b"\xdd third"]


def batches_of(log: Log) -> tuple[list[bytes], Reader]:
    """Read a file to its end."""
    reader = Reader(log.size_bytes)
    found: list[bytes] = []
    while not reader.is_through:
        found += reader.take(log.read(reader.place, reader.wanted))
    return found, reader


def read(path: Path) -> tuple[list[bytes], Reader, str | None]:
    log = Log.open(str(path), "another")
    try:
        return *batches_of(log), log.world
    finally:
        log.close()


def make(path: Path, batches: list[bytes]) -> list[int]:
    """Write a file; return where each batch ends, the beginning of the first one first."""
    log = Log.open(str(path), WORLD)
    ends = [log.size_bytes]
    for batch in batches:
        log.append(seal(batch))
        ends.append(log.size_bytes)
    log.sync()
    log.close()
    return ends


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "world"


def test_what_was_written_is_read_and_more_can_be_appended(path: Path) -> None:
    end = make(path, BATCHES)[-1]
    found, reader, world = read(path)
    assert (found, reader.end, reader.broken_bytes, world) == (BATCHES, end, 0, WORLD)
    make(path, [b"\xdd fourth"])
    assert read(path)[0] == [*BATCHES, b"\xdd fourth"]
    assert path.stat().st_mode & 0o777 == 0o600


# Damage


def test_a_last_record_that_is_torn_at_any_byte_is_known_as_that(path: Path) -> None:
    ends = make(path, BATCHES)
    whole = path.read_bytes()
    for size in range(ends[-2], ends[-1]):
        path.write_bytes(whole[:size])
        found, reader, world = read(path)
        assert (found, reader.end, reader.broken_bytes, world) == (BATCHES[:-1], ends[-2], 0, WORLD)
        # As a file system may leave it: the size is right, and what was to be there is not.
        path.write_bytes(whole[:size] + bytes(ends[-1] - size))
        found, reader, _ = read(path)
        assert (found, reader.end, reader.broken_bytes) == (BATCHES[:-1], ends[-2], 0)


def test_any_bit_that_flips_costs_its_record_and_no_other(path: Path) -> None:
    ends = make(path, BATCHES)
    whole = path.read_bytes()
    for place in range(len(MAGIC), len(whole)):
        for bit in range(8):
            broken = bytearray(whole)
            broken[place] ^= 1 << bit
            path.write_bytes(broken)
            found, reader, world = read(path)
            hit = sum(place >= end for end in ends)  # 0: the record with the world
            assert found == [batch for number, batch in enumerate(BATCHES, 1) if number != hit]
            assert world == (WORLD if hit else None)
            is_last = hit == len(BATCHES)
            assert (reader.broken_bytes > 0, reader.end < len(whole)) == (not is_last, is_last)


@given(
    batches=some.lists(some.binary(max_size=60).map(lambda tail: b"\xdd" + tail), max_size=8),
    damage=some.lists(
        some.tuples(some.integers(len(MAGIC), 700), some.sampled_from([b"\0", b"\xff", MARK, HEAD.pack(MARK, 20, 7)])), max_size=3
    ),
    read_bytes=some.integers(1, 90),
)
def test_whatever_is_overwritten_only_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, batches: list[bytes], damage: list[tuple[int, bytes]], read_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "world"
    ends = make(path, batches)
    data = bytearray(path.read_bytes())
    hit = set()
    for place, junk in damage:
        junk = junk[: max(0, len(data) - place)]
        data[place : place + len(junk)] = junk
        hit |= {sum(byte >= end for end in ends) for byte in range(place, place + len(junk))}
    path.write_bytes(data)
    log = Log.open(str(path), WORLD)
    reader = Reader(log.size_bytes)
    reader.wanted = read_bytes
    found: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "READ_BYTES", read_bytes)
        while not reader.is_through:
            found += reader.take(log.read(reader.place, reader.wanted))
    log.close()
    spared = [batch for number, batch in enumerate(batches, 1) if number not in hit]
    rest = iter(found)
    assert all(batch in rest for batch in spared), "what was not hit is read, in order"
    assert len(found) <= len(batches)
    assert all(batch in batches for batch in found), "and nothing that was never written"


def test_a_record_longer_than_a_read_and_a_hole_larger_than_one(path: Path) -> None:
    long = b"\xdd" + random.Random(5).randbytes(3 * module.READ_BYTES)
    ends = make(path, [b"\xdd1", long, b"\xdd2", long, b"\xdd3"])
    assert read(path)[0] == [b"\xdd1", long, b"\xdd2", long, b"\xdd3"]
    data = bytearray(path.read_bytes())
    data[ends[1] + 1000] ^= 1
    data[ends[3] : ends[4]] = bytes(ends[4] - ends[3])
    path.write_bytes(data)
    found, reader, _ = read(path)
    assert found == [b"\xdd1", b"\xdd2", b"\xdd3"]
    assert reader.broken_bytes == 2 * (len(long) + HEAD.size)


def test_a_file_that_shrinks_while_it_is_read_has_an_end(path: Path) -> None:
    ends = make(path, BATCHES)
    log = Log.open(str(path), WORLD)
    os.truncate(path, ends[1])
    assert batches_of(log)[0] == BATCHES[:1]
    log.close()


def test_what_no_reader_would_take_is_not_written() -> None:
    with pytest.raises(ValueError, match="at most"):
        seal(bytes(module.RECORD_BYTES_MAX + 1))


# What is not ours


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[server]\nport = 1\n", "a file of something else"),
        (b"SQLite format 3\0" + bytes(100), "a file of something else"),
        (b"x", "a file of something else"),
        (MAGIC.replace(b"1", b"2") + b"whatever", "another version"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(path: Path, content: bytes, why: str) -> None:
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(FileRefused, match=f"^store.path: {path}: .*{why}"):
            Log.open(str(path), WORLD)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


def test_what_is_no_file_is_refused(path: Path) -> None:
    os.mkfifo(path)
    names = {path: "not a regular file", path.parent: "directory", path / "x": "directory", path.parent / "none" / "x": "No such"}
    for name, why in {**names, Path("/dev/null"): "not a regular file"}.items():
        with pytest.raises(FileRefused, match=why):
            Log.open(str(name), WORLD)


@pytest.mark.parametrize("size", range(len(MAGIC)))
def test_a_file_that_was_not_even_begun_is_begun(path: Path, size: int) -> None:
    path.write_bytes(MAGIC[:size])
    make(path, BATCHES)
    assert read(path)[::2] == (BATCHES, WORLD)


# Who may write


def test_a_file_has_one_holder_also_after_it_was_replaced(path: Path) -> None:
    held = Log.open(str(path), WORLD)
    with pytest.raises(FileRefused, match="another server has it open"):
        Log.open(str(path), WORLD)
    new = Log.create(f"{path}.new", WORLD)
    new.append(seal(b"\xdd new"))
    new.take_place_of(held, is_kept=False)
    with pytest.raises(FileRefused, match="another server has it open"):
        Log.open(str(path), WORLD)
    new.close()
    assert read(path)[0] == [b"\xdd new"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_the_lock_is_that_of_the_file_that_has_the_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that opened the old file just before it was replaced must not hold a lock that means nothing."""
    make(path, [b"\xdd old"])
    flock = module.fcntl.flock

    def replaced_meanwhile(fd: int, how: int) -> None:
        monkeypatch.setattr(module.fcntl, "flock", flock)
        os.rename(path, f"{path}.old")
        make(path, [b"\xdd new"])
        flock(fd, how)

    monkeypatch.setattr(module.fcntl, "flock", replaced_meanwhile)
    assert read(path)[0] == [b"\xdd new"]


def test_what_an_unfinished_replacement_left_behind_is_thrown_away(path: Path) -> None:
    make(path, BATCHES)
    (path.parent / "world.new").write_bytes(b"half of it")
    assert read(path)[0] == BATCHES
    assert os.listdir(path.parent) == [path.name]


def test_a_damaged_file_is_kept_beside_the_one_that_replaces_it(path: Path) -> None:
    for number, name in enumerate(("world.broken", "world.broken-2"), 1):
        make(path, BATCHES)
        before = path.read_bytes()
        old, new = Log.open(str(path), WORLD), Log.create(f"{path}.new", "other")
        new.take_place_of(old, is_kept=True)
        new.close()
        assert (path.parent / name).read_bytes() == before
        assert len(os.listdir(path.parent)) == 1 + number
        assert read(path)[2] == "other"


def test_discarding_never_throws_away_what_has_its_place(path: Path) -> None:
    old, new = Log.open(str(path), WORLD), Log.create(f"{path}.new", WORLD)
    new.take_place_of(old, is_kept=False)
    new.discard()
    assert read(path)[2] == WORLD


def test_another_file_in_its_place_is_noticed_and_not_replaced(path: Path) -> None:
    old, new = Log.open(str(path), WORLD), Log.create(f"{path}.new", WORLD)
    os.unlink(path)
    path.write_bytes(b"somebody else's")
    old.append(seal(b"\xdd"))
    with pytest.raises(OSError, match="moved away or replaced"):
        old.sync()
    assert old.is_bad
    with pytest.raises(OSError, match="another file"):
        new.take_place_of(old, is_kept=False)
    assert path.read_bytes() == b"somebody else's"
    new.discard()
    old.close()


# A disk that has no more room


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size."""
    if not hasattr(signal, "SIGXFSZ"):
        missing("RLIMIT_FSIZE", "a system that has it")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_written_before_the_disk_was_full_is_there(path: Path) -> None:
    log = Log.open(str(path), WORLD)
    batches = [b"\xdd" + bytes((number,)) * 3000 for number in range(100)]
    with file_size_limit(150_000), pytest.raises(OSError, match="too large"):
        log.append([part for batch in batches for part in seal(batch)])
    assert log.is_bad
    log.close()
    found, reader, world = read(path)
    assert found == batches[: len(found)]
    assert len(found) == 150_000 // (3001 + HEAD.size)
    assert path.stat().st_size == 150_000
    assert (reader.broken_bytes, world) == (0, WORLD)
