"""The model's own samples as calibration data: exact and resumable, for both families.

Held against shipped latents too.
"""

from __future__ import annotations

import copy
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from safetensors.torch import load_file
from test_calibration_data import OWN, PLAN, TINY, paint
from tiny_sdxl import make_sdxl

from core.bench.sources import calibration_sources
from core.calibration.data import DataOptions, kept_in_parts
from core.calibration.preflight import calibration_disk, calibration_memory
from core.curves.plan import StagePlan
from core.errors import Stopped, StudioError
from core.models.families import SDXL, DiT, leaves
from core.models.prompts import PROMPTS
from core.sampling.denoise import Denoiser, decode, start_noise
from core.sampling.own_samples import classes_in_turn, sample
from core.workshop.workshop import Workshop


@pytest.fixture(scope="module")
def bare(workshop):
    """Return the tiny DiT as a hub model comes: nothing but the checkpoint."""
    return replace(workshop.checkpoint, latents=None, labels=None)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    from core.models.checkpoints import load_checkpoint

    return load_checkpoint(
        make_sdxl(tmp_path_factory.mktemp("sdxl-data") / "tiny-sdxl"), dtype=torch.float32
    )


class StopAfter(threading.Event):
    """An event that sets itself at its n-th look."""

    def __init__(self, looks: int):
        super().__init__()
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def counted(workshop) -> list[int]:
    """Rows of every denoiser forward from now on."""
    rows: list[int] = []
    # a twin of the tiny model's own, so nobody else's rows are seen
    block = workshop.dense.full.transformer_blocks[0]
    block.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    return rows


# ------------------------------------------------------------ own samples


def own(shop, n: int, folder: Path, size: int = 4, **more) -> torch.Tensor:
    return sample(
        shop,
        DiT.conditions(classes_in_turn(list(range(10)), n, 0)),
        3,
        1.5,
        7,
        size,
        folder,
        **more,
    )


def test_samples_are_those_of_the_model_s_own_sampler(bare, tmp_path):
    shop = Workshop(bare, TINY, tmp_path, OWN)
    found = own(shop, 8, tmp_path / "a")
    labels = classes_in_turn(list(range(10)), 8, 0)
    second = Denoiser(shop.dense, bare.pipeline.scheduler, shop.schedule, 3).run(
        start_noise(4, (4, 8, 8), 700_022), DiT.conditions(labels[4:]), 1.5
    )[0]
    assert torch.equal(found[4:], second)
    assert found.shape == (8, 4, 8, 8) and len(found.flatten(1).unique(dim=0)) == 8


def test_classes_come_in_turn():
    found = classes_in_turn([3, 5, 8], 7, 0)
    assert set(found[:3].tolist()) == set(found[3:6].tolist()) == {3, 5, 8}
    assert torch.equal(found, classes_in_turn([3, 5, 8], 9, 0)[:7])
    assert classes_in_turn(list(range(1000)), 20, 0).tolist() != list(range(20))


@pytest.mark.parametrize("looks", [1, 5, 8])
def test_a_stopped_run_goes_on_and_gives_the_same(bare, tmp_path, looks):
    """A look before every batch of 4 and after each of its 3 steps."""
    shop = Workshop(bare, TINY, tmp_path, OWN)
    whole = own(shop, 10, tmp_path / "whole")
    had = (looks // 4) * 4
    with pytest.raises(Stopped, match=f"Stopped: {had} of 10 calibration latents are kept"):
        own(shop, 10, tmp_path / "cut", stop=StopAfter(looks))
    rows, seen = counted(shop), []
    assert torch.equal(own(shop, 10, tmp_path / "cut", progress=lambda *a: seen.append(a)), whole)
    # no row twice, and the number was said up front
    assert sum(rows) == (10 - had) * 3 * 2 == seen[0][1] == seen[-1][0]
    assert (
        f"{10 - had} latents to calibrate on: 3 steps each, {sum(rows):,} denoiser rows"
        in seen[0][2]
        and seen[0][0] == 0
    )
    del rows[:]
    assert torch.equal(own(shop, 10, tmp_path / "cut"), whole) and not rows


def test_a_damaged_part_is_made_again_and_a_larger_count_goes_on(bare, tmp_path):
    shop = Workshop(bare, TINY, tmp_path, OWN)
    whole = own(shop, 12, tmp_path / "a")
    middle = tmp_path / "a" / "latents-00001.safetensors"
    middle.write_bytes(middle.read_bytes()[:500])
    assert torch.equal(own(shop, 12, tmp_path / "a"), whole)
    assert torch.equal(own(shop, 8, tmp_path / "b"), whole[:8])
    rows = counted(shop)
    assert torch.equal(own(shop, 12, tmp_path / "b"), whole) and sum(rows) == 4 * 3 * 2
    assert torch.equal(own(shop, 10, tmp_path / "b"), whole[:10])


def test_without_guidance_half_the_rows(bare, tmp_path):
    shop = Workshop(bare, TINY, tmp_path, OWN)
    rows = counted(shop)
    sample(shop, DiT.conditions(torch.arange(8)), 3, 1.0, 0, 4, tmp_path / "a")
    assert sum(rows) == 8 * 3


def test_what_is_not_finite_is_not_kept(tmp_path):
    with pytest.raises(StudioError, match="NaN or infinity"):
        kept_in_parts(
            tmp_path / "a",
            4,
            2,
            (1, 2, 2),
            lambda first, last: torch.full((last - first, 1, 2, 2), float("nan")),
        )
    assert not (tmp_path / "a").exists()


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StudioError, match="set MOSAIC_CACHE to a folder that can be written"):
        kept_in_parts(
            tmp_path / "file" / "a",
            4,
            2,
            (1, 2, 2),
            lambda first, last: torch.zeros(last - first, 1, 2, 2),
        )


