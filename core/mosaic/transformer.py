"""Run the subnetwork of the stage that a timestep belongs to: one denoiser that is three.

`MosaicTransformer` stands in a stock pipeline by `pipeline.transformer = mosaic` (DiT) or
`pipeline.unet = mosaic` (SDXL). There it reads one pair of scalars per step to find the stage; the
studio's own loop asks `network(t)` for every timestep before it starts, so nothing is read back
while it runs.

Every tensor that no cut changes is the dense model's own, held once. The module objects are
private: changes to the mosaic's modules (moves, hooks, fused projections, train mode) do not reach
the dense model's, and the other way round.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..curves.plan import STAGES, StagePlan
from ..errors import StudioError
from ..models.families import family_of
from ..models.layers import PrunableLayer, find_layers
from ..pruning.cuts import Cut
from .across_stages import several
from .adaln import (
    OnceEmbedder,
    embed_first,
    embedders,
    embedders_equal,
    merged,
)
from .adaln_table import KeptTable
from .guided_pairs import PipelineScale, bound, run_at_scale
from .modes import Ways
from .reuse import PipelineWalk
from .runnable import RunnableNetworks
from .serialization import load_mosaic, save_mosaic
from .slimming import children_of, clone_structure, cut_module, graft, replace_tensors, shallow
from .stock_methods import (
    attention_networks,
    guard_pipelines,
    refuse_hooks,
    set_processors,
    stock_attribute,
)


def assemble(
    model: nn.Module,
    cuts: list[Cut] | None,
    once: OnceEmbedder | None,
    masked: bool = False,
    layers: list[PrunableLayer] | None = None,
) -> nn.Module:
    """Return a denoiser that shares everything with the dense one except what the cuts shrink.

    cuts: one `Cut` per layer, in `find_layers` order. `masked` keeps the full width and only
    zeroes: the slow reference.
    """
    from .lean_block import lean  # loads diffusers

    parts: dict[str, nn.Module] = {} if once is None else merged(model, once)
    if cuts is not None:
        layers = find_layers(model) if layers is None else layers
        parts |= {
            layer.module: cut_module(model, layer, cut, masked)
            for layer, cut in zip(layers, cuts, strict=True)
            if cut.weight is not None
        }
    network = graft(model, parts) if parts else shallow(model)
    if once is not None and embed_first not in vars(network)["_forward_pre_hooks"].values():
        network.register_forward_pre_hook(embed_first, with_kwargs=True)
    return lean(network.eval())


class MosaicTransformer(RunnableNetworks):
    """The subnetworks of a plan over one dense denoiser (DiT or SDXL's UNet), routed by timestep.

    `dense` (the model), `plan` and one list of `Cut` per stage (in STAGES order, layers in
    `find_layers` order; None: dense). The weights of the cuts are not kept: `cuts` afterwards has
    the groups that each layer keeps. `facts`: plain JSON data to save beside the subnetworks.
    `table`: the adaLN vectors of a model that has no weights for them (`core.mosaic.exported`).
    """

    def __init__(
        self,
        dense: nn.Module,
        plan: StagePlan | None,
        cuts: list[list[Cut] | None],
        masked: bool = False,
        layers: list[PrunableLayer] | None = None,
        facts: dict[str, Any] | None = None,
        table: KeptTable | None = None,
    ):
        super().__init__()
        dense = getattr(dense, "_orig_mod", dense)  # under torch.compile
        self.plan = plan
        self.enabled = True
        self.masked = masked
        self.facts = {} if facts is None else facts
        self.table = table
        self.pipeline_scale = PipelineScale()
        self._walks: dict[int, PipelineWalk] = {}  # thread -> its run in a stock pipeline
        self._reusing = {}
        self.layers = find_layers(dense) if layers is None else layers
        self.once = (
            OnceEmbedder(next(iter(embedders(dense).values()))) if embedders_equal(dense) else None
        )
        self._full: nn.Module | None = assemble(clone_structure(dense), None, self.once)
        stages: dict[int, nn.Module] = {}  # stages with the same cuts are one network
        groups: dict[int, list[Cut] | None] = {}
        for c in cuts:
            if id(c) not in stages:
                stages[id(c)] = (
                    self._full if c is None else assemble(self._full, c, None, masked, self.layers)
                )
                groups[id(c)] = (
                    None if c is None else [replace(x, weight=None, bias=None) for x in c]
                )
        self.cuts = [groups[id(c)] for c in cuts]
        self.stages = nn.ModuleList([stages[id(c)] for c in cuts])
        self.config = dense.config
        self._compiled = {}
        self._ways = Ways()
        self._twins = {}
        refuse_hooks(self)
        guard_pipelines()

    def __getattr__(self, name: str) -> Any:
        """Answer for the dense model where the answer holds for all networks.

        SDXL's pipeline reads `add_embedding`, for example. Blocks that differ between stages come
        as a `Together`; methods that change the model do so in every network or raise
        AttributeError with the reason: see `core.mosaic.stock_methods`.
        """
        try:
            return super().__getattr__(name)
        except AttributeError as missing:
            if "stages" not in self.__dict__.get("_modules", {}):
                raise
            return stock_attribute(self, name, missing)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse a module that would stand beside the networks and never run.

        Raises AttributeError, for example for `model.mid_block = ...`.
        """
        modules = self.__dict__.get("_modules", {})
        stages = modules.get("stages")
        if stages is not None and name not in modules and name in children_of(stages[0]):
            raise AttributeError(several(name))
        super().__setattr__(name, value)

    def get_submodule(self, target: str) -> nn.Module:
        """Return a module by a path from the mosaic (`stages.0.conv_in`) or the dense model."""
        first, _, rest = target.partition(".")
        if not first or first in self._modules:
            return super().get_submodule(target)
        part = getattr(self, first)
        for step in rest.split(".") if rest else ():
            part = part[int(step)] if step.isdecimal() else getattr(part, step)
        return part

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without compiled forwards, which belong to their own networks."""
        return self.__dict__ | {"_compiled": {}, "_walks": {}, "_reusing": {}, "_twins": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        guard_pipelines()

    def _apply(
        self,
        fn: Callable[[Tensor], Tensor],
        recurse: bool = True,  # noqa: ARG002 (the signature is nn.Module's)
    ) -> MosaicTransformer:
        """Replace the mosaic's tensors, once each, as `.to`, `.half`, `.cuda` and offloading do.

        The dense model given by the user stays as it is.
        """
        with torch.no_grad():
            replace_tensors(self, fn)
        self._reusing = {}  # their own tensors, if any, were not replaced
        self._prepare_anew()
        return self

    def release_dense(self) -> None:
        """Release the full-width weights that no stage runs.

        Afterwards there is no dense model to disable to, or to save against. The memory is free
        once no other object holds the dense model, as `pipeline.transformer` does before the mosaic
        takes its place. Raises StudioError for a mosaic that runs its dense model.
        """
        if self.plan is None or not self.enabled:
            raise StudioError(
                "Only an enabled MosaicTransformer with a plan can release its dense model: it runs"
                " it otherwise."
            )
        if self._full is not None and not any(network is self._full for network in self.stages):
            self._compiled.pop(id(self._full), None)
        self._full = None

    def fuse_qkv_projections(self) -> None:
        """Fuse q, k and v in every network, as UNet2DConditionModel does.

        A DiT has no such method: AttributeError. The dense model given by the user is not fused.
        """
        self._prepare_anew()
        for network in attention_networks(self):
            network.fuse_qkv_projections()

    def set_attn_processor(self, processor: Any) -> None:
        """Set one processor, or a dictionary path -> processor, in every network."""
        self._prepare_anew()
        set_processors(self, processor)

    def unfuse_qkv_projections(self) -> None:
        """Undo `fuse_qkv_projections`."""
        self._prepare_anew()
        # networks share modules: the first to fuse remembers what they were
        for network in reversed(attention_networks(self)):
            network.unfuse_qkv_projections()

    def disable(self) -> None:
        """Run the dense model, bit for bit, until `enable()`.

        Raises StudioError after `release_dense()`.
        """
        if not self.enabled:
            raise StudioError("This MosaicTransformer is already disabled.")
        _ = self.full
        self.enabled = False

    def enable(self) -> None:
        """Route by stage again."""
        if self.enabled:
            raise StudioError("This MosaicTransformer is already enabled.")
        self.enabled = True

    def bind(self, to: Any, guidance_scale: float | None = None) -> MosaicTransformer:
        """Tell the mosaic the pipeline that it runs in; return the mosaic.

        to: the pipeline, or the guidance scale that it is called with. guidance_scale: beside a
        pipeline that does not say its own (DiT). The scale is needed for stages with guidance other
        than 0 and 1, the pipeline for stages that reuse what their steps gave: its scheduler tells
        one run from the next. Raises StudioError.
        """
        self.pipeline_scale = bound(to, self, guidance_scale)
        return self

    def unbind(self) -> None:
        """Forget the pipeline that the mosaic ran in, and what its run left."""
        self.pipeline_scale, self._walks = PipelineScale(), {}

    def _in_turn(self, stage: int, timestep: float, sample: Tensor) -> Callable[..., Tensor]:
        """Return the forward for a stock pipeline's next call: in full, or from what is kept.

        Raises StudioError where the pipeline is not known.
        """
        assert self.plan is not None  # a stage has a plan
        every = self.plan.reuse[stage]
        walks = self._walks.setdefault(threading.get_ident(), PipelineWalk())
        run = self.pipeline_scale.run
        if run is None:
            raise StudioError(
                f"The plan reuses what steps of the {STAGES[stage]} stage gave, so the mosaic must"
                " tell one run from the next: call bind(pipeline) on it first."
            )
        full = walks.full(run, stage, sample.shape, every, self.plan.reuse_order)
        forward = self.reusable(stage)

        def step(*args: Any, **conditions: Any) -> Tensor:
            with walks.walk.step(timestep, full):
                return forward(*args, **conditions)

        return step

    def network(self, timestep: float) -> Callable[..., Tensor]:
        """Return the forward to call at this timestep: no read of device memory, no branch.

        The forward returns the bare prediction tensor.
        """
        stage = self.stage_of(timestep)
        return partial(self._run, self.full if stage < 0 else self.stages[stage])

    def forward(
        self,
        sample: Tensor | None = None,
        timestep: Tensor | float | None = None,
        *args: Any,
        return_dict: bool = True,
        **conditions: Any,
    ) -> Any:
        """Run the network of the timestep, as the dense model's forward does.

        DiT: `hidden_states`, UNet: `sample`. Reads `timestep` once per call (a host sync on a GPU).
        A guided pair runs with the guidance of its stage, where the plan sets one (see
        `core.mosaic.guided_pairs`). Raises StudioError for a batch whose rows lie in several
        stages, and for guidance that cannot be had from a call.
        """
        sample = conditions.pop("hidden_states", sample)
        if timestep is None:
            raise TypeError("MosaicTransformer.forward() needs a timestep.")
        low, high = _ends(timestep)
        if self.stage_of(low) != self.stage_of(high):
            raise StudioError(
                "All rows of a batch must lie in one stage; sample them with one timestep per step."
            )
        stage, scale, forward = self.stage_of(low), None, self.network(low)
        if stage >= 0 and self.plan is not None:
            scale = self.plan.guidance[stage]
            if self.plan.reuse[stage] > 1:
                forward = self._in_turn(stage, low, cast(Tensor, sample))
        if scale is None:
            found = forward(sample, timestep, *args, **conditions)
        else:
            found = run_at_scale(
                forward,
                scale,
                STAGES[stage],
                family_of(self.stages[0]),
                self.pipeline_scale,
                (sample, timestep, args, conditions),
            )
        return _output(self.stages[0], found) if return_dict else (found,)

    def save_pretrained(
        self,
        folder: Path | str,
        facts: dict[str, Any] | None = None,
        progress: Callable[[int, int, str], None] | None = None,
        stop: threading.Event | None = None,
        **stock: Any,
    ) -> list[str]:
        """Write the subnetworks, without the dense model, into a new or empty folder.

        See `core.mosaic.serialization.save_mosaic`. Raises StudioError for options of diffusers'
        own (push_to_hub, variant, ...), which have no meaning here.
        """
        if stock or not (facts is None or isinstance(facts, dict)):
            said = ", ".join(stock)[:80] or f"facts = {facts!r:.40}"
            raise StudioError(
                f"Subnetworks are saved with a folder, facts, progress and stop, not with {said}; "
                "they are always safetensors."
            )
        return save_mosaic(self, folder, facts, progress, stop)

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str,
        base: Any,
        revision: str | None = None,
        progress: Callable[[int, int, str], None] | None = None,
        stop: threading.Event | None = None,
    ) -> MosaicTransformer:
        """Load saved subnetworks over their base (a pipeline, its denoiser, a folder or a hub id).

        See `core.mosaic.serialization.load_mosaic`.
        """
        return load_mosaic(cls, folder, base, revision, progress, stop)


def _ends(timestep: Tensor | float) -> tuple[float, float]:
    """Return the lowest and the highest timestep of a batch in one read.

    One scalar is read where every row is the same memory, as `expand` makes it in DiTPipeline.
    """
    if not torch.is_tensor(timestep):
        return timestep, timestep
    if timestep.numel() == 1 or not any(timestep.stride()):
        return (timestep[(0,) * timestep.dim()].item(),) * 2
    return tuple(torch.stack(timestep.aminmax()).tolist())


def _output(model: nn.Module, sample: Tensor) -> Any:
    """Return the output object of the dense model's own kind."""
    if hasattr(model, "down_blocks"):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

        return UNet2DConditionOutput(sample=sample)
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    return Transformer2DModelOutput(sample=sample)
