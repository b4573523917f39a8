"""More models that cannot be pruned safely, each refused in one sentence.

tests/test_mosaic.py has the others.
"""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderKL, DiTPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from PIL import Image
from tiny_sdxl import TINY_UNET
from torch import nn
from torch.nn.utils import prune

from core.calibration.data import DataOptions
from core.errors import StudioError
from core.models.checkpoints import Checkpoint
from core.models.layers import find_layers
from core.workshop.workshop import Workshop


@pytest.fixture
def dense(workshop):
    """Return a private copy that a test may break."""
    return copy.deepcopy(workshop.transformer)


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(**TINY_UNET)


def with_attention(dense, **options):
    """Give the second block an attention of the same width with these options."""
    attention = Attention(64, heads=4, dim_head=16, bias=True, **options)
    dense.transformer_blocks[1].attn1 = attention
    return dense


def test_the_attention_that_is_put_in_is_fine_without_options(dense):
    assert len(find_layers(with_attention(dense))) == 4


@pytest.mark.parametrize("options", [dict(norm_num_groups=4), dict(spatial_norm_dim=8)])
def test_refuses_an_attention_with_a_norm_of_its_own(dense, options):
    with pytest.raises(StudioError, match="Block 2 has an attention with a norm of its own"):
        find_layers(with_attention(dense, **options))


@pytest.mark.parametrize(
    "options", [dict(residual_connection=True), dict(rescale_output_factor=2.0)]
)
def test_refuses_an_attention_that_adds_its_input_or_rescales_its_output(dense, options):
    with pytest.raises(
        StudioError, match="Block 2 has an attention that adds its input or rescales its output"
    ):
        find_layers(with_attention(dense, **options))


@pytest.mark.parametrize(
    "change",
    [lambda a: setattr(a, "heads", 3), lambda a: a.to_out.__setitem__(0, nn.Linear(32, 64))],
)
def test_refuses_a_width_that_is_not_heads_times_one_head(dense, change):
    change(dense.transformer_blocks[1].attn1)
    with pytest.raises(
        StudioError,
        match="Block 2 has an attention whose width is not heads times one head's width",
    ):
        find_layers(dense)


def test_refuses_float8_weights(dense):
    dense.transformer_blocks[1].ff.net[2].weight.data = (
        dense.transformer_blocks[1].ff.net[2].weight.data.to(torch.float8_e4m3fn)
    )
    with pytest.raises(
        StudioError, match="Block 2 has float8_e4m3fn weights; load the model in fp32, fp16 or bf16"
    ):
        find_layers(dense)


def test_refuses_layerwise_casting(dense):
    dense.enable_layerwise_casting(storage_dtype=torch.float8_e5m2, compute_dtype=torch.float32)
    with pytest.raises(
        StudioError, match="Block 1 has float8_e5m2 weights; load the model in fp32, fp16 or bf16"
    ):
        find_layers(dense)


class Packed(torch.Tensor):
    """A weight of another class in a linear layer that stays nn.Linear, as torchao's."""


def test_refuses_a_weight_of_another_tensor_class(dense):
    layer = dense.transformer_blocks[1].attn1.to_k
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Packed))
    assert (
        type(layer) is nn.Linear
        and type(layer.weight) is Packed
        and layer.weight.dtype in (torch.float32, torch.bfloat16)
    )
    with pytest.raises(StudioError, match="Block 2 has a weight that is not a plain parameter"):
        find_layers(dense)


def test_refuses_a_weight_behind_a_mask(dense):
    prune.l1_unstructured(dense.transformer_blocks[0].attn1.to_out[0], "weight", 0.5)
    with pytest.raises(StudioError, match="Block 1 has a weight that is not a plain parameter"):
        find_layers(dense)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_takes_what_linear_layers_compute_in(dense, dtype):
    assert len(find_layers(dense.to(dtype))) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda b: setattr(b, "norm_type", "ada_norm"),
        lambda b: setattr(b, "attn2", None),
        lambda b: setattr(b, "ff", None),
    ],
)
def test_refuses_an_sdxl_block_of_another_kind(unet, change):
    assert find_layers(unet)
    change(unet.up_blocks[0].attentions[1].transformer_blocks[0])
    with pytest.raises(
        StudioError,
        match=(
            "Up 1.2 block 1 is not a layer-norm block with self-attention, cross-attention and"
            " one MLP"
        ),
    ):
        find_layers(unet)


def test_refuses_a_model_without_transformer_blocks(dense):
    dense.transformer_blocks = nn.ModuleList()
    with pytest.raises(StudioError, match="This DiT has no transformer blocks"):
        find_layers(dense)
    plain = dict(
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        mid_block_type=None,
    )
    with pytest.raises(StudioError, match="This SDXL has no transformer blocks"):
        find_layers(UNet2DConditionModel(**TINY_UNET | plain))


def test_refuses_pictures_for_a_vae_that_is_neither_grey_nor_rgb(workshop, tmp_path):
    for i in range(8):
        (tmp_path / "p" / str(i)).mkdir(parents=True)
        Image.new("L", (32, 32), 9 * i).save(tmp_path / "p" / str(i) / "a.png")
    given = workshop.checkpoint
    vae = AutoencoderKL.from_config(
        dict(given.pipeline.vae.config) | {"in_channels": 4, "out_channels": 4}
    )
    pipeline = DiTPipeline(given.pipeline.transformer, vae, given.pipeline.scheduler)
    other = Checkpoint(
        given.name, given.folder, pipeline, given.latents, given.labels, given.class_names
    )
    with pytest.raises(StudioError, match="VAE takes 4 channels; only grey and RGB pictures"):
        Workshop(
            other, workshop.settings, tmp_path / "cache", DataOptions(images=str(tmp_path / "p"))
        )
