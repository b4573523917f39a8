"""Physically smaller modules from kept indices and weights. The dense model is never touched; what
is equal is shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..errors import StudioError
from ..models.layers import PrunableLayer
from ..pruning.cuts import Cut, kept_columns


def shallow(module: nn.Module, **children: nn.Module) -> nn.Module:
    """A second module over the same parameters, with some children replaced. Hooks added to one
    later are not on the other.
    """
    twin = copy.copy(module)
    for hooks in [name for name in vars(module) if "_hooks" in name]:
        setattr(twin, hooks, copy.copy(getattr(module, hooks)))
    for registry in ("_parameters", "_buffers", "_modules"):
        setattr(twin, registry, dict(getattr(module, registry)))
    # of module.compile(): it would run the module that it was made for
    vars(twin).pop("_compiled_call_impl", None)
    twin._modules |= children
    return twin


def graft(module: nn.Module, replacements: dict[str, nn.Module]) -> nn.Module:
    """A shallow twin of a whole tree with the modules at these dotted paths replaced; what no path
    leads through is the same object.
    """
    direct: dict[str, nn.Module] = {}
    deeper: dict[str, dict[str, nn.Module]] = {}
    for path, new in replacements.items():
        head, _, rest = path.partition(".")
        if rest:
            deeper.setdefault(head, {})[rest] = new
        else:
            direct[head] = new
    return shallow(
        module,
        **direct,
        **{name: graft(module._modules[name], inner) for name, inner in deeper.items()},
    )


def private(module: nn.Module, memo: dict[int, nn.Module] | None = None) -> nn.Module:
    """A twin of a whole tree: no module object in common, every tensor in common. Module objects
    that appear twice do so in the twin.
    """
    memo = {} if memo is None else memo
    if id(module) not in memo:
        twin = memo[id(module)] = shallow(module)
        twin._modules |= {
            name: private(child, memo)
            for name, child in module._modules.items()
            if child is not None
        }
    return memo[id(module)]


def replace_tensors(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Put `change(tensor)` in the place of every parameter and buffer of a tree, once a tensor:
    what was shared stays shared.

    The old tensors are not written to, so another tree over them stays as it is. Each is let go
    before the next is changed.
    """
    places: dict[int, tuple[Tensor, list[tuple[dict, str]]]] = {}
    for part in module.modules():
        for registry in (part._parameters, part._buffers):
            for name, tensor in registry.items():
                if tensor is not None:
                    places.setdefault(id(tensor), (tensor, []))[1].append((registry, name))
    while places:
        old, where = places.popitem()[1]
        new = change(old)
        if new is not old and isinstance(old, nn.Parameter):
            new = nn.Parameter(new.detach(), requires_grad=old.requires_grad)
        for registry, name in where:
            registry[name] = new


def shapes_only(module: nn.Module) -> nn.Module:
    """A twin of a whole tree whose parameters and buffers are shapes without memory (device
    "meta"); what is shared stays shared.
    """
    twin = private(module)
    replace_tensors(twin, lambda tensor: tensor.detach().to("meta"))
    return twin


def unique_bytes(parts: Iterable[nn.Module | Tensor]) -> int:
    """Bytes of the different storages under the parameters and buffers of these modules (or under
    these tensors).

    What several share counts once, a view counts as all that it keeps alive. On device "meta" the
    bytes that the shapes would take.
    """
    storages = {}
    for part in parts:
        for tensor in [part] if torch.is_tensor(part) else [*part.parameters(), *part.buffers()]:
            storage = tensor.untyped_storage()
            # without memory there is no address: then the storage's own; kept, so that none is
            # reused
            storages[storage.data_ptr() or storage._cdata] = storage
    return sum(storage.nbytes() for storage in storages.values())


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A frozen linear layer that holds these tensors themselves, made contiguous."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer.eval()


