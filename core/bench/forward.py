"""Time one forward of a slim network against a gathering one and a masked one, in turn.

All have the same cut; the gathering network picks its weights anew at every forward.
"""

from __future__ import annotations

import threading
from typing import Any

from ..models.families import first_parameter
from ..mosaic.transformer import MosaicTransformer
from ..progress import Progress
from ..sampling.timing import forward_call
from .measure import Effort, Shares, in_turn, machine, medians, ratio
from .subjects import Subject, gathering, mosaic_of, uniform_cuts

BATCHES = (1, 4, 16)  # rows of the denoiser's batch
SPARSITIES = (0.33, 0.5)
EFFORT = Effort(150)


def forward_benchmark(
    subjects: list[Subject],
    batches: tuple[int, ...] = BATCHES,
    sparsities: tuple[float, ...] = SPARSITIES,
    effort: Effort = EFFORT,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Return how many times faster slim is than gathering and than masked.

    The goal is to be faster than gathering at every batch. Uniform sparsity, random kept groups; a
    batch counts denoiser rows, so guidance makes two of every image. Raises Stopped.
    """
    device = first_parameter(subjects[0].model).device
    shares = Shares(effort.seconds, len(subjects) * len(batches))
    rows: list[dict[str, Any]] = []
    total = len(subjects) * len(batches)
    for i, subject in enumerate(subjects):
        networks = _networks(subject, sparsities)
        for j, batch in enumerate(batches):
            if progress is not None:
                progress(i * len(batches) + j, total, f"{subject.name}, batch {batch}")
            calls = {
                name: forward_call(m.network(500.0), subject.model, batch)
                for name, m in networks.items()
            }
            times = in_turn(calls, device, shares.next(), effort, stop)
            rows += _rows(subject, batch, sparsities, times)
    return machine(device) | {
        "dtype": str(first_parameter(subjects[0].model).dtype).removeprefix("torch."),
        "ratios": rows,
    }


def _networks(subject: Subject, sparsities: tuple[float, ...]) -> dict[str, MosaicTransformer]:
    """Return the slim, the gathering and the masked network of each sparsity, by name."""
    networks: dict[str, MosaicTransformer] = {}
    for s in sparsities:
        cuts = uniform_cuts(subject, s)
        networks[f"slim {s:g}"] = mosaic_of(subject, cuts)
        networks[f"gather {s:g}"] = gathering(subject, cuts)
        networks[f"masked {s:g}"] = mosaic_of(subject, cuts, masked=True)
    return networks


def _rows(
    subject: Subject, batch: int, sparsities: tuple[float, ...], times: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """Return the rows of one subject and batch: the other network's time over slim's."""
    seconds = medians(times)
    rows = []
    for s in sparsities:
        for other, at_least in (("gather", 1.0), ("masked", None)):
            row = ratio(
                f"{subject.name}, batch {batch}, {s:g} removed: {other} / slim",
                times[f"{other} {s:g}"],
                times[f"slim {s:g}"],
                at_least=at_least,
                subject=subject.name,
                batch=batch,
                sparsity=s,
                against=other,
                seconds=seconds[f"slim {s:g}"],
                seconds_against=seconds[f"{other} {s:g}"],
            )
            rows.append(row)
    return rows
