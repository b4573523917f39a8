"""The verb `sweep`, on this machine and through a Ray cluster. Tiny random DiT."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import app  # noqa: E402
from core.runs.store import RunStore  # noqa: E402
from core.sweep import remote  # noqa: E402

PLAN = {"boundaries": [300, 600], "sparsity": {"late": 0.25, "middle": 0.25, "early": 0.25}}
SMALL = ["--bins", "3", "--images-per-bin", "12", "--images", "2", "--steps", "3", "--repeats", "1"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """One calibration for the whole file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSAIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def command(model_folder, tmp_path, monkeypatch):
    """The verb with its usual arguments; runs are kept in a folder of this test."""
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path / "data"))
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLAN))
    usual = ["--model", str(model_folder), "--device", "cpu", "--plan", str(plan), *SMALL]
    return ["sweep", *usual, "--out", str(tmp_path / "out")]


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


# ------------------------------------------------------------ Ray


class Threads:
    """Two threads with the few calls of Ray that a sweep makes."""

    def __init__(self):
        self.pool, self.cancelled, self.ended = ThreadPoolExecutor(2), [], False

    def init(self, address, **more):
        self.address = address

    def remote(self, function):
        def submit(task):
            return self.pool.submit(function, task)

        return SimpleNamespace(options=lambda **more: SimpleNamespace(remote=submit))

    def cluster_resources(self):
        return {"CPU": 2.0}

    def wait(self, refs, num_returns, timeout):
        done, left = wait_for(refs, timeout)
        return list(done), list(left)

    def get(self, ref: Future):
        return ref.result()

    def cancel(self, ref, force):
        self.cancelled.append(ref)

    def shutdown(self):
        self.pool.shutdown()
        self.ended = True


def test_what_comes_back_from_a_cluster_is_kept(command, tmp_path, capsys, monkeypatch):
    """Beside the same sweep on this machine: equal numbers, equal pictures."""
    ray, run_task = Threads(), remote.run_task
    _, out, _ = verb(capsys, *command, "--x", "sparsity.early=0.25,0.5,0.75", "--json")
    here = json.loads(out)

    def sometimes(task):
        if task["plan"]["sparsity"]["early"] == 0.5:
            raise RuntimeError("the worker died")
        return run_task(task)

    monkeypatch.setattr(remote, "run_task", sometimes)
    monkeypatch.setitem(sys.modules, "ray", ray)
    command[-1] = str(tmp_path / "there")
    asked = [*command, "--x", "sparsity.early=0.25,0.5,0.75", "--ray", "auto", "--json"]
    code, out, _ = verb(capsys, *asked)
    there = json.loads(out)
    assert code == 0 and ray.address == "auto" and ray.ended
    assert [cell["state"] for cell in there["cells"]] == ["done", "failed", "done"]
    assert "the worker died" in there["cells"][1]["sentence"]
    for one, other in zip(here["cells"], there["cells"], strict=True):
        if other["state"] == "done":
            for name in ("psnr", "ssim", "latent_mse", "macs_saved", "n"):
                assert one["numbers"][name] == other["numbers"][name]
            pictures = [tmp_path / folder / one["picture"] for folder in ("out", "there")]
            assert pictures[0].read_bytes() == pictures[1].read_bytes()
            run = RunStore(tmp_path / "data").get(other["run"])
            assert run.status == "finished" and run.name == f"sparsity.early {other['x']} (sweep)"
    # the same command without a cluster runs what failed
    code, out, _ = verb(capsys, *[x for x in asked if x not in ("--ray", "auto")])
    assert code == 0 and json.loads(out)["counts"]["done"] == 3


def test_a_worker_with_another_version_or_model_says_so(model_folder):
    task = {"version": "0"}
    assert "same one on every node" in remote.run_task(task)["error"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_ray_that_is_not_installed_is_one_sentence(command, capsys):
    said = refused(capsys, *command, "--x", "steps=3", "--ray", "auto")
    assert "Ray is not installed: pip install ray" in said


def test_a_cluster_that_cannot_be_reached_is_one_sentence(command, capsys, monkeypatch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setitem(sys.modules, "ray", Threads())
    for given in (address, f"ray://{address}", "127.0.0.1:port"):
        said = refused_last(capsys, *command, "--x", "steps=3", "--ray", given)
        assert f"The Ray cluster at {given} cannot be reached" in said
    assert not RunStore(tmp_path / "data").runs()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_local_cluster_of_two_workers(command, tmp_path):
    """In a process of its own, as Ray stays in a process."""
    code = (
        "import sys, ray, app\nray.init(num_cpus=2, include_dashboard=False)\n"
        "ray.init = lambda **more: None\nsys.exit(app.main(sys.argv[1:]))"
    )
    asked = [*command, "--x", "sparsity.early=0.25,0.5,0.75", "--ray", "auto", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *asked], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["counts"]["done"] == 3
    assert len(RunStore(tmp_path / "data").runs()) == 3
