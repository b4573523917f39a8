"""Draw the curves of place 1, by quantity, axis, noise schedule, constants and the model's path.

Nothing here edits the plan; the two lines in the chart are wired by `ExploreTab`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import gradio as gr

from core.curves.dynamics import DEFAULT_THRESHOLD, SampledCurves, default_lambda
from core.curves.plan import StagePlan
from core.errors import StudioError
from core.workshop.compare import sample_path
from core.workshop.workshop import Workshop

from .. import jobs, model_facts, tables
from ..events import LIVE, NOTHING, QUIET, Event, Views
from ..figures import ALWAYS_LINEAR, FALLBACK_SCORE, MEANING, VIEWS
from ..hover import explained
from ..input_checks import plain_errors
from ..inputs import constants
from ..page_state import Shared
from ..remedies import page_sentence
from ..schedules import curve_schedule, own_beta, schedule_note, shown_proposal, uses_fallback
from ..stage_chart import figure_text, stage_chart
from .thumbnails import thumbnails_html

CAPTION = (
    '<p class="fine">A model learns slowly where pictures are almost clean or almost pure noise,'
    " and fast in between. Two lines cut its timesteps into three stages, and every stage gets its"
    " own pruned network. Line: theory (Theorem 1 of the paper, for latents, the small coded form"
    " in which the model sees pictures, of mean square 1). POINTS Ticks under the axis: the steps"
    " of your sampler. Keys: arrows move a line by 1 timestep, with Shift or Page keys by 10; Esc"
    " while dragging puts it back, and a double click puts it where the rule suggests.</p>"
)
OPENING_VIEW = "Score"  # in which the boundaries explain themselves

CROSSES = (
    '<p class="fine">Crosses: how far the latents on the model\'s own sampling path are from the'
    " latents at its end. The line is for clean latents of mean square 1 and random noise. The"
    " model's own samples have another mean square, and their noise is what the model predicts, so"
    " the crosses may lie far from the line. The axis is made for the line: crosses far outside it"
    " are not shown.</p>"
)
UNSAMPLED = (
    "No measured points: this model comes without latents. Its own sampling path below gives some."
)
SAMPLED = "Points: measured on the model's own latents with noise added."


def meaning(view: str, fallback: bool = False) -> str:
    """Explain the chosen quantity in plain words.

    `fallback`: the boundaries proposed for these curves are not the score's.
    """
    if view not in MEANING:
        return ""
    words = FALLBACK_SCORE if view == "Score" and fallback else MEANING[view]
    axis = " (Axis always linear.)" if view in ALWAYS_LINEAR else ""
    said = explained(f"<b>{view}:</b> {words}{axis}")
    return f'<p class="meaning">{said}</p>'


def walk_of(workshop: Workshop) -> tuple[int, int, float]:
    """Return images, seed and guidance of the walk along the model's own path."""
    return model_facts.path_images(workshop), 0, model_facts.default_guidance(workshop)


class CurveChoice(NamedTuple):
    """What the curves are drawn for, as the page sent it."""

    view: str
    scale: str  # of the vertical axis; a curve that is always linear takes no other
    beta: str
    m: Any
    lam: Any
    path: bool  # the model's own sampling path too, walked with this sampler
    scheduler: str
    steps: Any


