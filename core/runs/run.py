"""Hold what is known of a kept run and of a kept plan, as the lists of them show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

from ..curves.plan import StagePlan

T = TypeVar("T")
Status = Literal["running", "finished", "stopped", "failed"]
# how a run may end
ENDS: tuple[Status, ...] = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class RunSide:
    """One side of a run. Numbers are None while it runs and where nothing was measured."""

    name: str
    plan_json: str | None  # None: dense
    seconds: float | None  # median over the timed runs, denoiser only, all images
    seconds_spread: float | None  # None for one timed run
    macs: int | None  # denoiser, whole run, all images
    predicted_seconds: float | None
    calls: int | None  # of the denoiser, per image
    fid: float | None
    class_accuracy: float | None  # 0 to 1

    @property
    def plan(self) -> StagePlan | None:
        """Return the plan, or None for dense. Raises PlanError for one of a newer version."""
        return None if self.plan_json is None else StagePlan.from_json(self.plan_json)


@dataclass(frozen=True)
class Versions:
    """The versions of what computed and showed a run; None where it was not there."""

    mosaicdiff: str | None
    torch: str | None
    diffusers: str | None
    gradio: str | None


@dataclass(frozen=True)
class Run:
    """One comparison as the database knows it; `RunStore.comparison` has the pictures.

    `name` and `notes` are a user's, any text: whoever shows them escapes them.
    """

    id: str
    status: Status
    sentence: str  # why it stopped or failed
    name: str
    notes: str
    created: float  # seconds since 1970
    updated: float
    done: int  # progress of a run that goes on: `done` of `total`, and what it does
    total: int
    said: str
    process: str  # mark of the process that it runs in; empty for one that has ended
    model: str
    model_key: str  # `Workshop.model_key`
    device: str
    when: str  # local time, for people
    steps: int
    scheduler: str
    guidance: float
    seed: int
    repeats: int  # timed runs of each side that were asked for
    n: int  # images of each side
    dtype: str | None  # None: as the model was loaded
    tabulate: int  # 1: adaLN vectors came from a table, else 0
    mode: str  # how networks ran, one of core.mosaic.modes.MODES
    height: int | None  # pixels; None: the model's own
    width: int | None
    images: str  # classes or prompts in words
    images_key: str  # hash of classes, prompts and negative prompt
    timed_runs: int | None
    speedup: float | None  # measured: seconds of A / seconds of B
    speedup_spread: float | None
    speedup_predicted: float | None
    speedup_macs: float | None
    psnr: float | None  # dB, mean over the images that differ; None when all are equal
    ssim: float | None
    latent_mse: float | None
    verdict: str
    remarks: str  # notes that the comparison itself made
    versions: Versions
    a: RunSide
    b: RunSide

    @property
    def pruned(self) -> dict[str, RunSide]:
        """Return the sides that ran a plan, by their letters; two equal ones are B alone."""
        sides = {"a": self.a, "b": self.b}
        if (self.a.plan_json, self.a.calls) == (self.b.plan_json, self.b.calls):
            del sides["a"]
        return {letter: side for letter, side in sides.items() if side.plan_json is not None}


@dataclass(frozen=True)
class KeptPlan:
    """A plan that was kept under a name, and the model that it was made for."""

    id: str
    name: str  # unique among the kept plans
    plan_json: str
    model_key: str
    model: str
    created: float  # seconds since 1970

    @property
    def plan(self) -> StagePlan:
        """Return the plan under its kept name. Raises PlanError for one of a newer version."""
        return replace(StagePlan.from_json(self.plan_json), name=self.name)


def _names(cls: type) -> tuple[str, ...]:
    """Return the names of a dataclass's fields."""
    return tuple(f.name for f in fields(cls))


PLAN_COLUMNS = _names(KeptPlan)
FIELDS = _names(Run)
OWN = FIELDS[:-3]
VERSIONS = _names(Versions)
SIDE = _names(RunSide)
# columns of a row, in the order of `from_rows`
COLUMNS = (*OWN, *VERSIONS, *(f"a_{name}" for name in SIDE), *(f"b_{name}" for name in SIDE))


def from_rows(rows: Sequence[tuple]) -> list[Run]:
    """Return the runs of rows of `COLUMNS`, thousands of them in milliseconds."""
    own = len(OWN)
    versions = own + len(VERSIONS)
    a = versions + len(SIDE)
    # few kinds, shared by many runs
    seen = {kind: Versions(*kind) for kind in {row[own:versions] for row in rows}}
    return [
        _filled(
            Run,
            FIELDS,
            (
                *row[:own],
                seen[row[own:versions]],
                _filled(RunSide, SIDE, row[versions:a]),
                _filled(RunSide, SIDE, row[a:]),
            ),
        )
        for row in rows
    ]


def _filled(cls: type[T], names: tuple[str, ...], values: tuple) -> T:
    """Return an instance of a frozen dataclass, in half the time that its `__init__` takes."""
    made = object.__new__(cls)
    vars(made).update(zip(names, values, strict=True))
    return made
