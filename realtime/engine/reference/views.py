"""Sessions and what they see: the predicates that make V(s), and the R-tree of the viewports.

Law: whether a session sees a state is decided here and only here, from the state, the view, the rights and the sample
threshold, on doubles; nothing is remembered per entity and session. The R-tree is a sieve that never loses a hit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rtree import index

from realtime.engine import Encoding, View
from realtime.engine.filters import Filter
from realtime.engine.reference.outboxes import Outbox
from realtime.engine.reference.world import State
from realtime.engine.sampling import Threshold
from realtime.geo import Box, boxes_meet

INFINITE = float("inf")
TAKEN = float("-inf")  # as `Session.queued_due`: given to the caller of take_dirty, not yet drained


class Session:
    """One viewer: the view, the rights, the outbox, and what is owed to the client."""

    __slots__ = (
        "answer_is_owed",
        "encoding",
        "flush_due",
        "is_urgent",
        "last_flush",
        "may_hold",
        "number",
        "outbox",
        "principals",
        "queued_due",
        "reset_is_owed",
        "seq",
        "shown",
        "statistics_at",
        "statistics_sent",
        "threshold",
        "total",
        "user",
        "view",
    )

    def __init__(self, number: int, principals: Iterable[str], user: str | None, encoding: Encoding) -> None:
        self.number = number
        self.user = user
        self.encoding = encoding
        self.principals = frozenset(principals) | {"public"}
        self.view = View()
        self.threshold: Threshold = None
        self.total = 0  # entities that the view matches, whatever the sample
        self.shown = 0  # those below the threshold
        self.outbox = Outbox()
        self.seq = 0  # of the last delta
        self.reset_is_owed = True  # the next delta clears the mirror; so does the first
        self.may_hold = False  # a delta went out, or a `have` was believed: the client's mirror need not be empty
        self.answer_is_owed = False  # a view was applied, or `more` was promised
        self.is_urgent = False  # a right was revoked: max_hz does not delay that
        self.last_flush = -INFINITE
        self.flush_due = -INFINITE  # when it may be flushed again
        self.queued_due = INFINITE  # when it is to be flushed, as it stands in the queue; TAKEN
        self.statistics_sent: tuple[int, int] = (-1, -1)  # (total, shown), as the client knows them
        self.statistics_at = -INFINITE

    def allows(self, state: State) -> bool:
        """Tell whether the rights allow the entity."""
        return not state.access.isdisjoint(self.principals)

    def matches(self, state: State) -> bool:
        """Tell whether the session may see the state, sampled or not."""
        return self.allows(state) and shows(self.view, state)

    def samples(self, state: State) -> bool:
        """Tell whether the sample includes the entity."""
        return self.threshold is None or state.key < self.threshold

    def sampled(self, states: list[State]) -> list[State]:
        """Return those of `states` that the sample includes."""
        return states if self.threshold is None else [state for state in states if state.key < self.threshold]

    def sees(self, state: State) -> bool:
        """Tell whether the state belongs to V(s)."""
        return self.samples(state) and self.matches(state)

    def space(self, flush_interval_s: float) -> None:
        """Set when it may be flushed again, from the last flush, the view and what is urgent."""
        period = flush_interval_s
        if self.view.max_hz and not self.is_urgent:
            period = max(period, 1 / self.view.max_hz)
        self.flush_due = self.last_flush + period


def reaches(view: View, state: State) -> bool:
    """Tell whether the view shows the place where the entity is, or names it."""
    boxes = state.geometry.boxes
    if len(boxes) == 1 and len(view.boxes) == 1:  # as nearly always
        a, b = boxes[0], view.boxes[0]
        if a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]:
            return True
        return state.id in view.ids
    return boxes_meet(boxes, view.boxes) or state.id in view.ids


def shows(view: View, state: State) -> bool:
    """Tell whether the view shows the state, whatever the rights and the sample."""
    if state.min_zoom > view.zoom or not reaches(view, state):
        return False
    return view.filter is None or view.filter.passes(state.id, state.kind or None, state.value)


def matching(session: Session, states: Iterable[State]) -> list[State]:
    """Return those of many states that the session may see, sampled or not: `Session.matches` with its questions hoisted."""
    view, principals = session.view, session.principals
    zoom, filter, ids, boxes = view.zoom, view.filter, view.ids, view.boxes
    if len(boxes) != 1:
        return [state for state in states if session.matches(state)]
    west, south, east, north = boxes[0]
    found = []
    for state in states:
        if state.min_zoom > zoom or state.access.isdisjoint(principals):
            continue
        for a in state.geometry.boxes:
            if a[0] <= east and west <= a[2] and a[1] <= north and south <= a[3]:
                break
        else:
            if state.id not in ids:
                continue
        if filter is None or filter.passes(state.id, state.kind or None, state.value):
            found.append(state)
    return found


class Matcher:
    """Asks many sessions about one change: `Session.matches` for the old and the new state, each question asked once.

    A distinct filter is evaluated once per state, and not at all for the old one where only the place has changed.
    """

    __slots__ = ("_is_moved_only", "_new", "_old", "_passed_new", "_passed_old")

    def __init__(self, old: State | None, new: State | None) -> None:
        self._old, self._new = old, new
        self._passed_old: dict[Filter, bool] = {}
        self._passed_new: dict[Filter, bool] = {}
        self._is_moved_only = (
            old is not None
            and new is not None
            and old.properties is new.properties
            and old.kind == new.kind
            and old.min_zoom == new.min_zoom
            and old.access == new.access
        )

    def match(self, session: Session) -> tuple[bool, bool]:
        """Tell whether the session matches the old state, and whether it matches the new one."""
        old, new, view = self._old, self._new, session.view
        was = old is not None and reaches(view, old)
        is_ = new is not None and (reaches(view, new) if old is None or old.geometry is not new.geometry else was)
        if is_ and new is not None:
            is_ = self._lets_through(session, new, self._passed_new)
            if was and self._is_moved_only:
                return is_, is_
        if was and old is not None:
            was = self._lets_through(session, old, self._passed_old)
        return was, is_

    def _lets_through(self, session: Session, state: State, passed: dict[Filter, bool]) -> bool:
        view = session.view
        if state.min_zoom > view.zoom or state.access.isdisjoint(session.principals):
            return False
        filter = view.filter
        if filter is None:
            return True
        answer = passed.get(filter)
        if answer is None:
            answer = passed[filter] = filter.passes(state.id, state.kind or None, state.value)
        return answer


class BoxIndex:
    """An R-tree of boxes: number -> boxes, over the `rtree` package.

    Its `delete` needs the exact box and it takes NaN only to crash later; so the boxes are kept here, and every box
    comes from `realtime.geo`, which lets none through.
    """

    def __init__(self) -> None:
        # Nodes of 16 rather than 100: a box moves eight times as fast.
        properties = index.Property(leaf_capacity=16, index_capacity=16, fill_factor=0.7)
        self._tree: Any = index.Index(properties=properties, interleaved=True)
        self._boxes: dict[int, Sequence[Box]] = {}

    def __len__(self) -> int:
        return len(self._boxes)

    def put(self, number: int, boxes: Sequence[Box]) -> None:
        """Set the boxes of a number; none takes it out."""
        before = self._boxes.get(number, ())
        if boxes == before:
            return
        for box in before:
            self._tree.delete(number, box)
        for box in boxes:
            self._tree.insert(number, box)
        if boxes:
            self._boxes[number] = boxes
        else:
            del self._boxes[number]

    def meeting(self, boxes: Iterable[Box]) -> set[int]:
        """Return the numbers with a box that touches one of `boxes`."""
        found: set[int] = set()
        for box in boxes:
            found.update(self._tree.intersection(box))
        return found

    def verify(self, expected: dict[int, Sequence[Box]]) -> None:
        """Check that the tree holds exactly `expected`."""
        assert self._boxes == {number: boxes for number, boxes in expected.items() if boxes}, "the index has other boxes"
        held = sorted(self._tree.intersection(self._tree.bounds)) if self._boxes else []
        assert held == sorted(number for number, boxes in self._boxes.items() for _ in boxes), "the tree lost a box"
