"""Draws a flame graph, as SVG, of what a process spends its time on: `python tools/make_flame_graph.py PID -o FILE`.

It records with Linux' `perf` for some seconds, with stacks unwound by DWARF, and folds what was seen: a box is a function,
as wide as its share of all samples, on top of who called it. Names of C++ are shortened to what tells them apart.

The form is Brendan Gregg's (queue.acm.org/detail.cfm?id=2927301).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, ROW, LETTER = 1200, 17, 6.6  # pixels
SHARE_MIN = 0.003  # of all samples: what is less wide is not drawn
COLOURS = {"kernel": "#e07a5f", "native": "#3d9970", "python": "#5b8def", "other": "#b0a990"}


@dataclass
class Box:
    """A function on top of its callers."""

    name: str
    kind: str
    samples: int = 0
    above: dict[str, Box] = field(default_factory=dict)


def record(pid: int, seconds: float, data: Path) -> None:
    """Let perf sample the process."""
    command = ["perf", "record", "-q", "-F", "499", "--call-graph", "dwarf,16384", "-o", str(data), "-p", str(pid)]
    subprocess.run([*command, "--", "sleep", str(seconds)], check=True, stdout=subprocess.DEVNULL)


def shorten(symbol: str) -> str:
    """Return a symbol without arguments and template parameters."""
    symbol = re.sub(r"\+0x[0-9a-f]+$", "", symbol)
    while (shorter := re.sub(r"<[^<>]*>", "", symbol)) != symbol:
        symbol = shorter
    symbol = re.sub(r"\([^()]*\)( const)?", "", symbol).replace("{lambda}", "")
    symbol = re.sub(r"^__pyx_[a-z]+_\d*\w*?_native_(?:\d+)?", "", symbol)
    return symbol.replace("realtime::", "").strip(": ") or "?"


def kind_of(place: str, symbol: str) -> str:
    """Return whose code it is, by the file that it is in."""
    if "kernel" in place or place.startswith("[") or "vmlinux" in place:
        return "kernel"
    if "_native" in place:
        return "native"
    return "python" if "python" in place or "uvloop" in place or "picows" in place or symbol.startswith("_Py") else "other"


def fold(data: Path) -> Box:
    """Return the bottom box of what perf recorded."""
    fields = ["perf", "script", "-i", str(data), "-F", "ip,sym,dso", "--no-inline"]
    text = subprocess.run(fields, check=True, capture_output=True, text=True).stdout
    bottom = Box("all", "other")
    for stack in text.split("\n\n"):
        frames = [match.groups() for line in stack.splitlines() if (match := re.match(r"\s*[0-9a-f]+ (.*) \((.*)\)$", line))]
        if not frames:
            continue
        bottom.samples += 1
        box, before = bottom, ""
        for symbol, place in reversed(frames):
            kind = kind_of(place, symbol)
            name = "Python" if kind == "python" else shorten(symbol)  # the interpreter's own frames say nothing of whose code it runs
            if name == before:
                continue
            before = name
            box = box.above.setdefault(name, Box(name, kind))
            box.samples += 1
    return bottom


def pruned(box: Box, least: float) -> Box:
    """Return the boxes that are wide enough, without chains that lead nowhere else."""
    above = [pruned(one, least) for one in box.above.values() if one.samples >= least]
    return Box(box.name, box.kind, box.samples, {one.name: one for one in above})


def depth(box: Box) -> int:
    return 1 + max(map(depth, box.above.values()), default=0)


def draw(box: Box, left: float, level: int, scale: float, height: int, total: int, out: list[str]) -> None:
    """Append a box and all above it."""
    width = box.samples * scale
    y = height - (level + 1) * ROW
    letters = int((width - 6) / LETTER)
    label = box.name if len(box.name) <= letters else box.name[: letters - 1] + "…" if letters > 3 else ""
    title = f"{box.name}: {100 * box.samples / total:.1f} %"
    out.append(
        f'<g><title>{escape(title)}</title><rect x="{left:.1f}" y="{y}" width="{max(width - 0.6, 0.4):.1f}" height="{ROW - 1}" '
        f'fill="{COLOURS[box.kind]}" rx="2"/><text x="{left + 3:.1f}" y="{y + 12}">{escape(label)}</text></g>'
    )
    for above in sorted(box.above.values(), key=lambda one: -one.samples):
        draw(above, left, level + 1, scale, height, total, out)
        left += above.samples * scale


def svg(bottom: Box, title: str) -> str:
    """Return the picture."""
    shown = pruned(bottom, bottom.samples * SHARE_MIN)
    height = depth(shown) * ROW + 44
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="ui-monospace, monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fbfaf7"/><text x="6" y="18" font-size="13">{escape(title)}</text>',
    ]
    for place, (kind, colour) in enumerate(COLOURS.items()):
        left = 6 + 90 * place
        out.append(f'<rect x="{left}" y="26" width="10" height="10" fill="{colour}"/><text x="{left + 14}" y="35">{kind}</text>')
    draw(shown, 0.0, 0, WIDTH / shown.samples, height, bottom.samples, out)
    return "\n".join([*out, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pid", type=int)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--title", default="Where the time goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        record(options.pid, options.seconds, data)
        options.output.write_text(svg(fold(data), options.title))


if __name__ == "__main__":
    main()
