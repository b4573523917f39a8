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
    rows = []
    for i, subject in enumerate(subjects):
        networks: dict[str, MosaicTransformer] = {}
        for s in sparsities:
            cuts = uniform_cuts(subject, s)
            built = {
                "slim": mosaic_of(subject, cuts),
                "gather": gathering(subject, cuts),
                "masked": mosaic_of(subject, cuts, masked=True),
            }
            networks |= {f"{kind} {s:g}": m for kind, m in built.items()}
        for j, batch in enumerate(batches):
            if progress is not None:
                progress(
                    i * len(batches) + j,
                    len(subjects) * len(batches),
                    f"{subject.name}, batch {batch}",
                )
            calls = {
                name: forward_call(m.network(500.0), subject.model, batch)
                for name, m in networks.items()
            }
            times = in_turn(calls, device, shares.next(), effort, stop)
            seconds = medians(times)
            for s in sparsities:
                slim = times[f"slim {s:g}"]
                for other, goal in (("gather", {"at_least": 1.0}), ("masked", {})):
                    facts: dict[str, Any] = {
                        "subject": subject.name,
                        "batch": batch,
                        "sparsity": s,
                        "against": other,
                    }
                    mine: dict[str, Any] = {
                        "seconds": seconds[f"slim {s:g}"],
                        "seconds_against": seconds[f"{other} {s:g}"],
                    }
                    rows.append(
                        ratio(
                            f"{subject.name}, batch {batch}, {s:g} removed: {other} / slim",
                            times[f"{other} {s:g}"],
                            slim,
                            **goal,
                            **facts,
                            **mine,
                        )
                    )
    return machine(device) | {
        "dtype": str(first_parameter(subjects[0].model).dtype).removeprefix("torch."),
        "ratios": rows,
    }
