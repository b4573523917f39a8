"""Count the bytes that subnetworks hold, from the storages of their tensors.

Three subnetworks share what no cut touches (adaLN, embedders, norms). A further step would let them
share q, k, v and first MLP layers as row-prefix views of one permuted weight; the bytes of that are
computed from the shapes here, not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..curves.plan import STAGES, StagePlan
from ..models.layers import find_layers, removed_groups
from ..mosaic.slimming import unique_bytes
from ..mosaic.transformer import OnceEmbedder, assemble, embedders
from ..pruning.cuts import Cut, consumer_of
from ..workshop.workshop import Workshop
from .measure import machine
from .subjects import Subject, cuts_of, shapes_of_dit, subject_of, uniform_cuts

SPARSITIES = (0.5, 0.2, 0.5)  # late, middle, early
TARGET_BYTES = 2.1e9  # three subnetworks of DiT-XL/2 in fp16


def memory_benchmark(
    workshop: Workshop | None, sparsities: tuple[float, float, float] = SPARSITIES, **changes: Any
) -> dict[str, Any]:
    """Return sizes of dense, three subnetworks and three copies.

    `workshop`'s model from real storages, DiT-XL/2 in fp16 from shapes. None: DiT-XL/2 alone.
    changes: to DiT-XL/2's configuration.
    """
    rows = []
    if workshop is not None:
        plan = StagePlan(
            (1, 2), sparsities, method="magnitude", num_train_timesteps=len(workshop.schedule)
        )
        mosaic = workshop.build(plan)
        subject = subject_of(workshop)
        rows += _sizes(
            subject,
            list(mosaic.stages),
            [uniform_cuts(subject, s) for s in sparsities],
            equal=mosaic.once is not None,
            counted="real storages",
        )
        rows.append(
            _row(
                workshop.name,
                "all that the MosaicTransformer keeps, dense model included",
                unique_bytes([mosaic]),
                "real storages",
            )
        )
    model = shapes_of_dit(torch.float16, **changes)
    subject = Subject("DiT, fp16" if changes else "DiT-XL/2, fp16", model, find_layers(model))
    cuts = [cuts_of(subject, removed_groups(subject.layers, s)) for s in sparsities]
    once = OnceEmbedder(next(iter(embedders(model).values())))
    stages = [assemble(model, c, once, layers=subject.layers) for c in cuts]
    rows += _sizes(
        subject,
        stages,
        cuts,
        equal=True,
        counted="shapes",
        at_most=None if changes else TARGET_BYTES,
    )
    device = torch.device("cpu") if workshop is None else workshop.device
    return machine(device) | {
        "sparsity": dict(zip(STAGES, sparsities, strict=True)),
        "note": (
            f"late, middle and early lose {', '.join(f'{s:g}' for s in sparsities)} of heads and"
            " neurons; uniform over layers"
        ),
        "sizes": rows,
    }


def _sizes(
    subject: Subject,
    stages: list[nn.Module],
    cuts: Sequence[list[Cut] | None],
    equal: bool,
    counted: str,
    at_most: float | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of one subject.

    equal: whether the conditioning embedders of the blocks are equal, so that one may stand for
    all.
    """
    model = subject.model
    conditioning = list(embedders(subject.model).values())
    dense = unique_bytes([model])
    merged = dense - unique_bytes(conditioning) + unique_bytes(conditioning[:1]) if equal else dense
    copies = sum(
        unique_bytes([model if c is None else assemble(model, c, None, layers=subject.layers)])
        for c in cuts
    )
    return [
        _row(subject.name, "dense, as diffusers stores it", dense, counted),
        _row(subject.name, "dense, equal embedders merged", merged, counted),
        _row(subject.name, "three subnetworks", unique_bytes(stages), counted, at_most),
        _row(
            subject.name, "three copies of pruned models, each with all embedders", copies, counted
        ),
        _row(
            subject.name,
            "three subnetworks with row-prefix views of one order",
            prefix_view_bytes(subject, cuts, merged),
            "computed, not built",
        ),
    ]


def prefix_view_bytes(subject: Subject, cuts: Sequence[list[Cut] | None], merged: int) -> int:
    """Return the bytes of three subnetworks that share rows as views of the widest stage's.

    The rows are those of q, k, v and first MLP layers, in one order for all. merged: bytes of the
    dense model with one embedder. The compensated consumers (columns) stay apart, one per stage.
    """
    elements = 0
    for i, layer in enumerate(subject.layers):
        kept = [layer.groups if c is None else len(c[i].kept) for c in cuts]
        # weights of a group
        consumer = consumer_of(subject.model, layer).out_features * layer.group_size
        elements += (
            (layer.weights_per_group - consumer) * max(kept)
            + consumer * sum(kept)
            - layer.weights_per_group * layer.groups
        )
    return merged + elements * next(subject.model.parameters()).element_size()


def _row(
    subject: str, what: str, size: int, counted: str, at_most: float | None = None
) -> dict[str, Any]:
    """Return one row of the table."""
    row = {
        "name": f"{subject}: {what}",
        "subject": subject,
        "what": what,
        "bytes": size,
        "counted": counted,
    }
    return row if at_most is None else row | {"at_most": at_most, "met": size <= at_most}
