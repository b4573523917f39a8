"""Measure how much of the speed-up that MACs predict arrives on the clock.

Whole sampling runs of a model, and single forwards of DiT-XL/2's width.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from ..curves.plan import StagePlan
from ..curves.proposals import propose_plan
from ..guidance import scales_of
from ..models.families import first_parameter
from ..models.layers import PrunableLayer
from ..mosaic.adaln_table import padded
from ..mosaic.transformer import MosaicTransformer
from ..progress import Progress
from ..sampling.denoise import Denoiser, start_noise
from ..sampling.timing import forward_call, model_macs, module_forward
from ..workshop.compare import sampler
from ..workshop.prediction import TableLabels
from ..workshop.workshop import Workshop
from .measure import Effort, Shares, in_turn, machine, medians, ratio
from .subjects import Subject, mosaic_of, uniform_cuts

BATCHES = (1, 4, 16)
TARGETS = (0.33, 0.5)
GOAL = 0.95
GOAL_BATCH = 16
STEPS = 50
EFFORT = Effort(200)


class Stock:
    """diffusers' own denoiser with the members that `Denoiser` needs."""

    def __init__(self, workshop: Workshop):
        self.device = workshop.device
        self.dtype = workshop.dtype
        self.forward = module_forward(workshop.transformer)

    def stage_of(self, timestep: float) -> int:  # noqa: ARG002 (the same at every timestep)
        """Return -1: the dense model."""
        return -1

    def network(self, timestep: float) -> Callable[..., Any]:  # noqa: ARG002
        """Return the stock forward."""
        return self.forward

    def scales(self, guidance: float) -> tuple[float, ...]:
        """Return the run's guidance."""
        return scales_of(None, guidance)

    def full_steps(self, stages: Sequence[int]) -> list[bool]:
        """Return that every step runs in full."""
        return [True] * len(stages)


def sampling_seconds(
    workshop: Workshop,
    models: dict[str, Any],
    batch: int,
    steps: int,
    seconds: float,
    effort: Effort,
    stop: threading.Event | None = None,
    tabulated: Set[str] | None = None,
) -> dict[str, list[float]]:
    """Return the seconds of the denoiser in whole DDIM runs with guidance, by name.

    One entry per round, all models in turn. models: `MosaicTransformer`s or `Stock`; tabulated:
    names of those that run with a table of their adaLN vectors (None: all that can). Raises
    Stopped.
    """
    scheduler = sampler(workshop, "DDIM")
    conditions = workshop.some_conditions(batch)
    noise = start_noise(batch, workshop.latent_shape, 0)
    own: dict[str, list[float]] = {name: [] for name in models}

    def run(name: str, side: Denoiser) -> Callable[[], None]:
        guidance = workshop.guidance
        return lambda: own[name].append(sum(side.run(noise, conditions, guidance, stop=stop)[1]))

    if tabulated is None:
        tabulated = {n for n, m in models.items() if not isinstance(m, Stock)}
    sides = {
        n: Denoiser(m, scheduler, workshop.schedule, steps, tabulate=n in tabulated)
        for n, m in models.items()
    }
    times = in_turn(
        {n: run(n, side) for n, side in sides.items()}, workshop.device, seconds, effort, stop
    )
    # without the warm-up; without the scheduler's own steps
    return {name: taken[-len(times[name]) :] for name, taken in own.items()}


def timesteps_of(workshop: Workshop, steps: int) -> list[float]:
    """Return the timesteps of a DDIM run."""
    return Denoiser(workshop.dense, sampler(workshop, "DDIM"), workshop.schedule, steps).timesteps


def plan_to_time(workshop: Workshop, target: float, steps: int) -> StagePlan:
    """Return a plan with the formula's widths and magnitude's choice of groups.

    Nothing has to be calibrated for it, and time does not depend on which groups stay.
    """
    proposed = propose_plan(workshop.schedule, target, timesteps_of(workshop, steps))
    return replace(proposed.plan, method="magnitude")


