"""A slice of the world in Redis: its keys, how far this node has read its stream, and what a cut has done to it.

Law: nothing here talks to Redis; what a cut means is decided by `judge` from what was found, and nowhere else.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class StreamId(NamedTuple):
    """The id of an entry of a stream; they grow."""

    ms: int
    seq: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


START = StreamId(0, 0)  # before every entry
SEQ_MAX = 2**64 - 1


def parse_stream_id(text: bytes | str) -> StreamId:
    """Return the id that Redis writes as `ms-seq`; raise ValueError."""
    ms, _, seq = (text.decode("ascii", "replace") if isinstance(text, bytes) else text).partition("-")
    return StreamId(int(ms), int(seq or 0))


class Shard:
    """One slice: entities by a hash of their ids."""

    __slots__ = ("added", "applied", "entities", "log", "number", "position", "trimmed", "writer")

    def __init__(self, prefix: str, number: int) -> None:
        self.number = number
        tag = f"{prefix}:{{{number}}}"  # the braces keep a shard's keys in one slot of a cluster
        self.log = f"{tag}:log"
        self.entities = f"{tag}:entities"
        self.applied = f"{tag}:applied"
        self.trimmed = f"{tag}:trimmed"
        self.writer = f"{tag}:writer"
        self.position: StreamId | None = None  # of the last entry read; None: nothing was loaded yet
        self.added = START  # of the newest entry that this node has written, or has begun to read

    def note_added(self, id: StreamId) -> None:
        """Note an entry whose states this node may hold."""
        self.added = max(self.added, id)

    def forget(self) -> None:
        """Begin anew: what was read and written is in no stream any more."""
        self.position = None
        self.added = START


class Found(NamedTuple):
    """What there is of a stream."""

    last: StreamId  # the newest that there ever was
    trimmed: StreamId  # entries before this one may have been trimmed
    has_position: bool = False  # whether the entry at our position is there
    has_added: bool = False  # whether our own newest entry is there


class Cut(Enum):
    """What was lost while a node was cut off."""

    NONE = "none"  # everything is still there: read on
    GAP = "gap"  # entries were trimmed before they were read: the store has what they said
    LOST = "lost"  # what was once in the stream is not: the store knows less than this node


def judge(position: StreamId, added: StreamId, found: Found) -> Cut:
    """Tell what happened to a shard.

    A stream that ends before what we have read or written has lost its end. An entry of ours that is not there although
    nothing so late was ever trimmed belongs to a history that is no more: a replica without it took over, or an older
    copy was restored and written to since.
    """
    is_read_on = found.has_position or found.last == position
    for mine, is_there in ((position, is_read_on), (added, found.has_added or found.last == added)):
        if found.last < mine or (not is_there and mine >= found.trimmed and mine > START):
            return Cut.LOST
    return Cut.NONE if is_read_on or found.trimmed <= position else Cut.GAP
