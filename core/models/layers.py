"""What may shrink: attention heads and MLP neurons of a DiT or of SDXL's UNet, and refusals that
explain.

A `PrunableLayer` names one consumer linear whose input columns are removed (an attention output
projection or a second MLP layer) together with the rows of the layers that feed it. Everything else
keeps its width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..errors import StudioError
from .families import BlockSite, family_of

GOLDEN = 0.618033988749895
TINY = 1e-9  # 2.4999999 of a product must count as 2.5
# kept MLP widths are multiples of this; CPU time follows width closely, so a small step is enough
NEURON_STEP = 16
# what linear layers compute in as they are stored
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# they read `heads` and the widths anew at every call
PROCESSORS = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor")


@dataclass(frozen=True)
class PrunableLayer:
    """One layer that loses groups of input columns."""

    name: str  # "block 3 heads"
    block: int
    kind: str  # "heads" or "neurons"
    module: str  # module path of the attention or MLP that shrinks
    consumer: str  # module path of the linear whose columns go
    groups: int  # heads, or neurons
    group_size: int  # columns a group: head_dim, or 1
    weights_per_group: int  # parameters that go with one group, biases included
    # multiply-accumulates of linear layers, one forward of one image, that go with one group
    macs_per_group: int
    attention_macs_per_group: int = 0  # the same of attention products (scores and weighted sums)

    @property
    def step(self) -> int:
        """Groups go in multiples of this."""
        return 1 if self.kind == "heads" else min(NEURON_STEP, self.groups)

    @property
    def width(self) -> int:
        """Input columns of the consumer."""
        return self.groups * self.group_size


def find_layers(model: nn.Module, shape: tuple[int, int, int] | None = None) -> list[PrunableLayer]:
    """The prunable layers, block by block: self-attention, cross-attention (SDXL), MLP. MACs are
    those at latents of `shape`, by default the model's own.

    Raises StudioError with the reason when the model cannot be pruned safely.
    """
    family = family_of(model)
    sites = family.sites(model, shape)
    if not sites:
        raise StudioError(
            f"This {family.name} has no transformer blocks, so there is nothing to prune."
        )
    if any(hasattr(m, "_hf_hook") for m in model.modules()):
        raise StudioError(
            "The model carries accelerate's offload hooks: call pipeline.remove_all_hooks() before"
            " pruning and offload again afterwards."
        )
    if getattr(model, "peft_config", None) or getattr(model, "_hf_peft_config_loaded", False):
        raise StudioError(
            "The model carries a LoRA or another adapter: fuse it into the weights first"
            " (pipeline.fuse_lora(), then unload_lora_weights())."
        )
    layers = []
    for i, site in enumerate(sites):
        block = model.get_submodule(site.path)
        _refuse_block(block, family.name, f"{site.name[0].upper()}{site.name[1:]}")
        layers += _layers_of(block, i, site)
    if any(getattr(getattr(m, "_diffusers_hook", None), "hooks", None) for m in model.modules()):
        raise StudioError(
            "The model carries hooks of diffusers (layerwise casting, group offloading, a cache): "
            "load it anew and prune it without."
        )
    return layers


def _layers_of(block: nn.Module, i: int, site: BlockSite) -> list[PrunableLayer]:
    layers, crossed = [], getattr(block, "attn2", None) is not None
    for name, context in (("attn1", site.tokens), ("attn2", site.context)):
        attention = getattr(block, name, None)
        if attention is None:
            continue
        out, head_dim = attention.to_out[0], attention.to_out[0].in_features // attention.heads
        width, memory = attention.to_q.in_features, attention.to_k.in_features
        biases = sum(m.bias is not None for m in (attention.to_q, attention.to_k, attention.to_v))
        kind = (
            {"attn1": "self-attention heads", "attn2": "cross-attention heads"}[name]
            if crossed
            else "heads"
        )
        layers.append(
            PrunableLayer(
                f"{site.name} {kind}",
                i,
                "heads",
                f"{site.path}.{name}",
                f"{site.path}.{name}.to_out.0",
                attention.heads,
                head_dim,
                head_dim * (width + 2 * memory + out.out_features + biases),
                head_dim * ((width + out.out_features) * site.tokens + 2 * memory * context),
                2 * head_dim * site.tokens * context,
            )
        )
    first, second = block.ff.net[0].proj, block.ff.net[2]
    rows = first.out_features // second.in_features  # 2 with a gate
    layers.append(
        PrunableLayer(
            f"{site.name} neurons",
            i,
            "neurons",
            f"{site.path}.ff",
            f"{site.path}.ff.net.2",
            second.in_features,
            1,
            rows * (first.in_features + (first.bias is not None)) + second.out_features,
            (rows * first.in_features + second.out_features) * site.tokens,
        )
    )
    return layers


def _refuse_block(block: nn.Module, family: str, where: str) -> None:
    """Raise StudioError when slicing this block would silently change what it computes."""
    attentions, mlp = (
        [
            a
            for a in (getattr(block, "attn1", None), getattr(block, "attn2", None))
            if a is not None
        ],
        getattr(block, "ff", None),
    )
    norm = getattr(block, "norm_type", "")
    if family == "DiT" and (mlp is None or len(attentions) != 1 or norm != "ada_norm_zero"):
        raise StudioError(
            f"{where} is not an adaLN-Zero block with one self-attention and one MLP, so it is not"
            " pruned."
        )
    if family == "SDXL" and (mlp is None or len(attentions) != 2 or norm != "layer_norm"):
        raise StudioError(
            f"{where} is not a layer-norm block with self-attention, cross-attention and one MLP,"
            " so it is not pruned."
        )
    if getattr(block, "fuser", None) is not None:
        raise StudioError(
            f"{where} has a gated self-attention fuser (GLIGEN), which is not supported."
        )
    for attention in attentions:
        _refuse_attention(attention, where)
    if type(mlp.net[0]).__name__ not in ("GELU", "GEGLU") or len(mlp.net) != 3:
        raise StudioError(
            f"{where} has an MLP other than linear, GELU or GEGLU, linear, which is not supported."
        )
    _refuse_linears([mlp.net[0].proj, mlp.net[2]], where)
    if mlp.net[0].proj.out_features != mlp.net[2].in_features * (
        2 if type(mlp.net[0]).__name__ == "GEGLU" else 1
    ):
        raise StudioError(
            f"{where} has an MLP whose two layers do not fit together, which is not supported."
        )


def _refuse_attention(attention: nn.Module, where: str) -> None:
    if getattr(attention, "fused_projections", False):
        raise StudioError(
            f"{where} has fused q/k/v projections: call unfuse_qkv_projections() first, and fuse"
            " again after pruning."
        )
    if (
        getattr(attention, "added_kv_proj_dim", None) is not None
        or getattr(attention, "to_add_out", None) is not None
    ):
        raise StudioError(
            f"{where} has added keys and values or joint attention, whose two outputs would have to"
            " be pruned together; not supported."
        )
    parts = [attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]]
    processor = type(getattr(attention, "processor", None)).__name__
    if "IPAdapter" in processor:
        raise StudioError(
            f"{where} carries an IP-Adapter with keys and values of its own: call"
            " pipeline.unload_ip_adapter() first."
        )
    _refuse_linears(parts, where)
    if processor not in PROCESSORS:
        raise StudioError(
            f"{where} runs the attention processor {processor}, not known to work with fewer heads:"
            " call set_default_attn_processor() first."
        )
    head_dim = attention.to_out[0].in_features // attention.heads
    for norm in (getattr(attention, "norm_q", None), getattr(attention, "norm_k", None)):
        shape = getattr(norm, "normalized_shape", None) or getattr(norm, "dim", None)
        if (
            norm is not None
            and shape is not None
            and tuple(shape if isinstance(shape, (tuple, list, torch.Size)) else (shape,))
            != (head_dim,)
        ):
            raise StudioError(
                f"{where} normalises queries and keys across heads, so a head cannot go without"
                " changing the others; not supported."
            )
    if (
        attention.to_k.out_features != attention.to_q.out_features
        or attention.to_v.out_features != attention.to_q.out_features
    ):
        raise StudioError(
            f"{where} shares keys among heads (grouped-query attention), which is not supported."
        )
    if (
        attention.to_q.out_features != attention.to_out[0].in_features
        or attention.to_q.out_features % attention.heads
    ):
        raise StudioError(
            f"{where} has an attention whose width is not heads times one head's width, which is"
            " not supported."
        )
    if (
        getattr(attention, "group_norm", None) is not None
        or getattr(attention, "spatial_norm", None) is not None
    ):
        raise StudioError(
            f"{where} has an attention with a norm of its own, which is not supported."
        )
    if (
        getattr(attention, "residual_connection", False)
        or getattr(attention, "rescale_output_factor", 1.0) != 1.0
    ):
        raise StudioError(
            f"{where} has an attention that adds its input or rescales its output, which is not"
            " supported."
        )


def _refuse_linears(linears: list[nn.Module], where: str) -> None:
    if any(
        hasattr(m, "lora_A")
        or hasattr(m, "base_layer")
        or getattr(m, "lora_layer", None) is not None
        for m in linears
    ):
        raise StudioError(
            f"{where} carries a LoRA: fuse it into the weights first (pipeline.fuse_lora(), then"
            " unload_lora_weights())."
        )
    if any(type(m) is not nn.Linear for m in linears):
        raise StudioError(
            f"{where} has a projection that is not a plain linear layer (quantised, perhaps), so it"
            " cannot be sliced."
        )
    for weight in (m.weight for m in linears):
        # torchao keeps nn.Linear and packs its weight; pruning masks leave a tensor worked out from
        # two
        if type(weight) is not nn.Parameter:
            raise StudioError(
                f"{where} has a weight that is not a plain parameter (quantised or masked,"
                " perhaps), so it cannot be sliced."
            )
        # diffusers' layerwise casting stores float8, which counts as floating
        if weight.dtype not in FLOATS:
            kind = (
                str(weight.dtype).removeprefix("torch.")
                if weight.is_floating_point()
                else "integer"
            )
            raise StudioError(f"{where} has {kind} weights; load the model in fp32, fp16 or bf16.")


def removed_groups(layers: list[PrunableLayer], sparsity: float) -> list[int]:
    """How many groups each layer loses at `sparsity`, so that the total comes out right although
    heads are coarse.

    Heads: every block rounds at its own place (2.64 heads are 3 in most blocks, 2 in the others),
    so that the sum over blocks is the nearest whole number and no block regains a head as sparsity
    grows. Neurons: nearest multiple of 16. One group, or one step, always stays.
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
    """(rank + 1/2) / blocks, ranks scattered by the golden ratio: the floors of x + offset sum up
    to blocks * x, rounded (Hermite's identity).
    """
    golden = [(i * GOLDEN) % 1 for i in range(blocks)]
    ranks = sorted(range(blocks), key=golden.__getitem__)
    offsets = [0.0] * blocks
    for rank, block in enumerate(ranks):
        offsets[block] = (rank + 0.5) / blocks
    return offsets
