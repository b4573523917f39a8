"""Removal orders and per-bin error curves: the small, shippable part of a calibration.

One order a layer, found on the Gram of all bins. Damping is chosen a layer on held-out tokens, at half the groups removed, on the
scarcest data a stage can rest on (the first two bins and the last two). The curves say, for each bin, what removing
k groups costs when compensated for that bin: they answer while a boundary is being dragged.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .calibration import GramBank, Progress
from .errors import Stopped, StudioError
from .obs import DAMPINGS, RemovalPath, compensated_weights
from .prunable import PrunableLayer

FACTS = ("damping", "steps", "device", "when", "seconds", "tokens_per_column")  # stored as metadata beside the tensors


@dataclass(frozen=True)
class RemovalOrders:
    """What a calibration boils down to, per layer."""

    order: list[Tensor]  # (groups,) first removed first
    damping: list[float]
    errors: list[Tensor]  # (bins, levels) ||W'X - WX||^2 at multiples of the layer's step, fp64
    energy: list[Tensor]  # (bins,) ||WX||^2
    steps: list[int]  # groups between two levels
    device: str
    when: str
    seconds: float
    tokens_per_column: float  # of the widest layer, in one bin
    shipped: bool = False

    def estimate(self, overlap: list[float], removed: list[int]) -> float:
        """Mean relative layer error over the bins of a stage, each bin compensated for itself (and so with fewer tokens than the stage has)."""
        shares = torch.tensor(overlap, dtype=torch.float64)
        relative = []
        for i, gone in enumerate(removed):
            level = gone // self.steps[i]
            relative.append(float((shares @ self.errors[i][:, level]) / (shares @ self.energy[i]).clamp_min(1e-30)))
        return float(np.mean(relative))

    @staticmethod
    def exists(folder: Path) -> bool:
        return (Path(folder) / "orders.safetensors").exists()

    @staticmethod
    def drop(folder: Path) -> None:
        (Path(folder) / "orders.safetensors").unlink(missing_ok=True)

    def save(self, folder: Path) -> None:
        """One safetensors file with the rest as metadata, moved into place whole."""
        tensors = {}
        for i, (o, e, n) in enumerate(zip(self.order, self.errors, self.energy, strict=True)):
            tensors |= {f"order/{i}": o.to(torch.int32), f"errors/{i}": e.float().contiguous(), f"energy/{i}": n.float()}
        facts = {name: getattr(self, name) for name in FACTS}
        path = Path(folder) / "orders.safetensors"
        part = path.with_suffix(".part")
        try:
            save_file(tensors, part, metadata={"facts": json.dumps(facts)})
            part.replace(path)
        except Exception as err:
            part.unlink(missing_ok=True)
            raise StudioError(f"The removal orders could not be written ({err}); make room on the disk and calibrate again.") from err

    @classmethod
    def load(cls, folder: Path, layers: list[PrunableLayer], shipped: bool = False) -> RemovalOrders:
        """Read and check against the model's layers. Raises StudioError."""
        from safetensors import safe_open

        path = Path(folder) / "orders.safetensors"
        try:
            tensors = load_file(path)
            with safe_open(path, framework="pt") as file:
                facts = json.loads(file.metadata()["facts"])
            order = [tensors[f"order/{i}"].long() for i in range(len(layers))]
            if any(len(o) != layer.groups for o, layer in zip(order, layers, strict=True)):
                raise ValueError("it belongs to a model of another size")
            errors = [tensors[f"errors/{i}"].double() for i in range(len(layers))]
            energy = [tensors[f"energy/{i}"].double() for i in range(len(layers))]
        except Exception as err:
            raise StudioError(f"The removal orders in {path.parent.name}/ cannot be used ({err}): calibrate again.") from err
        return cls(order=order, errors=errors, energy=energy, shipped=shipped, **{name: facts[name] for name in FACTS})


def find_orders(transformer: nn.Module, layers: list[PrunableLayer], bank: GramBank, device: str, progress: Progress | None = None,
                stop: threading.Event | None = None, started: float | None = None) -> RemovalOrders:  # fmt: skip
    """Order, damping and per-bin curves of every layer. Raises Stopped; the bins stay."""
    edges = bank.settings.edges
    parts: tuple[list, ...] = ([], [], [], [])
    tokens_per_column = float("inf")
    for i, layer in enumerate(layers):
        if stop is not None and stop.is_set():
            raise Stopped("Stopped while ordering; all bins are kept, the next run goes on from there.")
        if progress is not None:
            progress(i, len(layers), f"finding the removal order of {layer.name}")
        weight = transformer.get_submodule(layer.consumer).weight.detach().float()
        pooled, _ = bank.gram(i, edges[0], edges[-1])
        order = RemovalPath.from_gram(weight, pooled.to(weight.device), layer.group_size, damping=1e-3).order
        damping = choose_damping(weight, bank, i, layer, order) if bank.settings.damping is None else bank.settings.damping
        errors, energy = [], []
        for low, high in zip(edges, edges[1:], strict=False):
            gram, tokens = bank.gram(i, low, high)
            gram = gram.to(weight.device)
            path = RemovalPath.from_order(weight, gram, order, layer.group_size, damping, held_out=gram)
            errors.append(path.held_out_errors[:: layer.step].clone())  # on the bin itself: the plain error, without the ridge term
            energy.append(path.energy)
            tokens_per_column = min(tokens_per_column, tokens / (layer.groups * layer.group_size))
        for part, value in zip(parts, (order, damping, torch.stack(errors), torch.tensor(energy, dtype=torch.float64)), strict=True):
            part.append(value)
    seconds = time.perf_counter() - started if started else 0.0
    return RemovalOrders(*parts, [x.step for x in layers], device, time.strftime("%Y-%m-%d %H:%M"), round(seconds, 1), tokens_per_column)


def choose_damping(weight: Tensor, bank: GramBank, i: int, layer: PrunableLayer, order: Tensor) -> float:
    """The damping with the smallest held-out error at half the groups removed, on the first two bins and the last two."""
    edges = bank.settings.edges
    kept = order[layer.groups // 2 :].sort().values
    columns = (kept[:, None] * layer.group_size + torch.arange(layer.group_size)).flatten()
    scores = torch.zeros(len(DAMPINGS), dtype=torch.float64)
    for low, high in {(edges[0], edges[min(2, len(edges) - 1)]), (edges[max(-3, -len(edges))], edges[-1])}:
        gram, held_out = (bank.gram(i, low, high, held_out=h)[0].to(weight.device) for h in (False, True))
        base = weight.double()
        energy = ((base @ held_out) * base).sum().clamp_min(1e-30)
        for j, damping in enumerate(DAMPINGS):
            difference = compensated_weights(weight, gram, columns, damping).double() - base
            scores[j] += (((difference @ held_out) * difference).sum() / energy).cpu()
    return DAMPINGS[int(scores.argmin())]
