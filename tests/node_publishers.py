"""Publishers of a trace to several nodes: they outlive a node, and publish again what may have died with it.

Law: every update is in the model before it is published, and has a version. Beside the buses, of which each is soon heard of
again, there are marks that are set once and then left alone, or deleted once: what is lost of those is lost for good. What
a node has accepted and not told when it is killed is lost, so what was answered shortly before, and what was never
answered, is published again: as whole Features in the versions that they had, as a node that was killed may know less
than it did.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

import httpx

from realtime.demo.replay import Row, paced
from tests.model_values import json_equal
from tests.node_processes import NodeProcess
from tests.node_viewers import SharedWorld

NOTICE_TTL_S = 2.0
AHEAD_S = 0.25  # the model lets notices die this much earlier than the nodes, whose clocks are not ours
AGAIN_S = 1.0  # what was answered so long before a kill is published again
UPDATES_MAX = 300  # in a request
IDLE_S = 0.01
APART = ("notice-", "mark-")
STAFF = "group:staff"

Update = dict[str, Any]


class Publishers:
    """One publisher for each node. Subclasses say who publishes what, and how."""

    def __init__(self, nodes: Sequence[NodeProcess], rows: list[Row], speed: float, seed: int) -> None:
        self.world = SharedWorld()
        self.verdicts: Counter[str] = Counter()  # the model's
        self.ops: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()  # the nodes'
        self.again = 0  # entities that were published again
        self.lag_s = 0.0
        self.nodes = nodes
        self.random = random.Random(seed)
        self._rows = rows
        self._speed = speed
        self._version = 0
        self._deadlines: list[float] = []
        self._marks: list[str] = []  # those that live
        self._waiting: list[dict[str, Update]] = [{} for _ in nodes]  # what the trace says, by id; a backlog keeps the newest
        self._owed: list[set[str]] = [set() for _ in nodes]  # ids to be published again
        self._answered: list[deque[tuple[float, list[str]]]] = [deque() for _ in nodes]
        self._asking: list[list[list[str]]] = [[] for _ in nodes]  # ids of each request that is not answered
        self._finish = asyncio.Event()

    async def run(self) -> None:
        """Publish the trace; return once `finish` was called, the nodes have answered for everything and the notices are dead."""
        # A connection each time: one that was kept may be to a former life of a node, which was killed since.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=30, limits=limits) as http, asyncio.TaskGroup() as tasks:
            for number in range(len(self.nodes)):
                tasks.create_task(self._send(number, http))
            async for batch in paced(self._rows, self._speed):
                if self._finish.is_set():
                    break
                self.lag_s = max(self.lag_s, batch.lag_s)
                for row in batch.rows:
                    self._waiting[self._publisher_of(row.update["id"])][row.update["id"]] = row.update
        await asyncio.sleep(NOTICE_TTL_S + 2 * AHEAD_S)
        self.expire()

    def finish(self) -> None:
        """Read no more of the trace: what waits is still published."""
        self._finish.set()

    def expire(self) -> None:
        """Let die in the model whose time has come."""
        now = time.time() + AHEAD_S
        if self._deadlines and self._deadlines[0] <= now:
            while self._deadlines and self._deadlines[0] <= now:
                heapq.heappop(self._deadlines)
            self.world.expire(now)

    def note_kill(self, number: int, since: float | None = None) -> None:
        """A node is dead: owe what it was sent after `since` on the monotonic clock; None: a second ago."""
        since = time.monotonic() - AGAIN_S if since is None else since
        ids = {id for answered, ids in self._answered[number] if answered >= since for id in ids}
        self._answered[number].clear()
        self._owe(number, ids.union(*self._asking[number]))

    # To be said by subclasses

    def _publisher_of(self, id: str) -> int:
        """Return the number of the publisher that takes a row."""
        raise NotImplementedError

    def _updates(self, report: Update) -> list[Update]:
        """Return what is made of a row, without versions."""
        raise NotImplementedError

    def _owe(self, number: int, ids: set[str]) -> None:
        raise NotImplementedError

    def _target_of(self, number: int) -> NodeProcess:
        """Return the node to which a publisher sends now."""
        raise NotImplementedError

    # Sending

    async def _send(self, number: int, http: httpx.AsyncClient) -> None:
        waiting, owed = self._waiting[number], self._owed[number]
        while not (self._finish.is_set() and self._is_done()):
            node = self._target_of(number)
            if not node.is_up or not (waiting or owed):
                await asyncio.sleep(IDLE_S)
                continue
            self.expire()
            updates = [again for id in owed for again in self._again(id)]
            owed.clear()
            while waiting and len(updates) < UPDATES_MAX:
                report = waiting.pop(next(iter(waiting)))
                updates += [self._applied(update) for update in self._updates(report)]
            await self._post(node, http, updates)

    def _is_done(self) -> bool:
        return not (any(self._waiting) or any(self._owed) or any(self._asking))

    async def _post(self, node: NodeProcess, http: httpx.AsyncClient, updates: list[Update]) -> None:
        number, life = self.nodes.index(node), node.lives
        ids = [update["id"] for update in updates]
        self._asking[number].append(ids)
        try:
            answer = (await http.post(f"{node.api}/v1/updates", json={"updates": updates})).json()
        except httpx.TransportError:
            # Who noted the kill has seen what was asked, unless that comes later than this.
            assert node.lives != life, f"{node.name} does not answer"
            self._owe(number, set(ids))
            return
        finally:
            self._asking[number].remove(ids)
        if node.lives != life:  # answered, and killed before this heard of it
            self._owe(number, set(ids))
        assert answer["rejected_total"] == 0, (node.name, answer, updates)
        self._answered[number].append((time.monotonic(), ids))
        for name in ("accepted", "unchanged", "stale"):
            self.answers[name] += answer[name]

    def _applied(self, update: Update) -> Update:
        self._version += 1
        update = self._finished(update | {"version": self._version})
        now = time.time()
        verdict = self.world.apply(update, now)
        assert isinstance(verdict, str), f"{update}: {verdict}"
        self.verdicts[verdict] += 1
        self.ops[update.get("op", "upsert")] += 1
        if update.get("kind") == "mark":
            self._marks.append(update["id"])
        if "ttl" in update:
            heapq.heappush(self._deadlines, now + update["ttl"])
        return update

    def _finished(self, update: Update) -> Update:
        return update

    def _again(self, id: str) -> Iterable[Update]:
        """Yield what makes an entity what it is in the model, in the version in which it became that."""
        self.again += 1
        entity, tombstone = self.world.entities.get(id), self.world.tombstones.get(id)
        if entity is not None:
            assert entity.state.feature is not None
            update = entity.state.feature | {"version": entity.seen} | settings_of(id)
            yield update if entity.deadline is None else update | {"ttl": max(0.01, entity.deadline - time.time())}
        elif tombstone is not None and tombstone.reason == "deleted":
            yield {"op": "delete", "id": id, "version": tombstone.seen}

    def _asides(self, report: Update) -> list[Update]:
        """Return what now and then comes with a row: a deletion of the bus, a notice, a mark and the deletion of an earlier one."""
        asides: list[Update] = []
        if self.random.random() < 0.01:
            asides.append({"op": "delete", "id": report["id"]})
        if self.random.random() < 0.02:
            asides.append(self._notice(report))
        if self.random.random() < 0.05:
            mark = {"type": "Feature", "id": f"mark-{self._version}", "kind": "mark", "geometry": report["geometry"]}
            asides.append(mark | {"properties": {"text": "somebody was here"}})
        if self._marks and self.random.random() < 0.02:
            asides.append({"op": "delete", "id": self._marks.pop(self.random.randrange(len(self._marks)))})
        return asides

    def _notice(self, report: Update) -> Update:
        text = {"text": f"{report['id']} passed", "of": [1, {"nested": None}]}
        notice = {"type": "Feature", "id": f"notice-{self._version}", "kind": "notice", "geometry": report["geometry"]}
        return notice | {"properties": text, "ttl": NOTICE_TTL_S}


def settings_of(id: str) -> Update:
    """Return what a Feature of this id sets beside its content."""
    if id.startswith(APART):
        return {}
    number = sum(id.encode())
    return ({"min_zoom": 12} if number % 5 == 0 else {}) | ({"access": [STAFF]} if number % 7 == 0 else {})


class ByEntity(Publishers):
    """Each entity enters through the node that a hash of its id names, as Features, patches, moves and deletes."""

    def __init__(self, nodes: Sequence[NodeProcess], rows: list[Row], speed: float, seed: int) -> None:
        super().__init__(nodes, rows, speed, seed)
        self._told: list[set[str]] = [set() for _ in nodes]  # ids whose whole state the node's present life was sent

    def _publisher_of(self, id: str) -> int:
        return zlib.crc32(id.encode()) % len(self.nodes)

    def _target_of(self, number: int) -> NodeProcess:
        return self.nodes[number]

    def _owe(self, number: int, ids: set[str]) -> None:
        self._owed[number] |= ids
        self._told[number].clear()

    def _updates(self, report: Update) -> list[Update]:
        if report["id"].startswith(APART) or "op" in report:
            return [report]
        updates = [self._report(report)]
        for aside in self._asides(report):
            if aside["id"] == report["id"]:
                updates.append(aside)
            else:  # through its own publisher, and not at once
                self._waiting[self._publisher_of(aside["id"])][aside["id"]] = aside
        return updates

    def _report(self, report: Update) -> Update:
        """Return the Feature, or the move or patch that comes to the same where the node knows what is changed."""
        id = report["id"]
        told = self._told[self._publisher_of(id)]
        entity = self.world.entities.get(id)
        if entity is None or id not in told or self.random.random() < 0.4:
            told.add(id)
            return report | settings_of(id)
        held = entity.state.properties
        if json_equal(held, report["properties"]) and self.random.random() < 0.7:
            lon, lat = report["geometry"]["coordinates"]
            return {"op": "move", "id": id, "lon": lon, "lat": lat}
        changed: Update = {name: value for name, value in report["properties"].items() if not json_equal(held.get(name), value)}
        changed |= dict.fromkeys(held.keys() - report["properties"].keys())
        return {"op": "patch", "id": id, "geometry": report["geometry"], "properties": changed, "kind": report.get("kind")}


class Anywhere(Publishers):
    """Whole Features, each through any node that is up, each unlike every other."""

    def _publisher_of(self, id: str) -> int:
        return self.random.randrange(len(self.nodes))

    def _target_of(self, number: int) -> NodeProcess:
        return self.nodes[number] if self.nodes[number].is_up else self.random.choice(self.nodes)

    def _owe(self, number: int, ids: set[str]) -> None:
        self._owed[self.random.randrange(len(self.nodes))] |= ids

    def _updates(self, report: Update) -> list[Update]:
        return [report | settings_of(report["id"]), *self._asides(report)]

    def _finished(self, update: Update) -> Update:
        if "op" in update:
            return update
        return update | {"properties": update["properties"] | {"unique": update["version"]}}
