"""Say in words which guidance and reuse a plan sets, and which rows its figures count."""

from __future__ import annotations

from collections.abc import Sequence

from ..guidance import half_of
from .plan import STAGES, StagePlan, as_sampled

RUNS_OWN = "the run's own"


def scale_words(scale: float | None) -> str:
    """Return the guidance of one stage in words; None is the run's own."""
    if scale is None:
        return RUNS_OWN
    return {"conditional": "off", "unconditional": "0"}.get(half_of(scale), f"{scale:g}")


def own_guidance(plan: StagePlan | None) -> str:
    """Return what a plan sets, in sampling order: "off early and late, 3 middle".

    Empty where it sets nothing, as for the dense model (None).
    """
    stages: dict[str, list[str]] = {}  # by the words of their scale
    for stage, scale in as_sampled((None,) * 3 if plan is None else plan.guidance):
        if scale is not None:
            stages.setdefault(scale_words(scale), []).append(stage)
    return ", ".join(f"{words} {listed(names)}" for words, names in stages.items())


def listed(stages: Sequence[str]) -> str:
    """Return names of stages as people list them: "early", "early and late"."""
    if len(stages) == len(STAGES):
        return "in every stage"
    return " and ".join(stages)


def own_reuse(plan: StagePlan | None) -> str:
    """Return where a plan reuses what its steps gave: "1 of 2 steps in full early and middle".

    And whether the steps between are forecast from more than one of those. Empty where it does not
    reuse, as for the dense model (None).
    """
    stages: dict[int, list[str]] = {}
    for stage, k in as_sampled((1, 1, 1) if plan is None else plan.reuse):
        if k > 1:
            stages.setdefault(k, []).append(stage)
    parts = [f"1 of {k} steps in full {listed(names)}" for k, names in stages.items()]
    if parts and plan is not None and plan.reuse_order:
        parts.append("the others forecast")
    return ", ".join(parts)


def with_own_guidance(words: str, plan: StagePlan | None) -> str:
    """Return words about a plan, followed by the guidance and reuse that it sets, if any."""
    guidance, reuse = own_guidance(plan), own_reuse(plan)
    parts = [words, f"guidance {guidance}" if guidance else "", reuse]
    return ", ".join(part for part in parts if part)


def rows_words(rows: Sequence[int]) -> str:
    """Say which halves of a guided pair figures count; rows: of the late, middle, early stage."""
    one = [stage for stage, count in as_sampled(rows) if count == 1]
    if not one:
        return "both guidance halves"
    if len(one) == len(STAGES):
        return "one guidance half"
    return f"both guidance halves, one alone {listed(one)}"
