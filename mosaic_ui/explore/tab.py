"""Place 1: where the trajectory is cut. Curves, two boundaries that are dragged, and a table that
follows them.

A drop is answered twice: at once with the estimate from per-bin curves, and by a second event with
the exact prediction, so that the table never waits for linear algebra. Each answer says which of
the two it is.

No answer sets a number box: those follow the chart inside the page (boundary_boxes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from core.curves.dynamics import DEFAULT_THRESHOLD, default_lambda
from core.curves.plan import StagePlan
from core.curves.proposals import presets
from core.errors import StudioError

from .. import answers, jobs, model_facts, tables
from ..answers import plain_errors
from ..events import EDIT, LIVE, QUIET
from ..remedies import page_sentence
from ..schedules import not_taken_over, own_beta
from .boundary_boxes import boundary_boxes, follow_chart, send_typed
from .curve_panel import CurvePanel, build_curves, wire_curves

CUSTOM = "Your own"


@dataclass
class Explore:
    """The tab's components; `shown` is the plan that they show, so that an echo of the tab's own
    edit is ignored.
    """

    headline: gr.HTML
    first: gr.Column  # what to do first with a model of which nothing is measured
    to_prune: gr.Button
    curves: CurvePanel
    boxes: list[gr.Number]  # low, high
    boxes_said: gr.HTML  # why they were refused
    snap: gr.Checkbox
    suggest: gr.Button
    preset: gr.Dropdown
    rule: gr.HTML
    threshold: gr.Number
    lam: gr.Number
    table: gr.HTML
    measure: gr.Button
    job: gr.HTML
    numbers: gr.HTML
    shown: gr.State
    ruled: gr.State  # the plan that the sentence of the rule is about


def build(shared: Any) -> Explore:
    """The tab's components, filled with the opening plan:
    nothing is empty when the page comes up.
    """
    workshop, plan = shared.workshop, shared.plan.value
    checked, own = StagePlan.from_json(plan), own_beta(workshop)
    lam = default_lambda(workshop.schedule)
    table, words = answers.predicted(workshop, plan, shared.scheduler.value, shared.steps.value)
    names = list(presets(workshop.schedule))
    with gr.Column(
        visible=model_facts.unmeasured(workshop),
        elem_classes="card first-step",
        elem_id="first-step",
    ) as first:
        gr.HTML(tables.first_step(workshop))
        to_prune = gr.Button("Go to Calibrate", variant="primary", size="sm", elem_classes="fit")
    headline = gr.HTML(words)
    with gr.Row(equal_height=False, elem_classes="main-row"):
        with gr.Column(scale=5, min_width=300, elem_classes="card"):
            panel = build_curves(shared, checked, lam)
        with gr.Column(scale=2, min_width=280, elem_classes="side"):
            with gr.Column(elem_classes="card"):
                gr.HTML('<h3 class="panel-title">Stage boundaries</h3>')
                with gr.Row(elem_classes="pair"):
                    boxes = boundary_boxes(checked.boundaries)
                boxes_said = gr.HTML("")
                snap = gr.Checkbox(
                    False,
                    label="snap to calibration bins",
                    info="Free: a bin that a boundary cuts counts for both stages, in proportion.",
                )
            with gr.Column(elem_classes="card"):
                gr.HTML('<h3 class="panel-title">Suggestion</h3>')
                with gr.Row(elem_classes="pair"):
                    shared.target.render()
                    preset = gr.Dropdown(
                        [*names, CUSTOM],
                        value=_preset_name(checked, names),
                        label="Preset",
                        filterable=False,
                        min_width=110,
                    )
                suggest = gr.Button("Suggest", variant="primary")
                timesteps = answers.visited(workshop, shared.scheduler.value, shared.steps.value)
                rule = gr.HTML(tables.notes([answers.rule_text(workshop, checked, timesteps)]))
    with gr.Column(elem_classes="card"):
        table_view = gr.HTML(table, elem_id="stage-table")
        job = gr.HTML("")
        # offered on page load where it is not known
        measure = gr.Button(
            "Measure this device's speed", size="sm", visible=False, elem_classes="fit"
        )
    with gr.Column(elem_classes="card"):
        gr.HTML('<h3 class="panel-title">Sampler and the rule\'s constants</h3>')
        with gr.Row(elem_classes="knobs"):
            shared.scheduler.render()
            shared.steps_box.render()
            threshold = gr.Number(DEFAULT_THRESHOLD, label="Threshold M", step=0.01, min_width=110)
            lam_box = gr.Number(lam, label="Lambda (weight of ln SNR)", step=0.001, min_width=110)
        shared.steps_said.render()
    with gr.Accordion("Exact numbers at the boundaries, and the formulas", open=False):
        numbers = gr.HTML(answers.exact_numbers(workshop, plan, own, lam))
    shown = gr.State(plan)
    return Explore(
        headline,
        first,
        to_prune,
        panel,
        boxes,
        boxes_said,
        snap,
        suggest,
        preset,
        rule,
        threshold,
        lam_box,
        table_view,
        measure,
        job,
        numbers,
        shown,
        gr.State(plan),
    )


def _preset_name(plan: StagePlan, names: list[str]) -> str:
    return plan.name if plan.name in names else CUSTOM


def _measure(workshop: Any, report: Callable, stop: Any) -> None:
    """This device's speed at a few widths of the whole model, and of its single layers."""
    workshop.measure_latency(model_facts.batch(workshop), progress=report, stop=stop)
    workshop.measure_layers(report, stop)


