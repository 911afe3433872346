"""Words for what is wrong with Redis: each error has one, each state is told once, and no text of a server's is shown."""

from __future__ import annotations

import logging
import re
import socket
import ssl

import pytest
import redis.exceptions as errors
from redis._parsers.base import BaseParser
from redis.asyncio.client import Pipeline

from realtime.cluster.trouble import CLASSES, State, Trouble, WrongFormat, classify
from tests.conftest import ROOT


def of_server(text: str) -> Exception:
    """Return what redis-py makes of a server's error."""
    error = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]
    assert isinstance(error, Exception)
    return error


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def during(error: Exception, context: Exception) -> Exception:
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("READONLY You can't write against a read only replica.", "readonly"),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "readonly"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "full"),
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", "misconf"),
        ("NOREPLICAS Not enough good replicas to write.", "misconf"),
        ("NOAUTH Authentication required.", "password"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "password"),
        ("ERR invalid password", "password"),
        ("ERR wrong number of arguments for 'auth' command", "password"),
        ("NOPERM this user has no permissions to run the 'get' command", "forbidden"),
        ("DENIED Redis is running in protected mode", "forbidden"),
        ("MOVED 1234 127.0.0.1:7000", "moved"),
        ("ASK 1234 127.0.0.1:7000", "moved"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "moved"),
        ("CLUSTERDOWN Hash slot not served", "moved"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "wrongtype"),
        ("ERR max number of clients reached", "refused"),
        ("EXECABORT Transaction discarded because of: NOPERM User u has no permissions to run the 'exec' command", "forbidden"),
        ("ERR EXEC without MULTI", "forbidden"),
        ("ERR unknown command 'XADD', with args beginning with: 'realtime:{0}:log'", "format"),
        ("ERR unknown subcommand 'SLOTS'. Try CLUSTER HELP.", "format"),
        ("ERR This instance has cluster support disabled", "format"),
        ("ERR something else", "other"),
        ("SOMETHING new", "other"),
        ("", "other"),
    ],
)
def test_what_a_server_says(text: str, word: str) -> None:
    error = of_server(text)
    assert classify(error) == word
    if not text.startswith("EXECABORT"):
        Pipeline.annotate_exception(None, error, 1, ("XADD", "realtime:{0}:log", "MOVED OOM "))  # type: ignore[arg-type]
        assert "Command # 1 (XADD" in str(error)
        assert classify(error) == word


REFUSED = ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 6379)")
EVERY_ADDRESS = OSError(
    "Multiple exceptions: [Errno 111] Connect call failed ('::1', 6379), [Errno 111] Connect call failed ('127.0.0.1', 6379)"
)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (REFUSED, "refused"),
        (EVERY_ADDRESS, "refused"),
        (OSError(113, "No route to host"), "refused"),
        (FileNotFoundError(2, "No such file"), "refused"),
        (during(errors.ConnectionError("Error 111 connecting to …"), REFUSED), "refused"),
        (caused(errors.ConnectionError("…"), caused(errors.ConnectionError("…"), REFUSED)), "refused"),
        (during(errors.ConnectionError("…"), socket.gaierror(-2, "Name or service not known")), "dns"),
        (during(errors.ConnectionError("…"), ssl.SSLCertVerificationError(1, "certificate verify failed")), "tls"),
        (errors.TimeoutError("Timeout reading from …"), "timeout"),
        (TimeoutError(), "timeout"),
        (caused(errors.ConnectionError("…"), errors.TimeoutError("a sentinel")), "timeout"),
        (errors.ConnectionError("Connection closed by server."), "lost"),
        (ConnectionResetError(104, "Connection reset by peer"), "lost"),
        (BrokenPipeError(32, "Broken pipe"), "lost"),
        (EOFError(), "lost"),
        # What was being handled meanwhile is somebody else's trouble, unless it is the system's.
        (during(errors.ConnectionError("Connection closed by server."), of_server("OOM")), "lost"),
        (errors.InvalidResponse("Protocol Error"), "format"),
        (WrongFormat("2 16"), "format"),
        (ExceptionGroup("", [ValueError(), errors.TimeoutError()]), "timeout"),
        (ExceptionGroup("", [ExceptionGroup("", [of_server("OOM x")])]), "full"),
        (ValueError(), "other"),
        (errors.DataError("x"), "other"),
    ],
    ids=str,
)
def test_what_the_network_does(error: BaseException, word: str) -> None:
    assert classify(error) == word
    assert word in CLASSES


def test_a_chain_of_causes_that_is_a_circle_ends() -> None:
    first, second = errors.ConnectionError("1"), errors.ConnectionError("2")
    first.__cause__, second.__cause__ = second, first
    assert classify(first) == "lost"


def test_a_state_is_told_once_when_it_begins_and_once_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 1000.0
    trouble = Trouble(now=lambda: now)
    assert not trouble.is_degraded
    trouble.clear("bus")  # was never unwell
    for _ in range(100):
        assert trouble.note("bus", REFUSED) == "refused"
        now += 0.1
        assert trouble.note("bus", errors.TimeoutError()) == "timeout"
    assert trouble.note("store", "format") == "format"
    assert trouble.get("bus") == State("timeout", 1000.0)
    assert set(trouble.states) == {"bus", "store"}
    assert trouble.is_degraded
    trouble.clear("bus")
    trouble.clear("bus")
    assert trouble.get("bus") is None
    assert trouble.is_degraded
    trouble.note("bus", REFUSED)
    assert trouble.counts == {("bus", "refused"): 101, ("bus", "timeout"): 100, ("store", "format"): 1}
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "bus: degraded: refused (nobody takes the connection)"),
        ("WARNING", "bus: degraded: timeout (no answer in time)"),
        ("WARNING", "store: degraded: format (the data or the server's language is not ours)"),
        ("INFO", "bus: well again after 10.0 s (timeout)"),
        ("WARNING", "bus: degraded: refused (nobody takes the connection)"),
    ]


def test_a_clock_that_is_set_back_tells_no_negative_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    times = iter((1000.0, 400.0))
    trouble = Trouble(now=lambda: next(times))
    trouble.note("bus", "lost")
    trouble.clear("bus")
    assert caplog.records[-1].getMessage() == "bus: well again after 0.0 s (lost)"


def test_what_a_server_repeats_of_a_command_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble()
    trouble.note("bus", of_server("ERR unknown command 'AUTH', with args beginning with: 's3cret'"))
    trouble.note("store", caused(errors.ConnectionError("s3cret"), of_server("WRONGPASS s3cret")))
    assert "s3cret" not in caplog.text + repr(trouble.states) + repr(trouble.counts)
    assert [state.word for state in trouble.states.values()] == ["format", "password"]


def test_the_docs_have_the_same_table() -> None:
    text = (ROOT / "docs" / "redis.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text.partition("## When something is wrong")[2], re.MULTILINE))
    assert rows == dict(CLASSES)
