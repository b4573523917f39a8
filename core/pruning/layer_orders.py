"""Find the order, the damping and the error curves of single layers, from the bins on the disk.

The orders of layers of equal width, and of equal heads, are searched side by side where that pays:
on a GPU, where a pick is some twenty launches whatever the number of layers. Everything else goes
layer by layer.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..calibration.bank import GramBank
from ..calibration.preflight import ORDERING
from ..errors import Stopped
from ..graphs import CudaGraphs
from ..memory import free_memory
from ..models.layers import PrunableLayer
from ..progress import Progress
from .compensation import compensated_weights
from .cuts import consumer_of, kept_columns
from .damped_problem import DampedProblem, search_dtype
from .greedy import BLOCK
from .layer_error import LEAST_ENERGY, output_energy
from .obs import DAMPINGS, RemovalPath
from .order_checkpoints import OrderedLayer, SearchedOrder
from .picker import Picker

WIDE = 2048  # columns from which a layer takes long enough to report its steps
SEARCH_DAMPING = 1e-3  # of the order; the curves have the layer's own
FREE_SHARE = 0.8  # of the free memory that layers side by side may take
# searches of one shape from which capturing the picks pays: a capture takes four times as long as
# the picks themselves
CAPTURES_PAY = 5


@dataclass
class OrderWatch:
    """Progress and stop of a run that finds orders, counted in finished layers."""

    layers: list[PrunableLayer]
    progress: Progress | None = None
    stop: threading.Event | None = None
    done: int = 0

    def check(self) -> None:
        """Raise Stopped when the run is to stop."""
        if self.stop is not None and self.stop.is_set():
            raise Stopped(
                f"Stopped while ordering; all bins and {self.done} of {len(self.layers)} layers are"
                " kept, the next run goes on from there."
            )

    def report(self, i: int, text: str, detail: bool = False) -> None:
        """Report a step of layer `i`. Raises Stopped.

        Details are reported only for wide layers, which take long enough for them to be read.
        """
        self.check()
        if self.progress is not None and not (detail and self.layers[i].width < WIDE):
            self.progress(self.done, len(self.layers), f"{text} of {self.layers[i].name}")


class LayerOrders:
    """Order, damping and curves of the layers of one model, from one bank.

    damping: of the curves, for all layers; None chooses one per layer.
    """

    def __init__(
        self,
        transformer: nn.Module,
        layers: list[PrunableLayer],
        bank: GramBank,
        damping: float | None,
        watch: OrderWatch,
    ):
        self.transformer, self.layers, self.bank = transformer, layers, bank
        self.damping, self.watch = damping, watch
        self._picker: Picker | None = None
        self._shapes: Counter[tuple[int, int]] = Counter()  # of the stacks

    @property
    def _device(self) -> torch.device:
        """Return the device of the weights."""
        return consumer_of(self.transformer, self.layers[0]).weight.device

    def weight(self, i: int) -> Tensor:
        """Return the fp32 weight (d, n) of a layer."""
        return consumer_of(self.transformer, self.layers[i]).weight.detach().float()

    def stacks(self, pending: Sequence[int], most: int | None = None) -> list[list[int]]:
        """Cut layers into those whose orders are searched side by side, the earliest first.

        most: as `side_by_side` of `core.pruning.orders.find_orders`. Layers of one width, and heads
        of one size and number of outputs, are cut evenly, so that captured picks serve all of their
        stacks.
        """
        alike: dict[tuple[int, ...], list[int]] = {}
        for i in pending:
            layer = self.layers[i]
            outputs = () if layer.group_size == 1 else (len(self.weight(i)),)
            key = (layer.width, layer.group_size, *outputs)
            alike.setdefault(key, []).append(i)
        stacks = []
        for places in alike.values():
            parts = -(-len(places) // self._most(places[0], most))
            size = -(-len(places) // parts)
            stacks += [places[k : k + size] for k in range(0, len(places), size)]
        self._shapes = Counter(self._shape(stack) for stack in stacks)
        # a picker serves one shape at a time, so stacks of one shape then stay together
        return stacks if self._pays() else sorted(stacks)

    def _most(self, i: int, most: int | None) -> int:
        """Return how many layers like layer `i` may walk side by side."""
        if most is None and self._device.type != "cuda":
            return 1
        free = free_memory(self._device)
        d, n = consumer_of(self.transformer, self.layers[i]).weight.shape
        fit = 1
        if free is not None:
            dtype = search_dtype("auto", n)
            fit = most_side_by_side(n, d, dtype, free, self.layers[i].group_size)
        return fit if most is None else max(1, min(fit, most))

    def _shape(self, stack: Sequence[int]) -> tuple[int, int]:
        """Return what searches must share to share captured picks: width and number of layers."""
        layer = self.layers[stack[0]]
        return (layer.width if layer.group_size == 1 else 0, len(stack))

    def _pays(self) -> list[tuple[int, int]]:
        """Return the shapes with so many searches on CUDA that capturing their picks pays."""
        if self._device.type != "cuda":
            return []
        return [shape for shape, n in self._shapes.items() if shape[0] and n >= CAPTURES_PAY]

    def _picker_of(self, stack: Sequence[int]) -> Picker | None:
        """Return what captures the picks of a stack; None where that is not to be."""
        if self._shape(stack) not in self._pays():
            return None
        if self._picker is None:
            self._picker = Picker(CudaGraphs(self._device))
        return self._picker

    def search(self, stack: Sequence[int]) -> Iterator[tuple[int, SearchedOrder]]:
        """Yield each layer of a stack with its order, all of them searched side by side.

        Raises Stopped, StudioError.
        """
        if not stack:
            return
        picker = self._picker_of(stack)
        problems = [replace(self._problem(i), picker=picker) for i in stack]
        paths = RemovalPath.from_problems(problems, SEARCH_DAMPING, tick=self.watch.check)
        for i, path in zip(stack, paths, strict=True):
            searched = SearchedOrder(path.order, path.rung)
            del path  # as large as the memory that a bin needs
            yield i, searched

    def _problem(self, i: int) -> DampedProblem:
        """Return the problem of one layer on the Gram of all bins."""
        self.watch.report(i, "finding the removal order")
        edges, weight = self.bank.settings.edges, self.weight(i)
        pooled = self.bank.gram(i, edges[0], edges[-1], device=weight.device)[0]
        return DampedProblem.checked(weight, pooled, self.layers[i].group_size, None)

    def ordered(self, i: int, searched: SearchedOrder) -> OrderedLayer:
        """Return everything that is found for a layer, from its order. Raises Stopped."""
        edges, layer, order = self.bank.settings.edges, self.layers[i], searched.order
        weight, damping, rungs = self.weight(i), self.damping, [searched.rung]
        if damping is None:
            self.watch.report(i, "choosing the damping", detail=True)
            damping = choose_damping(weight, self.bank, i, layer, order)
        errors = []
        energy = []
        tokens_per_column = float("inf")
        for b, (low, high) in enumerate(itertools.pairwise(edges)):
            text = f"working out error curve {b + 1} of {self.bank.settings.bins}"
            self.watch.report(i, text, detail=True)
            gram, tokens = self.bank.gram(i, low, high, device=weight.device)
            path = RemovalPath.from_order(
                weight, gram, order, layer.group_size, damping, held_out=gram
            )
            # on the bin itself: the plain error, without the ridge term
            assert path.held_out_errors is not None  # a held-out Gram was given
            errors.append(path.held_out_errors[:: layer.step].clone())
            energy.append(path.energy)
            rungs.append(path.rung)
            tokens_per_column = min(tokens_per_column, tokens / layer.width)
            del path, gram
        return OrderedLayer(
            order=order,
            damping=damping,
            errors=torch.stack(errors),
            energy=torch.tensor(energy, dtype=torch.float64),
            tokens_per_column=tokens_per_column,
            rungs=rungs,
        )


def most_side_by_side(n: int, d: int, dtype: torch.dtype, free: int, group_size: int = 1) -> int:
    """Return how many layers of n columns and d outputs may walk side by side, at least one.

    dtype: of the search. free: bytes. group_size: columns that go together, 1 for neurons. A layer
    takes its float64 Gram and weight, and for its search: of neurons the two matrices (twice where
    picks are captured) and the rows of a block in two forms; of heads the inverse, and the weight
    four times, as it is, whitened and on the way there. The ladder of one layer comes on top.
    """
    item = dtype.itemsize
    search = 4 * n * n + 5 * BLOCK * n if group_size == 1 else n * n + 4 * d * n
    each = 8 * n * n + 12 * d * n + item * search
    return max(1, int(FREE_SHARE * free - ORDERING * 8 * n * n) // each)


def choose_damping(
    weight: Tensor, bank: GramBank, i: int, layer: PrunableLayer, order: Tensor
) -> float:
    """Return the damping with the smallest held-out error at half the groups removed.

    The error is measured on the first two bins and on the last two.
    """
    edges = bank.settings.edges
    kept = order[layer.groups // 2 :].sort().values
    columns = kept_columns(layer, kept, torch.device("cpu"))
    scores = torch.zeros(len(DAMPINGS), dtype=torch.float64)
    for low, high in {
        (edges[0], edges[min(2, len(edges) - 1)]),
        (edges[max(-3, -len(edges))], edges[-1]),
    }:
        gram, held_out = (
            bank.gram(i, low, high, held_out=h, device=weight.device)[0] for h in (False, True)
        )
        base = weight.double()
        energy = output_energy(base, held_out).clamp_min(LEAST_ENERGY)
        for j, damping in enumerate(DAMPINGS):
            difference = compensated_weights(weight, gram, columns, damping).double() - base
            scores[j] += (output_energy(difference, held_out) / energy).cpu()
    return DAMPINGS[int(scores.argmin())]