def attention_macs(layers: list[PrunableLayer], kept: list[int]) -> int:
    """Return MACs of the attention products (scores and weighted sums) of one image's forward."""
    return sum(layer.attention_macs_per_group * k for layer, k in zip(layers, kept, strict=True))


def run_macs(
    workshop: Workshop, mosaic: MosaicTransformer, timesteps: list[float], batch: int
) -> tuple[float, float]:
    """Return MACs of a guided run per row: (linear and convolution layers, attention products).

    batch: images, classes in turn, whose adaLN vectors come from a table where it fits.
    """
    linear = attention = 0.0
    names = list(workshop.class_names) or [0]
    labels = TableLabels.of([names[i % len(names)] for i in range(batch)], batch)
    spared = 0
    if workshop.macs.has_table(len(timesteps), labels.most):
        spared = workshop.macs.conditioning
        linear = padded(len(timesteps) * labels.most) * spared / (2 * batch)
    for t in timesteps:
        stage = mosaic.stage_of(t)
        kept = [x.groups for x in workshop.layers] if stage < 0 else mosaic.kept(stage)
        gone = sum(
            x.macs_per_group * (x.groups - k) for x, k in zip(workshop.layers, kept, strict=True)
        )
        linear += workshop.forward_macs[0] - spared - gone
        attention += attention_macs(workshop.layers, kept)
    return linear, attention


