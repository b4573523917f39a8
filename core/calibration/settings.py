"""Hold the settings of a calibration, and compute the key of all that its Grams depend on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..cache import fingerprint
from ..curves.noise import NoiseSchedule
from ..errors import StudioError
from ..seeds import SEEDS
from .row_weights import WEIGHTINGS

# per column and bin: with fewer a Gram says more about its sample than about the layer
ENOUGH_TOKENS = 4
# changes whenever other latents, timesteps or noise are drawn from the same data, so that bins of
# two kinds are never mixed
DRAWS = 3


@dataclass(frozen=True)
class CalibrationSettings:
    """The settings of a calibration: how much is measured, and how it is weighed.

    192 fitted images x 16 tokens x 2 labels = 6 tokens per column and bin on the bundled model's
    MLPs.
    """

    # finer where activations change fastest
    edges: tuple[int, ...] = (0, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)
    images: int = 192  # per bin, fitted
    held_out: int = 64  # per bin, kept apart
    seed: int = 0
    damping: float | None = None  # one for all layers; None: chosen per layer on held-out tokens
    weighting: str = "even"  # which rows count more, see core.calibration.row_weights
    # of the weighting by guidance; None: what the family of models is sampled with by default
    guidance: float | None = None
    # fitted tokens per column and bin that a layer takes at most, held-out ones in proportion; None
    # takes all
    token_cap: int | None = None

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise StudioError(
                f"The weighting of calibration rows must be one of {', '.join(WEIGHTINGS)}, not"
                f" {self.weighting}."
            )
        if not 0 <= self.seed < SEEDS:
            raise StudioError(
                f"The seed of a calibration must lie between 0 and 2^32 - 1, not {self.seed}."
            )
        if self.token_cap is not None and self.token_cap < ENOUGH_TOKENS:
            raise StudioError(
                f"A token cap of {self.token_cap} per column leaves too few to measure: choose"
                f" {ENOUGH_TOKENS} or more, or none."
            )

    @property
    def bins(self) -> int:
        """Return the number of timestep bins."""
        return len(self.edges) - 1

    @property
    def measured(self) -> dict[str, Any]:
        """Return what the bins depend on, as plain data.

        Not how they are read afterwards (damping, weighting by timestep), nor a guidance that
        weighs nothing.
        """
        plain = asdict(self) | {"damping": None}
        if self.weighting != "guidance":
            plain["guidance"] = 1.5  # as it once was by default: older calibrations stay found
        return plain | ({"weighting": "even"} if self.weighting == "timestep" else {})

    def on(self, timesteps: int) -> CalibrationSettings:
        """Return the same settings for a noise schedule of so many timesteps.

        Edges lie at the same shares of the schedule; edges that fall together count once.
        """
        last = self.edges[-1]
        if last == timesteps:
            return self
        edges = sorted({round(edge * timesteps / last) for edge in self.edges})
        return replace(self, edges=tuple(edges))


def schedule_tables(schedule: NoiseSchedule) -> dict[str, Tensor]:
    """Return a_t and s_t of every timestep, (T,) fp64 each, as hashes take them."""
    return {"a": torch.tensor(schedule.a), "s": torch.tensor(schedule.s)}


def gram_key(
    network: str,
    schedule: NoiseSchedule,
    prediction_type: str,
    source: Any,
    settings: CalibrationSettings,
    dtype: str,
) -> str:
    """Return the name of a calibration, a hash of everything that its Grams depend on.

    Nothing else decides whether a calibration is used again.

    network: `network_key` of the denoiser, class, configuration and weights.
    schedule: a_t and s_t of every timestep, with which latents are noised.
    prediction_type: what the denoiser is told to predict; no Gram depends on it, but weights that
        predict two things at once do not exist, so a change means that one of the two was wrong.
    source: identity of latents and conditions (`DataSource.identity`): the tensors, or all that
        they are made by: VAE or sampler with their configurations, text encoders, tokenizers.
    settings: what is measured; dtype: of the forwards; DRAWS: how latents and noise are drawn;
        diffusers' version: its code is the forward.
    """
    import diffusers

    return fingerprint(
        network,
        schedule_tables(schedule),
        prediction_type,
        source,
        settings.measured,
        dtype,
        DRAWS,
        diffusers.__version__,
    )


def token_warning(tokens_per_column: float) -> str | None:
    """Return the warning that a bin holds too few tokens for its widest layer.

    None when there are enough.
    """
    if tokens_per_column >= ENOUGH_TOKENS:
        return None
    times = ENOUGH_TOKENS / max(tokens_per_column, 1e-9)
    return (
        f"only {tokens_per_column:.1f} tokens per column and bin were measured and at least"
        f" {ENOUGH_TOKENS} are needed: calibrate with {times:.1f} times as many images per bin"
    )
