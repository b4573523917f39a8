"""A plan that removes nothing waits for no calibration, wherever it is run from."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import app
from core import cli as commands
from core.curves.plan import StagePlan
from core.models.checkpoints import load_checkpoint
from core.workshop.compare import compare
from core.workshop.comparison import Comparison, SampleSettings
from core.workshop.workshop import Workshop
from mosaic_ui.compare import inputs as compare_inputs
from mosaic_ui.compare import run as compare_run
from mosaic_ui.studio import Studio

NOTHING = StagePlan((93, 550), (0, 0, 0))
SHARED = [
    NOTHING,
    replace(NOTHING, allocation="dynamic"),
    replace(NOTHING, scope="run", protect=1.0),
    replace(NOTHING, multiple=16, costs="latency"),
]
TOO_LITTLE = StagePlan((93, 550), (0, 1e-4, 0))
SETTINGS = SampleSettings((1, 2), steps=4, repeats=1)
VISITOR = SimpleNamespace(session_hash="nothing")


@pytest.fixture
def fresh(model_folder, small_settings, tmp_path, monkeypatch):
    """A workshop that may not calibrate."""
    shop = Workshop(
        load_checkpoint(model_folder, "cpu", dtype=torch.float32),
        small_settings,
        tmp_path / "cache",
    )
    monkeypatch.setattr(shop, "calibrate", lambda *_: pytest.fail("calibrated for nothing"))
    return shop


def test_one_question_knows_what_waits_for_a_calibration(fresh, workshop):
    cut = StagePlan((93, 550), (0, 0, 0.5))
    assert not any(map(fresh.needs_calibration, [None, *SHARED, TOO_LITTLE]))
    waiting = [cut, replace(TOO_LITTLE, allocation="lagrangian"), replace(cut, scope="run")]
    assert all(map(fresh.needs_calibration, waiting)) and not any(
        map(workshop.needs_calibration, waiting)
    )
    magnitude = replace(cut, method="magnitude")
    assert not fresh.needs_calibration(magnitude) and fresh.needs_calibration(
        magnitude, errors=True
    )
    assert not fresh.needs_calibration(replace(NOTHING, method="magnitude"), errors=True)


@pytest.mark.parametrize("plan", [*SHARED, TOO_LITTLE])
def test_compare_samples_at_once(fresh, plan):
    *previews, found = compare(fresh, None, plan, SETTINGS)
    assert (
        isinstance(found, Comparison)
        and torch.equal(found.a.latents, found.b.latents)
        and found.speedup_macs == 1
    )
    assert not any("calibrating" in preview.text for preview in previews)


def test_the_page_prunes_and_compares_at_once(fresh):
    jobs_of = Studio(fresh, NOTHING).prune.jobs
    jobs_of.ask_prune(NOTHING.to_json(), "DDIM", 4, VISITOR)
    said = [*jobs_of.on_prune(VISITOR)][-1][jobs_of.job]
    assert "early 100 %" in said and "Calibrated" not in said
    request = compare_inputs.Request(SETTINGS, (None, NOTHING), ("Dense", "Nothing"))
    views = [
        str(view.get("live")) for view in compare_run.stream(fresh, request, threading.Event())
    ]
    assert not any("alibrating" in view for view in views)


def test_the_verbs_do_not_calibrate(fresh, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(commands, "_workshop", lambda args: fresh)
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    plan.write_text(NOTHING.dumps())
    assert (
        app.main(["prune", "--plan", str(plan), "--out", str(out), "--steps", "4", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (
        found["speedup_macs"] == 1
        and set(found["error"].values()) == {0.0}
        and all(row["kept"] == row["of"] for row in found["layers"])
    )
    few = ["--images", "2", "--steps", "4", "--repeats", "1", "--json"]
    assert app.main(["compare", "--plan", str(plan), "--against", str(plan), *few]) == 0
    assert "same network" in json.loads(capsys.readouterr().out)["verdict"]
