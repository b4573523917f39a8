"""Round the widths of a plan to what a device likes, and store the rounding in the plan.

A plan that names no multiple of neurons gets the device's own when its networks are built. The
built plan carries that multiple, in a manifest too, so the same plan keeps the same widths on every
other device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..curves.plan import StagePlan
from ..models.alignment import default_multiple
from ..models.layers import PrunableLayer
from .allocate import uniform
from .problem import make_problem
from .widths import Menu


def aligned(plan: StagePlan, device: str) -> StagePlan:
    """Return the plan as it is built on a kind of device ("cpu", "cuda").

    A plan that names a multiple keeps it, and so does one that removes nothing.
    """
    multiple = default_multiple(device)
    if not multiple or plan.multiple or not any(plan.sparsity):
        return plan
    if plan.plain:  # what it counts in is not looked at
        return replace(plan, multiple=multiple, costs="macs")
    return replace(plan, multiple=multiple)


def menu_of(plan: StagePlan) -> Menu:
    """Return the widths that a plan may choose from."""
    return Menu(multiple=plan.multiple or None, min_heads=plan.min_heads, protect=plan.protect)


def gives_equal_shares(plan: StagePlan) -> bool:
    """Say whether each layer of a stage loses the stage's share, rounded to the plan's widths.

    No error curve and no measured time is needed for such a plan.
    """
    return plan.plain or (plan.costs == "macs" and replace(plan, multiple=0).plain)


def equal_shares(layers: Sequence[PrunableLayer], plan: StagePlan) -> list[list[int]]:
    """Return the groups that each layer loses per stage, for a plan of equal shares.

    On coarse widths layers round at places of their own, so that the mean comes out right. A layer
    without a narrower width stays as it is.
    """
    nothing = [np.zeros(layer.groups // layer.step + 1) for layer in layers]  # no error counts
    problem = make_problem(layers, [nothing] * 3, (1, 1, 1), menu_of(plan))
    return [list(row) for row in uniform(problem, plan.sparsity).removed]
