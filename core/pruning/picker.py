"""Pick the columns of a block, and launch the picks at once where a GPU can.

A pick is some twenty tiny kernels, and a wide layer takes thousands of picks: on a GPU nearly all
of a search is waiting for launches. Layers of equal width share each launch (`pick_columns`).
Searches of as many layers of equal width share the graphs of one `Picker`, one graph for every
number of columns left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graphs import Graph, GraphMaker
from .tiled import tile_ends

# state, floor, ends, rows, picked and costs of the next picks, as `pick_columns` takes them
Views = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass
class SearchSpace:
    """The memory of one search of column orders, as `core.pruning.greedy.order_stack` uses it."""

    state: Tensor  # (layers, 2, n, n) lower matrices H^-1 and G
    floor: Tensor  # (layers, n)
    ids: Tensor  # (layers, n) columns in their present places
    ends: Tensor  # (n,) of the tiles
    order: Tensor  # (layers, n) result
    costs: Tensor  # (layers, n) result
    rows: Tensor  # (layers, 2, block, n)

    @classmethod
    def around(cls, state: Tensor, floor: Tensor, block: int) -> SearchSpace:
        """Return the memory of a search that uses up `state` (layers, 2, n, n).

        floor: (layers, n), copied.
        """
        layers, n = floor.shape
        ids = torch.arange(n, device=floor.device).repeat(layers, 1)
        return cls(
            state=state,
            floor=floor.clone(),
            ids=ids,
            ends=tile_ends(n, floor.device),
            order=torch.empty_like(ids),
            costs=torch.empty_like(floor),
            rows=state.new_empty(layers, 2, min(block, n), n),
        )

    def fits(self, state: Tensor, block: int) -> bool:
        """Say whether another search, of a state and blocks like these, can run in this memory."""
        own = self.state
        same = (own.shape, own.dtype, own.device) == (state.shape, state.dtype, state.device)
        return same and self.rows.shape[2] == min(block, state.shape[2])

    def take(self, state: Tensor, floor: Tensor) -> None:
        """Begin another search of as many layers of the same width in this memory."""
        self.state.copy_(state)
        self.floor.copy_(floor)
        self.ids.copy_(torch.arange(floor.shape[1], device=floor.device).expand_as(self.ids))

    def block(self, n: int, steps: int) -> Views:
        """Return the views for the next `steps` picks with n columns left.

        State, floor, ends, rows, picked and costs, as `pick_columns` takes them.
        """
        done = self.order.shape[1] - n
        return (
            self.state[:, :, :n, :n],
            self.floor[:, :n],
            self.ends[:n],
            self.rows[:, :, :steps, :n],
            self.order[:, done : done + steps],
            self.costs[:, done : done + steps],
        )


def pick_columns(
    state: Tensor,
    floor: Tensor,
    ends: Tensor,
    rows: Tensor,
    picked: Tensor,
    costs: Tensor,
    together: bool | None = None,
) -> None:
    """Fill `picked` and `costs` with the next removals and `rows` with their v and x.

    state: (layers, 2, n, n), floor: (layers, n), ends: (n,), rows: (layers, 2, steps, n), picked
    and costs: (layers, steps). together: form the rows of all layers at once, in few launches, and
    wait for nothing; else layer by layer, which is fastest on a CPU. None: together on CUDA.

    Every step across layers copies, or rounds each number once (no fused multiply-add), so that a
    layer's numbers do not depend on how many walk beside it.
    """
    if together is None:
        together = state.device.type == "cuda"
    diagonal = torch.maximum(state[:, 0].diagonal(dim1=1, dim2=2), floor)  # (layers, n)
    norms = state[:, 1].diagonal(dim1=1, dim2=2).clamp_min(0)
    scores, product = torch.empty_like(norms), torch.empty_like(norms)
    form = _rows_together if together else _rows_one_by_one
    for k in range(picked.shape[1]):
        torch.div(norms, diagonal, out=scores)
        j = scores.argmin(1, keepdim=True)  # (layers, 1), and it stays on the device
        picked[:, k : k + 1] = j
        cost = costs[:, k : k + 1].copy_(scores.gather(1, j))
        now = rows[:, :, k]  # (layers, 2, n)
        form(now, state, ends, rows[:, :, :k], j[:, 0])
        now.mul_(diagonal.gather(1, j).rsqrt_()[:, None])
        v, x = now.unbind(1)
        # halves and doubles are exact
        x.sub_(torch.mul(v, cost, out=product), alpha=0.5)
        diagonal.sub_(torch.mul(v, v, out=product))
        torch.maximum(diagonal, floor, out=diagonal)
        # a removed column is never the smallest again
        norms.sub_(torch.mul(v, x, out=product), alpha=2).clamp_min_(0).scatter_(1, j, torch.inf)


def _rows_one_by_one(now: Tensor, state: Tensor, ends: Tensor, before: Tensor, j: Tensor) -> None:
    """Write the rows of H^-1 and G at column j of each layer into `now` (layers, 2, n).

    before: (layers, 2, k, n), the v and x that are stored: the row of H^-1 has since lost the sum
    of v_j v, that of G the sum of v_j x + x_j v. j: (layers,).
    """
    stored = before.shape[2]
    for i, own in enumerate(j.tolist()):
        end, out = int(ends[own]), now[i]
        out[:, :end] = state[i, :, own, :end]
        out[:, end:] = state[i, :, end:, own]
        if stored:
            (v, x), (before_v, before_x), (at_v, at_x) = out, before[i], before[i, :, :, own]
            v.addmv_(before_v.mT, at_v, alpha=-1)
            x.addmv_(before_x.mT, at_v, alpha=-1).addmv_(before_v.mT, at_x, alpha=-1)


def _rows_together(now: Tensor, state: Tensor, ends: Tensor, before: Tensor, j: Tensor) -> None:
    """Do what `_rows_one_by_one` does for all layers at once, without a wait for a GPU.

    The sums are taken by halves, elementwise: the additions come in the same order whatever the
    number of layers, which batched products of CUDA's libraries do not promise.
    """
    below = torch.arange(now.shape[2], device=j.device) < ends.index_select(0, j)[:, None, None]
    torch.where(below, each_at(state, 2, j), each_at(state, 3, j), out=now)
    left = before.shape[2]
    if not left:
        return
    at = each_at(before, 3, j)  # (layers, 2, k)
    terms = before * at[:, :1, :, None]
    terms[:, 1].add_(before[:, 0] * at[:, 1, :, None])
    while left > 1:
        half = (left + 1) // 2
        terms[:, :, : left - half].add_(terms[:, :, half:left])
        left = half
    now.sub_(terms[:, :, 0])


def each_at(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return what stands at one index of `dim` per layer; index: (layers,), the first dimension."""
    sizes = [*tensor.shape]
    sizes[dim] = 1
    return tensor.gather(dim, index.view(-1, *[1] * (tensor.ndim - 1)).expand(sizes)).squeeze(dim)


