"""Test every tab with axe-core, light and dark, and the theme switch that leads from one to the
other. axe-core comes with its package: no network is used.
"""

from __future__ import annotations

import pytest

pytest.importorskip("playwright")
pytest.importorskip("axe_playwright_python")
from axe_playwright_python.base import AXE_SCRIPT
from browser import SLOW, serve, visitor
from playwright.sync_api import Page, expect
from tune_cases import put

from core.curves.plan import StagePlan
from core.runs.store import RunStore
from core.sweep.axes import Axis
from core.sweep.cells import Base, grid_of
from core.sweep.engine import Sweep
from core.sweep.kept import SweepShelf
from core.sweep.record import question
from core.tuner.kept import TuneShelf
from core.workshop.compare import compare
from core.workshop.comparison import SampleSettings
from mosaic_ui.runs.record import store

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55), name="mine")
GRAVE = ("serious", "critical")
STILL = "*, *::before, *::after { transition: none !important; animation: none !important; }"
# every part that is folded up is opened
UNFOLD = """() => {
  document.querySelectorAll('details').forEach(part => { part.open = true; });
  document.querySelectorAll('button.label-wrap:not(.open)').forEach(head => {
    if (head.checkVisibility()) head.click();
  });
}"""
TABS = {  # what has to be there before a tab is looked at
    "1 Explore": "#stage-table table",
    "2 Prune": ".cm-line",
    "3 Compare": ".cmp-film img",
    "4 Runs": "#runs-table tbody tr",
    "5 Tune": "#tune-points tr",
    "6 Sweep": "#sweep-grid button.is-done img",
}
RUN_AXE = """async ([context, dark]) => {
  const panels = [...document.querySelectorAll('[role=tabpanel]')];
  context ??= panels.find(panel => panel.checkVisibility());  // of the tab that is open
  const only = dark ? { runOnly: ['color-contrast'] } : {};  // nothing else depends on the theme
  const found = await axe.run(context, { ...only, resultTypes: ['violations'] });
  return found.violations.flatMap(rule => rule.nodes.map(node => [rule.impact,
    `${rule.id}: ${node.target} ${node.html.slice(0, 120)} ${node.failureSummary}`]));
}"""


def put_sweep(workshop, runs) -> None:
    """Keep a sweep of one row, its runs in a store of their own."""
    settings = SampleSettings(labels=(0, 1), steps=4, repeats=0)
    grid = grid_of(workshop, Base(PLAN, settings), Axis("sparsity.early", (0.2, 0.4, 2)))
    shelf = SweepShelf()
    folder = shelf.folder_of(shelf.id_of(question(workshop, grid), workshop.device_text))
    list(Sweep(workshop, grid, folder, RunStore(runs)).run())


@pytest.fixture(scope="module")
def page(browser, workshop, tmp_path_factory):
    """A page of a tiny model: one comparison in Compare, two in Runs, a tune and a sweep."""
    *_, found = compare(workshop, None, PLAN, SampleSettings(labels=(0, 1), steps=4, repeats=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSAIC_DATA", str(tmp_path_factory.mktemp("axe")))
        patch.setattr(type(workshop), "example", lambda self: found)
        for name in ("one", "two"):
            store().add(found, workshop.model_key, name=name)
        put(TuneShelf(), workshop.model_key)
        put_sweep(workshop, tmp_path_factory.mktemp("runs"))
        with serve(workshop) as url:
            opened, watch = visitor(browser, url, color_scheme="dark")
            ready(opened)
            yield opened
            opened.context.close()
            assert watch.hosts <= {"127.0.0.1"} and not watch.complaints(), watch.errors


def ready(page: Page) -> None:
    expect(page.get_by_role("slider", name="Stage boundary 1")).to_be_visible(timeout=SLOW)
    page.add_style_tag(content=STILL)
    page.evaluate(f"{AXE_SCRIPT}; 0")


def faults(page: Page, where: str, dark: bool, part: str | None) -> list[str]:
    found = page.evaluate(RUN_AXE, [part, dark])
    return [f"{where}: {words}" for impact, words in found if impact in GRAVE]


def is_dark(page: Page) -> bool:
    return page.evaluate("document.body.classList.contains('dark')")


def test_no_tab_has_a_serious_fault_in_light_and_dark(page):
    found, last = [], [*TABS][-1]
    for theme in ("Light", "Dark"):
        dark = theme == "Dark"
        page.get_by_role("radio", name=theme).check()
        assert is_dark(page) == dark
        for tab, content in TABS.items():
            page.get_by_role("tab", name=tab).click()
            page.evaluate(UNFOLD)
            expect(page.locator(content).first).to_be_visible(timeout=SLOW)
            where = f"{theme}, {tab}"
            if tab == "2 Prune" and not page.locator("#inside-block svg").count():
                page.locator("#mosaic .block-rows button").first.press("Enter")
                expect(page.locator("#inside-block svg").first).to_be_visible(timeout=SLOW)
            if tab == "3 Compare":
                page.locator(".cmp-pane[data-side=a] li button").first.click()
                expect(page.locator(".cmp-strip-one img[src*=png]")).to_have_count(2)
                found += faults(page, f"{where}, enlarged", dark, ".cmp-large")
                page.keyboard.press("Escape")
                page.get_by_role("tab", name=f"{'All' if dark else 'Time'}").click()
            if tab == "4 Runs":
                for box in page.locator("#runs-table tbody input").all():
                    box.check()
                expect(page.locator(".runs-pictures img")).to_have_count(4, timeout=SLOW)
            # what stands above all tabs is looked at once
            found += faults(page, where, dark, "body" if tab == last else None)
    assert not found, "\n".join(found)


def test_the_theme_is_kept_and_stands_before_the_page_is_drawn(page):
    page.get_by_role("tab", name="1 Explore").click()
    page.get_by_role("radio", name="Dark").focus()
    page.keyboard.press("ArrowLeft")  # the system is dark
    expect(page.get_by_role("radio", name="Light")).to_be_checked()
    ink = "getComputedStyle(document.querySelector('.stage-chart text.xtitle')).fill"
    page.wait_for_function(f"{ink} === 'rgb(39, 39, 42)' && !document.body.matches('.dark')")
    page.add_init_script("""
        window.seen = []; window.ground = [];
        new MutationObserver(() => {
          if (document.querySelector('.masthead')) seen.push(document.body.matches('.dark'));
          if (document.body) ground.push(getComputedStyle(document.body).backgroundColor);
        }).observe(document, { subtree: true, childList: true, attributes: true });""")
    page.reload()
    ready(page)
    assert page.evaluate("seen.length > 0 && seen.every(dark => !dark)")
    # also before Gradio's script runs, in a system that is dark
    assert page.evaluate("ground.every(colour => colour === 'rgb(246, 246, 247)')")
    assert page.evaluate("ground.length > 0")
    expect(page.get_by_role("radio", name="Light")).to_be_checked()
    for scheme in ("light", "dark"):  # a choice goes before the system
        page.emulate_media(color_scheme=scheme)
    assert not is_dark(page)
    page.get_by_role("radio", name="As the system").check()
    assert is_dark(page) and page.evaluate("localStorage.getItem('mosaic-theme')") is None
    page.emulate_media(color_scheme="light")
    page.wait_for_function("!document.body.matches('.dark')")
