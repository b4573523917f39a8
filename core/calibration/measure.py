"""One run over timestep bins on the dense model: Gram matrices that every threshold and every
sparsity is built from.

Real latents are noised to timesteps drawn uniformly inside each bin (SNR-aware calibration, method
section 2), with their label and with the null label, and the inputs x of every prunable layer are
summed up as x x^T, in fp32 (`core.calibration.packed_gram`). Ours, not the paper's: bins, the image
count, and a quarter of the images held out to choose damping and to report honest errors.

Each bin becomes one file of the bank (`core.calibration.bank`) in a folder named after a hash of
model, data and settings. What was fitted is on the disk before the held-out images begin, so one
set of sums is all the memory it takes. A stopped run resumes with the first bin that is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..curves.noise import NoiseSchedule
from ..errors import Stopped, StudioError
from ..models.families import Conditions, family_of, first_parameter
from ..models.layers import PrunableLayer
from ..progress import Progress
from .bank import GramBank
from .data import FEWEST, draw
from .packed_gram import CHUNK_BYTES, GramSum
from .preflight import check_room
from .row_weights import RowWeights
from .settings import CalibrationSettings

NULL_ROW = -1  # in the record of rows: the unconditional one
IMAGES_AT_ONCE = 64  # in one forward pass, each as two rows


def images_at_once(layers: list[PrunableLayer], tokens: int) -> int:
    """Images in one forward pass: as many as keep the widest input, 2 rows x tokens x columns in
    fp32, within a chunk; 64 at most.
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
) -> GramBank:
    """Measure every bin that is missing and return the bank.

    latents (n, c, h, w) and what each is conditioned on; ids (n,) name that in the record of rows
    (labels). Where n is small, latents are used again with another timestep and other noise
    (`draw`). batch in images, by default what memory allows (`images_at_once`). Raises Stopped
    (finished bins are kept) and StudioError (bad data, too little memory, full disk).
    """
    per_bin = settings.images + settings.held_out
    if len(latents) < FEWEST:
        raise StudioError(
            f"Calibration needs at least {FEWEST} different latents, {len(latents)} were given."
        )
    shape = family_of(transformer).latent_shape(transformer)
    fits = (
        latents.ndim == 4
        and latents.shape[1] == shape[0]
        and (family_of(transformer).any_size or tuple(latents.shape[1:]) == shape)
    )
    if not fits or len(conditions) != len(latents):
        raise StudioError(
            f"The calibration latents must be n x {' x '.join(map(str, shape))} with n conditions"
            " for this model."
        )
    if not torch.isfinite(latents).all():
        raise StudioError("The calibration latents contain NaN or infinity.")
    if settings.edges[-1] > len(schedule):
        raise StudioError(
            f"The calibration bins end at timestep {settings.edges[-1]} and the model has"
            f" {len(schedule)}: choose bins within them."
        )
    names = torch.arange(len(latents)) if ids is None else ids.long()
    bank = GramBank(folder, layers, settings)
    device, dtype = first_parameter(transformer).device, first_parameter(transformer).dtype
    batch = batch or images_at_once(
        layers,
        max(
            site.tokens
            for site in family_of(transformer).sites(transformer, tuple(latents.shape[1:]))
        ),
    )
    missing, need = check_room(bank, device)
    meter = GramMeter(
        transformer, layers, RowWeights(transformer, layers, settings.weighting, settings.guidance)
    )
    chunks = -(-settings.images // batch) + -(-settings.held_out // batch)
    done, total = 0, len(missing) * chunks

    def measure(b: int) -> Iterator[Tensor]:
        """The tensors of a bin in the order of its file. They are taken from the meter one by one,
        so that it is free for the held-out half.
        """
        nonlocal done
        low, high = settings.edges[b], settings.edges[b + 1]
        random = torch.Generator().manual_seed(settings.seed * 10_007 + b)
        pick = draw(len(latents), settings.images, settings.held_out, settings.seed, random)
        t = torch.randint(low, high, (per_bin,), generator=random)
        noise = torch.randn(latents[pick].shape, generator=random)
        a, s = (torch.tensor(v)[t].float().view(-1, 1, 1, 1) for v in (schedule.a, schedule.s))
        x = a * latents[pick].float() + s * noise
        for kind, rows in (
            ("fit", torch.arange(settings.images)),
            ("held_out", torch.arange(settings.images, per_bin)),
        ):
            meter.begin(
                2 * len(rows),
                settings,
                2 * b + (kind == "held_out"),
                f"timesteps {low} to {high - 1}",
            )
            with meter:
                for part in rows.split(batch):
                    if stop is not None and stop.is_set():
                        raise Stopped(
                            f"Stopped: {settings.bins - len(bank.missing())} of {settings.bins}"
                            " bins are kept, the next run goes on from there."
                        )
                    if progress is not None:
                        progress(
                            done,
                            total,
                            f"measuring timesteps {low} to"
                            f" {high - 1}{f'; {need}' if b == missing[0] else ''}",
                        )
                    both = torch.cat([x[part]] * 2).to(device, dtype)
                    arguments = conditions.rows(pick[part]).pair(device, dtype)
                    transformer(
                        both, torch.cat([t[part]] * 2).to(device), **arguments, return_dict=False
                    )
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
    """Context manager: forward hooks that sum up the inputs of the prunable layers. Hooks are gone
    afterwards, whatever happens.
    """

    def __init__(
        self, transformer: nn.Module, layers: list[PrunableLayer], weights: RowWeights | None = None
    ):
        self.weights = weights or RowWeights(transformer, layers, "even", 1.0)
        self.consumers = [transformer.get_submodule(layer.consumer) for layer in layers]
        self.names = [layer.name for layer in layers]
        self.sums = [GramSum(m.in_features, m.weight.device) for m in self.consumers]
        self._limits: list[int] | None = None  # most tokens of each layer; None takes every one
        self._rows, self._seen = 1, [0] * len(layers)
        self._random, self._where = torch.Generator(), ""
        self._handles: list = []
        self._thread = 0

    def begin(self, rows: int, settings: CalibrationSettings, seed: int, where: str = "") -> None:
        """Back to zero, for `rows` batch rows to come, which errors place at `where`. With a token
        cap, `seed` decides which tokens a layer takes.
        """
        for total in self.sums:
            total.zero()
        share = rows / (2 * settings.images)  # held-out images are fewer, and so are their tokens
        self._limits = (
            None
            if settings.token_cap is None
            else [int(settings.token_cap * total.n * share) for total in self.sums]
        )
        self._rows, self._seen = rows, [0] * len(self.sums)
        self._where = where
        # apart from the draws of the data, which a cap leaves as they are
        self._random.manual_seed(settings.seed * 10_007 + 7_919 * (seed + 1))

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
        self._handles = [
            m.register_forward_pre_hook(self._hook(i)) for i, m in enumerate(self.consumers)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self.weights.__exit__()

    def _hook(self, i: int) -> Callable:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if threading.get_ident() != self._thread:
                # somebody else runs the same layers meanwhile (counts MACs, samples): not
                # calibration data
                return
            x = args[0].flatten(0, -2)  # (tokens, width)
            weights = self.weights.of(i, len(args[0]))
            if weights is not None:
                weights = weights.to(x.device).repeat_interleave(len(x) // len(weights))
            if not self.sums[i].add(x, self._pick(i, len(args[0]), len(x)), weights):
                raise self._overflow(i)

        return add

    def _pick(self, i: int, rows: int, tokens: int) -> Tensor | None:
        """Which of a batch's tokens layer i takes, so that its limit is spread evenly over the
        rows; None for all.
        """
        self._seen[i] += rows
        if self._limits is None:
            return None
        left = self._limits[i] * self._seen[i] // self._rows - self.sums[i].tokens
        return (
            None
            if left >= tokens
            else torch.randperm(tokens, generator=self._random)[:left].sort().values
        )

    def _overflow(self, i: int) -> StudioError:
        at = f" at {self._where}" if self._where else ""
        return StudioError(
            f"The input of {self.names[i]} is not finite during calibration{at}; the model or its"
            " dtype overflows."
        )
