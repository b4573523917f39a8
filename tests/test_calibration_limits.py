"""The limits of a calibration: tokens, memory and disk, checked before it starts."""

from __future__ import annotations

import copy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_calibration import TINY, left_over, run
from torch import nn

from core.calibration.data import DataOptions
from core.calibration.measure import GramMeter, calibrate, images_at_once
from core.calibration.packed_gram import unpack
from core.calibration.preflight import calibration_disk
from core.calibration.settings import CalibrationSettings, token_warning
from core.curves.plan import StagePlan
from core.errors import StudioError
from core.memory import free_memory
from core.models.families import SDXL, DiT
from core.models.layers import PrunableLayer
from core.workshop.workshop import Workshop

# ------------------------------------------------------------ tokens


def test_a_warning_says_how_many_more_images():
    assert token_warning(4) is None and token_warning(100) is None
    assert (
        token_warning(1.6)
        == "only 1.6 tokens per column and bin were measured and at least 4 are needed: calibrate"
        " with 2.5 times as many images per bin"
    )
    assert "times as many" in token_warning(0)


def test_a_token_cap_leaves_tokens_out_where_there_are_many(workshop, tmp_path):
    every = replace(TINY, edges=(0, 1000), images=20, held_out=10)
    capped = replace(every, token_cap=4)
    whole, part, again = (
        run(workshop, tmp_path / name, s, batch=8)
        for name, s in (("whole", every), ("part", capped), ("again", capped))
    )
    for i, layer in enumerate(workshop.layers):
        for held_out, tokens, limit in (
            (False, 640, 4 * layer.groups * layer.group_size),
            (True, 320, 2 * layer.groups * layer.group_size),
        ):
            (gram, count), (less, few), (same, _) = (
                bank.gram(i, 0, 1000, held_out) for bank in (whole, part, again)
            )
            assert count == tokens and few == min(tokens, limit)
            assert torch.equal(less, same)  # which ones is a matter of the seed alone
            # the data drawn are the same with and without a cap
            assert torch.equal(less, gram) == (few == count)
            assert (gram - less).diagonal().min() > -1e-4 * gram.diagonal().max()
    # 64 columns of heads, 256 neurons
    assert {part.gram(i, 0, 1000)[1] for i in range(len(workshop.layers))} == {256, 640}


def test_a_cap_takes_each_token_at_most_once_and_as_many_of_every_batch():
    model = nn.ModuleDict({"to_out": nn.Linear(64, 1)})
    layer = PrunableLayer("heads", 0, "heads", "", "to_out", 8, 8, 1, 1)
    meter = GramMeter(model, [layer])
    for seed in (0, 1):
        meter.begin(16, CalibrationSettings(images=8, token_cap=4), seed)
        with meter, torch.no_grad():
            for k in range(8):  # two rows of 32 tokens, each a unit vector of its own
                model["to_out"](torch.eye(64).view(2, 32, 64))
                assert meter.sums[0].tokens == 32 * (k + 1)
                assert meter.sums[0].vector.max() <= k + 1
        triangle, vector, tokens = meter.results()
        gram = unpack(triangle)
        assert (
            tokens.tolist() == [256]
            and vector.sum() == 256
            and vector.max() <= 8
            and vector.min() < vector.max()
        )
        assert torch.equal(gram, torch.diag(vector.double()))


def test_a_cap_below_what_is_needed_is_refused():
    with pytest.raises(StudioError, match="choose 4 or more, or none"):
        CalibrationSettings(token_cap=3)


def test_guidance_that_weighs_is_the_familys_own_and_no_wish_for_other_latents(workshop, tmp_path):
    weighed = replace(TINY, weighting="guidance")
    assert (
        Workshop(workshop.checkpoint, weighed, tmp_path).settings.guidance == DiT.guidance == 1.5
        and SDXL.guidance == 5
    )
    asked = Workshop(
        workshop.checkpoint, replace(weighed, guidance=4.0), tmp_path, DataOptions(guidance=4.0)
    )
    assert asked.source.identity == workshop.source.identity and asked.settings.guidance == 4
    with pytest.raises(StudioError, match="ships calibration latents"):
        Workshop(workshop.checkpoint, TINY, tmp_path, DataOptions(guidance=4.0))


