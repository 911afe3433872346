"""Which names a server answers to, and which pages may talk to it.

Law: pure functions; what is not plainly allowed is refused. A browser lets any page of any site open a socket to
127.0.0.1, so being bound to loopback protects from nothing: the page's `Origin` must be this server's own or listed,
and on a loopback bind the `Host` must itself be a loopback name, or a name that an attacker points there would be own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

PORT_MAX = 65535

_DEFAULT_PORTS = {"http": 80, "https": 443}
# An address in brackets or a name, and a port. Written out, as urllib takes `[::1]evil.example` for `::1`.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._~-]+))(?::([0-9]{1,5}))?")


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address, without port or brackets, is this machine's loopback."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def split_host(value: str) -> tuple[str, int | None] | None:
    """Return name and port of a `Host` header, in lower case and without brackets; None if it is none."""
    match = _HOST.fullmatch(value)
    if match is None:
        return None
    address, name, port = match.groups()
    if port is not None and int(port) > PORT_MAX:
        return None
    return (address or name).lower(), None if port is None else int(port)


def host_allowed(host: str, bound: str, allowed: Iterable[str]) -> bool:
    """Tell whether a `Host` header names this server, which is bound to `bound`; `allowed` lists more names.

    Beyond loopback every well-formed name is taken, as nobody but the operator knows what names lead here.
    """
    split = split_host(host)
    if split is None:
        return False
    name, _ = split
    if not is_loopback(bound) or is_loopback(name) or name == bound.lower().strip("[]"):
        return True
    return any(name == listed.lower().strip("[]") or host.lower() == listed.lower() for listed in allowed)


def origin_allowed(origin: str, host: str, allowed: Iterable[str]) -> bool:
    """Tell whether pages of `origin` may talk to the server that they call `host`: its own, or one that is listed."""
    own = _origin(origin)
    if own is None:
        return False
    if any(own == _origin(listed) for listed in allowed):
        return True
    split = split_host(host)
    if split is None:
        return False
    scheme, name, port = own
    return name == split[0] and port == (split[1] or _DEFAULT_PORTS[scheme])


def _origin(value: str) -> tuple[str, str, int] | None:
    """Return scheme, name and port of an origin; None for `null` and what else is none."""
    scheme, separator, rest = value.lower().partition("://")
    split = split_host(rest)
    if not separator or scheme not in _DEFAULT_PORTS or split is None:
        return None
    return scheme, split[0], split[1] or _DEFAULT_PORTS[scheme]
