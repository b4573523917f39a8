"""A text model on the command line: pruned and compared headless, and what is refused when words
meet classes.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from test_cli import PLAN, refused, verb
from tiny_sdxl import make_sdxl

FEW = ("--bins", "2", "--images-per-bin", "6", "--calibration-steps", "2", "--dtype", "float32")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(make_sdxl(tmp_path_factory.mktemp("text") / "tiny-sdxl"))


@pytest.fixture
def plan_file(tmp_path) -> str:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN))
    return str(path)


def test_prune_and_compare_a_text_model(capsys, monkeypatch, model, plan_file, tmp_path):
    monkeypatch.setenv("MOSAIC_CACHE", str(tmp_path / "cache"))
    common = ("--model", model, "--plan", plan_file, *FEW)
    out = tmp_path / "pruned"
    code, text, err = verb(capsys, "prune", *common, "--out", str(out), "--json")
    assert code == 0, err
    found = json.loads(text)
    assert (
        "sampling 8 latents to calibrate on" in err
        and "the model's own samples" in found["calibration"]
    )
    assert len(found["layers"]) == 3 * 24 and sorted(p.name for p in out.iterdir()) == sorted(
        found["files"]
    )

    pictures = tmp_path / "pictures"
    words = (
        "--prompt",
        "a red fox",
        "--prompt",
        "a blue boat",
        "--negative",
        "fog",
        "--size",
        "64x128",
    )
    few = ("--scheduler", "Euler", "--steps", "3", "--repeats", "1", "--json")
    code, text, err = verb(capsys, "compare", *common, *words, *few, "--out", str(pictures))
    assert code == 0, err
    found = json.loads(text)
    assert "measuring the model" not in err  # calibrated above
    assert (found["n"], found["guidance"], found["prompts"], found["negative"], found["size"]) == (
        2,
        5.0,
        ["a red fox", "a blue boat"],
        "fog",
        [64, 128],
    )
    assert found["dense"]["fid"] is None and found["speedup_macs"] > 1 and found["latent_mse"] > 0
    for side in ("dense", "mosaic"):
        # two in a row, twice as large
        assert np.array(Image.open(pictures / f"{side}.png")).shape == (2 * 64, 2 * 2 * 128, 3)
    code, text, err = verb(capsys, "compare", *common, "--prompt", "one", "--images", "3", *few)
    assert code == 0 and json.loads(text)["prompts"] == ["one"] * 3


def test_words_and_classes_are_refused_both_ways(
    capsys, monkeypatch, model, model_folder, plan_file, tmp_path
):
    monkeypatch.setenv("MOSAIC_CACHE", str(tmp_path / "cache"))
    compare = ("compare", "--plan", plan_file, "--out", str(tmp_path / "out"), "--model")
    for given in (("--prompt", "a fox"), ("--negative", "fog"), ("--size", "64x64")):
        assert "which are for SDXL" in refused(capsys, *compare, str(model_folder), *given)
    assert "give --prompt TEXT" in refused(capsys, *compare, model)
    assert "at least 2" in refused(
        capsys, *compare, model, "--prompt", "a", "--prompt", "b", "--images", "1"
    )
    assert "multiples of 64" in refused(capsys, *compare, model, "--prompt", "a", "--size", "65x64")
    for bad in ("64", "64x", "64x64x64", "-64x64", "axb", "6" * 5000 + "x64"):
        assert "such as 768x1024" in refused(
            capsys, *compare, model, "--prompt", "a", f"--size={bad}"
        )
    assert not (tmp_path / "out").exists()
