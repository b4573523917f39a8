"""Running out of memory, for real on the CPU: one sentence everywhere.

Buttons work again, finished parts are kept, and other errors stay visible.
"""

from __future__ import annotations

import errno
import json
import logging
import threading
import weakref
from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from test_cli import refused, verb

from core.bench.suite import PARTS, Suite, run_all
from core.bench.table import table
from core.curves.plan import StagePlan
from core.errors import NO_MEMORY, OutOfMemory, StudioError, out_of_memory, plain_memory_errors
from core.models.checkpoints import load_checkpoint
from core.models.devices import pick_device
from core.workshop.comparison import SampleSettings
from core.workshop.workshop import Workshop
from mosaic_ui import jobs, schedules
from mosaic_ui.compare import inputs as compare_inputs
from mosaic_ui.compare import run as compare_run
from mosaic_ui.explore import curve_panel
from mosaic_ui.input_checks import plain_errors
from mosaic_ui.studio import Studio

PLAN = StagePlan((93, 550), (0.5, 0.25, 0.5))
PLAIN = PLAN.to_json()
VISITOR = SimpleNamespace(session_hash="visitor out of memory")
OTHERS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("The size of tensor a (4) must match"),
    ValueError("out of memory"),
    KeyError("memory"),
    OSError(errno.ENOSPC, "No space left on device"),
    StudioError("No."),
]


def full(*args, **kwargs):
    """Ask torch's own allocator for an exabyte."""
    return torch.empty(1 << 58)


