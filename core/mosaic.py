"""One transformer that is three: `MosaicTransformer` runs the subnetwork of the stage that a timestep belongs to.

It stands in a stock pipeline by `pipeline.transformer = mosaic`. There it reads one scalar a step to find the stage;
the studio's own loop asks `network(t)` for every timestep before it starts, so nothing is read back while it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .errors import StudioError
from .plan import STAGES, StagePlan
from .slimming import masked_linear, shallow, slim_attention, slim_feed_forward


@dataclass(frozen=True)
class Cut:
    """What one layer keeps in one stage."""

    kept: Tensor  # (kept groups,) ascending
    weight: Tensor | None  # (d, all columns) compensated consumer weight, removed columns 0; None: untouched


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


def embedders_equal(transformer: nn.Module) -> bool:
    """Whether all blocks carry the same conditioning embedder, tensor for tensor."""
    first, *others = (block.norm1.emb.state_dict() for block in transformer.transformer_blocks)
    return all(torch.equal(first[k], other[k]) for other in others for k in first)


def assemble(transformer: nn.Module, cuts: list[Cut] | None, once: OnceEmbedder | None, masked: bool = False) -> nn.Module:
    """A transformer that shares everything with the dense one except what the cuts shrink (attention, MLP per block).

    `masked` keeps the full width and only zeroes: the slow reference.
    """
    blocks = []
    for i, block in enumerate(transformer.transformer_blocks):
        children = {}
        if once is not None:
            children["norm1"] = shallow(block.norm1, emb=once)
        if cuts is not None:
            heads, neurons = cuts[2 * i], cuts[2 * i + 1]
            if masked:
                out, second = block.attn1.to_out[0], block.ff.net[2]
                if heads.weight is not None:
                    children["attn1"] = shallow(block.attn1, to_out=nn.ModuleList([masked_linear(out, heads.weight), *list(block.attn1.to_out)[1:]]))
                if neurons.weight is not None:
                    children["ff"] = shallow(block.ff, net=nn.ModuleList([*list(block.ff.net)[:2], masked_linear(second, neurons.weight)]))
            else:
                if heads.weight is not None:
                    children["attn1"] = slim_attention(block.attn1, heads.kept, heads.weight)
                if neurons.weight is not None:
                    children["ff"] = slim_feed_forward(block.ff, neurons.kept, neurons.weight)
        blocks.append(shallow(block, **children))
    return shallow(transformer, transformer_blocks=nn.ModuleList(blocks)).eval()


class MosaicTransformer(nn.Module):
    """The subnetworks of a plan over one dense transformer, routed by timestep.

    `dense` (the transformer), `plan` and one list of `Cut` a stage (in STAGES order, layers in `find_layers` order; None: dense).
    """

    def __init__(self, dense: nn.Module, plan: StagePlan | None, cuts: list[list[Cut] | None], masked: bool = False):
        super().__init__()
        self.plan, self.enabled = plan, True
        # A private twin module graph over the same parameters: nothing below ever reaches into the dense model's own children.
        self.once = OnceEmbedder(dense.transformer_blocks[0].norm1.emb) if embedders_equal(dense) else None
        self.dense = dense
        built: dict[int, nn.Module] = {}  # stages with the same cuts are one network
        self.full = assemble(dense, None, self.once)
        for c in cuts:
            if id(c) not in built:
                built[id(c)] = self.full if c is None else assemble(dense, c, self.once, masked)
        self.stages = nn.ModuleList([built[id(c)] for c in cuts])
        self.config = dense.config

    @property
    def dtype(self) -> torch.dtype:
        return self.dense.proj_out_2.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.dense.proj_out_2.weight.device

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

    def _run(self, network: nn.Module, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        try:
            return network(hidden_states, timestep=timestep, class_labels=class_labels, return_dict=False)[0]
        finally:
            if self.once is not None:
                self.once.memo = None

    def forward(self, hidden_states: Tensor, timestep: Tensor | None = None, class_labels: Tensor | None = None,
                cross_attention_kwargs: dict | None = None, return_dict: bool = True):  # fmt: skip
        """As DiTTransformer2DModel.forward. Reads one pair of scalars from `timestep` a call (a host sync on a GPU)."""
        from diffusers.models.modeling_outputs import Transformer2DModelOutput

        low, high = torch.stack([timestep.min(), timestep.max()]).tolist()
        if self.plan is not None and self.enabled and self.plan.stage_of(low) != self.plan.stage_of(high):
            raise StudioError("All rows of a batch must lie in one stage; sample them with one timestep a step.")
        sample = self.network(low)(hidden_states, timestep, class_labels)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def summary(self) -> str:
        """One line a stage: what runs there."""
        lines = []
        for name, network in zip(STAGES, self.stages, strict=True):
            heads = [b.attn1.heads for b in network.transformer_blocks]
            widths = [b.ff.net[2].in_features for b in network.transformer_blocks]
            lines.append(f"{name}: {sum(heads)} heads, {sum(widths)} neurons in {len(heads)} blocks")
        return "\n".join(lines)
