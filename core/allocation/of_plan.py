"""Turn the sparsities of a plan into removed groups per stage and layer.

The paper's rule takes the same share of every layer. The other allocations move work between layers
(and, with scope "run", between stages) at the MACs that equal shares would cost (or at their time,
from the measured times of single layers), using the error curves per bin of a calibration. One
budget for all stages weighs the stages by their sampling steps, which `StagePlan.counted` puts into
a plan, or by the training timesteps that they span, as evenly spaced steps would. Stage by stage no
weights are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..calibration.bank import GramBank
from ..curves.plan import StagePlan
from ..models.layers import PrunableLayer
from ..pruning.orders import RemovalOrders
from .alignment import gives_equal_shares, menu_of
from .allocate import Allocation, allocate, budget_of, uniform
from .problem import AllocationProblem, Costs, make_problem, relative_errors
from .widths import Menu


def sharing_problem(
    layers: Sequence[PrunableLayer],
    orders: RemovalOrders,
    bank: GramBank,
    plan: StagePlan,
    menu: Menu,
    costs: Costs = None,
) -> AllocationProblem:
    """Return the curves of a plan: relative errors per stage and layer at a menu's widths.

    costs: in MACs, or as `make_problem` takes them.
    """
    ranges = [plan.stage_range(i) for i in range(3)]
    seen = ranges if plan.calibration == "stage" else [(0, plan.num_train_timesteps)] * 3
    shares = [np.array(bank.overlap(low, high)) for low, high in seen]
    errors = [
        [
            relative_errors(e, n, share)
            for e, n in zip(orders.error_arrays, orders.energy_arrays, strict=True)
        ]
        for share in shares
    ]
    return make_problem(layers, errors, plan.stage_weights, menu, costs)


def share(
    layers: Sequence[PrunableLayer],
    orders: RemovalOrders,
    bank: GramBank,
    plan: StagePlan,
    costs: Costs = None,
) -> Allocation:
    """Return the allocation of a plan, at most at the cost of equal shares on the free menu.

    A plan of equal shares gets the nearest widths of its menu, a little over or under that cost.
    Work that floors and spared blocks keep is taken from other layers. Raises StudioError for a
    budget that the menu cannot meet.
    """
    menu = menu_of(plan)
    if gives_equal_shares(plan):
        return uniform(sharing_problem(layers, orders, bank, plan, menu, costs), plan.sparsity)
    equal = uniform(sharing_problem(layers, orders, bank, plan, Menu(), costs), plan.sparsity)
    return allocate(
        sharing_problem(layers, orders, bank, plan, menu, costs),
        plan.allocation,
        budget_of(equal),
        plan.scope,
    )
