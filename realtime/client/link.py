"""One connection of a client, from its welcome to its end.

Law: frames are taken as they come, whatever anybody does with what they say. What is to be sent is state (the newest
view, a check, a refresh) and is sent when it is due; only a publish is a message, and whoever publishes waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from realtime.client.keeper import Keeper
from realtime.client.status import Closed, Statistics
from realtime.client.views import Views
from realtime.errors import ErrorCode, Refused
from realtime.messages import SUBPROTOCOL_MSGPACK, Ack, Check, Undecodable, Welcome

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 10.0  # for a welcome, and for the reset after a refresh; beyond it the connection is given up
NEVER = float("inf")

# What a frame that is not of the protocol raises while it is taken apart; `MirrorError` and `Undecodable` are ValueErrors.
NOT_OF_THE_PROTOCOL = (ValueError, LookupError, TypeError, AttributeError, msgspec.MsgspecError)


class Leave(Exception):
    """The client ends the connection by itself."""

    def __init__(self, reason: str, is_dead: bool = False) -> None:
        super().__init__(reason)
        self.is_dead = is_dead  # nobody would answer a closing handshake


class Socket(ClientConnection):
    """A WebSocket that knows when something came: also a part of a long frame shows that the peer lives."""

    heard_at = 0.0  # by the loop's clock

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        super().data_received(data)

    @property
    def is_text(self) -> bool:
        """Messages are JSON in text frames."""
        return self.subprotocol != SUBPROTOCOL_MSGPACK

    async def send_object(self, message: dict[str, Any]) -> None:
        await self.send_encoded(self.encode(message))

    async def send_encoded(self, data: bytes) -> None:
        await self.send(data, text=self.is_text)

    def encode(self, message: dict[str, Any]) -> bytes:
        return msgspec.json.encode(message) if self.is_text else msgspec.msgpack.encode(message)

    def decode(self, data: bytes) -> dict[str, Any]:
        message = msgspec.json.decode(data) if self.is_text else msgspec.msgpack.decode(data)
        if not isinstance(message, dict):
            raise Undecodable("a message is an object")
        return message


async def greet(socket: Socket, name: str, token: str | None, statistics: Statistics) -> Welcome:
    """Identify; return the welcome. Raises `ConnectionClosed`, TimeoutError or what is in `NOT_OF_THE_PROTOCOL`."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        await socket.send_object({"type": "identify", "client": name} | ({} if token is None else {"token": token}))
        data = await socket.recv(decode=False)
    statistics.bytes += len(data)
    welcome = msgspec.convert(socket.decode(data), Welcome)
    statistics.connections += 1
    return welcome


