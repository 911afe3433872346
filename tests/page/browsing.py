"""The console in Chromium, and a server for it in this process: what the tests of the page share.

Law: what a page shows is compared with what the API tells an operator of the same view, never with the page's own lamp.
Nothing waits for a time to pass, only for something to become so. A page that leaves loopback, or that has anything to
complain about, fails its test.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from realtime.config import Config
from realtime.server import Server
from tests.conftest import missing

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

Seen = TypeVar("Seen")
WAIT_S = 20.0
DESKTOP, PHONE = (1440, 900), (390, 844)
AUSTIN = "#10/30.27/-97.74"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
CAMERA = """() => {
  const { x, y, worldPx, width, height } = window.realtimeConsole.camera;
  return { x, y, world: worldPx, width, height };
}"""
MIRROR = """() => {
  const { client, points } = window.realtimeConsole;
  return JSON.stringify({ view: client.view, entities: [...client.entities.values()], points: points.count });
}"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """Chromium, without a GPU."""
    async with launched() as one:
        yield one


@asynccontextmanager
async def launched(*flags: str) -> AsyncIterator[Browser]:
    """Start a Chromium; where there is none, skip."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        missing("Chromium", "apt-get install chromium")
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        missing("playwright", "pip install '.[test]'")
    async with async_playwright() as playwright:
        one = await playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        try:
            yield one
        finally:
            await one.close()


def configured(port: int = 0, **limits: Any) -> Config:
    """Return a configuration with ports of its own."""
    config = Config()
    return msgspec.structs.replace(
        config,
        server=msgspec.structs.replace(config.server, port=port, drain_s=0.5),
        http=msgspec.structs.replace(config.http, port=0),
        limits=msgspec.structs.replace(config.limits, **limits),
    )


async def eventually(ask: Callable[[], Awaitable[Seen]], is_so: Callable[[Seen], bool], what: str) -> Seen:
    """Ask until something is so; return what was seen then."""
    end = time.monotonic() + WAIT_S
    while True:
        seen = await ask()
        if is_so(seen):
            return seen
        assert time.monotonic() < end, f"it was not to be that {what}; last seen: {str(seen)[:2000]}"
        await asyncio.sleep(0.02)


async def told_by_api(server: Server, view: dict[str, Any]) -> dict[str, Any]:
    """Return what an operator is told of a view, by id."""
    if view["bbox"] is None:
        return {}
    query = {"bbox": ",".join(map(str, view["bbox"])), "zoom": str(view["zoom"])}
    if view.get("filter") is not None:
        query["filter"] = json.dumps(view["filter"])
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{server.http_url}/v1/entities", params=query)
    assert answer.status_code == 200, answer.text
    return {feature["id"]: feature for feature in answer.json()["features"]}


