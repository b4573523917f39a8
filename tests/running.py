"""Tiny random pipelines of both families, and what mosaics over them say and hold."""

from __future__ import annotations

from pathlib import Path

import torch
from mosaics import TIMES
from tiny_sdxl import make_sdxl

from core.curves.noise import NoiseSchedule
from core.models.checkpoints import load_checkpoint
from core.models.families import SDXL, DiT

SCHEDULE = NoiseSchedule.from_betas("linear")
KINDS = ("dit", "sdxl")


def make_pipelines(dit_folder: Path, sdxl_folder: Path) -> dict:
    """Both families, fp32 on the CPU."""
    folders = zip(KINDS, (dit_folder, make_sdxl(sdxl_folder)), strict=True)
    return {
        kind: load_checkpoint(folder, "cpu", dtype=torch.float32).pipeline
        for kind, folder in folders
    }


def denoiser(pipeline):
    return getattr(pipeline, "unet", None) or pipeline.transformer


def inputs(pipeline, t, dtype=torch.float32, n=2):
    """Positional and keyword arguments of one forward."""
    random = torch.Generator().manual_seed(7)
    model = denoiser(pipeline)
    x = torch.randn(n, 4, model.config.sample_size, model.config.sample_size, generator=random).to(
        dtype
    )
    conditions = (
        SDXL.conditions(pipeline, ["a fox"] * n)
        if hasattr(pipeline, "unet")
        else DiT.conditions(torch.arange(n))
    )
    return (x, torch.full((n,), t)), conditions.pair(torch.device("cpu"), dtype, guided=False)


@torch.inference_mode()
def answers(mosaic, pipeline, dtype=torch.float32):
    """What the subnetwork of every stage says."""
    asked = [inputs(pipeline, t, dtype) for t in TIMES]
    return [mosaic(*args, **conditions).sample for args, conditions in asked]


def same(a, b):
    """Of two lists of tensors."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def storages(*modules):
    """Address -> bytes of every storage that these modules hold."""
    held = [
        t.untyped_storage() for module in modules for t in [*module.parameters(), *module.buffers()]
    ]
    return {s.data_ptr(): s.nbytes() for s in held}


def held(*modules):
    return sum(storages(*modules).values())
