"""Broken engines: one fault each, of the kind that is easily made. tests/test_mutants.py shows that the judge finds every one.

Law: a mutant wraps one small function of the reference engine and leaves the rest as it is. It names where the function
is looked up; that it is there is asserted when the mutant is made, so that a renamed function cannot turn a mutant into
the engine itself. A fault changes what clients see, or when: an engine that is merely slow is no mutant. The native
engine is given the same ones by tests/native_mutants.py, which shares what can be said of any engine: `UPDATES`, `DELTAS`,
`REASONS`, and what is done to the seam alone. What nodes tell each other is broken in tests/node_mutants.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock
from weakref import WeakKeyDictionary

from realtime.engine import Check, Update, View
from realtime.engine.reference import ReferenceEngine, engine, world
from realtime.engine.reference.frames import encode_move, encode_patch
from realtime.engine.reference.outboxes import Entry, Outbox
from realtime.engine.reference.views import BoxIndex, Session
from realtime.engine.reference.world import Change, State, World

Function = Callable[..., Any]
PUBLIC = frozenset(("public",))

# Faults that are another update, another delta, or another reason than the right one.
UPDATES: dict[str, Callable[[Update], Update]] = {
    "ignores `access`": lambda update: update if update.access is None else update._replace(access=PUBLIC),
    "ignores `min_zoom`": lambda update: update if update.min_zoom is None else update._replace(min_zoom=0.0),
    "ignores `rank`": lambda update: update if update.rank is None else update._replace(rank=0.5),
}
DELTAS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "never says `more`": lambda members: {name: value for name, value in members.items() if name != "more"},
    "says `more` for ever": lambda members: members | {"more": True},
    "counts what is shown for `total`": lambda members: (
        members | {"total": round(members["total"] * members["sampled"]), "sampled": 1} if "total" in members else members
    ),
}
REASONS = {
    "gives a wrong reason: filtered for moved": {"moved": "filtered"},
    "gives a wrong reason: moved for view": {"view": "moved"},
    "gives a wrong reason: deleted for expired": {"expired": "deleted"},
    "gives a wrong reason: deleted for denied": {"denied": "deleted"},
}


class Mutant(NamedTuple):
    """One fault: what `owner.attribute` does is replaced by what `broken` makes of it."""

    fault: str
    owner: Any  # a class, or the module in which the function is looked up
    attribute: str
    broken: Callable[[Function], Function]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While this is open, every reference engine has the fault."""
        whole = vars(self.owner).get(self.attribute)
        assert callable(whole), f"{self.owner.__name__} has no {self.attribute}: the mutant {self.fault!r} would be no mutant"
        with mock.patch.object(self.owner, self.attribute, self.broken(whole)):
            yield


MUTANTS: list[Mutant] = []


def fault(
    text: str, owner: Any, attribute: str, mutants: list[Mutant] = MUTANTS
) -> Callable[[Callable[[Function], Function]], Callable[[Function], Function]]:
    """Enter a mutant into the list."""

    def enter(broken: Callable[[Function], Function]) -> Callable[[Function], Function]:
        mutants.append(Mutant(text, owner, attribute, broken))
        return broken

    return enter


# What is offered to whom


@fault("skips the old box", engine, "_search_boxes")
def _(whole: Function) -> Function:
    return lambda old, new: whole(old if new is None else None, new)


@fault("skips the new box", engine, "_search_boxes")
def _(whole: Function) -> Function:
    return lambda old, new: whole(old, new if old is None else None)


Afterwards = Callable[[ReferenceEngine, Outbox, str, Entry | None, State | None], None]


def _after_each_match(whole: Function, afterwards: Afterwards) -> Function:
    """Once a change has been offered, tamper with each outbox; `afterwards` gets the entry that was there before, and the old state."""

    def match(self: ReferenceEngine, old: State | None, new: State | None, now: float) -> None:
        id = (new or old).id  # type: ignore[union-attr]
        before = [(session.outbox, session.outbox.entry(id)) for session in self._sessions.values()]
        whole(self, old, new, now)
        for outbox, entry in before:
            afterwards(self, outbox, id, entry, old)

    return match


@fault("loses the held version: a later offer overwrites it", ReferenceEngine, "_match")
def _(whole: Function) -> Function:
    def afterwards(self: ReferenceEngine, outbox: Outbox, id: str, before: Entry | None, old: State | None) -> None:
        if before is not None and old is not None and id in outbox.showing:
            outbox.showing[id] = outbox.showing[id]._replace(held=old.wire)

    return _after_each_match(whole, afterwards)


