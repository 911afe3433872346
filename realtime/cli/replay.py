"""`realtime replay`: recorded movement, published to a running server at its own pace or faster.

Law: the trace's clock does not wait for the server (see `realtime.demo.replay`); how far the replay is behind it is
shown as lag. A server that goes away for a moment is waited for, and gets what became due meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from realtime.cli.exits import Exit, fail

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from realtime.cli.meter import Meter
    from realtime.cli.publisher import Publisher, Verdict
    from realtime.demo.replay import Batch, Trace

RETRY_S = 10.0  # how long a server that went away is waited for
BACKOFF_S = (0.1, 1.0)  # the first pause and the longest
REFUSALS_SHOWN = 5
PORT = 8766  # where the API is by default


def replay(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV or GeoJSON sequence, also .gz; or a recording that comes along: austin, earthquakes.")
    ],
    speed: Annotated[
        float, typer.Option(metavar="X", help="How many times as fast as recorded; inf: as fast as the server takes it.")
    ] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end, until Ctrl-C.")] = False,
    to: Annotated[str, typer.Option(metavar="URL", help="The server's API.")] = f"http://127.0.0.1:{PORT}",
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Put before every id, as in --prefix bus-.")] = "",
) -> None:
    """Publish recorded movement to a running server.

    CSV has a head line with id,lon,lat, and if it likes t (seconds),
    kind, and any properties. GeoJSON has a Feature a line (or RFC 8142),
    its time in `t` or `time` of the Feature or of its properties.
    """
    from realtime.cli.publisher import Publisher
    from realtime.demo.replay import SHIPPED, Trace, TraceError, find_trace

    if not speed > 0:
        fail(Exit.USAGE, f"--speed {speed:g}: a number above 0 is expected, or inf")
    path = find_trace(file)
    if not path.is_file():
        fail(Exit.USAGE, f"{file}: no such file; recordings that come along: {', '.join(SHIPPED)}")
    try:
        trace = Trace(path, prefix)
        publisher = Publisher(to)
    except ValueError as error:
        fail(Exit.USAGE, str(error))
    run = _Run(trace, speed, loop, publisher)
    try:
        asyncio.run(run.to_end())
    except KeyboardInterrupt:
        run.report()
        sys.exit(Exit.INTERRUPTED)
    except (TraceError, OSError, _Unreachable) as error:
        run.report()
        fail(Exit.FAILED, str(error))
    run.report()
    if run.totals.is_all_rejected:
        fail(Exit.FAILED, "the server took none of it")


class _Unreachable(Exception):
    """The server is not there, or not any more."""


@dataclass
class _Totals:
    """What became of all batches."""

    accepted: int = 0
    unchanged: int = 0
    stale: int = 0
    rejected: int = 0
    refusals: list[str] = field(default_factory=list)  # the first few

    def add(self, verdict: Verdict, batch: Batch) -> None:
        self.accepted += verdict.accepted
        self.unchanged += verdict.unchanged
        self.stale += verdict.stale
        self.rejected += verdict.rejected_total
        for refusal in verdict.rejected[: REFUSALS_SHOWN - len(self.refusals)]:
            self.refusals.append(f"{batch.rows[refusal.index].update['id']}: {refusal.code}: {refusal.message}")

    @property
    def is_all_rejected(self) -> bool:
        return self.rejected > 0 and self.accepted + self.unchanged + self.stale == 0

    def __str__(self) -> str:
        return f"{self.accepted:,} accepted, {self.unchanged:,} unchanged, {self.stale:,} stale, {self.rejected:,} rejected"


class _Run:
    """One replay, from the first row to the last."""

    def __init__(self, trace: Trace, speed: float, is_looped: bool, publisher: Publisher) -> None:
        from realtime.cli.meter import Meter

        self.totals = _Totals()
        self._trace = trace
        self._speed = speed
        self._is_looped = is_looped
        self._publisher = publisher
        self._start = time.monotonic()
        self._is_connected = False
        self._meter: Meter = Meter(self._start)

    async def to_end(self) -> None:
        """Publish everything. Raises `_Unreachable`, `TraceError`, `OSError`."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        from realtime.cli.publisher import PublishError
        from realtime.demo.replay import paced, repeated

        try:
            self._publisher.connect()
        except PublishError as error:
            raise _Unreachable(f"{error}; `realtime serve` starts a server, --to says where it is") from None
        self._is_connected = True
        console = Console(stderr=True)
        columns = BarColumn(20), TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.fields[state]}", markup=False)
        rows = repeated(self._trace) if self._is_looped else self._trace
        try:
            with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
                task = progress.add_task(self._trace.path.name, total=self._trace.bytes_total, state="")
                async for batch in paced(rows, self._speed):
                    await self._publish(batch, progress, task)
        finally:
            self._publisher.close()

    async def _publish(self, batch: Batch, progress: Progress, task: TaskID) -> None:
        """Publish one batch; try again for `RETRY_S` while the server is away or busy."""
        from realtime.cli.publisher import PublishError

        updates = [row.update for row in batch.rows]
        stop, pause = time.monotonic() + RETRY_S, BACKOFF_S[0]
        while True:
            try:
                verdict = await asyncio.to_thread(self._publisher.publish, updates)
                break
            except PublishError as error:
                if not error.is_passing or time.monotonic() + pause > stop:
                    raise _Unreachable(str(error)) from None
                progress.update(task, state=f"waiting for the server: {error}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, BACKOFF_S[1])
        now = time.monotonic()
        self.totals.add(verdict, batch)
        self._meter.add(len(updates), now)
        state = f"{self._meter.total:,} rows, {self._meter.per_s(now):,.0f}/s, lag {batch.lag_s * 1000:,.0f} ms\n{self.totals}"
        progress.update(task, completed=self._trace.bytes_read, state=state)

    def report(self) -> None:
        """Print what was done, and why the first refused rows were refused."""
        took_s = time.monotonic() - self._start
        if self._is_connected:
            print(f"{self._meter.total:,} rows in {took_s:.1f} s ({self._meter.total / took_s:,.0f}/s): {self.totals}")
        for refusal in self.totals.refusals:
            print(f"rejected: {refusal}", file=sys.stderr)
