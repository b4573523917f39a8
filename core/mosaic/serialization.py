"""Save subnetworks to a folder, and load them over their base model.

A folder holds `manifest.json` and one file for each different stage
(`late|middle|early.safetensors`; a dense stage has none). Stored is only what the base does not
have (`core.mosaic.stored`), so the files are small and of use only with their base, which is
checked by hash (`core.mosaic.manifest.model_hash`). The manifest has hashes at the base's own
precision and at every coarser one, and a base is taken when it agrees at the coarser of the two
precisions, saved and loaded. So an fp32 checkpoint may come back in fp16 or bf16 and the other way
round; the outputs are those of the saving process, bit for bit, only in the same precision.

Nothing here is pickled, and no path from a manifest is opened: file names are the three above.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..curves.plan import STAGES
from ..errors import StudioError
from ..models.checkpoints import load_checkpoint
from ..models.families import family_of, first_parameter
from ..models.layers import PrunableLayer, find_layers
from ..progress import Progress
from ..pruning.cuts import Cut
from .manifest import (
    FILES,
    FORMAT,
    PRECISIONS,
    VERSION,
    StoredMosaic,
    coarser,
    complete,
    indices,
    model_hash,
    precision,
    read_manifest,
)
from .sealed_folder import check_file, ticker, write_sealed, write_tensors
from .stored import (
    ALL,
    check_rebuilt,
    is_masked,
    layer_rows,
    restored_cut,
    same_tensors,
    stage_contents,
    stored_name,
)
from .subnetworks import Subnetworks

Loaded = TypeVar("Loaded", bound=Subnetworks)
# further entries of the manifest: plain JSON, never read back into numbers that run
FACTS = ("model", "calibration", "damping", "errors", "report")


# ------------------------------------------------------------ save


def save_mosaic(
    mosaic: Subnetworks,
    folder: Path | str,
    facts: dict[str, Any] | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> list[str]:
    """Write the subnetworks into `folder` (new or empty), whole or not at all.

    facts: any of `FACTS`, plain JSON data (default: those that the subnetworks were loaded with).
    Returns the names of the files. Raises StudioError (folder not empty, disk full, NaN,
    subnetworks changed since they were cut) and Stopped. A killed process may leave a sibling
    folder *.part, never half a `folder`.
    """
    facts = dict(mosaic.facts) if facts is None else facts
    if not set(facts) <= set(FACTS):
        raise StudioError(
            f"What is said of saved subnetworks may be {', '.join(FACTS)}, not"
            f" {', '.join(sorted(set(facts) - set(FACTS)))[:80]}."
        )
    if mosaic.table is not None:
        raise StudioError(
            "This model was exported without adaLN weights, so it has no base to be saved against:"
            " copy the folder that it was loaded from."
        )
    return write_sealed(
        folder, lambda part: _write_stages(mosaic, part, progress, stop) | facts, "The subnetworks"
    )


def _write_stages(
    mosaic: Subnetworks, part: Path, progress: Progress | None, stop: threading.Event | None
) -> dict[str, Any]:
    """Write one file per different stage, and return the manifest without facts and seal."""
    own = precision(mosaic.dtype)
    coarse = PRECISIONS[PRECISIONS.index(own) :]
    tick = ticker(progress, stop)
    total = len(STAGES) + len(coarse)
    manifest = write_stages(mosaic, part, lambda i, text: tick(i, total, text))
    hashes = {}
    for j, at in enumerate(coarse):
        tick(len(STAGES) + j, total, f"hashing the base model in {at}")
        hashes[at] = model_hash(mosaic.full, at, stop)
    return manifest | {
        "format": FORMAT,
        "base": {"class": type(mosaic.full).__name__, "hash": hashes},
    }


def write_stages(
    mosaic: Subnetworks, part: Path, tick: Callable[[int, str], None]
) -> dict[str, Any]:
    """Write one file per different stage; return what a manifest says of them and of the plan.

    tick: called before each stage with its number and a text. Raises StudioError for NaN and for
    what was changed since it was cut.
    """
    files: dict[str, dict[str, Any]] = {}
    stages: dict[str, dict[str, Any]] = {}
    masked = is_masked(mosaic)
    for i, stage in enumerate(STAGES):
        tick(i, f"writing the {stage} stage")
        kept, tensors = stage_contents(mosaic, i, masked)
        check_rebuilt(mosaic, i, tensors, masked)
        file = FILES[stage] if tensors else None
        for j, twin in enumerate(stages.values()):  # equal stages are stored once
            if twin["kept"] == kept and same_tensors(tensors, stage_contents(mosaic, j, masked)[1]):
                file = twin["file"]
                break
        if file == FILES[stage]:
            files[file] = write_tensors(tensors, part / file)
        stages[stage] = {
            "timesteps": None if mosaic.plan is None else list(mosaic.plan.stage_range(i)),
            "file": file,
            "kept": kept,
        }
    return {
        "version": VERSION,
        "family": family_of(mosaic.full).name,
        "plan": None if mosaic.plan is None else mosaic.plan.to_json(),
        "enabled": mosaic.enabled,
        "masked": masked,
        "dtype": precision(mosaic.dtype),
        "layers": layer_rows(mosaic.layers),
        "stages": stages,
        "files": files,
    }


# ------------------------------------------------------------ load


def load_mosaic(
    kind: type[Loaded],
    folder: Path | str,
    base: Any,
    revision: str | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Loaded:
    """Return the subnetworks that `save_mosaic` wrote, over their base.

    kind: class of the result. base: a diffusers pipeline, its transformer or UNet, or a folder or
    hub id (with `revision`) whose denoiser is then loaded on the CPU in the saved precision. The
    result is on the base's device and in its precision. Raises StudioError, one sentence, for a
    folder that is damaged or changed and for another base; Stopped.
    """
    folder = Path(folder)
    tick = ticker(progress, stop)
    manifest = read_manifest(folder)
    with complete(folder):
        stored = StoredMosaic.parse(manifest)
    total = len(stored.files) * 2 + 1
    for i, (name, said) in enumerate(stored.files.items()):
        tick(i, total, f"checking {name}")
        check_file(folder / name, *said)
    dense = _denoiser(base, stored.dtype, revision)
    layers = find_layers(dense)
    tick(len(stored.files), total, "comparing the base model")
    _check_base(dense, layers, stored, folder, stop)
    before = len(stored.files) + 1
    cuts = read_stages(folder, stored, dense, layers, lambda i, text: tick(before + i, total, text))
    mosaic = kind(
        dense,
        stored.plan,
        cuts,
        masked=stored.masked,
        layers=layers,
        facts={name: manifest[name] for name in FACTS if name in manifest},
    )
    mosaic.enabled = stored.enabled
    return mosaic


def read_stages(
    folder: Path,
    stored: StoredMosaic,
    dense: nn.Module,
    layers: list[PrunableLayer],
    tick: Callable[[int, str], None],
) -> list[list[Cut] | None]:
    """Return the cuts of every stage over their dense model; None for a dense stage.

    tick: called before each file with its number and a text. Raises StudioError for files that do
    not fit.
    """
    read: dict[str, tuple[dict[str, str], list[Cut]]] = {}
    for file, kept in stored.stages:
        if file is not None and file not in read:
            tick(len(read), f"reading {file}")
            read[file] = (kept, _read_cuts(folder / file, dense, layers, kept))
    with complete(folder):
        if any(
            kept != (dict.fromkeys(kept, ALL) if file is None else read[file][0])
            for file, kept in stored.stages
        ):
            raise ValueError("two stages of one file keep different groups")
    return [None if file is None else read[file][1] for file, _ in stored.stages]


def _denoiser(base: Any, dtype: str, revision: str | None) -> nn.Module:
    """Return the denoiser of a base. Raises StudioError where there is none."""
    if isinstance(base, (str, Path)):
        return load_checkpoint(base, "cpu", revision, dtype).denoiser
    if not isinstance(base, nn.Module):
        base = getattr(base, "unet", None) or getattr(base, "transformer", None)
    base = getattr(base, "_orig_mod", base)  # under torch.compile
    if not isinstance(base, nn.Module):
        raise StudioError(
            "The base must be a diffusers pipeline, its transformer or UNet, a model folder or a"
            " hub id."
        )
    return base.full if isinstance(base, Subnetworks) else base


def _check_base(
    dense: nn.Module,
    layers: list[PrunableLayer],
    stored: StoredMosaic,
    folder: Path,
    stop: threading.Event | None,
) -> None:
    """Raise StudioError when the subnetworks were not cut from this model."""
    family = family_of(dense).name
    if family != stored.family:
        raise StudioError(
            f"The subnetworks in {folder.name}/ were cut from a model of the kind"
            f" {stored.family[:20]}, the base is of the kind {family}."
        )
    if stored.layers != layer_rows(layers):
        raise StudioError(
            f"The subnetworks in {folder.name}/ were cut from a {family} with other layers than the"
            " base has; load the model they came from."
        )
    loaded = precision(first_parameter(dense).dtype)
    at = coarser(stored.dtype, loaded)
    with complete(folder):
        expected = stored.hashes[at]
    if model_hash(dense, at, stop) != expected:
        hint = (
            f"the same checkpoint in {stored.dtype}"
            if {stored.dtype, loaded} == {"float16", "bfloat16"}
            else "the checkpoint they were cut from"
        )
        raise StudioError(
            f"The base has other weights than the model that the subnetworks in {folder.name}/ were"
            f" cut from; load {hint}."
        )


def _read_cuts(
    path: Path, dense: nn.Module, layers: list[PrunableLayer], kept: dict[str, str]
) -> list[Cut]:
    """Return one `Cut` per layer from a file.

    Raises StudioError for tensors too many, too few, of other shapes or types, or with NaN.
    """
    with complete(path.parent):
        groups = [_kept_groups(kept[layer.name], layer) for layer in layers]
        if len(kept) != len(layers):
            raise ValueError("layers that the base does not have")
    pairs = list(zip(layers, groups, strict=True))
    cuts = []
    try:
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != {stored_name(x, g) for x, g in pairs if g is not None}:
                raise StudioError(
                    f"{path.name} in {path.parent.name}/ has other tensors than its manifest says:"
                    " copy the folder again."
                )
            for layer, g in pairs:
                if g is None:
                    cuts.append(Cut(torch.arange(layer.groups), None))
                else:
                    stored = file.get_tensor(stored_name(layer, g))
                    cuts.append(restored_cut(dense, layer, g, stored))
    except (OSError, SafetensorError, ValueError) as err:
        raise StudioError(
            f"{path.name} in {path.parent.name}/ cannot be used ({err}): copy the folder again or"
            " save the subnetworks anew."
        ) from err
    return cuts


def _kept_groups(text: str, layer: PrunableLayer) -> Tensor | None:
    """Return the kept groups of a layer from a manifest; None where the layer is the dense one."""
    if text == ALL:
        return None
    return torch.tensor(indices(text, layer.groups), dtype=torch.long)
