"""Print how long a browser takes to draw, sort and filter a table of 2,000 kept runs.

python tests/bench_runs.py [RUNS]
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
# a click, or a text in the filter, and the next frame that shows what came of it
ACT = """([kind, what]) => new Promise(done => {
  const element = document.querySelector('#runs-table'), began = performance.now();
  if (kind === 'sort') element.querySelectorAll('th button')[what].click();
  else {
    const box = element.querySelector('.runs-filter');
    box.value = what;
    box.dispatchEvent(new Event('input'));
  }
  element.querySelector('.runs-frame').getBoundingClientRect();
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
})"""
COLUMNS = {"name": 0, "time B": 9, "speed-up": 10, "when": 14}


def fill(count: int) -> None:
    """Keep many runs, all rows and no pictures."""
    from run_cases import tiny

    from core.runs.database import insert
    from mosaic_ui.runs.record import store

    one = store().add(tiny(), "key")
    (row,) = store().database.rows("SELECT * FROM runs")
    with store().database.writing() as connection:
        names = [d[1] for d in connection.execute("PRAGMA table_info(runs)")]
        first = dict(zip(names, row, strict=True))
        for i in range(1, count):
            more = {
                "row": None,
                "id": f"20260101-000000-{i:08x}",
                "name": f"run {i * 7919 % count}",
            }
            more |= {"created": first["created"] - i, "speedup": 1 + (i * 31 % 97) / 97}
            more |= {"b_seconds": (i * 17 % 89) / 89}
            connection.execute(insert("runs", first), first | more)
    assert len(store().runs()) == count, one


def main(count: int) -> None:
    from browser import chromium, serve, visitor
    from conftest import make_pipeline

    from core.calibration.settings import CalibrationSettings
    from core.models.checkpoints import load_checkpoint
    from core.workshop.workshop import Workshop

    with tempfile.TemporaryDirectory() as place:
        os.environ["MOSAIC_DATA"] = str(Path(place) / "data")
        fill(count)
        folder = make_pipeline(Path(place) / "tiny-dit")
        settings = replace(CalibrationSettings(), images=32, held_out=16)
        workshop = Workshop(load_checkpoint(folder), settings, Path(place) / "cache")
        with serve(workshop) as url, chromium() as browser:
            page, _ = visitor(browser, url)
            page.get_by_role("tab", name="4 Runs").click()
            page.wait_for_function(f"document.querySelectorAll('#runs-table tr').length > {count}")
            page.wait_for_timeout(1000)
            print(f"{count} runs in a table of the browser, median of 6 (largest), in ms")
            for name, column in COLUMNS.items():
                told(f"sorted by {name}", [page.evaluate(ACT, ["sort", column]) for _ in range(6)])
            words = ["run 19", "", "run 1 ddim", "", "nothing like it", ""]
            told("filtered", [page.evaluate(ACT, ["filter", text]) for text in words])


def told(what: str, times: list[float]) -> None:
    print(f"{what:24} {statistics.median(times):6.0f} ({max(times):.0f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
