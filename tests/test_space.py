"""The repository is a Hugging Face Space as it stands, and starts as a Space starts it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

import app
from core.errors import StudioError
from mosaic_ui import space, visitors

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 240.0  # a machine that runs other things must not fail a test


def front_matter() -> dict[str, str]:
    """Return the fields that a Space reads from the head of the README."""
    head = (ROOT / "README.md").read_text(encoding="utf-8").removeprefix("---\n")
    lines = head.partition("\n---\n")[0].splitlines()
    return dict(line.split(": ", 1) for line in lines)


def test_the_readme_begins_with_what_a_space_reads():
    fields = front_matter()
    assert (fields["sdk"], fields["license"], fields["pinned"]) == ("gradio", "mit", "false")
    assert (ROOT / fields["app_file"]).is_file() and len(fields["short_description"]) <= 60
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {fields["colorFrom"], fields["colorTo"]} <= colours and fields["emoji"]
    needs = re.search(r'requires-python = ">=([0-9.]+)"', (ROOT / "pyproject.toml").read_text())
    assert fields["python_version"].strip('"') == needs[1]


def test_the_version_of_gradio_is_one_that_the_requirements_allow():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    (gradio,) = [one for line in lines if (one := Requirement(line)).name == "gradio"]
    assert front_matter()["sdk_version"] in gradio.specifier
    assert version("gradio") in gradio.specifier


def test_a_cache_that_cannot_be_written_is_a_temporary_folder_with_a_sentence(
    monkeypatch, tmp_path
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOSAIC_CACHE", str(tmp_path / "file" / "cache"))
    try:
        said = space.prepare()
        assert visitors.separated() and len(said) == 2 and "a file lies where" in said[1]
        place = Path(os.environ["MOSAIC_CACHE"])
        assert str(place) in said[1] and place != tmp_path / "file" / "cache"
        monkeypatch.setenv("MOSAIC_CACHE", str(tmp_path / "own"))
        assert len(space.prepare()) == 1 and os.environ["MOSAIC_CACHE"] == str(tmp_path / "own")
        assert list((tmp_path / "own").iterdir()) == []
    finally:
        visitors.together()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def files_of_the_checkout() -> dict[Path, int]:
    """Return when each file that the program reads was written."""
    rooms = [ROOT / name for name in ("core", "mosaic_ui", "assets")]
    return {path: path.stat().st_mtime_ns for room in rooms for path in room.rglob("*")}


def test_app_py_starts_as_a_space_starts_it(tmp_path):
    """A home that cannot be written, a checkout that is not, the address that Spaces set."""
    port, before = free_port(), files_of_the_checkout()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MOSAIC_", "XDG_", "GRADIO_"))}
    told = {
        "SPACE_ID": "someone/mosaicdiff",
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SSR_MODE": "True",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(tmp_path / "errors" / "home"),  # below a file
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    errors = tmp_path / "errors"
    with errors.open("wb") as err:
        program = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=ROOT,
            env=kept | told,
            stdout=subprocess.DEVNULL,
            stderr=err,
        )
    try:
        first = answered(program, f"http://127.0.0.1:{port}/", errors)
    finally:
        program.terminate()
        program.wait(30)
    said = errors.read_text()
    assert "gradio-app" in first.text and visitors.COOKIE in first.headers["set-cookie"]
    assert "runs and plans belong to the visitor" in said and "Traceback" not in said
    assert "Listening on 0.0.0.0" in said and said.count("Calibrations are kept in") == 1
    assert files_of_the_checkout() == before


def answered(program: subprocess.Popen, url: str, errors: Path) -> httpx.Response:
    """Wait for the first answer of a program."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert program.poll() is None, errors.read_text()
        try:
            return httpx.get(url, timeout=30)
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError(errors.read_text())


@pytest.mark.parametrize(
    "given", ["studio", "//host/x", "/a b", "/a?b", "/..", "ftp://h/x", "/a//b"]
)
def test_a_root_path_that_is_none_is_refused(given):
    with pytest.raises(StudioError, match="--root-path is .* must be a path that begins with /"):
        app.root_path(given)


def test_the_root_path_comes_from_the_option_or_the_variable(monkeypatch):
    monkeypatch.setenv("GRADIO_ROOT_PATH", "/from/variable")
    assert app.root_path(None) == "/from/variable" and app.root_path("/own/") == "/own"
    assert app.root_path("https://host/studio/") == "https://host/studio"
    monkeypatch.delenv("GRADIO_ROOT_PATH")
    assert app.root_path(None) == app.root_path("/") == ""
