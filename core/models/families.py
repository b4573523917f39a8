"""The two kinds of denoiser there are, DiT and SDXL's UNet: what they are conditioned on, their
latents, their blocks.

Everything else in `core` handles a denoiser as `network(x, t, **conditions)`: keyword arguments
whose tensors (some nested in a dictionary, as `added_cond_kwargs` is) have one entry per image in
front.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import StudioError

NULL_CLASS = 1000  # the null label that DiTPipeline hard-wires
TEXT_TOKENS = 77  # what both of SDXL's text encoders give
Arguments = dict[str, Any]  # keyword arguments of a forward; tensors, or dictionaries of tensors


def each_tensor(arguments: Arguments, change: Callable[[Tensor], Tensor]) -> Arguments:
    """The same arguments with every tensor changed."""
    return {
        k: each_tensor(v, change) if isinstance(v, dict) else change(v)
        for k, v in arguments.items()
    }


def both(first: Arguments, second: Arguments) -> Arguments:
    """Two batches as one, image by image."""
    return {
        k: both(v, second[k]) if isinstance(v, dict) else torch.cat([v, second[k]])
        for k, v in first.items()
    }


def leaves(arguments: Arguments) -> list[Tensor]:
    """The tensors, in order."""
    return [t for v in arguments.values() for t in (leaves(v) if isinstance(v, dict) else [v])]


@dataclass(frozen=True)
class Conditions:
    """What n images are conditioned on,
    and the unconditional twin that guidance leads away from.
    """

    positive: Arguments
    negative: Arguments

    def __len__(self) -> int:
        return len(leaves(self.positive)[0])

    def rows(self, which: slice | Tensor) -> Conditions:
        """Some of the images: a slice or indices."""
        return Conditions(
            *(each_tensor(a, lambda v: v[which]) for a in (self.positive, self.negative))
        )

    def pair(self, device: torch.device, dtype: torch.dtype, guided: bool = True) -> Arguments:
        """One batch to run: conditional rows, then (if `guided`) the unconditional ones. Floating
        tensors get `dtype`, labels stay whole.
        """
        rows = both(self.positive, self.negative) if guided else self.positive
        return each_tensor(
            rows, lambda v: v.to(device, dtype) if v.is_floating_point() else v.to(device)
        )


@dataclass(frozen=True)
class BlockSite:
    """One transformer block of a denoiser."""

    path: str  # "transformer_blocks.3"
    name: str  # "block 4", "down 1.0 block 2"
    tokens: int  # of one image at the model's nominal size
    context: int  # tokens that a second attention looks at; 0 without one


def family_of(model: nn.Module) -> type[DiT] | type[SDXL]:
    """DiT or SDXL. Raises StudioError for anything else."""
    if hasattr(model, "release_dense"):  # a MosaicTransformer, which this module cannot import
        raise StudioError("This model is pruned already: take its dense model (.dense) instead.")
    for family in (DiT, SDXL):
        if family.fits(model):
            return family
    raise StudioError(
        f"{type(model).__name__} is neither a DiT (DiTTransformer2DModel) nor SDXL's UNet as"
        " diffusers builds them; only these are pruned."
    )


def whole_size(size: object) -> int:
    """Return a denoiser's `sample_size`. Raises StudioError for what is not one positive whole
    number.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        said = json.dumps(size, default=str)
        raise StudioError(
            f"The denoiser's sample_size is {said[:40]}; only one whole number, the same for height"
            " and width, is supported: correct its config.json."
        )
    return size


