"""Describe a configuration by a stage plan: two boundaries and three sparsities.

Stages are named as sampling meets them: *early* is noisy (large t, first), *late* is almost clean
(small t, last). Boundaries are scheduler timesteps counted from 0: late t < low, middle low <= t <
high, early t >= high.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from .._old_paths import forward
from ..errors import PlanError, StudioError
from ..guidance import rows_of
from ..paths import given_path
from .betas import NUM_TRAIN_TIMESTEPS
from .plan_checks import (
    MAX_SPARSITY,
    REUSE_ORDERS,
    check_keys,
    check_name,
    checked_boundaries,
    checked_guidance,
    checked_reuse,
    checked_sparsity,
    number_within,
    parse,
    share_out,
    short,
    stage_counts,
    whole,
)

T = TypeVar("T")
STAGES = ("late", "middle", "early")
MAX_FILE_BYTES = 1_000_000
METHODS = ("obs", "magnitude")
CALIBRATIONS = ("stage", "pooled")
ALLOCATIONS = ("uniform", "log_ramp", "lagrangian", "dynamic")  # see core.allocation
SCOPES = ("stage", "run")
MULTIPLES = (0, 16, 64, 128)
# what an allocation counts: work, or time as it was measured on the device at hand
COSTS = ("macs", "latency")
CHOICES = {  # field -> what it may be
    "method": METHODS,
    "calibration": CALIBRATIONS,
    "allocation": ALLOCATIONS,
    "scope": SCOPES,
    "costs": COSTS,
}

# proposals were in this module before version 0.3
__getattr__ = forward(__name__, "proposals")


def as_sampled(per_stage: Sequence[T]) -> list[tuple[str, T]]:
    """Return (stage, value) in the order of sampling, early first, as people read it.

    per_stage: late, middle, early, as in STAGES.
    """
    return list(zip(STAGES, per_stage, strict=True))[::-1]


@dataclass(frozen=True)
class StagePlan:
    """The share of heads and neurons that is removed in each stage of the trajectory.

    Immutable and always valid. Raises PlanError, one sentence, for anything that cannot be.
    """

    boundaries: tuple[int, int]
    sparsity: tuple[float, float, float]  # share removed, in STAGES order
    name: str = ""
    method: Literal["obs", "magnitude"] = "obs"  # magnitude: no compensation, a baseline
    # pooled: one compensation for all stages, a baseline
    calibration: Literal["stage", "pooled"] = "stage"
    num_train_timesteps: int = NUM_TRAIN_TIMESTEPS
    # how layers share; uniform is the paper's
    allocation: Literal["uniform", "log_ramp", "lagrangian", "dynamic"] = "uniform"
    # run: one budget for all stages, equal in work to these sparsities
    scope: Literal["stage", "run"] = "stage"
    # kept neurons are multiples of this (16, 64, 128); 0: as fine as the layer allows
    multiple: int = 0
    # latency: the time of equal shares on this device is what may be spent
    costs: Literal["macs", "latency"] = "macs"
    min_heads: int = 1  # heads that every attention keeps; 0 lets one go altogether
    # share that each layer of the first and last block keeps; 1: they are not pruned
    protect: float = 0.0
    # sampling steps, in STAGES order, that one budget weighs its stages by; None: evenly spaced
    # ones
    stage_steps: tuple[int, int, int] | None = None
    # classifier-free guidance of each stage, in STAGES order; None: the run's own. 1 runs the
    # conditional half alone, so half the work (arXiv 2404.07724). A mapping by stage may be given.
    guidance: tuple[float | None, float | None, float | None] = (None, None, None)
    # every k-th step of a stage runs in full, in STAGES order; between them attentions and MLPs
    # give what they gave (see core.mosaic.reuse). A mapping by stage may be given.
    reuse: tuple[int, int, int] = (1, 1, 1)
    reuse_order: int = 0  # degree of the polynomial that continues it; 0: the last one again

    def __post_init__(self) -> None:
        total = whole(self.num_train_timesteps, "num_train_timesteps")
        if not 3 <= total <= 100_000:
            raise PlanError(f"num_train_timesteps must lie between 3 and 100000, not {total}.")
        boundaries = checked_boundaries(self.boundaries, total)
        sparsity = checked_sparsity(self.sparsity, STAGES)
        check_name(self.name)
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed:
                raise PlanError(
                    f"{field} must be {' or '.join(map(repr, allowed))}, not"
                    f" {short(getattr(self, field))}."
                )
        multiple = whole(self.multiple, "multiple")
        min_heads = whole(self.min_heads, "min_heads")
        if multiple not in MULTIPLES or not 0 <= min_heads <= 64:
            raise PlanError(
                f"multiple must be one of {', '.join(map(str, MULTIPLES))} and min_heads lie"
                " between 0 and 64."
            )
        protect = number_within(self.protect, "protect", 1.0)
        if self.method == "magnitude" and (self.allocation != "uniform" or self.scope != "stage"):
            raise PlanError(
                "method 'magnitude' is a baseline with equal ratios: choose allocation 'uniform'"
                " and scope 'stage' with it."
            )
        checked: dict[str, object] = {
            "boundaries": boundaries,
            "sparsity": sparsity,
            "num_train_timesteps": total,
            "multiple": multiple,
            "min_heads": min_heads,
            "protect": protect,
            "guidance": checked_guidance(self.guidance, STAGES),
            "reuse": checked_reuse(self.reuse, STAGES),
            "reuse_order": whole(self.reuse_order, "reuse_order"),
        }
        if checked["reuse_order"] not in REUSE_ORDERS:
            raise PlanError(f"reuse_order must be 0, 1 or 2, not {short(self.reuse_order)}.")
        if self.stage_steps is not None:
            checked["stage_steps"] = stage_counts(self.stage_steps)
        for field, value in checked.items():
            object.__setattr__(self, field, value)

    # --- stages

    def stage_of(self, t: float) -> int:
        """Return the stage of scheduler timestep `t`: 0 late, 1 middle, 2 early.

        `t` may be fractional.
        """
        t = float(t)
        if not math.isfinite(t):
            raise PlanError("A timestep must be a finite number to have a stage.")
        low, high = self.boundaries
        if t < low:
            return 0
        return 1 if t < high else 2

    def stages_of(self, timesteps: Iterable[float]) -> list[int]:
        """Return the stage of every timestep, in the given order."""
        return [self.stage_of(t) for t in timesteps]

    def stage_range(self, i: int) -> tuple[int, int]:
        """Return the scheduler timesteps [lo, hi) of stage `i` (0 late, 1 middle, 2 early)."""
        if i not in (0, 1, 2):
            raise PlanError("A stage is 0 (late), 1 (middle) or 2 (early).")
        edges = (0, *self.boundaries, self.num_train_timesteps)
        return edges[i], edges[i + 1]

    def steps_per_stage(self, timesteps: Iterable[float]) -> dict[str, int]:
        """Return how many of the sampling timesteps fall into each stage, by stage name."""
        stages = self.stages_of(timesteps)
        return {stage: stages.count(i) for i, stage in enumerate(STAGES)}

    def mean_sparsity(self, timesteps: Iterable[float]) -> float:
        """Return the step-weighted mean of the sparsities, which is what the whole run saves.

        Sum of w_i s_i, with w_i the share of the steps in stage i.
        """
        return float(self.step_shares(timesteps) @ np.array(self.sparsity))

    def step_shares(self, timesteps: Iterable[float]) -> np.ndarray:
        """Return the share of the sampling timesteps in every stage, (3,). Raises PlanError."""
        counts = np.array(list(self.steps_per_stage(timesteps).values()), dtype=np.float64)
        if counts.sum() == 0:
            raise PlanError("There must be at least one sampling step to weigh the stages by.")
        return counts / counts.sum()

    @property
    def plain(self) -> bool:
        """Say whether every layer of a stage loses the stage's share, at any width."""
        return (
            self.allocation == "uniform"
            and self.scope == "stage"
            and self.multiple == 0
            and self.min_heads == 1
            and self.protect == 0.0
        )

    # --- guidance

    @property
    def sets_guidance(self) -> bool:
        """Say whether a stage has a guidance of its own."""
        return any(scale is not None for scale in self.guidance)

    def halves(self, run: int) -> tuple[int, int, int]:
        """Return the denoiser rows per image in the late, middle and early stage.

        run: rows per image where the run's own guidance holds, 2 with guidance, else 1.
        """
        late, middle, early = (run if g is None else rows_of(g) for g in self.guidance)
        return late, middle, early

    def with_guidance(
        self,
        late: float | None = None,
        middle: float | None = None,
        early: float | None = None,
    ) -> StagePlan:
        """Return the same plan with other guidance of its stages; None: the run's own."""
        return replace(self, guidance=(late, middle, early))

    # --- reuse

    @property
    def reuses(self) -> bool:
        """Say whether a stage reuses what its full steps gave."""
        return max(self.reuse) > 1

    def full_steps(self, stages: Iterable[int]) -> list[bool]:
        """Return which model calls of a run run in full: the first of a stage, and every k-th.

        stages: of every model call in turn, as `stages_of` gives them; -1 always runs in full.
        """
        full, last, count = [], None, 0
        for stage in stages:
            count = count + 1 if stage == last else 0
            last = stage
            full.append(stage < 0 or count % self.reuse[stage] == 0)
        return full

    @property
    def cut(self) -> StagePlan:
        """Return the plan without what its networks do not depend on: name, guidance, reuse."""
        return replace(self, name="", guidance=(None, None, None), reuse=(1, 1, 1), reuse_order=0)

    # --- edits

    def with_equal_shares(self) -> StagePlan:
        """Return the same cut, guidance and reuse with equal shares in every layer, unnamed."""
        return StagePlan(
            self.boundaries,
            self.sparsity,
            num_train_timesteps=self.num_train_timesteps,
            guidance=self.guidance,
            reuse=self.reuse,
            reuse_order=self.reuse_order,
        )

    def with_boundaries(self, low: int, high: int) -> StagePlan:
        """Return the same plan with other boundaries."""
        return replace(self, boundaries=(low, high), stage_steps=None)

    def on_timesteps(self, total: int) -> StagePlan:
        """Return the same plan on another number of training timesteps.

        The boundaries keep their place in the trajectory, to a whole timestep. Raises PlanError.
        """
        total = whole(total, "num_train_timesteps")
        low, high = (round(b * total / self.num_train_timesteps) for b in self.boundaries)
        low = min(max(low, 1), total - 2)
        moved = low, min(max(high, low + 1), total - 1)
        return replace(self, boundaries=moved, num_train_timesteps=total, stage_steps=None)

    def on_edges(self, edges: Sequence[int]) -> StagePlan:
        """Return the plan with its boundaries moved to the nearest of these ascending timesteps.

        The first and the last edge are the ends of all timesteps, where no boundary can lie.
        """
        inner = edges[1:-1]
        if len(inner) < 2:
            return self  # two boundaries need two edges
        # the last edge is left for the high boundary
        low = min(inner[:-1], key=lambda e: abs(e - self.boundaries[0]))
        high = min((e for e in inner if e > low), key=lambda e: abs(e - self.boundaries[1]))
        return self.with_boundaries(low, high)

    def counted(self, timesteps: Iterable[float]) -> StagePlan:
        """Return the plan for a run of these sampling timesteps.

        With scope "run", store how many steps fall into each stage, by which one budget weighs its
        stages; other plans are returned without stored steps, as they mean the same in every run.
        """
        steps = None
        if self.scope == "run":
            late, middle, early = self.steps_per_stage(timesteps).values()
            steps = (late, middle, early) if late + middle + early else None
        return replace(self, stage_steps=steps)

    @property
    def stage_weights(self) -> tuple[int, int, int]:
        """Return the weights of the stages in one budget.

        They are the sampling steps of a stage, or its timesteps where no run is named.
        """
        if self.stage_steps is not None:
            return self.stage_steps
        low, high = self.boundaries
        return low, high - low, self.num_train_timesteps - high

    def with_sparsity(self, late: float, middle: float, early: float) -> StagePlan:
        """Return the same plan with other sparsities."""
        return replace(self, sparsity=(late, middle, early))

    def scaled_to(self, target: float, timesteps: Iterable[float]) -> StagePlan:
        """Return the same proportions with a step-weighted mean of `target`.

        What exceeds 0.95 is shared out over the other stages. A plan without any sparsity has no
        proportions and becomes uniform. Raises PlanError when the target cannot be reached.
        """
        weights = self.step_shares(timesteps)
        shape = np.array(self.sparsity)
        if weights @ shape == 0:
            shape = np.ones(3)
        mean = number_within(target, "The target sparsity")
        return self.with_sparsity(*share_out(shape, weights, mean, MAX_SPARSITY))

    # --- JSON

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a plan file, with optional fields that differ from the default."""
        plain: dict[str, Any] = {
            "boundaries": list(self.boundaries),
            "sparsity": dict(zip(STAGES, self.sparsity, strict=True)),
        }
        optional = {
            f.name: getattr(self, f.name)
            for f in fields(self)[2:]
            if getattr(self, f.name) != f.default
        }
        if self.stage_steps is not None:
            optional["stage_steps"] = dict(zip(STAGES, self.stage_steps, strict=True))
        if self.sets_guidance:
            optional["guidance"] = {
                stage: int(scale) if scale.is_integer() else scale
                for stage, scale in zip(STAGES, self.guidance, strict=True)
                if scale is not None
            }
        if self.reuses:
            optional["reuse"] = {
                stage: k for stage, k in zip(STAGES, self.reuse, strict=True) if k > 1
            }
        return plain | optional

    def dumps(self) -> str:
        """Return the text of a plan file."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"

    def dumps_short(self) -> str:
        """Return the text of a plan on one line without spaces, for an address."""
        return json.dumps(self.to_json(), separators=(",", ":"))

    @classmethod
    def from_json(cls, plan: dict[str, Any] | str) -> StagePlan:
        """Make a plan from plain data or from JSON text.

        Raises PlanError for unknown keys, wrong types and impossible values.
        """
        plain: Any = parse(plan) if isinstance(plan, str) else plan
        known = [f.name for f in fields(cls)]
        check_keys(plain, "A plan", known, required=known[:2])
        by_stage = {}
        for key in ("sparsity", "stage_steps"):
            if key == "sparsity" or plain.get(key) is not None:
                check_keys(plain[key], key, STAGES, required=STAGES)
                by_stage[key] = tuple(plain[key][stage] for stage in STAGES)
        return cls(**{**plain, **by_stage})

    @classmethod
    def load(cls, path: Path | str) -> StagePlan:
        """Read a plan file. Raises PlanError, also when the file is missing or is not text."""
        try:
            path = Path(given_path(path, "The path of the plan"))
        except StudioError as err:
            raise PlanError(str(err)) from err
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise PlanError(f"The plan file {path.name} is larger than 1 MB; it is not a plan.")
            text = data.decode("utf-8-sig")
        except FileNotFoundError as err:
            raise PlanError(f"The plan file {path} does not exist; check the path.") from err
        except UnicodeDecodeError as err:
            raise PlanError(
                f"The plan file {path.name} is not UTF-8 text; save it as JSON."
            ) from err
        except (OSError, ValueError) as err:
            raise PlanError(
                f"The plan file {path} cannot be read ({type(err).__name__}); check the path."
            ) from err
        return cls.from_json(text)
