"""Answer for the family of SDXL: prompts and sizes, latents of any size, layer-norm blocks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Stopped, StudioError
from ..progress import Progress
from .conditions import Arguments, Conditions, ImageRequest, concat_arguments, each_tensor
from .prompts import PROMPTS
from .shapes import BlockSite, config_of, nominal_shape

TEXT_TOKENS = 77  # what both of SDXL's text encoders give
PROMPTS_AT_ONCE = 8  # SDXL's text encoders keep every hidden state, 13 MB per prompt
SIZES = 6  # numbers of the micro-conditioning: original size, crop corner, target size
# entries of a UNet's configuration that ask for inputs which nothing here gives
CONDITIONED = (
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
)


class SDXL:
    """The family of Podell et al. 2023 (arXiv 2307.01952), diffusers' UNet2DConditionModel.

    Conditioned on prompts and sizes, through text_time embeddings.
    """

    name = "SDXL"
    pipeline = "StableDiffusionXLPipeline"
    denoiser = "unet"  # its part of the pipeline
    guidance = 5.0  # its pipeline's default; it needs about as much to paint what it is asked for
    conditional_first = False  # of the two halves that its stock pipeline runs with guidance
    any_size = True
    asks_words = True  # images are asked for by prompt
    has_adaln = False

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Say whether a denoiser is of this family."""
        config = getattr(model, "config", None)
        return (
            hasattr(model, "down_blocks")
            and hasattr(model, "up_blocks")
            and getattr(config, "addition_embed_type", None) == "text_time"
        )

    # ------------------------------------------------------------ sizes

    @staticmethod
    def latent_shape(model: nn.Module) -> tuple[int, int, int]:
        """Return the shape (c, h, w) of one image's latents at the model's own size."""
        return nominal_shape(model)

    @staticmethod
    def sites(model: nn.Module, shape: tuple[int, ...] | None = None) -> list[BlockSite]:
        """Return the place of every transformer block with the tokens it sees.

        Each down block but the last halves both sides of the latents at its end, rounding up.
        shape: of the latents (c, h, w); by default the model's own.
        """
        height, width = (shape or nominal_shape(model))[1:]
        sites = []
        for root, name, depth, stage in _stages(model):
            tokens = -(-height // 2**depth) * -(-width // 2**depth)
            for j, attention in enumerate(getattr(stage, "attentions", None) or []):
                if attention is None:  # a middle block without attention keeps its place
                    continue
                where = name if name == "mid" else f"{name}.{j + 1}"
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

    # ------------------------------------------------------------ conditions

    @staticmethod
    def conditions(
        pipeline: Any, prompts: list[str], negative: str = "", size: tuple[int, int] | None = None
    ) -> Conditions:
        """Encode n prompts with both text encoders, every different prompt once.

        `size` (height, width) in pixels is the micro-conditioning. Without a negative prompt the
        unconditional rows are those of StableDiffusionXLPipeline called without one, see
        `unconditional`.
        """
        different = list(dict.fromkeys(prompts))
        nominal = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        height, width = size or (nominal, nominal)
        with torch.no_grad():
            text, no_text, pooled, no_pooled = pipeline.encode_prompt(
                different,
                device=pipeline.unet.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=True,
                negative_prompt=[negative] * len(different) if negative else None,
            )
        place = torch.tensor([different.index(p) for p in prompts])
        numbers = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
        ids = numbers.expand(len(prompts), SIZES)

        def arguments(embeds: Tensor, pool: Tensor) -> Arguments:
            return {
                "encoder_hidden_states": embeds.cpu()[place],
                "added_cond_kwargs": {"text_embeds": pool.cpu()[place], "time_ids": ids},
            }

        return Conditions(arguments(text, pooled), arguments(no_text, no_pooled))

    @staticmethod
    def requested_conditions(pipeline: Any, request: ImageRequest) -> Conditions:
        """Return the conditions of the images that a comparison asks for."""
        return SDXL.conditions(pipeline, list(request.prompts), request.negative, request.size)

    @staticmethod
    def some_conditions(pipeline: Any, class_names: Mapping[int, str], n: int) -> Conditions:
        """Return the conditions of n images of no particular choice: built-in prompts in turn."""
        del class_names
        return SDXL.conditions(pipeline, [PROMPTS[i % len(PROMPTS)] for i in range(n)])

    @staticmethod
    def source_conditions(
        pipeline: Any,
        shows: list[str],
        progress: Progress | None = None,
        stop: threading.Event | None = None,
    ) -> tuple[Conditions, Tensor]:
        """Return the conditions of n calibration images with these prompts, and prompt ids (n,).

        Every different prompt is encoded once, without a negative prompt; an id says which of the
        different prompts an image has. Raises Stopped.
        """
        different = list(dict.fromkeys(shows))
        found = []
        for first in range(0, len(different), PROMPTS_AT_ONCE):
            if stop is not None and stop.is_set():
                raise Stopped("Stopped while reading the prompts; nothing was lost.")
            if progress is not None:
                text = f"reading {len(different)} prompts with the model's own text encoders"
                progress(first, len(different), text)
            found.append(SDXL.conditions(pipeline, different[first : first + PROMPTS_AT_ONCE]))
        together = found[0]
        for more in found[1:]:
            together = Conditions(
                concat_arguments(together.positive, more.positive),
                concat_arguments(together.negative, more.negative),
            )
        ids = torch.tensor([different.index(p) for p in shows])
        # one row stands for all
        unconditional = each_tensor(
            together.negative, lambda v: v[:1].expand(len(shows), *v.shape[1:])
        )
        return Conditions(each_tensor(together.positive, lambda v: v[ids]), unconditional), ids

    @staticmethod
    def unconditional(pipeline: Any) -> str:
        """Return what guidance leads away from where no negative prompt is given.

        Either "zeros" in the place of embeddings (SDXL as published) or the "empty prompt".
        """
        return "zeros" if pipeline.config.force_zeros_for_empty_prompt else "empty prompt"

    @staticmethod
    def probe(model: nn.Module, rows: int, random: torch.Generator) -> Arguments:
        """Return conditions for a forward whose output is not used."""
        config = config_of(model)
        sizes = SIZES * config.addition_time_embed_dim
        pooled = config.projection_class_embeddings_input_dim - sizes
        return {
            "encoder_hidden_states": torch.randn(
                rows, TEXT_TOKENS, config.cross_attention_dim, generator=random
            ),
            "added_cond_kwargs": {
                "text_embeds": torch.randn(rows, pooled, generator=random),
                "time_ids": torch.zeros(rows, SIZES),
            },
        }

    # ------------------------------------------------------------ what is refused

    @staticmethod
    def check(model: nn.Module, pipeline: Any = None) -> None:
        """Raise StudioError for a UNet that takes inputs which the sampling loop does not give.

        pipeline: whose second text encoder must fill the added embedding.
        """
        config = config_of(model)
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
        encoder = getattr(pipeline, "text_encoder_2", None)
        if encoder is not None:
            SDXL.check_words(model, encoder.config.projection_dim)

    @staticmethod
    def check_words(model: nn.Module, pooled: int) -> None:
        """Raise StudioError where `pooled` numbers and six sizes do not fill the added embedding.

        pooled: width of the pooled embedding of a prompt.
        """
        config = config_of(model)
        wanted = config.projection_class_embeddings_input_dim
        given = pooled + SIZES * config.addition_time_embed_dim
        if wanted != given:
            raise StudioError(
                f"This UNet's added embedding takes {wanted} numbers and SDXL's base pipeline gives"
                f" {given}: it is a refiner or another variant, which is not supported. Use an SDXL"
                " base model."
            )

    @staticmethod
    def check_config(config: Mapping[str, Any]) -> None:
        """Raise StudioError for a UNet whose configuration asks for what nothing here gives it."""
        wanted = [name for name in CONDITIONED if config.get(name) is not None]
        if wanted:
            raise StudioError(
                f"The UNet takes more than prompts and sizes ({', '.join(wanted)} in its"
                " config.json); only SDXL as it was published is supported."
            )
        if not isinstance(config.get("cross_attention_dim"), int):
            raise StudioError(
                "The UNet's cross_attention_dim is not one whole number, the same for every block;"
                " only that is supported."
            )

    @staticmethod
    def check_pipeline(pipeline: Any, model: object) -> None:
        """Accept the pipeline: SDXL has no label table that could be too small."""

    @staticmethod
    def check_request(name: str, model: nn.Module, request: ImageRequest) -> None:
        """Raise StudioError for images that a model called `name` cannot paint."""
        del model
        if not request.prompts:
            raise StudioError(f"{name} paints from text: give a prompt for every image.")
        if request.size is not None and any(x % 64 for x in request.size):
            raise StudioError("Height and width must be multiples of 64 pixels.")

    @staticmethod
    def check_block(norm: str, attentions: int, mlp: bool, where: str) -> None:
        """Raise StudioError for a block whose parts are not those of SDXL's UNet."""
        if not mlp or attentions != 2 or norm != "layer_norm":
            raise StudioError(
                f"{where} is not a layer-norm block with self-attention, cross-attention and one"
                " MLP, so it is not pruned."
            )


def _stages(model: Any) -> Iterator[tuple[str, str, int, nn.Module]]:
    """Yield (path, name, halvings of the latents so far, module) of every stage of a UNet."""
    for i, stage in enumerate(model.down_blocks):
        yield f"down_blocks.{i}", f"down {i + 1}", i, stage
    deepest = len(model.down_blocks) - 1
    if model.mid_block is not None:
        yield "mid_block", "mid", deepest, model.mid_block
    for i, stage in enumerate(model.up_blocks):
        yield f"up_blocks.{i}", f"up {i + 1}", deepest - i, stage
