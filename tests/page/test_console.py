"""The console in Chromium: whatever a person does, the page's mirror becomes what the API tells of its view.

Law: see browsing.py. The screens that one looks at with one's own eyes are in docs/pictures.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest

from realtime.server import Server
from tests.page.browsing import AUSTIN, DESKTOP, PHONE, Console, World, anyio_backend, browser, configured, console

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

__all__ = ["anyio_backend", "browser"]

BUSES = '["==", ["kind"], "bus"]'


async def test_the_mirror_follows_the_mouse_and_the_keyboard(browser: Browser) -> None:
    world = World(1)
    async with Server(configured()) as server:
        server.publish(world.everything())
        async with console(browser, server) as page:
            mouse, keyboard = page.page.mouse, page.page.keyboard
            at_first = await page.agrees("after load")
            assert len(at_first["entities"]) > 300

            async def drag() -> None:
                await mouse.move(900, 500)
                await mouse.down()
                await mouse.move(500, 350, steps=8)
                await mouse.up()

            async def wheel() -> None:
                await mouse.move(700, 400)
                for _ in range(6):
                    await mouse.wheel(0, -300)

            async def keys() -> None:
                await page.page.focus("#map")
                for key in ("ArrowLeft", "ArrowUp", "+", "+", "ArrowRight", "-"):
                    await keyboard.press(key)

            async def buttons() -> None:
                for name in ("Zoom out", "Zoom out", "Zoom in"):
                    await page.page.get_by_role("button", name=name).click()

            async def double_click() -> None:
                await mouse.dblclick(1000, 300)

            async def go() -> None:
                await page.ask("hash => { location.hash = hash; }", AUSTIN)

            async def home() -> None:
                await page.page.get_by_role("button", name="Show the world").click()

            seen = {str(at_first["view"])}
            for act in (drag, wheel, keys, buttons, double_click, go, drag, home):
                before = (await page.mirror())["view"]
                await act()
                server.publish(world.updates(40))
                await page.wait("before => JSON.stringify(window.realtimeConsole.client.view.bbox) !== before", _json(before["bbox"]))
                seen.add(str((await page.agrees(f"after {act.__name__}"))["view"]))
            assert len(seen) > 7
            assert await page.ask("window.realtimeConsole.client.stats.heals") == 0


async def test_the_mirror_follows_fingers(browser: Browser) -> None:
    world = World(2)
    async with Server(configured()) as server:
        server.publish(world.everything())
        async with console(browser, server, AUSTIN, size=PHONE) as page:
            before = await page.agrees("after load")
            devtools = await page.page.context.new_cdp_session(page.page)

            async def touch(kind: str, *places: tuple[float, float]) -> None:
                points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
                await devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

            async def pinch(begin: float, end: float) -> None:
                """Move two fingers from so far apart to so far apart, around (190, 400)."""
                for step in range(9):
                    half = (begin + (end - begin) * step / 8) / 2
                    kind = "touchMove" if step else "touchStart"
                    await touch(kind, (190 - half, 400), (190 + half, 400))
                await touch("touchEnd")

            await pinch(60, 240)
            closer = await page.agrees("after pinching in")
            assert closer["view"]["zoom"] == pytest.approx(before["view"]["zoom"] + 2, abs=0.1)
            assert 0 < len(closer["entities"]) < len(before["entities"])
            server.publish(world.updates(50))
            await pinch(300, 40)
            farther = await page.agrees("after pinching out")
            assert farther["view"]["zoom"] < before["view"]["zoom"]
            await touch("touchStart", (200, 500))
            for step in range(1, 9):
                await touch("touchMove", (200 - 10 * step, 500 - 20 * step))
            await touch("touchEnd")
            panned = await page.agrees("after dragging with one finger")
            assert panned["view"]["zoom"] == farther["view"]["zoom"]
            assert panned["view"]["bbox"] != farther["view"]["bbox"]


async def test_the_mirror_follows_filters(browser: Browser) -> None:
    world = World(3)
    async with Server(configured()) as server:
        server.publish(world.everything())
        async with console(browser, server) as page:
            whole = await page.agrees("after load")

            async def type_filter(text: str) -> None:
                await page.page.fill("#filter", text)
                await page.page.press("#filter", "Control+Enter")

            async def chip(kind: str) -> None:
                await page.page.click(f"#kinds button:has-text('{kind}')")

            async def kinds(when: str) -> set[str]:
                server.publish(world.updates(30))
                return {entity["kind"] for entity in (await page.agrees(when))["entities"].values()}

            await type_filter(BUSES)
            await page.wait("window.realtimeConsole.client.view.filter?.[0] === '=='")
            assert await kinds("with a filter") == {"bus"}
            await type_filter("")
            await page.wait("!window.realtimeConsole.client.view.filter")
            assert await kinds("without one") == set(World.KINDS)
            await chip("tram")
            await page.wait("window.realtimeConsole.client.view.filter?.[0] === '!'")
            assert await kinds("without trams") == {"bus", "quake"}
            await chip("quake")
            await type_filter('[">", ["get", "speed"], 9]')
            await page.wait("window.realtimeConsole.client.view.filter?.[0] === 'all'")
            assert await kinds("with both") == {"bus"}
            assert await page.page.get_attribute("#kinds button:has-text('tram')", "aria-pressed") == "false"
            await page.page.click("#clear")
            await chip("tram")
            await chip("quake")
            await page.wait("!window.realtimeConsole.client.view.filter")
            assert await kinds("in the end") == set(World.KINDS)
            assert len((await page.mirror())["entities"]) > len(whole["entities"]) / 2


async def test_a_wrong_filter_is_shown_at_its_place_and_costs_nothing_else(browser: Browser) -> None:
    async with Server(configured()) as server:
        server.publish(World(4).everything())
        async with console(browser, server) as page:

            async def type_filter(text: str) -> None:
                await page.page.fill("#filter", text)
                await page.page.click("#apply")

            async def is_marked(text: str, error: str) -> None:
                await page.wait("text => document.querySelector('#marks mark')?.textContent === text", text)
                assert await page.text("#filter-error") == error or error in await page.text("#filter-error")
                assert await page.page.get_attribute("#filter", "aria-invalid") == "true"

            await type_filter(BUSES)
            await page.wait("window.realtimeConsole.client.view.filter?.[0] === '=='")
            buses = await page.agrees("with a filter")
            wrong = '["all", ["==", ["kind"], "bus"],\n  ["=>", ["get", "speed"], 10]]'
            await type_filter(wrong)
            await is_marked('"=>"', "unknown operator")
            await page.page.click("#kinds button:has-text('bus')")  # combined with the filter that holds, not the wrong one
            await page.wait("window.realtimeConsole.client.view.filter?.[0] === 'all'")
            assert (await page.agrees("with a chip"))["entities"] == {}
            await page.page.click("#kinds button:has-text('tram')")
            await type_filter(wrong)  # now the server names a place in a filter around this one
            await is_marked('"=>"', "filter[2][0]")
            for _ in range(2):
                await page.page.click("#zoom-out")
            await page.page.click("#kinds button:has-text('bus')")
            await page.page.click("#kinds button:has-text('tram')")
            await page.wait("before => JSON.stringify(window.realtimeConsole.client.view.filter) === before", _json(buses["view"]["filter"]))
            assert (await page.agrees("after all that"))["entities"].keys() >= buses["entities"].keys()

            for text, mark, error in (
                ('["==", ["kind"] "bus"]', '"', 'Not JSON: "," or "]" is missing'),
                ('["==", ["kind"], bus]', "b", "Not JSON: a value is missing"),
                ('["==", ["kind"], "bus"', '"', "Not JSON: it ends too early"),
                ('["==", ["kind"], "bus"]]', "]", "Not JSON: it ends before this"),
                ('{"a" 1}', "1", 'Not JSON: ":" is missing'),
                ("[01]", "1", 'Not JSON: "," or "]" is missing'),
            ):
                await type_filter(text)
                await is_marked(mark, error)
            assert (await page.mirror())["view"]["filter"] == buses["view"]["filter"]
            await page.page.click("#clear")
            assert await page.text("#filter-error") == ""
            await page.wait("!window.realtimeConsole.client.view.filter")
            await page.agrees("after clearing")


async def test_a_restarted_server_is_another_world(browser: Browser) -> None:
    world = World(5)
    refused = "ERR_CONNECTION_REFUSED"  # what Chromium itself logs while nobody listens
    async with Server(configured()) as server:
        port = int(server.page_url.rpartition(":")[2])
        server.publish(world.everything())
        async with console(browser, server, AUSTIN, but_for=refused) as page:
            before = await page.agrees("after load")
            name = await page.ask("window.realtimeConsole.client.welcome.world")
            await server.drain()
            await server.stop()
            await page.wait("window.realtimeConsole.client.status.state === 'closed'")
            await page.page.get_by_text("what you see is from before").wait_for()
            assert await page.ask("document.getElementById('map').classList.contains('stale')")
            assert (await page.mirror())["entities"] == before["entities"]
            async with Server(configured(port)) as other:
                other.publish(world.updates(700))
                page.server = other
                # It may be back before one has found the button.
                await page.ask("document.getElementById('notice').hidden || document.getElementById('notice-act').click()")
                await page.wait("name => window.realtimeConsole.client.welcome.world !== name", name)
                after = await page.agrees("after a restart")
                assert after["entities"] != before["entities"]
                await page.wait("document.getElementById('notice').hidden && document.getElementById('state').textContent === 'live'")
                other.publish(world.updates(100))
                await page.agrees("after changes of the new world")


async def test_a_server_that_is_not_there_is_told_and_found_again_by_a_button(browser: Browser) -> None:
    async with Server(configured()) as server:
        server.publish(World(6).everything())
        async with console(browser, server, but_for="ERR_CONNECTION_REFUSED") as page:
            await page.agrees("after load")
            port = int(server.page_url.rpartition(":")[2])
            await server.stop()
            # Let it have failed so often that it stays away for longer than a test does.
            await page.ask("window.realtimeConsole.client.close()")
            await page.page.get_by_role("button", name="Try now").wait_for()
            assert await page.text("#state") == "closed"
            async with Server(configured(port)) as other:
                other.publish(World(7).everything())
                page.server = other
                await page.page.get_by_role("button", name="Try now").click()
                await page.wait("document.getElementById('state').textContent === 'live'")
                await page.agrees("after the button")


async def test_a_page_that_was_hidden_for_a_minute(browser: Browser) -> None:
    world = World(8)

    async def before(page: Page) -> None:
        await page.clock.install()

    async def turn(page: Console, state: str) -> None:
        await page.ask(
            """state => {
              Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
              document.dispatchEvent(new Event("visibilitychange"));
            }""",
            state,
        )

    async with Server(configured()) as server:
        server.publish(world.everything())
        async with console(browser, server, AUSTIN, before=before) as page:
            await page.agrees("after load")
            await turn(page, "hidden")
            await page.wait("window.realtimeConsole.client.entities.size === 0")
            bytes_before = await page.ask("window.realtimeConsole.client.stats.bytes")
            for _ in range(6):
                server.publish(world.updates(50))
                await page.page.clock.fast_forward(10_000)
            assert await page.ask("window.realtimeConsole.client.stats.bytes") < bytes_before + 5000, "nothing but checks"
            await turn(page, "visible")
            assert len((await page.agrees("when it is shown again"))["entities"]) > 100
            server.publish(world.updates(50))
            await page.agrees("after more changes")


async def test_a_click_inspects_and_following_keeps_in_the_middle(browser: Browser) -> None:
    async with Server(configured()) as server:
        bus = {"type": "Feature", "id": "bus-7", "kind": "bus", "geometry": {"type": "Point", "coordinates": [-97.7, 30.3]}}
        bus |= {"properties": {"route": "801 Tech Ridge", "stops": [1, 2], "text": "long " * 40}}
        zone = {"type": "Polygon", "coordinates": [[[-97.9, 30.1], [-97.8, 30.1], [-97.8, 30.2], [-97.9, 30.1]]]}
        server.publish([bus, {"type": "Feature", "id": "zone", "geometry": zone, "properties": {"name": "Zone <b>5</b>"}}])
        async with console(browser, server, AUSTIN) as page:
            await page.agrees("after load")
            inspector = page.page.locator("#inspector")
            await page.page.mouse.click(*await page.spot("bus-7"))
            await inspector.wait_for()
            text = await inspector.inner_text()
            for part in ("bus-7", "801 Tech Ridge", "[1,2]", "-97.7, 30.3", "long long"):
                assert part in text
            server.publish([{"op": "patch", "id": "bus-7", "properties": {"route": "803"}}])
            await page.page.get_by_text("803").wait_for()
            await page.page.keyboard.press("Escape")
            await inspector.wait_for(state="hidden")

            await page.page.mouse.click(*await page.spot("bus-7"))
            await page.page.click("#entity-follow")
            server.publish([{"op": "move", "id": "bus-7", "lon": -90.0, "lat": 35.0}])  # far out of the view
            await page.wait("Math.abs(window.realtimeConsole.client.view.bbox[0] + 90) < 1 && window.realtimeConsole.client.view.ids[0] === 'bus-7'")
            x, y = await page.spot("bus-7")
            assert (x, y) == (pytest.approx(DESKTOP[0] / 2, abs=1), pytest.approx(DESKTOP[1] / 2, abs=1))
            await page.agrees("while following")
            await page.page.focus("#map")
            await page.page.keyboard.press("ArrowLeft")  # whoever pans looks elsewhere
            assert await page.page.get_attribute("#entity-follow", "aria-pressed") == "false"
            await page.wait("!window.realtimeConsole.client.view.ids")
            server.publish([{"op": "delete", "id": "bus-7"}])
            await page.page.get_by_text("deleted").wait_for()
            await page.page.click("#entity-close")
            await inspector.wait_for(state="hidden")

            await page.ask("hash => { location.hash = hash; }", "#10/30.15/-97.85")
            await page.wait("window.realtimeConsole.client.entities.has('zone')")
            await page.page.mouse.click(*await edge(page, -97.85, 30.1))
            await page.page.get_by_text("Zone <b>5</b>").wait_for()


async def edge(page: Console, lon: float, lat: float) -> tuple[float, float]:
    """Return where a position is on the screen."""
    camera = await page.ask("({ x, y, worldPx, width, height } = window.realtimeConsole.camera, { x, y, worldPx, width, height })".replace("({", "(({", 1).replace("camera, {", "camera), {", 1)) if False else await page.ask(
        "(() => { const { x, y, worldPx, width, height } = window.realtimeConsole.camera; return { x, y, worldPx, width, height }; })()"
    )
    x = lon / 360 + 0.5
    y = 0.5 - math.asinh(math.tan(math.radians(lat))) / (2 * math.pi)
    return (x - camera["x"]) * camera["worldPx"] + camera["width"] / 2, (y - camera["y"]) * camera["worldPx"] + camera["height"] / 2


async def test_an_empty_view_says_so(browser: Browser) -> None:
    async with Server(configured()) as server:
        server.publish(World(9).everything())
        async with console(browser, server, "#9/-50/-20") as page:
            await page.page.get_by_text("Nothing here yet").wait_for()
            await page.page.click("#notice-act")
            assert len((await page.agrees("after the button"))["entities"]) > 300
            await page.page.locator("#notice").wait_for(state="hidden")
            await page.page.fill("#filter", '["==", ["kind"], "zeppelin"]')
            await page.page.click("#apply")
            await page.page.get_by_text("Nothing here passes the filter").wait_for()


async def test_points_glide_and_end_where_they_were_reported(browser: Browser) -> None:
    record = """id => new Promise(resolve => {
      const { points, client } = window.realtimeConsole;
      const seen = [];
      const note = () => {
        const at = points.position(id, performance.now());
        if (at) seen.push(at[0]);
        if (client.entities.get(id)?.geometry.coordinates[0] === 30 && !points.isMoving(performance.now())) resolve(seen);
        else requestAnimationFrame(note);
      };
      note();
    })"""
    async with Server(configured()) as server:
        for motion in ("no-preference", "reduce"):
            server.publish([{"type": "Feature", "id": "one", "geometry": {"type": "Point", "coordinates": [27, 10]}, "properties": {}}])
            async with console(browser, server, "#5/10/30", motion=motion) as page:
                await page.agrees("after load")
                recording = asyncio.ensure_future(page.ask(record, "one"))
                for lon in (28, 29, 30):
                    done = await page.ask("window.realtimeConsole.client.stats.deltas")
                    await asyncio.sleep(0.15)  # reports that are apart; not waited for anything
                    server.publish([{"op": "move", "id": "one", "lon": lon, "lat": 10}])
                    await page.wait("done => window.realtimeConsole.client.stats.deltas > done", done)
                seen = [round((x - 0.5) * 360, 6) for x in await recording]
                assert seen == sorted(seen), "it never goes back"
                assert seen[-1] == 30
                between = {lon for lon in seen if lon != int(lon)}
                assert bool(between) == (motion == "no-preference")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_keeps_to_itself_and_to_the_screen(browser: Browser, scheme: str, size: tuple[int, int]) -> None:
    async with Server(configured()) as server:
        server.publish(World(10).everything())
        async with console(browser, server, AUSTIN, size=size, scheme=scheme) as page:
            await page.agrees("after load")
            assert await page.ask("document.documentElement.dataset.theme") == scheme
            if size == PHONE:
                assert not await page.page.is_visible("#panel"), "the map comes first"
                await page.page.tap("#fold")
            await page.page.locator("#kinds button").first.wait_for()
            await page.page.wait_for_function("document.getElementById('digest-text').textContent.startsWith('right')")
            assert await page.ask("document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight")
            assert await page.ask(CONTRASTS) == []
            if size == PHONE:
                assert await page.ask(SMALL_TARGETS) == []
            await page.page.click("#theme")
            assert await page.ask(CONTRASTS) == [], "in the other theme as well"
            id = next(iter((await page.mirror())["entities"]))
            await page.ask("id => { location.hash = id; }", AUSTIN)
            spot = await nearest(page)
            await (page.page.touchscreen.tap(*spot) if size == PHONE else page.page.mouse.click(*spot))
            await page.page.locator("#inspector").wait_for()
            assert id
            if size == PHONE:
                assert not await page.page.is_visible("#panel"), "there is room for one of them"
                assert await page.ask(SMALL_TARGETS) == []
            assert await page.ask(CONTRASTS) == []


async def nearest(page: Console) -> tuple[float, float]:
    """Return where the point is drawn that is nearest to a place that nothing covers."""
    x, y = await page.ask(
        """() => {
          const { points, camera } = window.realtimeConsole;
          const id = points.find([camera.width / 2, camera.height / 4], performance.now(), 1000);
          return (SPOT)(id);
        }""".replace("SPOT", __import__("tests.page.browsing", fromlist=["SPOT"]).SPOT)
    )
    return x, y


def _json(value: Any) -> str:
    """Return a value as JavaScript's JSON.stringify has it."""
    import json

    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
