"""Make the samplers of the catalogue, and list the timesteps that a sampler visits.

Samplers are diffusers schedulers. torch and diffusers are loaded by the functions that need them.
"""

from __future__ import annotations

import copy
import inspect
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np

from ..errors import StudioError
from .betas import DEFAULT_BETAS, NUM_TRAIN_TIMESTEPS, betas
from .noise import NoiseSchedule
from .scheduler_tables import SCHEDULERS, kind_of, training_grid, visited_timesteps

# Other kinds of model: their curves can be drawn, but they cannot sample a model that was trained
# with betas.
OTHER_SCHEDULERS = {"Flow matching": "FlowMatchEulerDiscreteScheduler", "EDM": "EDMEulerScheduler"}

# What a latent model needs beyond diffusers' defaults: latents leave [-1, 1], so DDIM and DDPM must
# not clip there, and PNDM's Runge-Kutta warm-up fails below 4 steps.
_OPTIONS = {"clip_sample": False, "skip_prk_steps": True}


def make_scheduler(
    name: str,
    beta_schedule: str = "linear",
    beta_start: float | None = None,
    beta_end: float | None = None,
    num_train_timesteps: int = NUM_TRAIN_TIMESTEPS,
    **options: Any,
) -> Any:
    """Make a diffusers scheduler of the catalogue, ready for latents.

    `options` are further constructor arguments (`timestep_spacing`). Most schedulers have no
    sigmoid branch: there the same betas go in as `trained_betas`. The caller's own: those made last
    are kept and copied, as DPM2 takes most of a second to make for 1,000 timesteps. Raises
    StudioError for unknown names, impossible betas, options the class does not have, and missing
    packages.
    """
    settings = name, beta_schedule, beta_start, beta_end, num_train_timesteps
    asked = (*settings, tuple(sorted(options.items())))
    try:
        hash(asked)
    except TypeError:  # options such as a list of betas
        return _make_scheduler(*asked)
    return copy.deepcopy(_kept_scheduler(*asked))


@lru_cache(maxsize=32, typed=True)
def _kept_scheduler(*asked: Any) -> Any:
    """Return the scheduler of these arguments of `_make_scheduler`, which nobody may change."""
    return _make_scheduler(*asked)


def _make_scheduler(
    name: str,
    beta_schedule: str,
    beta_start: float | None,
    beta_end: float | None,
    num_train_timesteps: int,
    more: tuple[tuple[str, Any], ...],
) -> Any:
    """Make a scheduler; more: the options. Raises StudioError."""
    import diffusers

    options = dict(more)

    if name not in SCHEDULERS and name not in OTHER_SCHEDULERS:
        raise StudioError(
            f"Unknown scheduler {name!r}; choose one of"
            f" {', '.join([*SCHEDULERS, *OTHER_SCHEDULERS])}."
        )
    # also the check of the arguments
    values = betas(beta_schedule, beta_start, beta_end, num_train_timesteps)
    cls = getattr(diffusers, {**SCHEDULERS, **OTHER_SCHEDULERS}[name])
    known = inspect.signature(cls).parameters
    # diffusers' stand-in for a class whose packages are missing; LMS integrates with scipy
    if "num_train_timesteps" not in known:
        raise StudioError(
            f"The scheduler {name} needs the scipy package: install scipy or choose another"
            " scheduler."
        )
    if unknown := sorted(set(options) - set(known)):
        raise StudioError(f"The scheduler {name} has no option {', '.join(unknown)}; leave it out.")
    arguments: dict[str, Any] = {"num_train_timesteps": int(num_train_timesteps)}
    if name in SCHEDULERS:
        arguments |= _beta_arguments(beta_schedule, beta_start, beta_end)
        # every class looks at trained_betas first and keeps the name in its config
        if beta_schedule == "sigmoid":
            arguments["trained_betas"] = values.tolist()
    arguments |= {key: value for key, value in _OPTIONS.items() if key in known} | options
    try:
        return cls(**arguments)
    except ImportError as err:  # options such as use_beta_sigmas need scipy too
        raise StudioError(
            f"The scheduler {name} needs a package that is not installed for these settings; choose"
            " others."
        ) from err
    except (ValueError, TypeError, NotImplementedError) as err:
        raise StudioError(
            f"The scheduler {name} does not take these settings ({err}); choose others."
        ) from err


