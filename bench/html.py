"""`python -m bench report FILE… -o report.html`: one page from the results of all commands.

Law: the page is one file that loads nothing, has no script, and reads as well in a dark room as in a light one. It shows
what the results say and computes nothing but places on a plot; a result that is given twice is shown once, the newest.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from bench.results import Plot, Result, Row, Table, number, read, shown
from bench.svg import COLOURS, draw, short, whisker
from bench.targets import TARGETS

LINES_OPEN = 24  # of a table; a longer one is folded
STYLE = Path(__file__).with_name("report.css")


def page(results: Sequence[Result]) -> str:
    """Return the page."""
    results = newest(results)
    names = _names(results)
    commit = results[0].versions.get("commit", "")
    links = "".join(_link(name) for name in names)
    body = [
        "<header><h1>What this machine carries</h1>",
        f'<p class="soft">realtime {escape(commit)}, measured from {_when(min(result.started for result in results))}</p>',
        _host(results),
        f"</header><nav>{links}</nav>",
        _promises(results, names),
        *(_section(result, name) for result, name in zip(results, names, strict=True)),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>realtime: measurements</title>'
    head += f"<style>{STYLE.read_text(encoding='utf-8')}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{"".join(body)}</main></body></html>\n'


def newest(results: Iterable[Result]) -> list[Result]:
    """Return the results, of those that one command made with the same arguments only the last."""
    found: dict[str, Result] = {}
    for result in sorted(results, key=lambda result: result.started):
        found.pop(result.command, None)
        found[result.command] = result
    return list(found.values())


def _names(results: Sequence[Result]) -> list[str]:
    """Return what each result is called: its command, numbered where there are several."""
    counts = Counter(result.bench for result in results)
    seen: Counter[str] = Counter()
    names = []
    for result in results:
        seen[result.bench] += 1
        names.append(f"{result.bench} {seen[result.bench]}" if counts[result.bench] > 1 else result.bench)
    return names


def _link(name: str) -> str:
    return f'<a href="#{_anchor(name)}">{escape(name)}</a>'


def _anchor(name: str) -> str:
    return escape(name.replace(" ", "-"))


def _when(started: str) -> str:
    return escape(started[:16].replace("T", " ")) + " UTC"


def _host(results: Sequence[Result]) -> str:
    host = results[0].host
    facts = [
        ("processor", host.processor),
        ("cores", str(len(host.cores))),
        ("memory", f"{host.memory_bytes / 2**30:.0f} GiB"),
        ("system", host.system),
        ("python", host.python),
        *((name, version) for name, version in results[0].versions.items() if name != "commit"),
        ("load before", f"{min(result.host.load for result in results)} to {max(result.host.load for result in results)}"),
    ]
    return '<ul class="facts">' + "".join(f"<li>{escape(name)} <b>{escape(value)}</b></li>" for name, value in facts) + "</ul>"


# What was promised


def _promises(results: Sequence[Result], names: Sequence[str]) -> str:
    found = {row.key: (row, name) for result, name in zip(results, names, strict=True) for row in result.rows if row.key}
    if not found:
        return ""
    counts = [(name, sum(row.verdict == name for row, _ in found.values())) for name in ("met", "not met", "void")]
    counts.append(("not measured", len(TARGETS) - len(found)))
    tiles = "".join(f'<div><div class="count">{count}</div><div class="soft">{name}</div></div>' for name, count in counts if count)
    lines = []
    for key, target in TARGETS.items():
        if key in found:
            row, name = found[key]
            cells = [
                _figure(row),
                _aim(row),
                _whisker(row),
                _chip(row.verdict),
                _link(name),
            ]
        else:
            cells = ["", f"{_bound(target.bound, target.better)} <small>{escape(target.unit)}</small>", "", _chip(""), ""]
        kinds = (' class="n main"', ' class="n"', "", "", "")
        body = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, cells, strict=True))
        beside = f'<small class="beside">{_facts(found[key][0])}</small>' if key in found else ""
        lines.append(f"<tr><td>{escape(target.text)}{beside}</td>{body}</tr>")
    head = '<tr><th>what</th><th class="n">measured</th><th class="n">promised</th><th>spread, bound</th><th>verdict</th><th>by</th></tr>'
    return (
        f'<h2>What was promised</h2><div class="card counts">{tiles}</div><div class="card"><table>{head}{"".join(lines)}</table></div>'
        + _ratios([row for row, _ in found.values()])
    )


def _ratios(rows: Sequence[Row]) -> str:
    """Draw how far beyond its bound each figure is."""
    bars = [(TARGETS[row.key].text, _beyond(row)) for row in rows if row.target and row.value > 0 and row.verdict != "void"]
    if len(bars) < 2:
        return ""
    parts = []
    widest = max(max(share for _, share in bars), 1.5)
    for text, share in bars:
        kind = "--c2" if share >= 1 else "--c4"
        bar = f'<div class="bar" style="width:{share / widest:.1%};background:var({kind})"></div>'
        one = f'<div class="one" style="left:{1 / widest:.1%}"></div>'
        cell = f'<div class="beyond">{bar}{one}</div>'
        parts.append(f'<tr><td>{escape(text)}</td><td style="width:50%">{cell}</td><td class="n">{share:.2f} x</td></tr>')
    note = '<p class="soft">1 is the bound, more is better, also where the figure itself has to be small</p>'
    return f'<div class="card"><h3>Beyond the bound</h3>{note}<table>{"".join(parts)}</table></div>'


def _beyond(row: Row) -> float:
    assert row.target is not None
    return min(row.value / row.target if row.better == "more" else row.target / row.value, 100.0)


# One command


def _section(result: Result, name: str) -> str:
    drawn = "".join(_plot(plot) for plot in result.plots)
    parts = [
        f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>',
        f'<p class="soft">{_when(result.started)}, {number(round(result.seconds))} s, seed {result.seed}</p>',
        f"<pre>{escape(result.command)}</pre>",
        _notes(result.notes),
        f'<div class="plots">{drawn}</div>' if drawn else "",
        _rows(result.rows),
        *(_table(table) for table in result.tables),
    ]
    return "".join(parts) + "</section>"


def _folded(count: int, title: str, body: str) -> str:
    """Return a card; what is long is opened by who wants to read it."""
    if count <= LINES_OPEN:
        return f'<div class="card">{f"<h3>{title}</h3>" if title else ""}{body}</div>'
    return f'<details class="card"><summary>{title or "all figures"}, {count} lines</summary>{body}</details>'


def _notes(notes: Sequence[str]) -> str:
    """Return the notes; those that say what the machine carries stand out."""
    if not notes:
        return ""
    lines = (f"<li{' class=said' if note.startswith('this machine') else ''}>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{"".join(lines)}</ul>'


def _rows(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = []
    for row in rows:
        beside = "".join(f'<small class="beside">{text}</small>' for text in (_facts(row), escape(row.note)) if text)
        chip = _chip(row.verdict) if row.verdict else ""
        lines.append(
            f'<tr><td>{escape(row.name)}{beside}</td><td class="n main">{_figure(row)}</td><td class="n">{_spread(row)}</td>'
            f'<td>{_whisker(row)}</td><td class="n">{_aim(row)}</td><td>{chip}</td></tr>'
        )
    head = '<tr><th>figure</th><th class="n">median</th><th class="n">min to max</th><th></th><th class="n">promised</th><th></th></tr>'
    return _folded(len(rows), "", f"<table>{head}{''.join(lines)}</table>")


def _plot(plot: Plot) -> str:
    drawn = draw(plot)
    if not drawn:
        return ""
    legend = "".join(
        f'<span><i style="background:var(--c{place % COLOURS})"></i>{escape(series.name)}</span>'
        for place, series in enumerate(plot.series)
    )
    legend = f'<div class="legend">{legend}</div>' if len(plot.series) > 1 else ""
    return f'<div class="card"><h3>{escape(plot.title)}</h3>{legend}{drawn}</div>'


def _table(table: Table) -> str:
    is_number = [
        all(isinstance(row[place], (int, float)) and not isinstance(row[place], bool) for row in table.rows)
        for place in range(len(table.columns))
    ]
    kinds = [' class="n"' if right else "" for right in is_number]
    head = "".join(f"<th{kind}>{escape(column)}</th>" for kind, column in zip(kinds, table.columns, strict=True))
    lines = [
        "<tr>" + "".join(f"<td{kind}>{escape(shown(cell))}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in table.rows
    ]
    note = f'<p class="soft">{escape(table.note)}</p>' if table.note else ""
    return _folded(len(lines), escape(table.title), f'<table class="narrow"><tr>{head}</tr>{"".join(lines)}</table>{note}')


def _figure(row: Row) -> str:
    figure = short(row.value) if abs(row.value) >= 1e6 else number(row.value)
    return f'<span title="{escape(number(row.value))}">{escape(figure)}</span> <small>{escape(row.unit)}</small>'


def _aim(row: Row) -> str:
    return "" if row.target is None else _bound(row.target, row.better)


def _bound(bound: float, better: str) -> str:
    return f"{'≥' if better == 'more' else '≤'} {number(bound)}"


def _spread(row: Row) -> str:
    """Return the extremes, with the digits that an axis has where they are long."""
    if row.min == row.max:
        return ""
    low, high = (short(value) if abs(value) >= 1e6 else number(value) for value in (row.min, row.max))
    return f"{low} to {high}"


def _whisker(row: Row) -> str:
    return whisker(row.min, row.value, row.max, row.target) if row.min != row.max or row.target is not None else ""


def _facts(row: Row) -> str:
    return escape("; ".join(f"{name} {shown(value)}" for name, value in row.facts.items()))


def _chip(verdict: str) -> str:
    kind = {"met": "met", "not met": "not-met", "void": "void"}.get(verdict, "open")
    return f'<span class="chip {kind}">{escape(verdict or "not measured")}</span>'


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench report", description="One HTML page from the results that --json wrote.")
    parser.add_argument("results", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"))
    given = parser.parse_args(arguments)
    try:
        results = [read(path) for path in given.results]
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    given.output.write_text(page(results), encoding="utf-8")
    print(f"{given.output}: {len(newest(results))} results")
    return 0
