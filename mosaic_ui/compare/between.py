"""Say what differs between two sides, and only that, and where their budgets are unequal.

Pure functions, no Gradio.
"""

from __future__ import annotations

from html import escape

from core.curves.guidance_words import own_guidance, with_own_guidance
from core.curves.plan import StagePlan, as_sampled
from core.runs.differences import Difference, differences
from core.workshop.comparison import Comparison

from ..text import percent
from .sides import SideRun

UNEQUAL = 0.03  # share of the work from which on two budgets are called unequal
INERT = (
    "A and B are equal, so this comparison is inert: equal pictures, and a time that can only show"
    " noise."
)


def differing(a: SideRun, b: SideRun) -> list[Difference]:
    """Return what differs between two sides: their plans and their steps."""
    found = differences(a.plan, b.plan)
    if a.steps != b.steps:
        found.append(Difference("sampling steps", str(a.steps), str(b.steps)))
    return found


def between_html(a: SideRun, b: SideRun, work: tuple[float, float] | None) -> str:
    """Write under the pickers what differs, and loudly what is unequal.

    work: MACs of A and of B, None where they are not known yet.
    """
    found = differing(a, b)
    if not found:
        return f'<p class="cmp-note cmp-loud">{INERT}</p>'
    return f'<p class="cmp-note cmp-differ">{_short(a, b, found)}</p>{unequal_html(a, b, work)}'


def unequal_html(a: SideRun, b: SideRun, work: tuple[float, float] | None) -> str:
    """Write a loud sentence where two rivals do not have the same budget.

    The dense model in all steps is the yardstick and no rival.
    """
    if work is None or a.whole_dense or b.whole_dense:
        return ""
    ratio = work[1] / work[0]
    if abs(ratio - 1) <= UNEQUAL:
        return ""
    more = "more" if ratio > 1 else "less"
    return (
        f'<p class="cmp-loud" role="note"><b>Unequal budgets.</b> B does'
        f" {percent(abs(ratio - 1))} {more} work than A, so neither time nor pictures are a fair"
        " race.</p>"
    )


def result_sides(comparison: Comparison) -> tuple[SideRun, SideRun]:
    """Return what both sides of a finished comparison ran."""
    a, b = (
        SideRun(side.plan, comparison.settings.steps_of(k), side.name)
        for k, side in enumerate((comparison.a, comparison.b))
    )
    return a, b


def result_unequal(comparison: Comparison) -> str:
    """Write the loud sentence of a finished comparison, or nothing."""
    a, b = result_sides(comparison)
    return unequal_html(a, b, (comparison.a.macs, comparison.b.macs))


def differences_html(comparison: Comparison) -> str:
    """Write what differs between the sides of a finished comparison as a table."""
    found = differing(*result_sides(comparison))
    if not found:
        return f'<p class="cmp-sub">{INERT}</p>'
    rows = "".join(
        f'<tr><th scope="row">{escape(row.what)}</th><td>{escape(row.a)}</td><td>{escape(row.b)}'
        "</td></tr>"
        for row in found
    )
    return (
        '<table class="cmp-table cmp-differs"><thead><tr><th scope="col">What differs</th><th'
        f' scope="col">A</th><th scope="col">B</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def stale_html(then: StagePlan, when: str, now: StagePlan) -> str:
    """Say that a result was made with the plan as it was, or nothing where it has not moved."""
    moved = [row.what for row in differences(then, now)]
    if not moved:
        return ""
    return (
        '<p class="cmp-loud cmp-stale" role="status"><b>The plan has moved on.</b> This result was'
        f" made with the plan as it was at {escape(when)}: {escape(_plan_words(then))}. Changed"
        f" since: {escape(', '.join(moved))}.</p>"
    )


def example_html(example: StagePlan | None, now: StagePlan) -> str:
    """Say which plan the example that ships with a model ran, and whether it is the one in hand."""
    if example is None:
        return ""
    moved = [row.what for row in differences(example, now)]
    name = f"“{escape(example.name)}”, " if example.name else ""
    what = f"This finished example ran the plan {name}{escape(_plan_words(example))}."
    if not moved:
        return f'<p class="cmp-note cmp-example">{what} <b>It is the plan in hand.</b></p>'
    return (
        f'<p class="cmp-loud cmp-example" role="status"><b>Not the plan in hand.</b> {what} Yours'
        f" differs: {escape(', '.join(moved))}. Press Compare to see it.</p>"
    )


def _plan_words(plan: StagePlan) -> str:
    """Write a plan's boundaries, what each stage loses in whole per cent, and its guidance."""
    low, high = plan.boundaries
    removed = (f"{s} {percent(x)}" for s, x in as_sampled(plan.sparsity))
    words = f"boundaries {low} and {high}; removed {', '.join(removed)}"
    return f"{words}; guidance {own_guidance(plan)}" if plan.sets_guidance else words


def _kind(plan: StagePlan | None) -> str:
    """Say what a plan does at all: it prunes, or sets guidance, or both."""
    if plan is None:
        return "none"
    if plan.sets_guidance and not any(plan.sparsity):
        return f"guidance {own_guidance(plan)}"
    return with_own_guidance("pruned", plan)


def _short(a: SideRun, b: SideRun, found: list[Difference]) -> str:
    """Write the differences on one line."""
    words = [f"{row.what} {row.a} → {row.b}" for row in found if row.what != "plan"]
    if (a.plan is None) != (b.plan is None):
        words.insert(0, "plan " + " → ".join(_kind(s.plan) for s in (a, b)))
    return f"<b>Differs:</b> {escape('; '.join(words))}; nothing else."