def _knows_time(workshop: Any, plan: dict, scheduler: str, steps: int) -> bool:
    if workshop.layer_times is None:
        return False
    timesteps = answers.visited(workshop, scheduler, steps)
    return (
        workshop.predict(
            StagePlan.from_json(plan).counted(timesteps),
            timesteps,
            batch=model_facts.batch(workshop),
        ).seconds
        is not None
    )


def wire(shared: Any, tab: Explore) -> None:
    """Connect the tab: its own edits answer at once, then exactly; edits made elsewhere arrive
    through the plan.
    """
    workshop = shared.workshop
    sampler, names = [shared.scheduler, shared.steps], list(presets(workshop.schedule))
    edited = [shared.plan, tab.shown, tab.table, tab.headline, tab.preset, tab.curves.chart]
    moved, proposed = [*edited, tab.boxes_said], [*edited, tab.rule, tab.ruled]

    def answer(
        plan: StagePlan, scheduler: str, steps: Any, request: gr.Request, move_chart: bool
    ) -> tuple:
        plain = plan.to_json()
        # refuses a plan that cannot be, before it counts as asked for
        table, words = answers.predicted(workshop, plain, scheduler, steps)
        jobs.mark_latest(request.session_hash, [plain, scheduler, steps])
        line = list(plan.boundaries) if move_chart else gr.skip()
        return plain, plain, table, words, _preset_name(plan, names), line

    def on_bins(plan: StagePlan, snap: bool) -> tuple[StagePlan, list[str]]:
        """The plan, on bin edges if asked, and the sentence that says so."""
        after = workshop.snap(plan) if snap else plan
        if after.boundaries == plan.boundaries:
            return plan, []
        return replace(after, name=f"{plan.name}, snapped"), [
            "Then snapped to {} and {}, the nearest edges of calibration bins.".format(
                *after.boundaries
            )
        ]

    def move(
        make: Callable[[], StagePlan],
        plan: dict,
        scheduler: str,
        steps: Any,
        request: gr.Request,
        shown: list | None = None,
    ) -> tuple:
        """`moved` for what `make` makes of the boundaries; `shown` are those the chart has already.
        Where it cannot be done the lines go back, and the reason stands below the boxes.
        """
        try:
            after = make()
            return (
                *answer(
                    after, scheduler, steps, request, move_chart=list(after.boundaries) != shown
                ),
                "",
            )
        except StudioError as error:
            said = tables.notes([f"{page_sentence(error)} The boundaries stay as they were."])
            return (
                *answer(StagePlan.from_json(plan), scheduler, steps, request, move_chart=True),
                said,
            )

    @plain_errors
    def on_drag(value: Any, plan: dict, scheduler: str, steps: Any) -> Any:
        after = StagePlan.from_json(plan).with_boundaries(*answers.two_boundaries(value))
        try:
            return answers.predicted(workshop, after.to_json(), scheduler, steps)[0]
        except StudioError:  # no such networks; the drop says so, once
            return gr.skip()

    @plain_errors
    def on_drop(
        value: Any, plan: dict, scheduler: str, steps: Any, snap: bool, request: gr.Request
    ) -> tuple:
        low, high = answers.two_boundaries(value)
        return move(
            lambda: answers.moved(workshop, plan, low, high, snap),
            plan,
            scheduler,
            steps,
            request,
            shown=[low, high],
        )

    @plain_errors
    def on_boxes(
        low: Any, high: Any, plan: dict, scheduler: str, steps: Any, snap: bool, request: gr.Request
    ) -> tuple:
        before = StagePlan.from_json(plan)
        if low is None and high is None:
            return tuple(gr.skip() for _ in moved)  # left as it was
        low, high = (
            old if new is None else new
            for new, old in zip((low, high), before.boundaries, strict=True)
        )

        def make() -> StagePlan:
            return answers.moved(
                workshop,
                plan,
                *answers.typed_boundaries(low, high, before.num_train_timesteps),
                snap,
            )

        return move(make, plan, scheduler, steps, request)

    @plain_errors
    def on_snap(snap: bool, plan: dict, scheduler: str, steps: Any, request: gr.Request) -> tuple:
        boundaries = StagePlan.from_json(plan).boundaries
        return move(
            lambda: answers.moved(workshop, plan, *boundaries, snap),
            plan,
            scheduler,
            steps,
            request,
        )

    def ruled(
        plan: StagePlan, words: list[str], scheduler: str, steps: Any, request: gr.Request
    ) -> tuple:
        """`edited`, the rule's sentence and the plan that it is about."""
        return (
            *answer(plan, scheduler, steps, request, move_chart=True),
            tables.notes(words),
            plan.to_json(),
        )

    def not_ruled(sentence: str, plan: dict) -> tuple:
        """Nothing was proposed, said where the proposal would stand; the preset shown is the
        plan's.
        """
        return (
            *(gr.skip() for _ in edited[:4]),
            _preset_name(StagePlan.from_json(plan), names),
            gr.skip(),
            tables.notes([sentence]),
            plan,
        )

    @plain_errors
    def on_suggest(
        target: Any,
        m: Any,
        lam: Any,
        beta: str,
        scheduler: str,
        steps: Any,
        snap: bool,
        plan: dict,
        request: gr.Request,
    ) -> tuple:
        if beta != own_beta(workshop):
            return not_ruled(not_taken_over(workshop, beta), plan)
        try:
            proposal = answers.suggested(
                workshop,
                answers.share_of(target),
                answers.visited(workshop, scheduler, steps),
                *answers.constants(m, lam),
            )
        except StudioError as error:
            return not_ruled(f"{error} The plan stays as it was.", plan)
        after, words = on_bins(proposal.plan, snap)
        return ruled(after, [proposal.rule, *words], scheduler, steps, request)

    @plain_errors
    def on_preset(
        name: str,
        target: Any,
        scheduler: str,
        steps: Any,
        snap: bool,
        plan: dict,
        request: gr.Request,
    ) -> tuple:
        """Take another preset than the plan's; a dropdown that is only left sends its value too."""
        if name == _preset_name(StagePlan.from_json(plan), names):
            return tuple(gr.skip() for _ in proposed)
        return on_picked(name, target, scheduler, steps, snap, plan, request)

    @plain_errors
    def on_picked(
        name: str,
        target: Any,
        scheduler: str,
        steps: Any,
        snap: bool,
        plan: dict,
        request: gr.Request,
    ) -> tuple:
        """A preset from the open list, perhaps the plan's own again for another mean sparsity."""
        if name == CUSTOM:
            return ruled(
                replace(StagePlan.from_json(plan), name=""),
                [answers.OWN],
                scheduler,
                steps,
                request,
            )
        try:
            visited = answers.visited(workshop, scheduler, steps)
            offered = presets(workshop.schedule, answers.share_of(target), visited)
        except StudioError as error:
            return not_ruled(f"{error} The plan stays as it was.", plan)
        if name not in offered:
            raise StudioError("Choose one of the listed presets.")
        after, words = on_bins(offered[name], snap)
        about = (
            f"Preset “{name}”, at a step-weighted mean sparsity of {answers.share_of(target):g}"
            f" over {len(visited)} runs of the network."
        )
        return ruled(after, [about, *words], scheduler, steps, request)

    @plain_errors
    def on_sampler(scheduler: str, steps: Any, plan: dict, request: gr.Request) -> tuple:
        jobs.mark_latest(request.session_hash, [plan, scheduler, steps])
        try:
            return answers.predicted(workshop, plan, scheduler, steps)
        # one budget, say, that these steps cannot meet: what was there is of other steps
        except StudioError as error:
            return tables.message(str(error), "bad"), ""

    @plain_errors
    def refine(plan: dict, scheduler: str, steps: Any, request: gr.Request) -> tuple:
        """The exact prediction, or the estimate again where that cannot be had; nothing when the
        visitor has moved on meanwhile.
        """
        asked, late = [plan, scheduler, steps], (gr.skip(), gr.skip())
        if not jobs.is_latest(request.session_hash, asked):
            return late
        views = answers.predicted(
            workshop, plan, scheduler, steps, exact=model_facts.exact_in_time(workshop)
        )
        return views if jobs.is_latest(request.session_hash, asked) else late

    @plain_errors
    def follow(plan: dict, shown: dict, scheduler: str, steps: Any, request: gr.Request) -> tuple:
        """An edit made in another tab; an echo of our own changes nothing."""
        if plan == shown:
            return tuple(gr.skip() for _ in edited[1:])
        return answer(StagePlan.from_json(plan), scheduler, steps, request, move_chart=True)[1:]

    @plain_errors
    def own_rule(plan: dict, about: dict) -> Any:
        """After any edit or upload: a rule's sentence must not stand beside a plan that it did not
        make.
        """
        return gr.skip() if plan == about else tables.notes([answers.OWN])

    @plain_errors
    def on_beta(plan: dict, scheduler: str, steps: Any) -> tuple:
        """Other curves are shown: what was said of a proposal for the last ones goes, and the
        plan's own rule comes back.
        """
        checked = StagePlan.from_json(plan)
        words = answers.rule_text(workshop, checked, answers.visited(workshop, scheduler, steps))
        if words == answers.OWN and checked.name:
            words = f"This plan is “{checked.name}”."
        return tables.notes([words]), plan

    @plain_errors
    def on_load(plan: dict, scheduler: str, steps: Any) -> Any:
        return gr.update(visible=not _knows_time(workshop, plan, scheduler, steps))

    def on_status() -> Any:
        """A calibration has ended: nothing is left to be done first."""
        return gr.update(visible=model_facts.unmeasured(workshop))

    @plain_errors
    def on_measure(
        plan: dict, scheduler: str, steps: Any, measured: int, request: gr.Request
    ) -> Iterator[tuple]:
        stop, offered = jobs.new_stop(request.session_hash), gr.update(interactive=True)
        try:
            for step in jobs.run_job(lambda report: _measure(workshop, report, stop)):
                if isinstance(step, jobs.Step):
                    yield (
                        tables.progress(step.done, step.total, step.text),
                        gr.skip(),
                        gr.skip(),
                        gr.skip(),
                    )
        except Exception as error:  # whatever it is, the button comes back
            yield (
                tables.message(jobs.failure(error, "The measurement"), "bad"),
                gr.skip(),
                offered,
                gr.skip(),
            )
            return
        finally:
            stop.set()
            jobs.finish(request.session_hash, stop)
        try:
            table = answers.predicted(workshop, plan, scheduler, steps)[0]
        except StudioError:  # of the plan, which says so itself
            table = gr.skip()
        yield "", table, gr.update(visible=False, interactive=True), measured + 1

    exactly = {
        "fn": refine,
        "inputs": [shared.plan, *sampler],
        "outputs": [tab.table, tab.headline],
        **QUIET,
        "trigger_mode": "always_last",
    }
    live = {
        "fn": on_drag,
        "inputs": [tab.curves.chart, shared.plan, *sampler],
        "outputs": tab.table,
        **LIVE,
    }
    tab.curves.chart.input(**live)
    # the table follows by the short way; the plan itself goes through the queue
    tab.curves.chart.release(**live)
    tab.curves.chart.release(
        on_drop, [tab.curves.chart, shared.plan, *sampler, tab.snap], moved, **EDIT
    ).then(**exactly)
    opening = shared.plan.value["boundaries"]
    leave = [event for box in tab.boxes for event in (box.submit, box.blur)]
    typed = gr.on(
        leave,
        on_boxes,
        [*tab.boxes, shared.plan, *sampler, tab.snap],
        moved,
        js=send_typed(opening),
        **EDIT,
    )
    follow_line = {**follow_chart(tab.curves.chart, tab.boxes, opening), **QUIET}
    # also where the chart did not move: a refused boundary goes back to what it was
    typed.then(**follow_line)
    typed.then(**exactly)
    tab.curves.chart.change(**follow_line)
    tab.snap.input(on_snap, [tab.snap, shared.plan, *sampler], moved, **EDIT).then(**exactly)
    rule = [shared.target, tab.threshold, tab.lam, shared.beta, *sampler, tab.snap, shared.plan]
    tab.suggest.click(on_suggest, rule, proposed, **EDIT).then(**exactly)
    preset = [tab.preset, shared.target, *sampler, tab.snap, shared.plan]
    tab.preset.input(on_preset, preset, proposed, **EDIT).then(**exactly)
    tab.preset.select(on_picked, preset, proposed, **EDIT).then(**exactly)
    gr.on(
        [s.change for s in sampler],
        on_sampler,
        [*sampler, shared.plan],
        [tab.table, tab.headline],
        **LIVE,
    ).then(**exactly)
    shared.plan.change(follow, [shared.plan, tab.shown, *sampler], edited[1:], **LIVE).then(
        **exactly
    )
    # a refusal is of the boundaries that were
    shared.plan.change(lambda: "", None, tab.boxes_said, **LIVE)
    shared.beta.change(on_beta, [shared.plan, *sampler], [tab.rule, tab.ruled], **LIVE)
    shared.plan.change(own_rule, [shared.plan, tab.ruled], tab.rule, **LIVE)
    shared.page.load(**exactly)
    shared.page.load(on_load, [shared.plan, *sampler], tab.measure, **QUIET, queue=False)
    shared.status.change(on_status, None, tab.first, **QUIET, queue=False)
    # a calibration has just ended: the same plan can now be predicted exactly
    shared.status.change(**exactly)
    wire_curves(shared, tab.curves, tab.threshold, tab.lam, tab.numbers)
    speed = [tab.job, tab.table, tab.measure, shared.measured]
    asked = tab.measure.click(
        lambda: (tables.message(jobs.WAITING), gr.update(interactive=False)),
        None,
        [tab.job, tab.measure],
        **QUIET,
        queue=False,
    )
    asked.then(
        on_measure, [shared.plan, *sampler, shared.measured], speed, **QUIET, **jobs.MODEL_JOB
    ).then(**exactly)
