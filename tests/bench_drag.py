"""Time from dropping a boundary to the table that follows: `python tests/bench_drag.py [drops]`.

On the bundled model in a real browser.

Time runs inside the page, from the pointer's release to the moment the table shows the new
boundaries. Not a test: it only prints.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from browser import chromium, drag, serve, settled  # noqa: E402

from core.workshop.workshop import get_workshop  # noqa: E402

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


def main(drops: int) -> None:
    workshop = get_workshop()
    workshop.calibrate()
    workshop.measure_latency(16)
    with serve(workshop) as url, chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        page.get_by_role("slider", name="Stage boundary 2").wait_for()
        page.wait_for_timeout(4000)
        page.evaluate(CLOCK)
        for i in range(drops):
            drag(page, "Stage boundary 2", 40 if i % 2 == 0 else -40)
            settled(page)
            page.wait_for_function("window.stage === 2", timeout=60_000)
            page.wait_for_timeout(300)
        waits = page.evaluate("window.waits")
    print(f"{workshop.device_text}, {drops} drops")
    for name, values in (("table follows", waits["follow"]), ("exact prediction", waits["exact"])):
        values = sorted(values)
        print(
            f"{name}: median {statistics.median(values):.0f} ms, 90 % within"
            f" {values[int(0.9 * (len(values) - 1))]:.0f} ms, at most {values[-1]:.0f} ms"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
