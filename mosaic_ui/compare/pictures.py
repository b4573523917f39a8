"""Sample tensors to crisp pictures: contact sheets, amplified differences and PNG data addresses
(pure, no Gradio).

Small pictures stay as they are: pixels are repeated, never interpolated, and the format is PNG,
because a lossy format changes the very differences that a comparison is about. Photographs too
large for the page are shown smaller, and say so; their downloads are whole.
"""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
from PIL import Image

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


def to_uint8(images: Any) -> np.ndarray:
    """(n, c, h, w) in [-1, 1], torch or numpy -> (n, h, w, 3) uint8; one channel is repeated, more
    than three are cut to three.
    """
    array = (
        images.detach().cpu().float().numpy()
        if hasattr(images, "detach")
        else np.asarray(images, dtype=np.float32)
    )
    array = np.nan_to_num(array, nan=-1.0)  # a diverged sample becomes black instead of undefined
    # (n, h, w, c)
    grey = np.rint((np.clip(array, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    return np.repeat(grey, 3, axis=3) if grey.shape[3] < 3 else grey[..., :3]


def shrunk(pictures: np.ndarray, most: int) -> np.ndarray:
    """(n, h, w) or (n, h, w, c) uint8, reduced by 1, 2, 4 or 8, the smallest that brings both sides
    to `most`: means of whole blocks of pixels.
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
    """Columns of a nearly square contact sheet of n samples."""
    return max(1, math.ceil(math.sqrt(n)))


def contact_sheet(
    pictures: np.ndarray,
    columns: int | None = None,
    pixels: int = SAMPLE_PIXELS,
    gap: int = GAP,
    ground: int = 128,
) -> np.ndarray:
    """(n, h, w, 3) uint8 -> one (H, W, 3) uint8 sheet, each sample enlarged by a whole factor to at
    most about `pixels`.
    """
    n, height, width, _ = pictures.shape
    if n == 0:
        return np.full((pixels, pixels, 3), ground, np.uint8)
    columns = min(columns or sheet_columns(n), n)
    rows = -(-n // columns)
    scale = max(1, pixels // max(height, width))
    big = pictures.repeat(scale, axis=1).repeat(scale, axis=2)
    high, wide = height * scale, width * scale
    sheet = np.full((rows * (high + gap) - gap, columns * (wide + gap) - gap, 3), ground, np.uint8)
    for i, picture in enumerate(big):
        top, left = (i // columns) * (high + gap), (i % columns) * (wide + gap)
        sheet[top : top + high, left : left + wide] = picture
    return sheet


def download_sheet(pictures: np.ndarray) -> np.ndarray:
    """All samples in one sheet, as large as `MAX_SHEET_PIXELS` allows with whole pixels."""
    room = MAX_SHEET_PIXELS // sheet_columns(max(1, len(pictures))) - GAP
    return contact_sheet(pictures, pixels=max(1, min(SAMPLE_PIXELS, room)))


def amplification(difference: np.ndarray) -> int:
    """The largest factor of `AMPLIFICATIONS` that keeps 99 of 100 values of |A - B| (grey levels, 0
    to 255) below white.
    """
    if difference.size == 0:
        return 1
    high = float(np.quantile(difference, 0.99))
    return max(factor for factor in AMPLIFICATIONS if factor == 1 or factor * high <= 255.0)


def amplified_difference(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, int, float]:
    """Return |A - B| of two uint8 stacks of one shape, amplified, with the factor and the mean.

    The mean is in grey levels of 255.
    """
    difference = np.abs(a.astype(np.int16) - b.astype(np.int16))
    factor = amplification(difference)
    mean = float(difference.mean()) if difference.size else 0.0
    return np.clip(difference * factor, 0, 255).astype(np.uint8), factor, mean


def png_bytes(picture: np.ndarray) -> bytes:
    """(h, w) or (h, w, 3) uint8 -> PNG. A picture whose three channels agree is stored as one."""
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[..., 0]
    if (
        picture.ndim == 3
        and (picture[..., 0] == picture[..., 1]).all()
        and (picture[..., 0] == picture[..., 2]).all()
    ):
        picture = picture[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(
        buffer, format="PNG", optimize=False, compress_level=6
    )
    return buffer.getvalue()


def data_address(content: bytes, mime: str = "image/png") -> str:
    """A `data:` address: the page needs no file on the server and no second request."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
