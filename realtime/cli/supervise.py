"""`realtime serve --workers N`: N processes on one port, kept alive.

The supervisor serves nobody. It keeps the port's number, starts the processes, starts those again that end, and ends them
all when it is told to. See docs/workers.md.

Law: stdout gets the addresses once, when all are ready. A process that ends is started again, after a pause that grows while
it keeps ending; only one that fails before all have been ready ends the command, with its exit code. Whoever outlives the
supervisor ends by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from realtime.cli import control
from realtime.cli.exits import Exit, fail
from realtime.cli.serve import configure_process, warn_of_exposure, why_not
from realtime.cluster.workers import ENTITY_BYTES_MAX, HUB, MESSAGE_BYTES_MAX, Place, make_directory, socket_path
from realtime.config import Config
from realtime.errors import ConfigError

PAUSE_S = (0.1, 5.0)  # before a process is started again: the first, and the longest
STEADY_S = 10.0  # a process that was ready for so long is started again after the first pause
AT_ONCE_S = 2.0  # what closing everything may take after the second signal
PATIENCE_S = 10.0  # beyond `drain_s`, for a process that was told to end

logger = logging.getLogger(__name__)


class Worker:
    """One place, and the process that has it at the moment."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.ready: control.Ready | None = None
        self.failed: control.Failed | None = None
        self.ready_at = 0.0

    def say(self, message: control.ToWorker) -> None:
        """Tell it something, if there is somebody to hear it."""
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(control.line(message))


class Supervisor:
    """All of them."""

    def __init__(self, config: Config, path: str) -> None:
        self._config = config
        self._path = path
        self._clock_offset_s = time.time() - time.monotonic()
        self._workers = [Worker(number) for number in range(config.server.workers)]
        self._http_port = config.http.port
        self._told = 0  # how often it was told to end
        self._is_ending = asyncio.Event()
        self._is_at_once = asyncio.Event()
        self._has_changed = asyncio.Event()
        self._have_been_ready = False  # all of them, at once
        self._over: control.Failed | None = None  # what keeps them from starting

    # From start to end

    async def run(self) -> control.Failed | None:
        """Keep all of them alive until told to end; return what kept them from starting, if something did."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        keeping = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
        try:
            await self._wait_ready()
            if self._have_been_ready:
                self._announce()
            await self._is_ending.wait()
            await self._end(keeping)
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            await self._kill()
        return self._over

    def _on_signal(self) -> None:
        self._told += 1
        self._is_ending.set()
        self._has_changed.set()
        if self._told > 1:
            self._is_at_once.set()

    async def _wait_ready(self) -> None:
        while not self._is_ending.is_set():
            if all(worker.ready is not None for worker in self._workers):
                self._have_been_ready = True
                return
            self._has_changed.clear()
            await self._has_changed.wait()

    def _announce(self) -> None:
        ready = self._workers[HUB].ready
        assert ready is not None
        print(ready.url)
        if ready.http_url is not None:
            print(ready.http_url)
        sys.stdout.flush()
        logger.info("serving with the %s engine in %d processes; supervisor %d", ready.engine, len(self._workers), os.getpid())
        warn_of_exposure(self._config)

    async def _end(self, keeping: list[asyncio.Task[None]]) -> None:
        """Let all drain, the hub last; whoever takes too long is killed."""
        for worker in self._workers:
            worker.say(control.Drain())
        at_once = asyncio.create_task(self._hurry())
        stop = asyncio.get_running_loop().time() + self._config.server.drain_s + PATIENCE_S
        await self._wait(keeping[HUB + 1 :], stop)
        self._workers[HUB].say(control.Finish())
        await self._wait(keeping, stop)
        at_once.cancel()

    async def _hurry(self) -> None:
        await self._is_at_once.wait()
        for worker in self._workers:
            worker.say(control.AtOnce())
        await asyncio.sleep(AT_ONCE_S)
        await self._kill()

    async def _wait(self, tasks: Iterable[asyncio.Task[None]], stop: float) -> None:
        waited = [task for task in tasks if not task.done()]
        if waited:
            await asyncio.wait(waited, timeout=max(stop - asyncio.get_running_loop().time(), 0.0))

    async def _kill(self) -> None:
        for worker in self._workers:
            if worker.process is not None and worker.process.returncode is None:
                logger.warning("worker %d does not end and is killed", worker.number)
                with suppress(ProcessLookupError):
                    worker.process.kill()
                await worker.process.wait()

    # One process

    async def _keep(self, worker: Worker) -> None:
        """Start it, and again whenever it ends."""
        pause = PAUSE_S[0]
        while not self._is_ending.is_set():
            try:
                code = await self._run_once(worker)
            except OSError as error:  # of a machine that has no more processes, or files, to give
                code, worker.failed = Exit.FAILED, control.Failed(Exit.FAILED, f"cannot be started: {error.strerror or error}")
            if self._is_ending.is_set():
                return
            if not self._have_been_ready:
                self._give_up(worker, code)
                return
            if worker.ready_at and time.monotonic() - worker.ready_at >= STEADY_S:
                pause = PAUSE_S[0]
            why = worker.failed.message if worker.failed is not None else _how(code)
            logger.warning("worker %d (%s) is started again in %g s", worker.number, why, pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_ending.wait(), pause)
            pause = min(2 * pause, PAUSE_S[1])

    def _give_up(self, worker: Worker, code: int) -> None:
        if self._over is None:
            self._over = worker.failed or control.Failed(Exit.FAILED, f"worker {worker.number} {_how(code)} before it was ready")
        self._is_ending.set()
        self._has_changed.set()

    async def _run_once(self, worker: Worker) -> int:
        """Run a process to its end; return its exit code."""
        worker.ready = worker.failed = None
        worker.ready_at = 0.0
        ours, theirs = socket.socketpair()
        try:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            worker.process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "realtime.cli.worker", str(worker.number), str(theirs.fileno()),
                pass_fds=(theirs.fileno(),), env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr.fileno(),
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, worker.writer = await asyncio.open_connection(sock=ours, limit=control.LINE_BYTES_MAX)
        try:
            worker.say(control.Plan(self._config_of(worker), self._place_of(worker)))
            if self._is_ending.is_set():
                worker.say(control.Drain())
            while (message := await control.read(reader, control.to_supervisor)) is not None:
                self._hear(worker, message)
            return await worker.process.wait()
        finally:
            worker.writer.close()
            worker.writer = worker.ready = None
            self._workers[HUB].say(control.Holders(self._holders()))

    def _hear(self, worker: Worker, message: control.ToSupervisor) -> None:
        if isinstance(message, control.Failed):
            worker.failed = message
            return
        worker.ready = message
        worker.ready_at = time.monotonic()
        if worker.number == HUB:
            self._http_port = message.http_port
        if self._have_been_ready:
            logger.info("worker %d is back", worker.number)
        self._has_changed.set()

    def _holders(self) -> list[int]:
        """Return who holds the whole world, beside the hub."""
        return [worker.number for worker in self._workers if worker.number != HUB and worker.ready is not None]

    def _place_of(self, worker: Worker) -> Place:
        holders = self._holders() if worker.number == HUB else []
        return Place(worker.number, len(self._workers), self._path, self._clock_offset_s, holders)

    def _config_of(self, worker: Worker) -> Config:
        """Return what a process is configured with: the API, Redis and the file are the hub's alone."""
        config, replace = self._config, msgspec.structs.replace
        if worker.number == HUB:
            return replace(config, http=replace(config.http, port=self._http_port))
        return replace(
            config,
            http=replace(config.http, enabled=False),
            redis=replace(config.redis, url=""),
            store=replace(config.store, path=""),
        )


