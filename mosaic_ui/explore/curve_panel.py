"""The chart of place 1 and what decides how it looks: quantity, axis, noise schedule, constants,
the model's own path.

Nothing here edits the plan; the two lines in the chart are wired by `explore`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.curves.dynamics import DEFAULT_THRESHOLD, SampledCurves, default_lambda
from core.curves.plan import StagePlan
from core.errors import StudioError
from core.workshop.compare import sample_path

from .. import answers, jobs, model_facts, tables
from ..answers import plain_errors
from ..events import LIVE, QUIET
from ..figures import ALWAYS_LINEAR, FALLBACK_SCORE, MEANING, VIEWS
from ..schedules import curve_schedule, own_beta, schedule_note, uses_fallback
from ..stage_chart import stage_chart

INTRO = (
    "A model learns slowly where pictures are almost clean or almost pure noise, and fast in"
    " between. The two lines cut its timesteps into **late**, **middle** and **early**. Drag them:"
    " every stage gets its own pruned network, and the table below follows."
)
CAPTION = (
    '<p class="fine">Line: theory (Theorem 1 of the paper, latents of mean square 1). POINTS'
    " Sampling runs from right to left. Keys: arrows move a line by 1 timestep, with Shift or Page"
    " keys by 10.</p>"
)

CROSSES = (
    '<p class="fine">Crosses: how far the latents on the model\'s own way from noise to picture'
    " are from the ones it ends with. The line takes clean latents of mean square 1 and noise drawn"
    " at random; a model's own samples have another mean square and follow its own guesses of the"
    " noise, so the crosses may lie well off the line. The axis follows the line: crosses far"
    " beyond it are left out.</p>"
)
UNSAMPLED = (
    "No measured points: this model ships no latents; its own sampling path, below, gives some."
)


@dataclass
class CurvePanel:
    """The components of the card."""

    view: gr.Radio
    meaning: gr.HTML
    scale: gr.Radio
    chart: gr.HTML
    wish: gr.State  # the axis asked for, which a curve that is always linear does not take
    path: gr.Checkbox
    path_job: gr.HTML
    note: gr.HTML  # says so when the schedule is not the model's


def meaning(view: str, fallback: bool = False) -> str:
    """The chosen quantity in plain words; `fallback`: the boundaries proposed for these curves are
    not the score's.
    """
    if view not in MEANING:
        return ""
    words = FALLBACK_SCORE if view == "Score" and fallback else MEANING[view]
    axis = " Its axis is always linear, as the curve crosses zero." if view in ALWAYS_LINEAR else ""
    return f'<p class="meaning"><b>{view}:</b> {words}{axis}</p>'


def build_curves(shared: Any, plan: StagePlan, lam: float) -> CurvePanel:
    """The card's components, drawn for the model's own schedule."""
    workshop = shared.workshop
    gr.Markdown(INTRO, elem_classes="intro")
    with gr.Row(elem_classes="chart-bar"):
        view = gr.Radio(
            list(VIEWS),
            value="MSE",
            label="Curve",
            scale=3,
            min_width=260,
            elem_classes="segmented",
        )
        scale = gr.Radio(
            ["linear", "log"],
            value="linear",
            label="Vertical axis",
            scale=1,
            min_width=140,
            elem_classes="segmented",
        )
    words = gr.HTML(meaning("MSE"))
    chart = stage_chart(
        list(plan.boundaries),
        answers.figure(workshop, "MSE", "linear", own_beta(workshop), DEFAULT_THRESHOLD, lam),
        label="Learning curves over timesteps with two stage boundaries",
        total=len(workshop.schedule),
        elem_id="stage-chart",
    )
    measured = (
        "Points: measured on the model's own latents, noised."
        if answers.sampled_curves(workshop, own_beta(workshop)) is not None
        else UNSAMPLED
    )
    gr.HTML(CAPTION.replace("POINTS", measured))
    with gr.Row(elem_classes="chart-bar"):
        with gr.Column(scale=3, min_width=260):
            path = gr.Checkbox(
                False,
                label="show the model's own sampling path",
                info=(
                    f"Samples {model_facts.path_images(workshop)} latents with the dense model"
                    " once, by the sampler and steps below."
                ),
            )
            path_job = gr.HTML("")
        with gr.Column(scale=2, min_width=200):
            shared.beta.render()
    return CurvePanel(view, words, scale, chart, gr.State("linear"), path, path_job, gr.HTML(""))


def walk_of(workshop: Any) -> tuple[int, int, float]:
    """Return images, seed and guidance of the walk along the model's own path."""
    return model_facts.path_images(workshop), 0, model_facts.default_guidance(workshop)


