"""Load a diffusers DiT pipeline: the bundled demo, a local folder or a hub id. Safetensors only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .errors import StudioError

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUNDLED = ASSETS / "fashion-dit"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded pipeline and what lies beside it."""

    name: str
    folder: Path | None  # local folder, None for a hub id
    pipeline: Any  # diffusers.DiTPipeline, in eval mode, frozen
    latents: Tensor | None  # (n, c, h, w) fp32 calibration latents, or None
    labels: Tensor | None  # (n,)
    class_names: dict[int, str]

    @property
    def bundled(self) -> bool:
        return self.folder is not None and self.folder.resolve() == BUNDLED


def pick_device(device: str = "auto") -> torch.device:
    """"auto" takes CUDA where there is one. Raises StudioError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as err:
        raise StudioError(f"The device {device!r} cannot be used here; this machine has {'CUDA and ' if torch.cuda.is_available() else 'only '}cpu.") from err
    return chosen


def device_text(device: torch.device) -> str:
    """What a timing was taken on, in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA)"
    return f"CPU ({cpu_name()}, {torch.get_num_threads()} threads)"


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine()


def load_checkpoint(model: str | Path = BUNDLED, device: str = "auto", revision: str | None = None, dtype: torch.dtype | None = None) -> Checkpoint:
    """Open `model` with DiTPipeline.from_pretrained; fp32 on a CPU, bf16 on CUDA unless `dtype` says otherwise.

    Raises StudioError with what to do when the folder or id is not a DiT pipeline in safetensors.
    """
    from diffusers import DiTPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the loading bar would mix with the command line's own progress
    where = pick_device(device)
    dtype = dtype or (torch.bfloat16 if where.type == "cuda" else torch.float32)
    folder = Path(model) if Path(model).is_dir() else None
    if folder is None and (str(model).startswith(("/", ".", "~")) or str(model).count("/") != 1):
        raise StudioError(f"{str(model)!r} is neither a folder with a diffusers pipeline nor a hub id like facebook/DiT-XL-2-256.")
    try:
        pipeline = DiTPipeline.from_pretrained(str(model), revision=revision, use_safetensors=True, dtype=dtype, low_cpu_mem_usage=False)
    except Exception as err:  # diffusers and the hub client raise many kinds
        raise StudioError(_refusal(str(model), folder, err)) from err
    pipeline.to(where)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.transformer, pipeline.vae):
        part.eval().requires_grad_(False)
    latents, labels = calibration_data(folder)
    labels_of = getattr(pipeline, "labels", None) or {}
    names = {int(i): name for name, i in labels_of.items()} or {i: f"class {i}" for i in range(10)}
    name = "Fashion DiT (bundled)" if folder is not None and folder.resolve() == BUNDLED else (folder.name if folder else str(model))
    return Checkpoint(name, folder, pipeline, latents, labels, dict(sorted(names.items())))


def calibration_data(folder: Path | None) -> tuple[Tensor | None, Tensor | None]:
    """Latents and labels from `calibration/latents.safetensors` in the model folder, if it is there."""
    path = folder / "calibration" / "latents.safetensors" if folder else None
    if path is None or not path.exists():
        return None, None
    try:
        data = load_file(path)
        return data["latents"].float(), data["labels"].long()
    except Exception as err:
        raise StudioError(f"{path.name} in {path.parent.name}/ cannot be read ({type(err).__name__}); restore it from the repository.") from err


def _refusal(model: str, folder: Path | None, err: Exception) -> str:
    """One sentence for the many ways a checkpoint can fail to load."""
    if folder is not None and not (folder / "model_index.json").exists():
        return f"The folder {folder.name}/ has no model_index.json, so it is not a diffusers pipeline."
    if "safetensors" in str(err) and ("no file" in str(err).lower() or "not find" in str(err).lower()):
        return f"{model} has no safetensors weights (only those are opened); for facebook/DiT-XL-2-256 try --revision refs/pr/1."
    text = " ".join(str(err).split())
    return f"{model} could not be loaded as a DiT pipeline ({type(err).__name__}: {text[:160]})."
