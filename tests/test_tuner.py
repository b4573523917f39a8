"""The tuner: budgets, the front, held-out judging, stops, kills, refusals. Tiny random DiT."""

from __future__ import annotations

import itertools
import json
import math
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import APP, Forked
from judges import random_judge

from core.curves.plan import StagePlan
from core.errors import Stopped, StudioError
from core.sampling.metrics import Judge
from core.sampling.timing import LatencyTable
from core.tuner import search
from core.tuner.configuration import Configuration
from core.tuner.goal import Effort, Goal, checked_fixed
from core.tuner.kept import question
from core.tuner.quality import FeatureQuality, LatentQuality, draw, usual_quality
from core.tuner.record import Evaluation, Journal, front
from core.tuner.search import Report, Tune, Tuned
from core.tuner.space import Space

REFERENCE_STEPS = 16
EFFORT = Effort(seconds=600, evaluations=9, images=6, held_out=4)


def reference(**other) -> Configuration:
    return replace(Configuration(None, "DDIM", REFERENCE_STEPS, 1.5, "dense"), **other)


def tune_of(
    workshop, goal=None, effort=EFFORT, folder=None, stop=None, quality=None, whole=None, **space
):
    goal = goal or Goal(speedup=4)
    own = Space(workshop, whole or reference(), cost=goal.counts, **space)
    judged = quality or usual_quality(workshop, own.reference)
    return Tune(workshop, goal, replace(own, moves=judged.moves), judged, effort, folder, stop)


def finish(tune) -> Tuned:
    *reports, last = tune.run()
    assert all(isinstance(r, Report) for r in reports) and isinstance(last, Tuned)
    return last


@pytest.fixture(scope="module")
def judge() -> Judge:
    return random_judge()


@pytest.fixture(scope="module")
def found(workshop) -> tuple[Tune, Tuned]:
    tune = tune_of(workshop)
    return tune, finish(tune)


# ------------------------------------------------------------ what is found


def test_no_plan_of_the_search_exceeds_its_budget(workshop, found):
    tune, tuned = found
    budget = tuned.reference.macs / 4
    best = tuned.best.configuration
    assert best.macs(workshop) <= budget * 1.001 and tuned.speedup_macs >= 3.99
    assert tuned.best.macs == best.macs(workshop)
    searched = [e for e in tuned.evaluations if e.params is not None]
    assert len(searched) >= 5
    seen = len(tuned.evaluations)
    assert seen <= EFFORT.evaluations + len(search.LADDER)
    assert sum(e.macs <= budget * 1.001 for e in searched) >= 5


def test_budgets_are_counted_from_what_runs(workshop, found):
    """Rows of all steps of a run of the best plan, seen by a hook."""
    what = found[1].best.configuration
    rows = 0

    def count(_module, args, _out):
        nonlocal rows
        rows += len(args[0])

    mosaic = workshop.build(what.plan.counted(what.timesteps(workshop)))
    handle = mosaic.full.pos_embed.proj.register_forward_hook(count)  # one for all networks
    try:
        draw(workshop, what, 3, seed=5)
    finally:
        handle.remove()
    assert rows == 3 * sum(step.rows for step in what.work(workshop))


def test_the_best_is_the_best_of_the_finalists_by_held_out_noises(found):
    tuned = found[1]
    judged = [e for e in tuned.evaluations if e.held_out is not None]
    assert 1 <= len(judged) <= search.FINALISTS
    assert tuned.best.held_out == min(e.held_out for e in judged)
    assert tuned.speedup is not None and tuned.speedup[0] > 0


def test_the_front_is_what_nothing_beats(found):
    own = list({e.configuration: e for e in found[1].evaluations}.values())

    def beaten(one):
        return any(
            o.macs <= one.macs
            and o.quality <= one.quality
            and o != one
            and (o.macs < one.macs or o.quality < one.quality)
            for o in own
        )

    wanted = [e for e in own if not beaten(e)]
    assert {e.configuration for e in front(own)} == {e.configuration for e in wanted}
    assert len(found[1].front) >= 5
    costs = [e.macs for e in found[1].front]
    assert costs == sorted(costs)


