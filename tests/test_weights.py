"""Weights that fit their configuration are opened, whatever their files are called.

All others are refused with some of the names.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_sdxl import TINY_UNET, make_sdxl

from core.errors import StudioError
from core.models.checkpoints import load_checkpoint
from core.models.devices import pick_device
from core.workshop.workshop import Workshop

PLAIN = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory) -> Path:
    return make_sdxl(tmp_path_factory.mktemp("xl") / "tiny-sdxl")


@pytest.fixture
def dit_copy(model_folder, tmp_path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "dit"))


@pytest.fixture
def sdxl_copy(sdxl, tmp_path) -> Path:
    return Path(shutil.copytree(sdxl, tmp_path / "xl"))


def file_of(part: Path) -> Path:
    return next(part.glob("*.safetensors"))


def changed(part: Path, change) -> None:
    path = file_of(part)
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def said(folder: Path) -> str:
    with pytest.raises(StudioError) as caught:
        load_checkpoint(folder, "cpu")
    text = str(caught.value)
    assert "\n" not in text and "could not be loaded" not in text
    return text


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def sharded(part: Path, variant: str | None = None, cuts: int = 2) -> tuple[Path, list[Path]]:
    """Cut a part's one file into shards with an index.

    Named as diffusers and transformers name them.
    """
    one = file_of(part)
    base, weights = one.name.split(".")[0], load_file(one)
    one.unlink()
    middle = "" if variant is None else f".{variant}"
    names, files, places = sorted(weights), [], {}
    for i in range(cuts):
        path = part / f"{base}{middle}-{i + 1:05d}-of-{cuts:05d}.safetensors"
        save_file({k: weights[k] for k in names[i::cuts]}, path, metadata={"format": "pt"})
        places |= dict.fromkeys(names[i::cuts], path.name)
        files.append(path)
    index = part / f"{base}.safetensors.index{middle}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index, files


# ------------------------------------------------------------ weights and configuration


PARTS = [
    ("dit", "transformer"),
    ("dit", "vae"),
    *(("sdxl", part) for part in ("unet", "vae", "text_encoder", "text_encoder_2")),
]


@pytest.fixture
def part(request, dit_copy, sdxl_copy) -> Path:
    kind, name = request.param
    return (dit_copy if kind == "dit" else sdxl_copy) / name


@pytest.mark.parametrize("part", PARTS, indirect=True, ids=lambda p: "-".join(p))
def test_weights_that_do_not_fit_are_refused_with_their_names(part):
    good, name = load_file(file_of(part)), part.name
    last = sorted(k for k, v in good.items() if v.ndim >= 2)[-1]
    for prefix in ("module.", "_orig_mod."):
        changed(part, lambda _, prefix=prefix: {prefix + k: v for k, v in good.items()})
        assert (
            f"weights in {name}/ have names that begin with '{prefix}'"
            in (text := said(part.parent))
            and prefix + min(good) in text
        )
    changed(part, lambda _: {k: v for k, v in good.items() if k != last})
    assert f"weights in {name}/ lack 1 that config.json asks for ({last})" in said(part.parent)
    changed(part, lambda _: good | {"one.more.weight": torch.zeros(3)})
    assert f"weights in {name}/ hold 1 that config.json has no place for (one.more.weight)" in said(
        part.parent
    )
    changed(part, lambda _: good | {last: good[last][:-1].contiguous()})
    rows, rest = len(good[last]), "".join(f" x {n}" for n in good[last].shape[1:])
    assert f"1 weight in {name}/ has another shape" in (text := said(part.parent))
    assert f"{last} {rows - 1}{rest} for {rows}{rest}" in text
    changed(part, lambda _: {})
    assert "holds no weights" in said(part.parent)
    changed(part, lambda _: good)
    load_checkpoint(part.parent, "cpu")


@pytest.mark.parametrize("layers", [1, 3])
def test_blocks_are_neither_dropped_nor_made_up(dit_copy, layers):
    config = dit_copy / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_layers": layers}))
    assert f"transformer_blocks.{1 if layers == 1 else 2}." in said(dit_copy)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a pointer of Git LFS",
        ),
        (b"x" * 50, "cannot be read"),
    ],
)
@pytest.mark.parametrize("name", ["transformer", "vae"])
def test_files_that_are_no_weights_say_what_they_are(dit_copy, name, content, why):
    (dit_copy / name / PLAIN).write_bytes(content)
    assert why in (text := said(dit_copy)) and f"{PLAIN} in {name}/" in text


def test_what_text_encoders_ship_beside_their_weights_is_let_pass(sdxl_copy, sdxl):
    """Known surplus weights of text encoders are accepted.

    The positions that SDXL's own files count up, and the projection that a text model without one
    has from its maker.
    """
    changed(
        sdxl_copy / "text_encoder",
        lambda s: (
            s
            | {
                "text_model.embeddings.position_ids": torch.arange(77)[None],
                "logit_scale": torch.tensor(1.0),
            }
        ),
    )
    found, plain = load_checkpoint(sdxl_copy, "cpu").pipeline, load_checkpoint(sdxl, "cpu").pipeline
    assert same(found.text_encoder, plain.text_encoder) and same(found.unet, plain.unet)


def test_an_older_vaes_names_of_attention_are_understood(sdxl_copy):
    """Names such as "query", as VAEs of 2022 have them, are not taken for surplus."""
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        norm_num_groups=8,
        layers_per_block=1,
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    vae.save_pretrained(sdxl_copy / "vae")
    older = {
        ".to_q.": ".query.",
        ".to_k.": ".key.",
        ".to_v.": ".value.",
        ".to_out.0.": ".proj_attn.",
    }

    def rename(state):
        for new, old in older.items():
            state = {k.replace(new, old): v for k, v in state.items()}
        return state

    changed(sdxl_copy / "vae", rename)
    assert any(".query." in k for k in load_file(file_of(sdxl_copy / "vae")))
    assert same(load_checkpoint(sdxl_copy, "cpu").pipeline.vae, vae)


# ------------------------------------------------------------ shards


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize(
    "part",
    [("dit", "transformer"), ("sdxl", "unet"), ("sdxl", "text_encoder_2")],
    indirect=True,
    ids=lambda p: "-".join(p),
)
def test_shards_are_opened_whole_or_refused(part, variant):
    good = load_file(file_of(part))
    index, files = sharded(part, variant)
    found = getattr(load_checkpoint(part.parent, "cpu").pipeline, part.name).state_dict()
    assert all(torch.equal(found[k], v) for k, v in good.items())
    kept, second = files[1].read_bytes(), load_file(files[1])

    files[1].unlink()
    assert f"{part.name}/ lacks 1 file of the 2 that {index.name} names ({files[1].name})" in said(
        part.parent
    )
    some = dict(list(second.items())[1:])
    save_file(some, files[1], metadata={"format": "pt"})
    assert "do not agree on 1 weights" in said(part.parent)
    save_file(second | {"more": torch.zeros(1)}, files[1], metadata={"format": "pt"})
    assert f"{files[1].name} holds more" in said(part.parent)
    files[1].write_bytes(b"")
    assert "it is empty" in said(part.parent)
    files[1].write_bytes(kept)

    left = files[0].with_name(files[0].name.replace("00001-of-00002", "00003-of-00003"))
    left.write_bytes(kept)
    assert f"1 file of weights that {index.name} does not name ({left.name})" in said(part.parent)
    left.unlink()
    whole = index.read_text()
    for text in ("{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../b"}}'):
        index.write_text(text)
        assert "cannot be read as an index" in said(part.parent)
    index.unlink()
    assert "the index that names them" in said(part.parent)
    index.write_text(whole)
    load_checkpoint(part.parent, "cpu")


# ------------------------------------------------------------ variants


def renamed(part: Path, variant: str) -> None:
    path = file_of(part)
    path.rename(path.with_suffix(f".{variant}.safetensors"))


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema", "fp32"])
def test_folders_of_one_variant_are_opened(model_folder, dit_copy, variant):
    for name in ("transformer", "vae"):
        renamed(dit_copy / name, variant)
    found, plain = (
        load_checkpoint(dit_copy, "cpu").pipeline,
        load_checkpoint(model_folder, "cpu").pipeline,
    )
    assert same(found.transformer, plain.transformer) and same(found.vae, plain.vae)


@pytest.mark.parametrize(
    "which",
    [("unet", "vae", "text_encoder", "text_encoder_2"), ("unet",), ("text_encoder_2", "vae")],
)
def test_parts_with_a_variant_stand_beside_parts_without(sdxl, sdxl_copy, which):
    for name in which:
        renamed(sdxl_copy / name, "fp16")
    found, plain = load_checkpoint(sdxl_copy, "cpu").pipeline, load_checkpoint(sdxl, "cpu").pipeline
    assert all(
        same(getattr(found, name), getattr(plain, name))
        for name in ("unet", "vae", "text_encoder", "text_encoder_2")
    )


def test_of_several_variants_the_plain_name_then_the_finest_is_taken(dit_copy):
    part = dit_copy / "transformer"
    good = load_file(part / PLAIN)
    for variant, scale in (("fp16", 2), ("fp32", 3), ("non_ema", 4)):
        save_file(
            {k: v * scale for k, v in good.items()},
            part / f"diffusion_pytorch_model.{variant}.safetensors",
            metadata={"format": "pt"},
        )
    name = next(iter(good))

    def opened() -> float:
        return (
            (
                load_checkpoint(dit_copy, "cpu", dtype="float32").denoiser.state_dict()[name]
                / good[name]
            )
            .mean()
            .item()
        )

    assert opened() == pytest.approx(1)
    (part / PLAIN).unlink()
    assert opened() == pytest.approx(3)
    (part / "diffusion_pytorch_model.fp32.safetensors").unlink()
    assert opened() == pytest.approx(2)
    (part / "diffusion_pytorch_model.fp16.safetensors").rename(
        part / "diffusion_pytorch_model.mine.safetensors"
    )
    assert "weights of 2 variants (mine, non_ema)" in said(dit_copy)


def test_weights_of_another_name_are_named(dit_copy):
    path = dit_copy / "transformer" / PLAIN
    path.rename(path.with_name("my weights.safetensors"))
    assert (
        "my weights.safetensors instead): rename the file to diffusion_pytorch_model.safetensors"
        in said(dit_copy)
    )


# ------------------------------------------------------------ configurations and devices


@pytest.mark.parametrize("size", [[8, 8], [8, 12], 8.0, "8", None, True, 0])
def test_a_size_that_is_not_one_whole_number_is_refused(dit_copy, sdxl_copy, size):
    for part in (dit_copy / "transformer", sdxl_copy / "unet"):
        config = part / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": size}))
        assert f"sample_size is {json.dumps(size)}; only one whole number" in said(part.parent)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"dual_cross_attention": True},
            "Down 2.1 has attention of the kind DualTransformer2DModel",
        ),
        (
            {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
            "Mid has attention of the kind Attention",
        ),
        (
            {
                "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
                "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            },
            "Down 2.1 has attention",
        ),
        ({"num_class_embeds": 10}, "num_class_embeds in its config.json"),
        ({"encoder_hid_dim": 32}, "encoder_hid_dim"),
        ({"cross_attention_dim": (64, 64)}, "cross_attention_dim is not one whole number"),
        ({"in_channels": 9}, "takes 9 channels"),
    ],
)
def test_unets_of_another_build_are_refused(sdxl_copy, tmp_path, change, words):
    torch.manual_seed(0)
    UNet2DConditionModel(**TINY_UNET | change).save_pretrained(sdxl_copy / "unet")
    with pytest.raises(StudioError) as caught:
        Workshop(load_checkpoint(sdxl_copy, "cpu"), cache=tmp_path / "cache")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "device",
    [
        "meta",
        "cuda:99",
        "cpu:1",
        "CUDA",
        "gpu",
        "xla",
        "vulkan",
        "privateuseone",
        "",
        " cpu",
        "cuda:-1",
    ],
)
def test_devices_that_cannot_compute_are_refused(device):
    with pytest.raises(StudioError, match="cannot be used here; this machine has"):
        pick_device(device)


def test_the_cpu_by_its_number_is_the_cpu():
    assert pick_device("cpu:0") == torch.device("cpu") == pick_device("cpu")
