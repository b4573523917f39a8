"""Find what may shrink: attention heads and MLP neurons of a DiT or of SDXL's UNet.

A `PrunableLayer` names one consumer linear whose input columns are removed (an attention output
projection or a second MLP layer) together with the rows of the layers that feed it. Everything else
keeps its width. What cannot be pruned is refused with the reason (`core.models.refusals`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import StudioError
from .families import family_of
from .refusals import refuse_block, refuse_hooked, refuse_wrapped
from .shapes import BlockSite

GOLDEN = 0.618033988749895
TINY = 1e-9  # 2.4999999 of a product must count as 2.5
# kept MLP widths are multiples of this; CPU time follows width closely, so a small step is enough
NEURON_STEP = 16


@dataclass(frozen=True)
class PrunableLayer:
    """One layer that loses groups of input columns."""

    name: str  # "block 3 heads"
    block: int
    kind: str  # "heads" or "neurons"
    module: str  # module path of the attention or MLP that shrinks
    consumer: str  # module path of the linear whose columns go
    groups: int  # heads, or neurons
    group_size: int  # columns per group: head_dim, or 1
    weights_per_group: int  # parameters that go with one group, biases included
    # multiply-accumulates of linear layers, one forward of one image, that go with one group
    macs_per_group: int
    attention_macs_per_group: int = 0  # the same of attention products (scores and weighted sums)

    @property
    def step(self) -> int:
        """Return the multiple in which groups are removed."""
        return 1 if self.kind == "heads" else min(NEURON_STEP, self.groups)

    @property
    def width(self) -> int:
        """Return the number of input columns of the consumer."""
        return self.groups * self.group_size


def find_layers(model: nn.Module, shape: tuple[int, int, int] | None = None) -> list[PrunableLayer]:
    """Return the prunable layers, block by block: self-attention, cross-attention (SDXL), MLP.

    MACs are those at latents of `shape` (c, h, w), by default the model's own. Raises StudioError
    with the reason when the model cannot be pruned safely.
    """
    family = family_of(model)
    sites = family.sites(model, shape)
    if not sites:
        raise StudioError(
            f"This {family.name} has no transformer blocks, so there is nothing to prune."
        )
    refuse_wrapped(model)
    layers = []
    for i, site in enumerate(sites):
        block = model.get_submodule(site.path)
        refuse_block(block, family, f"{site.name[0].upper()}{site.name[1:]}")
        layers += _layers_of(block, i, site)
    refuse_hooked(model)
    return layers


def _layers_of(block: Any, i: int, site: BlockSite) -> list[PrunableLayer]:
    """Return the layers of one block; `i` counts the blocks."""
    layers = []
    crossed = getattr(block, "attn2", None) is not None
    if getattr(block, "attn1", None) is not None:
        kind = "self-attention heads" if crossed else "heads"
        layers.append(_heads(block.attn1, i, site, "attn1", kind=kind, context=site.tokens))
    if crossed:
        kind = "cross-attention heads"
        layers.append(_heads(block.attn2, i, site, "attn2", kind=kind, context=site.context))
    layers.append(_neurons(block.ff, i, site))
    return layers


def _heads(
    attention: Any, i: int, site: BlockSite, part: str, kind: str, context: int
) -> PrunableLayer:
    """Return the heads of one attention over `context` tokens."""
    out = attention.to_out[0]
    head_dim = out.in_features // attention.heads
    width = attention.to_q.in_features
    memory = attention.to_k.in_features  # of the context
    biases = sum(m.bias is not None for m in (attention.to_q, attention.to_k, attention.to_v))
    return PrunableLayer(
        name=f"{site.name} {kind}",
        block=i,
        kind="heads",
        module=f"{site.path}.{part}",
        consumer=f"{site.path}.{part}.to_out.0",
        groups=attention.heads,
        group_size=head_dim,
        weights_per_group=head_dim * (width + 2 * memory + out.out_features + biases),
        macs_per_group=head_dim * ((width + out.out_features) * site.tokens + 2 * memory * context),
        attention_macs_per_group=2 * head_dim * site.tokens * context,
    )


def _neurons(mlp: Any, i: int, site: BlockSite) -> PrunableLayer:
    """Return the neurons of one MLP."""
    first, second = mlp.net[0].proj, mlp.net[2]
    rows = first.out_features // second.in_features  # 2 with a gate
    biases = first.bias is not None
    return PrunableLayer(
        name=f"{site.name} neurons",
        block=i,
        kind="neurons",
        module=f"{site.path}.ff",
        consumer=f"{site.path}.ff.net.2",
        groups=second.in_features,
        group_size=1,
        weights_per_group=rows * (first.in_features + biases) + second.out_features,
        macs_per_group=(rows * first.in_features + second.out_features) * site.tokens,
    )


# ------------------------------------------------------------ how many groups go


def removed_groups(layers: list[PrunableLayer], sparsity: float) -> list[int]:
    """Return how many groups each layer loses at `sparsity`, so that the total comes out right.

    Heads: every block rounds at its own place (2.64 heads are 3 in most blocks, 2 in the others),
    so that the sum over blocks is the nearest whole number and no block regains a head as sparsity
    grows. Neurons: nearest multiple of 16. One group, or one step, always stays.
    """
    offsets = iter(scattered_offsets(sum(layer.kind == "heads" for layer in layers)))
    removed = []
    for layer in layers:
        if layer.kind == "heads":
            count = int(sparsity * layer.groups + next(offsets) + TINY)
        else:
            count = int(sparsity * layer.groups / layer.step + 0.5 + TINY) * layer.step
        removed.append(max(0, min(count, layer.groups - layer.step)))
    return removed


def scattered_offsets(blocks: int) -> list[float]:
    """Return (rank + 1/2) / blocks for every block, ranks scattered by the golden ratio.

    The floors of x + offset add up to blocks * x, rounded (Hermite's identity).
    """
    golden = [(i * GOLDEN) % 1 for i in range(blocks)]
    ranks = sorted(range(blocks), key=golden.__getitem__)
    offsets = [0.0] * blocks
    for rank, block in enumerate(ranks):
        offsets[block] = (rank + 0.5) / blocks
    return offsets