def _beta_arguments(
    beta_schedule: str, beta_start: float | None, beta_end: float | None
) -> dict[str, Any]:
    """Return the constructor arguments of a beta schedule, with defaults for what is None."""
    start, end = DEFAULT_BETAS[beta_schedule]
    return {
        "beta_schedule": beta_schedule,
        "beta_start": start if beta_start is None else float(beta_start),
        "beta_end": end if beta_end is None else float(beta_end),
    }


def sampling_timesteps(scheduler: Any, steps: int) -> list[float]:
    """Return the timesteps that the sampling loop visits, in order, one per model call.

    They are on the 0-based training grid [0, T - 1] that stage boundaries count in, fractional
    where the sampler is. Second-order samplers (Heun, DPM2) visit up to 2 steps - 1. Flow matching
    counts its timesteps from 1 and EDM passes 0.25 ln sigma: both are placed on the grid by their
    noise level. Works on a copy. Raises StudioError when the scheduler cannot do this number of
    steps.
    """
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
        raise StudioError("The number of sampling steps must be a whole number of at least 1.")
    total = int(scheduler.config.num_train_timesteps)
    if steps > total:
        raise StudioError(
            f"The model knows {total} timesteps: choose at most {total} sampling steps, not"
            f" {steps}."
        )
    mine = copy.deepcopy(scheduler)
    refusal = (
        f"{type(scheduler).__name__} cannot sample in {steps} steps; choose another number or"
        " scheduler."
    )
    try:
        mine.set_timesteps(int(steps))
    except (ValueError, IndexError, ZeroDivisionError, RuntimeError) as err:
        raise StudioError(refusal) from err
    visited = np.array([float(t) for t in visited_timesteps(mine)], dtype=np.float64)
    if not np.isfinite(visited).all():  # DPM2 ancestral in 2 steps
        raise StudioError(refusal)
    if kind_of(scheduler) == "vp" and not _finite_to_the_end(mine, int(steps)):
        raise StudioError(
            f"{type(scheduler).__name__} cannot sample in {steps} steps on this noise schedule of"
            f" {total} timesteps: its numbers become infinite or NaN; choose another number of"
            " steps or scheduler."
        )
    if kind_of(scheduler) != "vp" or scheduler.config.get("timestep_type") == "continuous":
        visited = np.interp(visited, training_grid(scheduler)[0], np.arange(total))
    return visited.clip(0, total - 1).tolist()


_FINITE: dict[tuple[str, str, int], bool] = {}  # known answers, a few bytes each


def _finite_to_the_end(scheduler: Any, steps: int) -> bool:
    """Return `_stays_finite`, computed once per class, configuration and number of steps."""
    key = (type(scheduler).__name__, str(sorted(scheduler.config.items(), key=str)), steps)
    if key not in _FINITE:
        if len(_FINITE) > 1000:
            _FINITE.clear()
        _FINITE[key] = _stays_finite(scheduler)
    return _FINITE[key]


def _stays_finite(scheduler: Any) -> bool:
    """Say whether a run of a scheduler whose timesteps are set can end in finite numbers.

    The scheduler is used up. DDIM, DDPM and PNDM divide by a_t. The others divide by noise levels,
    their differences or logarithms: there one value walks through all steps with the exact denoiser
    of N(0, 1) data.
    """
    import torch

    visited = visited_timesteps(scheduler)
    if not hasattr(scheduler, "sigmas"):
        return bool((scheduler.alphas_cumprod[visited.long()] > 0).all())
    sigmas = scheduler.sigmas.double()
    if not (torch.isfinite(sigmas).all() and (sigmas.diff() <= 0).all()):
        return False
    if type(scheduler).__name__ == "LMSDiscreteScheduler":
        return True  # divides by those differences alone, and would integrate for seconds
    schedule = NoiseSchedule.from_scheduler(scheduler)
    x = torch.ones(1, 1, 1, 1) * scheduler.init_noise_sigma
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": torch.Generator()} if takes_generator else {}
    with torch.inference_mode():
        for t in visited:
            s = schedule.at(float(t))[1]
            try:
                x = scheduler.step(s * scheduler.scale_model_input(x, t), t, x, **extra).prev_sample
            except (ValueError, IndexError, ZeroDivisionError, RuntimeError):
                return False
            if not torch.isfinite(x).all():
                return False
    return True
