"""What the public port answers to a plain GET: the health check, the client module, and the console where it is enabled.

Law: nothing here tells anything about the world or its sessions; that is the API's, on a port of its own. The pages
are the package's own files, read once; nothing else can be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from realtime.config import ServerConfig
from realtime.gateway.origin import is_loopback

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "ts": "text/plain; charset=utf-8",
    "json": "application/json",
}
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
# Pages of other origins may load the client module; whether they may connect is decided by `server.origins`.
_ANYBODY = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
# A page that somebody frames could be clicked through; images are for the tiles that a person may ask for.
_CONSOLE = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: http: https:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}


class Page(NamedTuple):
    """One plain response."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str]


def pages(config: ServerConfig) -> dict[str, Page]:
    """Return what the public port answers, by path."""
    web = files("realtime") / "web"
    found = {
        "/healthz": Page(200, "text/plain; charset=utf-8", b"ok\n", _HEADERS),
        "/client.js": _file(web / "client.js", _ANYBODY),
        "/client.d.ts": _file(web / "client.d.ts", _ANYBODY),
    }
    if config.console == "always" or (config.console == "loopback" and is_loopback(config.host)):
        for file in (web / "console").iterdir():
            if file.name.rpartition(".")[2] in _TYPES:
                found[f"/console/{file.name}"] = _file(file, _CONSOLE)
        found["/"] = found.pop("/console/index.html")
    return found


def _file(file: Traversable, headers: Mapping[str, str]) -> Page:
    return Page(200, _TYPES[file.name.rpartition(".")[2]], file.read_bytes(), {**_HEADERS, **headers})
