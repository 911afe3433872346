"""Request bodies: read within bounds, cut into updates, decoded one by one.

Law: a body is never held beyond its bound, and a pause in it is never waited for longer than its timeout. Decoding is
lazy: an update is decoded when the publish path asks for it, so that its time counts towards the slice that it is in.
What cannot be decoded costs one update.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from typing import Any

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
PIECE_BYTES = 64 * 1024  # of a JSON body, between two turns of the loop

_decoder = msgspec.json.Decoder()
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


async def in_pieces(updates: list[Raw], update_bytes_max: int) -> AsyncIterator[Iterable[Any]]:
    """Yield updates in pieces of about `PIECE_BYTES`, to be decoded as they are taken."""
    first = size = 0
    for place, update in enumerate(updates, 1):
        size += len(update)
        if size >= PIECE_BYTES or place == len(updates):
            yield decoded(updates[first:place], update_bytes_max)
            first, size = place, 0


def decoded(updates: Iterable[bytes | Raw | None], update_bytes_max: int) -> Iterator[Any]:
    """Yield each update, or the `Refused` that stands for it; None is one that was too long to be kept."""
    for update in updates:
        if update is None or len(update) > update_bytes_max:
            yield Refused(ErrorCode.TOO_BIG, f"update: at most {update_bytes_max} bytes are allowed")
            continue
        try:
            yield _decoder.decode(update)
        except msgspec.ValidationError:
            yield Refused(ErrorCode.BAD_VALUE, "update: a number is beyond the range of a double")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield Refused(ErrorCode.BAD_UPDATE, "update: not JSON")


# Streams


class Lines:
    """Cuts a stream at a separator. Blank lines are none; one beyond `line_bytes_max` is None, and is not kept."""

    def __init__(self, separator: bytes, line_bytes_max: int) -> None:
        self._separator = separator
        self._line_bytes_max = line_bytes_max
        self._rest = bytearray()  # of the line that is not over yet
        self._is_too_long = False  # that line

    def feed(self, data: bytes) -> list[bytes | None]:
        """Return the lines that `data` completes."""
        if self._separator not in data:
            self._keep(data)
            return []
        head, *lines, rest = data.split(self._separator)
        self._keep(head)
        first = self.end()
        self._keep(rest)
        return first + [line for line in lines if line and not line.isspace()]

    def end(self) -> list[bytes | None]:
        """Return the last line, if there is one."""
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


class UpdateStream:
    """A body of one update per line, as it arrives. `cut` is why it ended early; None: it did not."""

    def __init__(self, request: Request, separator: bytes, config: Config) -> None:
        self.cut: ApiError | None = None
        self._request = request
        self._separator = separator
        self._http = config.http
        self._update_bytes_max = config.limits.message_bytes
        check_head(request, self._http.ndjson_bytes)

    async def updates(self) -> AsyncGenerator[Iterable[Any], None]:
        """Yield the updates of each piece of the body. The line on which it breaks off is not one of them."""
        lines = Lines(self._separator, self._update_bytes_max)
        try:
            async for piece in pieces(self._request, self._http.ndjson_bytes, self._http.body_timeout_s):
                whole = lines.feed(piece)
                if whole:
                    yield decoded(whole, self._update_bytes_max)
        except ApiError as error:
            self.cut = error
            return
        yield decoded(lines.end(), self._update_bytes_max)
