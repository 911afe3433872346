"""Who a token is, and what may be published."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.config import Config, IdentityConfig, ServerConfig, TokenConfig
from realtime.errors import CloseCode, ConfigError
from realtime.gateway.identity import ConfiguredIdentity, Denied, Identified, configured, id_patterns, principals_of

TOKENS = {"t-ann": TokenConfig("ann", ["crew", "night"], ["bus-*"]), "t-bob": TokenConfig("bob")}


def denied(identity: ConfiguredIdentity, token: str | None) -> CloseCode:
    with pytest.raises(Denied) as caught:
        identity.identify(token)
    assert token is None or token not in str(caught.value) or not token
    return caught.value.code


@pytest.mark.parametrize(
    ("anonymous", "is_loopback", "allowed"),
    [
        ("loopback", True, True),
        ("loopback", False, False),
        ("always", True, True),
        ("always", False, True),
        ("never", True, False),
        ("never", False, False),
    ],
)
def test_anonymous_is_allowed_as_the_setting_says(anonymous: str, is_loopback: bool, allowed: bool) -> None:
    identity = ConfiguredIdentity(IdentityConfig(anonymous, TOKENS), is_loopback)  # type: ignore[arg-type]
    assert identity.allows_anonymous is allowed
    if allowed:
        assert identity.identify(None) == Identified(None, frozenset(), None)
    else:
        assert denied(identity, None) is CloseCode.BAD_TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "::1"])
def test_a_server_on_loopback_lets_everybody_in(host: str) -> None:
    assert configured(Config(server=ServerConfig(host=host))).allows_anonymous


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.0.2.1", "localhost.example.com", "127.0.0.1.example.com", "example.com"])
def test_beyond_loopback_nobody_is_let_in_by_leaving_something_out(host: str) -> None:
    config = Config(server=ServerConfig(host=host))
    assert not configured(config).allows_anonymous
    with pytest.raises(Denied):
        configured(config).identify(None)
    always = msgspec.structs.replace(config, identity=IdentityConfig("always"))
    assert configured(always).allows_anonymous


def test_a_token_stands_for_its_user() -> None:
    identity = ConfiguredIdentity(IdentityConfig("never", TOKENS), True)
    ann = identity.identify("t-ann")
    assert (ann.user, ann.principals) == ("ann", {"user:ann", "group:crew", "group:night"})
    assert ann.may_publish is not None and ann.may_publish("bus-7") and not ann.may_publish("tram-1")
    assert identity.identify("t-bob") == Identified("bob", frozenset(["user:bob"]), None)


@pytest.mark.parametrize("token", ["", "t", "t-an", "t-annn", "T-ANN", " t-ann", "t-ann\x00", "\ud800", "x" * 4096])
@pytest.mark.parametrize("anonymous", ["always", "never"])
def test_any_other_token_is_denied(token: str, anonymous: str) -> None:
    """Also where anonymous is allowed: who shows a token means to be somebody."""
    assert denied(ConfiguredIdentity(IdentityConfig(anonymous, TOKENS), True), token) is CloseCode.BAD_TOKEN  # type: ignore[arg-type]
    assert denied(ConfiguredIdentity(IdentityConfig(anonymous), True), token) is CloseCode.BAD_TOKEN  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "who", [TokenConfig(""), TokenConfig("a\n"), TokenConfig("é" * 65), TokenConfig("ann", [""]), TokenConfig("ann", ["crew", "x\x00"])]
)
def test_a_user_that_no_principal_can_name_is_the_operators_fault(who: TokenConfig) -> None:
    with pytest.raises(ConfigError, match=r"^identity\.tokens: ") as caught:
        ConfiguredIdentity(IdentityConfig("never", {"secret": who}), True)
    assert "secret" not in str(caught.value)


def test_principals_of_a_user() -> None:
    assert principals_of("ann", []) == {"user:ann"}
    assert principals_of("a:b", ["user:x"]) == {"user:a:b", "group:user:x"}


@pytest.mark.parametrize(
    ("patterns", "yes", "no"),
    [
        (["*"], ["", "a", "a\nb", "é"], []),
        (["bus-*"], ["bus-", "bus-7", "bus-7\n8"], ["bus", "xbus-7", "Bus-7", "tram-1"]),
        (["bus-?"], ["bus-7", "bus-é"], ["bus-", "bus-77"]),
        (["bus-[1-3]", "tram"], ["bus-2", "tram"], ["bus-4", "tram1", "trams"]),
        (["a.c", "(", "a|b", "$^"], ["a.c", "(", "a|b", "$^"], ["abc", "a", "b", ""]),
        (["*a*b*", "*c*d*", "*e*f*"], ["xaxbx", "cd", "1e2f3"], ["ba", "dc", "fe"]),
    ],
)
def test_patterns_of_ids(patterns: list[str], yes: list[str], no: list[str]) -> None:
    allows = id_patterns(patterns)
    assert allows is not None
    assert [allows(id) for id in yes + no] == [True] * len(yes) + [False] * len(no)


def test_no_patterns_allow_nothing() -> None:
    assert id_patterns([]) is None


@given(st.lists(st.text(max_size=8), min_size=1, max_size=4), st.text(max_size=8))
def test_a_pattern_without_wildcards_allows_itself_alone(names: list[str], id: str) -> None:
    if any(set(name) & set("*?[") for name in names):
        return
    allows = id_patterns(names)
    assert allows is not None
    assert allows(id) is (id in names)


def test_a_hostile_id_costs_no_time_to_speak_of() -> None:
    """Each star gives way only once; with backtracking this would not end."""
    allows = id_patterns(["*a" * 30 + "b"])
    assert allows is not None
    assert not allows("a" * 128)