class DiT:
    """Peebles & Xie 2023 (arXiv 2212.09748), diffusers' DiTTransformer2DModel: class labels,
    adaLN-Zero.
    """

    name = "DiT"
    # where nobody asks for another: DiT-XL/2's best FID is reported at it (Peebles & Xie 2023),
    # show pieces are sampled at 4
    guidance = 1.5
    any_size = False  # positions are a table of the model's own size

    @staticmethod
    def fits(model: nn.Module) -> bool:
        return all(
            hasattr(model, part) for part in ("transformer_blocks", "pos_embed", "proj_out_2")
        )

    @staticmethod
    def latent_shape(model: nn.Module) -> tuple[int, int, int]:
        size = whole_size(model.config.sample_size)
        return model.config.in_channels, size, size

    @staticmethod
    def sites(model: nn.Module, shape: tuple[int, int, int] | None = None) -> list[BlockSite]:
        """Every transformer block. The shape cannot be another than the model's."""
        tokens = (model.config.sample_size // model.config.patch_size) ** 2
        return [
            BlockSite(f"transformer_blocks.{i}", f"block {i + 1}", tokens, 0)
            for i in range(len(model.transformer_blocks))
        ]

    @staticmethod
    def conditions(labels: Tensor) -> Conditions:
        """labels (n,) -> label rows and null-label rows. Raises StudioError for labels that the
        label table cannot hold.
        """
        labels = labels.long()
        if len(labels) and (labels.min() < 0 or labels.max() > NULL_CLASS):
            raise StudioError(f"The labels must lie between 0 and {NULL_CLASS}.")
        return Conditions(
            {"class_labels": labels}, {"class_labels": torch.full_like(labels, NULL_CLASS)}
        )

    @staticmethod
    def check(model: nn.Module) -> None:
        """Raise StudioError for a DiT whose latents or outputs are not what the sampling loop gives
        and takes.
        """
        config, channels = model.config, model.config.in_channels
        if (config.out_channels or channels) not in (channels, 2 * channels):
            raise StudioError(
                f"This DiT gives {config.out_channels} channels for {channels}; only the noise, or"
                " the noise and a learned variance (twice the channels), can be sampled."
            )

    @staticmethod
    def probe(model: nn.Module, rows: int, random: torch.Generator) -> Arguments:
        """Conditions for a forward whose output nobody looks at."""
        return {"class_labels": torch.zeros(rows, dtype=torch.long)}


class SDXL:
    """Podell et al. 2023 (arXiv 2307.01952), diffusers' UNet2DConditionModel with text_time
    embeddings: prompts and sizes.
    """

    name = "SDXL"
    guidance = 5.0  # its pipeline's default; it needs about as much to paint what it is asked for
    any_size = True

    @staticmethod
    def fits(model: nn.Module) -> bool:
        config = getattr(model, "config", None)
        return (
            hasattr(model, "down_blocks")
            and hasattr(model, "up_blocks")
            and getattr(config, "addition_embed_type", None) == "text_time"
        )

    @staticmethod
    def latent_shape(model: nn.Module) -> tuple[int, int, int]:
        size = whole_size(model.config.sample_size)
        return model.config.in_channels, size, size

    @staticmethod
    def sites(model: nn.Module, shape: tuple[int, int, int] | None = None) -> list[BlockSite]:
        """Every transformer block with the tokens it sees: each down block but the last halves both
        sides at its end, rounding up.
        """
        height, width = (shape or SDXL.latent_shape(model))[1:]
        stages = [("down", i, i, b) for i, b in enumerate(model.down_blocks)]
        deepest = len(model.down_blocks) - 1
        if model.mid_block is not None:
            stages.append(("mid", None, deepest, model.mid_block))
        stages += [("up", i, deepest - i, b) for i, b in enumerate(model.up_blocks)]
        sites = []
        for side, index, depth, stage in stages:
            tokens = -(-height // 2**depth) * -(-width // 2**depth)
            root = "mid_block" if index is None else f"{side}_blocks.{index}"
            for j, attention in enumerate(getattr(stage, "attentions", None) or []):
                if attention is None:  # a middle block without attention keeps its place
                    continue
                where = side if index is None else f"{side} {index + 1}.{j + 1}"
                if not hasattr(attention, "transformer_blocks"):
                    raise StudioError(
                        f"{where.capitalize()} has attention of the kind"
                        f" {type(attention).__name__}, not the transformer blocks that SDXL has"
                        " there: it cannot be pruned."
                    )
                sites += [
                    BlockSite(
                        f"{root}.attentions.{j}.transformer_blocks.{k}",
                        f"{where} block {k + 1}",
                        tokens,
                        TEXT_TOKENS,
                    )
                    for k in range(len(attention.transformer_blocks))
                ]
        return sites

    @staticmethod
    def conditions(
        pipeline: Any, prompts: list[str], negative: str = "", size: tuple[int, int] | None = None
    ) -> Conditions:
        """Both text encoders on every different prompt once; `size` (height, width) in pixels is
        the micro-conditioning.

        Without a negative prompt the unconditional rows are those of StableDiffusionXLPipeline
        called without one, see `unconditional`.
        """
        different = list(dict.fromkeys(prompts))
        device, config = pipeline.unet.device, pipeline.unet.config
        height, width = size or (config.sample_size * pipeline.vae_scale_factor,) * 2
        with torch.no_grad():
            text, no_text, pooled, no_pooled = pipeline.encode_prompt(
                different,
                device=device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=True,
                negative_prompt=[negative] * len(different) if negative else None,
            )
        place = torch.tensor([different.index(p) for p in prompts])
        ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).expand(
            len(prompts), 6
        )
        sides = []
        for embeds, pool in ((text, pooled), (no_text, no_pooled)):
            embeds, pool = embeds.cpu()[place], pool.cpu()[place]
            sides.append(
                {
                    "encoder_hidden_states": embeds,
                    "added_cond_kwargs": {"text_embeds": pool, "time_ids": ids},
                }
            )
        return Conditions(*sides)

    @staticmethod
    def check(model: nn.Module) -> None:
        """Raise StudioError for a UNet that wants inputs which the sampling loop does not give."""
        config = model.config
        if config.time_cond_proj_dim is not None:
            raise StudioError(
                "This UNet takes an embedding of the guidance scale (time_cond_proj_dim), as models"
                " distilled for a few steps do (LCM); it cannot be sampled or pruned here. Use the"
                " model it was distilled from."
            )
        if config.out_channels != config.in_channels:
            raise StudioError(
                f"This UNet takes {config.in_channels} channels and gives {config.out_channels};"
                " only models that predict the noise of all their channels can be sampled."
            )

    @staticmethod
    def check_words(model: nn.Module, pooled: int) -> None:
        """Raise StudioError where prompts of `pooled` numbers and six sizes do not fill the added
        embedding.
        """
        config = model.config
        asked = config.projection_class_embeddings_input_dim
        given = pooled + 6 * config.addition_time_embed_dim
        if asked != given:
            raise StudioError(
                f"This UNet's added embedding takes {asked} numbers and SDXL's base pipeline gives"
                f" {given}: it is a refiner or another variant, which is not supported. Use an SDXL"
                " base model."
            )

    @staticmethod
    def unconditional(pipeline: Any) -> str:
        """What guidance leads away from where no negative prompt is given: "zeros" in the place of
        embeddings (SDXL as published) or the "empty prompt".
        """
        return "zeros" if pipeline.config.force_zeros_for_empty_prompt else "empty prompt"

    @staticmethod
    def probe(model: nn.Module, rows: int, random: torch.Generator) -> Arguments:
        config = model.config
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        return {
            "encoder_hidden_states": torch.randn(
                rows, TEXT_TOKENS, config.cross_attention_dim, generator=random
            ),
            "added_cond_kwargs": {
                "text_embeds": torch.randn(rows, pooled, generator=random),
                "time_ids": torch.zeros(rows, 6),
            },
        }


def first_parameter(model: nn.Module) -> Tensor:
    """Stands for the model's device and floating dtype. Raises StudioError for a model without
    floating weights.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter
    raise StudioError(
        f"{type(model).__name__} has no floating-point weights (quantised, perhaps): load it in"
        " fp32, fp16 or bf16."
    )
