"""Make physically smaller modules from kept indices and weights.

The dense model is never changed; equal parts are shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import StudioError
from ..models.alignment import COLUMNS
from ..models.layers import PrunableLayer
from ..pruning.cuts import Cut, consumer_of, kept_columns
from ..pruning.groups import columns_of_groups

if TYPE_CHECKING:
    from diffusers.models.attention import FeedForward
    from diffusers.models.attention_processor import Attention

Module = TypeVar("Module", bound=nn.Module)
WIDTH = COLUMNS  # in half precision a pruned MLP runs at a multiple of this
HALF = (torch.float16, torch.bfloat16)


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return the registry of a module's own children, to be read or changed."""
    return vars(module)["_modules"]


def shallow(module: Module, **children: nn.Module) -> Module:
    """Return a second module over the same parameters, with some children replaced.

    Hooks added to one later are not on the other.
    """
    twin = copy.copy(module)
    for hooks in [name for name in vars(module) if "_hooks" in name]:
        setattr(twin, hooks, copy.copy(getattr(module, hooks)))
    for registry in ("_parameters", "_buffers", "_modules"):
        setattr(twin, registry, dict(getattr(module, registry)))
    # a compiled forward (module.compile()) would run the module that it was made for
    vars(twin).pop("_compiled_call_impl", None)
    children_of(twin).update(children)
    return twin


def graft(module: nn.Module, replacements: dict[str, nn.Module]) -> nn.Module:
    """Return a shallow twin of a whole tree with the modules at these dotted paths replaced.

    Modules that no path leads through are the same objects.
    """
    direct: dict[str, nn.Module] = {}
    deeper: dict[str, dict[str, nn.Module]] = {}
    for path, new in replacements.items():
        head, _, rest = path.partition(".")
        if rest:
            deeper.setdefault(head, {})[rest] = new
        else:
            direct[head] = new
    for name, inner in deeper.items():
        direct[name] = graft(module.get_submodule(name), inner)
    return shallow(module, **direct)


def clone_structure(module: nn.Module, memo: dict[int, nn.Module] | None = None) -> nn.Module:
    """Return a twin of a whole tree: no module object in common, every tensor in common.

    Module objects that appear twice do so in the twin.
    """
    memo = {} if memo is None else memo
    if id(module) not in memo:
        twin = memo[id(module)] = shallow(module)
        for name, child in children_of(module).items():
            if child is not None:
                children_of(twin)[name] = clone_structure(child, memo)
    return memo[id(module)]


