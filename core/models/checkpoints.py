"""Load a diffusers pipeline, DiT or SDXL: the bundled demo, a local folder or a hub id. Safetensors
only.
"""

from __future__ import annotations

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
from ..paths import given_path
from .families import NULL_CLASS
from .weights import is_network, load_parts, variants

PACKAGE = Path(__file__).resolve().parents[1]


def assets_folder(package: Path = PACKAGE) -> Path:
    """Return the folder of the bundled model: inside an installed package, else beside it."""
    inside = package / "assets"
    return inside if inside.is_dir() else package.parent / "assets"


ASSETS = assets_folder()
BUNDLED = ASSETS / "fashion-dit"
PIPELINES = ("DiTPipeline", "StableDiffusionXLPipeline")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Checkpoint:
    """A loaded pipeline and what lies beside it."""

    name: str
    folder: Path | None  # local folder, None for a hub id
    pipeline: Any  # diffusers.DiTPipeline or StableDiffusionXLPipeline, in eval mode, frozen
    latents: Tensor | None  # (n, c, h, w) fp32 calibration latents, or None
    labels: Tensor | None  # (n,)
    # every class with a name that no other has; empty for a model that is asked in words
    class_names: dict[int, str]

    @property
    def denoiser(self) -> nn.Module:
        """The part that is pruned: the pipeline's transformer or UNet."""
        return getattr(self.pipeline, "unet", None) or self.pipeline.transformer

    @property
    def bundled(self) -> bool:
        return self.folder is not None and self.folder.resolve() == BUNDLED


def pick_device(device: str = "auto") -> torch.device:
    """ "auto" takes CUDA where there is one. Raises StudioError for a device that is not there or
    cannot compute.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        if chosen.type == "cpu" and chosen.index:
            raise RuntimeError("there is one CPU device, whatever its number of cores")
        with plain_memory_errors():  # a full card is there
            two = torch.ones(1, device=chosen) + 1
            if two.item() != 2:  # "meta" has no numbers to give
                raise RuntimeError("it does not add up")
    except StudioError:
        raise
    except Exception as err:  # a device of another kind fails in the way of its own library
        raise StudioError(
            f"The device {device!r} cannot be used here; this machine has"
            f" {'CUDA and ' if torch.cuda.is_available() else 'only '}cpu."
        ) from err
    # tensors say "cpu" of "cpu:0" too
    return torch.device("cpu") if chosen.type == "cpu" else chosen


def device_text(device: torch.device) -> str:
    """What a timing was taken on, in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA)"
    threads = torch.get_num_threads()
    return f"CPU ({cpu_name()}, {threads} thread{'' if threads == 1 else 's'})"


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine()


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """None or "auto": fp32 on a CPU, bf16 on CUDA. Raises StudioError for anything but fp32, fp16
    and bf16.
    """
    if dtype in (None, "auto"):
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    chosen = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES.values():
        raise StudioError(
            f"{dtype!r} is not a precision to load a model in; choose one of auto,"
            f" {', '.join(DTYPES)}."
        )
    return chosen


