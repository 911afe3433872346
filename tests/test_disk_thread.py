"""A call in the disk's thread comes back soon, also to a loop that never waits for anything."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from realtime.cluster.disk_thread import NAP_INTERVAL_S, NAP_S, DiskThread

pytestmark = pytest.mark.anyio

TURN_S = 0.001
TURNS_MAX = 1000  # of a call that does nothing; without naps some take several thousand


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


async def test_a_loop_without_a_pause_gets_its_results() -> None:
    thread, turns = DiskThread("test"), 0

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            until = time.perf_counter() + TURN_S
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0)

    working = asyncio.ensure_future(work())
    taken = []
    for _ in range(150):
        before = turns
        assert await thread.call(sum, (1, 2)) == 3
        taken.append(turns - before)
    working.cancel()
    thread.close()
    assert max(taken) < TURNS_MAX
    assert sorted(taken)[len(taken) // 2] * TURN_S < 10 * NAP_INTERVAL_S


async def test_calls_are_made_one_after_the_other_in_one_thread_and_errors_come_back() -> None:
    thread = DiskThread("test")
    names = await asyncio.gather(*(thread.call(threading.get_ident) for _ in range(20)))
    assert len(set(names)) == 1
    assert names[0] != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await thread.call(divmod, 1, 0)
    thread.close()


async def test_nobody_naps_when_nothing_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    thread, naps = DiskThread("test"), 0
    sleep = time.sleep

    def counted(seconds: float) -> None:
        nonlocal naps
        naps += threading.current_thread() is threading.main_thread()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", counted)
    await thread.call(counted, 10 * NAP_INTERVAL_S)
    assert 1 <= naps <= 11
    before = naps
    await asyncio.sleep(5 * NAP_INTERVAL_S)
    assert naps == before
    assert NAP_S < NAP_INTERVAL_S / 10
    thread.close()
