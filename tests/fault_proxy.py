"""A TCP proxy that is a bad network: slow, stalled, cut at a byte, cut when the server has done it, half open.

async with FaultProxy(server.host, server.port) as proxy:
    proxy.url                           for `redis.url`
    proxy.latency_s = 0.1               each piece, in each direction
    proxy.is_stalled = True             nothing passes, nothing is closed; new connections are taken and left alone
    proxy.cut_after(bytes, "up")        cut every connection once so many more bytes went that way
    proxy.cut_after_execution()         the next request passes, its answer does not: the connection is cut instead
    proxy.half_open()                   the server sees the connections closed, the clients do not
    proxy.cut()                         cut every connection now
    proxy.is_closed = True              new connections are cut at once
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

Direction = Literal["up", "down"]  # to the server, from the server
PIECE_BYTES = 64 * 1024


class _Pair:
    """One client's connection and the server's."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.is_deaf = False  # the client's side stays open, and nothing comes of it

    def cut(self) -> None:
        for writer in (self.client, self.server):
            if writer is not None:
                writer.transport.abort()


class FaultProxy:
    """See the top of the file."""

    def __init__(self, host: str, port: int, socket_path: str = "") -> None:
        self.target = (host, port)
        self.latency_s = 0.0
        self.is_closed = False
        self.connections = 0  # taken so far
        self.executed = 0  # requests whose answer was cut off
        self._socket_path = socket_path
        self._flows = asyncio.Event()
        self._flows.set()
        self._left: dict[Direction, int] = {}
        self._cuts_answer = False
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.close()
        self.cut()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """For `redis.url`."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many clients are connected."""
        return len(self._pairs)

    @property
    def is_stalled(self) -> bool:
        """Whether nothing passes."""
        return not self._flows.is_set()

    @is_stalled.setter
    def is_stalled(self, value: bool) -> None:
        if value:
            self._flows.clear()
        else:
            self._flows.set()

    def cut(self) -> None:
        """Cut every connection now, by a reset."""
        for pair in list(self._pairs):
            pair.cut()

    def cut_after(self, count_bytes: int, direction: Direction) -> None:
        """Cut every connection once so many more bytes have passed in one direction."""
        self._left[direction] = count_bytes

    def cut_after_execution(self) -> None:
        """Let the next request through, and cut its connection when the answer comes."""
        self._cuts_answer = True

    def half_open(self) -> None:
        """Close the server's side of every connection, and leave the clients' open and silent."""
        for pair in list(self._pairs):
            pair.is_deaf = True
            if pair.server is not None:
                pair.server.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(writer)
        self._pairs.add(pair)
        self.connections += 1
        try:
            if self.is_closed:
                return
            await self._flows.wait()
            opened = asyncio.open_unix_connection(self._socket_path) if self._socket_path else asyncio.open_connection(*self.target)
            upstream, pair.server = await opened
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(pair, reader, pair.server, "up"))
                group.create_task(self._pass(pair, upstream, writer, "down"))
        except* OSError:
            pass  # that is what a network does
        finally:
            pair.cut()
            self._pairs.discard(pair)
            with suppress(OSError):
                await writer.wait_closed()

    async def _pass(self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def deliver() -> None:
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._flows.wait()
                if not piece:
                    raise ConnectionResetError
                if not pair.is_deaf:
                    self._write(writer, piece, direction)
                    await writer.drain()

        delivery = asyncio.ensure_future(deliver())
        try:
            while True:
                read = asyncio.ensure_future(reader.read(PIECE_BYTES))
                await asyncio.wait((read, delivery), return_when=asyncio.FIRST_COMPLETED)
                if delivery.done():
                    read.cancel()
                    await delivery
                piece = await read
                if pair.is_deaf and not piece and direction == "down":
                    await asyncio.Event().wait()  # until the client goes
                if piece and direction == "down" and self._cuts_answer:
                    self._cuts_answer = False
                    self.executed += 1
                    raise ConnectionResetError
                # Pieces on their way do not hold each other up: latency is no limit on how much flows.
                pieces.put_nowait((loop.time() + self.latency_s, piece))
        finally:
            delivery.cancel()

    def _write(self, writer: asyncio.StreamWriter, piece: bytes, direction: Direction) -> None:
        left = self._left.get(direction)
        if left is not None:
            if left <= len(piece):
                del self._left[direction]
                writer.write(piece[:left])
                raise ConnectionResetError
            self._left[direction] = left - len(piece)
        writer.write(piece)