def test_the_text_says_the_numbers_there_are(workshop, tmp_path):
    shop = Workshop(
        workshop.checkpoint,
        replace(TINY, images=5, held_out=2, weighting="guidance", guidance=3.0),
        tmp_path,
    )
    assert shop.calibration_warnings == []
    shop.calibrate()
    # the widest layer has 256 columns: 5 images x 2 x 16 tokens are 0.6 each
    text = shop.calibration_text
    assert text.startswith(
        "7 images in each of 3 timestep bins (2 of them held out), rows weighed by guidance 3, at"
        " least 0.6 tokens per column and bin"
    )
    assert (
        shop.calibration_warnings == [token_warning(160 / 256)]
        and "(only 0.6 tokens per column and bin were measured" in text
    )
    assert (
        "weighed" not in workshop.calibration_text
        and "at least 4.0 tokens" in workshop.calibration_text
    )
    gate = Workshop(workshop.checkpoint, replace(TINY, weighting="gate", images=60), tmp_path)
    gate.calibrate()
    assert (
        "(2 of them held out), rows weighed by gate, at least 7.5 tokens" in gate.calibration_text
    )


# ------------------------------------------------------------ other schedules


def test_edges_follow_the_length_of_the_schedule():
    edges = CalibrationSettings().edges
    assert CalibrationSettings().on(1000) == CalibrationSettings()
    assert (
        CalibrationSettings().on(4000).edges == tuple(4 * e for e in edges)
        and CalibrationSettings().on(4000).on(1000) == CalibrationSettings()
    )
    assert CalibrationSettings().on(8).edges == tuple(range(9))  # those that fall together are one


@pytest.mark.parametrize("timesteps", [500, 1500])
def test_a_model_of_another_number_of_timesteps_calibrates_and_is_pruned(
    workshop, tmp_path, timesteps
):
    pipeline = copy.copy(workshop.checkpoint.pipeline)
    pipeline.scheduler = type(pipeline.scheduler).from_config(
        pipeline.scheduler.config, num_train_timesteps=timesteps
    )
    shop = Workshop(
        replace(workshop.checkpoint, pipeline=pipeline),
        replace(TINY, edges=(0, 100, 300, 600, 1000)),
        tmp_path,
    )
    assert (
        shop.settings.edges == tuple(timesteps * e // 1000 for e in (0, 100, 300, 600, 1000))
        and shop.key != workshop.key
    )
    shop.calibrate()
    for b, (low, high) in enumerate(
        zip(shop.settings.edges, shop.settings.edges[1:], strict=False)
    ):
        t = shop.bank.rows(b)["timestep"]
        assert low <= t.min() and t.max() < high
    plan = StagePlan(
        (timesteps // 10, timesteps // 2), (0.5, 0.25, 0.5), num_train_timesteps=timesteps
    )
    assert 0 < shop.predict(plan, [timesteps - 1.0, 0.0], exact=True).error < 1 and shop.build(
        plan
    ).kept(0) != shop.build(plan).kept(1)
    assert shop.snap(plan).boundaries == (timesteps // 10, timesteps * 6 // 10)


def test_bins_beyond_the_schedule_are_refused(workshop, tmp_path):
    with pytest.raises(StudioError, match="end at timestep 1200 and the model has 1000"):
        run(workshop, tmp_path / "a", replace(TINY, edges=(0, 500, 1200)))
    assert not (tmp_path / "a").exists()


def test_two_bins_leave_boundaries_where_they_are(workshop, tmp_path):
    plan = StagePlan((93, 550), (0.1, 0.2, 0.3))
    assert (
        Workshop(workshop.checkpoint, replace(TINY, edges=(0, 500, 1000)), tmp_path).snap(plan)
        == plan
    )


# ------------------------------------------------------------ memory and disk


def test_images_at_once_keep_the_widest_input_within_a_chunk(workshop):
    assert images_at_once(workshop.layers, 16) == 64
    wide = [replace(workshop.layers[1], groups=4608)]
    assert images_at_once(wide, 256) == 6  # 2 x 256 x 4608 x 4 bytes are 9.4 MB
    assert images_at_once(wide, 10**6) == 1


def test_a_disk_too_full_to_start(workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=400_000))
    with pytest.raises(StudioError, match="0 MB are free: make room or set MOSAIC_CACHE"):
        run(workshop, tmp_path / "key")
    assert left_over(tmp_path) == []


def test_too_little_memory_is_said_before_anything_is_made(workshop, tmp_path):
    wide = [replace(workshop.layers[1], groups=10**7)]
    with pytest.raises(
        StudioError,
        match=(
            "Calibration needs .* GB of memory beside the model .* close other programs or choose"
            " another device"
        ),
    ):
        calibrate(
            workshop.transformer,
            wide,
            workshop.schedule,
            workshop.latents,
            workshop.labels,
            tmp_path / "a",
            TINY,
        )
    assert not (tmp_path / "a").exists()


CPU = torch.device("cpu")
V2, V1 = Path("sys/fs/cgroup"), Path("sys/fs/cgroup/memory")


def machine(root: Path, available: int | None = 8_000_000_000, **files: str) -> Path:
    """Write a /proc and a /sys with these numbers.

    `v2_memory_max="1"` is the file memory.max of version 2.
    """
    if available is not None:
        (root / "proc").mkdir()
        (root / "proc" / "meminfo").write_text(
            f"MemTotal:       16000000 kB\nMemAvailable:   {available // 1024} kB\nHugePages_Total:"
            "       0\n"
        )
    for name, text in files.items():
        version, _, rest = name.partition("_")
        path = root / (V2 if version == "v2" else V1) / rest.replace("memory_", "memory.", 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 8_000_000_000),
        (dict(v2_memory_max="max\n", v2_memory_current="5000\n"), 8_000_000_000),
        (
            dict(
                v1_memory_limit_in_bytes="9223372036854771712\n", v1_memory_usage_in_bytes="5000\n"
            ),
            8_000_000_000,
        ),
        (dict(v2_memory_max="3000000000\n", v2_memory_current="1000000000\n"), 2_000_000_000),
        (
            dict(
                v2_memory_max="3000000000\n",
                v2_memory_current="1000000000\n",
                v2_memory_stat="anon 5\ninactive_file 400000000\nactive_file 9\n",
            ),
            2_400_000_000,
        ),
        (
            dict(
                v2_memory_max="3000000000\n",
                v2_memory_current="1000\n",
                v2_memory_stat="inactive_file 2000\n",
            ),
            3_000_000_000,
        ),
        (dict(v2_memory_max="3000\n", v2_memory_current="4000\n"), 0),
        (dict(v2_memory_max="20000000000\n", v2_memory_current="0\n"), 8_000_000_000),
        (
            dict(
                v1_memory_limit_in_bytes="3000000000\n",
                v1_memory_usage_in_bytes="1000000000\n",
                v1_memory_stat="inactive_file 7\ntotal_inactive_file 100\n",
            ),
            2_000_000_100,
        ),
        (
            dict(
                v2_memory_max="4000\n",
                v2_memory_current="1000\n",
                v1_memory_limit_in_bytes="3500\n",
                v1_memory_usage_in_bytes="1000\n",
            ),
            2500,
        ),
        (dict(v2_memory_max="3000\n"), 8_000_000_000),  # a limit without a use says nothing
    ],
)
def test_free_memory_is_the_least_of_what_machine_and_container_leave(tmp_path, files, free):
    assert free_memory(CPU, machine(tmp_path, **files)) == free


