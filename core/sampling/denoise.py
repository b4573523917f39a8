"""Sample with any diffusers scheduler, timed per step, stoppable within one step.

The loop is our own: diffusers' DiTPipeline never multiplies the first noise by `init_noise_sigma`,
so its pictures are wrong with schedulers that need that (Euler, Heun, LMS). This loop does, and
scales the model input. With DDIM and without a table of adaLN vectors its result is equal to the
stock pipeline's, bit for bit.

Nothing is read back from the device while the loop runs: timesteps and sigmas, which schedulers
look at, lie on the CPU, and the clocks of a GPU are events that are read afterwards.
"""

from __future__ import annotations

import copy
import inspect
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..cache import text_hash
from ..curves.noise import NoiseSchedule
from ..curves.scheduler_tables import visited_timesteps
from ..errors import Stopped, StudioError
from ..guidance import Half, half_of
from ..models.families import Conditions
from ..mosaic.adaln_table import StepVectors
from ..mosaic.reuse import Walk
from ..mosaic.transformer import MosaicTransformer
from ..seeds import SEEDS

# in one call of the VAE: one picture of 1024 x 1024, whose activations are what counts in SDXL's
# decoder; on a CPU 16 of 64 x 64, whose activations the caches hold (twice as fast as 100)
DECODE_PIXELS = {"cuda": 1 << 20, "cpu": 1 << 16}


class StepClock:
    """A clock of two marks, read in seconds as the device sees them.

    On CUDA the marks are events; only reading `seconds` waits for the device.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.marks: list[Any] = []  # two CUDA events, or two times in seconds

    def mark(self) -> None:
        """Set a mark: the first before the work is handed to the device, the second after it."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Return the seconds between the two marks."""
        start, end = self.marks
        if self.device.type != "cuda":
            return end - start
        end.synchronize()
        return start.elapsed_time(end) / 1000


@dataclass(frozen=True)
class SamplingStep:
    """One finished step of a sampling run: a model call and the scheduler's step after it."""

    index: int
    timestep: float
    stage: int  # index into STAGES, -1 dense
    noisy: Tensor  # (n, c, h, w) x_t in the model's own parametrisation
    clean: Tensor  # (n, c, h, w) the model's present guess of x_0
    latents: Tensor  # (n, c, h, w) x after the step, scaled as the scheduler keeps it
    clock: StepClock  # of the denoiser only

    @property
    def seconds(self) -> float:
        """Return the seconds of the denoiser; waits for the device."""
        return self.clock.seconds


