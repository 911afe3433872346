"""One client's judge: it reads every frame that a session gets and holds it against the truth.

The law:
- nothing of the judged package is imported;
- it is fed every frame, in order, and with the world as it was when the frame was built; the first wrong one raises `Violation`;
- it believes no frame: what is held is computed from the frames alone, what should be shown from the world alone.

With `strict_present` (the default) a frame must carry the present: that is for tests that drive an engine in one process. Without it the
world may have moved on between a frame and its arrival (over real sockets); then what is carried may be any state that the entity had
after the one that is held, if the view could show it then, and reasons of leaves need only be plausible. That mode asks three things of its
driver: an update is applied to the world before it is published, views have ids of their own, and updates have versions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from tests.model import Feature, State, View, Violation, World, allowed, brute_force, check_sample, sampling_keys, shows
from tests.model_frames import Frame, decoded, is_point, well_formed
from tests.model_values import digest, json_equal, passes

SHARE_TOLERANCE = 1e-6  # of one entity, in sampled * total


class Viewer:
    """Mirrors one connection of one session, and raises `Violation` at the first frame, or the first quiet, that is not as promised.

    `look`, `allow` and `refresh` are called when the server has applied them (without `strict_present`: when they were sent).
    """

    def __init__(
        self, world: World, principals: Iterable[str] = (), user: str | None = None, encoding: str = "json", *, strict_present: bool = True
    ) -> None:
        self.world, self.user, self.encoding, self.strict_present = world, user, encoding, strict_present
        self.mirror: dict[str, Feature] = {}
        self.seq = 0  # of the last delta
        self.counts: Counter[str] = Counter()  # what was seen so far: enter, move, patch, leave:REASON, reset, delta, check
        self._rights = [frozenset(principals)]  # all that were in force, oldest first
        self._looks: list[View] = []  # all that were applied, oldest first
        self._at = -1  # the index in _looks of the view of the last delta
        self._more = False
        self._filling = False  # a view or a reset has begun to be answered and `more` has not ended yet
        self._reset_due, self._believed = True, False
        self._orders: dict[str, int | None] = {}  # per held id the order of the held state; None: a claimed version that never was
        self._left: dict[str, int] = {}  # per id that left, the order of the state that was held
        self._claimed: dict[str, bool] = {}  # per id held by `have` alone, whether the rights allowed it then or later
        self._owed: dict[str, int] = {}  # per id that the applied views offered, the world's serial at that moment
        self._announced: tuple[int, tuple[int, int, int]] | None = None  # the last count shown, and the moment that it was of
        self._known: tuple[tuple[int, int, int], dict[str, Feature]] | None = None  # expected(), and the moment that it is of

    @property
    def view(self) -> View | None:
        """The newest view."""
        return self._looks[-1] if self._looks else None

    @property
    def principals(self) -> frozenset[str]:
        """Those in force."""
        return self._rights[-1]

    def resume(self, mirror: Mapping[str, Feature]) -> None:
        """The node believed the `have` of the first view, from a client that holds `mirror`; call it right before that `look`."""
        for entity_id, feature in mirror.items():
            entity, tombstone = self.world.entities.get(entity_id), self.world.tombstones.get(entity_id)
            access = entity.settings.access if entity else tombstone.access if tombstone else ()
            self._claimed[entity_id] = allowed(access, self.principals)
            known = [state.order for state in self._alive(entity_id) if state.version == feature["version"]]
            self._orders[entity_id] = known[-1] if known and self._claimed[entity_id] else None
            self.mirror[entity_id] = feature
        self._believed, self._reset_due = True, False

    def look(self, message: Mapping[str, Any]) -> None:
        """The server has applied this view message."""
        before = set(self.expected()) if self.strict_present else set()
        self._looks.append(View.from_message(message))
        if self.strict_present:
            self._owe((before ^ self.expected().keys()) | (self._claimed.keys() - self._owed.keys()))

    def allow(self, principals: Iterable[str]) -> None:
        """The server has applied other rights to the session."""
        self._rights.append(frozenset(principals))
        self._owed.clear()

    def refresh(self) -> None:
        """The server has taken a refresh: the answer is a reset."""
        self._reset_due = True
        if self.strict_present:
            self._owe(self.expected())

    def _owe(self, entity_ids: Iterable[str]) -> None:
        self._owed.update(dict.fromkeys(entity_ids, self.world.serial))

    def expected(self) -> dict[str, Feature]:
        """V(s) now, without the sample."""
        moment = self._moment()
        if self._known is None or self._known[0] != moment:
            self._known = (moment, brute_force(self.world, self.view, self.principals, self.user))
        return self._known[1]

    def bound(self) -> int:
        """The number that the session's outbox must never exceed: what the client holds together with what its view shows."""
        return min(len(self.mirror.keys() | self.expected().keys()), len(self.mirror) + self.world.limits.entities_per_view)

    def is_denied(self, entity_id: str) -> bool:
        """Whether the entity lives and the rights do not allow it now."""
        entity = self.world.entities.get(entity_id)
        return entity is not None and not allowed(entity.settings.access, self.principals)

    def revoked(self) -> set[str]:
        """The ids that are held and that the rights do not allow now, but for those that are held by `have` alone."""
        return {entity_id for entity_id in self.mirror.keys() - self._claimed.keys() if self.is_denied(entity_id)}

    def feed(self, frame: Frame) -> dict[str, Any]:
        """Judge one frame, and return it decoded; types other than delta and check are returned unjudged."""
        message = decoded(frame, self.encoding)
        if message["type"] == "delta":
            self._delta(message)
        elif message["type"] == "check":
            self.check_frame(message)
        return message

    def check_frame(self, frame: Frame) -> None:
        """Judge a `check`: it speaks of the mirror as it is after the last delta, and `pending` 0 says that this is the present."""
        check = decoded(frame, self.encoding)
        self.counts["check"] += 1
        own = {"seq": self.seq, "count": len(self.mirror), "digest": digest((i, held["version"]) for i, held in self.mirror.items())}
        theirs = {member: check.get(member) for member in own}
        if not json_equal(own, theirs):
            self._fail(f"check says {theirs}, the mirror is {own}")
        pending = check.get("pending")
        if type(pending) is not int or pending < 0:
            self._fail(f"check says pending {pending!r}")
        if not self.strict_present:
            return
        if pending == 0:
            self._compare()
        elif not self._wrong_at_least() <= pending <= self.bound():
            self._fail(f"check says pending {pending}; at least {self._wrong_at_least()} are wrong, at most {self.bound()} can be pending")

    def settled(self) -> None:
        """Nothing is pending and the source is quiet: hold the mirror against brute force."""
        if self._more:
            self._fail("the last delta had `more` and no other followed")
        if self._at != len(self._looks) - 1:
            self._fail("the newest view was not answered by any delta")
        if self._reset_due and self._looks:
            self._fail("a reset was due and none came")
        self._compare()
        if self._announced is not None and self._announced[1] == self._moment() and self._announced[0] != len(self.mirror):
            self._fail(f"`sampled` and `total` announced {self._announced[0]} entities, {len(self.mirror)} are held")

    def _compare(self) -> None:
        """The mirror is the present: the same ids, versions and content, but for the sample. What is claimed was allowed then."""
        expected = self.expected()
        for entity_id, held in self.mirror.items():
            if entity_id not in expected:
                self._fail(f"{entity_id!r} is held at version {held['version']}, but {self._why_not(entity_id)}")
            if not json_equal(held, expected[entity_id]):
                self._fail(f"{entity_id!r} is held as {held}, its present is {expected[entity_id]}")
        if len(self.mirror) < len(expected) or len(expected) > self.world.limits.entities_per_view:
            try:
                check_sample(self.mirror.keys(), sampling_keys(self.world, expected), self.world.limits.entities_per_view)
            except Violation as violation:
                self._fail(str(violation))
        self._claimed = dict.fromkeys(self._claimed, True)
        self._orders = {entity_id: self.world.entities[entity_id].state.order for entity_id in self.mirror}

    def _wrong_at_least(self) -> int:
        """How many entities of the mirror are certainly not the present, whatever the sample."""
        expected = self.expected()
        wrong = sum(1 for i, held in self.mirror.items() if i not in expected or held["version"] != expected[i]["version"])
        return wrong if self._may_be_sampled() else wrong + len(expected.keys() - self.mirror.keys())

    def _may_be_sampled(self) -> bool:
        """With fewer matching than half of the limit a view shows all, whatever was before."""
        return self._may_have_been_sampled() and 2 * len(self.expected()) >= self.world.limits.entities_per_view

    def _may_have_been_sampled(self) -> bool:
        """With no more ids than the limit in all of history no view was ever sampled."""
        return len(self.world.states) > self.world.limits.entities_per_view

    def _moment(self) -> tuple[int, int, int]:
        """Equal moments have equal truths."""
        return (self.world.serial, len(self._looks), len(self._rights))

    def _alive(self, entity_id: str) -> list[State]:
        return [state for state in self.world.states.get(entity_id, []) if state.feature is not None]

    def _fail(self, text: str) -> NoReturn:
        view = self.view
        raise Violation(f"delta {self.seq}, view {view.id if view else None!r}: {text}")

    def _why_not(self, entity_id: str) -> str:
        """The first predicate that keeps a session from seeing an entity now, in words."""
        entity, view = self.world.entities.get(entity_id), self.view
        if entity is None:
            return "it is dead"
        if view is None:
            return "there is no view"
        settings = entity.settings
        if not allowed(settings.access, self.principals):
            return f"the rights {sorted(settings.access)} do not allow {sorted(self.principals)}"
        if not view.meets(entity.state):
            return f"its boxes {entity.state.boxes} do not meet the view's {view.boxes}"
        if settings.min_zoom is not None and settings.min_zoom > view.zoom:
            return f"its min_zoom is {settings.min_zoom}, the zoom {view.zoom}"
        return "it is seen" if passes(view.filter, entity.state, self.user) else f"the filter {view.filter} stops it"

    def _delta(self, delta: dict[str, Any]) -> None:
        """Judge and apply one delta."""
        self.seq += 1
        self.counts["delta"] += 1
        if type(delta.get("seq")) is not int or delta["seq"] != self.seq:
            self._fail(f"seq is {delta.get('seq')!r}")
        try:
            well_formed(delta)
        except Violation as violation:
            self._fail(str(violation))
        self._begin(delta)
        for reason, entity_ids in delta.get("leave", {}).items():
            for entity_id in entity_ids:
                self._leave(entity_id, reason)
        for feature in delta.get("enter", []):
            self._take("enter", feature)
        for entity_id, version, longitude, latitude in delta.get("move", []):
            held = self._held(entity_id, "move")
            if not is_point(held["geometry"]):
                self._fail(f"a move of {entity_id!r}, which is held with the geometry {held['geometry']}")
            geometry = {"type": "Point", "coordinates": [longitude, latitude]}
            self._take("move", {**held, "version": version, "geometry": geometry})
        for patch in delta.get("patch", []):
            held = self._held(patch["id"], "patch")
            properties = {**held["properties"], **patch.get("properties", {})}
            properties = {name: value for name, value in properties.items() if value is not None}
            geometry = patch.get("geometry", held["geometry"])
            self._take("patch", {**held, "version": patch["version"], "geometry": geometry, "properties": properties})
        if self.strict_present and any(how in delta for how in ("enter", "move", "patch")):
            self._left_first()
        self._counted(delta)
        self._filled(delta)
        self._more = delta.get("more", False)

    def _begin(self, delta: dict[str, Any]) -> None:
        """Find the view that the delta belongs to, and clear the mirror if it says so."""
        at = self._which(delta)
        first, reset = self.seq == 1, delta.get("reset", False)
        if self._reset_due and not reset and (self.strict_present or (first and not self._believed)):
            self._fail("a reset was due")
        if reset and first and self._believed and not self._reset_due:
            self._fail("`have` was believed and yet the mirror is reset")
        if reset:
            self.counts["reset"] += 1
            if self.strict_present and not self._reset_due:
                self._owe(self.expected())
            self._reset_due = False
            for held in (self.mirror, self._orders, self._left, self._claimed):
                held.clear()
        self._filling = self._filling or reset or at != self._at
        self._at = at

    def _which(self, delta: dict[str, Any]) -> int:
        """The index of the view that the delta belongs to: the newest, or with a late world the newest of that id that is not older."""
        for index in range(len(self._looks) - 1, max(self._at, 0) - 1, -1):
            if json_equal(delta.get("view"), self._looks[index].id):
                return index
            if self.strict_present:
                break
        if self._looks:
            self._fail(f"it belongs to view {delta.get('view')!r}")
        return -1

    def _held(self, entity_id: str, how: str) -> Feature:
        if entity_id not in self.mirror:
            self._fail(f"a {how} of {entity_id!r}, which is not held")
        return self.mirror[entity_id]

    def _take(self, how: str, feature: Feature) -> None:
        """Judge the state that an enter, a move or a patch has made of an entity, and hold it."""
        self.counts[how] += 1
        entity_id, version = feature["id"], feature["version"]
        if type(version) is not int:
            self._fail(f"{how} of {entity_id!r}: the version is {version!r}")
        state = self._present(how, feature) if self.strict_present else self._past(how, feature)
        held = self.mirror.get(entity_id)
        order = self._orders.get(entity_id) if held else self._left.get(entity_id)
        if order is None and held and how != "enter" and version <= held["version"]:
            self._fail(f"{how} of {entity_id!r} from version {held['version']}, which never was, to {version}")
        if order is not None and (state.order <= order if held else state.order < order):
            was = f"held at {held['version']}" if held else "gone"
            self._fail(f"{how} of {entity_id!r}: version {version} comes back, it was {was} with a later one")
        forgotten = self.world.forgotten.get(entity_id, 0)
        if order is not None and held and version <= held["version"] and forgotten <= order:
            self._fail(f"{how} of {entity_id!r}: version {version} after {held['version']}")
        self.mirror[entity_id], self._orders[entity_id] = feature, state.order
        self._left.pop(entity_id, None)
        self._claimed.pop(entity_id, None)

    def _present(self, how: str, feature: Feature) -> State:
        """The present state, which must be what was carried, and be seen now."""
        entity = self.world.entities.get(feature["id"])
        if entity is None or feature["id"] not in self.expected():
            self._fail(f"{how} of {feature['id']!r} at version {feature['version']}, but {self._why_not(feature['id'])}")
        if not json_equal(feature, entity.state.feature):
            self._fail(f"{how} makes {feature}, the present is {entity.state.feature}")
        return entity.state

    def _past(self, how: str, feature: Feature) -> State:
        """The newest state in the history that is what was carried; the view must have been able to show it."""
        view = self._looks[self._at] if self._at >= 0 else View()
        had = [state for state in self._alive(feature["id"]) if json_equal(feature, state.feature)]
        if not had:
            at_version = self.world.history(feature["id"]).get(feature["version"])
            self._fail(f"{how} makes {feature}, which it never was; at this version it was {at_version}")
        state = had[-1]
        if not any(shows(state, settings, view, rights, self.user) for settings in state.settings for rights in self._rights):
            self._fail(f"{how} of {feature}, which view {view.id!r} could not show under {state.settings}")
        return state

    def _leave(self, entity_id: str, reason: str) -> None:
        """Judge a leave: it is of what is held and not seen now, and has its reason."""
        self.counts[f"leave:{reason}"] += 1
        self._held(entity_id, "leave")
        if self.strict_present:
            if entity_id in self.expected() and not self._may_be_sampled():
                self._fail(f"a leave of {entity_id!r}, which is seen now")
            reasons = self._reasons(entity_id)
            if reason not in reasons:
                held = self.mirror[entity_id]["version"]
                why = self._why_not(entity_id)
                self._fail(f"{entity_id!r}, held at version {held}, left as {reason}, not as {' or '.join(sorted(reasons))}: {why}")
        elif not self._plausible(entity_id, reason):
            self._fail(f"{entity_id!r} cannot have left as {reason}: {self.world.states.get(entity_id)}")
        order = self._orders.pop(entity_id)
        if order is not None:
            self._left[entity_id] = order
        del self.mirror[entity_id]
        self._claimed.pop(entity_id, None)

    def _reasons(self, entity_id: str) -> set[str]:
        """The first reason that applies now.

        Of an id that is held by `have` alone and that the rights do not allow nothing may be told: it is `deleted`. Where the rights have
        changed since the `have` was taken, both that and the plain reason are right.
        """
        entity, view = self.world.entities.get(entity_id), self.view
        if entity is None:
            tombstone = self.world.tombstones.get(entity_id)
            reason = tombstone.reason if tombstone else "deleted"
            may_see = tombstone is not None and allowed(tombstone.access, self.principals)
        else:
            may_see = allowed(entity.settings.access, self.principals)
            if not may_see:
                reason = "denied"
            elif self.mirror[entity_id]["version"] == entity.state.version:
                reason = "view"
            else:
                reason = "filtered" if view is not None and view.meets(entity.state) else "moved"
        if entity_id not in self._claimed or (may_see and self._claimed[entity_id]):
            return {reason}
        return {"deleted"} if may_see == self._claimed[entity_id] else {reason, "deleted"}

    def _plausible(self, entity_id: str, reason: str) -> bool:
        """Whether something that can have been the reason happened since the held state; of `view` nothing is asked."""
        order = self._orders.get(entity_id) or 0
        since = [state for state in self.world.states.get(entity_id, []) if state.order >= order]
        if reason in ("deleted", "expired"):
            forgotten = self.world.forgotten.get(entity_id, 0) > order
            unknown = reason == "deleted" and (entity_id in self._claimed or forgotten)
            return unknown or any(state.reason == reason for state in since)
        if reason == "denied":
            settings = [settings for state in since for settings in state.settings]
            return any(not allowed(each.access, rights) for each in settings for rights in self._rights)
        later = [state for state in since if state.feature is not None and state.order > order]
        if reason == "moved":
            return any(not view.meets(state) for state in later for view in self._looks[max(self._at, 0) :])
        return reason == "view" or bool(later)

    def _left_first(self) -> None:
        """Leaves go first: a delta that has room for what is seen has told all that is not; of a sample nothing is asked."""
        for entity_id in self.mirror.keys() - self.expected().keys():
            self._fail(f"something is shown before {entity_id!r} has left, though {self._why_not(entity_id)}")

    def _counted(self, delta: dict[str, Any]) -> None:
        """Judge `total` and `sampled`: the count without the sample, and the share of it that is shown."""
        if "total" not in delta or not self.strict_present:
            return
        total, sampled = delta["total"], delta["sampled"]
        shown, limit = round(sampled * total), self.world.limits.entities_per_view
        if total != len(self.expected()):
            self._fail(f"`total` is {total}, {len(self.expected())} match")
        if abs(sampled * total - shown) > SHARE_TOLERANCE or (total == 0 and sampled != 1):
            self._fail(f"`sampled` is {sampled} of {total}, which is no number of entities")
        if shown > limit or (shown < total and 2 * shown < limit):
            self._fail(f"`sampled` says that {shown} of {total} are shown, the limit is {limit}")
        self._announced = (shown, self._moment())

    def _filled(self, delta: dict[str, Any]) -> None:
        """Judge the end of a fill: the counts are there, and all that the views offered is answered, but for what has changed since.

        What is not held is missed only where no sample can have hidden it when it was offered.
        """
        if not self._filling or delta.get("more", False):
            return
        self._filling = False
        if "total" not in delta and self._looks:
            self._fail("the last delta of a fill has no `total`")
        expected, shows_all = self.expected() if self.strict_present else {}, not self._may_have_been_sampled()
        for entity_id, serial in self._owed.items():
            if self.world.changed.get(entity_id, 0) > serial:
                continue
            held, present = self.mirror.get(entity_id), expected.get(entity_id)
            if held is not None and (present is None or held["version"] != present["version"]):
                self._fail(f"the fill ends, but {entity_id!r}, which it offered, is still held at version {held['version']}")
            if held is None and present is not None and shows_all:
                self._fail(f"the fill ends, but {entity_id!r}, which it offered, is not held yet")
        self._owed.clear()