def test_free_memory_where_the_system_says_little(tmp_path):
    assert free_memory(CPU, tmp_path) is None
    assert (
        free_memory(CPU, machine(tmp_path, None, v2_memory_max="3000", v2_memory_current="1000"))
        == 2000
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_free_memory_of_this_machine():
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemTotal:"))
    assert 0 < free_memory(CPU) < total


def test_what_it_takes_is_said_at_the_start(workshop, tmp_path):
    seen = []
    bank = run(workshop, tmp_path / "key", progress=lambda *a: seen.append(a[2]))
    need = calibration_disk(workshop.layers, TINY)
    assert f"will write {need / 1e6:.0f} MB to {tmp_path / 'key'}" in seen[0]
    written = sum(bank.path(b).stat().st_size for b in range(TINY.bins))
    assert written <= need < 1.1 * written


def test_with_no_memory_to_spare_half_a_bin_is_on_the_disk_before_the_other_begins(
    workshop, tmp_path
):
    sizes = []

    def progress(done: int, total: int, text: str) -> None:
        sizes.extend(part.stat().st_size for part in tmp_path.glob("*.part"))

    run(workshop, tmp_path, progress=progress, settings=replace(TINY, edges=(0, 1000)), ahead=0)
    triangles = sum(
        4 * n * (n + 1) // 2 for n in (layer.groups * layer.group_size for layer in workshop.layers)
    )
    assert len(sizes) == 1 and triangles < sizes[0] < 1.1 * triangles
