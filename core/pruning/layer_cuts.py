"""Compute compensated cuts of single layers, and their errors, from Grams alone.

A cut is for a stretch of timesteps.

Paths and errors that were computed last are kept, so that a slider that moves asks only for what
has changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..calibration.bank import GramBank
from ..errors import NotCalibrated, StudioError
from ..lru_cache import Recent
from ..memory import free_memory
from ..models.layers import PrunableLayer
from .compensation import compensation, compensations
from .cuts import Cut, Damping, kept_columns
from .obs import RemovalPath
from .orders import RemovalOrders

# of paths kept; 10 MB each on the bundled model's MLPs, 230 MB on DiT-XL/2's
PATH_BYTES = 1_500_000_000
ERRORS_KEPT = 4096
CURVE_POINTS_KEPT = 16384
# kept columns up to which layers are compensated in batches; a judgement, not measured yet
SMALL = 1024
FLOOR = "eigenvalue floor"  # the rung on which the objective is not error plus ridge
FREE_SHARE = 0.5  # of a GPU's free memory that a batch may take


class LayerPruner:
    """Cuts of single layers of one model, from the bank and the removal orders of one calibration.

    orders: None where there are none; then only magnitude cuts can be made, and `refusal` is raised
        for others. Thread-safe.
    """

    def __init__(
        self,
        transformer: nn.Module,
        layers: list[PrunableLayer],
        bank: GramBank,
        orders: RemovalOrders | None,
        refusal: StudioError | None = None,
    ):
        self.transformer, self.layers, self.bank = transformer, layers, bank
        self.known_orders = orders
        self.refusal = NotCalibrated() if refusal is None else refusal
        # (layer, low, high) -> removal path, mean diagonal of the Gram
        self._paths: Recent[tuple[int, float, float], tuple[RemovalPath, float]] = Recent()
        # (layer, low, high, removed, method) -> errors as `errors` returns them
        self._errors: Recent[tuple[int, float, float, int, str], tuple[float, float]] = Recent()
        # the same key -> error on calibration tokens alone
        self._fitted: Recent[tuple[int, float, float, int, str], float] = Recent()

    @property
    def orders(self) -> RemovalOrders:
        """Return the removal orders. Raises the refusal where there are none."""
        if self.known_orders is None:
            raise self.refusal.with_traceback(None)
        return self.known_orders

    def weight(self, layer: int) -> Tensor:
        """Return the dense consumer weight (d, columns)."""
        return self._consumer(layer).weight.detach()

    def kept(self, layer: int, removed: int, method: str = "obs") -> Tensor:
        """Return the groups (kept,), ascending, that stay after `removed` groups of a layer went.

        They are the same in every stage, as there is one removal order. Raises NotCalibrated where
        there is none.
        """
        prunable = self.layers[layer]
        if removed in (0, prunable.groups):
            return torch.arange(prunable.groups - removed)
        if method == "magnitude":
            return magnitude_kept(self.weight(layer), prunable, removed)
        return self.orders.order[layer][removed:].sort().values

    def cut(self, layer: int, low: float, high: float, removed: int, method: str = "obs") -> Cut:
        """Return what remains of a layer after `removed` groups on timesteps [low, high).

        The weight of the cut has the kept columns only, so that all cuts fit into memory. It comes
        from the layer's path where that is kept, else from the kept columns alone (a third of the
        work): the same weights either way. Raises NotCalibrated, StudioError for a damaged file.
        """
        prunable, weight = self.layers[layer], self.weight(layer)
        if not removed:
            return Cut(torch.arange(prunable.groups), None)
        kept = self.kept(layer, removed, method)
        columns = kept_columns(prunable, kept, weight.device)
        if method == "magnitude":
            return Cut(kept, weight[:, columns])
        if removed == prunable.groups:
            nothing = weight.new_zeros(len(weight), 0)
            return Cut(kept, nothing, self._constant(layer, low, high))
        asked = self.orders.damping[layer]
        known = self._paths.find((layer, low, high))
        if known is not None:
            path = known[0]
            best, in_force, rung = path.weights_at(removed), path.damping, path.rung
        else:
            gram, _ = self.bank.gram(layer, low, high, device=weight.device)
            best, in_force, rung = compensation(weight.float(), gram, columns, asked)
        damping = Damping(asked, in_force, rung)
        return Cut(kept, best[:, columns].to(weight.dtype), damping=damping)

    def batches(
        self,
        low: float,
        high: float,
        removed: Sequence[int],
        method: str = "obs",
        together: int | None = None,
    ) -> list[list[int]]:
        """Cut the layers of a stage into those that `cuts` compensates in one batch.

        together: most layers in a batch; None: as many as memory holds on CUDA, one elsewhere.
        Layers of equal width that lose as much go together, where the systems are small: a large
        one fills a GPU alone.
        """
        alike: dict[tuple[int, ...], list[int]] = {}
        for i, (layer, lost) in enumerate(zip(self.layers, removed, strict=True)):
            kept = (layer.groups - lost) * layer.group_size
            alone = method != "obs" or not 0 < kept < layer.width or kept > SMALL
            alone = alone or self._paths.find((i, low, high)) is not None
            outputs = len(self.weight(i))
            key = (i,) if alone else (layer.width, kept, outputs, layer.group_size)
            alike.setdefault(key, []).append(i)
        found = []
        for places in alike.values():
            size = self._most_together(places[0]) if together is None else together
            found += [places[k : k + size] for k in range(0, len(places), size)]
        return sorted(found)

    def cuts(
        self,
        batch: Sequence[int],
        low: float,
        high: float,
        removed: Sequence[int],
        method: str = "obs",
    ) -> list[Cut]:
        """Return `cut` for the layers of one of the `batches`, in their order.

        removed: of every layer of the model. Raises NotCalibrated, StudioError for a damaged file.
        """
        if len(batch) == 1:
            return [self.cut(batch[0], low, high, removed[batch[0]], method)]
        orders, weights, grams, columns, kept = self.orders, [], [], [], []
        for i in batch:
            weights.append(self.weight(i).float())
            grams.append(self.bank.gram(i, low, high, device=weights[-1].device)[0])
            kept.append(orders.order[i][removed[i] :].sort().values)
            columns.append(kept_columns(self.layers[i], kept[-1], weights[-1].device))
        asked = [orders.damping[i] for i in batch]
        found = compensations(weights, grams, columns, asked)
        cuts = []
        for k, (best, in_force, rung) in enumerate(found):
            weight = best[:, columns[k]].to(self.weight(batch[k]).dtype)
            cuts.append(Cut(kept[k], weight, damping=Damping(asked[k], in_force, rung)))
        return cuts

    def _most_together(self, layer: int) -> int:
        """Return how many layers like this one may be compensated in one batch."""
        weight = self.weight(layer)
        free = free_memory(weight.device) if weight.device.type == "cuda" else None
        if free is None:
            return 1
        d, n = weight.shape
        # Gram as given and checked, system, factor and both sides, in float64
        return max(1, int(FREE_SHARE * free) // (8 * (6 * n * n + 4 * d * n)))

    def errors(
        self, layer: int, low: float, high: float, removed: int, method: str = "obs"
    ) -> tuple[float, float]:
        """Return ||W'X - WX||^2 / ||WX||^2 on calibration and on held-out tokens of [low, high).

        Raises NotCalibrated, StudioError for a damaged file.
        """
        if not removed:
            return 0.0, 0.0
        key = (layer, low, high, removed, method)
        errors = self._errors.find(key)
        if errors is None:
            errors = self._measure(layer, low, high, removed, method)
            self._errors.keep(key, errors, ERRORS_KEPT)
        return errors

    def error_curve(
        self, layer: int, low: float, high: float, levels: Sequence[int], method: str = "obs"
    ) -> list[float]:
        """Return `errors` on calibration tokens at each of these numbers of removed groups.

        Held-out tokens are not looked at, so that a curve takes one path and a triangular solve
        per level. Raises NotCalibrated, StudioError for a damaged file.
        """
        weight, prunable, gram = self.weight(layer).double(), self.layers[layer], None

        def error(removed: int) -> float:
            nonlocal gram
            if method == "obs" and removed == prunable.groups:
                return self.errors(layer, low, high, removed)[0]
            if method == "obs":
                path, mean_diagonal = self.path(layer, low, high)
                difference = path.weights_at(removed).double() - weight
                if path.rung != FLOOR:
                    return _fitted_error(path, mean_diagonal, removed, difference)
            else:
                kept = magnitude_kept(weight, prunable, removed)
                columns = kept_columns(prunable, kept, weight.device)
                difference = (-weight).index_fill_(1, columns, 0.0)
            if gram is None:
                gram = self.bank.gram(layer, low, high, device=weight.device)[0]
            return relative_error(difference, weight, gram)

        found = []
        for removed in levels:
            key = (layer, low, high, removed, method)
            known = self._fitted.find(key) if removed else 0.0
            if known is None:
                known = error(removed)
                self._fitted.keep(key, known, CURVE_POINTS_KEPT)
            found.append(known)
        return found

    def path(self, layer: int, low: float, high: float) -> tuple[RemovalPath, float]:
        """Return the removal path of a layer on [low, high) and the mean diagonal of its Gram."""
        key = (layer, low, high)
        known = self._paths.find(key)
        if known is None:
            weight, orders = self.weight(layer).float(), self.orders
            gram, _ = self.bank.gram(layer, low, high, device=weight.device)
            path = RemovalPath.from_order(
                weight,
                gram,
                orders.order[layer],
                self.layers[layer].group_size,
                orders.damping[layer],
            )
            known = (path, float(gram.diagonal().mean()))
            self._paths.keep(key, known, self._most_paths(path))
        return known

    def _consumer(self, layer: int) -> nn.Linear:
        """Return the module whose input columns are cut."""
        consumer = self.transformer.get_submodule(self.layers[layer].consumer)
        assert isinstance(consumer, nn.Linear)  # `find_layers` lists nothing else
        return consumer

    def _constant(self, layer: int, low: float, high: float) -> Tensor:
        """Return the bias (d,) that stands for a whole layer: b + W mean(x), the best constant."""
        consumer = self._consumer(layer)
        weight, bias = consumer.weight.detach(), consumer.bias
        constant = weight.double() @ self.bank.mean(layer, low, high).to(weight.device)
        if bias is not None:
            constant = constant + bias.detach().double()
        return constant.to(weight.dtype)

    def _measure(
        self, layer: int, low: float, high: float, removed: int, method: str
    ) -> tuple[float, float]:
        """Compute what `errors` returns, on calibration and on held-out tokens."""
        weight = self.weight(layer).double()
        held_out = self.bank.gram(layer, low, high, held_out=True, device=weight.device)[0]
        if method == "magnitude":
            kept = magnitude_kept(weight, self.layers[layer], removed)
            columns = kept_columns(self.layers[layer], kept, weight.device)
            difference = (-weight).index_fill_(1, columns, 0.0)
            return self._both_errors(layer, low, high, difference, held_out)
        if removed == self.layers[layer].groups:
            return self._errors_of_a_constant(layer, low, high, weight, held_out)
        path, mean_diagonal = self.path(layer, low, high)
        difference = path.weights_at(removed).double() - weight
        if path.rung == FLOOR:
            return self._both_errors(layer, low, high, difference, held_out)
        fitted = _fitted_error(path, mean_diagonal, removed, difference)
        return fitted, relative_error(difference, weight, held_out)

    def _both_errors(
        self, layer: int, low: float, high: float, difference: Tensor, held_out: Tensor
    ) -> tuple[float, float]:
        """Return the relative error of W' - W on the calibration Gram and on the held-out Gram."""
        weight = self.weight(layer).double()
        fitted = self.bank.gram(layer, low, high, device=weight.device)[0]
        return (
            relative_error(difference, weight, fitted),
            relative_error(difference, weight, held_out),
        )

    def _errors_of_a_constant(
        self, layer: int, low: float, high: float, weight: Tensor, held_out: Tensor
    ) -> tuple[float, float]:
        """Return sum ||W x - W m||^2 / sum ||W x||^2 on calibration and on held-out tokens.

        m is the mean of the calibration tokens in both.
        """
        fitted, tokens = self.bank.gram(layer, low, high, device=weight.device)
        held_out_tokens = self.bank.gram(layer, low, high, held_out=True)[1]
        mean = self.bank.mean(layer, low, high).to(weight.device)
        held_out_mean = self.bank.mean(layer, low, high, held_out=True).to(weight.device)

        def error(gram: Tensor, count: float, own: Tensor) -> float:
            energy = ((weight @ gram) * weight).sum()
            w, m = weight @ own, weight @ mean
            lost = (energy + count * (m @ m - 2 * w @ m)).clamp_min(0)
            return float(lost / energy.clamp_min(1e-30))

        return (
            error(fitted, tokens, mean),
            error(held_out, held_out_tokens, held_out_mean),
        )

    def _most_paths(self, new: RemovalPath) -> int:
        """Return how many paths may be kept with a new one, at the mean size of all of them."""
        sizes = [path.bytes for path, _ in self._paths.values()] + [new.bytes]
        return max(1, int(PATH_BYTES * len(sizes) / sum(sizes)))


def _fitted_error(
    path: RemovalPath, mean_diagonal: float, removed: int, difference: Tensor
) -> float:
    """Return the relative error of a path's level on the tokens that it was made of.

    difference: W' - W (d, n) at this level. Not for the rung FLOOR.
    """
    # what the objective counts beside the error
    ridge = path.damping * mean_diagonal * float(difference.square().sum())
    return max(0.0, float(path.errors[removed]) - ridge) / max(path.energy, 1e-30)


def relative_error(difference: Tensor, weight: Tensor, gram: Tensor) -> float:
    """Return tr(D H D^T) / tr(W H W^T)."""
    return float(
        ((difference @ gram) * difference).sum() / ((weight @ gram) * weight).sum().clamp_min(1e-30)
    )


def magnitude_kept(weight: Tensor, layer: PrunableLayer, removed: int) -> Tensor:
    """Return the groups (kept,) that the magnitude baseline keeps: those of largest column norm."""
    norms = weight.double().square().sum(0).view(layer.groups, layer.group_size).sum(1)
    return norms.argsort()[removed:].sort().values.cpu()
