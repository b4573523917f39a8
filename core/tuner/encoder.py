"""Look at pictures with an image encoder that the user names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import StudioError
from ..paths import given_path

BATCH = 64
HALF = (0.5, 0.5, 0.5)  # mean and deviation where the encoder's folder names none


class ImageEncoder:
    """A transformers image encoder (CLIP, DINOv2, ViT, ...): pictures to features.

    size: of the square picture that it takes. mean, std: of its normalisation, by channel.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        size: int,
        mean: tuple[float, ...] = HALF,
        std: tuple[float, ...] = HALF,
    ):
        self.name, self.model, self.size = name, model.eval().requires_grad_(False), size
        self.mean, self.std = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))

    @classmethod
    def load(cls, where: str) -> ImageEncoder:
        """Open an encoder in safetensors, from a folder or the hub. Raises StudioError."""
        from transformers import AutoConfig, AutoModel, CLIPVisionModel

        where = given_path(where, "The encoder")
        try:
            config = AutoConfig.from_pretrained(where)
            kind = CLIPVisionModel if config.model_type.startswith("clip") else AutoModel
            model = kind.from_pretrained(where, use_safetensors=True)
            size = getattr(model.config, "image_size", None)
            if not isinstance(size, int):
                raise ValueError("its config names no image_size")
            normal = _normalisation(where)
        except Exception as err:  # the hub client and transformers raise many kinds
            said = " ".join(str(err).split())[:120]
            raise StudioError(
                f"The image encoder {where} cannot be loaded ({type(err).__name__}: {said}); name a"
                " folder or hub id of a transformers image model in safetensors."
            ) from err
        return cls(Path(where).name, model, size, *normal)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Return features (n, d) of pictures (n, 1 or 3, H, W) in [-1, 1]."""
        found = []
        for part in images.float().split(BATCH):
            x = part.expand(-1, 3, -1, -1) if part.shape[1] == 1 else part
            x = F.interpolate(
                x, (self.size,) * 2, mode="bicubic", antialias=True, align_corners=False
            )
            x = ((x.clamp(-1, 1) + 1) / 2 - self.mean) / self.std
            out = self.model(pixel_values=x)
            pooled = getattr(out, "pooler_output", None)
            found.append(out.last_hidden_state.mean(1) if pooled is None else pooled)
        return torch.cat(found).float()


def _normalisation(where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation by channel that an encoder's folder names."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(where)
        return tuple(processor.image_mean), tuple(processor.image_std)
    except (OSError, ValueError, ImportError, AttributeError, TypeError):
        return HALF, HALF
