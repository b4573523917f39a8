"""Count the multiply-accumulates of one model's forwards, dense and with layers cut."""

from __future__ import annotations

from torch import nn

from ..models.families import first_parameter
from ..models.layers import PrunableLayer, find_layers, removed_groups
from ..mosaic.adaln import OnceEmbedder, embedders
from ..mosaic.adaln_table import labels_that_fit, row_macs
from ..sampling.timing import model_macs

Shape = tuple[int, int, int]  # latents (c, h, w) of one image


class ModelMacs:
    """MACs of one model: of one forward of one row, at the model's own latent shape or another.

    layers: the prunable layers as they cost at the own shape.
    network: the model whose dense forward is counted (a mosaic's `full` network).
    """

    def __init__(
        self,
        transformer: nn.Module,
        network: nn.Module,
        layers: list[PrunableLayer],
        latent_shape: Shape,
    ):
        self.transformer, self.network = transformer, network
        self.layers, self.latent_shape = layers, latent_shape
        self._counted: dict[Shape, tuple[list[PrunableLayer], int, int]] = {}

        first = next(iter(embedders(network).values()), None)
        # of one pair of timestep and label: what a table takes out of a forward; 0: no table
        self.conditioning = row_macs(network) if isinstance(first, OnceEmbedder) else 0

    def has_table(self, steps: int, labels: int) -> bool:
        """Say whether a run of so many steps and different labels has a table of adaLN vectors."""
        if not self.conditioning:
            return False
        dtype = first_parameter(self.network).dtype
        return labels <= labels_that_fit(self.network, steps, dtype)

    def forward(self, shape: Shape | None = None) -> tuple[int, int]:
        """Return (linear and convolution, attention) MACs of a dense forward of one row.

        Attention products are counted by formula. The adaLN vectors are worked out in it.
        """
        return self._at(shape)[1:]

    def removed(self, sparsity: float) -> list[int]:
        """Return the groups that each layer loses at one sparsity for all, in `layers` order."""
        return removed_groups(self.layers, sparsity)

    def row(
        self,
        removed: list[int] | float,
        shape: Shape | None = None,
        tabulated: bool = False,
    ) -> float:
        """Return linear and convolution MACs of one forward of one row of a cut network.

        removed: the groups that each layer loses, or one sparsity for all. tabulated: the adaLN
        vectors come from a table, where the model can have one.
        """
        layers, dense, _ = self._at(shape)
        if tabulated:
            dense -= self.conditioning
        widths = removed if isinstance(removed, list) else self.removed(removed)
        return dense - sum(
            layer.macs_per_group * lost for layer, lost in zip(layers, widths, strict=True)
        )

    def _at(self, shape: Shape | None) -> tuple[list[PrunableLayer], int, int]:
        """Return the layers as they cost at a shape, and `forward` of it."""
        own = shape or self.latent_shape
        if own not in self._counted:
            layers = self.layers
            if own != self.latent_shape:
                layers = find_layers(self.transformer, own)
            attention = sum(x.attention_macs_per_group * x.groups for x in layers)
            self._counted[own] = (layers, model_macs(self.network, own)[0], attention)
        return self._counted[own]
