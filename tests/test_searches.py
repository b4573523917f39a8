"""Two studies: cuts from the rows that a stage runs, and the tuner against other searches."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.bench import halves, searches
from core.bench.row_file import RowFile, file_beside
from core.calibration.row_weights import RowWeights
from core.curves.plan import StagePlan
from core.errors import StudioError
from core.tuner.configuration import Configuration
from core.tuner.space import Space

PLAN = StagePlan((90, 550), (0.25, 0.25, 0.5)).with_guidance(early=1)


# ------------------------------------------------------------ rows of a stage without guidance


def weights(mosaic, stage):
    return [mosaic.weight(stage, i) for i in range(len(mosaic.layers))]


def test_only_the_early_stage_comes_from_the_conditional_rows(judged_workshop):
    shops = halves.calibrations(judged_workshop)
    alone = shops[halves.CONDITIONAL]
    alone.calibrate()
    mixed = halves.built_from(judged_workshop, alone, PLAN)
    both, one = judged_workshop.build(PLAN), alone.build(PLAN)
    for stage, source in ((0, both), (1, both), (2, one)):
        for a, b in zip(weights(mixed, stage), weights(source, stage), strict=True):
            assert torch.equal(a, b)
    different = zip(weights(both, 2), weights(one, 2), strict=True)
    assert any(not torch.equal(a, b) for a, b in different)


def test_with_guidance_one_the_unconditional_rows_count_nothing(judged_workshop):
    alone = halves.calibrations(judged_workshop)[halves.CONDITIONAL].settings
    weights = RowWeights(
        judged_workshop.transformer, judged_workshop.layers, alone.weighting, alone.guidance
    )
    assert weights.of(0, 4).tolist() == [1.0, 1.0, 0.0, 0.0]  # conditional rows come first


def test_halves_resume_and_fill_a_table(judged_workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(halves, "TARGETS", (0.33,))
    monkeypatch.setattr(halves, "SHAPES", ("Formula",))
    path = tmp_path / "halves.json"
    halves.halves_rows(judged_workshop, RowFile(path), 200, (7, 8), (4,), torch.float32)
    rows = json.loads(path.read_text())
    assert [r["early"] for r in rows] == 2 * list(halves.calibrations(judged_workshop))
    path.write_text(json.dumps(rows[:-1]))
    halves.halves_rows(judged_workshop, RowFile(path), 200, (7, 8), (4,), torch.float32)
    again = json.loads(path.read_text())
    assert [r["fid"] for r in again] == pytest.approx([r["fid"] for r in rows])
    both = np.mean([r["fid"] for r in rows if r["early"] == halves.BOTH])
    last = halves.table(rows).splitlines()[-1]
    assert last.startswith(f"| formula 0.33 | 4 | 200 | {both:.2f} | ") and last.count(" ± ") == 3


# ------------------------------------------------------------ searches


@pytest.fixture
def space(judged_workshop):
    dense = Configuration(None, "DDIM", 50, judged_workshop.guidance, "dense")
    return Space(judged_workshop, dense)


def test_what_needs_no_search_keeps_the_budget(space):
    budget = space.spend(space.reference) / 4
    found = searches.contenders(space, budget)
    assert {"formula 0.33", "uniform", "dense, fewer steps", "reuse 2"} <= set(found)
    for what in found.values():
        assert 0.5 * budget < space.spend(what) <= 1.001 * budget
    assert not any(found["reuse 2"].plan.sparsity)


def test_evolution_keeps_the_budget_and_gets_nearer(space):
    budget = space.spend(space.reference) / 8
    start = next(p for label, p in space.seeds(budget) if label == "formula 0.5")
    goal = space.configuration(start | {"late": 0.9, "middle": 0.2, "early": 0.6}, budget).plan
    search = searches.evolve(space, start, budget, seed=0, most=60)
    what, seen, losses = next(search), [], []
    while what is not None:
        assert space.spend(what) <= 1.001 * budget
        assert (what.scheduler, what.steps) == ("UniPC", start["steps"])
        losses.append(float(np.abs(np.subtract(what.plan.sparsity, goal.sparsity)).sum()))
        seen.append(what)
        try:
            what = search.send(losses[-1])
        except StopIteration:
            what = None
    assert len(seen) == len(set(seen)) == 60
    first = searches.POPULATION
    assert min(losses) < min(losses[:first])
    assert np.median(losses[-first:]) < 0.5 * np.median(losses[:first])


def test_evolution_from_a_budget_that_the_formula_cannot_keep(judged_workshop, space):
    with pytest.raises(StudioError, match="ask for less"):
        next(
            searches.evolution(judged_workshop, space, space.spend(space.reference) / 500, 0, (3,))
        )


real = searches.evolve


def few(search):
    """Four configurations of a search, and no more."""
    score = None
    for _ in range(4):
        score = yield search.send(score)


def test_evolution_that_runs_out_or_cannot_draw_says_what_it_has(
    judged_workshop, space, monkeypatch
):
    drawn = []

    def one_fails(workshop, what, *_args, **_more):
        drawn.append(what)
        if len(drawn) == 1:
            raise StudioError("NaN")
        return what

    monkeypatch.setattr(searches, "draw", one_fails)
    monkeypatch.setattr(searches, "MOST_TRIES", 3)
    score = SimpleNamespace(score=lambda what, seed: sum(what.plan.sparsity))
    monkeypatch.setattr(searches, "usual_quality", lambda *_: score)
    monkeypatch.setattr(searches, "evolve", lambda *a, **k: few(real(*a, **k)))
    budget = space.spend(space.reference) / 8
    found = list(searches.evolution(judged_workshop, space, budget, 0, (2, 9)))
    assert [n for n, _, _ in found] == [2, 9] and len(drawn) == 4
    assert found[0][1] == drawn[1]  # the first was not drawn
    assert found[1][1] == min(drawn[1:], key=lambda what: sum(what.plan.sparsity))


def test_a_study_of_searches_resumes(judged_workshop, tmp_path, monkeypatch):
    every = searches.contenders
    two = ("formula 0.33", "reuse 2")
    monkeypatch.setattr(searches, "contenders", lambda *a: {k: every(*a)[k] for k in two})
    monkeypatch.setattr(searches, "REFERENCE", ("DDIM", 10))
    monkeypatch.setattr(searches, "EVALUATIONS", 2)
    monkeypatch.setattr(searches, "MANY", 3)
    monkeypatch.setattr(searches, "IMAGES", 200)
    monkeypatch.setattr(searches, "JUDGED", {"n": 200, "seeds": (100, 101)})
    path = tmp_path / "searches.json"
    for _ in range(2):  # the second time nothing is left to do
        searches.find(judged_workshop, RowFile(path), 2.0, (0,), many=True)
        searches.judge(judged_workshop, RowFile(path))
    rows = json.loads(path.read_text())
    found = [r for r in rows if r["stage"] == "found"]
    assert [r["way"] for r in found] == [
        *two,
        "tuner",
        "tuner, nothing removed",
        "evolution, 2",
        "evolution, 3",
    ]
    budget = Configuration(None, "DDIM", 10, judged_workshop.guidance).macs(judged_workshop) / 2
    assert all(r["macs"] <= 1.001 * budget for r in found)
    judged = [r for r in rows if r["stage"] == "judged"]
    assert len(judged) == 2 * 2 + 4  # what was searched for has one seed, the others both
    table = searches.table(rows).splitlines()[2:]
    assert len(table) == 6
    for line in table:  # two seeds have a spread of FID, and one in common with the tuner
        cells = line.strip("| ").split(" | ")
        assert (" ± " in cells[4]) == (cells[1] in two) == cells[5].endswith("200 × 2")
        assert (cells[6] == "-") == (cells[1] == "tuner") and " ± " not in cells[6]
    assert [line.split(" | ")[4] for line in table] == sorted(
        (line.split(" | ")[4] for line in table), key=lambda fid: float(fid.split()[0])
    )


# ------------------------------------------------------------ their file


def test_a_file_of_rows_that_is_none(tmp_path):
    path = tmp_path / "rows.json"
    for text in ("[", "{}", "[1]"):
        path.write_text(text)
        with pytest.raises(StudioError, match="is damaged"):
            RowFile(path)
    assert file_beside("fashion-dit", "rows.json", path) == path
    with pytest.raises(StudioError, match="give --out"):
        file_beside("somebody/model", "rows.json", None)
