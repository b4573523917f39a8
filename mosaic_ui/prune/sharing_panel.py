"""Choose how layers share the cut: method, one budget or three, widths that a device likes, ends.

Closed by default, because the paper's rule, equal shares, needs nothing of it. A combination that
cannot be is said and changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import gradio as gr

from core.allocation.sentences import METHOD_TITLES
from core.curves.plan import MULTIPLES, StagePlan, as_sampled
from core.workshop.workshop import Workshop

from .. import tables
from ..events import Views
from ..methods import METHOD_WORDS, SAME_WORK
from ..text import number, percent

COUNTED = [("computation (MACs)", "macs"), ("time, as measured on this device", "latency")]


class SharingChoice(NamedTuple):
    """What the controls show or ask for."""

    method: Any  # a value of StagePlan.allocation; a client may send anything
    run: bool  # one budget for all stages
    costs: Any
    multiple: Any
    ends: bool  # protect the first and the last block


def values(plan: StagePlan) -> SharingChoice:
    """Return what the controls show for a plan."""
    return SharingChoice(
        method=plan.allocation,
        run=plan.scope == "run",
        costs=plan.costs,
        multiple=plan.multiple,
        ends=plan.protect > 0,
    )


def method_words(plan: StagePlan) -> str:
    """Say what the plan's method does, under the plan's own terms.

    Equal shares are the paper's rule only where nothing else is asked for.
    """
    if plan.plain:
        return METHOD_WORDS["uniform"].about
    words = METHOD_WORDS[plan.allocation].about
    if plan.allocation == "uniform":
        words = (
            "Every layer loses the same share, in all three stages."
            if plan.scope == "run"
            else "Every layer of a stage loses the same share."
        )
    if plan.protect:
        kept = "lose nothing" if plan.protect == 1 else f"keep at least {percent(plan.protect)}"
        words = (
            f"{words[:-1]}; the first and the last block {kept}, and the others lose more instead."
        )
    if plan.multiple:
        words += (
            f" The number of neurons kept is a multiple of {plan.multiple}, so shares are met only"
            " approximately."
        )
    if plan.min_heads > 1:
        words += f" Every layer keeps at least {plan.min_heads} heads."
    return words


def note(workshop: Workshop, plan: StagePlan) -> str:
    """Say in a sentence or two what the method does and what came of it.

    Raises StudioError where it cannot be done.
    """
    sentences = [method_words(plan)]
    if not plan.plain:
        found = workshop.sharing(plan)
        work = "time" if plan.costs == "latency" else "computation"
        weighed = "its sampling steps" if plan.stage_steps else "the timesteps it spans"
        sentences.append(
            f"This removes {percent(found.saved, 1)} of the {work} of the prunable layers; each"
            f" stage counts by {weighed}."
        )
        if plan.allocation == "dynamic":
            left = (
                f", to within {number(100 * found.fineness, 1)} % of the {work}"
                if found.fineness
                else ""
            )
            sentences[-1] += f" No other choice has a smaller sum of errors{left}."
        if plan.scope == "run":
            parts = ", ".join(
                f"{stage} {percent(share)}" for stage, share in as_sampled(found.sparsity)
            )
            sentences.append(
                f"Removed per stage: {parts}. The sliders show what equal shares would remove."
            )
    return tables.notes(sentences)


def changed(
    workshop: Workshop, plan: StagePlan, timesteps: list[float], choice: SharingChoice
) -> StagePlan:
    """Return the plan with the controls' choices, tried for a run of these sampling timesteps.

    Raises StudioError for what cannot be, so that no tab takes over a plan that has no networks.
    """
    # a share from a plan file stays
    protect = plan.protect if choice.ends == (plan.protect > 0) else float(choice.ends)
    after = replace(
        plan,
        allocation=choice.method,
        scope="run" if choice.run else "stage",
        costs=choice.costs,
        multiple=choice.multiple,
        protect=protect,
    )
    if not after.plain:
        workshop.sharing(after.counted(timesteps))
    return after if after == plan else replace(after, name="")


class SharingPanel:
    """The accordion's components, showing a plan that is `StagePlan.counted` for its run."""

    def __init__(self, workshop: Workshop, plan: StagePlan):
        self.workshop = workshop
        shown = values(plan)
        opened = shown.method != "uniform"
        with gr.Accordion("How layers share the cut", open=opened, elem_id="sharing"):
            gr.HTML(f'<p class="fine">{SAME_WORK}</p>')
            self.method = gr.Radio(
                [(title, method) for method, title in METHOD_TITLES.items()],
                value=shown.method,
                label="Method",
                elem_classes="stacked",
            )
            self.note = gr.HTML(note(workshop, plan))
            self.run = gr.Checkbox(
                shown.run,
                label="one budget for all three stages",
                info=(
                    "The sparsities above then set the total of the whole run; the split over"
                    " stages is computed."
                ),
            )
            self._build_menus(shown)
            self.ends = gr.Checkbox(shown.ends, label="protect the first and the last block")

    def _build_menus(self, shown: SharingChoice) -> None:
        self.costs = gr.Radio(
            COUNTED,
            value=shown.costs,
            label="Counted in",
            info="On a GPU prefer time: attention with few heads saves less of it than of MACs.",
        )
        self.multiple = gr.Dropdown(
            [
                ("any number", 0),
                *((f"multiples of {m}", m) for m in MULTIPLES if m),
            ],
            value=shown.multiple,
            label="Neurons kept",
            info="GPUs are fastest with multiples of 64 or 128.",
            filterable=False,
        )

    @property
    def controls(self) -> list[Any]:
        """Return the controls in the order of `SharingChoice`."""
        return [self.method, self.run, self.costs, self.multiple, self.ends]

    def views_of(self, plan: StagePlan) -> Views:
        """Return the controls' values for a plan."""
        return dict(zip(self.controls, values(plan), strict=True))

    def follow(self, plan: StagePlan, before: StagePlan) -> Views:
        """Return the controls' values and the note for a plan, `counted` for its run.

        A control that stands right since `before` is not set.
        """
        old = self.views_of(before)
        moved = {c: value for c, value in self.views_of(plan).items() if value != old[c]}
        return moved | {self.note: note(self.workshop, plan)}
