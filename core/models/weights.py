"""Load the networks of a pipeline folder, each whole or not at all.

The files of a network are listed and compared before loading, its names and shapes after loading.
diffusers and transformers only log that a file lacks weights (they stay empty or random) or holds
weights that the configuration has no place for (they are dropped). Here both are refused, in a
sentence with some of the names.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import ParameterError, StudioError
from ..words import some
from .families import FAMILIES
from .shapes import whole_size

BASES = ("diffusion_pytorch_model", "model")  # as diffusers and as transformers name their weights
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
# variants, the one with most digits first
USUAL = ("fp32", "float32", "bf16", "bfloat16", "fp16", "float16", "ema")
# what the file of a text encoder may hold beside: CLIP's other half, and positions that are counted
# anyway
SPARE = re.compile(
    r"(^|\.)position_ids$|^(vision_model|visual_projection)\.|^logit_scale$|^text_projection\."
)
WRAPPERS = (
    "module.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "model.diffusion_model.",
    "first_stage_model.",
    "model.",
)
LIBRARIES = ("diffusers", "transformers")  # whose networks are loaded
LFS = b"version https://git-lfs"


def load_parts(folder: Path, index: Mapping[str, Any], dtype: torch.dtype) -> dict[str, nn.Module]:
    """Load every network that `index` (of model_index.json) names from its own sub-folder.

    Raises StudioError for weights that do not fit their configuration, and whatever diffusers and
    transformers raise.
    """
    parts = {}
    for name, entry in index.items():
        kind = is_network(entry)
        if kind is not None:
            check_config(folder / name)
            parts[name] = load_part(folder / name, kind, dtype)
    return parts


def is_network(entry: object) -> Any:
    """Return the class of an entry of model_index.json.

    None where the entry is no network of diffusers or transformers.
    """
    if (
        not isinstance(entry, (list, tuple))
        or len(entry) != 2
        or not all(isinstance(word, str) for word in entry)
    ):
        return None
    library, kind = entry
    if library not in LIBRARIES:
        return None
    found = getattr(importlib.import_module(library), kind, None)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def check_config(folder: Path) -> None:
    """Raise StudioError for a denoiser that is configured for inputs which nothing here gives.

    Also for a size that is not one whole number. The file is read before a class fails on it, or
    paints every picture without the missing input.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # the loading that follows reports it
    if folder.name not in [family.denoiser for family in FAMILIES] or not isinstance(config, dict):
        return
    if "sample_size" in config:
        whole_size(config["sample_size"])
    for family in FAMILIES:
        if folder.name == family.denoiser:
            family.check_config(config)


