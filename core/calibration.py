"""One run over timestep bins on the dense model: Gram matrices that every threshold and every sparsity is built from.

Real latents are noised to timesteps drawn uniformly inside each bin (SNR-aware calibration, method section 2), with their
label and with the null label, and the inputs x of every prunable layer are summed up as x x^T, in fp32. Grams add up, so
the Gram of any stage is the sum of its bins; a bin that a boundary cuts counts in proportion to the part inside.
Ours, not the paper's: bins, the image count, and a quarter of the images held out to choose damping and to report honest errors.

On disk: one safetensors file a bin (upper triangles), written whole or not at all, in a folder named after a hash of model, data
and settings. A stopped run resumes with the first bin that is missing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import Stopped, StudioError
from .families import Conditions, family_of, first_parameter
from .noise import NUM_TRAIN_TIMESTEPS, NoiseSchedule
from .prunable import PrunableLayer

Progress = Callable[[int, int, str], None]
STALE_SECONDS = 600  # a half-written file this old was left by a run that died


@dataclass(frozen=True)
class CalibrationSettings:
    """How much is measured. 192 fitted images x 16 tokens x 2 labels = 6 tokens a column and bin on the bundled model's MLPs."""

    edges: tuple[int, ...] = (0, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)  # finer where activations change fastest
    images: int = 192  # per bin, fitted
    held_out: int = 64  # per bin, kept apart
    seed: int = 0
    damping: float | None = None  # one for all layers; None: chosen per layer on held-out tokens

    @property
    def bins(self) -> int:
        return len(self.edges) - 1


