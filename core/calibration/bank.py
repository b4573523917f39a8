"""The store of a calibration: Gram matrices, input sums and what they were measured on, a
safetensors file a timestep bin.

Grams add up, so the Gram of any stretch of timesteps is the sum of its bins; a bin that a boundary
cuts counts in proportion to the part inside. A file is written as its numbers come in and read one
layer at a time, so memory holds one layer, never a bin.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import StudioError
from ..files import Layout, cache_trouble, full_disk, read_layout, write_tensors
from ..models.layers import PrunableLayer
from .packed_gram import unpack
from .row_weights import bin_weights
from .settings import CalibrationSettings

KINDS = ("fit", "held_out")


class GramBank:
    """Gram matrices per layer and timestep bin, on disk, read one layer at a time."""

    def __init__(self, folder: Path, layers: list[PrunableLayer], settings: CalibrationSettings):
        self.folder, self.layers, self.settings = Path(folder), layers, settings

    def path(self, bin_index: int) -> Path:
        return self.folder / f"bin-{bin_index:02d}.safetensors"

    def missing(self) -> list[int]:
        """Bins not measured yet."""
        return [b for b in range(self.settings.bins) if not self.path(b).exists()]

    @property
    def complete(self) -> bool:
        return not self.missing()

    def overlap(self, low: float, high: float) -> list[float]:
        """How much of each bin counts in [low, high): the share that lies in it, times the bin's
        weight (1, but for the weighting by timestep).
        """
        edges = self.settings.edges
        shares = (
            max(0.0, min(high, b) - max(low, a)) / (b - a)
            for a, b in zip(edges, edges[1:], strict=False)
        )
        return [
            share * weight
            for share, weight in zip(
                shares, bin_weights(edges, self.settings.weighting), strict=True
            )
        ]

    # ------------------------------------------------------------ reading

    def gram(
        self,
        layer: int,
        low: float,
        high: float,
        held_out: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> tuple[Tensor, float]:
        """Sum of x x^T over [low, high), (n, n) of `dtype`, and the number of tokens in it. Raises
        StudioError when a file is damaged.
        """
        kind, total, tokens = KINDS[held_out], None, 0.0
        for b, share in self._shares(low, high):
            triangle, counts = self._read(b, f"{kind}/{layer}", f"tokens/{kind}")
            total = (
                triangle.to(dtype, copy=True).mul_(share)
                if total is None
                else total.add_(triangle, alpha=share)
            )
            tokens += share * int(counts[layer])
            del triangle  # the next one is mapped without this one in memory
        return unpack(total, dtype), tokens

    def mean(self, layer: int, low: float, high: float, held_out: bool = False) -> Tensor:
        """Mean input x over [low, high), (n,) fp64: W mean(x) is what the bias takes over when all
        groups of a layer go.
        """
        kind, total, tokens = KINDS[held_out], 0.0, 0.0
        for b, share in self._shares(low, high):
            vector, counts = self._read(b, f"sum/{kind}/{layer}", f"tokens/{kind}")
            total = total + share * vector.double()
            tokens += share * int(counts[layer])
        return total / max(tokens, 1e-30)

    def rows(self, b: int, held_out: bool = False) -> dict[str, Tensor]:
        """What the rows of bin `b` were: "timestep" and "label", (rows,) int32 each; all images
        with their label, then all with the null label.
        """
        kind = KINDS[held_out]
        return dict(
            zip(
                ("timestep", "label"),
                self._read(b, f"rows/{kind}/timestep", f"rows/{kind}/label"),
                strict=True,
            )
        )

    def _shares(self, low: float, high: float) -> list[tuple[int, float]]:
        shares = [(b, share) for b, share in enumerate(self.overlap(low, high)) if share]
        if not shares:
            raise StudioError(f"No calibration bin lies between timesteps {low:g} and {high:g}.")
        return shares

    def _read(self, b: int, *names: str) -> list[Tensor]:
        """Tensors of a bin, mapped from the file. It is opened anew each time: a file kept open
        would keep all that was ever read of it in memory.
        """
        try:
            with safe_open(self.path(b), framework="pt") as file:
                return [file.get_tensor(name) for name in names]
        except (OSError, SafetensorError) as err:
            raise StudioError(
                f"The calibration file {self.path(b).name} in {self.folder.name}/ cannot be read:"
                " calibrate again."
            ) from err

    # ------------------------------------------------------------ writing

    @property
    def layout(self) -> Layout:
        """What a bin's file holds, in order: all that was fitted, then all that was held out. Four
        bytes each, so that everything is aligned.
        """
        layout = []
        for kind, images in zip(KINDS, (self.settings.images, self.settings.held_out), strict=True):
            widths = [layer.width for layer in self.layers]
            layout += [
                (f"{kind}/{i}", torch.float32, (n * (n + 1) // 2,)) for i, n in enumerate(widths)
            ]
            layout += [(f"sum/{kind}/{i}", torch.float32, (n,)) for i, n in enumerate(widths)]
            layout += [(f"tokens/{kind}", torch.int32, (len(widths),))]
            layout += [
                (f"rows/{kind}/{fact}", torch.int32, (2 * images,))
                for fact in ("timestep", "label")
            ]
        return layout

    def write(self, b: int, tensors: Iterator[Tensor]) -> None:
        """One bin's file from tensors in the order of `layout`, whole or not at all. Raises
        StudioError for the disk, else what `tensors` raises.
        """
        try:
            write_tensors(self.path(b), self.layout, tensors)
        except OSError as err:
            if full_disk(err):
                raise StudioError(
                    "The disk is full: finished bins are kept; make room or set MOSAIC_CACHE, then"
                    " calibrate again."
                ) from err
            raise StudioError(
                f"A calibration file could not be written ({cache_trouble(err)}; finished bins are"
                " kept."
            ) from err

    def check(self) -> None:
        """Drop bins whose file is cut off, damaged or of another layout, so that the next
        calibration measures them again.
        """
        expected = list(self.layout)
        for b in range(self.settings.bins):
            if self.path(b).exists():
                try:
                    sound = read_layout(self.path(b)) == expected
                except (OSError, ValueError):
                    sound = False
                if not sound:
                    try:
                        self.path(b).unlink(missing_ok=True)
                    except OSError as err:
                        raise StudioError(
                            "A damaged calibration file could not be dropped"
                            f" ({cache_trouble(err)}."
                        ) from err
