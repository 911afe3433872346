"""What can be wrong with Redis, one word for each, and what is wrong now.

Law: a word of the table is all that is logged, counted and shown. The text of an error is not: servers repeat what they
were sent, a password among it. A state is told once when it begins and once when it ends.
"""

from __future__ import annotations

import errno
import logging
import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import redis.exceptions as errors

# What each word means; docs/redis.md has the same table, and what is to be done.
CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "refused": "nobody takes the connection",
        "timeout": "no answer in time",
        "lost": "the connection was lost",
        "loading": "the server is still reading its data",
        "readonly": "the server is a replica",
        "full": "the server's memory is full",
        "misconf": "the server takes no writes, as it cannot save or replicate them",
        "password": "the password is missing or wrong",
        "forbidden": "the user may not do this",
        "moved": "the slots of the cluster are elsewhere or down",
        "wrongtype": "a key holds something else",
        "format": "the data or the server's language is not ours",
        "dns": "the name cannot be resolved",
        "tls": "the servers do not trust each other's certificates",
        "other": "an error without a class",
    }
)

# By the first word of a server's error, which redis-py keeps apart or leaves in the text.
_CODES = {
    "ASK": "moved",
    "CLUSTERDOWN": "moved",
    "DENIED": "forbidden",
    "LOADING": "loading",
    "MASTERDOWN": "readonly",
    "MISCONF": "misconf",
    "MOVED": "moved",
    "NOAUTH": "password",
    "NOPERM": "forbidden",
    "NOREPLICAS": "misconf",
    "OOM": "full",
    "READONLY": "readonly",
    "TRYAGAIN": "moved",
    "WRONGPASS": "password",
    "WRONGTYPE": "wrongtype",
}

# By what it says, where the first word is ERR.
_PHRASES = {
    "max number of clients": "refused",
    "EXEC without MULTI": "forbidden",  # as MULTI was refused
    "unknown command": "format",
    "unknown subcommand": "format",
    "cluster support disabled": "format",
}

# By type, the special before the general.
_TYPES: tuple[tuple[type[BaseException], str], ...] = (
    (errors.AuthenticationError, "password"),
    (errors.AuthenticationWrongNumberOfArgsError, "password"),
    (errors.NoPermissionError, "forbidden"),
    (errors.AuthorizationError, "forbidden"),
    (errors.BusyLoadingError, "loading"),
    (errors.ReadOnlyError, "readonly"),
    (errors.MasterDownError, "readonly"),
    (errors.OutOfMemoryError, "full"),
    (errors.AskError, "moved"),  # of which MovedError is one
    (errors.TryAgainError, "moved"),
    (errors.ClusterDownError, "moved"),
    (errors.InvalidResponse, "format"),
    (errors.TimeoutError, "timeout"),
    (socket.gaierror, "dns"),
    (ssl.SSLError, "tls"),
    (ssl.CertificateError, "tls"),
    (TimeoutError, "timeout"),
    (ConnectionRefusedError, "refused"),
    (FileNotFoundError, "refused"),  # of a unix socket
    (PermissionError, "refused"),
)
_UNREACHABLE = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.EHOSTDOWN}

# redis-py puts the command before the error where it was one of several; the server puts its own words before a refused EXEC.
_SERVER_WORD = re.compile(r"(?:^|\bcaused error: (?:\([\"'])?|^Transaction discarded because of: )([A-Z]{2,20}) ")
_ERRNO = re.compile(r"\[Errno (\d+)\]")
_CAUSES_MAX = 8


class WrongFormat(Exception):
    """What is stored is of another format or number of shards, so that nothing of it may be read or written."""


def classify(error: BaseException) -> str:
    """Return the word of `CLASSES` for an error; of several in a group, of the first one that has a class."""
    if isinstance(error, BaseExceptionGroup):
        return next((word for word in map(classify, error.exceptions) if word != "other"), "other")
    present: BaseException | None = error
    is_lost = False
    for _ in range(_CAUSES_MAX):
        if present is None:
            break
        word = _word(present)
        if word:
            return word
        is_lost = is_lost or isinstance(present, (errors.ConnectionError, OSError, EOFError))
        # redis-py names no cause where it makes an error of the system's into one of its own.
        context = present.__context__ if isinstance(present.__context__, OSError) and isinstance(present, errors.RedisError) else None
        present = present.__cause__ or context
    return "lost" if is_lost else "other"


def _word(error: BaseException) -> str:
    """Return the word for an error by itself; "" if it says too little."""
    if isinstance(error, WrongFormat):
        return "format"
    for kind, word in _TYPES:
        if isinstance(error, kind):
            return word
    if isinstance(error, OSError):
        # Several addresses that all failed come as one error that has the numbers in its text alone.
        numbers = [error.errno] if error.errno else [int(number) for number in _ERRNO.findall(str(error))]
        return "refused" if _UNREACHABLE.intersection(numbers) else ""
    if isinstance(error, errors.RedisError):
        for part, word in _PHRASES.items():
            if part in str(error):
                return word
        found = _SERVER_WORD.search(str(error))
        return _CODES.get(getattr(error, "status_code", None) or "", "") or (_CODES.get(found[1], "") if found else "")
    return ""


class State(NamedTuple):
    """What a part suffers from."""

    word: str  # of CLASSES
    since: float  # seconds since the Unix epoch; of the trouble, not of the word


class Trouble:
    """What each part (bus, store, …) suffers from at present, and how often each class was met."""

    def __init__(self, logger: logging.Logger | None = None, now: Callable[[], float] = time.time) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()  # (part, word) -> errors
        self._logger = logger or logging.getLogger(__name__)
        self._now = now
        self._states: dict[str, State] = {}
        self._told: dict[str, set[str]] = {}  # the words logged since the part was last well

    @property
    def is_degraded(self) -> bool:
        """Whether any part is in trouble."""
        return bool(self._states)

    @property
    def states(self) -> Mapping[str, State]:
        """The parts in trouble."""
        return MappingProxyType(self._states)

    def get(self, part: str) -> State | None:
        """Return what a part suffers from."""
        return self._states.get(part)

    def note(self, part: str, error: BaseException | str) -> str:
        """Note an error, or a word of `CLASSES`, and return the word. Logged unless this trouble has had that word before."""
        word = error if isinstance(error, str) else classify(error)
        assert word in CLASSES
        self.counts[part, word] += 1
        before = self._states.get(part)
        self._states[part] = State(word, before.since if before else self._now())
        told = self._told.setdefault(part, set())
        if word not in told:
            told.add(word)
            self._logger.warning("%s: degraded: %s (%s)", part, word, CLASSES[word])
        return word

    def clear(self, part: str) -> None:
        """Note that a part is well."""
        state = self._states.pop(part, None)
        self._told.pop(part, None)
        if state is not None:
            self._logger.info("%s: well again after %.1f s (%s)", part, max(0.0, self._now() - state.since), state.word)
