"""One run over timestep bins on the dense model: Gram matrices that every threshold and every sparsity is built from.

Real latents are noised to timesteps drawn uniformly inside each bin (SNR-aware calibration, method section 2), with their
label and with the null label, and the inputs x of every prunable layer are summed up as x x^T, in fp32 (`core.triangles`).
Ours, not the paper's: bins, the image count, and a quarter of the images held out to choose damping and to report honest errors.

Each bin becomes one file of the bank (`core.grams`) in a folder named after a hash of model, data and settings. What was fitted is on
the disk before the held-out images begin, so one set of sums is all the memory it takes. A stopped run resumes with the first bin
that is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .calibration_data import FEWEST, draw
from .errors import Stopped, StudioError
from .families import Conditions, family_of, first_parameter
from .files import write_whole
from .grams import GramBank, columns
from .noise import NUM_TRAIN_TIMESTEPS, NoiseSchedule
from .prunable import PrunableLayer
from .row_weights import WEIGHTINGS, RowWeights
from .triangles import CHUNK_BYTES, GramSum, sum_bytes

Progress = Callable[[int, int, str], None]
STALE_SECONDS = 600  # a half-written file this old was left by a run that died
ENOUGH_TOKENS = 4  # per column and bin: with fewer a Gram says more about its sample than about the layer
PLENTY = 8  # times the latents a bin takes
NULL_ROW = -1  # in the record of rows: the unconditional one
IMAGES_AT_ONCE = 64  # in one forward pass, each as two rows


@dataclass(frozen=True)
class CalibrationSettings:
    """How much is measured. 192 fitted images x 16 tokens x 2 labels = 6 tokens a column and bin on the bundled model's MLPs."""

    edges: tuple[int, ...] = (0, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)  # finer where activations change fastest
    images: int = 192  # per bin, fitted
    held_out: int = 64  # per bin, kept apart
    seed: int = 0
    damping: float | None = None  # one for all layers; None: chosen per layer on held-out tokens
    weighting: str = "even"  # which rows count more, see core.row_weights
    guidance: float = 1.5  # of the weighting by guidance
    token_cap: int | None = None  # fitted tokens per column and bin that a layer takes at most, held-out ones in proportion; None takes all

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise StudioError(f"The weighting of calibration rows must be one of {', '.join(WEIGHTINGS)}, not {self.weighting}.")
        if self.token_cap is not None and self.token_cap < ENOUGH_TOKENS:
            raise StudioError(f"A token cap of {self.token_cap} per column leaves too few to measure: choose {ENOUGH_TOKENS} or more, or none.")

    @property
    def bins(self) -> int:
        return len(self.edges) - 1


def calibration_settings(args: Any) -> CalibrationSettings:
    """The settings that the command line's `bins`, `images_per_bin`, `damping` and `weigh` ask for. Raises StudioError."""
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
    if args.weigh is not None:
        wanted["weighting"] = args.weigh
        if args.calibration_guidance is not None:
            wanted["guidance"] = args.calibration_guidance
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


def token_warning(tokens_per_column: float) -> str | None:
    """What to raise when a bin holds too few tokens for its widest layer; None when there are enough."""
    if tokens_per_column >= ENOUGH_TOKENS:
        return None
    return (
        f"only {tokens_per_column:.1f} tokens per column and bin were measured and at least {ENOUGH_TOKENS} are needed: "
        f"calibrate with {ENOUGH_TOKENS / max(tokens_per_column, 1e-9):.1f} times as many images per bin"
    )


def calibration_memory(layers: list[PrunableLayer]) -> int:
    """Bytes a calibration needs beside the model and its forward pass, at most: the sums of one half of a bin, the fp32 copies of a
    chunk of tokens, and the widest layer on its way to the disk."""
    widest = max(columns(layer) for layer in layers)
    return sum(sum_bytes(columns(layer)) for layer in layers) + 2 * CHUNK_BYTES + 8 * widest * widest


def calibration_disk(layers: list[PrunableLayer], settings: CalibrationSettings) -> int:
    """Bytes that all bins take on the disk."""
    layout = GramBank(Path(), layers, settings).layout
    return settings.bins * sum(dtype.itemsize * torch.Size(shape).numel() + 128 for _, dtype, shape in layout)  # 128: its line in the header


