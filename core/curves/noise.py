"""Noise schedules as two numbers per timestep, x_t = a_t x_0 + s_t e, and the samplers that walk
them.

Three kinds: variance-preserving "vp" (a = sqrt(abar), s = sqrt(1 - abar); Ho et al. 2020, arXiv
2006.11239), flow matching "flow" (a = 1 - sigma, s = sigma; Lipman et al. 2023, arXiv 2210.02747)
and sigma-space "sigma" (a = 1, s = sigma; Karras et al. 2022, arXiv 2206.00364). The kind says how
the *model* was trained: a scheduler that carries `alphas_cumprod` is "vp" even when it samples in
sigma-space (Euler, Heun, LMS).

NumPy only at import; torch and diffusers are loaded by the functions that need them.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import StudioError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

NUM_TRAIN_TIMESTEPS = 1000
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
DEFAULT_BETAS = {
    "linear": (1e-4, 0.02),
    "scaled_linear": (0.00085, 0.012),
    "squaredcos_cap_v2": (1e-4, 0.02),
    "sigmoid": (1e-4, 0.02),
}

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
# Other kinds of model: their curves can be drawn, but they cannot sample a model that was trained
# with betas.
OTHER_SCHEDULERS = {"Flow matching": "FlowMatchEulerDiscreteScheduler", "EDM": "EDMEulerScheduler"}

# What a latent model needs beyond diffusers' defaults: latents leave [-1, 1], so DDIM and DDPM must
# not clip there, and
# PNDM's Runge-Kutta warm-up fails below 4 steps.
_OPTIONS = {"clip_sample": False, "skip_prk_steps": True}


@dataclass(frozen=True)
class NoiseSchedule:
    """x_t = a_t x_0 + s_t e for every training timestep; index i is the scheduler's timestep i,
    cleanest first.
    """

    name: str
    kind: Literal["vp", "flow", "sigma"]
    a: np.ndarray  # (T,) fp64
    s: np.ndarray  # (T,) fp64
    beta_schedule: str = ""  # "linear", "scaled_linear" ... or "" where there is none

    def __post_init__(self) -> None:
        for field in ("a", "s"):
            # a copy: nobody else can write to it
            values = np.array(getattr(self, field), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, field, values)
        if self.kind not in ("vp", "flow", "sigma"):
            raise StudioError(
                f"A noise schedule is of kind 'vp', 'flow' or 'sigma', not {self.kind!r}."
            )
        if self.a.ndim != 1 or self.a.shape != self.s.shape or len(self.a) < 3:
            raise StudioError(
                "A noise schedule needs one a and one s per timestep and at least 3 timesteps."
            )
        if not (
            np.isfinite(self.a).all()
            and np.isfinite(self.s).all()
            and (self.a >= 0).all()
            and (self.s > 0).all()
        ):
            raise StudioError(
                f"The noise schedule {self.name!r} has values that are not finite and positive;"
                " check its betas."
            )
        if (np.diff(self.s) < 0).any() or (np.diff(self.a) > 0).any():
            raise StudioError(
                f"The noise schedule {self.name!r} does not grow noisier with the timestep; check"
                " its betas."
            )

    def __len__(self) -> int:
        return len(self.a)

    def at(self, t: float) -> tuple[float, float]:
        """(a, s) at scheduler timestep `t`, linear between the two neighbours when fractional, held
        at the ends.
        """
        if not math.isfinite(t):
            raise StudioError("A timestep must be a finite number.")
        grid = np.arange(len(self.a))
        return float(np.interp(t, grid, self.a)), float(np.interp(t, grid, self.s))

    @classmethod
    def from_alphas_cumprod(
        cls, alphas_cumprod: Sequence[float] | np.ndarray, name: str, beta_schedule: str = ""
    ) -> NoiseSchedule:
        """Variance-preserving schedule of abar (T,), cleanest first (Ho et al. 2020, eq. 4)."""
        abar = np.asarray(alphas_cumprod, dtype=np.float64)
        if not ((abar >= 0) & (abar < 1)).all():
            raise StudioError(
                f"The noise schedule {name!r} has alphas_cumprod outside [0, 1); check its betas."
            )
        return cls(name, "vp", np.sqrt(abar), np.sqrt(1 - abar), beta_schedule)

    @classmethod
    def from_betas(
        cls,
        beta_schedule: str,
        beta_start: float | None = None,
        beta_end: float | None = None,
        num: int = NUM_TRAIN_TIMESTEPS,
    ) -> NoiseSchedule:
        """The schedule a diffusers scheduler of these settings has,
        computed in fp64 without torch.
        """
        return cls.from_alphas_cumprod(
            np.cumprod(1 - betas(beta_schedule, beta_start, beta_end, num)),
            beta_schedule,
            beta_schedule,
        )

    @classmethod
    def from_scheduler(cls, scheduler: SchedulerMixin) -> NoiseSchedule:
        """The schedule that the model behind any diffusers scheduler was trained with. The
        scheduler is not touched.

        Raises StudioError for a scheduler that has neither alphas_cumprod nor a flow-matching or
        EDM sigma grid.
        """
        name, config = type(scheduler).__name__, scheduler.config
        kind = _kind(scheduler)
        if kind == "vp":
            abar = _alphas_cumprod(scheduler)
            return cls.from_alphas_cumprod(
                abar, name, config.get("beta_schedule") or "" if _named_betas(config) else ""
            )
        sigmas = _training_grid(scheduler)[1]
        return cls(name, kind, 1 - sigmas if kind == "flow" else np.ones_like(sigmas), sigmas)


def betas(
    beta_schedule: str,
    beta_start: float | None = None,
    beta_end: float | None = None,
    num: int = NUM_TRAIN_TIMESTEPS,
) -> np.ndarray:
    """Betas (num,) fp64 as diffusers defines them; squaredcos_cap_v2 (Nichol & Dhariwal 2021) has
    no start and end and ignores them.

    Raises StudioError for an unknown name, betas that are not 0 < start <= end < 1, or an
    impossible `num`.
    """
    if beta_schedule not in BETA_SCHEDULES:
        raise StudioError(
            f"Unknown beta schedule {beta_schedule!r}; choose one of {', '.join(BETA_SCHEDULES)}."
        )
    if isinstance(num, bool) or not isinstance(num, Integral) or not 3 <= num <= 100_000:
        raise StudioError(
            "The number of training timesteps must be a whole number from 3 to 100000."
        )
    start, end = (
        default if given is None else given
        for given, default in zip((beta_start, beta_end), DEFAULT_BETAS[beta_schedule], strict=True)
    )
    if (
        any(isinstance(b, bool) or not isinstance(b, Real) for b in (start, end))
        or not 0 < start <= end < 1
    ):
        raise StudioError(
            f"Betas must be numbers with 0 < start <= end < 1, not {start} and {end}."
        )
    if beta_schedule == "linear":
        return np.linspace(start, end, num)
    if beta_schedule == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, num) ** 2
    if beta_schedule == "sigmoid":  # GeoDiff (Xu et al. 2022), the range diffusers uses
        return (end - start) / (1 + np.exp(-np.linspace(-6, 6, num))) + start
    abar = np.cos((np.arange(num + 1) / num + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - abar[1:] / abar[:-1], 0.999)


def make_scheduler(
    name: str,
    beta_schedule: str = "linear",
    beta_start: float | None = None,
    beta_end: float | None = None,
    num_train_timesteps: int = NUM_TRAIN_TIMESTEPS,
    **options: Any,
) -> SchedulerMixin:
    """A diffusers scheduler of the catalogue, ready for latents; `options` are further constructor
    arguments (`timestep_spacing`).

    Most schedulers have no sigmoid branch: there the same betas go in as `trained_betas`. Raises
    StudioError for unknown names, impossible betas, options the class does not have, and missing
    packages.
    """
    import diffusers

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
        default_start, default_end = DEFAULT_BETAS[beta_schedule]
        arguments |= {
            "beta_schedule": beta_schedule,
            "beta_start": default_start if beta_start is None else float(beta_start),
            "beta_end": default_end if beta_end is None else float(beta_end),
        }
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


def sampling_timesteps(scheduler: SchedulerMixin, steps: int) -> list[float]:
    """Timesteps the sampling loop visits, in order, on the 0-based training grid [0, T - 1] that
    stage boundaries count in.

    One entry per model call: second-order samplers (Heun, DPM2) visit up to 2 steps - 1. Fractional
    where the sampler is. Flow matching counts its timesteps from 1 and EDM passes 0.25 ln sigma:
    both are placed on the grid by their noise level. Works on a copy. Raises StudioError when the
    scheduler cannot do this number of steps.
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
    visited = np.array([float(t) for t in usable(mine)], dtype=np.float64)
    if not np.isfinite(visited).all():  # DPM2 ancestral in 2 steps
        raise StudioError(refusal)
    if _kind(scheduler) == "vp" and not _finite_to_the_end(mine, int(steps)):
        raise StudioError(
            f"{type(scheduler).__name__} cannot sample in {steps} steps on this noise schedule of"
            f" {total} timesteps: its numbers become infinite or NaN; choose another number of"
            " steps or scheduler."
        )
    if _kind(scheduler) != "vp" or scheduler.config.get("timestep_type") == "continuous":
        visited = np.interp(visited, _training_grid(scheduler)[0], np.arange(total))
    return visited.clip(0, total - 1).tolist()