def test_a_model_without_latents_calibrates_on_itself(bare, tmp_path):
    shop = Workshop(bare, TINY, tmp_path, replace(OWN, self_calibrate=False))
    seen: list[str] = []
    shop.calibrate(lambda done, total, text: seen.append(text))
    assert shop.calibrated and seen[1].startswith(
        "sampling 8 latents to calibrate on: 2 steps each, 32 denoiser rows"
    )
    assert (
        "from 8 of the model's own samples (2 steps each, guidance 1.5) (only 8 different latents"
        in shop.calibration_text
    )
    assert shop.build(PLAN).kept(0) != shop.build(PLAN).kept(1)
    few = Workshop(
        bare,
        replace(TINY, images=3, held_out=1),
        tmp_path,
        DataOptions(self_calibrate=True, steps=2),
    )
    assert len(few.data()) == 8  # never fewer, however few a bin takes
    fresh = Workshop(bare, TINY, tmp_path, OWN)
    assert fresh.calibrated and torch.equal(fresh.data().latents, shop.data().latents)


@pytest.mark.parametrize("source", ["own samples", "pictures"])
def test_room_is_checked_and_said_before_anything_is_made(bare, tmp_path, monkeypatch, source):
    options = OWN if source == "own samples" else DataOptions(images=str(paint(tmp_path / "p", 8)))
    shop, seen = Workshop(bare, TINY, tmp_path / "cache", options), []
    need = calibration_disk(shop.layers, TINY) + 8 * 4 * 4 * 8 * 8  # eight fp32 latents

    def record(done: int, total: int, text: str) -> None:
        seen.append(text)

    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=need + 50_000_000 - 1))
    with pytest.raises(StudioError, match="make room or set MOSAIC_CACHE"):
        shop.calibrate(record)
    monkeypatch.setattr(shutil, "disk_usage", real)
    monkeypatch.setattr("core.calibration.preflight.free_memory", lambda _: 1000)
    with pytest.raises(StudioError, match="close other programs or choose another device"):
        shop.calibrate(record)
    assert not seen and not list((tmp_path / "cache").rglob("latents-*.safetensors"))
    monkeypatch.undo()
    shop.calibrate(record)
    memory = calibration_memory(shop.layers) / 1e6
    assert (
        seen[0]
        == f"calibration will write {need / 1e6:.0f} MB to {shop.folder} and needs {memory:.0f} MB"
        " of memory"
    )
    made = sum(
        len(load_file(p)["latents"]) for p in (tmp_path / "cache").glob("latents-*/*.safetensors")
    )
    assert made == 8 and not any(
        "will write" in text and "measuring" not in text for text in seen[1:]
    )


def test_a_weighting_that_cannot_be_is_refused_before_anything_is_made(sdxl, tmp_path):
    with pytest.raises(StudioError, match="Only a DiT's blocks have gates"):
        Workshop(sdxl, replace(TINY, weighting="gate"), tmp_path, DataOptions(count=8, steps=2))


# ------------------------------------------------------------ SDXL


def test_prompts_are_read_once_each_with_the_unconditional_rows_beside(sdxl):
    prompts = [*PROMPTS[:9], PROMPTS[2], PROMPTS[8]]
    found, ids = SDXL.source_conditions(sdxl.pipeline, prompts)
    straight = SDXL.conditions(sdxl.pipeline, prompts)
    assert ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 2, 8] and len(found) == 11
    rows = torch.tensor([10, 3])
    pairs = [
        leaves(c.rows(rows).pair(torch.device("cpu"), torch.float32)) for c in (found, straight)
    ]
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(*pairs, strict=True)) and [
        len(x) for x in pairs[0]
    ] == [4, 4, 4]