def replace_tensors(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Put `change(tensor)` in the place of every parameter and buffer of a tree, once per tensor.

    Shared tensors stay shared. The old tensors are not written to, so another tree over them stays
    as it is. Each old tensor is released before the next is changed.
    """
    places: dict[int, tuple[Tensor, list[tuple[dict[str, Tensor | None], str]]]] = {}
    for part in module.modules():
        registries: tuple[dict[str, Tensor | None], ...]
        registries = (vars(part)["_parameters"], vars(part)["_buffers"])
        for registry in registries:
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
    """Return a twin of a whole tree whose tensors are shapes without memory (device "meta").

    Shared tensors stay shared.
    """
    twin = clone_structure(module)
    replace_tensors(twin, lambda tensor: tensor.detach().to("meta"))
    return twin


def unique_bytes(parts: Iterable[nn.Module | Tensor]) -> int:
    """Return the bytes of the different storages under these modules or tensors.

    A storage that several share counts once, a view counts as all that it keeps alive. On device
    "meta" the bytes are those that the shapes would take.
    """
    storages = {}
    for part in parts:
        for tensor in [part] if torch.is_tensor(part) else [*part.parameters(), *part.buffers()]:
            storage = tensor.untyped_storage()
            # without memory there is no address: then the number of the storage itself; the storage
            # is held here, so that its number is not given to another one
            number = storage.data_ptr() or storage._cdata  # noqa: SLF001
            storages[number] = storage
    return sum(storage.nbytes() for storage in storages.values())


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a frozen linear layer that holds these tensors themselves, made contiguous."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer.eval()


def copied(tensor: Tensor | None) -> Tensor | None:
    """Return a copy in memory of its own; None for None."""
    return None if tensor is None else tensor.detach().clone()


class Constant(nn.Module):
    """A layer that kept nothing: its output bias for every token, in the place of the module.

    diffusers' own attention divides by its heads, so an attention without heads cannot run.
    """

    def __init__(self, bias: Tensor | None, width: int, like: Tensor):
        super().__init__()
        bias = (
            torch.zeros(width, dtype=like.dtype, device=like.device)
            if bias is None
            else bias.detach().to(like).clone()
        )
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        """Return the bias per token: (batch, tokens, anything) -> (batch, tokens, width)."""
        return self.bias.to(hidden_states.dtype).expand(*hidden_states.shape[:-1], len(self.bias))


def cut_module(
    model: nn.Module,
    layer: PrunableLayer,
    cut: Cut,
    masked: bool = False,
    width: int | None = None,
) -> nn.Module:
    """Return what stands at `layer.module` after the cut.

    width: that a slim MLP is filled up to; None: as its precision wants it. `masked` keeps the full
    width and only zeroes: the slow reference. Raises StudioError for a weight that has not the kept
    columns.
    """
    module = model.get_submodule(layer.module)
    if cut.weight is None:
        return module
    weight = _checked_weight(layer, cut.kept, cut.weight)
    if masked:
        return masked_module(module, layer, full_width(layer, cut.kept, weight), cut.bias)
    if not len(cut.kept):
        consumer = consumer_of(model, layer)
        bias = consumer.bias if cut.bias is None else cut.bias
        return Constant(bias, consumer.out_features, consumer.weight).eval()
    if layer.kind == "heads":
        return slim_attention(cast("Attention", module), cut.kept, weight)
    return slim_feed_forward(cast("FeedForward", module), cut.kept, weight, width)


def _checked_weight(layer: PrunableLayer, kept: Tensor, weight: Tensor) -> Tensor:
    """Return the weight of a cut with its kept columns, the one shape that is used from here on.

    Programs may give all columns of a layer; the kept ones are taken. Raises StudioError for any
    other width.
    """
    found = weight.shape[1]
    wanted = len(kept) * layer.group_size
    if found == layer.width != wanted:
        return weight[:, kept_columns(layer, kept, weight.device)]
    if found != wanted:
        raise StudioError(
            f"The weight of a cut of {layer.name} has {found} columns; give it the {wanted} of the"
            " groups it keeps."
        )
    return weight


def full_width(layer: PrunableLayer, kept: Tensor, weight: Tensor) -> Tensor:
    """Return a copy (d, all columns) of a weight (d, kept columns), zero where groups went."""
    columns = kept_columns(layer, kept, weight.device)
    return weight.new_zeros(len(weight), layer.width).index_copy_(1, columns, weight)


def slim_attention(attention: Attention, heads: Tensor, out_weight: Tensor) -> nn.Module:
    """Return an attention with these heads only (ascending indices, at least one).

    `out_weight` (d, kept columns) is the compensated output projection; its bias stays full.
    diffusers' processor computes head_dim as width // heads, so heads, inner_dim, inner_kv_dim and
    sliceable_head_dim change together.
    """
    if len(heads) == attention.heads:
        return _with_out(attention, out_weight)
    head_dim = _linear(attention.to_out[0]).in_features // attention.heads
    rows = columns_of_groups(heads, head_dim).to(out_weight.device)  # of q, k and v
    projections = {n: _linear(attention.get_submodule(n)) for n in ("to_q", "to_k", "to_v")}
    children = {n: _with_rows(m, rows) for n, m in projections.items()}
    slim = shallow(_with_out(attention, out_weight), **children)
    slim.heads = slim.sliceable_head_dim = len(heads)
    slim.inner_dim = slim.inner_kv_dim = len(rows)
    return slim


def slim_feed_forward(
    mlp: FeedForward, neurons: Tensor, out_weight: Tensor, width: int | None = None
) -> nn.Module:
    """Return an MLP with these neurons only (ascending indices, at least one).

    `out_weight` (d, kept columns) is the compensated second layer. GELU's first layer has one row
    per neuron, GEGLU's has two: value rows j first, then gate rows j + n. In half precision a
    width that is no multiple of WIDTH is filled up with neurons that give zero: on tensor cores it
    takes more than twice as long as the dense width. width: another one to fill up to.
    """
    activation, dropout, last, *_ = mlp.net
    second, first = _linear(last), _linear(activation.get_submodule("proj"))
    n = second.in_features
    neurons = neurons.to(out_weight.device)
    fill = -len(neurons) % WIDTH if second.weight.dtype in HALF else 0
    if width is not None:
        fill = width - len(neurons)
    rows = [neurons + n * k for k in range(first.out_features // n)]
    if fill:
        proj = _stacked([_with_rows(first, part, fill) for part in rows])
        out_weight = F.pad(out_weight, (0, fill))
    else:
        proj = _with_rows(first, torch.cat(rows))
    activation = shallow(activation, proj=proj)
    slim = linear(out_weight.to(second.weight.dtype), copied(second.bias))
    return shallow(mlp, net=nn.ModuleList([activation, dropout, slim]))


def masked_module(
    module: nn.Module, layer: PrunableLayer, weight: Tensor, bias: Tensor | None
) -> nn.Module:
    """Return the same module at full width with a cut's weight (d, all columns) and bias.

    It is the reference to hold a slim module against.
    """
    if layer.kind == "heads":
        return _with_out(cast("Attention", module), weight, bias)
    mlp = cast("FeedForward", module)
    activation, dropout, last, *_ = mlp.net
    new = _replaced(_linear(last), weight, bias)
    return shallow(mlp, net=nn.ModuleList([activation, dropout, new]))


def _with_out(attention: Attention, weight: Tensor, bias: Tensor | None = None) -> Attention:
    """Return the same attention with another output projection, which holds `weight` itself."""
    out, *others = attention.to_out
    new = _replaced(_linear(out), weight, bias)
    return shallow(attention, to_out=nn.ModuleList([new, *others]))


def _replaced(old: nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a linear layer of another weight, and of another bias where one is given."""
    return linear(
        weight.to(old.weight.dtype), copied(old.bias if bias is None else bias.to(old.weight))
    )


def _with_rows(old: nn.Linear, rows: Tensor, fill: int = 0) -> nn.Linear:
    """Return a linear layer of some rows of another one, copied, and of `fill` rows of zeros."""
    weight, bias = old.weight[rows], None if old.bias is None else old.bias[rows]
    if fill:
        weight = F.pad(weight, (0, 0, 0, fill))
        bias = None if bias is None else F.pad(bias, (0, fill))
    return linear(weight, bias)


def _stacked(parts: list[nn.Linear]) -> nn.Linear:
    """Return one linear layer with the rows of several, in turn."""
    bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
    return linear(torch.cat([part.weight for part in parts]), bias)


def _linear(module: nn.Module) -> nn.Linear:
    """Return a part that is known to be a linear layer under that type."""
    return cast(nn.Linear, module)
