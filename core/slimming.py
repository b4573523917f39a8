"""Physically smaller modules from kept indices and weights. The dense model is never touched; what is equal is shared."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def shallow(module: nn.Module, **children: nn.Module) -> nn.Module:
    """A second module over the same parameters, with some children replaced. Hooks added to one later are not on the other."""
    twin = copy.copy(module)
    for hooks in [name for name in vars(module) if "_hooks" in name]:
        setattr(twin, hooks, copy.copy(getattr(module, hooks)))
    for registry in ("_parameters", "_buffers", "_modules"):
        setattr(twin, registry, dict(getattr(module, registry)))
    twin._modules |= children
    return twin


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A frozen linear layer that holds copies of these tensors."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer.eval()


def slim_attention(attention: nn.Module, heads: Tensor, out_weight: Tensor) -> nn.Module:
    """Keep these heads (ascending indices). `out_weight` (d, all columns) is the compensated output projection; its bias stays full.

    diffusers' processor works out head_dim as width // heads, so heads, inner_dim, inner_kv_dim and sliceable_head_dim change together.
    """
    if len(heads) == attention.heads:
        return attention
    head_dim = attention.to_out[0].in_features // attention.heads
    columns = (heads[:, None] * head_dim + torch.arange(head_dim)).flatten().to(out_weight.device)
    projections = {n: getattr(attention, n) for n in ("to_q", "to_k", "to_v")}
    children = {n: linear(m.weight[columns], None if m.bias is None else m.bias[columns]) for n, m in projections.items()}
    out = attention.to_out[0]
    weight = out_weight[:, columns].to(out.weight.dtype)
    children["to_out"] = nn.ModuleList([linear(weight, out.bias), *list(attention.to_out)[1:]])
    slim = shallow(attention, **children)
    slim.heads = slim.sliceable_head_dim = len(heads)
    slim.inner_dim = slim.inner_kv_dim = len(columns)
    return slim


def slim_feed_forward(mlp: nn.Module, neurons: Tensor, out_weight: Tensor) -> nn.Module:
    """Keep these neurons (ascending indices). `out_weight` (d, all columns) is the compensated second layer."""
    if len(neurons) == mlp.net[2].in_features:
        return mlp
    first, second = mlp.net[0].proj, mlp.net[2]
    neurons = neurons.to(out_weight.device)
    activation = shallow(mlp.net[0], proj=linear(first.weight[neurons], None if first.bias is None else first.bias[neurons]))
    weight = out_weight[:, neurons].to(second.weight.dtype)
    return shallow(mlp, net=nn.ModuleList([activation, mlp.net[1], linear(weight, second.bias)]))


def masked_linear(layer: nn.Linear, weight: Tensor) -> nn.Linear:
    """The same layer at full width with other weights: the reference that a slim layer is held against."""
    return linear(weight.to(layer.weight.dtype), layer.bias)
