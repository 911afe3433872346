"""Whose pages may talk to a server, and by what names it is called."""

from __future__ import annotations

import pytest

from realtime.gateway.origin import host_allowed, is_loopback, origin_allowed, split_host

LISTED = ["https://maps.example.com", "http://dev.example.com:3000"]


@pytest.mark.parametrize(
    ("origin", "host", "is_allowed"),
    [
        ("http://localhost:8765", "localhost:8765", True),  # its own
        ("http://LOCALHOST:8765", "LocalHost:8765", True),
        ("https://tiles.example.org", "tiles.example.org", True),  # behind a proxy that ends TLS
        ("http://tiles.example.org", "tiles.example.org:80", True),
        ("https://tiles.example.org:443", "tiles.example.org", True),
        ("http://[::1]:8765", "[::1]:8765", True),
        ("http://localhost:8766", "localhost:8765", False),
        ("http://localhost", "localhost:8765", False),
        ("http://127.0.0.1:8765", "localhost:8765", False),
        ("http://evil.example", "localhost:8765", False),
        ("https://maps.example.com", "localhost:8765", True),  # listed
        ("https://maps.example.com:443", "localhost:8765", True),
        ("https://MAPS.example.com", "localhost:8765", True),
        ("http://dev.example.com:3000", "localhost:8765", True),
        ("http://maps.example.com", "localhost:8765", False),
        ("https://maps.example.com:444", "localhost:8765", False),
        ("http://dev.example.com", "localhost:8765", False),
        ("https://maps.example.com.evil.example", "localhost:8765", False),
        ("https://evil-maps.example.com", "localhost:8765", False),
        ("https://maps.example.com@evil.example", "localhost:8765", False),
        ("https://evil.example/https://maps.example.com", "localhost:8765", False),
        ("https://maps.example.com/", "localhost:8765", False),
        ("https://maps.example.com#", "localhost:8765", False),
        ("https://maps.example.com?", "localhost:8765", False),
        ("https://maps.example.com\\.evil.example", "localhost:8765", False),
        ("https://maps.example.com evil.example", "localhost:8765", False),
        ("https://maps.example.com.", "localhost:8765", False),
        ("maps.example.com", "localhost:8765", False),
        ("//maps.example.com", "localhost:8765", False),
        ("null", "localhost:8765", False),
        ("null", "null", False),
        ("", "localhost:8765", False),
        ("*", "localhost:8765", False),
        ("file://", "localhost:8765", False),
        ("file://localhost:8765", "localhost:8765", False),
        ("ws://localhost:8765", "localhost:8765", False),
        ("http://localhost:99999", "localhost:99999", False),
        ("http://localhost:8765", "", False),
        ("http://", "", False),
    ],
)
def test_origin(origin: str, host: str, is_allowed: bool) -> None:
    assert origin_allowed(origin, host, LISTED) is is_allowed


def test_null_cannot_be_listed() -> None:
    assert not origin_allowed("null", "localhost", ["null", "*"])


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost", True),
        ("localhost:8765", True),
        ("LOCALHOST:1", True),
        ("127.0.0.1:8765", True),
        ("127.8.9.1", True),
        ("[::1]:8765", True),
        ("maps.example.com", True),  # listed
        ("maps.example.com:8765", True),
        ("evil.example:8765", False),  # a name that somebody points at 127.0.0.1
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("evil.example#localhost", False),
        ("[::1]evil.example", False),
        ("[::1].evil.example", False),
        ("192.0.2.1", False),
        ("0x7f.1", False),
        ("2130706433", False),
        ("localhost:", False),
        ("localhost:x", False),
        ("localhost:8765:1", False),
        ("", False),
        (" localhost", False),
        ("local\thost", False),
        ("löcalhost", False),
    ],
)
def test_host_on_loopback(host: str, is_allowed: bool) -> None:
    for bound in ("127.0.0.1", "localhost", "::1"):
        assert host_allowed(host, bound, ["maps.example.com"]) is is_allowed


@pytest.mark.parametrize(
    ("host", "is_allowed"), [("any.example", True), ("192.0.2.1:80", True), ("", False), ("a b", False), ("a/b", False)]
)
def test_host_beyond_loopback(host: str, is_allowed: bool) -> None:
    for bound in ("0.0.0.0", "", "::", "192.0.2.1"):
        assert host_allowed(host, bound, []) is is_allowed


def test_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "LocalHost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "example.com", "localhost.", "127.0.0.1:80", "[::1]", "128.0.0.1")))


def test_split_host() -> None:
    assert split_host("Example.COM:80") == ("example.com", 80)
    assert split_host("[2001:DB8::1]:80") == ("2001:db8::1", 80)
    assert split_host("example.com") == ("example.com", None)
