"""The verb `sweep` on a real Ray cluster of two workers on this machine. Tiny random DiT.

The cluster has a token of its own and a folder of its own, and ends with the file.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from test_sweep_cli import ROOT, refused, refused_last, usual, verb

from core.runs.store import RunStore
from core.sweep import remote

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed"
)
X = ["--x", "sparsity.early=0.25,0.5,0.75"]
PATIENCE = 240  # seconds that a loaded machine may take for what takes ten


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory) -> Iterator[None]:
    """One calibration for the whole file, and a token that no file of the home holds.

    Ray reads the token when it is first imported, and sends reports of its use unless forbidden.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSAIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        yield


class Cluster:
    """A head node with two processors, started as docs/sweeps.md says."""

    def __init__(self, folder: Path):
        self.log, started = folder / "log", time.monotonic()
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        options = ["--num-cpus=2", f"--port={free_port()}", "--disable-usage-stats"]
        lean = ["--include-log-monitor=false", "--object-store-memory=100000000"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *options, *lean, f"--temp-dir={folder / 'ray'}"],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the sweep
            )
        while "Ray runtime started" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - started < PATIENCE, self.log.read_text()
            time.sleep(0.1)
        found = re.search(r"--address='([^']+)'", self.log.read_text())
        assert found, self.log.read_text()
        self.address = found[1]

    def all(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def at_work(self) -> list[psutil.Process]:
        """The workers that have a cell."""
        found = []
        for process in self.all():
            try:
                if process.cmdline()[:1] == ["ray::run_task"]:
                    found.append(process)
            except psutil.Error:  # it has just ended
                continue
        return found

    def end(self) -> None:
        """End every process of the cluster, and hold that none is left."""
        everything = self.all()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        finally:
            _, left = psutil.wait_procs(everything, timeout=20)
            for process in left:
                process.kill()
        assert not left


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(surroundings):
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a socket's path must be short
    try:
        one = Cluster(folder)
        try:
            yield one
        finally:
            one.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def command(model_folder, tmp_path, monkeypatch):
    return [*usual(model_folder, tmp_path, monkeypatch), *X, "--json"]


@contextmanager
def as_soon_as_a_cell_runs(cluster: Cluster, act) -> Iterator[list[int]]:
    """Do something once, beside what runs here; yield the workers that were at work then."""
    seen: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            working = cluster.at_work()
            if working:
                seen.extend(process.pid for process in working)
                return act(working)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@needs_ray
def test_a_cluster_gives_the_numbers_of_this_machine_although_a_worker_dies(
    command, cluster, tmp_path, capsys, monkeypatch
):
    """One cell fails on its worker; another worker is killed, and its cell runs again."""
    here, task_of = tmp_path / "here", remote.task_of

    def one_of_them_broken(cell, *rest):
        task = task_of(cell, *rest)
        if cell.x == 0.5:
            task["plan"]["sparsity"]["early"] = 2
        return task

    local = [str(here) if x == str(tmp_path / "out") else x for x in command]
    _, out, _ = verb(capsys, *local)
    expected = json.loads(out)
    monkeypatch.setattr(remote, "task_of", one_of_them_broken)
    with as_soon_as_a_cell_runs(cluster, lambda working: working[0].kill()) as killed:
        code, out, err = verb(capsys, *command, "--ray", cluster.address)
    there = json.loads(out)
    assert code == 0 and killed and not cluster.at_work()
    assert [cell["state"] for cell in there["cells"]] == ["done", "failed", "done"], err
    assert "0.95" in there["cells"][1]["sentence"]
    for one, other in zip(expected["cells"], there["cells"], strict=True):
        if other["state"] == "done":
            for name in ("psnr", "ssim", "latent_mse", "macs_saved", "fid", "n"):
                assert one["numbers"][name] == other["numbers"][name]
            pictures = [folder / one["picture"] for folder in (here, tmp_path / "out")]
            assert pictures[0].read_bytes() == pictures[1].read_bytes()
            run = RunStore(tmp_path / "data").get(other["run"])
            assert run.status == "finished" and run.name == f"sparsity.early {other['x']} (sweep)"
    # the same command without a cluster runs what failed, and nothing else
    code, out, _ = verb(capsys, *command)
    again = json.loads(out)["cells"]
    assert code == 0 and [cell["state"] for cell in again] == ["done"] * 3
    assert [again[0], again[2]] == [there["cells"][0], there["cells"][2]]


@needs_ray
def test_an_interrupt_ends_a_sweep_on_a_cluster_and_its_workers(command, cluster, tmp_path, capsys):
    def interrupt(working) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with as_soon_as_a_cell_runs(cluster, interrupt) as working:
        code, out, _ = verb(capsys, *command, "--ray", cluster.address)
    record = json.loads(out)
    assert code == 130 and record["stopped"] and record["counts"]["waiting"] == 3
    assert RunStore(tmp_path / "data").runs() == []
    _, left = psutil.wait_procs([p for p in cluster.all() if p.pid in working], timeout=20)
    assert working and not left


@needs_ray
def test_an_address_without_a_cluster_is_one_sentence(command, capsys, monkeypatch, tmp_path):
    nothing = f"127.0.0.1:{free_port()}"
    for given in (nothing, f"ray://{nothing}", "127.0.0.1:port"):
        said = refused_last(capsys, *command, "--ray", given)
        assert f"The Ray cluster at {given} cannot be reached" in said
    # something listens and says nothing: Ray alone would wait for more than five minutes
    monkeypatch.setattr(remote, "INIT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        said = refused_last(capsys, *command, "--ray", address)
    assert f"{address} cannot be reached (TimeoutError: no answer in 0.5 s)" in said
    assert not RunStore(tmp_path / "data").runs()


def test_a_worker_with_another_version_says_so():
    assert "same one on every node" in remote.run_task({"version": "0"})["error"]


def test_ray_that_is_not_installed_is_one_sentence(command, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # what `import` makes of a missing package
    said = refused(capsys, *command, "--ray", "auto")
    assert "Ray is not installed: pip install ray" in said
