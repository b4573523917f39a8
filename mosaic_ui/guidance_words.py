"""Say on the page what a plan's own guidance does to work and time. Pure functions, no Gradio."""

from __future__ import annotations

from core.curves.guidance_words import listed, own_guidance, rows_words, scale_words
from core.curves.plan import StagePlan
from core.workshop.prediction import Prediction

ONE_HALF = "One half of the guided pair runs alone: half the work of the stage's steps."


def guidance_cell(scale: float | None, rows: int) -> str:
    """Write what a stage's guidance is, with the rows that it takes per image."""
    return f"{scale_words(scale)}<small>{'one half' if rows == 1 else 'both halves'}</small>"


def half_steps(prediction: Prediction) -> int:
    """Return the sampling steps of a run that need no guided pair."""
    return sum(part.steps for part in prediction.stages if part.rows == 1)


def half_cell(prediction: Prediction) -> str:
    """Write how many steps of the run need no guided pair."""
    count = half_steps(prediction)
    steps = sum(part.steps for part in prediction.stages)
    return f"{count} of {steps}<small>steps with one half</small>"


def macs_words(plan: StagePlan, prediction: Prediction) -> str:
    """Say which halves the MACs of a plan and of the dense model count."""
    words = rows_words([part.rows for part in prediction.stages])
    return f"{words}; dense: both in every stage" if plan.sets_guidance else words


def half_time_words(plan: StagePlan, half_timed: bool) -> str:
    """Say where the time of a stage with one half comes from; begins with a space."""
    if 1 not in plan.halves(2):
        return ""
    if half_timed:
        return " Stages with one half: from the table of the half batch."
    return " Stages with one half: half the time of both, as the half batch was not timed yet."


def half_note(prediction: Prediction) -> str:
    """Say in a card where MACs are of one guidance half; nothing where they are of both."""
    one = [part.stage for part in reversed(prediction.stages) if part.rows == 1]
    return f"; one guidance half {listed(one)}" if one else ""


def guidance_sentence(plan: StagePlan, prediction: Prediction) -> str:
    """Say what guidance the plan sets and what that saves, in one sentence; empty for none."""
    own = own_guidance(plan)
    if not own:
        return ""
    count = half_steps(prediction)
    if not count:
        return f"Guidance is {own}."
    steps = sum(part.steps for part in prediction.stages)
    return f"Guidance is {own}: {count} of {steps} steps run one half of the guided pair."


def guidance_mark(scale: float | None, rows: int) -> str:
    """Write a small mark behind a stage's name where the plan sets its guidance."""
    if scale is None:
        return ""
    said = f"Guidance {scale_words(scale)}. {ONE_HALF if rows == 1 else 'Both halves run.'}"
    return f' <abbr class="guided" title="{said}">{"½" if rows == 1 else f"g {scale:g}"}</abbr>'
