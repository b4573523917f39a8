"""Find exact greedy removal orders (Optimal Brain Surgeon) for columns and for groups.

Saliencies are rescored after every removal. Both searches start from the inverse Gram and remove
what costs least, s_P = tr(W'_P (inverse_PP)^-1 W'_P^T), with W' and the inverse kept up to date.
The textbook loop (ZipLM, Kurtic et al. 2023, algorithm 1) rewrites both in full at every removal;
here columns are lazy. Both return the predicted cost of each removal as well: in float32 that is
the check on how far the numbers can be believed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .groups import columns_of_groups
from .picker import Picker, SearchSpace
from .tiled import add_product_

# removals between two flushes: large enough for matrix products, small enough that the lazy rows
# stay in cache
BLOCK = 64
NEGATIVE = -1e-6  # of the largest ||W'_j||^2: a squared norm below this is no longer rounding
REBUILDS = 2  # times W'^T W' may be worked out anew in one search before the search is given up


def order_columns(
    state: Tensor,
    floor: Tensor,
    block: int = BLOCK,
    *,
    rebuild: Callable[[Tensor], Tensor | None] | None = None,
    picker: Picker | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Return the greedy order of single columns by s_j = ||W'_j||^2 / inverse_jj, and costs.

    The order equals that of the textbook loop, step by step. state: (2, n, n), the lower matrices
    (see `core.pruning.tiled`) H^-1 and G = W^T W, both used up. floor: (n,) 1 / H_jj, which no
    diagonal entry of the inverse can fall below. rebuild: given the (k,) surviving columns, W'^T W'
    (k, k) from scratch. picker: launches the picks of a block at once; the result is the same.
    Returns the order (n,) and the cost of each removal (n,), on the state's device; None when
    squared norms turn negative.

    Removing column j with pivot p = inverse_jj sends the inverse to inverse - v v^T, v = inverse_j
    / sqrt(p), and with g = W'_j^T W' / sqrt(p) and x = g - s_j v / 2 sends G to G - v x^T - x v^T.
    Rows of both are formed only when their column is picked, from at most `block` stored (v, x); a
    flush is two matrix products. No step costs d, none waits for a GPU; a flush waits once or
    twice.
    """
    n = len(floor)
    new = SearchSpace.around if picker is None else picker.space
    space = new(state, floor, block)
    state, floor, ids, ends, rows = space.state, space.floor, space.ids, space.ends, space.rows
    order, costs = space.order, space.costs
    rebuilt = 0
    while n:
        done, steps = len(order) - n, min(block, n)
        picked = order[done : done + steps]
        if picker is None:
            pick_columns(*space.block(n, steps))
        else:
            picker.pick(pick_columns, n, steps)
        alive = torch.ones(n, dtype=torch.bool, device=ids.device).index_fill_(0, picked, False)
        order[done : done + steps] = ids[picked]
        n -= steps
        if not n:
            break
        _close_ranks(state, rows, (ids, floor), ends, alive, n)
        inverse, products = state[:, :n, :n]
        both = rows[:, :, :n].flatten(0, 1)  # (2 block, n): all v, then all x
        add_product_(inverse, both[:steps], both[:steps], alpha=-1)
        add_product_(products, both, rows[:, :, :n].flip(0).flatten(0, 1), alpha=-1)
        lowest, largest = products.diagonal().aminmax()
        if not lowest >= NEGATIVE * largest:  # so that NaN counts too
            fresh = rebuild(ids[:n]) if rebuild is not None and rebuilt < REBUILDS else None
            if fresh is None:
                return None
            products.copy_(fresh)
            rebuilt += 1
    return (order, costs) if picker is None else (order.clone(), costs.clone())


