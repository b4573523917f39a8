"""Write the plan in one sentence; the mean sparsity in it is a handle to drag.

Pure functions. The handle is a slider in words: explore/mean_handle.js moves it.
"""

from __future__ import annotations

from core.curves.plan import STAGES, StagePlan
from core.curves.plan_checks import MAX_SPARSITY
from core.workshop.prediction import Prediction

from .guidance_words import guidance_sentence
from .tables import shared_words
from .text import fast_text, percent

HANDLE_LABEL = "Share removed on average"
HANDLE_HINT = "Drag sideways, or press the arrow keys: the three sparsities follow in proportion."


def mean_handle(mean: float, refused: int = 0) -> str:
    """Write the mean sparsity, 0 to 1, as a slider of whole per cent.

    refused: another number for every answer that puts the handle back.
    """
    now = f"{100 * mean:.0f}"
    back = f' data-refused="{refused}"' if refused else ""
    return (
        f'<b class="mean" role="slider" tabindex="0" aria-label="{HANDLE_LABEL}"'
        f' aria-orientation="horizontal" aria-valuemin="0" aria-valuemax="{100 * MAX_SPARSITY:.0f}"'
        f' aria-valuenow="{now}" aria-valuetext="{percent(mean)}" title="{HANDLE_HINT}"{back}>'
        f"{percent(mean)}</b>"
    )


def headline(
    plan: StagePlan,
    prediction: Prediction,
    timesteps: list[float],
    asked: int | None = None,
    steepest: int | None = None,
    refused: int = 0,
) -> str:
    """Write the plan in one plain sentence.

    `asked` as in `tables.stage_table`; `steepest` is the timestep at which the model's own curve
    rises fastest, where that is known; `refused` as in `mean_handle`.
    """
    own = guidance_sentence(plan, prediction)
    handle = mean_handle(plan.mean_sparsity(timesteps), refused)
    if not any(plan.sparsity) and not own:
        return (
            f'<p class="headline">Nothing is pruned yet, {handle}: every step runs the whole'
            " network. Drag the number, raise a sparsity or press Suggest.</p>"
        )
    faster = ""
    if prediction.speedup_seconds is not None:
        faster = f", and to be <b>{fast_text(prediction.speedup_seconds)}</b> on this device"
    over = f"{len(timesteps)} sampling steps"
    if asked not in (None, len(timesteps)):
        over = f"{asked} sampling steps ({len(timesteps)} runs of the network)"
    removes = (
        f"This plan removes {handle} of the network's"
        f" attention heads and neurons on average{_gentlest_words(plan, prediction, steepest)}."
    )
    if not any(plan.sparsity):
        removes = f"This plan prunes nothing, {handle}."
    return (
        f'<p class="headline">{f"{removes} {own}".strip()} Over {over} it is'
        f" predicted to need <b>{percent(1 - prediction.macs / prediction.macs_dense)}</b> less"
        f" computation{faster}.{shared_words(plan)}</p>"
    )


def _gentlest_words(plan: StagePlan, prediction: Prediction, steepest: int | None) -> str:
    """Name the stage that loses least, and the reason where the model's curve gives one."""
    shares = plan.sparsity
    if plan.scope == "run":
        late, middle, early = (round(part.achieved, 3) for part in prediction.stages)
        shares = (late, middle, early)
    if len(set(shares)) == 1:
        return ", the same in every stage"
    gentle = shares.index(min(shares))
    fastest = steepest is not None and plan.stage_of(steepest) == gentle
    why = ", where the model learned fastest" if fastest else ""
    return f", least in the {STAGES[gentle]} stage{why}"