def test_the_same_search_finds_the_same(workshop, found):
    reports = itertools.islice(tune_of(workshop).run(), 8)
    *_, last = reports  # well into the sampler's own numbers
    again = [e.configuration for e in last.evaluations]
    assert len(again) == 8
    assert again == [e.configuration for e in found[1].evaluations][:8]


def test_the_paper_and_fewer_steps_are_there_from_the_start(found):
    labels = [e.configuration.label for e in found[1].evaluations]
    assert labels[0] == "dense"
    assert "formula 0.33" in labels and "dense, fewer steps" in labels


def test_distances_are_those_of_the_latents(workshop, found):
    one = next(e for e in found[1].evaluations if e.params is not None)
    drawn = draw(workshop, one.configuration, 6, 0)
    dense = draw(workshop, reference(), 6, 0)
    wanted = float((drawn.latents - dense.latents).double().square().mean())
    assert one.quality == pytest.approx(wanted, rel=1e-3, abs=1e-9)
    # without pictures that may move, guidance stays as it is
    assert all(not e.configuration.plan.sets_guidance for e in found[1].front[:-1])


@pytest.fixture
def lean(monkeypatch):
    """Nothing is drawn to fill the front, and two finalists, where each costs 200 pictures."""
    monkeypatch.setattr(search, "LADDER", ())
    monkeypatch.setattr(search, "FINALISTS", 2)


def test_features_let_guidance_change(workshop, judge, lean):
    quality = FeatureQuality(judge)
    effort, few = replace(EFFORT, images=200, held_out=200, evaluations=4), reference(steps=8)
    tune = tune_of(workshop, Goal(speedup=3), effort, quality=quality, whole=few, steps=4)
    tuned = finish(tune)
    plans = [e.configuration.plan for e in tuned.evaluations if e.params is not None]
    assert any(plan.guidance[2] == 1 for plan in plans)
    assert {e.configuration.steps for e in tuned.evaluations if e.params} == {4}
    for one in tuned.evaluations[:2]:
        images = draw(workshop, one.configuration, 200, 0).images
        assert one.quality == pytest.approx(judge.fid(images), rel=1e-2)
    with pytest.raises(StudioError, match="needs at least 200 images"):
        tune_of(workshop, effort=EFFORT, quality=quality)


def test_as_good_as_dense(workshop, judge, lean):
    """Whatever is found is no worse on held-out noises, or it is said that nothing was."""
    effort = replace(EFFORT, images=200, held_out=200, evaluations=5)
    few = reference(steps=6)
    tune = tune_of(
        workshop, Goal(match_dense=True), effort, quality=FeatureQuality(judge), whole=few
    )
    tuned = finish(tune)
    if tuned.notes:
        assert "Nothing cheaper" in tuned.notes[0]
    else:
        assert tuned.best.held_out <= tuned.reference.held_out
        assert tuned.best.macs < tuned.reference.macs
    with pytest.raises(StudioError, match="takes a feature network"):
        tune_of(workshop, Goal(match_dense=True))


def test_seconds_can_be_the_budget(workshop, monkeypatch):
    # by MACs alone: whether a third can be had must not depend on this machine's moment
    table = LatencyTable("here", 32, (0.0, 1e9), (0.0, 1.0))
    monkeypatch.setattr(workshop, "latency", lambda *a, **k: table, raising=False)
    whole = reference().seconds(workshop, 16)
    goal = Goal(run_seconds=whole / 3)
    tuned = finish(tune_of(workshop, goal, replace(EFFORT, evaluations=6)))
    assert tuned.best.seconds <= whole / 3 * 1.001
    assert Goal(speedup=2, cost="seconds").budget(whole) == whole / 2


