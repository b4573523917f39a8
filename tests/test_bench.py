"""`python app.py bench`: every part on tiny models, counts that must come out exactly, and the
table. No clock is judged here.
"""

from __future__ import annotations

import copy
import json
import threading

import pytest
import torch
from test_cli import refused, verb
from tiny_sdxl import TINY_UNET

from core.bench import suite as suite_module
from core.bench.adaln import tabulation_benchmark
from core.bench.forward import forward_benchmark
from core.bench.kept import KeptParts
from core.bench.layouts import candidates, layouts_benchmark
from core.bench.macs import PARTS, linear_macs
from core.bench.measure import Effort, in_turn, ratio, verdict
from core.bench.memory import memory_benchmark, prefix_view_bytes, unique_bytes
from core.bench.modes import modes_benchmark
from core.bench.overhead import overhead_benchmark, rows_at_once
from core.bench.plans import plans_benchmark
from core.bench.realised import realised_benchmark, speed_benchmark, timesteps_of
from core.bench.subjects import (
    Subject,
    blocks_of_xl,
    gathering,
    mosaic_of,
    random_dit,
    shapes_of_dit,
    subject_of,
    uniform_cuts,
)
from core.bench.suite import PARTS as SUITE
from core.bench.suite import Suite, in_order, run_all, run_part
from core.bench.table import part_lines, ratio_line, table
from core.bench.xl_modes import xl_benchmark
from core.curves.proposals import propose_plan
from core.errors import Stopped, StudioError
from core.models.checkpoints import load_checkpoint
from core.models.layers import find_layers
from core.mosaic.transformer import embedders, embedders_equal
from core.sampling.timing import count_macs, forward_call, module_forward

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CPU = torch.device("cpu")
TINY = {
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "num_layers": 2,
    "sample_size": 8,
    "num_embeds_ada_norm": 1000,
}
TWICE = Effort(0.0, 2, 2)


