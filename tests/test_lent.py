"""Comparisons on a GPU that a Space lends: Hugging Face's own package `spaces`, without a GPU.

`spaces` schedules, forks, pickles and releases as on ZeroGPU, against a device API on this machine.
What only a GPU has is left out: its first use in the fork, and the move of tensors to it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from forked import ROOT

from mosaic_ui import lent

PATIENCE = 500  # seconds that a loaded machine may take
CHILD = """
import json, multiprocessing, os, sys, threading, time
from dataclasses import replace
from pathlib import Path

import torch

# a build for the CPU lacks what `spaces` puts something else in the place of
torch.version.cuda, torch._C._cuda_init = "12.6", lambda: None
torch.cuda._is_in_bad_fork = torch.cuda.is_initialized

from mosaic_ui import lent

said = lent.prepare()
import gradio as gr
import spaces.zero.torch as gpu

gpu.init, gpu.move = lambda uuid: None, lambda callback=None: None

from core.calibration.settings import CalibrationSettings
from core.curves.plan import StagePlan
from core.errors import Stopped, StudioError
from core.workshop.comparison import Comparison
from core.workshop.compare import compare
from core.workshop.sample_settings import SampleSettings
from core.workshop.workshop import get_workshop
from mosaic_ui.compare import run as comparing
from mosaic_ui.compare.inputs import Request
from mosaic_ui.compare.run import stream
from mosaic_ui.runs.record import store

comparing.PREVIEW_SECONDS = 0.0  # a quick run is over before a second one would be shown
model, folder = sys.argv[1], Path(sys.argv[2])
few = CalibrationSettings(edges=(0, 100, 300, 600, 1000), images=32, held_out=16)
shop = get_workshop(model, "cpu", settings=few)
shop.calibrate()
plan = StagePlan((300, 600), (0.25, 0.25, 0.25), name="base")
settings = SampleSettings(labels=(0, 1), steps=4, seed=3, repeats=1)
long = replace(settings, steps=900)
found = {"said": said, "device": shop.device.type, "parent": os.getpid()}


def kept():
    *_, here = compare(shop, None, plan, settings)
    here.save(folder / "here")
    here = Comparison.load(folder / "here")
    request = Request(settings, (None, plan), ("Dense", "base"))
    views = list(stream(shop, request, threading.Event()))
    (run,) = store().runs()
    there = store().comparison(run.id)
    tensors = [
        torch.equal(getattr(getattr(here, side), name), getattr(getattr(there, side), name))
        for side in "ab"
        for name in ("latents", "images")
    ]
    numbers = [
        getattr(here, name) == getattr(there, name)
        for name in ("psnr", "ssim", "latent_mse", "speedup_macs", "n", "timed_runs", "settings")
    ]
    pictures = sum("<img" in str(view.get("live", "")) for view in views)
    return {
        "status": run.status,
        "alike": tensors + numbers,
        "pictures": pictures,
        "film": len(there.b.film),
        "asks": lent.seconds_to_ask(shop, (None, plan), long),
    }


def ended(asked, act, stop=None):
    start, seen = time.monotonic(), False
    try:
        for item in lent.compared(shop, None, plan, asked, stop=stop):
            if getattr(item, "drawing", False) and not seen:
                seen = True
                act()
    except (Stopped, StudioError) as err:
        return [type(err).__name__, str(err), time.monotonic() - start]
    return ["finished", "", 0]


def killed():
    for process in multiprocessing.active_children():
        process.kill()


def work():
    stop = threading.Event()
    found["kept"] = kept()
    found["stopped"] = ended(long, stop.set, stop)
    found["refused"] = ended(replace(settings, scheduler="Nope"), print)
    found["quota"] = ended(settings, print)
    found["lost"] = ended(long, killed)
    found["waiting"] = ended(settings, print, stop)  # which is set


with gr.Blocks() as page:
    pass
