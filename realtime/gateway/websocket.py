"""The public port: accepts sockets, reads heads, hands upgraded ones to picows, and keeps the set of connections.

Law: picows is imported here and nowhere else. It unmasks, parses and writes frames; the head of the request, every rule
of the protocol, every timeout and every limit are this package's. No bytes reach its parser that `FrameScanner` has not
admitted. A socket that is not upgraded costs at most `HEAD_BYTES_MAX` and one place of `connections_half_open`.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, cast

from picows import WSListener, WSTransport, WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener
from picows.picows import WSFrame, WSProtocol  # type: ignore[attr-defined]

from realtime.config import Config, LimitsConfig
from realtime.errors import CloseCode
from realtime.gateway.complaints import Complaints
from realtime.gateway.connection import Connection, Handler
from realtime.gateway.frames import BINARY, TEXT, FrameScanner
from realtime.gateway.handshake import (
    HEAD_BYTES_MAX,
    Door,
    Endpoint,
    HandshakeRefused,
    Page,
    Upgrade,
    check_caller,
    check_upgrade,
    parse_head,
    plain,
    refusal,
    switching,
)
from realtime.gateway.origin import is_loopback
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

# picows' buffer for reading doubles while a frame does not fit and never shrinks. It starts small as most clients send
# small messages, and is idle most of the time.
READ_BUFFER_BYTES = 4096

# Up to here picows copies a frame before it hands it to the transport.
COPIED_BYTES_MAX = 8192


class _PicowsLog:
    """What picows logs to. Bad frames are counted here, and its lines about each connection would be two per client.

    It is no `logging.Logger`, as picows makes a child of such a one for every connection.
    """

    def isEnabledFor(self, level: int) -> bool:
        return False

    def log(self, *arguments: object) -> None:
        """Drop the line."""

    debug = info = warning = error = log

    def exception(self, message: str, *arguments: object) -> None:
        """An exception went through picows: not even the handler's guard caught it."""
        logger.exception(message, *arguments)


_PICOWS_LOG = _PicowsLog()


class _Writer:
    """Writes frames for a connection."""

    __slots__ = ("_picows", "transport")

    def __init__(self, picows: Any) -> None:  # a WSTransport; opcodes and codes are enums in its types, and C ints underneath
        self._picows = picows
        self.transport: asyncio.Transport = picows.underlying_transport

    def send(self, opcode: int, payload: bytes) -> None:
        """Write a frame.

        A long one is not left to picows: it hands the transport a view of the header in a buffer of its own, and
        overwrites that with the next frame, while uvloop and asyncio may still have to send it. `writelines` will not
        do either: in Python 3.12.0 to 3.12.8 and 3.13.0 to 3.13.1 asyncio's never says that the buffer is full.
        """
        size = len(payload)
        if size <= COPIED_BYTES_MAX:
            self._picows.send(opcode, payload)
        elif not self._picows.is_close_frame_sent:
            header = (
                bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
                if size < 1 << 16
                else bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")
            )
            self.transport.write(header + payload)

    def send_close(self, code: int, reason: bytes) -> None:
        """Write a close frame; nothing can be written after it."""
        self._picows.send_close(code, reason)


