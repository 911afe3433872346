"""The console draws every point, lets it glide, and has it end where it was reported."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from realtime.server import Server
from tests.page.browsing import anyio_backend, browser, configured, console

if TYPE_CHECKING:
    from playwright.async_api import Browser

__all__ = ["anyio_backend", "browser"]

# Longitudes at which an entity was drawn, frame by frame, until it has arrived at one of them.
WAY = """([id, end]) => new Promise(resolve => {
  const { points, client } = window.realtimeConsole;
  const seen = [];
  const note = () => {
    const now = performance.now();
    seen.push((points.position(id, now)[0] - 0.5) * 360);
    if (client.entities.get(id).geometry.coordinates[0] === end && !points.isMoving(now)) resolve(seen);
    else requestAnimationFrame(note);
  };
  note();
})"""
# How far from where they were reported entities are drawn, in degrees of longitude, at most.
ASTRAY = """() => {
  const { points, client } = window.realtimeConsole;
  const lonOf = id => (points.position(id, performance.now())[0] - 0.5) * 360;
  return Math.max(...Array.from(client.entities, ([id, { geometry }]) => Math.abs(lonOf(id) - geometry.coordinates[0])));
}"""
# The smallest number of points in a frame, and what the frames took, until an entity has arrived and nothing glides.
FRAMES = """([id, end]) => new Promise(resolve => {
  const { points, client, frameTimes } = window.realtimeConsole;
  const times = [];
  let least = Infinity;
  frameTimes.length = 0;
  const note = () => {
    times.push(...frameTimes.splice(0));
    least = Math.min(least, points.drawn);
    const [lon] = client.entities.get(id).geometry.coordinates;
    if (lon === end && !points.isMoving(performance.now())) resolve({ least, times });
    else requestAnimationFrame(note);
  };
  note();
})"""


def point(id: str, lon: float, lat: float) -> dict[str, Any]:
    geometry = {"type": "Point", "coordinates": [lon, lat]}
    return {"type": "Feature", "id": id, "kind": "aircraft", "geometry": geometry, "properties": {"heading": 90}}


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
async def test_points_glide_unless_one_prefers_less_motion(browser: Browser, motion: str) -> None:
    async with Server(configured()) as server:
        server.publish([point("one", 27, 10)])
        async with console(browser, server, "#5/10/30", motion=motion) as page:
            await page.agrees("after load")
            recording = asyncio.ensure_future(page.ask(WAY, ["one", 30]))
            for lon in (28, 29, 30):
                done = await page.ask("window.realtimeConsole.client.stats.deltas")
                await page.wait("since => performance.now() > since + 150", await page.ask("performance.now()"))  # reports that are apart
                server.publish([{"op": "move", "id": "one", "lon": lon, "lat": 10}])
                await page.wait("done => window.realtimeConsole.client.stats.deltas > done", done)
            seen = [round(lon, 6) for lon in await recording]
            assert seen == sorted(seen), "it never goes back"
            assert (seen[0], seen[-1]) == (27, 30)
            assert any(lon != int(lon) for lon in seen) == (motion == "no-preference")


async def test_ten_thousand_points_glide(browser: Browser) -> None:
    chance = random.Random(1)
    places = [[chance.uniform(-170, 170), chance.uniform(-55, 70)] for _ in range(10_000)]

    def moved() -> list[dict[str, Any]]:
        for place in places:
            place[0] += 0.5
        return [{"op": "move", "id": f"p-{number}", "lon": lon, "lat": lat} for number, (lon, lat) in enumerate(places)]

    async with Server(configured()) as server:
        await server.publish_sliced(point(f"p-{number}", lon, lat) for number, (lon, lat) in enumerate(places))
        async with console(browser, server, "#1.5/20/0") as page:  # all of the world, and no part of it twice
            await page.wait("window.realtimeConsole.client.entities.size === 10000 && window.realtimeConsole.points.drawn === 10000")
            changes = moved()
            recording = asyncio.ensure_future(page.ask(FRAMES, [changes[-1]["id"], changes[-1]["lon"]]))
            await server.publish_sliced(changes)
            frames = await recording
            await page.agrees("after all have moved")
            assert frames["least"] == 10_000, "all are drawn in each frame"
            assert len(frames["times"]) > 2, "there were frames in between"
            assert await page.ask(ASTRAY) < 1e-9
            times = sorted(frames["times"])
            print(f"{len(times)} frames, the median took {times[len(times) // 2]:.1f} ms to draw")


async def test_a_change_of_properties_does_not_hold_a_point_up(browser: Browser) -> None:
    async with Server(configured()) as server:
        server.publish([point("one", 27, 10)])
        async with console(browser, server, "#5/10/30") as page:
            await page.agrees("after load")
            await page.wait("since => performance.now() > since + 700", await page.ask("performance.now()"))
            server.publish([{"op": "move", "id": "one", "lon": 28, "lat": 10}])
            await page.wait("window.realtimeConsole.points.isMoving(performance.now())")
            recording = asyncio.ensure_future(page.ask(WAY, ["one", 28]))
            number = 0
            while not recording.done():
                number += 1
                server.publish([{"op": "patch", "id": "one", "properties": {"number": number}}])
                await page.wait("number => window.realtimeConsole.client.entities.get('one').properties.number === number", number)
                # In the end it may take a while to notice, but not as long as to begin anew each time.
                late = await page.ask(
                    "(({ since, at }) => (performance.now() - at) / (at - since))(window.realtimeConsole.client.tracks.get('one'))"
                )
                assert late < 3, "it arrives in about the time that its reports are apart"
            seen = await recording
            assert min(after - before for before, after in pairwise(seen)) >= 0
            assert seen[-1] == pytest.approx(28)
            assert number > 3
