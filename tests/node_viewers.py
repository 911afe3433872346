"""Viewers of several nodes: they come to any of them, and to another one when theirs dies.

Law: what is right is what it is on one node, but for what several cannot know of each other. The world has no one moment, so
a node may be behind another; a viewer that comes to another node, or to another life of the same, may be told older
states than it holds. And as states are conflated on their way, a node may have given an entity the version of an update
that changed nothing: every version is right whose state was the one that is told. On one connection nothing goes back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.model import Feature, Verdict
from tests.model_values import json_equal
from tests.node_processes import NodeProcess
from tests.trace_viewers import Dropped, Habits, Judge, TraceViewer, TraceWorld

CONTENT = ("kind", "geometry", "properties")
AGAIN_S = 0.02  # between two looks for a node that is up


class SharedWorld(TraceWorld):
    """The model's world, in which the version of an update that changed nothing is one of the state that it left as it was."""

    def apply(self, update: Mapping[str, Any], now: float) -> Verdict:
        verdict = super().apply(update, now)
        if verdict == "unchanged":
            entity = self.entities[update["id"]]
            assert entity.state.feature is not None
            # The list of settings is the state's own: what is set later counts for both.
            self.by_version[update["id"], entity.seen] = replace(
                entity.state, version=entity.seen, feature={**entity.state.feature, "version": entity.seen}
            )
        return verdict

    def is_present(self, feature: Feature) -> bool:
        """Whether an entity is what a node says it is, in a version in which it was that."""
        entity, then = self.entities.get(feature["id"]), self.by_version.get((feature["id"], feature["version"]))
        if entity is None or entity.state.feature is None or then is None or then.feature is None:
            return False
        present = entity.state.feature
        return json_equal(feature, then.feature) and all(json_equal(feature.get(name), present.get(name)) for name in CONTENT)


class SharedJudge(Judge):
    """The judge of one connection to one of several nodes."""

    world: SharedWorld

    def come_from_elsewhere(self) -> None:
        """What is claimed was told by another node, or in another life of this one, which may have known more."""
        self._orders = dict.fromkeys(self._orders)

    def _compare(self) -> None:
        expected = self.expected()
        for entity_id, held in self.mirror.items():
            if entity_id not in expected:
                self._fail(f"{entity_id!r} is held at version {held['version']}, but {self._why_not(entity_id)}")
            if not self.world.is_present(held):
                self._fail(f"{entity_id!r} is held as {held}, its present is {expected[entity_id]}")
        missing = expected.keys() - self.mirror.keys()
        if missing:
            self._fail(f"{sorted(missing)[:5]} are seen and not held")


class NodeViewer(TraceViewer):
    """A viewer that goes to any node that is up."""

    def __init__(
        self, name: str, nodes: Sequence[NodeProcess], first: int, world: SharedWorld, habits: Habits, seed: int, expire: Callable[[], None]
    ) -> None:
        super().__init__(name, nodes[first].url, world, habits, seed, expire)
        self.node = nodes[first]  # where it is, or was last
        self._nodes = nodes
        self._life = 0
        self._shared_world = world
        self._elsewhere = random.Random(seed)  # its own, so that what is looked at does not depend on who dies when

    @property
    def mirror(self) -> dict[str, Feature]:
        """What it holds."""
        return {} if self._judge is None else self._judge.mirror

    async def _visit(self) -> bool:
        if self._heard_at:
            self.node = self._elsewhere.choice(self._nodes)
        while not self.node.is_up:
            await asyncio.sleep(AGAIN_S)
            self.node = self._elsewhere.choice(self._nodes)
        self._url, self._life = self.node.url, self.node.lives
        try:
            return await super()._visit()
        except (Dropped, WebSocketException, OSError):
            if self.node.lives == self._life:
                raise
            self.counts["lost its node"] += 1
            return False

    async def _connect(self) -> connect:
        connection = await super()._connect()
        connection.open_timeout = None  # the judge may be busy for longer than any node
        return connection

    def _new_judge(self) -> SharedJudge:
        habits = self.habits
        return SharedJudge(self._shared_world, habits.principals, habits.user, habits.encoding, strict_present=False)

    def _resume(self, before: Judge, welcome: dict[str, Any]) -> None:
        judge = self._judge
        assert isinstance(judge, SharedJudge)
        if welcome["world"] != self._world_id:
            self.counts["another world"] += 1
            return  # then a reset is due, and without one the judge complains
        judge.resume(before.mirror)
        if welcome["epoch"] != self._epoch:
            judge.come_from_elsewhere()
