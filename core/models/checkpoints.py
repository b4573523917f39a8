"""Load a diffusers pipeline, DiT or SDXL: a bundled model, a local folder or a hub id.

Only safetensors weights are opened.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import StudioError, plain_memory_errors
from ..guidance import MAX_GUIDANCE, is_guidance
from ..paths import given_path
from .bundled import BUNDLED, BUNDLED_MODELS, bundled_folder, bundled_name
from .devices import full_precision, pick_device, pick_dtype
from .families import FAMILIES, Family, family_of
from .weight_hashes import WeightFiles
from .weights import is_network, load_parts, no_safetensors, variants

FAMILY_OF_PIPELINE: dict[str, Family] = {family.pipeline: family for family in FAMILIES}
PIPELINES = tuple(FAMILY_OF_PIPELINE)  # class names


@dataclass(frozen=True)
class Checkpoint:
    """A loaded pipeline and the data that the model's folder has beside it."""

    name: str
    folder: Path | None  # local folder, None for a hub id
    pipeline: Any  # diffusers.DiTPipeline or StableDiffusionXLPipeline, in eval mode, frozen
    latents: Tensor | None  # (n, c, h, w) fp32 calibration latents, or None
    labels: Tensor | None  # (n,)
    # every class with a name that no other has; empty for a model that is asked in words
    class_names: dict[int, str]
    # that suits this very model, where its folder says so
    own_guidance: float | None = None
    files: WeightFiles | None = None  # of the denoiser
    revision: str | None = None  # of a hub id, as it was asked for

    @property
    def guidance(self) -> float:
        """Return the guidance to sample with where none is asked for."""
        if self.own_guidance is not None:
            return self.own_guidance
        return family_of(self.denoiser).guidance

    @property
    def denoiser(self) -> nn.Module:
        """Return the network that is pruned: the pipeline's transformer or UNet."""
        return denoiser_of(self.pipeline)


def denoiser_of(pipeline: Any) -> Any:
    """Return the denoiser of a pipeline: its UNet, else its transformer."""
    return getattr(pipeline, "unet", None) or pipeline.transformer


def load_checkpoint(
    model: str | Path = BUNDLED,
    device: str = "auto",
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
) -> Checkpoint:
    """Open `model` (a folder or a hub id) with its own pipeline class.

    That is DiTPipeline or StableDiffusionXLPipeline. Raises StudioError with what to do when it is
    neither, not in safetensors, or a DiT whose null label is not the one that DiTPipeline asks for.
    """
    where = pick_device(device)
    precision = pick_dtype(dtype, where)
    folder = local_folder(model)
    _hide_loading_bars()
    try:
        index = pipeline_index(folder or model, revision)
        with plain_memory_errors():
            pipeline = _load_pipeline(
                index, folder or str(model), revision=revision, dtype=precision
            )
    except StudioError:
        raise
    except Exception as err:  # diffusers and the hub client raise many kinds
        raise _refusal(str(model), folder, err) from err
    if folder is None:
        pipeline.register_to_config(_name_or_path=str(model))
    family = FAMILY_OF_PIPELINE[index["_class_name"]]
    family.check_pipeline(pipeline, model)
    _check_channels(pipeline, model)
    _settle(pipeline, family, where, precision)
    latents, labels = shipped_latents(folder)
    names: dict[int, str] = {}
    if not family.asks_words:
        names = class_names(index, denoiser_of(pipeline).config.num_embeds_ada_norm)
    return Checkpoint(
        name=_display_name(model, folder),
        folder=folder,
        pipeline=pipeline,
        latents=latents,
        labels=labels,
        class_names=names,
        own_guidance=shipped_guidance(folder),
        files=WeightFiles.of(denoiser_of(pipeline)),
        revision=revision,
    )


