"""The head of an HTTP request, and whether it becomes a WebSocket. No I/O.

Law: strict where two parties could read a head in two ways, tolerant only where browsers need it (`Connection:
keep-alive, Upgrade`, `Upgrade: WebSocket`). No answer repeats anything that the peer sent. Whoever may not connect is
refused before anything is made for them.
"""

from __future__ import annotations

import binascii
import re
import sys
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha1
from http import HTTPStatus
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from realtime.gateway.origin import host_allowed, origin_allowed

HEAD_BYTES_MAX = 16 * 1024
HEADERS_MAX = 100
VERSION = "13"

_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t]*)")
_TARGET = re.compile(r"/[\x21\x22\x24-\x7e]*")  # origin form, without a fragment
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES = 16


class Endpoint(NamedTuple):
    """Where WebSockets are, and what is spoken there."""

    path: str | None = "/ws"  # None: everywhere
    subprotocols: Mapping[str, bool] | None = {  # name -> is_text; None: whichever comes first
        "realtime.v1.json": True,
        "realtime.v1.msgpack": False,
    }
    is_mixed: bool = False  # messages of both frame types are taken


class Door(NamedTuple):
    """Whom the server answers."""

    bound: str  # the address it is bound to
    origins: Sequence[str] = ()  # whose pages may connect besides its own

    @property
    def hosts(self) -> list[str]:
        """The names of the listed origins: a proxy on this machine passes on the name that it is called by."""
        return [urlsplit(origin).netloc for origin in self.origins]


class Page(Protocol):
    """A plain answer."""

    @property
    def status(self) -> int: ...
    @property
    def content_type(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class HandshakeRefused(Exception):
    """The request is answered with an error; `reason` is the body, and constant."""

    def __init__(self, status: HTTPStatus, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}


class Request(NamedTuple):
    """A well-formed GET without a body."""

    path: str  # without the query
    headers: Mapping[str, Sequence[str]]  # by name in lower case

    def one(self, name: str) -> str:
        """Return the value of a header that must be there exactly once."""
        values = self.headers.get(name, ())
        if len(values) != 1:
            raise _bad(f"{name}: exactly one is expected")
        return values[0]

    def tokens(self, name: str) -> list[str]:
        """Return the members of a header that is a list, over all its lines."""
        members = ",".join(self.headers.get(name, ())).split(",")
        return [member.strip(" \t") for member in members if member.strip(" \t")]

    def has_token(self, name: str, token: str) -> bool:
        """Tell whether a list has a member, whatever its case."""
        return token in (member.lower() for member in self.tokens(name))


class Upgrade(NamedTuple):
    """A request that may become a WebSocket."""

    key: str
    subprotocol: str | None  # None: none was offered
    is_text: bool

    @property
    def headers(self) -> dict[str, str]:
        """What the 101 says besides the upgrade itself."""
        return {} if self.subprotocol is None else {"Sec-WebSocket-Protocol": self.subprotocol}


def parse_head(head: bytes) -> Request:
    """Read a head, without the empty line that ends it. Raises `HandshakeRefused`."""
    try:
        lines = head.decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        raise _bad("the head is not ASCII") from None
    request_line = lines[0].split(" ")
    if len(request_line) != 3:
        raise _bad("the request line is not METHOD TARGET VERSION")
    method, target, version = request_line
    if method != "GET" or version != "HTTP/1.1":
        raise _bad("only GET of HTTP/1.1 is served here")
    if not _TARGET.fullmatch(target):
        raise _bad("the target is not an absolute path")
    if len(lines) - 1 > HEADERS_MAX:
        raise HandshakeRefused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {HEADERS_MAX} headers")
    headers: dict[str, list[str]] = {}
    for line in lines[1:]:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise _bad("a header is not NAME: VALUE")
        headers.setdefault(header[1].lower(), []).append(header[2].rstrip(" \t"))
    request = Request(target.partition("?")[0], headers)
    if "transfer-encoding" in headers or ("content-length" in headers and request.one("content-length") != "0"):
        raise _bad("a request here has no body")
    request.one("host")
    return request


def check_caller(request: Request, door: Door) -> None:
    """Raise `HandshakeRefused` where the request names another server, or a page of a foreign origin sent it."""
    host = request.one("host")
    if not host_allowed(host, door.bound, door.hosts):
        raise HandshakeRefused(HTTPStatus.FORBIDDEN, "Host: not a name of this server")
    for origin in request.headers.get("origin", ()):
        if not origin_allowed(origin, host, door.origins):
            raise HandshakeRefused(HTTPStatus.FORBIDDEN, "Origin: its pages may not connect; server.origins lists those that may")


def check_upgrade(request: Request, endpoint: Endpoint) -> Upgrade:
    """Return what is asked for. Raises `HandshakeRefused`."""
    if not request.has_token("upgrade", "websocket") or not request.has_token("connection", "upgrade"):
        raise HandshakeRefused(HTTPStatus.UPGRADE_REQUIRED, "only WebSockets here", {"Upgrade": "websocket"})
    if request.one("sec-websocket-version") != VERSION:
        raise HandshakeRefused(HTTPStatus.BAD_REQUEST, f"Sec-WebSocket-Version: only {VERSION}", {"Sec-WebSocket-Version": VERSION})
    key = request.one("sec-websocket-key")
    try:
        is_key = len(b64decode(key, validate=True)) == _KEY_BYTES
    except binascii.Error:
        is_key = False
    if not is_key:
        raise _bad("Sec-WebSocket-Key: 16 bytes in base64 are expected")
    offered = request.tokens("sec-websocket-protocol")
    if not offered:
        return Upgrade(key, None, is_text=not endpoint.is_mixed)
    if endpoint.subprotocols is None:
        return Upgrade(key, offered[0], is_text=not endpoint.is_mixed)
    for name in offered:
        if name in endpoint.subprotocols:
            return Upgrade(key, sys.intern(name), endpoint.subprotocols[name])  # one text for all connections
    raise _bad("Sec-WebSocket-Protocol: none of those offered is spoken here")


def refusal(refused: HandshakeRefused) -> bytes:
    """Return the answer to a request that is refused."""
    return _answer(refused.status, "text/plain; charset=utf-8", f"{refused.reason}\n".encode(), refused.headers)


def plain(page: Page) -> bytes:
    """Return a page as an answer."""
    return _answer(HTTPStatus(page.status), page.content_type, page.body, page.headers)


def switching(upgrade: Upgrade) -> bytes:
    """Return the 101 that accepts an upgrade."""
    accept = b64encode(sha1(upgrade.key.encode() + _GUID, usedforsecurity=False).digest()).decode()
    headers = {"Connection": "upgrade", "Upgrade": "websocket", "Sec-WebSocket-Accept": accept} | upgrade.headers
    return _head(HTTPStatus.SWITCHING_PROTOCOLS, headers)


def _answer(status: HTTPStatus, content_type: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    connection = "upgrade, close" if "Upgrade" in headers else "close"
    own = {"Content-Type": content_type, "Content-Length": str(len(body)), "Connection": connection}
    return _head(status, {**headers, **own}) + body


def _head(status: HTTPStatus, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _bad(reason: str) -> HandshakeRefused:
    return HandshakeRefused(HTTPStatus.BAD_REQUEST, reason)
