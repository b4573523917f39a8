"""Which calibration rows count more than others: options, none of them the default, because none
has paid in a measurement so far.

guidance: with e = u + g (c - u) the error of the conditional row counts g^2, that of the
unconditional one (g - 1)^2. gate: a DiT block adds gate(t, c) * (W x + b) to its stream, so a row
counts with the mean square of its gate over the channels. timestep: the logarithm of t, as errors
made early in sampling pass through all later steps (OBS-Diff, 2025, weighs its steps in this way).
A weight multiplies x x^T. The weights of a bin have a mean of 1, so bins still add up as tokens do;
`timestep` weighs whole bins instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import StudioError
from ..models.families import family_of
from ..models.layers import PrunableLayer

WEIGHTINGS = ("even", "guidance", "gate", "timestep")


def bin_weights(edges: Sequence[int], weighting: str) -> list[float]:
    """Weight of each timestep bin: 1, or ln(2 + t) at its middle over that of the last timestep."""
    if weighting != "timestep":
        return [1.0] * (len(edges) - 1)
    return [
        math.log(2 + (a + b) / 2) / math.log(2 + edges[-1])
        for a, b in zip(edges, edges[1:], strict=False)
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
    """Context manager around forward passes of [conditional rows, unconditional rows] that says how
    much each row counts for a layer.

    guidance: g of the weighting of that name; None: the default of the family. Raises StudioError
    for gates on a model that has none.
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
        self.guidance = (
            family_of(model).guidance if weighting == "guidance" and guidance is None else guidance
        )
        self._gates: dict[tuple[str, str], Tensor] = {}
        self._handles: list = []
        check_weighting(model, layers, weighting)

    def of(self, layer: int, rows: int) -> Tensor | None:
        """(rows,) weights, or None where all rows count the same."""
        if self.weighting == "guidance":
            half = torch.full((rows // 2,), 1.0)
            return torch.cat([half * self.guidance**2, half * (self.guidance - 1) ** 2])
        return (
            self._gates[self.blocks[layer], self.kinds[layer]] if self.weighting == "gate" else None
        )

    def __enter__(self) -> RowWeights:
        if self.weighting == "gate":
            self._handles = [
                self.model.get_submodule(b).norm1.register_forward_hook(self._note(b))
                for b in dict.fromkeys(self.blocks)
            ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._gates.clear()

    def _note(self, block: str) -> Callable:
        def note(_: nn.Module, args: tuple, output: tuple[Tensor, ...]) -> None:
            # diffusers' AdaLayerNormZero: x, gate_msa, shift_mlp, scale_mlp, gate_mlp
            _, attention, _, _, mlp = output
            self._gates[block, "heads"], self._gates[block, "neurons"] = (
                g.float().square().mean(-1) for g in (attention, mlp)
            )

        return note
