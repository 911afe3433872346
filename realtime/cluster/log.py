"""The file of a world that is kept locally: batches of states one behind the other, each under a checksum.

Law: nothing that was written is ever changed. A file grows at its end, or a whole one takes its place by a rename; so
what a crash can spoil is the record that was being written. A file that is not ours is refused and never written to.
A file is written by whoever holds its lock, and by nobody else.

    16 bytes  `\\x89realtime-geo/1\\n`, the last digit is the format
    records   4 bytes mark, u32 length, u32 CRC-32 of length and payload (little-endian), payload

A payload that begins with `{` is JSON: the world's id in the first record, and `{"snapshot": bytes}` behind the last
record of a rewritten file, as many bytes as the world alone took. Any other is a batch, see `realtime.engine.states`.
The mark has no place in UTF-8, of which nearly all of a batch consists, so that records are found again behind damage.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Self

import msgspec

MAGIC = b"\x89realtime-geo/1\n"
MARK = b"\xff\xfe\xf5\xf8"
HEAD = struct.Struct("<4sII")
RECORD_BYTES_MAX = 64 * 1024 * 1024
TORN_BYTES_MAX = 1024 * 1024  # at the end of a file; more than one broken write leaves behind is damage
READ_BYTES = 1024 * 1024
BUFFERS_MAX = 512  # handed over in one writev; systems take 1,024
OPEN_ATTEMPTS = 10

_LENGTH = struct.Struct("<I")


class FileRefused(OSError):
    """`store.path` names what cannot be used: no file of ours, one that another server has open, no access."""


def seal(payload: bytes) -> tuple[bytes, bytes]:
    """Return a record in two buffers. Raises ValueError for what no reader would take."""
    if len(payload) > RECORD_BYTES_MAX:
        raise ValueError(f"a record of {len(payload)} bytes: at most {RECORD_BYTES_MAX} are read")
    return HEAD.pack(MARK, len(payload), _checksum(payload)), payload


def _checksum(payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_LENGTH.pack(len(payload))))


class Log:
    """One open file. All calls block; one thread at a time."""

    def __init__(self, path: str, fd: int, size_bytes: int, world: str | None) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.world = world  # None: it cannot be read
        self.is_bad = False  # an append or a sync has failed: nobody knows any more how the file ends
        self._fd = fd
        self._synced_bytes = size_bytes
        self._is_draft = False  # it is to take another one's place, and has not yet

    @classmethod
    def open(cls, path: str, world: str) -> Self:
        """Open and lock a file, or begin a new one with this world. Raises `FileRefused`."""
        try:
            fd, is_read_only = _open_locked(path)
        except FileRefused:
            raise
        except OSError as error:
            raise FileRefused(f"store.path: {path}: {error.strerror or error}") from None
        try:
            size = os.fstat(fd).st_size
            start = os.pread(fd, READ_BYTES, 0)
            if len(start) < len(MAGIC) and MAGIC.startswith(start):  # nothing was ever kept in it
                log = cls(path, fd, 0, world)
                log._begin(world)
                sync_directory(path)
                return log
            _check_format(path, start)
            with suppress(FileNotFoundError):
                os.unlink(path + ".new")  # of a rewriting that was not finished
            log = cls(path, fd, size, _world_of(start))
            log.is_bad = is_read_only
            return log
        except FileRefused:
            os.close(fd)
            raise
        except OSError as error:
            os.close(fd)
            raise FileRefused(f"store.path: {path}: {error.strerror or error}") from None
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def create(cls, path: str, world: str) -> Self:
        """Begin a file that is to take the place of another one; what stands there is thrown away."""
        with suppress(FileNotFoundError):
            os.unlink(path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            log = cls(path, fd, 0, world)
            log._is_draft = True
            log._begin(world)
        except BaseException:
            os.close(fd)
            raise
        return log

    def _begin(self, world: str) -> None:
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.append([MAGIC, *seal(msgspec.json.encode({"world": world}))])
        self.sync()

    def append(self, buffers: Sequence[bytes]) -> None:
        """Write sealed records at the end. Raises OSError; the file is bad then."""
        try:
            os.lseek(self._fd, self.size_bytes, os.SEEK_SET)
            for first in range(0, len(buffers), BUFFERS_MAX):
                self.size_bytes += _write_all(self._fd, buffers[first : first + BUFFERS_MAX])
        except BaseException:
            self.is_bad = True
            raise

    def sync(self) -> None:
        """Return once all that was appended is on the disk, and the file still where it belongs. Raises OSError as `append`."""
        if self._synced_bytes == self.size_bytes:
            return
        try:
            _sync(self._fd)
            self._synced_bytes = self.size_bytes
            if not self._is_in_place():
                raise OSError(errno.ESTALE, "it was moved away or replaced", self.path)
        except BaseException:
            # What a failed fsync did not write, the system may have forgotten: a second one that succeeds proves nothing.
            self.is_bad = True
            raise

    def read(self, place: int, count: int) -> bytes:
        """Return up to so many bytes from there; fewer at the end alone."""
        pieces = [os.pread(self._fd, count, place)]
        while pieces[-1] and (missing := count - sum(map(len, pieces))):
            pieces.append(os.pread(self._fd, missing, place + count - missing))
        return b"".join(pieces)

    def cut(self, size_bytes: int) -> None:
        """Cut off what is behind a place."""
        os.ftruncate(self._fd, size_bytes)
        self.size_bytes = self._synced_bytes = size_bytes

    def take_place_of(self, other: Log, is_kept: bool) -> None:
        """Stand where the other one stood; that one is kept beside it if it `is_kept`, and closed. Raises OSError."""
        self.sync()
        if not other._is_in_place() and os.path.lexists(other.path):
            raise OSError(errno.ESTALE, "another file is there now", other.path)
        if is_kept:
            _keep_beside(other.path)
        os.rename(self.path, other.path)
        self.path, self._is_draft = other.path, False
        with suppress(OSError):  # nobody will miss what it could not write
            other.close()
        try:
            sync_directory(self.path)
        except OSError:
            self.is_bad = True

    def discard(self) -> None:
        """Throw the file away, unless it has taken its place already, and close it."""
        if self._is_draft:
            with suppress(OSError):  # the next one that is begun throws it away
                os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Close the file, which gives up the lock."""
        os.close(self._fd)

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self.path))
        except FileNotFoundError:
            return False


