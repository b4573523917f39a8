"""Encode pictures as PNG, and as addresses that carry their file themselves."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def png_bytes(picture: np.ndarray) -> bytes:
    """Encode (h, w) or (h, w, 3) uint8 as PNG; three channels that agree are stored as one."""
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
    """Return a `data:` address: the page needs no file on the server and no second request."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
