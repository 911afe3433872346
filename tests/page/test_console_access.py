"""The console is for everybody: names, the keyboard, contrast, fingers; and it keeps to itself and to its screen.

Limits are those of WCAG 2.2 AA (https://www.w3.org/TR/WCAG22/), but for targets, which are larger here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from realtime.server import Server
from tests.page.browsing import AUSTIN, DESKTOP, PHONE, World, anyio_backend, browser, configured, console

if TYPE_CHECKING:
    from playwright.async_api import Browser

__all__ = ["anyio_backend", "browser"]

# Visible texts whose contrast with what is behind them is below 4.5.
FAINT = """() => {
  const parse = color => (color.match(/[\\d.]+/g) ?? []).map(Number);
  const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length === 3) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll(".card *")) {
    if (!element.checkVisibility() || element.closest("#marks")) continue;
    const hasText = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()) || element.value;
    if (!hasText) continue;
    const [a, b] = [parse(getComputedStyle(element).color), behind(element)].map(luminance).sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${element.id || element.tagName} ${ratio.toFixed(2)}: ${element.textContent.slice(0, 30)}`);
  }
  return found;
}"""
# Buttons and the like that a finger would miss.
SMALL = """() => Array.from(document.querySelectorAll("button, summary, input, textarea"))
  .filter(element => element.checkVisibility())
  .map(element => [element.id || element.textContent, element.getBoundingClientRect()])
  .filter(([, box]) => box.width < 40 || box.height < 40)
  .map(([name, box]) => `${name}: ${box.width} x ${box.height}`)"""
# Whether one sees where the focus is: by an outline or a ring.
FOCUS = """() => {
  const element = document.activeElement;
  const [own, after] = [getComputedStyle(element), getComputedStyle(element, "::after")];
  const isShown = (own.outlineStyle !== "none" && parseFloat(own.outlineWidth) > 0) || after.boxShadow !== "none";
  return [element === document.body ? "" : element.id || element.textContent, isShown];
}"""
FITS = "document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_screen_can_be_read_and_touched(browser: Browser, scheme: str, size: tuple[int, int]) -> None:
    is_phone = size == PHONE
    async with Server(configured()) as server:
        server.publish(World(10).everything())
        bus = {"type": "Feature", "id": "x" * 120, "kind": "k" * 60, "geometry": {"type": "Point", "coordinates": [-97.74, 30.35]}}
        server.publish([bus | {"properties": {"p" * 100: "v" * 2000, "speed": 3, "list": [{"a": None}] * 50}}])
        async with console(browser, server, AUSTIN, size=size, scheme=scheme) as page:
            await page.agrees("after load")
            assert await page.ask("document.documentElement.dataset.theme") == scheme
            click = page.page.touchscreen.tap if is_phone else page.page.mouse.click
            assert await page.page.is_visible("#panel") != is_phone, "on a phone the map comes first"
            if is_phone:
                await page.page.tap("#fold")
            await page.page.locator("#kinds button").first.wait_for()
            await page.wait("document.getElementById('digest-text').textContent.startsWith('right')")
            await page.page.fill("#filter", '["=="]')
            await page.page.click("#apply")
            await page.wait("document.getElementById('filter-error').textContent !== ''")

            async def is_well(when: str) -> None:
                await page.wait("document.getAnimations().length === 0")
                assert await page.ask(FITS), when
                assert await page.ask(FAINT) == [], when
                assert not is_phone or await page.ask(SMALL) == [], when

            await is_well("with the panel")
            await page.page.click("#theme")
            await is_well("in the other theme")
            if is_phone:
                await page.page.tap("#fold")
            await click(*await page.spot(-97.74, 30.35))
            await page.page.locator("#inspector").wait_for()
            assert await page.page.is_visible("#panel") != is_phone
            await is_well("with the inspector")
            box = await page.page.locator("#inspector").bounding_box()
            assert box is not None
            assert box["x"] >= 0 and box["x"] + box["width"] <= size[0] and box["y"] + box["height"] <= size[1]
            if is_phone:
                await page.page.tap("#fold")
                assert not await page.page.is_visible("#inspector"), "there is room for one of them"


async def test_everything_has_a_name_and_is_reached_by_keys(browser: Browser) -> None:
    async with Server(configured()) as server:
        server.publish(World(11).everything())
        async with console(browser, server, AUSTIN) as page:
            await page.agrees("after load")
            await page.page.locator("#kinds button").first.wait_for()
            reached: dict[str, bool] = {}
            for _ in range(40):
                await page.page.keyboard.press("Tab")
                name, is_shown = await page.ask(FOCUS)
                if name in reached or name == "":  # past the end
                    break
                reached[name] = is_shown
            expected = {"map", "zoom-in", "zoom-out", "world", "theme", "fold", "filter", "apply", "clear", "Background tiles"}
            assert reached.keys() >= expected
            assert all(reached.values()), reached

            await page.page.focus("#map")
            zoom = (await page.mirror())["view"]["zoom"]
            await page.page.keyboard.press("+")
            await page.looks(lambda view: view["zoom"] == pytest.approx(zoom + 0.5, abs=0.01), "closer")
            await page.page.keyboard.press("Enter")
            await page.page.locator("#inspector").wait_for()
            assert await page.ask("document.activeElement.id") == "entity-close"

            devtools = await page.page.context.new_cdp_session(page.page)
            tree = (await devtools.send("Accessibility.getFullAXTree"))["nodes"]
            roles = {"button", "textbox", "application", "status", "DisclosureTriangle"}
            operable = [node for node in tree if node.get("role", {}).get("value") in roles and not node.get("ignored")]
            assert sum(node["role"]["value"] == "button" for node in operable) > 10
            nameless = [node for node in operable if node["role"]["value"] != "status" and not node.get("name", {}).get("value")]
            assert nameless == []
            await page.page.keyboard.press("Escape")
            await page.page.locator("#inspector").wait_for(state="hidden")
            assert await page.ask("document.activeElement.id") == "map", "one goes on where one was"
            await page.page.keyboard.press("t")
            assert await page.ask("document.documentElement.dataset.theme") == "light"
            await page.page.keyboard.press("p")
            assert not await page.page.is_visible("#panel")
            await page.page.keyboard.press("0")
            await page.looks(lambda view: view["bbox"][2] - view["bbox"][0] > 300, "at the world")
