"""The examples run: the script, and the cells of the notebook one after the other."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """One calibration for both, in a cache of its own; the search path is left as it was."""
    before = [*sys.path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSAIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    sys.path[:] = before


def test_the_script_prunes_and_samples(tmp_path, monkeypatch, capsys):
    script = EXAMPLES / "prune_and_sample.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "pictures")])
    runpy.run_path(str(script), run_name="__main__")
    out = capsys.readouterr().out
    assert "early: 4 of 10 steps" in out and "fewer multiply-accumulates" in out
    for name in ("dense", "pruned"):
        assert Image.open(tmp_path / "pictures" / f"{name}.png").size == (1280, 128)


def test_the_notebook_runs_cell_by_cell(monkeypatch, capsys):
    notebook = json.loads((EXAMPLES / "curves_to_compare.ipynb").read_text())
    monkeypatch.chdir(EXAMPLES)
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    out = capsys.readouterr().out
    assert "fewer MACs" in out and names["result"].n == 10


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads((EXAMPLES / "curves_to_compare.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
