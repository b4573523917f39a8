"""The page as a whole: header, the controls that all places share, and the order of the three
places.

    from core.workshop.workshop import get_workshop
    build_studio(get_workshop()).launch(**launch_options())

`Shared.plan` is the single truth: the JSON form of a `StagePlan`. Every chart, slider and box is a
view of it. A tab's own edits return the tab's views and the new plan; the other tabs follow through
`shared.plan.change`.
"""

from __future__ import annotations

import os

# read when gradio is imported, so before it
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from core.curves.plan import StagePlan
from core.curves.proposals import propose_plan
from core.curves.samplers import SCHEDULERS
from core.errors import StudioError

from . import answers, jobs, model_facts, tables
from .answers import plain_errors
from .compare import tab as compare
from .events import QUIET
from .explore import tab as explore
from .prune import tab as prune
from .schedules import choices
from .steps_box import steps_box, wire_steps
from .theme import CSS, make_theme

TITLE = "MosaicDiff Studio"
DEFAULT_TARGET = 0.33  # the paper's main setting


@dataclass
class Shared:
    """What the tabs share. Components are made here and rendered by the tab where a person looks
    for them.
    """

    workshop: Any  # core.workshop.Workshop
    page: gr.Blocks
    plan: gr.State  # dict: StagePlan.to_json(), the single truth
    scheduler: gr.Dropdown  # sampler's name, a key of core.noise.SCHEDULERS
    beta: gr.Dropdown  # noise schedule of the curves, a key of schedules.LABELS
    # int: sampling steps as they were last accepted, what every view and job goes by
    steps: gr.State
    steps_box: gr.Number  # where they are typed
    steps_said: gr.HTML  # why the box was refused
    target: gr.Number  # target mean sparsity of suggestions and presets
    status: gr.HTML  # the device and calibration line under the title
    measured: gr.State  # counts up when this device's speed has been measured


HEADER = f"""<header class="masthead"><h1>{TITLE}</h1>
<p>Makes a trained diffusion model sample faster without retraining: sampling is cut into three
stages, and each stage runs its own smaller, pruned copy of the network.
<span class="aside">MosaicDiff, ICCV 2025 (Guo, Tang, Zeng, Shen);
not the video tool of the same name.</span></p></header>"""


def _make_shared(workshop: Any, page: gr.Blocks, plan: StagePlan) -> Shared:
    own_beta, (sampler, steps) = workshop.beta_schedule, model_facts.default_sampler(workshop)
    return Shared(
        workshop=workshop,
        page=page,
        plan=gr.State(plan.to_json()),
        scheduler=gr.Dropdown(
            list(SCHEDULERS), value=sampler, label="Scheduler", render=False, filterable=False
        ),
        beta=gr.Dropdown(
            choices(own_beta),
            value=own_beta,
            label="Curves of noise schedule",
            render=False,
            filterable=False,
        ),
        steps=gr.State(steps),
        steps_box=steps_box(steps),
        steps_said=gr.HTML("", render=False),
        target=gr.Number(
            DEFAULT_TARGET, label="Suggest for mean sparsity", step=0.01, render=False
        ),
        status=gr.HTML(tables.status_line(workshop), render=False),
        measured=gr.State(0),
    )


@plain_errors
def _on_leave(request: gr.Request) -> None:
    jobs.forget(request.session_hash)


def build_studio(workshop: Any, plan: StagePlan | None = None) -> gr.Blocks:
    """The page for one workshop, opening on `plan` (default: the formula's proposal for the model's
    own schedule).
    """
    if plan is None:
        plan = propose_plan(
            workshop.schedule,
            DEFAULT_TARGET,
            answers.visited(workshop, *model_facts.default_sampler(workshop)),
        ).plan
    if not plan.plain and model_facts.unmeasured(workshop):
        raise StudioError(
            "This plan shares its cut over layers by their measured errors, and nothing is measured"
            " of this model yet: open the studio without --plan, press Calibrate, then upload the"
            " plan."
        )
    if not plan.plain:
        plan = replace(plan, stage_steps=None)  # the page has a sampler of its own
        steps = answers.visited(workshop, *model_facts.default_sampler(workshop))
        # refuses a plan that no network can be made of, before the page is full of it
        workshop.sharing(plan.counted(steps))

    @plain_errors
    def current_status() -> str:
        return tables.status_line(workshop)

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        shared = _make_shared(workshop, page, plan)
        gr.HTML(HEADER)
        shared.status.render()
        with gr.Tabs() as tabs:
            with gr.Tab("1 Explore", id="explore"):
                explore_tab = explore.build(shared)
            with gr.Tab("2 Prune", id="prune"):
                prune_tab = prune.build(shared)
            with gr.Tab("3 Compare", id="compare"):
                compare_tab = compare.build(shared)
        wire_steps(shared)
        explore.wire(shared, explore_tab)
        prune.wire(shared, prune_tab)
        compare.wire(shared, compare_tab)
        explore_tab.to_prune.click(
            lambda: gr.Tabs(selected="prune"), None, tabs, **QUIET, queue=False
        )
        # a calibration may have happened since the page was built
        page.load(current_status, None, shared.status, **QUIET)
        page.unload(_on_leave)
    page.queue(max_size=32)
    return page


def launch_options() -> dict[str, Any]:
    """Arguments for `launch` (Gradio 6 takes the look there, not in `Blocks`)."""
    return {
        "theme": make_theme(),
        "css": CSS,
        "footer_links": [],
        "run_history": False,  # the default keeps every run in the visitor's browser
        "max_file_size": "1mb",  # the one upload is a plan, a few hundred bytes
        "enable_monitoring": False,
        "ssr_mode": False,  # GRADIO_SSR_MODE would put a Node server in front
        # the one request is to this machine over http: certificates that are not found do no harm
        "ssl_verify": False,
    }