def losing(is_lost: Callable[[int], bool]) -> Callable[[Function], Function]:
    """Lose the offers whose number, counted from 1 in each engine by itself, `is_lost` says; those of views are not counted."""

    def broken(whole: Function) -> Function:
        offers: WeakKeyDictionary[ReferenceEngine, int] = WeakKeyDictionary()

        def afterwards(self: ReferenceEngine, outbox: Outbox, id: str, before: Entry | None, old: State | None) -> None:
            if before is None and outbox.entry(id) is not None:
                offers[self] = offers.get(self, 0) + 1
                if is_lost(offers[self]):
                    outbox.showing.pop(id, None)
                    outbox.leaving.pop(id, None)

        return _after_each_match(whole, afterwards)

    return broken


LOSES_THE_FIRST_OFFER = Mutant("loses one offer", ReferenceEngine, "_match", losing(lambda number: number == 1))
fault("drops every 7th offer", ReferenceEngine, "_match")(losing(lambda number: number % 7 == 0))


@fault("announces what entered and left between two flushes", ReferenceEngine, "_match")
def _(whole: Function) -> Function:
    def afterwards(self: ReferenceEngine, outbox: Outbox, id: str, before: Entry | None, old: State | None) -> None:
        if before is not None and before.held == 0 and outbox.entry(id) is None:
            outbox.leaving[id] = before._replace(is_fill=False)

    return _after_each_match(whole, afterwards)


@fault("indexes only the first of an entity's or a view's boxes", BoxIndex, "put")
def _(whole: Function) -> Function:
    return lambda self, number, boxes: whole(self, number, boxes[:1])


@fault("offers nothing when rights change", ReferenceEngine, "allow")
def _(whole: Function) -> Function:
    def allow(self: ReferenceEngine, session: int, principals: Any, now: float) -> None:
        self._sessions[session].principals = frozenset(principals) | PUBLIC

    return allow


# What a session may see


def _updated(change: Callable[[Update], Update]) -> Callable[[Function], Function]:
    """Take what clients do not see from another update."""
    return lambda whole: lambda state, update: whole(state, change(update))


for text, change in UPDATES.items():
    fault(text, world, "_set_unseen")(_updated(change))


@fault("overlooks a grant that comes without another change", world, "_unchanged")
def _(whole: Function) -> Function:
    return lambda old, update: whole(old, update._replace(access=None))


def _look_at(change: Callable[[View], View]) -> Callable[[Function], Function]:
    """Take another view for the one that was sent."""
    return lambda whole: lambda self, session, view, have, now: whole(self, session, change(view), have, now)


fault("ignores `ids`", ReferenceEngine, "look")(_look_at(lambda view: view._replace(ids=frozenset())))
fault("ignores the filter", ReferenceEngine, "look")(_look_at(lambda view: view._replace(filter=None)))
fault("ignores `max_hz`", ReferenceEngine, "look")(_look_at(lambda view: view._replace(max_hz=0.0)))


@fault("never chooses a sample", engine, "must_choose")
def _(whole: Function) -> Function:
    return lambda shown, threshold, shown_max: False


@fault("keeps a stale sample when the view gets empty", engine, "must_choose")
def _(whole: Function) -> Function:
    return lambda shown, threshold, shown_max: whole(shown, None, shown_max)


# What a client holds


@fault("believes versions of `have` that it does not know", ReferenceEngine, "_believe")
def _(whole: Function) -> Function:
    return lambda self, session, id, version: version


@fault("forgets the dead among what `have` names", ReferenceEngine, "look")
def _(whole: Function) -> Function:
    def look(self: ReferenceEngine, session: int, view: View, have: Any, now: float) -> None:
        whole(self, session, view, have and {id: version for id, version in have.items() if self.get(id)}, now)

    return look


@fault("answers a refresh without a reset", ReferenceEngine, "refresh")
def _(whole: Function) -> Function:
    return lambda self, session, now: self.look(session, self._sessions[session].view, None, now)


@fault("checks the present and not what is held", ReferenceEngine, "check")
def _(whole: Function) -> Function:
    def check(self: ReferenceEngine, session: int) -> Check | None:
        one = self._sessions[session]
        pending = len(one.outbox)
        with mock.patch.object(one, "outbox", Outbox()):
            found: Check | None = whole(self, session)
        return None if found is None else found._replace(pending=pending)

    return check


# What a frame says


