"""The state behind one connection: what its messages mean, and what is sent in which lane.

Law: a message that is refused costs one `error` and changes nothing. Control messages are answered at once, in order;
views, refreshes and checks wait for their turn, of which each kind has `views_per_s`, and only the newest of a kind
waits. Deltas and checks go out only while the socket takes data; until then what they would say stays in the outbox.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal, Protocol

import msgspec

from realtime import messages
from realtime.engine import Encoding
from realtime.engine import View as EngineView
from realtime.engine.filters import parse_filter
from realtime.errors import CloseCode, ErrorCode, Refused
from realtime.gateway.complaints import Complaints
from realtime.gateway.flush import Flusher, Pump
from realtime.gateway.identity import ANONYMOUS, Denied, Identity
from realtime.gateway.turns import Bucket, Load, Turn
from realtime.geo import view_boxes
from realtime.node import Node
from realtime.values import parse_id, parse_version

logger = logging.getLogger(__name__)

NO_IDS: frozenset[str] = frozenset()  # 216 bytes
REQUESTS_SHARE_MAX = 0.1  # of the processor's time, for the views, refreshes and checks of one session


class Wire(Protocol):
    """The connection, as the session uses it: see `realtime.gateway.websocket`."""

    is_text: bool
    is_paused: bool
    peer: str
    message_bytes_max: int

    def send_control(self, data: bytes) -> None:
        """Queue bytes in the control lane."""

    def send_state(self, data: bytes) -> None:
        """Write bytes of the state lane; only while not paused."""

    def send_rest(self, rest: bytes) -> None:
        """Write what the socket did not take of a frame of the pump's."""

    def let_pump(self, pump: Pump, session: int) -> None:
        """Let a pump write the session's state from now on."""

    def hold_pump(self) -> None:
        """Let the pump write nothing until something was sent here."""

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Close with a handshake, and cut the socket if that takes too long."""

    def identified(self) -> None:
        """The first message came: the identify timeout is over."""

    def hold_reading(self, is_held: bool) -> None:
        """Read nothing more until told otherwise."""


class Others(Protocol):
    """The other processes of this machine that share the public port."""

    count: int  # of all processes, this one included

    async def ask(self, what: str, argument: str = "") -> dict[int, bytes]:
        """Return what each of the others answers, by its number; who does not answer in time is left out."""


class Gate:
    """What all sessions of a server share."""

    def __init__(self, node: Node, flusher: Flusher, identity: Identity) -> None:
        self.node = node
        self.flusher = flusher
        self.identity = identity
        self.sessions: dict[str, Session] = {}  # those that have identified themselves
        self.tasks: set[asyncio.Task[None]] = set()  # publishing on behalf of sessions
        self.complaints = Complaints(logger, time.monotonic)
        self.turn_s = 1 / node.config.limits.views_per_s
        self.others: Others | None = None  # the processes that share the public port, where this one speaks for them

    def new_session(self) -> Session:
        """Return the handler of a new connection."""
        return Session(self)


UNASKED = Turn(0.0, Load(1.0))  # of whoever never asked for one


class Session:
    """See above. Made with its connection; becomes a session of the engine when it is identified."""

    __slots__ = (
        "_bucket",
        "_check",
        "_gate",
        "_has_looked",
        "_have",
        "_inbox",
        "_is_over",
        "_is_taken",
        "_limits",
        "_load",
        "_look",
        "_node",
        "_pong",
        "_refresh",
        "_view",
        "_wire",
        "_work",
        "client",
        "name",
        "number",
        "who",
    )

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._node = gate.node
        self._limits = gate.node.config.limits
        self.name = secrets.token_hex(8)
        self.number = 0  # of the engine's session; 0: not identified
        self.client: str | None = None
        self.who = ANONYMOUS
        self._wire: Wire | None = None
        self._is_over = False  # its connection is being closed: whatever still comes means nothing
        self._bucket = Bucket(self._limits.messages_per_s, self._limits.messages_burst, time.monotonic)
        self._has_looked = False  # a first view was accepted: `have` is an error from now on
        self._view: EngineView | None = None  # accepted, waits for its turn
        self._have: dict[str, int] | None = None  # believed, goes with the next view that is applied
        self._load: Load | None = None  # from the first request on
        self._look = self._refresh = self._check = UNASKED
        self._pong: bytes | None = None  # the newest, waits for the socket
        self._is_taken = False  # the engine gave it out while the socket was paused
        self._work: asyncio.Task[None] | None = None  # of a message that takes its time
        self._inbox: deque[str | bytes] | None = None  # came while a message took its time; an empty one has 600 bytes

    # The connection's side

    def on_open(self, connection: Wire) -> None:
        self._wire = connection
        if self._gate.identity.allows_anonymous:
            connection.message_bytes_max = self._limits.message_bytes

    def on_message(self, data: str | bytes) -> None:
        if self._is_over:
            return
        if not self._bucket.take():
            self.close(CloseCode.RATE_LIMITED, "more messages than messages_per_s")
        elif self._work is not None:
            if self._inbox is None:
                self._inbox = deque()
            self._inbox.append(data)
        else:
            self._receive(data)

    def _receive(self, data: str | bytes) -> None:
        try:
            value = messages.decode_object(data)
        except messages.Undecodable as error:
            self.close(CloseCode.UNDECODABLE, str(error))
            return
        try:
            if self.number == 0 and self._gate.identity.allows_anonymous and value.get("type") != "identify":
                self._identify(messages.Identify())  # any other first message stands for it, also one that is refused
            message = messages.to_message(value)
            if self.number == 0:
                self._identify(message if isinstance(message, messages.Identify) else messages.Identify())
            else:
                self._on[type(message)](self, message, value)
        except Refused as refused:
            self._refuse(refused, messages.reference_of(value))

    def on_writable(self) -> None:
        wire = self._wire
        if wire is None or self._is_over:
            return
        if self._pong is not None:
            pong, self._pong = self._pong, None
            wire.send_control(pong)
        if self._is_taken:
            self._is_taken = False
            self._gate.flusher.resume(self.number)
        if self._check.is_due:
            self._gate.flusher.ask(self)

    def on_close(self, code: int) -> None:
        self._node.counters.count_close(code)
        self._is_over, self._wire = True, None
        self._inbox = None
        for turn in (self._look, self._refresh, self._check):
            turn.cancel()
        if self.number:
            self._gate.flusher.remove(self.number)
            self._gate.sessions.pop(self.name, None)
            self._node.engine.close(self.number)
            self.number = 0

    # Control lane

    def send(self, message: messages.ServerMessage) -> None:
        """Send a message in the control lane."""
        if self._wire is not None and not self._is_over:
            self._wire.send_control(messages.encode(message, self._wire.is_text))

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Close the connection. What is said first counts."""
        if self._wire is not None and not self._is_over:
            self._is_over = True
            self._wire.close(code, reason)

    def fail(self) -> None:
        """End the session: serving it raised."""
        self._node.counters.count("session_failed")
        self.close(CloseCode.BUG, "internal error")

    @property
    def encoding(self) -> Literal["json", "msgpack"]:
        """How its frames are written: json or msgpack."""
        return "json" if self._wire is None or self._wire.is_text else "msgpack"

    @property
    def peer(self) -> str:
        """The address of the client."""
        return "" if self._wire is None else self._wire.peer

    def _refuse(self, refused: Refused, reference: str | int | None) -> None:
        self._node.counters.rejected[refused.code] += 1
        error = messages.Error(refused.code, refused.message)
        self.send(error if reference is None else messages.Error(refused.code, refused.message, reference))

    def _identify(self, message: messages.Identify) -> None:
        wire = self._wire
        assert wire is not None
        try:
            self.who = self._gate.identity.identify(message.token)
        except Denied as denied:
            self._node.counters.count("identify_denied")
            self.close(denied.code, "not identified")
            return
        self.client = None if message.client is None else sys.intern(message.client)  # many have the same
        wire.message_bytes_max = self._limits.message_bytes
        wire.identified()
        encoding = Encoding.JSON if wire.is_text else Encoding.MSGPACK
        self.number = self._node.engine.open(self.who.principals, self.who.user, encoding)
        self._gate.sessions[self.name] = self
        self._gate.flusher.add(self.number, self)
        wire.let_pump(self._gate.flusher.pump, self.number)
        limits = self._limits
        self.send(
            messages.Welcome(
                protocol=messages.PROTOCOL,
                session=self.name,
                user=self.who.user,
                node=self._node.name,
                epoch=self._node.epoch,
                world=self._node.world,
                limits=messages.WelcomeLimits(limits.message_bytes, limits.have_entities, limits.views_per_s, limits.entities_per_view),
            )
        )

    # Messages

    def _on_identify(self, message: messages.Identify, value: dict[str, Any]) -> None:
        raise Refused(ErrorCode.UNSUPPORTED, "identify: refreshing a token is not supported yet")

    def _on_unsupported(self, message: messages.Subscribe | messages.Unsubscribe | messages.JobsShown, value: dict[str, Any]) -> None:
        raise Refused(ErrorCode.UNSUPPORTED, f"{value['type']}: not supported yet")

    def _on_ping(self, message: messages.Ping, value: dict[str, Any]) -> None:
        wire = self._wire
        assert wire is not None
        pong = messages.encode(messages.Pong(message.t), wire.is_text)
        if wire.is_paused:
            self._pong = pong
        else:
            wire.send_control(pong)

    def _on_view(self, message: messages.View, value: dict[str, Any]) -> None:
        if message.last:
            if self._node.view_store is None:
                self._look_again(value, None if self.who.user is None else self._node.kept_view(self.who.user))
            else:
                self._occupy(self._find_and_look_again(value), "view")
            return
        if message.have is not None and self._has_looked:
            raise Refused(ErrorCode.BAD_VIEW, "have: only the first view of a connection may have it")
        view, have = self._parse_view(message), self._parse_have(message)
        if not self._has_looked:
            self._has_looked = True
            self._have = have
        if self.who.user is not None:
            self._node.keep_view(self.who.user, value)
        self._view = view
        if self._look is UNASKED:
            self._look = self._new_turn()
        self._look.ask(self._ready)

    def _look_again(self, value: dict[str, Any], stored: dict[str, Any] | None) -> None:
        """Look at the user's stored view, with what this message says of itself."""
        if stored is None:
            raise Refused(ErrorCode.UNAVAILABLE, "last: no view of this user is stored")
        value = stored | {"type": "view"} | {name: value[name] for name in ("id", "have", "world", "away_ms") if name in value}
        value.pop("last", None)
        message = messages.to_message(value)
        assert isinstance(message, messages.View)
        self._on_view(message, value)

    async def _find_and_look_again(self, value: dict[str, Any]) -> None:
        try:
            self._look_again(value, None if self.who.user is None else await self._node.find_view(self.who.user))
        except Refused as refused:
            self._refuse(refused, messages.reference_of(value))

    def _parse_view(self, message: messages.View) -> EngineView:
        if message.bbox is msgspec.UNSET:
            raise Refused(ErrorCode.BAD_VIEW, "bbox: required; null shows nothing")
        boxes = view_boxes(message.bbox)
        ids = NO_IDS
        if message.ids is not None:
            count_max = self._limits.ids_per_view
            if not isinstance(message.ids, list) or len(message.ids) > count_max:
                raise Refused(ErrorCode.BAD_VIEW, f"ids: an array of at most {count_max} ids is expected")
            ids = frozenset(_view_id(id) for id in message.ids)
        filter = None if message.filter is None else parse_filter(message.filter, self.who.user, self._limits)
        return EngineView(boxes, message.zoom, filter, ids, message.max_hz or 0.0, message.id)

    def _parse_have(self, message: messages.View) -> dict[str, int] | None:
        """Return what the client holds, if that can be believed: of this world, and not away for too long."""
        if message.have is None:
            return None
        if len(message.have) > self._limits.have_entities:
            raise Refused(ErrorCode.TOO_BIG, f"have: at most {self._limits.have_entities} entities are allowed")
        try:
            have = {parse_id(id, "id"): parse_version(version) for id, version in message.have.items()}
        except Refused as refused:
            raise Refused(ErrorCode.BAD_VIEW, f"have: {refused.message}") from None
        is_ours = message.world == self._node.world
        is_fresh = message.away_ms is not None and message.away_ms < self._limits.tombstone_s * 1000
        return have if is_ours and is_fresh else None

    def _on_refresh(self, message: messages.Refresh, value: dict[str, Any]) -> None:
        if self._refresh is UNASKED:
            self._refresh = self._new_turn()
        self._refresh.ask(self._ready)

    def _on_check(self, message: messages.CheckRequest, value: dict[str, Any]) -> None:
        if self._check is UNASKED:
            self._check = self._new_turn()
        self._check.ask(self._ready)

    def _on_publish(self, message: messages.Publish, value: dict[str, Any]) -> None:
        if self.who.may_publish is None:
            raise Refused(ErrorCode.FORBIDDEN, "publish: this session may not")
        self._occupy(self._publish(message, self.who.may_publish), "publish")

    def _occupy(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Let a message take its time; what the client sends meanwhile waits, so that its messages keep their order."""
        assert self._wire is not None
        self._wire.hold_reading(True)
        self._work = asyncio.get_running_loop().create_task(self._be_occupied(work, name))
        self._gate.tasks.add(self._work)
        self._work.add_done_callback(self._gate.tasks.discard)

    async def _be_occupied(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
            self._work = None
            while self._inbox and self._work is None and not self._is_over:
                self._receive(self._inbox.popleft())
            if not self._inbox:
                self._inbox = None
        except Exception:  # noqa: BLE001  a bug: it costs this session, and nobody else notices
            self._gate.complaints.exception(name, f"a {name} of a session failed")
            self._work = None
            self.fail()
        if self._work is None and self._wire is not None:
            self._wire.hold_reading(False)

    async def _publish(self, message: messages.Publish, allows: Callable[[str], bool]) -> None:
        """Apply a batch in slices."""
        try:
            result = await self._node.publish_sliced(message.updates, allows)
        except Refused as refused:  # nobody takes updates at the moment
            self._refuse(refused, message.id)
            return
        id = msgspec.UNSET if message.id is None else message.id
        self.send(messages.Ack(result.accepted, result.unchanged, result.stale, result.rejected, result.rejected_total, id))

    _on: Mapping[type[messages.ClientMessage], Callable[[Session, Any, dict[str, Any]], None]] = {
        messages.Identify: _on_identify,
        messages.View: _on_view,
        messages.Refresh: _on_refresh,
        messages.CheckRequest: _on_check,
        messages.Publish: _on_publish,
        messages.Subscribe: _on_unsupported,
        messages.Unsubscribe: _on_unsupported,
        messages.JobsShown: _on_unsupported,
        messages.Ping: _on_ping,
    }

    # State lane

    def _new_turn(self) -> Turn:
        if self._load is None:
            self._load = Load(REQUESTS_SHARE_MAX)
        return Turn(self._gate.turn_s, self._load)

    def _ready(self) -> None:
        self._gate.flusher.ask(self)

    def perform(self, now: float) -> None:
        """Apply the view, refresh and check whose turn has come."""
        engine = self._node.engine
        if self.number == 0 or self._is_over:
            return
        begin = time.thread_time()
        if self._look.is_due and self._view is not None:
            view, have, self._view, self._have = self._view, self._have, None, None
            self._look.done()
            engine.look(self.number, view, have, now)
        if self._refresh.is_due:
            self._refresh.done()
            engine.refresh(self.number, now)
        self._charge(begin)
        self._send_check()
        self._gate.flusher.wake()

    def _charge(self, begin: float) -> None:
        """Note what a request cost since `begin`, in time of the processor: what else runs is not the client's fault."""
        assert self._load is not None
        self._load.add(time.thread_time() - begin, asyncio.get_running_loop().time())

    def flush(self, now: float) -> None:
        """Write the next delta; while the socket takes none, it waits in the outbox."""
        wire = self._wire
        if wire is None or self.number == 0 or self._is_over:
            return
        if wire.is_paused:
            self._is_taken = True
            return
        frame = self._node.engine.drain(self.number, self._limits.frame_bytes, now)
        if frame is not None:
            self._node.counters.frames += 1
            self._node.counters.frame_bytes += len(frame)
            wire.send_state(frame)
        self._send_check()

    def finish(self, rest: bytes) -> None:
        """Write what the socket did not take of a delta."""
        if self._wire is not None:
            self._wire.send_rest(rest)

    def _send_check(self) -> None:
        """Answer a check whose turn has come, right behind the deltas that went out."""
        wire = self._wire
        if wire is None or wire.is_paused or not self._check.is_due:
            return
        begin = time.thread_time()
        check = self._node.engine.check(self.number)
        self._charge(begin)
        if check is None:
            wire.hold_pump()
        else:
            self._check.done()
            wire.send_state(messages.encode(messages.Check(*check), wire.is_text))


def _view_id(value: object) -> str:
    try:
        return parse_id(value, "ids")
    except Refused as refused:
        raise Refused(ErrorCode.BAD_VIEW, refused.message) from None