@pytest.fixture(scope="module", autouse=True)
def macs_once():
    """Count the MACs of DiT-XL/2 once for the whole file."""
    counted, known = SUITE["macs"], []

    def part(suite: Suite) -> dict:
        known[:] = known or [counted(suite)]
        return copy.deepcopy(known[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(suite_module.PARTS, "macs", part)
        yield


@pytest.fixture(scope="module")
def blocks():
    return blocks_of_xl(CPU, torch.float32, **TINY)


@pytest.fixture(scope="module")
def unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    model = UNet2DConditionModel(**TINY_UNET).eval().requires_grad_(False)
    return Subject("tiny UNet", model, find_layers(model))


def lines_with(result: dict, text: str) -> list[str]:
    return [line for line in table(result) if text in line]


# ------------------------------------------------------------ MACs of DiT-XL/2


def test_macs_on_the_command_line_are_the_papers(capsys):
    code, out, _ = verb(capsys, "bench", "--only", "macs", "--json")
    found = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    width, tokens = 1152, 256
    attention, mlp, modulation = 4 * width**2 * tokens, 2 * 4 * width**2 * tokens, 6 * width**2
    dense = 28 * (attention + mlp + modulation)
    assert dense == 114_375_131_136
    pruned = 28 * (attention * 12 // 16 + mlp // 4608 * (4608 - 1382) + modulation)
    assert found["measured"] == {
        "dense_50": 50 * dense,
        "dense_20": 20 * dense,
        "uniform_30_floor_20": 20 * pruned,
    }
    assert [
        round(found["measured"][k] / 1e12, 2)
        for k in ("dense_50", "dense_20", "uniform_30_floor_20")
    ] == [5.72, 2.29, 1.64]
    assert {(r["method"], r["steps"]): r["macs"] for r in found["quoted"]["rows"]}[
        ("MosaicDiff 0.30", 20)
    ] == 1.64e12
    assert not {"fid", "quoted"} & found["measured"].keys()
    all_linear, forward = found["forward"]["all_linear"], found["forward"]
    assert forward["dense"] == dense and sum(forward["dense_by_part"].values()) == all_linear
    # what is left of the flop counter's number
    assert forward["patch_convolution"] == 2 * 2 * 4 * width * tokens


def test_linear_macs_on_shapes_are_those_of_a_model_that_runs():
    real, shapes = random_dit(CPU, torch.float32, **TINY), shapes_of_dit(**TINY)
    counted = linear_macs(shapes)
    assert counted.keys() == set(PARTS)
    everything, _ = count_macs(forward_call(module_forward(real), real, 1))
    assert sum(counted.values()) + 2 * 2 * 4 * 32 * 16 == everything  # and the patch convolution
    assert not any(m._forward_hooks for m in shapes.modules())


def test_macs_as_a_table(capsys):
    code, out, _ = verb(capsys, "bench", "--only", "macs")
    assert (
        code == 0 and "dense_50" in out and "5.7188 T MACs counted, the paper prints 5.72 T" in out
    )


# ------------------------------------------------------------ memory


def test_unique_bytes_counts_storages_once():
    wide = torch.zeros(10, 4)
    assert unique_bytes([wide, wide[:2], wide.T]) == 160 and unique_bytes([wide[:2]]) == 160
    assert unique_bytes([wide, wide.clone()]) == 320
    first, tied = torch.nn.Linear(3, 5), torch.nn.Linear(3, 5)
    assert unique_bytes([first, tied]) == 2 * 80
    tied.weight = first.weight
    assert unique_bytes([first, tied]) == 80 + 20
    assert unique_bytes([first.to("meta"), torch.nn.Linear(3, 5, device="meta")]) == 2 * 80


def test_shapes_take_the_bytes_of_real_storages(blocks):
    shapes = shapes_of_dit(**TINY)
    assert unique_bytes([shapes]) == unique_bytes([blocks.model])
    assert unique_bytes([shapes.half()]) * 2 == unique_bytes([blocks.model])


def test_three_subnetworks_of_dit_xl_2_hold_at_most_2_1_gb():
    found = memory_benchmark(None)
    sizes = {row["what"]: row["bytes"] / 1e9 for row in found["sizes"]}
    assert sizes["dense, as diffusers stores it"] == pytest.approx(1.50, abs=0.005)
    assert sizes["dense, equal embedders merged"] == pytest.approx(1.35, abs=0.005)
    assert sizes["three subnetworks"] == pytest.approx(2.06, abs=0.01)
    assert sizes["three copies of pruned models, each with all embedders"] == pytest.approx(
        3.4, abs=0.05
    )
    assert sizes["three subnetworks with row-prefix views of one order"] == pytest.approx(
        1.54, abs=0.01
    )
    assert [row["counted"] for row in found["sizes"]] == ["shapes"] * 4 + ["computed, not built"]
    assert (
        len(
            lines_with(
                found | {"part": "memory", "elapsed_seconds": 0.0}, "goal at most 2.1 GB: met"
            )
        )
        == 1
    )


def test_prefix_views_of_equal_stages_add_only_consumers(blocks):
    cuts = uniform_cuts(blocks, 0.5)
    one = mosaic_of(blocks, cuts).stages[0]
    consumers = sum(one.get_submodule(layer.consumer).weight.numel() * 4 for layer in blocks.layers)
    conditioning = list(embedders(blocks.model).values())
    merged = unique_bytes([blocks.model]) - unique_bytes(conditioning[1:])
    assert prefix_view_bytes(blocks, [cuts] * 3, merged) == unique_bytes([one]) + 2 * consumers
    assert prefix_view_bytes(blocks, [None] * 3, merged) > merged


def test_memory_of_a_workshops_model(workshop):
    found = memory_benchmark(workshop, **TINY)
    sizes = {row["what"]: row["bytes"] for row in found["sizes"] if row["subject"] == workshop.name}
    assert sizes["dense, as diffusers stores it"] == unique_bytes([workshop.transformer])
    copies = sizes["three copies of pruned models, each with all embedders"]
    assert (
        sizes["dense, equal embedders merged"]
        < sizes["three subnetworks"]
        < copies
        < 3 * sizes["dense, as diffusers stores it"]
    )
    assert (
        sizes["three subnetworks with row-prefix views of one order"] < sizes["three subnetworks"]
    )
    assert found["sparsity"] == {"late": 0.5, "middle": 0.2, "early": 0.5}
    assert "met" not in found["sizes"][-2]  # the goal is DiT-XL/2's


# ------------------------------------------------------------ forwards


@pytest.mark.parametrize("name", ["blocks", "unet"])
def test_gathering_computes_what_slim_does_from_full_width_weights(name, request):
    subject = request.getfixturevalue(name)
    cuts = uniform_cuts(subject, 0.5)
    slim, gathered, masked, dense = (
        mosaic_of(subject, cuts),
        gathering(subject, cuts),
        mosaic_of(subject, cuts, masked=True),
        mosaic_of(subject, None),
    )
    with torch.inference_mode():
        a, b, c, d = (
            forward_call(m.network(500.0), subject.model, 2)()
            for m in (slim, gathered, masked, dense)
        )
    scale = c.abs().max()
    assert (a - b).abs().max() < 1e-5 * scale and (a - c).abs().max() < 1e-4 * scale
    assert (a - d).abs().max() > 1e-4 * scale  # the cuts did something
    assert unique_bytes(gathered.stages.parameters()) == unique_bytes(masked.stages.parameters())
    assert unique_bytes(slim.stages.parameters()) < unique_bytes(gathered.stages.parameters())


def test_random_dit_is_repeatable_and_has_equal_embedders(blocks):
    again = random_dit(CPU, torch.float32, **TINY)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            again.state_dict().values(), blocks.model.state_dict().values(), strict=True
        )
    )
    assert (
        embedders_equal(again)
        and len({p.data_ptr() for e in embedders(again).values() for p in e.parameters()}) > 6
    )


def test_forward_ratios_and_their_lines(blocks, workshop):
    seen = []
    found = forward_benchmark(
        [subject_of(workshop), blocks],
        (1, 2),
        (0.25, 0.5),
        TWICE,
        lambda d, t, text: seen.append((d, t, text)),
    )
    assert len(found["ratios"]) == 2 * 2 * 2 * 2 and [s[:2] for s in seen] == [
        (i, 4) for i in range(4)
    ]
    for row in found["ratios"]:
        assert row["rounds"] == 2
        assert ("met" in row) == (row["against"] == "gather")
    cases = {(b, s, a) for b in (1, 2) for s in (0.25, 0.5) for a in ("gather", "masked")}
    assert {(r["batch"], r["sparsity"], r["against"]) for r in found["ratios"]} == cases
    assert (
        found["threads"] == torch.get_num_threads()
        and found["device"]
        and found["when"]
        and found["dtype"] == "float32"
    )
    shown = lines_with(found | {"part": "forward", "elapsed_seconds": 1.0}, " ± ")
    assert len(shown) == len(found["ratios"]) and all("2 rounds" in line for line in shown)


def timed(seconds: dict[str, list[float]], ran: list[str] | None = None):
    """Stand in for `in_turn`: run each call once, return times by the first word of its name."""

    def in_turn(calls, *_):
        for name, call in calls.items():
            call()
            (ran if ran is not None else []).append(name)
        return {name: seconds[name.partition(" ")[0]] for name in calls}

    return in_turn


def test_forward_ratios_are_the_others_time_over_slims(blocks, monkeypatch):
    ran: list[str] = []
    times = {"slim": [1.0, 2.0, 1.0], "gather": [2.0, 4.0, 2.5], "masked": [0.5, 1.0, 0.5]}
    monkeypatch.setattr("core.bench.forward.in_turn", timed(times, ran))
    found = forward_benchmark([blocks], (1,), (0.5,), TWICE)
    assert sorted(ran) == ["gather 0.5", "masked 0.5", "slim 0.5"]
    gather, masked = found["ratios"]
    assert (gather["against"], gather["ratio"], gather["met"]) == ("gather", 2.0, True)
    assert (masked["against"], masked["ratio"]) == ("masked", 0.5)
    assert (gather["seconds"], gather["seconds_against"]) == (1.0, 2.5)
    assert (masked["seconds"], masked["seconds_against"]) == (1.0, 0.5)


def test_realised_is_measured_over_predicted(blocks, workshop):
    found = realised_benchmark(workshop, blocks, (1, 16), (0.33,), 4, TWICE)
    assert [(r["subject"], r["batch"]) for r in found["ratios"]] == [
        (s, b) for s in (workshop.name, blocks.name) for b in (1, 16)
    ]
    timesteps = timesteps_of(workshop, 4)
    plan = propose_plan(workshop.schedule, 0.33, timesteps).plan
    assert found["ratios"][0]["speedup_macs"] == pytest.approx(
        workshop.predict(plan, timesteps, batch=1).speedup_macs
    )
    for row in found["ratios"]:
        assert (
            row["speedup_macs"] > 1
            and row["speedup_macs_with_attention"] > 1
            and row["dense_seconds"] > 0
        )
        assert row["ratio"] == pytest.approx(row["speedup_measured"] / row["speedup_macs"])
        assert ("met" in row) == (row["batch"] == 16)
    slim = mosaic_of(blocks, uniform_cuts(blocks, 0.33))
    linear = [
        count_macs(forward_call(n, blocks.model, 1))[0]
        for n in (mosaic_of(blocks, None).network(5), slim.network(5))
    ]
    # scores and weighted sums of 16 tokens
    products = [2 * 8 * 16**2 * heads for heads in (2 * 4, sum(slim.kept(0)[::2]))]
    last = found["ratios"][-1]
    assert last["speedup_macs"] == linear[0] / linear[1]
    assert last["speedup_macs_with_attention"] == (linear[0] + products[0]) / (
        linear[1] + products[1]
    )
    assert len(lines_with(found | {"part": "realised", "elapsed_seconds": 1.0}, " ± ")) == 4


def test_speed_keeps_its_rows(workshop):
    """`python -m core.bench speed`."""
    steps = 20  # with fewer the filled-up table of adaLN vectors is more work than stock's
    timesteps = timesteps_of(workshop, steps)
    (row,) = speed_benchmark(
        workshop, {0.33: propose_plan(workshop.schedule, 0.33, timesteps).plan}, 2, 2, steps=steps
    )
    assert list(row) == [
        "target",
        "speedup_macs",
        "speedup_measured",
        "spread",
        "realised",
        "against_stock_macs",
        "against_stock_measured",
        "against_stock_spread",
        "seconds",
        "dense_seconds",
        "stock_seconds",
    ]
    assert (
        row["against_stock_macs"] > row["speedup_macs"] > 1
        and row["realised"] == row["speedup_measured"] / row["speedup_macs"]
    )


# ------------------------------------------------------------ calibration


def test_calibration_overhead(blocks, workshop):
    wide = blocks_of_xl(CPU, torch.float32, num_layers=1)
    found = overhead_benchmark([(subject_of(workshop), 4), (blocks, 2), (wide, 2)], TWICE)
    every, capped = (
        [r for r in found["ratios"] if kind in r["name"]]
        for kind in ("every token", "8 tokens a column")
    )
    assert [(r["batch"], r["rounds"]) for r in every] == [(4, 2), (2, 2), (2, 2)]
    # the goals are DiT-XL/2's
    assert [[r.get("at_most") for r in rows] for rows in (every, capped)] == [
        [None, None, 1.7],
        [None, None, 1.5],
    ]
    assert [r["subject"] for r in found["ratios"] if "met" in r] == [wide.name] * 2
    assert every[1]["tokens_per_column"] == 2 * 192 * 16 / 128
    assert not any(m._forward_pre_hooks for m in blocks.model.modules())
    assert len(lines_with(found | {"part": "calibration", "elapsed_seconds": 1.0}, " ± ")) == len(
        found["ratios"]
    )


def test_overhead_is_the_time_with_grams_over_the_time_without(blocks, monkeypatch):
    times = {"plain": [2.0, 4.0], "every": [3.0, 6.0], "capped": [2.5, 5.0]}
    monkeypatch.setattr("core.bench.overhead.in_turn", timed(times))
    every, capped = overhead_benchmark([(blocks, 2)], TWICE)["ratios"]
    assert (every["ratio"], capped["ratio"]) == (1.5, 1.25)
    assert every["plain_seconds"] == capped["plain_seconds"] == 3.0
    assert (every["seconds"], capped["seconds"]) == (4.5, 3.75)


def test_rows_of_a_calibration_pass(blocks):
    assert rows_at_once(blocks) == 128
    shapes = shapes_of_dit()
    # 6 images, twice each: 57 MB before the second MLP layer
    assert rows_at_once(Subject("", shapes, find_layers(shapes))) == 12


# ------------------------------------------------------------ measuring and showing


def test_rounds_follow_the_budget_and_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = in_turn(calls, CPU, 1e9, Effort(0.0, 1, 4))
    # one warm-up
    assert [len(t) for t in times.values()] == [4] * 3 and "".join(order) == "abc" * 5
    assert {len(t) for t in in_turn(calls, CPU, 0.0, Effort(0.0, 2, 9)).values()} == {2}
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        in_turn(calls, CPU, 1.0, TWICE, stop)


def test_a_ratio_is_the_median_over_rounds():
    row = ratio("x", [2.0, 6.0, 4.0], [1.0, 2.0, 1.0], scale=2.0, at_least=1.5, who="me")
    assert row == {
        "name": "x",
        "ratio": 1.5,
        "spread": 0.5,
        "rounds": 3,
        "who": "me",
        "at_least": 1.5,
        "met": None,
    }
    assert ratio("x", [2.0], [1.0], at_most=1.5)["met"] is False


@pytest.mark.parametrize(
    ("middle", "spread", "goal", "met", "words"),
    [
        (1.6, 0.1, {"at_least": 1.5}, True, "at least 1.5: met"),
        (1.5, 0.0, {"at_least": 1.5}, True, "at least 1.5: met"),
        (1.55, 0.1, {"at_least": 1.5}, None, "at least 1.5: within the spread"),
        (1.45, 0.1, {"at_least": 1.5}, None, "within the spread"),
        (1.3, 0.1, {"at_least": 1.5}, False, "not met"),
        (1.3, 0.1, {"at_most": 1.5}, True, "at most 1.5: met"),
        (1.45, 0.1, {"at_most": 1.5}, None, "within the spread"),
        (1.7, 0.1, {"at_most": 1.5}, False, "not met"),
    ],
)
def test_a_goal_within_the_spread_is_neither_met_nor_missed(middle, spread, goal, met, words):
    found = verdict(middle, spread, **goal)
    assert found == goal | {"met": met} and verdict(middle, spread) == {}
    assert words in ratio_line({"name": "x", "ratio": middle, "spread": spread} | found)


def test_bench_measures_in_the_precision_that_is_asked_for(
    capsys, monkeypatch, model_folder, tmp_path
):
    monkeypatch.setenv("MOSAIC_CACHE", str(tmp_path))
    code, out, _ = verb(
        capsys,
        "bench",
        "--model",
        str(model_folder),
        "--only",
        "memory",
        "--device",
        "cpu",
        "--dtype",
        "bfloat16",
        "--json",
    )
    sizes = {
        row["what"]: row["bytes"]
        for row in json.loads(out)["sizes"]
        if row["subject"] == model_folder.name
    }
    weights = sum(
        p.numel() for p in load_checkpoint(model_folder, "cpu").pipeline.transformer.parameters()
    )
    assert code == 0 and sizes["dense, as diffusers stores it"] < 3 * weights


def test_table_of_all_parts_with_a_failure_and_a_foreign_layout():
    foreign = {
        "speedup": 2.5,
        "spread": 0.25,
        "n": 3,
        "rows": [{"name": "dp", "seconds": 0.5, "seconds_spread": 0.1}],
    }
    parts = {
        "forward": {
            "part": "forward",
            "elapsed_seconds": 1.0,
            "ratios": [ratio("a", [2.0], [1.0])],
        },
        "path": {"part": "path", "error": "No room."},
        "other": {"part": "other", "elapsed_seconds": 1.0} | foreign,
    }
    whole = {
        "device": "this",
        "torch": "2",
        "when": "now",
        "threads": 1,
        "quick": True,
        "elapsed_seconds": 3.0,
        "parts": parts,
    }
    lines = table(whole)
    assert (
        any("×2.000 ± 0.000" in line for line in lines)
        and "path: No room." in lines
        and any("not for quoting" in line for line in lines)
    )
    assert (
        "  speedup: 2.5 ± 0.25" in lines
        and "  rows dp, seconds: 0.5 ± 0.1" in lines
        and "  n: 3" in lines
    )


def test_unknown_names_are_refused(capsys):
    said = refused(capsys, "bench", "--only", "everything", "--json")
    assert "no benchmark called 'everything'" in said and all(name in said for name in SUITE)


def test_a_stopped_run_keeps_what_is_finished():
    stop, seen = threading.Event(), []
    stop.set()
    found = run_all(
        Suite(device="cpu", quick=True, stop=stop, progress=lambda *step: seen.append(step)),
        ("macs", "forward", "memory"),
    )
    assert (
        found["stopped"]
        and list(found["parts"]) == ["macs", "forward"]
        and "measured" in found["parts"]["macs"]
    )
    assert any("stopped here" in line for line in table(found)) and [s[:2] for s in seen][:2] == [
        (0, 3),
        (1, 3),
    ]


def test_finished_parts_are_kept_and_not_run_again(tmp_path, monkeypatch):
    ran, shown = [], []

    def part(name):
        return lambda _suite: ran.append(name) or {"measured_seconds": 1.0}

    monkeypatch.setattr(suite_module, "PARTS", {name: part(name) for name in ("a", "b", "c")})
    file, device = tmp_path / "kept.json", torch.device("cpu")

    def stopping(_suite):
        raise Stopped("Time is up.")

    monkeypatch.setitem(suite_module.PARTS, "b", stopping)
    suite = Suite(device="cpu", quick=True)
    first = run_all(suite, ("a", "b", "c"), KeptParts(file, device, {"quick": True}), shown.append)
    assert first["stopped"] and ran == ["a"] and [p["part"] for p in shown] == ["a"]
    monkeypatch.setitem(suite_module.PARTS, "b", part("b"))
    second = run_all(suite, ("a", "b", "c"), KeptParts(file, device, {"quick": True}))
    assert ran == ["a", "b", "c"] and list(second["parts"]) == ["a", "b", "c"]
    assert not KeptParts(file, device, {"quick": False}).parts  # other settings measure anew
    file.write_text("[]")
    with pytest.raises(StudioError, match=r"kept\.json holds no benchmark"):
        KeptParts(file, device, {})


def test_a_benchmark_with_little_time_keeps_what_it_has(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(suite_module, "in_order", lambda device: ["macs", "adaln"])
    command = ["bench", "--quick", "--seconds", "0.01", "--keep", str(tmp_path / "rows.json")]
    code, out, err = verb(capsys, *command, "--json")
    found = json.loads(out)
    assert code == 0 and found["stopped"] and "error" in found["parts"]["adaln"]
    assert list(json.loads((tmp_path / "rows.json").read_text())["parts"]) == ["macs"]
    assert "must be a number above 0" in refused(capsys, "bench", "--seconds", "0")


def test_the_order_on_a_gpu_begins_with_what_tells_most():
    assert in_order(torch.device("cpu")) == list(SUITE)
    assert in_order(torch.device("cuda"))[0] == "xl"
    assert sorted(in_order(torch.device("cuda"))) == sorted(SUITE)


def test_forwards_of_xl_stand_against_dense_and_stock(monkeypatch):
    monkeypatch.setattr("core.bench.xl_modes.MODES", ("plain",))
    subject = blocks_of_xl(CPU, torch.float32, **TINY)
    found = xl_benchmark(subject, (2,), TWICE)
    assert [r["sparsity"] for r in found["ratios"]] == [0.33, 0.33, 0.5, 0.5]
    assert all(r["rounds"] == 2 and "met" not in r for r in found["ratios"])
    assert not subject.whole_xl and "there is none" in found["note"]
    lines = lines_with(found | {"part": "xl", "elapsed_seconds": 1.0}, " ± ")
    assert sum("diffusers' own" in line for line in lines) == 2


def test_layouts_stand_against_diffusers_own_and_compute_the_same():
    subject = blocks_of_xl(CPU, torch.float32, **TINY)
    found = layouts_benchmark(subject, (2,), TWICE)
    lines = lines_with(found | {"part": "layouts", "elapsed_seconds": 1.0}, " ± ")
    assert sum("diffusers' layout / " in line for line in lines) == 6
    assert sum("measured / predicted" in line for line in lines) == 4
    assert all(row["macs_ratio"] > 1 for row in found["ratios"] if "layout" in row)
    for cuts in (None, uniform_cuts(subject, 0.5)):
        network = mosaic_of(subject, cuts).stages[0]
        made = candidates(network)
        with torch.inference_mode():
            stock, lean, product, once = (
                forward_call(module_forward(one), subject.model, 3)() for one in made.values()
            )
        assert torch.equal(stock, lean)
        for out in (product, once):
            assert (out - stock).abs().max() < 2e-6 * stock.abs().max()


@pytest.mark.parametrize("name", ["path", "allocation", "orders"])
def test_parts_of_other_files_run_and_show(name):
    found = run_part(name, Suite(device="cpu", quick=True))
    json.dumps(found)
    rows = found.get("ratios", []) + found["times"]
    assert found["part"] == name and len(lines_with(found, " ± ")) == len(rows) > 2


def test_a_pruned_network_stands_against_the_dense_one_in_its_own_mode(workshop, monkeypatch):
    took = {"dense, plain": 8.0, "0.5 removed, plain": 4.0}
    took |= {"dense, compiled": 4.0, "0.5 removed, compiled": 1.0}

    def sampling_seconds(_shop, models, batch, **_):
        assert [m.mode for m in models.values()] == ["plain"] * 2 + ["compiled"] * 2
        return {name: [batch * took[name]] * 2 for name in models}

    monkeypatch.setattr("core.bench.modes.sampling_seconds", sampling_seconds)
    monkeypatch.setattr("core.bench.modes.why_not", lambda mode, _: "no" * (mode == "graphs"))
    monkeypatch.setattr("core.mosaic.modes._missing", lambda device: "")
    found = modes_benchmark(workshop, (1, 2), steps=3, effort=TWICE)
    assert [r["ratio"] for r in found["ratios"]] == [2.0, 4.0, 2.0] * 2
    assert [r["mode"] for r in found["ratios"]] == ["plain", "compiled", "compiled"] * 2
    assert found["ratios"][1]["macs_ratio"] > 1 and found["ratios"][1]["dense_seconds"] == 4.0
    assert len(lines_with({"part": "modes", "elapsed_seconds": 1.0} | found, " ± ")) == 6


def test_sampling_plain_is_timed(workshop, monkeypatch):
    monkeypatch.setattr("core.bench.modes.MODES", ("plain",))
    found = modes_benchmark(workshop, (1,), steps=3, effort=TWICE)
    assert [r["rounds"] for r in found["ratios"]] == [2] and found["preparation"] == {}
    assert "there is none" in found["note"]


@pytest.mark.cuda
def test_forward_and_overhead_on_cuda():
    subject = blocks_of_xl(torch.device("cuda"), torch.bfloat16, **TINY)
    found = forward_benchmark([subject], (1,), (0.5,), TWICE)
    assert "CUDA" in found["device"] and found["dtype"] == "bfloat16"
    assert [r["against"] for r in found["ratios"]] == ["gather", "masked"]
    assert len(overhead_benchmark([(subject, 2)], TWICE)["ratios"]) == 2


def test_adaln_ratios_are_the_time_without_a_table_over_the_time_with_one(workshop, monkeypatch):
    asked: list[tuple[list[str], set[str]]] = []

    def sampling_seconds(_shop, models, batch, tabulated, **_):
        asked.append((list(models), tabulated))
        return {name: [batch * (1.0 if name in tabulated else 4.0)] * 2 for name in models}

    monkeypatch.setattr("core.bench.adaln.sampling_seconds", sampling_seconds)
    found = tabulation_benchmark(workshop, (1, 2), steps=3, effort=TWICE)
    names = ["dense", "dense, tabulated", "0.5 removed", "0.5 removed, tabulated"]
    assert asked == [(names, {"dense, tabulated", "0.5 removed, tabulated"})] * 2
    assert [r["ratio"] for r in found["ratios"]] == [4.0] * 4
    assert [(r["seconds"], r["seconds_tabulated"]) for r in found["ratios"]] == [
        (4.0, 1.0),
        (4.0, 1.0),
        (8.0, 2.0),
        (8.0, 2.0),
    ]


def test_sampling_with_and_without_a_table_of_adaln_is_timed(workshop):
    found = tabulation_benchmark(workshop, (1, 2), steps=3, effort=TWICE)
    assert [(r["batch"], r["rounds"]) for r in found["ratios"]] == [(1, 2), (1, 2), (2, 2), (2, 2)]
    assert len(lines_with({"part": "adaln", "elapsed_seconds": 1.0} | found, "/ tabulated")) == 4


def test_plans_are_timed_each_from_scratch(workshop):
    found = plans_benchmark(workshop, count=2)
    (row,) = found["times"]
    assert (
        row["rounds"] == 2
        and 0 < row["median"] <= row["most"]
        and row["at_most"] == 1.0
        and "Calibrated once before" in found["note"]
    )
    assert any(
        "a new plan to finished subnetworks" in line
        for line in part_lines({"part": "plans", "elapsed_seconds": 1.0} | found)
    )


def test_a_whole_run_is_timed_step_by_step(model_folder):
    found = run_part("whole", Suite(model=model_folder, device="cpu", quick=True))
    names = [row["name"].rsplit(", ")[-1] for row in found["times"]]
    assert names == ["load and hash", "calibrate", "build", "save", "all"]
    *steps, everything = (row["median"] for row in found["times"])
    assert all(seconds > 0 for seconds in steps)
    assert sum(steps) == pytest.approx(everything)
    assert len(lines_with(found, " ± ")) == 5
