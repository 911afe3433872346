"""Plots as SVG text: lines over linear or logarithmic axes, and bars.

Law: a pure function of what is drawn; no sizes in pixels that the page would have to know, no colours but the page's
variables `--c0` … `--c5`, so that one drawing serves both themes. Whatever is text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from bench.results import Plot, Series, number

COLOURS = 6
WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 46
BAR, GAP, GROUP_GAP = 18, 4, 14
LETTER, LABEL_WIDTH_MIN, LABEL_WIDTH_MAX, VALUE_WIDTH = 6.6, 60, 300, 90
TICKS = 5
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


class Axis(NamedTuple):
    """From values to places along one axis."""

    low: float
    high: float
    is_log: bool
    begin: float
    end: float

    def at(self, value: float) -> float:
        """Return the place of a value."""
        if self.is_log:
            share = (math.log(max(value, self.low)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Return the values that are marked."""
        return _log_ticks(self.low, self.high) if self.is_log else _ticks(self.low, self.high)


def draw(plot: Plot) -> str:
    """Return a plot as an `svg` element."""
    return _lines(plot) if plot.kind == "line" else _bars(plot)


def short(value: float) -> str:
    """Return a figure as an axis says it: 15M, 400k, 0.25."""
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}"


def whisker(low: float, middle: float, high: float, bound: float | None) -> str:
    """Return a small drawing of a spread and of the bound that it has to be on one side of."""
    values = [value for value in (low, middle, high, bound) if value is not None]
    bottom, top = min(values), max(values)
    room = (top - bottom) * 0.12 or abs(top) * 0.1 or 1.0
    axis = Axis(bottom - room, top + room, False, 2, 118)
    line = f'<line x1="{axis.at(low):.1f}" x2="{axis.at(high):.1f}" y1="9" y2="9" class="range"/>'
    mark = "" if bound is None else f'<line x1="{axis.at(bound):.1f}" x2="{axis.at(bound):.1f}" y1="1" y2="17" class="bound"/>'
    dot = f'<circle cx="{axis.at(middle):.1f}" cy="9" r="3.5"/>'
    return f'<svg class="whisker" viewBox="0 0 120 18" aria-hidden="true">{line}{mark}{dot}</svg>'


# Lines


def _lines(plot: Plot) -> str:
    xs = [float(x) for series in plot.series for x, _ in series.points]
    ys = [y for series in plot.series for _, y in series.points] + ([plot.mark[0]] if plot.mark else [])
    if not xs:
        return ""
    x_axis = _axis(xs, plot.x_log, LEFT, WIDTH - RIGHT, from_zero=False)
    y_axis = _axis(ys, plot.y_log, HEIGHT - BOTTOM, TOP, from_zero=True)
    parts = [_grid(x_axis, y_axis, plot)]
    if plot.mark:
        y = y_axis.at(plot.mark[0])
        parts.append(f'<line class="bound" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT + 6, y - 5, plot.mark[1], "start", "bound-text"))
    for place, series in enumerate(plot.series):
        parts.append(_line(series, place, x_axis, y_axis, plot))
    return _svg(plot.title, WIDTH, HEIGHT, parts)


def _line(series: Series, place: int, x_axis: Axis, y_axis: Axis, plot: Plot) -> str:
    colour = f"var(--c{place % COLOURS})"
    points = sorted((float(x), y) for x, y in series.points)
    path = " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in points)
    dots = [
        f'<circle cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="3.5" fill="{colour}">'
        f"<title>{escape(f'{series.name}: {number(y)} {plot.y} at {number(x)} {plot.x}')}</title></circle>"
        for x, y in points
    ]
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>{"".join(dots)}'


def _grid(x_axis: Axis, y_axis: Axis, plot: Plot) -> str:
    parts = []
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, short(tick), "end"))
    for tick in x_axis.ticks():
        x = x_axis.at(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(_text(x, HEIGHT - BOTTOM + 17, short(tick), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, plot.x, "middle", "axis"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text class="axis" text-anchor="middle" transform="translate(14 {middle}) rotate(-90)">{escape(plot.y)}</text>')
    return "".join(parts)


def _axis(values: Sequence[float], is_log: bool, begin: float, end: float, *, from_zero: bool) -> Axis:
    is_log = is_log and min(values) > 0
    low, high = min(values), max(values)
    if is_log:
        return Axis(low / 1.15, high * 1.15, True, begin, end)
    if from_zero:
        low = min(low, 0.0)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return Axis(low if low == 0 else low - room, high + room, False, begin, end)


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / TICKS
    size = 10 ** math.floor(math.log10(raw))
    step = next(step * size for step in (1, 2, 5, 10) if step * size >= raw * 0.999)
    return [round(place * step, 12) for place in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if math.log10(high / low) > 3 else (1, 3) if math.log10(high / low) > 2 else (1, 2, 5)
    found = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
    return found if len(found) > 1 else _ticks(low, high)


# Bars


def _bars(plot: Plot) -> str:
    labels = list(dict.fromkeys(str(x) for series in plot.series for x, _ in series.points))
    values = [y for series in plot.series for _, y in series.points] + ([plot.mark[0]] if plot.mark else [])
    if not values:
        return ""
    by_series = [{str(x): y for x, y in series.points} for series in plot.series]
    is_log = plot.y_log and min(values) > 0
    left = min(max(LABEL_WIDTH_MIN, round(max(map(len, labels)) * LETTER) + 16), LABEL_WIDTH_MAX)
    axis = Axis(min(*values, 1.0) / 1.5 if is_log else 0.0, max(*values, 1e-9) * 1.02, is_log, left, WIDTH - VALUE_WIDTH)
    y = float(TOP)
    parts: list[str] = []
    for label in labels:
        found = [(place, by_name[label]) for place, by_name in enumerate(by_series) if label in by_name]
        height = len(found) * (BAR + GAP) - GAP
        parts.append(_text(left - 10, y + height / 2 + 4, label, "end"))
        for place, value in found:
            parts.append(_bar(axis, y, place, value, f"{plot.series[place].name}, {label}: {number(value)} {plot.y}"))
            y += BAR + GAP
        y += GROUP_GAP - GAP
    height = round(y - GROUP_GAP + TOP + 18)
    if plot.mark:
        x = axis.at(plot.mark[0])
        parts.append(f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 20}"/>')
        parts.append(_text(x, height - 6, plot.mark[1], "middle", "bound-text"))
    else:
        parts.append(_text(left, height - 4, plot.y, "start", "axis"))
    return _svg(plot.title, WIDTH, height, parts)


def _bar(axis: Axis, y: float, place: int, value: float, title: str) -> str:
    width = max(axis.at(value) - axis.begin, 1.0)
    bar = f'<rect x="{axis.begin}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" rx="3" fill="var(--c{place % COLOURS})">'
    return f"{bar}<title>{escape(title)}</title></rect>" + _text(axis.begin + width + 6, y + BAR - 5, number(value), "start", "value")


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    return f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