def load_part(folder: Path, kind: Any, dtype: torch.dtype) -> nn.Module:
    """Load one network with exactly the weights that its configuration asks for.

    kind: a class of diffusers or transformers with `from_pretrained`. Raises StudioError.
    """
    variant = check_files(folder)
    network, report = kind.from_pretrained(
        str(folder),
        variant=variant,
        use_safetensors=True,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    wrong = [
        f"{key} {_shape(found)} for {_shape(wanted)}"
        for key, found, wanted in report.get("mismatched_keys") or ()
    ]
    if wrong:
        raise StudioError(
            f"{_count(wrong, 'weight')} in {folder.name}/ {_have(wrong)} another shape than"
            f" config.json asks for ({some(wrong)}): take weights and config.json from the same"
            " model."
        )
    words = hasattr(network, "text_model") or folder.name.startswith("text_encoder")
    surplus = sorted(
        k for k in report.get("unexpected_keys") or () if not (words and SPARE.search(k))
    )
    empty = {k for k, v in network.state_dict().items() if v.is_meta}
    missing = sorted(empty | set(report.get("missing_keys") or ()))
    if missing or surplus:
        raise StudioError(_misfit(folder.name, missing, surplus))
    return network


def _misfit(name: str, missing: list[str], surplus: list[str]) -> str:
    """Return one sentence on the names that do not fit."""
    for prefix in WRAPPERS:
        if surplus and all(key.startswith(prefix) for key in surplus):
            return (
                f"The weights in {name}/ have names that begin with {prefix!r} ({some(surplus)}),"
                " which a wrapper put there: save the network inside the wrapper, or take that"
                " beginning off the names."
            )
    faults = [f"lack {len(missing)} that config.json asks for ({some(missing)})"] if missing else []
    if surplus:
        faults.append(f"hold {len(surplus)} that it has no place for ({some(surplus)})")
    text = " and ".join(faults) if missing else faults[0].replace("it has", "config.json has")
    return (
        f"The weights in {name}/ {text}: copy the whole folder again, weights and config.json from"
        " the same model."
    )


# ------------------------------------------------------------ files


def check_files(folder: Path) -> str | None:
    """Return the variant of one network's weights ("fp16" in *.fp16.safetensors).

    None stands for the plain name, which is taken first; then the usual variants, then the only one
    that there is. Raises StudioError: no safetensors, several variants that nothing tells apart,
    files that an index names and that are not there, that hold other weights, or are cut off.
    """
    found = variants(folder)
    if not found:
        raise _no_weights(folder)
    variant = None
    if None not in found:
        usual = [name for name in USUAL if name in found]
        if not usual and len(found) > 1:
            raise StudioError(
                f"{folder.name}/ has weights of {len(found)} variants"
                f" ({some(map(str, sorted(found, key=str)))}) and none of the plain name: keep the"
                " one to open."
            )
        variant = usual[0] if usual else next(iter(found))
    base, sharded = found[variant]
    name = base if variant is None else f"{base}.{variant}"
    if not sharded:
        weight_names(folder / f"{name}.safetensors")
        return variant
    _check_shards(folder, base, variant)
    return variant


def variants(folder: Path) -> dict[str | None, tuple[str, bool]]:
    """List the weights in a folder by variant.

    Each entry is (first part of the file names, whether the weights are cut into shards). Raises
    StudioError for a folder that cannot be read.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as err:
        raise StudioError(
            f"{folder.name}/ is missing or cannot be read ({err.strerror}): copy the whole folder"
            " again."
        ) from err
    found: dict[str | None, tuple[str, bool]] = {}
    for base in BASES:
        for name in names:
            one = re.fullmatch(rf"{base}(?:\.([\w-]+))?\.safetensors", name)
            many = re.fullmatch(rf"{base}\.safetensors\.index(?:\.([\w-]+))?\.json", name)
            if many or (one and not SHARD.search(name.removesuffix(".safetensors"))):
                found_as = many or one
                variant = found_as[1] if found_as else None
                if many or variant not in found:
                    found[variant] = (base, many is not None)
    return found


def no_safetensors(model: object) -> StudioError:
    """Return the refusal of a model whose weights are not in safetensors."""
    return ParameterError(
        "{model} has no safetensors weights (only those are opened); for facebook/DiT-XL-2-256"
        " try {revision} refs/pr/1.",
        model=model,
    )


def _no_weights(folder: Path) -> StudioError:
    """Return the refusal of a folder in which no weights are found."""
    names = [path.name for path in folder.iterdir()]
    shards = [
        name
        for name in names
        if name.endswith(".safetensors") and SHARD.search(name.removesuffix(".safetensors"))
    ]
    if shards:
        return StudioError(
            f"The weights in {folder.name}/ are cut into {_count(shards, 'file')}"
            f" ({some(sorted(shards))}) and the index that names them, *.safetensors.index.json, is"
            " missing: copy it too."
        )
    others = sorted(name for name in names if name.endswith(".safetensors"))
    if others:
        return StudioError(
            f"{folder.name}/ has no weights of the name that diffusers gives them ({some(others)}"
            " instead): rename the file to"
            f" {BASES[folder.name.startswith('text_encoder')]}.safetensors if it holds this"
            " network."
        )
    return no_safetensors(folder.parent)


def _check_shards(folder: Path, base: str, variant: str | None) -> None:
    """Raise StudioError unless the files of an index are all there and hold just its weights."""
    index = folder / (
        f"{base}.safetensors.index.json"
        if variant is None
        else f"{base}.safetensors.index.{variant}.json"
    )
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        wanted = sorted(set(places.values()))
        if not wanted or any(Path(name).name != name for name in wanted):
            raise ValueError("no plain file names")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise StudioError(
            f"{index.name} in {folder.name}/ cannot be read as an index of weights: copy it again."
        ) from err
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise StudioError(
            f"{folder.name}/ lacks {_count(missing, 'file')} of the {len(wanted)} that {index.name}"
            f" names ({some(missing)}): copy the whole folder again."
        )
    middle = "" if variant is None else rf"(?:\.{re.escape(variant)})"
    like = re.compile(rf"{base}{middle}-\d{{5}}-of-\d{{5}}\.safetensors")
    extra = sorted(
        p.name for p in folder.iterdir() if like.fullmatch(p.name) and p.name not in wanted
    )
    if extra:
        raise StudioError(
            f"{folder.name}/ holds {_count(extra, 'file')} of weights that {index.name} does not"
            f" name ({some(extra)}): delete what is left from another model, or copy the index"
            " again."
        )
    held = {name: weight_names(folder / name) for name in wanted}
    indexed = [(key, name) for key, name in places.items()]
    there = [(key, name) for name, keys in held.items() for key in keys]
    lacking = sorted(set(indexed) - set(there))
    beside = sorted(set(there) - set(indexed))
    if lacking or beside:
        fault = (
            f"{lacking[0][0]} is not in {lacking[0][1]}"
            if lacking
            else f"{beside[0][1]} holds {beside[0][0]}"
        )
        raise StudioError(
            f"{index.name} in {folder.name}/ and the files that it names do not agree on"
            f" {len(lacking) + len(beside)} weights"
            f" ({fault}{', not named for it' if not lacking else ''}): copy the whole folder again."
        )


def weight_names(path: Path) -> list[str]:
    """List the names in a safetensors file.

    Raises StudioError for a file that cannot be read, with what the file is instead.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS))
        if start == LFS:
            raise StudioError(
                f"{path.name} in {path.parent.name}/ is a pointer of Git LFS, not the weights: run"
                " `git lfs pull` in the model's folder."
            )
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as err:
        why = getattr(err, "strerror", None) or str(err)
        if path.is_file() and not path.stat().st_size:
            why = "it is empty"
        raise StudioError(
            f"{path.name} in {path.parent.name}/ cannot be read ({why}): copy it again."
        ) from err
    if not names:
        raise StudioError(f"{path.name} in {path.parent.name}/ holds no weights: copy it again.")
    return names


# ------------------------------------------------------------ words


def _count(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def _have(things: Sequence[object]) -> str:
    return "has" if len(things) == 1 else "have"


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
