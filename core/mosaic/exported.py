"""Write a whole model without its adaLN weights, for named timesteps and labels, and load it.

Where the timesteps and labels that a DiT will run with are named, its adaLN vectors can be stored
in the place of the matrices and embedders that they come from: 223 of the 675 million weights of
DiT-XL/2 are adaLN matrices. Nothing is lost: on the device and in the precision of the export, the
vectors have the bits of the table that our own loop makes.

A folder holds `manifest.json`, `base.safetensors` (the dense model without those weights),
`table.safetensors` (the vectors) and the stage files of `core.mosaic.serialization`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..curves.plan import STAGES
from ..errors import StudioError
from ..models.families import NULL_CLASS, DiT, family_of
from ..models.layers import find_layers
from ..progress import Progress
from .adaln import norms_of
from .adaln_table import KeptTable, table_of, width_of
from .manifest import EXPORTED, MANIFEST, StoredMosaic, complete, read_manifest
from .sealed_folder import check_file, ticker, write_sealed, write_tensors
from .serialization import read_stages, write_stages
from .slimming import children_of
from .transformer import MosaicTransformer

BASE, TABLE = "base.safetensors", "table.safetensors"
PARTS = ("linear", "emb")  # of a block's adaLN, which the table stands for


class Absent(nn.Module):
    """A part whose weights were left out of an export."""

    def forward(self, *_: object, **__: object) -> Tensor:
        """Raise StudioError: nothing can be computed here."""
        raise StudioError(
            "This model was exported without adaLN weights, so it runs with vectors of its table"
            " only."
        )


@dataclass(frozen=True)
class Export:
    """What an export wrote. Weights count once, however many modules share them."""

    files: list[str]
    timesteps: int
    labels: int  # the null label among them
    weights_before: int  # of the dense model, embedders once
    weights_after: int  # of the dense model without adaLN, and the numbers of the table
    bytes_before: int  # of those weights in the model's precision
    bytes_after: int  # of base and table on disk
    stage_bytes: int  # of the files of the stages, which an ordinary save has too

    @property
    def sentence(self) -> str:
        """Return both sizes in words."""
        return (
            f"Without adaLN weights, for {self.timesteps} timesteps and {self.labels} labels (the"
            f" null label among them): {self.weights_before / 1e6:.1f} M weights,"
            f" {self.bytes_before / 1e6:.1f} MB, became {self.weights_after / 1e6:.1f} M,"
            f" {self.bytes_after / 1e6:.1f} MB, beside {self.stage_bytes / 1e6:.1f} MB of stages."
        )


def export_without_adaln(
    mosaic: MosaicTransformer,
    folder: Path | str,
    timesteps: Sequence[float],
    labels: Sequence[int],
    facts: dict[str, Any] | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Export:
    """Write a whole model into `folder` (new or empty) with a table instead of adaLN weights.

    timesteps: of every model call that it shall run. labels: classes that it shall paint; the null
    label is added, so guidance works. facts: plain JSON data to keep beside it. Raises StudioError
    for a model without adaLN, a table larger than the weights, a folder that cannot be written;
    Stopped.
    """
    times, classes = _named(timesteps, labels)
    _check_model(mosaic)
    base, buffers, spared = _split(mosaic.full)
    _check_size(mosaic, len(times), len(classes), spared)
    tick = ticker(progress, stop)
    total = len(STAGES) + 2
    whole: dict[str, dict[str, Any]] = {}
    stages: dict[str, dict[str, Any]] = {}
    numbers = 0

    def write(part: Path) -> dict[str, Any]:
        nonlocal numbers
        manifest = write_stages(mosaic, part, lambda i, text: tick(i, total, text))
        stages.update(manifest["files"])
        tick(len(STAGES), total, "writing the model without adaLN weights")
        whole[BASE] = write_tensors(base | buffers, part / BASE)
        tick(len(STAGES) + 1, total, "writing the table of adaLN vectors")
        with torch.no_grad():
            embedding, vectors = table_of(
                mosaic.stages[0],
                torch.tensor(times, dtype=torch.float64),
                torch.tensor(classes),
                mosaic.dtype,
            )
        numbers = embedding.numel() + vectors.numel()
        whole[TABLE] = write_tensors({"embedding": embedding, "vectors": vectors}, part / TABLE)
        return manifest | {
            "format": EXPORTED,
            "base": {"class": type(mosaic.full).__name__, "hash": {}},
            "config": dict(mosaic.config),
            "buffers": sorted(buffers),
            "timesteps": times,
            "labels": classes,
            "whole": whole,
            "facts": dict(mosaic.facts) if facts is None else facts,
        }

    files = write_sealed(folder, write, "The model")
    kept = sum(tensor.numel() for tensor in base.values())
    gone = sum(tensor.numel() for tensor in spared)
    size = mosaic.dtype.itemsize
    return Export(
        files=files,
        timesteps=len(times),
        labels=len(classes),
        weights_before=kept + gone,
        weights_after=kept + numbers,
        bytes_before=(kept + gone) * size,
        bytes_after=sum(file["bytes"] for file in whole.values()),
        stage_bytes=sum(file["bytes"] for file in stages.values()),
    )


def load_without_adaln(
    folder: Path | str,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> MosaicTransformer:
    """Return the model that `export_without_adaln` wrote; no base is needed.

    It runs in our own loop and in a stock pipeline, at the timesteps and labels that it was
    exported for, and refuses others with a StudioError when it runs. Raises StudioError for a
    folder that is damaged or changed; Stopped.
    """
    folder = Path(folder)
    tick = ticker(progress, stop)
    manifest = read_manifest(folder, EXPORTED)
    with complete(folder):
        stored = StoredMosaic.parse(manifest)
        whole = {
            name: (int(manifest["whole"][name]["bytes"]), str(manifest["whole"][name]["sha256"]))
            for name in (BASE, TABLE)
        }
        times = [float(t) for t in manifest["timesteps"]]
        classes = [int(label) for label in manifest["labels"]]
        buffers, config = list(manifest["buffers"]), dict(manifest["config"])
    files = stored.files | whole
    total = 2 * len(files)
    for i, (name, said) in enumerate(files.items()):
        tick(i, total, f"checking {name}")
        check_file(folder / name, *said)
    tick(len(files), total, f"reading {BASE}")
    dense = _bare_model(folder, config, buffers, device)
    table = _kept_table(folder, times, classes, dense, device)
    layers = find_layers(dense)
    before = len(files) + 2
    cuts = read_stages(folder, stored, dense, layers, lambda i, text: tick(before + i, total, text))
    mosaic = MosaicTransformer(
        dense,
        stored.plan,
        cuts,
        masked=stored.masked,
        layers=layers,
        facts=manifest.get("facts"),
        table=table,
    )
    mosaic.enabled = stored.enabled
    return mosaic


# ------------------------------------------------------------ what is written


def _named(timesteps: Sequence[float], labels: Sequence[int]) -> tuple[list[float], list[int]]:
    """Return timesteps and labels, each once, the null label among them. Raises StudioError."""
    times = list(dict.fromkeys(float(t) for t in timesteps))
    if not times or not all(math.isfinite(t) for t in times):
        raise StudioError("Name the timesteps that the exported model shall run at, as numbers.")
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label <= NULL_CLASS:
            raise StudioError(
                f"{label!r:.40} is no label that a model can be exported for; labels are whole"
                f" numbers from 0 to {NULL_CLASS - 1}."
            )
    return times, sorted({*labels, NULL_CLASS})


def _check_model(mosaic: MosaicTransformer) -> None:
    """Raise StudioError for a model that cannot be written without adaLN weights."""
    if mosaic.table is not None:
        raise StudioError("This model was exported without adaLN weights already: copy its folder.")
    family = family_of(mosaic.full)
    if not family.has_adaln:
        raise StudioError(
            f"A model of the kind {family.name} has no adaLN weights that a table could stand for."
        )
    if mosaic.once is None:
        raise StudioError(
            "The blocks of this model have timestep and label embedders that differ, so it cannot"
            " be exported without adaLN weights."
        )


def _split(full: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor]]:
    """Return the weights that stay, the buffers that no state dict holds, and what is left out.

    Of the embedders that all blocks share one counts.
    """
    gone = tuple(
        f"transformer_blocks.{i}.norm1.{part}."
        for i in range(len(norms_of(full)))
        for part in PARTS
    )
    state = full.state_dict()
    base = {name: tensor for name, tensor in state.items() if not name.startswith(gone)}
    buffers = {name: b for name, b in full.named_buffers() if name not in state}
    spared = {id(p): p for name, p in full.named_parameters() if name.startswith(gone)}
    return base, buffers, list(spared.values())


def _check_size(mosaic: MosaicTransformer, steps: int, labels: int, spared: list[Tensor]) -> None:
    """Raise StudioError for a table that is no smaller than the weights that it stands for."""
    weights = sum(tensor.numel() for tensor in spared)
    numbers = width_of(mosaic.stages[0])
    if steps * labels * numbers >= weights:
        raise StudioError(
            f"A table of {steps} timesteps and {labels} labels (the null label among them) has"
            f" {steps * labels * numbers / 1e6:.1f} M numbers, no fewer than the"
            f" {weights / 1e6:.1f} M weights that it would stand for: name fewer labels or steps,"
            f" {weights // numbers} pairs at most."
        )


# ------------------------------------------------------------ what is read


def _read(file: Path, device: str | torch.device) -> dict[str, Tensor]:
    """Return the tensors of a file, in memory of their own.

    Tensors that lie in a mapped file are not aligned as torch aligns its own, and products of one
    row then round differently.
    """
    return {name: tensor.clone() for name, tensor in load_file(file, device=str(device)).items()}


def _bare_model(
    folder: Path, config: dict[str, Any], buffers: list[str], device: str | torch.device
) -> nn.Module:
    """Return the dense model without adaLN weights. Raises StudioError where files do not fit."""
    from diffusers import DiTTransformer2DModel

    try:
        tensors = _read(folder / BASE, device)
        with torch.device("meta"):  # the adaLN weights are never made
            model = DiTTransformer2DModel.from_config(config)
        for block in model.transformer_blocks:
            children_of(block.norm1).update({part: Absent() for part in PARTS})
        for name in buffers:
            path, _, own = name.rpartition(".")
            model.get_submodule(path).register_buffer(own, tensors.pop(name), persistent=False)
        model.load_state_dict(tensors, assign=True)
    except (OSError, SafetensorError, RuntimeError, KeyError, AttributeError, ValueError) as err:
        raise StudioError(
            f"{BASE} in {folder.name}/ does not fit its {MANIFEST} ({str(err)[:80]}): copy the"
            " folder again or export the model anew."
        ) from err
    if not DiT.fits(model):
        raise StudioError(f"{folder.name}/ holds another kind of model than a DiT.")
    return model.eval().requires_grad_(False)


def _kept_table(
    folder: Path,
    times: list[float],
    classes: list[int],
    dense: nn.Module,
    device: str | torch.device,
) -> KeptTable:
    """Return the table of an export. Raises StudioError where it does not fit."""
    try:
        tensors = _read(folder / TABLE, device)
        embedding, vectors = tensors["embedding"], tensors["vectors"]
    except (OSError, SafetensorError, KeyError) as err:
        raise StudioError(
            f"{TABLE} in {folder.name}/ cannot be used ({str(err)[:80]}): copy the folder again."
        ) from err
    width = embedding.shape[-1]
    steps, labels, blocks = len(times), len(classes), len(norms_of(dense))
    fits = tuple(vectors.shape) == (steps, blocks, labels, 6 * width)
    if not fits or tuple(embedding.shape[:2]) != (steps, labels):
        raise StudioError(
            f"{TABLE} in {folder.name}/ has other sizes than its {MANIFEST} says: copy the folder"
            " again."
        )
    return KeptTable(times, classes, embedding, vectors)
