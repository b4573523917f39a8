"""Read the tables of a diffusers scheduler: its kind, noise levels and timesteps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import StudioError

if TYPE_CHECKING:
    from torch import Tensor

# Names shown to people -> diffusers classes; all of them carry `alphas_cumprod`, so all of them
# suit the same model.
SCHEDULERS = {
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
    "PNDM": "PNDMScheduler",
    "DPM-Solver++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "Euler": "EulerDiscreteScheduler",
    "Euler ancestral": "EulerAncestralDiscreteScheduler",
    "Heun": "HeunDiscreteScheduler",
    "LMS": "LMSDiscreteScheduler",
    "DEIS": "DEISMultistepScheduler",
    "DPM2": "KDPM2DiscreteScheduler",
    "DPM2 ancestral": "KDPM2AncestralDiscreteScheduler",
}
Kind = Literal["vp", "flow", "sigma"]  # see `core.curves.noise`


def kind_of(scheduler: Any) -> Kind:
    """Return how the model behind a scheduler was trained.

    Raises StudioError for a scheduler that has neither alphas_cumprod nor a flow-matching or EDM
    sigma grid.
    """
    name = type(scheduler).__name__
    if scheduler.config.get("use_flow_sigmas") or name.startswith("FlowMatch"):
        # DPM-Solver++ and UniPC carry alphas_cumprod but do not use it for flow models
        return "flow"
    if getattr(scheduler, "alphas_cumprod", None) is not None:
        return "vp"
    if name.startswith("EDM"):
        return "sigma"
    raise StudioError(
        f"{name} has neither alphas_cumprod nor flow-matching or EDM sigmas; choose one of"
        f" {', '.join(SCHEDULERS)}."
    )


def named_betas(config: Mapping[str, Any]) -> str:
    """Return the name of the beta schedule of a configuration; "" for betas without a name."""
    if config.get("trained_betas") is None or config.get("beta_schedule") == "sigmoid":
        return config.get("beta_schedule") or ""
    return ""


def alphas_cumprod(scheduler: Any) -> np.ndarray:
    """Return abar (T,) in fp64.

    Taken from the betas where they agree: differences of the fp32 product are rough near t = 0.
    """
    abar = scheduler.alphas_cumprod.double().cpu().numpy()
    if getattr(scheduler, "betas", None) is None:
        return abar
    precise = np.cumprod(1 - scheduler.betas.double().cpu().numpy())
    return precise if precise.shape == abar.shape and np.abs(precise - abar).max() < 1e-5 else abar


def training_grid(scheduler: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (timesteps as the model takes them, sigmas) of a scheduler that is not plain VP.

    Both have the shape (T,), cleanest first.
    """
    # set_timesteps overwrites the training sigmas
    fresh = type(scheduler).from_config(scheduler.config)
    total = int(fresh.config.num_train_timesteps)
    if fresh.config.get("use_flow_sigmas"):
        shift = fresh.config.get("flow_shift") or 1.0
        sigmas = np.arange(1, total + 1) / total
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
        return sigmas * total, sigmas
    if type(fresh).__name__.startswith("EDM"):
        fresh.set_timesteps(total)  # its training grid has T + 1 entries, a T-step run has T
    return (
        fresh.timesteps.double().numpy()[:total][::-1].copy(),
        fresh.sigmas.double().numpy()[:total][::-1].copy(),
    )


def visited_timesteps(scheduler: Any) -> Tensor:
    """Return the timesteps (model calls,) of a scheduler that were set and can be run.

    "trailing" adds a timestep -1 for 61, 103, 121 ... steps. Schedulers that look noise levels up
    by timestep (DDIM, DDPM, PNDM) take it for the noisiest of all and end in noise; their run is
    over without it. Those that count steps give it the level of timestep 0 and need it.
    """
    timesteps = scheduler.timesteps
    return timesteps if hasattr(scheduler, "set_begin_index") else timesteps[timesteps >= 0]
