"""One denoiser that is three: `MosaicTransformer` runs the subnetwork of the stage that a timestep belongs to.

It stands in a stock pipeline by `pipeline.transformer = mosaic` (DiT) or `pipeline.unet = mosaic` (SDXL). There it reads one
pair of scalars a step to find the stage; the studio's own loop asks `network(t)` for every timestep before it starts, so nothing
is read back while it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .errors import StudioError
from .families import first_parameter
from .plan import STAGES, StagePlan
from .prunable import PrunableLayer, find_layers
from .slimming import Cut, cut_module, graft, shallow


class OnceEmbedder(nn.Module):
    """Timestep and label embedding, worked out once a forward instead of once a block.

    diffusers' DiT holds an equal copy of the embedder in every block. Valid only where they are equal; bit-identical then.
    """

    def __init__(self, embedder: nn.Module):
        super().__init__()
        self.embedder = embedder
        self.memo: tuple | None = None

    def forward(self, timestep: Tensor, class_labels: Tensor, hidden_dtype: torch.dtype | None = None) -> Tensor:
        """As CombinedTimestepLabelEmbeddings: (batch,), (batch,) -> (batch, d)."""
        memo = self.memo  # read once: another thread may run the same model, and forget its own memo, at any moment
        if memo is None or memo[0] is not timestep or memo[1] is not class_labels:
            memo = self.memo = (timestep, class_labels, self.embedder(timestep, class_labels, hidden_dtype=hidden_dtype))
        return memo[2]


def embedders(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> conditioning embedder of every adaLN-Zero block; empty for models that embed once anyway (SDXL)."""
    blocks = enumerate(getattr(model, "transformer_blocks", []))
    found = {f"transformer_blocks.{i}.norm1.emb": getattr(getattr(b, "norm1", None), "emb", None) for i, b in blocks}
    return {path: module for path, module in found.items() if module is not None}


def embedders_equal(model: nn.Module) -> bool:
    """Whether there are embedders and all blocks carry the same, tensor for tensor."""
    states = [m.state_dict() for m in embedders(model).values()]
    return bool(states) and all(torch.equal(states[0][k], other[k]) for other in states[1:] for k in states[0])


def assemble(
    model: nn.Module, cuts: list[Cut] | None, once: OnceEmbedder | None, masked: bool = False, layers: list[PrunableLayer] | None = None
) -> nn.Module:
    """A denoiser that shares everything with the dense one except what the cuts shrink (one `Cut` a layer, in `find_layers` order).

    `masked` keeps the full width and only zeroes: the slow reference.
    """
    parts: dict[str, nn.Module] = {} if once is None else dict.fromkeys(embedders(model), once)
    if cuts is not None:
        layers = find_layers(model) if layers is None else layers
        parts |= {layer.module: cut_module(model, layer, cut, masked) for layer, cut in zip(layers, cuts, strict=True) if cut.weight is not None}
    return graft(model, parts).eval() if parts else shallow(model).eval()


