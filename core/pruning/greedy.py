"""Find exact greedy removal orders (Optimal Brain Surgeon) for columns and for groups.

Saliencies are rescored after every removal. Both searches start from the inverse Gram and remove
what costs least, s_P = tr(W'_P (inverse_PP)^-1 W'_P^T), with W' and the inverse kept up to date.
The textbook loop (ZipLM, Kurtic et al. 2023, algorithm 1) rewrites both in full at every removal;
here columns are lazy. Both return the predicted cost of each removal as well: in float32 that is
the check on how far the numbers can be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .picker import Picker, SearchSpace, each_at, pick_columns
from .tiled import add_product_

# removals between two flushes: large enough for matrix products, small enough that the lazy rows
# stay in cache
BLOCK = 64
NEGATIVE = -1e-6  # of the largest ||W'_j||^2: a squared norm below this is no longer rounding
REBUILDS = 2  # times W'^T W' may be worked out anew in one search before the search is given up

# given the (k,) surviving columns, W'^T W' (k, k) from scratch, or None
Rebuild = Callable[[Tensor], Tensor | None]
Found = tuple[Tensor, Tensor]  # an order, and the cost of each removal


def order_columns(
    state: Tensor,
    floor: Tensor,
    block: int = BLOCK,
    *,
    rebuild: Rebuild | None = None,
    picker: Picker | None = None,
    tick: Callable[[], None] | None = None,
) -> Found | None:
    """Return the greedy order of single columns by s_j = ||W'_j||^2 / inverse_jj, and costs.

    The order equals that of the textbook loop, step by step. state: (2, n, n), the lower matrices
    (see `core.pruning.tiled`) H^-1 and G = W^T W, both used up. floor: (n,) 1 / H_jj, which no
    diagonal entry of the inverse can fall below. rebuild: given the (k,) surviving columns, W'^T W'
    (k, k) from scratch. picker: launches the picks of a block at once; the result is the same.
    tick: called before each block; what it raises ends the search. Returns the order (n,) and the
    cost of each removal (n,), on the state's device; None when squared norms turn negative.

    Removing column j with pivot p = inverse_jj sends the inverse to inverse - v v^T, v = inverse_j
    / sqrt(p), and with g = W'_j^T W' / sqrt(p) and x = g - s_j v / 2 sends G to G - v x^T - x v^T.
    Rows of both are formed only when their column is picked, from at most `block` stored (v, x); a
    flush is two matrix products. No step costs d, none waits for a GPU; a flush waits once or
    twice.
    """
    rebuilds = None if rebuild is None else [rebuild]
    found = order_stack(
        state[None], floor[None], block, rebuilds=rebuilds, picker=picker, tick=tick
    )
    return found[0]


def order_stack(
    state: Tensor,
    floor: Tensor,
    block: int = BLOCK,
    *,
    rebuilds: Sequence[Rebuild] | None = None,
    picker: Picker | None = None,
    tick: Callable[[], None] | None = None,
) -> list[Found | None]:
    """Return what `order_columns` does for each of several layers of equal width, side by side.

    state: (layers, 2, n, n). floor: (layers, n). rebuilds: one per layer. The other arguments as
    there. One pick takes as many launches for all layers as for one. Each layer's numbers are those
    of a search of its own, bit for bit: steps across layers only copy, or round each number once
    (`core.pruning.picker.pick_columns`), and a flush is a product per layer. A layer whose squared
    norms turn negative gives None; the others go on.
    """
    layers, n = floor.shape
    new = SearchSpace.around if picker is None else picker.space
    space = new(state, floor, block)
    state, ids, rows, order = space.state, space.ids, space.rows, space.order
    rebuilt, lost = [0] * layers, [False] * layers
    while n:
        if tick is not None:
            tick()
        done, steps = order.shape[1] - n, min(block, n)
        if picker is None:
            pick_columns(*space.block(n, steps))
        else:
            picker.pick(pick_columns, n, steps)
        picked = order[:, done : done + steps]
        places = picked.sort(1).values
        picked.copy_(ids.gather(1, picked))
        n -= steps
        if not n:
            break
        _close_ranks(state, rows, (ids, space.floor), space.ends, places, n)
        for own, stored in zip(state, rows, strict=True):
            _flush(own[:, :n, :n], stored[:, :, :n], steps)
        lowest, largest = state[:, 1, :n, :n].diagonal(dim1=1, dim2=2).aminmax(dim=1)
        sound = (lowest >= NEGATIVE * largest).tolist()  # False for NaN too
        for i in range(layers):
            if sound[i] or lost[i]:
                continue
            fresh = None
            if rebuilds is not None and rebuilt[i] < REBUILDS:
                fresh = rebuilds[i](ids[i, :n])
            if fresh is None:
                lost[i] = True
                still_(state[i, :, :n, :n], space.floor[i, :n])
            else:
                state[i, 1, :n, :n] = fresh
                rebuilt[i] += 1
        if all(lost):
            break
    costs = space.costs if picker is None else space.costs.clone()  # a picker's are used again
    order = order if picker is None else order.clone()
    return [None if lost[i] else pair for i, pair in enumerate(zip(order, costs, strict=True))]


def still_(state: Tensor, floor: Tensor) -> None:
    """Put harmless numbers in the place of a layer that is given up: H^-1 = I and G = 0."""
    state.zero_()
    state[0].diagonal().fill_(1)
    floor.zero_()


def _flush(state: Tensor, rows: Tensor, steps: int) -> None:
    """Bring one layer's H^-1 and G (2, n, n) up to date with the rows (2, block, n) of a block."""
    both = rows.flatten(0, 1)  # (2 block, n): all v, then all x
    add_product_(state[0], both[:steps], both[:steps], alpha=-1)
    add_product_(state[1], both, rows.flip(0).flatten(0, 1), alpha=-1)


