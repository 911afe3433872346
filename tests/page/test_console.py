"""The console in Chromium: whatever a person does, the page's mirror becomes what the API tells of its view.

Law: see browsing.py. The screens that one looks at with one's own eyes are in docs/pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from realtime.server import Server
from tests.page.browsing import AUSTIN, DESKTOP, PHONE, Console, World, anyio_backend, browser, configured, console

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, Route

__all__ = ["anyio_backend", "browser"]

# One red pixel, as a PNG.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
IS_RED = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  context.drawImage(document.getElementById("ground"), 700, 40, 1, 1, 0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data.join() === "255,0,0,255";
}"""
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
                await page.looks(lambda view, old=before["bbox"]: view["bbox"] != old, "elsewhere")  # type: ignore[misc]
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
            await page.looks(lambda view: view.get("filter", "?")[0] == "==", "through the filter")
            assert await kinds("with a filter") == {"bus"}
            await type_filter("")
            await page.looks(lambda view: "filter" not in view, "at everything")
            assert await kinds("without one") == set(World.KINDS)
            await chip("tram")
            await page.looks(lambda view: view.get("filter", "?")[0] == "!", "through the filter")
            assert await kinds("without trams") == {"bus", "quake"}
            await chip("quake")
            await type_filter('[">", ["get", "speed"], 9]')
            await page.looks(lambda view: view.get("filter", "?")[0] == "all", "through the filter")
            assert await kinds("with both") == {"bus"}
            assert await page.page.get_attribute("#kinds button:has-text('tram')", "aria-pressed") == "false"
            await page.page.click("#clear")
            await chip("tram")
            await chip("quake")
            await page.looks(lambda view: "filter" not in view, "at everything")
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
                assert error in await page.text("#filter-error")
                assert await page.page.get_attribute("#filter", "aria-invalid") == "true"

            await page.page.locator("#kinds button:has-text('tram')").wait_for()
            await type_filter(BUSES)
            await page.looks(lambda view: view.get("filter", "?")[0] == "==", "through the filter")
            buses = await page.agrees("with a filter")
            wrong = '["all", ["==", ["kind"], "bus"],\n  ["=>", ["get", "speed"], 10]]'
            await type_filter(wrong)
            await is_marked('"=>"', "unknown operator")
            await page.page.click("#kinds button:has-text('bus')")  # combined with the filter that holds, not the wrong one
            await page.looks(lambda view: view.get("filter", "?")[0] == "all", "through the filter")
            assert (await page.agrees("with a chip"))["entities"] == {}
            await page.page.click("#kinds button:has-text('tram')")
            await type_filter(wrong)  # now the server names a place in a filter around this one
            await is_marked('"=>"', "filter[2][0]")
            for _ in range(2):
                await page.page.click("#zoom-out")
            await page.page.click("#kinds button:has-text('bus')")
            await page.page.click("#kinds button:has-text('tram')")
            await page.looks(lambda view: view["filter"] == buses["view"]["filter"], "through the filter that held before")
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
            await page.looks(lambda view: "filter" not in view, "at everything")
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
            await page.page.mouse.click(*await page.spot(-97.7, 30.3))
            await inspector.wait_for()
            text = await inspector.inner_text()
            for part in ("bus-7", "801 Tech Ridge", "[1,2]", "-97.7, 30.3", "long long"):
                assert part in text
            server.publish([{"op": "patch", "id": "bus-7", "properties": {"route": "803"}}])
            await page.page.get_by_text("803").wait_for()
            await page.page.keyboard.press("Escape")
            await inspector.wait_for(state="hidden")

            await page.page.mouse.click(*await page.spot(-97.7, 30.3))
            await page.page.click("#entity-follow")
            server.publish([{"op": "move", "id": "bus-7", "lon": -90.0, "lat": 35.0}])  # far out of the view
            await page.looks(lambda view: view["bbox"][0] < -90 < view["bbox"][2] and view["ids"] == ["bus-7"], "where the bus is")
            x, y = await page.spot(-90.0, 35.0)
            assert (x, y) == (pytest.approx(DESKTOP[0] / 2, abs=1), pytest.approx(DESKTOP[1] / 2, abs=1))
            await page.wait("!window.realtimeConsole.points.isMoving(performance.now())")
            await page.page.focus("#map")
            await page.page.keyboard.press("ArrowLeft")  # whoever pans looks elsewhere
            assert await page.page.get_attribute("#entity-follow", "aria-pressed") == "false"
            await page.looks(lambda view: "ids" not in view, "at no entity by name")
            server.publish([{"op": "delete", "id": "bus-7"}])
            await page.page.get_by_text("deleted").wait_for()
            await page.page.click("#entity-close")
            await inspector.wait_for(state="hidden")

            await page.ask("hash => { location.hash = hash; }", "#10/30.15/-97.85")
            await page.wait("window.realtimeConsole.client.entities.has('zone')")
            await page.page.mouse.click(*await page.spot(-97.85, 30.1))  # on its southern edge
            await page.page.get_by_role("heading", name="Zone <b>5</b>").wait_for()


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


async def test_tiles_are_loaded_only_from_where_a_person_says(browser: Browser) -> None:
    asked: list[str] = []

    async def answer(route: Route) -> None:
        asked.append(route.request.url)
        await route.fulfill(status=200, content_type="image/png", body=PIXEL)

    async def before(page: Page) -> None:
        await page.route("**/tiles/**", answer)

    async with Server(configured()) as server, console(browser, server, "#1.5/20/0", before=before) as page:
        await page.page.click("summary")
        assert asked == []
        await page.page.fill("#tiles", f"{server.page_url}/tiles/{{z}}/{{x}}/{{y}}.png")
        await page.page.press("#tiles", "Enter")
        await page.wait(IS_RED)  # as the tile is
        places = [tuple(map(int, url.partition("/tiles/")[2].removesuffix(".png").split("/"))) for url in asked]
        assert all(z in (2, 3) and 0 <= x < 2**z and 0 <= y < 2**z for z, x, y in places), places
        assert len(places) == len(set(places)), "each is asked for once"
        await page.page.fill("#tiles", "")
        await page.page.press("#tiles", "Enter")
        await page.wait(f"!({IS_RED})()")
