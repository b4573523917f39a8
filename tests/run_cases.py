"""Tiny comparisons for the tests of kept runs."""

from __future__ import annotations

import torch
from forked import Forked

from core.curves.plan import StagePlan
from core.workshop.comparison import Comparison, SampleSettings, Side

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55), name="mine")
SETTINGS = SampleSettings(labels=(0, 1), steps=2, guidance=1.5, seed=7, repeats=3)
BEGUN = {"model": "tiny", "model_key": "key", "device": "CPU"}


def tiny(name: str = "mine", n: int = 2, **changes) -> Comparison:
    """Two steps; B is twice as fast."""
    images = torch.linspace(-1, 1, n * 64).reshape(n, 1, 8, 8)
    common = {"scale": 1.0, "timesteps": [900.0, 50.0], "latents": torch.ones(n, 4, 2, 2)}
    dense = Side(
        "Dense",
        None,
        images=images,
        step_seconds=[[1.0, 1.0], [1.1, 1.0], [0.9, 1.0]],
        stages=[-1, -1],
        macs=3_000_000_000,
        predicted_seconds=[2.0, 2.0],
        class_accuracy=0.5,
        fid=15.25,
        **common,
    )
    pruned = Side(
        name,
        PLAN,
        images=-images,
        step_seconds=[[0.5, 0.5], [0.55, 0.5], [0.45, 0.5]],
        stages=[2, 0],
        macs=2_000_000_000,
        predicted_seconds=None,
        film=[images],
        film_timesteps=[900.0],
        **common,
    )
    values = {
        "a": dense,
        "b": pruned,
        "settings": SETTINGS,
        "device": "CPU, 2 threads",
        "model": "tiny",
        "when": "2026-10-03 14:22",
        "psnr": 27.5,
        "ssim": 0.93,
        "latent_mse": 0.0123456789,
        "n": n,
        "notes": "said by the comparison",
    }
    return Comparison(**{**values, **changes})


def killed_when_it_speaks(process: Forked) -> str:
    """Kill a process (SIGKILL) as soon as it has printed a line, and return the line."""
    try:
        said = process.stdout.readline()
    finally:
        process.kill()
    errors = process.communicate()[1]
    assert said, errors
    return said.strip()