_FINITE: dict[tuple[str, str, int], bool] = {}  # known answers, a few bytes each


def _finite_to_the_end(scheduler: SchedulerMixin, steps: int) -> bool:
    """Answer `_stays_finite` once per class, configuration and number of steps."""
    key = (type(scheduler).__name__, str(sorted(scheduler.config.items(), key=str)), steps)
    if key not in _FINITE:
        if len(_FINITE) > 1000:
            _FINITE.clear()
        _FINITE[key] = _stays_finite(scheduler)
    return _FINITE[key]


def _stays_finite(scheduler: SchedulerMixin) -> bool:
    """Say whether a run of a scheduler whose timesteps are set can end in finite numbers. The
    scheduler is used up.

    DDIM, DDPM and PNDM divide by a_t. The others divide by noise levels, their differences or
    logarithms: there one value walks through all steps with the exact denoiser of N(0, 1) data.
    """
    import torch

    visited = usable(scheduler)
    if not hasattr(scheduler, "sigmas"):
        return bool((scheduler.alphas_cumprod[visited.long()] > 0).all())
    sigmas = scheduler.sigmas.double()
    if not (torch.isfinite(sigmas).all() and (sigmas.diff() <= 0).all()):
        return False
    if type(scheduler).__name__ == "LMSDiscreteScheduler":
        return True  # divides by those differences alone, and would integrate for seconds
    schedule = NoiseSchedule.from_scheduler(scheduler)
    x = torch.ones(1, 1, 1, 1) * scheduler.init_noise_sigma
    extra = (
        {"generator": torch.Generator()}
        if "generator" in inspect.signature(scheduler.step).parameters
        else {}
    )
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