def load_scheduler(model: str | Path = BUNDLED, revision: str | None = None) -> Any:
    """Load the scheduler of a pipeline alone, as its curves need no weights. Raises StudioError."""
    import diffusers

    folder = local_folder(model)
    try:
        cls = getattr(diffusers, pipeline_index(folder or model, revision)["scheduler"][1])
        if not issubclass(cls, diffusers.SchedulerMixin):
            raise StudioError(
                f"{model} names {cls.__name__} as its scheduler, which is none: correct"
                " model_index.json."
            )
        return cls.from_pretrained(str(folder or model), revision=revision, subfolder="scheduler")
    except StudioError:
        raise
    except Exception as err:  # as in load_checkpoint
        raise _refusal(str(model), folder, err) from err


# ------------------------------------------------------------ what a folder says


def local_folder(model: str | Path) -> Path | None:
    """Return the local folder of a model, None for a hub id; the name of a bundled one comes first.

    Raises StudioError for what is neither.
    """
    named = bundled_folder(model)
    if named is not None:
        return named
    model = given_path(model, "The model")
    if Path(model).is_dir():
        return Path(model)
    if str(model).startswith(("/", ".", "~")) or str(model).count("/") != 1:
        raise StudioError(
            f"{str(model)!r} is neither a folder with a diffusers pipeline nor a hub id like"
            " facebook/DiT-XL-2-256."
        )
    return None


def pipeline_index(model: str | Path, revision: str | None = None) -> dict[str, Any]:
    """Read the model_index.json of a pipeline.

    Raises StudioError for a pipeline of another kind, and what the hub client raises.
    """
    import diffusers

    index = diffusers.DiffusionPipeline.load_config(str(model), revision=revision)
    kind = index.get("_class_name", "")
    if kind not in PIPELINES:
        raise StudioError(
            f"{model} is a {kind or 'folder without a pipeline'}; MosaicDiff Studio opens"
            f" {' and '.join(PIPELINES)}."
        )
    return index


def class_names(index: dict[str, Any], classes: int) -> dict[int, str]:
    """Return the names of a DiT's classes by number, from `id2label` in model_index.json.

    Without `id2label`, which diffusers' own save_pretrained leaves out, they are "class 0" and so
    on up to `classes`. The file is read because the pipeline keeps names only, and two classes may
    share one (ImageNet's cranes): those get their number too. Raises StudioError for numbers that
    the model does not know.
    """
    names = {
        int(i): " ".join(str(name).split()) for i, name in (index.get("id2label") or {}).items()
    } or {i: f"class {i}" for i in range(classes)}
    if not all(0 <= i < classes for i in names):
        raise StudioError(
            "id2label in model_index.json names a class that the model does not have; its classes"
            f" are 0 to {classes - 1}: correct the file."
        )
    counts = Counter(names.values())
    return {i: name if counts[name] == 1 else f"{name} ({i})" for i, name in sorted(names.items())}


def shipped_latents(folder: Path | None) -> tuple[Tensor | None, Tensor | None]:
    """Read latents and labels from `calibration/latents.safetensors` in a model's folder.

    None for both where the file is not there. Raises StudioError for a damaged file.
    """
    path = folder / "calibration" / "latents.safetensors" if folder else None
    if path is None or not path.exists():
        return None, None
    try:
        data = load_file(path)
        return data["latents"].float(), data["labels"].long()
    except Exception as err:
        raise StudioError(
            f"{path.name} in {path.parent.name}/ cannot be read ({type(err).__name__}); restore it"
            " from the repository."
        ) from err


