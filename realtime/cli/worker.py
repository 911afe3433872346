"""One of the processes of `realtime serve --workers`: `python -m realtime.cli.worker NUMBER DESCRIPTOR`.

The number is its place, for whoever reads a list of processes; the descriptor is an open socket, to the supervisor.

Law: it does what its supervisor says, and ends when that is gone. SIGTERM asks its clients to go, and then it ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from realtime.cli import control
from realtime.cli.exits import Exit
from realtime.cli.serve import configure_process, stop_server, why_not
from realtime.errors import ConfigError

if TYPE_CHECKING:
    from realtime.server import Server

logger = logging.getLogger(__name__)


class Worker:
    """This process, from its plan to its end."""

    def __init__(self, plan: control.Plan, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._plan = plan
        self._reader = reader
        self._writer = writer
        self._drain = asyncio.Event()
        self._finish = asyncio.Event()
        self._at_once = asyncio.Event()
        self._waits_for_others = False  # a hub whose supervisor said to drain
        self._is_alone = False  # the supervisor is gone, and tidies nothing up

    async def run(self) -> Exit:
        """Serve until told to end."""
        from realtime.server import Server

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain.set)
        try:
            server = Server(self._plan.config, place=self._plan.place)
        except ConfigError as error:
            return await self._fail(Exit.USAGE, f"bad configuration: {error}")
        listening = asyncio.create_task(self._listen(server))
        starting = asyncio.create_task(server.start())
        told = asyncio.create_task(self._drain.wait())
        await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return Exit.DONE
        try:
            starting.result()
        except OSError as error:
            return await self._fail(Exit.FAILED, why_not(self._plan.config, error, ("http",)))
        self._say_ready(server)
        try:
            await told
            logger.info("ending: %d sessions are asked to go", server.sessions)
            await server.drain(self._at_once.is_set)
            if self._waits_for_others and self._plan.place.is_hub:
                await self._finish.wait()
        finally:
            await stop_server(server, self._at_once)
            listening.cancel()
            if self._is_alone and self._plan.place.is_hub:
                with suppress(OSError):
                    os.rmdir(os.path.dirname(self._plan.place.path))
        return Exit.DONE

    def _say_ready(self, server: Server) -> None:
        http_port = int((server.http_url or ":0").rpartition(":")[2])
        self._writer.write(control.line(control.Ready(server.url, server.http_url, http_port, server.node.engine_kind)))

    async def _fail(self, code: Exit, message: str) -> Exit:
        self._writer.write(control.line(control.Failed(code, message)))
        await self._writer.drain()
        return code

    async def _listen(self, server: Server) -> None:
        """Do what the supervisor says, as long as there is one."""
        while True:
            match await control.read(self._reader, control.to_worker):
                case control.Holders(numbers):
                    server.set_holders(numbers)
                case control.Drain():
                    self._waits_for_others = True
                    self._drain.set()
                case control.Finish():
                    self._finish.set()
                case control.AtOnce():
                    self._end()
                case None:
                    self._is_alone = True
                    if not self._drain.is_set():
                        logger.warning("the supervisor is gone")
                    self._finish.set()
                    self._drain.set()
                    return

    def _end(self) -> None:
        for event in (self._at_once, self._finish, self._drain):
            event.set()


async def _run(plan: control.Plan, one: socket.socket, rest: bytes) -> Exit:
    reader, writer = await asyncio.open_connection(sock=one, limit=control.LINE_BYTES_MAX)
    if rest:
        reader.feed_data(rest)
    return await Worker(plan, reader, writer).run()


def _read_plan(one: socket.socket) -> tuple[control.Plan, bytes] | None:
    """Return the first line, and what came behind it; None if there is none."""
    read = bytearray()
    while b"\n" not in read:
        piece = one.recv(64 * 1024)
        if not piece:
            return None
        read += piece
    text, _, rest = bytes(read).partition(b"\n")
    plan = control.to_worker.decode(text)
    assert isinstance(plan, control.Plan)
    return plan, rest


def main() -> None:
    """Be a worker until the end."""
    one = socket.socket(fileno=int(sys.argv[2]))
    found = _read_plan(one)
    if found is None:
        sys.exit(Exit.FAILED)
    plan, rest = found
    one.setblocking(False)
    configure_process(f"worker {plan.place.number} ")
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_run(plan, one, rest))
    sys.exit(code)


if __name__ == "__main__":
    main()
