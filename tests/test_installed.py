"""The installed library: a wheel in a fresh environment, used from an empty folder."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mosaics import mosaic_of

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ci"))

from wheel import checkout_imports, library_files, renamed  # noqa: E402

from core.models.bundled import BUNDLED, assets_folder  # noqa: E402
from core.models.checkpoints import load_checkpoint  # noqa: E402

NEEDED = ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", ".ci/wheel.py")
NAMES = "StagePlan, propose_plan, NoiseSchedule, RemovalPath, MosaicTransformer, get_workshop"


def pip(*arguments: str | Path) -> None:
    """Run this environment's pip without the network."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy of the files that it needs: a build leaves folders behind."""
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in [*NEEDED, *(source for source, _ in library_files())]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).symlink_to(ROOT / name)
    (copy / ".ci" / "wheel.py").unlink()  # its place says where the checkout is
    (copy / ".ci" / "wheel.py").write_bytes((ROOT / ".ci" / "wheel.py").read_bytes())
    (copy / "assets" / "fashion-dit" / "train.py").write_text("raise SystemExit\n")
    (copy / "assets" / "fashion-dit" / "work").mkdir()
    (copy / "assets" / "fashion-dit" / "work" / "step.safetensors").write_bytes(b"0")
    pip("wheel", copy, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A fresh environment that holds the wheel, and sees the packages that it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    pip("--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    return folder


@pytest.fixture
def empty(tmp_path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def variables(folder: Path) -> dict[str, str]:
    """Return an environment without the checkout on Python's path, and a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "MOSAIC_CACHE": str(folder.parent / "cache"), "HF_HUB_OFFLINE": "1"}


def run(environment: Path, folder: Path, program: str, *arguments: str) -> tuple[int, str, str]:
    """Run a program of the environment in a folder -> exit code, stdout, stderr."""
    done = subprocess.run(
        [environment / "bin" / program, *arguments],
        cwd=folder,
        env=variables(folder),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_wheel_holds_one_name_and_no_work_files(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"mosaicdiff"}
    for name in (
        "app.py",
        "__main__.py",
        "studio/studio.py",
        "studio/stage_chart.js",
        "studio/plotly-cartesian.min.js",
    ):
        assert f"mosaicdiff/{name}" in names
    assert "mosaicdiff/assets/fashion-dit/model_index.json" in names
    assert "mosaicdiff/assets/plans/paper.json" in names
    assert not [name for name in names if "train.py" in name or "/work/" in name]
    assert wheel.stat().st_size < 80e6


def test_the_command_answers(environment, empty):
    for program in (("mosaicdiff",), ("python", "-m", "mosaicdiff")):
        done, out, err = run(environment, empty, *program, "--help")
        assert done == 0 and out.startswith("usage: mosaicdiff [-h]"), err


def test_an_error_names_the_command_and_not_the_checkouts_script(environment, empty):
    done, out, err = run(environment, empty, "mosaicdiff", "prune", "--plan", "x", "--out", "y")
    assert (done, out) == (2, "") and err.startswith("mosaicdiff: The plan file x ")


# ------------------------------------------------------------ one process: names, five lines, page

PROGRAM = f"""
import functools, importlib.util, json, os, sys
from mosaicdiff import {NAMES}
from mosaicdiff.errors import StudioError
from mosaicdiff.models.bundled import BUNDLED
from mosaicdiff.workshop.study import load_study
from importlib.metadata import requires, version
import mosaicdiff.app, mosaicdiff.obs, mosaicdiff.pruning.obs

found = {{
    "version": version("mosaicdiff") == mosaicdiff.__version__,
    "needs": requires("mosaicdiff"),
    "same": mosaicdiff.obs is mosaicdiff.pruning.obs,  # a path of version 0.1
    "checkout": [
        n for n in ("core", "mosaic_ui", "app", "assets") if importlib.util.find_spec(n)
    ],
    "bundled": str(BUNDLED).startswith(sys.prefix) and (BUNDLED / "model_index.json").is_file(),
    "rooms": [RemovalPath.__module__, get_workshop.__module__],
}}
try:
    load_study("study.json")
except StudioError as err:
    found["study"] = str(err)
os.symlink(BUNDLED.parent, "assets")  # where the README's lines look
import diffusers  # fewer steps than its own
sample = functools.partialmethod(diffusers.DiTPipeline.__call__, num_inference_steps=4)
diffusers.DiTPipeline.__call__ = sample
names = {{}}
exec(open("five_lines.py").read(), names)
found["picture"] = names["image"].size
found["network"] = type(names["pipeline"].transformer).__module__
print(json.dumps(found), flush=True)
print(mosaicdiff.app.main(["curves", "--json"]), flush=True)
sys.exit(mosaicdiff.app.main(["--port", sys.argv[1]]))
"""


class Ran(NamedTuple):
    """What the program said before its studio opened, and the status of the studio's page."""

    found: dict
    curves: dict
    code: str
    status: int | None
    log: str


@pytest.fixture(scope="module")
def ran(environment, tmp_path_factory) -> Ran:
    """All that is asked of the library, by one process in an empty folder: its imports take long.

    The README's five lines read subnetworks that the checkout wrote.
    """
    empty = tmp_path_factory.mktemp("library") / "empty"
    empty.mkdir()
    (empty / "study.json").write_text("{}")
    (code,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
        if "MosaicTransformer.from_pretrained" in block
    )
    (empty / "five_lines.py").write_text(renamed(code))
    pruned = mosaic_of(load_checkpoint(BUNDLED, "cpu").denoiser)
    pruned.save_pretrained(empty / "subnetworks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out, log = empty.parent / "out", empty.parent / "log"
    with out.open("w") as said, log.open("w") as errors:
        server = subprocess.Popen(
            [environment / "bin" / "python", "-c", PROGRAM, str(port)],
            cwd=empty,
            env=variables(empty),
            stdout=said,
            stderr=errors,
        )
    try:
        answered = status(f"http://127.0.0.1:{port}", server)
    finally:
        server.terminate()
        server.wait(30)
    lines = out.read_text().splitlines()
    assert len(lines) >= 3, log.read_text()
    return Ran(json.loads(lines[0]), json.loads(lines[1]), lines[2], answered, log.read_text())


def test_its_version_and_dependencies_come_from_one_place_each(ran):
    needs = [n for n in ran.found["needs"] if "extra ==" not in n]  # what is optional
    wanted = (ROOT / "requirements.txt").read_text().split()
    assert ran.found["version"] and len(needs) == len(wanted)
    assert {re.split(r"[=<>]", n)[0] for n in needs} == {re.split(r"[=<>]", n)[0] for n in wanted}


def test_the_library_has_the_public_names_and_the_checkout_is_out_of_reach(ran):
    """And its sentences name its own commands."""
    assert ran.found["same"] and ran.found["checkout"] == [] and ran.found["bundled"]
    assert ran.found["rooms"] == ["mosaicdiff.pruning.obs", "mosaicdiff.workshop.workshop"]
    assert "`python -m mosaicdiff.bench quality`" in " ".join(ran.found["study"].split())


def test_the_readmes_five_lines_with_the_librarys_name(ran):
    assert ran.found["picture"] == [64, 64]
    assert ran.found["network"] == "mosaicdiff.mosaic.transformer"


def test_a_verb_answers(ran):
    assert ran.code == "0" and len(ran.curves["timesteps"]) == 1000


def test_the_studio_opens(ran):
    assert ran.status == 200, ran.log


def status(url: str, server: subprocess.Popen, wait: float = 180) -> int | None:
    """Return the page's HTTP status as soon as it answers; None when the server ends before."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + wait
    while server.poll() is None and time.monotonic() < end:
        try:
            return direct.open(url, timeout=30).status
        except OSError:
            time.sleep(0.5)
    return None


# ------------------------------------------------------------ the build step itself


def test_names_of_the_checkout_are_replaced_in_code_and_in_sentences():
    source = (
        "from core import StagePlan\nimport core\nfrom core.curves.plan import x\n"
        "from mosaic_ui.theme import y\n# `core` and core/mosaic; `python app.py bench`\n"
        "score.core = 1\nnote('app.py: no')\n"
    )
    assert renamed(source) == (
        "from mosaicdiff import StagePlan\nimport mosaicdiff\n"
        "from mosaicdiff.curves.plan import x\n"
        "from mosaicdiff.studio.theme import y\n"
        "# `mosaicdiff` and mosaicdiff/mosaic; `mosaicdiff bench`\n"
        "score.core = 1\nnote('mosaicdiff: no')\n"
    )
    assert checkout_imports(renamed(source)) == []
    assert checkout_imports("import assets.plans") == ["assets.plans"]


def test_the_bundled_model_is_found_inside_the_package_and_beside_it(tmp_path):
    package = tmp_path / "mosaicdiff"
    package.mkdir()
    assert assets_folder(package) == tmp_path / "assets"
    (package / "assets").mkdir()
    assert assets_folder(package) == package / "assets"
    assert assets_folder() == ROOT / "assets"


def test_every_file_of_the_page_is_installed():
    """A stylesheet or script that a new folder brings must not be forgotten."""
    installed = {source for source, _ in library_files()}
    for folder in ("core", "mosaic_ui"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".pyc", ".pyi"):
                assert str(path.relative_to(ROOT)) in installed


def test_an_editable_install_is_refused_in_a_sentence():
    from setuptools import Distribution
    from wheel import BuildLibrary

    step = BuildLibrary(Distribution({"name": "mosaicdiff", "packages": ["mosaicdiff"]}))
    step.editable_mode = True
    with pytest.raises(SystemExit, match="work in the checkout"):
        step.run()
