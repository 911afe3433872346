"""Heads without sockets. What each malformed one is answered with is in test_websocket.py, over real ones."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.gateway.handshake import (
    HEADERS_MAX,
    Door,
    Endpoint,
    HandshakeRefused,
    Upgrade,
    check_caller,
    check_upgrade,
    parse_head,
    plain,
    refusal,
    switching,
)
from tests.net.raw import KEY, request

HEAD = request().removesuffix(b"\r\n\r\n")


@given(
    head=st.binary(max_size=300)
    | st.builds(lambda at, data: HEAD[:at] + data + HEAD[at:], st.integers(0, len(HEAD)), st.binary(max_size=20))
)
@example(head=HEAD + b"\r\nX: \xe2\x80\xa8")
@example(head=HEAD + b"\r\nX:a\rY:b")
def test_any_bytes_are_a_request_or_refused(head: bytes) -> None:
    try:
        found = parse_head(head)
        check_caller(found, Door("127.0.0.1"))
        check_upgrade(found, Endpoint())
    except HandshakeRefused as refused:
        answer = refusal(refused)
        assert answer.startswith(b"HTTP/1.1 4")
        assert answer.isascii()
    else:
        assert head.isascii()
        assert b"\n" not in head.replace(b"\r\n", b"")


def test_a_request_is_read() -> None:
    found = parse_head(request("/ws?secret=1", X_A=" \t b \t", x_a="c").removesuffix(b"\r\n\r\n"))
    assert found.path == "/ws"
    assert found.headers["x-a"] == ["b", "c"]
    assert found.one("host") == "127.0.0.1"
    assert found.tokens("x-a") == ["b", "c"]


def test_as_many_headers_as_allowed() -> None:
    spare = HEADERS_MAX - HEAD.count(b"\r\n")
    assert parse_head(HEAD + b"\r\nX: y" * spare)
    with pytest.raises(HandshakeRefused) as caught:
        parse_head(HEAD + b"\r\nX: y" * (spare + 1))
    assert caught.value.status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


@pytest.mark.parametrize("name", ["Host", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Content-Length"])
def test_what_may_be_there_once(name: str) -> None:
    head = HEAD + f"\r\n{name}: 0\r\n{name}: 0".encode()
    with pytest.raises(HandshakeRefused) as caught:
        check_upgrade(parse_head(head), Endpoint())
    assert caught.value.status == HTTPStatus.BAD_REQUEST


def upgrade_of(endpoint: Endpoint, **headers: str) -> Upgrade:
    return check_upgrade(parse_head(request(**headers).removesuffix(b"\r\n\r\n")), endpoint)


def test_other_endpoints() -> None:
    mixed = Endpoint(path=None, subprotocols=None, is_mixed=True)
    assert upgrade_of(mixed, Sec_WebSocket_Protocol="anything, realtime.v1.json") == Upgrade(KEY, "anything", is_text=False)
    assert upgrade_of(mixed) == Upgrade(KEY, None, is_text=False)
    assert upgrade_of(Endpoint(), Sec_WebSocket_Protocol=" , ") == Upgrade(KEY, None, is_text=True)


def test_the_accept_header_is_that_of_the_rfc() -> None:
    answer = switching(Upgrade(KEY, "realtime.v1.json", is_text=True))
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert b"\r\nSec-WebSocket-Protocol: realtime.v1.json\r\n" in answer


class Page(NamedTuple):
    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str]


def test_a_page_cannot_claim_another_length() -> None:
    answer = plain(Page(200, "text/plain", b"body", {"Content-Length": "9", "Connection": "keep-alive"}))
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\nbody"


def test_the_hosts_of_listed_origins_are_names_of_the_server() -> None:
    """A proxy on this machine passes on the name that it is called by."""
    found = parse_head(request(Host="maps.example.com").removesuffix(b"\r\n\r\n"))
    check_caller(found, Door("127.0.0.1", ["https://maps.example.com"]))
    with pytest.raises(HandshakeRefused):
        check_caller(found, Door("127.0.0.1"))
    check_caller(found, Door("0.0.0.0"))
