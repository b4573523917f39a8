"""Time the first screen and the drop of a boundary: `python tests/bench_drag.py [drops]`.

On the bundled model in a real browser, with the server up. The first screen is there when the chart
has its handles; every load is a new visitor's, with an empty cache. A drop is timed inside the
page, from the pointer's release to the moment the table shows the new boundaries. Not a test: it
only prints.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from browser import chromium, drag, serve, settled  # noqa: E402
from playwright.sync_api import Browser  # noqa: E402

from core.workshop.workshop import get_workshop  # noqa: E402

LOADS = 7
HANDLES = """() => {
  const look = () => {
    const handle = document.querySelector('[aria-label="Stage boundary 1"]');
    if (handle?.getBoundingClientRect().height) window.firstScreen = performance.now();
    else requestAnimationFrame(look);
  };
  look();
}"""
CLOCK = """() => {
  window.dropped = null; window.waits = {follow: [], exact: []};
  window.addEventListener('pointerup', () => {
    window.dropped = performance.now();
    window.stage = 0;
  }, true);
  const look = () => {
    if (window.dropped === null) return;
    const table = document.querySelector('#stage-table table');
    const handle = i => document.querySelector(`[aria-label="Stage boundary ${i}"]`);
    const now = [1, 2].map(i => handle(i).getAttribute('aria-valuenow')).join(',');
    if (!table || table.dataset.boundaries !== now) return;
    const wait = performance.now() - window.dropped;
    if (window.stage === 0) { window.waits.follow.push(wait); window.stage = 1; }
    if (window.stage === 1 && table.dataset.exact === 'true') {
      window.waits.exact.push(wait);
      window.stage = 2;
    }
  };
  const tick = () => { look(); requestAnimationFrame(tick); };
  tick();
}"""


def first_screens(browser: Browser, url: str) -> list[float]:
    """Return the milliseconds from a load to the first screen, the first load left out."""
    times = []
    for _ in range(LOADS + 1):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(f"({HANDLES})()")
        page.goto(url)
        page.wait_for_function("window.firstScreen", timeout=60_000)
        times.append(page.evaluate("window.firstScreen"))
        page.context.close()
    return times[1:]


def main(drops: int) -> None:
    workshop = get_workshop()
    workshop.calibrate()
    workshop.measure_latency(16)
    with serve(workshop) as url, chromium() as browser:
        loads = first_screens(browser, url)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        page.get_by_role("slider", name="Stage boundary 2").wait_for()
        page.wait_for_timeout(4000)
        page.evaluate(CLOCK)
        for i in range(drops):
            drag(page, "Stage boundary 2", 40 if i % 2 == 0 else -40, steps=12)
            settled(page)
            page.wait_for_function("window.stage === 2", timeout=60_000)
            page.wait_for_timeout(300)
        waits = page.evaluate("window.waits")
    print(f"{workshop.device_text}, {drops} drops")
    for name, values in (
        (f"first screen, {LOADS} loads", loads),
        ("table follows", waits["follow"]),
        ("exact prediction", waits["exact"]),
    ):
        values = sorted(values)
        print(
            f"{name}: median {statistics.median(values):.0f} ms, 90 % within"
            f" {values[int(0.9 * (len(values) - 1))]:.0f} ms, at most {values[-1]:.0f} ms"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
