"""Answer for a denoiser that is several networks what a stock denoiser offers beside forward.

An answer is given by every network, by what the networks have in common (their parts by a
`Together`), or it is refused in a sentence; no call reaches one stage alone. A name that cannot be
reached raises AttributeError, so that `hasattr` returns False, as diffusers asks before it calls.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from torch import nn

from ..errors import StudioError
from .across_stages import Together
from .subnetworks import Subnetworks

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


class AttentionNetwork(Protocol):
    """A denoiser with attention processors, as UNet2DConditionModel is."""

    @property
    def attn_processors(self) -> dict[str, Any]:
        """Return the processor of every attention by its path."""

    def set_attn_processor(self, processor: Any) -> None:
        """Set one processor, or a dictionary path -> processor."""

    def fuse_qkv_projections(self) -> None:
        """Fuse q, k and v of every attention."""

    def unfuse_qkv_projections(self) -> None:
        """Undo `fuse_qkv_projections`."""


EVERYWHERE = (  # methods that change how a network runs, not what it holds
    "enable_freeu",
    "disable_freeu",
    "set_default_attn_processor",
    "enable_gradient_checkpointing",
    "disable_gradient_checkpointing",
    "set_attention_backend",
    "reset_attention_backend",
    "enable_xformers_memory_efficient_attention",
    "disable_xformers_memory_efficient_attention",
    "set_use_memory_efficient_attention_xformers",
    "enable_npu_flash_attention",
    "disable_npu_flash_attention",
    "set_use_npu_flash_attention",
    "enable_xla_flash_attention",
    "disable_xla_flash_attention",
    "set_use_xla_flash_attention",
)
IN_COMMON = (  # the same from every network: the configuration's, or of modules that no cut touches
    "save_config",
    "to_json_file",
    "to_json_string",
    "load_config",
    "get_config_dict",
    "extract_init_dict",
    "get_time_embed",
    "get_aug_embed",
    "get_class_embed",
    "process_encoder_hidden_states",
)
OF_THE_WHOLE = ("num_parameters", "get_memory_footprint")  # each tensor once, however many share it

ADAPTER = (
    "Subnetworks take no LoRA or other adapter, which is made for the dense widths: load it into "
    "the dense model, fuse it there (pipeline.fuse_lora(), then unload_lora_weights()) and prune "
    "again."
)
IP_ADAPTER = (
    "Subnetworks take no IP-Adapter, which puts keys and values of its own into every attention: "
    "load it into a pipeline with the dense model."
)
HOOKS = (
    "Stages share modules and weights, so hooks of diffusers (layerwise casting, group offloading, "
    "caches, layer skipping) do not fit a pruned model: load the model in fp16 or bf16 and use "
    "pipeline.enable_model_cpu_offload() to save memory; pipelines that offload by groups take "
    'exclude_modules="unet" or "transformer".'
)
COMPILE = "Blocks of several widths are not compiled one by one: call compile_stages() instead."
UPLOAD = (
    "A pruned model is not pushed from here: write its subnetworks with save_pretrained(folder), "
    "then upload that folder (huggingface_hub.upload_folder)."
)
REFUSED = {
    **dict.fromkeys(
        (
            "active_adapters",
            "add_adapter",
            "delete_adapters",
            "disable_adapters",
            "disable_lora",
            "enable_adapters",
            "enable_lora",
            "enable_lora_hotswap",
            "fuse_lora",
            "load_attn_procs",
            "load_lora_adapter",
            "save_attn_procs",
            "save_lora_adapter",
            "set_adapter",
            "set_adapters",
            "unfuse_lora",
            "unload_lora",
        ),
        ADAPTER,
    ),
    "_load_ip_adapter_weights": IP_ADAPTER,
    "_convert_ip_adapter_image_proj_to_diffusers": IP_ADAPTER,
    "enable_layerwise_casting": HOOKS,
    "enable_group_offload": HOOKS,
    "compile_repeated_blocks": COMPILE,
    "push_to_hub": UPLOAD,
}


def stock_attribute(mosaic: Subnetworks, name: str, missing: AttributeError) -> Any:
    """Return what a mosaic answers to a name of its dense model that it does not have itself.

    Raises AttributeError with the reason, or `missing` for a name that a stock model does not have
    either. Private names are not passed on: hooks leave their marks under them.
    """
    networks = mosaic.networks()
    if name in REFUSED and hasattr(type(networks[0]), name):
        raise AttributeError(REFUSED[name]) from None
    if name.startswith("_") or not hasattr(networks[0], name):
        raise missing
    if name == "attn_processors":
        return attention_processors(mosaic)
    if name == "set_attention_slice":
        return functools.partial(slice_attention, mosaic)
    if name in OF_THE_WHOLE:
        return getattr(type(networks[0]), name).__get__(mosaic)
    value = getattr(networks[0], name)
    if isinstance(value, nn.Module):
        if all(getattr(network, name, None) is value for network in networks):
            return value
        return Together(networks, name)
    if not inspect.ismethod(value) or name in IN_COMMON:
        return value
    if inspect.isclass(value.__self__):
        raise AttributeError(
            f"{name} makes a stock model: call it on {type(networks[0]).__name__} itself."
        ) from None
    if name in EVERYWHERE:
        return functools.partial(_everywhere, mosaic, name)
    raise AttributeError(
        f"{type(networks[0]).__name__}.{name} would reach one stage of a pruned model only: call "
        "it on the dense model before pruning, or on each network of .networks()."
    ) from None


def _everywhere(mosaic: Subnetworks, name: str, *args: Any, **kwargs: Any) -> None:
    """Call a method of every network."""
    for network in mosaic.networks():
        getattr(network, name)(*args, **kwargs)


# ------------------------------------------------------------ attention


def attention_networks(mosaic: Subnetworks) -> list[AttentionNetwork]:
    """Return the networks under the type that they have where stock attention is changed."""
    return [cast(AttentionNetwork, network) for network in mosaic.networks()]


def attention_processors(mosaic: Subnetworks) -> dict[str, Any]:
    """Map the path of every attention to its processor; where stages differ, the late one's."""
    found: dict[str, Any] = {}
    for network in attention_networks(mosaic):
        for path, processor in network.attn_processors.items():
            found.setdefault(path, processor)
    return found


