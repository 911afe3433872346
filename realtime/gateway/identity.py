"""Who connects: from a token to a user, principals and what may be published.

Law: a provider answers from what it holds, at once; it never sees a connection. What it cannot vouch for is `Denied`
with a close code, and no provider may be made to let everybody in by leaving something out.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from fnmatch import translate
from re import compile as compile_pattern
from typing import NamedTuple, Protocol

from realtime.config import Config, IdentityConfig, TokenConfig
from realtime.errors import CloseCode, ConfigError, Refused
from realtime.gateway.origin import is_loopback
from realtime.values import parse_id


class Denied(Exception):
    """The client is not let in; `code` closes its connection."""

    def __init__(self, code: CloseCode) -> None:
        super().__init__(code.name)
        self.code = code


class Identified(NamedTuple):
    """The subject behind a session."""

    user: str | None = None  # None: anonymous
    principals: frozenset[str] = frozenset()
    may_publish: Callable[[str], bool] | None = None  # by entity id; None: nothing


ANONYMOUS = Identified()


class Identity(Protocol):
    """A provider of identities."""

    @property
    def allows_anonymous(self) -> bool:
        """Whether a client without a token gets in."""

    def identify(self, token: str | None) -> Identified:
        """Return who a token stands for; raise `Denied`."""


def principals_of(user: str, groups: Iterable[str]) -> frozenset[str]:
    """Return the principals of a user who is in these groups."""
    return frozenset((f"user:{user}", *(f"group:{group}" for group in groups)))


def id_patterns(patterns: Iterable[str]) -> Callable[[str], bool] | None:
    """Return a test of entity ids against shell patterns (`bus-*`); None if there are none."""
    expressions = [translate(pattern) for pattern in patterns]
    if not expressions:
        return None
    matches = compile_pattern("|".join(expressions)).match
    return lambda id: matches(id) is not None


def _identified(who: TokenConfig) -> Identified:
    try:
        parse_id(who.user, "user")
        for group in who.groups:
            parse_id(group, "groups")
    except Refused as refused:
        raise ConfigError(f"identity.tokens: {refused.message}") from None
    return Identified(who.user, principals_of(who.user, who.groups), id_patterns(who.publish))


class ConfiguredIdentity:
    """Anonymous as `identity.anonymous` allows, and the fixed tokens of `identity.tokens`."""

    def __init__(self, config: IdentityConfig, is_loopback_only: bool) -> None:
        """Raises `ConfigError` for a user or group that no principal can name."""
        self.allows_anonymous = config.anonymous == "always" or (config.anonymous == "loopback" and is_loopback_only)
        self._tokens = [(token.encode(), _identified(who)) for token, who in config.tokens.items()]

    def identify(self, token: str | None) -> Identified:
        if token is None:
            if self.allows_anonymous:
                return ANONYMOUS
            raise Denied(CloseCode.BAD_TOKEN)
        given = token.encode(errors="surrogatepass")
        found = None
        for known, who in self._tokens:  # all of them, so that the time says nothing
            if hmac.compare_digest(known, given):
                found = who
        if found is None:
            raise Denied(CloseCode.BAD_TOKEN)
        return found


def configured(config: Config) -> Identity:
    """Return the provider of a configuration. Protected mode: beyond loopback, anonymous must be allowed in so many words."""
    return ConfiguredIdentity(config.identity, is_loopback(config.server.host))
