"""One connection of the API's port: uvicorn's HTTP/1.1 protocol over h11, made stricter.

Law: a connection costs bounded memory and bounded time: its head must be there in time, a peer that reads nothing is
cut, and one turn of the loop takes one small piece from each socket. What breaks HTTP is counted and answered with a
constant body, and never logged line by line.

h11 is lenient where it may be (a bare LF, a folded header), and uvicorn waits for a head, and for a reader, as long as
it takes: that is what is changed here.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from email.utils import formatdate
from http import HTTPStatus
from math import ceil
from time import time
from typing import Any

import h11
import msgspec
from starlette.types import ASGIApp
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from realtime.config import Config
from realtime.counters import Counters
from realtime.errors import ErrorCode
from realtime.gateway.problem import Problem

logger = logging.getLogger(__name__)

HEAD_BYTES_MAX = 16 * 1024
READ_BYTES = 16 * 1024  # taken from one socket in one turn of the loop
CONNECTIONS_PER_REQUEST = 2  # connections that may be open for each request of `http.requests`
CHUNKS_FREE = 1024  # of a body, whatever their size
CHUNK_BYTES_MEAN = 16  # of the chunks beyond; a body in smaller ones costs more time than its bytes are worth
LINGER_S = 1.0  # how long a peer is given to read the answer to what broke HTTP

_HEAD_END = re.compile(rb"\n\r?\n")
_LOOSE = re.compile(rb"(?<!\r)\n|\n[ \t]")  # a bare LF, a folded header


class StrictParser(h11.Connection):
    """h11 without its leniency: a request that two parties could take apart in two ways is none."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, HEAD_BYTES_MAX)
        self.is_head_too_big = False  # of the request that broke off
        self._chunks = self._chunk_bytes = 0

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            self._chunks = self._chunk_bytes = 0
            data, _ = self.trailing_data
            end = _HEAD_END.search(data)
            if end is not None and end.end() > HEAD_BYTES_MAX:
                self.is_head_too_big = True
                raise h11.RemoteProtocolError("the head is too big")
            if end is not None and _LOOSE.search(data, 0, end.end()):
                raise h11.RemoteProtocolError("a line of the head does not end in CRLF")
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.is_head_too_big = error.error_status_hint == 431
            raise
        if isinstance(event, h11.Request) and event.http_version not in (b"1.0", b"1.1"):
            raise h11.RemoteProtocolError("not HTTP/1")
        if isinstance(event, h11.Data):
            self._chunks += 1
            self._chunk_bytes += len(event.data)
            if self._chunks > CHUNKS_FREE and self._chunk_bytes < (self._chunks - CHUNKS_FREE) * CHUNK_BYTES_MEAN:
                raise h11.RemoteProtocolError("the body's chunks are too small")
        return event


class BugLog(logging.Logger):
    """Where uvicorn's protocol writes: a bug goes to this module's logger, what clients do wrong is only counted."""

    def __init__(self) -> None:
        super().__init__(__name__, logging.WARNING)

    def warning(self, msg: object, *args: object, **more: Any) -> None:
        """Drop it: whoever calls this counts what it is about."""

    def error(self, msg: object, *args: object, **more: Any) -> None:
        if isinstance(more.get("exc_info"), asyncio.CancelledError):
            return  # the server stops
        logger.error(str(msg).rstrip(), *args, **more)


