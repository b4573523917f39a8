"""Build the page: header, the controls that all places share, and the places in order.

    from core.workshop.workshop import get_workshop
    build_studio(get_workshop()).launch(**launch_options())

Every chart, slider and box is a view of `Shared.plan`. A tab's own edits answer with the tab's
views and the new plan; the other tabs follow (plan_updates.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

# read when gradio is imported, so before it
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from dataclasses import replace
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from core.curves.plan import StagePlan
from core.curves.proposals import propose_plan
from core.curves.samplers import SCHEDULERS
from core.errors import StudioError
from core.workshop.workshop import Workshop

from . import background, jobs, model_facts, tables, visitors
from .api import Api
from .compare.tab import CompareTab
from .events import QUIET, Views
from .explore.tab import ExploreTab
from .first_paint import FirstPaint
from .input_checks import plain_errors
from .memory import Memory
from .model_menu import Menu, ModelMenu, menu_of
from .page_state import Shared
from .plan_updates import Following
from .predictions import Predictions
from .prune.tab import PruneTab
from .runs.tab import RunsTab
from .runs.watch import RunsWatch
from .schedules import choices, own_beta
from .steps_box import StepsBox, steps_box
from .sweep.tab import SweepTab
from .theme import CSS, KEYS, make_theme
from .theme_switch import HEAD, theme_switch
from .tour.buttons import tour_buttons
from .tune.tab import TuneTab

TITLE = "MosaicDiff Studio"
DEFAULT_TARGET = 0.33  # the paper's main setting


HEADER = f"""<header class="masthead"><div class="name"><h1>{TITLE}</h1>
<span class="aside">MosaicDiff, ICCV 2025 (Guo, Tang, Zeng, Shen);
not the video tool of the same name</span></div>
<p>Makes a trained diffusion model sample faster without retraining: three stages, each with its own
pruned network.</p></header>"""


class Studio:
    """The page for one workshop: its parts, whose handlers can be called, and `page` to launch.

    `page`: the Blocks of the first model of the `menu`, where this model has a page beside it.
    """

    def __init__(
        self,
        workshop: Workshop,
        plan: StagePlan | None = None,
        menu: Menu | None = None,
        page: gr.Blocks | None = None,
    ):
        self.workshop = workshop
        predictions = Predictions(workshop)
        opening = _opening_plan(predictions, plan)
        menu = menu or menu_of([workshop])
        self.page = page or gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True)
        if page is not None:
            page.route(menu.own.title, menu.own.path, show_in_navbar=False)
        with self.page:
            self.shared = _make_shared(predictions, self.page, opening)
            if menu.several:
                gr.Navbar(visible=False)
            with gr.Row(elem_classes="masthead-row"):
                gr.HTML(HEADER)
                self.models = ModelMenu(menu)
                tour_buttons(self.shared)
                theme_switch()
            self.shared.status.render()
            self.models.said.render()
            self.models.address.render()
            self.models.draft.render()
            self.watch = RunsWatch(self.shared)
            self.memory = Memory(self.shared)
            with gr.Tabs(elem_id="studio-tabs") as self.tabs:
                with gr.Tab("1 Explore", id="explore") as explore:
                    self.explore = ExploreTab(self.shared)
                with gr.Tab("2 Prune", id="prune") as prune:
                    self.prune = PruneTab(self.shared)
                with gr.Tab("3 Compare", id="compare") as compare:
                    self.compare = CompareTab(self.shared)
                with gr.Tab("4 Runs", id="runs") as runs:
                    self.runs = RunsTab(self.shared, self.compare)
                with gr.Tab("5 Tune", id="tune") as tune:
                    self.tune = TuneTab(self.shared, self.compare)
                with gr.Tab("6 Sweep", id="sweep") as sweep:
                    self.sweep = SweepTab(self.shared, self.compare, self.runs)
            self.places = (explore, prune, compare, runs, tune, sweep)
            self.steps = StepsBox(self.shared)
            self.following = Following(self.shared, self.explore, self.prune)
            self._wire()

    def _wire(self) -> None:
        for part in (self.steps, self.explore, self.prune, self.compare, self.following):
            part.wire()
        changed = self.runs.wire(self.places[3], self.tabs)
        self.tune.wire(self.places[4], self.tabs)
        self.sweep.wire(self.places[5], self.tabs)
        starts = [self.compare.start, self.tune.start, self.sweep.start, self.sweep.more]
        self.watch.wire(starts, self.runs)
        looks = [self.places[2].select, self.watch.going.change]
        self.compare.pair.offer_on(looks, [*changed, self.prune.kept, *self.compare.ended])
        self.memory.wire()
        for place in self.places:  # the address follows, and Back goes to the place before
            place.select(None, None, None, js=_opened(str(place.id)), **QUIET)
        self.explore.to_prune.click(self.on_to_prune, None, self.tabs, **QUIET, queue=False)
        self.models.wire(self.shared, self.tabs)
        # a calibration may have happened since the page was built
        self.page.load(self.on_load, None, self.shared.status, **QUIET)
        self.page.unload(_on_leave)

    def on_to_prune(self) -> Views:
        """Open the tab where Calibrate is."""
        return {self.tabs: gr.Tabs(selected="prune")}

    @plain_errors
    def on_load(self) -> Views:
        """Write the status line as it is now."""
        return {self.shared.status: tables.status_line(self.workshop)}


def _opened(place: str) -> str:
    return f"() => {{ window.mosaic?.tab({json.dumps(place)}); }}"


@plain_errors
def _on_leave(request: gr.Request) -> None:
    jobs.forget(request.session_hash)
    if visitors.leave():  # nobody can come back to it
        for one in background.ongoing():
            one.stop.set()


def _opening_plan(predictions: Predictions, plan: StagePlan | None) -> StagePlan:
    """Return the plan to open with: the given one, or the formula's for the model's own schedule.

    Raises StudioError for a plan that no networks can be made of.
    """
    workshop = predictions.workshop
    timesteps = predictions.visited(*model_facts.default_sampler(workshop))
    if plan is None:
        return propose_plan(workshop.schedule, DEFAULT_TARGET, timesteps).plan
    if plan.plain:
        return plan
    if model_facts.unmeasured(workshop):
        raise StudioError(
            "This plan shares its cut over layers by their measured errors, and nothing is measured"
            " of this model yet: open the studio without --plan, press Calibrate, then upload the"
            " plan."
        )
    plan = replace(plan, stage_steps=None)  # the page has a sampler of its own
    workshop.sharing(plan.counted(timesteps))  # refused before the page is full of it
    return plan


def _make_shared(predictions: Predictions, page: gr.Blocks, plan: StagePlan) -> Shared:
    """Make what the tabs share, for the opening plan; the tabs render it."""
    workshop = predictions.workshop
    own, (sampler, steps) = own_beta(workshop), model_facts.default_sampler(workshop)
    return Shared(
        workshop=workshop,
        predictions=predictions,
        opening=plan,
        page=page,
        plan=gr.State(plan.to_json()),
        edited=gr.State(0),
        scheduler=gr.Dropdown(
            list(SCHEDULERS), value=sampler, label="Scheduler", render=False, filterable=False
        ),
        beta=gr.Dropdown(
            choices(own),
            value=own,
            label="Curves of noise schedule",
            render=False,
            filterable=False,
        ),
        steps=gr.State(steps),
        steps_box=steps_box(steps),
        steps_said=gr.HTML("", render=False),
        seed=gr.Number(0, label="Seed", step=1, min_width=70, render=False),
        target=gr.Number(
            DEFAULT_TARGET, label="Suggest for mean sparsity", step=0.01, render=False
        ),
        status=gr.HTML(tables.status_line(workshop), render=False),
        measured=gr.State(0),
    )


def build_studio(
    workshop: Workshop,
    plan: StagePlan | None = None,
    others: Sequence[Workshop] = (),
    unavailable: Sequence[str] = (),
) -> gr.Blocks:
    """Build the page for one workshop, opening on `plan` or on the formula's proposal.

    Each of `others` gets a page of its own, which the menu leads to. `unavailable`: one sentence
    for each bundled model that could not be opened.
    """
    menu = menu_of([workshop, *others], unavailable)
    page = Studio(workshop, plan, menu).page
    Api([workshop, *others]).wire(page)
    for place, other in enumerate(others, start=1):
        Studio(other, None, replace(menu, place=place), page)
    # no call goes past the queue, as two jobs at once would share one model
    page.queue(max_size=32, api_open=False)
    return page


def launch_options(root: str = "") -> dict[str, Any]:
    """Return arguments for `launch` (Gradio 6 takes the look there, not in `Blocks`).

    root: the path or the address at which a reverse proxy shows the page, "" without one.
    """
    return {
        "theme": make_theme(),
        "css": CSS,
        "js": KEYS,
        "head": HEAD,  # where the page is mounted in another app, which has no such middleware
        "app_kwargs": {
            "middleware": [
                Middleware(FirstPaint, script=HEAD, root=root),
                Middleware(visitors.VisitorCookie),
            ]
        },
        "footer_links": [],
        "run_history": False,  # the default keeps every run in the visitor's browser
        "max_file_size": "1mb",  # the one upload is a plan, a few hundred bytes
        "enable_monitoring": False,
        "ssr_mode": False,  # GRADIO_SSR_MODE would put a Node server in front
        # the one request is to this machine over http: certificates that are not found do no harm
        "ssl_verify": False,
        # Gradio would give up, and blame a proxy, where the first answer takes more than 3 seconds
        "_frontend": False,
    }