def of_cuda(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def broken(*args, **kwargs):
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nmore of it")


@pytest.fixture(scope="module")
def studio(workshop):
    return Studio(workshop, PLAN)


def buttons(jobs_of, found):
    """Return which of Calibrate, Prune and Stop can be pressed."""
    pressed = (jobs_of.calibrate, jobs_of.prune, jobs_of.stop)
    return [found[button]["interactive"] for button in pressed]


# ------------------------------------------------------------ which errors these are


@pytest.mark.parametrize("make", [full, of_cuda, lambda: bytearray(1 << 62)])
def test_what_torch_and_python_raise_is_known(make):
    with pytest.raises((RuntimeError, MemoryError)) as found:
        make()
    assert out_of_memory(found.value)
    with pytest.raises(OutOfMemory) as said, plain_memory_errors():
        make()
    assert str(said.value) == NO_MEMORY and isinstance(said.value, StudioError)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_what_the_libraries_of_cuda_say_is_known(words):
    assert out_of_memory(RuntimeError(words)) and out_of_memory(
        OSError(errno.ENOMEM, "Cannot allocate memory")
    )


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_no_other_error_is_taken_for_it(error):
    assert not out_of_memory(error)
    with pytest.raises(type(error)) as found, plain_memory_errors():
        raise error
    assert found.value is error


def test_what_the_failed_call_held_is_let_go():
    seen = []

    def work():
        large = torch.zeros(1000)
        seen.append(weakref.ref(large))
        return full() + large

    with pytest.raises(OutOfMemory) as held, plain_memory_errors():
        work()
    assert held.value.__context__ is not None and seen[0]() is None


# ------------------------------------------------------------ in the page


@pytest.mark.parametrize("fail", [full, of_cuda])
@pytest.mark.parametrize("kind, method", [("prune", "build"), ("calibrate", "calibrate")])
def test_the_buttons_come_back_with_a_sentence(studio, workshop, monkeypatch, kind, method, fail):
    monkeypatch.setattr(workshop, method, fail)
    jobs_of = studio.prune.jobs
    getattr(jobs_of, f"ask_{kind}")(PLAIN, "DDIM", 50, VISITOR)
    found = list(getattr(jobs_of, f"on_{kind}")(VISITOR))[-1]
    assert NO_MEMORY in found[jobs_of.job] and found[studio.shared.status]
    assert buttons(jobs_of, found) == [True, True, False]
    assert not jobs.visit(VISITOR.session_hash).request_stop()


def test_after_an_error_that_nobody_foresaw_they_come_back_too_and_it_is_logged(
    studio, workshop, monkeypatch, caplog
):
    monkeypatch.setattr(workshop, "build", broken)
    jobs_of = studio.prune.jobs
    jobs_of.ask_prune(PLAIN, "DDIM", 50, VISITOR)
    found = list(jobs_of.on_prune(VISITOR))[-1]
    words = found[jobs_of.job]
    assert "Pruning failed: mat1 and mat2 shapes cannot be multiplied." in words
    assert "more of it" not in words
    assert buttons(jobs_of, found) == [True, True, False]
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.exc_info[0] is RuntimeError and "Pruning failed" in record.getMessage()


@pytest.mark.parametrize(
    "fail, said", [(full, NO_MEMORY), (broken, "The measurement failed: mat1 and mat2")]
)
def test_a_measurement_offers_its_button_again(studio, workshop, monkeypatch, fail, said):
    monkeypatch.setattr(workshop, "measure_latency", fail)
    speed = studio.explore.speed
    found = list(speed.on_measure(PLAIN, "DDIM", 50, 0, VISITOR))[-1]
    assert set(found) == {speed.job, speed.measure}
    assert said in found[speed.job] and found[speed.measure]["interactive"]


def test_a_walk_along_the_path_says_so(studio, workshop, monkeypatch):
    monkeypatch.setattr(curve_panel, "sample_path", full)
    monkeypatch.setattr(workshop, "paths_walked", {})
    curves = studio.explore.curves
    walk = curves.on_path(schedules.own_beta(workshop), True, "DDIM", 6, VISITOR)
    assert NO_MEMORY in list(walk)[-1][curves.path_job]


@pytest.mark.parametrize(
    "fail, said",
    [
        (full, NO_MEMORY),
        (broken, "The comparison failed: mat1 and mat2 shapes cannot be multiplied."),
    ],
)
def test_a_comparison_says_so(workshop, monkeypatch, fail, said):
    monkeypatch.setattr(workshop, "build", fail)
    request = compare_inputs.Request(
        SampleSettings(labels=(0, 1), steps=5), (None, PLAN), ("Dense", "Current plan")
    )
    *_, last = compare_run.stream(workshop, request, threading.Event())
    assert said in last["live"]


def test_any_answer_says_so():
    with pytest.raises(gr.Error) as notice:
        plain_errors(full)()
    assert notice.value.message == NO_MEMORY
    with pytest.raises(RuntimeError, match="mat1"):
        plain_errors(broken)()


# ------------------------------------------------------------ on the command line


def test_a_verb_says_so_and_exits_with_two(capsys, model_folder, tmp_path, monkeypatch):
    (tmp_path / "plan.json").write_text(json.dumps(PLAIN))
    arguments = (
        "prune",
        "--model",
        str(model_folder),
        "--device",
        "cpu",
        "--plan",
        str(tmp_path / "plan.json"),
        "--out",
        str(tmp_path / "out"),
    )
    monkeypatch.setenv("MOSAIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Workshop, "calibrate", full)
    assert refused(capsys, *arguments) == f"app.py: {NO_MEMORY}\n"
    monkeypatch.setattr(Workshop, "calibrate", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        verb(capsys, *arguments)


def test_the_page_opens_without_times_where_they_cannot_be_measured(
    capsys, model_folder, tmp_path, monkeypatch
):
    opened = []
    monkeypatch.setenv("MOSAIC_CACHE", str(tmp_path))
    monkeypatch.setattr(Workshop, "measure_latency", full)
    monkeypatch.setattr(gr.Blocks, "launch", lambda demo, **options: opened.append(demo))
    code, _, err = verb(capsys, "--model", str(model_folder), "--device", "cpu")
    assert (
        code == 0
        and len(opened) == 1
        and err == f"app.py: the device's speed was not measured. {NO_MEMORY}\n"
    )


def test_a_model_that_does_not_fit_is_not_called_damaged(model_folder, monkeypatch):
    import diffusers

    monkeypatch.setattr(diffusers.DiTPipeline, "from_pretrained", full)
    with pytest.raises(OutOfMemory):
        load_checkpoint(model_folder, "cpu")
    monkeypatch.setattr(torch, "empty", of_cuda)
    with pytest.raises(OutOfMemory):
        pick_device("cpu")


def test_a_part_of_the_benchmarks_that_runs_out_leaves_the_others(monkeypatch):
    monkeypatch.setitem(PARTS, "memory", full)
    monkeypatch.setitem(PARTS, "plans", lambda suite: {"n": 3})
    found = run_all(Suite(device="cpu", quick=True), ("macs", "memory", "plans"))
    assert not found["stopped"] and found["parts"]["memory"] == {
        "part": "memory",
        "error": NO_MEMORY,
    }
    assert (
        "measured" in found["parts"]["macs"]
        and found["parts"]["plans"]["n"] == 3
        and f"memory: {NO_MEMORY}" in table(found)
    )
    monkeypatch.setitem(PARTS, "memory", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        run_all(Suite(device="cpu", quick=True), ("memory",))
