"""Compute how fast a diffusion model learns at each timestep, in theory and sampled.

These are MosaicDiff's curves (arXiv 2510.11962, Theorem 1). Everything is written with
x_t = a_t x_0 + s_t e and v = E ||x_0||^2 / d, so it holds for VP, flow-matching and sigma-space
schedules alike. Index i of every array is scheduler timestep i, cleanest first; the paper counts
t = i + 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import StudioError
from .noise import NoiseSchedule

if TYPE_CHECKING:
    from torch import Tensor

# M, the share of the highest score that still counts as fast learning (paper)
DEFAULT_THRESHOLD = 0.55
LOG_SNR_LIMIT = 20.0  # flow matching and zero-terminal-SNR schedules reach infinity
CHUNK_ELEMENTS = 2**22  # sampled in pieces, so that thousands of large latents fit in memory


def default_lambda(schedule: NoiseSchedule) -> float:
    """Return the weight of ln SNR in the score.

    The paper's value is not known: ours puts the linear cut at [93, 550].
    """
    return 0.026 if schedule.beta_schedule == "linear" else 0.020


def expected_mse(schedule: NoiseSchedule, variance: float = 1.0) -> np.ndarray:
    """Return E ||x_t - x_0||^2 / d = (1 - a_t)^2 v + s_t^2, shape (T,).

    Theorem 1; for v = 1 and VP it is 2 (1 - a_t).
    """
    return (1 - schedule.a) ** 2 * _checked(variance) + schedule.s**2


def gradient(mse: np.ndarray) -> np.ndarray:
    """Return MSE(t) - MSE(t - 1), shape (T,), one training timestep apart.

    Before the first step nothing is noised yet: MSE = 0.
    """
    return np.diff(mse, prepend=0.0)


def log_snr(schedule: NoiseSchedule, variance: float = 1.0) -> np.ndarray:
    """Return ln(a_t^2 v / s_t^2), shape (T,), held within [-20, 20]."""
    with np.errstate(divide="ignore"):
        return np.clip(
            2 * np.log(schedule.a) - 2 * np.log(schedule.s) + math.log(_checked(variance)),
            -LOG_SNR_LIMIT,
            LOG_SNR_LIMIT,
        )


def score(gradient: np.ndarray, log_snr: np.ndarray, lam: float) -> np.ndarray:
    """Return Grad / max Grad + lambda ln SNR, shape (T,).

    Grad is divided by its maximum so that lambda means the same on every step grid. Raises
    StudioError for an impossible lambda.
    """
    if not math.isfinite(lam) or lam < 0:
        raise StudioError("Lambda must be a finite number of at least 0.")
    return gradient / gradient.max() + lam * log_snr


@dataclass(frozen=True)
class Curves:
    """The closed forms over all training timesteps, each (T,), cleanest first."""

    timesteps: np.ndarray  # 0 ... T - 1
    mse: np.ndarray
    gradient: np.ndarray
    log_snr: np.ndarray
    score: np.ndarray
    lam: float


def curves(schedule: NoiseSchedule, variance: float = 1.0, lam: float | None = None) -> Curves:
    """Return all closed forms of a schedule for latents of mean square `variance`.

    `lam` defaults to ours for the schedule.
    """
    lam = default_lambda(schedule) if lam is None else float(lam)
    mse = expected_mse(schedule, variance)
    snr = log_snr(schedule, variance)
    grad = gradient(mse)
    return Curves(
        timesteps=np.arange(len(schedule)),
        mse=mse,
        gradient=grad,
        log_snr=snr,
        score=score(grad, snr, lam),
        lam=lam,
    )


@dataclass(frozen=True)
class SampledCurves:
    """The same curves measured on latents at k timesteps, ascending."""

    timesteps: np.ndarray  # (k,) scheduler timesteps, fractional where a sampler's are
    mse: np.ndarray  # (k,) mean over the n draws
    mse_spread: np.ndarray  # (k,) standard deviation over the n draws, 0 for n = 1
    gradient: np.ndarray  # (k,) per training timestep
    log_snr: np.ndarray  # (k,) within [-20, 20]
    n: int
    seed: int
    source: Literal["forward", "trajectory"]


def sample_forward(
    latents: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[float] | None = None,
    seed: int = 0,
) -> SampledCurves:
    """Noise real latents (n, c, h, w) to each timestep and measure the curves.

    This checks the closed forms (within 1 % at n = 4096). The same x_0 and the same e serve every
    timestep, and t - 1 is measured beside t: independent noise would drown a gradient that is a
    thousand times smaller than the MSE itself. `timesteps` defaults to 41, evenly spread, ends
    included. Raises StudioError for empty or non-finite latents and timesteps outside the schedule.
    """
    import torch

    _check_latents(latents)
    last = len(schedule) - 1
    ts = np.unique(
        np.linspace(0, last, 41).round()
        if timesteps is None
        else np.asarray(timesteps, dtype=np.float64)
    )
    if ts.size == 0 or not (np.isfinite(ts).all() and ts[0] >= 0 and ts[-1] <= last):
        raise StudioError(f"Sampled timesteps must lie between 0 and {last}.")
    n = len(latents)
    mse = np.zeros((len(ts), n))  # per draw
    before = np.zeros_like(mse)  # the same one timestep earlier
    power = np.zeros((len(ts), 2))  # sums of |a x_0|^2 and |s e|^2
    generator = torch.Generator("cpu").manual_seed(seed)
    start = 0
    for part in latents.split(max(1, CHUNK_ELEMENTS // latents[0].numel())):
        x0 = part.detach().double().cpu().flatten(1)  # (m, d)
        e = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
        rows = slice(start, start + len(x0))
        start += len(x0)
        products = _products(x0, e)
        square_x0, _, square_e = (x0.shape[1] * float(p.sum()) for p in products)
        for i, t in enumerate(ts):
            a, s = schedule.at(t)
            mse[i, rows] = _distance(a, s, products)
            # one timestep earlier; below timestep 1 that is on the way to the clean latent, where
            # MSE = 0
            a1, s1 = schedule.at(t - 1) if t >= 1 else _towards_clean(schedule, t)
            before[i, rows] = _distance(a1, s1, products) if s1 > 0 else 0.0
            power[i] += a * a * square_x0, s * s * square_e
    means = mse.mean(1)
    return SampledCurves(
        timesteps=ts,
        mse=means,
        mse_spread=_spread(mse),
        gradient=means - before.mean(1),
        log_snr=_log_ratio(power[:, 0], power[:, 1]),
        n=n,
        seed=seed,
        source="forward",
    )


def sample_trajectory(
    states: Sequence[tuple[float, Tensor]], final: Tensor, seed: int
) -> SampledCurves:
    """Measure ||x_t - x_0||^2 / d along a model's own sampling path, which ends in x_0.

    `states` are (timestep, latents (n, c, h, w) before that step), in the model's own
    parametrisation: a sampler that works in sigma-space on a VP model must divide by sqrt(1 +
    sigma^2) first. Of repeated timesteps (Heun) the last counts. The gradient is the difference
    quotient between neighbouring visits, per training timestep, and the signal in x_t is its
    projection on x_0, so no schedule is assumed. `seed` names the starting noise. Raises
    StudioError for no or unfit states.
    """
    _check_latents(final)
    kept = {float(t): x for t, x in states}
    if not kept or not all(math.isfinite(t) and t >= 0 for t in kept):
        raise StudioError(
            "A sampled path needs at least one state, each with a timestep of at least 0."
        )
    ts = np.array(sorted(kept))
    x0 = final.detach().double().cpu().flatten(1)  # (n, d)
    mse = np.zeros((len(ts), len(x0)))
    power = np.zeros((len(ts), 2))
    for i, t in enumerate(ts):
        _check_latents(kept[t])
        if kept[t].shape != final.shape:
            raise StudioError(
                "Every state of a sampled path must have the shape of the final latents."
            )
        x = kept[t].detach().double().cpu().flatten(1)
        mse[i] = (x - x0).square().mean(1).numpy()
        signal = float((x * x0).sum()) ** 2 / max(float(x0.square().sum()), 1e-300)
        power[i] = signal, max(float(x.square().sum()) - signal, 0.0)
    means = mse.mean(1)
    steps = np.diff(ts, prepend=-1.0)  # the clean end lies one timestep before timestep 0
    return SampledCurves(
        timesteps=ts,
        mse=means,
        mse_spread=_spread(mse),
        gradient=np.diff(means, prepend=0.0) / steps,
        log_snr=_log_ratio(power[:, 0], power[:, 1]),
        n=len(x0),
        seed=seed,
        source="trajectory",
    )


def _products(x0: Tensor, e: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean over d of x_0^2, x_0 e and e^2, each (n, d) -> (n,)."""
    return (
        x0.square().mean(1).numpy(),
        (x0 * e).mean(1).numpy(),
        e.square().mean(1).numpy(),
    )


