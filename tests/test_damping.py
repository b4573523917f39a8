"""What was asked and what was in force: too few tokens and no damping, said by subnetworks,
manifest, prune verb and studio alike.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from mosaics import mosaic_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_cli import PLAN, verb

from core.calibration.settings import CalibrationSettings
from core.curves.plan import STAGES, StagePlan
from core.errors import StudioError
from core.models.bundled import FASHION
from core.models.checkpoints import load_checkpoint
from core.models.layers import find_layers
from core.mosaic.damping_report import damping_facts, damping_sentence, dampings, with_dampings
from core.mosaic.slimming import full_width
from core.pruning.cuts import Damping
from core.pruning.layer_cuts import LayerPruner
from core.pruning.obs import compensated_weights, compensation
from core.pruning.orders import RemovalOrders, find_orders, orders_file
from core.workshop.workshop import Workshop
from mosaic_ui.prune import views as prune_views
from mosaic_ui.studio import Studio

# 128 tokens per bin for 256 neurons and 64 columns of heads
FEW = CalibrationSettings(edges=(0, 500, 1000), images=4, held_out=2, damping=0.0)
STAGE_PLAN = StagePlan((500, 900), (0.25, 0.25, 0.0))
NEURONS = ["block 1 neurons", "block 2 neurons"]


@pytest.fixture(scope="module")
def scarce(model_folder, tmp_path_factory) -> Workshop:
    """Calibrated on half as many tokens as its MLPs have neurons, damping 0 asked for."""
    shop = Workshop(
        load_checkpoint(model_folder, "cpu", dtype=torch.float32),
        FEW,
        tmp_path_factory.mktemp("scarce"),
    )
    shop.calibrate()
    return shop


# ------------------------------------------------------------ subnetworks


def test_the_damping_said_is_the_one_the_weights_come_from(scarce):
    """Solved anew from the Gram with nothing but the rung and the number that the cut carries."""
    used = dampings(scarce.build(STAGE_PLAN))
    # the early stage lost nothing
    assert set(used) == {
        (stage, layer.name) for stage in ("late", "middle") for layer in scarce.layers
    }
    rungs = set()
    for stage in (0, 1):
        for i, layer in enumerate(scarce.layers):
            low, high = STAGE_PLAN.stage_range(stage)
            cut, said = (
                scarce.pruner.cut(i, low, high, scarce.removed(0.25)[i]),
                used[STAGES[stage], layer.name],
            )
            assert cut.damping == said and said.asked == 0 and said.plain == (said.in_force == 0)
            rungs.add(said.rung)
            gram = scarce.bank.gram(i, low, high)[0].double()
            gram = gram / gram.diagonal().mean()
            if said.rung == "eigenvalue floor":
                values, vectors = torch.linalg.eigh(gram)
                gram = (vectors * values.clamp_min(said.in_force)) @ vectors.T
            else:
                gram = gram + said.in_force * torch.eye(len(gram), dtype=torch.float64)
            kept = (cut.kept[:, None] * layer.group_size + torch.arange(layer.group_size)).flatten()
            weight = scarce.pruner.weight(i).double()
            best = torch.linalg.solve(gram[kept][:, kept], (weight @ gram)[:, kept].T).T
            assert (cut.weight.double() - best).norm() < 1e-4 * best.norm()
    assert {"plain", "eigenvalue floor"} <= rungs


def test_weights_from_a_stored_path_say_theirs_too(scarce):
    low, high = STAGE_PLAN.stage_range(0)
    pruner = LayerPruner(scarce.transformer, scarce.layers, scarce.bank, scarce.orders)
    pruner.errors(3, low, high, 64)
    path, _ = pruner.path(3, low, high)
    assert path.rung == "eigenvalue floor" and 0 < path.damping < 1e-4
    cut = pruner.cut(3, low, high, 64)
    assert cut.damping == Damping(0.0, path.damping, path.rung) and torch.equal(
        full_width(scarce.layers[3], cut.kept, cut.weight), path.weights_at(64)
    )


def test_compensation_is_compensated_weights_and_says_how():
    weight, inputs = (
        torch.randn(3, 8, generator=torch.Generator().manual_seed(0)),
        torch.eye(8)[:, :5],
    )
    for gram, kept, expected in (
        (torch.eye(8), [0, 3], (0.0, "plain")),
        (inputs @ inputs.T, range(8), (0.0, "plain")),
        (torch.eye(8), [], (0.0, "plain")),
        (torch.ones(8, 8), [0, 3], (1e-10, "damping raised to 1e-10")),
    ):
        best, in_force, rung = compensation(weight, gram, list(kept), 0.0)
        assert (in_force, rung) == expected and torch.equal(
            best, compensated_weights(weight, gram, list(kept), 0.0)
        )


def test_what_was_not_compensated_has_no_damping(workshop, scarce):
    magnitude = scarce.build(StagePlan((500, 900), (0.25, 0.25, 0.25), method="magnitude"))
    assert (
        dampings(magnitude)
        == dampings(scarce.dense)
        == dampings(mosaic_of(workshop.transformer))
        == {}
        and damping_sentence(magnitude) is None
    )
    # everything gone: the mean output, which needs none
    assert scarce.pruner.cut(1, 0, 500, scarce.layers[1].groups).damping is None
    plenty = workshop.build(StagePlan((100, 600), (0.5, 0.25, 0.75)))
    assert len(dampings(plenty)) == 12 and all(
        d.plain and d.in_force == d.asked for d in dampings(plenty).values()
    )
    assert damping_sentence(plenty) is None


# ------------------------------------------------------------ facts and sentences


def test_facts_of_a_manifest(scarce):
    mosaic = scarce.build(STAGE_PLAN)
    facts, used = damping_facts(mosaic, scarce.orders), dampings(mosaic)
    assert (
        list(facts) == [layer.name for layer in scarce.layers]
        and json.loads(json.dumps(facts, allow_nan=False)) == facts
    )
    for name, said in facts.items():
        assert said["asked"] == 0 and said["in_force"] == {
            stage: used[stage, name].in_force for stage in ("late", "middle")
        }
        assert said.get("rung", {}) == {
            stage: used[stage, name].rung
            for stage in ("late", "middle")
            if not used[stage, name].plain
        }
        # searched at damping 1e-3
        assert (
            said.get("curves") == (["eigenvalue floor"] if name in NEURONS else None)
            and "order" not in said
        )


def test_rows_of_the_layer_table(scarce):
    mosaic = scarce.build(STAGE_PLAN)
    rows = scarce.layer_table(STAGE_PLAN)
    wider = with_dampings(rows, mosaic)
    for row, more in zip(rows, wider, strict=True):
        said = dampings(mosaic).get((row["stage"], row["layer"]))
        assert row.items() <= more.items() and "damping" not in row
        assert (more["damping_asked"], more["damping"]) == (
            (None, None) if said is None else (0.0, said.in_force)
        )
        assert more.get("rung") == (None if said is None or said.plain else said.rung)
    assert {row["layer"] for row in wider if row.get("rung")} >= set(NEURONS)


def test_orders_keep_the_rungs_of_every_layer(scarce):
    fresh = find_orders(scarce.transformer, scarce.layers, scarce.bank, "here", damping=0.0)
    # from the layers kept
    resumed = find_orders(scarce.transformer, scarce.layers, scarce.bank, "here", damping=0.0)
    saved = RemovalOrders.load(scarce.folder, scarce.layers, name=orders_file(scarce.settings))
    assert fresh.rungs == resumed.rungs == saved.rungs and [len(r) for r in saved.rungs] == [3] * 4
    assert [r[0] for r in saved.rungs] == ["plain"] * 4 and saved.rungs[1][1:] == saved.rungs[3][
        1:
    ] == ["eigenvalue floor"] * 2
    for path in scarce.folder.glob("ordered-*"):
        path.unlink()


def test_orders_of_before_rungs_were_kept_are_read_and_say_nothing_of_them(scarce, tmp_path):
    path, name = scarce.folder / orders_file(scarce.settings), "orders.safetensors"
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    rungs = facts.pop("rungs")
    save_file(load_file(path), tmp_path / name, metadata={"facts": json.dumps(facts)})
    older = RemovalOrders.load(tmp_path, scarce.layers)
    assert older.rungs is None and older.damping == scarce.orders.damping
    said = damping_facts(scarce.build(STAGE_PLAN), older)
    assert said == {
        k: {x: y for x, y in v.items() if x != "curves"}
        for k, v in damping_facts(scarce.build(STAGE_PLAN), scarce.orders).items()
    }
    save_file(
        load_file(path),
        tmp_path / name,
        metadata={"facts": json.dumps(facts | {"rungs": rungs[1:]})},
    )
    with pytest.raises(StudioError, match="calibrate again"):
        RemovalOrders.load(tmp_path, scarce.layers)
    assert (
        len(
            RemovalOrders.load(
                FASHION / "calibration", find_layers(load_checkpoint(FASHION, "cpu").denoiser)
            ).damping
        )
        == 16
    )


# ------------------------------------------------------------ prune, without and with a browser


def test_the_studio_says_it_after_prune(workshop, scarce):
    said = prune_views.pruned_sentence(scarce, STAGE_PLAN, 0.5, scarce.build(STAGE_PLAN))
    assert (
        said.count("needed more damping than asked") == 1
        and "block 2 neurons" in said
        and "instead of 0 (eigenvalue floor)" in said
    )
    assert said.startswith(prune_views.pruned_sentence(scarce, STAGE_PLAN, 0.5) + " ")
    plan = StagePlan((100, 600), (0.5, 0.25, 0.75))
    assert prune_views.pruned_sentence(
        workshop, plan, 0.5, workshop.build(plan)
    ) == prune_views.pruned_sentence(workshop, plan, 0.5)


def test_the_prune_button_says_it_of_what_it_built(scarce):
    jobs_of, visitor = (
        Studio(scarce, STAGE_PLAN).prune.jobs,
        SimpleNamespace(session_hash="visitor"),
    )
    for _ in range(2):  # built, and kept from before
        jobs_of.ask_prune(STAGE_PLAN.to_json(), "DDIM", 50, visitor)
        said = [*jobs_of.on_prune(visitor)][-1][jobs_of.job]
        assert damping_sentence(scarce.build(STAGE_PLAN)) in said


def test_prune_says_it_in_its_text_its_json_and_the_manifest(
    capsys, monkeypatch, model_folder, tmp_path
):
    monkeypatch.setenv("MOSAIC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    few = (
        "--model",
        str(model_folder),
        "--plan",
        str(tmp_path / "plan.json"),
        "--bins",
        "2",
        "--images-per-bin",
        "4",
        "--damping",
        "0",
    )
    code, text, err = verb(capsys, "prune", *few, "--out", str(tmp_path / "a"))
    assert code == 0, err
    [line] = [line for line in text.splitlines() if "damping" in line]
    assert line.startswith(
        "2 of 4 layers needed more damping than asked: block 1 neurons "
    ) and line.endswith("or with a larger damping.")
    code, text, err = verb(capsys, "prune", *few, "--out", str(tmp_path / "b"), "--json")
    assert code == 0, err
    rows, manifest = (
        json.loads(text)["layers"],
        json.loads((tmp_path / "b" / "manifest.json").read_text()),
    )
    assert manifest["report"]["layers"] == rows
    for row in rows:
        said = manifest["damping"][row["layer"]]
        assert (said["asked"], said["in_force"][row["stage"]]) == (
            row["damping_asked"],
            row["damping"],
        ) and row["damping_asked"] == 0
        assert said.get("rung", {}).get(row["stage"]) == row.get("rung")
    late = {row["layer"]: row for row in rows if row["stage"] == "late"}
    assert (
        late["block 1 neurons"]["damping"] > 0
        and late["block 1 neurons"]["rung"] == "eigenvalue floor"
    )
    assert late["block 1 heads"]["damping"] == 0 and "rung" not in late["block 1 heads"]
