"""The study's averages and sentences, on rows made by hand."""

from __future__ import annotations

import json

import pytest

from core.errors import StudioError
from core.workshop.study import findings, load_study, markdown, nearest_verdict, verdicts
from mosaic_ui.compare.study_view import study_figure, study_sentences, study_table


def row(
    method: str,
    base: int,
    steps: int,
    macs: float,
    fid: float,
    mse: float,
    seed: int = 0,
    n: int = 100,
) -> dict:
    return {
        "method": method,
        "base_steps": base,
        "steps": steps,
        "macs": macs * n,
        "fid": fid,
        "latent_mse": mse,
        "class_accuracy": 0.9,
        "seed": seed,
        "n": n,
    }


ROWS = [
    row("dense", 50, 50, 10, 15.0, 0.0),
    row("dense", 50, 50, 10, 16.0, 0.0, seed=1),
    row("MosaicDiff 0.5", 50, 50, 5, 14.0, 0.04),
    row("MosaicDiff 0.5", 50, 50, 5, 14.2, 0.04, seed=1),
    row("dense, 25 steps (work of 0.5)", 50, 25, 5, 17.0, 0.001),
    row("dense, 25 steps (work of 0.5)", 50, 25, 5, 17.2, 0.001, seed=1),
    row("dense", 10, 10, 2, 19.0, 0.0),
    row("MosaicDiff 0.5", 10, 10, 1, 20.0, 0.04),
    row("dense, 5 steps (work of 0.5)", 10, 5, 1, 20.1, 0.05),
]


def test_averages_over_seeds_and_work_relative_to_dense():
    dense, mosaic, fewer, *_ = findings(ROWS)
    assert (
        dense.fid == 15.5
        and dense.seeds == 2
        and dense.fid_spread == 0.5
        and dense.work == 1
        and dense.saved == 0
    )
    assert (
        mosaic.work == mosaic.saved == 0.5
        and mosaic.family == "MosaicDiff"
        and mosaic.target == 0.5
    )
    assert fewer.family == "dense" and fewer.steps == 25 and fewer.target == 0.5
    assert findings(ROWS)[3].work == 0.2


def test_sentences_name_the_winner_and_admit_a_draw():
    many, few = verdicts(findings(ROWS))
    assert (
        "14.1 pruned, 17.1 with 25 dense steps (pruning is better)" in many
        and "(fewer steps are better)" in many
    )
    assert (
        "At 10 steps with 50% less work" in few
        and "20.0 pruned, 20.1 with 5 dense steps (no clear difference)" in few
    )
    assert "0.0400 against 0.0500 (pruning is better)" in few


def test_the_sentence_nearest_to_a_comparison_is_found_or_none():
    found = findings(ROWS)
    many, few = verdicts(found)
    assert nearest_verdict(found, 50, 0.47) == f"{many[:-1]}; n = 100, 2 seeds."
    assert nearest_verdict(found, 10, 0.5) == f"{few[:-1]}; n = 100, 1 seed."
    assert nearest_verdict(found, 50, 0.3) is None and nearest_verdict(found, 20, 0.5) is None
    assert nearest_verdict([], 50, 0.5) is None


def test_views_hold_every_row():
    found = findings(ROWS)
    assert markdown(found).count("\n") == 1 + len(found) == study_table(found).count("<tr>")
    assert study_sentences(found).count("<li>") == 2
    dense = study_figure(found)["data"][0]
    assert dense["x"] == sorted(dense["x"]) and len(dense["x"]) == 4
    json.dumps(study_figure(found))


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"method": "dense"}]'])
def test_a_broken_study_is_refused_in_one_sentence(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(StudioError, match="cannot be read"):
        load_study(tmp_path / "study.json")
