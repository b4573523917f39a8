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
    n = len(images)
    return sheet(pictures(images), columns or min(n, max(1, round(n**0.5))), scale)


def sheet(
    pictures: np.ndarray, columns: int, scale: int = 1, gap: int = 0, ground: int = 255
) -> np.ndarray:
    """Lay uint8 pictures (n, h, w) or (n, h, w, c) out as one, row by row.

    Each pixel is `scale` times as large; `gap` pixels of grey level `ground` lie between two
    pictures.
    """
    n, h, w = pictures.shape[:3]
    high, wide, rows = h * scale, w * scale, -(-n // columns)
    size = (rows * (high + gap) - gap, columns * (wide + gap) - gap, *pictures.shape[3:])
    whole = np.full(size, ground, np.uint8)
    for i, picture in enumerate(pictures.repeat(scale, 1).repeat(scale, 2)):
        top, left = (i // columns) * (high + gap), (i % columns) * (wide + gap)
        whole[top : top + high, left : left + wide] = picture
    return whole
