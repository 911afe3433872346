"""Whether a peer is alive, and whether it knocks too often. No I/O; `now` is in seconds of any steady clock.

Law: a peer is cut for what it does not do, never for what this side has not sent yet. Progress is counted in bytes that
the peer's TCP has acknowledged: what was written less what still lies in the transport's buffer and in the kernel's.
That moves long before the kernel tells the transport that it may write again, so who reads slowly is seen to read. The
clock of a pong starts once the ping itself was acknowledged, as until then it stands behind other bytes.
"""

from __future__ import annotations

from realtime.config import LimitsConfig
from realtime.errors import CloseCode

CONTROL_BURST_S = 10.0  # that many seconds' worth of pings and pongs may come at once


class Pulse:
    """Of one connection."""

    __slots__ = (
        "_acked_bytes",
        "_limits",
        "_ping_end",
        "_pings_unanswered",
        "_pong_since",
        "_progress_at",
        "_spent",
        "_spent_at",
        "_written_bytes",
        "awaits_pong",
    )

    def __init__(self, limits: LimitsConfig, now: float) -> None:
        self._limits = limits
        self.awaits_pong = False  # nothing was heard since the last ping
        self._written_bytes = 0  # as frames, since the upgrade
        self._acked_bytes = 0  # of those, at the last look
        self._progress_at = now  # when a look found more of them, or the socket blocked
        self._ping_end = 0  # how many bytes were written with the ping that awaits its pong
        self._pong_since = now  # since when the peer has owed that pong
        self._pings_unanswered = 0  # their pongs are free
        self._spent = 0.0  # of the control frames that may come at once
        self._spent_at = now

    def wrote(self, payload_bytes: int) -> None:
        """Note a frame that was handed to the transport."""
        self._written_bytes += payload_bytes + (2 if payload_bytes < 126 else 4 if payload_bytes < 65536 else 10)

    def pumped(self, frame_bytes: int) -> None:
        """Note whole frames that went past the transport, or were begun there."""
        self._written_bytes += frame_bytes

    def blocked(self, now: float) -> None:
        """Note that the transport takes no more from now on."""
        self._progress_at = now

    def pinged(self, now: float) -> None:
        """Note a ping that was written."""
        self._pings_unanswered += 1
        self.awaits_pong = True
        self._ping_end = self._written_bytes
        self._pong_since = now

    def heard(self) -> None:
        """Note a frame of any kind: whoever speaks is alive."""
        self.awaits_pong = False

    def admits_control(self, is_pong: bool, now: float) -> bool:
        """Tell whether the peer may send this ping or pong; a pong that answers a ping is not counted."""
        if is_pong and self._pings_unanswered:
            self._pings_unanswered -= 1
            return True
        rate = self._limits.control_frames_per_s
        self._spent = max(self._spent - (now - self._spent_at) * rate, 0.0)
        self._spent_at = now
        if self._spent > rate * CONTROL_BURST_S - 1:
            return False
        self._spent += 1
        return True

    def judge(self, now: float, outstanding_bytes: int, *, is_paused: bool, is_deaf: bool) -> CloseCode | None:
        """Return why the peer must be cut, or None.

        `outstanding_bytes` were written and are not acknowledged; `is_paused`: more waits behind them; `is_deaf`: this
        side does not read at the moment, so that a pong may have come unseen.
        """
        acked = self._written_bytes - outstanding_bytes
        if acked > self._acked_bytes:
            self._acked_bytes = acked
            self._progress_at = now
        if is_paused and now - self._progress_at >= self._limits.write_stall_s:
            return CloseCode.SLOW_CONSUMER
        if self.awaits_pong:
            if is_paused or is_deaf or acked < self._ping_end:
                self._pong_since = now
            elif now - self._pong_since >= self._limits.pong_timeout_s:
                return CloseCode.NO_PONG
        return None