def calibration_settings(args: Any) -> CalibrationSettings:
    """The settings that the command line's `bins`, `images_per_bin` and `damping` ask for. Raises StudioError."""
    wanted: dict[str, Any] = {}
    if args.bins is not None:
        if not 2 <= args.bins <= 100:
            raise StudioError(f"--bins must lie between 2 and 100, not {args.bins}.")
        wanted["edges"] = tuple(round(i * NUM_TRAIN_TIMESTEPS / args.bins) for i in range(args.bins + 1))
    if args.images_per_bin is not None:
        if not 4 <= args.images_per_bin <= 100_000:
            raise StudioError(f"--images-per-bin must lie between 4 and 100000, not {args.images_per_bin}.")
        wanted |= {"images": args.images_per_bin, "held_out": max(2, args.images_per_bin // 3)}
    if args.damping is not None:
        if not 0 <= args.damping <= 1:
            raise StudioError(f"--damping must lie between 0 and 1, not {args.damping}.")
        wanted["damping"] = args.damping
    return CalibrationSettings(**wanted)


def cache_root() -> Path:
    """Where calibrations and latency tables are kept: $MOSAIC_CACHE or the user's cache folder."""
    base = os.environ.get("MOSAIC_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mosaicdiff-studio"


def fingerprint(*parts: dict[str, Tensor] | object) -> str:
    """SHA-256 over tensors (names, dtypes, bytes) and anything that JSON can say; 16 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, dict) and all(torch.is_tensor(v) for v in part.values()):
            for name in sorted(part):
                tensor = part[name].detach().cpu().contiguous()
                digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.flatten().view(torch.uint8).numpy())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:16]


class GramBank:
    """Gram matrices per layer and timestep bin, on disk, read one layer at a time."""

    def __init__(self, folder: Path, layers: list[PrunableLayer], settings: CalibrationSettings):
        self.folder, self.layers, self.settings = Path(folder), layers, settings
        self._open: dict[int, object] = {}
        self._lock = threading.Lock()

    def path(self, bin_index: int) -> Path:
        return self.folder / f"bin-{bin_index:02d}.safetensors"

    def missing(self) -> list[int]:
        """Bins not measured yet."""
        return [b for b in range(self.settings.bins) if not self.path(b).exists()]

    @property
    def complete(self) -> bool:
        return not self.missing()

    def overlap(self, low: float, high: float) -> list[float]:
        """Share of each bin that lies in [low, high)."""
        edges = self.settings.edges
        return [max(0.0, min(high, b) - max(low, a)) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]

    def gram(self, layer: int, low: float, high: float, held_out: bool = False) -> tuple[Tensor, float]:
        """Sum of x x^T over [low, high), (n, n) fp64, and the number of tokens in it. Raises StudioError when a file is damaged."""
        total, tokens = None, 0.0
        for b, share in enumerate(self.overlap(low, high)):
            if share:
                triangle, count = self._triangle(b, layer, held_out)
                total = triangle.double().mul_(share) if total is None else total.add_(triangle, alpha=share)
                tokens += share * count
        if total is None:
            raise StudioError(f"No calibration bin lies between timesteps {low:g} and {high:g}.")
        return unpack(total), tokens

    def _triangle(self, b: int, layer: int, held_out: bool) -> tuple[Tensor, int]:
        kind = "held_out" if held_out else "fit"
        try:
            with self._lock:
                if b not in self._open:
                    self._open[b] = safe_open(self.path(b), framework="pt")
                file = self._open[b]
                return file.get_tensor(f"{kind}/{layer}"), int(file.get_tensor(f"tokens/{kind}"))
        except Exception as err:  # safetensors raises its own kind, a vanished file OSError
            raise StudioError(f"The calibration file {self.path(b).name} in {self.folder.name}/ cannot be read: calibrate again.") from err

    def check(self) -> None:
        """Drop bins whose file is damaged, so that the next calibration measures them again."""
        with self._lock:
            self._open.clear()  # look at the files as they are now
        for b in range(self.settings.bins):
            if self.path(b).exists():
                try:
                    self._triangle(b, 0, False)
                except StudioError:
                    self._open.pop(b, None)
                    self.path(b).unlink(missing_ok=True)


def pack(gram: Tensor) -> Tensor:
    """Upper triangle (n, n) -> (n (n + 1) / 2,), row by row."""
    i, j = torch.triu_indices(*gram.shape, device=gram.device)
    return gram[i, j]


def unpack(triangle: Tensor) -> Tensor:
    """The symmetric matrix of an upper triangle, fp64."""
    n = int((2 * len(triangle)) ** 0.5)
    return triangle.double()[_positions(n)]


@lru_cache(maxsize=4)
def _positions(n: int) -> Tensor:
    """(n, n) where each entry of the matrix lies in the upper triangle stored row by row."""
    i = torch.arange(n)
    low, high = torch.minimum(i[:, None], i[None]), torch.maximum(i[:, None], i[None])
    return low * n - low * (low + 1) // 2 + high


@torch.inference_mode()
def calibrate(
    transformer: nn.Module, layers: list[PrunableLayer], schedule: NoiseSchedule, latents: Tensor, conditions: Conditions, folder: Path,
    settings: CalibrationSettings, progress: Progress | None = None, stop: threading.Event | None = None, batch: int = 64,
) -> GramBank:  # fmt: skip
    """Measure every bin that is missing and return the bank.

    latents (n, c, h, w) and what each is conditioned on. Raises Stopped (finished bins are kept) and StudioError (bad data, full disk).
    """
    per_bin = settings.images + settings.held_out
    if len(latents) < per_bin:
        raise StudioError(f"Calibration needs {per_bin} latents, {len(latents)} were given.")
    shape = family_of(transformer).latent_shape(transformer)
    fits = latents.ndim == 4 and latents.shape[1] == shape[0] and (family_of(transformer).any_size or tuple(latents.shape[1:]) == shape)
    if not fits or len(conditions) != len(latents):
        raise StudioError(f"The calibration latents must be n x {' x '.join(map(str, shape))} with n conditions for this model.")
    if not torch.isfinite(latents).all():
        raise StudioError("The calibration latents contain NaN or infinity.")
    bank = GramBank(folder, layers, settings)
    _prepare(folder, bank, settings)
    device, dtype = first_parameter(transformer).device, first_parameter(transformer).dtype
    missing = bank.missing()
    chunks = -(-settings.images // batch) + -(-settings.held_out // batch)
    done, total = 0, len(missing) * chunks
    for b in missing:
        low, high = settings.edges[b], settings.edges[b + 1]
        random = torch.Generator().manual_seed(settings.seed * 10_007 + b)
        pick = torch.randperm(len(latents), generator=random)[:per_bin]
        t = torch.randint(low, high, (per_bin,), generator=random)
        noise = torch.randn(latents[pick].shape, generator=random)
        a, s = (torch.tensor(v)[t].float().view(-1, 1, 1, 1) for v in (schedule.a, schedule.s))
        x = a * latents[pick].float() + s * noise
        tensors: dict[str, Tensor] = {}
        for kind, rows in (("fit", torch.arange(settings.images)), ("held_out", torch.arange(settings.images, per_bin))):
            meter = GramMeter(transformer, layers)
            with meter:
                for part in rows.split(batch):
                    if stop is not None and stop.is_set():
                        raise Stopped(f"Stopped: {settings.bins - len(bank.missing())} of {settings.bins} bins are kept, the next run goes on from there.")
                    if progress is not None:
                        progress(done, total, f"measuring timesteps {low} to {high - 1}")
                    both = torch.cat([x[part]] * 2).to(device, dtype)
                    arguments = conditions.rows(pick[part]).pair(device, dtype)
                    transformer(both, torch.cat([t[part]] * 2).to(device), **arguments, return_dict=False)
                    done += 1
            tensors |= {f"{kind}/{i}": pack(g).cpu() for i, g in enumerate(meter.grams)}
            tensors[f"tokens/{kind}"] = torch.tensor(meter.tokens)
        _write(bank.path(b), tensors)
    if progress is not None:
        progress(total, total, "calibrated")
    return bank


class GramMeter:
    """Context manager: forward hooks that sum x x^T, fp32, of the inputs of the prunable layers. Hooks are gone afterwards, whatever happens."""

    def __init__(self, transformer: nn.Module, layers: list[PrunableLayer]):
        self.consumers = [transformer.get_submodule(layer.consumer) for layer in layers]
        self.names = [layer.name for layer in layers]
        self.grams = [torch.zeros(m.in_features, m.in_features, device=m.weight.device) for m in self.consumers]
        self.tokens = 0
        self._handles: list = []
        self._thread = 0

    def __enter__(self) -> GramMeter:
        self._thread = threading.get_ident()
        self._handles = [m.register_forward_pre_hook(self._hook(i)) for i, m in enumerate(self.consumers)]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, i: int) -> Callable:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if threading.get_ident() != self._thread:
                return  # somebody else runs the same layers meanwhile (counts MACs, samples): not calibration data
            x = args[0].flatten(0, -2).float()  # (tokens, width)
            if not torch.isfinite(x).all():
                raise StudioError(f"The input of {self.names[i]} is not finite during calibration; the model or its dtype overflows.")
            self.grams[i].addmm_(x.T, x)
            if i == 0:
                self.tokens += len(x)

        return add


def _prepare(folder: Path, bank: GramBank, settings: CalibrationSettings) -> None:
    """Make the folder, note the settings, drop damaged files, and check the disk before the run starts."""
    need = settings.bins * 2 * 4 * sum(_triangle_size(layer) for layer in bank.layers)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.part"):
            if time.time() - stale.stat().st_mtime > STALE_SECONDS:  # younger ones may belong to a run in another process
                stale.unlink(missing_ok=True)
        bank.check()
        left = need * len(bank.missing()) // settings.bins
        space = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        if space < left + 50_000_000:
            raise StudioError(
                f"Calibration needs {left / 1e6:.0f} MB in {folder.parent.name}/ and {space / 1e6:.0f} MB are free: "
                "make room or set MOSAIC_CACHE to another disk."
            )
        facts = asdict(settings) | {"started": time.strftime("%Y-%m-%d %H:%M")}
        (folder / "settings.json").write_text(json.dumps(facts, indent=2))
    except OSError as err:
        raise StudioError(f"The cache folder cannot be written ({err.strerror}): set MOSAIC_CACHE to a folder that can.") from err


def _triangle_size(layer: PrunableLayer) -> int:
    n = layer.groups * layer.group_size
    return n * (n + 1) // 2


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """One file, whole or not at all: written beside, flushed, then moved into place."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        save_file(tensors, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except Exception as err:  # safetensors wraps OSError in its own error
        part.unlink(missing_ok=True)
        full = getattr(err, "errno", None) == errno.ENOSPC or "space" in str(err).lower()
        if full:
            raise StudioError("The disk is full: finished bins are kept; make room or set MOSAIC_CACHE, then calibrate again.") from err
        raise StudioError(f"A calibration file could not be written ({err}).") from err
