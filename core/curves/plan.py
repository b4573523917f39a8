"""The stage plan: two boundaries and three sparsities, the one description of a configuration, and
how to propose one.

Stages are named as sampling meets them: *early* is noisy (large t, first), *late* is almost clean
(small t, last). Boundaries are scheduler timesteps counted from 0: late t < low, middle low <= t <
high, early t >= high.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import PlanError, StudioError
from ..paths import given_path
from .dynamics import DEFAULT_THRESHOLD, Curves, curves
from .noise import NUM_TRAIN_TIMESTEPS, NoiseSchedule
from .plan_checks import (
    MAX_SPARSITY,
    check_keys,
    number_within,
    parse,
    share_out,
    short,
    stage_counts,
    whole,
)

STAGES = ("late", "middle", "early")
PROPOSAL_CLIP = 0.7  # the formula never proposes more than this for a stage
PAPER_EYE = (0.2, 0.6)  # the paper's Fig. 3: fast learning for t in (200, 600) of 1000
FLAT_SPAN = 0.15  # the flatter preset stays within target +- this
MIN_STAGE_SHARE = 0.02  # a smaller proposed stage is not worth a subnetwork: fall back
MAX_FILE_BYTES = 1_000_000
METHODS = ("obs", "magnitude")
CALIBRATIONS = ("stage", "pooled")
ALLOCATIONS = ("uniform", "log_ramp", "lagrangian", "dynamic")  # see core.allocation
SCOPES = ("stage", "run")
MULTIPLES = (0, 16, 64, 128)
# what sharing counts: work, or time as it was measured on the device at hand
COSTS = ("macs", "latency")


@dataclass(frozen=True)
class StagePlan:
    """Which share of heads and neurons is removed in which part of the trajectory. Immutable,
    always valid.

    Raises PlanError, one sentence, for anything that cannot be.
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

    def __post_init__(self) -> None:
        total = whole(self.num_train_timesteps, "num_train_timesteps")
        if not 3 <= total <= 100_000:
            raise PlanError(f"num_train_timesteps must lie between 3 and 100000, not {total}.")
        if not isinstance(self.boundaries, (list, tuple)) or len(self.boundaries) != 2:
            raise PlanError(
                "boundaries must be two whole numbers, low then high, such as [93, 550]."
            )
        low, high = (whole(b, "boundaries") for b in self.boundaries)
        if not 0 < low < high < total:
            raise PlanError(
                f"boundaries must satisfy 0 < low < high < {total}, but they are {short(low)} and"
                f" {short(high)}."
            )
        if not isinstance(self.sparsity, (list, tuple)) or len(self.sparsity) != 3:
            raise PlanError("sparsity must have three numbers: late, middle and early.")
        sparsity = tuple(
            number_within(s, f"The sparsity of the {stage} stage")
            for s, stage in zip(self.sparsity, STAGES, strict=True)
        )
        if not isinstance(self.name, str) or len(self.name) > 200:
            raise PlanError("name must be a text of at most 200 characters.")
        # JSON allows half a character, no file and no page does
        if any("\ud800" <= c <= "\udfff" for c in self.name):
            raise PlanError("name has a character that is not valid Unicode; write another name.")
        for field, allowed in (
            ("method", METHODS),
            ("calibration", CALIBRATIONS),
            ("allocation", ALLOCATIONS),
            ("scope", SCOPES),
            ("costs", COSTS),
        ):
            if getattr(self, field) not in allowed:
                raise PlanError(
                    f"{field} must be {' or '.join(map(repr, allowed))}, not"
                    f" {short(getattr(self, field))}."
                )
        multiple, min_heads = whole(self.multiple, "multiple"), whole(self.min_heads, "min_heads")
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
        if self.stage_steps is not None:
            object.__setattr__(self, "stage_steps", stage_counts(self.stage_steps))
        checked = {"boundaries": (low, high), "sparsity": sparsity, "num_train_timesteps": total}
        checked |= {"multiple": multiple, "min_heads": min_heads, "protect": protect}
        for field, value in checked.items():
            object.__setattr__(self, field, value)

    # --- stages

    def stage_of(self, t: float) -> int:
        """0 late, 1 middle, 2 early: the one stage of scheduler timestep `t`, which may be
        fractional.
        """
        t = float(t)
        if not math.isfinite(t):
            raise PlanError("A timestep must be a finite number to have a stage.")
        low, high = self.boundaries
        return 0 if t < low else 1 if t < high else 2

    def stages_of(self, timesteps: Iterable[float]) -> list[int]:
        """Stage of every timestep, in the given order."""
        return [self.stage_of(t) for t in timesteps]

    def stage_range(self, i: int) -> tuple[int, int]:
        """(lo, hi), half-open: the scheduler timesteps of stage `i` (0 late, 1 middle, 2 early)."""
        if i not in (0, 1, 2):
            raise PlanError("A stage is 0 (late), 1 (middle) or 2 (early).")
        edges = (0, *self.boundaries, self.num_train_timesteps)
        return edges[i], edges[i + 1]

    def steps_per_stage(self, timesteps: Iterable[float]) -> dict[str, int]:
        """How many of the sampling timesteps fall into each stage, by stage name."""
        stages = self.stages_of(timesteps)
        return {stage: stages.count(i) for i, stage in enumerate(STAGES)}

    def mean_sparsity(self, timesteps: Iterable[float]) -> float:
        """Step-weighted mean of the sparsities: what the whole run saves, sum of w_i s_i with w_i =
        n_i / n.
        """
        return float(self._weights(timesteps) @ np.array(self.sparsity))

    def _weights(self, timesteps: Iterable[float]) -> np.ndarray:
        counts = np.array(list(self.steps_per_stage(timesteps).values()), dtype=np.float64)
        if counts.sum() == 0:
            raise PlanError("There must be at least one sampling step to weigh the stages by.")
        return counts / counts.sum()

    @property
    def plain(self) -> bool:
        """Whether every layer of a stage simply loses the stage's share, on the free menu of
        widths.
        """
        return (self.allocation, self.multiple, self.min_heads, self.protect) == (
            "uniform",
            0,
            1,
            0.0,
        ) and self.scope == "stage"

    # --- edits

    def with_boundaries(self, low: int, high: int) -> StagePlan:
        """The same plan with other boundaries."""
        return replace(self, boundaries=(low, high), stage_steps=None)

    def counted(self, timesteps: Iterable[float]) -> StagePlan:
        """The plan for a run of these sampling timesteps: one budget over all stages weighs them by
        their steps; other plans mean the same in every run.
        """
        counts = tuple(self.steps_per_stage(timesteps).values()) if self.scope == "run" else None
        return replace(self, stage_steps=counts if counts and any(counts) else None)

    @property
    def stage_weights(self) -> tuple[int, int, int]:
        """What a stage counts for in one budget: its sampling steps, or the timesteps it spans
        where no run is named.
        """
        return self.stage_steps or tuple(
            high - low for low, high in map(self.stage_range, range(3))
        )

    def with_sparsity(self, late: float, middle: float, early: float) -> StagePlan:
        """The same plan with other sparsities."""
        return replace(self, sparsity=(late, middle, early))

    def scaled_to(self, target: float, timesteps: Iterable[float]) -> StagePlan:
        """The same proportions with a step-weighted mean of `target`; what exceeds 0.95 is shared
        out over the other stages.

        A plan without any sparsity has no proportions and becomes uniform. Raises PlanError when
        the target cannot be reached.
        """
        weights, shape = self._weights(timesteps), np.array(self.sparsity)
        if weights @ shape == 0:
            shape = np.ones(3)
        return self.with_sparsity(
            *share_out(shape, weights, number_within(target, "The target sparsity"), MAX_SPARSITY)
        )

    # --- JSON

    def to_json(self) -> dict[str, Any]:
        """Plain data for a plan file; optional fields only where they differ from the default."""
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
        return plain | optional

    def dumps(self) -> str:
        """The text of a plan file."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, plan: dict[str, Any] | str) -> StagePlan:
        """A plan from plain data or from JSON text. Raises PlanError for unknown keys, wrong types
        and impossible values.
        """
        if isinstance(plan, str):
            plan = parse(plan)
        known = [f.name for f in fields(cls)]
        check_keys(plan, "A plan", known, required=known[:2])
        sparsity = plan["sparsity"]
        check_keys(sparsity, "sparsity", STAGES, required=STAGES)
        stages = {"sparsity": tuple(sparsity[stage] for stage in STAGES)}
        if plan.get("stage_steps") is not None:
            check_keys(plan["stage_steps"], "stage_steps", STAGES, required=STAGES)
            stages["stage_steps"] = tuple(plan["stage_steps"][stage] for stage in STAGES)
        return cls(**plan | stages)

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


@dataclass(frozen=True)
class Proposal:
    """A proposed plan with the rule behind it in one plain sentence."""

    plan: StagePlan
    rule: str
    fallback: bool  # the boundaries are ours, not the paper's rule
    threshold: float  # M
    lam: float


def propose_plan(
    schedule: NoiseSchedule,
    target: float = 0.33,
    timesteps: Sequence[float] | None = None,
    m: float = DEFAULT_THRESHOLD,
    lam: float | None = None,
    variance: float = 1.0,
    flat: bool = False,
) -> Proposal:
    """Boundaries by the paper's threshold rule, sparsities in proportion to 1 - mean score of the
    stage.

    `timesteps` are the sampling timesteps whose counts weigh the stages (default: every training
    timestep), so that the step-weighted mean is `target`. `flat` keeps every stage within target +-
    0.15. Raises PlanError for a target that cannot be reached with at most 0.7 in each stage.
    """
    if isinstance(m, bool) or not isinstance(m, Real) or not 0 < m < 1:
        raise PlanError("The threshold M must be a number between 0 and 1.")
    c = curves(schedule, variance, lam)
    if c.score.max() <= 0:
        raise PlanError(
            f"With lambda = {c.lam:g} every score is negative, so there is no threshold to cut at;"
            " choose a smaller lambda."
        )
    boundaries, fallback = _boundaries(c, float(m))
    sparsity = _formula(
        c, boundaries, number_within(target, "The target sparsity"), timesteps, flat
    )
    name = "Formula, flatter" if flat else "Formula"
    constants = f"M = {m:g}, lambda = {c.lam:g}" + (
        ", our default as the paper does not give its own" if lam is None else ""
    )
    rule = _rule(
        boundaries,
        constants,
        float(target),
        fallback,
        flat,
        None if timesteps is None else len(timesteps),
    )
    return Proposal(_plan(c, boundaries, sparsity, name=name), rule, fallback, float(m), c.lam)


def preset_names(total: int = NUM_TRAIN_TIMESTEPS) -> tuple[str, str, str, str]:
    """Name the presets of a model with `total` training timesteps, in their order."""
    low, high = _eye(total)
    return "Formula", "Formula, flatter", f"Paper's eye [{low}, {high}]", "Uniform"


def _eye(total: int) -> tuple[int, int]:
    """Place the paper's fast stretch on `total` timesteps, of which even three get three stages."""
    low = min(max(1, round(PAPER_EYE[0] * total)), total - 2)
    return low, min(max(low + 1, round(PAPER_EYE[1] * total)), total - 1)


