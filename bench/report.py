"""How `city` and `stall` judge a window and print it.

Law: a bound of theirs stands here once, a verdict is printed for each, and the exit code is 0 only if all are met.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench.trial import Mirrors, Window

CHANGES_PER_S_MIN = 1500.0
EDGE_SHARE = 0.01  # of a rate that a batch at the edge of the window may cost
P99_MS_MAX = 500.0
STALL_RATIO_MAX = 1.5
LOAD_CPU_MAX, LOAD_LAG_MS_MAX = 0.9, 50.0  # beyond these the load process is what was measured
OTHERS_CPU_MAX = 0.25  # of one core; the kernel's own work for our sockets is some of it


class Verdict(NamedTuple):
    """One bound, and whether it was met."""

    is_met: bool
    text: str


def city_verdicts(window: Window, mirrors: Mirrors, flush_interval_ms: float) -> list[Verdict]:
    """Judge a run against what the project promises of one city."""
    least = CHANGES_PER_S_MIN * (1 - EDGE_SHARE)
    applied = window.deltas_per_s / max(window.fan_out, 1e-9)
    # What changes within a flush period is on its way; and half the mean is what samples of a busy outbox vary by.
    in_flight = window.pairs_offered_per_s * flush_interval_ms / 1000
    grown, allowed = window.outbox_slope_per_s * window.seconds, max(window.outbox_mean / 2, in_flight)
    return [
        Verdict(window.taken_per_s >= least, f"changes taken in: {window.taken_per_s:,.0f}/s, at least {CHANGES_PER_S_MIN:,.0f}/s"),
        Verdict(applied >= least, f"changes applied by all who see them: {applied:,.0f}/s, at least {CHANGES_PER_S_MIN:,.0f}/s"),
        Verdict(window.waits.p99_ms <= P99_MS_MAX, f"p99 publish to apply: {window.waits.p99_ms:,.0f} ms, at most {P99_MS_MAX:,.0f} ms"),
        Verdict(grown <= allowed, f"outboxes: {grown:+,.0f} entities over the window, at most {allowed:+,.0f}"),
        Verdict(not window.refused, f"changes refused: {window.refused}"),
        mirrors_verdict(mirrors),
    ]


def mirrors_verdict(mirrors: Mirrors) -> Verdict:
    """Judge the mirrors."""
    found = f"{mirrors.compared} compared with brute force over all entities: {mirrors.wrong} wrong; digests wrong: {mirrors.digests_wrong}"
    faults = "".join(f"; {count} x {fault}" for fault, count in mirrors.faults.items())
    return Verdict(mirrors.are_right, f"mirrors: {found}{faults}")


def window_rows(window: Window) -> list[tuple[str, str]]:
    """Return what a window measured, as (name, value)."""
    waits = window.waits
    return [
        ("window", f"{window.seconds:.1f} s"),
        ("changes offered", f"{window.offered_per_s:,.0f}/s"),
        ("changes taken in", f"{window.taken_per_s:,.0f}/s"),
        ("deltas applied", f"{window.deltas_per_s:,.0f}/s of {window.pairs_offered_per_s:,.0f}/s offered"),
        ("fan-out", f"{window.fan_out:.1f} viewers per change"),
        ("conflated away", f"{window.conflated:.1%}"),
        ("frames", f"{window.frames_per_s:,.0f}/s, {window.deltas_per_s / max(window.frames_per_s, 1e-9):.1f} deltas each"),
        ("bytes per delta", f"{window.bytes_per_delta:.1f}"),
        ("publish to apply", f"p50 {waits.p50_ms:,.0f} ms, p99 {waits.p99_ms:,.0f} ms, max {waits.max_ms:,.0f} ms"),
        ("publisher late", f"at most {window.behind_max_s * 1000:,.0f} ms"),
        ("outboxes", f"{window.outbox_mean:,.0f} entities on average, {window.outbox_slope_per_s:+,.0f}/s"),
        ("server", f"{window.server_cpu:.0%} of one core, {window.server_us_per_change:,.0f} us per change"),
        ("", f"{window.server_resident_bytes / 1e6:,.0f} MB resident"),
        ("load process", f"{window.load_cpu:.0%} of one core, timers late by {window.load_lag_p99_ms:,.1f} ms (p99)"),
        ("everybody else", f"{window.others_cpu:.0%} of one core, of the two"),
    ]


def load_warnings(windows: Iterable[Window]) -> list[str]:
    """Say where something else than the server was what was measured."""
    found = []
    windows = list(windows)
    if any(window.others_cpu > OTHERS_CPU_MAX for window in windows):
        found.append("the machine was busy with something else: rates are a lower bound of the server's, latencies an upper one")
    elif any(window.load_cpu > LOAD_CPU_MAX or window.load_lag_p99_ms > LOAD_LAG_MS_MAX for window in windows):
        found.append("the load process was the bottleneck: rates are a lower bound of the server's, latencies an upper one")
    return found


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print a table of two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def conclude(verdicts: Sequence[Verdict], warnings: Iterable[str]) -> int:
    """Print warnings and verdicts; return the exit code."""
    for warning in warnings:
        print(f"  note: {warning}")
    for verdict in verdicts:
        print(f"  {'met    ' if verdict.is_met else 'NOT MET'}  {verdict.text}")
    return 0 if all(verdict.is_met for verdict in verdicts) else 1
