"""Compute what every block of a DiT derives from timestep and label once, not per block.

diffusers' DiT holds a copy of the timestep and label embedder in each block and runs each copy, and
sends its output through a matrix of each block's own (adaLN-Zero, Peebles & Xie 2023, arXiv
2212.09748). Where the copies are equal, one is enough. Where the timesteps of a run are known, the
matrix products can be done before the run starts (`core.mosaic.adaln_table`). Both results travel
through the model's own forward in the place of its class labels, so no state is kept in modules
that threads or torch.compile share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from .slimming import children_of, clone_structure


class Modulation(NamedTuple):
    """The embedding and the adaLN vectors of a batch, in the place of timestep and labels."""

    embedding: Tensor  # (batch, d)
    blocks: Tensor  # (blocks, batch, 6 d): shift, scale and gate of attention and MLP


class BlockVectors(NamedTuple):
    """The adaLN vectors of one block, in the place of timestep and labels."""

    vectors: Tensor  # (batch, 6 d)


class Spread(NamedTuple):
    """A `Modulation` taken apart for blocks that apply their vectors themselves."""

    embedding: Tensor  # (batch, d)
    blocks: Tensor  # (blocks, batch, 6 d)
    # of every block: shift, 1 + scale and gate of attention and MLP, (batch, 1, d) each
    parts: Sequence[Sequence[Tensor]]


class OnceEmbedder(nn.Module):
    """A timestep and label embedder that stands in every block and is computed once per forward.

    `embed_first` computes it before the first block. Valid only where the copies are equal;
    bit-identical then. Its parameters have the embedder's own names.
    """

    def __init__(self, embedder: nn.Module):
        super().__init__()
        # a mosaic may stand on another one's dense network
        self.kind: type[nn.Module] = (
            embedder.kind if isinstance(embedder, OnceEmbedder) else type(embedder)
        )
        children_of(self).update(children_of(clone_structure(embedder)))

    def forward(
        self,
        timestep: Tensor,
        class_labels: Tensor | Modulation | Spread,
        hidden_dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Return the embedding (batch, d), as CombinedTimestepLabelEmbeddings does.

        timestep, class_labels: (batch,). `class_labels` may be the finished result (batch, d), or
        carry it.
        """
        if isinstance(class_labels, Modulation | Spread):
            return class_labels.embedding
        if class_labels.is_floating_point():
            return class_labels
        return self.kind.forward(self, timestep, class_labels, hidden_dtype=hidden_dtype)


class ReadyNorm(nn.Module):
    """A block's adaLN-Zero that takes its six vectors from a `Modulation` where it gets one.

    Its parameters have the norm's own names.
    """

    emb: nn.Module  # timestep and label embedder
    linear: nn.Module  # (batch, d) -> (batch, 6 d)
    norm: nn.Module  # without scale and shift of its own

    def __init__(self, norm: nn.Module, once: OnceEmbedder, index: int):
        super().__init__()
        self.kind: type[nn.Module] = norm.kind if isinstance(norm, ReadyNorm) else type(norm)
        self.index = index
        children_of(self).update(children_of(norm) | {"emb": once})

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        class_labels: Tensor | Modulation | Spread | BlockVectors,
        hidden_dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, ...]:
        """Return x normalised and modulated, and the four vectors that the block applies itself.

        As AdaLayerNormZero: x (batch, tokens, d), vectors (batch, d).
        """
        if isinstance(class_labels, BlockVectors):
            vectors = class_labels.vectors
        elif isinstance(class_labels, Modulation | Spread):
            vectors = class_labels.blocks[self.index]
        else:
            return self.kind.forward(self, x, timestep, class_labels, hidden_dtype=hidden_dtype)
        shift, scale, *others = vectors.chunk(6, dim=1)
        return self.norm(x) * (1 + scale[:, None]) + shift[:, None], *others


class _Block(Protocol):
    norm1: ReadyNorm


class _Denoiser(Protocol):
    transformer_blocks: Sequence[_Block]


def embedders(model: nn.Module) -> dict[str, nn.Module]:
    """Return path -> conditioning embedder of every adaLN-Zero block.

    The result is empty for models that embed once anyway (SDXL).
    """
    found = {}
    for i, block in enumerate(getattr(model, "transformer_blocks", [])):
        embedder = getattr(getattr(block, "norm1", None), "emb", None)
        if embedder is not None:
            found[f"transformer_blocks.{i}.norm1.emb"] = embedder
    return found


def norms_of(model: nn.Module) -> list[ReadyNorm]:
    """Return the adaLN-Zero of every block of a DiT, with the parts `emb`, `linear` and `norm`."""
    return [block.norm1 for block in cast(_Denoiser, model).transformer_blocks]


def embedders_equal(model: nn.Module) -> bool:
    """Say whether there are embedders and all blocks carry the same, tensor for tensor."""
    states = [m.state_dict() for m in embedders(model).values()]
    return bool(states) and all(
        torch.equal(states[0][k], other[k]) for other in states[1:] for k in states[0]
    )


def merged(model: nn.Module, once: OnceEmbedder) -> dict[str, nn.Module]:
    """Return path -> norm of a network whose blocks share one embedder."""
    return {
        f"transformer_blocks.{i}.norm1": ReadyNorm(norm, once, i)
        for i, norm in enumerate(norms_of(model))
    }


def embed_first(
    network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replace class labels (batch,) by the embeddings (batch, d) that every block needs.

    A `Modulation` of few rows is taken apart where blocks know what to do with its parts. Forward
    pre-hook of a DiT with a `OnceEmbedder`.
    """
    names = ("hidden_states", "timestep", "class_labels")
    given = kwargs | dict(zip(names, args, strict=False))
    labels = given.get("class_labels")
    if labels is None or isinstance(labels, Spread):
        return args, kwargs
    if isinstance(labels, Modulation):
        first = cast(_Denoiser, network).transformer_blocks[0]
        most = getattr(type(first), "rows_in_parts", 0)
        if labels.blocks.shape[1] > most or torch.compiler.is_compiling():
            return args, kwargs
        found: Spread | Tensor = spread(labels)
    else:
        embedder = norms_of(network)[0].emb
        dtype = given["hidden_states"].dtype
        found = embedder(given.get("timestep"), labels, hidden_dtype=dtype)
    if len(args) > 2:
        return (*args[:2], found, *args[3:]), kwargs
    return args, {**kwargs, "class_labels": found}


def spread(given: Modulation) -> Spread:
    """Return a modulation taken apart, with all scales made factors at once."""
    six = given.blocks.unflatten(2, (6, 1, -1)).transpose(1, 2)  # (blocks, 6, batch, 1, d)
    factors = 1 + six[:, 1::3]  # (blocks, 2, batch, 1, d)
    parts: list[Sequence[Tensor]] = []
    for vectors, pair in zip(six.unbind(), factors.unbind(), strict=True):
        shift, _, gate, shift_mlp, _, gate_mlp = vectors.unbind()
        factor, factor_mlp = pair.unbind()
        parts.append((shift, factor, gate, shift_mlp, factor_mlp, gate_mlp))
    return Spread(given.embedding, given.blocks, parts)
