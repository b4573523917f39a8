"""Mosaics with random cuts over tiny random pipelines of both families, and what they answer."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_sdxl import make_sdxl

from core.checkpoints import load_checkpoint
from core.families import SDXL, DiT
from core.mosaic import MosaicTransformer
from core.noise import NoiseSchedule
from core.plan import StagePlan
from core.prunable import find_layers
from core.slimming import Cut

PLAN = StagePlan((100, 600), (0.5, 0.25, 0.75))
TIMES = (50, 300, 900)  # one in each stage
SCHEDULE = NoiseSchedule.from_betas("linear")
KINDS = ("dit", "sdxl")


def make_pipelines(dit_folder: Path, sdxl_folder: Path) -> dict:
    """Both families, fp32 on the CPU."""
    folders = zip(KINDS, (dit_folder, make_sdxl(sdxl_folder)), strict=True)
    return {kind: load_checkpoint(folder, "cpu", dtype=torch.float32).pipeline for kind, folder in folders}


def cut_of(model, layer, share, random):
    """`share` of the groups stay, at random, with random weights."""
    weight = model.get_submodule(layer.consumer).weight
    kept = torch.randperm(layer.groups, generator=random)[: max(1, int(layer.groups * share))].sort().values
    mask = torch.zeros(layer.groups, dtype=torch.bool)
    mask[kept] = True
    values = torch.randn(weight.shape, generator=random) * 0.1 * mask.repeat_interleave(layer.group_size)
    return Cut(kept, values.to(weight))


def make_mosaic(model, masked=False):
    random = torch.Generator().manual_seed(0)
    cuts = [[cut_of(model, layer, share, random) for layer in find_layers(model)] for share in (0.5, 0.75, 0.25)]
    return MosaicTransformer(model, PLAN, cuts, masked)


def denoiser(pipeline):
    return getattr(pipeline, "unet", None) or pipeline.transformer


def inputs(pipeline, t, dtype=torch.float32, n=2):
    """Positional and keyword arguments of one forward."""
    random = torch.Generator().manual_seed(7)
    model = denoiser(pipeline)
    x = torch.randn(n, 4, model.config.sample_size, model.config.sample_size, generator=random).to(dtype)
    conditions = SDXL.conditions(pipeline, ["a fox"] * n) if hasattr(pipeline, "unet") else DiT.conditions(torch.arange(n))
    return (x, torch.full((n,), t)), conditions.pair(torch.device("cpu"), dtype, guided=False)


@torch.inference_mode()
def answers(mosaic, pipeline, dtype=torch.float32):
    """What the subnetwork of every stage says."""
    asked = [inputs(pipeline, t, dtype) for t in TIMES]
    return [mosaic(*args, **conditions).sample for args, conditions in asked]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def storages(*modules):
    """Address -> bytes of every storage that these modules hold."""
    held = [t.untyped_storage() for module in modules for t in [*module.parameters(), *module.buffers()]]
    return {s.data_ptr(): s.nbytes() for s in held}


def held(*modules):
    return sum(storages(*modules).values())
