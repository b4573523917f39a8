"""Calibration latents from shipped files, pictures and own samples.

Exact values, resuming, refusals, and both model families end to end.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.calibration.data import CalibrationData, DataOptions, draw_latents, repeated
from core.calibration.picture_latents import encode
from core.calibration.settings import CalibrationSettings
from core.curves.plan import StagePlan
from core.errors import StudioError
from core.models.families import DiT
from core.sampling.denoise import decode
from core.workshop.workshop import Workshop

TINY = CalibrationSettings(edges=(0, 500, 1000), images=9, held_out=3)
PLAN = StagePlan((100, 600), (0.5, 0.25, 0.5))
OWN = DataOptions(self_calibrate=True, count=8, steps=2)


@pytest.fixture(scope="module")
def bare(workshop):
    """Return the tiny DiT as a hub model comes: nothing but the checkpoint."""
    return replace(workshop.checkpoint, latents=None, labels=None)


def paint(folder: Path, n: int, size: tuple[int, int] = (32, 32), mode: str = "L") -> Path:
    """n random pictures in sub-folders by class, 0 to 9 in turn."""
    random = np.random.default_rng(0)
    for i in range(n):
        (folder / str(i % 10)).mkdir(parents=True, exist_ok=True)
        values = random.integers(0, 256, (*size, 3) if mode == "RGB" else size, dtype=np.uint8)
        Image.fromarray(values).save(folder / str(i % 10) / f"{i:03d}.png")
    return folder


# ------------------------------------------------------------ options and choice


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (dict(images=".", self_calibrate=True), "not both"),
        (dict(images="no/such/folder"), "is not a folder"),
        (dict(count=7), "between 8 and 100000, not 7"),
        (dict(steps=0), "between 1 and 1000, not 0"),
        (dict(guidance=float("nan")), "from 0 to 20"),
        (dict(guidance=21.0), "from 0 to 20"),
    ],
)
def test_impossible_wishes(given, match):
    with pytest.raises(StudioError, match=match):
        DataOptions(**given)


def test_shipped_latents_come_first_and_a_wish_goes_before_them(workshop, bare, tmp_path):
    folder = paint(tmp_path / "p", 12)
    for checkpoint, options, text in (
        (workshop.checkpoint, None, "the 300 shipped latents"),
        (workshop.checkpoint, OWN, "8 of the model's own samples (2 steps each, guidance 1.5)"),
        (workshop.checkpoint, DataOptions(images=str(folder)), "12 pictures"),
        (bare, None, "12 of the model's own samples (20 steps each, guidance 1.5)"),
    ):
        assert text in Workshop(checkpoint, TINY, tmp_path, options).source.text
    with pytest.raises(StudioError, match="ask for its own samples or give pictures to use others"):
        Workshop(workshop.checkpoint, TINY, tmp_path, DataOptions(count=50))
    data = Workshop(workshop.checkpoint, TINY, tmp_path).data()
    assert torch.equal(data.latents, workshop.latents) and torch.equal(
        data.conditions.positive["class_labels"], workshop.labels
    )


def test_the_key_is_known_before_the_samples_and_covers_all_they_depend_on(
    bare, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "core.sampling.denoise.Denoiser.run", lambda *_: pytest.fail("sampled for a key")
    )

    def key(checkpoint=bare, **options) -> str:
        return Workshop(checkpoint, TINY, tmp_path, replace(OWN, **options)).key

    other = copy.deepcopy(bare.pipeline)
    other.transformer.proj_out_2.weight.data[0, 0] += 1
    spaced = copy.copy(bare.pipeline)
    spaced.scheduler = type(bare.pipeline.scheduler).from_config(
        bare.pipeline.scheduler.config, timestep_spacing="trailing"
    )
    keys = [
        key(),
        key(steps=3),
        key(guidance=2.0),
        key(seed=1),
        key(count=9),
        key(replace(bare, pipeline=other)),
        key(replace(bare, pipeline=spaced)),
    ]
    assert len(set(keys)) == len(keys) and key() == keys[0]


def test_the_key_covers_pictures_and_labels(bare, tmp_path):
    folder = paint(tmp_path / "p", 12)

    def key(checkpoint=bare) -> str:
        return Workshop(checkpoint, TINY, tmp_path, DataOptions(images=str(folder))).key

    first = key()
    assert key() == first
    (folder / "0" / "000.png").rename(folder / "1" / "000.png")  # another class
    second = key()
    Image.new("L", (32, 32)).save(folder / "1" / "000.png")
    third = key()
    scaled = copy.deepcopy(bare.pipeline)
    scaled.vae.register_to_config(scaling_factor=0.5)
    assert len({first, second, third, key(replace(bare, pipeline=scaled))}) == 4


# ------------------------------------------------------------ few latents


def data(n: int) -> CalibrationData:
    labels = torch.arange(n) % 10
    return CalibrationData(
        torch.arange(float(n)).view(n, 1, 1, 1).expand(n, 4, 8, 8),
        DiT.conditions(labels),
        labels,
        "a test",
    )


def test_too_few_latents_are_refused():
    with pytest.raises(StudioError, match="needs at least 8 different latents, there are 7"):
        data(7)


def test_repeated_rows_come_in_whole_rounds():
    found = repeated(torch.tensor([3, 5, 9]), 8, torch.Generator().manual_seed(0))
    assert (
        sorted(found[:3].tolist()) == sorted(found[3:6].tolist()) == [3, 5, 9] and len(found) == 8
    )


@pytest.mark.parametrize(("n", "apart"), [(8, 2), (16, 4), (256, 64), (1000, 250)])
def test_what_is_held_out_is_held_out_in_every_bin(n, apart):
    bins = [draw_latents(n, 192, 64, 5, torch.Generator().manual_seed(b)) for b in range(4)]
    fit, held_out = (
        set(torch.cat([b[part] for b in bins]).tolist()) for part in (slice(192), slice(192, None))
    )
    assert not fit & held_out and len(held_out) <= apart and len(fit) <= n - apart
    assert all(len(b) == 256 for b in bins) and not torch.equal(bins[0], bins[1])
    counts = bins[0][:192].bincount(minlength=n)
    assert counts[counts > 0].max() - counts[counts > 0].min() <= 1


def test_few_latents_are_said(bare, tmp_path):
    assert "only 8 different latents" in Workshop(bare, TINY, tmp_path, OWN).source.warning
    assert Workshop(bare, TINY, tmp_path, replace(OWN, count=64)).source.warning is None


# ------------------------------------------------------------ pictures


@pytest.mark.parametrize(
    "scales",
    [
        {},
        {"scaling_factor": 0.13, "shift_factor": 0.5},
        {"scaling_factor": 0.5, "latents_mean": [0.1, -1, 2, 0], "latents_std": [1, 2, 0.5, 3]},
    ],
)
@torch.inference_mode()
def test_encoding_is_the_inverse_of_decoding(bare, scales):
    vae = copy.deepcopy(bare.pipeline.vae)
    vae.register_to_config(**scales)
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    raw = vae.encode(images).latent_dist.mean
    found = encode(vae, images)
    mean, std = (
        torch.tensor(scales.get(k, v)).view(1, -1, 1, 1)
        for k, v in (("latents_mean", [0.0]), ("latents_std", [1.0]))
    )
    by_hand = (raw - scales.get("shift_factor", 0) - mean) / std * scales.get("scaling_factor", 1.0)
    assert torch.allclose(found, by_hand, atol=1e-6)
    assert torch.allclose(decode(vae, found), vae.decode(raw).sample.clamp(-1, 1), atol=1e-4)


@torch.inference_mode()
def test_a_folder_becomes_latents_labels_and_a_calibration(bare, tmp_path):
    folder = paint(tmp_path / "p", 10, (48, 32))
    shop = Workshop(bare, TINY, tmp_path / "cache", DataOptions(images=str(folder)))
    seen: list[str] = []
    shop.calibrate(lambda done, total, text: seen.append(text))
    assert shop.calibrated and "encoding 10 pictures with the model's own VAE" in seen
    assert (
        "from 10 pictures of the given folder (only 10 different latents" in shop.calibration_text
    )
    found = shop.data()
    assert len(found) == 10 and found.latents.dtype == torch.float32
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        values = np.array(Image.open(path))[8:40]  # the centre
        raw = bare.pipeline.vae.encode(
            torch.from_numpy(values)[None, None].float() / 127.5 - 1
        ).latent_dist.mode()
        assert torch.allclose(found.latents[i], raw[0], atol=1e-4) and found.ids[i] == int(
            path.parent.name
        )
    assert shop.build(PLAN).kept(0) != shop.build(PLAN).kept(1)


def test_class_names_of_the_model_are_understood(bare, tmp_path):
    paint(tmp_path / "p", 10)
    lines = [f"{i:03d}.png,Class {9 - i}" for i in range(10)]
    (tmp_path / "p" / "labels.csv").write_text("\n".join(lines))
    shop = Workshop(bare, TINY, tmp_path / "cache", DataOptions(images=str(tmp_path / "p")))
    assert shop.data().ids[:10].tolist() == list(range(9, -1, -1))


def test_pictures_that_cannot_serve_are_refused_at_once(bare, tmp_path):
    with pytest.raises(StudioError, match="at least 8 pictures, the folder holds 5"):
        Workshop(bare, TINY, tmp_path, DataOptions(images=str(paint(tmp_path / "few", 5))))
    paint(tmp_path / "high", 10)
    (tmp_path / "high" / "3").rename(tmp_path / "high" / "1000")  # the null label
    with pytest.raises(
        StudioError, match="class 1000; this model's classes are whole numbers from 0 to 999"
    ):
        Workshop(bare, TINY, tmp_path, DataOptions(images=str(tmp_path / "high")))


def test_an_unreadable_picture_stops_the_encoding_and_leaves_no_part(bare, tmp_path):
    folder = paint(tmp_path / "p", 10)
    (folder / "3" / "003.png").write_bytes(b"not a picture")
    shop = Workshop(bare, TINY, tmp_path / "cache", DataOptions(images=str(folder)))
    with pytest.raises(StudioError, match=r"The picture 3/003\.png cannot be read"):
        shop.calibrate()
    assert not list((tmp_path / "cache").rglob("latents-*.safetensors"))
