"""Name what differs between two runs, two sides or two plans, and only that."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

from ..curves.guidance_words import own_guidance, scale_words
from ..curves.plan import StagePlan, as_sampled
from ..errors import StudioError
from .run import Run, RunSide

# field of a plan -> what it is called, in the order of the list
PLAN_WORDS = {
    "method": "method",
    "calibration": "compensation per",
    "num_train_timesteps": "training timesteps",
    "allocation": "sharing",
    "scope": "one budget per",
    "multiple": "kept neurons are a multiple of",
    "costs": "costs counted in",
    "min_heads": "heads kept at least",
    "protect": "kept of the first and last block",
    "stage_steps": "steps of the early, middle and late stage",
}


class Difference(NamedTuple):
    """One thing that differs, and its two values in words."""

    what: str
    a: str
    b: str


def differences(
    a: Run | RunSide | StagePlan | None, b: Run | RunSide | StagePlan | None
) -> list[Difference]:
    """Return what differs between two runs, two sides, or two plans (None: dense).

    Two runs: what both sides share (model, images, seed, solver, steps, guidance, precision,
    device, versions), then the plans of their sides, marked A and B. Two sides: their plans and
    their denoiser calls. A plan's name is no difference. Raises PlanError for a plan of a newer
    version, StudioError for a run beside a side.
    """
    if isinstance(a, Run) and isinstance(b, Run):
        return _runs(a, b)
    if isinstance(a, RunSide) and isinstance(b, RunSide):
        return _sides(a, b)
    if isinstance(a, (Run, RunSide)) or isinstance(b, (Run, RunSide)):
        raise StudioError("Compare two runs, two sides or two plans.")
    return _plans(a, b)


def _runs(a: Run, b: Run) -> list[Difference]:
    """Return what differs between two runs."""
    found = []
    if a.model_key != b.model_key:
        found.append(_told_apart("model", (a.model, a.model_key), (b.model, b.model_key)))
    if a.images_key != b.images_key:
        found.append(_told_apart("images", (a.images, a.images_key), (b.images, b.images_key)))
    ours, theirs = _shared(a), _shared(b)
    found += [
        Difference(what, _said(ours[what]), _said(theirs[what]))
        for what in ours
        if ours[what] != theirs[what]
    ]
    for letter, one, other in (("A", a.a, b.a), ("B", a.b, b.b)):
        rows = _plans(one.plan, other.plan) if a.steps != b.steps else _sides(one, other)
        found += [row._replace(what=f"{letter}: {row.what}") for row in rows]
    return found


def _shared(run: Run) -> dict[str, Any]:
    """Return what both sides of a run share, by what it is called."""
    own = "the model's own"
    return {
        "size in pixels": own if run.height is None else f"{run.height} × {run.width}",
        "seed": run.seed,
        "solver": run.scheduler,
        "steps": run.steps,
        "guidance": run.guidance,
        "precision": run.dtype or "as loaded",
        "adaLN from a table": bool(run.tabulate),
        "mode": run.mode,
        "device": run.device,
        "mosaicdiff": run.versions.mosaicdiff,
        "torch": run.versions.torch,
        "diffusers": run.versions.diffusers,
    }


def _sides(a: RunSide, b: RunSide) -> list[Difference]:
    """Return what differs between two sides."""
    found = _plans(a.plan, b.plan)
    if None not in (a.calls, b.calls) and a.calls != b.calls:
        found.append(Difference("denoiser calls per image", str(a.calls), str(b.calls)))
    return found


def _plans(a: StagePlan | None, b: StagePlan | None) -> list[Difference]:
    """Return what differs between two plans, None for dense."""
    if a is None or b is None:
        return [] if a is b else [Difference("plan", plan_words(a), plan_words(b))]
    found = []
    if a.boundaries != b.boundaries:
        found.append(Difference("boundaries (timesteps)", *map(_boundaries, (a, b))))
    for (stage, one), (_, other) in zip(
        as_sampled(a.sparsity), as_sampled(b.sparsity), strict=True
    ):
        if one != other:
            found.append(Difference(f"removed in the {stage} stage", *_shares(one, other)))
    for (stage, own), (_, its) in zip(as_sampled(a.guidance), as_sampled(b.guidance), strict=True):
        if own != its:
            words = scale_words(own), scale_words(its)
            found.append(Difference(f"guidance in the {stage} stage", *words))
    for field, what in PLAN_WORDS.items():
        one, other = getattr(a, field), getattr(b, field)
        # a plan that counts no steps takes those of its run
        if one != other and not (field == "stage_steps" and None in (one, other)):
            found.append(Difference(what, _said_of(field, one), _said_of(field, other)))
    return found


def plan_words(plan: StagePlan | None) -> str:
    """Return a plan on one line: boundaries, what each stage loses, and what is not the default."""
    if plan is None:
        return "dense"
    removed = ", ".join(f"{s} {_share(x)}" for s, x in as_sampled(plan.sparsity))
    extra = [
        f"{PLAN_WORDS[f.name]} {_said_of(f.name, getattr(plan, f.name))}"
        for f in fields(plan)
        if f.name in PLAN_WORDS and getattr(plan, f.name) != f.default
    ]
    own = [f"guidance {own_guidance(plan)}"] if plan.sets_guidance else []
    return "; ".join([f"boundaries {_boundaries(plan)}", f"removed {removed}", *own, *extra])


def _told_apart(what: str, a: tuple[str, str], b: tuple[str, str]) -> Difference:
    """Return a difference of things with a name and a hash; equal names get their hash."""
    if a[0] != b[0]:
        return Difference(what, a[0], b[0])
    return Difference(what, *(f"{name} ({key[:8]})" for name, key in (a, b)))


def _boundaries(plan: StagePlan) -> str:
    return f"{plan.boundaries[0]} and {plan.boundaries[1]}"


def _share(value: float, digits: int = 3) -> str:
    return f"{100 * value:.{digits}g} %"


def _shares(a: float, b: float) -> tuple[str, str]:
    """Write two shares with as few digits as tell them apart."""
    digits = next((n for n in (3, 4) if _share(a, n) != _share(b, n)), 6)
    return _share(a, digits), _share(b, digits)


def _said_of(field: str, value: object) -> str:
    """Return the value of a plan's field in words; what is per stage goes by sampling order."""
    if field == "stage_steps" and isinstance(value, tuple):
        value = value[::-1]
    return _said(value)


def _said(value: object) -> str:
    """Return a value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)
