"""The faults of tests/mutants.py and tests/node_mutants.py given to the native engine, and those that only the native engine can have.

Law: every fault of the reference engine has its twin here, and every point of native/faults.h its mutant. What can be
done to an engine from outside is done there, with its answers or with what it is told; the rest stands in the C++ where
it would be made. A mutant is hidden if clients see nothing of it, or not before memory is spoiled: then the engine is asked
itself, by `verify`, after every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from realtime.engine import Check, Engine, Op, Settings, Update
from realtime.engine.digest import digest_of, format_digest
from realtime.engine.reference import ReferenceEngine
from realtime.geo import WORLD
from tests.faulty_engine import FaultyEngine
from tests.mutants import DELTAS, MUTANTS, REASONS, UPDATES, Function
from tests.node_mutants import NODE_MUTANTS

NODE_FAULTS = {mutant.fault for mutant in NODE_MUTANTS}

Seam = Callable[[Any], dict[str, Function]]  # of a class of engines: the methods that are replaced
MakeEngine = Callable[[Settings], Engine]


class NativeMutant(NamedTuple):
    """One fault: at a point of native/faults.h, or of the methods of the engine."""

    fault: str
    twin: str | None  # the same fault of the reference engine; None: it cannot have it
    point: str = ""
    period: int = 1  # it happens on the first of so many occasions, and so on
    seam: Seam = lambda engine: {}
    is_hidden: bool = False

    @property
    def is_of_nodes(self) -> bool:
        """Whether it takes other nodes to find it."""
        return self.twin in NODE_FAULTS or self.point == "LOSES_PINS_OF_FEEDS"

    @contextmanager
    def applied(self, faulty: FaultyEngine) -> Iterator[MakeEngine]:
        """While this is open, the engines made by what it gives have the fault; the newest counts the occasions."""
        methods = self.seam(faulty.engine)
        assert all(callable(getattr(faulty.engine, name, None)) for name in methods), f"{self.fault!r} would be no mutant"
        broken = type("Broken", (faulty.engine,), methods)
        judged: Any = type("Judged", (broken,), _examined(broken) if self.is_hidden else {"verify": lambda self: None})

        def make(settings: Settings) -> Engine:
            faulty.put(self.point, self.period)
            engine: Engine = judged(settings)
            return engine

        try:
            yield make
        finally:
            faulty.put("")


SESSIONS_SEAM = ("apply", "expire", "look", "allow", "refresh", "close", "drain")
FEEDS_SEAM = ("merge", "take_feed", "offer_all", "end_reload", "close_feed")


def _examined(engine: Any) -> dict[str, Function]:
    """Let every call be followed by the engine's own examination."""

    def followed(name: str) -> Function:
        whole = getattr(engine, name)

        def call(self: Any, *arguments: Any) -> Any:
            answer = whole(self, *arguments)
            self.verify()
            return answer

        return call

    return {name: followed(name) for name in (*SESSIONS_SEAM, *FEEDS_SEAM)}


ITSELF = NativeMutant("has no fault", None)
LOSES_THE_FIRST_OFFER = NativeMutant("loses one offer", None, "LOSES_OFFERS", period=2**32 - 1)
NATIVE_MUTANTS: list[NativeMutant] = []

# From outside

SEAM = ("look", "drain", "expire", "merge", "take_feed", "offer_all", "end_reload")
# The faults of the reference engine that are such themselves.
for mutant in [*MUTANTS, *NODE_MUTANTS]:
    if mutant.owner is ReferenceEngine and mutant.attribute in ("look", "drain", "expire", *FEEDS_SEAM):

        def same(engine: Any, attribute: str = mutant.attribute, broken: Callable[[Function], Function] = mutant.broken) -> Any:
            return {attribute: broken(getattr(engine, attribute))}

        NATIVE_MUTANTS.append(NativeMutant(mutant.fault, mutant.fault, seam=same))


def outside(fault: str) -> Callable[[Seam], Seam]:
    """Enter a mutant whose methods are replaced into the list."""

    def enter(seam: Seam) -> Seam:
        NATIVE_MUTANTS.append(NativeMutant(fault, fault, seam=seam))
        return seam

    return enter


def _told(change: Callable[[Update], Update]) -> Seam:
    """Take other updates for those that were published."""
    return lambda engine: {"apply": lambda self, batch, now: engine.apply(self, [change(update) for update in batch], now)}


