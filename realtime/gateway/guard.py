"""What every request to the API passes first: who it is meant for, what page sent it, and how many there are already.

Law: a page of a foreign origin and a name that is not this server's get nowhere (a name that an attacker points at
loopback is how a page would reach it); a request whose length two parties could read in two ways gets nowhere either.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from realtime.config import HttpConfig
from realtime.counters import Counters
from realtime.errors import ErrorCode
from realtime.gateway.origin import host_allowed, is_loopback, origin_allowed, split_host
from realtime.gateway.problem import ApiError

HEADERS_MAX = 100
_CONTROL = frozenset(map(chr, (*range(0x20), *range(0x7F, 0xA0))))
_SAFE_HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]

Headers = Iterable[tuple[bytes, bytes]]


class Guard:
    """ASGI middleware around the API."""

    def __init__(self, app: ASGIApp, http: HttpConfig, counters: Counters) -> None:
        self._app = app
        self._http = http
        self._counters = counters
        self._serving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] >= 400:
                    self._counters.count(f"http_{message['status']}")
                message["headers"] = [*message.get("headers", ()), *_SAFE_HEADERS]
            await send(message)

        self._serving += 1
        try:
            try:
                self._check(scope)
            except ApiError as error:
                await error.response()(scope, receive, send_safe)
            else:
                await self._app(scope, receive, send_safe)
        finally:
            self._serving -= 1

    def _check(self, scope: Scope) -> None:
        if self._serving > self._http.requests:
            raise ApiError(503, ErrorCode.UNAVAILABLE, f"busy: {self._http.requests} requests are being served")
        headers = scope["headers"]
        if len(headers) > HEADERS_MAX:
            raise ApiError(431, ErrorCode.TOO_BIG, f"head: at most {HEADERS_MAX} headers are allowed")
        names = [name for name, _ in headers]
        if b"content-length" in names and b"transfer-encoding" in names:
            raise ApiError(400, ErrorCode.BAD_MESSAGE, "head: Content-Length and Transfer-Encoding exclude each other", closes=True)
        hosts = _values(headers, b"host")
        host = hosts[0] if len(hosts) == 1 else ""
        if not self._is_ours(host):
            raise ApiError(403, ErrorCode.FORBIDDEN, "Host: not a name of this server; http.hosts lists more")
        for origin in _values(headers, b"origin"):
            if not origin_allowed(origin, host, self._http.origins):
                raise ApiError(403, ErrorCode.FORBIDDEN, "Origin: its pages may not call the API; http.origins lists those that may")
        if not _CONTROL.isdisjoint(scope["path"]):
            raise ApiError(400, ErrorCode.BAD_ID, "path: no control characters are allowed")

    def _is_ours(self, host: str) -> bool:
        """Tell whether a `Host` header names this server: loopback, the bound address, or one of `http.hosts`.

        Beyond loopback a plain address will do as well: that is no name that somebody could point elsewhere.
        """
        bound, name = self._http.host, split_host(host)
        if host_allowed(host, "localhost", (bound, *self._http.hosts)):
            return True
        return name is not None and not is_loopback(bound) and _is_address(name[0])


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for found, value in headers if found == name]
