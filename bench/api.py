"""The HTTP API as a publisher and an operator use it: one keep-alive connection, one request at a time.

Law: it is light, for it shares a core with the viewers; what it cannot understand is an error, not an empty answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from time import monotonic
from urllib.parse import urlsplit

from msgspec import Struct, json

IDLE_S = 2.0  # a connection idle for longer is not trusted to be still open
_SAMPLE = re.compile(rb"^(realtime_\w+(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)


class Verdict(Struct):
    """What became of the updates of one request."""

    accepted: int
    unchanged: int
    stale: int
    rejected_total: int


class Api:
    """One connection to an API port, opened when it is first needed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._used = 0.0

    async def request(self, method: str, path: str, body: bytes = b"", media_type: str = "") -> bytes:
        """Return the body of a 200. Raises OSError, EOFError, and RuntimeError for another status."""
        if self._writer is None or monotonic() - self._used > IDLE_S:
            self.close()
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        assert self._reader is not None
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Length: {len(body)}\r\n"
        if media_type:
            head += f"Content-Type: {media_type}\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0])
        content = await self._reader.readexactly(length)
        self._used = monotonic()
        if not answer.startswith(b"http/1.1 200"):
            raise RuntimeError(f"{method} {path}: {answer[:12].decode()}: {content[:200].decode(errors='replace')}")
        return content

    async def publish(self, lines: Iterable[bytes]) -> Verdict:
        """Publish updates, one JSON document each."""
        answer = await self.request("POST", "/v1/updates", b"\n".join(lines) + b"\n", "application/x-ndjson")
        return json.decode(answer, type=Verdict)

    async def metrics(self) -> dict[str, float]:
        """Return the server's own metrics by name, labels included: `name{label="value"}`."""
        text = await self.request("GET", "/metrics")
        return {name.decode(): float(value) for name, value in _SAMPLE.findall(text)}

    def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()
            self._reader = self._writer = None