def presets(
    schedule: NoiseSchedule, target: float = 0.33, timesteps: Sequence[float] | None = None
) -> dict[str, StagePlan]:
    """Plans to start from, by name, all with a step-weighted mean sparsity of `target`.

    Uniform is the baseline of one network for all timesteps: equal sparsities and one pooled
    calibration.
    """
    target, c = number_within(target, "The target sparsity"), curves(schedule)
    formula = propose_plan(schedule, target, timesteps).plan
    eye, (*_, eye_name, uniform_name) = _eye(len(schedule)), preset_names(len(schedule))
    plans = (
        formula,
        propose_plan(schedule, target, timesteps, flat=True).plan,
        _plan(c, eye, _formula(c, eye, target, timesteps, False), name=eye_name),
        replace(formula, sparsity=(target,) * 3, calibration="pooled", name=uniform_name),
    )
    return {plan.name: plan for plan in plans}


def _boundaries(c: Curves, m: float) -> tuple[tuple[int, int], bool]:
    """((low, high), fallback): the contiguous stretch around the peak of Grad where score >= M max
    score.

    A plain above/below test breaks into pieces for large lambda. Schedules whose Grad peaks at an
    end leave a stage (nearly) empty; there the cuts are at equal thirds of the total MSE, which is
    our rule and not the paper's.
    """
    total, above = len(c.score), c.score >= m * c.score.max()
    low = high = int(c.gradient.argmax())
    if above[low]:
        while low > 0 and above[low - 1]:
            low -= 1
        while high < total and above[high]:
            high += 1
    least = max(1, math.ceil(MIN_STAGE_SHARE * total))
    if min(low, high - low, total - high) >= least:
        return (low, high), False
    low, high = (int(i) for i in np.searchsorted(c.mse, c.mse[-1] * np.array([1 / 3, 2 / 3])))
    low = min(max(low, least), total - 2 * least)
    return (low, min(max(high, low + least), total - least)), True


