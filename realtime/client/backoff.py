"""When a client comes back: after which close codes, and how long it stays away.

Law: the pauses are random over their whole length ("full jitter"), so that the clients of a server that died do not come
back at one moment; and they grow until a connection has lasted, not until one was merely accepted.

Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from realtime.errors import CLOSE_CODES

STAY_AWAY_CODES = range(4500, 5000)  # also those that this version does not know
_DOUBLINGS_MAX = 32  # beyond them every pause is the longest, and the power would only grow


def comes_back(code: int) -> bool:
    """Tell whether a client reconnects after a connection was closed with this code (1006: it broke)."""
    rule = {int(known): rule for known, rule in CLOSE_CODES.items()}.get(code)
    return code not in STAY_AWAY_CODES if rule is None else rule.comes_back


class Backoff:
    """The pauses between attempts: the n-th is a random part of `base_s * 2**n`, at most `max_s`."""

    def __init__(
        self, base_s: float = 0.5, max_s: float = 30.0, stable_s: float = 5.0, choose: Callable[[], float] = random.random
    ) -> None:
        self.base_s = base_s
        self.max_s = max_s
        self.stable_s = stable_s  # how long a connection lasts that ends the growing
        self._choose = choose  # 0 <= x < 1
        self._attempts = 0

    def wait_s(self, lasted_s: float) -> float:
        """Return how long to wait after a connection that served for `lasted_s` (0: it never came to be)."""
        if lasted_s >= self.stable_s:
            self.reset()
        longest = min(self.max_s, self.base_s * 2.0 ** min(self._attempts, _DOUBLINGS_MAX))
        self._attempts += 1
        return self._choose() * longest

    def reset(self) -> None:
        """Begin with the shortest pause again."""
        self._attempts = 0
