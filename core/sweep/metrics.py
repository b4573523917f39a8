"""List the numbers of a cell that a heat map can show, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..words import percent


@dataclass(frozen=True)
class Metric:
    """One number of a cell: its key, its words with the unit, and how it is written."""

    key: str
    words: str
    digits: int
    percent: bool = False
    times: bool = False  # a ratio, written with × before it
    spread: str = ""  # key of its spread, if it has one

    def text(self, numbers: dict[str, Any]) -> str:
        """Return the number of a cell as people read it, empty where there is none."""
        value = numbers.get(self.key)
        if value is None:
            return ""
        around = numbers.get(self.spread) if self.spread else None
        if self.percent:
            return percent(value, self.digits)
        said = f"{'×' if self.times else ''}{value:.{self.digits}f}"
        if self.spread and around is None:
            return f"{said} (1 round)"
        return said if around is None else f"{said} ± {around:.{self.digits}f}"


METRICS = (
    Metric("macs_saved", "MACs saved", 0, percent=True),
    Metric(
        "speedup_measured",
        "speed-up, measured",
        2,
        times=True,
        spread="speedup_spread",
    ),
    Metric("speedup_predicted", "speed-up, predicted before measuring", 2, times=True),
    Metric("psnr", "PSNR to dense, dB", 1),
    Metric("ssim", "SSIM to dense", 3),
    Metric("latent_mse", "latent MSE to dense", 4),
    Metric("fid", "FID, the model's own feature network", 2),
    Metric("class_accuracy", "class accuracy, the model's own feature network", 1, percent=True),
)
