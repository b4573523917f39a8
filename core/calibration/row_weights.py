"""Weigh calibration rows: options, none of them the default.

None has improved a result in a measurement so far.

guidance: with e = u + g (c - u) the error of the conditional row counts g^2, that of the
unconditional one (g - 1)^2. gate: a DiT block adds gate(t, c) * (W x + b) to its stream, so a row
counts with the mean square of its gate over the channels. timestep: the logarithm of t, as errors
made early in sampling pass through all later steps (OBS-Diff, 2025, weighs its steps in this way).
A weight multiplies x x^T. The weights of a bin have a mean of 1, so bins still add up as tokens do;
`timestep` weighs whole bins instead.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import StudioError
from ..models.families import family_of
from ..models.layers import PrunableLayer

WEIGHTINGS = ("even", "guidance", "gate", "timestep")


def bin_weights(edges: Sequence[int], weighting: str) -> list[float]:
    """Return the weight of each timestep bin: 1, or with "timestep" the logarithm of its middle.

    That is ln(2 + t) at the middle over ln(2 + T) at the last timestep.
    """
    if weighting != "timestep":
        return [1.0] * (len(edges) - 1)
    return [
        math.log(2 + (a + b) / 2) / math.log(2 + edges[-1]) for a, b in itertools.pairwise(edges)
    ]


def check_weighting(model: nn.Module, layers: Sequence[PrunableLayer], weighting: str) -> None:
    """Raise StudioError for a weighting by gates on a model that has none."""
    if weighting != "gate":
        return
    for layer in layers:
        block = model.get_submodule(layer.module.rpartition(".")[0])
        if type(getattr(block, "norm1", None)).__name__ != "AdaLayerNormZero":
            raise StudioError(
                "Only a DiT's blocks have gates to weigh rows by; choose another weighting."
            )


class RowWeights:
    """A context manager that weighs the rows of the forward passes inside it.

    The rows of a pass are [conditional rows, unconditional rows]. guidance: g of the weighting of
    that name; None: the default of the family. Raises StudioError for gates on a model without.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[PrunableLayer],
        weighting: str,
        guidance: float | None = None,
    ):
        self.kinds = [layer.kind for layer in layers]
        self.blocks = [layer.module.rpartition(".")[0] for layer in layers]
        self.weighting, self.model = weighting, model
        self.guidance = 1.0 if guidance is None else guidance
        if weighting == "guidance" and guidance is None:
            self.guidance = family_of(model).guidance
        self._gates: dict[tuple[str, str], Tensor] = {}
        self._handles: list[RemovableHandle] = []
        check_weighting(model, layers, weighting)

    def of(self, layer: int, rows: int) -> Tensor | None:
        """Return weights (rows,) for a layer, or None where all rows count the same."""
        if self.weighting == "guidance":
            half = torch.full((rows // 2,), 1.0)
            return torch.cat([half * self.guidance**2, half * (self.guidance - 1) ** 2])
        if self.weighting == "gate":
            return self._gates[self.blocks[layer], self.kinds[layer]]
        return None

    def __enter__(self) -> RowWeights:
        if self.weighting == "gate":
            self._handles = [
                self.model.get_submodule(f"{b}.norm1").register_forward_hook(self._keep_gates(b))
                for b in dict.fromkeys(self.blocks)
            ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._gates.clear()

    def _keep_gates(
        self, block: str
    ) -> Callable[[nn.Module, tuple[object, ...], tuple[Tensor, ...]], None]:
        """Return a hook that keeps the mean squares of a block's gates."""

        def keep(_: nn.Module, _args: tuple[object, ...], output: tuple[Tensor, ...]) -> None:
            # diffusers' AdaLayerNormZero: x, gate_msa, shift_mlp, scale_mlp, gate_mlp
            _x, attention, _shift, _scale, mlp = output
            self._gates[block, "heads"] = attention.float().square().mean(-1)
            self._gates[block, "neurons"] = mlp.float().square().mean(-1)

        return keep
