"""The public port: accepts sockets, answers heads, lends picows' parsers to connections, and keeps the set of those.

Law: picows is imported here and nowhere else. It parses and unmasks frames; the head of the request, every rule of the
protocol, every timeout and every limit are this package's. No bytes reach its parser that `FrameScanner` has not
admitted. A socket that is not upgraded costs at most `HEAD_BYTES_MAX` and one place of `connections_half_open`. More is in
docs/connections.md.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from picows import WSListener, WSTransport, WSUpgradeResponse, WSUpgradeResponseWithListener
from picows.picows import WSFrame, WSProtocol  # type: ignore[attr-defined]

from realtime.config import Config, LimitsConfig
from realtime.errors import CloseCode
from realtime.gateway.complaints import Complaints
from realtime.gateway.connection import Connection, Handler
from realtime.gateway.frames import BINARY, CLOSE, TEXT, FrameScanner, Violation, frame_header
from realtime.gateway.handshake import (
    Door,
    Endpoint,
    HandshakeRefused,
    Page,
    Upgrade,
    check_caller,
    check_upgrade,
    parse_head,
    plain,
    switching,
)
from realtime.gateway.origin import is_loopback
from realtime.gateway.stream import READ_BYTES, Arrival, Parsers, Reading, Stream
from realtime.gateway.upkeep import Upkeep

logger = logging.getLogger(__name__)

# What is counted, by the names that `count` gets.
COUNTS = {
    "connections_opened": "upgrades that became a WebSocket",
    "connections_refused": "upgrades closed with 1013: no place in all, or from that address",
    "handshake_refused_400": "heads that are malformed, or ask for what is not spoken here",
    "handshake_refused_403": "foreign Host or Origin",
    "handshake_refused_404": "plain GETs of nothing",
    "handshake_refused_426": "plain GETs of the WebSocket's path",
    "handshake_refused_431": "heads that are too long",
    "handshake_refused_500": "plain GETs that raised",
    "handshake_timeout": "sockets whose head did not come in time",
    "half_open_evicted": "sockets that gave way to newer ones before they had finished",
    "closed_by_peer": "close frames that came first from the peer",
    "protocol_error": "connections closed for a frame against the rules or over a limit",
    "handler_error": "connections closed because serving them raised",
}

PublicGet = Callable[[str, Mapping[str, str]], Page | None]

# Of the file descriptors; the rest is for the API, files, Redis.
DESCRIPTORS_RESERVED = 200
# Of those in reserve, what sockets that are not upgraded may take when all places for connections are taken.
DESCRIPTORS_FOR_NEWCOMERS = 100
# asyncio accepts as many sockets in one turn as its backlog says. A storm must not hold up everybody else that long;
# those that wait stay in the kernel's backlog, which is set apart from this.
ACCEPTS_PER_TURN = 32
TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # Linux; the socket module has no name for it

# picows' buffer: what is read goes into half of it, less 256 bytes. It doubles for a frame that does not fit.
PARSER_BYTES = 2 * READ_BYTES + 256

# A request that picows upgrades: those of the clients are answered here.
_HANDSHAKE = (
    b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class _PicowsLog:
    """What picows logs to. Bad frames are counted here, and its lines about each parser say nothing."""

    def isEnabledFor(self, level: int) -> bool:
        return False

    def log(self, *arguments: object) -> None:
        """Drop the line."""

    debug = info = warning = error = log

    def exception(self, message: str, *arguments: object) -> None:
        """An exception went through picows: not even the handler's guard caught it."""
        logger.exception(message, *arguments)


class _Nowhere:
    """What picows takes for its transport, and for its socket: nothing goes out there."""

    __slots__ = ()

    def get_extra_info(self, name: str) -> _Nowhere | None:
        return self if name == "socket" else None

    def get_write_buffer_size(self) -> int:
        return 1  # at 0 it would write to the descriptor

    def fileno(self) -> int:
        return -1

    def getsockopt(self, *option: int) -> int:
        return 0

    def drop(self, *arguments: object) -> None:
        """Do nothing."""

    write = close = abort = setsockopt = drop


class _Frames(WSListener):
    """Hands picows' frames on to the connection whose bytes they are."""

    __slots__ = ("connection",)

    def __init__(self) -> None:
        self.connection: Connection | None = None

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        assert self.connection is not None
        self.connection.receive(frame.msg_type.value, bool(frame.fin), frame.get_payload_as_bytes())


