"""Pictures of the studio on the bundled model: `python tests/screenshots.py FOLDER` (all sizes) or
`... FOLDER readme` (the README's four).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from browser import chromium, serve  # noqa: E402
from playwright.sync_api import Page  # noqa: E402

from core.workshop.workshop import get_workshop  # noqa: E402
from mosaic_ui.front_view import TITLE  # noqa: E402

TABS = {"explore": "1 Explore", "prune": "2 Prune", "compare": "3 Compare"}
MORE = {"tune": "5 Tune", "sweep": "6 Sweep"}  # show the last of the data folder


def main(folder: Path, readme: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    workshop = get_workshop()
    workshop.measure_latency(16)
    workshop.measure_layers()
    with serve(workshop) as url, chromium() as browser:
        for width in (1280,) if readme else (1280, 390):
            for theme in ("light",) if readme else ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": 900})
                page.goto(f"{url}?__theme={theme}")
                page.get_by_role("slider", name="Stage boundary 2").wait_for()
                for name, tab in (TABS if readme else TABS | MORE).items():
                    page.get_by_role("tab", name=tab).click()
                    page.wait_for_timeout(4000)
                    path = folder / (f"{name}.png" if readme else f"{name}-{width}-{theme}.png")
                    page.screenshot(path=path, full_page=not readme)
                if readme:
                    front(page, folder / "front.png")
                else:
                    opener = page.get_by_text("Is pruning better", exact=False)
                    if opener.count():
                        opener.click()
                        page.wait_for_timeout(2000)
                        page.screenshot(path=folder / f"study-{width}-{theme}.png", full_page=True)
                page.close()


def front(page: Page, path: Path) -> None:
    """Photograph the card with the model's front, opened."""
    page.get_by_role("tab", name="4 Runs").click()
    page.get_by_role("button", name=TITLE).locator("visible=true").click()
    chart = page.locator("#runs-model-front")
    chart.locator(".scatterlayer .point").first.wait_for()
    page.wait_for_timeout(1000)
    chart.locator("xpath=ancestor::*[contains(@class, 'block')][last()]").screenshot(path=path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "readme" in sys.argv[2:])
