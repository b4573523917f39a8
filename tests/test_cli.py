"""The command line as a user runs it: one JSON object on stdout, one sentence and exit code 2 for
what can be mended.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import APP, Forked, completed
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import app  # noqa: E402
from core.curves.plan import StagePlan  # noqa: E402
from core.errors import StudioError  # noqa: E402
from core.mosaic.transformer import MosaicTransformer  # noqa: E402
from core.workshop.workshop import get_workshop  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers with NumPy 2

HEAVY = ("torch", "diffusers", "gradio", "plotly", "numpy")
PLAN = {"boundaries": [93, 550], "sparsity": {"late": 0.5, "middle": 0.25, "early": 0.5}}


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def verb(capsys, *arguments: str) -> tuple[int, str, str]:
    """`python app.py ...` in this process: exit code, stdout, stderr."""
    try:
        code = app.main(list(arguments))
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, *arguments: str) -> str:
    code, out, err = verb(capsys, *arguments)
    assert (
        code == 2
        and out == ""
        and err.startswith("app.py")
        and err.count("\n") == 1
        and "Traceback" not in err
    ), err
    return err


def curves(capsys, *arguments: str) -> dict:
    code, out, _ = verb(capsys, "curves", "--json", *arguments)
    assert code == 0 and out.count("\n") == 1
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture
def plan_file(tmp_path) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN))
    return path


# ------------------------------------------------------------ imports


def test_help_imports_nothing_heavy():
    code = (
        "import sys, app\ntry:\n    app.main(['--help'])\nexcept SystemExit as end:\n    assert"
        f" end.code == 0\nprint('HEAVY', [m for m in {HEAVY} if m in sys.modules])"
    )
    out = python(code)
    assert "HEAVY []" in out and "curves" in out and "--share" in out


def test_core_imports_neither_the_page_nor_what_only_tables_and_searches_need():
    paths = [p.relative_to(ROOT).with_suffix("") for p in (ROOT / "core").rglob("*.py")]
    modules = [".".join(p.parts) for p in paths if p.name not in ("__init__", "__main__")]
    assert len(modules) > 60  # every room, not the hall alone
    code = (
        f"import sys, importlib\n[importlib.import_module(m) for m in {modules}]\nprint([m for m in"
        " ('gradio', 'plotly', 'mosaic_ui', 'pandas', 'optuna') if m in sys.modules])"
    )
    assert python(code).strip() == "[]"


def test_theory_needs_no_torch():
    assert (
        python(
            "import sys, core, core.plan, core.dynamics, core.noise\nprint([m for m in ('torch',"
            " 'diffusers') if m in sys.modules])"
        ).strip()
        == "[]"
    )


# ------------------------------------------------------------ the parser


def test_common_options_may_stand_before_the_verb():
    given = app.parser().parse_args(
        ["--model", "x", "--device", "cpu", "prune", "--plan", "p", "--out", "o"]
    )
    assert (given.model, given.device, given.revision) == ("x", "cpu", None)
    given = app.parser().parse_args(
        ["--model", "x", "prune", "--model", "y", "--plan", "p", "--out", "o"]
    )
    assert given.model == "y"
    given = app.parser().parse_args(["compare", "--plan", "p"])
    # the model decides
    assert (given.model, given.device, given.images, given.guidance) == (None, "auto", None, None)
    assert app.parser().parse_args(["--plan", "p"]).verb is None


# ------------------------------------------------------------ curves


def test_curves_of_the_linear_schedule(capsys):
    """The check values of method.md; t there counts from 1."""
    found = curves(capsys)
    for key in ("timesteps", "mse", "gradient", "log_snr", "score"):
        assert len(found[key]) == 1000
    assert found["timesteps"] == list(range(1000))
    for t, mse in ((100, 0.106), (200, 0.376), (550, 1.570), (600, 1.678), (1000, 1.987)):
        assert found["mse"][t - 1] == pytest.approx(mse, abs=6e-4)
    for t, snr in ((1, 9.21), (100, 2.17), (550, -3.03), (1000, -10.1)):
        assert found["log_snr"][t - 1] == pytest.approx(snr, abs=0.06)
    assert (
        max(found["gradient"]) == pytest.approx(3.837e-3, rel=1e-3)
        and found["gradient"].index(max(found["gradient"])) == 312
    )
    assert found["boundaries"] == [93, 550]
    assert [round(found["sparsity"][s], 2) for s in ("late", "middle", "early")] == [
        0.40,
        0.10,
        0.55,
    ]
    assert sum(found["steps_per_stage"].values()) == 50
    steps, sparsity = found["steps_per_stage"], found["sparsity"]
    assert sum(steps[s] * sparsity[s] for s in steps) / 50 == pytest.approx(0.33)


def test_curves_of_the_scaled_linear_schedule(capsys):
    found = curves(capsys, "--beta-schedule", "scaled_linear")
    assert found["boundaries"] == [90, 831]
    assert (
        max(found["gradient"]) == pytest.approx(2.541e-3, rel=1e-3)
        and found["gradient"].index(max(found["gradient"])) == 489
    )
    assert found["mse"][549] == pytest.approx(1.072, abs=6e-4)


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "sigmoid"])
def test_curves_of_the_other_schedules(capsys, schedule):
    found = curves(
        capsys,
        "--beta-schedule",
        schedule,
        "--scheduler",
        "Euler",
        "--steps",
        "20",
        "--target",
        "0.2",
        "--variance",
        "0.8",
    )
    low, high = found["boundaries"]
    assert (
        0 < low < high < 1000
        and sum(found["steps_per_stage"].values()) == 20
        and len(found["mse"]) == 1000
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--beta-schedule", "cubic"],
        ["--beta-start", "0.5", "--beta-end", "0.1"],
        ["--beta-start", "nan"],
        ["--scheduler", "Nope"],
        ["--target", "1.5"],
        ["--target", "nan"],
        ["--target", "many"],
        ["--steps", "0"],
        ["--steps", "5000"],
        ["--variance", "0"],
        ["--variance", "inf"],
        ["--colour", "red"],
    ],
)
def test_bad_arguments_are_refused_in_one_line(capsys, arguments):
    refused(capsys, "curves", "--json", *arguments)


def test_curves_of_a_models_own_schedule(capsys, model_folder, tmp_path):
    """Only its scheduler is read; a named schedule goes before it."""
    folder = tmp_path / "model"
    (folder / "scheduler").mkdir(parents=True)
    index, settings = (
        json.loads((model_folder / name).read_text())
        for name in ("model_index.json", "scheduler/scheduler_config.json")
    )
    settings |= {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    own, named = (
        curves(capsys, "--model", str(folder)),
        curves(capsys, "--beta-schedule", "scaled_linear"),
    )
    assert (
        own.keys() == named.keys()
        and own["boundaries"] == [90, 831]
        and own["beta_schedule"] == "scaled_linear"
    )
    assert own["mse"] == pytest.approx(named["mse"], rel=1e-4)
    assert curves(capsys, "--model", str(folder), "--beta-schedule", "linear")["boundaries"] == [
        93,
        550,
    ]
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(settings | {"num_train_timesteps": 500})
    )
    assert len(curves(capsys, "--model", str(folder))["mse"]) == 500
    assert "name one, or leave them out" in refused(
        capsys, "curves", "--model", str(folder), "--beta-end", "0.1"
    )
    assert "cannot sample" in refused(
        capsys, "curves", "--model", str(folder), "--scheduler", "EDM"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bench", "--only", "macs", "--bins", "0"), "bench does not use --bins: leave it out."),
        (
            ("--tokens-per-column", "8", "bench", "--only", "macs", "--self-calibrate"),
            "bench does not use --tokens-per-column, --self-calibrate: leave them out.",
        ),
        (
            ("bench", "--only", "macs", "--calibration-images", "x"),
            "bench does not use --calibration-images",
        ),
        (("curves", "--model", "x/y", "--self-calibrate"), "curves does not use --self-calibrate"),
        (("curves", "--dtype", "bfloat16"), "not use --dtype"),
        (("--plan", "p.json", "curves"), "curves does not use --plan"),
        (
            ("--share", "--port", "1", "prune", "--plan", "p", "--out", "o"),
            "not use --port, --share",
        ),
    ],
)
def test_options_that_a_verb_does_not_use_are_refused(capsys, arguments, said):
    assert said in refused(capsys, *arguments)


def test_help_shows_what_a_verb_uses(capsys):
    for name, shown, hidden in (
        ("bench", "--dtype", "--bins"),
        ("curves", "--model", "--dtype"),
        ("prune", "--tokens-per-column", "--port"),
    ):
        code, out, _ = verb(capsys, name, "--help")
        assert (
            code == 0
            and shown in out
            and hidden not in out
            and "--revision" in out
            and "--device" in out
        )


def test_curves_as_a_process():
    """The real thing once: stdout is the object and nothing else."""
    done = completed(Forked(APP, "curves", "--json"))
    assert done.returncode == 0 and json.loads(done.stdout)["boundaries"] == [93, 550]
    bad = completed(Forked(APP, "curves", "--beta-schedule", "x"))
    assert (
        bad.returncode == 2
        and bad.stdout == ""
        and bad.stderr.count("\n") == 1
        and bad.stderr.startswith("app.py: Unknown beta schedule")
    )


# ------------------------------------------------------------ plans


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"boundaries": [93, 550]}',
        '{"boundaries": [550, 93], "sparsity": {"late": 0, "middle": 0, "early": 0}}',
        '{"boundaries": [93, 550], "sparsity": {"late": NaN, "middle": 0, "early": 0}}',
        '{"boundaries": [93, 550], "sparsity": {"late": 0.99, "middle": 0, "early": 0}}',
        '{"boundaries": [93, 550], "sparsity": {"late": "0.3", "middle": 0, "early": 0}}',
        '{"boundaries": [93, 550], "sparsity": {"late": 0.3, "middle": 0, "early": 0}, "extra": 1}',
    ],
)
@pytest.mark.parametrize("name", ["prune", "compare"])
def test_bad_plans_are_refused_before_anything_is_loaded(capsys, tmp_path, name, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    refused(capsys, name, "--plan", str(path), "--out", str(tmp_path / "out"), "--json")
    assert not (tmp_path / "out").exists()


def test_missing_things_are_refused(capsys, tmp_path, plan_file):
    refused(capsys, "prune", "--plan", str(tmp_path / "none.json"), "--out", str(tmp_path / "out"))
    refused(capsys, "compare", "--plan", str(plan_file), "--against", str(tmp_path / "none.json"))
    refused(capsys, "compare", "--plan", str(plan_file), "--images", "0")
    refused(capsys, "prune", "--plan", str(plan_file))
    assert "not a diffusers pipeline" in refused(
        capsys,
        "prune",
        "--plan",
        str(plan_file),
        "--out",
        str(tmp_path / "out"),
        "--model",
        str(tmp_path),
    )
    assert "neither a folder" in refused(
        capsys, "compare", "--plan", str(plan_file), "--model", "./nowhere"
    )
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("")
    assert "not an empty folder" in refused(
        capsys, "prune", "--plan", str(plan_file), "--out", str(full)
    )


# ------------------------------------------------------------ prune and compare


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cli-cache")


def test_prune_and_compare_a_model_folder(
    capsys, monkeypatch, model_folder, cache, tmp_path, plan_file
):
    """Everything a user does without a browser, in one go because the model is calibrated for it
    once, with the default settings.
    """
    monkeypatch.setenv("MOSAIC_CACHE", str(cache))
    out = tmp_path / "pruned"
    code, text, err = verb(
        capsys,
        "--model",
        str(model_folder),
        "prune",
        "--plan",
        str(plan_file),
        "--out",
        str(out),
        "--json",
    )
    assert code == 0, err
    found = json.loads(text)
    assert text.count("\n") == 1 and "measuring the model" in err and found["plan"] == PLAN
    assert (
        found["macs"].keys() == found["error"].keys() == {"late", "middle", "early"}
        and len(found["layers"]) == 3 * 4
    )
    for stage in found["macs"].values():
        assert 0 < stage["pruned"] < stage["dense"]
    assert all(0 < e < 1 for e in found["error"].values()) and all(
        0 <= row["error"] < 1 for row in found["layers"]
    )

    assert (
        sorted(p.name for p in out.iterdir())
        == sorted(found["files"])
        == ["early.safetensors", "late.safetensors", "manifest.json", "middle.safetensors"]
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["plan"] == PLAN and not list(tmp_path.glob("*.part"))
    # no paths of this machine
    assert manifest["report"] == {k: v for k, v in found.items() if k not in ("out", "files")}
    names = [row["layer"] for row in found["layers"][:4]]
    assert (
        names == list(manifest["damping"])
        and all(d["asked"] > 0 for d in manifest["damping"].values())
        and manifest["calibration"]["hash"]
    )
    # enough tokens
    assert all(
        d == {"asked": d["asked"], "in_force": dict.fromkeys(found["macs"], d["asked"])}
        for d in manifest["damping"].values()
    )
    for stage, said in manifest["stages"].items():
        rows = {row["layer"]: row for row in found["layers"] if row["stage"] == stage}
        assert list(said["kept"]) == list(manifest["errors"][stage]) == list(rows) == names
        assert {name: e["calibration"] for name, e in manifest["errors"][stage].items()} == {
            name: row["error"] for name, row in rows.items()
        }
        tensors = load_file(out / f"{stage}.safetensors")
        for i in range(2):
            assert tensors[f"transformer_blocks.{i}.attn1.to_out.0.weight"].shape == (
                64,
                16 * rows[f"block {i + 1} heads"]["kept"],
            )
            assert tensors[f"transformer_blocks.{i}.ff.net.2.weight"].shape == (
                64,
                rows[f"block {i + 1} neurons"]["kept"],
            )
        assert len(tensors) == 4  # only what cannot be worked out from the dense model
    built = get_workshop(str(model_folder)).build(StagePlan.from_json(PLAN))
    loaded = MosaicTransformer.from_pretrained(out, base=model_folder)
    assert loaded.plan == built.plan
    for stage in range(3):
        ours, theirs = built.stages[stage].state_dict(), loaded.stages[stage].state_dict()
        assert ours.keys() == theirs.keys() and all(
            torch.equal(ours[k], theirs[k].to(ours[k].device)) for k in ours
        )
    assert {p.suffix for p in cache.rglob("*") if p.is_file()} <= {".safetensors", ".json"}
    # never overwritten
    refused(
        capsys, "prune", "--plan", str(plan_file), "--out", str(out), "--model", str(model_folder)
    )

    pictures, few = (
        tmp_path / "pictures",
        ("--images", "2", "--steps", "4", "--repeats", "1", "--json"),
    )
    decoded: list[int] = []
    handle = get_workshop(str(model_folder)).vae.decoder.register_forward_pre_hook(
        lambda _, args: decoded.append(len(args[0]))
    )
    code, text, err = verb(
        capsys,
        "compare",
        "--model",
        str(model_folder),
        "--plan",
        str(plan_file),
        "--out",
        str(pictures),
        *few,
    )
    handle.remove()
    assert code == 0, err
    found = json.loads(text)
    assert decoded == [2, 2]  # final pictures of both sides; nobody sees frames on the way
    assert "measuring the model" not in err  # calibrated above
    assert (
        found["n"] == 2
        and found["steps"] == 4
        and found["speedup_macs"] > 1
        and found["latent_mse"] > 0
        and found["device"]
    )
    for side in ("dense", "mosaic"):
        # one run
        assert (
            found[side]["fid"] is None
            and found[side]["seconds"] > 0
            and found[side]["macs"] > 0
            and found[side]["seconds_spread"] is None
        )
    assert found["speedup_measured"] == pytest.approx(
        found["dense"]["seconds"] / found["mosaic"]["seconds"]
    )
    assert sorted(p.name for p in pictures.iterdir()) == ["dense.png", "mosaic.png", "result.json"]
    assert json.loads((pictures / "result.json").read_text()) == found

    other = tmp_path / "other.json"
    other.write_text(
        json.dumps(
            PLAN | {"sparsity": {"late": 0, "middle": 0, "early": 0}, "name": "Nothing gone"}
        )
    )
    code, text, err = verb(
        capsys,
        "compare",
        "--model",
        str(model_folder),
        "--plan",
        str(plan_file),
        "--against",
        str(other),
        *few,
    )
    assert code == 0, err
    against = json.loads(text)
    assert (
        against["dense"]["name"] == "Nothing gone"
        and against["dense"]["macs"] == found["dense"]["macs"]
        and against["latent_mse"] == found["latent_mse"]
    )
    assert "Karras" in refused(
        capsys,
        "compare",
        "--model",
        str(model_folder),
        "--plan",
        str(plan_file),
        "--scheduler",
        "Karras",
    )
    assert os.environ["MOSAIC_CACHE"] == str(cache) and list(cache.iterdir())


def test_too_few_tokens_are_said_and_a_cap_goes_all_the_way(
    capsys, monkeypatch, model_folder, cache, tmp_path, plan_file
):
    monkeypatch.setenv("MOSAIC_CACHE", str(cache))
    few = (
        "--model",
        str(model_folder),
        "--plan",
        str(plan_file),
        "--images-per-bin",
        "4",
        "--bins",
        "4",
    )
    warning = (
        "app.py: warning: only 0.5 tokens per column and bin were measured and at least 4 are"
        " needed: calibrate with 8.0 times as many images"
    )
    code, out, err = verb(capsys, "prune", *few, "--out", str(tmp_path / "a"))
    assert code == 0 and warning in err and "warning" not in out
    sample = ("--images", "1", "--steps", "2", "--repeats", "1")
    code, out, err = verb(capsys, "compare", *few, *sample)
    assert code == 0 and warning in err and "warning" not in out
    many = (
        "--model",
        str(model_folder),
        "--plan",
        str(plan_file),
        "--images-per-bin",
        "48",
        "--bins",
        "2",
    )
    code, out, err = verb(capsys, "compare", *many, *sample)
    assert code == 0 and "warning" not in err
    code, out, err = verb(
        capsys, "prune", *many, "--tokens-per-column", "5", "--out", str(tmp_path / "b"), "--json"
    )
    assert (
        code == 0
        and "warning" not in err
        and "at least 5.0 tokens per column and bin" in json.loads(out)["calibration"]
    )
    assert "--tokens-per-column must be 4 or more, not 3" in refused(
        capsys, "prune", *many, "--tokens-per-column", "3", "--out", str(tmp_path / "c")
    )


# ------------------------------------------------------------ what is calibrated on


def test_calibration_data_from_the_command_line(
    capsys, monkeypatch, model_folder, cache, tmp_path, plan_file
):
    """Pictures in sub-folders by class go all the way into the subnetworks; what cannot be is
    refused before anything runs.
    """
    import numpy as np
    from PIL import Image

    monkeypatch.setenv("MOSAIC_CACHE", str(cache))
    model, pictures, out = ("--model", str(model_folder)), tmp_path / "pictures", tmp_path / "out"
    for i in range(8):
        (pictures / str(i)).mkdir(parents=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 32), dtype=np.uint8)).save(
            pictures / str(i) / "a.png"
        )
    prune = ("prune", *model, "--plan", str(plan_file), "--out", str(out), "--json")
    code, text, err = verb(capsys, *prune, "--calibration-images", str(pictures))
    assert code == 0, err
    assert (
        "encoding 8 pictures with the model's own VAE" in err
        and "8 pictures of the given folder (only 8" in json.loads(text)["calibration"]
    )

    out = tmp_path / "other"
    prune = ("prune", *model, "--plan", str(plan_file), "--out", str(out), "--json")
    assert "is not a folder" in refused(
        capsys, *prune, "--calibration-images", str(tmp_path / "none")
    )
    assert "not both" in refused(
        capsys, *prune, "--calibration-images", str(pictures), "--self-calibrate"
    )
    assert "add --self-calibrate" in refused(capsys, *prune, "--calibration-steps", "5")
    assert "--calibration-count" in refused(
        capsys, *prune, "--self-calibrate", "--calibration-count", "3"
    )
    pictures = pictures.rename(tmp_path / "more")
    (pictures / "7").rename(pictures / "boots")
    assert "boots/a.png is labelled 'boots'" in refused(
        capsys, *prune, "--calibration-images", str(pictures)
    )
    assert not out.exists()


@pytest.mark.parametrize(
    "host, port, said",
    [
        ("127.0.0.1", 99999, "--port must lie between 1 and 65535, not 99999."),
        ("127.0.0.1", 0, "--port must lie between"),
        ("203.0.113.7", None, "The studio cannot listen on 203.0.113.7 ("),
        ("127.0.0.1", "taken", "choose another --port or --host."),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_refused(host, port, said):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(StudioError) as caught:
            app.check_address(host, other.getsockname()[1] if port == "taken" else port)
    assert said in str(caught.value)
    app.check_address("127.0.0.1", None)


def test_one_step_is_no_sampling(capsys, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(StagePlan((93, 550), (0.3, 0.1, 0.4)).dumps())
    assert app.main(["compare", "--plan", str(plan), "--steps", "0"]) == 2
    assert "--steps must be 1 or more, not 0" in capsys.readouterr().err


# ------------------------------------------------------------ both sides of compare


def test_a_side_that_cannot_be_is_refused(capsys):
    def compare(*options: str) -> str:
        return refused(capsys, "compare", "--model", "fashion-dit", *options)

    plan = ("--plan", json.dumps(PLAN))
    assert "--plan dense is none" in compare("--plan", "dense", "--stage-guidance", "early=1")
    assert "two whole numbers" in compare(*plan, "--side-steps", "50")
    assert "--steps must be" in compare(*plan, "--side-steps", "50,0")
    assert "numbers from 0 to 9" in compare(*plan, "--classes", "3,x")
    assert "'10'" in compare(*plan, "--classes", "10")
    assert "lacks sparsity" in compare("--plan", '{"boundaries": 5}')
