"""What every block of a DiT works out from timestep and label alone: worked out once a forward, or
once for a whole run.

diffusers' DiT holds a copy of the timestep and label embedder in each block and runs each, and
sends its output through a matrix of each block's own (adaLN-Zero, Peebles & Xie 2023, arXiv
2212.09748). Where the copies are equal, one is enough; where the timesteps of a run are known, the
matrices can be done with before it starts. Both travel through the model's own forward in the place
of its class labels, so nothing is kept in modules that threads or torch.compile could meet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .slimming import private


class Modulation(NamedTuple):
    """Stands for timestep and labels of a batch."""

    embedding: Tensor  # (batch, d)
    blocks: tuple[Tensor, ...]  # (batch, 6 d) each: shift, scale and gate of attention and MLP


class OnceEmbedder(nn.Module):
    """Timestep and label embedding that stands in every block, worked out once a forward: by
    `embed_first`, before the first block.

    Valid only where the copies are equal; bit-identical then. Its parameters have the embedder's
    own names.
    """

    def __init__(self, embedder: nn.Module):
        super().__init__()
        # a mosaic may stand on another one's dense network
        self.kind = embedder.kind if isinstance(embedder, OnceEmbedder) else type(embedder)
        self._modules |= private(embedder)._modules

    def forward(
        self,
        timestep: Tensor,
        class_labels: Tensor | Modulation,
        hidden_dtype: torch.dtype | None = None,
    ) -> Tensor:
        """As CombinedTimestepLabelEmbeddings, (batch,), (batch,) -> (batch, d); `class_labels` may
        be the finished result, (batch, d), or carry it.
        """
        if isinstance(class_labels, Modulation):
            return class_labels.embedding
        if class_labels.is_floating_point():
            return class_labels
        return self.kind.forward(self, timestep, class_labels, hidden_dtype=hidden_dtype)


class ReadyNorm(nn.Module):
    """A block's adaLN-Zero that takes its six vectors from a `Modulation` when it is given one. Its
    parameters have the norm's own names.
    """

    def __init__(self, norm: nn.Module, once: OnceEmbedder, index: int):
        super().__init__()
        self.kind, self.index = norm.kind if isinstance(norm, ReadyNorm) else type(norm), index
        self._modules |= norm._modules | {"emb": once}

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        class_labels: Tensor | Modulation,
        hidden_dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, ...]:
        """As AdaLayerNormZero: (batch, tokens, d) -> the same, normalised and modulated, and the
        four vectors (batch, d) that the block applies itself.
        """
        if not isinstance(class_labels, Modulation):
            return self.kind.forward(self, x, timestep, class_labels, hidden_dtype=hidden_dtype)
        shift, scale, *others = class_labels.blocks[self.index].chunk(6, dim=1)
        return self.norm(x) * (1 + scale[:, None]) + shift[:, None], *others


def embedders(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> conditioning embedder of every adaLN-Zero block; empty for models that embed once
    anyway (SDXL).
    """
    norms = [getattr(block, "norm1", None) for block in getattr(model, "transformer_blocks", [])]
    return {
        f"transformer_blocks.{i}.norm1.emb": norm.emb
        for i, norm in enumerate(norms)
        if getattr(norm, "emb", None) is not None
    }


def embedders_equal(model: nn.Module) -> bool:
    """Whether there are embedders and all blocks carry the same, tensor for tensor."""
    states = [m.state_dict() for m in embedders(model).values()]
    return bool(states) and all(
        torch.equal(states[0][k], other[k]) for other in states[1:] for k in states[0]
    )


def merged(model: nn.Module, once: OnceEmbedder) -> dict[str, nn.Module]:
    """Path -> what stands there in a network whose blocks share one embedder."""
    return {
        f"transformer_blocks.{i}.norm1": ReadyNorm(block.norm1, once, i)
        for i, block in enumerate(model.transformer_blocks)
    }


def embed_first(
    network: nn.Module, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """Forward pre-hook of a DiT with a `OnceEmbedder`: class labels (batch,) become the embeddings
    (batch, d) that every block then takes as they are.
    """
    names = ("hidden_states", "timestep", "class_labels")
    x, timestep, labels = (
        args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(names)
    )
    if labels is None or isinstance(labels, Modulation):
        return args, kwargs
    embedded = network.transformer_blocks[0].norm1.emb(timestep, labels, hidden_dtype=x.dtype)
    return (
        (args[:2] + (embedded,) + args[3:], kwargs)
        if len(args) > 2
        else (args, {**kwargs, "class_labels": embedded})
    )


def modulations(
    network: nn.Module, timesteps: Tensor, labels: Tensor, dtype: torch.dtype
) -> list[Modulation]:
    """What a network with merged embedders would work out at each of these timesteps (steps,) for a
    batch of labels (batch,); one entry a step.

    All steps of a different label go through one matrix product, so a result may differ from the
    step's own in the last bits of its sums.
    """
    different, place = labels.unique(return_inverse=True)
    steps, count = len(timesteps), len(different)
    norms = [block.norm1 for block in network.transformer_blocks]
    embedding = norms[0].emb(
        timesteps.repeat_interleave(count), different.repeat(steps), hidden_dtype=dtype
    )
    found = [
        part.view(steps, count, -1)[:, place].unbind()
        for part in (embedding, *(norm.linear(F.silu(embedding)) for norm in norms))
    ]
    return [Modulation(step[0], step[1:]) for step in zip(*found, strict=True)]