def usable(scheduler: SchedulerMixin) -> Any:
    """The timesteps (model calls,) of a scheduler that were set and can be run.

    "trailing" adds a timestep -1 for 61, 103, 121 ... steps. Schedulers that look noise levels up
    by timestep (DDIM, DDPM, PNDM) take it for the noisiest of all and end in noise; their run is
    over without it. Those that count steps give it the level of timestep 0 and need it.
    """
    timesteps = scheduler.timesteps
    return timesteps if hasattr(scheduler, "set_begin_index") else timesteps[timesteps >= 0]


def _kind(scheduler: SchedulerMixin) -> Literal["vp", "flow", "sigma"]:
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


def _named_betas(config: Any) -> bool:
    return config.get("trained_betas") is None or config.get("beta_schedule") == "sigmoid"


def _alphas_cumprod(scheduler: SchedulerMixin) -> np.ndarray:
    """abar (T,) in fp64. From the betas where they agree: differences of the fp32 product are rough
    near t = 0.
    """
    abar = scheduler.alphas_cumprod.double().cpu().numpy()
    if getattr(scheduler, "betas", None) is None:
        return abar
    precise = np.cumprod(1 - scheduler.betas.double().cpu().numpy())
    return precise if precise.shape == abar.shape and np.abs(precise - abar).max() < 1e-5 else abar


def _training_grid(scheduler: SchedulerMixin) -> tuple[np.ndarray, np.ndarray]:
    """(timesteps as the model is told them, sigmas), both (T,) and cleanest first, of a scheduler
    that is not plain VP.
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