class Reader:
    """Finds the records in what is read of a file: `take` gets `wanted` bytes from `place` on, fewer at the file's end."""

    def __init__(self, size_bytes: int) -> None:
        self.place = len(MAGIC)
        self.wanted = READ_BYTES
        self.broken_bytes = 0  # between good records
        self.snapshot_bytes = 0  # as many as the world alone took, if the file says so
        self._end = len(MAGIC)  # behind the last good record
        self._size = size_bytes

    @property
    def is_through(self) -> bool:
        """Whether all has been read."""
        return self.place >= self._size

    @property
    def end(self) -> int:
        """Where the last good record ends; what is behind it, once all has been read, is torn."""
        return self._end

    def take(self, data: bytes) -> Iterator[bytes]:
        """Yield the batches that are whole in `data`; what goes on behind it is wanted next."""
        if len(data) < min(self.wanted, self._size - self.place):  # the file is shorter than it was
            self._size = self.place + len(data)
        at = end = 0
        while at < len(data) and (end := self._end_of(data, at)) <= len(data):
            if end == 0:
                at = _next_mark(data, at + 1)
                continue
            payload = data[at + HEAD.size : end]
            self.broken_bytes += self.place + at - self._end
            self._end = self.place + end
            at = end
            if payload[:1] == b"{":
                self.snapshot_bytes = _meta(payload).snapshot
            else:
                yield payload
        self.wanted = max(READ_BYTES, end - at)
        self.place += at

    def _end_of(self, data: bytes, at: int) -> int:
        """Return where the record at `at` ends, which may be behind the data; 0 if there is no good one."""
        left = self._size - self.place - at - HEAD.size
        if left < 0:
            return 0
        if len(data) - at < HEAD.size:
            return at + HEAD.size
        mark, length, checksum = HEAD.unpack_from(data, at)
        if mark != MARK or length > min(left, RECORD_BYTES_MAX):
            return 0
        end = int(at + HEAD.size + length)
        is_good = end > len(data) or _checksum(data[at + HEAD.size : end]) == checksum
        return end if is_good else 0


def _next_mark(data: bytes, at: int) -> int:
    """Return where a record may begin; the last bytes of the data may be a part of its mark."""
    found = data.find(MARK, at)
    return found if found >= 0 else max(at, len(data) - len(MARK) + 1)


class Meta(msgspec.Struct):
    """What a file says of itself."""

    world: str = ""
    snapshot: int = 0


def _meta(payload: bytes) -> Meta:
    try:
        return msgspec.json.decode(payload, type=Meta)
    except msgspec.DecodeError:  # of a later version, which keeps more there
        return Meta()


def _world_of(start: bytes) -> str | None:
    """Return the world that a file's first record names; None if that is broken."""
    reader = Reader(len(start))
    head = start[len(MAGIC) :]
    end = reader._end_of(head, 0)
    return (_meta(head[HEAD.size : end]).world or None) if 0 < end <= len(head) else None


def _check_format(path: str, start: bytes) -> None:
    if start.startswith(MAGIC):
        return
    if start.startswith(MAGIC[:-2]):
        raise FileRefused(f"store.path: {path}: of another version of this program, which keeps its world in another form")
    raise FileRefused(f"store.path: {path}: a file of something else; name another one, or move it away")


def _open_locked(path: str) -> tuple[int, bool]:
    """Return the file, locked, and whether it can only be read; begin an empty one where there is none. Raises OSError."""
    for _ in range(OPEN_ATTEMPTS):
        is_read_only = False
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            is_read_only = True
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FileRefused(f"store.path: {path}: not a regular file")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder may have put another file there between the two calls, and then left.
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd, is_read_only
            os.close(fd)
        except BlockingIOError:
            os.close(fd)
            raise FileRefused(f"store.path: {path}: another server has it open") from None
        except FileNotFoundError:
            os.close(fd)
        except BaseException:
            os.close(fd)
            raise
    raise FileRefused(f"store.path: {path}: it is replaced again and again")


def _write_all(fd: int, buffers: Sequence[bytes]) -> int:
    """Write all buffers; return how many bytes that were."""
    size = sum(map(len, buffers))
    written = os.writev(fd, buffers)
    if written < size:  # a nearly full disk takes a part, and then says why not the rest
        rest = memoryview(b"".join(buffers))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]
    return size


def _sync(fd: int) -> None:
    """Have all data of a file on the disk."""
    (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(fd)


def sync_directory(path: str) -> None:
    """Have the name of a file on the disk."""
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _keep_beside(path: str) -> None:
    """Give a file a second name, `path.broken`, or one with a number where that is taken."""
    number = 1
    name = f"{path}.broken"
    while os.path.lexists(name):
        number += 1
        name = f"{path}.broken-{number}"
    try:
        os.link(path, name)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        shutil.copyfile(path, name)