def images_at_once(layers: list[PrunableLayer], tokens: int) -> int:
    """Images in one forward pass: as many as keep the widest input, 2 rows x tokens x columns in fp32, within a chunk; 64 at most."""
    widest = max(columns(layer) for layer in layers)
    return min(IMAGES_AT_ONCE, max(1, CHUNK_BYTES // (2 * tokens * widest * 4)))


@torch.inference_mode()
def calibrate(
    transformer: nn.Module, layers: list[PrunableLayer], schedule: NoiseSchedule, latents: Tensor, conditions: Conditions, folder: Path,
    settings: CalibrationSettings, progress: Progress | None = None, stop: threading.Event | None = None, batch: int | None = None,
    ids: Tensor | None = None,
) -> GramBank:  # fmt: skip
    """Measure every bin that is missing and return the bank.

    latents (n, c, h, w) and what each is conditioned on; ids (n,) name that in the record of rows (labels). Where n is small, latents are
    used again with another timestep and other noise (`draw`). batch in images, by default what memory allows (`images_at_once`).
    Raises Stopped (finished bins are kept) and StudioError (bad data, too little memory, full disk).
    """
    per_bin = settings.images + settings.held_out
    if len(latents) < FEWEST:
        raise StudioError(f"Calibration needs at least {FEWEST} different latents, {len(latents)} were given.")
    shape = family_of(transformer).latent_shape(transformer)
    fits = latents.ndim == 4 and latents.shape[1] == shape[0] and (family_of(transformer).any_size or tuple(latents.shape[1:]) == shape)
    if not fits or len(conditions) != len(latents):
        raise StudioError(f"The calibration latents must be n x {' x '.join(map(str, shape))} with n conditions for this model.")
    if not torch.isfinite(latents).all():
        raise StudioError("The calibration latents contain NaN or infinity.")
    names = torch.arange(len(latents)) if ids is None else ids.long()
    bank = GramBank(folder, layers, settings)
    device, dtype = first_parameter(transformer).device, first_parameter(transformer).dtype
    batch = batch or images_at_once(layers, max(site.tokens for site in family_of(transformer).sites(transformer, tuple(latents.shape[1:]))))
    missing, need = _prepare(bank, device)
    meter = GramMeter(transformer, layers, RowWeights(transformer, layers, settings.weighting, settings.guidance))
    chunks = -(-settings.images // batch) + -(-settings.held_out // batch)
    done, total = 0, len(missing) * chunks

    def measure(b: int) -> Iterator[Tensor]:
        """The tensors of a bin in the order of its file. They are taken from the meter one by one, so that it is free for the held-out half."""
        nonlocal done
        low, high = settings.edges[b], settings.edges[b + 1]
        random = torch.Generator().manual_seed(settings.seed * 10_007 + b)
        if len(latents) >= PLENTY * per_bin:  # then hardly a held-out latent is fitted in another bin
            pick = torch.randperm(len(latents), generator=random)[:per_bin]
        else:
            pick = draw(len(latents), settings.images, settings.held_out, settings.seed, random)
        t = torch.randint(low, high, (per_bin,), generator=random)
        noise = torch.randn(latents[pick].shape, generator=random)
        a, s = (torch.tensor(v)[t].float().view(-1, 1, 1, 1) for v in (schedule.a, schedule.s))
        x = a * latents[pick].float() + s * noise
        for kind, rows in (("fit", torch.arange(settings.images)), ("held_out", torch.arange(settings.images, per_bin))):
            meter.begin(2 * len(rows), settings, seed=2 * b + (kind == "held_out"))
            with meter:
                for part in rows.split(batch):
                    if stop is not None and stop.is_set():
                        raise Stopped(f"Stopped: {settings.bins - len(bank.missing())} of {settings.bins} bins are kept, the next run goes on from there.")
                    if progress is not None:
                        progress(done, total, f"measuring timesteps {low} to {high - 1}{need if b == missing[0] else ''}")
                    both = torch.cat([x[part]] * 2).to(device, dtype)
                    arguments = conditions.rows(pick[part]).pair(device, dtype)
                    transformer(both, torch.cat([t[part]] * 2).to(device), **arguments, return_dict=False)
                    done += 1
            yield from meter.results()
            yield torch.cat([t[rows]] * 2).int()
            yield torch.cat([names[pick][rows], torch.full((len(rows),), NULL_ROW)]).int()

    for b in missing:
        bank.write(b, measure(b))
    if progress is not None:
        progress(total, total, "calibrated")
    return bank


class GramMeter:
    """Context manager: forward hooks that sum up the inputs of the prunable layers. Hooks are gone afterwards, whatever happens."""

    def __init__(self, transformer: nn.Module, layers: list[PrunableLayer], weights: RowWeights | None = None):
        self.weights = weights or RowWeights(transformer, layers, "even", 1.0)
        self.consumers = [transformer.get_submodule(layer.consumer) for layer in layers]
        self.names = [layer.name for layer in layers]
        self.sums = [GramSum(m.in_features, m.weight.device) for m in self.consumers]
        self._limits: list[int] | None = None  # most tokens of each layer; None takes every one
        self._rows, self._seen = 1, [0] * len(layers)
        self._random = torch.Generator()
        self._handles: list = []
        self._thread = 0

    def begin(self, rows: int, settings: CalibrationSettings, seed: int) -> None:
        """Back to zero, for `rows` batch rows to come. With a token cap, `seed` decides which tokens of each batch a layer takes."""
        for total in self.sums:
            total.zero()
        share = rows / (2 * settings.images)  # held-out images are fewer, and so are their tokens
        self._limits = None if settings.token_cap is None else [int(settings.token_cap * total.n * share) for total in self.sums]
        self._rows, self._seen = rows, [0] * len(self.sums)
        self._random.manual_seed(settings.seed * 10_007 + 7_919 * (seed + 1))  # apart from the draws of the data, which a cap leaves as they are

    def results(self) -> Iterator[Tensor]:
        """Triangles, input sums and token counts (layers,), in the order of a bin's file."""
        for i, total in enumerate(self.sums):
            if not total.finite:
                raise self._overflow(i)
            yield total.triangle()
        yield from (total.mean_sum.float() for total in self.sums)
        yield torch.tensor([total.tokens for total in self.sums], dtype=torch.int32)

    def __enter__(self) -> GramMeter:
        self._thread = threading.get_ident()
        self.weights.__enter__()
        self._handles = [m.register_forward_pre_hook(self._hook(i)) for i, m in enumerate(self.consumers)]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self.weights.__exit__()

    def _hook(self, i: int) -> Callable:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if threading.get_ident() != self._thread:
                return  # somebody else runs the same layers meanwhile (counts MACs, samples): not calibration data
            x = args[0].flatten(0, -2)  # (tokens, width)
            weights = self.weights.of(i, len(args[0]))
            if weights is not None:
                weights = weights.to(x.device).repeat_interleave(len(x) // len(weights))
            if not self.sums[i].add(x, self._pick(i, len(args[0]), len(x)), weights):
                raise self._overflow(i)

        return add

    def _pick(self, i: int, rows: int, tokens: int) -> Tensor | None:
        """Which of a batch's tokens layer i takes, so that its limit is spread evenly over the rows; None for all."""
        self._seen[i] += rows
        if self._limits is None:
            return None
        left = self._limits[i] * self._seen[i] // self._rows - self.sums[i].tokens
        return None if left >= tokens else torch.randperm(tokens, generator=self._random)[:left].sort().values

    def _overflow(self, i: int) -> StudioError:
        return StudioError(f"The input of {self.names[i]} is not finite during calibration; the model or its dtype overflows.")


def _prepare(bank: GramBank, device: torch.device) -> tuple[list[int], str]:
    """Check memory, make the folder, drop damaged files, check the disk, note the settings -> (missing bins, what they will take, in words)."""
    memory, available = calibration_memory(bank.layers), free_memory(device)
    if available is not None and available < memory:
        raise StudioError(
            f"Calibration needs {memory / 1e9:.1f} GB of memory beside the model and {available / 1e9:.1f} GB are free on {device}: "
            "close other programs or choose another device."
        )
    folder = bank.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.part"):
            if time.time() - stale.stat().st_mtime > STALE_SECONDS:  # younger ones may belong to a run in another process
                stale.unlink(missing_ok=True)
        bank.check()
        missing = bank.missing()
        left = calibration_disk(bank.layers, bank.settings) * len(missing) // bank.settings.bins
        space = shutil.disk_usage(folder).free
        if space < left + 50_000_000:
            raise StudioError(
                f"Calibration needs {left / 1e6:.0f} MB in {folder.parent.name}/ and {space / 1e6:.0f} MB are free: "
                "make room or set MOSAIC_CACHE to another disk."
            )
        facts = asdict(bank.settings) | {"started": time.strftime("%Y-%m-%d %H:%M")}
        write_whole(folder / "settings.json", lambda part: part.write_text(json.dumps(facts, indent=2)))
    except OSError as err:
        raise StudioError(f"The cache folder cannot be written ({err.strerror}): set MOSAIC_CACHE to a folder that can.") from err
    return missing, f"; will write {left / 1e6:.0f} MB to {folder} and needs {memory / 1e6:.0f} MB of memory"


def free_memory(device: torch.device) -> int | None:
    """Bytes still to be had on a device; None where the system does not say."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
