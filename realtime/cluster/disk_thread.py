"""The one thread that touches a disk for an event loop.

Law: whoever awaits a call gets its result soon after it is there, however busy the loop is.

That does not come by itself. A loop that has no time asks its selector without waiting, a thousand times a second, and
each time gives the interpreter away and takes it back before a waiting thread has woken up. As it was offered, the thread
does not ask for it either (it would after 5 ms without an offer), and so may starve for seconds. While a call is under
way, the loop therefore sleeps for a moment now and then, long enough for a thread to wake up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

NAP_S = 0.0001
NAP_INTERVAL_S = 0.005  # so naps are 2 % of the time while a call is under way, and nothing otherwise

T = TypeVar("T")


class DiskThread:
    """Calls what blocks, one after the other."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, name)

    async def call(self, blocking: Callable[..., T], *arguments: Any) -> T:
        """Call it in the thread; return or raise what it does. A call that has begun ends, also where nobody waits any more."""
        loop = asyncio.get_running_loop()
        napping: asyncio.TimerHandle

        def nap() -> None:
            nonlocal napping
            time.sleep(NAP_S)
            napping = loop.call_later(NAP_INTERVAL_S, nap)

        running = loop.run_in_executor(self._executor, blocking, *arguments)
        napping = loop.call_later(0, nap)
        try:
            return await running
        finally:
            napping.cancel()

    def close(self) -> None:
        """Let the thread end once it has nothing to do."""
        self._executor.shutdown(wait=False)