def _distance(
    a: float, s: float, products: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the mean over d of (a x_0 + s e - x_0)^2 -> (n,), without a pass over d."""
    square_x0, cross, square_e = products
    return (a - 1) ** 2 * square_x0 + 2 * (a - 1) * s * cross + s * s * square_e


def _towards_clean(schedule: NoiseSchedule, t: float) -> tuple[float, float]:
    """Return (a, s) at timestep t - 1 for 0 <= t < 1.

    Linear from the clean latent (1, 0), which lies at timestep -1.
    """
    a, s = schedule.at(0)
    return 1 + t * (a - 1), t * s


def _spread(per_draw: np.ndarray) -> np.ndarray:
    return per_draw.std(1, ddof=1) if per_draw.shape[1] > 1 else np.zeros(len(per_draw))


def _log_ratio(signal: np.ndarray, noise: np.ndarray) -> np.ndarray:
    tiny = 1e-300
    return np.clip(
        np.log(np.maximum(signal, tiny)) - np.log(np.maximum(noise, tiny)),
        -LOG_SNR_LIMIT,
        LOG_SNR_LIMIT,
    )


def _checked(variance: float) -> float:
    if not math.isfinite(variance) or variance <= 0:
        raise StudioError("The variance of the latents must be a finite number above 0.")
    return float(variance)


def _check_latents(latents: Tensor) -> None:
    if latents.ndim < 2 or latents.numel() == 0:
        raise StudioError(
            "Latents must have the shape (n, channels, height, width) with at least one latent."
        )
    if not bool(latents.isfinite().all()):
        raise StudioError(
            "The latents contain values that are not finite; encode the pictures again."
        )