class CurvePanel:
    """The chart's card: its components, drawn for the model's own schedule, and their handlers.

    `threshold`, `lam` and `numbers` belong to other cards; the tab renders them there.
    """

    def __init__(self, shared: Shared):
        self.shared = shared
        self.workshop = shared.workshop
        lam = default_lambda(self.workshop.schedule)
        self.threshold = gr.Number(
            DEFAULT_THRESHOLD,
            label="Threshold M",
            step=0.01,
            min_width=110,
            render=False,
            elem_classes="in-line",
        )
        self.lam = gr.Number(
            lam, label="Lambda (weight of ln SNR)", step=0.001, min_width=110, render=False
        )
        numbers = shared.predictions.exact_numbers(shared.opening, own_beta(self.workshop), lam)
        self.numbers = gr.HTML(numbers, render=False)  # theory at the boundaries
        with gr.Row(elem_classes="chart-bar"):
            self._build_choices()
        self.meaning = gr.HTML(meaning(OPENING_VIEW))
        self._build_chart(lam)
        gr.HTML(thumbnails_html(self.workshop))
        # rendered by the tab, below the chart
        self.path = gr.Checkbox(
            False,
            label="show the model's own sampling path",
            info=(
                f"Samples {model_facts.path_images(self.workshop)} latents with the dense model"
                " once, with this sampler and these steps."
            ),
            render=False,
        )
        self.path_job = gr.HTML("", render=False)
        # the axis asked for, which a curve that is always linear does not take, and the curve that
        # is drawn: only on one that takes both does the radio tell what is asked for
        self.wish = gr.State("linear")
        self.drawn_view = gr.State(OPENING_VIEW)
        self.note = gr.HTML("")  # says so when the schedule is not the model's

    def _build_choices(self) -> None:
        self.view = gr.Radio(
            list(VIEWS),
            value=OPENING_VIEW,
            label="Curve",
            scale=3,
            min_width=260,
            elem_classes="segmented",
        )
        self.scale = gr.Radio(
            ["linear", "log"],
            value="linear",
            label="Vertical axis",
            scale=1,
            min_width=140,
            interactive=OPENING_VIEW not in ALWAYS_LINEAR,
            elem_classes="segmented",
        )
        self.threshold.render()

    def _build_chart(self, lam: float) -> None:
        own, predictions = own_beta(self.workshop), self.shared.predictions
        self.chart = stage_chart(
            list(self.shared.opening.boundaries),
            predictions.figure(OPENING_VIEW, "linear", own, DEFAULT_THRESHOLD, lam)
            | self._beside(*self.shared.opening_sampler, own, DEFAULT_THRESHOLD, lam),
            label="Learning curves over timesteps with two stage boundaries",
            total=len(self.workshop.schedule),
            elem_id="stage-chart",
        )
        points = UNSAMPLED if predictions.sampled_curves(own) is None else SAMPLED
        self.caption = gr.HTML(CAPTION.replace("POINTS", points), render=False)

    def _beside(
        self, scheduler: str, steps: Any, beta: str, m: float, lam: float
    ) -> dict[str, Any]:
        """Return what the chart's script goes by: the sampler's steps, and the suggested lines."""
        steps_at = self.shared.predictions.visited(scheduler, steps)
        own = beta == own_beta(self.workshop)
        proposal = shown_proposal(self.workshop, beta, m, lam) if own else None
        return {"steps": steps_at, "suggested": proposal and list(proposal.plan.boundaries)}

    def wire(self) -> None:
        """Redraw the chart on every choice."""
        shared, sampler = self.shared, self.shared.sampler
        path = [self.path, *sampler]
        constants_and_path = [shared.beta, self.threshold, self.lam, *path]
        curve = [self.view, self.scale, *constants_and_path]
        drawn = [self.chart, self.meaning, self.note]
        # one listener for all: the newest is answered last, so that no late answer to one box
        # draws the chart without what was typed into the next
        gr.on(
            [box.input for box in (self.view, self.scale, self.threshold, self.lam)],
            self.on_choice,
            [self.wish, self.drawn_view, *curve],
            [*drawn, self.scale, self.wish, self.drawn_view],
            **LIVE,
        )
        # `change`: a dropdown sends `input` also when it is only left, and a typed lambda would go
        shared.beta.change(self.on_beta, curve, [*drawn, self.lam, self.path_job], **LIVE).then(
            self.on_numbers, [shared.plan, shared.beta, self.lam], self.numbers, **LIVE
        )
        self._wire_path(curve, drawn)

    def _wire_path(self, curve: list[Any], drawn: list[Any]) -> None:
        """Walk the path when it is asked for, and draw before and after."""
        path = [self.path, *self.shared.sampler]
        again: Event = {"fn": self.on_curve, "inputs": curve, "outputs": drawn, **LIVE}
        asked = gr.on(
            [self.path.input, *(s.change for s in (self.shared.scheduler, self.shared.steps))],
            self.before_path,
            path,
            self.path_job,
            **QUIET,
            queue=False,
        )
        # at once: crosses go, or those of another sampler that was walked before come
        asked.then(**again)
        walk = {**QUIET, **jobs.MODEL_JOB, "trigger_mode": "always_last"}
        asked.then(self.on_path, [self.shared.beta, *path], self.path_job, **walk).then(**again)

    @plain_errors
    def on_curve(self, curve: CurveChoice) -> Views:
        """Draw the curve that is chosen."""
        return self._draw(curve)

    @plain_errors
    def on_choice(self, wish: str, drawn_view: str, curve: CurveChoice) -> Views:
        """Draw the quantity, axis and constants that are chosen.

        A curve that is always linear shows so, and the axis asked for comes back with the next.
        """
        if drawn_view not in ALWAYS_LINEAR:
            wish = curve.scale
        linear = curve.view in ALWAYS_LINEAR
        axis = "linear" if linear else wish
        views = self._draw(curve._replace(scale=axis))
        views |= {self.wish: wish, self.drawn_view: curve.view}
        if curve.view != drawn_view:
            views[self.scale] = gr.update(value=axis, interactive=not linear)
        return views

    @plain_errors
    def on_beta(self, curve: CurveChoice) -> Views:
        """Draw the curves of another schedule, with its own usual lambda."""
        lam = default_lambda(curve_schedule(self.workshop, curve.beta))
        walked = self.walked(curve.path, curve.scheduler, curve.steps)
        views = self._draw(curve._replace(lam=lam))
        return views | {self.lam: lam, self.path_job: self._about_crosses(curve.beta, walked)}

    @plain_errors
    def on_numbers(self, plan: StagePlan, beta: str, lam: Any) -> Views:
        """Write theory at the boundaries."""
        return self.numbers_at(plan, beta, lam) or NOTHING

    @plain_errors
    def before_path(self, path: bool, scheduler: str, steps: Any) -> Views:
        """Announce a walk at once, as it may have to wait for another visitor's run."""
        try:
            waits = path and self.walked(path, scheduler, steps) is None
        except StudioError:  # `on_path` refuses these steps
            return NOTHING
        return {self.path_job: tables.message(jobs.WAITING) if waits else ""}

    @plain_errors
    def on_path(
        self, beta: str, path: bool, scheduler: str, steps: Any, request: gr.Request
    ) -> Iterator[Views]:
        """Walk the path if it is wanted and was not walked yet.

        It is drawn afterwards, by what the page then shows: that may have changed meanwhile.
        """
        if path and self.walked(path, scheduler, steps) is None:
            with jobs.visit(request.session_hash).stoppable() as stop:
                try:
                    for report in jobs.reports(
                        lambda progress: self._walk(scheduler, steps, progress, stop)
                    ):
                        words = tables.progress(report.done, report.total, report.text)
                        yield {self.path_job: words}
                except Exception as error:
                    said = jobs.failure(error, "The sampling path")
                    yield {self.path_job: tables.message(said, "bad")}
                    return
        yield {self.path_job: self._about_crosses(beta, self.walked(path, scheduler, steps))}

    def walked(self, path: bool, scheduler: str, steps: Any) -> SampledCurves | None:
        """Return the model's own path if it is asked for and was walked with this sampler."""
        key = (scheduler, self.shared.predictions.whole_steps(steps), *walk_of(self.workshop))
        return self.workshop.paths_walked.get(key) if path else None

    def numbers_at(self, plan: StagePlan, beta: str, lam: Any) -> Views:
        """Return theory at the boundaries; nothing where lambda's box is refused."""
        try:
            _, checked = constants(DEFAULT_THRESHOLD, lam)
            return {self.numbers: self.shared.predictions.exact_numbers(plan, beta, checked)}
        except StudioError:  # `on_curve` refuses it already
            return {}

    def _walk(self, scheduler: str, steps: Any, progress: Any, stop: Any) -> None:
        n, seed, guidance = walk_of(self.workshop)
        sample_path(
            self.workshop,
            scheduler,
            self.shared.predictions.whole_steps(steps),
            n=n,
            seed=seed,
            guidance=guidance,
            progress=progress,
            stop=stop,
        )

    def _draw(self, curve: CurveChoice) -> Views:
        """Return the chart, the quantity's meaning and the note about the schedule."""
        view, scale, beta, *_ = curve
        walked = self.walked(curve.path, curve.scheduler, curve.steps)
        try:
            m, lam = constants(curve.m, curve.lam)
            note = schedule_note(self.workshop, beta, m, lam)
        # half-typed, perhaps: refused beside, and the curves are drawn with the usual constants
        except StudioError as error:
            m, lam = DEFAULT_THRESHOLD, default_lambda(curve_schedule(self.workshop, beta))
            usual = "The curves are drawn with the usual constants."
            note = tables.notes([f"{page_sentence(error)} {usual}"])
        fallback = view == "Score" and uses_fallback(self.workshop, beta, m, lam)
        figure = self.shared.predictions.figure(view, scale, beta, m, lam, walked)
        figure |= self._beside(curve.scheduler, curve.steps, beta, m, lam)
        return {
            self.chart: gr.update(figure=figure_text(figure)),
            self.meaning: meaning(view, fallback),
            self.note: note,
        }

    def _about_crosses(self, beta: str, walked: SampledCurves | None) -> str:
        """Explain the crosses where they are drawn: beside the model's own curves."""
        return CROSSES if beta == own_beta(self.workshop) and walked is not None else ""
