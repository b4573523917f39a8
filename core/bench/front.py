"""Study the front: every contender with every solver, judged by FID against work and time.

Three stages, each of which resumes: `choose` draws few pictures of every contender with several
guidance scales on one seed; `judge` draws many, on other seeds, of those that the tables quote;
`time` measures these in turn. `python -m core.bench front --stage choose --out FILE`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..curves.plan import StagePlan
from ..curves.proposals import presets
from ..errors import StudioError
from ..models.bundled import BUNDLED
from ..sampling.timing import measure_alternating, spread
from ..tuner.configuration import Configuration
from ..tuner.front_rows import (
    ANCHOR,
    BUDGETS,
    FILE,
    USUAL,
    Row,
    chosen_from,
    judged,
    kind_of,
    read_rows,
    shown,
    unbeaten_rows,
    whole_and_pruned,
)
from ..tuner.quality import draw, networks_of
from ..tuner.record import TOLERANCE
from ..tuner.space import REUSE_FROM, SOLVERS
from ..workshop.study import load_study
from ..workshop.workshop import Workshop, get_workshop
from .front_table import as_good_sentences, budget_table, contender_table
from .row_file import RowFile, circumstances, file_beside
from .searches import TUNER, WHOLE
from .studies import AUTO, DTYPES, STUDIES, dtype_of, picture_scores, print_progress

STEPS = (10, 8, 7, 6, 5, 4, 20, 50)  # in the order of worth
LONG = 20  # from so many steps a row costs as much as three
TARGETS = (0.33, 0.5, 0.2)
SCALES = (1.0, 0.8, 1.3)  # of the model's own guidance
CHOOSING: dict[str, Any] = {"n": 500, "seeds": (7,)}
JUDGING: dict[str, Any] = {"n": 2000, "seeds": (0, 1, 2)}
TIE = 1.02  # of the lowest FID: nearer is no difference in so few pictures
OFF = ", guidance off early"
ROUNDS, BATCH = 5, 16  # of the timing


def contenders(workshop: Workshop, solver: str, steps: int, guidance: float) -> list[Configuration]:
    """Return every contender of one solver, number of steps and guidance scale."""
    bare = Configuration(None, solver, steps, guidance)
    timesteps = bare.timesteps(workshop)
    known = {target: presets(workshop.schedule, target, timesteps) for target in TARGETS}
    formula = known[0.33]["Formula"]
    plans: dict[str, StagePlan] = {"dense": formula.with_sparsity(0, 0, 0)}
    for target, own in known.items():
        plans[f"formula {target}"] = own["Formula"]
        plans[f"uniform {target}"] = own["Uniform"]
    for name, plan in list(plans.items()):
        plans[name + OFF] = plan.with_guidance(early=1)
    if steps >= REUSE_FROM:
        every_second: dict[str, Any] = {"reuse": (2, 2, 2)}
        forecast = every_second | {"reuse_order": 1}
        plans["reuse 2"] = replace(plans["dense"], **every_second)
        plans["reuse 2, forecast"] = replace(plans["dense"], **forecast)
        plans[f"reuse 2, forecast{OFF}"] = replace(plans["dense" + OFF], **forecast)
        for target in TARGETS:
            name = f"formula {target}"
            plans[f"{name}, reuse 2, forecast{OFF}"] = replace(plans[name + OFF], **forecast)
    return [
        replace(bare, plan=None if name == "dense" else replace(plan, name=""), label=name)
        for name, plan in plans.items()
    ]


class Only(NamedTuple):
    """What a choice is held to; None: everything of the study."""

    steps: Sequence[int] | None = None
    solvers: Sequence[str] | None = None
    scales: Sequence[float] | None = None  # of the model's own guidance
    labels: Sequence[str] | None = None  # of contenders


def everything(workshop: Workshop, only: Only | None = None) -> Iterator[Configuration]:
    """Yield all contenders: few steps at every guidance, then many.

    The model's own guidance comes first, and each contender with every solver before the next one.
    """
    only = only or Only()
    pairs = product(only.scales or SCALES, only.steps or STEPS)
    for share, own in sorted(pairs, key=lambda pair: pair[1] >= LONG):
        guidance = round(share * workshop.guidance, 2)
        by_solver = [contenders(workshop, s, own, guidance) for s in only.solvers or SOLVERS]
        for what in chain(*zip(*by_solver, strict=True)):
            if only.labels is None or what.label in only.labels:
                yield what


class Rows(RowFile):
    """The rows of the front. Raises StudioError for a file that is damaged."""

    def __init__(self, path: Path):
        super().__init__(path)
        read_rows(path)  # checks what each row holds

    def has_drawn(self, stage: str, what: Configuration, seed: int) -> bool:
        """Say whether a row is there."""
        return self.has(stage=stage, seed=seed, configuration=what.to_json())


def measured(
    workshop: Workshop, what: Configuration, stage: str, n: int, seed: int, dtype: torch.dtype
) -> Row:
    """Draw a contender and return its row. Raises StudioError for a model without a judge."""
    start = time.perf_counter()
    drawn = draw(workshop, what, n, seed, dtype=dtype)
    return {
        "stage": stage,
        "configuration": what.to_json(),
        "macs": what.macs(workshop),  # of one image, all rows
        **picture_scores(workshop, drawn.images),
        "n": n,
        "seed": seed,
        "took": time.perf_counter() - start,
        "dtype": str(dtype).removeprefix("torch."),
        **circumstances(workshop),
    }


# ------------------------------------------------------------ what is quoted


def quoted(rows: Sequence[Row]) -> list[Configuration]:
    """Return the contenders that tables quote, by the rows of `choose`.

    Dense DDIM in 50 and UniPC in 10 steps, the latter at every guidance between which few pictures
    cannot decide, the front down to the smallest budget, and for every budget the best contender
    within it that prunes and the best that does not.
    """
    best = chosen_from(rows)
    anchor = next((r for r in best if kind_of(r) == ANCHOR), None)
    if anchor is None:
        raise StudioError("Dense UniPC in 10 steps was not drawn yet: run the stage choose first.")
    chosen = [r for r in rows if r["stage"] == "choose" and kind_of(r) == ANCHOR]
    chosen = [r for r in chosen if r["fid"] <= TIE * anchor["fid"]]
    chosen += [r for r in best if kind_of(r) == USUAL]
    least = min(BUDGETS) * anchor["macs"] / TOLERANCE
    chosen += [r for r in unbeaten_rows(best) if r["macs"] >= least]
    for share in BUDGETS:
        for own in whole_and_pruned(best, share * anchor["macs"]):
            chosen += sorted(own, key=lambda r: r["fid"])[:1]
    unique = {json.dumps(r["configuration"]): r["configuration"] for r in chosen}
    return [Configuration.from_json(what) for what in unique.values()]


def tuned(path: Path) -> list[Configuration]:
    """Return what the tuner found by the rows of `searches`, the first search at every budget.

    A plan that removes something is followed by itself without the cut, which costs more than the
    budget: so much is the schedule's doing. Raises StudioError for a damaged file, or one without
    such a row.
    """
    found: dict[str, Configuration] = {}
    for row in RowFile(path).rows:
        if row.get("stage") == "found" and row.get("way") in (TUNER, WHOLE):
            label = row["way"].replace(TUNER, f"{TUNER} ×{row['speedup']:g}")
            what = Configuration.from_json(row["configuration"])
            found.setdefault(label, replace(what, label=label))
            if what.plan is not None and any(what.plan.sparsity):
                label, plan = f"{label}, its cut left out", what.plan.with_sparsity(0, 0, 0)
                found.setdefault(label, replace(what, plan=plan, label=label))
    if not found:
        raise StudioError(f"{path.name} has nothing that the tuner found.")
    return list(found.values())


# ------------------------------------------------------------ running it


def from_study(workshop: Workshop) -> list[Row]:
    """Return rows of `judge` for dense DDIM in 50 steps, where the study of the model has them.

    They are of the same noise and number of pictures, so they need not be drawn again. Each says
    the precision of its denoiser; the VAE ran in its own.
    """
    folder = workshop.checkpoint.folder
    file = None if folder is None else Path(folder) / STUDIES["quality"].file
    own = load_study(file) if file is not None and file.exists() else []
    what = Configuration(None, USUAL[1], USUAL[2], workshop.guidance, USUAL[0])
    return [
        {
            "stage": "judge",
            "configuration": what.to_json(),
            "macs": what.macs(workshop),
            **{name: r[name] for name in ("fid", "class_accuracy", "variance_ratio", "n", "seed")},
            **{name: r[name] for name in ("dtype", "device", "when")},
            "model": workshop.name,
            "of": "the study",
        }
        for r in own
        if (r["method"], r["base_steps"], r["n"]) == (USUAL[0], USUAL[2], JUDGING["n"])
        and r["seed"] in JUDGING["seeds"]
        and r.get("guidance", workshop.guidance) == workshop.guidance
    ]


def run_stage(
    workshop: Workshop,
    stage: str,
    rows: Rows,
    hours: float,
    dtype: torch.dtype,
    only: Only | None = None,
    more: Sequence[Configuration] = (),
) -> bool:
    """Add the missing rows of a stage, for at most so many hours; say whether it is complete.

    Raises StudioError where nothing was chosen yet, or where `only` leaves nothing.
    only: what `choose` is held to; None: all. more: what is judged beside what tables quote.
    """
    end = time.monotonic() + 3600 * hours
    if stage == "time":
        return _time(workshop, rows)
    settings: dict[str, Any] = CHOOSING if stage == "choose" else JUDGING
    if stage == "choose":
        wanted = list(everything(workshop, only))
        if not wanted:
            raise StudioError("No contender has this name: see `contenders` for those there are.")
    else:
        wanted = [*quoted(rows.rows), *more]
        for row in from_study(workshop):
            if not rows.has(stage=stage, seed=row["seed"], configuration=row["configuration"]):
                rows.add(row)
    for seed in settings["seeds"]:
        for i, what in enumerate(wanted):
            if rows.has_drawn(stage, what, seed):
                continue
            if time.monotonic() > end:
                return False
            try:
                row = measured(workshop, what, stage, settings["n"], seed, dtype)
            except StudioError as err:  # steps that a solver cannot do
                print_progress(i, len(wanted), f"{what.text}: {err}")
                continue
            rows.add(row)
            fid = "-" if row["fid"] is None else f"{row['fid']:.2f}"
            said = f"seed {seed}, {what.text}, guidance {what.guidance:g}: FID {fid}"
            print_progress(i + 1, len(wanted), said)
    return True


def _time(workshop: Workshop, rows: Rows) -> bool:
    """Time whole runs of everything that was judged, in turn, and add a row for each."""
    wanted = [Configuration.from_json(r["configuration"]) for r in judged(rows.rows)]
    rows.rows = [r for r in rows.rows if r["stage"] != "time"]  # rows of one run compare

    # all of them at hand: no run waits for a network that was dropped for another one
    built = [networks_of(workshop, what) for what in wanted]
    calls = [
        partial(draw, workshop, what, BATCH, 0, model=model)
        for what, model in zip(wanted, built, strict=True)
    ]
    seconds = measure_alternating(calls, workshop.device, repeats=ROUNDS, warm_up=1)
    for what, times in zip(wanted, seconds, strict=True):
        rows.add(
            {
                "stage": "time",
                "configuration": what.to_json(),
                "macs": what.macs(workshop),
                "seconds": statistics.median(times),
                "seconds_spread": spread(times),
                "rounds": ROUNDS,
                "images": BATCH,
                "seed": 0,
                "fid": None,
                "dtype": str(workshop.dtype).removeprefix("torch."),
                **circumstances(workshop),
            }
        )
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stage", choices=["choose", "judge", "time", "table"], default="table")
    parser.add_argument("--model", default=BUNDLED)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="the study's file (default: beside the model)")
    for name, kind, choices in (
        ("--steps", int, STEPS),
        ("--solvers", str, SOLVERS),
        ("--scales", float, SCALES),
        ("--labels", str, None),
    ):
        parser.add_argument(
            name, type=kind, nargs="+", choices=choices, help="of the stage choose (all)"
        )
    parser.add_argument(
        "--tuned", type=Path, help="rows of `searches`: judge what the tuner found too"
    )
    parser.add_argument("--dtype", default=AUTO, choices=DTYPES)
    parser.add_argument(
        "--hours", type=float, default=4.0, help="stop after so many, to go on later"
    )
    args = parser.parse_args(arguments)
    rows = Rows(file_beside(args.model, FILE, args.out))
    if args.stage == "table":
        found = shown(rows.rows)
        print(budget_table(found), "", contender_table(found), "", sep="\n")
        print(*(f"- {sentence}" for sentence in as_good_sentences(found)), sep="\n")
        return
    more = tuned(args.tuned) if args.tuned else []
    workshop = get_workshop(args.model, args.device)
    workshop.calibrate(print_progress)
    dtype = dtype_of(args.dtype, workshop)
    only = Only(args.steps, args.solvers, args.scales, args.labels)
    done = run_stage(workshop, args.stage, rows, args.hours, dtype, only, more)
    print("complete" if done else "stopped by --hours; the same command goes on")
