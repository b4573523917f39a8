"""Run a DiT's transformer block with the same kernels and without what surrounds them.

diffusers looks its attention processor's arguments up by introspection in every call, and makes a
second copy of the widest tensor, the MLP's, for its activation. Both cost a dense block as much as
a slim one, or more. A lean block calls the same layers in the same order, so its output has the
same bits, and it is the same layout for the dense network and for the subnetworks: nothing of it is
counted as pruning. A batch of few rows takes its adaLN vectors from a table already apart: there
the time goes into calls, not into numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from diffusers.models.activations import GELU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F

from .adaln import ReadyNorm, Spread
from .slimming import graft, shallow

# of a forward that DiT makes; anything else runs as diffusers wrote it
KNOWN = {"timestep", "class_labels"}


class LeanBlock(BasicTransformerBlock):
    """A BasicTransformerBlock over the same children, whose forward is short where it may be.

    Where a part was replaced, hooked or given a forward of its own, where gradients are asked for,
    and while torch.compile traces it, diffusers' own forward runs. This is looked up in every call,
    so nothing that is changed later is missed.
    """

    # of a `Modulation` that is taken apart: 1 to 5 % quicker at 2 rows, nothing at 8, slower at 32
    rows_in_parts = 4

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the block's output (batch, tokens, d), bit for bit that of diffusers' forward."""
        if (
            torch.compiler.is_compiling()
            or torch.is_grad_enabled()
            or any(x is not None for x in args)
            or any(kwargs[name] is not None for name in kwargs.keys() - KNOWN)
            or not _stock(self)
        ):
            return super().forward(hidden_states, *args, **kwargs)
        labels = kwargs.get("class_labels")
        known = type(self.norm1) is ReadyNorm and not _touched(vars(self.norm1))
        if known and isinstance(labels, Spread):
            return _from_parts(self, hidden_states, labels)
        normed, gate, shift, scale, gate_mlp = self.norm1(
            hidden_states, kwargs.get("timestep"), labels, hidden_dtype=hidden_states.dtype
        )
        x = gate.unsqueeze(1) * _attend(self.attn1, normed) + hidden_states  # (batch, tokens, d)
        normed = self.norm3(x) * (1 + scale[:, None]) + shift[:, None]
        return gate_mlp.unsqueeze(1) * _feed_forward(self.ff, normed) + x


def lean(network: nn.Module) -> nn.Module:
    """Return a twin of a network, over the same tensors, whose DiT blocks are lean.

    Other networks, and blocks of a class of their own, are returned as they are.
    """
    parts: dict[str, nn.Module] = {}
    for path, block in network.named_modules():
        if type(block) is BasicTransformerBlock and block.norm_type == "ada_norm_zero":
            twin = shallow(block)
            twin.__class__ = LeanBlock
            parts[path] = twin
    return graft(network, parts) if parts else network


def _from_parts(block: LeanBlock, x: Tensor, given: Spread) -> Tensor:
    """Return a block's output (batch, tokens, d) from vectors that are taken apart."""
    first = cast(ReadyNorm, block.norm1)
    shift, factor, gate, shift_mlp, factor_mlp, gate_mlp = given.parts[first.index]
    x = gate * _attend(block.attn1, first.norm(x) * factor + shift) + x
    return gate_mlp * _feed_forward(block.ff, block.norm3(x) * factor_mlp + shift_mlp) + x


def _attend(attention: Attention, x: Tensor) -> Tensor:
    """Return a self-attention's output (batch, tokens, d), as AttnProcessor2_0 computes it."""
    heads = attention.heads
    projections: Any = (attention.to_q, attention.to_k, attention.to_v)
    # (batch, heads, tokens, head_dim) each
    q, k, v = (layer(x).unflatten(2, (heads, -1)).transpose(1, 2) for layer in projections)
    found = F.scaled_dot_product_attention(q, k, v)  # (batch, heads, tokens, head_dim)
    out: Any = attention.to_out
    return out[0](found.transpose(1, 2).flatten(2))


def _feed_forward(mlp: FeedForward, x: Tensor) -> Tensor:
    """Return an MLP's output; its first layer's is overwritten by the activation."""
    activation: Any = mlp.net[0]
    hidden = activation.proj(x)  # (batch, tokens, neurons), held by nobody else
    torch.ops.aten.gelu_.default(hidden, approximate=activation.approximate)
    return mlp.net[2](hidden)


def _stock(block: BasicTransformerBlock) -> bool:
    """Say whether what a lean forward passes by is as diffusers made it, and does nothing."""
    parts = vars(block)["_modules"]
    attention, mlp = parts.get("attn1"), parts.get("ff")
    if (
        type(attention) is not Attention
        or type(mlp) is not FeedForward
        or type(attention.processor) is not AttnProcessor2_0
        or block.training
        or getattr(block, "_chunk_size", None) is not None
        or parts.get("attn2") is not None
        or getattr(block, "pos_embed", None) is not None
    ):
        return False
    inner = vars(attention)["_modules"]
    if any(inner.get(name) is not None for name in ("norm_q", "norm_k", "group_norm")):
        return False
    net = vars(vars(mlp)["_modules"]["net"])["_modules"]
    out = vars(inner["to_out"])["_modules"]
    if len(net) != 3 or len(out) != 2 or type(net["0"]) is not GELU:
        return False
    passed = (attention, mlp, net["0"], net["1"], out["1"])
    return attention.rescale_output_factor == 1 and not any(_touched(vars(x)) for x in passed)


def _touched(state: Mapping[str, Any]) -> bool:
    """Say whether a module with this state has hooks or a forward of its own."""
    return bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or "forward" in state
        or "_compiled_call_impl" in state
        or state["training"]
    )
