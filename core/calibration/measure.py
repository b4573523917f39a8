"""Measure the Gram matrices of every timestep bin in one run of the dense model.

Every boundary and every sparsity is computed from these bins. Real latents are noised to timesteps
drawn uniformly inside each bin (SNR-aware calibration, method section 2), with their label and with
the null label, and the inputs x of every prunable layer are summed up as x x^T, in fp32
(`core.calibration.packed_gram`). Ours, not the paper's: bins, the image count, and a quarter of the
images held out to choose damping and to report honest errors.

Each bin becomes one file of the bank (`core.calibration.bank`) in a folder named after a hash of
model, data and settings. Files are written in the background (`core.calibration.background`): the
run needs memory for one set of sums, and what waits for the disk takes memory only where it is
free. A stopped run resumes with the first bin that is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..curves.noise import NoiseSchedule
from ..errors import Stopped, StudioError
from ..memory import free_memory
from ..models.families import Conditions, family_of, first_parameter
from ..models.layers import PrunableLayer
from ..progress import Progress
from .background import BinWriter, Later, spare_memory
from .bank import GramBank
from .data import FEWEST, draw_latents
from .packed_gram import CHUNK_BYTES, GramSum, sum_bytes
from .preflight import check_room
from .row_weights import RowWeights
from .settings import CalibrationSettings

NULL_ROW = -1  # in the record of rows: the unconditional one
IMAGES_AT_ONCE = 64  # in one forward pass, each as two rows
ROOM = 16  # times its size that must be free for a copy of a sum to stay on a GPU


def images_at_once(layers: list[PrunableLayer], tokens: int) -> int:
    """Return the images of one forward pass: at most 64, and as many as a chunk holds.

    The chunk holds the widest input: 2 rows x tokens x columns in fp32 per image.
    """
    widest = max(layer.width for layer in layers)
    return min(IMAGES_AT_ONCE, max(1, CHUNK_BYTES // (2 * tokens * widest * 4)))


@torch.inference_mode()
def calibrate(
    transformer: nn.Module,
    layers: list[PrunableLayer],
    schedule: NoiseSchedule,
    latents: Tensor,
    conditions: Conditions,
    folder: Path,
    settings: CalibrationSettings,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    batch: int | None = None,
    ids: Tensor | None = None,
    ahead: int | None = None,
) -> GramBank:
    """Measure every bin that is missing and return the bank.

    latents (n, c, h, w) and what each is conditioned on; ids (n,) name that in the record of rows
    (labels). Where n is small, latents are used again with another timestep and other noise
    (`draw_latents`). batch in images, by default what memory allows (`images_at_once`). ahead:
    bytes that may wait for the disk, and that the bank may keep in memory until its `forget`; None:
    a share of the free memory (`spare_memory`). Raises Stopped (finished bins are kept) and
    StudioError (bad data, too little memory, full disk).
    """
    names = torch.arange(len(latents)) if ids is None else ids.long()
    data = _Data(latents, conditions, names, schedule)
    _check_data(transformer, data, settings)
    bank = GramBank(folder, layers, settings)
    sites = family_of(transformer).sites(transformer, tuple(latents.shape[1:]))
    batch = batch or images_at_once(layers, max(site.tokens for site in sites))
    missing, need = check_room(bank, first_parameter(transformer).device)
    weights = RowWeights(transformer, layers, settings.weighting, settings.guidance)
    meter = GramMeter(transformer, layers, weights)
    watch = _Watch(bank, missing, need, progress=progress, stop=stop)
    run = _Run(transformer, bank, meter, data, batch=batch, watch=watch)
    if ahead is None:
        ahead = spare_memory(layers, first_parameter(transformer).device)
    try:
        with BinWriter(bank, ahead) as writer:
            for b in missing:
                writer.write(b, run.measure(b))
    except Stopped:  # only now every bin that was complete is on the disk
        raise Stopped(watch.kept()) from None
    if progress is not None:
        progress(watch.total(batch), watch.total(batch), "calibrated")
    return bank


def _check_data(
    transformer: nn.Module,
    data: _Data,
    settings: CalibrationSettings,
) -> None:
    """Raise StudioError for latents that a calibration cannot be measured on."""
    latents = data.latents
    if len(latents) < FEWEST:
        raise StudioError(
            f"Calibration needs at least {FEWEST} different latents, {len(latents)} were given."
        )
    family = family_of(transformer)
    shape = family.latent_shape(transformer)
    fits = (
        latents.ndim == 4
        and latents.shape[1] == shape[0]
        and (family.any_size or tuple(latents.shape[1:]) == shape)
    )
    if not fits or len(data.conditions) != len(latents):
        raise StudioError(
            f"The calibration latents must be n x {' x '.join(map(str, shape))} with n conditions"
            " for this model."
        )
    if not torch.isfinite(latents).all():
        raise StudioError("The calibration latents contain NaN or infinity.")
    if settings.edges[-1] > len(data.schedule):
        raise StudioError(
            f"The calibration bins end at timestep {settings.edges[-1]} and the model has"
            f" {len(data.schedule)}: choose bins within them."
        )


@dataclass(frozen=True)
class _Data:
    """What is noised: latents (n, c, h, w), their conditions and their names (n,)."""

    latents: Tensor
    conditions: Conditions
    names: Tensor
    schedule: NoiseSchedule


@dataclass
class _Watch:
    """Progress and stop of a calibration, counted in forward passes."""

    bank: GramBank
    missing: list[int]  # bins to measure
    need: str  # memory and disk that the run takes, in words
    progress: Progress | None
    stop: threading.Event | None
    done: int = 0

    def total(self, batch: int) -> int:
        """Return the forward passes of the whole run."""
        settings = self.bank.settings
        return len(self.missing) * (-(-settings.images // batch) + -(-settings.held_out // batch))

    def kept(self) -> str:
        """Say how many bins a stopped run keeps."""
        bins = self.bank.settings.bins
        kept = bins - len(self.bank.missing())
        return f"Stopped: {kept} of {bins} bins are kept, the next run goes on from there."

    def before(self, b: int, batch: int) -> None:
        """Report that a forward pass of bin `b` begins. Raises Stopped."""
        settings = self.bank.settings
        if self.stop is not None and self.stop.is_set():
            raise Stopped(self.kept())
        if self.progress is not None:
            text = f"measuring {_span(settings, b)}"
            if b == self.missing[0]:
                text += f"; {self.need}"
            self.progress(self.done, self.total(batch), text)


@dataclass(frozen=True)
class _Run:
    """One run over the missing bins."""

    model: nn.Module
    bank: GramBank
    meter: GramMeter
    data: _Data
    batch: int  # images of one forward pass
    watch: _Watch

    def measure(self, b: int) -> Iterator[Tensor | Later]:
        """Yield the tensors of bin `b` in the order of its file.

        They are taken from the meter one by one, so that the meter is free for the held-out half.
        On a GPU they are packed by whoever writes them.
        """
        settings = self.bank.settings
        data = self.data
        low, high = settings.edges[b], settings.edges[b + 1]
        per_bin = settings.images + settings.held_out
        random = torch.Generator().manual_seed(settings.seed * 10_007 + b)
        pick = draw_latents(
            len(data.latents),
            fit=settings.images,
            held_out=settings.held_out,
            seed=settings.seed,
            random=random,
        )
        t = torch.randint(low, high, (per_bin,), generator=random)
        noise = torch.randn(data.latents[pick].shape, generator=random)
        a, s = (
            torch.tensor(v)[t].float().view(-1, 1, 1, 1) for v in (data.schedule.a, data.schedule.s)
        )
        x = a * data.latents[pick].float() + s * noise
        halves = torch.arange(settings.images), torch.arange(settings.images, per_bin)
        for half, rows in enumerate(halves):  # fitted, then held out
            self.meter.begin(2 * len(rows), settings, 2 * b + half, _span(settings, b))
            with self.meter:
                for part in rows.split(self.batch):
                    self.watch.before(b, self.batch)
                    self._forward(x[part], t[part], data.conditions.rows(pick[part]))
                    self.watch.done += 1
            yield from self.meter.results_later()
            yield torch.cat([t[rows]] * 2).int()
            yield torch.cat([data.names[pick][rows], torch.full((len(rows),), NULL_ROW)]).int()

    def _forward(self, x: Tensor, t: Tensor, conditions: Conditions) -> None:
        """Run noised latents (m, c, h, w) with their conditions and with none."""
        like = first_parameter(self.model)
        twice = torch.cat([x] * 2).to(like.device, like.dtype)
        arguments = conditions.pair(like.device, like.dtype)
        self.model(twice, torch.cat([t] * 2).to(like.device), **arguments, return_dict=False)


def _span(settings: CalibrationSettings, b: int) -> str:
    return f"timesteps {settings.edges[b]} to {settings.edges[b + 1] - 1}"


class GramMeter:
    """A context manager whose forward hooks sum up the inputs of the prunable layers.

    The hooks are removed at the end, whatever happens.
    """

    def __init__(
        self, transformer: nn.Module, layers: list[PrunableLayer], weights: RowWeights | None = None
    ):
        self.weights = weights or RowWeights(transformer, layers, "even", 1.0)
        self.consumers = [transformer.get_submodule(layer.consumer) for layer in layers]
        self.names = [layer.name for layer in layers]
        self.sums = [
            GramSum(layer.width, first_parameter(m).device)
            for layer, m in zip(layers, self.consumers, strict=True)
        ]
        self._limits: list[int] | None = None  # most tokens of each layer; None takes every one
        self._rows = 1  # batch rows of the whole half bin
        self._seen = [0] * len(layers)  # batch rows so far
        self._random = torch.Generator()
        self._where = ""
        self._handles: list[RemovableHandle] = []
        self._thread = 0

    def begin(self, rows: int, settings: CalibrationSettings, seed: int, where: str = "") -> None:
        """Start again from zero, for `rows` batch rows to come.

        Error sentences name the place `where`. With a token cap, `seed` decides which tokens a
        layer takes.
        """
        for total in self.sums:
            total.zero()
        share = rows / (2 * settings.images)  # held-out images are fewer, and so are their tokens
        self._limits = (
            None
            if settings.token_cap is None
            else [int(settings.token_cap * total.n * share) for total in self.sums]
        )
        self._rows = rows
        self._seen = [0] * len(self.sums)
        self._where = where
        # apart from the draws of the data, which a cap leaves as they are
        self._random.manual_seed(settings.seed * 10_007 + 7_919 * (seed + 1))

    def results(self) -> Iterator[Tensor]:
        """Yield triangles, input sums and token counts (layers,), in the order of a bin's file."""
        for i in range(len(self.sums)):
            yield self._sound(i).triangle()
        yield from self._counts()

    def results_later(self) -> Iterator[Tensor | Later]:
        """Yield what `results` yields; triangles of a GPU as copies there, to be packed later.

        Where the GPU has no room for a copy, the triangle is packed at once.
        """
        for i, total in enumerate(self.sums):
            device, size = total.vector.device, sum_bytes(total.n)
            if device.type == "cuda" and (free_memory(device) or 0) > ROOM * size:
                yield Later(self._sound(i).triangle_later(), size)
            else:
                yield self._sound(i).triangle()
        yield from self._counts()

    def _sound(self, i: int) -> GramSum:
        """Return the sum of a layer. Raises StudioError for one that is not finite."""
        if not self.sums[i].finite:
            raise self._overflow(i)
        return self.sums[i]

    def _counts(self) -> Iterator[Tensor]:
        """Yield what follows the triangles in a bin's file."""
        yield from (total.mean_sum.float() for total in self.sums)
        yield torch.tensor([total.tokens for total in self.sums], dtype=torch.int32)

    def __enter__(self) -> GramMeter:
        self._thread = threading.get_ident()
        self.weights.__enter__()
        self._handles = [
            m.register_forward_pre_hook(self._hook(i)) for i, m in enumerate(self.consumers)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self.weights.__exit__()

    def _hook(self, i: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if threading.get_ident() != self._thread:
                # another thread runs the same layers meanwhile (counts MACs, samples): its inputs
                # are not calibration data
                return
            x = args[0].flatten(0, -2)  # (tokens, width)
            weights = self.weights.of(i, len(args[0]))
            if weights is not None:
                weights = weights.to(x.device).repeat_interleave(len(x) // len(weights))
            if not self.sums[i].add(x, self._pick(i, len(args[0]), len(x)), weights):
                raise self._overflow(i)

        return add

    def _pick(self, i: int, rows: int, tokens: int) -> Tensor | None:
        """Return the tokens of a batch that layer i takes; None for all.

        The limit of the layer is spread evenly over the rows.
        """
        self._seen[i] += rows
        if self._limits is None:
            return None
        left = self._limits[i] * self._seen[i] // self._rows - self.sums[i].tokens
        if left >= tokens:
            return None
        return torch.randperm(tokens, generator=self._random)[:left].sort().values

    def _overflow(self, i: int) -> StudioError:
        at = f" at {self._where}" if self._where else ""
        return StudioError(
            f"The input of {self.names[i]} is not finite during calibration{at}; the model or its"
            " dtype overflows."
        )
