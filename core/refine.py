"""A last pass over finished subnetworks: each layer learns to make up for what the pruned layers before it have changed.

Pruning compensates every layer for its own loss on the dense model's inputs x. Inside the pruned network the layer sees other inputs x'.
Layer by layer, in forward order, each stage's consumer weight W0 becomes W0 + D with the least

    sum ||(W0 + D) x' - W x||^2 + ridge ||D||^2,    D = R (H' + ridge I)^-1,  R = sum (W x - W0 x') x'^T,  H' = sum x' x'^T,

so the target is what the dense layer puts out in the dense model (GPTAQ, Li et al. 2025, calls this asymmetric calibration). It runs the
model twice a layer and holds for one configuration only, which is why it comes last and is asked for. A stage whose prediction on
images kept apart did not come nearer to the dense one keeps the weights it had.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .calibration import Progress, images_at_once
from .calibration_data import draw
from .errors import Stopped, StudioError
from .families import Arguments
from .mosaic import MosaicTransformer
from .plan import STAGES
from .slimming import Constant, graft, linear, private, shallow
from .triangles import full_precision

if TYPE_CHECKING:
    from .workshop import Workshop

IMAGES, APART = 192, 64  # fitted, and kept apart to judge by
RIDGE = 1e-2  # share of the mean diagonal of H'; D is small, so its ridge matters less than that of the pruning itself


@dataclass(frozen=True)
class Refined:
    """What refining did to one stage: mean squared difference of its prediction to the dense one on images kept apart."""

    stage: str
    before: float
    after: float
    taken: bool  # False: it did not help, or there was nothing to refine, and the stage is as it was

    def to_json(self) -> dict[str, object]:
        return asdict(self)


Batch = tuple[Tensor, Tensor, Arguments]  # noisy latents, timesteps, conditions; conditional rows, then unconditional ones


@torch.inference_mode()
def refine(workshop: Workshop, mosaic: MosaicTransformer, progress: Progress | None = None, stop: threading.Event | None = None,
           images: int = IMAGES, apart: int = APART) -> tuple[MosaicTransformer, list[Refined]]:  # fmt: skip
    """A MosaicTransformer with refined weights, and what came of it in each stage. The one given stays as it is; equal tensors are shared.

    mosaic: built by this workshop, enabled, with a plan. images: fitted in each stage, noised to timesteps drawn evenly inside it; apart: as
    many again judge it. Raises Stopped (nothing is changed) and StudioError.
    """
    if mosaic.plan is None or not mosaic.enabled:
        raise StudioError("Only an enabled MosaicTransformer with a plan can be refined.")
    if images < 1 or apart < 1:
        raise StudioError("Refining needs at least one image to fit and one to judge by.")
    pruned = [[i for i, _ in _changed(mosaic, stage)] for stage in range(3)]
    done, total = 0, sum(map(len, pruned))

    def step(text: str) -> None:
        nonlocal done
        if stop is not None and stop.is_set():
            raise Stopped("Stopped while refining; the subnetworks are as pruning made them.")
        if progress is not None:
            progress(done, total, text)
        done += 1

    dense, stages, found = private(workshop.transformer), [], []
    for stage, name in enumerate(STAGES):
        network = mosaic.stages[stage]
        if not pruned[stage]:
            stages.append(network)
            found.append(Refined(name, 0.0, 0.0, False))
            continue
        fit, judge = _batches(workshop, mosaic, stage, images, apart)
        twin = private(network)
        for i in pruned[stage]:
            layer = mosaic.layers[i]
            step(f"refining the {name} stage, {layer.name}")
            consumer = twin.get_submodule(layer.consumer)
            with full_precision:
                change = _change(dense, twin, dense.get_submodule(layer.consumer), consumer, fit)
            consumer.weight = nn.Parameter((consumer.weight.double() + change).to(consumer.weight.dtype), requires_grad=False)
        before, after = (_distance(dense, candidate, judge, workshop.latent_shape[0]) for candidate in (network, twin))
        taken = after < before
        new = {mosaic.layers[i].consumer: twin.get_submodule(mosaic.layers[i].consumer) for i in pruned[stage]}
        stages.append(graft(network, {path: linear(m.weight, m.bias) for path, m in new.items()}) if taken else network)
        found.append(Refined(name, before, after, taken))
    if progress is not None:
        progress(total, total, "refined")
    refined = shallow(mosaic, stages=nn.ModuleList(stages))
    refined._compiled = {}
    return refined, found


def _changed(mosaic: MosaicTransformer, stage: int) -> Iterator[tuple[int, nn.Module]]:
    """(index, module) of the layers of a stage that lost something and still have inputs."""
    for i, (layer, kept) in enumerate(zip(mosaic.layers, mosaic.kept(stage), strict=True)):
        module = mosaic.stages[stage].get_submodule(layer.module)
        if kept < layer.groups and not isinstance(module, Constant):
            yield i, module


def _batches(workshop: Workshop, mosaic: MosaicTransformer, stage: int, images: int, apart: int) -> tuple[list[Batch], list[Batch]]:
    """What a stage is fitted on, and what it is judged by: other latents, other noise. As a calibration draws them, seeded."""
    data, random = workshop.data(), torch.Generator().manual_seed(workshop.settings.seed * 10_007 + 5_003 + stage)
    low, high = mosaic.plan.stage_range(stage)
    pick = draw(len(data.latents), images, apart, workshop.settings.seed, random)
    t = torch.randint(low, high, (images + apart,), generator=random)
    a, s = (torch.tensor(v)[t].float().view(-1, 1, 1, 1) for v in (workshop.schedule.a, workshop.schedule.s))
    x = a * data.latents[pick].float() + s * torch.randn(data.latents[pick].shape, generator=random)
    size = images_at_once(workshop.layers, max(site.tokens for site in workshop.family.sites(workshop.transformer, tuple(data.latents.shape[1:]))))

    def batches(rows: Tensor) -> list[Batch]:
        return [
            (
                torch.cat([x[part]] * 2).to(workshop.device, workshop.dtype), torch.cat([t[part]] * 2).to(workshop.device),
                data.conditions.rows(pick[part]).pair(workshop.device, workshop.dtype),
            )
            for part in rows.split(size)
        ]  # fmt: skip

    return batches(torch.arange(images)), batches(torch.arange(images, images + apart))


class _Enough(Exception):
    """Raised inside a forward once what was wanted has come by: the rest need not be computed."""


def _seen(network: nn.Module, consumer: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Input (tokens, n) and output (tokens, d) of one linear layer in one forward, which ends there."""
    found: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found.extend((args[0].flatten(0, -2), output.flatten(0, -2)))
        raise _Enough

    handle = consumer.register_forward_hook(note)
    try:
        x, t, conditions = batch
        network(x, t, **conditions, return_dict=False)
    except _Enough:
        pass
    finally:
        handle.remove()
    return found[0], found[1]


