"""How smoothly the console draws: `python -m bench console`.

Ten thousand points, each of which reports every ten seconds and glides in between, on the whole world in Chromium. What
is printed is the time between two frames (what one sees) and the time that a page takes to draw one (what is left of the
machine's other troubles).

Law: the page is the console as it is shipped, looked at in a window of its own, with no GPU: the slowest way to draw.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from playwright.async_api import Page, async_playwright

from bench.api import Api
from bench.servers import ServerProcess

CHROMIUM = "/usr/bin/chromium"
# Without a frame limit there would be no frame to miss; without a GPU it is the same everywhere.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
REPORT_INTERVAL_S = 10.0
STEP_DEGREES = 0.4  # between two reports
FRAME_MS = 1000 / 60

# Notes the time of each frame, whether the page draws in it or not.
RECORD = """seconds => new Promise(resolve => {
  const { frameTimes, points } = window.realtimeConsole;
  const times = [], drawn = [];
  frameTimes.length = 0;
  const draws = [];
  const note = now => {
    times.push(now);
    drawn.push(points.drawn);
    draws.push(...frameTimes.splice(0));
    if (now - times[0] < seconds * 1000) requestAnimationFrame(note);
    else resolve({ apart: times.slice(1).map((t, i) => t - times[i]), draws, drawn: Math.min(...drawn) });
  };
  requestAnimationFrame(note);
})"""


def reports(count: int, seed: int) -> Iterator[bytes]:
    """Yield updates without end, each point in its turn, as NDJSON lines."""
    chance = random.Random(seed)
    points = [[chance.uniform(-180, 180), chance.uniform(-60, 75), chance.uniform(0, 360)] for _ in range(count)]
    while True:
        for number, point in enumerate(points):
            lon, lat, heading = point
            point[2] = heading = (heading + chance.uniform(-5, 5)) % 360
            point[0] = lon + STEP_DEGREES * math.sin(math.radians(heading))
            point[1] = lat + STEP_DEGREES * math.cos(math.radians(heading))
            if not (-179 < point[0] < 179 and -60 < point[1] < 75):
                point[:] = lon, lat, (heading + 180) % 360
            yield msgspec.json.encode(
                {
                    "type": "Feature",
                    "id": f"aircraft-{number}",
                    "kind": "aircraft",
                    "geometry": {"type": "Point", "coordinates": [round(point[0], 5), round(point[1], 5)]},
                    "properties": {"heading": round(point[2], 1)},
                }
            )


async def publish(api: Api, count: int, seed: int) -> None:
    """Publish each point once at once, and then in turn, until cancelled."""
    lines = reports(count, seed)
    owed = float(count)
    before = time.monotonic()
    while True:
        batch = [next(lines) for _ in range(int(owed))]
        owed -= len(batch)
        if batch:
            await api.publish(batch)
        await asyncio.sleep(0.05)
        now = time.monotonic()
        owed += (now - before) * count / REPORT_INTERVAL_S
        before = now


async def measure(page: Page, count: int, warm_up_s: float, seconds: float) -> dict[str, Any]:
    """Return what the frames of some seconds took, once all points are there and glide."""
    await page.wait_for_function("count => window.realtimeConsole?.points.count === count", arg=count)
    await page.wait_for_timeout(warm_up_s * 1000)
    result: dict[str, Any] = await page.evaluate(RECORD, seconds)
    return result


def row(name: str, times: Sequence[float]) -> str:
    """Return a line of the table."""
    found = sorted(times)
    at = {f"p{share}": found[min(len(found) - 1, len(found) * share // 100)] for share in (50, 95, 99)} | {"max": found[-1]}
    return f"{name:<16}{len(found):>7}" + "".join(f"{value:>9.1f}" for value in at.values())


async def run(options: argparse.Namespace) -> int:
    """Run it; return the exit code."""
    settings = {"limits.entities_per_view": max(10_000, options.points)}
    async with ServerProcess(settings, None) as server, async_playwright() as playwright:
        api = Api(server.http_url)
        browser = await playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        publishing = asyncio.create_task(publish(api, options.points, options.seed))
        try:
            page = await browser.new_page(
                viewport={"width": options.width, "height": options.height},
                device_scale_factor=options.ratio,
                reduced_motion="no-preference",
            )
            await page.goto(server.url.replace("ws://", "http://").removesuffix("ws"))
            found = await measure(page, options.points, options.warm_up, options.seconds)
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            await browser.close()
            api.close()
    late = sum(apart > 1.5 * FRAME_MS for apart in found["apart"]) / len(found["apart"])
    print(
        f"{options.points:,} points, {found['drawn']:,} drawn; {options.width} x {options.height} at {options.ratio:g}; seed {options.seed}"
    )
    print(f"{'ms':<16}{'frames':>7}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}")
    print(row("between frames", found["apart"]))
    print(row("to draw one", found["draws"]))
    print(f"frames later than one and a half of {FRAME_MS:.1f} ms: {late:.1%}")
    return 0 if found["drawn"] >= options.points else 1


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code: 1 where not all points were drawn."""
    parser = argparse.ArgumentParser(prog="python -m bench console", description="Measures how smoothly the console draws.")
    add = parser.add_argument
    add("--points", type=int, default=10_000)
    add("--width", type=int, default=1440)
    add("--height", type=int, default=900)
    add("--ratio", type=float, default=1.0, help="device pixels per CSS pixel")
    add(
        "--warm-up", type=float, default=2.2 * REPORT_INTERVAL_S, metavar="SECONDS", help="two reports of each point, after which all glide"
    )
    add("--seconds", type=float, default=10.0)
    add("--seed", type=int, default=1)
    add("--chromium", default=CHROMIUM, metavar="PATH")
    return asyncio.run(run(parser.parse_args(arguments)))
