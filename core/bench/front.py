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
from itertools import product
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..curves.plan import StagePlan
from ..curves.proposals import presets
from ..errors import StudioError
from ..files import write_whole
from ..models.bundled import BUNDLED
from ..models.checkpoints import local_folder
from ..sampling.timing import measure_alternating, spread
from ..tuner.configuration import Configuration
from ..tuner.front_rows import (
    ANCHOR,
    BUDGETS,
    FILE,
    Row,
    at_best_guidance,
    dense_and_pruned,
    duels,
    judged,
    kind_of,
    read_rows,
    unbeaten_rows,
)
from ..tuner.quality import draw
from ..workshop.workshop import Workshop, get_workshop
from .studies import picture_scores, print_progress

SOLVERS = ("UniPC", "DPM-Solver++", "DDIM")
STEPS = (10, 7, 5, 20, 50)  # in the order of worth
LONG = 20  # from so many steps a row costs as much as three
TARGETS = (0.33, 0.5)
SCALES = (1.0, 0.8, 1.3)  # of the model's own guidance
CHOOSING = {"n": 500, "seeds": (7,)}
JUDGING = {"n": 2000, "seeds": (100, 101, 102)}
REUSE_FROM = 10  # sampling steps
OFF = ", guidance off early"
ROUNDS, BATCH = 5, 16  # of the timing


def contenders(workshop: Workshop, solver: str, steps: int, guidance: float) -> list[Configuration]:
    """Return every contender of one solver, number of steps and guidance scale."""
    bare = Configuration(None, solver, steps, guidance)
    timesteps = bare.timesteps(workshop)
    plans: dict[str, StagePlan] = {}
    for target in TARGETS:
        known = presets(workshop.schedule, target, timesteps)
        plans[f"formula {target}"] = known["Formula"]
        plans[f"uniform {target}"] = known["Uniform"]
    formula = plans["formula 0.33"]
    plans["dense"] = formula.with_sparsity(0, 0, 0)
    for name, plan in list(plans.items()):
        plans[name + OFF] = plan.with_guidance(early=1)
    if steps >= REUSE_FROM:
        every_second: dict[str, Any] = {"reuse": (2, 2, 2)}
        nothing = plans["dense"]
        plans["reuse 2"] = replace(nothing, **every_second)
        plans["reuse 2, forecast"] = replace(nothing, **every_second, reuse_order=1)
        both = replace(formula, **every_second, reuse_order=1).with_guidance(early=1)
        plans[f"formula 0.33, reuse 2, forecast{OFF}"] = both
    return [
        replace(bare, plan=None if name == "dense" else replace(plan, name=""), label=name)
        for name, plan in plans.items()
    ]


def everything(workshop: Workshop) -> Iterator[Configuration]:
    """Yield all contenders: few steps at every guidance, then many, the model's own first."""
    for share, steps in sorted(product(SCALES, STEPS), key=lambda pair: pair[1] >= LONG):
        guidance = round(share * workshop.guidance, 2)
        for solver in SOLVERS:
            yield from contenders(workshop, solver, steps, guidance)


