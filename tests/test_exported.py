"""Models written without adaLN weights: bits of the table path, and refusals in a sentence."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from conftest import make_pipeline
from mosaics import PLAN, mosaic_of
from running import SCHEDULE

import app
from core.curves.samplers import make_scheduler, sampling_timesteps
from core.errors import StudioError
from core.models.checkpoints import load_checkpoint
from core.models.families import DiT
from core.mosaic.exported import export_without_adaln, load_without_adaln
from core.mosaic.transformer import MosaicTransformer
from core.sampling.denoise import Denoiser

STEPS, LABELS = 6, (1, 5)


@pytest.fixture(scope="module")
def pipeline(model_folder):
    return load_checkpoint(model_folder, "cpu", dtype=torch.float32).pipeline


@pytest.fixture(scope="module")
def mosaic(pipeline):
    return mosaic_of(pipeline.transformer)


@pytest.fixture(scope="module")
def folder(mosaic, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "out"
    timesteps = sampling_timesteps(make_scheduler("DDIM"), STEPS)
    written = export_without_adaln(mosaic, out, timesteps, LABELS, {"model": "tiny"})
    assert written.files == sorted(written.files, key=written.files.index)
    return out


def drawn(model, labels=LABELS, steps=STEPS, guidance=1.5, name="DDIM", tabulate=True):
    noise = torch.randn(len(labels), 4, 8, 8, generator=torch.Generator().manual_seed(3))
    side = Denoiser(model, make_scheduler(name), SCHEDULE, steps, tabulate=tabulate)
    return side.run(noise, DiT.conditions(torch.tensor(labels)), guidance)[0]


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_an_exported_model_has_the_bits_of_the_table(mosaic, folder, guidance):
    loaded = load_without_adaln(folder)
    for labels in (LABELS, (5, 5, 1), (1,)):  # fewer and in another order than named
        expected = drawn(mosaic, labels, guidance=guidance)
        assert torch.equal(drawn(loaded, labels, guidance=guidance), expected)
    # without a table of the loop's own the vectors come from the stored one too
    assert torch.equal(drawn(loaded, tabulate=False), drawn(mosaic))
    loaded.disable()
    dense = MosaicTransformer(mosaic.full, None, [None] * 3)
    assert torch.equal(drawn(loaded), drawn(dense))


def test_no_adaln_weight_is_left_and_the_sizes_are_said(mosaic, folder, tmp_path):
    loaded = load_without_adaln(folder)
    names = [name for name, _ in loaded.named_parameters()]
    assert names and not [n for n in names if ".norm1.linear" in n or ".emb." in n]
    timesteps = sampling_timesteps(make_scheduler("DDIM"), STEPS)
    written = export_without_adaln(mosaic, tmp_path / "again", timesteps, LABELS)
    full = {id(p): p.numel() for p in mosaic.full.parameters()}
    assert written.weights_before == sum(full.values())
    norm = mosaic.full.transformer_blocks[0].norm1
    gone = 2 * sum(p.numel() for p in norm.linear.parameters())
    gone += sum(p.numel() for p in norm.emb.parameters())
    table = STEPS * 3 * (64 + 2 * 6 * 64)  # embedding, and six vectors of two blocks
    assert written.weights_after == written.weights_before - gone + table
    assert written.bytes_after < written.bytes_before and written.stage_bytes > 0
    assert f"{written.weights_after / 1e6:.1f} M" in written.sentence
    on_disk = sum(f.stat().st_size for f in (tmp_path / "again").glob("*.safetensors"))
    assert on_disk == written.bytes_after + written.stage_bytes
    assert loaded.facts == {"model": "tiny"} and loaded.plan == PLAN


def test_it_runs_in_a_stock_pipeline_with_the_bits_of_the_loop(pipeline, folder):
    loaded, seen = load_without_adaln(folder), []
    stand_in = type(pipeline)(
        transformer=loaded, vae=pipeline.vae, scheduler=make_scheduler("DDIM"), id2label=None
    )
    stand_in.set_progress_bar_config(disable=True)
    handle = pipeline.vae.post_quant_conv.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].clone())
    )
    ask = {"guidance_scale": 1.5, "num_inference_steps": STEPS, "output_type": "np"}
    try:
        stand_in(list(LABELS), generator=torch.Generator().manual_seed(3), **ask)
    finally:
        handle.remove()
    ours = drawn(loaded) / pipeline.vae.config.scaling_factor
    assert torch.allclose(ours, seen[0], rtol=1e-5, atol=1e-4 * float(ours.abs().max()))
    with pytest.raises(StudioError, match="named labels, and 7 is none"):
        stand_in([7], **ask)


def test_other_timesteps_and_labels_are_refused_in_a_sentence(folder):
    loaded = load_without_adaln(folder)
    with pytest.raises(StudioError, match="for 6 named timesteps, and .* is none of them"):
        drawn(loaded, steps=7)
    with pytest.raises(StudioError, match="for 3 named labels, and 2 is none of them"):
        drawn(loaded, (1, 2))
    with pytest.raises(StudioError, match="named labels, and 2 is none"):
        drawn(loaded, (1, 2), tabulate=False)


def test_what_cannot_be_exported_is_refused_in_a_sentence(mosaic, folder, tmp_path, pipeline):
    out = tmp_path / "out"
    for labels, times, match in (
        ((-1,), [1.0], "is no label"),
        ((True,), [1.0], "is no label"),
        ((1,), [], "Name the timesteps"),
        ((1,), [float("nan")], "Name the timesteps"),
        (range(1000), range(999), "name fewer labels or steps"),
    ):
        with pytest.raises(StudioError, match=match):
            export_without_adaln(mosaic, out, list(times), list(labels))
        assert not out.exists()
    loaded = load_without_adaln(folder)
    with pytest.raises(StudioError, match="already"):
        export_without_adaln(loaded, out, [1.0], [1])
    with pytest.raises(StudioError, match="no base to be saved against"):
        loaded.save_pretrained(out)
    with pytest.raises(StudioError, match="load it with load_without_adaln"):
        MosaicTransformer.from_pretrained(folder, pipeline)
    other = copy.deepcopy(pipeline.transformer)
    with torch.no_grad():
        other.transformer_blocks[1].norm1.emb.timestep_embedder.linear_1.weight[0, 0] += 0.1
    with pytest.raises(StudioError, match="embedders that differ"):
        export_without_adaln(mosaic_of(other), out, [1.0], [1])


def test_another_kind_of_model_is_refused(tmp_path):
    from running import make_pipelines

    unet = make_pipelines(make_pipeline(tmp_path / "dit"), tmp_path / "sdxl")["sdxl"].unet
    with pytest.raises(StudioError, match="kind SDXL has no adaLN weights"):
        export_without_adaln(mosaic_of(unet), tmp_path / "out", [1.0], [1])


@pytest.mark.parametrize("file", ["base.safetensors", "table.safetensors", "manifest.json"])
def test_a_damaged_export_is_refused(folder, tmp_path, file):
    import shutil

    broken = shutil.copytree(folder, tmp_path / "broken")
    data = bytearray((broken / file).read_bytes())
    data[-3] ^= 1
    (broken / file).write_bytes(bytes(data))
    with pytest.raises(StudioError, match=r"damaged|changed after"):
        load_without_adaln(broken)


def test_half_precision_and_modes_take_the_stored_table(folder):
    loaded = load_without_adaln(folder)
    plain = drawn(loaded)
    doubled = copy.deepcopy(loaded).to(torch.float64)
    assert doubled.table.vectors.dtype == torch.float64
    assert (drawn(doubled) - plain).abs().max() < 1e-4 * plain.abs().max()
    assert torch.equal(drawn(loaded), plain)


def test_the_verb_writes_a_model_without_adaln(workshop, tmp_path, capsys, monkeypatch):
    from core import cli
    from core.curves.plan import StagePlan

    monkeypatch.setattr(cli, "_workshop", lambda args: workshop)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(StagePlan((93, 550), (0.5, 0.2, 0.5)).to_json()))
    command = ["prune", "--plan", str(plan), "--out", str(tmp_path / "out"), "--steps", "5"]
    assert app.main([*command, "--labels", "1"]) == 2
    assert "add it, or leave them out" in capsys.readouterr().err
    whole = [*command, "--without-adaln", "--scheduler", "Euler"]
    assert app.main([*whole, "--labels", "1,77000"]) == 2
    assert "77000 is not a class" in capsys.readouterr().err
    assert app.main([*whole, "--labels", "1,2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    said = found["without_adaln"]
    assert (said["timesteps"], said["labels"], said["scheduler"]) == (5, 3, "Euler")
    assert said["bytes_after"] < said["bytes_before"]
    loaded = load_without_adaln(tmp_path / "out")
    assert loaded.table.labels.keys() == {1, 2, 1000}
    assert len(loaded.table.timesteps) == 5