def wire_curves(
    shared: Any, panel: CurvePanel, threshold: gr.Number, lam_box: gr.Number, numbers: gr.HTML
) -> None:
    """Redraw on every choice; `numbers` are theory at the boundaries."""
    workshop, sampler = shared.workshop, [shared.scheduler, shared.steps]

    def whole(steps: Any) -> int:
        return answers.whole_steps(steps, len(workshop.schedule))

    def walked(path: bool, scheduler: str, steps: Any) -> Any:
        """The model's own path if it is asked for and was walked with this sampler."""
        key = (scheduler, whole(steps), *walk_of(workshop))
        return workshop.paths_walked.get(key) if path else None

    def walk(scheduler: str, steps: Any, report: Any, stop: Any) -> SampledCurves:
        n, seed, guidance = walk_of(workshop)
        return sample_path(workshop, scheduler, whole(steps), n, seed, guidance, report, stop)

    def draw(view: str, scale: str, beta: str, m: Any, lam: Any, *path: Any) -> dict:
        return gr.update(
            figure=answers.figure(
                workshop, view, scale, beta, *answers.constants(m, lam), walked(*path)
            )
        )

    def about_crosses(beta: str, *path: Any) -> str:
        """What the crosses are, where they are drawn: beside the model's own curves."""
        return CROSSES if beta == own_beta(workshop) and walked(*path) is not None else ""

    @plain_errors
    def on_curve(
        view: str, scale: str, beta: str, m: Any, lam: Any, path: bool, scheduler: str, steps: Any
    ) -> tuple:
        try:
            m, lam = answers.constants(m, lam)
            said = schedule_note(workshop, beta, m, lam)
        # half-typed, perhaps: said beside, and the curves are drawn with the usual constants
        except StudioError as error:
            m, lam, said = (
                DEFAULT_THRESHOLD,
                default_lambda(curve_schedule(workshop, beta)),
                tables.notes([f"{error} Drawn with the usual ones."]),
            )
        words = meaning(view, view == "Score" and uses_fallback(workshop, beta, m, lam))
        return draw(view, scale, beta, m, lam, path, scheduler, steps), words, said

    @plain_errors
    def on_view(
        view: str, wish: str, beta: str, m: Any, lam: Any, path: bool, scheduler: str, steps: Any
    ) -> tuple:
        """Another quantity: one that is always linear shows so, and the axis asked for comes back
        with the next.
        """
        linear = view in ALWAYS_LINEAR
        drawn = on_curve(view, wish, beta, m, lam, path, scheduler, steps)
        return *drawn, gr.update(value="linear" if linear else wish, interactive=not linear)

    @plain_errors
    def on_scale(
        view: str, scale: str, beta: str, m: Any, lam: Any, path: bool, scheduler: str, steps: Any
    ) -> tuple:
        return *on_curve(view, scale, beta, m, lam, path, scheduler, steps), scale

    @plain_errors
    def before_path(path: bool, scheduler: str, steps: Any) -> Any:
        """Said at once, as the walk may have to wait for another visitor's run."""
        try:
            return (
                tables.message(jobs.WAITING)
                if path and walked(path, scheduler, steps) is None
                else ""
            )
        except StudioError:  # `on_path` says so
            return gr.skip()

    @plain_errors
    def on_path(
        beta: str, path: bool, scheduler: str, steps: Any, request: gr.Request
    ) -> Iterator[Any]:
        """Walk the path if it is wanted and was not walked yet. Drawn is it afterwards, by what the
        page then says: it may have changed meanwhile.
        """
        if path and walked(path, scheduler, steps) is None:
            stop = jobs.new_stop(request.session_hash)
            try:
                for step in jobs.run_job(lambda report: walk(scheduler, steps, report, stop)):
                    if isinstance(step, jobs.Step):
                        yield tables.progress(step.done, step.total, step.text)
            except Exception as error:
                yield tables.message(jobs.failure(error, "The sampling path"), "bad")
                return
            finally:
                stop.set()
                jobs.finish(request.session_hash, stop)
        yield about_crosses(beta, path, scheduler, steps)

    @plain_errors
    def on_beta(
        view: str, scale: str, beta: str, m: Any, path: bool, scheduler: str, steps: Any
    ) -> tuple:
        lam = default_lambda(curve_schedule(workshop, beta))
        return (
            *on_curve(view, scale, beta, m, lam, path, scheduler, steps),
            lam,
            about_crosses(beta, path, scheduler, steps),
        )

    @plain_errors
    def on_numbers(plan: dict, beta: str, lam: Any) -> Any:
        try:
            return answers.exact_numbers(workshop, plan, beta, answers.constants(0.5, lam)[1])
        except StudioError:  # lambda's box says so already, in `on_curve`
            return gr.skip()

    path = [panel.path, *sampler]
    curve = [panel.view, panel.scale, shared.beta, threshold, lam_box, *path]
    drawn = [panel.chart, panel.meaning, panel.note]
    at_boundaries = {
        "fn": on_numbers,
        "inputs": [shared.plan, shared.beta, lam_box],
        "outputs": numbers,
        **LIVE,
    }
    gr.on([threshold.input, lam_box.input], on_curve, curve, drawn, **LIVE)
    panel.view.input(on_view, [panel.view, panel.wish, *curve[2:]], [*drawn, panel.scale], **LIVE)
    panel.scale.input(on_scale, curve, [*drawn, panel.wish], **LIVE)
    asked = gr.on(
        [panel.path.input, *(s.change for s in sampler)],
        before_path,
        path,
        panel.path_job,
        **QUIET,
        queue=False,
    )
    again = {"fn": on_curve, "inputs": curve, "outputs": drawn, **LIVE}
    # at once: crosses go, or those of another sampler that was walked before come
    asked.then(**again)
    asked.then(
        on_path,
        [shared.beta, *path],
        panel.path_job,
        **QUIET,
        **jobs.MODEL_JOB,
        trigger_mode="always_last",
    ).then(**again)
    # `change`: a dropdown sends `input` also when it is only left, and a typed lambda would go
    shared.beta.change(
        on_beta, [*curve[:4], *path], [*drawn, lam_box, panel.path_job], **LIVE
    ).then(**at_boundaries)
    shared.plan.change(**at_boundaries)
