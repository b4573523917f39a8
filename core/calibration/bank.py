"""Store a calibration: Gram matrices, input sums and the rows they were measured on.

One safetensors file per timestep bin. Grams add up, so the Gram of any stretch of timesteps is the
sum of its bins; a bin that a boundary cuts counts in proportion to the part inside. A file is
written as its numbers come in and read one layer at a time, so memory holds one layer, never a bin.
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
from .packed_gram import add_share_, unpack
from .row_weights import bin_weights
from .settings import CalibrationSettings

KINDS = ("fit", "held_out")


class GramBank:
    """A store of Gram matrices per layer and timestep bin, on disk, read one layer at a time."""

    def __init__(self, folder: Path, layers: list[PrunableLayer], settings: CalibrationSettings):
        self.folder, self.layers, self.settings = Path(folder), layers, settings
        self._kept: dict[int, dict[str, Tensor]] = {}  # bins that are in memory too

    def path(self, bin_index: int) -> Path:
        """Return the file of a bin."""
        return self.folder / f"bin-{bin_index:02d}.safetensors"

    def missing(self) -> list[int]:
        """Return the bins that are not measured yet."""
        return [b for b in range(self.settings.bins) if not self.path(b).exists()]

    @property
    def complete(self) -> bool:
        """Say whether every bin is measured."""
        return not self.missing()

    def overlap(self, low: float, high: float) -> list[float]:
        """Return how much of each bin counts in [low, high), (bins,).

        That is the share of the bin in it, times the weight of the bin (1, but for the weighting by
        timestep).
        """
        edges = self.settings.edges
        weights = bin_weights(edges, self.settings.weighting)
        return [
            max(0.0, min(high, b) - max(low, a)) / (b - a) * weight
            for a, b, weight in zip(edges, edges[1:], weights, strict=False)
        ]

    # ------------------------------------------------------------ reading

    def gram(
        self,
        layer: int,
        low: float,
        high: float,
        held_out: bool = False,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> tuple[Tensor, float]:
        """Return the sum of x x^T over [low, high), (n, n) of `dtype`, and its number of tokens.

        device: of the sum. The triangles of the bins go there as they are stored, packed and in
        float32, and are added up and unpacked there; the bits are the same on every device. Raises
        StudioError when a file is damaged.
        """
        kind = KINDS[held_out]
        total: Tensor | None = None
        tokens = 0.0
        for b, share in self._shares(low, high):
            triangle, counts = self._read(b, f"{kind}/{layer}", f"tokens/{kind}")
            if total is None:
                total = triangle.to(device).to(dtype, copy=True).mul_(share)
            else:
                add_share_(total, triangle, share)
            tokens += share * int(counts[layer])
            del triangle  # the next one is mapped without this one in memory
        assert total is not None  # `_shares` gives at least one bin
        return unpack(total, dtype), tokens

    def mean(self, layer: int, low: float, high: float, held_out: bool = False) -> Tensor:
        """Return the mean input x over [low, high), (n,) fp64.

        W mean(x) is what the bias takes over when all groups of a layer are removed.
        """
        kind = KINDS[held_out]
        total = torch.zeros(self.layers[layer].width, dtype=torch.float64)
        tokens = 0.0
        for b, share in self._shares(low, high):
            vector, counts = self._read(b, f"sum/{kind}/{layer}", f"tokens/{kind}")
            total = total + share * vector.double()
            tokens += share * int(counts[layer])
        return total / max(tokens, 1e-30)

    def rows(self, b: int, held_out: bool = False) -> dict[str, Tensor]:
        """Return "timestep" and "label" of the rows of bin `b`, (rows,) int32 each.

        All images with their label come first, then all with the null label.
        """
        kind = KINDS[held_out]
        timesteps, labels = self._read(b, f"rows/{kind}/timestep", f"rows/{kind}/label")
        return {"timestep": timesteps, "label": labels}

    def _shares(self, low: float, high: float) -> list[tuple[int, float]]:
        """Return (bin, share) of every bin that counts in [low, high). Raises StudioError."""
        shares = [(b, share) for b, share in enumerate(self.overlap(low, high)) if share]
        if not shares:
            raise StudioError(f"No calibration bin lies between timesteps {low:g} and {high:g}.")
        return shares

    def keep(self, b: int, tensors: dict[str, Tensor]) -> None:
        """Keep tensors of a bin in memory, by name; reading them needs no disk until `forget`."""
        self._kept[b] = tensors

    def forget(self) -> None:
        """Give the memory of kept bins back; their files serve from now on."""
        self._kept = {}

    def _read(self, b: int, *names: str) -> list[Tensor]:
        """Return tensors of a bin, from memory where they are kept, else mapped from its file.

        The file is opened anew each time: a file kept open would keep all that was read from it in
        memory. Raises StudioError.
        """
        kept = self._kept.get(b, {})
        if all(name in kept for name in names):
            return [kept[name] for name in names]
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
        """Return names, types and shapes in a bin's file: the fitted half, then the held-out one.

        Every number has four bytes, so that everything is aligned.
        """
        layout: list[tuple[str, torch.dtype, tuple[int, ...]]] = []
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
        """Write the file of one bin, whole or not at all, from tensors in the order of `layout`.

        Raises StudioError for the disk, else what `tensors` raises.
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
        """Remove bins whose file is cut off, damaged or of another layout.

        The next calibration measures them again. Raises StudioError where a file cannot be removed.
        """
        expected = list(self.layout)
        for b in range(self.settings.bins):
            if not self.path(b).exists() or _has_layout(self.path(b), expected):
                continue
            try:
                self.path(b).unlink(missing_ok=True)
            except OSError as err:
                raise StudioError(
                    f"A damaged calibration file could not be dropped ({cache_trouble(err)}."
                ) from err


def _has_layout(path: Path, expected: Layout) -> bool:
    try:
        return read_layout(path) == expected
    except (OSError, ValueError):
        return False
