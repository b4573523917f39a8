"""How layers share the cut: four methods in plain words, one budget or three, widths a device
likes, ends spared.

Closed by default, because the paper's rule, equal shares, needs nothing of it. A combination that
cannot be is said and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from core.curves.plan import MULTIPLES, STAGES, StagePlan

from .. import tables

METHODS = {  # value of StagePlan.allocation -> (name, what it does)
    "uniform": ("Equal shares", "Every layer of a stage loses the same share. The paper's rule."),
    "log_ramp": (
        "Log ramp",
        (
            "Early blocks lose less and late ones more, as an error made early passes through every"
            " block behind it."
        ),
    ),
    "lagrangian": (
        "Lagrangian",
        (
            "Layers that mind it least, by their measured error curves, lose more: one price for"
            " work in every layer. At once."
        ),
    ),
    "dynamic": (
        "Dynamic programming",
        (
            "The smallest sum of measured layer errors that this much work allows, searched out. A"
            " moment slower, a little better."
        ),
    ),
}
SAME_WORK = (
    "All of them spend what equal shares would spend, in computation or in measured time; only who"
    " gives it differs."
)
COUNTED = [("computation (MACs)", "macs"), ("time, as measured on this device", "latency")]


@dataclass
class SharingPanel:
    """The panel's components; `controls` in the order of `values`."""

    method: gr.Radio
    run: gr.Checkbox
    costs: gr.Radio
    multiple: gr.Dropdown
    ends: gr.Checkbox
    note: gr.HTML

    @property
    def controls(self) -> list[Any]:
        return [self.method, self.run, self.costs, self.multiple, self.ends]


def values(plan: StagePlan) -> tuple[str, bool, str, int, bool]:
    """What the controls show for a plan."""
    return plan.allocation, plan.scope == "run", plan.costs, plan.multiple, plan.protect > 0


def method_words(plan: StagePlan) -> str:
    """What the plan's method does, under the plan's own terms: equal shares are the paper's rule
    only where nothing else is asked for.
    """
    if plan.plain:
        return METHODS["uniform"][1]
    words = METHODS[plan.allocation][1]
    if plan.allocation == "uniform":
        words = (
            "Every layer loses the same share, in all three stages."
            if plan.scope == "run"
            else "Every layer of a stage loses the same share."
        )
    if plan.protect:
        kept = (
            "lose nothing" if plan.protect == 1 else f"keep at least {tables.percent(plan.protect)}"
        )
        words = (
            f"{words[:-1]}; the first and the last block {kept}, and the others give more instead."
        )
    if plan.multiple:
        words += (
            f" Neurons stay in multiples of {plan.multiple}, and shares are met as nearly as these"
            " allow."
        )
    if plan.min_heads > 1:
        words += f" Every layer keeps at least {plan.min_heads} heads."
    return words


def note(workshop: Any, plan: StagePlan) -> str:
    """What is done, in a sentence or two: the method's own words, then what came of it. Raises
    StudioError where it cannot be done.
    """
    sentences = [method_words(plan)]
    if not plan.plain:
        found = workshop.sharing(plan)
        work = "time" if plan.costs == "latency" else "computation"
        weighed = "its sampling steps" if plan.stage_steps else "the timesteps it spans"
        sentences.append(
            f"{tables.percent(found.saved, 1)} of the {work} of the prunable layers goes, each"
            f" stage weighed by {weighed}."
        )
        if plan.allocation == "dynamic":
            left = (
                f", but for the last {tables.number(100 * found.fineness, 1)} % of the {work}"
                if found.fineness
                else ""
            )
            sentences[-1] += f" No other choice has a smaller sum of errors{left}."
        if plan.scope == "run":
            parts = ", ".join(
                f"{stage} {tables.percent(share)}"
                for stage, share in zip(STAGES, found.sparsity, strict=True)
            )
            sentences.append(
                f"Stage by stage goes: {parts}. The sliders say what equal shares would be."
            )
    return tables.notes(sentences)


def changed(
    workshop: Any,
    plan: StagePlan,
    timesteps: list[float],
    method: Any,
    run: Any,
    costs: Any,
    multiple: Any,
    ends: Any,
) -> StagePlan:
    """The plan with the controls' choices, tried for a run of these sampling timesteps.

    Raises StudioError for what cannot be, so that nobody takes over a plan that has no networks.
    """
    # a share from a plan file stays
    protect = plan.protect if bool(ends) == (plan.protect > 0) else float(bool(ends))
    after = replace(
        plan,
        allocation=method,
        scope="run" if run else "stage",
        costs=costs,
        multiple=multiple,
        protect=protect,
    )
    if not after.plain:
        workshop.sharing(after.counted(timesteps))
    return after if after == plan else replace(after, name="")


def build_sharing(workshop: Any, plan: StagePlan) -> SharingPanel:
    """The accordion, showing the plan, `StagePlan.counted` for the opening sampler."""
    method, run, costs, multiple, ends = values(plan)
    with gr.Accordion("How layers share the cut", open=method != "uniform", elem_id="sharing"):
        gr.HTML(f'<p class="fine">{SAME_WORK}</p>')
        chosen = gr.Radio(
            [(name, key) for key, (name, _) in METHODS.items()],
            value=method,
            label="Method",
            elem_classes="stacked",
        )
        words = gr.HTML(note(workshop, plan))
        about = "The sparsities above then set the work of the whole run; where it is cut follows."
        scope = gr.Checkbox(run, label="one budget for all three stages", info=about)
        counted = gr.Radio(
            COUNTED,
            value=costs,
            label="Counted in",
            info="Time is fairer on a GPU, where thin attention saves less than its MACs.",
        )
        menu = [
            ("as fine as the layer allows", 0),
            *((f"multiples of {m}", m) for m in MULTIPLES if m),
        ]
        widths = gr.Dropdown(
            menu,
            value=multiple,
            label="Neurons kept",
            info="A GPU multiplies in tiles and likes multiples of 64 or 128.",
            filterable=False,
        )
        spared = gr.Checkbox(ends, label="spare the first and the last block")
    return SharingPanel(chosen, scope, counted, widths, spared, words)


def follow(workshop: Any, plan: StagePlan, before: StagePlan) -> tuple:
    """Values of the controls and the note for a plan, `StagePlan.counted` for its run; a control
    that stands right since `before` is not set.
    """
    shown = (
        gr.skip() if new == old else new
        for new, old in zip(values(plan), values(before), strict=True)
    )
    return *shown, note(workshop, plan)