class Connection(H11Protocol):
    """One connection. While the client owes something (a head, the rest of a body that nobody reads) a timer runs."""

    def __init__(self, port: Port) -> None:
        super().__init__(port.uvicorn, port.state, {})
        self._port = port
        self.conn: StrictParser = StrictParser()
        self.logger = port.log
        self.access_log = False
        self._owed: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0
        self._is_over = False  # the last word was said; what still comes is dropped
        self._is_half_closed = False  # by the peer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Pausing as soon as anything waits, and a kernel's buffer that is not megabytes, show whether the peer reads at all.
        transport.set_write_buffer_limits(high=0)
        one: socket.socket = transport.get_extra_info("socket")
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._port.send_buffer_bytes)
        if len(self.connections) > self._port.connections_max:
            self._port.counters.count("http_full")
            self._finish(503, ErrorCode.UNAVAILABLE, "busy: too many connections")
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._owed, self._stall):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self.server_state.default_headers = self._port.date_header()
        super().data_received(data)
        self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Stay open for a peer that has closed its half, but waits for the answer to a whole request."""
        self._is_half_closed = True
        return not self._is_over and self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_half_closed and self.cycle.response_complete:
            self.transport.close()
        self._watch()

    def send_400_response(self, _: str) -> None:
        self._port.counters.count("http_malformed")
        if self.conn.is_head_too_big:
            self._finish(431, ErrorCode.TOO_BIG, f"head: at most {HEAD_BYTES_MAX} bytes are allowed")
        else:
            self._finish(400, ErrorCode.BAD_MESSAGE, "request: malformed")

    def shutdown(self) -> None:
        if self._is_over:
            self.transport.abort()
        else:
            super().shutdown()

    # What the client owes

    def _watch(self) -> None:
        if self._is_over:
            return
        is_owed = self.cycle is None or self.cycle.response_complete
        if not is_owed and self._owed is not None:
            self._owed.cancel()
            self._owed = None
        elif is_owed and self._owed is None and not self.transport.is_closing():
            self._owed = self.loop.call_later(self._port.head_timeout_s, self._on_owed)

    def _on_owed(self) -> None:
        self._owed = None
        if self.conn.trailing_data[0]:
            self._port.counters.count("http_slow_head")
            self._finish(408, ErrorCode.BAD_MESSAGE, f"head: not there after {self._port.head_timeout_s:g} seconds")
        else:
            self.transport.close()

    def _finish(self, status: int, code: ErrorCode, message: str) -> None:
        """Say a last word, if it can still be said, and end: at once when the peer does, otherwise a little later.

        Closing with unread data makes a kernel send RST, which can overtake the answer; hence the pause.
        """
        self._is_over = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = msgspec.json.encode(Problem(code, message))
            headers = [
                *self._port.date_header(),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase),
                h11.Data(body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            if self.transport.can_write_eof():
                self.transport.write_eof()
        if self._owed is not None:
            self._owed.cancel()
        self._owed = self.loop.call_later(LINGER_S, self.transport.abort)

    # A peer that reads nothing

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self._port.write_stall_s, self._on_stall)

    def resume_writing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    def _on_stall(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent >= self._unsent_bytes:
            self._port.counters.count("http_write_stall")
            self.transport.abort()
            return
        self._unsent_bytes = unsent
        self._stall = self.loop.call_later(self._port.write_stall_s, self._on_stall)


class Reader(asyncio.BufferedProtocol):
    """Stands between a socket and its connection, and takes `READ_BYTES` at a time; by default it is 256 KiB."""

    def __init__(self, port: Port) -> None:
        self._buffer = port.buffer
        self._connection = Connection(port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.connection_made(transport)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def get_buffer(self, _: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.data_received(bytes(self._buffer[:nbytes]))


class Port:
    """What the connections share."""

    def __init__(self, app: ASGIApp, config: Config, counters: Counters) -> None:
        # `access_log=True` is what leaves the loggers alone; each connection turns its own off.
        self.uvicorn = UvicornConfig(
            app,
            http="h11",
            lifespan="off",
            ws="none",
            interface="asgi3",
            log_config=None,
            access_log=True,
            proxy_headers=False,
            server_header=False,
            workers=1,
            timeout_keep_alive=ceil(config.limits.handshake_timeout_s) + 1,  # behind our own timer, which knows more
        )
        self.uvicorn.load()
        self.state = ServerState()
        self.counters = counters
        self.log = BugLog()
        self.buffer = memoryview(bytearray(READ_BYTES))  # one for all: it is emptied in the turn that fills it
        self.connections_max = config.http.requests * CONNECTIONS_PER_REQUEST
        self.head_timeout_s = config.limits.handshake_timeout_s
        self.write_stall_s = config.limits.write_stall_s
        self.send_buffer_bytes = config.limits.send_buffer_bytes
        self._date = (0, b"")

    def date_header(self) -> list[tuple[bytes, bytes]]:
        """Return the Date header of this second."""
        second = int(time())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return [(b"date", self._date[1])]
