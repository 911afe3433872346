"""Publishing to a running server over its HTTP API.

Law: one connection, kept alive, one batch at a time. A batch either has the server's verdict, or an error that says
whether it is worth trying again: a batch that is sent twice does no harm, as repeated states are `unchanged`.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

TIMEOUT_S = 30.0  # for one batch; a server that takes longer is stuck


class Refusal(Struct):
    """One update that was refused: its place in the batch, and why."""

    index: int
    code: str
    message: str


class Verdict(Struct):
    """What became of a batch."""

    accepted: int
    unchanged: int
    stale: int
    rejected: list[Refusal]
    rejected_total: int


class _Problem(Struct):
    code: str = ""
    message: str = ""


class PublishError(Exception):
    """A batch got no verdict. `is_passing`: the server may take it later."""

    def __init__(self, message: str, is_passing: bool) -> None:
        super().__init__(message)
        self.is_passing = is_passing


class Publisher:
    """A connection to the API at `url` (http://HOST:PORT). Raises `ValueError` if it is no such URL."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url}: http://HOST:PORT is expected: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url}: http://HOST:PORT is expected")
        make = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self.url = url
        self._connection = make(parts.hostname, port, timeout=TIMEOUT_S)
        self._path = parts.path.rstrip("/") + "/v1/updates"
        self._encoder = msgspec.json.Encoder()
        self._verdict = msgspec.json.Decoder(Verdict)

    def connect(self) -> None:
        """Connect, so that a server that is not there is found out before anything is read. Raises `PublishError`."""
        try:
            self._connection.connect()
        except OSError as error:
            raise PublishError(f"{self.url}: {error.strerror or error}", True) from None

    def publish(self, updates: Sequence[dict[str, Any]]) -> Verdict:
        """Publish a batch, blocking, and return its verdict. Raises `PublishError`."""
        body = self._encoder.encode_lines(updates)
        try:
            self._connection.request("POST", self._path, body, {"Content-Type": "application/x-ndjson"})
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException) as error:
            self._connection.close()
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise PublishError(f"{self.url}: {why}", True) from None
        if response.status != 200:
            raise PublishError(f"{self.url}: HTTP {response.status}: {_message(answer)}", response.status == 503)
        try:
            return self._verdict.decode(answer)
        except msgspec.DecodeError as error:
            raise PublishError(f"{self.url}: this is no realtime API: {error}", False) from None

    def close(self) -> None:
        """Close the connection; a `publish` that waits in another thread ends with an error."""
        if isinstance(self._connection.sock, socket.socket):
            with suppress(OSError):  # the server was quicker
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def _message(answer: bytes) -> str:
    try:
        return msgspec.json.decode(answer, type=_Problem).message or "refused"
    except msgspec.DecodeError:
        return answer[:100].decode(errors="replace").strip()
