"""Sampling by our own loop: any scheduler done right, timed per step, stoppable within one step.

diffusers' DiTPipeline never multiplies the first noise by `init_noise_sigma`, so its pictures are wrong with schedulers
that want it (Euler, Heun, LMS); this loop does, and scales the model input. With DDIM it gives the stock pipeline's bits.
"""

from __future__ import annotations

import copy
import inspect
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import Stopped
from .families import Conditions
from .mosaic import MosaicTransformer
from .noise import NoiseSchedule
from .timing import synchronise


@dataclass(frozen=True)
class Step:
    """What one step hands to whoever is watching."""

    index: int
    timestep: float
    stage: int  # index into STAGES, -1 dense
    noisy: Tensor  # (n, c, h, w) x_t in the model's own parametrisation
    clean: Tensor  # (n, c, h, w) the model's present guess of x_0
    seconds: float  # denoiser only


class Denoiser:
    """One side, ready to run: the network of every step is looked up before the loop starts.

    The scheduler is copied, so nobody else's is touched.
    """

    def __init__(self, model: MosaicTransformer, scheduler: Any, schedule: NoiseSchedule, steps: int):
        self.model, self.steps = model, steps
        self.scheduler = copy.deepcopy(scheduler)
        self.scheduler.set_timesteps(steps, device=model.device)
        self.timesteps = [float(t) for t in self.scheduler.timesteps]
        self.networks = [model.network(t) for t in self.timesteps]
        self.stages = [model.stage_of(t) for t in self.timesteps]
        self.coefficients = [schedule.at(t) for t in self.timesteps]
        self.takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters

    @torch.inference_mode()
    def run(self, noise: Tensor, conditions: Conditions, guidance: float, seed: int = 0, stop: threading.Event | None = None,
            watch: Callable[[Step], None] | None = None) -> tuple[Tensor, list[float]]:  # fmt: skip
        """Denoise (n, c, h, w) unit noise; returns final latents and the denoiser's seconds of every step. Raises Stopped."""
        session = self.session(noise, conditions, guidance, seed)
        seconds = []
        for step in session:
            seconds.append(step.seconds)
            if watch is not None:
                watch(step)
            if stop is not None and stop.is_set():
                raise Stopped(f"Stopped at step {step.index + 1} of {len(self.timesteps)}.")
        return self.latents, seconds

    @torch.inference_mode()
    def session(self, noise: Tensor, conditions: Conditions, guidance: float, seed: int = 0):
        """The same as a generator of `Step`, so that two sides can walk in step; `self.latents` holds x_t."""
        device, dtype = self.model.device, self.model.dtype
        scheduler = copy.deepcopy(self.scheduler)  # multistep schedulers carry state; every run starts fresh
        random = torch.Generator().manual_seed(seed)  # stochastic schedulers: both sides draw the same noise
        extra = {"generator": random} if self.takes_generator else {}
        channels = noise.shape[1]
        x = (noise * scheduler.init_noise_sigma).to(device)
        arguments = conditions.pair(device, dtype, guidance > 1)
        for i, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t)
            rows = (torch.cat([scaled, scaled]) if guidance > 1 else scaled).to(dtype)
            times = t[None].expand(len(rows))
            synchronise(device)
            start = time.perf_counter()
            predicted = self.networks[i](rows, times, **arguments)
            synchronise(device)
            seconds = time.perf_counter() - start
            eps = predicted[:, :channels].float()  # a learned-sigma model has twice the channels
            if guidance > 1:
                conditional, unconditional = eps.chunk(2)
                eps = unconditional + guidance * (conditional - unconditional)
            a, s = self.coefficients[i]
            clean = (scaled - s * eps) / a
            x = scheduler.step(eps, t, x, **extra).prev_sample
            self.latents = x
            yield Step(i, self.timesteps[i], self.stages[i], scaled, clean, seconds)


def start_noise(n: int, shape: tuple[int, int, int], seed: int) -> Tensor:
    """Unit noise (n, c, h, w) drawn on the CPU, so that every device starts from the same."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def decode(vae: Any, latents: Tensor, batch: int = 100) -> Tensor:
    """Latents (n, c, h, w) to pictures (n, channels, H, W) in [-1, 1], fp32 on the CPU."""
    weight, config = next(vae.parameters()), vae.config
    scaled = latents.float() / config.scaling_factor
    if getattr(config, "latents_mean", None) is not None and getattr(config, "latents_std", None) is not None:
        mean, std = (torch.tensor(v, device=latents.device).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
        scaled = scaled * std + mean
    scaled = (scaled + (getattr(config, "shift_factor", None) or 0.0)).to(weight.device, weight.dtype)
    return torch.cat([vae.decode(part).sample.float().clamp(-1, 1).cpu() for part in scaled.split(batch)])
