"""Launch the picks of a block at once: captured as a CUDA graph for every number of columns left.

A pick is a dozen tiny kernels, and a wide layer takes thousands of picks: on a GPU nearly all of a
search is waiting for launches. Searches of equal widths share the graphs of one `Picker`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graphs import Graph, GraphMaker
from .tiled import tile_ends


@dataclass
class SearchSpace:
    """The memory of one search of column orders, as `core.pruning.greedy.order_columns` uses it."""

    state: Tensor  # (2, n, n) lower matrices H^-1 and G
    floor: Tensor  # (n,)
    ids: Tensor  # (n,) columns in their present places
    ends: Tensor  # (n,) of the tiles
    order: Tensor  # (n,) result
    costs: Tensor  # (n,) result
    rows: Tensor  # (2, block, n)

    @classmethod
    def around(cls, state: Tensor, floor: Tensor, block: int) -> SearchSpace:
        """Return the memory of a search that uses up `state` (2, n, n); floor: (n,), copied."""
        n = len(floor)
        ids = torch.arange(n, device=floor.device)
        return cls(
            state=state,
            floor=floor.clone(),
            ids=ids,
            ends=tile_ends(n, floor.device),
            order=torch.empty_like(ids),
            costs=torch.empty_like(floor),
            rows=state.new_empty(2, min(block, n), n),
        )

    def fits(self, state: Tensor, block: int) -> bool:
        """Say whether another search, of a state and blocks like these, can run in this memory."""
        own = self.state
        same = (own.shape, own.dtype, own.device) == (state.shape, state.dtype, state.device)
        return same and self.rows.shape[1] == min(block, state.shape[1])

    def take(self, state: Tensor, floor: Tensor) -> None:
        """Begin another search of the same width in this memory."""
        self.state.copy_(state)
        self.floor.copy_(floor)
        torch.arange(len(floor), out=self.ids)

    def block(self, n: int, steps: int) -> tuple[Tensor, ...]:
        """Return the views for the next `steps` picks with n columns left.

        State, floor, ends, rows, picked and costs, as `pick_columns` takes them.
        """
        done = len(self.order) - n
        return (
            self.state[:, :n, :n],
            self.floor[:n],
            self.ends[:n],
            self.rows[:, :steps, :n],
            self.order[done : done + steps],
            self.costs[done : done + steps],
        )


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
