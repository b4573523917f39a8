"""What may shrink: attention heads and MLP neurons of a DiT, and refusals that explain.

A `PrunableLayer` names one consumer linear whose input columns are removed (the attention output projection or the
second MLP layer) together with the rows of the layers that feed it. Everything else keeps its width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .errors import StudioError

GOLDEN = 0.618033988749895
TINY = 1e-9  # 2.4999999 of a product must count as 2.5
NEURON_STEP = 16  # kept MLP widths are multiples of this; CPU time follows width closely, so a small step is enough


@dataclass(frozen=True)
class PrunableLayer:
    """One layer that loses groups of input columns."""

    name: str  # "block 3 heads"
    block: int
    kind: str  # "heads" or "neurons"
    consumer: str  # module path of the linear whose columns go
    groups: int  # heads, or neurons
    group_size: int  # columns a group: head_dim, or 1
    weights_per_group: int  # parameters that go with one group, biases included
    macs_per_group: int  # multiply-accumulates of one forward of one image that go with one group

    @property
    def step(self) -> int:
        """Groups go in multiples of this."""
        return 1 if self.kind == "heads" else min(NEURON_STEP, self.groups)


def find_layers(transformer: nn.Module) -> list[PrunableLayer]:
    """The prunable layers of a DiT, attention before MLP, block by block.

    Raises StudioError with the reason when the model cannot be pruned safely.
    """
    blocks = getattr(transformer, "transformer_blocks", None)
    if blocks is None or not hasattr(transformer, "pos_embed") or not hasattr(transformer, "proj_out_2"):
        raise StudioError(f"{type(transformer).__name__} is not a DiT as diffusers builds it; MosaicDiff Studio prunes DiTTransformer2DModel.")
    config = transformer.config
    tokens = (config.sample_size // config.patch_size) ** 2
    layers = []
    for i, block in enumerate(blocks):
        _refuse(block, i)
        width = block.attn1.to_out[0].out_features
        heads, inner = block.attn1.heads, block.attn1.to_out[0].in_features
        head_dim, bias = inner // heads, block.attn1.to_q.bias is not None
        hidden = block.ff.net[2].in_features
        layers += [
            PrunableLayer(f"block {i + 1} heads", i, "heads", f"transformer_blocks.{i}.attn1.to_out.0", heads, head_dim,
                          head_dim * (4 * width + 3 * bias), 4 * width * head_dim * tokens),
            PrunableLayer(f"block {i + 1} neurons", i, "neurons", f"transformer_blocks.{i}.ff.net.2", hidden, 1,
                          2 * width + (block.ff.net[0].proj.bias is not None), 2 * width * tokens),
        ]  # fmt: skip
    return layers


def _refuse(block: nn.Module, i: int) -> None:
    """Raise StudioError when slicing this block would silently change what it computes."""
    where = f"Block {i + 1}"
    attention, mlp = getattr(block, "attn1", None), getattr(block, "ff", None)
    if attention is None or mlp is None or getattr(block, "attn2", None) is not None or getattr(block, "norm_type", "") != "ada_norm_zero":
        raise StudioError(f"{where} is not an adaLN-Zero block with one self-attention and one MLP, so it is not pruned.")
    linears = [attention.to_q, attention.to_k, attention.to_v, attention.to_out[0], getattr(mlp.net[0], "proj", None), mlp.net[2]]
    if any(hasattr(m, "lora_A") or hasattr(m, "base_layer") for m in linears):
        raise StudioError(f"{where} carries a LoRA: fuse it into the weights first (pipeline.fuse_lora(), then unload_lora_weights()).")
    if getattr(attention, "fused_projections", False):
        raise StudioError(f"{where} has fused q/k/v projections: call unfuse_qkv_projections() first.")
    if any(type(m) is not nn.Linear for m in linears):
        raise StudioError(f"{where} has a projection that is not a plain linear layer (quantised, perhaps), so it cannot be sliced.")
    if any(not torch.is_floating_point(m.weight) for m in linears):
        raise StudioError(f"{where} has integer weights; load the model in fp32, fp16 or bf16.")
    if attention.to_k.out_features != attention.to_q.out_features:
        raise StudioError(f"{where} shares keys among heads (grouped-query attention), which is not supported.")
    if getattr(attention, "added_kv_proj_dim", None) is not None or getattr(attention, "norm_q", None) is not None:
        raise StudioError(f"{where} has added or normalised keys, which is not supported.")
    if type(mlp.net[0]).__name__ != "GELU" or len(mlp.net) != 3:
        raise StudioError(f"{where} has an MLP other than linear, GELU, linear, which is not supported.")


def removed_groups(layers: list[PrunableLayer], sparsity: float) -> list[int]:
    """How many groups each layer loses at `sparsity`, so that the total comes out right although heads are coarse.

    Heads: every block rounds at its own place (2.64 heads are 3 in most blocks, 2 in the others), so that the sum over blocks is the
    nearest whole number and no block regains a head as sparsity grows. Neurons: nearest multiple of 16. One group, or one step, always stays.
    """
    offsets = iter(_offsets(sum(layer.kind == "heads" for layer in layers)))
    removed = []
    for layer in layers:
        if layer.kind == "heads":
            count = int(sparsity * layer.groups + next(offsets) + TINY)
        else:
            count = int(sparsity * layer.groups / layer.step + 0.5 + TINY) * layer.step
        removed.append(max(0, min(count, layer.groups - layer.step)))
    return removed


def _offsets(blocks: int) -> list[float]:
    """(rank + 1/2) / blocks, ranks scattered by the golden ratio: the floors of x + offset sum up to blocks * x, rounded (Hermite's identity)."""
    golden = [(i * GOLDEN) % 1 for i in range(blocks)]
    ranks = sorted(range(blocks), key=golden.__getitem__)
    offsets = [0.0] * blocks
    for rank, block in enumerate(ranks):
        offsets[block] = (rank + 0.5) / blocks
    return offsets
