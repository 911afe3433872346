"""A node with its API for the tests: in memory as an ASGI app, or on a port of its own; and sessions without sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec

from realtime.config import Config
from realtime.counters import Counters
from realtime.errors import CloseCode
from realtime.gateway.api import make_app
from realtime.gateway.flush import Flusher, Pump
from realtime.gateway.http import ApiServer
from realtime.gateway.identity import ConfiguredIdentity
from realtime.gateway.session import Gate, Session
from realtime.node import Node


def configured(limits: dict[str, Any] | None = None, **http: Any) -> Config:
    """Return a configuration with a free port and these settings of `http` and `limits`."""
    config = Config()
    return msgspec.structs.replace(
        config,
        http=msgspec.structs.replace(config.http, **({"port": 0} | http)),
        limits=msgspec.structs.replace(config.limits, **(limits or {})),
    )


@asynccontextmanager
async def open_gate(config: Config) -> AsyncIterator[Gate]:
    node = Node(config, Counters())
    flusher = Flusher(node)
    try:
        yield Gate(node, flusher, ConfiguredIdentity(config.identity, True))
        node.engine.verify()
    finally:
        flusher.close()
        node.close()


@asynccontextmanager
async def in_memory(limits: dict[str, Any] | None = None, **http: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Gate]]:
    """Yield a client of the ASGI app, without sockets, and the gate behind it."""
    async with open_gate(configured(limits, **http)) as gate:
        transport = httpx.ASGITransport(make_app(gate), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client, gate


@asynccontextmanager
async def on_port(limits: dict[str, Any] | None = None, **http: Any) -> AsyncIterator[tuple[ApiServer, Gate]]:
    """Yield a server on a free port and the gate behind it."""
    config = configured(limits, **http)
    async with open_gate(config) as gate:
        server = ApiServer(gate)
        await server.start(config)
        try:
            yield server, gate
        finally:
            await server.stop()


class Paper:
    """A connection that keeps what is written to it."""

    is_text = True
    is_paused = False
    peer = "192.0.2.7"
    message_bytes_max = 0

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []

    def send_control(self, data: bytes) -> None:
        self.received.append(json.loads(data))

    send_state = send_control

    def let_pump(self, pump: Pump, session: int) -> None:
        """There is no socket: everything is done by hand."""

    def hold_pump(self) -> None:
        """There is none to hold."""

    def close(self, code: CloseCode, reason: str = "") -> None:
        raise AssertionError(f"closed with {code}: {reason}")

    def identified(self) -> None:
        pass

    def hold_reading(self, is_held: bool) -> None:
        pass


def join(gate: Gate, **view: Any) -> tuple[Session, Paper]:
    """Return a session that has identified itself and asked for a view."""
    paper = Paper()
    session = gate.new_session()
    session.on_open(paper)
    session.on_message(json.dumps({"type": "identify", "client": "test/1"}))
    session.on_message(json.dumps({"type": "view", "bbox": [-180, -90, 180, 90]} | view))
    return session, paper


def feature(id: str, lon: float = 0.0, lat: float = 0.0, /, **members: Any) -> dict[str, Any]:
    """Return a Feature at a point; `properties` and the rest are its members."""
    return {"type": "Feature", "id": id, "geometry": {"type": "Point", "coordinates": [lon, lat]}, "properties": {}} | members


def ndjson(updates: list[Any]) -> bytes:
    """Return updates one per line."""
    return b"".join(json.dumps(update).encode() + b"\n" for update in updates)


NDJSON = {"content-type": "application/x-ndjson"}