class Link:
    """See above. `complain` is given what the server refused and no call waits for."""

    def __init__(
        self,
        socket: Socket,
        welcome: Welcome,
        keeper: Keeper,
        views: Views,
        statistics: Statistics,
        check_interval_s: float,
        complain: Callable[[Refused], None],
    ) -> None:
        self.socket = socket
        self.opened_at = socket.loop.time()
        self.return_at: float | None = None  # the server is going away, and wants to be left then
        self._welcome = welcome
        self._keeper = keeper
        self._views = views
        self._statistics = statistics
        self._check_interval_s = check_interval_s
        self._complain = complain
        self._wake = asyncio.Event()  # something is to be sent
        self._acks: dict[int, asyncio.Future[Ack]] = {}
        self._checks: list[asyncio.Future[Check]] = []  # who waits for the next check
        self._wants_check, self._wants_refresh = False, keeper.is_in_doubt
        self._checked_at = self.opened_at  # when a check was asked for, since which something came or nothing yet
        self._has_checked = False
        self._view_sent_at = -NEVER
        self._resumed_with = 0  # id of the view that went with a `have`
        self._heal_until = self.opened_at + ANSWER_TIMEOUT_S if keeper.is_in_doubt else NEVER
        keeper.begin()
        views.begin()

    # Calls

    def wake(self) -> None:
        """Something else is wanted: see what is to be sent."""
        self._wake.set()

    def refresh(self) -> None:
        """Ask for a reset."""
        self._wants_refresh = True
        self._wake.set()

    async def check(self) -> Check:
        """Return the server's next check. Raises `Closed`."""
        future: asyncio.Future[Check] = asyncio.get_running_loop().create_future()
        self._checks.append(future)
        self._wants_check = True
        self._wake.set()
        try:
            return await future
        finally:
            if future in self._checks:
                self._checks.remove(future)

    async def publish(self, id: int, updates: list[Any]) -> Ack:
        """Publish; return the verdicts. Raises `Refused`, `Closed`."""
        data = self.socket.encode({"type": "publish", "id": id, "updates": updates})
        self._verify_size(data)
        future: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        self._acks[id] = future
        try:
            with contextlib.suppress(ConnectionClosed):  # that is told by the future
                await self.socket.send_encoded(data)
            return await future
        finally:
            del self._acks[id]

    def end(self, code: int, reason: str) -> None:
        """Tell those who wait for an answer that none will come."""
        waiting: list[asyncio.Future[Any]] = [*self._acks.values(), *self._checks]
        for future in waiting:
            if not future.done():
                future.set_exception(Closed(code, reason))

    # From welcome to end

    async def run(self) -> Leave | None:
        """Read and send until the connection ends; return the client's own reason to leave, if that is how."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._tend())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            endings = await asyncio.gather(*tasks, return_exceptions=True)
        left = None
        for ending in endings:
            if isinstance(ending, Leave):
                left = ending
            elif isinstance(ending, BaseException) and not isinstance(ending, (ConnectionClosed, asyncio.CancelledError)):
                raise ending
        return left

    async def _read(self) -> None:
        while True:
            data = await self.socket.recv(decode=False)
            self._statistics.bytes += len(data)
            try:
                self._on_message(self.socket.decode(data))
            except NOT_OF_THE_PROTOCOL as error:
                self._doubt(f"a frame does not fit: {error!r}")
            self._keeper.heard(clock())

    # What is sent

    async def _tend(self) -> None:
        """Send what is to be sent, each when it is due."""
        while True:
            self._wake.clear()
            try:
                async with asyncio.timeout(2 * self._check_interval_s):
                    due = await self._send_due(self.socket.loop.time())
            except TimeoutError:
                raise Leave("the server reads nothing", is_dead=True) from None
            with contextlib.suppress(TimeoutError):  # something has become due
                async with asyncio.timeout_at(due):
                    await self._wake.wait()

    async def _send_due(self, now: float) -> float:
        """Send what is due now; return when something is next. Raises `Leave`."""
        if self.return_at is not None and now >= self.return_at:
            raise Leave("the server is going away")
        if now >= self._heal_until:
            raise Leave("no reset came")
        if now >= self._check_due():
            # A check is answered sooner or later; where nothing at all has come since the last one, nobody is there.
            if not self._was_heard():
                raise Leave("the server does not answer", is_dead=True)
            self._wants_check = True
        if self._wants_refresh:
            self._wants_refresh = False
            await self.socket.send_object({"type": "refresh"})
        if now >= self._view_due():
            await self._send_view(now)
        if self._wants_check:
            if self._was_heard():
                self._checked_at = now
            self._wants_check, self._has_checked = False, True
            await self.socket.send_object({"type": "check"})
        return min(NEVER if self.return_at is None else self.return_at, self._heal_until, self._check_due(), self._view_due())

    def _was_heard(self) -> bool:
        """Something came since a check was asked for, or none was."""
        return not self._has_checked or self.socket.heard_at >= self._checked_at

    def _check_due(self) -> float:
        return self._checked_at + self._check_interval_s

    def _view_due(self) -> float:
        if self._views.next_to_send() is None:
            return NEVER
        return self._view_sent_at + 1 / self._welcome.limits.views_per_s

    async def _send_view(self, now: float) -> None:
        wanted = self._views.next_to_send()
        assert wanted is not None
        id, view = wanted
        message = {"type": "view", "id": id} | view
        data = self.socket.encode(message)
        limits = self._welcome.limits
        if self._views.is_first:
            have = self._keeper.have(self._welcome.world, limits.have_entities, clock())
            longer = data if have is None else self.socket.encode(message | have)
            if len(data) < len(longer) <= limits.message_bytes:
                data, self._resumed_with = longer, id
        self._views.sent(id, view)
        self._view_sent_at = now
        try:
            self._verify_size(data)
        except Refused as refused:
            self._on_refused(id, refused)
        else:
            await self.socket.send_encoded(data)

    def _verify_size(self, data: bytes) -> None:
        most = self._welcome.limits.message_bytes
        if len(data) > most:
            raise Refused(ErrorCode.TOO_BIG, f"at most {most} bytes are allowed in a message")

    # What is received

    def _on_message(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "delta":
                self._on_delta(message)
            case "check":
                self._on_check(message)
            case "ack":
                ack = msgspec.convert(message, Ack)
                future = self._acks.get(message["id"])
                if future is not None and not future.done():
                    future.set_result(ack)
            case "error":
                self._on_refused(message.get("ref"), _refusal(message))
            case "drain":
                self.return_at = self.socket.loop.time() + message["reconnect_ms"] / 1000
                self._wake.set()
            case _:  # what later versions say besides is not for this one
                return

    def _on_delta(self, delta: dict[str, Any]) -> None:
        if not self._keeper.apply(delta, self._welcome.world):
            return
        self._heal_until = NEVER
        id = delta.get("view")
        if isinstance(id, int):
            self._views.on_delta(id, is_whole=not delta.get("more"))
            self._wake.set()

    def _on_check(self, message: dict[str, Any]) -> None:
        check = msgspec.convert(message, Check)
        if not self._keeper.agrees(message):
            self._doubt(f"the server's digest is that of {check.count} entities at delta {check.seq}, the mirror's another")
        for future in self._checks:
            if not future.done():
                future.set_result(check)
        self._checks.clear()

    def _on_refused(self, id: Any, refused: Refused) -> None:
        """Tell whoever asked for it: a publish, a view; otherwise it is a complaint."""
        self._statistics.errors += 1
        ack = self._acks.get(id)
        if ack is not None:
            if not ack.done():
                ack.set_exception(refused)
            return
        is_told = False
        if self._views.take_back(id):
            self._wake.set()
            if id == self._resumed_with:  # it may be what is held that was refused: once more, without it
                self._resumed_with, self._keeper.may_have = 0, False
                return
            is_told = self._views.refuse(id, refused)
        if not is_told:
            self._complain(refused)

    def _doubt(self, why: str) -> None:
        """The mirror may be wrong: ask for a reset."""
        if self._keeper.is_in_doubt:
            return
        logger.warning("asking for everything anew: %s", why)
        self._keeper.doubt()
        self._heal_until = self.socket.loop.time() + ANSWER_TIMEOUT_S
        self.refresh()


def _refusal(error: dict[str, Any]) -> Refused:
    """Return what an `error` says; a code that this version does not know is one that may pass."""
    try:
        code = ErrorCode(error["code"])
    except ValueError:
        code = ErrorCode.UNAVAILABLE
    return Refused(code, str(error["message"]))


def clock() -> float:
    """Return seconds of a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
