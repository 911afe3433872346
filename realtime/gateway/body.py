"""Request bodies: read within bounds and cut into updates.

Law: a body is never held beyond its bound, and a pause in it is never waited for longer than its timeout. Nothing is
decoded here: that is the publish path's, when it takes an update, so that its time counts towards the slice that it is
in. What is too long costs one update.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from importlib import import_module
from typing import Any, Protocol

import msgspec
from msgspec import Raw, Struct
from starlette.requests import Request

from realtime.config import Config
from realtime.errors import ErrorCode, Refused
from realtime.gateway.problem import ApiError

JSON_TYPES = ("application/json", "application/geo+json")
# Media type -> the byte between two updates: a newline, or RFC 8142's record separator.
STREAM_TYPES = {
    "application/x-ndjson": b"\n",
    "application/ndjson": b"\n",
    "application/jsonl": b"\n",
    "application/geo+json-seq": b"\x1e",
}

_raws = msgspec.json.Decoder(list[Raw])
_ABSENT = Raw()


class _Outline(Struct):
    """As much of a JSON body as tells what it is; its updates stay bytes."""

    type: Any = None
    op: Any = None
    features: Raw = _ABSENT
    updates: Raw = _ABSENT


_outline = msgspec.json.Decoder(_Outline)


def check_head(request: Request, limit: int) -> None:
    """Refuse a body by what the head says of it: encoded, without a length, empty, too long."""
    headers = request.headers
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(415, ErrorCode.UNSUPPORTED, "Content-Encoding: identity is expected")
    length = headers.get("content-length")
    if length is None:
        if "transfer-encoding" not in headers and request.scope.get("http_version", "1.1") in ("1.0", "1.1"):
            raise ApiError(411, ErrorCode.BAD_MESSAGE, "Content-Length, or Transfer-Encoding: chunked, is expected")
    elif not (length.isascii() and length.isdecimal()):
        raise ApiError(400, ErrorCode.BAD_MESSAGE, "Content-Length: a number is expected", closes=True)
    elif int(length) > limit:
        raise _too_long(limit)


async def pieces(request: Request, limit: int, timeout_s: float) -> AsyncIterator[bytes]:
    """Yield the body as it arrives; raise `ApiError` if it is empty, longer than `limit`, pauses or breaks off."""
    size = 0
    more = True
    while more:
        try:
            async with asyncio.timeout(timeout_s):
                message = await request.receive()
        except TimeoutError:
            raise ApiError(408, ErrorCode.BAD_MESSAGE, f"body: nothing came for {timeout_s:g} seconds", closes=True) from None
        if message["type"] != "http.request":
            raise ApiError(400, ErrorCode.BAD_MESSAGE, "body: broke off", closes=True)
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(piece)
        if size > limit:
            raise _too_long(limit)
        if piece:
            yield piece
    if size == 0:
        raise ApiError(400, ErrorCode.BAD_MESSAGE, "body: empty")


def _too_long(limit: int) -> ApiError:
    return ApiError(413, ErrorCode.TOO_BIG, f"body: at most {limit} bytes are allowed")


# JSON


async def read_updates(request: Request, config: Config) -> list[Raw]:
    """Return the updates of a JSON body, undecoded; raise `ApiError`."""
    limit = config.http.body_bytes
    check_head(request, limit)
    body = b"".join([piece async for piece in pieces(request, limit, config.http.body_timeout_s)])
    try:
        outline = _outline.decode(body)
        if outline.type == "FeatureCollection" and outline.features is not _ABSENT:
            return _raws.decode(outline.features)
        if outline.type != "Feature" and outline.updates is not _ABSENT:
            return _raws.decode(outline.updates)
    except msgspec.ValidationError:  # no object, or no array where the updates are
        raise _unknown_form() from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(400, ErrorCode.BAD_MESSAGE, "body: not JSON") from None
    if outline.type != "Feature" and outline.op is None:
        raise _unknown_form()
    return [Raw(body)]


def _unknown_form() -> ApiError:
    return ApiError(400, ErrorCode.BAD_MESSAGE, 'body: a Feature, a FeatureCollection or {"updates": [...]} is expected')


def bounded(updates: Iterable[Raw], update_bytes_max: int) -> Iterator[Raw | Refused]:
    """Yield each update as the publish path takes it."""
    too_long = _too_long_update(update_bytes_max)
    for update in updates:
        yield update if len(update) <= update_bytes_max else too_long


def _too_long_update(update_bytes_max: int) -> Refused:
    return Refused(ErrorCode.TOO_BIG, f"update: at most {update_bytes_max} bytes are allowed")


# Streams


class Cutter(Protocol):
    """Cuts a stream at a separator. Blank lines are none; one beyond `line_bytes_max` is None, and is not kept."""

    def feed(self, data: bytes) -> list[bytes | None]:
        """Return the lines that `data` completes."""

    def cut(self, data: bytes, too_long: Refused) -> Iterable[Raw | Refused]:
        """Return the same as the publish path takes them; all must be taken before the next call."""

    def end(self) -> list[bytes | None]:
        """Return the last line, if there is one."""


class Lines:
    """The cutter in plain Python."""

    def __init__(self, separator: bytes, line_bytes_max: int) -> None:
        self._separator = separator
        self._line_bytes_max = line_bytes_max
        self._rest = bytearray()  # of the line that is not over yet
        self._is_too_long = False  # that line

    def feed(self, data: bytes) -> list[bytes | None]:
        if self._separator not in data:
            self._keep(data)
            return []
        head, *lines, rest = data.split(self._separator)
        self._keep(head)
        first = self.end()
        self._keep(rest)
        longest = self._line_bytes_max
        return first + [line if len(line) <= longest else None for line in lines if len(line) > longest or (line and not line.isspace())]

    def cut(self, data: bytes, too_long: Refused) -> Iterable[Raw | Refused]:
        return items(self.feed(data), too_long)

    def end(self) -> list[bytes | None]:
        line = None if self._is_too_long else bytes(self._rest)
        self._is_too_long = False
        self._rest.clear()
        return [] if line is not None and (not line or line.isspace()) else [line]

    def _keep(self, data: bytes) -> None:
        if self._is_too_long or len(self._rest) + len(data) > self._line_bytes_max:
            self._is_too_long = True
            self._rest.clear()
        else:
            self._rest += data


def items(lines: Iterable[bytes | None], too_long: Refused) -> list[Raw | Refused]:
    """Return lines as the publish path takes them."""
    return [too_long if line is None else Raw(line) for line in lines]


def new_cutter(engine_kind: str, separator: bytes, line_bytes_max: int) -> Cutter:
    """Return the cutter that goes with an engine."""
    if engine_kind != "native":
        return Lines(separator, line_bytes_max)
    cutter: Cutter = import_module("realtime._native").Lines(separator, line_bytes_max)
    return cutter


class UpdateStream:
    """A body of one update per line, as it arrives. `cut` is why it ended early; None: it did not."""

    def __init__(self, request: Request, cutter: Cutter, config: Config) -> None:
        self.cut: ApiError | None = None
        self._request = request
        self._cutter = cutter
        self._http = config.http
        self._too_long = _too_long_update(config.limits.message_bytes)
        check_head(request, self._http.ndjson_bytes)

    async def updates(self) -> AsyncGenerator[Iterable[Any], None]:
        """Yield the updates of each piece of the body. The line on which it breaks off is not one of them."""
        try:
            async for piece in pieces(self._request, self._http.ndjson_bytes, self._http.body_timeout_s):
                yield self._cutter.cut(piece, self._too_long)
        except ApiError as error:
            self.cut = error
            return
        yield items(self._cutter.end(), self._too_long)
