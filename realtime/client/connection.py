"""The client: a mirror of what a view shows, and the connection that keeps it right and comes back by itself.

    async with Client("ws://127.0.0.1:8765/ws") as client:
        await client.look([-97.8, 30.2, -97.6, 30.4])
        async for change in client:
            print(len(client.entities), change.entered, change.left)

Law: frames are read and applied as they come, whatever the consumer does, so the mirror is always as new as the
connection; a slow consumer gets merged changes (see `realtime.client.changes`) and never slows the reading down. Nothing
is queued: what is to be sent is state (the newest view, a check, a refresh), and whoever publishes waits for the answer.
Where the mirror is in doubt, after a frame that does not fit or a digest that differs, the next word that counts is a reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self
from weakref import WeakSet

import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from realtime.client.backoff import Backoff, comes_back
from realtime.client.changes import Changes
from realtime.client.mirror import Applied, Mirror
from realtime.errors import CloseCode, ErrorCode, Refused
from realtime.messages import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK, Ack, Check, Undecodable, Welcome

logger = logging.getLogger(__name__)

BROKEN = 1006  # how a connection ended that nobody closed, as RFC 6455 numbers it
FRAME_BYTES_MAX = 64 * 1024 * 1024  # a frame of the server is `frame_bytes` and one entity; this is what would be no frame
WELCOME_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
HEAL_TIMEOUT_S = 5.0  # between a refresh and its reset; beyond it the connection is given up
UNANSWERED_MAX = 64  # views; the newest waits until one of them is answered

# What a frame that is not of the protocol raises while it is taken apart; `MirrorError` and `Undecodable` are ValueErrors.
_NOT_OF_THE_PROTOCOL = (ValueError, LookupError, TypeError, AttributeError, msgspec.MsgspecError)

_View = dict[str, Any]


class Closed(ConnectionError):
    """There is no connection any more: the one that a call was made on is gone, or the client stays away for good."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Status(NamedTuple):
    """How the connection is. `waiting`: it comes back after `retry_s`; `closed`: it does not."""

    state: Literal["connecting", "open", "waiting", "closed"]
    code: int | None = None  # how the last connection ended; 1006: it broke, or never was
    reason: str = ""
    retry_s: float | None = None


class Statistics(Struct):
    """What was counted since the client was made."""

    connections: int = 0  # welcomes
    deltas: int = 0
    bytes: int = 0  # of all messages received
    lag_ms: float | None = None  # of the newest delta that says it
    checks: int = 0  # comparisons with the server's digest
    heals: int = 0  # times that the mirror was in doubt and was asked for anew
    errors: int = 0  # refusals by the server

    @property
    def reconnects(self) -> int:
        """How often the client came back."""
        return max(self.connections - 1, 0)


class _Leave(Exception):
    """The client ends the connection by itself."""

    def __init__(self, reason: str, is_dead: bool = False) -> None:
        super().__init__(reason)
        self.is_dead = is_dead  # nobody would answer a closing handshake


class _Socket(ClientConnection):
    """A WebSocket that knows when something came: also a part of a long frame shows that the peer lives."""

    heard_at = 0.0  # by the loop's clock

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        super().data_received(data)


class _Link:
    """What belongs to one connection, from its welcome on."""

    def __init__(self, socket: _Socket, welcome: Welcome) -> None:
        self.socket = socket
        self.welcome = welcome
        self.is_text = socket.subprotocol != SUBPROTOCOL_MSGPACK
        self.opened_at = socket.loop.time()
        self.sent = 0  # id of the newest view that the server has, accepted or not answered yet; 0: none
        self.sent_at = float("-inf")
        self.applied = 0  # id of the view that the last delta belonged to
        self.resumed_with = 0  # id of the view that went with a `have`
        self.unanswered: dict[int, _View] = {}  # views sent, neither answered nor refused
        self.acks: dict[int, asyncio.Future[Ack]] = {}
        self.checks: list[asyncio.Future[Check]] = []  # who waits for the next check
        self.wants_check = False
        self.checked_at = self.opened_at  # when a check was asked for last
        self.wants_refresh = False
        self.broken_at = float("inf")  # since when a reset is waited for
        self.return_at: float | None = None  # the server is going away

    def encode(self, message: dict[str, Any]) -> bytes:
        return msgspec.json.encode(message) if self.is_text else msgspec.msgpack.encode(message)

    async def send(self, data: bytes) -> None:
        await self.socket.send(data, text=self.is_text)

    def end(self, code: int, reason: str) -> None:
        """Tell those who wait for an answer on this connection."""
        for future in [*self.acks.values(), *self.checks]:
            if not future.done():
                future.set_exception(Closed(code, reason))


