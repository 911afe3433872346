"""Who is cut and who is not, on a clock that the test turns."""

from __future__ import annotations

import msgspec
import pytest

from realtime.config import LimitsConfig
from realtime.errors import CloseCode
from realtime.gateway.pulse import CONTROL_BURST_S, Pulse

LIMITS = msgspec.structs.replace(LimitsConfig(), write_stall_s=10.0, pong_timeout_s=4.0, control_frames_per_s=2.0)


def test_who_takes_no_byte_for_the_whole_stall_is_cut() -> None:
    pulse = Pulse(LIMITS, 0.0)
    pulse.wrote(100_000)
    pulse.blocked(5.0)
    assert pulse.judge(14.0, 90_000, is_paused=True, is_deaf=False) is None
    # 14.0 was the first look, so some of it had been acknowledged by then: the clock starts there.
    assert pulse.judge(23.9, 90_000, is_paused=True, is_deaf=False) is None
    assert pulse.judge(24.0, 90_000, is_paused=True, is_deaf=False) == CloseCode.SLOW_CONSUMER


def test_any_byte_acknowledged_is_progress() -> None:
    pulse = Pulse(LIMITS, 0.0)
    pulse.wrote(100_000)
    pulse.blocked(0.0)
    for n in range(100):
        assert pulse.judge(9.9 * n, 100_004 - n, is_paused=True, is_deaf=False) is None


def test_what_is_written_meanwhile_is_no_progress() -> None:
    """As bytes outstanding go up with bytes written."""
    pulse = Pulse(LIMITS, 0.0)
    for n in range(10):
        pulse.wrote(1000)
        assert pulse.judge(float(n), 1004 * (n + 1), is_paused=True, is_deaf=False) is None
    assert pulse.judge(10.0, 10_040, is_paused=True, is_deaf=False) == CloseCode.SLOW_CONSUMER


def test_what_was_pumped_counts_like_what_was_written() -> None:
    pulse = Pulse(LIMITS, 0.0)
    pulse.pumped(100_000)
    for n in range(100):
        assert pulse.judge(9.9 * n, 100_000 - n, is_paused=True, is_deaf=False) is None


def test_who_is_not_paused_does_not_stall() -> None:
    pulse = Pulse(LIMITS, 0.0)
    pulse.wrote(1000)
    assert pulse.judge(1000.0, 1004, is_paused=False, is_deaf=False) is None


@pytest.mark.parametrize("payload_bytes", [0, 125, 126, 65535, 65536])
def test_a_pong_is_due_once_the_ping_was_acknowledged(payload_bytes: int) -> None:
    pulse = Pulse(LIMITS, 0.0)
    pulse.wrote(payload_bytes)
    header_bytes = 2 if payload_bytes < 126 else 4 if payload_bytes < 65536 else 10
    pulse.wrote(0)
    pulse.pinged(0.0)
    assert pulse.judge(50.0, header_bytes + payload_bytes + 2, is_paused=False, is_deaf=False) is None
    assert pulse.judge(100.0, 1, is_paused=False, is_deaf=False) is None  # its last byte is still under way
    assert pulse.judge(103.9, 0, is_paused=False, is_deaf=False) is None
    assert pulse.judge(104.0, 0, is_paused=False, is_deaf=False) == CloseCode.NO_PONG


def test_whoever_speaks_is_alive() -> None:
    pulse = Pulse(LIMITS, 0.0)
    pulse.wrote(0)
    pulse.pinged(0.0)
    pulse.heard()
    assert not pulse.awaits_pong
    assert pulse.judge(1000.0, 0, is_paused=False, is_deaf=False) is None


@pytest.mark.parametrize("why", ["is_paused", "is_deaf"])
def test_the_pong_is_not_due_while_this_side_holds_it_up(why: str) -> None:
    pulse = Pulse(LIMITS, 0.0)
    pulse.wrote(0)
    pulse.pinged(0.0)
    held = {"is_paused": False, "is_deaf": False, why: True}
    assert pulse.judge(9.0, 0, **held) is None
    assert pulse.judge(12.9, 0, is_paused=False, is_deaf=False) is None
    assert pulse.judge(13.0, 0, is_paused=False, is_deaf=False) == CloseCode.NO_PONG


def test_control_frames_have_a_rate_and_a_burst() -> None:
    pulse = Pulse(LIMITS, 0.0)
    burst = int(2 * CONTROL_BURST_S)
    assert all(pulse.admits_control(False, 0.0) for _ in range(burst))
    assert not pulse.admits_control(False, 0.4)
    assert pulse.admits_control(True, 0.5)
    assert not pulse.admits_control(True, 0.5)
    assert sum(pulse.admits_control(False, 1e6) for _ in range(2 * burst)) == burst


def test_pongs_that_answer_pings_are_free() -> None:
    pulse = Pulse(LIMITS, 0.0)
    while pulse.admits_control(False, 0.0):
        pass
    for _ in range(3):
        pulse.wrote(0)
        pulse.pinged(0.0)
        pulse.heard()
    assert [pulse.admits_control(True, 0.0) for _ in range(4)] == [True, True, True, False]
