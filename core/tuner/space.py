"""Turn the numbers of a search into configurations that keep a budget of work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..curves.plan import STAGES, StagePlan
from ..curves.proposals import propose_plan
from ..errors import StudioError
from ..mosaic.modes import PLAIN
from ..workshop.compare import visited
from ..workshop.workshop import Workshop
from .configuration import Configuration
from .goal import Goal
from .record import Cost

Params = dict[str, Any]

SOLVERS = ("UniPC", "DPM-Solver++", "DDIM")
FEWEST, MOST = 3, 50  # sampling steps
MOST_REMOVED = 0.8  # of a stage
HALVINGS = 12  # of the factor on the sparsities
LOW, HIGH = (0.02, 0.45), (0.3, 0.97)  # where the boundaries may lie, as a share of the timesteps
NARROWEST = 0.05  # middle stage, as a share of the timesteps
SCALES = (0.7, 1.8)  # of the run's guidance
SAME = 0.03  # a scale so near to 1 is the run's own
REUSE_FROM = 5  # steps below which nothing is reused
MOST_REUSE = 3
CHEAP_STEPS = 2 * MOST_REUSE  # more of them, with as much reuse, cost more
REUSED: Params = {f"reuse {stage}": 2 for stage in STAGES} | {"forecast": True}
SHAPES = 48  # shapes of sparsity among which the error curves choose
OVER = 1.0005  # rounding of a budget


@dataclass(frozen=True)
class Range:
    """The values that one number of a search may take: from low to high, or one of `choices`."""

    low: float = 0.0
    high: float = 1.0
    whole: bool = False
    log: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Space:
    """What a search may change, and how a budget is kept.

    reference: the dense configuration that budgets are shares of. steps, scheduler: fixed, or None.
    moves: whether guidance may differ from the reference's. batch: images of predicted seconds.
    mode: that networks will run in, one of `core.mosaic.modes.MODES`; steps are reused in plain
    runs only. cuts: whether anything may be removed from the network.
    """

    workshop: Workshop
    reference: Configuration
    cost: Cost = "macs"
    steps: int | None = None
    scheduler: str | None = None
    moves: bool = True
    batch: int = 16
    mode: str = PLAIN
    cuts: bool = True

    # ------------------------------------------------------------ numbers of the search

    @property
    def guided(self) -> bool:
        """Say whether the reference runs with guidance that a stage may change."""
        return self.moves and self.reference.halves == 2

    def ranges(self) -> dict[str, Range]:
        """Return the range of every number of the search, by name."""
        found = {
            "scheduler": Range(choices=(self.scheduler,) if self.scheduler else SOLVERS),
            "steps": Range(self.steps or FEWEST, self.steps or MOST, whole=True, log=True),
            "low": Range(*LOW),
            "high": Range(*HIGH),
        }
        if self.cuts:
            found |= {stage: Range() for stage in STAGES}
        if self.guided:
            found |= {
                "off early": Range(choices=(False, True)),
                "off late": Range(choices=(False, True)),
                "scale": Range(*SCALES),
            }
        if self.cuts and self._curves_known:
            found["dynamic"] = Range(choices=(False, True))
        if self._may_reuse(self.steps or MOST):
            found |= {f"reuse {stage}": Range(1, MOST_REUSE, whole=True) for stage in STAGES}
            found["forecast"] = Range(choices=(False, True))
        return found

    def _may_reuse(self, steps: int) -> bool:
        """Say whether runs of so many steps may reuse what some of them gave."""
        return self.mode == PLAIN and steps >= REUSE_FROM

    @property
    def _curves_known(self) -> bool:
        """Say whether there are error curves to share a cut over layers by."""
        try:
            _ = self.workshop.orders
        except StudioError:
            return False
        return True

    # ------------------------------------------------------------ configurations

    def spend(self, what: Configuration) -> float:
        """Return the cost of a configuration: MACs of an image, or predicted seconds of a batch.

        Raises StudioError for seconds before this device was timed.
        """
        if self.cost == "macs":
            return what.macs(self.workshop)
        seconds = what.seconds(self.workshop, self.batch, self.mode)
        if seconds is None:
            raise StudioError("How long a forward takes on this device was not measured.")
        return seconds

    def configuration(self, params: Params, budget: float, label: str = "") -> Configuration | None:
        """Return the configuration of some numbers whose sparsities just keep a budget.

        budget: MACs or seconds. label: what it is, where it was not found by the search. None where
        the budget cannot be kept with these numbers.
        """
        steps = int(params["steps"])
        shape = np.array([params[stage] if self.cuts else 0 for stage in STAGES], dtype=float)
        bare = self._bare(params, steps)
        try:
            plan = self._within(bare, params["scheduler"], steps, shape, budget)
        except StudioError:  # a solver that cannot do these steps
            return None
        if plan is None:
            return None
        if params.get("dynamic") and any(plan.sparsity):
            shared = replace(plan, allocation="dynamic")
            try:  # one that rounds to more than was asked for stays uniform
                own = self._named(shared, params["scheduler"], steps)
                plan = shared if self.spend(own) <= budget * OVER else plan
            except StudioError:
                pass
        return self._named(plan, params["scheduler"], steps, label)

    def _bare(self, params: Params, steps: int) -> StagePlan:
        """Return the plan of some numbers before anything is removed."""
        total = len(self.workshop.schedule)
        low = round(params["low"] * total)
        high = max(round(params["high"] * total), low + round(NARROWEST * total))
        late = middle = early = None
        if self.guided:
            scale = params["scale"]
            own = None if abs(scale - 1) < SAME else round(scale * self.reference.guidance, 2)
            middle = own
            late = 1.0 if params["off late"] else own
            early = 1.0 if params["off early"] else own
        may_reuse = self._may_reuse(steps)
        k_late, k_middle, k_early = (
            int(params.get(f"reuse {stage}", 1)) if may_reuse else 1 for stage in STAGES
        )
        return StagePlan(
            (max(1, low), min(high, total - 1)),
            (0.0, 0.0, 0.0),
            num_train_timesteps=total,
            guidance=(late, middle, early),
            reuse=(k_late, k_middle, k_early),
            reuse_order=int(params.get("forecast", False) and max(k_late, k_middle, k_early) > 1),
        )

    def _named(self, plan: StagePlan, scheduler: str, steps: int, label: str = "") -> Configuration:
        """Return the configuration of a plan."""
        return Configuration(plan, scheduler, steps, self.reference.guidance, label)

    def _within(
        self, bare: StagePlan, scheduler: str, steps: int, shape: np.ndarray, budget: float
    ) -> StagePlan | None:
        """Return the plan with as little removed, in this shape, as a budget asks for, or None."""

        def removed(factor: float) -> StagePlan:
            late, middle, early = np.minimum(MOST_REMOVED, factor * shape).round(4).tolist()
            return bare.with_sparsity(late, middle, early)

        def over(factor: float) -> bool:
            own = self._named(removed(factor), scheduler, steps)
            return self.spend(own) > budget * OVER

        if not over(0.0):
            return removed(0.0)
        most = MOST_REMOVED / max(float(shape[shape > 0].min(initial=1.0)), 0.05)
        if not shape.any() or over(most):
            return None
        low, high = 0.0, most
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if over(middle) else (low, middle)
        return removed(high)

    # ------------------------------------------------------------ where a search begins

    def seeds(self, budget: float) -> Iterator[tuple[str, Params]]:
        """Yield labels and numbers to begin a search with: dense in fewer steps, formula, uniform.

        Each with and without guidance in the early stage, where it may change; beside them the
        shape of sparsity and the boundaries that the error curves like best, and dense and formula
        with every second step reused.
        """
        timesteps = visited(self.workshop, SOLVERS[0], 10)
        plan = propose_plan(self.workshop.schedule, 0.33, timesteps).plan
        low, high = (b / len(self.workshop.schedule) for b in plan.boundaries)
        shares = [s / max(plan.sparsity) for s in plan.sparsity]
        base: Params = {"scheduler": self.scheduler or SOLVERS[0], "low": low, "high": high}
        base |= {"scale": 1.0, "off late": False, "dynamic": False, "forecast": False}
        base |= {f"reuse {stage}": 1 for stage in STAGES}
        formula: Params = dict(zip(STAGES, shares, strict=True))
        dense: Params = dict.fromkeys(STAGES, 0.0)
        third, half, fifth, none = (0.33, formula), (0.5, formula), (0.2, formula), (0.0, dense)
        for off in (True, False) if self.guided else (False,):
            start = base | {"off early": off}
            guided = ", guidance off early" if off else ""
            for removed, shape in (third, half, none) if self.cuts else (none,):
                steps = self._steps_for(start | shape, budget / (1 - removed))
                if steps is None:
                    continue
                what = f"formula {removed:g}" if removed else "dense, fewer steps"
                yield what + guided, start | shape | {"steps": steps}
                if removed == third[0]:
                    found = self._by_curves(start | {"steps": steps}, budget)
                    if found is not None:
                        yield "", found
            for removed, shape in (fifth, third, none) if self.cuts else (none,):
                steps = self._steps_for(start | shape | REUSED, budget / (1 - removed))
                if (self.guided and not off) or steps is None or not self._may_reuse(steps):
                    continue
                what = f"formula {removed:g}, reuse 2" if removed else "reuse 2"
                yield f"{what}, forecast{guided}", start | shape | REUSED | {"steps": steps}
        uniform = base | {"off early": False} | dict.fromkeys(STAGES, 1.0)
        steps = self._steps_for(uniform, budget / 0.67) if self.cuts else None
        if steps is not None:
            yield "uniform", uniform | {"steps": steps}

    def _steps_for(self, params: Params, budget: float) -> int | None:
        """Return the steps in which the dense model, guided as these numbers say, costs a budget.

        None where even the fewest cost more.
        """
        if self.steps is not None:
            return self.steps

        def cost(steps: int) -> float:
            bare = self._bare(params, steps)
            return self.spend(self._named(bare, params["scheduler"], steps))

        fits = [n for n in range(FEWEST, MOST + 1) if _tried(cost, n) <= budget * OVER]
        return max(fits, default=None)

    def _by_curves(self, params: Params, budget: float) -> Params | None:
        """Return the numbers with the shape whose layers lose least by the error curves, or None.

        Shapes and boundaries are drawn at random, always the same ones; nothing is sampled.
        """
        random = np.random.default_rng(0)
        best: tuple[float, Params] | None = None
        timesteps: Sequence[float] | None = None
        for _ in range(SHAPES):
            shape = random.uniform(0.05, 1, 3)
            tried = params | dict(zip(STAGES, shape.tolist(), strict=True))
            tried |= {"low": random.uniform(*LOW), "high": random.uniform(*HIGH)}
            found = self.configuration(tried, budget)
            if found is None or found.plan is None or not any(found.plan.sparsity):
                continue
            if timesteps is None:
                timesteps = found.timesteps(self.workshop)
            error = self.workshop.predict(found.plan, list(timesteps)).error
            if error is not None and (best is None or error < best[0]):
                best = error, tried
        return None if best is None else best[1]

    def cheapest(self) -> Configuration:
        """Return the cheapest configuration of the space, which says whether a budget can be met.

        Raises StudioError for a scheduler that cannot do the steps.
        """
        if self.steps is not None:
            return self._cheapest_in(self.steps)
        return min(map(self._cheapest_in, range(FEWEST, CHEAP_STEPS + 1)), key=self.spend)

    def _cheapest_in(self, steps: int) -> Configuration:
        """Return the cheapest configuration of so many steps. Raises StudioError."""
        k = MOST_REUSE if self._may_reuse(steps) else 1
        plan = StagePlan(
            (1, 2),
            (MOST_REMOVED if self.cuts else 0.0,) * 3,
            reuse=(k, k, k),
            num_train_timesteps=len(self.workshop.schedule),
            guidance=(1.0, 1.0, 1.0) if self.guided else (None, None, None),
        )
        first = SOLVERS[0] if self.scheduler is None else self.scheduler
        return self._named(plan, first, steps)

    def check_reachable(self, goal: Goal) -> None:
        """Raise StudioError, with the nearest that can be, for a budget that nothing keeps."""
        cheapest = self.cheapest()
        least, whole = self.spend(cheapest), self.spend(self.reference)
        budget = goal.budget(whole)
        if budget >= least:
            return
        assert cheapest.plan is not None  # it removes what it can
        binds = [f"{cheapest.scheduler} in {cheapest.steps} steps"]
        if self.cuts:
            binds.append(f"{100 * cheapest.plan.sparsity[0]:.0f} % removed")
        if self.guided:
            binds.append("no guidance")
        if cheapest.plan.reuses:
            binds.append(f"every {cheapest.plan.reuse[0]}rd step in full")
        nearest = f"×{whole / least:.1f}" if goal.speedup is not None else f"{least:.3g} s"
        raise StudioError(
            f"{goal.text} cannot be had: the nearest is {nearest}, with"
            f" {', '.join(binds)}. Ask for less"
            f"{', or leave the steps open' if self.steps is not None else ''}."
        )


def _tried(cost: Callable[[int], float], steps: int) -> float:
    """Return a cost, infinite where the solver cannot do so many steps."""
    try:
        return cost(steps)
    except StudioError:
        return float("inf")