class Client:
    """See above. One connection at a time, from `async with` to its end; reconnects with `backoff` in between.

    `encoding` is `json` or `msgpack`; `options` go to `websockets.connect` (`ssl`, `additional_headers`, `proxy`, …). Every
    `check_interval_s` the mirror is compared with the server's digest, and a connection on which nothing at all came since
    the last comparison is given up. `on_status` and `on_error` are called from the loop with each new `Status` and with what
    the server refused but no call waits for (without `on_error` it is logged). Raises ValueError for a bad URL or encoding.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        encoding: Literal["json", "msgpack"] = "json",
        name: str = "realtime.client",
        backoff: Backoff | None = None,
        check_interval_s: float = 10.0,
        on_status: Callable[[Status], None] | None = None,
        on_error: Callable[[Refused], None] | None = None,
        **options: Any,
    ) -> None:
        try:
            parse_uri(url)
        except WebSocketException as error:
            raise ValueError(f"url: {error}") from None
        if encoding not in ("json", "msgpack"):
            raise ValueError(f"encoding: json or msgpack is expected, not {encoding!r}")
        self.url = url
        self.token = token  # of the next connection
        self.mirror = Mirror()
        self.status = Status("waiting")
        self.statistics = Statistics()
        self.welcome: Welcome | None = None  # of the newest connection
        self._subprotocol = Subprotocol(SUBPROTOCOL_JSON if encoding == "json" else SUBPROTOCOL_MSGPACK)
        self._name = name
        self._backoff = backoff or Backoff()
        self._check_interval_s = check_interval_s
        self._on_status = on_status
        self._on_error = on_error
        self._options = options
        self._ids = itertools.count(1)  # of views and publishes together, so that an error's `ref` is one of them
        self._wanted: tuple[int, _View] | None = None  # the newest view and its id
        self._shown: tuple[int, _View] | None = None  # the view that the last delta belonged to
        self._looks: dict[int, asyncio.Future[None]] = {}  # who waits until a view is shown
        self._changes: WeakSet[Changes] = WeakSet()
        self._link: _Link | None = None
        self._wake = asyncio.Event()  # something is to be sent
        self._moved_on = asyncio.Event()  # the status is another one; replaced by the next
        self._world: str | None = None  # whose versions the mirror holds
        self._fresh_at = 0.0  # when the mirror was kept up to date last
        self._may_have = True  # `have` has not been too much for the server
        self._is_broken = False  # the mirror is in doubt until the next reset
        self._task: asyncio.Task[None] | None = None
        self._over: Closed | None = None  # the client stays away for good

    # What is held

    @property
    def entities(self) -> dict[str, dict[str, Any]]:
        """Those of the mirror: Features by id. Not to be changed."""
        return self.mirror.entities

    def __aiter__(self) -> Changes:
        """Iterate over what happens to the mirror, from what it holds now on, merged while nobody asks.

        Ends with the client; raises `Closed` where the server's close code says to stay away. Any number may iterate.
        """
        changes = Changes(self.mirror.entities)
        if self._over is not None:
            changes.end(_end_of_iteration(self._over))
        self._changes.add(changes)
        return changes

    # Asking

    async def look(
        self,
        bbox: Sequence[float] | None,
        *,
        zoom: float | None = None,
        filter: Any = None,
        ids: Iterable[str] | None = None,
        max_hz: float | None = None,
    ) -> None:
        """Look at this and nothing else; return when the mirror shows all of it, or a newer view took its place.

        `bbox` is `[west, south, east, north]`; None: only `ids`. The newest view is what every later connection begins
        with, also where this call was cancelled; at most `views_per_s` are sent, the newest wins. Raises `Refused` where
        the server refuses it (the view before it goes on), `Closed` where the client stays away.
        """
        named = {"zoom": zoom, "filter": filter, "ids": None if ids is None else list(ids), "max_hz": max_hz}
        view = {"bbox": bbox} | {name: value for name, value in named.items() if value is not None}
        # Decoded again: a copy, as the caller may change its objects later, and a TypeError here for what nobody could send.
        view = msgspec.json.decode(msgspec.json.encode(view))
        self._assert_running()
        id = next(self._ids)
        self._wanted = (id, view)
        shown = self._looks[id] = asyncio.get_running_loop().create_future()
        self._wake.set()
        try:
            await shown
        finally:
            self._looks.pop(id, None)

    async def publish(self, updates: Iterable[Any]) -> Ack:
        """Publish updates (Features, patches, moves, deletes as dicts); return the verdicts.

        Waits for a connection. Raises `Refused` where the session may not or the message is over `message_bytes`, `Closed`
        where the connection ended before the answer came: whether they were applied is not known then.
        """
        link = await self.wait_open()
        id = next(self._ids)
        data = link.encode({"type": "publish", "id": id, "updates": list(updates)})
        _verify_size(data, link)
        future = link.acks[id] = asyncio.get_running_loop().create_future()
        try:
            with contextlib.suppress(ConnectionClosed):  # the end of the connection is told by the future
                await link.send(data)
            return await future
        finally:
            del link.acks[id]

    async def check(self) -> Check:
        """Return the server's word on what the mirror must amount to; where it differs, healing has begun.

        `pending` 0 says that the mirror is the present. Raises `Closed` where the connection ended before the answer came.
        """
        link = await self.wait_open()
        future: asyncio.Future[Check] = asyncio.get_running_loop().create_future()
        link.checks.append(future)
        link.wants_check = True
        self._wake.set()
        try:
            return await future
        finally:
            if future in link.checks:
                link.checks.remove(future)

    def refresh(self) -> None:
        """Ask for everything anew, on the connection that there is."""
        if self._link is not None:
            self._link.wants_refresh = True
            self._wake.set()

    async def wait_open(self) -> _Link:
        """Wait until there is a connection. Raises `Closed` where the client stays away."""
        self._assert_running()
        while self._link is None:
            await self._moved_on.wait()
            self._assert_running()
        return self._link

    def _assert_running(self) -> None:
        if self._over is not None:
            raise Closed(self._over.code, self._over.reason)
        if self._task is None:
            raise RuntimeError("the client lives within `async with`")

    # From start to end

    async def __aenter__(self) -> Self:
        """Begin to connect, without waiting for it: what is asked for waits."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection for good; the mirror stays as it is."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._end(Closed(CloseCode.NORMAL, "closed by the client"))

    async def _run(self) -> None:
        """Connect, serve, and come back, until a close code says not to."""
        try:
            while True:
                self._set_status(Status("connecting"))
                code, reason, wait_s = await self._connect()
                if wait_s is None:
                    self._end(Closed(code, reason))
                    return
                self._set_status(Status("waiting", code, reason, wait_s))
                await asyncio.sleep(wait_s)
        except Exception as error:
            self._end(Closed(CloseCode.BUG, f"a bug of the client: {error!r}"))
            raise

    def _end(self, closed: Closed) -> None:
        if self._over is not None:
            return
        self._over = closed
        for look in self._looks.values():
            if not look.done():
                look.set_exception(Closed(closed.code, closed.reason))
        for changes in list(self._changes):
            changes.end(_end_of_iteration(closed))
        self._set_status(Status("closed", closed.code, closed.reason))

    def _set_status(self, status: Status) -> None:
        self.status = status
        self._moved_on.set()
        self._moved_on = asyncio.Event()
        if self._on_status is not None:
            # By the loop, which reports what a callback raises; here it would end the connection.
            asyncio.get_running_loop().call_soon(self._on_status, status)

    # One connection

    async def _connect(self) -> tuple[int, str, float | None]:
        """Serve one connection to its end; return how it ended and how long to stay away (None: for good)."""
        try:
            socket = await connect(
                self.url,
                subprotocols=[self._subprotocol],
                compression=None,
                max_size=FRAME_BYTES_MAX,
                ping_interval=None,  # the checks find a dead connection, and do not take a slow one for it
                close_timeout=CLOSE_TIMEOUT_S,
                create_connection=_Socket,
                **self._options,
            )
        except (OSError, WebSocketException) as error:
            return BROKEN, str(error) or type(error).__name__, self._backoff.wait_s(0)
        assert isinstance(socket, _Socket)
        try:
            try:
                self._link = link = await self._greet(socket)
            except (ConnectionClosed, TimeoutError, *_NOT_OF_THE_PROTOCOL) as error:
                code = socket.close_code or BROKEN
                reason = socket.close_reason or f"no welcome: {error}"
                return code, reason, self._wait_s(code, None)
            left = await self._serve(link)
            self._link = None
            if left is not None:
                if left.is_dead:
                    socket.transport.abort()
                code, reason = BROKEN, str(left)
            else:
                code, reason = socket.close_code or BROKEN, socket.close_reason or ""
            link.end(code, reason)
            return code, reason, self._wait_s(code, link)
        finally:
            if self._link is not None:
                self._link.end(CloseCode.NORMAL, "closed by the client")
                self._link = None
            await socket.close()

    def _wait_s(self, code: int, link: _Link | None) -> float | None:
        """Return how long to stay away after a connection ended so; None: for good."""
        if code == CloseCode.TOO_BIG:
            self._may_have = False
        if not comes_back(code):
            return None
        now = asyncio.get_running_loop().time()
        if link is not None and link.return_at is not None:
            self._backoff.reset()
            return max(0.0, link.return_at - now)
        return self._backoff.wait_s(0 if link is None else now - link.opened_at)

    async def _greet(self, socket: _Socket) -> _Link:
        """Identify, and wait for the welcome."""
        identify = {"type": "identify", "client": self._name} | ({} if self.token is None else {"token": self.token})
        is_text = socket.subprotocol != SUBPROTOCOL_MSGPACK
        async with asyncio.timeout(WELCOME_TIMEOUT_S):
            await socket.send(msgspec.json.encode(identify) if is_text else msgspec.msgpack.encode(identify), text=is_text)
            data = await socket.recv(decode=False)
        self.statistics.bytes += len(data)
        self.welcome = welcome = msgspec.convert(_decode(data, is_text), Welcome)
        self.statistics.connections += 1
        self.mirror.restart()
        link = _Link(socket, welcome)
        if self._is_broken:
            link.broken_at = link.opened_at
        self._wake.set()
        return link

    async def _serve(self, link: _Link) -> _Leave | None:
        """Read and send until the connection ends; return the client's own reason to leave, if that is how."""
        self._set_status(Status("open"))
        tasks = [asyncio.create_task(self._read(link)), asyncio.create_task(self._tend(link))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            endings = await asyncio.gather(*tasks, return_exceptions=True)
        left = None
        for ending in endings:
            if isinstance(ending, _Leave):
                left = ending
            elif not isinstance(ending, (ConnectionClosed, asyncio.CancelledError)):
                assert isinstance(ending, BaseException)
                raise ending
        return left

    async def _read(self, link: _Link) -> None:
        while True:
            data = await link.socket.recv(decode=False)
            self.statistics.bytes += len(data)
            try:
                self._on_message(link, _decode(data, link.is_text))
            except _NOT_OF_THE_PROTOCOL as error:
                self._doubt(link, f"a frame that does not fit: {error}")
            if self.mirror.seq and not self._is_broken:
                self._fresh_at = _clock()

    # What is sent

    async def _tend(self, link: _Link) -> None:
        """Send what is to be sent, each when it is due."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            try:
                async with asyncio.timeout(max(2 * self._check_interval_s, WELCOME_TIMEOUT_S)):
                    due = await self._send_due(link, loop.time())
            except TimeoutError:
                raise _Leave("the server reads nothing", is_dead=True) from None
            with contextlib.suppress(TimeoutError):  # something has become due
                async with asyncio.timeout_at(due):
                    await self._wake.wait()

    async def _send_due(self, link: _Link, now: float) -> float:
        """Send what is due now; return when something is next. Raises `_Leave`."""
        if link.return_at is not None and now >= link.return_at:
            raise _Leave("the server is going away")
        if now >= link.broken_at + HEAL_TIMEOUT_S:
            raise _Leave("no reset came")
        if now >= link.checked_at + self._check_interval_s:
            # It is always answered, in time or not; where nothing at all came, nobody is there.
            if link.checked_at > max(link.opened_at, link.socket.heard_at):
                raise _Leave("the server does not answer", is_dead=True)
            link.wants_check = True
        if link.wants_refresh:
            link.wants_refresh = False
            await link.send(link.encode({"type": "refresh"}))
        view_due = self._view_due(link)
        if now >= view_due:
            await self._send_view(link)
            view_due = self._view_due(link)
        if link.wants_check:
            link.wants_check, link.checked_at = False, now
            await link.send(link.encode({"type": "check"}))
        returning = float("inf") if link.return_at is None else link.return_at
        return min(returning, link.broken_at + HEAL_TIMEOUT_S, link.checked_at + self._check_interval_s, view_due)

    def _view_due(self, link: _Link) -> float:
        """Return when the newest view may be sent; never, if the server has it."""
        if self._wanted is None or self._wanted[0] == link.sent or len(link.unanswered) >= UNANSWERED_MAX:
            return float("inf")
        return link.sent_at + 1 / link.welcome.limits.views_per_s

    async def _send_view(self, link: _Link) -> None:
        assert self._wanted is not None
        id, view = self._wanted
        message = {"type": "view", "id": id} | view
        data = link.encode(message)
        if link.sent == 0 and link.applied == 0:
            have = self._have(link)
            if have is not None:
                longer = link.encode(message | have)
                if len(longer) <= link.welcome.limits.message_bytes:
                    data, link.resumed_with = longer, id
        link.sent, link.sent_at, link.unanswered[id] = id, asyncio.get_running_loop().time(), view
        try:
            _verify_size(data, link)
        except Refused as refused:
            self._on_refused(link, id, refused)
        else:
            await link.send(data)

    def _have(self, link: _Link) -> dict[str, Any] | None:
        """Return the members of a first view that say what is held, where that can be believed."""
        is_ours = self._world == link.welcome.world
        if not (self._may_have and is_ours and self.mirror.entities and not self._is_broken):
            return None
        held = list(self.mirror.entities)
        have = self.mirror.have(link.welcome.limits.have_entities)
        forgotten = {id: "forgotten" for id in held if id not in have}
        if forgotten:
            self._tell(Applied([], [], [], forgotten, False))
        return {"have": have, "world": self._world, "away_ms": max(0.0, (_clock() - self._fresh_at) * 1000)}

    # What is received

    def _on_message(self, link: _Link, message: dict[str, Any]) -> None:
        match message["type"]:
            case "delta":
                self._on_delta(link, message)
            case "check":
                self._on_check(link, msgspec.convert(message, Check))
            case "ack":
                ack = msgspec.convert(message, Ack)
                future = link.acks.get(message["id"])
                if future is not None and not future.done():
                    future.set_result(ack)
            case "error":
                self._on_refused(link, message.get("ref"), _refused(message))
            case "drain":
                link.return_at = asyncio.get_running_loop().time() + message["reconnect_ms"] / 1000
                self._wake.set()
            case _:  # what a later version says beside that is not for this one
                return

    def _on_delta(self, link: _Link, delta: dict[str, Any]) -> None:
        if self._is_broken:
            if not delta.get("reset"):
                return
            self.mirror.seq = delta["seq"] - 1  # whatever was missed, it is cleared
        renewed = {feature["id"] for feature in delta.get("enter", ()) if feature["id"] in self.mirror.entities}
        applied = self.mirror.apply(delta)
        self._is_broken = False
        link.broken_at = float("inf")
        self._world, self._may_have = link.welcome.world, True
        self.statistics.deltas += 1
        self.statistics.lag_ms = delta.get("lag_ms", self.statistics.lag_ms)
        id = delta.get("view")
        if isinstance(id, int):
            self._on_shown(link, id, is_whole=not delta.get("more"))
        self._tell(applied, renewed)

    def _on_shown(self, link: _Link, id: int, is_whole: bool) -> None:
        """A delta belonged to this view: so it, and what was sent before it, is answered."""
        link.applied = id
        if id in link.unanswered:
            self._shown = (id, link.unanswered[id])
            link.unanswered = {sent: view for sent, view in link.unanswered.items() if sent > id}
            self._wake.set()
        if is_whole:
            for asked, look in self._looks.items():
                if asked <= id and not look.done():
                    look.set_result(None)

    def _tell(self, applied: Applied, renewed: Iterable[str] = ()) -> None:
        known = frozenset(renewed)
        for changes in list(self._changes):
            changes.add(applied, known)

    def _on_check(self, link: _Link, check: Check) -> None:
        # Before the first delta there is nothing of this connection to compare, and while a reset is on its way nothing at all.
        if self.mirror.seq and not self._is_broken:
            self.statistics.checks += 1
            said = {"seq": check.seq, "count": check.count, "digest": check.digest}
            if not self.mirror.agrees(said):
                self._doubt(link, f"the digest differs: {said}, held are {len(self.mirror)} with {self.mirror.digest}")
        for future in link.checks:
            if not future.done():
                future.set_result(check)
        link.checks.clear()

    def _on_refused(self, link: _Link, id: Any, refused: Refused) -> None:
        """Take back a refused view; tell who waits for it, for a publish, or otherwise who listens."""
        self.statistics.errors += 1
        ack = link.acks.get(id)
        if ack is not None:
            if not ack.done():
                ack.set_exception(refused)
            return
        if link.unanswered.pop(id, None) is None:
            self._complain(refused)
            return
        link.sent = max(link.unanswered, default=link.applied)
        self._wake.set()
        if id == link.resumed_with:  # it may be the `have` that was wrong: once more, without it
            self._may_have = False
            return
        if self._wanted is not None and self._wanted[0] == id:
            self._wanted = (link.sent, link.unanswered[link.sent]) if link.unanswered else self._shown
        look = self._looks.get(id)
        if look is None or look.done():
            self._complain(refused)
        else:
            look.set_exception(refused)

    def _complain(self, refused: Refused) -> None:
        if self._on_error is not None:
            asyncio.get_running_loop().call_soon(self._on_error, refused)
        else:
            logger.warning("%s: refused: %s: %s", self.url, refused.code, refused.message)

    def _doubt(self, link: _Link, why: str) -> None:
        """The mirror may be wrong: ask for a reset, and believe nothing before it."""
        if self._is_broken:
            return
        logger.warning("%s: asking for everything anew: %s", self.url, why)
        self._is_broken = True
        self.statistics.heals += 1
        link.wants_refresh, link.broken_at = True, asyncio.get_running_loop().time()
        self._wake.set()


def _decode(data: bytes, is_text: bool) -> dict[str, Any]:
    message = msgspec.json.decode(data) if is_text else msgspec.msgpack.decode(data)
    if not isinstance(message, dict):
        raise Undecodable("a message is an object")
    return message


def _refused(error: dict[str, Any]) -> Refused:
    """Return what an `error` says; a code that this version does not know is one that may pass."""
    try:
        code = ErrorCode(error["code"])
    except ValueError:
        code = ErrorCode.UNAVAILABLE
    return Refused(code, str(error["message"]))


def _verify_size(data: bytes, link: _Link) -> None:
    if len(data) > link.welcome.limits.message_bytes:
        raise Refused(ErrorCode.TOO_BIG, f"at most {link.welcome.limits.message_bytes} bytes are allowed in a message")


def _end_of_iteration(closed: Closed) -> Closed | None:
    return None if closed.code == CloseCode.NORMAL else Closed(closed.code, closed.reason)


def _clock() -> float:
    """Return seconds of a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