class _Parser:
    """One parser of picows, lent to a connection from the first byte of a frame to the last.

    Between frames a connection needs none, and most are idle: picows has 4.5 kB for each.
    """

    __slots__ = ("_frames", "_picows", "_room")

    def __init__(self, max_frame_bytes: int) -> None:
        self._frames = frames = _Frames()
        self._picows: Any = WSProtocol(
            host_port=None,
            ws_path=None,
            is_client_side=False,
            ws_listener_factory=lambda request: WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(), frames),
            logger=_PicowsLog(),
            disconnect_on_exception=True,
            websocket_handshake_timeout=None,
            enable_auto_ping=False,
            auto_ping_idle_timeout=0,
            auto_ping_reply_timeout=0,
            auto_ping_strategy=1,
            enable_auto_pong=False,  # would answer without bound whoever does not read
            max_frame_size=max_frame_bytes,
            extra_headers=None,
            read_buffer_init_size=PARSER_BYTES,
        )
        self._picows.connection_made(_Nowhere())
        self._put(memoryview(_HANDSHAKE))
        self._room = len(self._picows.get_buffer(-1))

    def parse(self, connection: Connection, data: memoryview) -> None:
        """Hand the frames that these bytes complete to the connection."""
        self._frames.connection = connection
        while data and not self._picows.transport.is_close_frame_sent:
            data = data[self._put(data) :]
        self._frames.connection = None

    def _put(self, data: memoryview) -> int:
        """Give picows bytes; return how many.

        It doubles its buffer when that is nearly full, even of whole frames that it is about to consume. So it never
        gets more than half of what is free, and its buffer grows only for a frame that needs the room.
        """
        room = self._picows.get_buffer(-1)
        size = min(len(data), (len(room) + 1) // 2)
        room[:size] = data[:size]
        self._picows.buffer_updated(size)
        return size

    @property
    def violation(self) -> Violation | None:
        """What picows found against a frame; it parses no more then."""
        sent = self._picows.transport.close_handshake and self._picows.transport.close_handshake.sent
        return Violation(CloseCode(int(sent.code)), sent.reason) if sent else None

    @property
    def is_fresh(self) -> bool:
        """Whether another connection can have it: it has seen no close frame, and its buffer, which never shrinks, has not grown."""
        return self._picows.transport.close_handshake is None and len(self._picows.get_buffer(-1)) <= self._room


class Listener:
    """The public port, from `listen` to `aclose`.

    `connections` holds every WebSocket whose socket is not gone; `half_open` counts the sockets without one.
    """

    def __init__(
        self,
        config: Config,
        handler_factory: Callable[[], Handler],
        public_get: PublicGet,
        count: Callable[[str], None],
        endpoint: Endpoint,
    ) -> None:
        self.connections: set[Connection] = set()
        self.port = 0
        self.reading = Reading()
        frame_bytes_max = max(config.limits.message_bytes, config.limits.message_bytes_before_identify)
        self.parsers = Parsers(lambda: _Parser(frame_bytes_max))
        loop = asyncio.get_running_loop()
        self.upkeep = Upkeep(config.limits, loop, count, Complaints(logger, loop.time))
        self._limits = config.limits
        self._door = Door(config.server.host, config.server.origins)
        self._endpoint = endpoint
        self._kinds = {is_text: frozenset((TEXT if is_text else BINARY,)) for is_text in (True, False)}
        if endpoint.is_mixed:
            self._kinds = dict.fromkeys((True, False), frozenset((TEXT, BINARY)))
        self._on_lost = self._lost  # one bound method for all
        self._handler_factory = handler_factory
        self._public_get = public_get
        self._connections_max = config.limits.connections or descriptors() - DESCRIPTORS_RESERVED
        self._by_address: Counter[str] = Counter()  # of `connections`, without loopback
        self._serial = 0
        self._server: asyncio.Server | None = None
        self._emptied = asyncio.Event()

    # From start to end

    async def start(self, server: asyncio.Server, backlog: int) -> None:
        """Begin to accept."""
        self._server = server
        for shared in server.sockets:
            with socket.fromfd(shared.fileno(), shared.family, shared.type) as bound:
                _set_options(bound, self._limits)
        await server.start_serving()
        for shared in server.sockets:
            with socket.fromfd(shared.fileno(), shared.family, shared.type) as bound:
                bound.listen(backlog)
        self.port = server.sockets[0].getsockname()[1]
        self.upkeep.start()

    def stop_accepting(self) -> None:
        """Close the port; connections stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def close_all(self, code: CloseCode, reason: str = "") -> None:
        """Close every connection with a close frame."""
        for connection in list(self.connections):
            connection.close(code, reason)

    async def aclose(self) -> None:
        """Close the port and every socket; every handler has had its `on_close` when this returns."""
        self.stop_accepting()
        self.close_all(CloseCode.GOING_AWAY)
        for arrival in self.upkeep.newcomers.all():
            arrival.expire()
        self._note_empty()
        try:
            await asyncio.wait_for(self._emptied.wait(), 2 * self._limits.close_timeout_s)
        except TimeoutError:
            for connection in list(self.connections):
                connection.cut()
            await self._emptied.wait()
        finally:
            self.upkeep.stop()

    @property
    def half_open(self) -> int:
        """How many sockets are there that are no WebSocket (yet)."""
        return len(self.upkeep.newcomers)

    # What arrivals call

    def arrived(self, arrival: Arrival) -> None:
        """Take note of a new socket. When there are too many the oldest gives way: it had the most time to finish."""
        spare = self._connections_max - len(self.connections) + DESCRIPTORS_FOR_NEWCOMERS
        newcomers = self.upkeep.newcomers
        while newcomers and len(newcomers) >= min(self._limits.connections_half_open, spare):
            oldest = newcomers.oldest()
            newcomers.discard(oldest)
            oldest.evict()
        newcomers.add(arrival, self.upkeep.loop.time())

    def departed(self, arrival: Arrival) -> None:
        """Forget a socket that is gone."""
        self.upkeep.newcomers.discard(arrival)
        self._note_empty()

    def note_refusal(self, refused: HandshakeRefused) -> None:
        """Count a request that was refused."""
        self.upkeep.count(f"handshake_refused_{refused.status.value}")
        self.upkeep.complaints.note(refused.reason, f"request refused: {refused.reason}")

    def serve(self, arrival: Arrival, head: bytes, early: bytes) -> None:
        """Answer a request, or make it a connection. Raises `HandshakeRefused`."""
        request = parse_head(head)
        check_caller(request, self._door)
        if self._endpoint.path is not None and request.path != self._endpoint.path:
            page = self._page(request.path, {name: ", ".join(values) for name, values in request.headers.items()})
            if page is None:
                raise HandshakeRefused(HTTPStatus.NOT_FOUND, "nothing is here")
            arrival.answer(plain(page))
            return
        upgrade = check_upgrade(request, self._endpoint)
        peername = arrival.stream.transport.get_extra_info("peername")
        peer = str(peername[0]) if peername else ""
        if self._is_full(peer):
            # A browser shows its page a close code, and nothing of a 503. The socket stays one of the half-open ones.
            self.upkeep.count("connections_refused")
            arrival.answer(switching(upgrade) + _close_frame(CloseCode.FULL))
            return
        self._upgrade(arrival, upgrade, peer, early)

    # Inside

    def _page(self, path: str, headers: Mapping[str, str]) -> Page | None:
        try:
            return self._public_get(path, headers)
        except Exception:  # noqa: BLE001 - logged there
            self.upkeep.complaints.exception("page", "answering a plain request raised")
            raise HandshakeRefused(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error") from None

    def _is_full(self, peer: str) -> bool:
        if len(self.connections) >= self._connections_max:
            return True
        return self._by_address[peer] >= self._limits.connections_per_address

    def _upgrade(self, arrival: Arrival, upgrade: Upgrade, peer: str, early: bytes) -> None:
        try:
            handler = self._handler_factory()
        except Exception:  # noqa: BLE001 - logged there
            self.upkeep.complaints.exception("handler", "making a connection's handler raised")
            arrival.answer(switching(upgrade) + _close_frame(CloseCode.BUG))
            return
        scanner = FrameScanner(self._limits.message_bytes_before_identify, self._limits.fragments, self._kinds[upgrade.is_text])
        self._serial += 1
        connection = Connection(self.upkeep, handler, upgrade, peer, self._serial, scanner, self._on_lost)
        self.upkeep.newcomers.discard(arrival)
        self.connections.add(connection)
        if not is_loopback(peer):
            self._by_address[peer] += 1
        self.upkeep.count("connections_opened")
        arrival.stream.upgrade(connection, switching(upgrade), early)

    def _lost(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if connection.peer in self._by_address:
            self._by_address[connection.peer] -= 1
            if not self._by_address[connection.peer]:
                del self._by_address[connection.peer]
        self._note_empty()

    def _note_empty(self) -> None:
        if self.connections or self.half_open:
            self._emptied.clear()
        else:
            self._emptied.set()


async def listen(
    config: Config,
    handler_factory: Callable[[], Handler],
    *,
    public_get: PublicGet = lambda path, headers: None,
    count: Callable[[str], None] = lambda name: None,
    endpoint: Endpoint = Endpoint(),  # noqa: B008 - immutable
    is_shared: bool = False,
) -> Listener:
    """Open the public port in the running loop: a handler for each WebSocket, `public_get(path, headers)` for plain GETs.

    `count(name)` counts what happens, by the names of COUNTS. `is_shared`: other processes of this user listen there, too,
    and the kernel spreads the connections. Raises OSError where the port cannot be bound.
    """
    listener = Listener(config, handler_factory, public_get, count, endpoint)
    # Not through aiofastnet, which picows would choose where it is installed: under uvloop an echo of 100 bytes or 20 kB
    # is neither faster nor slower beyond the noise, and an idle connection costs 14.5 kB instead of 9.8 kB. Most are idle.
    server = await asyncio.get_running_loop().create_server(
        lambda: Stream(listener),
        config.server.host,
        config.server.port,
        backlog=ACCEPTS_PER_TURN,
        start_serving=False,
        reuse_port=is_shared or None,
    )
    try:
        await listener.start(server, config.server.backlog)
    except BaseException:
        server.close()
        raise
    return listener


def descriptors() -> int:
    """Return how many file descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _set_options(bound: socket.socket, limits: LimitsConfig) -> None:
    """Set on the listening socket what every accepted one inherits: bounds on what lies in the kernel.

    What is there can no longer be conflated. Unsent bytes have a bound of their own, as those in flight are needed.
    """
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.send_buffer_bytes)
    bound.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, limits.unsent_bytes)


def _close_frame(code: CloseCode) -> bytes:
    return frame_header(CLOSE, 2) + code.to_bytes(2, "big")
