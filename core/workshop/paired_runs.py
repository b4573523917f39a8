"""Run two sides of a comparison on the same noise, and time them in turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..curves.plan import STAGES
from ..errors import Stopped, StudioError
from ..models.families import Conditions
from ..sampling.denoise import Denoiser, SamplingStep, StepClock, batch_seed, decode
from .comparison import Preview, side_name
from .picture_arrays import pictures
from .sample_settings import SampleSettings

FRAMES = 8  # of the film strip
PREVIEWS = 16  # at most so many while a run goes on
FIRST = 36  # pictures of a large set that are shown while it runs


@dataclass
class PairedRuns:
    """Latents, times and film of two sides that ran on the same noise."""

    latents: list[Tensor]  # (n, c, h, w) of side A and of side B
    times: tuple[list[list[float]], list[list[float]]]  # per side: timed runs x steps, seconds
    scale: float = 1.0  # images of the whole set per image of a timed run
    film: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    film_timesteps: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    notes: str = ""


@dataclass(frozen=True)
class Pair:
    """Two sides and what they share: noise, conditions, settings."""

    sides: list[Denoiser]
    noise: Tensor  # (n, c, h, w)
    conditions: Conditions
    settings: SampleSettings
    batch: int  # images of a batch, where the set is cut into batches
    stop: threading.Event | None
    skip: threading.Event | None = None  # ends the timing, never the pictures
    prepared: float = 0.0  # seconds of capturing and compiling for these runs
    drawn: Tensor | None = None  # final latents of side A, where they were drawn before

    @property
    def batches(self) -> int:
        """Return the batches that the images are cut into."""
        return -(-len(self.noise) // self.batch)

    def seed_of(self, k: int) -> int:
        """Return the seed of stochastic steps in batch k."""
        own = self.settings.seed
        return own if self.batches == 1 else batch_seed(own, k)

    def draw(self, k: int) -> Tensor:
        """Return the final latents of one side, (n, c, h, w), batch by batch. Raises Stopped.

        They have the bits that a comparison of the pair gives this side.
        """
        parts = []
        for i in range(self.batches):
            rows = slice(i * self.batch, (i + 1) * self.batch)
            final, _ = self.sides[k].run(
                self.noise[rows],
                self.conditions.rows(rows),
                self.settings.guidance,
                self.seed_of(i),
                self.stop,
            )
            parts.append(final)
        return torch.cat(parts)

    def run(self, k: int, halt: threading.Event | None = None) -> tuple[Tensor, list[float]]:
        """Sample all images with one side; return latents and seconds of each step.

        halt: stops the run instead of `stop`.
        """
        settings = self.settings
        return self.sides[k].run(
            self.noise, self.conditions, settings.guidance, settings.seed, halt or self.stop
        )

    @property
    def stopped(self) -> bool:
        """Say whether a stop was asked for."""
        return self.stop is not None and self.stop.is_set()

    @property
    def skipped(self) -> bool:
        """Say whether the timing was to be skipped."""
        return self.skip is not None and self.skip.is_set()


class Either(threading.Event):
    """An event that is set as soon as one of several is."""

    def __init__(self, *events: threading.Event | None):
        super().__init__()
        self.events = [event for event in events if event is not None]

    def is_set(self) -> bool:
        """Say whether one of the events is set."""
        return any(event.is_set() for event in self.events)


def in_turn(k: int) -> tuple[int, int]:
    """Return the order of the two sides in round k: the first side changes with every round."""
    return (0, 1) if k % 2 == 0 else (1, 0)


def run_in_step(pair: Pair, vae: Any, previews: bool) -> Iterator[Preview | PairedRuns]:
    """Yield previews while both sides run step by step, then time whole runs in turn.

    The steps give pictures, the film strip and the warm-up. Yields the `PairedRuns` as soon as
    there are pictures, and once more with the times. Raises Stopped before a timed run of both
    sides is complete, StudioError for latents that are not finite.
    """
    runs = PairedRuns([], ([], []))
    if pair.drawn is None:
        yield from _walk(pair, vae, previews, runs)
    else:
        yield from _walk_alone(pair, pair.drawn, runs)
    refuse_broken(runs.latents, pair.sides)
    yield runs
    yield from _time(pair, runs)
    if pair.settings.repeats:
        yield runs


def _time(pair: Pair, runs: PairedRuns) -> Iterator[Preview]:
    """Time whole runs of both sides in turn, into `runs`. Raises Stopped before the first one."""
    repeats = pair.settings.repeats
    for run in range(repeats):
        if not pair.skipped:
            text = f"timing run {run + 1} of {repeats}, both sides in turn"
            yield Preview(text, run, repeats, timing=True)
        seconds: list[list[float]] = [[], []]
        try:
            for k in in_turn(run):
                _, seconds[k] = pair.run(k, Either(pair.stop, pair.skip))
        except Stopped:
            if pair.skipped and not pair.stopped:
                runs.notes = f"Timing skipped after {run} of {repeats} timed runs."
                return
            if not runs.times[0]:
                raise Stopped("Stopped before a timed run of both sides was complete.") from None
            runs.notes = f"Stopped after {run} of {repeats} timed runs."
            return
        for times, new in zip(runs.times, seconds, strict=True):
            times.append(new)


class _Walker:
    """One side on its walk: its session, its latest step, and the frames of its film."""

    def __init__(self, pair: Pair, k: int, frames: int):
        settings = pair.settings
        self.total = len(pair.sides[k].timesteps)
        self.steps = pair.sides[k].session(
            pair.noise, pair.conditions, settings.guidance, settings.seed
        )
        self.frames = _spread(self.total, frames)
        self.step: SamplingStep | None = None
        self.clocks: list[StepClock] = []  # of the denoiser, a clock per step

    @property
    def seconds(self) -> float:
        """Return the seconds of the denoiser so far; waits for the device."""
        return sum(clock.seconds for clock in self.clocks)

    @property
    def latest(self) -> SamplingStep:
        """Return the latest step."""
        assert self.step is not None  # every side goes in the first tick
        return self.step

    def go(self, tick: int, ticks: int) -> bool:
        """Walk to where this side stands at a tick; say whether it went.

        The side with the most calls goes one step at every tick, the other keeps up with it.
        """
        due = tick * self.total // ticks + 1
        done = 0 if self.step is None else self.step.index + 1
        for _ in range(done, due):
            self.step = next(self.steps)
            self.clocks.append(self.step.clock)
        return due > done


def _walk(pair: Pair, vae: Any, previews: bool, runs: PairedRuns) -> Iterator[Preview]:
    """Yield previews while both sides run step by step; put latents and film into `runs`.

    Raises Stopped.
    """
    walkers = [_Walker(pair, k, FRAMES if previews else 0) for k in (0, 1)]
    total = max(walker.total for walker in walkers)
    shown = _spread(total, PREVIEWS)
    for i in range(total):
        went = [walker.go(i, total) for walker in walkers]
        steps = [walker.latest for walker in walkers]
        framed = [
            new and step.index in walker.frames
            for new, step, walker in zip(went, steps, walkers, strict=True)
        ]
        images: list[Tensor] = []
        if previews and (any(framed) or i in shown):
            images = [decode(vae, step.clean) for step in steps]
        for k in (0, 1):
            if framed[k]:
                runs.film[k].append(images[k])
                runs.film_timesteps[k].append(steps[k].timestep)
        if i in shown:
            seconds = sum(walker.seconds for walker in walkers)
            yield _step_preview(i, total, steps, images, seconds)
        if pair.stopped:
            raise Stopped(f"Stopped at step {i + 1} of {total}, before anything was timed.")
    runs.latents = [walker.latest.latents.clone() for walker in walkers]


def _walk_alone(pair: Pair, drawn: Tensor, runs: PairedRuns) -> Iterator[Preview]:
    """Yield previews without pictures while side B alone runs step by step.

    drawn: final latents of side A, which then runs two steps, as its first timed run would else be
    its first run of all. Raises Stopped.
    """
    walker = _Walker(pair, 1, 0)
    shown = _spread(walker.total, PREVIEWS)
    for i in range(walker.total):
        walker.go(i, walker.total)
        if i in shown:
            yield _step_preview(i, walker.total, [walker.latest] * 2, [], walker.seconds)
        if pair.stopped:
            raise Stopped(f"Stopped at step {i + 1} of {walker.total}, before anything was timed.")
    runs.latents = [drawn, walker.latest.latents.clone()]
    if pair.settings.repeats:
        _first_steps(pair, 0)


def _spread(total: int, most: int) -> set[int]:
    """Return at most `most` of the steps 0 to total - 1, evenly spread, first and last included."""
    return set(np.linspace(0, total - 1, min(most, total)).round().astype(int).tolist())


def _step_preview(
    i: int, total: int, steps: list[SamplingStep], images: list[Tensor], seconds: float
) -> Preview:
    """Return what to show of step i: its place in the run, and pictures where they are decoded.

    seconds: of the denoiser so far, both sides.
    """
    a, b = steps
    stage = b.stage if b.stage >= 0 else a.stage
    where = f", {STAGES[stage]} stage" if stage >= 0 else ""
    text = f"step {i + 1} of {total} (timestep {a.timestep:.0f}{where})"
    picture_a, picture_b = map(pictures, images) if images else (None, None)
    return Preview(
        text,
        done=i + 1,
        total=total,
        image_a=picture_a,
        image_b=picture_b,
        step=i,
        timestep=a.timestep,
        stage=stage,
        drawing=True,
        denoiser=seconds,
    )


def run_in_batches(pair: Pair, vae: Any, previews: bool) -> Iterator[Preview | PairedRuns]:
    """Yield a preview after every batch of both sides, and the `PairedRuns` last.

    The side that goes first changes with every batch. Every full batch is a timed run. Raises
    Stopped, StudioError for latents that are not finite.
    """
    noise, conditions, settings = pair.noise, pair.conditions, pair.settings
    size, batches = pair.batch, pair.batches
    n = len(noise)
    # a batch is timed in turn or not at all: beside pictures drawn before only where none is
    alone = pair.drawn is not None and not settings.repeats
    runs = PairedRuns([], ([], []), scale=n / size)
    latents: tuple[list[Tensor], list[Tensor]] = ([], [])
    yield Preview("warming both sides up", 0, batches)
    _warm_up(pair)
    for k in range(batches):
        rows = slice(k * size, (k + 1) * size)
        for j in (1,) if alone else in_turn(k):
            said = f"drawing batch {k + 1} of {batches}, side {'AB'[j]}"
            yield Preview(said, k, batches, drawing=True)
            final, seconds = pair.sides[j].run(
                noise[rows], conditions.rows(rows), settings.guidance, pair.seed_of(k), pair.stop
            )
            latents[j].append(final)
            if len(final) == size and not alone:
                runs.times[j].append(seconds)
        done = min(n, (k + 1) * size)
        text = f"batch {k + 1} of {batches}, {done} of {n} images of each side"
        a, b = _first_pictures(latents, vae if previews and not alone else None)
        yield Preview(text, k + 1, batches, image_a=a, image_b=b, drawing=True)
    runs.latents = [torch.cat(parts) for parts in latents if parts]
    if alone and pair.drawn is not None:
        runs.latents.insert(0, pair.drawn)
    refuse_broken(runs.latents, pair.sides)
    if not runs.times[0]:  # 65 to 99 images: the one batch is not full
        runs.scale = 1.0
        yield from _time(pair, runs)
    yield runs


def _first_pictures(
    latents: tuple[list[Tensor], list[Tensor]], vae: Any
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the first pictures of both sides, None without a VAE."""
    if vae is None:
        return None, None
    a, b = (pictures(decode(vae, parts[0][:FIRST])) for parts in latents)
    return a, b


def _warm_up(pair: Pair) -> None:
    """Run two steps of each side on the first batch."""
    for k in range(len(pair.sides)):
        _first_steps(pair, k)


def _first_steps(pair: Pair, k: int) -> None:
    """Run two steps of one side on the first batch."""
    first = pair.conditions.rows(slice(pair.batch))
    session = pair.sides[k].session(pair.noise[: pair.batch], first, pair.settings.guidance)
    next(session)
    next(session, None)


def refuse_broken(latents: list[Tensor], sides: list[Denoiser]) -> None:
    """Raise StudioError for final latents that are not finite: they give no picture to compare."""
    for side, final in zip(sides, latents, strict=True):
        broken = int((~torch.isfinite(final).flatten(1).all(1)).sum())
        if broken:
            who = side_name(side.model.plan if side.stages[0] >= 0 else None)
            raise StudioError(
                f"{who}: {broken} of {len(final)} final latents are NaN or infinite, so there is"
                " nothing to compare. Try another scheduler or number of steps, fp32 or bf16"
                " instead of fp16, or less sparsity."
            )
