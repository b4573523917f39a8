"""Exports are read back by what reads such files; differences are named, and nothing else."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from run_cases import PLAN, SETTINGS, tiny

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.runs.differences import Difference, differences, plan_words
from core.runs.export import KINDS, export
from core.runs.run import Run
from core.runs.store import RunStore

NASTY = 'a|b & c_d 100% $x$ #1 {y} ~ ^ \\ [z] *e* <b>"q"</b>\nline , end'


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path)


@pytest.fixture
def runs(store) -> list[Run]:
    store.add(tiny(), "key", name="plain")
    store.add(tiny(name=NASTY, psnr=None), "key", name=NASTY, notes="=HYPERLINK(1)")
    return store.runs()[::-1]


# ------------------------------------------------------------ exports


def test_csv_is_read_back(runs):
    rows = list(csv.DictReader(io.StringIO(export(runs, "csv"), newline="")))
    assert len(rows) == 2 and rows[1]["name"] == rows[1]["b"] == NASTY
    first = rows[0]
    assert (first["a_time_s"], first["b_time_s"], first["psnr_db"]) == ("2", "1", "27.5")
    assert (first["a_macs"], first["latent_mse"]) == ("3000000000", "0.0123457")
    assert (first["b_boundary_low_t"], first["b_removed_early_share"]) == ("93", "0.55")
    assert first["a_boundary_low_t"] == first["a_plan_json"] == "" and rows[1]["psnr_db"] == ""
    assert StagePlan.from_json(first["b_plan_json"]) == PLAN
    assert first["id"] == runs[0].id and first["n_images"] == "2" and first["adaln_table"] == "yes"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "＝1", "\n=1"]
)
def test_csv_has_no_formula_of_a_user(store, text):
    run = store.add(tiny(), "key", name=text)
    (row,) = csv.DictReader(io.StringIO(export([run], "csv"), newline=""))
    assert row["name"] == f"'{text}"


def test_json_is_read_back(runs):
    rows = json.loads(export(runs, "json"))
    assert [row["name"] for row in rows] == ["plain", NASTY]
    assert rows[0]["a_plan_json"] is None and rows[1]["psnr_db"] is None
    assert StagePlan.from_json(rows[0]["b_plan_json"]) == PLAN
    assert rows[0]["speedup_measured"] == 2.0 and rows[0]["latent_mse"] == 0.0123457
    assert rows[1]["notes"] == "=HYPERLINK(1)" and rows[0]["adaln_table"] is True


def test_markdown_has_a_line_per_run_and_nothing_that_acts(runs):
    lines = export(runs, "markdown").splitlines()
    assert len(lines) == 4
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert len({len(row) for row in cells}) == 1
    head = [cell.strip() for cell in cells[0]]
    assert {"Name", "A time (s)", "B MACs", "PSNR (dB)", "Speed-up (×)"} <= set(head)
    first = dict(zip(head, (cell.strip() for cell in cells[2]), strict=True))
    assert first["A time (s)"] == "2" and first["Speed-up (×)"] == "2" and first["Seed"] == "7"
    assert cells[1][head.index("Seed")].strip() == "---:" and cells[1][0].strip() == "---"
    name = cells[3][0].strip()
    assert "<" not in name and r"\[z\]" in name and r"a\|b &amp; c\_d" in name


def test_latex_has_a_row_per_run_and_escapes(runs):
    text = export(runs, "latex")
    assert text.startswith(r"\begin{tabular}{l") and text.rstrip().endswith(r"\end{tabular}")
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 3
    assert len({len(re.split(r"(?<!\\)&", row)) for row in rows}) == 1
    assert (
        r"a\textbar{}b \& c\_d 100\% \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{}"
        r" \textbackslash{} {[}z{]} {*}e{*} \textless{}b\textgreater{}"
    ) in rows[2]
    assert r"Speed-up ($\times$)" in rows[0]


def test_latex_compiles(runs, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here")
    table = export(runs, "latex")
    page = rf"\documentclass{{article}}\begin{{document}}{table}\end{{document}}"
    (tmp_path / "t.tex").write_text(page)
    command = ["pdflatex", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_no_runs_are_a_heading_and_another_kind_is_refused(runs):
    assert export([], "json") == "[]\n" and export([], "csv").count("\n") == 1
    assert all(export([], kind) for kind in KINDS)
    with pytest.raises(StudioError, match="csv, json, markdown, latex"):
        export(runs, "xls")


def test_a_run_that_goes_on_is_exported_with_empty_cells(store):
    begun = {"model": "tiny", "model_key": "key", "device": "CPU"}
    run = store.begin((None, PLAN), ("Dense", "mine"), SETTINGS, **begun)
    (row,) = csv.DictReader(io.StringIO(export([run], "csv"), newline=""))
    assert row["status"] == "running" and row["a_time_s"] == row["ssim"] == ""


# ------------------------------------------------------------ differences


def test_equal_runs_differ_in_nothing(runs):
    assert differences(*runs) == [] == differences(runs[0].b, runs[1].b)


def test_only_what_differs_between_two_runs_is_named(store):
    other = tiny(settings=replace(SETTINGS, seed=8, steps=10, scheduler="Euler", labels=(0, 2)))
    other.b.plan = replace(PLAN, sparsity=(0.4, 0.1, 0.5), allocation="lagrangian", name="new")
    a = store.add(tiny(), "key")
    b = store.add(other, "key")
    assert differences(a, b) == [
        Difference("images", "2 images, classes 0, 1", "2 images, classes 0, 2"),
        Difference("seed", "7", "8"),
        Difference("solver", "DDIM", "Euler"),
        Difference("steps", "2", "10"),
        Difference("B: removed in the early stage", "55 %", "50 %"),
        Difference("B: sharing", "uniform", "lagrangian"),
    ]


def test_models_and_images_of_one_name_are_told_apart(store):
    ten = SETTINGS.to_json() | {"labels": (), "guidance": 3, "dtype": "float16"}
    long = ["a" * 80 + end for end in "xy"]
    a, b = (
        store.add(
            tiny(settings=type(SETTINGS)(**ten | {"prompts": (prompt,)})),
            key * 16,
        )
        for prompt, key in zip(long, "kq", strict=True)
    )
    model, images = differences(a, b)
    assert model == Difference("model", "tiny (kkkkkkkk)", "tiny (qqqqqqqq)")
    assert images.what == "images" and images.a != images.b
    c = store.add(tiny(), "k" * 16)
    rows = dict((d.what, (d.a, d.b)) for d in differences(c, a))
    assert rows["guidance"] == ("1.5", "3") and rows["precision"] == ("as loaded", "float16")


def test_dense_beside_a_plan_is_one_difference(runs):
    a, b = runs[0].a, runs[0].b
    words = "boundaries 93 and 550; removed early 55 %, middle 10 %, late 40 %"
    assert differences(a, b) == [Difference("plan", "dense", words)]
    assert differences(None, None) == [] and differences(None, PLAN)[0].b == words
    rich = replace(PLAN, scope="run", multiple=16)
    assert plan_words(rich).endswith("; one budget per run; kept neurons are a multiple of 16")


def test_plans_differ_in_their_fields(runs):
    other = replace(PLAN, boundaries=(93, 600), sparsity=(0.4001, 0.1, 0.55), min_heads=0)
    assert differences(PLAN, other) == [
        Difference("boundaries (timesteps)", "93 and 550", "93 and 600"),
        Difference("removed in the late stage", "40 %", "40.01 %"),
        Difference("heads kept at least", "1", "0"),
    ]
    fewer = replace(runs[0].b, calls=10)
    assert differences(runs[0].b, fewer) == [Difference("denoiser calls per image", "2", "10")]
    with pytest.raises(StudioError):
        differences(runs[0], PLAN)