class _Frames(WSListener):
    """Hands picows' events on to the connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._connection.opened(_Writer(transport))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self._connection.receive(frame.msg_type.value, bool(frame.fin), frame.get_payload_as_bytes())


class _Wire(WSProtocol):  # type: ignore[misc]
    """Between the socket and picows: lets only admitted bytes through, and reports what picows keeps to itself."""

    __slots__ = ("_connection", "_view")

    def __init__(self, connection: Connection, upgrade: Upgrade, max_frame_bytes: int) -> None:
        def listener(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
            return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(upgrade.headers), _Frames(connection))

        super().__init__(
            host_port=None,
            ws_path=None,
            is_client_side=False,
            ws_listener_factory=listener,
            logger=_PICOWS_LOG,
            disconnect_on_exception=True,
            websocket_handshake_timeout=None,  # it is over
            enable_auto_ping=False,  # would be a task for each connection
            auto_ping_idle_timeout=0,
            auto_ping_reply_timeout=0,
            auto_ping_strategy=1,
            enable_auto_pong=False,  # would answer without bound whoever does not read
            max_frame_size=max_frame_bytes,
            extra_headers=None,
            read_buffer_init_size=READ_BUFFER_BYTES,
        )
        self._connection = connection
        self._view = memoryview(b"")

    def start(self, transport: asyncio.Transport, upgrade: Upgrade, early: bytes) -> None:
        """Take over a socket whose head was read; `early` came right behind it."""
        transport.set_protocol(self)
        self.connection_made(transport)
        head = (
            "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {upgrade.key}\r\n\r\n"
        ).encode()
        super().get_buffer(-1)[: len(head)] = head
        super().buffer_updated(len(head))
        while early and not transport.is_closing():
            view = self.get_buffer(-1)
            size = min(len(view), len(early))
            view[:size] = early[:size]
            early = early[size:]
            self.buffer_updated(size)

    def get_buffer(self, size_hint: int) -> memoryview:
        """Return where to read to: half of what is free.

        picows doubles its buffer when a read leaves it nearly full, even by whole frames that it is about to consume:
        a client that floods could make it grow without end. So it grows only for a frame that needs the room.
        """
        view: memoryview = super().get_buffer(size_hint)
        self._view = view[: (len(view) + 1) // 2]
        return self._view

    def buffer_updated(self, size: int) -> None:
        """Process what was read."""
        connection = self._connection
        if connection.is_discarding:
            return
        scanner = connection.scanner
        admitted = scanner.scan(self._view[:size])
        if admitted:
            super().buffer_updated(admitted)
        if connection.is_open and self.transport.is_close_frame_sent:
            connection.ended_below(int(self.transport.close_handshake.sent.code))
        elif scanner.violation is not None and not connection.is_discarding:
            connection.violate(scanner.violation)

    def eof_received(self) -> bool:
        self._connection.peer_ended()
        return False

    def pause_writing(self) -> None:
        self._connection.block()

    def resume_writing(self) -> None:
        self._connection.unblock()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._view = memoryview(b"")
        self._connection.lost()


class _Arrival(asyncio.Protocol):
    """A socket until its head is read, or until its plain answer is taken."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._head = bytearray()
        self._is_answered = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases
        self._listener.arrived(self)

    def data_received(self, data: bytes) -> None:
        if self._is_answered:
            return
        searched = max(len(self._head) - 3, 0)
        self._head += data
        end = self._head.find(b"\r\n\r\n", searched)
        if end < 0 and len(self._head) <= HEAD_BYTES_MAX:
            return
        assert self._transport is not None
        head, early = bytes(self._head[:end]), bytes(self._head[end + 4 :])
        self._head.clear()
        try:
            if not 0 <= end <= HEAD_BYTES_MAX:
                raise HandshakeRefused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a head over {HEAD_BYTES_MAX} bytes")
            self._listener.serve(self, self._transport, head, early)
        except HandshakeRefused as refused:
            self._listener.note_refusal(refused)
            self.answer(refusal(refused))

    def answer(self, data: bytes) -> None:
        """Send an answer and wait for the peer's FIN; the handshake timeout still runs."""
        assert self._transport is not None
        self._is_answered = True
        try:
            self._transport.write(data)
            self._transport.write_eof()
        except OSError:  # reset by the peer, and not noticed yet
            self._transport.abort()

    def expire(self) -> None:
        """The head, or taking the answer, took too long."""
        assert self._transport is not None
        if not self._is_answered:
            self._listener.upkeep.count("handshake_timeout")
        self._transport.abort()

    def evict(self) -> None:
        """Make room for a newer one."""
        assert self._transport is not None
        self._listener.upkeep.count("half_open_evicted")
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.departed(self)


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
        loop = asyncio.get_running_loop()
        self.upkeep = Upkeep(config.limits, loop, count, Complaints(logger, loop.time))
        self._limits = config.limits
        self._door = Door(config.server.host, config.server.origins)
        self._endpoint = endpoint
        self._kinds = frozenset((TEXT, BINARY))
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

    def arrived(self, arrival: _Arrival) -> None:
        """Take note of a new socket. When there are too many the oldest gives way: it had the most time to finish."""
        spare = self._connections_max - len(self.connections) + DESCRIPTORS_FOR_NEWCOMERS
        newcomers = self.upkeep.newcomers
        while newcomers and len(newcomers) >= min(self._limits.connections_half_open, spare):
            oldest = newcomers.oldest()
            newcomers.discard(oldest)
            oldest.evict()
        newcomers.add(arrival, self.upkeep.loop.time())

    def departed(self, arrival: _Arrival) -> None:
        """Forget a socket that is gone."""
        self.upkeep.newcomers.discard(arrival)
        self._note_empty()

    def note_refusal(self, refused: HandshakeRefused) -> None:
        """Count a request that was refused."""
        self.upkeep.count(f"handshake_refused_{refused.status.value}")
        self.upkeep.complaints.note(refused.reason, f"request refused: {refused.reason}")

    def serve(self, arrival: _Arrival, transport: asyncio.Transport, head: bytes, early: bytes) -> None:
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
        peername = transport.get_extra_info("peername")
        peer = str(peername[0]) if peername else ""
        if self._is_full(peer):
            # A browser shows its page a close code, and nothing of a 503. The socket stays one of the half-open ones.
            self.upkeep.count("connections_refused")
            arrival.answer(switching(upgrade) + _close_frame(CloseCode.FULL))
            return
        self._upgrade(arrival, transport, upgrade, peer, early)

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

    def _upgrade(self, arrival: _Arrival, transport: asyncio.Transport, upgrade: Upgrade, peer: str, early: bytes) -> None:
        try:
            handler = self._handler_factory()
        except Exception:  # noqa: BLE001 - logged there
            self.upkeep.complaints.exception("handler", "making a connection's handler raised")
            arrival.answer(switching(upgrade) + _close_frame(CloseCode.BUG))
            return
        kinds = self._kinds if self._endpoint.is_mixed else frozenset((TEXT if upgrade.is_text else BINARY,))
        scanner = FrameScanner(self._limits.message_bytes_before_identify, self._limits.fragments, kinds)
        self._serial += 1
        connection = Connection(self.upkeep, handler, upgrade, peer, self._serial, scanner, self._lost)
        self.upkeep.newcomers.discard(arrival)
        self.connections.add(connection)
        if not is_loopback(peer):
            self._by_address[peer] += 1
        self.upkeep.count("connections_opened")
        _Wire(connection, upgrade, max(self._limits.message_bytes, self._limits.message_bytes_before_identify)).start(
            transport, upgrade, early
        )

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
) -> Listener:
    """Open the public port in the running loop: a handler for each WebSocket, `public_get(path, headers)` for plain GETs.

    `count(name)` counts what happens, by the names of COUNTS. Raises OSError where the port cannot be bound.
    """
    listener = Listener(config, handler_factory, public_get, count, endpoint)
    # Not through aiofastnet, which picows would choose where it is installed: under uvloop an echo of 100 bytes or 20 kB
    # is neither faster nor slower beyond the noise, and an idle connection costs 14.5 kB instead of 9.8 kB. Most are idle.
    server = await asyncio.get_running_loop().create_server(
        lambda: _Arrival(listener), config.server.host, config.server.port, backlog=ACCEPTS_PER_TURN, start_serving=False
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
    return b"\x88\x02" + code.to_bytes(2, "big")