class MosaicTransformer(nn.Module):
    """The subnetworks of a plan over one dense denoiser (DiT or SDXL's UNet), routed by timestep.

    `dense` (the model), `plan` and one list of `Cut` a stage (in STAGES order, layers in `find_layers` order; None: dense).
    """

    def __init__(self, dense: nn.Module, plan: StagePlan | None, cuts: list[list[Cut] | None], masked: bool = False,
                 layers: list[PrunableLayer] | None = None):  # fmt: skip
        super().__init__()
        self.plan, self.enabled = plan, True
        self.layers = find_layers(dense) if layers is None else layers
        self.cuts = cuts
        # A private twin module graph over the same parameters: nothing below ever reaches into the dense model's own children.
        self.once = OnceEmbedder(next(iter(embedders(dense).values()))) if embedders_equal(dense) else None
        self.dense = dense
        built: dict[int, nn.Module] = {}  # stages with the same cuts are one network
        self.full = assemble(dense, None, self.once)
        for c in cuts:
            if id(c) not in built:
                built[id(c)] = self.full if c is None else assemble(dense, c, self.once, masked, self.layers)
        self.stages = nn.ModuleList([built[id(c)] for c in cuts])
        self.config = dense.config

    def __getattr__(self, name: str) -> Any:
        """What a pipeline reads of its denoiser beside the forward (SDXL: `add_embedding`) is the dense model's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "dense" or name.startswith("__"):
                raise
            return getattr(self.dense, name)

    @property
    def dtype(self) -> torch.dtype:
        return first_parameter(self.dense).dtype

    @property
    def device(self) -> torch.device:
        return first_parameter(self.dense).device

    def disable(self) -> None:
        """Run the dense model, bit for bit, until `enable()`."""
        if not self.enabled:
            raise StudioError("This MosaicTransformer is already disabled.")
        self.enabled = False

    def enable(self) -> None:
        """Route by stage again."""
        if self.enabled:
            raise StudioError("This MosaicTransformer is already enabled.")
        self.enabled = True

    def stage_of(self, timestep: float) -> int:
        """Index into STAGES of the subnetwork that runs at this timestep; -1 for the dense model."""
        return self.plan.stage_of(timestep) if self.enabled and self.plan is not None else -1

    def network(self, timestep: float) -> Callable[..., Tensor]:
        """The forward to call at this timestep: no look at device memory, no branch. Returns the bare prediction tensor."""
        stage = self.stage_of(timestep)
        return partial(self._run, self.full if stage < 0 else self.stages[stage])

    def stages_as_networks(self) -> list[Callable[..., Tensor]]:
        """One callable a stage, in STAGES order."""
        return [partial(self._run, stage) for stage in self.stages]

    def _run(self, network: nn.Module, sample: Tensor, timestep: Tensor, *args: Any, **conditions: Any) -> Tensor:
        try:
            return network(sample, timestep, *args, **conditions, return_dict=False)[0]
        finally:
            if self.once is not None:
                self.once.memo = None

    def forward(self, sample: Tensor | None = None, timestep: Tensor | float | None = None, *args: Any, return_dict: bool = True, **conditions: Any):
        """As the dense model's forward (DiT: `hidden_states`, UNet: `sample`). Reads one pair of scalars from `timestep` a call (a host sync on a GPU)."""
        sample = conditions.pop("hidden_states", sample)
        low = high = timestep
        if torch.is_tensor(timestep):
            low, high = torch.stack([timestep.min(), timestep.max()]).tolist() if timestep.numel() > 1 else [timestep.item()] * 2
        if self.plan is not None and self.enabled and self.plan.stage_of(low) != self.plan.stage_of(high):
            raise StudioError("All rows of a batch must lie in one stage; sample them with one timestep a step.")
        found = self.network(low)(sample, timestep, *args, **conditions)
        return _output(self.dense, found) if return_dict else (found,)

    def kept(self, stage: int) -> list[int]:
        """Groups that each layer keeps in a stage, in `layers` order."""
        cuts = self.cuts[stage]
        return [layer.groups if cuts is None else len(cut.kept) for layer, cut in zip(self.layers, cuts or [None] * len(self.layers), strict=True)]

    def summary(self) -> str:
        """One line a stage: what runs there."""
        lines, blocks = [], len({layer.block for layer in self.layers})
        for stage, name in enumerate(STAGES):
            kept = self.kept(stage)
            heads, neurons = (sum(k for k, layer in zip(kept, self.layers, strict=True) if layer.kind == kind) for kind in ("heads", "neurons"))
            lines.append(f"{name}: {heads} heads, {neurons} neurons in {blocks} blocks")
        return "\n".join(lines)


def _output(model: nn.Module, sample: Tensor) -> Any:
    """The output object of the dense model's own kind."""
    if hasattr(model, "down_blocks"):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

        return UNet2DConditionOutput(sample=sample)
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    return Transformer2DModelOutput(sample=sample)
