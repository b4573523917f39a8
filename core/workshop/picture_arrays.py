"""Turn pictures in [-1, 1] into bytes, arrays and grids."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def to_bytes(images: Tensor) -> Tensor:
    """Return uint8 pictures of pictures in [-1, 1]."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().contiguous()


def from_bytes(images: Tensor) -> Tensor:
    """Return pictures in [-1, 1] of uint8 pictures."""
    return images.float() / 127.5 - 1


def pictures(images: Tensor) -> np.ndarray:
    """Return uint8 arrays (n, H, W) or (n, H, W, 3) of (n, 1 or 3, H, W) in [-1, 1]."""
    array = to_bytes(images).permute(0, 2, 3, 1).numpy()
    return array[..., 0] if array.shape[-1] == 1 else array


def grid(images: Tensor, columns: int | None = None, scale: int = 1) -> np.ndarray:
    """Return one uint8 picture of many, row by row, each pixel `scale` times as large."""
    array = pictures(images)
    n, h, w = array.shape[:3]
    columns = columns or min(n, max(1, round(n**0.5)))
    rows = -(-n // columns)
    sheet = np.full((rows * h, columns * w, *array.shape[3:]), 255, np.uint8)
    for i, picture in enumerate(array):
        top, left = (i // columns) * h, (i % columns) * w
        sheet[top : top + h, left : left + w] = picture
    return sheet.repeat(scale, 0).repeat(scale, 1)
