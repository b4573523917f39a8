"""Refuse models whose layers cannot be sliced without a silent change of what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..errors import StudioError
from .families import Family

# what linear layers compute in as they are stored
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# they read `heads` and the widths anew at every call
PROCESSORS = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor")
ACTIVATIONS = {"GELU": 1, "GEGLU": 2}  # of the MLPs that are pruned -> rows of weights per neuron


def refuse_wrapped(model: nn.Module) -> None:
    """Raise StudioError for a model with offload hooks or an adapter."""
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


def refuse_hooked(model: nn.Module) -> None:
    """Raise StudioError for a model with hooks of diffusers."""
    if any(getattr(getattr(m, "_diffusers_hook", None), "hooks", None) for m in model.modules()):
        raise StudioError(
            "The model carries hooks of diffusers (layerwise casting, group offloading, a cache): "
            "load it anew and prune it without."
        )


def refuse_block(block: nn.Module, family: Family, where: str) -> None:
    """Raise StudioError when slicing this block would silently change what it computes."""
    found = (getattr(block, name, None) for name in ("attn1", "attn2"))
    attentions = [attention for attention in found if attention is not None]
    mlp: Any = getattr(block, "ff", None)
    norm = getattr(block, "norm_type", "")
    family.check_block(norm, len(attentions), mlp is not None, where)
    if getattr(block, "fuser", None) is not None:
        raise StudioError(
            f"{where} has a gated self-attention fuser (GLIGEN), which is not supported."
        )
    for attention in attentions:
        _refuse_attention(attention, where)
    _refuse_mlp(mlp, where)


def _refuse_mlp(mlp: Any, where: str) -> None:
    rows = ACTIVATIONS.get(type(mlp.net[0]).__name__)
    if rows is None or len(mlp.net) != 3:
        raise StudioError(
            f"{where} has an MLP other than linear, GELU or GEGLU, linear, which is not supported."
        )
    first, second = mlp.net[0].proj, mlp.net[2]
    _refuse_linears([first, second], where)
    if first.out_features != second.in_features * rows:
        raise StudioError(
            f"{where} has an MLP whose two layers do not fit together, which is not supported."
        )


def _refuse_attention(attention: Any, where: str) -> None:
    _refuse_additions(attention, where)
    processor = type(getattr(attention, "processor", None)).__name__
    if "IPAdapter" in processor:
        raise StudioError(
            f"{where} carries an IP-Adapter with keys and values of its own: call"
            " pipeline.unload_ip_adapter() first."
        )
    _refuse_linears([attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]], where)
    if processor not in PROCESSORS:
        raise StudioError(
            f"{where} runs the attention processor {processor}, not known to work with fewer heads:"
            " call set_default_attn_processor() first."
        )
    _refuse_head_norms(attention, where)
    _refuse_widths(attention, where)
    _refuse_surroundings(attention, where)


def _refuse_additions(attention: Any, where: str) -> None:
    """Raise StudioError for fused projections, added keys and joint attention."""
    if getattr(attention, "fused_projections", False):
        raise StudioError(
            f"{where} has fused q/k/v projections: call unfuse_qkv_projections() first, and fuse"
            " again after pruning."
        )
    added = (getattr(attention, name, None) for name in ("added_kv_proj_dim", "to_add_out"))
    if any(part is not None for part in added):
        raise StudioError(
            f"{where} has added keys and values or joint attention, whose two outputs would have to"
            " be pruned together; not supported."
        )


def _refuse_head_norms(attention: Any, where: str) -> None:
    """Raise StudioError for a norm of queries or keys that is wider than one head."""
    head_dim = attention.to_out[0].in_features // attention.heads
    for norm in (getattr(attention, "norm_q", None), getattr(attention, "norm_k", None)):
        shape = getattr(norm, "normalized_shape", None) or getattr(norm, "dim", None)
        if norm is None or shape is None:
            continue
        sizes = tuple(shape) if isinstance(shape, (tuple, list, torch.Size)) else (shape,)
        if sizes != (head_dim,):
            raise StudioError(
                f"{where} normalises queries and keys across heads, so a head cannot go without"
                " changing the others; not supported."
            )


def _refuse_widths(attention: Any, where: str) -> None:
    """Raise StudioError for an attention whose width is not heads times one head's width."""
    width = attention.to_q.out_features
    if attention.to_k.out_features != width or attention.to_v.out_features != width:
        raise StudioError(
            f"{where} shares keys among heads (grouped-query attention), which is not supported."
        )
    if width != attention.to_out[0].in_features or width % attention.heads:
        raise StudioError(
            f"{where} has an attention whose width is not heads times one head's width, which is"
            " not supported."
        )


def _refuse_surroundings(attention: Any, where: str) -> None:
    """Raise StudioError for a norm, a residual or a scale inside an attention."""
    norms = (getattr(attention, name, None) for name in ("group_norm", "spatial_norm"))
    if any(norm is not None for norm in norms):
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


def _refuse_linears(linears: Sequence[Any], where: str) -> None:
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
        # torchao keeps nn.Linear and packs its weight; pruning masks leave a tensor computed from
        # two others
        if type(weight) is not nn.Parameter:
            raise StudioError(
                f"{where} has a weight that is not a plain parameter (quantised or masked,"
                " perhaps), so it cannot be sliced."
            )
        # diffusers' layerwise casting stores float8, which counts as floating
        if weight.dtype not in FLOATS:
            kind = "integer"
            if weight.is_floating_point():
                kind = str(weight.dtype).removeprefix("torch.")
            raise StudioError(f"{where} has {kind} weights; load the model in fp32, fp16 or bf16.")
