"""The runner leaves no promise out, whatever a command does; the capacity search says what it found in plain words."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

import bench.all
from bench.all import STEPS, Step, chosen, table
from bench.capacity import searched, sentence
from bench.knee import Bottleneck, Knee, Window
from bench.results import Result, read, text
from bench.targets import TARGETS


def test_every_promise_is_measured_by_exactly_one_step() -> None:
    keys = [key for step in STEPS for key in step.keys]
    assert sorted(keys) == sorted(TARGETS)


def test_a_step_is_chosen_by_its_name_or_by_a_promise() -> None:
    assert chosen([]) == list(STEPS)
    assert [step.name for step in chosen(["rtree"])] == ["rtree"]
    assert [step.name for step in chosen(["entity_bytes"])] == ["engine"]


def test_the_table_has_a_row_for_each_promise_and_says_why_one_is_missing() -> None:
    result = Result.begin("engine")
    result.row("pairs", [16e6, 17e6, 18e6], "pairs/s", key="engine_pairs")
    made = table([result], {"nats": "nats-server is not installed"})
    by_text = {row[0]: row for row in made.rows}
    assert len(made.rows) == len(TARGETS)
    found = by_text[TARGETS["engine_pairs"].text]
    assert found[1:5] == ["at least 15,000,000", "17,000,000 pairs/s", "16,000,000 to 18,000,000", "met"]
    assert by_text[TARGETS["nats"].text][4:] == ["not measured", "nats-server is not installed"]


def test_steps_run_one_after_the_other_and_what_fails_or_hangs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("engine", "--engine", "reference", "--part", "city", "--sessions", "10", "--entities", "100", "--changes", "50")
    steps = (
        Step("works", (*small, "--repeat", "1"), (), quick=("--repeat", "2")),
        Step("fails", ("engine", "--part", "nothing"), ("nats",)),
        Step("hangs", ("engine", "--engine", "reference"), ("replaced",), patience_s=0.2),
    )
    monkeypatch.setattr(bench.all, "STEPS", steps)
    assert bench.all.main(["--out", str(tmp_path), "--quick", "--seed", "5"]) == 1
    printed = capsys.readouterr().out
    assert "it ended with 2" in printed
    assert "it had not ended after" in printed
    result = read(tmp_path / "works.json")
    assert (result.seed, len(result.rows[0].samples)) == (5, 2)
    assert "invalid choice" in (tmp_path / "fails.log").read_text()
    assert "reference: changes" in (tmp_path / "report.html").read_text()


# Capacity


def _given(**more: Any) -> argparse.Namespace:
    figures = {
        "viewers": 1000,
        "rate": 2000.0,
        "viewers_max": 16_000,
        "p99_ms": 500.0,
        "conflated": 0.2,
        "seconds": 1.0,
        "confirm_seconds": 4.0,
    }
    return argparse.Namespace(**figures, tolerance=0.05, repeat=3, start_rate=1000.0, search=["rate", "viewers"], **more)


def test_both_knees_are_found_and_said_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that carries 10 million (changes/s x viewers), of which each viewer is told one in twenty."""
    asked: list[float] = []

    def measure(rate: float, viewers: int, seconds: float) -> Window:
        asked.append(seconds)
        used = rate * viewers / 10e6
        return Window(
            rate=rate,
            viewers=viewers,
            seconds=seconds,
            taken_per_s=rate,
            deltas_per_s=rate * viewers / 20,
            p50_ms=10.0,
            p99_ms=50.0 if used <= 1 else 5000.0,
            outbox_growth=0.0 if used <= 1 else 9.0,
            server_cpu=min(used, 1.0),
        )

    result = Result.begin("capacity")
    searched(result, measure, _given())
    by_rate, by_viewers, best = result.rows
    assert 9500 <= by_rate.value <= 10_000
    assert 4750 <= by_viewers.value <= 5000
    assert best.value == pytest.approx(500_000, rel=0.05)
    assert set(asked) == {1.0, 4.0}
    assert result.notes[0].startswith("this machine carries 1,000 viewers of one city at ")
    assert "what stopped it was the server's core" in result.notes[0]
    assert len(result.plots) == 4
    assert len(result.tables) == 2
    assert "holds" in capsys.readouterr().out
    assert "changes/s at 1,000 viewers" in text(result)


def test_what_is_a_lower_bound_is_called_so() -> None:
    window = Window(rate=5e3, viewers=16_000, seconds=4.0, taken_per_s=5e3, deltas_per_s=1e6, p50_ms=5.0, p99_ms=20.0, outbox_growth=0.1)
    by_load = sentence(Knee(5e3, [window], [], False, Bottleneck.LOAD), _given())
    assert "16,000 viewers of one city at 5,000 changes a second or more" in by_load
    assert "the load client's core" in by_load
    assert "nothing ran out" in sentence(Knee(5e3, [window], [], True, Bottleneck.UNKNOWN), _given())
    assert "does not carry" in sentence(Knee(0.0, [], [], False, Bottleneck.SERVER), _given())
