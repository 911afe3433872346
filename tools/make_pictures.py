"""Takes the pictures of docs/pictures: the console over the demo's world, at a desk and on a phone, light and dark.

    apt-get install chromium; pip install '.[test]' pillow
    python tools/make_pictures.py docs/pictures

It starts `realtime demo` and ends it; it takes three minutes, in which the buses of Austin get trails. Look at what comes out.
"""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}
PLACES = {"austin-": "#10.9/30.29/-97.735", "": ""}
SETTLE_S = {"austin-": 50, "": 25}
FILE_BYTES_MAX = 400_000
# A bus that is on its way, near a place of the screen that no card covers.
BUS = """([x, y]) => {
  const { client, camera, points } = window.realtimeConsole;
  const now = performance.now();
  const spot = ([px, py]) => [(px - camera.x) * camera.worldPx + camera.width / 2, (py - camera.y) * camera.worldPx + camera.height / 2];
  return [...client.entities.values()]
    .filter(({ kind, properties }) => kind === "bus" && properties.speed > 3)
    .map(({ id }) => spot(points.position(id, now)))
    .sort((a, b) => Math.hypot(a[0] - x, a[1] - y) - Math.hypot(b[0] - x, b[1] - y))[0];
}"""


def save(shot: bytes, path: Path) -> None:
    """Write a picture; one that would be too large with 256 colours of its own, none of them far from what it was."""
    picture = Image.open(BytesIO(shot)).convert("RGB")
    picture.save(path, optimize=True)
    if path.stat().st_size > FILE_BYTES_MAX:
        picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def open_page(browser: Browser, url: str, size: str) -> Page:
    """Open the console, and fail on whatever it complains of."""
    is_phone = size == "phone"
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, is_mobile=is_phone, has_touch=is_phone, color_scheme="dark")
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    page.get_by_text("live").wait_for()
    if complaints:
        raise SystemExit("\n".join(complaints))
    return page


def take(browser: Browser, url: str, size: str, place: str, folder: Path) -> None:
    """Take a place's two pictures."""
    page = open_page(browser, f"{url}{PLACES[place]}", size)
    page.wait_for_timeout(SETTLE_S[place] * 1000)
    if place:
        width, height = SIZES[size]
        spot = page.evaluate(BUS, [width * 0.6, height * 0.35])
        if spot is not None:
            (page.touchscreen.tap if size == "phone" else page.mouse.click)(*spot)
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.wait_for_timeout(2500)
        save(page.screenshot(), folder / f"{place}{size}-{scheme}.png")
    page.context.close()


def main() -> None:
    """Take them all."""
    folder = Path(sys.argv[1])
    command = [sys.executable, "-m", "realtime", "demo", "--port", "0", "--http-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stdout is not None
            url = demo.stdout.readline().strip()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
                for place in PLACES:
                    for size in SIZES:
                        take(browser, url, size, place, folder)
                browser.close()
        finally:
            demo.terminate()


if __name__ == "__main__":
    main()