def _change(dense: nn.Module, pruned: nn.Module, target: nn.Module, consumer: nn.Module, batches: list[Batch]) -> Tensor:
    """D (d, k) float64: see the head of this file."""
    d, k = consumer.weight.shape
    gram, cross = (torch.zeros(rows, k, device=consumer.weight.device) for rows in (k, d))
    for batch in batches:
        wanted = _seen(dense, target, batch)[1].float()
        x, got = (v.float() for v in _seen(pruned, consumer, batch))
        gram.addmm_(x.T, x)
        cross.addmm_((wanted - got).T, x)
    if not (gram.isfinite().all() and cross.isfinite().all()):
        raise StudioError("The pruned network overflows while it is refined; load the model in float32.")
    damped = gram.double()
    damped.diagonal().add_(max(RIDGE * float(damped.diagonal().mean()), 1e-30))
    return torch.cholesky_solve(cross.double().T, torch.linalg.cholesky(damped)).T


def _distance(dense: nn.Module, network: nn.Module, batches: list[Batch], channels: int) -> float:
    """Mean squared difference of two predictions of the noise."""
    total, count = 0.0, 0
    for x, t, conditions in batches:
        a, b = (net(x, t, **conditions, return_dict=False)[0][:, :channels].float() for net in (dense, network))
        total, count = total + float((a - b).double().square().sum()), count + a.numel()
    return total / count
