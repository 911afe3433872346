"""The way into the engine: what publishers send is decoded, checked and applied, one after the other, each with a verdict.

Law: `UpdateParser` alone says what is wrong with an update. The native intake goes a shorter way with what is surely
right, and asks it about all else; both intakes give the same verdicts for the same items. Whatever happens on the way,
`verdicts` has one entry for each item that was dealt with, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, ClassVar, Protocol

from msgspec import Raw

from realtime.config import Config
from realtime.engine import Engine, Update, Verdict
from realtime.errors import ErrorCode, Refused
from realtime.updates import UpdateParser

Allows = Callable[[str], bool]  # given an id: whether the publisher may


class Intake(Protocol):
    """Takes items: decoded objects, `Raw` ones still to be decoded, or a `Refused` that stands for one that came to nothing."""

    look_updates: ClassVar[int]  # at most so many updates pass between two questions whether it is over

    def take(
        self,
        items: Iterator[Any],
        verdicts: list[Verdict | Refused],
        now: float,
        allows: Allows | None = None,
        is_over: Callable[[], bool] | None = None,
    ) -> bool:
        """Apply items until there are no more, or until `is_over` says so, which is then returned; append what became of each."""


class PlainIntake:
    """The intake of any engine."""

    look_updates: ClassVar[int] = 4  # the largest that are allowed take milliseconds each

    def __init__(self, engine: Engine, parser: UpdateParser) -> None:
        self._engine = engine
        self._parser = parser

    def take(
        self,
        items: Iterator[Any],
        verdicts: list[Verdict | Refused],
        now: float,
        allows: Allows | None = None,
        is_over: Callable[[], bool] | None = None,
    ) -> bool:
        left = self.look_updates
        for item in items:
            if isinstance(item, Refused):
                verdicts.append(item)
            else:
                try:
                    update = self.read(item, allows)
                except Refused as refused:
                    verdicts.append(refused)
                else:
                    verdicts += self._engine.apply((update,), now)
            left -= 1
            if left == 0:
                if is_over is not None and is_over():
                    return True
                left = self.look_updates
        return False

    def read(self, item: Any, allows: Allows | None) -> Update:
        """Return the update that an item is; raise `Refused`."""
        update = self._parser.parse_json(item) if type(item) is Raw else self._parser.parse(item)
        if allows is not None and not allows(update.id):
            raise Refused(ErrorCode.FORBIDDEN, "id: this session may not publish it")
        return update


def new_intake(engine: Engine, engine_kind: str, config: Config) -> Intake:
    """Return the intake that goes with an engine."""
    plain = PlainIntake(engine, UpdateParser(config.limits, config.publish))
    if engine_kind != "native":
        return plain
    limits = config.limits
    native = import_module("realtime._native")
    intake: Intake = native.Intake(engine, plain.read, limits.entity_bytes, limits.entity_properties, config.publish.default_access)
    return intake