def _formula(
    c: Curves,
    boundaries: tuple[int, int],
    target: float,
    timesteps: Sequence[float] | None,
    flat: bool,
) -> tuple[float, float, float]:
    """s_i = S (1 - m_i) / sum_j w_j (1 - m_j), m_i the mean of clip(score / max, 0, 1) over the
    stage, each at most 0.7.
    """
    plan = _plan(c, boundaries, (0.0, 0.0, 0.0))
    weights = plan._weights(c.timesteps if timesteps is None else timesteps)
    importance = np.clip(c.score / c.score.max(), 0, 1)
    shape = np.array([1 - importance[slice(*plan.stage_range(i))].mean() for i in range(3)])
    sparsity = share_out(shape, weights, target, PROPOSAL_CLIP)
    widest = np.abs(sparsity - target).max()
    # shrinking all deviations together leaves the weighted mean where it is
    if flat and widest > FLAT_SPAN:
        sparsity = target + (sparsity - target) * FLAT_SPAN / widest
    return tuple(float(s) for s in sparsity)


def _plan(
    c: Curves, boundaries: tuple[int, int], sparsity: tuple[float, float, float], name: str = ""
) -> StagePlan:
    return StagePlan(boundaries, sparsity, name=name, num_train_timesteps=len(c.timesteps))


def _rule(
    boundaries: tuple[int, int],
    constants: str,
    target: float,
    fallback: bool,
    flat: bool,
    steps: int | None,
) -> str:
    if fallback:
        where = (
            f"equal thirds of the total MSE, our fallback because the paper's rule ({constants})"
            " leaves a stage nearly empty"
        )
    else:
        where = f"the paper's rule, score >= M max score around the steepest MSE ({constants})"
    how = f", kept within {FLAT_SPAN:g} of {target:g}" if flat else ""
    low, high = boundaries
    over = "all timesteps" if steps is None else f"{steps} runs of the network"
    shares = (
        f"sparsity in proportion to 1 - mean score of the stage{how}, step-weighted mean {target:g}"
        f" over {over}"
    )
    return f"Boundaries [{low}, {high}] by {where}; {shares}."
