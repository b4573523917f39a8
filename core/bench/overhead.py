"""Time calibration over the forward passes that it needs, measured in turn.

Two cases: every token summed up, and tokens capped per column and bin.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..calibration.measure import GramMeter
from ..calibration.settings import CalibrationSettings
from ..models.families import family_of, first_parameter
from ..progress import Progress
from ..sampling.timing import forward_call, module_forward
from .measure import Effort, Shares, in_turn, machine, medians, ratio
from .subjects import Subject

# for DiT-XL/2: a narrow model's Grams cost more of its forward pass
PLAIN_GOAL, CAPPED_GOAL = 1.7, 1.5
TOKEN_CAP = 8  # per column and bin
IMAGES = 64
INPUT_BYTES = 64_000_000
# batch rows that a capped meter expects: more than will come, as the cap is spread evenly over rows
MANY = 1_000_000
EFFORT = Effort(90)


def overhead_benchmark(
    subjects: list[tuple[Subject, int]],
    effort: Effort = EFFORT,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Return seconds with Grams over seconds of the forward passes alone.

    subjects: (subject, batch rows). Blocks of DiT-XL/2 have a goal. The cap's share of tokens is
    that of the default settings' bins (`CalibrationSettings.images`). Raises Stopped.
    """
    device = first_parameter(subjects[0][0].model).device
    rows = []
    shares = Shares(effort.seconds, len(subjects))
    for i, (subject, batch) in enumerate(subjects):
        if progress is not None:
            progress(i, len(subjects), f"{subject.name}, batch {batch}")
        forward = forward_call(module_forward(subject.model), subject.model, batch)
        calls = {"plain": forward, "every token": _metered(forward, subject, CalibrationSettings())}
        calls["capped"] = _metered(forward, subject, CalibrationSettings(token_cap=TOKEN_CAP))
        times = in_turn(calls, device, shares.next(), effort, stop)
        seconds = medians(times)
        goals = (PLAIN_GOAL, CAPPED_GOAL) if subject.xl else (None, None)
        facts: dict[str, Any] = {
            "subject": subject.name,
            "batch": batch,
            "plain_seconds": seconds["plain"],
        } | _tokens(subject)
        rows.append(
            ratio(
                f"{subject.name}, batch {batch}: calibration / plain forward, every token",
                times["every token"],
                times["plain"],
                at_most=goals[0],
                **facts,
                seconds=seconds["every token"],
            )
        )
        rows.append(
            ratio(
                f"{subject.name}, batch {batch}: calibration / plain forward, {TOKEN_CAP} tokens a"
                " column",
                times["capped"],
                times["plain"],
                at_most=goals[1],
                **facts,
                seconds=seconds["capped"],
            )
        )
    return machine(device) | {
        "dtype": str(first_parameter(subjects[0][0].model).dtype).removeprefix("torch."),
        "ratios": rows,
    }


def _metered(
    forward: Callable[[], object], subject: Subject, settings: CalibrationSettings
) -> Callable[[], object]:
    """Return the forward pass with a Gram meter on it."""
    meter = GramMeter(subject.model, subject.layers)
    meter.begin(MANY, settings, seed=0)

    def call() -> object:
        with meter:
            return forward()

    return call


def rows_at_once(subject: Subject) -> int:
    """Return the batch rows of a calibration's forward pass.

    64 images with and without their label, fewer where a layer's input would grow too large.
    """
    sites = family_of(subject.model).sites(subject.model)
    widest = max(sites[layer.block].tokens * layer.width for layer in subject.layers)
    return 2 * min(IMAGES, max(1, INPUT_BYTES // (2 * 4 * widest)))


def _tokens(subject: Subject) -> dict[str, float]:
    """Return tokens per column and bin of the default settings, in the layer with the fewest."""
    family = family_of(subject.model)
    images = CalibrationSettings().images
    sites = family.sites(subject.model)
    return {
        "tokens_per_column": min(
            2 * images * sites[layer.block].tokens / layer.width for layer in subject.layers
        )
    }