def _said(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Seam:
    """Say something else than is so in a delta."""

    def seam(engine: Any) -> dict[str, Function]:
        def drain(self: Any, session: int, budget: int, now: float) -> bytes | None:
            frame = engine.drain(self, session, budget, now)
            if frame is None:
                return None
            form: Any = msgspec.json if frame[:1] == b"{" else msgspec.msgpack
            encoded: bytes = form.encode(change(form.decode(frame)))
            return encoded

        return {"drain": drain}

    return seam


def _reasoned(instead: dict[str, str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Give other reasons."""

    def change(members: dict[str, Any]) -> dict[str, Any]:
        leaves: dict[str, list[str]] = {}
        for reason, ids in members.get("leave", {}).items():
            leaves.setdefault(instead.get(reason, reason), []).extend(ids)
        return members | {"leave": leaves} if leaves else members

    return change


for text, change in UPDATES.items():
    outside(text)(_told(change))
for text, say in DELTAS.items():
    outside(text)(_said(say))
for text, reasons in REASONS.items():
    outside(text)(_said(_reasoned(reasons)))


def _without_a_lone_grant(update: Update) -> Update:
    is_lone = update.op is Op.PATCH and not update.properties and update.geometry is None and update.kind is None
    return update._replace(access=None) if is_lone else update


outside("overlooks a grant that comes without another change")(_told(_without_a_lone_grant))


@outside("never chooses a sample")
def _(engine: Any) -> dict[str, Function]:
    return {"__new__": lambda cls, settings: engine.__new__(cls, settings._replace(entities_per_view=1_000_000))}


@outside("answers a refresh without a reset")
def _(engine: Any) -> dict[str, Function]:
    def look(self: Any, session: int, view: Any, have: Any, now: float) -> None:
        vars(self).setdefault("views", {})[session] = view
        engine.look(self, session, view, have, now)

    return {"look": look, "refresh": lambda self, session, now: engine.look(self, session, vars(self)["views"][session], None, now)}


@outside("checks the present and not what is held")
def _(engine: Any) -> dict[str, Function]:
    def check(self: Any, session: int) -> Check | None:
        found: Check | None = engine.check(self, session)
        digest = count = 0
        for feature in self.search((WORLD,), 1e9, None):
            id = msgspec.json.decode(feature)["id"]
            present = self.explain(session, id)
            if present["sees"]:
                count, digest = count + 1, digest ^ digest_of(id, present["version"])
        return None if found is None else found._replace(count=count, digest=format_digest(digest))

    return {"check": check}


# Inside


def inside(fault: str, point: str, twin: str | None = "", period: int = 1, is_hidden: bool = False) -> None:
    """Enter a mutant into the list; without a twin of another name it has one of its own."""
    NATIVE_MUTANTS.append(NativeMutant(fault, fault if twin == "" else twin, point, period, is_hidden=is_hidden))


ONE_BOX = "indexes only the first of an entity's or a view's boxes"

inside("skips the old box", "SKIPS_THE_OLD_BOX")
inside("skips the new box", "SKIPS_THE_NEW_BOX")
inside("loses the held version: a later offer overwrites it", "LOSES_THE_HELD_VERSION")
inside("drops every 7th offer", "LOSES_OFFERS", period=7)
inside("announces what entered and left between two flushes", "ANNOUNCES_WHAT_CAME_AND_WENT")
inside("indexes only the first of an entity's boxes", "INDEXES_ONE_BOX_OF_AN_ENTITY", twin=ONE_BOX)
inside("indexes only the first of a view's boxes", "INDEXES_ONE_BOX_OF_A_VIEW", twin=ONE_BOX)
inside("offers nothing when rights change", "OFFERS_NOTHING_WHEN_RIGHTS_CHANGE")
inside("keeps a stale sample when the view gets empty", "KEEPS_A_STALE_SAMPLE")
inside("believes versions of `have` that it does not know", "BELIEVES_ALL_OF_HAVE")
inside("tells a patch from the last version, whatever is held", "TELLS_PATCHES_FROM_THE_LAST_VERSION")
inside("tells a move though more than the place has changed", "TELLS_MOVES_ALONE")
inside("tells a changed kind by a patch", "TELLS_A_CHANGED_KIND_BY_A_PATCH")
inside("tells a patch across a death", "TELLS_A_PATCH_ACROSS_A_DEATH")
inside("forgets removed properties", "FORGETS_REMOVED_PROPERTIES")
inside("keeps the bytes of the last version", "BELIEVES_STALE_PIECES")
inside("tells leaves last", "TELLS_LEAVES_LAST")
inside("lets `have` ask what the rights deny", "LETS_HAVE_ASK")
inside("bumps the wire version though nothing has changed", "BUMPS_THE_VERSION_OF_NOTHING")
inside("forgets the seen version in a tombstone", "FORGETS_THE_SEEN_VERSION")
inside("does not renew the deadline", "NEVER_RENEWS_A_DEADLINE")
inside("delays a revoked right by `max_hz`", "DELAYS_WHAT_WAS_REVOKED")

inside("takes over a wire version that is below its own", "TAKES_OVER_LOWER_WIRE_VERSIONS")
inside("lets the dead come back in a version from before their death", "BRINGS_THE_DEAD_BACK_OLDER")
inside("does not tell of unchanged updates", "KEEPS_UNCHANGED_UPDATES_TO_ITSELF")
inside("does not hand on what it was told", "KEEPS_WHAT_IT_WAS_TOLD_TO_ITSELF")
inside("forgets the dead of whom others have not been told", "FORGETS_WHAT_IS_OWED")
inside("lets a reload kill what has not been told yet", "KILLS_WHAT_IS_NOT_TOLD_YET")

# What only the native engine can do wrong
inside("loses the pins of what feeds name", "LOSES_PINS_OF_FEEDS", twin=None, is_hidden=True)
inside("tells one session the patch of another, which holds another version", "BELIEVES_A_PATCH_FOR_OTHERS", twin=None)
inside("takes for this change what a filter said of another", "REMEMBERS_WHAT_A_FILTER_SAID", twin=None)
inside("keeps the threshold of the last sample", "KEEPS_THE_OLD_THRESHOLD", twin=None)
inside("goes on showing everybody what was public once", "STAYS_PUBLIC", twin=None)
inside("loses the pins of what is offered", "LOSES_PINS", twin=None, is_hidden=True)
inside("lets go of the dead while outboxes speak of them", "FREES_GHOSTS_TOO_EARLY", twin=None, is_hidden=True)