def pick_columns(
    state: Tensor, floor: Tensor, ends: Tensor, rows: Tensor, picked: Tensor, costs: Tensor
) -> None:
    """Fill `picked` and `costs` with the next removals and `rows` (2, steps, n) with v and x."""
    diagonal = torch.maximum(state[0].diagonal(), floor)
    norms = state[1].diagonal().clamp_min(0)
    scores = torch.empty_like(norms)
    index = torch.arange(len(floor), device=floor.device)
    for k in range(len(picked)):
        torch.div(norms, diagonal, out=scores)
        j = scores.argmin(0, keepdim=True)  # (1,), and it stays on the device
        picked[k : k + 1] = j
        cost = costs[k : k + 1]
        torch.index_select(scores, 0, j, out=cost)
        now = rows[:, k]  # (2, n)
        torch.where(
            index < ends.index_select(0, j), state[:, j, :][:, 0], state[:, :, j][:, :, 0], out=now
        )
        v, x = now.unbind()
        if k:
            before_v, before_x = rows[:, :k].unbind()  # (k, n)
            at_v, at_x = rows[:, :k, j][:, :, 0].unbind()  # (k,)
            v.addmv_(before_v.mT, at_v, alpha=-1)
            x.addmv_(before_x.mT, at_v, alpha=-1).addmv_(before_v.mT, at_x, alpha=-1)
        now.mul_(diagonal.index_select(0, j).rsqrt_())
        x.addcmul_(v, cost, value=-0.5)
        diagonal.addcmul_(v, v, value=-1)
        torch.maximum(diagonal, floor, out=diagonal)
        # a removed column is never the smallest again
        norms.addcmul_(v, x, value=-2).clamp_min_(0).index_fill_(0, j, torch.inf)


def _close_ranks(
    state: Tensor, rows: Tensor, vectors: tuple[Tensor, ...], ends: Tensor, alive: Tensor, n: int
) -> None:
    """Move the survivors that stand at n and beyond into the places left empty before n.

    A few rows and columns move; there is no copy of the whole state.
    """
    old = len(alive)
    holes, movers = (~alive[:n]).nonzero()[:, 0], alive[n:].nonzero()[:, 0] + n
    if not len(holes):
        return
    state, rows = state[:, :old, :old], rows[:, :, :old]
    below = torch.arange(old, device=ends.device) < ends[movers, None]
    moved = torch.where(below, state[:, movers], state[:, :, movers].mT)  # (2, movers, n)
    moved[:, :, holes] = moved[:, :, movers]
    state[:, holes] = moved
    state[:, :, holes] = moved.mT
    rows[:, :, holes] = rows[:, :, movers]
    for vector in vectors:
        vector[holes] = vector[movers]


def order_groups(inverse: Tensor, w: Tensor, size: int) -> tuple[Tensor, Tensor] | None:
    """Return the greedy order of groups by s_g = tr(W'_g (inverse_gg)^-1 W'_g^T), and costs.

    The saliencies come from batched Cholesky factors of the diagonal blocks. inverse: (n, n) H^-1,
    all of it. w: (d, n). Both are used up. Returns the order (n / size,) and the cost of each
    removal, on the device; None if a diagonal block is no longer positive definite.
    """
    groups = len(inverse) // size
    taken = torch.zeros(groups, dtype=torch.bool, device=w.device)
    sound = torch.ones((), dtype=torch.bool, device=w.device)
    eye = torch.eye(size, dtype=w.dtype, device=w.device)
    order, costs = torch.empty(groups, dtype=torch.int64, device=w.device), w.new_empty(groups)
    for k in range(groups):
        # (groups, size, size)
        blocks = inverse.view(groups, size, groups, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        factors, failed = torch.linalg.cholesky_ex(torch.where(taken[:, None, None], eye, blocks))
        sound &= (failed == 0).all()
        parts = w.view(-1, groups, size).permute(1, 2, 0)  # (groups, size, d)
        whitened = torch.linalg.solve_triangular(factors, parts, upper=False)
        scores = whitened.square().sum((1, 2)).masked_fill_(taken, torch.inf)
        g = scores.argmin(0, keepdim=True)
        mine = columns_of_groups(g, size)
        # (size, n)
        v = torch.linalg.solve_triangular(
            factors.index_select(0, g)[0], inverse.index_select(0, mine), upper=False
        )
        w.addmm_(whitened.index_select(0, g)[0].mT, v, alpha=-1)
        inverse.addmm_(v.mT, v, alpha=-1)
        inverse.index_fill_(0, mine, 0).index_fill_(1, mine, 0)
        w.index_fill_(1, mine, 0)
        taken.index_fill_(0, g, True)
        order[k : k + 1], costs[k : k + 1] = g, scores.index_select(0, g)
    return (order, costs) if sound.item() else None
