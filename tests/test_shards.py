"""What a cut has done to a shard, judged from what is found in its stream."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from realtime.cluster.shards import START, Cut, Found, Shard, StreamId, judge, parse_stream_id


class Stream(NamedTuple):
    """A stream and what is written down of its trimming."""

    entries: tuple[int, ...] = ()
    last: int = 0
    trimmed: int = 0

    def add(self, id: int) -> Stream:
        return Stream((*self.entries, id), id, self.trimmed)

    def trim(self, before: int) -> Stream:
        return Stream(tuple(id for id in self.entries if id >= before), self.last, max(self.trimmed, before))

    def found(self, position: int, added: int) -> Found:
        return Found(_id(self.last), _id(self.trimmed), position in self.entries, added in self.entries)


def _id(number: int) -> StreamId:
    return StreamId(number, 0) if number else START


def written(ids: range) -> Stream:
    stream = Stream()
    for id in ids:
        stream = stream.add(id)
    return stream


def judged(stream: Stream, position: int, added: int = 0) -> Cut:
    return judge(_id(position), _id(added), stream.found(position, added))


def test_nothing_happened() -> None:
    assert judged(Stream(), 0) is Cut.NONE
    assert judged(written(range(1, 5)), 4) is Cut.NONE
    assert judged(written(range(1, 9)), 4, 4) is Cut.NONE
    assert judged(written(range(1, 9)), 4, 7) is Cut.NONE  # an entry of our own that was not read back yet


def test_trimming_is_a_gap_only_where_something_unread_may_be_gone() -> None:
    stream = written(range(1, 9))
    assert judged(stream.trim(4), 4) is Cut.NONE
    assert judged(stream.trim(5), 4) is Cut.GAP  # itself; who can say what came behind it
    assert judged(stream.trim(6), 4) is Cut.GAP
    assert judged(stream.trim(9), 8) is Cut.NONE  # empty, but read to its end
    assert judged(stream.trim(9), 4) is Cut.GAP
    assert judged(stream.trim(9), 0) is Cut.GAP
    assert judged(stream.trim(1), 0) is Cut.GAP


def test_a_stream_that_ends_before_what_was_read_or_written_has_lost_its_end() -> None:
    assert judged(Stream(), 4) is Cut.LOST
    assert judged(written(range(1, 4)), 4) is Cut.LOST
    assert judged(written(range(1, 4)), 2, 4) is Cut.LOST


def test_an_older_copy_that_was_written_to_since() -> None:
    older = written(range(1, 4))
    assert judged(older.add(9), 5) is Cut.LOST
    assert judged(older.add(9), 3, 5) is Cut.LOST
    assert judged(older.trim(4).add(9), 5) is Cut.LOST
    assert judged(Stream().add(9), 5) is Cut.LOST


def test_a_gap_is_never_taken_for_a_loss_nor_a_loss_for_nothing() -> None:
    """Every history of a few entries: kept, or restored to an earlier moment, then written to and trimmed."""
    for read, own, restored, more, trimmed in product(range(5), range(5), [None, 0, 1, 2, 3], range(3), [0, 2, 4, 5, 11]):
        before = written(range(1, 5 if restored is None else restored + 1))
        for number in range(more):
            before = before.add(10 + number)
        stream = before.trim(trimmed) if trimmed else before
        cut = judged(stream, read, own)
        knows_more = max(read, own) > (4 if restored is None else restored)
        misses = [id for id in before.entries if id > read and id not in stream.entries]
        if cut is Cut.NONE:
            assert not misses, (read, own, restored, more, trimmed)
            # Nothing that this node knows of is lost, unless it was old enough to be trimmed in the new history, too.
            assert not knows_more or own < stream.trimmed, (read, own, restored, more, trimmed)
        elif cut is Cut.GAP:
            assert stream.trimmed > read, (read, own, restored, more, trimmed)
            assert not knows_more or max(read, own) < stream.trimmed, (read, own, restored, more, trimmed)
        else:
            assert knows_more, (read, own, restored, more, trimmed)


def test_stream_ids_grow_as_numbers() -> None:
    assert parse_stream_id(b"9-10") > parse_stream_id("9-9") > parse_stream_id("8-11")
    assert str(parse_stream_id("1700000000000-3")) == "1700000000000-3"


def test_the_keys_of_a_shard_are_in_one_slot() -> None:
    shard = Shard("p", 3)
    keys = (shard.log, shard.entities, shard.applied, shard.trimmed, shard.writer)
    assert {key[key.index("{") : key.index("}") + 1] for key in keys} == {"{3}"}