class Picker:
    """Captured picks for searches on one device, one search at a time.

    Where a capture fails, the picks run one after another from then on, with the same result.
    """

    def __init__(self, graphs: GraphMaker):
        self.maker = graphs
        self.plain = False  # whether captures failed
        self.captured = 0  # graphs so far
        # of the latest width alone: a wide state takes 170 MB
        self._space: SearchSpace | None = None
        self._graphs: dict[int, Graph] = {}  # columns left -> the graph of their picks

    def space(self, state: Tensor, floor: Tensor, block: int) -> SearchSpace:
        """Return the memory of a search, filled; the graphs of its width belong to it."""
        space = self._space
        if space is None or not space.fits(state, block):
            self._space, self._graphs = SearchSpace.around(state.clone(), floor, block), {}
            return self._space
        space.take(state, floor)
        return space

    def pick(self, pick: Callable[..., None], n: int, steps: int) -> None:
        """Call `pick` on the next block of the latest space, captured where that can be."""
        assert self._space is not None  # a search asks for its space first
        views = self._space.block(n, steps)
        if n not in self._graphs and not self.plain:
            try:
                self._graphs[n] = self.maker.capture(lambda: pick(*views))
                self.captured += 1
            except RuntimeError:  # out of memory among them
                self.plain = True
        if self.plain:
            pick(*views)
        else:
            self._graphs[n].replay()
