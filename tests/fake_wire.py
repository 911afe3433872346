"""Sessions on a wire that is none: what they write is kept, and a test says when the socket takes data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from realtime.config import Config, IdentityConfig, LimitsConfig, TokenConfig
from realtime.counters import Counters
from realtime.errors import CloseCode
from realtime.gateway.flush import Flusher, Pump
from realtime.gateway.identity import ConfiguredIdentity
from realtime.gateway.session import Gate, Session
from realtime.node import Node

WORLD = [-180, -90, 180, 90]
TOKENS = {
    "ann's": TokenConfig("ann", ["crew"], ["bus-*", "tram-1"]),
    "bob's": TokenConfig("bob"),
}


class FakeWire:
    """A connection without a socket; messages are kept decoded, in order, of both lanes."""

    peer = "192.0.2.7"

    def __init__(self, is_text: bool = True) -> None:
        self.is_text = is_text
        self.is_paused = False
        self.message_bytes_max = 0
        self.messages: list[dict[str, Any]] = []
        self.times: list[float] = []  # of the loop, for each message
        self.lanes: list[str] = []
        self.closed: CloseCode | None = None
        self.is_identified = False
        self.holds: list[bool] = []

    def send_control(self, data: bytes) -> None:
        self._keep(data, "control")

    def send_state(self, data: bytes) -> None:
        assert not self.is_paused, "a frame of the state lane was written while the socket took none"
        self._keep(data, "state")

    def _keep(self, data: bytes, lane: str) -> None:
        assert self.closed is None, "something was written after the close"
        self.messages.append((msgspec.json.decode if self.is_text else msgspec.msgpack.decode)(data))
        self.times.append(asyncio.get_running_loop().time())
        self.lanes.append(lane)

    def send_rest(self, rest: bytes) -> None:
        raise AssertionError("there is no socket for a pump")

    def let_pump(self, pump: Pump, session: int) -> None:
        """There is no socket: everything is done by hand."""

    def hold_pump(self) -> None:
        """There is none to hold."""

    def close(self, code: CloseCode, reason: str = "") -> None:
        assert self.closed is None, "closed twice"
        assert len(reason.encode()) <= 123
        self.closed = code

    def identified(self) -> None:
        self.is_identified = True

    def hold_reading(self, is_held: bool) -> None:
        self.holds.append(is_held)


class Viewer:
    """One client on its fake wire."""

    def __init__(self, gate: Gate, is_text: bool = True) -> None:
        self.wire = FakeWire(is_text)
        self.session: Session = gate.new_session()
        self.session.on_open(self.wire)

    def send(self, type: str, **members: Any) -> None:
        """Send one message."""
        message = {"type": type, **members}
        self.session.on_message(msgspec.json.encode(message).decode() if self.wire.is_text else msgspec.msgpack.encode(message))

    def got(self, *types: str) -> list[dict[str, Any]]:
        """Return what came so far of these types, of all if none is named."""
        return [message for message in self.wire.messages if not types or message["type"] in types]

    async def wait(self, type: str, count: int = 1) -> dict[str, Any]:
        """Return the `count`th message of a type once it is there."""
        await until(lambda: len(self.got(type)) >= count)
        return self.got(type)[count - 1]

    def pause(self) -> None:
        """The socket takes no more."""
        self.wire.is_paused = True

    def resume(self) -> None:
        """The socket takes data again."""
        self.wire.is_paused = False
        self.session.on_writable()

    def hang_up(self, code: int = 1000) -> None:
        """The connection is gone."""
        self.session.on_close(code)


def override(monkeypatch: pytest.MonkeyPatch, session: Session, name: str, call: Callable[..., Any]) -> None:
    """Replace a method of one session, which has no attributes of its own."""
    usual = getattr(Session, name)

    def choose(self: Session, *arguments: Any) -> Any:
        return call(*arguments) if self is session else usual(self, *arguments)

    monkeypatch.setattr(Session, name, choose)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so, which it must be soon."""
    with anyio.fail_after(10):
        while not is_so():  # noqa: ASYNC110  what is waited for is told to nobody
            await asyncio.sleep(0.001)


@asynccontextmanager
async def open_gate(anonymous: Any = "always", **limits: Any) -> AsyncIterator[Gate]:
    """Yield what sessions are made by. Rates are generous unless a limit says otherwise; at the end all invariants hold."""
    generous: dict[str, Any] = {"flush_interval_ms": 1.0, "views_per_s": 1e6, "messages_per_s": 1e6, "messages_burst": 10_000}
    config = Config(limits=msgspec.structs.replace(LimitsConfig(), **(generous | limits)), identity=IdentityConfig(anonymous, TOKENS))
    node = Node(config, Counters())
    flusher = Flusher(node)
    try:
        gate = Gate(node, flusher, ConfiguredIdentity(config.identity, False))
        yield gate
        await until(lambda: not gate.tasks)
        node.engine.verify()
    finally:
        flusher.close()
        node.close()


def bus(id: str = "bus-7", lon: float = 0, lat: float = 0, **members: Any) -> dict[str, Any]:
    """Return a Feature at a point."""
    return {"type": "Feature", "id": id, "geometry": {"type": "Point", "coordinates": [lon, lat]}, "properties": {}} | members
