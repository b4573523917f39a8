"""Find removal orders and error curves per bin: the small, shippable part of a calibration.

There is one order per layer, found on the Gram of all bins. Damping is chosen per layer: lowest
held-out error at half the groups removed, on the first two and the last two bins (the least data
that a stage may have). The curves give, for each bin, the error of removing k groups when
compensated for that bin. They answer while a boundary is being dragged.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..cache import fingerprint
from ..calibration.bank import GramBank
from ..calibration.settings import CalibrationSettings
from ..errors import Stopped, StudioError
from ..files import cache_trouble, write_whole
from ..graphs import CudaGraphs
from ..models.layers import PrunableLayer
from ..progress import Progress
from .compensation import compensated_weights
from .cuts import consumer_of, kept_columns
from .layer_error import LEAST_ENERGY, output_energy
from .obs import DAMPINGS, RemovalPath
from .order_checkpoints import OrderedLayer, forget_layers, layer_key, load_layer, save_layer
from .picker import Picker

# stored as metadata beside the tensors
FACTS = ("damping", "steps", "device", "when", "seconds", "tokens_per_column")
FILE = "orders.safetensors"
WIDE = 2048  # columns from which a layer takes long enough to report its steps


@dataclass(frozen=True)
class RemovalOrders:
    """The result of a calibration, per layer."""

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
    # (layers, 1 + bins) as in `OrderedLayer`; None in files from before rungs were stored
    rungs: list[list[str]] | None = None
    # `Workshop.model_key` of the model; None in files from before the key was stored
    model: str | None = None

    @cached_property
    def error_arrays(self) -> list[np.ndarray]:
        """Return `errors` for arithmetic outside torch."""
        return [e.numpy() for e in self.errors]

    @cached_property
    def energy_arrays(self) -> list[np.ndarray]:
        """Return `energy` for arithmetic outside torch."""
        return [e.numpy() for e in self.energy]

    def estimate(self, overlap: list[float], removed: list[int]) -> float:
        """Return the mean relative layer error over the bins of a stage.

        overlap: share of each bin that lies in the stage. removed: groups per layer. Each bin is
        compensated for itself, and so with fewer tokens than the stage has.
        """
        shares = torch.tensor(overlap, dtype=torch.float64)
        relative = []
        for i, gone in enumerate(removed):
            level = -(-gone // self.steps[i])
            relative.append(
                float(
                    (shares @ self.errors[i][:, level]) / (shares @ self.energy[i]).clamp_min(1e-30)
                )
            )
        return float(np.mean(relative))

    @staticmethod
    def exists(folder: Path, name: str = FILE) -> bool:
        """Say whether there is a file of orders in the folder."""
        return (Path(folder) / name).exists()

    @staticmethod
    def drop(folder: Path, name: str = FILE) -> None:
        """Delete the file of orders. Raises StudioError when that fails."""
        try:
            (Path(folder) / name).unlink(missing_ok=True)
        except OSError as err:
            raise StudioError(
                f"The removal orders are damaged and could not be dropped ({cache_trouble(err)}."
            ) from err

    def save(self, folder: Path, name: str = FILE) -> None:
        """Write one safetensors file with the rest as metadata, whole or not at all.

        Checkpoints of single layers are deleted afterwards. Raises StudioError.
        """
        tensors: dict[str, Tensor] = {}
        for i, (o, e, n) in enumerate(zip(self.order, self.errors, self.energy, strict=True)):
            tensors |= {
                f"order/{i}": o.to(torch.int32),
                f"errors/{i}": e.float().contiguous(),
                f"energy/{i}": n.float(),
            }
        facts = {name: getattr(self, name) for name in (*FACTS, "rungs", "model")}
        try:
            write_whole(
                Path(folder) / name,
                lambda part: save_file(tensors, part, metadata={"facts": json.dumps(facts)}),
            )
        except (OSError, SafetensorError) as err:
            raise StudioError(
                f"The removal orders could not be written ({cache_trouble(err)}."
            ) from err
        forget_layers(Path(folder), name.removeprefix("orders").removesuffix(".safetensors"))

    @classmethod
    def load(
        cls, folder: Path, layers: list[PrunableLayer], shipped: bool = False, name: str = FILE
    ) -> RemovalOrders:
        """Read the orders and check them against the model's layers. Raises StudioError."""
        from safetensors import safe_open

        path = Path(folder) / name
        try:
            tensors = load_file(path)
            with safe_open(path, framework="pt") as file:
                facts = json.loads(file.metadata()["facts"])
            order = [tensors[f"order/{i}"].long() for i in range(len(layers))]
            rungs = facts.get("rungs")
            if any(len(o) != layer.groups for o, layer in zip(order, layers, strict=True)) or len(
                rungs or layers
            ) != len(layers):
                raise ValueError("it belongs to a model of another size")
            errors = [tensors[f"errors/{i}"].double() for i in range(len(layers))]
            energy = [tensors[f"energy/{i}"].double() for i in range(len(layers))]
        except Exception as err:
            raise StudioError(
                f"The removal orders in {path.parent.name}/ cannot be used ({err}): calibrate"
                " again."
            ) from err
        kept = {name: facts[name] for name in FACTS}
        return cls(
            order=order,
            errors=errors,
            energy=energy,
            shipped=shipped,
            rungs=rungs,
            model=facts.get("model"),
            **kept,
        )

    @cached_property
    def digest(self) -> str:
        """Return a hash of orders and curves: everything that an allocation depends on."""
        lists = {"order": self.order, "errors": self.errors, "energy": self.energy}
        return fingerprint(
            {f"{name}/{i}": t for name, tensors in lists.items() for i, t in enumerate(tensors)}
        )