def test_few_steps_are_reused_too(workshop):
    space = Space(workshop, reference())
    budget = space.spend(reference()) / 4
    seeds = dict(space.seeds(budget))
    wanted = {f"{who}reuse 2, forecast, guidance off early" for who in ("", "formula 0.2, ")}
    assert wanted <= set(seeds)
    for label in wanted:
        what = space.configuration(seeds[label], budget, label)
        assert what.plan.reuse == (2, 2, 2) and what.plan.reuse_order == 1
        assert what.plan.guidance == (None, None, 1.0) and what.steps < 12
        assert any(what.plan.sparsity) == ("formula" in label)
        assert 0.5 * budget < what.macs(workshop) <= 1.001 * budget
    last = space.configuration(seeds[label] | {"forecast": False}, budget)
    assert last.plan.reuse == (2, 2, 2) and last.plan.reuse_order == 0
    few = space.configuration(seeds[label] | {"steps": 4}, budget)
    assert not few.plan.reuses and few.plan.reuse_order == 0


def test_the_cheapest_is_the_cheapest_of_all_steps(workshop):
    space = Space(workshop, reference())
    every = [space.spend(replace(space, steps=n).cheapest()) for n in range(3, 51)]
    assert space.spend(space.cheapest()) == min(every)
    assert space.cheapest().plan.reuses  # three steps in full cost more


def test_a_search_that_removes_nothing(workshop):
    space = Space(workshop, reference(), cuts=False)
    assert not {"early", "middle", "late", "dynamic"} & set(space.ranges())
    assert not any(space.cheapest().plan.sparsity)
    whole = space.spend(reference())
    seeds = dict(space.seeds(whole / 4))
    wanted = {"dense, fewer steps", "reuse 2, forecast"}
    early = ", guidance off early"
    assert set(seeds) == {"dense, fewer steps", *(one + early for one in wanted)}
    tuned = finish(tune_of(workshop, effort=replace(EFFORT, evaluations=6), cuts=False))
    assert len(tuned.evaluations) >= 6
    assert not any(any(e.configuration.plan.sparsity) for e in tuned.evaluations[1:])
    assert tuned.best.macs <= 1.001 * whole / 4
    judged = usual_quality(workshop, reference())
    asked = question(Goal(speedup=2), space, judged, EFFORT)
    assert asked["cuts"] is False
    assert "cuts" not in question(Goal(speedup=2), replace(space, cuts=True), judged, EFFORT)


def test_a_mode_has_seconds_of_its_own_and_no_reuse(workshop, monkeypatch):
    asked = []

    def latency(rows, shape=None, mode="plain", tabulated=True):
        asked.append(mode)
        return LatencyTable("here", rows, (1.0, 2.0), (0.5, 0.5))

    monkeypatch.setattr(workshop, "latency", latency, raising=False)
    space = Space(workshop, reference(), cost="seconds", mode="compiled")
    made = sum(step.table for step in reference().work(workshop, 16)) * 16 * 0.5 / (2.0 * 32)
    assert made > 0
    assert space.spend(reference()) == pytest.approx(0.5 * REFERENCE_STEPS + made)
    assert set(asked) == {"compiled"}
    assert not [name for name in space.ranges() if name.startswith("reuse")]
    assert not space.cheapest().plan.reuses
    plain = Space(workshop, reference(), steps=REFERENCE_STEPS)
    judged = usual_quality(workshop, reference())
    one, other = (question(Goal(speedup=2), s, judged, EFFORT) for s in (plain, space))
    assert "mode" not in one and other["mode"] == "compiled"


# ------------------------------------------------------------ stops, kills, folders


def test_stop_keeps_the_best_so_far(workshop):
    stop, seen = threading.Event(), []
    for item in tune_of(workshop, stop=stop).run():
        seen.append(item)
        if len(seen) == 4:
            stop.set()
    last = seen[-1]
    assert isinstance(last, Tuned) and last.stopped and last.best.macs <= last.reference.macs / 3.99
    assert last.best.quality == min(e.quality for e in last.evaluations if e.params is not None)