def shipped_guidance(folder: Path | None) -> float | None:
    """Read the guidance that suits a model from `sampling.json` in its folder: {"guidance": 2.5}.

    None where the file is not there. Raises StudioError for a damaged file.
    """
    path = folder / "sampling.json" if folder else None
    if path is None or not path.exists():
        return None
    try:
        guidance = json.loads(path.read_text())["guidance"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        guidance = None
    if not is_guidance(guidance):
        raise StudioError(
            f"{path.name} in {path.parent.name}/ must hold a guidance from 0 to {MAX_GUIDANCE:g},"
            ' as in {"guidance": 1.5}; correct or restore it.'
        )
    return float(guidance)


def _display_name(model: str | Path, folder: Path | None) -> str:
    if folder is None:
        return str(model)
    bundled = bundled_name(folder)
    return f"{BUNDLED_MODELS[bundled]} (bundled)" if bundled else folder.name


# ------------------------------------------------------------ loading


def _load_pipeline(
    index: dict[str, Any], model: Path | str, *, revision: str | None, dtype: torch.dtype
) -> Any:
    """Load all parts of a pipeline from its folder (Path) or from the hub (str, an id)."""
    import diffusers

    # what is wrong is reported in one sentence, not in diffusers' log beside it
    with _silent():
        kind = getattr(diffusers, index["_class_name"])
        local = model if isinstance(model, Path) else _download(kind, model, revision)
        parts = load_parts(local, index, dtype)
        return kind.from_pretrained(
            str(local), revision=revision, use_safetensors=True, dtype=dtype, **parts
        )


def _settle(pipeline: Any, family: Family, device: torch.device, dtype: torch.dtype) -> None:
    """Move a pipeline to its device and freeze its networks."""
    upcast = getattr(pipeline.vae.config, "force_upcast", False)
    if dtype == torch.float16 and upcast and family.asks_words:
        pipeline.vae.to(torch.float32)  # SDXL's VAE overflows in fp16
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    if device.type == "cuda":
        full_precision()
    if device.type == "cpu":
        pipeline.vae.to(memory_format=torch.channels_last)  # decodes in two thirds of the time


def _check_channels(pipeline: Any, model: str | Path) -> None:
    """Raise StudioError for a denoiser that does not take just the channels that the VAE gives."""
    takes = denoiser_of(pipeline).config.in_channels
    gives = pipeline.vae.config.latent_channels
    if takes != gives:  # inpainting models take a mask beside
        raise StudioError(
            f"The denoiser of {model} takes {takes} channels and its VAE gives {gives}; only models"
            " with as many are supported."
        )


def _download(kind: Any, model: str, revision: str | None) -> Path:
    """Fetch the files of a hub id, or find them in the cache, and return their folder.

    Where only a variant has safetensors, that variant is taken.
    """
    first: Exception | None = None
    for variant in (None, "fp16", "bf16"):
        try:
            found = Path(
                kind.download(model, revision=revision, use_safetensors=True, variant=variant)
            )
        except (OSError, ValueError) as err:  # no such files under this variant, or no such model
            first = first or err
            continue
        index = kind.load_config(str(found))
        networks = [
            name for name, entry in index.items() if is_network(entry) and (found / name).is_dir()
        ]
        if networks and all(variants(found / name) for name in networks):
            return found
        first = first or OSError(f"could not find safetensors weights of {model}")
    raise first or OSError(f"could not find {model}")


def _hide_loading_bars() -> None:
    """Switch loading bars off, which would mix with the command line's own progress."""
    from diffusers.utils import is_transformers_available
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if is_transformers_available():  # only text models need it
        from transformers.utils.logging import disable_progress_bar as no_bar

        no_bar()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep diffusers from writing its log within."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _refusal(model: str, folder: Path | None, err: Exception) -> StudioError:
    """Return one sentence for the many ways in which a checkpoint can fail to load."""
    if folder is not None and not (folder / "model_index.json").exists():
        return StudioError(
            f"The folder {folder.name}/ has no model_index.json, so it is not a diffusers pipeline."
        )
    said = str(err)
    if "safetensors" in said and ("no file" in said.lower() or "not find" in said.lower()):
        return no_safetensors(model)
    text = " ".join(said.split())
    return StudioError(f"{model} could not be loaded ({type(err).__name__}: {text[:160]}).")
