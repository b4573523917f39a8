"""Say in words what a configuration runs, what it costs and how good its pictures are."""

from __future__ import annotations

from core.curves.guidance_words import own_guidance, own_reuse
from core.curves.plan import StagePlan, as_sampled
from core.tuner.configuration import Configuration
from core.tuner.kept import KeptTune
from core.tuner.record import Cost, Evaluation

from ..methods import METHOD_WORDS
from ..text import fast_text, fewer_text, macs_text, number, percent, plural, seconds_text


def sampler_words(what: Configuration) -> str:
    """Return solver and steps: "UniPC, 8 steps"."""
    return f"{what.scheduler}, {plural(what.steps, 'step')}"


def title(what: Configuration) -> str:
    """Return a name: what it is, where the search did not find it, with its solver and steps."""
    said = sampler_words(what)
    return f"{what.label.capitalize()}: {said}" if what.label else said


def removed_words(plan: StagePlan | None) -> str:
    """Return what a plan removes from its stages, in the order of sampling."""
    if plan is None or not any(plan.sparsity):
        return "nothing removed"
    if len(set(plan.sparsity)) == 1:
        words = f"{percent(plan.sparsity[0])} removed in every stage"
    else:
        shares = ", ".join(f"{stage} {percent(s)}" for stage, s in as_sampled(plan.sparsity))
        words = f"{shares} removed"
    if plan.allocation != "uniform":
        words += f", shared by {METHOD_WORDS[plan.allocation].phrase}"
    return words


def boundary_words(plan: StagePlan | None) -> str:
    """Return where the stages of a plan meet; empty for the dense model."""
    return "" if plan is None else f"stages meet at {plan.boundaries[0]} and {plan.boundaries[1]}"


def plan_parts(what: Configuration) -> list[str]:
    """Return all that a configuration runs, one part per line, without solver and steps."""
    plan, guidance = what.plan, own_guidance(what.plan)
    said = f"guidance {guidance}" if guidance else ""
    parts = [removed_words(plan), said, own_reuse(plan), boundary_words(plan)]
    return [part for part in parts if part]


def cost_words(one: Evaluation, counts: Cost, images: int) -> str:
    """Return what a run costs, with its unit; seconds are predicted."""
    if counts == "macs":
        return f"{macs_text(one.macs)} per image"
    return f"{seconds_text(one.seconds)} predicted, {plural(images, 'image')}"


def ratio_words(one: Evaluation, tune: KeptTune) -> str:
    """Return how much less a run costs than the reference; empty for the reference itself."""
    dense = tune.dense
    if dense is None or one.configuration == tune.reference:
        return ""
    counts = tune.goal.counts
    ratio = dense.cost(counts) / one.cost(counts)
    if counts == "macs":
        return fewer_text(ratio, "MACs than dense")
    return f"predicted {fast_text(ratio)} as dense"


def quality_words(one: Evaluation, tune: KeptTune) -> str:
    """Return the quality of an evaluation with its n, and that on held-out noises."""
    said = f"{number(one.quality)} (n = {one.n})"
    if one.held_out is not None:
        said += f", {number(one.held_out)} on held-out noises (n = {tune.held_out})"
    return said


def short_quality(tune: KeptTune) -> str:
    """Return the name of the quality as a heading has room for it."""
    return "FID" if tune.quality.startswith("FID") else "Distance"