def test_stop_before_anything_was_found(workshop):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        list(tune_of(workshop, stop=stop).run())


def test_a_tune_goes_on_from_its_folder(workshop, tmp_path, monkeypatch):
    short = replace(EFFORT, evaluations=4)
    first = finish(tune_of(workshop, effort=short, folder=tmp_path / "t"))
    lines = (tmp_path / "t" / "evaluations.jsonl").read_text()
    # a kill while a line was written
    (tmp_path / "t" / "evaluations.jsonl").write_text(lines + lines.splitlines()[0][:50])
    drawn = []

    def noted(workshop, what, n, seed, *rest, **options):
        drawn.append((what, n))
        return draw(workshop, what, n, seed, *rest, **options)

    monkeypatch.setattr(search, "draw", noted)
    again = finish(tune_of(workshop, folder=tmp_path / "t"))
    before = {e.configuration for e in first.evaluations}
    assert before < {e.configuration for e in again.evaluations}
    assert not [what for what, n in drawn if n == EFFORT.images and what in before]
    assert again.seconds > sum(e.took for e in first.evaluations)
    kept = (tmp_path / "t" / "evaluations.jsonl").read_text().splitlines()
    assert all(json.loads(line)["configuration"] for line in kept)


@pytest.mark.parametrize("other", [{"goal": Goal(speedup=3)}, {"effort": replace(EFFORT, seed=1)}])
def test_a_folder_of_another_tune_is_refused(workshop, tmp_path, other):
    tune_of(workshop, folder=tmp_path / "t")
    with pytest.raises(StudioError, match="holds a tune with another"):
        tune_of(workshop, folder=tmp_path / "t", **other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("a")
    with pytest.raises(StudioError, match="holds other files"):
        tune_of(workshop, folder=tmp_path / "full")
    (tmp_path / "t" / "tune.json").write_text("{")
    with pytest.raises(StudioError, match="is damaged"):
        tune_of(workshop, folder=tmp_path / "t")


def test_a_full_disk_is_one_sentence(workshop, tmp_path, monkeypatch):
    tune = tune_of(workshop, folder=tmp_path / "t")
    real = Path.open

    def full(self, *args, **more):
        if self.name == "evaluations.jsonl":
            raise OSError(28, "No space left on device")
        return real(self, *args, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StudioError, match="could not be written"):
        list(tune.run())


def test_evaluations_there_and_back():
    what = Configuration(
        StagePlan((93, 550), (0.1, 0, 0.4)).with_guidance(early=1), "UniPC", 7, 2.0
    )
    one = Evaluation(what, 1e9, None, 12.5, 256, 3.5, {"steps": 7}, held_out=11.0)
    assert Evaluation.from_json(json.loads(json.dumps(one.to_json()))) == one
    with pytest.raises(StudioError, match="was not measured"):
        one.cost("seconds")
    assert Journal(None, {}).spent == 0


# ------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"speedup": 2, "match_dense": True},
        {"speedup": math.nan},
        {"speedup": 1},
        {"speedup": "fast"},
        {"run_seconds": 0},
        {"speedup": 2, "cost": "watts"},
    ],
)
def test_wrong_goals_are_refused(wrong):
    with pytest.raises(StudioError):
        Goal(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"seconds": 0}, {"seconds": math.inf}, {"images": 0}, {"evaluations": 1.5}, {"seed": -1}],
)
def test_wrong_efforts_are_refused(wrong):
    with pytest.raises(StudioError):
        Effort(**wrong)


