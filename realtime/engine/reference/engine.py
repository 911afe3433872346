"""The reference engine: world, views and outboxes put together.

Two paths and no third. A change of the world: `_match` offers the entity to the sessions that could see the old state
or can see the new one. A change of what a session may see (view, rights, sample, refresh, resume): `_turn` offers the
entities on which before and after differ. Both fill the outbox; `drain` empties it into a frame.

Law: between any two calls every entity that is not in a session's outbox is held by its client exactly as V(s) has it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

from realtime.counters import Histogram
from realtime.engine import Check, Encoding, FeedKind, Merged, Settings, Update, Verdict, View
from realtime.engine.digest import digest_of, format_digest
from realtime.engine.filters import Filter
from realtime.engine.reference.feeds import Feeds, Reload
from realtime.engine.reference.frames import Pieces, encode_change, encode_delta, encode_feature, encode_id
from realtime.engine.reference.outboxes import Entry
from realtime.engine.reference.views import INFINITE, TAKEN, BoxIndex, Matcher, Session, matching, reaches, shows
from realtime.engine.reference.world import State, Tombstone, World
from realtime.engine.sampling import choose, must_choose
from realtime.engine.states import parts_of, read
from realtime.geo import Box, boxes_meet
from realtime.values import NODE_NUMBERS

STATISTICS_INTERVAL_S = 1.0  # `total` and `sampled` are told again at most this often
FRAME_HEAD_BYTES = 256  # what the members of a delta other than its entities and the view's id take, at most
NEAR_DEGREES = 0.5  # an entity that moved less is searched for once, with a box around old and new


class ReferenceEngine:
    """See `realtime.engine.Engine` for the calls."""

    def __init__(self, settings: Settings, node_number: int = 0) -> None:
        self._settings = settings
        self._feeds = Feeds()
        self._reload: Reload | None = None
        self._world = World(settings, node_number, self._feeds.is_owed)
        self._places = BoxIndex()  # entity numbers -> boxes
        self._numbers: dict[str, int] = {}  # entity id -> number in the index
        self._ids: dict[int, str] = {}
        self._last_number = 0
        self._viewports = BoxIndex()  # session numbers -> boxes
        self._followers: dict[str, set[int]] = {}  # entity id -> the sessions whose view names it
        self._sessions: dict[int, Session] = {}
        self._last_session = 0
        self._queue: list[tuple[float, int]] = []  # a heap of (due, session)
        self.flush_lag = Histogram()
        self._pairs = 0  # (change, session) pairs matched, ever

    # Changes of the world

    def apply(self, batch: Sequence[Update], now: float) -> list[Verdict]:
        verdicts = []
        for update in batch:
            verdict, old, new = self._world.apply(update, now)
            if verdict <= Verdict.UNCHANGED:
                if old is not new:
                    self._match(old, new, now)
                self._feeds.offer_applied(update.id)
                self._name(update.id)
            verdicts.append(verdict)
        return verdicts

    def expire(self, now: float, deaths_max: int = sys.maxsize) -> list[str]:
        dead = []
        for state in self._world.expire(now, deaths_max):
            self._match(state, None, now)
            dead.append(state.id)
        return dead

    def next_expiry(self) -> float | None:
        return self._world.next_expiry()

    def _match(self, old: State | None, new: State | None, now: float) -> None:
        """Offer the entity to the sessions that could see `old` or can see `new`, and keep their counts."""
        state = new or old
        assert state is not None
        id = state.id
        if new is None:
            number = self._numbers.pop(id)
            del self._ids[number]
            self._places.put(number, ())
        elif old is None or old.geometry is not new.geometry:
            self._places.put(self._number(id), new.geometry.boxes)
        candidates = self._viewports.meeting(_search_boxes(old, new))
        followers = self._followers.get(id)
        if followers:
            candidates |= followers
        self._pairs += len(candidates)
        match = Matcher(old, new).match
        entry = Entry(old.wire if old else 0, now, False)  # of all who saw the old state and have none yet
        is_visible = new is not None and new.wire != entry.held
        for number in candidates:
            session = self._sessions[number]
            was, is_ = match(session)
            if was != is_ or session.threshold is not None:
                was, is_ = self._count(session, old, new, was, is_)
            outbox = session.outbox
            if was != is_:
                outbox.offer(id, entry.held if was else 0, is_, new.wire if new else 0, now)
            elif not is_ or not is_visible or id in outbox.showing:
                continue
            else:
                outbox.showing[id] = entry
            if session.flush_due < session.queued_due:
                self._queue_for(session, session.flush_due)
            if must_choose(session.shown, session.threshold, self._settings.entities_per_view):
                self._turn(session, now)  # at once, and not when it is drained: a stalled session's outbox is bounded, too
        if old is not None and new is not None and old.access != new.access:
            for session in self._sessions.values():  # also those that only have its leave still to send
                if session.allows(old) and not session.allows(new):
                    self._hurry(session, id, session.matches(old))

    def _count(self, session: Session, old: State | None, new: State | None, was: bool, is_: bool) -> tuple[bool, bool]:
        """Keep the session's counts after a change that it matched before (`was`) or matches now; return whether it saw or sees it."""
        total = is_ - was
        saw = was and old is not None and session.samples(old)
        sees = is_ and new is not None and session.samples(new)
        session.total += total
        session.shown += sees - saw
        if total:
            self._owe_statistics(session)
        return saw, sees

    def _hurry(self, session: Session, id: str, was_shown: bool) -> None:
        """See to it that a revoked right is told without regard to `max_hz`, if the client may hold what it was about.

        While a reset is on its way the outbox does not say; then whether the view showed it decides.

        What it only claims to hold is none of its business, and neither is when that changes.
        """
        entry = session.outbox.leaving.get(id)
        may_hold = (was_shown and session.reset_is_owed and session.may_hold) or (entry is not None and entry.held > 0)
        if may_hold and not session.is_urgent:
            session.is_urgent = True
            self._wake(session)

    def _number(self, id: str) -> int:
        number = self._numbers.get(id)
        if number is None:
            self._last_number = number = self._last_number + 1
            self._numbers[id] = number
            self._ids[number] = id
        return number

    # Other nodes and stores

    def renumber(self, node_number: int) -> None:
        if not 0 <= node_number < NODE_NUMBERS:
            raise ValueError(f"node number: 0 to {NODE_NUMBERS - 1} is expected")
        self._world.node_number = node_number

    def open_feed(self, kind: FeedKind) -> int:
        return self._feeds.open(kind)

    def close_feed(self, feed: int) -> None:
        self._feeds.close(feed)

    def offer_all(self, feed: int) -> None:
        self._feeds.offer(feed, self._world.entities)
        self._feeds.offer(feed, self._world.tombstones)

    def feed_size(self, feed: int) -> int:
        return self._feeds.size(feed)

    def take_feed(self, feed: int, shards: int, bytes_max: int) -> list[bytes]:
        return self._feeds.take(feed, shards, bytes_max, self._world.tell)

    def merge(self, batch: bytes, now: float, feed: int = 0) -> Merged:
        if feed:
            self._feeds.size(feed)  # that it is open, before anything is changed
        parts, is_whole = parts_of(batch)
        counts = {Verdict.ACCEPTED: 0, Verdict.UNCHANGED: 0, Verdict.STALE: 0}
        for part in parts:
            try:
                told = read(part, self._settings)
            except ValueError:
                continue  # counted by what is missing in the end
            verdict, old, new = self._world.merge(told, now)
            counts[verdict] += 1
            if verdict <= Verdict.UNCHANGED:
                if old is not new:
                    self._match(old, new, now)
                self._feeds.offer_merged(told.id)
            if feed:
                self._feeds.offer(feed, (told.id,))
            self._name(told.id)
        accepted, unchanged, stale = counts.values()
        return Merged(accepted, unchanged, stale, len(parts) - accepted - unchanged - stale + (not is_whole))

    def begin_reload(self) -> None:
        self._reload = Reload()

    def end_reload(self, now: float, entities_max: int) -> bool:
        if self._reload is None:
            return True
        for id in self._reload.take(self._world.entities, entities_max):
            state = self._world.entities.get(id)
            if state is not None and not self._feeds.is_local(id):
                self._world.let_die(state, now)
                self._match(state, None, now)
                self._feeds.offer_merged(id)
        if not self._reload.is_over():
            return False
        self._reload = None
        return True

    def _name(self, id: str) -> None:
        if self._reload is not None:
            self._reload.named.add(id)

    # Changes of what a session may see

    def open(self, principals: Iterable[str], user: str | None, encoding: Encoding) -> int:
        self._last_session += 1
        self._sessions[self._last_session] = Session(self._last_session, principals, user, encoding)
        return self._last_session

    def look(self, session: int, view: View, have: Mapping[str, int] | None, now: float) -> None:
        self._turn(self._sessions[session], now, view=view, have=have)

    def allow(self, session: int, principals: Iterable[str], now: float) -> None:
        self._turn(self._sessions[session], now, principals=frozenset(principals) | {"public"})

    def refresh(self, session: int, now: float) -> None:
        self._turn(self._sessions[session], now, is_reset=True)

    def close(self, session: int) -> None:
        self._show(self._sessions.pop(session), View())

    def _turn(
        self,
        session: Session,
        now: float,
        *,
        view: View | None = None,
        principals: frozenset[str] | None = None,
        have: Mapping[str, int] | None = None,
        is_reset: bool = False,
    ) -> None:
        """Change what the session may see, and offer everything on which before and after differ."""
        held = {} if is_reset or session.reset_is_owed else self._held(session)
        if principals is not None:
            session.principals = principals
        if view is not None:
            self._show(session, view)
        if have is not None:
            session.reset_is_owed, session.may_hold = False, True
            held = {id: self._believe(session, id, version) for id, version in have.items()}
        session.reset_is_owed = session.reset_is_owed or is_reset
        matched = matching(session, self._around(session.view))
        session.total = len(matched)
        seen = session.sampled(matched)
        if must_choose(len(seen), session.threshold, self._settings.entities_per_view):
            session.threshold = choose((state.key for state in matched), len(matched), self._settings.entities_per_view)
            seen = session.sampled(matched)
        session.shown = len(seen)
        session.outbox.refill(held, {state.id: state.wire for state in seen}, now)
        session.answer_is_owed = True
        if principals is not None:
            session.is_urgent = session.is_urgent or (session.reset_is_owed and session.may_hold)
            for id in session.outbox.leaving:
                state = self._world.entities.get(id)
                if state is not None and not session.allows(state):
                    self._hurry(session, id, False)
        self._wake(session)

    def _show(self, session: Session, view: View) -> None:
        """Set the session's view where changes are matched with it."""
        for id in session.view.ids - view.ids:
            followers = self._followers[id]
            followers.discard(session.number)
            if not followers:
                del self._followers[id]
        for id in view.ids:
            self._followers.setdefault(id, set()).add(session.number)
        session.view = view
        self._viewports.put(session.number, view.boxes)

    def _held(self, session: Session) -> dict[str, int]:
        """Return what the session's client holds: {id: version}, computed from the world and the outbox."""
        held = {state.id: state.wire for state in session.sampled(matching(session, self._around(session.view)))}
        for entries in (session.outbox.leaving, session.outbox.showing):
            for id, entry in entries.items():
                held[id] = entry.held
        return held

    def _believe(self, session: Session, id: str, version: int) -> int:
        """Return a version of `have` as an outbox holds it: negative if its content is not known here."""
        state = self._world.entities.get(id)
        is_known = state is not None and version in state.known and session.allows(state)
        return version if is_known else -version

    def _around(self, view: View) -> Iterable[State]:
        """Return the entities whose box may meet the view's, and those that it names."""
        entities = self._world.entities
        numbers = self._places.meeting(view.boxes)
        numbers.update(self._numbers[id] for id in view.ids & entities.keys())
        return [entities[self._ids[number]] for number in sorted(numbers)]

    # Flushing

    def _wake(self, session: Session) -> None:
        """Put the session into the queue for its next flush."""
        session.space(self._settings.flush_interval_s)
        self._queue_for(session, session.flush_due)

    def _owe_statistics(self, session: Session) -> None:
        """Tell the counts again when it is time, if by then they are not those that the client knows."""
        if session.statistics_sent != (session.total, session.shown) and session.seq:
            self._queue_for(session, max(session.flush_due, session.statistics_at + STATISTICS_INTERVAL_S))

    def _queue_for(self, session: Session, due: float) -> None:
        if due < session.queued_due:
            session.queued_due = due
            heappush(self._queue, (due, session.number))

    def take_dirty(self, now: float) -> list[int]:
        taken = []
        while self._queue and self._queue[0][0] <= now:
            due, number = heappop(self._queue)
            session = self._sessions.get(number)
            if session is not None and session.queued_due == due:
                session.queued_due = TAKEN
                taken.append(number)
        return taken

    def next_due(self) -> float | None:
        while self._queue:
            due, number = self._queue[0]
            session = self._sessions.get(number)
            if session is not None and session.queued_due == due:
                return due
            heappop(self._queue)
        return None

    def drain(self, session: int, budget: int, now: float) -> bytes | None:
        return self._drain(self._sessions[session], budget, now)

    def _drain(self, session: Session, budget: int, now: float) -> bytes | None:
        session.queued_due = INFINITE
        outbox = session.outbox
        head_bytes = FRAME_HEAD_BYTES + len(encode_id(str(session.view.id), session.encoding))
        pieces = self._take(session, budget - head_bytes)
        members: dict[str, Any] = {}
        more = outbox.fills > 0
        sent = (session.total, session.shown)
        is_fill_over = session.answer_is_owed and not more
        if session.reset_is_owed:
            members["reset"] = True
        if more:
            members["more"] = True
        elif is_fill_over or (sent != session.statistics_sent and now >= session.statistics_at + STATISTICS_INTERVAL_S):
            members["total"] = session.total
            members["sampled"] = session.shown / session.total if session.total else 1
            session.statistics_sent, session.statistics_at = sent, now
        frame = None
        if members or session.answer_is_owed or not pieces.is_empty():
            session.seq += 1
            if not pieces.is_empty():
                members["lag_ms"] = round((now - pieces.oldest) * 1000, 1)
                self.flush_lag.observe(now - pieces.oldest)
            head: dict[str, Any] = {"seq": session.seq}
            if session.view.id is not None:
                head["view"] = session.view.id
            frame = encode_delta(pieces, head | members, session.encoding)
            session.last_flush = now
            session.may_hold = True
            session.reset_is_owed, session.answer_is_owed = False, more
        session.is_urgent = session.is_urgent and bool(outbox.leaving)
        session.space(self._settings.flush_interval_s)
        if len(outbox) or session.answer_is_owed:
            self._queue_for(session, session.flush_due)
        elif session.seq:
            self._owe_statistics(session)
        return frame

    def _take(self, session: Session, budget: int) -> Pieces:
        """Take entries out of the outbox, leaves first, until the budget is used; at least one."""
        pieces = Pieces()
        outbox, encoding = session.outbox, session.encoding
        taken: list[str] = []
        for id, entry in outbox.leaving.items():
            piece = encode_id(id, encoding)
            if pieces.size + len(piece) > budget and taken:
                break
            pieces.add(pieces.leaves.setdefault(self._reason(session, id, entry), []), piece, entry.since)
            taken.append(id)
        outbox.take_leaving(taken)
        if outbox.leaving:
            return pieces
        taken = []
        entities, arrays, principals = self._world.entities, pieces.arrays, session.principals
        for id, entry in outbox.showing.items():
            state = entities[id]
            assert not state.access.isdisjoint(principals), "an entity that the session may not see is about to be sent"
            how, piece = encode_change(state, entry.held, encoding)
            if pieces.size + len(piece) > budget and not pieces.is_empty():
                break
            pieces.add(arrays[how], piece, entry.since)
            taken.append(id)
        outbox.take_showing(taken)
        return pieces

    def _reason(self, session: Session, id: str, entry: Entry) -> str:
        """Return why the session does not see an entity that its client holds."""
        state = self._world.entities.get(id)
        if state is None:
            tombstone: Tombstone | None = self._world.tombstones.get(id)
            may_know = tombstone is not None and (entry.held > 0 or not tombstone.access.isdisjoint(session.principals))
            return "expired" if tombstone is not None and may_know and tombstone.is_expired else "deleted"
        if not session.allows(state):
            return "denied" if entry.held > 0 else "deleted"
        if abs(entry.held) == state.wire:
            return "view"
        return "filtered" if reaches(session.view, state) else "moved"

    # Looking without a session's part

    def check(self, session: int) -> Check | None:
        one = self._sessions[session]
        if one.reset_is_owed and one.may_hold:
            return None
        count = digest = 0
        for state in one.sampled(matching(one, self._around(one.view))):
            if one.outbox.entry(state.id) is None:
                count += 1
                digest ^= state.digest()
        for entries in (one.outbox.leaving, one.outbox.showing):
            for id, entry in entries.items():
                if entry.held:
                    count += 1
                    digest ^= digest_of(id, abs(entry.held))
        return Check(one.seq, count, format_digest(digest), len(one.outbox))

    def search(self, boxes: Sequence[Box], zoom: float, filter: Filter | None) -> list[bytes]:
        view = View(tuple(boxes), zoom, filter)
        found = [state for state in self._around(view) if shows(view, state)]
        return [encode_feature(state) for state in sorted(found, key=lambda state: state.id)]

    def get(self, id: str) -> bytes | None:
        state = self._world.entities.get(id)
        return None if state is None else encode_feature(state)

    def explain(self, session: int, id: str) -> dict[str, Any]:
        one = self._sessions[session]
        state = self._world.entities.get(id)
        entry = one.outbox.entry(id)
        answer: dict[str, Any] = {"entity": id, "exists": state is not None, "pending": entry is not None}
        if state is None:
            tombstone = self._world.tombstones.get(id)
            answer["gone"] = None if tombstone is None else "expired" if tombstone.is_expired else "deleted"
            answer["held"] = abs(entry.held) if entry else 0
            return answer
        view = one.view
        answer["version"] = state.wire
        answer["box"] = boxes_meet(state.geometry.boxes, view.boxes)
        answer["ids"] = id in view.ids
        answer["min_zoom"] = state.min_zoom <= view.zoom
        answer["rights"] = one.allows(state)
        answer["filter"] = view.filter is None or view.filter.passes(id, state.kind or None, state.value)
        answer["sample"] = one.samples(state)
        answer["sees"] = one.sees(state)
        answer["held"] = abs(entry.held) if entry else state.wire if answer["sees"] else 0
        return answer

    def statistics(self, session: int | None = None) -> dict[str, int | float]:
        if session is not None:
            one = self._sessions[session]
            return {"seq": one.seq, "total": one.total, "shown": one.shown, "outbox": len(one.outbox)}
        return {
            "entities": len(self._world.entities),
            "tombstones": len(self._world.tombstones),
            "sessions": len(self._sessions),
            "outbox_entities": sum(len(one.outbox) for one in self._sessions.values()),
            "pairs": self._pairs,
            "feeds": len(self._feeds),
        }

    def verify(self) -> None:
        self._world.verify()
        self._feeds.verify()
        assert self._numbers.keys() == self._world.entities.keys(), "the index has other entities than the world"
        assert {number: id for id, number in self._numbers.items()} == self._ids, "numbers are mixed up"
        self._places.verify({self._numbers[id]: state.geometry.boxes for id, state in self._world.entities.items()})
        self._viewports.verify({one.number: one.view.boxes for one in self._sessions.values()})
        followed: dict[str, set[int]] = {}
        for one in self._sessions.values():
            for id in one.view.ids:
                followed.setdefault(id, set()).add(one.number)
            self._verify_session(one)
        assert followed == self._followers, "the followers are not those of the views"

    def _verify_session(self, one: Session) -> None:
        outbox = one.outbox
        matched = [state for state in self._world.entities.values() if one.matches(state)]
        seen = {state.id: state for state in matched if one.samples(state)}
        assert (one.total, one.shown) == (len(matched), len(seen)), "the counts are not those of the view"
        assert not outbox.leaving.keys() & outbox.showing.keys(), "an entity stands twice in an outbox"
        assert not outbox.leaving.keys() & seen.keys(), "an entity leaves that is seen"
        assert outbox.showing.keys() <= seen.keys(), "an entity shows that is not seen"
        assert all(entry.held for entry in outbox.leaving.values()), "an entity leaves that is not held"
        assert all(entry.held != seen[id].wire for id, entry in outbox.showing.items()), "an entry has nothing to say"
        entries = [*outbox.leaving.values(), *outbox.showing.values()]
        assert outbox.fills == sum(entry.is_fill for entry in entries), "the fills are miscounted"
        assert not (one.reset_is_owed and any(entry.held for entry in entries)), "an empty mirror holds something"
        if len(outbox) or one.answer_is_owed:
            assert one.queued_due == TAKEN or (one.queued_due, one.number) in self._queue, "a dirty session is not queued"


def _search_boxes(old: State | None, new: State | None) -> Sequence[Box]:
    """Return the boxes at which sessions are to be searched for a change."""
    before = old.geometry.boxes if old else ()
    after = new.geometry.boxes if new else ()
    if before == after:
        return after
    if len(before) == len(after) == 1:
        a, b = before[0], after[0]
        around = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
        if around[2] - around[0] < NEAR_DEGREES and around[3] - around[1] < NEAR_DEGREES:
            return (around,)
    return (*before, *after)