class Console:
    """A page with the console in it, and all that it had to say."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.server = server
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        page.on("request", lambda request: self._note(request.url))
        page.on("websocket", lambda socket: self._note(socket.url))

    def _note(self, url: str) -> None:
        if not url.startswith(("data:", "blob:")):
            self.hosts.add(str(urlsplit(url).hostname))

    async def ask(self, script: str, argument: Any = None) -> Any:
        return await self.page.evaluate(script, argument)

    async def wait(self, script: str, argument: Any = None) -> None:
        """Wait until an expression or function of JavaScript is true. Playwright's own way needs an `eval` in the page, which has none."""
        await eventually(lambda: self.ask(script, argument), bool, script)

    async def mirror(self) -> dict[str, Any]:
        """Return the page's view and the entities that it holds, by id."""
        found = json.loads(await self.ask(MIRROR))
        points = sum(entity["geometry"]["type"] == "Point" for entity in found["entities"])
        assert found["points"] == points, "as many are drawn as are held"
        return {"view": found["view"], "entities": {entity["id"]: entity for entity in found["entities"]}}

    async def agrees(self, when: str) -> dict[str, Any]:
        """Wait until the page holds exactly what the API tells of its view; return what that is."""

        async def ask() -> tuple[dict[str, Any], dict[str, Any]]:
            mirror = await self.mirror()
            return mirror, await told_by_api(self.server, mirror["view"])

        def is_equal(seen: tuple[dict[str, Any], dict[str, Any]]) -> bool:
            return seen[0]["entities"] == seen[1]

        mirror, _ = await eventually(ask, is_equal, f"the mirror is right {when}")
        bbox = mirror["view"]["bbox"]
        if bbox is not None and bbox[2] - bbox[0] < 360:  # the world is looked at once, however often it is on the screen
            assert await self.astray_px(bbox) < 1, f"what is looked at is not what is on the screen, {when}"
        return mirror

    async def astray_px(self, bbox: list[float]) -> float:
        """Return how far the edges of a box are from those of the screen."""
        (left, bottom), (right, top) = await self.spot(*bbox[:2]), await self.spot(*bbox[2:])
        assert self.page.viewport_size is not None
        return max(abs(left), abs(top), abs(right - self.page.viewport_size["width"]), abs(bottom - self.page.viewport_size["height"]))

    async def looks(self, is_so: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Wait until the page looks at something; return the view."""
        return (await eventually(self.mirror, lambda seen: is_so(seen["view"]), f"the page looks {what}"))["view"]

    async def spot(self, lon: float, lat: float) -> tuple[float, float]:
        """Return where a position is on the screen, in CSS pixels."""
        camera = await self.ask(CAMERA)
        x, y = lon / 360 + 0.5, 0.5 - math.asinh(math.tan(math.radians(lat))) / (2 * math.pi)
        return (x - camera["x"]) * camera["world"] + camera["width"] / 2, (y - camera["y"]) * camera["world"] + camera["height"] / 2

    async def text(self, selector: str) -> str:
        return await self.page.inner_text(selector)


@asynccontextmanager
async def console(
    browser: Browser,
    server: Server,
    place: str = "",
    *,
    size: tuple[int, int] = DESKTOP,
    scheme: Any = "dark",
    motion: Any = "no-preference",
    before: Callable[[Page], Awaitable[None]] | None = None,
    but_for: str = "\0",
) -> AsyncIterator[Console]:
    """Open the console; in the end it must have stayed on loopback and complained of nothing `but_for` what is named."""
    is_phone = size == PHONE
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        reduced_motion=motion,
        has_touch=is_phone,
        is_mobile=is_phone,
        device_scale_factor=2 if is_phone else 1,
    )
    try:
        page = await context.new_page()
        one = Console(page, server)
        if before is not None:
            await before(page)
        await page.goto(f"{server.page_url}/{place}")
        await one.wait("window.realtimeConsole?.client.stats.deltas > 0")
        yield one
        assert one.hosts == {"127.0.0.1"}, one.hosts
        complaints = [complaint for complaint in one.complaints if but_for not in complaint]
        assert not complaints, complaints
    finally:
        await context.close()


class World:
    """A few hundred entities all over the world, many of them near Austin, and what happens to them."""

    KINDS = ("bus", "tram", "quake")

    def __init__(self, seed: int, count: int = 500) -> None:
        print(f"seed {seed}")
        self._random = random.Random(seed)
        self._count = count

    def everything(self) -> list[dict[str, Any]]:
        """Return each entity once."""
        return [self._feature(f"e-{number}") for number in range(self._count)]

    def updates(self, count: int) -> list[dict[str, Any]]:
        """Return so many things that happen."""
        return [self._update(f"e-{self._random.randrange(self._count)}") for _ in range(count)]

    def _update(self, id: str) -> dict[str, Any]:
        chance = self._random.random()
        lon, lat = self._position()
        if chance < 0.05:
            return {"op": "delete", "id": id}
        if chance < 0.5:
            return {"op": "move", "id": id, "lon": lon, "lat": lat}
        if chance < 0.7:
            return {"op": "patch", "id": id, "properties": {self._random.choice("abc"): self._random.choice([None, 1, {"x": [2]}, "ü"])}}
        return self._feature(id)

    def _feature(self, id: str) -> dict[str, Any]:
        lon, lat = self._position()
        geometry: dict[str, Any] = {"type": "Point", "coordinates": [lon, lat]}
        if self._random.random() < 0.1:
            geometry = {"type": "LineString", "coordinates": [[lon, lat], [lon + 0.1, lat + 0.1]]}
        feature = {"type": "Feature", "id": id, "kind": self._random.choice(self.KINDS), "geometry": geometry}
        if self._random.random() < 0.2:
            feature["min_zoom"] = self._random.choice([3, 6, 11])
        return feature | {"properties": {"speed": self._random.randrange(20), "name": f"number {id}"}}

    def _position(self) -> tuple[float, float]:
        if self._random.random() < 0.6:
            return self._random.gauss(-97.74, 0.2), self._random.gauss(30.27, 0.15)
        return self._random.uniform(-170, 170), self._random.uniform(-60, 70)