@fault("tells a patch from the last version, whatever is held", engine, "encode_change")
def _(whole: Function) -> Function:
    return lambda state, held, encoding: whole(state, state.known[-2] if held > 0 and len(state.known) > 1 else held, encoding)


@fault("tells a move though more than the place has changed", engine, "encode_change")
def _(whole: Function) -> Function:
    def encode_change(state: State, held: int, encoding: Any) -> tuple[str, bytes]:
        how, piece = whole(state, held, encoding)
        return ("move", encode_move(state, encoding)) if how == "patch" and state.geometry.is_point else (how, piece)

    return encode_change


@fault("tells a changed kind by a patch", World, "_alter")
def _(whole: Function) -> Function:
    def alter(self: World, old: State, update: Any, version: int) -> Change:
        change: Change = whole(self, old, update, version)
        if change.new is not None and change.new.kind != old.kind:
            change.new.since = old.since
        return change

    return alter


@fault("tells a patch across a death", engine, "encode_change")
def _(whole: Function) -> Function:
    def encode_change(state: State, held: int, encoding: Any) -> tuple[str, bytes]:
        return ("patch", encode_patch(state, held, encoding)) if 0 < held < state.since else whole(state, held, encoding)

    return encode_change


@fault("forgets removed properties", world, "_changed_properties")
def _(whole: Function) -> Function:
    def changed_properties(old: State, update: Any, version: int) -> Any:
        properties, _, dropped = whole(old, update, version)
        return properties, {}, dropped

    return changed_properties


@fault("keeps the bytes of the last version", world, "_clear_frames")
def _(whole: Function) -> Function:
    return lambda state: None if hasattr(state, "enters") else whole(state)


def _said(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Function], Function]:
    """Say something else than is so in the members of a delta."""
    return lambda whole: lambda pieces, members, encoding: whole(pieces, change(members), encoding)


for text, say in DELTAS.items():
    fault(text, engine, "encode_delta")(_said(say))


@fault("writes frames beyond the budget", ReferenceEngine, "drain")
def _(whole: Function) -> Function:
    return lambda self, session, budget, now: whole(self, session, budget + 256, now)


@fault("tells leaves last", ReferenceEngine, "_take")
def _(whole: Function) -> Function:
    def take(self: ReferenceEngine, session: Session, budget: int) -> Any:
        hidden, session.outbox.leaving = session.outbox.leaving, {}
        pieces = whole(self, session, budget)
        session.outbox.leaving = hidden
        return pieces if not pieces.is_empty() else whole(self, session, budget)

    return take


# Why something leaves


def _reason(change: dict[str, str]) -> Callable[[Function], Function]:
    """Give another reason."""

    def broken(whole: Function) -> Function:
        def reason(self: ReferenceEngine, session: Session, id: str, entry: Entry) -> str:
            right: str = whole(self, session, id, entry)
            return change.get(right, right)

        return reason

    return broken


for text, reasons in REASONS.items():
    fault(text, ReferenceEngine, "_reason")(_reason(reasons))


@fault("lets `have` ask what the rights deny", ReferenceEngine, "_reason")
def _(whole: Function) -> Function:
    return lambda self, session, id, entry: whole(self, session, id, entry._replace(held=abs(entry.held)))


# Versions, deaths and times


@fault("bumps the wire version though nothing has changed", world, "_unchanged")
def _(whole: Function) -> Function:
    def unchanged(old: State, update: Any) -> State:
        state = world._copy(whole(old, update))
        world._clear_frames(state)
        state.wire += 1
        state.known.append(state.wire)
        return state

    return unchanged


@fault("forgets the seen version in a tombstone", World, "_bury")
def _(whole: Function) -> Function:
    return lambda self, id, tombstone: whole(self, id, tombstone._replace(seen=1))


@fault("does not renew the deadline", World, "_schedule")
def _(whole: Function) -> Function:
    def schedule(self: World, state: State, now: float) -> None:
        before = getattr(state, "deadline", float("inf"))
        whole(self, state, now)
        state.deadline = min(before, state.deadline)

    return schedule


@fault("lets entities die late", ReferenceEngine, "expire")
def _(whole: Function) -> Function:
    return lambda self, now, *deaths_max: whole(self, now - 0.5, *deaths_max)


@fault("delays a revoked right by `max_hz`", Session, "space")
def _(whole: Function) -> Function:
    def space(self: Session, flush_interval_s: float) -> None:
        with mock.patch.object(self, "is_urgent", False):
            whole(self, flush_interval_s)

    return space
