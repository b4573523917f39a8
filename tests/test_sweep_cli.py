"""The verb `sweep` on this machine. Tiny random DiT."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import app  # noqa: E402
from core.runs.store import RunStore  # noqa: E402

PLAN = {"boundaries": [300, 600], "sparsity": {"late": 0.25, "middle": 0.25, "early": 0.25}}
SMALL = ["--bins", "3", "--images-per-bin", "12", "--images", "2", "--steps", "3", "--repeats", "1"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """One calibration for the whole file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSAIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def usual(model_folder, folder: Path, monkeypatch) -> list[str]:
    """The verb with its usual arguments; runs are kept in a folder of this test."""
    monkeypatch.setenv("MOSAIC_DATA", str(folder / "data"))
    plan = folder / "plan.json"
    plan.write_text(json.dumps(PLAN))
    given = ["--model", str(model_folder), "--device", "cpu", "--plan", str(plan), *SMALL]
    return ["sweep", *given, "--out", str(folder / "out")]


@pytest.fixture
def command(model_folder, tmp_path, monkeypatch):
    return usual(model_folder, tmp_path, monkeypatch)


def verb(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        code = app.main(list(arguments))
    except SystemExit as end:
        code = end.code
    return (code, *capsys.readouterr())


def refused(capsys, *arguments: str) -> str:
    code, out, err = verb(capsys, *arguments)
    assert code == 2 and out == "" and err.startswith("app.py") and err.count("\n") == 1, err
    return err


def test_the_verb_writes_everything_and_goes_on(command, tmp_path, capsys):
    asked = [*command, "--x", "sparsity.early=0.25:0.75:0.25", "--json"]
    code, out, err = verb(capsys, *asked, "--y", "boundaries.high=200:700:500")
    record = json.loads(out)
    assert code == 0 and record["counts"]["done"] == 3 and record["counts"]["impossible"] == 3
    lines = [line for line in err.splitlines() if line.startswith(("[0/3]", "[1/3]", "[3/3]"))]
    assert "3 of 6 cells to run, 3 cannot be; about" in err and "predicted" in err
    assert "by the pace so far" in err and "nothing left to run" in lines[-1]
    folder = tmp_path / "out"
    assert {"sweep.json", "sweep.csv", "sweep.png", "sweep.html"} <= {
        p.name for p in folder.iterdir()
    }
    assert json.loads((folder / "sweep.json").read_text()) == record
    kept = {run.id for run in RunStore(tmp_path / "data").runs()}
    assert kept == {cell["run"] for cell in record["cells"] if cell["state"] == "done"}
    # again: nothing runs, the same record
    code, out, _ = verb(capsys, *asked, "--y", "boundaries.high=200:700:500")
    assert code == 0 and json.loads(out) == record
    assert len(RunStore(tmp_path / "data").runs()) == 3
    assert "another x axis" in refused_last(capsys, *command, "--x", "sparsity.early=0.25")


def refused_last(capsys, *arguments: str) -> str:
    """The last line of a refusal that comes after work whose progress was said."""
    code, out, err = verb(capsys, *arguments)
    assert code == 2 and out == ""
    return err.splitlines()[-1]


def test_the_numbers_are_those_of_the_verb_compare(command, tmp_path, capsys):
    _, out, _ = verb(capsys, *command, "--x", "sparsity.early=0.25,0.5", "--json")
    (_, cell) = json.loads(out)["cells"]
    other = tmp_path / "half.json"
    other.write_text(json.dumps(cell["plan"]))
    asked = [x for x in command[1:] if x not in ("--out", str(tmp_path / "out"))]
    asked[asked.index("--plan") + 1] = str(other)
    _, out, _ = verb(capsys, "compare", *asked, "--json")
    found = json.loads(out)
    for name in ("psnr", "ssim", "latent_mse", "speedup_macs", "n", "timed_runs"):
        assert cell["numbers"][name] == found[name], name
    assert cell["numbers"]["macs_saved"] == 1 - found["mosaic"]["macs"] / found["dense"]["macs"]


def test_without_a_plan_it_starts_from_the_formula(command, capsys):
    place = command.index("--plan")
    asked = command[:place] + command[place + 2 :]
    code, out, _ = verb(capsys, *asked, "--x", "steps=3", "--seconds", "0.000001", "--json")
    record = json.loads(out)
    assert code == 0 and record["stopped"] and record["counts"]["waiting"] == 1
    assert record["asked"]["plan"]["name"] == "Formula"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--x", "steps=1:1000000:1"], "1,000,000 cells, and 400 are the most"),
        (["--x", "target=0.1", "--y", "sparsity.late=0.1"], "set the same thing"),
        (["--x", "colour=1"], "runs over target"),
        (["--x", "steps=3", "--seconds", "nan"], "--seconds must be"),
        (["--x", "steps=3", "--images", "0"], "--images must lie"),
        (["--x", "steps=5000"], "No cell of this sweep can run"),
    ],
)
def test_what_cannot_be_is_one_sentence(command, capsys, more, said):
    assert said in refused(capsys, *command, *more)
