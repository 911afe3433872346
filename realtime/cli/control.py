"""What a supervisor and the processes that it started say to each other: a line of JSON each, over a socket of their own.

Law: nothing of it is on a command line or in the environment, as a configuration may hold tokens. A worker whose
supervisor is gone ends by itself.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from msgspec import Struct

from realtime.cluster.workers import Place
from realtime.config import Config

LINE_BYTES_MAX = 64 * 1024 * 1024

T = TypeVar("T")


class Plan(Struct, frozen=True, tag="plan"):
    """The supervisor's first word."""

    config: Config
    place: Place


class Holders(Struct, frozen=True, tag="holders"):
    """To the hub: those of the others that still hold the world."""

    numbers: list[int]


class Drain(Struct, frozen=True, tag="drain"):
    """Ask the clients to go, and end; the hub waits for `Finish` before it does."""


class Finish(Struct, frozen=True, tag="finish"):
    """To the hub: the others have ended."""


class AtOnce(Struct, frozen=True, tag="at_once"):
    """End now."""


class Ready(Struct, frozen=True, tag="ready"):
    """To the supervisor: the ports are open."""

    url: str
    http_url: str | None
    http_port: int
    engine: str


class Failed(Struct, frozen=True, tag="failed"):
    """To the supervisor: last words."""

    code: int
    message: str


ToWorker = Plan | Holders | Drain | Finish | AtOnce
ToSupervisor = Ready | Failed

to_worker: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)
to_supervisor: msgspec.json.Decoder[ToSupervisor] = msgspec.json.Decoder(ToSupervisor)


def line(message: ToWorker | ToSupervisor) -> bytes:
    """Return a message as it is written."""
    return msgspec.json.encode(message) + b"\n"


async def read(reader: asyncio.StreamReader, decoder: msgspec.json.Decoder[T]) -> T | None:
    """Return the next message; None: the other side is gone."""
    try:
        text = await reader.readline()
    except (ConnectionError, ValueError):
        return None
    return decoder.decode(text) if text.endswith(b"\n") else None