def set_processors(mosaic: Subnetworks, processor: Any) -> None:
    """Set one processor, or those of a dictionary path -> processor, in every network.

    Paths are the dense model's; those of attentions that lost everything are passed over. Raises
    StudioError for others.
    """
    if not isinstance(processor, dict):
        for network in attention_networks(mosaic):
            network.set_attn_processor(processor)
        return
    wanted = attention_processors(mosaic).keys()
    dense = {f"{layer.module}.processor" for layer in mosaic.layers if layer.kind == "heads"}
    odd = sorted((wanted - processor.keys()) | (processor.keys() - wanted - dense))
    if odd:
        raise StudioError(
            f"The dictionary of {len(processor)} attention processors does not fit this model's "
            f"{len(wanted | dense)} attentions (see {odd[0]}): give one for each key "
            "of .attn_processors."
        )
    for network in attention_networks(mosaic):
        network.set_attn_processor({path: processor[path] for path in network.attn_processors})


def slice_attention(
    mosaic: Subnetworks, slice_size: str | int | list[int | None] | None = "auto"
) -> None:
    """Slice the attention of every network, as UNet2DConditionModel.set_attention_slice does.

    Numbers are held against the dense model's heads; an attention with fewer heads runs in one
    slice. "auto" halves the heads that each has, one at least. Raises StudioError for sizes that
    do not fit.
    """
    heads = {layer.module: layer.groups for layer in mosaic.layers if layer.kind == "heads"}
    sliced: list[tuple[Attention, int | None]] = []
    for network in mosaic.networks():
        found: list[tuple[nn.Module, int]] = []
        for path, module in network.named_modules():
            if path in heads:
                found.append((module, heads[path]))
            elif path and hasattr(module, "set_attention_slice"):
                found.append((module, cast("Attention", module).sliceable_head_dim))
        sizes = _sizes(slice_size, [dense for _, dense in found])
        for (module, _), size in zip(found, sizes, strict=True):
            if not hasattr(module, "set_attention_slice"):
                continue  # this attention lost all its heads
            attention = cast("Attention", module)
            own = attention.sliceable_head_dim
            own_size = max(1, own // 2) if size == "auto" else size and min(size, own)
            sliced.append((attention, own_size))
    for attention, own_size in sliced:
        attention.set_attention_slice(own_size)  # type: ignore[arg-type]  # None: not sliced


def _sizes(slice_size: Any, heads: list[int]) -> list[Any]:
    """Return one size for each attention. Raises StudioError for what cannot be a size."""
    sizes = slice_size if isinstance(slice_size, list) else [slice_size] * len(heads)
    if len(sizes) != len(heads):
        raise StudioError(
            f"{len(sizes)} slice sizes do not fit the {len(heads)} attentions of this model."
        )
    if slice_size in ("auto", "max"):
        return ["auto" if slice_size == "auto" else 1] * len(heads)
    for size, most in zip(sizes, heads, strict=True):
        whole = isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= most
        if size is not None and not whole:
            raise StudioError(
                f'A slice size must be "auto", "max", None or a number from 1 to {most} heads, '
                f"not {size!r:.40}."
            )
    return sizes


# ------------------------------------------------------------ hooks and saving


class HooksRefused:
    """Stand where diffusers keeps a module's hooks, and refuse them before anything has changed."""

    hooks: ClassVar[dict[str, Any]] = {}

    def register_hook(self, *_: object, **__: object) -> None:
        """Raise StudioError with the reason."""
        raise StudioError(HOOKS)

    def get_hook(self, *_: object, **__: object) -> None:
        """Return None: there is no hook."""

    def remove_hook(self, *_: object, **__: object) -> None:
        """Do nothing: there is no hook."""

    def reset_stateful_hooks(self, *_: object, **__: object) -> None:
        """Do nothing: there is no hook."""


def refuse_hooks(mosaic: Subnetworks) -> None:
    """Let `diffusers.hooks` end in a sentence on a mosaic: it would hook shared modules twice."""
    refused = HooksRefused()
    for module in mosaic.modules():
        vars(module).setdefault("_diffusers_hook", refused)


def guard_pipelines() -> None:
    """Let saving a pipeline with a Subnetworks end in a sentence before anything is written.

    diffusers writes component after component, gives up the mosaic with a warning, and leaves a
    folder that cannot be opened. It asks no component beforehand, so its pipelines check their
    components here first; pipelines without a mosaic are saved as before.
    """
    from diffusers import DiffusionPipeline

    for name in ("save_pretrained", "push_to_hub"):
        stock = getattr(DiffusionPipeline, name)
        if not hasattr(stock, "refuses_mosaics"):
            setattr(DiffusionPipeline, name, _looked_at(stock))


def _looked_at(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Return a pipeline's method that first refuses a pipeline with a Subnetworks."""

    @functools.wraps(stock)
    def save(self: Any, *args: Any, **kwargs: Any) -> Any:
        for name in ("unet", "transformer"):
            if isinstance(
                getattr(getattr(self, name, None), "_orig_mod", getattr(self, name, None)),
                Subnetworks,
            ):
                raise StudioError(
                    f"A pipeline with a pruned {name} is not saved as a whole, and nothing was "
                    f"written: write the subnetworks with pipeline.{name}.save_pretrained(folder), "
                    "and open them again with MosaicTransformer.from_pretrained(folder, base) over "
                    "the pipeline they were cut from."
                )
        return stock(self, *args, **kwargs)

    save.refuses_mosaics = True  # type: ignore[attr-defined]
    return save