page.launch(prevent_thread_lock=True, quiet=True)
thread = threading.Thread(target=work)  # as the handlers of the page
thread.start()
thread.join()
print(json.dumps(found), flush=True)
killed()  # those that wait for another call
os._exit(0)
"""
LENT = {"nvidiaIndex": 0, "nvidiaUUID": "none", "allowToken": "token"}
QUOTA = {"left": 5, "wait": 3600}


class DeviceApi(ThreadingHTTPServer):
    """What `spaces` asks for a GPU, as far as spaces/zero/api.py knows it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.heard: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def of(self, path: str) -> list[dict[str, str]]:
        return [query for name, query in self.heard if name == path]


class Answer(BaseHTTPRequestHandler):
    server: DeviceApi

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.server.heard.append((parts.path, query))
        status, body = 200, b""
        if parts.path == "/schedule":
            asked = len(self.server.of("/schedule"))
            again = asked != 2  # the second call gets a fork of its own, the others the last one
            status, said = (429, QUOTA) if asked == 4 else (200, LENT | {"idle": again})
            body = json.dumps(said).encode()
            if asked == 6:  # a GPU that does not come
                self.server.over.wait(PATIENCE)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def api() -> Iterator[DeviceApi]:
    server = DeviceApi()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(importlib.util.find_spec("spaces") is None, reason="spaces is not installed")
def test_a_comparison_in_a_lent_fork_is_kept_stopped_and_refused_as_one_here(
    api, model_folder, tmp_path
):
    (tmp_path / "cgroup").write_text("0::/none\n")
    told = {
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": api.url,
        "ZEROGPU_PROC_SELF_CGROUP_PATH": str(tmp_path / "cgroup"),
        "HOME": str(tmp_path),
        "MOSAIC_CACHE": str(tmp_path / "cache"),
        "MOSAIC_DATA": str(tmp_path / "data"),
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "*",
        "no_proxy": "*",
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(model_folder), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | told,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["said"] == lent.LENDS and found["device"] == "cpu"
    # a Space that has no function to lend a GPU to is ended as it starts
    assert len(api.of("/startup-report")) == 1
    kept = found["kept"]
    assert kept["status"] == "finished" and all(kept["alike"]) and len(kept["alike"]) == 11
    assert kept["pictures"] and kept["film"]
    # in another process, for as long as was foreseen
    forks = [int(query["pid"]) for query in api.of("/allow")]
    assert len(set(forks)) == 2 and found["parent"] not in forks
    seconds = [int(query["durationSeconds"]) for query in api.of("/schedule")]
    assert seconds[:2] == [lent.FIRST_SECONDS, kept["asks"]] and len(seconds) == 6
    kind, said, took = found["stopped"]
    assert kind == "Stopped" and "step" in said and took < PATIENCE / 4
    kind, said, _ = found["refused"]
    assert kind == "StudioError" and "Nope" in said and "choose one of" in said
    kind, said, _ = found["quota"]
    assert kind == "StudioError" and said.startswith("The Space lent no GPU (Space app has reached")
    assert found["lost"][:2] == ["StudioError", lent.LOST]
    kind, said, took = found["waiting"]
    assert (kind, said) == ("Stopped", "Stopped while it waited for a GPU.") and took < 20
    # what came to its end, by itself or by a Stop, is given back as done
    assert [query["fail"] for query in api.of("/release")] == ["false"] * 3 + ["true"]
    still = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in forks):
        assert time.monotonic() < still


def test_without_zerogpu_nothing_is_imported_and_nothing_lent(monkeypatch):
    monkeypatch.delenv(lent.TOLD, raising=False)
    monkeypatch.setitem(sys.modules, "spaces", None)
    assert lent.prepare() == "" and not lent.lends()


def test_a_package_that_cannot_be_loaded_leaves_everything_on_the_cpu(monkeypatch):
    monkeypatch.setenv(lent.TOLD, "true")
    monkeypatch.setitem(sys.modules, "spaces", None)  # what `import` makes of a missing package
    assert "could not be loaded" in lent.prepare() and not lent.lends()
