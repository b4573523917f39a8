"""Compare ways to find a plan for one budget of work: the tuner, evolution, the formula and others.

    python -m core.bench searches --model fashion-dit --speedup 10

Every way keeps the same budget, a share of dense DDIM in 50 steps. The tuner has 60 evaluations of
256 pictures of one seed, the reference among them, once with pruning and once without: the second
says what solver, guidance and reuse can do alone. The evolution over the sparsities of the three
stages has as many and, from the same run, ten times as many. The tuner's three best are judged on
held-out noises before it answers, which the evolution's are not. What was found is then judged with
pictures of other seeds, those that the formula and the others are judged on.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..curves.plan import STAGES, StagePlan
from ..errors import StudioError
from ..sampling.timing import spread
from ..tuner.configuration import Configuration
from ..tuner.found import Tuned
from ..tuner.front_rows import Row, paired
from ..tuner.goal import Effort, Goal
from ..tuner.quality import draw, usual_quality
from ..tuner.search import Tune
from ..tuner.space import FEWEST, MOST, Params, Space
from ..workshop.workshop import Workshop, get_workshop
from .row_file import RowFile, circumstances, file_beside, study_parser
from .studies import AUTO, dtype_of, picture_scores, print_progress

FILE = "searches.json"  # beside the model
REFERENCE = ("DDIM", 50)  # solver, steps
SEEDS = (0, 1, 2)
EVALUATIONS, MANY = 60, 600
IMAGES = 256  # of one evaluation
SECONDS = 1800.0  # of one tune: more than its evaluations take
POPULATION, PARENTS = 12, 4
MUTATION = 0.2  # deviation of a stage's share of the cut
JUDGED: dict[str, Any] = {"n": 2000, "seeds": (100, 101, 102)}
TUNER, EVOLUTION = "tuner", "evolution"
WHOLE = f"{TUNER}, nothing removed"
MOST_TRIES = 50  # children in a row that keep no budget or were seen before


def contenders(space: Space, budget: float) -> dict[str, Configuration]:
    """Return what needs no search, each at this budget: formula, uniform, and the dense ways.

    The formula runs in as many UniPC steps as keep the budget with a third or a half removed, with
    and without guidance in the early stage, and with reuse; uniform pruning with a third and with
    guidance; the dense ones, two with reuse, run in as many steps as they can.
    """
    found = {}
    for label, params in space.seeds(budget):
        what = space.configuration(params, budget, label) if label else None
        if what is not None:
            found[label] = what
    reused = _most_steps(space, budget, (2, 2, 2))
    return found | ({} if reused is None else {reused.label: reused})


def _most_steps(space: Space, budget: float, reuse: tuple[int, int, int]) -> Configuration | None:
    """Return the dense network with reuse alone, in the most UniPC steps that keep a budget."""
    total = len(space.workshop.schedule)
    plan = StagePlan((1, total - 1), (0.0,) * 3, num_train_timesteps=total, reuse=reuse)
    for steps in range(MOST, FEWEST - 1, -1):
        what = Configuration(plan, "UniPC", steps, space.reference.guidance, "reuse 2")
        try:
            if space.spend(what) <= budget:
                return what
        except StudioError:  # steps that the solver cannot do
            continue
    return None


def evolve(
    space: Space, start: Params, budget: float, seed: int, most: int
) -> Generator[Configuration, float, None]:
    """Yield configurations to be judged; send back the quality of each, lower is better.

    A plain evolution of the shares that the three stages lose, everything else as `start` has it:
    the best of what was seen are the parents, a child is a parent with noise on every share.
    """
    random = np.random.default_rng(seed)
    seen: list[tuple[float, np.ndarray]] = []
    known: set[Configuration] = set()
    tries = 0
    while len(seen) < most and tries < MOST_TRIES:
        if len(seen) < POPULATION:
            shape = random.uniform(0, 1, 3)
        else:
            parents = sorted(seen, key=lambda one: one[0])[:PARENTS]
            parent = parents[random.integers(PARENTS)][1]
            shape = np.clip(parent + random.normal(0, MUTATION, 3), 0, 1)
        params = start | dict(zip(STAGES, shape.tolist(), strict=True))
        what = space.configuration(params, budget)
        if what is None or what in known:
            tries += 1
            continue
        tries = 0
        known.add(what)
        quality = yield what
        seen.append((quality, shape))


def evolution(
    workshop: Workshop, space: Space, budget: float, seed: int, counts: Sequence[int]
) -> Iterator[tuple[int, Configuration, float]]:
    """Yield after each of some evaluation counts: the count, the best so far, and the seconds.

    Steps, boundaries and guidance are those of the formula, with reuse where it keeps the budget.
    Where fewer configurations keep it, the last ones have what was found in all of them. What
    cannot be drawn counts as worst. Raises StudioError for a budget below the formula's.
    """
    quality, dtype = usual_quality(workshop, space.reference), dtype_of(AUTO, workshop)
    starts = [p for label, p in space.seeds(budget) if label.startswith("formula")]
    if not starts:
        raise StudioError("The formula keeps no budget as small as that: ask for less.")
    start = next((p for p in starts if p["forecast"]), starts[0])
    search = evolve(space, start, budget, seed, max(counts))
    best: tuple[float, Configuration] | None = None
    waiting, began = sorted(counts), time.perf_counter()
    what, done = next(search, None), 0
    while what is not None:
        try:
            score = quality.score(draw(workshop, what, IMAGES, seed, dtype=dtype), seed)
        except StudioError:  # a solver that ends in NaN, say
            score = float("inf")
        best = (score, what) if best is None or score < best[0] else best
        done += 1
        try:
            what = search.send(score)
        except StopIteration:
            what = None
        while waiting and (done == waiting[0] or what is None):
            print_progress(done, max(counts), f"evolution, seed {seed}: {best[0]:.2f}")
            yield waiting.pop(0), best[1], time.perf_counter() - began


def tuned(workshop: Workshop, space: Space, goal: Goal, seed: int, folder: Path) -> Tuned:
    """Return what the tuner finds; a stopped one goes on from its folder. Raises StudioError."""
    effort = Effort(seconds=SECONDS, evaluations=EVALUATIONS, images=IMAGES, seed=seed)
    search = Tune(workshop, goal, space, usual_quality(workshop, space.reference), effort, folder)
    found = None
    for item in search.run():
        if isinstance(item, Tuned):
            found = item
        else:
            print_progress(item.done, item.total, f"tuner, seed {seed}: {item.text}")
    assert found is not None  # `run` ends with one, or raises
    return found


def find(
    workshop: Workshop, kept: RowFile, speedup: float, seeds: Sequence[int], *, many: bool
) -> None:
    """Add what every way finds at a budget, where it is missing."""
    reference = Configuration(None, *REFERENCE, workshop.guidance, "dense")
    space = Space(workshop, reference)
    goal = Goal(speedup=speedup)
    budget = goal.budget(reference.macs(workshop))

    def add(way: str, seed: int | None, what: Configuration, **more: Any) -> None:
        key = {"stage": "found", "way": way, "speedup": speedup, "seed": seed}
        costs = {"macs": what.macs(workshop), "configuration": what.to_json()}
        kept.add(key | costs | more | circumstances(workshop))

    def missing(way: str, seed: int | None) -> bool:
        return not kept.has(stage="found", way=way, speedup=speedup, seed=seed)

    for label, what in contenders(space, budget).items():
        if missing(label, None):
            add(label, None, what)
    for seed in seeds:
        for way, cuts in ((TUNER, True), (WHOLE, False)):
            if missing(way, seed):
                name = f"{kept.path.stem}-{'tuner' if cuts else 'whole'}-{speedup:g}-{seed}"
                own, folder = replace(space, cuts=cuts), kept.path.with_name(name)
                one = tuned(workshop, own, goal, seed, folder)
                counted = {"evaluations": len(one.evaluations), "seconds": one.seconds}
                add(way, seed, replace(one.best.configuration, label=way), **counted)
        counts = [n for n in (EVALUATIONS, MANY)[: 1 + many] if missing(f"{EVOLUTION}, {n}", seed)]
        if counts:
            for n, what, seconds in evolution(workshop, space, budget, seed, counts):
                way = f"{EVOLUTION}, {n}"
                add(way, seed, replace(what, label=way), evaluations=n, seconds=seconds)


def judge(workshop: Workshop, kept: RowFile) -> None:
    """Add the FID of everything that was found, on every seed of judging, where it is missing.

    The k-th search is judged on the k-th seed; what was not searched for, on all of them.
    """
    dtype = dtype_of(AUTO, workshop)
    for row in [r for r in kept.rows if r["stage"] == "found"]:
        what = Configuration.from_json(row["configuration"])
        for k, seed in enumerate(JUDGED["seeds"]):
            if row["seed"] not in (None, SEEDS[k]):
                continue
            key = {name: row[name] for name in ("way", "speedup", "seed")}
            key |= {"stage": "judged", "judged_on": seed}
            if kept.has(**key):
                continue
            drawn = draw(workshop, what, JUDGED["n"], seed, dtype=dtype)
            scores = picture_scores(workshop, drawn.images)
            facts = {"n": JUDGED["n"], "macs": row["macs"]}
            facts["dtype"] = str(dtype).removeprefix("torch.")
            kept.add(key | scores | facts | circumstances(workshop))
            print_progress(k + 1, len(JUDGED["seeds"]), f"{row['way']}: FID {scores['fid']:.2f}")


def table(rows: Sequence[Row]) -> str:
    """Return mean FID and spread of every way at every budget, best first, as Markdown.

    `above the tuner` is the mean of the paired differences over common seeds, and its deviation.
    """
    lines = [
        "| DDIM 50 over budget | way | what it is | GMACs an image | FID | n × seeds |"
        " above the tuner | evaluations, seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found = [r for r in rows if r["stage"] == "found"]
    for speedup in dict.fromkeys(r["speedup"] for r in found):
        names = dict.fromkeys(r["way"] for r in found if r["speedup"] == speedup)
        judged = (_judged_way(rows, speedup, name) for name in names)
        ways = sorted((one for one in judged if one["fids"]), key=lambda one: one["fid"])
        tuner = next((one for one in ways if one["way"] == TUNER), None)
        lines += [_line(one, tuner) for one in ways]
    return "\n".join(lines)


def _judged_way(rows: Sequence[Row], speedup: float, way: str) -> Row:
    """Return what was found in one way, and its FID by seed of judging."""
    own = [r for r in rows if (r["speedup"], r["way"]) == (speedup, way)]
    judged = [r for r in own if r["stage"] == "judged"]
    fids = {str(r["judged_on"]): r["fid"] for r in judged}
    return {
        "way": way,
        "speedup": speedup,
        "found": [r for r in own if r["stage"] == "found"],
        "fids": fids,
        "fid": statistics.fmean(fids.values()) if fids else None,
        "n": judged[0]["n"] if judged else 0,
    }


def _line(one: Row, tuner: Row | None) -> str:
    """Return the line of a way."""
    own, fids = one["found"], list(one["fids"].values())
    runs = {(r["configuration"]["scheduler"], r["configuration"]["steps"]) for r in own}
    cost = above = "-"
    if "seconds" in own[0]:
        counted, took = (statistics.median(r[k] for r in own) for k in ("evaluations", "seconds"))
        cost = f"{counted:.0f}, {took:.0f}"
    more, around = (math.nan, None) if tuner is None or tuner is one else paired(one, tuner)
    if not math.isnan(more):
        above = f"{more:+.2f}" + ("" if around is None else f" ± {around:.2f}")
    cells = [
        f"×{one['speedup']:g}",
        one["way"],
        ", ".join(f"{solver} {n}" for solver, n in sorted(runs)),
        f"{statistics.fmean(r['macs'] for r in own) / 1e9:.2f}",
        f"{one['fid']:.2f}" + (f" ± {spread(fids):.2f}" if len(fids) > 1 else ""),
        f"{one['n']} × {len(fids)}",
        above,
        cost,
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = study_parser(__doc__, len(SEEDS))
    parser.add_argument("--speedup", type=float, nargs="+", default=[10.0])
    parser.add_argument("--many", action="store_true", help=f"{MANY} evaluations of evolution too")
    args = parser.parse_args(arguments)
    kept = RowFile(file_beside(args.model, FILE, args.out))
    workshop = get_workshop(args.model, args.device)
    workshop.calibrate(print_progress)
    for halves in (2, 1):
        workshop.measure_latency(workshop.usual_images, halves, print_progress)
    for speedup in args.speedup:
        find(workshop, kept, speedup, SEEDS[: args.seeds], many=args.many)
    judge(workshop, kept)
    print(table(kept.rows))
