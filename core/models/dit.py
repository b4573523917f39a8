"""Answer for the family of DiT: class labels, latents of one size, adaLN-Zero blocks."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import StudioError
from ..progress import Progress
from .conditions import Arguments, Conditions, ImageRequest
from .shapes import BlockSite, config_of, nominal_shape

NULL_CLASS = 1000  # the null label that DiTPipeline hard-wires


class DiT:
    """The family of Peebles & Xie 2023 (arXiv 2212.09748), diffusers' DiTTransformer2DModel.

    Conditioned on class labels; blocks with adaLN-Zero.
    """

    name = "DiT"
    pipeline = "DiTPipeline"
    denoiser = "transformer"  # its part of the pipeline
    # where no other is asked for: DiT-XL/2's best FID is reported at it (Peebles & Xie 2023),
    # show pieces are sampled at 4
    guidance = 1.5
    conditional_first = True  # of the two halves that its stock pipeline runs with guidance
    any_size = False  # positions are a table of the model's own size
    asks_words = False  # images are asked for by class
    has_adaln = True  # the vectors of its blocks can be computed before sampling

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Say whether a denoiser is of this family."""
        return all(
            hasattr(model, part) for part in ("transformer_blocks", "pos_embed", "proj_out_2")
        )

    # ------------------------------------------------------------ sizes

    @staticmethod
    def latent_shape(model: nn.Module) -> tuple[int, int, int]:
        """Return the shape (c, h, w) of one image's latents."""
        return nominal_shape(model)

    @staticmethod
    def sites(model: nn.Module, shape: tuple[int, ...] | None = None) -> list[BlockSite]:
        """Return the place of every transformer block.

        shape: of the latents; it cannot be another than the model's.
        """
        del shape  # positions are a table of one size
        config = config_of(model)
        blocks: Any = model.transformer_blocks
        tokens = (config.sample_size // config.patch_size) ** 2
        return [
            BlockSite(f"transformer_blocks.{i}", f"block {i + 1}", tokens, 0)
            for i in range(len(blocks))
        ]

    # ------------------------------------------------------------ conditions

    @staticmethod
    def conditions(labels: Tensor) -> Conditions:
        """Return the conditions of labels (n,): label rows and null-label rows.

        Raises StudioError for labels that the label table cannot hold.
        """
        labels = labels.long()
        if len(labels) and (labels.min() < 0 or labels.max() > NULL_CLASS):
            raise StudioError(f"The labels must lie between 0 and {NULL_CLASS}.")
        return Conditions(
            {"class_labels": labels}, {"class_labels": torch.full_like(labels, NULL_CLASS)}
        )

    @staticmethod
    def requested_conditions(pipeline: Any, request: ImageRequest) -> Conditions:
        """Return the conditions of the images that a comparison asks for."""
        del pipeline  # labels need no encoder
        return DiT.conditions(torch.tensor(request.labels))

    @staticmethod
    def some_conditions(pipeline: Any, class_names: Mapping[int, str], n: int) -> Conditions:
        """Return the conditions of n images of no particular choice: the classes in turn."""
        del pipeline
        classes = list(class_names)
        return DiT.conditions(torch.tensor([classes[i % len(classes)] for i in range(n)]))

    @staticmethod
    def source_conditions(
        pipeline: Any,
        shows: list[int],
        progress: Progress | None = None,
        stop: threading.Event | None = None,
    ) -> tuple[Conditions, Tensor]:
        """Return the conditions of calibration images of these classes, and the classes (n,)."""
        del pipeline, progress, stop  # nothing is encoded
        labels = torch.tensor(shows)
        return DiT.conditions(labels), labels

    @staticmethod
    def probe(model: nn.Module, rows: int, random: torch.Generator) -> Arguments:
        """Return conditions for a forward whose output is not used."""
        del model, random
        return {"class_labels": torch.zeros(rows, dtype=torch.long)}

    # ------------------------------------------------------------ what is refused

    @staticmethod
    def check(model: nn.Module, pipeline: Any = None) -> None:
        """Raise StudioError for a DiT whose latents or outputs the sampling loop cannot handle."""
        del pipeline
        config = config_of(model)
        channels = config.in_channels
        if (config.out_channels or channels) not in (channels, 2 * channels):
            raise StudioError(
                f"This DiT gives {config.out_channels} channels for {channels}; only the noise, or"
                " the noise and a learned variance (twice the channels), can be sampled."
            )

    @staticmethod
    def check_config(config: Mapping[str, Any]) -> None:
        """Accept the configuration of the denoiser: every DiT takes labels only."""

    @staticmethod
    def check_pipeline(pipeline: Any, model: object) -> None:
        """Raise StudioError for a DiT whose null label is not the one that DiTPipeline asks for."""
        classes = pipeline.transformer.config.num_embeds_ada_norm
        if classes != NULL_CLASS:
            raise StudioError(
                f"{model} has {classes} classes, and diffusers' DiTPipeline asks for label"
                f" {NULL_CLASS} when it means none: pad its label tables to {NULL_CLASS} classes"
                f" and the null one, with num_embeds_ada_norm {NULL_CLASS} in its config."
            )

    @staticmethod
    def check_request(name: str, model: nn.Module, request: ImageRequest) -> None:
        """Raise StudioError for images that a model called `name` cannot paint."""
        if request.prompts or request.size:
            raise StudioError(f"{name} paints classes at one size, not prompts; give classes.")
        classes = config_of(model).num_embeds_ada_norm
        for label in request.labels:
            if not isinstance(label, int) or not 0 <= label < classes:
                raise StudioError(
                    f"{label!r} is not a class of {name}; classes are whole numbers from 0 to"
                    f" {classes - 1}."
                )

    @staticmethod
    def check_block(norm: str, attentions: int, mlp: bool, where: str) -> None:
        """Raise StudioError for a block whose parts are not those of a DiT."""
        if not mlp or attentions != 1 or norm != "ada_norm_zero":
            raise StudioError(
                f"{where} is not an adaLN-Zero block with one self-attention and one MLP, so it is"
                " not pruned."
            )
