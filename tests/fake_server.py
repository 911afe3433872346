"""A server that says what a test tells it to: for the client's tests, in process, on a free port.

Law: nothing here knows what is right; a `Peer` is one connection, and every message in either direction is the test's business.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from realtime.client import Backoff, Client

T = TypeVar("T")

LIMITS = {"message_bytes": 4096, "have_entities": 100, "views_per_s": 1000.0, "entities_per_view": 1000}
BOX = [0.0, 0.0, 1.0, 1.0]
WITHIN_S = 20.0  # whatever a test waits for is there long before, or never


def feature(id: str, version: int = 1, lon: float = 0, **properties: Any) -> dict[str, Any]:
    """Return a point as it stands in `enter`."""
    geometry = {"type": "Point", "coordinates": [lon, 0]}
    return {"type": "Feature", "id": id, "version": version, "geometry": geometry, "properties": properties}


class Peer:
    """One connection, as the server has it."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.is_text = connection.subprotocol != "realtime.v1.msgpack"
        self.seq = 0

    async def receive(self) -> dict[str, Any]:
        """Return the client's next message."""
        async with asyncio.timeout(WITHIN_S):
            data = await self.connection.recv(decode=False)
        return msgspec.json.decode(data) if self.is_text else msgspec.msgpack.decode(data)

    async def expect(self, type: str) -> dict[str, Any]:
        """Return the client's next message, which must be of this type."""
        message = await self.receive()
        assert message["type"] == type, message
        return message

    def encode(self, message: dict[str, Any]) -> bytes:
        return msgspec.json.encode(message) if self.is_text else msgspec.msgpack.encode(message)

    async def send(self, type: str, **members: Any) -> None:
        await self.connection.send(self.encode({"type": type} | members), text=self.is_text)

    async def welcome(self, world: str = "w1", **limits: Any) -> dict[str, Any]:
        """Take the `identify` and welcome the client; return what it said."""
        identify = await self.expect("identify")
        await self.send(
            "welcome", protocol=1, session="s", user=None, node="n", epoch="e", world=world, limits=LIMITS | limits, unknown="member"
        )
        return identify

    async def delta(self, **members: Any) -> None:
        """Send the next delta."""
        self.seq += 1
        await self.send("delta", seq=self.seq, **members)

    async def show(self, *features: dict[str, Any], world: str = "w1", **limits: Any) -> dict[str, Any]:
        """Welcome the client and answer its first view with a reset and these; return the view."""
        await self.welcome(world, **limits)
        view = await self.expect("view")
        await self.delta(view=view["id"], reset=True, enter=list(features), total=len(features), sampled=1)
        return view

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self.connection.close(code, reason)

    def reset(self) -> None:
        """Cut the connection with an RST."""
        sock = self.connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.transport.abort()

    async def wait_gone(self) -> int:
        """Wait until the client has closed the connection; return its close code."""
        async with asyncio.timeout(WITHIN_S):
            try:
                while True:
                    await self.connection.recv()
            except ConnectionClosed:
                return self.connection.close_code or 1006


class FakeServer:
    """Accepts connections, one `Peer` each."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.accepted = 0
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._accept,
            "127.0.0.1",
            self.port,
            subprotocols=[Subprotocol("realtime.v1.json"), Subprotocol("realtime.v1.msgpack")],
            compression=None,
            ping_interval=None,
            close_timeout=1,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    async def peer(self) -> Peer:
        """Return the next connection."""
        async with asyncio.timeout(WITHIN_S):
            return await self._peers.get()

    async def _accept(self, connection: ServerConnection) -> None:
        self.accepted += 1
        self._peers.put_nowait(Peer(connection))
        await connection.wait_closed()


def client_of(server: FakeServer, **options: Any) -> Client:
    """Return a client that comes back before a test notices."""
    return Client(server.url, **({"backoff": Backoff(base_s=0.001, max_s=0.01)} | options))


async def looking(server: FakeServer, client: Client, *features: dict[str, Any]) -> tuple[Peer, dict[str, Any]]:
    """Let the client look at `BOX` and see these; return the connection and the view."""
    look = asyncio.create_task(client.look(BOX))
    peer = await server.peer()
    view = await peer.show(*features)
    await within(look)
    return peer, view


async def resumed(server: FakeServer, peer: Peer, **limits: Any) -> tuple[Peer, dict[str, Any]]:
    """Cut the connection; return the next one and its first view."""
    peer.reset()
    back = await server.peer()
    await back.welcome(**limits)
    return back, await back.expect("view")


async def within(awaitable: Awaitable[T]) -> T:
    async with asyncio.timeout(WITHIN_S):
        return await awaitable


async def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so that nobody tells of; a matter of turns of the loop."""
    async with asyncio.timeout(WITHIN_S):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