def load_checkpoint(
    model: str | Path = BUNDLED,
    device: str = "auto",
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
) -> Checkpoint:
    """Open `model` (a folder or a hub id) with its own pipeline class, DiTPipeline or
    StableDiffusionXLPipeline.

    Raises StudioError with what to do when it is neither, not in safetensors, or a DiT whose null
    label is not the one that DiTPipeline asks for.
    """
    import diffusers
    from diffusers.utils import is_transformers_available
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a loading bar would mix with the command line's own progress
    if is_transformers_available():  # only text models need it
        from transformers.utils.logging import disable_progress_bar as no_bar

        no_bar()
    where = pick_device(device)
    dtype = pick_dtype(dtype, where)
    folder = _folder(model)
    try:
        index = pipeline_index(folder or model, revision)
        # what is wrong is said in one sentence, not in diffusers' log beside it
        with _silent(), plain_memory_errors():
            kind = getattr(diffusers, index["_class_name"])
            local = folder if folder is not None else _download(kind, str(model), revision)
            parts = load_parts(local, index, dtype)
            pipeline = kind.from_pretrained(
                str(local), revision=revision, use_safetensors=True, dtype=dtype, **parts
            )
    except StudioError:
        raise
    except Exception as err:  # diffusers and the hub client raise many kinds
        raise StudioError(_refusal(str(model), folder, err)) from err
    if folder is None:
        pipeline.register_to_config(_name_or_path=str(model))
    classes = (
        pipeline.transformer.config.num_embeds_ada_norm
        if hasattr(pipeline, "labels")
        else NULL_CLASS
    )
    if classes != NULL_CLASS:
        raise StudioError(
            f"{model} has {classes} classes, and diffusers' DiTPipeline asks for label {NULL_CLASS}"
            f" when it means none: pad its label tables to {NULL_CLASS} classes and the null one,"
            f" with num_embeds_ada_norm {NULL_CLASS} in its config."
        )
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    takes, gives = denoiser.config.in_channels, pipeline.vae.config.latent_channels
    if takes != gives:  # inpainting models take a mask beside
        raise StudioError(
            f"The denoiser of {model} takes {takes} channels and its VAE gives {gives}; only models"
            " with as many are supported."
        )
    if (
        dtype == torch.float16
        and getattr(pipeline.vae.config, "force_upcast", False)
        and not hasattr(pipeline, "labels")
    ):
        pipeline.vae.to(torch.float32)  # SDXL's VAE overflows in fp16
    pipeline.to(where)
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    latents, labels = calibration_data(folder)
    names = class_names(index, classes) if hasattr(pipeline, "labels") else {}
    name = (
        "Fashion DiT (bundled)"
        if folder is not None and folder.resolve() == BUNDLED
        else (folder.name if folder else str(model))
    )
    return Checkpoint(name, folder, pipeline, latents, labels, names)


def pipeline_index(model: str | Path, revision: str | None = None) -> dict[str, Any]:
    """What model_index.json says. Raises StudioError for a pipeline of another kind, and what the
    hub client raises.
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


def load_scheduler(model: str | Path = BUNDLED, revision: str | None = None) -> Any:
    """The scheduler of a pipeline alone: its curves need no weights. Raises StudioError."""
    import diffusers

    folder = _folder(model)
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
        raise StudioError(_refusal(str(model), folder, err)) from err


def class_names(index: dict[str, Any], classes: int) -> dict[int, str]:
    """A DiT's classes by number, as `id2label` in model_index.json names them, else "class 0" and
    so on up to its `classes`.

    Read from the file because the pipeline keeps names only, and two classes may share one
    (ImageNet's cranes): those get their number too. diffusers' own save_pretrained leaves
    `id2label` out. Raises StudioError for numbers that the model does not know.
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


def _download(kind: Any, model: str, revision: str | None) -> Path:
    """Fetch a hub id's files, or find them in the cache -> their folder. Where only a variant has
    safetensors, that variant's.
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
            name for name, said in index.items() if is_network(said) and (found / name).is_dir()
        ]
        if networks and all(variants(found / name) for name in networks):
            return found
        first = first or OSError(f"could not find safetensors weights of {model}")
    raise first


@contextmanager
def _silent() -> Iterator[None]:
    """diffusers writes no log meanwhile."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _folder(model: str | Path) -> Path | None:
    """The local folder, None for a hub id. Raises StudioError for what is neither."""
    model = given_path(model, "The model")
    if Path(model).is_dir():
        return Path(model)
    if str(model).startswith(("/", ".", "~")) or str(model).count("/") != 1:
        raise StudioError(
            f"{str(model)!r} is neither a folder with a diffusers pipeline nor a hub id like"
            " facebook/DiT-XL-2-256."
        )
    return None


def calibration_data(folder: Path | None) -> tuple[Tensor | None, Tensor | None]:
    """Latents and labels from `calibration/latents.safetensors` in the model folder, if it is
    there.
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


def _refusal(model: str, folder: Path | None, err: Exception) -> str:
    """One sentence for the many ways a checkpoint can fail to load."""
    if folder is not None and not (folder / "model_index.json").exists():
        return (
            f"The folder {folder.name}/ has no model_index.json, so it is not a diffusers pipeline."
        )
    if "safetensors" in str(err) and (
        "no file" in str(err).lower() or "not find" in str(err).lower()
    ):
        return (
            f"{model} has no safetensors weights (only those are opened); for facebook/DiT-XL-2-256"
            " try --revision refs/pr/1."
        )
    text = " ".join(str(err).split())
    return f"{model} could not be loaded ({type(err).__name__}: {text[:160]})."
