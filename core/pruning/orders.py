"""Find removal orders and error curves per bin: the small, shippable part of a calibration.

There is one order per layer, found on the Gram of all bins. Damping is chosen per layer: lowest
held-out error at half the groups removed, on the first two and the last two bins (the least data
that a stage may have). The curves give, for each bin, the error of removing k groups when
compensated for that bin. They answer while a boundary is being dragged.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..cache import fingerprint
from ..calibration.bank import GramBank
from ..calibration.settings import CalibrationSettings
from ..errors import StudioError
from ..files import cache_trouble, write_whole
from ..models.layers import PrunableLayer
from ..progress import Progress
from .cuts import consumer_of
from .layer_orders import LayerOrders, OrderWatch
from .order_checkpoints import (
    OrderedLayer,
    forget_layers,
    layer_key,
    load_layer,
    load_search,
    save_layer,
    save_search,
)

# stored as metadata beside the tensors
FACTS = ("damping", "steps", "device", "when", "seconds", "tokens_per_column")
FILE = "orders.safetensors"


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
    side_by_side: int | None = None,
) -> RemovalOrders:
    """Return order, damping and curves per bin of every layer.

    damping: one for all layers, as a share of the mean diagonal; None chooses one per layer on
    held-out tokens (`choose_damping`). side_by_side: layers of equal width whose orders are
    searched at once, at most, as far as memory holds them; None: as many as memory holds on CUDA,
    one elsewhere, where launches cost nothing. The result is the same. Finished layers, and orders
    that were found side by side, are kept beside the bins until the result is saved, so that a
    stopped run resumes from there. Raises Stopped and StudioError.
    """
    watch = OrderWatch(layers, progress, stop)
    finder = LayerOrders(transformer, layers, bank, damping, watch)
    tag = orders_tag(damping, bank.settings.weighting)
    found: dict[int, OrderedLayer] = {}
    keys: list[str] = []
    for i, layer in enumerate(layers):
        watch.check()
        keys.append(
            layer_key(consumer_of(transformer, layer).weight.detach().float(), bank, layer, damping)
        )
        kept = load_layer(bank.folder, i, keys[i], tag)
        if kept is not None:
            found[i] = kept
            watch.done += 1
    pending = [i for i in range(len(layers)) if i not in found]
    for stack in finder.stacks(pending, side_by_side):
        known = {i: load_search(bank.folder, i, keys[i], tag) for i in stack}
        for i, new in finder.search([i for i in stack if known[i] is None]):
            known[i] = new
            if len(stack) > 1:
                save_search(bank.folder, i, keys[i], new, tag)
        for i in stack:
            searched = known[i]
            assert searched is not None  # found just now, where it was not known
            if len(stack) > 1:
                watch.report(i, "working out the error curves")
            found[i] = finder.ordered(i, searched)
            save_layer(bank.folder, i, keys[i], found[i], tag)
            watch.done += 1
    seconds = time.perf_counter() - started if started else 0.0
    every = [found[i] for i in range(len(layers))]
    return RemovalOrders(
        order=[x.order for x in every],
        damping=[x.damping for x in every],
        errors=[x.errors for x in every],
        energy=[x.energy for x in every],
        steps=[x.step for x in layers],
        device=device,
        when=time.strftime("%Y-%m-%d %H:%M"),
        seconds=round(seconds, 1),
        tokens_per_column=min(x.tokens_per_column for x in every),
        rungs=[x.rungs for x in every],
    )
