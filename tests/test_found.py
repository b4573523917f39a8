"""What is said of a device: capability, memory and modes; and what a mode lacks."""

from __future__ import annotations

import types

import pytest
import torch

from core.curves.plan import StagePlan
from core.models import devices
from core.models.checkpoints import load_checkpoint
from core.models.devices import DeviceFacts, device_facts, no_cuda
from core.mosaic import modes
from core.mosaic.found import available_modes, device_line, line_of
from core.mosaic.modes import why_not
from core.sampling.layer_times import LayerTimes, shape_name
from core.sampling.timing import LatencyTable
from core.workshop.circumstances import circumstances
from core.workshop.sample_settings import SampleSettings
from core.workshop.workshop import Workshop
from mosaic_ui import tables

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """Stand for a machine with a card: what torch would answer there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70_500_000_000, 85_000_000_000))
    monkeypatch.setattr(modes.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(modes.shutil, "which", lambda name: f"/usr/bin/{name}")


def test_the_line_of_a_gpu_has_capability_memory_and_modes(gpu):
    assert device_line(CUDA) == (
        "NVIDIA H100 80GB HBM3 (CUDA), compute capability 9.0, 70.5 of 85.0 GB free;"
        " modes: plain, graphs, compiled"
    )


def test_the_line_of_a_cpu_has_its_own_modes(monkeypatch):
    monkeypatch.setattr(modes, "_missing", lambda device: "a C++ compiler (g++)")
    monkeypatch.setattr(devices, "free_memory", lambda device: 3_210_000_000)
    assert device_line(CPU).startswith("CPU (") and "capability" not in device_line(CPU)
    assert device_line(CPU).endswith("), 3.2 GB free; modes: plain")
    assert available_modes(CPU) == ["plain"]
    monkeypatch.setattr(devices, "free_memory", lambda device: None)
    assert "free" not in device_line(CPU)


def test_the_line_follows_from_the_facts():
    facts = DeviceFacts("Card", (7, 5), 1_000_000_000, None)
    assert line_of(facts, ["plain", "graphs"]) == (
        "Card, compute capability 7.5, 1.0 GB free; modes: plain, graphs"
    )
    assert device_facts(CPU).capability is None and device_facts(CPU).name.startswith("CPU")


def test_a_refused_mode_says_what_is_missing(gpu, monkeypatch):
    assert why_not("graphs", CUDA) == why_not("compiled", CUDA) == ""
    # the machine has a card, and the model is not on it
    assert "load the model on cuda" in why_not("graphs", CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert "capability 7.0 or more (this one has 6.1)" in why_not("compiled", CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(modes.shutil, "which", lambda name: None)
    assert "a C compiler (gcc)" in why_not("compiled", CUDA)
    monkeypatch.setattr(modes.importlib.util, "find_spec", lambda name: None)
    assert "Triton" in why_not("compiled", CUDA)


@pytest.mark.parametrize(
    ("built_for", "cards", "words"),
    [
        (None, 0, "built without CUDA"),
        ("13.0", 0, "no CUDA device was found"),
        ("13.0", 1, "does not answer"),
    ],
)
def test_why_there_is_no_cuda_is_told_apart(monkeypatch, built_for, cards, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch, "version", types.SimpleNamespace(cuda=built_for))
    assert words in no_cuda()
    assert f"({no_cuda()})" in why_not("graphs", CPU)


def test_the_page_s_device_line_tells_what_was_found(workshop):
    assert f"modes: {', '.join(available_modes(workshop.device))}" in tables.status_line(workshop)


def test_circumstances_are_read_from_the_tables_of_this_device(model_folder, tmp_path, monkeypatch):
    shop = Workshop(load_checkpoint(model_folder, "cpu", dtype=torch.float32), None, tmp_path)
    settings = SampleSettings(labels=(0, 1, 2), guidance=1.5)
    plan = StagePlan((100, 600), (0.5, 0.5, 0.5), method="magnitude")
    bare = circumstances(shop, plan, settings, 3, timed=True)
    assert (bare.rows, bare.fixed, bare.outside, bare.widths) == (6, None, None, ())
    assert bare.mode in bare.modes and bare.device == "cpu"
    shop.times.keep_latency(LatencyTable("CPU", 6, (1e6, 2e6), (2.0, 3.0)))
    found = circumstances(shop, plan, settings, 3, timed=True)
    assert found.fixed == pytest.approx(1 / 3)
    assert circumstances(shop, plan, settings, 3, timed=False).fixed is None
    curves = {shape_name(x): ((0, x.groups), (0.1, 0.35)) for x in shop.layers}
    shop.times.keep_layers(LayerTimes("CPU", 6, curves))  # four layers, each saves .25 s of 3
    assert circumstances(shop, plan, settings, 3, timed=True).outside == pytest.approx(2 / 3)
    shop.predictor.device = "cuda"
    assert circumstances(shop, plan, settings, 3, timed=True).widths == ()
    monkeypatch.setattr(shop.predictor, "width_warnings", lambda plan: ["Odd."])
    assert circumstances(shop, plan, settings, 3, timed=True).widths == ("Odd.",)
