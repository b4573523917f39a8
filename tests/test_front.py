"""The study of the front: its contenders, what it quotes, what it says, and that it resumes."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from front_cases import PRUNED, ROWS, row

from core.bench import front as study
from core.bench import front_table
from core.errors import StudioError
from core.tuner import front_rows
from core.tuner.configuration import Configuration
from mosaic_ui import front_view


def test_contenders_have_the_work_that_they_name(workshop):
    found = {c.label: c for c in study.contenders(workshop, "UniPC", 10, 1.5)}
    whole = found["dense"].macs(workshop)
    for name, what in found.items():
        share = what.macs(workshop) / whole
        assert share <= 1.0 and (name == "dense") == (share == 1.0)
    early = found["dense" + study.OFF]
    assert early.plan.guidance == (None, None, 1.0)
    steps = early.plan.steps_per_stage(early.timesteps(workshop))
    # the adaLN vectors, made once per run, are not halved
    assert early.macs(workshop) / whole == pytest.approx(1 - steps["early"] / 20, abs=0.01)
    assert found["reuse 2"].plan.reuse == (2, 2, 2)
    few = {c.label for c in study.contenders(workshop, "DDIM", 4, 1.5)}
    assert few == {name for name in found if "reuse" not in name}


def test_each_contender_is_taken_at_its_best_guidance():
    best = front_rows.chosen_from(ROWS)
    assert len(best) == 7 and {r["fid"] for r in best if r["configuration"]["steps"] == 10} >= {
        18.0
    }


def test_what_is_quoted():
    found = {(c.label, c.scheduler, c.steps) for c in study.quoted(ROWS)}
    assert found == {
        ("dense", "UniPC", 10),
        ("dense", "DDIM", 50),
        ("dense", "UniPC", 7),
        ("dense", "UniPC", 5),
        ("formula 0.33", "UniPC", 10),
        ("formula 0.5", "UniPC", 10),
    }
    with pytest.raises(StudioError, match="run the stage choose first"):
        study.quoted(ROWS[2:])
    # two guidances of the anchor that few pictures cannot tell apart are both judged
    near = row("dense", "UniPC", 10, 10.0, 18.3, guidance=2.5)
    anchors = [c for c in study.quoted([*ROWS, near]) if (c.label, c.steps) == ("dense", 10)]
    assert sorted(c.guidance for c in anchors) == [2.0, 2.5]


def test_ahead_is_by_more_than_the_deviation_of_paired_differences():
    rows = []
    for seed, noise in ((100, 0.0), (101, 2.0), (102, -2.0)):  # common to all of one seed
        for what in (ROWS[1], ROWS[3], ROWS[4], ROWS[5], ROWS[6]):
            rows.append(what | {"stage": "judge", "seed": seed, "fid": what["fid"] + noise})
    lines = front_table.budget_table(front_rows.shown(rows)).splitlines()[2:]
    assert len(lines) == 3  # budgets .7, .6 and .5; nothing is as cheap as .4
    assert lines[0].startswith("| 0.7 |") and lines[0].endswith("| +3.0 ± 0.0 | **pruned** |")
    assert "**pruned**" in lines[2] and "| 24.0 ± 2.0 |" in lines[2]
    rows[-1]["fid"] += 40  # formula 0.5 on one seed
    assert "too close to call" in front_table.budget_table(front_rows.shown(rows)).splitlines()[-1]
    reused = row("reuse 2", "UniPC", 10, 5.0, 1.0, "judge", plan=PRUNED.with_sparsity(0, 0, 0))
    with_reuse = front_rows.shown([*rows, *(reused | {"seed": s} for s in (100, 101, 102))])
    last = front_table.budget_table(with_reuse).splitlines()[-1]  # it prunes nothing
    assert "| reuse 2, UniPC 10 (0.00 G) |" in last and last.endswith("| the whole network |")
    table = front_table.contender_table(front_rows.shown(rows))
    assert table.count("\n|") == 6 and "± 2.0" in table
    own = row("found", "UniPC", 9, 5.0, 1.0, plan=PRUNED.with_guidance(early=1, middle=2.5))
    assert "| UniPC 9 | off early, 2.5 middle |" in front_table.contender_table([own])
    off = row("found", "UniPC", 9, 5.0, 1.0, plan=PRUNED.with_guidance(early=1))
    assert "| UniPC 9 | 1.5 |" in front_table.contender_table([off])


def test_before_anything_is_judged_the_tables_are_of_the_choice():
    table = front_table.contender_table(front_rows.shown(ROWS))
    assert table.count("\n|") == 8 and "| 500 × 1 |" in table and "±" not in table
    # formula .33 in 10 steps against 7 dense ones
    first = front_table.budget_table(front_rows.shown(ROWS)).splitlines()[2]
    assert first.endswith("| 22.0 | formula 0.33, UniPC 10 (0.00 G) | 19.0 | +3.0 | **pruned** |")


def test_the_cheapest_way_that_is_as_good():
    rows = [
        what | {"stage": "judge", "seed": seed, "fid": what["fid"] + extra}
        for what, extras in (
            (ROWS[1], (0.0, 0.0, 0.0)),
            (ROWS[2], (0.0, 0.0, 0.0)),
            (ROWS[5], (-0.5, 3.5, 0.0)),  # 2 above the anchor, and 2.2 around
            (ROWS[4], (0.0, 0.0, 0.0)),
        )
        for seed, extra in enumerate(extras)
    ]
    found = front_rows.shown(rows)
    assert front_table.as_good_sentences(found) == [
        "As good as the whole network with UniPC in 10 steps (FID 18.0 ± 0.0): formula 0.33,"
        " UniPC 10 (0.00 G), 20.0 ± 2.0, for 0.67 of its work.",
        "As good as the whole network with DDIM in 50 steps (FID 25.0 ± 0.0): formula 0.33,"
        " UniPC 10 (0.00 G), 20.0 ± 2.0, for 0.13 of its work.",
    ]
    assert front_table.as_good_sentences(found[:1]) == []


def test_ways_without_a_common_seed_are_not_compared():
    one, other = (
        row(label, "UniPC", steps, 5.0, fid, "judge", seed=seed, plan=plan)
        for label, steps, fid, seed, plan in (("dense", 5, 3.0, 1, None), ("f", 10, 2.0, 2, PRUNED))
    )
    (duel, *_) = front_rows.duels([row("dense", "UniPC", 10, 10.0, 9.0, "judge"), one, other])
    assert duel.ahead is None


def test_what_reuses_steps_is_a_cross_whatever_it_is_called():
    reused = row("tuner ×9, nothing removed", "UniPC", 8, 4.0, 17.0, plan=PRUNED)
    for plan, symbol in (
        (PRUNED, front_view.PRUNED),
        (PRUNED.with_sparsity(0, 0, 0), front_view.DENSE),
        (replace(PRUNED.with_sparsity(0, 0, 0), reuse=(2, 1, 1)), front_view.REUSED),
    ):
        reused["configuration"]["plan"] = plan.with_guidance(middle=3).to_json()
        points = front_view.front_figure([reused])["data"][1]
        assert points["marker"]["symbol"] == [symbol]
        assert "<br>guidance 3 middle<br>" in points["hovertext"][0]


def test_the_page_draws_every_contender_and_says_who_is_ahead():
    found = front_rows.shown(ROWS)
    figure = front_view.front_figure(found)
    line, *solvers = figure["data"]
    assert sorted(trace["name"] for trace in solvers) == ["DDIM", "UniPC"]
    assert sum(len(trace["x"]) for trace in solvers) == len(found) == 7
    # nothing beats these in work and FID
    assert list(zip(line["x"], line["y"], strict=True)) == [
        (5e-9, 24.0),
        (6.7e-9, 19.0),
        (1e-8, 18.0),
    ]
    words = front_view.front_words(found)
    numbers = {n: x for t in solvers for n, x in zip(t["text"], t["x"], strict=True) if n}
    assert sorted(numbers) == ["1", "2", "3"] and list(line["x"]) == [numbers[n] for n in "123"]
    assert words.count("<li>") == 3 and words.index("formula 0.5") < words.index("formula 0.33")
    assert "pruning is ahead at 3 of 3 amounts of work" in words
    assert "FID 30.0" in words and "with 24.0" in words and "one seed" in words
    assert front_view.front_figure(found, "seconds") == front_view.EMPTY  # nothing was timed
    judged = [
        r | {"stage": "judge", "seed": seed, "fid": r["fid"] + 2 * (seed % 2)}
        for r in ROWS[1:]
        for seed in (100, 101)
    ]
    judged[2 * 3]["fid"] += 30  # dense UniPC 5 on one seed: it is the best at .6 and .5
    words = front_view.front_words(front_rows.shown([*ROWS, *judged]))
    assert "2 seeds" in words and "too close to call are 2" in words


def test_a_card_stands_where_a_model_has_a_study(workshop, tmp_path):
    def card(text):
        folder = tmp_path
        (folder / front_rows.FILE).write_text(text)
        place = SimpleNamespace(checkpoint=SimpleNamespace(folder=folder))
        with gr.Blocks():
            made = front_view.FrontCard(place, "front")
            made.wire()
        return made

    made = card(json.dumps(ROWS))
    found = made.on_cost(front_view.TIME)  # not offered: nothing was timed
    assert not found[made.cost]["visible"] and "GMACs" in found[made.chart]["figure"]
    timed = [r | {"stage": "judge"} for r in ROWS[1:]]
    timed += [r | {"stage": "time", "seconds": 1.5, "seconds_spread": 0.1} for r in ROWS[1:]]
    made = card(json.dumps(timed))
    found = made.on_cost(front_view.TIME)
    assert found[made.cost]["visible"] and "seconds of the whole run" in found[made.chart]["figure"]
    damaged = card("[{}]")
    assert "is damaged" in damaged.on_cost(front_view.WORK)[damaged.words]
    with gr.Blocks():
        assert not front_view.FrontCard(workshop, "none").there


def test_dense_rows_of_the_study_are_taken(tmp_path, judged_workshop, monkeypatch):
    kept = {"method": "dense", "base_steps": 50, "steps": 50, "seed": 1, "n": 2000, "macs": 1.0}
    kept |= {"fid": 9.0, "class_accuracy": 1.0, "variance_ratio": 1.0, "dtype": "bfloat16"}
    kept |= {"device": "CPU", "when": "2026-11-28 12:00", "guidance": judged_workshop.guidance}
    others = ({"n": 500}, {"seed": 9}, {"method": "uniform OBS 0.5"}, {"guidance": 7.0})
    (tmp_path / "study.json").write_text(json.dumps([kept, *(kept | other for other in others)]))
    place = SimpleNamespace(
        **{name: getattr(judged_workshop, name) for name in ("guidance", "name")},
        checkpoint=SimpleNamespace(folder=tmp_path),
    )
    monkeypatch.setattr(Configuration, "macs", lambda *_: 50.0)
    (row,) = study.from_study(place)
    assert (row["stage"], row["seed"], row["fid"], row["macs"]) == ("judge", 1, 9.0, 50.0)
    assert front_rows.kind_of(row) == front_rows.USUAL
    place.checkpoint.folder = tmp_path / "none"
    assert study.from_study(place) == []


def test_what_the_tuner_found_is_judged_under_its_speedup(tmp_path):
    path = tmp_path / "searches.json"
    rows = [
        row(way, "UniPC", steps, 1.0, 9.0, "found", seed, plan=plan)
        | {"way": way, "speedup": speedup}
        for way, speedup, seed, steps, plan in (
            ("formula 0.33", 8.0, None, 5, PRUNED),
            ("tuner", 8.0, 0, 6, PRUNED),
            ("tuner", 8.0, 1, 7, PRUNED),  # one search for a budget is enough
            ("tuner, nothing removed", 4.0, 0, 9, PRUNED.with_sparsity(0, 0, 0)),
        )
    ]
    path.write_text(json.dumps(rows))
    found = study.tuned(path)
    assert [(what.label, what.steps) for what in found] == [
        ("tuner ×8", 6),
        ("tuner ×8, its cut left out", 6),
        ("tuner ×4, nothing removed", 9),
    ]
    assert found[0].plan == PRUNED and found[1].plan == PRUNED.with_sparsity(0, 0, 0)
    path.write_text(json.dumps(rows[:1]))
    with pytest.raises(StudioError, match=r"searches.json has nothing that the tuner found"):
        study.tuned(path)


def test_a_study_resumes_and_every_stage_follows(judged_workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "SOLVERS", ("UniPC",))
    monkeypatch.setattr(study, "STEPS", (10, 4))
    monkeypatch.setattr(study, "SCALES", (1.0,))
    monkeypatch.setattr(study, "TARGETS", (0.33,))
    monkeypatch.setattr(study, "CHOOSING", {"n": 200, "seeds": (7,)})
    monkeypatch.setattr(study, "JUDGING", {"n": 200, "seeds": (0, 1)})
    monkeypatch.setattr(study, "BATCH", 2)
    monkeypatch.setattr(study, "ROUNDS", 1)
    path = tmp_path / "front.json"
    assert not study.run_stage(judged_workshop, "choose", study.Rows(path), 0.0, torch.float32)
    assert study.run_stage(judged_workshop, "choose", study.Rows(path), 1.0, torch.float32)
    rows = json.loads(path.read_text())
    assert len(rows) == len(list(study.everything(judged_workshop))) == 16
    with pytest.raises(StudioError, match="No contender"):
        other = study.Only(labels=("densed",))
        study.run_stage(judged_workshop, "choose", study.Rows(path), 1.0, torch.float32, other)
    one = study.Only(steps=(4,), labels=("dense",))
    assert [what.label for what in study.everything(judged_workshop, one)] == ["dense"]
    # three rows lost: only they are drawn again
    path.write_text(json.dumps(rows[:-3]))
    drawn = []
    real = study.draw
    monkeypatch.setattr(study, "draw", lambda *a, **k: drawn.append(k) or real(*a, **k))
    assert study.run_stage(judged_workshop, "choose", study.Rows(path), 1.0, torch.float32)
    assert len(drawn) == 3
    again = json.loads(path.read_text())
    assert [r["fid"] for r in again] == pytest.approx([r["fid"] for r in rows])
    one = Configuration(None, "UniPC", 3, 1.5, "tuner ×9")
    for stage in ("judge", "time"):
        rows, hours = study.Rows(path), 1.0
        assert study.run_stage(judged_workshop, stage, rows, hours, torch.float32, more=[one])
        assert rows.has(stage=stage, configuration=one.to_json())
    assert "model" in drawn[-1]  # no time holds the making of a network
    table = front_table.contender_table(front_rows.shown(study.Rows(path).rows))
    assert "| dense | UniPC 10 | 1.5 |" in table and " ± " in table and "- |" not in table
    path.write_text("[")
    with pytest.raises(StudioError, match="is damaged"):
        study.Rows(path)
