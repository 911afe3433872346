"""The outbox of one session: the entities whose copy at the client may be out of date, and what the client holds of each.

Law: it is a map and never a queue: an entity stands in it at most once, however often it changes. Whoever is not in
it is held by the client exactly as the view shows it now. The entries are in two maps, by whether the session sees
the entity now, so that leaves go first without a search; `offer` is called at every change of that.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """What the client holds of an entity, and since when its copy may be out of date."""

    held: int  # version; 0: none; -v: the client claims to hold v, which the engine cannot vouch for
    since: float  # seconds since the Unix epoch
    is_fill: bool  # offered by the view, not by a change


class Outbox:
    """Entries by entity id."""

    __slots__ = ("fills", "leaving", "showing")

    def __init__(self) -> None:
        self.leaving: dict[str, Entry] = {}  # held, and not seen any more
        self.showing: dict[str, Entry] = {}  # seen, and not held as it is now
        self.fills = 0  # entries that are fills

    def __len__(self) -> int:
        return len(self.leaving) + len(self.showing)

    def entry(self, id: str) -> Entry | None:
        """Return the entry of an entity."""
        return self.showing.get(id) or self.leaving.get(id)

    def offer(self, id: str, held: int, is_seen: bool, wire: int, now: float) -> None:
        """Note that an entity changed for the session, which held version `held` of it if it has no entry yet.

        The first offer wins the held version, later ones only say whether it is seen now, in version `wire`.
        """
        entry = self.showing.pop(id, None) or self.leaving.pop(id, None)
        if entry is None:
            entry = Entry(held, now, False)
        if entry.held == (wire if is_seen else 0):
            self.fills -= entry.is_fill
        elif is_seen:
            self.showing[id] = entry
        else:
            self.leaving[id] = entry

    def take_leaving(self, ids: list[str]) -> None:
        """Erase the first entries of `leaving`, which have been told to the client."""
        self.leaving = self._without(self.leaving, ids)

    def take_showing(self, ids: list[str]) -> None:
        """Erase the first entries of `showing`, which have been told to the client."""
        self.showing = self._without(self.showing, ids)

    def _without(self, entries: dict[str, Entry], ids: list[str]) -> dict[str, Entry]:
        is_all = len(ids) == len(entries)
        if self.fills:
            self.fills -= sum(entries[id].is_fill for id in ids)
        if is_all:
            return {}
        for id in ids:
            del entries[id]
        return entries

    def refill(self, held: dict[str, int], seen: dict[str, int], now: float) -> None:
        """Start anew: the client holds `held`, the view shows `seen`, both versions by id; all that differs is a fill."""
        before = self.showing | self.leaving
        self.leaving, self.showing = {}, {}
        for id, version in held.items():
            if version and id not in seen:
                self.leaving[id] = Entry(version, before[id].since if id in before else now, True)
        if not held and not before:
            self.showing = dict.fromkeys(seen, Entry(0, now, True))
        else:
            for id, wire in seen.items():
                version = held.get(id, 0)
                if version != wire:
                    self.showing[id] = Entry(version, before[id].since if id in before else now, True)
        self.fills = len(self)
