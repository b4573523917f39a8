"""Answer a stock pipeline's guided pair with the guidance that a stage of the plan sets.

A pipeline with guidance doubles its batch: the same latents once with and once without their
condition, and forms u + s (c - u) with its own scale s. A stage at scale 1 runs the conditional
half c only and answers with it for both halves, so that the pipeline's sum is c; at 0 likewise with
u. Any other scale g answers u and u + g / s (c - u), whose sum is u + g (c - u).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import StudioError
from ..guidance import half_of, is_guidance
from ..models.families import NULL_CLASS, Family

Forward = Callable[..., Tensor]


class PipelineScale:
    """The pipeline that a mosaic runs in, as far as it is known, and its guidance scale.

    scale: that it is called with, for a pipeline that does not say it. SDXL's says it while it
    runs.
    """

    def __init__(self, scale: float | None = None, pipeline: Any = None):
        self.scale, self.pipeline = scale, pipeline

    @property
    def says(self) -> bool:
        """Say whether the pipeline says its scale."""
        return hasattr(type(self.pipeline), "guidance_scale")

    @property
    def run(self) -> object:
        """Return the timesteps of the pipeline's present run, None without a pipeline.

        Each run sets them anew, so another object is another run.
        """
        return None if self.pipeline is None else self.pipeline.scheduler.timesteps

    def __reduce__(self) -> Any:
        """Copy and pickle without the pipeline, which holds the mosaic itself."""
        return PipelineScale, (self.scale,)

    def now(self) -> float | None:
        """Return the scale, None where it is not known."""
        return float(self.pipeline.guidance_scale) if self.says else self.scale

    @property
    def paired(self) -> bool | None:
        """Say whether the pipeline doubles its batch, None where it does not say."""
        return bool(self.pipeline.do_classifier_free_guidance) if self.says else None


def bound(to: Any, denoiser: Any, scale: float | None = None) -> PipelineScale:
    """Return what is known of a pipeline, or of a guidance scale that stands for it.

    denoiser: the mosaic, which must be the pipeline's own. scale: that the pipeline is called with.
    Raises StudioError.
    """
    if is_guidance(to) and scale is None:
        return PipelineScale(float(to))
    own = getattr(to, "unet", None) or getattr(to, "transformer", None)
    if own is not denoiser or not (scale is None or is_guidance(scale)):
        raise StudioError(
            "Give the guidance scale that the pipeline is called with, from 0 to 20, or the"
            " pipeline whose denoiser this mosaic is."
        )
    return PipelineScale(None if scale is None else float(scale), to)


def run_at_scale(
    forward: Forward,
    scale: float,
    stage: str,
    family: Family,
    known: PipelineScale,
    inputs: tuple[Any, Any, tuple[Any, ...], dict[str, Any]],
) -> Tensor:
    """Run a pipeline's call with the guidance of a stage, and return what the pipeline expects.

    inputs: sample (rows, c, h, w), timestep, further positional arguments and conditions.
    Raises StudioError for a call that this guidance cannot be had from.
    """
    sample, timestep, args, conditions = inputs
    half = half_of(scale)
    if not is_pair(sample, args, conditions, family, known):
        if half == "conditional":  # the pipeline runs without guidance
            return forward(sample, timestep, *args, **conditions)
        raise StudioError(
            f"The plan sets guidance {scale:g} in the {stage} stage, which needs rows without"
            " condition, and this call has none: run the pipeline with a guidance scale above 1."
        )
    first = family.conditional_first
    if half != "both":
        found = half_call(forward, inputs, first == (half == "conditional"))
        return torch.cat([found, found])
    own = known.now()
    if own is None:
        raise StudioError(
            f"The plan sets guidance {scale:g} in the {stage} stage, and the pipeline's own scale"
            " is not known: call bind(scale) on the mosaic first, or bind(pipeline) for one that"
            " says its scale."
        )
    halves = forward(sample, timestep, *args, **conditions).chunk(2)
    conditional, unconditional = halves if first else halves[::-1]
    moved = unconditional + (scale / own) * (conditional - unconditional)
    return torch.cat([moved, unconditional] if first else [unconditional, moved])


def is_pair(
    sample: Tensor,
    args: tuple[Any, ...],
    conditions: dict[str, Any],
    family: Family,
    known: PipelineScale,
) -> bool:
    """Say whether a call is a guided pair: equal latents, and for a DiT the null label.

    A bound pipeline is believed. Reads one scalar of the device otherwise.
    """
    n, odd = divmod(len(sample), 2)
    if odd or not n or known.paired is False:
        return False
    if known.paired:
        return True
    labels = conditions.get("class_labels", args[0] if args else None)
    if family.conditional_first and torch.is_tensor(labels):
        null = (labels[n:] == NULL_CLASS).all()
        return bool(null & (sample[:n] == sample[n:]).all())
    return torch.equal(sample[:n], sample[n:])


def half_call(
    forward: Forward,
    inputs: tuple[Any, Any, tuple[Any, ...], dict[str, Any]],
    first: bool,
) -> Tensor:
    """Run the first or the second half of a batch only."""
    sample, timestep, args, conditions = inputs
    rows = len(sample)
    part = slice(None, rows // 2) if first else slice(rows // 2, None)

    def cut(value: Any) -> Any:
        """Return the rows of one half of everything that has a row per latent."""
        if torch.is_tensor(value):
            return value[part] if value.dim() and len(value) == rows else value
        if isinstance(value, dict):
            return {key: cut(one) for key, one in value.items()}
        if type(value) in (list, tuple):
            return type(value)(cut(one) for one in value)
        return value

    return forward(sample[part], cut(timestep), *cut(args), **cut(conditions))
