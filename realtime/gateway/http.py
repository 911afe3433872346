"""The API's own port, in the loop that is running.

Law: no thread, no signal handler, no logger's configuration is touched; what was opened is closed. uvicorn's `Server`
would poll, log, and exit the process where a port is taken, so only its protocol is used.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from realtime.config import Config
from realtime.gateway.api import make_app
from realtime.gateway.http_connection import Port, Reader
from realtime.gateway.session import Gate

STOP_S = 1.0  # how long requests are given at `stop`
STOP_POLL_S = 0.01


class ApiServer:
    """The API on a port of its own."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._shared: Port | None = None
        self._servers: list[asyncio.Server] = []
        self._host = ""
        self.port = 0  # once started

    @property
    def url(self) -> str:
        """http://HOST:PORT; a wildcard address as loopback."""
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def start(self, config: Config) -> None:
        """Open the port. Raises OSError where it cannot be bound; nothing is left open then."""
        loop = asyncio.get_running_loop()
        self._host = config.http.host
        self._shared = shared = Port(make_app(self._gate), config, self._gate.node.counters)
        sockets = await bind(config.http.host, config.http.port)
        self.port = sockets[0].getsockname()[1]
        try:
            for one in sockets:
                self._servers.append(await loop.create_server(lambda: Reader(shared), sock=one, backlog=config.http.requests))
        except BaseException:
            await self.stop()
            for one in sockets:
                one.close()
            raise

    async def stop(self) -> None:
        """Close the port; requests that are being served have `STOP_S` to end."""
        for server in self._servers:
            server.close()
        if self._shared is not None:
            state = self._shared.state
            for connection in list(state.connections):
                connection.shutdown()
            await _wait(lambda: not state.connections and not state.tasks)
            for connection in list(state.connections):
                connection.transport.abort()
            await _wait(lambda: not state.tasks)  # those that read find their connections lost
            for task in list(state.tasks):  # and those that apply a long batch leave the rest of it
                task.cancel()
            await asyncio.gather(*state.tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        self._shared = None


async def _wait(is_over: Callable[[], bool]) -> None:
    """Return when `is_over()`, or after `STOP_S`."""
    loop = asyncio.get_running_loop()
    stop = loop.time() + STOP_S
    while not is_over() and loop.time() < stop:  # noqa: ASYNC110 - uvicorn's sets have no event
        await asyncio.sleep(STOP_POLL_S)


async def bind(host: str, port: int) -> list[socket.socket]:
    """Return a bound socket for each address of `host`, all on one port; port 0 picks a free one."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            chosen = port or (sockets[0].getsockname()[1] if sockets else 0)
            try:
                sockets.append(_bound(family, kind, protocol, (address[0], chosen, *address[2:])))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error  # a machine may know ::1 as localhost and have no IPv6
        if missing is not None and not sockets:
            raise missing
    except OSError:
        for one in sockets:
            one.close()
        raise
    return sockets


def _bound(family: int, kind: int, protocol: int, address: tuple[str | int, ...]) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.setblocking(False)
    except OSError:
        one.close()
        raise
    return one
