"""The messages of the wire protocol: one Struct each, and the way between them and bytes in both subprotocols.

Law: what a client sends is decoded here and nowhere else, in two steps, so that a bad member costs one `error` that
can name the message's id: bytes to an object (`Undecodable` if it is none), object to a Struct (`Refused`). Deltas are
written by the engine, which shares their bytes; every other message of the server is a Struct of this file.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from realtime.errors import ErrorCode, Refused

PROTOCOL = 1
SUBPROTOCOL_JSON = "realtime.v1.json"
SUBPROTOCOL_MSGPACK = "realtime.v1.msgpack"

Text = Annotated[str, Meta(max_length=128)]
Integer = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]  # what both subprotocols can carry back
MessageId = Text | Integer


class Undecodable(ValueError):
    """Bytes that are no object in the connection's encoding: closes it with 4503."""


# Client to server


class Identify(Struct, frozen=True, tag="identify"):
    """Who the client is. The first message, or implied by another first one where anonymous is allowed."""

    token: Annotated[str, Meta(max_length=4096)] | None = None
    client: Text | None = None


class View(Struct, frozen=True, tag="view"):
    """What the session looks at from now on; `Any` members are checked by the part that knows them."""

    bbox: Any = UNSET
    zoom: Annotated[float, Meta(ge=-64, le=64)] = 24.0
    filter: Any = None
    ids: Any = None
    max_hz: Annotated[float, Meta(ge=0.1, le=1e6)] | None = None
    id: MessageId | None = None
    have: dict[str, int | float] | None = None
    world: Text | None = None
    away_ms: Annotated[float, Meta(ge=0)] | None = None
    last: bool = False


class Refresh(Struct, frozen=True, tag="refresh"):
    """Asks for a reset."""


class CheckRequest(Struct, frozen=True, tag="check"):
    """Asks for a `check`."""


class Publish(Struct, frozen=True, tag="publish"):
    """Updates of a session that may publish."""

    updates: list[Any]
    id: MessageId | None = None


class Subscribe(Struct, frozen=True, tag="subscribe"):
    """Not served yet."""


class Unsubscribe(Struct, frozen=True, tag="unsubscribe"):
    """Not served yet."""


class JobsShown(Struct, frozen=True, tag="ack"):
    """Not served yet."""


class Ping(Struct, frozen=True, tag="ping"):
    """Asks for a pong."""

    t: Integer | float | Text | None = None


ClientMessage = Identify | View | Refresh | CheckRequest | Publish | Subscribe | Unsubscribe | JobsShown | Ping
_CLIENT_MESSAGES: dict[object, type[ClientMessage]] = {
    "identify": Identify,
    "view": View,
    "refresh": Refresh,
    "check": CheckRequest,
    "publish": Publish,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "ack": JobsShown,
    "ping": Ping,
}


def decode_object(data: str | bytes) -> dict[str, Any]:
    """Return the object in one message: text is JSON, bytes are msgpack."""
    try:
        value = msgspec.json.decode(data) if isinstance(data, str) else msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Undecodable(f"not {'JSON' if isinstance(data, str) else 'msgpack'}: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise Undecodable("a message is an object")
    return value


def to_message(value: dict[str, Any]) -> ClientMessage:
    """Return the message that an object is; raise `Refused` for an unknown type or a bad member."""
    name = value.get("type")
    kind = _CLIENT_MESSAGES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise Refused(ErrorCode.BAD_MESSAGE, f"type: one of {', '.join(map(str, _CLIENT_MESSAGES))} is expected")
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        code = ErrorCode.BAD_VIEW if kind is View else ErrorCode.BAD_MESSAGE
        why, _, place = str(error).partition(" - at `$")
        member = place.rstrip("`").lstrip(".") or str(name)
        raise Refused(code, f"{member}: {why}") from None


def reference_of(value: dict[str, Any]) -> str | int | None:
    """Return the id by which an `error` names the message that it answers; None if it has none that may be one."""
    try:
        id: str | int | None = msgspec.convert(value.get("id"), MessageId | None)
    except msgspec.ValidationError:
        return None
    return id


# Server to client


class WelcomeLimits(Struct, frozen=True):
    """What a client must know of the limits."""

    message_bytes: int
    have_entities: int
    views_per_s: float
    entities_per_view: int


class Welcome(Struct, frozen=True, tag="welcome"):
    """The first message of the server."""

    protocol: int
    session: str
    user: str | None
    node: str
    epoch: str
    world: str
    limits: WelcomeLimits


class Check(Struct, frozen=True, tag="check"):
    """What the mirror must amount to right behind delta `seq`."""

    seq: int
    count: int
    digest: str
    pending: int


class Rejected(Struct, frozen=True):
    """One update that was refused: its place among those sent, and why."""

    index: int
    code: ErrorCode
    message: str


class Ack(Struct, frozen=True, tag="ack", omit_defaults=True):
    """What became of the updates of one `publish`."""

    accepted: int
    unchanged: int
    stale: int
    rejected: list[Rejected]
    rejected_total: int
    id: MessageId | UnsetType = UNSET


class Pong(Struct, frozen=True, tag="pong"):
    """Answers a ping."""

    t: int | float | str | None = None


class Error(Struct, frozen=True, tag="error"):
    """A message was refused; `ref` is its id."""

    code: ErrorCode
    message: str
    ref: MessageId | UnsetType = UNSET


class Drain(Struct, frozen=True, tag="drain"):
    """The node is going away; come back, elsewhere if there is an elsewhere, after `reconnect_ms`."""

    reconnect_ms: int


ServerMessage = Welcome | Check | Ack | Pong | Error | Drain


def encode(message: ServerMessage | ClientMessage, is_text: bool) -> bytes:
    """Return a message in JSON or msgpack."""
    return msgspec.json.encode(message) if is_text else msgspec.msgpack.encode(message)