def test_a_budget_nobody_can_meet_says_the_nearest(workshop):
    with pytest.raises(StudioError, match=r"the nearest is ×\d.*UniPC in 5 steps"):
        list(tune_of(workshop, Goal(speedup=5000)).run())
    with pytest.raises(StudioError, match="or leave the steps open"):
        list(tune_of(workshop, Goal(speedup=50), steps=REFERENCE_STEPS).run())
    with pytest.raises(StudioError, match="not known"):
        checked_fixed(None, "Magic", 1000)


def test_too_little_time_is_said(workshop):
    with pytest.raises(StudioError, match="Allow more time"):
        list(tune_of(workshop, effort=replace(EFFORT, evaluations=1)).run())


@pytest.mark.parametrize("where", ["/nowhere/at/all", ""])
def test_an_encoder_that_does_not_load_is_one_sentence(workshop, where):
    with pytest.raises(StudioError):
        usual_quality(workshop, reference(), encoder=where)
    with pytest.raises(StudioError, match="ships no feature network"):
        usual_quality(workshop, reference(), "features")
    assert isinstance(usual_quality(workshop, reference()), LatentQuality)


def test_a_named_encoder_judges(workshop, tmp_path):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
    )
    ViTModel(config).save_pretrained(tmp_path / "vit", safe_serialization=True)
    quality = usual_quality(workshop, reference(), encoder=str(tmp_path / "vit"))
    assert "vit" in quality.name
    scores = [quality.score(draw(workshop, reference(steps=s), 40, 0), 0) for s in (2, 12)]
    assert all(math.isfinite(s) and s > 0 for s in scores) and scores[0] != scores[1]


# ------------------------------------------------------------ the command line


def test_a_killed_tune_goes_on(model_folder, tmp_path, monkeypatch):
    """SIGKILL as soon as three evaluations are on the disk; the same command then ends well."""
    monkeypatch.setenv("MOSAIC_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "t"
    asked = ["tune", "--model", str(model_folder), "--speedup", "3", "--steps", "16"]
    asked += ["--images", "4", "--held-out", "4", "--evaluations", "6", "--seconds", "500"]
    asked += ["--bins", "3", "--images-per-bin", "12", "--out", str(out), "--json"]
    first = Forked(APP, *asked)
    lines = out / "evaluations.jsonl"
    deadline = time.monotonic() + 120
    while not (lines.exists() and len(lines.read_text().splitlines()) >= 3):
        assert first.poll() is None and time.monotonic() < deadline, first.communicate(1)
        time.sleep(0.02)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    first.communicate()
    before = lines.read_text().splitlines()[:3]
    again = Forked(APP, *asked)
    said, errors = again.communicate()
    assert again.returncode == 0, errors
    result = json.loads(said)
    assert lines.read_text().splitlines()[:3] == before
    configurations = [
        json.dumps(json.loads(line)["configuration"])
        for line in lines.read_text().splitlines()
        if json.loads(line)["held_out"] is None
    ]
    assert len(set(configurations)) == len(configurations)  # nothing was drawn twice
    plan = StagePlan.from_json(result["plan"])
    assert StagePlan.load(out / "plan.json") == plan
    assert result["steps"] == 16 and result["scheduler"]
    assert result["speedup_macs"] >= 2.99 and result["evaluations"] >= 5
    assert json.loads((out / "result.json").read_text())["plan"] == result["plan"]
    assert {"plan", "steps", "scheduler", "macs", "seconds", "quality"} <= set(result["front"][0])


def test_a_goal_that_cannot_be_is_exit_code_2(model_folder, tmp_path, capsys):
    import app

    asked = ["tune", "--model", str(model_folder), "--out", str(tmp_path / "t")]
    assert app.main([*asked, "--speedup", "nan"]) == 2
    assert app.main([*asked, "--speedup", "2", "--seconds", "0"]) == 2
    assert app.main([*asked, "--match-dense"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith("app.py:")]) == 3
    with pytest.raises(SystemExit) as end:
        app.main([*asked, "--speedup", "2", "--match-dense"])
    assert end.value.code == 2
