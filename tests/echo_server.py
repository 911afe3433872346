"""An echo server made of the gateway's own connection class, for conformance suites and tests.

    python -m tests.echo_server --port 9001

Law: nothing of the protocol is here; what a suite judges is the gateway's code. Text and binary are taken alike, on any
path and with any subprotocol, and messages may be long.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import uvloop

from realtime.config import Config, LimitsConfig
from realtime.gateway.connection import Connection, Handler
from realtime.gateway.handshake import Endpoint
from realtime.gateway.websocket import Listener, PublicGet, listen

T = TypeVar("T")

MIXED = Endpoint(path=None, subprotocols=None, is_mixed=True)

# Suites send 16 MiB in one message, 4 MiB in 64 kB pieces of 64 bytes, and read when they please.
GENEROUS = LimitsConfig(
    message_bytes_before_identify=64 * 1024 * 1024,
    message_bytes=64 * 1024 * 1024,
    fragments=1_000_000,
    control_lane_bytes=256 * 1024 * 1024,
    write_stall_s=60.0,
)


class Echo:
    """Sends back every message."""

    def __init__(self) -> None:
        self.connection: Connection | None = None

    def on_open(self, connection: Connection) -> None:
        self.connection = connection
        connection.identified()

    def on_message(self, data: str | bytes) -> None:
        assert self.connection is not None
        self.connection.send_control(data)

    def on_writable(self) -> None:
        """Nothing waits here."""

    def on_close(self, code: int) -> None:
        self.connection = None


class Running:
    """A listener in a thread of its own, under either event loop.

    `limits` are settings by name. `counts` has what the listener counted, `closed` what the handlers' `on_close` got.
    """

    def __init__(
        self,
        handler: Callable[[], Handler] = Echo,
        *,
        loop: str = "asyncio",
        endpoint: Endpoint = MIXED,
        public_get: PublicGet = lambda path, headers: None,
        base: LimitsConfig | None = None,
        origins: list[str] | None = None,
        **limits: float,
    ) -> None:
        config = Config()
        server = msgspec.structs.replace(config.server, port=0, origins=origins or [])
        self.limits = msgspec.structs.replace(base or config.limits, **limits)
        self.config = msgspec.structs.replace(config, server=server, limits=self.limits)
        self.counts: Counter[str] = Counter()
        self.closed: list[int] = []
        self._handler = handler
        self._endpoint = endpoint
        self._public_get = public_get
        self._new_loop = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.errors: list[dict[str, Any]] = []  # what reached the loop's exception handler
        self.listener: Listener | None = None
        self.port = 0

    def _make_handler(self) -> Handler:
        return _Noting(self._handler(), self.closed)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._new_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda loop, context: self.errors.append(context))
        self._stop = asyncio.Event()
        self.listener = await listen(
            self.config, self._make_handler, public_get=self._public_get, count=self._count, endpoint=self._endpoint
        )
        self.port = self.listener.port
        self._ready.set()
        await self._stop.wait()
        await self.listener.aclose()

    def _count(self, name: str) -> None:
        self.counts[name] += 1

    def call(self, function: Callable[[Listener], T]) -> T:
        """Run a function of the listener in the server's thread; return what it returns."""

        async def call() -> T:
            assert self.listener is not None
            return function(self.listener)

        return self.run(call())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the server's loop; return what it returns."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10), "the server did not start"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._loop is not None and self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the server did not stop"
        assert kind is not None or not self.errors, self.errors


class _Noting:
    """A handler whose end is noted."""

    def __init__(self, handler: Handler, closed: list[int]) -> None:
        self.inner = handler
        self._closed = closed
        self.on_open = handler.on_open
        self.on_message = handler.on_message
        self.on_writable = handler.on_writable

    def on_close(self, code: int) -> None:
        self._closed.append(code)
        self.inner.on_close(code)


async def _serve_forever(host: str, port: int) -> None:
    config = Config()
    server = msgspec.structs.replace(config.server, host=host, port=port)
    listener = await listen(msgspec.structs.replace(config, server=server, limits=GENEROUS), Echo, endpoint=MIXED)
    print(f"ws://{host}:{listener.port}/", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await listener.aclose()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="uvloop")
    options = parser.parse_args()
    new_loop = uvloop.new_event_loop if options.loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        try:
            runner.run(_serve_forever(options.host, options.port))
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