def copied(tensor: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
    """A copy of its own memory."""
    return None if tensor is None else tensor.detach().to(dtype or tensor.dtype, copy=True)


class Constant(nn.Module):
    """Stands for an attention or MLP that kept nothing: its output bias for every token (diffusers'
    own attention divides by its heads).
    """

    def __init__(self, bias: Tensor | None, width: int, like: Tensor):
        super().__init__()
        bias = (
            torch.zeros(width, dtype=like.dtype, device=like.device)
            if bias is None
            else bias.detach().to(like).clone()
        )
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        """(batch, tokens, anything) -> (batch, tokens, width)."""
        return self.bias.to(hidden_states.dtype).expand(*hidden_states.shape[:-1], len(self.bias))


def cut_module(model: nn.Module, layer: PrunableLayer, cut: Cut, masked: bool = False) -> nn.Module:
    """What stands at `layer.module` after the cut. `masked` keeps the full width and only zeroes:
    the slow reference.
    """
    module = model.get_submodule(layer.module)
    if cut.weight is None:
        return module
    if masked:
        return masked_module(module, layer, cut)
    if not len(cut.kept):
        consumer = model.get_submodule(layer.consumer)
        return Constant(
            consumer.bias if cut.bias is None else cut.bias, consumer.out_features, consumer.weight
        ).eval()
    return (slim_attention if layer.kind == "heads" else slim_feed_forward)(
        module, cut.kept, narrow(layer, cut)
    )


def narrow(layer: PrunableLayer, cut: Cut) -> Tensor:
    """The cut's weight on its kept columns, (d, kept columns): itself, or a copy of these columns.
    Raises StudioError for a weight of another width.
    """
    found, wanted = cut.weight.shape[1], len(cut.kept) * layer.group_size
    if found == layer.width:
        return cut.weight[:, kept_columns(layer, cut.kept, cut.weight.device)]
    if found != wanted:
        raise StudioError(
            f"The weight of a cut of {layer.name} has {found} columns; give it all {layer.width} or"
            f" the {wanted} of the groups it keeps."
        )
    return cut.weight


def widened(layer: PrunableLayer, cut: Cut) -> Tensor:
    """A copy of the cut's weight at full width, (d, all columns), zero where groups went."""
    if cut.weight.shape[1] == layer.width:
        return copied(cut.weight)
    columns = kept_columns(layer, cut.kept, cut.weight.device)
    return cut.weight.new_zeros(len(cut.weight), layer.width).index_copy_(
        1, columns, narrow(layer, cut)
    )


def slim_attention(attention: nn.Module, heads: Tensor, out_weight: Tensor) -> nn.Module:
    """Keep these heads (ascending indices, at least one). `out_weight` (d, kept columns) is the
    compensated output projection; its bias stays full.

    diffusers' processor works out head_dim as width // heads, so heads, inner_dim, inner_kv_dim and
    sliceable_head_dim change together.
    """
    if len(heads) == attention.heads:
        return _with_out(attention, out_weight)
    head_dim = attention.to_out[0].in_features // attention.heads
    # rows of q, k and v
    columns = (heads[:, None] * head_dim + torch.arange(head_dim)).flatten().to(out_weight.device)
    projections = {n: getattr(attention, n) for n in ("to_q", "to_k", "to_v")}
    children = {
        n: linear(m.weight[columns], None if m.bias is None else m.bias[columns])
        for n, m in projections.items()
    }
    slim = shallow(_with_out(attention, out_weight), **children)
    slim.heads = slim.sliceable_head_dim = len(heads)
    slim.inner_dim = slim.inner_kv_dim = len(columns)
    return slim


def slim_feed_forward(mlp: nn.Module, neurons: Tensor, out_weight: Tensor) -> nn.Module:
    """Keep these neurons (ascending indices, at least one). `out_weight` (d, kept columns) is the
    compensated second layer.

    GELU's first layer has a row a neuron, GEGLU's has two: value rows j first, then gate rows j +
    n.
    """
    n = mlp.net[2].in_features
    neurons = neurons.to(out_weight.device)
    first = mlp.net[0].proj
    rows = torch.cat([neurons + n * k for k in range(first.out_features // n)])
    activation = shallow(
        mlp.net[0],
        proj=linear(first.weight[rows], None if first.bias is None else first.bias[rows]),
    )
    second = linear(out_weight.to(mlp.net[2].weight.dtype), copied(mlp.net[2].bias))
    return shallow(mlp, net=nn.ModuleList([activation, mlp.net[1], second]))


def masked_module(module: nn.Module, layer: PrunableLayer, cut: Cut) -> nn.Module:
    """The same module at full width with the cut's weights: the reference that a slim one is held
    against.
    """
    if layer.kind == "heads":
        return _with_out(module, widened(layer, cut), cut.bias)
    second = module.net[2]
    new = linear(
        widened(layer, cut).to(second.weight.dtype),
        copied(second.bias if cut.bias is None else cut.bias.to(second.weight)),
    )
    return shallow(module, net=nn.ModuleList([*list(module.net)[:2], new]))


def _with_out(attention: nn.Module, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """The same attention with another output projection, which holds `weight` itself."""
    out = attention.to_out[0]
    new = linear(
        weight.to(out.weight.dtype), copied(out.bias if bias is None else bias.to(out.weight))
    )
    return shallow(attention, to_out=nn.ModuleList([new, *list(attention.to_out)[1:]]))
