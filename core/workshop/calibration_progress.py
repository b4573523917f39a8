"""Report a calibration as one number that only rises, in plain words, with the time that is left.

A calibration has three parts: making latents where none are shipped, measuring the bins of
timesteps, and finding what can go from each layer. Each reports itself from 0; here each gets the
share of the whole that its work has, in multiply-accumulates.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import accumulate

from ..calibration.settings import CalibrationSettings
from ..models.layers import PrunableLayer
from ..progress import Progress
from ..words import duration

WHOLE = 100  # that every report counts to
# Time of a multiply-accumulate of a removal order beside one of a forward: an order is a walk
# column by column, in fp64. Measured on the bundled colour model with one thread on a busy machine:
# 185 s for the bins, 453 s for the orders.
ORDER_COST = 76.0
SURE = (3.0, 0.04)  # seconds and share of the whole from which the pace says how long it takes
PLAIN = (  # what a part reports -> what people read
    (r"^measuring timesteps", "measuring the model at timesteps"),
    (r"; will write .*", ""),  # said before, in the first report
    (r"^calibrated$", "the model is measured"),
    (r"^finding the removal order of", "finding what can go first in"),
    (r"^choosing the damping of", "steadying the cuts of"),
    (r"^working out the error curves of", "working out what a cut costs in"),
    (r"^working out error curve (\d+ of \d+) of", r"working out what a cut costs, \1, in"),
)


def shares(
    layers: Sequence[PrunableLayer],
    settings: CalibrationSettings,
    forward: float,
    made_rows: int,
    missing: int,
) -> tuple[float, float, float]:
    """Return the shares of making latents, measuring bins and finding orders; the sum is 1.

    forward: MACs of one row. made_rows: rows that making the latents takes. missing: bins.
    """
    rows = 2 * missing * (settings.images + settings.held_out)
    grams = sum(layer.macs_per_group / layer.weights_per_group * layer.width**2 for layer in layers)
    parts = (
        made_rows * forward if missing else 0.0,
        rows * (forward + grams),
        ORDER_COST * sum(_order_macs(layer, settings.bins) for layer in layers),
    )
    return parts[0] / sum(parts), parts[1] / sum(parts), parts[2] / sum(parts)


def _order_macs(layer: PrunableLayer, bins: int) -> float:
    """Return about the multiply-accumulates of a layer's order and of its curve per bin."""
    return (bins + 3.0) * layer.width**3


def plain_words(text: str) -> str:
    """Return a report of a part in words that need no knowledge of the method."""
    for pattern, words in PLAIN:
        text = re.sub(pattern, words, text)
    return text


class WholeProgress:
    """The reports of the parts of a calibration, as one."""

    def __init__(
        self,
        progress: Progress,
        layers: Sequence[PrunableLayer],
        parts: tuple[float, float, float],
    ):
        self.progress, self.parts = progress, parts
        costs = list(accumulate((float(layer.width) ** 3 for layer in layers), initial=0.0))
        self._walked = [cost / costs[-1] for cost in costs]  # share of the orders, by layers done
        self._start, self._first = time.perf_counter(), 0.0
        self._share: float | None = None

    def making(self, done: int, total: int, text: str) -> None:
        """Report the making of latents."""
        self._say(self.parts[0] * _part(done, total), text)

    def measuring(self, done: int, total: int, text: str) -> None:
        """Report the measuring of bins."""
        self._say(self.parts[0] + self.parts[1] * _part(done, total), text)

    def ordering(self, done: int, total: int, text: str) -> None:
        """Report the orders of the layers, of which wide ones take longer."""
        walked = self._walked[min(done, len(self._walked) - 1)]
        words = f"{text} (layer {min(done + 1, total)} of {total})"
        self._say(self.parts[0] + self.parts[1] + self.parts[2] * walked, words)

    def _say(self, share: float, text: str) -> None:
        """Report a share of the whole; it never falls."""
        now = time.perf_counter() - self._start
        if self._share is None:  # what an earlier run kept says nothing of the pace
            self._share, self._first, self._start = share, share, time.perf_counter()
            now = 0.0
        self._share = max(self._share, share)
        gone = self._share - self._first
        left = ""
        if now >= SURE[0] and gone >= SURE[1]:
            seconds = now / gone * (1 - self._share)
            left = f"; about {duration(seconds)} left, by the pace so far"
        self.progress(round(WHOLE * self._share), WHOLE, f"{plain_words(text)}{left}")


def _part(done: int, total: int) -> float:
    return min(1.0, done / total) if total else 0.0