class Denoiser:
    """One side, ready to run: the network of every step is looked up before the loop starts.

    The scheduler is copied; the given one is not changed. `start`: the step, from 0, that sampling
    begins with; `run` then takes clean latents as `origin` and adds noise of that step's level
    (image to image, Meng et al. 2022, arXiv 2108.01073). `tabulate`: the adaLN vectors of a DiT are
    computed for all steps at once before the first, whose time includes that, wherever
    `MosaicTransformer.tabulate` makes a table; pictures differ in rounding from a run without one.
    Raises StudioError for a step that is not there.
    """

    def __init__(
        self,
        model: MosaicTransformer,
        scheduler: Any,
        schedule: NoiseSchedule,
        steps: int,
        start: int = 0,
        tabulate: bool = True,
    ):
        self.model, self.steps, self.start, self.tabulate = model, steps, start, tabulate
        self.scheduler = copy.deepcopy(scheduler)
        # on the CPU, where schedulers may read them without waiting for the device
        self.scheduler.set_timesteps(steps)
        self.visits = visits_from(self.scheduler, start)
        self.timesteps = [float(t) for t in self.visits]
        self.networks = [model.network(t) for t in self.timesteps]
        self.stages = [model.stage_of(t) for t in self.timesteps]
        self.full = model.full_steps(self.stages)
        self.coefficients = [schedule.at(t) for t in self.timesteps]
        options = inspect.signature(self.scheduler.step).parameters
        self.takes_generator = "generator" in options
        # LMS counts the steps before `start` as done
        self.multistep = options["order"].default if "order" in options else 0

    @torch.inference_mode()
    def run(
        self,
        noise: Tensor,
        conditions: Conditions,
        guidance: float,
        seed: int = 0,
        stop: threading.Event | None = None,
        watch: Callable[[SamplingStep], None] | None = None,
        origin: Tensor | None = None,
    ) -> tuple[Tensor, list[float]]:
        """Denoise unit noise (n, c, h, w) and return final latents and seconds of every step.

        From a later step on it is `origin` (same shape, clean latents) with this noise that is
        denoised. The seconds are those of the denoiser alone. Raises Stopped, and StudioError for
        an origin missing or too many.
        """
        latents = noise
        clocks = []
        for step in self.session(noise, conditions, guidance, seed, origin):
            latents = step.latents
            clocks.append(step.clock)
            if watch is not None:
                watch(step)
            if stop is not None and stop.is_set():
                raise Stopped(f"Stopped at step {step.index + 1} of {len(self.timesteps)}.")
        return latents, [clock.seconds for clock in clocks]

    @torch.inference_mode()
    def session(
        self,
        noise: Tensor,
        conditions: Conditions,
        guidance: float,
        seed: int = 0,
        origin: Tensor | None = None,
    ) -> Iterator[SamplingStep]:
        """Run as `run` does and yield every step, so that two sides can walk in step.

        A session keeps no state on the denoiser: sessions of one denoiser may overlap.
        """
        if (origin is None) != (self.start == 0):
            raise StudioError(
                "Clean latents to start from go together with a later first step: give both or"
                " neither."
            )
        # multistep schedulers carry state; every run starts fresh
        scheduler = copy.deepcopy(self.scheduler)
        # stochastic schedulers: both sides draw the same noise
        extra: dict[str, Any] = {}
        if self.takes_generator:
            extra["generator"] = step_generator(noise.shape, seed)
        x = self._first_latents(scheduler, noise, origin).to(self.model.device)
        predict = self._predictor(conditions, guidance)
        for i, t in enumerate(self.visits):
            scaled = scheduler.scale_model_input(x, t)
            clock = StepClock(self.model.device)
            eps = predict(i, scaled, clock)
            if self.multistep:
                extra["order"] = min(i + 1, self.multistep)
            a, s = self.coefficients[i]
            clean = (scaled - s * eps) / a
            x = scheduler.step(eps, t, x, **extra).prev_sample
            yield SamplingStep(
                index=i,
                timestep=self.timesteps[i],
                stage=self.stages[i],
                noisy=scaled,
                clean=clean,
                latents=x,
                clock=clock,
            )

    @torch.inference_mode()
    def prepare(self, noise: Tensor, conditions: Conditions, guidance: float) -> None:
        """Run each network once on noise (n, c, h, w), for every number of rows that a run has.

        What is captured or compiled at a first call is then there before anything is timed.
        """
        predict = self._predictor(conditions, guidance)
        x, done = noise.to(self.model.device), set()
        for i, scale in enumerate(self.scales(guidance)):
            if (self.stages[i], half_of(scale)) not in done:
                done.add((self.stages[i], half_of(scale)))
                predict(i, x, StepClock(self.model.device))

    def _first_latents(self, scheduler: Any, noise: Tensor, origin: Tensor | None) -> Tensor:
        """Return the latents (n, c, h, w) that the first step starts from."""
        if origin is None:
            return noise * scheduler.init_noise_sigma
        # on a copy: some schedulers move their tables to the device of the latents
        return copy.deepcopy(scheduler).add_noise(
            origin.to(noise), noise, self.visits[:1].expand(len(noise))
        )

    def _predictor(
        self, conditions: Conditions, guidance: float
    ) -> Callable[[int, Tensor, StepClock], Tensor]:
        """Return `predict(step, scaled input, clock)`, the noise (n, c, h, w) fp32 with guidance.

        Guidance is that of Ho & Salimans 2022 (arXiv 2207.12598): u + g (c - u), with the plan's
        own g in stages that have one. At 1 only the rows of c run, at 0 only those of u.
        """
        device, dtype = self.model.device, self.model.dtype
        scales = self.scales(guidance)
        halves = [half_of(scale) for scale in scales]
        batches = {half: conditions.batch(half, device, dtype) for half in set(halves)}
        visits = self.visits.to(device)
        tables: dict[Half, StepVectors | None] = {}
        turn = self._reuse()

        def predict(i: int, scaled: Tensor, clock: StepClock) -> Tensor:
            scale, half = scales[i], halves[i]
            guided = half == "both"
            arguments = batches[half]
            rows = (torch.cat([scaled, scaled]) if guided else scaled).to(dtype)
            times = visits[i : i + 1].expand(len(rows))
            clock.mark()
            if self.tabulate and "class_labels" in arguments:
                if half not in tables:  # at the first step that needs it
                    calls = [k for k, other in enumerate(halves) if other == half]
                    tables[half] = self._table(calls, conditions, half)
                table = tables[half]
                if table is not None:
                    arguments = arguments | {"class_labels": table[halves[:i].count(half)]}
            with turn(i) as network:
                predicted = network(rows, times, **arguments)
            clock.mark()
            # a learned-sigma model gives twice the channels
            eps = predicted[:, : scaled.shape[1]].float()
            if guided:
                conditional, unconditional = eps.chunk(2)
                eps = unconditional + scale * (conditional - unconditional)
            return eps

        return predict

    def _reuse(self) -> Callable[[int], AbstractContextManager[Callable[..., Tensor]]]:
        """Return what gives the forward of every model call of one run, with what is kept so far.

        A stage starts anew, whatever came before it.
        """
        if all(self.full):
            return lambda i: nullcontext(self.networks[i])
        plan = self.model.plan
        assert plan is not None  # a step that is not full has a plan
        walk = Walk(plan.reuse_order)

        @contextmanager
        def turn(i: int) -> Iterator[Callable[..., Tensor]]:
            stage = self.stages[i]
            if stage < 0 or plan.reuse[stage] == 1:
                yield self.networks[i]
                return
            if not i or self.stages[i - 1] != stage:
                walk.restart()
            with walk.step(self.timesteps[i], self.full[i]):
                yield self.model.reusable(stage)

        return turn

    def scales(self, guidance: float) -> list[float]:
        """Return the guidance scale of every model call of a run with this guidance."""
        by_stage = self.model.scales(guidance)
        return [by_stage[stage] for stage in self.stages]

    def _table(self, calls: list[int], conditions: Conditions, half: Half) -> StepVectors | None:
        """Return the adaLN vectors of the rows of a half at these calls; None for no table.

        Timesteps and labels are read on the CPU, where nothing waits for the device.
        """
        arguments = conditions.batch(half, torch.device("cpu"), self.model.dtype)
        return self.model.tabulate(self.visits[calls], arguments["class_labels"])


