"""Put allocations into words: what was done, and why a budget cannot be met."""

from __future__ import annotations

import numpy as np

from ..models.layers import TINY
from .problem import AllocationProblem
from .widths import Menu

METHOD_TITLES = {  # value of StagePlan.allocation -> its name in sentences and on the page
    "uniform": "Equal shares",
    "log_ramp": "Log ramp",
    "lagrangian": "Lagrangian",
    "dynamic": "Dynamic programming",
}


def too_much(problem: AllocationProblem, possible: float, asked: float, stage: str) -> str:
    """Return the refusal of a budget: `possible` and `asked` are shares of the prunable cost.

    `stage` is empty for the whole run.
    """
    limits, remedies = _limits(problem.menu)
    limits = limits or ["every layer keeps a head or some neurons"]
    remedies = [f"lower {'the sparsity of that stage' if stage else 'the sparsities'}", *remedies]
    # rounded apart, so that they never look equal
    most, wish = np.floor(1000 * possible + TINY) / 10, np.ceil(1000 * asked - TINY) / 10
    where = f"The {stage} stage" if stage else "The whole run"
    return (
        f"{where} can lose at most {most:.3g} % of the {unit_word(problem)} of its prunable layers"
        f" ({' and '.join(limits)}), but the plan asks for {wish:.3g} %: {', or '.join(remedies)}."
    )


def _limits(menu: Menu) -> tuple[list[str], list[str]]:
    """Return what the menu holds back, in words, and the remedy of each."""
    limits, remedies = [], []
    if menu.protect:
        kept = "are protected" if menu.protect == 1 else f"keep {100 * menu.protect:.3g} %"
        limits.append(f"the first and the last block {kept}")
        remedies.append("protect no block")
    if menu.multiple:
        limits.append(f"neurons stay in multiples of {menu.multiple}")
        remedies.append("allow finer widths")
    if menu.min_heads > 1:
        limits.append(f"every layer keeps {menu.min_heads} heads")
        remedies.append("let layers keep fewer heads")
    return limits, remedies


def what_was_done(
    problem: AllocationProblem, method: str, scope: str, fineness: float, ratios: str
) -> str:
    """Return the first half of the sentence: method, layers, budget and exactness."""
    count = len(problem.layers)
    where = (
        f"{count} layer{'' if count == 1 else 's'},"
        f" {'one budget for all stages' if scope == 'run' else 'each stage within its own budget'}"
    )
    if method == "dynamic":
        where += (
            f", the optimum up to {100 * fineness:.2g} % of the {unit_word(problem)}"
            if fineness
            else ", the exact optimum"
        )
    idle = [
        name
        for name, n in zip(problem.stages, problem.steps, strict=True)
        if not n and scope == "run"
    ]
    left = (
        f" (no step falls into the {' and '.join(idle)} stage, which stays dense)" if idle else ""
    )
    return f"{METHOD_TITLES[method]}{ratios}, {where}{left}"


def unit_word(problem: AllocationProblem) -> str:
    """Return the word for the unit of cost."""
    return "MACs" if problem.unit == "MACs" else "time"
