"""Launch the picks of a block at once: captured as a CUDA graph for every number of columns left.

A pick is a dozen tiny kernels, and a wide layer takes thousands of picks: on a GPU nearly all of a
search is waiting for launches. Searches of equal widths share the graphs of one `Picker`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

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


@dataclass
class _Known:
    """The memory of searches of one width, and their graphs by the number of columns left."""

    space: SearchSpace
    graphs: dict[int, Graph] = field(default_factory=dict)


class Picker:
    """Captured picks for searches on one device, one search at a time.

    Where a capture fails, the picks run one after another from then on, with the same result.
    """

    def __init__(self, graphs: GraphMaker):
        self.maker = graphs
        self.plain = False  # whether captures failed
        self.captured = 0  # graphs so far
        self._known: dict[Hashable, _Known] = {}

    def space(self, state: Tensor, floor: Tensor, block: int) -> SearchSpace:
        """Return the memory of a search, filled; the graphs of its width belong to it."""
        key = (state.shape, state.dtype, state.device, block)
        if key not in self._known:
            # of one width at a time: a wide state takes 170 MB
            self._known = {key: _Known(SearchSpace.around(state.clone(), floor, block))}
        space = self._known[key].space
        space.take(state, floor)
        return space

    def pick(self, pick: Callable[..., None], space: SearchSpace, n: int, steps: int) -> None:
        """Call `pick(*space.block(n, steps))`, captured where that can be."""
        views = space.block(n, steps)
        known = next((k for k in self._known.values() if k.space is space), None)
        if self.plain or known is None:
            pick(*views)
            return
        if n not in known.graphs:
            try:
                known.graphs[n] = self.maker.capture(lambda: pick(*views))
            except RuntimeError:  # out of memory among them
                self.plain = True
                pick(*views)
                return
            self.captured += 1
        known.graphs[n].replay()
