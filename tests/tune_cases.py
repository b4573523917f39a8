"""A kept tune of made-up numbers, for what shows it."""

from __future__ import annotations

import json

from core.curves.plan import StagePlan
from core.tuner.configuration import Configuration
from core.tuner.goal import Goal
from core.tuner.kept import End, KeptTune, TuneShelf
from core.tuner.record import Evaluation

PLAN = StagePlan((93, 550), (0.1, 0, 0.4), allocation="dynamic", reuse=(2, 1, 2))
ID = "0123456789abcdef"
FOUR = Goal(speedup=4)


def what(steps=8, plan=PLAN, scheduler="UniPC", label="") -> Configuration:
    return Configuration(plan, scheduler, steps, 1.5, label)


def evaluation(configuration, macs, quality, **more) -> Evaluation:
    return Evaluation(configuration, macs, macs / 1e9, quality, 256, 3.0, **more)


DENSE = Configuration(None, "DDIM", 50, 1.5, "dense")
OFF = PLAN.with_guidance(early=1, middle=2.1)
EVALUATIONS = (
    evaluation(DENSE, 40e9, 10.0),
    evaluation(what(12, label="formula 0.33"), 9.9e9, 18.0, params={"steps": 12}),
    evaluation(what(10, PLAN.with_sparsity(0, 0, 0), label="dense, fewer steps"), 9.8e9, 21.0),
    evaluation(what(11, PLAN.with_sparsity(0.3, 0.3, 0.3), label="uniform"), 9.7e9, 30.0),
    evaluation(what(9, OFF), 9.6e9, 12.0, params={"steps": 9}, held_out=12.5),
    evaluation(what(7), 9.5e9, 40.0, params={"steps": 7}),
    evaluation(what(4), 4e9, 33.0, params={"steps": 4}),
)


def asked(model_key="model", goal=FOUR) -> dict:
    return {
        "model": model_key,
        "goal": vars(goal) | {},
        "reference": DENSE.to_json(),
        "fixed": {"steps": None, "scheduler": None},
        "quality": "FID on the model's own feature network",
        "effort": {"images": 256, "held_out": 500, "seed": 0},
    }


def ended(**more) -> End:
    best = EVALUATIONS[4].configuration
    return End(best, EVALUATIONS[0], seconds=290, allowed=300, device="CPU", **more)


def tune(end=None, goal=FOUR, evaluations=EVALUATIONS) -> KeptTune:
    return KeptTune.asked(ID, asked(goal=goal), evaluations, end)


def put(shelf: TuneShelf, model_key: str, id: str = ID) -> None:
    """Write a kept tune as a journal writes it."""
    folder = shelf.folder_of(id)
    folder.mkdir(parents=True)
    (folder / "tune.json").write_text(json.dumps(asked(model_key)))
    lines = [json.dumps(one.to_json()) for one in EVALUATIONS]
    (folder / "evaluations.jsonl").write_text("\n".join([*lines, lines[0][:40]]))
