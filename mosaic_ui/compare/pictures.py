"""Turn sample tensors into crisp pictures: sheets, amplified differences, PNG data addresses.

Pure functions, no Gradio.

Small pictures stay as they are: pixels are repeated, never interpolated, and the format is PNG,
because a lossy format changes the very differences that a comparison is about. Photographs too
large for the page are shown smaller, and say so; their downloads are whole.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from core.workshop.picture_arrays import sheet, to_bytes

# side of one sample on screen: four times the bundled model's 32, so one model pixel is a sharp
# square
SAMPLE_PIXELS = 128
MAX_SHOWN = 36  # samples in the sheets on the page; the downloads hold all of them
MAX_SHEET_PIXELS = 4096  # widest download: browsers and mail programs still open it
# widest sheet on the page: photographs of a large model would take tens of megabytes
PAGE_PIXELS = 2048
LIVE_PIXELS = 768  # widest sheet while a run goes on, drawn several times a second
GAP = 4  # pixels between two samples
AMPLIFICATIONS = (1, 2, 4, 8, 16, 32)


def to_uint8(images: Tensor) -> np.ndarray:
    """Turn (n, c, h, w) in [-1, 1] into (n, h, w, 3) uint8.

    One channel is repeated, more than three are cut to three. A diverged value, which is no
    number, becomes black.
    """
    whole = to_bytes(torch.nan_to_num(images.detach().cpu().float(), nan=-1.0))
    array = whole.permute(0, 2, 3, 1).numpy()  # (n, h, w, c)
    return np.repeat(array, 3, axis=3) if array.shape[3] < 3 else array[..., :3]


def shrunk(pictures: np.ndarray, most: int) -> np.ndarray:
    """Reduce (n, h, w) or (n, h, w, c) uint8 by the smallest of 1, 2, 4, 8 that fits `most` pixels.

    Pixels become means of whole blocks.
    """
    height, width = pictures.shape[1:3]
    factor = next((f for f in (1, 2, 4) if max(height, width) <= most * f), 8)
    if factor == 1 or height % factor or width % factor:
        return pictures
    blocks = pictures.reshape(
        len(pictures), height // factor, factor, width // factor, factor, *pictures.shape[3:]
    )
    return np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


def sheet_columns(n: int) -> int:
    """Return the columns of a nearly square contact sheet of n samples."""
    return max(1, math.ceil(math.sqrt(n)))


def contact_sheet(
    pictures: np.ndarray,
    columns: int | None = None,
    pixels: int = SAMPLE_PIXELS,
    gap: int = GAP,
    ground: int = 128,
) -> np.ndarray:
    """Lay (n, h, w, 3) uint8 out as one (H, W, 3) uint8 sheet, row by row.

    Each sample is enlarged by a whole factor to at most about `pixels`.
    """
    n, height, width, _ = pictures.shape
    if n == 0:
        return np.full((pixels, pixels, 3), ground, np.uint8)
    columns = min(columns or sheet_columns(n), n)
    return sheet(pictures, columns, max(1, pixels // max(height, width)), gap, ground)


def download_sheet(pictures: np.ndarray) -> np.ndarray:
    """Lay all samples out in one sheet, as large as `MAX_SHEET_PIXELS` allows."""
    room = MAX_SHEET_PIXELS // sheet_columns(max(1, len(pictures))) - GAP
    return contact_sheet(pictures, pixels=max(1, min(SAMPLE_PIXELS, room)))


def amplification(difference: np.ndarray) -> int:
    """Return the largest of `AMPLIFICATIONS` that keeps 99 of 100 values of |A - B| below white.

    Values are grey levels from 0 to 255.
    """
    if difference.size == 0:
        return 1
    high = float(np.quantile(difference, 0.99))
    return max(factor for factor in AMPLIFICATIONS if factor == 1 or factor * high <= 255.0)


def amplified_difference(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, int, float]:
    """Return |A - B| of two uint8 stacks of one shape, amplified, with the factor and the mean.

    Channel by channel; the mean is in levels of 255 over all of them.
    """
    difference = np.abs(a.astype(np.int16) - b.astype(np.int16))
    factor = amplification(difference)
    mean = float(difference.mean()) if difference.size else 0.0
    return np.clip(difference * factor, 0, 255).astype(np.uint8), factor, mean
