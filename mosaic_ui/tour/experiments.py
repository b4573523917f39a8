"""Run the tour's experiments on the page's own model, and write what they found for the page.

Every picture comes from a real run of the real network; what was seen last is kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from core.curves.dynamics import curves
from core.curves.plan import STAGES, StagePlan
from core.curves.proposals import Proposal, propose_plan
from core.errors import StudioError
from core.lru_cache import Recent
from core.workshop.closeness import closeness
from core.workshop.compare import visited
from core.workshop.small_runs import (
    PICTURES,
    SAMPLER,
    STEPS,
    SmallRun,
    check_small,
    head_layers,
    mean_decibel,
    run_small,
    without_heads,
)
from core.workshop.workshop import Workshop

from .. import model_facts
from ..compare.pictures import shrunk, to_uint8
from ..inputs import is_number, two_boundaries, whole_number, whole_seed
from ..png import data_address, png_bytes
from ..text import number, percent, seconds_text

TARGET = 0.33  # share of the work that the step "Prune" takes away, the paper's main setting
SHARES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)  # of the step "Push until it breaks"
SIDE = 128  # pixels of a picture that is sent, at most
KEPT = 24  # answers kept per model
NOT_CALIBRATED = (
    "This model is not calibrated on this machine yet, so what stays could not make up for what"
    " goes: Calibrate in 2 Prune does it."
)
TOO_LARGE = "Pruning a model of this size takes longer than a tour: 2 Prune does it."

Answer = dict[str, Any]
Stop = threading.Event


class Uncalibrated(StudioError):
    """The step needs a calibration, which the tour may begin."""


def can_calibrate(workshop: Workshop) -> bool:
    """Say whether a model is small enough to be calibrated, pruned and sampled in a tour."""
    try:
        check_small(workshop)
    except StudioError:
        return False
    return _can_prune(workshop) and not model_facts.large(workshop)


def _can_prune(workshop: Workshop) -> bool:
    """Say whether all layers of three stages are solved within seconds, once calibrated."""
    flops = 3 * sum(layer.width**3 for layer in workshop.layers)
    most = model_facts.EXACT_FLOPS
    return flops <= most.get(workshop.device.type, most["cpu"])


class Experiments:
    """The experiments of one model. What they return is plain data for the page."""

    def __init__(self, workshop: Workshop):
        self.workshop = workshop
        self._kept: Recent[tuple, Any] = Recent()

    # ------------------------------------------------------------ what is there

    @cached_property
    def timesteps(self) -> list[float]:
        """Return the timesteps of every step of a small run, the noisiest first."""
        return visited(self.workshop, SAMPLER, STEPS)

    @cached_property
    def proposal(self) -> StagePlan:
        """Return the plan of the paper's rule, the same that the page opens with."""
        return self.proposed.plan

    @cached_property
    def proposed(self) -> Proposal:
        """Return the plan of the paper's rule for the page's own steps, with its reasons."""
        return propose_plan(self.workshop.schedule, TARGET, self.page_timesteps)

    @cached_property
    def page_timesteps(self) -> list[float]:
        """Return the timesteps of the run that the page opens with."""
        return visited(self.workshop, *model_facts.default_sampler(self.workshop))

    @cached_property
    def score(self) -> np.ndarray:
        """Return the learning score per timestep (T,), cleanest first."""
        return curves(self.workshop.schedule).score

    def facts(self) -> Answer:
        """Return what the page has to know of the model before anything runs."""
        workshop = self.workshop
        layers = [workshop.layers[i] for i in head_layers(workshop)]
        return {
            "model": workshop.name,
            "total": len(workshop.schedule),
            "timesteps": self.timesteps,
            "boundaries": list(self.proposal.boundaries),
            "layers": [{"name": layer.name, "heads": layer.groups} for layer in layers],
            "shares": list(SHARES),
            "asked": list(workshop.class_names.values())[:PICTURES],
        }

    # ------------------------------------------------------------ experiments

    def film(self, stop: Stop, seed: Any) -> Answer:
        """Return noisy picture and guess of every step of the whole network."""
        run = self._dense(whole_seed(seed), stop)
        frames = [
            {"noisy": _addresses(noisy), "guess": _addresses(guess)}
            for noisy, guess in zip(run.noisy, run.guesses, strict=True)
        ]
        return {"frames": frames, "images": _addresses(run.images)}

    def head(self, stop: Stop, seed: Any, layer: Any, heads: Any) -> Answer:
        """Return the pictures of a network that lacks these heads of a layer that has heads."""
        places = head_layers(self.workshop)
        place = places[whole_number(layer, 0, len(places) - 1, "The layer")]
        if not isinstance(heads, list) or not all(type(head) is int for head in heads):
            raise StudioError("Heads are whole numbers.")
        whole = self._dense(whole_seed(seed), stop)

        def run() -> SmallRun:
            model, macs = without_heads(self.workshop, place, heads)
            return run_small(self.workshop, model, macs, int(seed), stop=stop)

        key = ("head", int(seed), place, tuple(sorted(set(heads))))
        return self._beside(whole, self._once(key, run))

    def prune(self, stop: Stop, seed: Any, boundaries: Any) -> Answer:
        """Return the pictures of a plan with these boundaries and a third of the work gone."""
        low, high = two_boundaries(boundaries)
        plan = replace(self.proposal.with_boundaries(low, high), name="")
        if plan.boundaries != self.proposal.boundaries:
            plan = plan.scaled_to(TARGET, self.page_timesteps)
        return self._pruned(plan, seed, stop)

    def push(self, stop: Stop, seed: Any, boundaries: Any, share: Any) -> Answer:
        """Return the pictures of a plan that removes one share in all three stages."""
        low, high = two_boundaries(boundaries)
        if not is_number(share):
            raise StudioError("The share that goes must be a number.")
        plan = replace(self.proposal.with_boundaries(low, high), name="")
        return self._pruned(plan.with_sparsity(share, share, share), seed, stop)

    def _pruned(self, plan: StagePlan, seed: Any, stop: Stop) -> Answer:
        workshop, seed = self.workshop, whole_seed(seed)
        check_small(workshop)
        if any(plan.sparsity) and not _can_prune(workshop):
            raise StudioError(TOO_LARGE)
        if workshop.needs_calibration(plan):
            raise Uncalibrated(NOT_CALIBRATED)
        whole = self._dense(seed, stop)

        def run() -> tuple[SmallRun, float]:
            begun = time.perf_counter()
            model = workshop.build(plan, None, stop)
            built = time.perf_counter() - begun
            return run_small(workshop, model, seed=seed, stop=stop), built

        found, built = self._once(("plan", seed, plan), run)
        counted = plan.steps_per_stage(self.timesteps)
        stages = [
            {"stage": stage, "steps": counted[stage], "removed": percent(share)}
            for stage, share in zip(STAGES, plan.sparsity, strict=True)
        ]
        made = f"The subnetworks were made in {seconds_text(built)}, without any training."
        return self._beside(whole, found) | {"stages": stages, "made": made}

    def _dense(self, seed: int, stop: Stop) -> SmallRun:
        """Return the run of the whole network with all its steps."""

        def run() -> SmallRun:
            return run_small(self.workshop, self.workshop.dense, seed=seed, film=True, stop=stop)

        return self._once(("dense", seed), run)

    def _once(self, key: tuple, run: Callable[[], Any]) -> Any:
        """Return what was found before, else run."""
        found = self._kept.find(key)
        if found is None:
            found = run()
            self._kept.keep(key, found, KEPT)
        return found

    def _beside(self, whole: SmallRun, other: SmallRun) -> Answer:
        """Return pictures of both runs, how far they lie apart, and the work in words."""
        decibel = mean_decibel(whole.images, other.images)
        far = "the same pictures" if decibel is None else closeness(decibel)
        return {
            "whole": _addresses(whole.images),
            "images": _addresses(other.images),
            "far": far if decibel is None else f"{far}: PSNR {number(decibel)} dB",
            "saved": percent(1 - other.macs / whole.macs),
        }


def _addresses(images: Tensor) -> list[str]:
    """Return every picture as a PNG that the page can show."""
    return [data_address(png_bytes(picture)) for picture in shrunk(to_uint8(images), SIDE)]
