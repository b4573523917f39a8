"""Compute the adaLN vectors of a whole run at once, and look them up row by row.

A DiT's blocks take from timestep and label six vectors each, by matrices that are a third of the
weights of DiT-XL/2 (Peebles & Xie 2023, arXiv 2212.09748). There are only so many pairs of timestep
and label in a run, so each pair is worked out once. The products always have ROWS rows, so that a
pair's vectors have the same bits whatever it is computed beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import StudioError
from .adaln import Modulation, norms_of

# of one run; 50 steps of DiT-XL/2 in fp16 take 19 MB per different label
TABLE_BYTES = 256 << 20
# pairs of timestep and label in one matrix product: more would be mostly padding in short runs, and
# with fewer a GPU reads the weights as often as step by step
ROWS = 32


class StepVectors:
    """The adaLN vectors of the rows of a batch at every step of a run, as a sequence of steps.

    embedding: (all steps, labels, d). vectors: (all steps, blocks, labels, 6 d). steps: the place
    of every step of the run among all steps. place: (rows,) the place of every row's label.
    """

    def __init__(self, embedding: Tensor, vectors: Tensor, steps: Sequence[int], place: Tensor):
        self.embedding, self.vectors = embedding, vectors
        self.steps, self.place = steps, place

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> Modulation:
        """Return what stands in the place of timestep and labels in one step."""
        k = self.steps[step]  # raises IndexError, which ends a loop over the steps
        return Modulation(
            self.embedding[k].index_select(0, self.place),
            self.vectors[k].index_select(1, self.place),
        )


def width_of(network: nn.Module) -> int:
    """Return the numbers of one pair of timestep and label: 6 d for every block of a DiT."""
    return sum(cast(nn.Linear, norm.linear).out_features for norm in norms_of(network))


def labels_that_fit(network: nn.Module, steps: int, dtype: torch.dtype) -> int:
    """Return how many different labels a table of TABLE_BYTES has room for."""
    return TABLE_BYTES // (max(1, steps) * width_of(network) * dtype.itemsize)


def padded(pairs: int) -> int:
    """Return the rows that are computed for so many pairs: a multiple of ROWS."""
    return -(-pairs // ROWS) * ROWS


def row_macs(network: nn.Module) -> int:
    """Return the MACs of one pair: the linear layers of the embedder and of every block's adaLN.

    network: a DiT with merged embedders; 0 for any other model.
    """
    if not hasattr(network, "transformer_blocks"):
        return 0
    norms = norms_of(network)
    linears = [cast(nn.Linear, norm.linear) for norm in norms]
    linears += [part for part in norms[0].emb.modules() if isinstance(part, nn.Linear)]
    return sum(layer.in_features * layer.out_features for layer in linears)


def table_of(
    network: nn.Module, timesteps: Tensor, labels: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return embeddings (steps, labels, d) and adaLN vectors (steps, blocks, labels, 6 d).

    network: a DiT with merged embedders. timesteps: (steps,). labels: (labels,), all different.
    The result rounds like a product of ROWS rows, so it may differ from what a step works out
    itself in the last bits of its sums; on one device it does not depend on what else is asked for.
    """
    norms = norms_of(network)
    weight = cast(nn.Linear, norms[0].linear).weight
    steps, count = len(timesteps), len(labels)
    pairs = steps * count
    fill = padded(pairs) - pairs
    times = F.pad(timesteps.repeat_interleave(count), (0, fill)).to(weight.device)
    asked = F.pad(labels.repeat(steps), (0, fill)).to(weight.device)
    places = torch.arange(pairs, device=weight.device)
    embedding = weight.new_empty(steps, count, weight.shape[1], dtype=dtype)
    vectors = weight.new_empty(steps, len(norms), count, weight.shape[0], dtype=dtype)
    for first in range(0, pairs, ROWS):
        rows = slice(first, first + ROWS)
        given = norms[0].emb(times[rows], asked[rows], hidden_dtype=dtype)
        step, label = places[rows] // count, places[rows] % count
        embedding[step, label] = given[: len(step)]
        activated = F.silu(given)
        for k, norm in enumerate(norms):
            vectors[step, k, label] = norm.linear(activated)[: len(step)]
    return embedding, vectors


def step_vectors(
    network: nn.Module, timesteps: Tensor, labels: Tensor, dtype: torch.dtype
) -> StepVectors:
    """Return the adaLN vectors of rows of these labels (rows,) at these timesteps (steps,)."""
    different, place = labels.unique(return_inverse=True)
    embedding, vectors = table_of(network, timesteps, different, dtype)
    return StepVectors(embedding, vectors, range(len(timesteps)), place.to(vectors.device))


class KeptTable(nn.Module):
    """The adaLN vectors of named timesteps and labels, in the place of the weights they came from.

    timesteps, labels: what is named. embedding: (steps, labels, d). vectors: (steps, blocks,
    labels, 6 d).
    """

    embedding: Tensor
    vectors: Tensor

    def __init__(
        self, timesteps: Sequence[float], labels: Sequence[int], embedding: Tensor, vectors: Tensor
    ):
        super().__init__()
        self.timesteps = {float(t): i for i, t in enumerate(timesteps)}
        self.labels = {int(label): i for i, label in enumerate(labels)}
        self.register_buffer("embedding", embedding)
        self.register_buffer("vectors", vectors)

    def steps_of(self, timesteps: Sequence[float]) -> list[int]:
        """Return the place of every timestep. Raises StudioError for one that is not named."""
        for t in timesteps:
            if float(t) not in self.timesteps:
                raise StudioError(
                    f"This model was exported without adaLN weights for {len(self.timesteps)} named"
                    f" timesteps, and {t:g} is none of them: sample with the scheduler and steps"
                    " that it was exported for, or export it anew."
                )
        return [self.timesteps[float(t)] for t in timesteps]

    def places_of(self, labels: Sequence[int]) -> Tensor:
        """Return the place (rows,) of every label. Raises StudioError for one that is not named."""
        for label in labels:
            if label not in self.labels:
                raise StudioError(
                    f"This model was exported without adaLN weights for {len(self.labels)} named"
                    f" labels, and {label} is none of them: ask for one of"
                    f" {_some(self.labels)}, or export it anew."
                )
        return torch.tensor([self.labels[x] for x in labels], device=self.vectors.device)

    def step_vectors(self, timesteps: Tensor, labels: Tensor) -> StepVectors:
        """Return the vectors of rows of these labels (rows,) at these timesteps (steps,).

        Raises StudioError for what is not named.
        """
        steps = self.steps_of(timesteps.tolist())
        return StepVectors(self.embedding, self.vectors, steps, self.places_of(labels.tolist()))

    def of_rows(self, timestep: Tensor | float, labels: Tensor) -> Modulation:
        """Return what stands in the place of one timestep, or one per row, and labels (rows,).

        Both are read from the device. Raises StudioError for what is not named.
        """
        given = torch.as_tensor(timestep).reshape(-1).expand(len(labels))
        steps = torch.tensor(self.steps_of(given.tolist()), device=self.vectors.device)
        place = self.places_of(labels.tolist())
        return Modulation(
            self.embedding[steps, place], self.vectors[steps, :, place].transpose(0, 1)
        )


def _some(labels: dict[int, int]) -> str:
    """Return the first of some labels in words."""
    first = ", ".join(map(str, list(labels)[:8]))
    return first + (" ..." if len(labels) > 8 else "")