def realised_benchmark(
    workshop: Workshop,
    blocks: Subject,
    batches: tuple[int, ...] = BATCHES,
    targets: tuple[float, ...] = TARGETS,
    steps: int = STEPS,
    effort: Effort = EFFORT,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Return measured over predicted speed-up of `workshop`'s model and of `blocks`.

    The goal is 0.95 at batch 16. Predicted from MACs of linear and convolution layers, as
    everywhere in the studio; with attention products beside it. The dense side has its equal
    embedders merged and its adaLN vectors from a table too, so what is measured is pruning alone.
    Plans have the formula's widths and magnitude's choice of groups, for which nothing has to be
    calibrated: time does not depend on which groups stay. Raises Stopped.
    """
    total = 2 * len(batches)
    turns = Turns(Shares(effort.seconds, total), total, effort, progress=progress, stop=stop)
    rows = _sampling_rows(workshop, batches, targets, steps, turns)
    rows += _forward_rows(blocks, batches, targets, turns)
    first = first_parameter(blocks.model)
    return machine(first.device) | {
        "dtype": str(first.dtype).removeprefix("torch."),
        "ratios": rows,
    }


@dataclass
class Turns:
    """The time budget of a part, its progress and its stop event, from one batch to the next."""

    shares: Shares
    total: int
    effort: Effort
    progress: Progress | None
    stop: threading.Event | None
    done: int = 0

    def next(self, text: str) -> float:
        """Report the next batch, and return the seconds that it may take."""
        if self.progress is not None:
            self.progress(self.done, self.total, text)
        self.done += 1
        return self.shares.next()


def _sampling_rows(
    workshop: Workshop,
    batches: tuple[int, ...],
    targets: tuple[float, ...],
    steps: int,
    turns: Turns,
) -> list[dict[str, Any]]:
    """Return the rows of whole sampling runs."""
    timesteps = timesteps_of(workshop, steps)
    models = {"dense": workshop.dense}
    for target in targets:
        models[f"{target:g}"] = workshop.build(plan_to_time(workshop, target, steps))
    rows = []
    for batch in batches:
        macs = {name: run_macs(workshop, model, timesteps, batch) for name, model in models.items()}
        times = sampling_seconds(
            workshop,
            models,
            batch=batch,
            steps=steps,
            seconds=turns.next(f"{workshop.name}, sampling {batch} images"),
            effort=turns.effort,
            stop=turns.stop,
        )
        for target in targets:
            facts = {
                "subject": workshop.name,
                "what": f"{steps} DDIM steps with guidance",
                "batch": batch,
                "target": target,
            }
            rows.append(_row(facts, times, macs))
    return rows


def _forward_rows(
    blocks: Subject, batches: tuple[int, ...], targets: tuple[float, ...], turns: Turns
) -> list[dict[str, Any]]:
    """Return the rows of single forwards."""
    models = {f"{s:g}": mosaic_of(blocks, uniform_cuts(blocks, s)) for s in targets}
    models["dense"] = mosaic_of(blocks, None)
    macs = {
        name: (model_macs(m.stages[0])[0], attention_macs(blocks.layers, m.kept(0)))
        for name, m in models.items()
    }
    device = first_parameter(blocks.model).device
    rows = []
    for batch in batches:
        calls = {
            name: forward_call(models[name].network(500.0), blocks.model, batch)
            for name in ("dense", *(f"{s:g}" for s in targets))
        }
        seconds = turns.next(f"{blocks.name}, batch {batch}")
        times = in_turn(calls, device, seconds, turns.effort, turns.stop)
        for s in targets:
            facts = {"subject": blocks.name, "what": "one forward", "batch": batch, "target": s}
            rows.append(_row(facts, times, macs))
    return rows


def _row(
    facts: dict[str, Any], times: dict[str, list[float]], macs: Mapping[str, tuple[float, float]]
) -> dict[str, Any]:
    """Return one row of the table; macs: (linear and convolution layers, attention) by name."""
    name = f"{facts['target']:g}"
    dense, pruned = macs["dense"], macs[name]
    predicted = dense[0] / pruned[0]
    with_attention = sum(dense) / sum(pruned)
    measured = ratio("", times["dense"], times[name])
    seconds = medians(times)
    goal = {"at_least": GOAL} if facts["batch"] == GOAL_BATCH else {}
    title = (
        f"{facts['subject']}, batch {facts['batch']}, {name} removed: measured / predicted speed-up"
    )
    return ratio(
        title,
        times["dense"],
        times[name],
        predicted,
        **goal,
        **facts,
        speedup_measured=measured["ratio"],
        speedup_spread=measured["spread"],
        speedup_macs=predicted,
        speedup_macs_with_attention=with_attention,
        realised_with_attention=measured["ratio"] / with_attention,
        seconds=seconds[name],
        dense_seconds=seconds["dense"],
    )


def speed_benchmark(
    workshop: Workshop, plans: dict[float, StagePlan], batch: int, rounds: int, steps: int = STEPS
) -> list[dict[str, Any]]:
    """Return the rows of `python -m core.bench speed`, measured in fixed rounds.

    Plans run against dense with one embedder and against diffusers' own forward.
    """
    timesteps = timesteps_of(workshop, steps)
    models = {"stock": Stock(workshop), "dense": workshop.dense} | {
        f"{target:g}": workshop.build(plan) for target, plan in plans.items()
    }
    times = sampling_seconds(
        workshop,
        models,
        batch=batch,
        steps=steps,
        seconds=0.0,
        effort=Effort(0.0, rounds, rounds),
    )
    many = model_macs(workshop.transformer)[0] * 2 * steps
    results = []
    seconds = medians(times)
    for target, plan in plans.items():
        mine = times[f"{target:g}"]
        predicted = workshop.predict(plan, timesteps, batch)
        macs = predicted.speedup_macs
        dense, stock = ratio("", times["dense"], mine), ratio("", times["stock"], mine)
        results.append(
            {
                "target": target,
                "speedup_macs": macs,
                "speedup_measured": dense["ratio"],
                "spread": dense["spread"],
                "realised": dense["ratio"] / macs,
                "against_stock_macs": many / predicted.macs,
                "against_stock_measured": stock["ratio"],
                "against_stock_spread": stock["spread"],
                "seconds": seconds[f"{target:g}"],
                "dense_seconds": seconds["dense"],
                "stock_seconds": seconds["stock"],
            }
        )
    return results
