"""What is measured is kept as it was, judged by one bound, and shown without a line lost."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import bench.micro.run as micro
from bench.__main__ import COMMANDS
from bench.__main__ import main as bench_main
from bench.html import main as report
from bench.html import newest, page
from bench.results import Plot, Result, Series, Table, judged, number, reaches, read, text, write
from bench.svg import Axis, draw, short
from bench.targets import TARGETS


def _result(bench: str = "engine", started: str = "2024-05-01T10:00:00.000+00:00") -> Result:
    result = Result.begin(bench, seed=7, options={"sessions": 3})
    result.command, result.started = f"python -m bench {bench}", started
    return result


def _full() -> Result:
    result = _result()
    result.row("pairs", [14e6, 16e6, 15.5e6], "pairs/s", key="engine_pairs", facts={"encoding": "json", "conflated": 0.25})
    result.row("memory", 450.0, "bytes", key="entity_bytes", note="said beside it")
    result.row("changes", [1e6], "changes/s", key="engine_changes", void="the mirrors are wrong")
    result.row("a <figure> & more", [3.0, 2.0], "us")
    result.plots = [
        Plot(
            "by <rate>",
            "line",
            "changes/s",
            "ms",
            [Series("p99", [(1e3, 2.0), (1e5, 30.0)])],
            x_log=True,
            y_log=True,
            mark=(25.0, "at most 25"),
        ),
        Plot("bars", "bar", "part", "bytes", [Series("one", [("a<b", 5.0)]), Series("two", [("a<b", 7.0), ("c", 0.0)])]),
    ]
    result.tables = [Table("parts <of> it", ["part", "bytes"], [["socket", 1300], ["session", 20.5]], note="and a note")]
    result.notes = ["this machine carries <little>"]
    return result


def test_a_row_is_judged_by_its_median_and_says_when_the_bound_lies_within_the_spread() -> None:
    row = judged("pairs", [14e6, 16e6, 15.5e6], "pairs/s", key="engine_pairs")
    assert (row.value, row.min, row.max, row.target, row.verdict) == (15.5e6, 14e6, 16e6, 15e6, "met")
    assert row.note == "the bound lies within the spread"
    assert judged("pairs", [14e6, 14.5e6, 20e6], "pairs/s", key="engine_pairs").verdict == "not met"
    assert judged("bytes", [401.0], "bytes", key="entity_bytes").verdict == "not met"
    assert judged("bytes", [400.0], "bytes", key="entity_bytes").verdict == "met"


def test_what_is_void_is_never_met_and_without_a_key_there_is_no_verdict() -> None:
    row = judged("pairs", [99e6], "pairs/s", key="engine_pairs", void="the mirrors are wrong")
    assert (row.verdict, row.note) == ("void", "the mirrors are wrong")
    assert judged("pairs", [1.0], "pairs/s").verdict == ""


def test_nan_reaches_nothing_and_units_are_held_to_the_target_s() -> None:
    assert not reaches(float("nan"), 1.0, "more")
    assert not reaches(float("nan"), 1.0, "less")
    with pytest.raises(AssertionError, match="instead of"):
        judged("memory", [1.0], "KB", key="entity_bytes")
    with pytest.raises(AssertionError, match="nothing was measured"):
        judged("memory", [], "bytes", key="entity_bytes")


def test_a_result_comes_back_as_it_was_written_and_the_exit_code_is_that_of_the_worst_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, path = _full(), tmp_path / "deep" / "engine.json"
    assert result.finish(path) == 1
    assert read(path) == result
    printed = capsys.readouterr().out
    assert printed.rstrip() == text(result)
    for part in ("NOT MET", "VOID", "at least 15,000,000", "14,000,000 to 16,000,000", "conflated 0.25", "1,300", "this machine carries"):
        assert part in printed
    good = _result()
    good.row("pairs", [15e6], "pairs/s", key="engine_pairs")
    assert good.finish() == 0


def test_what_is_no_result_is_refused_with_the_file_s_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"windows": []}')
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read(path)
    result = _result()
    result.format = 99
    write(path, result)
    with pytest.raises(ValueError, match="format 99"):
        read(path)
    assert report([str(path), "-o", str(tmp_path / "report.html")]) == 2
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "said"),
    [(15.3e6, "15,300,000"), (412.34, "412.3"), (41.234, "41.23"), (1.2345, "1.234"), (0.87314, "0.8731"), (0, "0"), (3.0, "3")],
)
def test_figures_have_about_four_digits(value: float, said: str) -> None:
    assert number(value) == said


# The page


class _Reader(HTMLParser):
    """Collects text, and holds that every element that is opened is closed."""

    VOID = frozenset({"meta", "line", "rect", "circle", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{name}={value}" for name, value in attributes if name in ("src", "href") and not (value or "").startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def _read(results: list[Result]) -> _Reader:
    reader = _Reader()
    html = page(results)
    reader.feed(html)
    assert reader.open == []
    assert "url(" not in html
    assert "<script" not in html
    return reader


def test_the_page_says_all_that_the_results_say_and_loads_nothing() -> None:
    result = _full()
    reader = _read([result])
    assert reader.loads == []
    for part in (
        "a <figure> & more", "by <rate>", "parts <of> it", "and a note", "this machine carries <little>", "a<b", "at most 25",
        "said beside it", "the mirrors are wrong", "encoding json", result.command, result.host.processor, "seed 7", "void", "not met",
    ):  # fmt: skip
        assert part in reader.text, part
    for target in TARGETS.values():
        assert target.text in reader.text
    assert reader.text.count("not measured") == len(TARGETS) - 3 + 1  # and the count of them


def test_of_the_same_command_the_newest_counts_and_others_stay() -> None:
    old, new, other = _result(started="2024-01-01T00:00:00+00:00"), _result(started="2024-02-01T00:00:00+00:00"), _result("load")
    assert newest([new, old, other]) == [new, other]


def test_links_lead_to_what_they_name_where_one_command_made_several_results() -> None:
    results = [_result("load"), _result("load"), _full()]
    results[1].command += " --viewers 5000"
    html = page(results)
    anchors = set(re.findall(r'id="([^"]+)"', html))
    assert anchors == {"load-1", "load-2", "engine"}
    assert set(re.findall(r'href="#([^"]+)"', html)) == anchors


def test_the_report_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "engine.json", _full())
    assert bench_main(["report", str(tmp_path / "engine.json"), "-o", str(tmp_path / "report.html")]) == 0
    assert "1 results" in capsys.readouterr().out
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_plots_of_nothing_and_of_one_point_are_drawn() -> None:
    assert draw(Plot("none", "line", "x", "y", [])) == ""
    assert draw(Plot("none", "bar", "x", "y", [Series("one", [])])) == ""
    for kind, x in (("line", 5.0), ("bar", "a")):
        for is_log in (False, True):
            for y in (0.0, 5.0):
                plot = Plot("one", kind, "x", "y", [Series("one", [(x, y)])], x_log=is_log, y_log=is_log)  # type: ignore[arg-type]
                assert "nan" not in draw(plot).lower()


@pytest.mark.parametrize(
    ("low", "high", "is_log"), [(0.0, 7.3, False), (990.0, 1010.0, False), (2.0, 9.0, True), (1.0, 3e7, True), (40.0, 55.0, True)]
)
def test_ticks_lie_within_the_axis_and_are_few(low: float, high: float, is_log: bool) -> None:
    axis = Axis(low, high, is_log, 0, 100)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 12
    assert all(0 <= axis.at(tick) <= 100 for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_axes_say_figures_shortly() -> None:
    assert [short(value) for value in (15e6, 400e3, 0.25, 12.0, 2.5e9)] == ["15M", "400k", "0.25", "12", "2.5G"]


# The commands


def test_every_command_is_there_and_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_main([]) == 2
    assert bench_main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)
    assert bench_main(["nothing"]) == 2
    for name in COMMANDS:
        with pytest.raises(SystemExit) as exited:
            bench_main([name, "--help"])
        assert exited.value.code == 0, name
        assert f"bench {name}" in capsys.readouterr().out


# pytest-benchmark's figures


def _measured(name: str, median: float, per: int | None = None) -> dict[str, Any]:
    stats = {"median": median, "min": median / 2, "max": median * 3, "rounds": 20}
    return {
        "name": name,
        "group": None,
        "fullname": f"bench/micro/test_outbox.py::{name}",
        "stats": stats,
        "extra_info": {"per": per} if per else {},
    }


def test_micro_rows_are_for_one_of_what_a_round_does_and_engines_are_compared_part_by_part() -> None:
    found = {"benchmarks": [_measured("test_offer[native-50]", 1e-3, 1000), _measured("test_offer[reference-50]", 8e-3, 1000)]}
    found["benchmarks"] += [_measured("test_read", 2e-6), _measured("test_come[native]", 1e-6), _measured("test_come[reference]", 5e-6)]
    made = {row.name: row for row in micro.rows(found)}
    assert made["outbox: offer[native-50]"].value == pytest.approx(1.0)
    assert made["outbox: offer[native-50]"].max == pytest.approx(3.0)
    assert made["outbox: read"].value == pytest.approx(2.0)
    points = dict(micro.ratios(list(made.values())).series[0].points)
    assert points == {"outbox: offer[50]": pytest.approx(8.0), "outbox: come": pytest.approx(5.0)}
