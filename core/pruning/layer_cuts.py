"""Levels of single layers on stretches of timesteps: compensated cuts and their errors, from Grams
alone.

Everything that is worked out is kept for a while (paths, errors), so that a slider that moves asks
only for what has changed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..calibration.measure import GramBank
from ..models.layers import PrunableLayer
from .cuts import Cut, Damping, kept_columns
from .layer_error import relative_error
from .obs import RemovalPath, compensation
from .orders import RemovalOrders

# of paths kept; 10 MB each on the bundled model's MLPs, 230 MB on DiT-XL/2's
PATH_BYTES = 1_500_000_000
ERRORS_KEPT = 4096


class Surgeon:
    """Cuts for the layers of one model. `bank` and `orders` are asked for at each use, as a
    calibration replaces them.
    """

    def __init__(
        self,
        transformer: nn.Module,
        layers: list[PrunableLayer],
        bank: Callable[[], GramBank],
        orders: Callable[[], RemovalOrders],
    ):
        self.transformer, self.layers, self.bank, self.orders = transformer, layers, bank, orders
        self._lock = threading.Lock()
        self._paths: OrderedDict[tuple, tuple[RemovalPath, float]] = OrderedDict()
        self._errors: OrderedDict[tuple, tuple[float, float]] = OrderedDict()

    def forget(self) -> None:
        """After a new calibration."""
        with self._lock:
            self._paths.clear()
            self._errors.clear()

    def weight(self, layer: int) -> Tensor:
        """The dense consumer weight (d, columns)."""
        return self.transformer.get_submodule(self.layers[layer].consumer).weight.detach()

    def cut(self, layer: int, low: float, high: float, gone: int, method: str = "obs") -> Cut:
        """What remains of a layer after `gone` groups on timesteps [low, high); its weight has the
        kept columns only, so that all cuts fit into memory.

        From the layer's path if it is known already, else from the kept columns alone (a third of
        the work). Same weights.
        """
        x, weight = self.layers[layer], self.weight(layer)
        if not gone:
            return Cut(torch.arange(x.groups), None)
        if method == "magnitude":
            kept = magnitude_kept(weight, x, gone)
            return Cut(kept, weight[:, kept_columns(x, kept, weight.device)])
        if gone == x.groups:
            return Cut(
                torch.arange(0), weight.new_zeros(len(weight), 0), self._constant(layer, low, high)
            )
        orders = self.orders()
        kept, asked = orders.order[layer][gone:].sort().values, orders.damping[layer]
        with self._lock:
            known = self._paths.get((layer, low, high))
        columns = kept_columns(x, kept, weight.device)
        if known is not None:
            return Cut(
                kept,
                known[0].weights_at(gone)[:, columns].to(weight.dtype),
                damping=Damping(asked, known[0].damping, known[0].rung),
            )
        gram, _ = self.bank().gram(layer, low, high)
        best, in_force, rung = compensation(weight.float(), gram.to(weight.device), columns, asked)
        return Cut(kept, best[:, columns].to(weight.dtype), damping=Damping(asked, in_force, rung))

    def _constant(self, layer: int, low: float, high: float) -> Tensor:
        """What remains of a layer that loses everything: b + W mean(x), the best constant."""
        consumer = self.transformer.get_submodule(self.layers[layer].consumer)
        constant = consumer.weight.detach().double() @ self.bank().mean(layer, low, high).to(
            consumer.weight.device
        )
        return (
            constant if consumer.bias is None else constant + consumer.bias.detach().double()
        ).to(consumer.weight.dtype)

    def errors(
        self, layer: int, low: float, high: float, gone: int, method: str = "obs"
    ) -> tuple[float, float]:
        """||W'X - WX||^2 / ||WX||^2 on the calibration tokens of [low,
        high) and on the held-out ones.
        """
        if not gone:
            return 0.0, 0.0
        key = (layer, low, high, gone, method)
        found = _recall(self._errors, key, self._lock)
        if found is None:
            found = self._measure(layer, low, high, gone, method)
            _keep(self._errors, key, found, ERRORS_KEPT, self._lock)
        return found

    def _measure(
        self, layer: int, low: float, high: float, gone: int, method: str
    ) -> tuple[float, float]:
        weight = self.weight(layer).double()
        held_out = self.bank().gram(layer, low, high, held_out=True)[0].to(weight.device)
        if method == "magnitude":
            kept = magnitude_kept(weight, self.layers[layer], gone)
            difference = (-weight).index_fill_(
                1, kept_columns(self.layers[layer], kept, weight.device), 0.0
            )
            return relative_error(
                difference, weight, self.bank().gram(layer, low, high)[0].to(weight.device)
            ), relative_error(difference, weight, held_out)
        if gone == self.layers[layer].groups:
            return self._errors_of_a_constant(layer, low, high, weight, held_out)
        path, mean_diagonal = self._path(layer, low, high)
        difference = path.weights_at(gone).double() - weight
        if path.rung == "eigenvalue floor":  # then the objective is not error plus ridge
            return relative_error(
                difference, weight, self.bank().gram(layer, low, high)[0].to(weight.device)
            ), relative_error(difference, weight, held_out)
        # what the objective counts beside the error
        ridge = path.damping * mean_diagonal * float(difference.square().sum())
        return max(0.0, float(path.errors[gone]) - ridge) / max(path.energy, 1e-30), relative_error(
            difference, weight, held_out
        )

    def _room(self, new: RemovalPath) -> int:
        """How many paths may be kept with this one, at the mean size of those there are."""
        with self._lock:
            sizes = [path.bytes for path, _ in self._paths.values()] + [new.bytes]
        return max(1, int(PATH_BYTES * len(sizes) / sum(sizes)))

    def _errors_of_a_constant(
        self, layer: int, low: float, high: float, weight: Tensor, held_out: Tensor
    ) -> tuple[float, float]:
        """sum ||W x - W m||^2 / sum ||W x||^2, m the mean of the calibration tokens, on those and
        on the held-out ones.
        """
        mean, apart = (
            self.bank().mean(layer, low, high, h).to(weight.device) for h in (False, True)
        )
        gram, tokens = self.bank().gram(layer, low, high)
        found = []
        for matrix, count, own in (
            (gram.to(weight.device), tokens, mean),
            (held_out, self.bank().gram(layer, low, high, held_out=True)[1], apart),
        ):
            energy = ((weight @ matrix) * weight).sum()
            w, m = weight @ own, weight @ mean
            found.append(
                float((energy + count * (m @ m - 2 * w @ m)).clamp_min(0) / energy.clamp_min(1e-30))
            )
        return found[0], found[1]

    def _path(self, layer: int, low: float, high: float) -> tuple[RemovalPath, float]:
        """The whole removal path of a layer on a stretch, and the mean diagonal of its Gram."""
        key = (layer, low, high)
        found = _recall(self._paths, key, self._lock)
        if found is None:
            gram, _ = self.bank().gram(layer, low, high)
            weight, orders = self.weight(layer).float(), self.orders()
            path = RemovalPath.from_order(
                weight,
                gram.to(weight.device),
                orders.order[layer],
                self.layers[layer].group_size,
                orders.damping[layer],
            )
            found = (path, float(gram.diagonal().mean()))
            _keep(self._paths, key, found, self._room(path), self._lock)
        return found


def magnitude_kept(weight: Tensor, layer: PrunableLayer, gone: int) -> Tensor:
    """The baseline's (kept groups,): those with the smallest column norm go, nothing is
    compensated.
    """
    norms = weight.double().square().sum(0).view(layer.groups, layer.group_size).sum(1)
    return norms.argsort()[gone:].sort().values.cpu()


def _recall(store: OrderedDict, key: tuple, lock: threading.Lock) -> Any:
    with lock:
        if key in store:
            store.move_to_end(key)
        return store.get(key)


def _keep(store: OrderedDict, key: tuple, value: Any, most: int, lock: threading.Lock) -> None:
    with lock:
        store[key] = value
        while len(store) > most:
            store.popitem(last=False)