def orders_tag(damping: float | None, weighting: str) -> str:
    """Return the part of file names that tells orders over the same bins apart.

    The bins serve every damping, and the weighting by timestep, as they are.
    """
    return ("" if damping is None else f"-damping-{float(damping)!r}") + (
        "-timestep" if weighting == "timestep" else ""
    )


def orders_file(settings: CalibrationSettings) -> str:
    """Return the name of the file of orders beside the bins."""
    return f"orders{orders_tag(settings.damping, settings.weighting)}.safetensors"


def find_orders(
    transformer: nn.Module,
    layers: list[PrunableLayer],
    bank: GramBank,
    device: str,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    started: float | None = None,
    damping: float | None = None,
) -> RemovalOrders:
    """Return order, damping and curves per bin of every layer, one layer in memory at a time.

    damping: one for all layers, as a share of the mean diagonal; None chooses one per layer on
    held-out tokens (`choose_damping`). Finished layers are kept beside the bins until the result is
    saved, so that a stopped run resumes from there. Raises Stopped and StudioError.
    """
    found: list[OrderedLayer] = []
    picker: Picker | None = None
    tag = orders_tag(damping, bank.settings.weighting)
    for i, layer in enumerate(layers):
        report = partial(_report, progress, stop, i, layers)
        report("finding the removal order")
        weight = consumer_of(transformer, layer).weight.detach().float()
        if picker is None and weight.device.type == "cuda":
            picker = Picker(CudaGraphs(weight.device))
        key = layer_key(weight, bank, layer, damping)
        kept = load_layer(bank.folder, i, key, tag)
        if kept is None:
            kept = _order_layer(weight, bank, i, layer, damping, report, picker)
            save_layer(bank.folder, i, key, kept, tag)
        found.append(kept)
    seconds = time.perf_counter() - started if started else 0.0
    return RemovalOrders(
        order=[x.order for x in found],
        damping=[x.damping for x in found],
        errors=[x.errors for x in found],
        energy=[x.energy for x in found],
        steps=[x.step for x in layers],
        device=device,
        when=time.strftime("%Y-%m-%d %H:%M"),
        seconds=round(seconds, 1),
        tokens_per_column=min(x.tokens_per_column for x in found),
        rungs=[x.rungs for x in found],
    )


def _report(
    progress: Progress | None,
    stop: threading.Event | None,
    i: int,
    layers: list[PrunableLayer],
    text: str,
    detail: bool = False,
) -> None:
    """Raise Stopped when the run is to stop, else report progress.

    Details are reported only for wide layers, which take long enough for them to be read.
    """
    if stop is not None and stop.is_set():
        raise Stopped(
            f"Stopped while ordering; all bins and {i} of {len(layers)} layers are kept, the next"
            " run goes on from there."
        )
    if progress is not None and not (detail and layers[i].width < WIDE):
        progress(i, len(layers), f"{text} of {layers[i].name}")


def _order_layer(
    weight: Tensor,
    bank: GramBank,
    i: int,
    layer: PrunableLayer,
    damping: float | None,
    report: Callable[..., None],
    picker: Picker | None = None,
) -> OrderedLayer:
    """Find the order, the damping and the curves of one layer."""
    edges = bank.settings.edges
    pooled = bank.gram(i, edges[0], edges[-1])[0].to(weight.device)
    searched = RemovalPath.from_gram(weight, pooled, layer.group_size, damping=1e-3, picker=picker)
    order = searched.order
    rungs = [searched.rung]
    del pooled, searched  # as large as the memory that a bin needs
    if damping is None:
        report("choosing the damping", detail=True)
        damping = choose_damping(weight, bank, i, layer, order)
    errors = []
    energy = []
    tokens_per_column = float("inf")
    for b, (low, high) in enumerate(itertools.pairwise(edges)):
        report(f"working out error curve {b + 1} of {bank.settings.bins}", detail=True)
        gram, tokens = bank.gram(i, low, high)
        gram = gram.to(weight.device)
        path = RemovalPath.from_order(weight, gram, order, layer.group_size, damping, held_out=gram)
        # on the bin itself: the plain error, without the ridge term
        assert path.held_out_errors is not None  # a held-out Gram was given
        errors.append(path.held_out_errors[:: layer.step].clone())
        energy.append(path.energy)
        rungs.append(path.rung)
        tokens_per_column = min(tokens_per_column, tokens / layer.width)
        del path, gram
    return OrderedLayer(
        order=order,
        damping=damping,
        errors=torch.stack(errors),
        energy=torch.tensor(energy, dtype=torch.float64),
        tokens_per_column=tokens_per_column,
        rungs=rungs,
    )


def choose_damping(
    weight: Tensor, bank: GramBank, i: int, layer: PrunableLayer, order: Tensor
) -> float:
    """Return the damping with the smallest held-out error at half the groups removed.

    The error is measured on the first two bins and on the last two.
    """
    edges = bank.settings.edges
    kept = order[layer.groups // 2 :].sort().values
    columns = kept_columns(layer, kept, torch.device("cpu"))
    scores = torch.zeros(len(DAMPINGS), dtype=torch.float64)
    for low, high in {
        (edges[0], edges[min(2, len(edges) - 1)]),
        (edges[max(-3, -len(edges))], edges[-1]),
    }:
        gram, held_out = (
            bank.gram(i, low, high, held_out=h)[0].to(weight.device) for h in (False, True)
        )
        base = weight.double()
        energy = output_energy(base, held_out).clamp_min(LEAST_ENERGY)
        for j, damping in enumerate(DAMPINGS):
            difference = compensated_weights(weight, gram, columns, damping).double() - base
            scores[j] += (output_energy(difference, held_out) / energy).cpu()
    return DAMPINGS[int(scores.argmin())]
