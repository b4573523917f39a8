"""Record a stage boundary being dragged: `python tests/make_gif.py` writes the README's picture.

The real page of the bundled model runs in headless Chromium; every frame is a screenshot taken
after a mouse move, once the table answers for the new place. Times are not measured first, so the
picture promises no speed: the page shows the work that a plan saves.
"""

from __future__ import annotations

import io
import math
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from browser import chromium, serve, settled  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import Page  # noqa: E402

from core.workshop.workshop import get_workshop  # noqa: E402

OUT = ROOT / "assets" / "screenshots" / "drag.gif"
PAGE = {"width": 1180, "height": 1500}
WIDTH = 800  # of the picture, in pixels
COLOURS = 64
FRAME = 90  # ms
REST = 900  # ms, where a drag begins and ends
LIMIT = 3_000_000  # bytes
DRAGS = (("Stage boundary 1", 70, 14), ("Stage boundary 2", -90, 16))  # handle, pixels, moves


def frames_of_drag(page: Page, name: str, pixels: int, moves: int) -> list[bytes]:
    """Drag a handle sideways with the mouse -> a screenshot per move, eased in and out."""
    box = page.get_by_role("slider", name=name).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    frames = []
    for move in range(1, moves + 1):
        eased = (1 - math.cos(math.pi * move / moves)) / 2
        page.mouse.move(x + pixels * eased, y)
        settled(page)
        frames.append(page.screenshot())
    page.mouse.up()
    settled(page)
    page.wait_for_timeout(1500)  # the exact prediction follows the table
    return [*frames, page.screenshot()]


def record(page: Page) -> list[tuple[bytes, int]]:
    """Drag both boundaries -> (screenshot, ms that it stays) per frame."""
    shots = [(page.screenshot(), REST)]
    for name, pixels, moves in DRAGS:
        *moving, last = frames_of_drag(page, name, pixels, moves)
        shots += [(shot, FRAME) for shot in moving] + [(last, REST)]
    return shots


def shown(page: Page) -> tuple[int, int]:
    """Return the first and the last pixel row of the page between its tabs and the table's end."""
    tab = page.get_by_role("tab", name="1 Explore").bounding_box()
    table = page.locator("#stage-table table").bounding_box()
    assert tab is not None and table is not None
    return round(tab["y"] + tab["height"]), round(table["y"] + table["height"] + 12)


def write_gif(shots: list[tuple[bytes, int]], rows: tuple[int, int], path: Path) -> None:
    """Write these rows of the screenshots as one GIF with one palette."""
    top, bottom = rows
    size = (WIDTH, round((bottom - top) * WIDTH / PAGE["width"]))
    pictures = []
    for shot, _ in shots:
        picture = Image.open(io.BytesIO(shot)).convert("RGB")
        picture = picture.crop((0, top, PAGE["width"], bottom))
        pictures.append(picture.resize(size, Image.Resampling.LANCZOS))
    palette = pictures[0].quantize(COLOURS, dither=Image.Dither.NONE)
    first, *others = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=[ms for _, ms in shots],
        loop=0,
        optimize=True,
    )
    if path.stat().st_size > LIMIT:
        raise SystemExit(f"{path} has {path.stat().st_size} bytes; at most {LIMIT} are wanted.")


def main(path: Path) -> None:
    """Serve the studio, drag, and write the picture to `path`."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["MOSAIC_CACHE"] = cache  # nothing that an earlier run measured
        with serve(get_workshop()) as url, chromium() as browser:
            page = browser.new_page(viewport=PAGE)
            page.goto(f"{url}?__theme=light")
            page.get_by_role("slider", name="Stage boundary 2").wait_for()
            settled(page)
            page.wait_for_timeout(2000)
            write_gif(record(page), shown(page), path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