def test_calibrations_with_another_unconditional_row_are_not_mixed_up(sdxl, tmp_path):
    """Zeros or the empty prompt: other rows, other own samples, so another key."""
    pipeline = copy.copy(sdxl.pipeline)
    pipeline._internal_dict = FrozenDict(
        sdxl.pipeline.config | {"force_zeros_for_empty_prompt": False}
    )
    shops = [
        Workshop(replace(sdxl, pipeline=p), TINY, tmp_path, DataOptions(count=8, steps=1))
        for p in (sdxl.pipeline, pipeline)
    ]
    assert len({shop.key for shop in shops}) == 2
    zeros, empty = (shop.data() for shop in shops)
    assert not any(leaf.any() for leaf in leaves(zeros.conditions.negative)[:2])
    assert all(leaf.any() for leaf in leaves(empty.conditions.negative)[:2])
    assert (
        not torch.equal(zeros.latents, empty.latents) and len(list(tmp_path.glob("latents-*"))) == 2
    )


def test_sdxl_from_the_checkpoint_alone(sdxl, tmp_path):
    """Own samples of the built-in prompts, calibration, subnetworks, and a picture from them."""
    shop = Workshop(sdxl, TINY, tmp_path, DataOptions(count=8, steps=2))
    assert "8 of the model's own samples (2 steps each, guidance 5)" in shop.source.text
    seen: list[str] = []
    shop.calibrate(lambda done, total, text: seen.append(text))
    assert seen[1] == "reading 8 prompts with the model's own text encoders"
    assert seen[2].startswith("sampling 8 latents to calibrate on: 2 steps each, 32 denoiser rows")
    found = shop.data()
    assert found.latents.shape == (8, 4, 16, 16) and found.ids[:8].tolist() == list(range(8))
    assert found.conditions.positive["encoder_hidden_states"].shape == (8, 77, 64)
    mosaic = shop.build(PLAN)
    assert mosaic.kept(0) != mosaic.kept(1)
    low, high = (
        shop.exact_error(PLAN, 1)[0],
        shop.exact_error(StagePlan((100, 600), (0.5, 0.75, 0.5)), 1)[0],
    )
    assert 0 < low < high < 1
    noise, conditions = start_noise(2, shop.latent_shape, 0), shop.some_conditions(2)
    latents, dense = (
        Denoiser(m, sdxl.pipeline.scheduler, shop.schedule, 3).run(noise, conditions, 5.0)[0]
        for m in (mosaic, shop.dense)
    )
    assert (
        latents.isfinite().all()
        and not torch.equal(latents, dense)
        and decode(shop.vae, latents).shape == (2, 3, 32, 32)
    )


def test_sdxl_from_captioned_pictures(sdxl, tmp_path):
    folder = tmp_path / "p"
    for i in range(8):
        paint(folder / f"{i}", 1, (40, 32), "RGB")
        (folder / f"{i}" / "0" / "000.txt").write_text(f"picture {i % 3}")
    shop = Workshop(sdxl, TINY, tmp_path / "cache", DataOptions(images=str(folder)))
    found = shop.data()
    assert found.latents.shape == (8, 4, 16, 16) and found.ids[:8].tolist() == [
        0,
        1,
        2,
        0,
        1,
        2,
        0,
        1,
    ]
    shop.calibrate()
    assert shop.calibrated


def test_sdxl_is_not_told_classes(sdxl, tmp_path):
    with pytest.raises(StudioError, match="is labelled 0; this model is asked in words"):
        Workshop(sdxl, TINY, tmp_path, DataOptions(images=str(paint(tmp_path / "p", 8))))


# ------------------------------------------------------------ the comparison of sources


def test_sources_are_held_against_each_other(workshop, tmp_path):
    shop = Workshop(workshop.checkpoint, TINY, tmp_path)
    found = calibration_sources(
        shop, PLAN, n=4, steps=2, seed=0, options=DataOptions(count=None, steps=2)
    )
    names = {"real", "real, another seed", "own samples"}
    assert found["sources"].keys() == names | {"dense"} and found["error"].keys() == names
    for name in names:
        row = found["sources"][name]
        assert row["latent_mse"] > 0 and row["fid"] is None and found["error"][name].keys() == names
    own_shop = Workshop(
        workshop.checkpoint, TINY, tmp_path, DataOptions(self_calibrate=True, steps=2)
    )
    for of, name in ((shop, "real"), (own_shop, "own samples")):
        assert of.calibrated
        for stage, value in enumerate(found["error"][name][name].values()):
            # held out of its own kind
            assert value == pytest.approx(of.exact_error(PLAN, stage)[1], rel=1e-3)
    assert found["error"]["real"]["own samples"] != found["error"]["own samples"]["own samples"]