class Rows:
    """The rows of a study in one file, written whole after every row."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = read_rows(path)

    def has(self, stage: str, what: Configuration, seed: int) -> bool:
        """Say whether a row is there."""
        return any(
            r["stage"] == stage and r["seed"] == seed and r["configuration"] == what.to_json()
            for r in self.rows
        )

    def add(self, row: Row) -> None:
        """Add a row and write the file."""
        self.rows.append(row)
        text = json.dumps(self.rows, indent=1) + "\n"
        write_whole(self.path, lambda part: part.write_text(text))


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
        "model": workshop.name,
        "device": workshop.device_text,
        "version": __version__,
        "when": time.strftime("%Y-%m-%d %H:%M"),
    }


# ------------------------------------------------------------ what is quoted


def quoted(rows: Sequence[Row]) -> list[Configuration]:
    """Return the contenders that tables quote, by the rows of `choose`.

    Dense DDIM in 50 and UniPC in 10 steps, the front, and for every budget the best dense and the
    best pruned contender within it.
    """
    best = at_best_guidance(rows)
    anchor = next((r for r in best if kind_of(r) == ANCHOR), None)
    if anchor is None:
        raise StudioError("Dense UniPC in 10 steps was not drawn yet: run the stage choose first.")
    chosen = [anchor, *(r for r in best if kind_of(r) == ("dense", "DDIM", 50))]
    chosen += unbeaten_rows(best)
    for share in BUDGETS:
        for own in dense_and_pruned(best, share * anchor["macs"]):
            chosen += sorted(own, key=lambda r: r["fid"])[:1]
    unique = {json.dumps(r["configuration"]): r["configuration"] for r in chosen}
    return [Configuration.from_json(what) for what in unique.values()]


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of what was judged, and a sentence for every budget."""
    found = judged(rows)
    if not found:
        return "Nothing was judged yet."
    lines = [
        "| contender | solver, steps | guidance | GMACs an image | seconds for 16 | FID | n × seeds"
        " |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in found:
        what = r["configuration"]
        seconds = "-" if r["seconds"] is None else f"{r['seconds']:.2f} ± {r['seconds_spread']:.2f}"
        lines.append(
            f"| {what['label']} | {what['scheduler']} {what['steps']} | {what['guidance']:g} |"
            f" {r['macs'] / 1e9:.2f} | {seconds} | {r['fid']:.2f} ± {r['fid_spread']:.2f} |"
            f" {r['n']} × {r['seeds']} |"
        )
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in budget_sentences(found))])


def budget_sentences(found: Sequence[Row]) -> list[str]:
    """Return for every budget which is ahead, the best pruned or the best dense contender.

    Ahead: a mean FID lower by more than the deviation of the paired difference over seeds.
    """
    sentences = []
    for duel in duels(found):
        verdict = f"{duel.ahead} ahead" if duel.ahead else "no clear difference"
        around = float("nan") if duel.around is None else duel.around
        sentences.append(
            f"{duel.share:g} of dense UniPC 10: {verdict}, FID {duel.pruned['fid']:.2f}"
            f" ({_where(duel.pruned)}) against {duel.dense['fid']:.2f} ({_where(duel.dense)}),"
            f" paired difference {duel.difference:.2f} ± {around:.2f}."
        )
    return sentences


def _where(row: Row) -> str:
    """Return a row's contender in a few words."""
    label, solver, steps = kind_of(row)
    return f"{label}, {solver} {steps}"


# ------------------------------------------------------------ running it


def run_stage(workshop: Workshop, stage: str, rows: Rows, hours: float, dtype: torch.dtype) -> bool:
    """Add the missing rows of a stage, for at most so many hours; say whether it is complete."""
    end = time.monotonic() + 3600 * hours
    if stage == "time":
        return _time(workshop, rows)
    settings: dict[str, Any] = CHOOSING if stage == "choose" else JUDGING
    wanted = list(everything(workshop)) if stage == "choose" else quoted(rows.rows)
    for seed in settings["seeds"]:
        for i, what in enumerate(wanted):
            if rows.has(stage, what, seed):
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

    calls = [partial(draw, workshop, what, BATCH, 0) for what in wanted]
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
                "device": workshop.device_text,
                "version": __version__,
                "when": time.strftime("%Y-%m-%d %H:%M"),
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
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--hours", type=float, default=4.0, help="stop after so many, to go on later"
    )
    args = parser.parse_args(arguments)
    folder = local_folder(args.model)
    if args.out is None and folder is None:
        raise StudioError(f"{args.model} has no folder on this machine: give --out.")
    rows = Rows(args.out or folder / FILE)  # type: ignore[operator]  # not None, see above
    if args.stage == "table":
        print(markdown(rows.rows))
        return
    workshop = get_workshop(args.model, args.device)
    workshop.calibrate(print_progress)
    done = run_stage(workshop, args.stage, rows, args.hours, getattr(torch, args.dtype))
    print("complete" if done else "stopped by --hours; the same command goes on")
