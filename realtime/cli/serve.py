"""`realtime serve`: the server as a process of its own.

Law: stdout carries the addresses and nothing else, once they can be connected to. The first SIGTERM or Ctrl-C asks the
clients to go and waits for them up to `server.drain_s`; a second one ends the process at once. Both exit with 0.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from realtime.cli.exits import Exit, fail
from realtime.cli.options import ConfigFile, Settings, configured
from realtime.cluster.log import FileRefused
from realtime.config import Config, Flag
from realtime.errors import ConfigError

if TYPE_CHECKING:
    from realtime.cluster.workers import Place
    from realtime.server import Server

AT_ONCE_S = 0.2  # what closing everything may still take after the second signal

logger = logging.getLogger(__name__)


def serve(
    file: ConfigFile = None,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="Address the public port binds (server.host).")] = None,
    port: Annotated[str | None, typer.Option(metavar="N", help="Public port, for viewers (server.port); 0 picks a free one.")] = None,
    http_port: Annotated[str | None, typer.Option(metavar="N", help="API port, for publishers (http.port); 0 picks a free one.")] = None,
    workers: Annotated[str | None, typer.Option(metavar="N", help="Processes that share the public port (server.workers).")] = None,
    settings: Settings = None,
) -> None:
    """Run the server.

    When it is ready it prints two lines, where viewers connect
    (ws://HOST:PORT/ws) and where the API is (http://HOST:PORT);
    everything else goes to stderr. SIGTERM or Ctrl-C ends it,
    after the clients were asked to go; a second one at once.

    Of a setting's sources the later wins: the defaults, --config,
    REALTIME_SECTION__KEY in the environment, --set, --host and ports.
    """
    flags = {
        ("--host", "server.host"): host,
        ("--port", "server.port"): port,
        ("--http-port", "http.port"): http_port,
        ("--workers", "server.workers"): workers,
    }
    config = configured(file, settings, [Flag(*names, text) for names, text in flags.items() if text is not None])
    if config.server.workers > 1:
        from realtime.cli.supervise import serve_workers

        serve_workers(config)
    else:
        serve_until_told(config, _announce)


def serve_until_told(config: Config, live: Callable[[Server], Awaitable[None]], place: Place | None = None) -> None:
    """Serve, with `live(server)` running beside it, until a signal; end the command if it cannot be started."""
    configure_process("")
    if config.server.workers > 1 and place is None:
        logger.warning("server.workers is for `realtime serve` alone: this is one process")
    import uvloop

    server = make_server(config, place)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        error = runner.run(_run(server, live))
    if error is not None:
        fail(Exit.FAILED, why_not(config, error))


def configure_process(prefix: str) -> None:
    """Prepare this process for serving; `prefix` stands before each line of its log."""
    _configure_logging(prefix)
    _raise_file_limit()
    # The world is hundreds of thousands of objects that reference counting frees; a full collection looks at all of them
    # and holds the loop for a tenth of a second. Cycles still go, rarely the oldest.
    gc.set_threshold(50_000, 20, 100)


def make_server(config: Config, place: Place | None = None) -> Server:
    """Return the server of a configuration, not started; end the command if one of its parts refuses its settings."""
    from realtime.server import Server

    try:
        return Server(config, place=place)
    except ConfigError as error:
        fail(Exit.USAGE, f"bad configuration: {error}")


async def _run(server: Server, live: Callable[[Server], Awaitable[None]]) -> OSError | None:
    """Serve until told to end. Return what keeps it from starting, if something does."""
    stop, at_once = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (at_once if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    starting = asyncio.ensure_future(server.start())
    told = asyncio.ensure_future(stop.wait())
    await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # told to end before the world was whole
        starting.cancel()
        await asyncio.wait({starting})
        return None
    try:
        starting.result()
    except OSError as error:
        return error
    living = asyncio.ensure_future(live(server))
    try:
        await asyncio.wait({living, told}, return_when=asyncio.FIRST_COMPLETED)
        if living.done():
            living.result()
        await told
        living.cancel()
        logger.info("ending: %d sessions are asked to go and have %g s", server.sessions, server.config.server.drain_s)
        await server.drain(at_once.is_set)
    finally:
        await stop_server(server, at_once)
    return None


async def stop_server(server: Server, at_once: asyncio.Event) -> None:
    """Close everything, and wait until it is; after the second signal not for long."""
    stopping = asyncio.ensure_future(server.stop())
    hurry = asyncio.ensure_future(at_once.wait())
    await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    await asyncio.wait({stopping}, timeout=AT_ONCE_S)
    if stopping.done():
        stopping.result()


async def _announce(server: Server) -> None:
    print(server.url)
    if server.http_url is not None:
        print(server.http_url)
    sys.stdout.flush()
    logger.info("serving with the %s engine; process %d", server.node.engine_kind, os.getpid())
    warn_of_exposure(server.config)


def warn_of_exposure(config: Config) -> None:
    """Say who gets in where more than this machine can connect."""
    from realtime.gateway.origin import is_loopback

    if not is_loopback(config.server.host) and config.identity.anonymous == "loopback":
        logger.warning("server.host is not loopback: only clients with a token get in, unless identity.anonymous is always")
    if config.http.enabled and not is_loopback(config.http.host):
        logger.warning("http.host is not loopback: whoever reaches the API port may publish and see everything")


def why_not(config: Config, error: OSError, sections: Sequence[str] = ("server", "http")) -> str:
    """Say which address cannot be bound, and why: those of `sections` are asked again, as the error itself may not name it."""
    if isinstance(error, FileRefused):
        return str(error)
    places = []
    if "server" in sections:
        places.append(("server", config.server.host, config.server.port))
    if "http" in sections and config.http.enabled:
        places.append(("http", config.http.host, config.http.port))
    for section, host, port in places:
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, address in found:
                with socket.socket(family, kind, protocol) as one:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    one.bind(address)
        except OSError as again:
            return f"cannot listen on {host}:{port} ({section}.host, {section}.port): {again.strerror or again}"
    return f"cannot listen: {error.strerror or error}"


def _configure_logging(prefix: str) -> None:
    """Log to stderr: the libraries from warnings on, ourselves from information on."""
    form = f"%(asctime)s %(levelname)s {prefix}%(name)s: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form)
    logging.getLogger("realtime").setLevel(logging.INFO)


def _raise_file_limit() -> None:
    """Allow as many open files, and so connections, as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        logger.warning("the limit of open files stays at %d: %s", soft, error)
