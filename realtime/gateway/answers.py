"""What the API answers with, beside the verdicts of the publish path and the engine's own bytes.

Law: one Struct per answer; /v1/openapi.json is made from these.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class SessionLine(Struct, frozen=True):
    """One session."""

    name: str
    user: str | None
    client: str | None
    peer: str
    encoding: Literal["json", "msgpack"]
    seq: int  # deltas sent
    total: int  # entities that its view matches
    shown: int  # entities that it shows of them, fewer where it is sampled
    outbox: int  # entities whose copy may be out of date
    worker: int | UnsetType = UNSET  # which process has it, where several share the port


class Sessions(Struct, frozen=True):
    """All sessions that have identified themselves."""

    sessions: list[SessionLine]


class Explained(Struct, frozen=True):
    """Which predicate lets an entity through to a session or stops it; those from `box` to `sees` where it exists."""

    entity: str
    exists: bool
    pending: bool  # in the session's outbox: its client's copy may be out of date
    held: int  # the version that the client holds; 0: none
    gone: Literal["deleted", "expired"] | UnsetType | None = UNSET
    version: int | UnsetType = UNSET
    box: bool | UnsetType = UNSET
    ids: bool | UnsetType = UNSET
    min_zoom: bool | UnsetType = UNSET
    rights: bool | UnsetType = UNSET
    filter: bool | UnsetType = UNSET
    sample: bool | UnsetType = UNSET
    sees: bool | UnsetType = UNSET


class Ready(Struct, frozen=True):
    """What the node is, and whether it takes updates and viewers: 200 if so, 503 while its world is not whole."""

    degraded: bool
    troubles: dict[str, str]  # what it does without for now -> why, in a word; updates and viewers are served all the same
    whole: bool  # nothing of the world is missing that a store has
    node: str
    epoch: str
    world: str
    engine: str
    entities: int