def _close_ranks(
    state: Tensor,
    rows: Tensor,
    vectors: tuple[Tensor, ...],
    ends: Tensor,
    places: Tensor,
    n: int,
) -> None:
    """Move the survivors that stand at n and beyond into the places left empty before n.

    places: (layers, steps), those of the columns just removed, ascending. A few rows and columns
    move; there is no copy of the whole state. The k-th survivor behind n goes to the k-th empty
    place. Where fewer survive there, the rest of the list moves removed columns onto themselves, so
    that every layer moves as many and none waits for a count.
    """
    layers, steps = places.shape
    old = n + steps
    gone = torch.zeros(layers, old, dtype=torch.uint8, device=places.device)
    gone.scatter_(1, places, 1)
    movers = gone[:, n:].sort(dim=1, stable=True).indices.add_(n)  # survivors first
    state, rows = state[:, :, :old, :old], rows[:, :, :, :old]
    each = torch.arange(layers, device=places.device)[:, None]
    below = torch.arange(old, device=places.device) < ends[movers][:, :, None, None]
    # (layers, steps, 2, old)
    moved = torch.where(below, state[each, :, movers], state[each, :, :, movers])
    for rest in (moved, rows):
        into, out_of = (x[:, None, None].expand(*rest.shape[:3], steps) for x in (places, movers))
        rest.scatter_(3, into, rest.gather(3, out_of))
    state[each, :, places] = moved
    state[each, :, :, places] = moved
    for vector in vectors:
        vector.scatter_(1, places, vector.gather(1, movers))


def order_groups(
    inverse: Tensor, w: Tensor, size: int, *, tick: Callable[[], None] | None = None
) -> list[Found | None]:
    """Return the greedy orders of groups by s_g = tr(W'_g (inverse_gg)^-1 W'_g^T), and costs.

    Several layers walk side by side, each on its own: what is batched works on every matrix alone,
    the two products of a removal are a call per layer. So a layer's order is that of a search of
    its own, and its costs differ by rounding at most where a batched solver rounds otherwise.

    inverse: (layers, n, n) H^-1, all of it. w: (layers, d, n). Both are used up. tick: called
    before each removal; what it raises ends the search. Returns per layer the order (n / size,) and
    the cost of each removal, on the device; None where a diagonal block is no longer positive
    definite. Nothing but the end waits for a GPU.
    """
    layers, d, n = w.shape
    groups = n // size
    taken = torch.zeros(layers, groups, dtype=torch.bool, device=w.device)
    sound = torch.ones(layers, dtype=torch.bool, device=w.device)
    eye = torch.eye(size, dtype=w.dtype, device=w.device)
    order, costs = torch.empty_like(taken, dtype=torch.int64), w.new_empty(layers, groups)
    strips = inverse.view(layers, groups, size, n)  # rows of H^-1, group by group
    grid = strips.view(layers, groups, size, groups, size)
    parts = w.view(layers, d, groups, size)
    for k in range(groups):
        if tick is not None:
            tick()
        # (layers, groups, size, size)
        blocks = grid.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        factors, failed = torch.linalg.cholesky_ex(torch.where(taken[..., None, None], eye, blocks))
        sound &= (failed == 0).all(1)
        # (layers, groups, size, d)
        whitened = torch.linalg.solve_triangular(factors, parts.permute(0, 2, 3, 1), upper=False)
        scores = whitened.square().sum((2, 3)).masked_fill_(taken, torch.inf)
        g = scores.argmin(1)  # (layers,), and it stays on the device
        # (layers, size, n)
        v = torch.linalg.solve_triangular(
            each_at(factors, 1, g), each_at(strips, 1, g), upper=False
        )
        picked = each_at(whitened, 1, g)  # (layers, size, d)
        for i in range(layers):
            w[i].addmm_(picked[i].mT, v[i], alpha=-1)
            inverse[i].addmm_(v[i].mT, v[i], alpha=-1)
        _clear_each(strips, 1, g)
        _clear_each(grid, 3, g)
        _clear_each(parts, 2, g)
        taken.scatter_(1, g[:, None], True)
        order[:, k], costs[:, k] = g, each_at(scores, 1, g)
    pairs = zip(sound.tolist(), order, costs, strict=True)
    return [(own, cost) if ok else None for ok, own, cost in pairs]


def _clear_each(tensor: Tensor, dim: int, index: Tensor) -> None:
    """Set to zero what stands at one index of `dim` per layer; index as in `each_at`."""
    sizes = [*tensor.shape]
    sizes[dim] = 1
    tensor.scatter_(dim, index.view(-1, *[1] * (tensor.ndim - 1)).expand(sizes), 0.0)
