"""Calibration: Grams against brute force, resuming, damaged files, full disks.

A calibration leaves no hook and no change behind.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.cache import fingerprint
from core.calibration.bank import GramBank
from core.calibration.data import draw_latents
from core.calibration.measure import NULL_ROW, GramMeter, calibrate
from core.calibration.settings import CalibrationSettings
from core.curves.noise import NoiseSchedule
from core.errors import Stopped, StudioError
from core.models.families import NULL_CLASS, DiT
from core.workshop.workshop import Workshop

TINY = CalibrationSettings(edges=(0, 200, 500, 1000), images=6, held_out=2)


def run(workshop, folder, settings=TINY, latents=None, **more) -> GramBank:
    latents = workshop.latents if latents is None else latents
    conditions = DiT.conditions(workshop.labels)
    return calibrate(
        workshop.transformer,
        workshop.layers,
        workshop.schedule,
        latents,
        conditions,
        folder,
        settings,
        ids=workshop.labels,
        **more,
    )


def everything(bank: GramBank) -> list[torch.Tensor]:
    edges = bank.settings.edges
    return [
        bank.gram(i, *span, held_out=h)[0]
        for i in range(len(bank.layers))
        for span in zip(edges, edges[1:], strict=False)
        for h in (False, True)
    ]


@pytest.fixture(scope="module")
def bank(workshop, tmp_path_factory) -> GramBank:
    return run(workshop, tmp_path_factory.mktemp("bank"))


# ------------------------------------------------------------ the numbers


def test_gram_is_the_sum_of_outer_products_of_the_inputs(workshop, bank):
    """Bin 1 is measured again by hand.

    Noised latents with both labels go through the model, inputs are recorded, x x^T is summed in
    fp64.
    """
    per_bin, low, high = TINY.images + TINY.held_out, 200, 500
    random = torch.Generator().manual_seed(TINY.seed * 10_007 + 1)
    pick = draw_latents(len(workshop.latents), TINY.images, TINY.held_out, TINY.seed, random)
    t = torch.randint(low, high, (per_bin,), generator=random)
    noise = torch.randn(per_bin, 4, 8, 8, generator=random)
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t].view(
        -1, 1, 1, 1
    )
    x = (abar.sqrt() * workshop.latents[pick] + (1 - abar).sqrt() * noise).float()
    for held_out, rows in ((False, slice(0, TINY.images)), (True, slice(TINY.images, per_bin))):
        recorded: dict[int, list] = {i: [] for i in range(len(workshop.layers))}
        handles = [
            workshop.transformer.get_submodule(layer.consumer).register_forward_pre_hook(
                lambda _, args, into=recorded[i]: into.append(args[0].cpu().double())
            )
            for i, layer in enumerate(workshop.layers)
        ]
        try:
            with torch.inference_mode():
                for label in (
                    workshop.labels[pick][rows],
                    torch.full((per_bin,), NULL_CLASS)[rows],
                ):
                    workshop.transformer(
                        x[rows].to(workshop.device),
                        timestep=t[rows].to(workshop.device),
                        class_labels=label.to(workshop.device),
                    )
        finally:
            for handle in handles:
                handle.remove()
        for i in range(len(workshop.layers)):
            tokens = torch.cat([v.flatten(0, -2) for v in recorded[i]])
            gram, count = bank.gram(i, low, high, held_out)
            expected = tokens.T @ tokens
            assert count == len(tokens)
            assert (gram - expected).abs().max() < 1e-4 * expected.abs().max()
            assert torch.allclose(
                bank.mean(i, low, high, held_out),
                tokens.mean(0),
                rtol=1e-4,
                atol=1e-5 * tokens.abs().max().item(),
            )
        facts = bank.rows(1, held_out)
        assert torch.equal(facts["timestep"], torch.cat([t[rows]] * 2).int())
        assert torch.equal(
            facts["label"],
            torch.cat(
                [workshop.labels[pick][rows].int(), torch.full_like(t[rows], NULL_ROW).int()]
            ),
        )


def test_no_latent_is_fitted_in_one_bin_and_held_out_in_another(workshop, tmp_path):
    """A latent is held out in every bin, however many latents there are.

    At neighbouring small timesteps its tokens are nearly the same.
    """
    named = torch.arange(len(workshop.latents))
    arguments = (
        workshop.latents,
        DiT.conditions(workshop.labels),
        tmp_path,
        replace(TINY, edges=tuple(range(0, 1001, 100))),
    )
    bank = calibrate(
        workshop.transformer, workshop.layers, workshop.schedule, *arguments, ids=named
    )
    fit, held_out = (
        {i for b in range(10) for i in bank.rows(b, kind)["label"].tolist()} - {NULL_ROW}
        for kind in (False, True)
    )
    assert len(fit) > 40 and len(held_out) > 10 and not fit & held_out


def test_the_mean_of_a_stretch_weighs_its_bins_by_their_tokens(workshop, bank):
    for i in range(len(workshop.layers)):
        first, second = bank.mean(i, 0, 200), bank.mean(i, 200, 500)
        # as many tokens in each bin
        assert torch.allclose(
            bank.mean(i, 100, 275), (0.5 * first + 0.25 * second) / 0.75, rtol=1e-12
        )


def test_bins_add_up_and_parts_count_in_proportion(workshop, bank):
    for i in range(len(workshop.layers)):
        bins = [bank.gram(i, *span) for span in ((0, 200), (200, 500), (500, 1000))]
        whole, tokens = bank.gram(i, 0, 1000)
        assert torch.allclose(whole, sum(g for g, _ in bins), rtol=1e-12)
        assert tokens == sum(n for _, n in bins) == 3 * 6 * 2 * 16
        part, count = bank.gram(i, 100, 275)  # half of the first bin, a quarter of the second
        assert torch.allclose(part, 0.5 * bins[0][0] + 0.25 * bins[1][0], rtol=1e-12)
        assert count == pytest.approx(0.5 * bins[0][1] + 0.25 * bins[1][1])


def test_overlap(bank):
    assert bank.overlap(0, 1000) == [1, 1, 1]
    assert bank.overlap(50, 650) == [0.75, 1, pytest.approx(0.3)]
    assert bank.overlap(200, 500) == [0, 1, 0]
    with pytest.raises(StudioError, match="No calibration bin"):
        bank.gram(0, 1000, 1200)


def test_batch_size_does_not_matter(workshop, bank, tmp_path):
    other = run(workshop, tmp_path, batch=4)
    for a, b in zip(everything(bank), everything(other), strict=True):
        assert (a - b).abs().max() < 1e-4 * a.abs().max()


def test_fingerprint_sees_every_part():
    tensors = {"a": torch.arange(4.0), "b": torch.zeros(2, dtype=torch.bfloat16)}
    same = fingerprint(dict(reversed(tensors.items())), {}, "x")
    assert fingerprint(tensors, {}, "x") == same and len(same) == 16
    others = [
        fingerprint(tensors | {"a": torch.tensor([0.0, 1, 2, 4])}, {}, "x"),
        fingerprint(tensors | {"a": torch.arange(4.0).view(2, 2)}, {}, "x"),
        fingerprint(tensors, {"edges": [1]}, "x"),
        fingerprint(tensors, {}, "y"),
    ]
    assert len({same, *others}) == 5


# ------------------------------------------------------------ stop and go on


def test_a_stopped_run_resumes_to_the_same_bits(workshop, bank, tmp_path):
    stop = threading.Event()

    def progress(done: int, total: int, text: str) -> None:
        assert 0 <= done <= total == 6
        if done == 2:  # two chunks a bin: inside the second bin
            stop.set()

    with pytest.raises(Stopped, match="1 of 3 bins are kept"):
        run(workshop, tmp_path, progress=progress, stop=stop)
    half = GramBank(tmp_path, workshop.layers, TINY)
    assert half.missing() == [1, 2] and not half.complete
    first = half.path(0).stat().st_mtime_ns
    seen = []
    resumed = run(workshop, tmp_path, progress=lambda *a: seen.append(a))
    # the finished bin was not measured again
    assert resumed.complete and half.path(0).stat().st_mtime_ns == first
    assert seen[0][:2] == (0, 4) and seen[-1][:2] == (4, 4)
    assert all(
        torch.equal(a, b) for a, b in zip(everything(resumed), everything(bank), strict=True)
    )


def test_hooks_are_gone_after_success_stop_and_error(workshop, tmp_path):
    def hooks() -> int:
        return sum(
            len(m._forward_pre_hooks) + len(m._forward_hooks)
            for m in workshop.transformer.modules()
        )

    assert hooks() == 0
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        run(workshop, tmp_path, stop=stop)

    def fails(done, total, text):
        raise ValueError("a progress bar that breaks")

    with pytest.raises(ValueError):
        run(workshop, tmp_path, progress=fails)
    assert hooks() == 0


def test_what_other_threads_run_meanwhile_is_not_measured(workshop):
    """Forwards of other threads do not count.

    The studio counts MACs and predicts while it calibrates; those forwards use the same modules.
    """
    x = torch.randn(2, 4, 8, 8, device=workshop.device, dtype=workshop.dtype)
    forward = {
        "timestep": torch.tensor([5, 5], device=workshop.device),
        "class_labels": torch.tensor([1, 2], device=workshop.device),
    }
    meter = GramMeter(workshop.transformer, workshop.layers)
    with torch.inference_mode(), meter:
        workshop.transformer(x, **forward)
        before = [total.triangle() for total in meter.sums]

        def other():
            with torch.inference_mode():
                workshop.transformer(x, **forward)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert all(
        total.tokens == 32 and torch.equal(a, total.triangle())
        for a, total in zip(before, meter.sums, strict=True)
    )


# ------------------------------------------------------------ files


def test_nothing_in_the_cache_but_safetensors_and_json(workshop):
    workshop.measure_latency(1)
    files = [p for p in workshop.cache.rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".safetensors", ".json"}
    assert len([p for p in files if p.name.startswith("bin-")]) == workshop.settings.bins


def test_a_damaged_file_is_noticed_and_measured_again(workshop, bank, tmp_path):
    run(workshop, tmp_path)
    broken = GramBank(tmp_path, workshop.layers, TINY)
    path = broken.path(1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StudioError, match="bin-01.safetensors .*cannot be read"):
        broken.gram(0, 0, 1000)
    broken.gram(0, 0, 200)  # the others still serve
    seen = []
    mended = run(workshop, tmp_path, progress=lambda *a: seen.append(a))
    assert seen[-1][:2] == (2, 2)  # one bin, not three
    assert all(torch.equal(a, b) for a, b in zip(everything(mended), everything(bank), strict=True))


def test_pressing_calibrate_mends_a_damaged_calibration(workshop, tmp_path):
    """All files are there, so the model looks calibrated.

    Calibrating again must still do what the message promises.
    """
    shop = Workshop(workshop.checkpoint, TINY, tmp_path)
    shop.calibrate()
    path = shop.bank.path(2)
    good = path.read_bytes()
    path.unlink()
    path.write_bytes(good[:1000])
    shop.calibrate()
    assert path.read_bytes() == good and shop.calibrated
    seen = []
    shop.calibrate(progress=lambda *a: seen.append(a))
    assert not seen  # and a sound one is left alone


def test_another_model_or_other_data_has_its_own_folder(workshop, tmp_path):
    shop = Workshop(workshop.checkpoint, TINY, tmp_path)
    other = Workshop(replace(workshop.checkpoint, latents=workshop.latents + 1), TINY, tmp_path)
    longer = Workshop(workshop.checkpoint, replace(TINY, images=7), tmp_path)
    assert len({shop.folder, other.folder, longer.folder}) == 3 and shop.folder.parent == tmp_path


def left_over(folder) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.name != "settings.json")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_meanwhile(workshop, bank, tmp_path):
    def full(done: int, total: int, text: str) -> None:
        if done == 1:  # before the second bin is opened
            part = next(tmp_path.glob("bin-00.*.part"))
            part.with_name(part.name.replace("bin-00", "bin-01")).symlink_to("/dev/full")

    with pytest.raises(StudioError, match="The disk is full: finished bins are kept"):
        run(workshop, tmp_path, progress=full, ahead=0)
    assert left_over(tmp_path) == ["bin-00.safetensors"]
    assert all(
        torch.equal(a, b)
        for a, b in zip(everything(run(workshop, tmp_path)), everything(bank), strict=True)
    )


def test_a_cache_folder_that_cannot_be_made(workshop, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StudioError, match="set MOSAIC_CACHE to a folder that can"):
        run(workshop, tmp_path / "file" / "key")


def test_old_half_written_files_go_and_young_ones_of_other_runs_stay(workshop, tmp_path):
    young, old = tmp_path / "bin-00.safetensors.1-2.part", tmp_path / "bin-01.safetensors.2-2.part"
    for path in (young, old):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    run(workshop, tmp_path)
    assert young.exists() and not old.exists()


# ------------------------------------------------------------ refusals


def test_refuses_bad_latents(workshop, tmp_path):
    bad = workshop.latents.clone()
    bad[250, 0, 0, 0] = float("nan")
    with pytest.raises(StudioError, match="NaN or infinity"):
        run(workshop, tmp_path / "a", latents=bad)
    with pytest.raises(StudioError, match="at least 8 different latents, 7 were given"):
        run(workshop, tmp_path / "a", latents=workshop.latents[:7])
    good, of = workshop.latents, workshop.labels
    for latents, labels in ((good[:, :, :4, :4], of), (good, of[:20]), (good[:, :3], of)):
        with pytest.raises(StudioError, match="must be n x 4 x 8 x 8 with n conditions"):
            calibrate(
                workshop.transformer,
                workshop.layers,
                workshop.schedule,
                latents,
                DiT.conditions(labels),
                tmp_path / "a",
                TINY,
            )
    for label in (-1, 1001):
        with pytest.raises(StudioError, match="labels must lie between 0 and 1000"):
            DiT.conditions(workshop.labels + label)
    assert not (tmp_path / "a").exists()


def test_an_overflowing_model_is_named_not_averaged(workshop, tmp_path):
    loud = NoiseSchedule("loud", "vp", workshop.schedule.a, workshop.schedule.s)
    huge = torch.full_like(workshop.latents, 3e38)
    with pytest.raises(
        StudioError,
        match="block 1 heads is not finite during calibration at timesteps 0 to 199; the model",
    ):
        calibrate(
            workshop.transformer,
            workshop.layers,
            loud,
            huge,
            DiT.conditions(workshop.labels),
            tmp_path,
            TINY,
        )
    assert left_over(tmp_path) == []