def serve_workers(config: Config) -> None:
    """Serve with several processes until a signal; end the command if they cannot be started."""
    configure_process("")
    try:
        _check(config)
        directory = make_directory()
    except ConfigError as error:
        fail(Exit.USAGE, f"bad configuration: {error}")
    try:
        kept = reserve(config.server.host, config.server.port)
    except OSError as error:
        directory.cleanup()
        fail(Exit.FAILED, why_not(config, error, ("server",)))
    port = kept[0].getsockname()[1]
    config = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, port=port))
    try:
        over = asyncio.run(Supervisor(config, socket_path(directory.name)).run())
    finally:
        for one in kept:
            one.close()
        directory.cleanup()
    if over is not None:
        fail(Exit(over.code), over.message)


def _check(config: Config) -> None:
    """Raise `ConfigError` for what frames between processes have no room for."""
    for name, most in (("entity_bytes", ENTITY_BYTES_MAX), ("message_bytes", MESSAGE_BYTES_MAX)):
        if getattr(config.limits, name) > most:
            raise ConfigError(f"limits.{name}: with server.workers above 1 at most {most:,} are allowed")


def reserve(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of `host`, bound to one port and not listening: it keeps the port for this user's workers.

    Bound first and shared afterwards, so that a port on which anybody listens already is refused. Raises OSError.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    kept: list[socket.socket] = []
    missing: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        chosen = port or (kept[0].getsockname()[1] if kept else 0)
        try:
            one = socket.socket(family, kind, protocol)
            kept.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address[0], chosen, *address[2:]))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as error:
            kept.pop().close()
            missing = error
            if error.errno not in _ABSENT:
                break
    if missing is not None and (not kept or missing.errno not in _ABSENT):
        for one in kept:
            one.close()
        raise missing
    return kept


_ABSENT = (97, 99)  # EAFNOSUPPORT, EADDRNOTAVAIL: a machine may know ::1 as localhost and have no IPv6


def _how(code: int) -> str:
    """Say how a process has ended."""
    if code < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with {code}"
