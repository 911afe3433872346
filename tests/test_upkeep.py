"""The queues of timeouts, and that a bug in one connection stops no clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.config import LimitsConfig
from realtime.errors import CloseCode
from realtime.gateway.complaints import Complaints
from realtime.gateway.upkeep import BATCH, Deadlines, Upkeep

logger = logging.getLogger("test_upkeep")


@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.floats(0, 2))))
def test_deadlines_are_those_of_a_plain_list(steps: list[tuple[int, int, float]]) -> None:
    deadlines: Deadlines[int] = Deadlines(3.0)
    plain: dict[int, float] = {}
    now = 0.0
    for action, thing, passes in steps:
        now += passes
        if action == 0:
            deadlines.discard(thing)
            plain.pop(thing, None)
        elif action == 1:
            due = sorted((other for other, at in plain.items() if at + 3.0 <= now), key=lambda other: plain[other])[:2]
            taken = deadlines.take_due(now, 2)
            assert sorted(plain[other] for other in taken) == [plain[other] for other in due]
            for other in taken:
                del plain[other]
        else:
            deadlines.add(thing, now)
            plain[thing] = now
        assert set(deadlines.all()) == set(plain)
        assert len(deadlines) == len(plain)
        if plain:
            assert plain[deadlines.oldest()] == min(plain.values())


class Patient:
    """A connection that notes what happens to it, and raises where it is told to."""

    def __init__(self, raises: str = "") -> None:
        self.happened: list[str] = []
        self.noted = asyncio.Event()
        self._raises = raises

    def _note(self, name: str) -> None:
        self.happened.append(name)
        self.noted.set()
        if name == self._raises:
            raise RuntimeError("raised on purpose")

    def close(self, code: CloseCode, reason: str = "") -> None:
        self._note(code.name)

    def cut(self) -> None:
        self._note("cut")

    def ping(self, now: float) -> None:
        self._note("ping")

    def judge(self, now: float) -> bool:
        self._note("judge")
        return self.happened.count("judge") < 3

    def fail(self) -> None:
        self._note("fail")

    def expire(self) -> None:
        self._note("expire")

    def evict(self) -> None:
        self._note("evict")


def upkeep_of(**limits: float) -> Upkeep:
    loop = asyncio.get_running_loop()
    return Upkeep(msgspec.structs.replace(LimitsConfig(), **limits), loop, lambda name: None, Complaints(logger, loop.time))


SHORT = dict.fromkeys(
    ("handshake_timeout_s", "identify_timeout_s", "close_timeout_s", "ping_interval_s", "pong_timeout_s", "write_stall_s"), 0.04
)


async def until(condition: Callable[[], bool], patient: Patient) -> None:
    """Wait until a condition holds, looking whenever something happens to a connection."""
    async with asyncio.timeout(5):
        while not condition():
            patient.noted.clear()
            await patient.noted.wait()


async def test_each_queue_has_its_act() -> None:
    upkeep = upkeep_of(**SHORT)
    upkeep.start()
    now = upkeep.loop.time()
    queues = {
        "expire": upkeep.newcomers,
        "IDENTIFY_TIMEOUT": upkeep.unidentified,
        "cut": upkeep.closing,
        "ping": upkeep.pings,
        "judge": upkeep.watched,
    }
    patients = {name: Patient() for name in queues}
    for name, queue in queues.items():
        queue.add(patients[name], now)  # type: ignore[attr-defined]
    await until(
        lambda: patients["ping"].happened.count("ping") >= 3 and all(patient.happened for patient in patients.values()), patients["ping"]
    )
    upkeep.stop()
    assert patients["expire"].happened == ["expire"]
    assert patients["IDENTIFY_TIMEOUT"].happened == ["IDENTIFY_TIMEOUT"]
    assert patients["cut"].happened == ["cut"]
    assert patients["judge"].happened == ["judge"] * 3
    assert set(patients["ping"].happened) == {"ping"}


async def test_what_one_raises_costs_it_alone(caplog: pytest.LogCaptureFixture) -> None:
    upkeep = upkeep_of(**SHORT)
    upkeep.start()
    bad, good = Patient("ping"), Patient()
    upkeep.pings.add(bad, upkeep.loop.time())
    upkeep.pings.add(good, upkeep.loop.time())
    await until(lambda: good.happened.count("ping") >= 5, good)
    upkeep.stop()
    assert bad.happened[:2] == ["ping", "fail"]
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_many_that_are_due_at_once_are_taken_in_batches() -> None:
    upkeep = upkeep_of(**SHORT | {"ping_interval_s": 1.0})
    due = upkeep.loop.time() - 0.96
    patients = [Patient() for _ in range(3 * BATCH)]
    for patient in patients:
        upkeep.pings.add(patient, due)
    upkeep.start()
    counts: set[int] = set()
    async with asyncio.timeout(5):
        while (count := sum(len(patient.happened) for patient in patients)) < len(patients):
            counts.add(count)
            await asyncio.sleep(0)
    upkeep.stop()
    assert counts == {0, BATCH, 2 * BATCH}
    assert {len(patient.happened) for patient in patients} == {1}
