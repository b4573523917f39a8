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
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..cache import file_hash
from ..curves.plan import STAGES
from ..errors import Stopped, StudioError
from ..files import full_disk, write_folder
from ..models.checkpoints import load_checkpoint
from ..models.families import family_of, first_parameter
from ..models.layers import PrunableLayer, find_layers
from ..progress import Progress
from ..pruning.cuts import Cut
from .manifest import (
    FILES,
    FORMAT,
    MANIFEST,
    PRECISIONS,
    VERSION,
    StoredMosaic,
    coarser,
    complete,
    indices,
    model_hash,
    precision,
    read_manifest,
    sealed,
)
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
    folder = Path(folder).resolve()
    facts = dict(mosaic.facts) if facts is None else facts
    if not set(facts) <= set(FACTS):
        raise StudioError(
            f"What is said of saved subnetworks may be {', '.join(FACTS)}, not"
            f" {', '.join(sorted(set(facts) - set(FACTS)))[:80]}."
        )
    files: list[str] = []

    def write(part: Path) -> None:
        manifest = _write_stages(mosaic, part, progress, stop) | facts
        (part / MANIFEST).write_text(_sealed_text(manifest))
        files.extend([*manifest["files"], MANIFEST])

    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StudioError(
                f"{folder.name} exists and is not an empty folder; name another one to save to."
            )
        write_folder(folder, write)
    except (OSError, SafetensorError) as err:  # safetensors wraps the system's error in its own
        why = getattr(err, "strerror", None) or str(err)
        if full_disk(err):
            why = "the disk is full; make room and save again"
        raise StudioError(
            f"The subnetworks could not be written to {folder.name}/ ({why}); nothing was left"
            " there."
        ) from err
    return files


def _sealed_text(manifest: dict[str, Any]) -> str:
    """Return the text of the manifest. Raises StudioError for facts that are not JSON."""
    try:
        return sealed(manifest)
    except (TypeError, ValueError) as err:
        raise StudioError(
            f"What is said of saved subnetworks must be plain JSON data without NaN ({err})."
        ) from err


def _write_stages(
    mosaic: Subnetworks, part: Path, progress: Progress | None, stop: threading.Event | None
) -> dict[str, Any]:
    """Write one file per different stage, and return the manifest without facts and seal."""
    own = precision(mosaic.dtype)
    coarse = PRECISIONS[PRECISIONS.index(own) :]
    tick = _ticker(progress, stop)
    total = len(STAGES) + len(coarse)
    files: dict[str, dict[str, Any]] = {}
    stages: dict[str, dict[str, Any]] = {}
    masked = is_masked(mosaic)
    base = mosaic.full
    for i, stage in enumerate(STAGES):
        tick(i, total, f"writing the {stage} stage")
        kept, tensors = stage_contents(mosaic, i, masked)
        check_rebuilt(mosaic, i, tensors, masked)
        file = FILES[stage] if tensors else None
        for j, twin in enumerate(stages.values()):  # equal stages are stored once
            if twin["kept"] == kept and same_tensors(tensors, stage_contents(mosaic, j, masked)[1]):
                file = twin["file"]
                break
        if file == FILES[stage]:
            copies = {
                name: tensor.cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in tensors.items()
            }
            save_file(copies, part / file, metadata={"format": "pt"})
            del copies
            files[file] = {"bytes": (part / file).stat().st_size, "sha256": file_hash(part / file)}
        stages[stage] = {
            "timesteps": None if mosaic.plan is None else list(mosaic.plan.stage_range(i)),
            "file": file,
            "kept": kept,
        }
    hashes = {}
    for j, at in enumerate(coarse):
        tick(len(STAGES) + j, total, f"hashing the base model in {at}")
        hashes[at] = model_hash(base, at, stop)
    return {
        "format": FORMAT,
        "version": VERSION,
        "family": family_of(base).name,
        "plan": None if mosaic.plan is None else mosaic.plan.to_json(),
        "enabled": mosaic.enabled,
        "masked": masked,
        "dtype": own,
        "base": {"class": type(base).__name__, "hash": hashes},
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
    tick = _ticker(progress, stop)
    manifest = read_manifest(folder)
    with complete(folder):
        stored = StoredMosaic.parse(manifest)
    total = len(stored.files) * 2 + 1
    for i, (name, said) in enumerate(stored.files.items()):
        tick(i, total, f"checking {name}")
        _check_file(folder / name, *said)
    dense = _denoiser(base, stored.dtype, revision)
    layers = find_layers(dense)
    tick(len(stored.files), total, "comparing the base model")
    _check_base(dense, layers, stored, folder, stop)
    read: dict[str, tuple[dict[str, str], list[Cut]]] = {}
    for file, kept in stored.stages:
        if file is not None and file not in read:
            tick(len(stored.files) + 1 + len(read), total, f"reading {file}")
            read[file] = (kept, _read_cuts(folder / file, dense, layers, kept))
    with complete(folder):
        if any(
            kept != (dict.fromkeys(kept, ALL) if file is None else read[file][0])
            for file, kept in stored.stages
        ):
            raise ValueError("two stages of one file keep different groups")
    mosaic = kind(
        dense,
        stored.plan,
        [None if file is None else read[file][1] for file, _ in stored.stages],
        masked=stored.masked,
        layers=layers,
        facts={name: manifest[name] for name in FACTS if name in manifest},
    )
    mosaic.enabled = stored.enabled
    return mosaic


def _check_file(path: Path, size: int, digest: str) -> None:
    """Raise StudioError for a file of another size or checksum than the manifest has."""
    try:
        found = path.stat().st_size
        if found != size:
            raise StudioError(
                f"{path.name} in {path.parent.name}/ has {found} bytes and should have {size}: it"
                " was cut off or changed; copy it again."
            )
        if file_hash(path) != digest:
            raise StudioError(
                f"{path.name} in {path.parent.name}/ is damaged (its checksum differs): copy it"
                " again or save the subnetworks anew."
            )
    except OSError as err:
        raise StudioError(
            f"{path.name} in {path.parent.name}/ is missing or cannot be read ({err.strerror}):"
            " copy the whole folder again."
        ) from err


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


def _ticker(progress: Progress | None, stop: threading.Event | None) -> Progress:
    """Return a progress callback that raises Stopped when the run is to stop."""

    def tick(done: int, total: int, text: str) -> None:
        if stop is not None and stop.is_set():
            raise Stopped(f"Stopped while {text}.")
        if progress is not None:
            progress(done, total, text)

    return tick
