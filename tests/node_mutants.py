"""Engines that are broken in what they tell other nodes and stores, and in what they make of what those tell.

Law: as in tests/mutants.py. What finds these is what a reader of feeds could see, or a session; the games are those of
tests/nodes_machine.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from realtime.engine import Merged, Verdict
from realtime.engine.reference import ReferenceEngine, world
from realtime.engine.reference.feeds import Feeds
from realtime.engine.reference.world import State, Tombstone
from tests.mutants import Function, Mutant, fault

Members = list[Any]  # of a state, as realtime/engine/states.py names them: 12 of the living, 6 of the dead


def _at(place: int, value: Any, *sizes: int) -> Callable[[Members], Members]:
    """Say another value at a place of the states that have so many members."""
    return lambda members: [*members[:place], value, *members[place + 1 :]] if len(members) in sizes else members


# Faults that take in other states than were told, or tell others than are.
HEARD: dict[str, Callable[[Members], Members]] = {
    "lets older states win": lambda members: members if len(members) == 1 else [members[0], members[1] + 5, *members[2:]],
    "ignores the `access` of what it is told": lambda members: _at(9, ["public"], 12)(_at(5, ["public"], 6)(members)),
    "ignores the deadline of what it is told": _at(5, 0.0, 12),
    "forgets that publishers count the versions of what it is told": _at(2, False, 6, 12),
}
TOLD: dict[str, Callable[[Members], list[Members]]] = {
    "does not tell of the dead": lambda members: [] if len(members) == 6 else [members],
    "tells of the dead twice": lambda members: [members] * (2 if len(members) == 6 else 1),
    "tells that what expired was deleted": lambda members: [_at(4, False, 6)(members)],
    "tells the seen version for the wire version": lambda members: [_at(3, members[1], 12)(members)] if len(members) > 1 else [members],
}

NODE_MUTANTS: list[Mutant] = []
node_fault = partial(fault, mutants=NODE_MUTANTS)


def _heard(change: Callable[[Members], Members]) -> Callable[[Function], Function]:
    """Take in other states than were told."""

    def broken(whole: Function) -> Function:
        def merge(self: Any, batch: bytes, now: float, feed: int = 0) -> Merged:
            with suppress(msgspec.DecodeError, TypeError, IndexError):  # what is broken stays as it is
                batch = batch_of(*map(change, msgspec.msgpack.decode(batch, type=list[list[Any]])))
            merged: Merged = whole(self, batch, now, feed)
            return merged

        return merge

    return broken


def _tells(change: Callable[[Members], list[Members]]) -> Callable[[Function], Function]:
    """Tell other states than are."""

    def changed(batch: bytes) -> bytes:
        told = [other for members in msgspec.msgpack.decode(batch) for other in change(members)] if batch else []
        return batch_of(*told) if told else b""

    return lambda whole: lambda self, feed, shards, bytes_max: [changed(batch) for batch in whole(self, feed, shards, bytes_max)]


def batch_of(*states: Members) -> bytes:
    """Return the batch of states that are given by their members."""
    return b"\xdd" + len(states).to_bytes(4, "big") + b"".join(map(msgspec.msgpack.encode, states))


for text, hear in HEARD.items():
    node_fault(text, ReferenceEngine, "merge")(_heard(hear))
for text, tell in TOLD.items():
    node_fault(text, ReferenceEngine, "take_feed")(_tells(tell))


@node_fault("tells first what was offered last", ReferenceEngine, "take_feed")
def _(whole: Function) -> Function:
    def turned(batch: bytes) -> bytes:
        return batch_of(*reversed(msgspec.msgpack.decode(batch))) if batch else b""

    return lambda self, feed, shards, bytes_max: list(map(turned, whole(self, feed, shards, bytes_max)))


@node_fault("tells shards what belongs to others", ReferenceEngine, "take_feed")
def _(whole: Function) -> Function:
    return lambda self, feed, shards, bytes_max: whole(self, feed, shards, bytes_max)[::-1]


@node_fault("tells more than was asked for", ReferenceEngine, "take_feed")
def _(whole: Function) -> Function:
    return lambda self, feed, shards, bytes_max: whole(self, feed, shards, bytes_max * 2)


@node_fault("forgets at the end of a reload what was named", ReferenceEngine, "end_reload")
def _(whole: Function) -> Function:
    def end_reload(self: Any, now: float, entities_max: int) -> bool:
        self.begin_reload()
        is_over: bool = whole(self, now, entities_max)
        return is_over

    return end_reload


@node_fault("never ends a reload", ReferenceEngine, "end_reload")
def _(whole: Function) -> Function:
    return lambda self, now, entities_max: True


@node_fault("loses what it has not told yet when everything is offered", ReferenceEngine, "offer_all")
def _(whole: Function) -> Function:
    def offer_all(self: Any, feed: int) -> None:
        self.take_feed(feed, 1, 1)
        whole(self, feed)

    return offer_all


@node_fault("takes over a wire version that is below its own", world, "_next_wire")
def _(whole: Function) -> Function:
    return lambda told, known: told.wire if isinstance(known, State) else whole(told, known)


@node_fault("lets the dead come back in a version from before their death", world, "_next_wire")
def _(whole: Function) -> Function:
    return lambda told, known: told.wire if isinstance(known, Tombstone) else whole(told, known)


@node_fault("does not tell of unchanged updates", ReferenceEngine, "apply")
def _(whole: Function) -> Function:
    def apply(self: ReferenceEngine, batch: Any, now: float) -> list[Verdict]:
        verdicts = []
        for update in batch:
            owed = [feed for feed, names in self._feeds._names.items() if update.id in names]
            verdicts += whole(self, [update], now)
            if verdicts[-1] is Verdict.UNCHANGED:
                for feed, names in self._feeds._names.items():
                    if feed not in owed:
                        names.pop(update.id, None)
        return verdicts

    return apply


@node_fault("lets a reload kill what has not been told yet", Feeds, "is_local")
def _(whole: Function) -> Function:
    return lambda self, id: False


@node_fault("forgets the dead of whom others have not been told", Feeds, "is_owed")
def _(whole: Function) -> Function:
    return lambda self, id: False


@node_fault("does not hand on what it was told", Feeds, "offer_merged")
def _(whole: Function) -> Function:
    return lambda self, id: None