def visits_from(scheduler: Any, start: int) -> Tensor:
    """Return the timesteps (model calls,) that a scheduler visits from step `start` on.

    The timesteps of the scheduler must be set; its begin index is set here. Second-order schedulers
    call the model twice per step. Raises StudioError for a step that is not there.
    """
    visits = visited_timesteps(scheduler)
    order = getattr(scheduler, "order", 1)
    plms = hasattr(scheduler, "plms_timesteps")
    steps = -(-len(visits) // order) - (plms and len(visits) > 1)
    if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < steps:
        raise StudioError(f"The step to start with must be a whole number from 0 to {steps - 1}.")
    if hasattr(scheduler, "set_begin_index"):  # else found by looking the first timestep up
        scheduler.set_begin_index(start * order)
    if not start or not plms:
        return visits[start * order :]
    if len(scheduler.prk_timesteps):
        raise StudioError(
            "PNDM with Runge-Kutta steps cannot start at a later step; choose another scheduler."
        )
    first = start + 1  # behind the repeated visit of a run from 0
    # PNDM's second call repeats its first step with the mean of both outputs (improved Euler),
    # wherever it starts: its second timestep comes twice
    return torch.cat([visits[first : first + 2], visits[first + 1 :]])


def step_generator(shape: Sequence[int], seed: int) -> torch.Generator:
    """Return the generator of `seed` as it is after the start noise (n, c, h, w) was drawn.

    A stock pipeline draws the start noise and then the noise of every step from one generator. A
    fresh generator would give the first step the very numbers that sampling starts with.
    """
    generator = seeded(seed)
    torch.randn(*shape, generator=generator)
    return generator


def start_noise(n: int, shape: tuple[int, int, int], seed: int) -> Tensor:
    """Draw unit noise (n, c, h, w) on the CPU, so that every device starts from the same.

    Raises StudioError for a seed outside 0 ... 2^32 - 1.
    """
    return torch.randn(n, *shape, generator=seeded(seed))


def seeded(seed: int) -> torch.Generator:
    """Make a generator on the CPU.

    Raises StudioError for a seed of which the generator would read only a part.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < SEEDS:
        raise StudioError(f"The seed must be a whole number from 0 to 2^32 - 1, not {seed!r}.")
    return torch.Generator().manual_seed(int(seed))


def batch_seed(seed: int, batch: int) -> int:
    """Return the seed of one batch of a set, unrelated to the seeds of set and other batches."""
    return int(text_hash(f"{seed}/{batch}")[:8], 16)  # 32 bits


@torch.inference_mode()
def decode(vae: Any, latents: Tensor, batch: int = 100) -> Tensor:
    """Decode latents (n, c, h, w) to pictures (n, channels, H, W) in [-1, 1], fp32 on the CPU.

    At most `batch` pictures and, above one picture, DECODE_PIXELS pixels of the device go through
    the VAE at a time.
    """
    weight = next(vae.parameters())
    config = vae.config
    pixels = latents.shape[2:].numel() * 4 ** (len(config.block_out_channels) - 1)  # of one picture
    scaled = latents.float() / config.scaling_factor
    moments = latent_moments(config)
    if moments is not None:
        mean, std = (v.to(latents.device) for v in moments)
        scaled = scaled * std + mean
    scaled = scaled + (getattr(config, "shift_factor", None) or 0.0)
    scaled = scaled.to(weight.device, weight.dtype)
    most = DECODE_PIXELS.get(weight.device.type, DECODE_PIXELS["cuda"])
    size = max(1, min(batch, most // pixels))
    return torch.cat(
        [vae.decode(part).sample.float().clamp(-1, 1).cpu() for part in scaled.split(size)]
    )


def latent_moments(config: Any) -> tuple[Tensor, Tensor] | None:
    """Return mean and deviation (1, c, 1, 1) of latents that a VAE's config has; None without."""
    mean, std = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        return None
    return torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)
