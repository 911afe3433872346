"""A page with MapLibre GL JS, fed by `client.js`: what its source holds and what it draws is what the API tells.

Law: the map is the published one, from npm, and the page is somebody else's: of another origin, which is listed.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import tarfile
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from realtime.server import Server
from tests.conftest import missing
from tests.page.browsing import anyio_backend, configured, eventually, launched, told_by_api

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

__all__ = ["anyio_backend"]

VERSION = "6.17.0"
BUSES = 2000
SWIFTSHADER = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")  # WebGL where there is no GPU
READ_BACK = "GPU stall due to ReadPixels"  # Chromium's remark on software that draws
# What the client looks at, what MapLibre holds, and the ids that it draws.
PICTURE = """async () => {
  const { map, client, errors } = window.live;
  const view = { ...client.view };
  const data = await map.getSource("buses").getData();
  const drawn = map.queryRenderedFeatures({ layers: ["buses"] }).map(feature => feature.properties.id);
  return JSON.stringify({ view, errors, features: data.features, drawn: [...new Set(drawn)], isIdle: map.loaded() });
}"""


@pytest.fixture(scope="module")
def maplibre(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of MapLibre GL JS."""
    npm = shutil.which("npm")
    if npm is None:
        missing("npm", "apt-get install npm")
    assert npm is not None
    folder = tmp_path_factory.mktemp("maplibre")
    command = [npm, "pack", f"maplibre-gl@{VERSION}", "--silent", "--fetch-retries=1", "--fetch-timeout=30000"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode:
        missing(f"maplibre-gl {VERSION}", f"npm cannot get it: {done.stderr.strip()[-300:] or 'no network?'}")
    with tarfile.open(folder / done.stdout.split()[-1]) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "dist"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: what fails is seen in the page."""


@pytest.fixture(scope="module")
def origin(maplibre: Path) -> Iterator[str]:
    """Where somebody else serves the page and MapLibre."""
    shutil.copy(Path(__file__).with_name("buses.html"), maplibre)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=maplibre)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """Chromium with a WebGL of software."""
    async with launched(*SWIFTSHADER) as one:
        yield one


class Buses:
    """Two thousand buses that move, stop, lose properties and go home."""

    def __init__(self, seed: int) -> None:
        print(f"seed {seed}")
        self._random = random.Random(seed)

    def feature(self, number: int) -> dict[str, Any]:
        lon, lat = self._random.gauss(-97.74, 0.15), self._random.gauss(30.27, 0.12)
        geometry = {"type": "Point", "coordinates": [lon, lat]}
        properties = {"speed": self._random.randrange(20), "label": f"line {number % 40}", "stops": [number, {"deep": True}]}
        return {"type": "Feature", "id": f"bus-{number}", "kind": "bus", "geometry": geometry, "properties": properties}

    def moves(self) -> list[dict[str, Any]]:
        """Move all of them, and more with a few."""
        updates: list[dict[str, Any]] = []
        for number in range(BUSES):
            id, feature = f"bus-{number}", self.feature(number)
            lon, lat = feature["geometry"]["coordinates"]
            chance = self._random.random()
            if chance < 0.03:
                updates.append({"op": "delete", "id": id})
            elif chance < 0.06:
                updates.append({"op": "patch", "id": id, "properties": {"label": None, "late_s": number}})
            elif chance < 0.09:
                updates.append({"type": "Feature", "id": id, "kind": "tram", "geometry": feature["geometry"], "properties": {}})
            elif chance < 0.5:
                updates.append(feature)
            else:
                updates.append({"op": "move", "id": id, "lon": lon, "lat": lat})
        return updates


def as_published(features: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a source holds as an operator is told it: by id, geometry and properties with `id` and `kind`."""
    return {feature["properties"]["id"]: (feature["geometry"], feature["properties"]) for feature in features}


async def matches(page: Page, server: Server, when: str) -> dict[str, Any]:
    """Wait until MapLibre holds and draws exactly what the API tells of the client's view."""

    async def ask() -> tuple[dict[str, Any], dict[str, Any]]:
        picture = json.loads(await page.evaluate(PICTURE))
        told = await told_by_api(server, picture["view"])
        return picture, {id: (one["geometry"], one["properties"] | {"id": id, "kind": one["kind"]}) for id, one in told.items()}

    def is_equal(seen: tuple[dict[str, Any], dict[str, Any]]) -> bool:
        picture, told = seen
        return picture["isIdle"] and as_published(picture["features"]) == told and set(picture["drawn"]) == told.keys()

    picture, _ = await eventually(ask, is_equal, f"the source is right {when}")
    return picture


async def test_two_thousand_buses_move_as_the_api_tells(browser: Browser, origin: str) -> None:
    buses = Buses(1)
    config = configured()
    config = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, origins=[origin]))
    async with Server(config) as server:
        server.publish(buses.feature(number) for number in range(BUSES))
        page = await browser.new_page(viewport={"width": 480, "height": 400})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        hosts: set[str] = set()
        page.on("request", lambda request: hosts.add(request.url.split("/")[2].partition(":")[0]))
        await page.goto(f"{origin}/buses.html?server={server.page_url}")
        await eventually(lambda: page.evaluate("Boolean(window.live)"), bool, "the map is there")
        at_first = await matches(page, server, "after load")
        assert len(at_first["drawn"]) > 1500
        for number in range(4):
            server.publish(buses.moves())
            if number % 2:
                await page.evaluate("live.map.jumpTo({ center: [-97.74, 30.3], zoom: live.map.getZoom() + 0.7 })")
            after = await matches(page, server, f"after moves {number}")
            assert len(after["drawn"]) > 100
            assert after["features"] != at_first["features"]
        await page.mouse.move(240, 200)
        await page.mouse.down()
        await page.mouse.move(100, 150, steps=5)
        await page.mouse.up()
        server.publish(buses.moves())
        dragged = await matches(page, server, "after dragging")
        assert dragged["view"]["bbox"] != after["view"]["bbox"]
        assert dragged["errors"] == []
        assert await page.evaluate("[live.client.stats.heals, live.client.stats.bad_frames]") == [0, 0]
        assert [text for text in complaints if READ_BACK not in text] == []
        assert hosts == {"127.0.0.1"}
        await page.close()
