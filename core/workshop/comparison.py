"""Hold what a comparison found: settings, and two sides with their pictures and times.

Speed-up is the median over pairs of timed runs of (seconds of A / seconds of B). A spread is None
where there was one run.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..curves.guidance_words import with_own_guidance
from ..curves.plan import STAGES, StagePlan
from ..errors import StudioError
from ..sampling.metrics import psnr
from ..sampling.timing import spread
from .closeness import distance_sentence
from .picture_arrays import from_bytes, grid, pictures, to_bytes
from .sample_settings import BATCH, MAX_IMAGES, MAX_PROMPT, SampleSettings
from .verdict import Verdict
from .why_slow import Circumstances

__all__ = [
    "BATCH",
    "MAX_IMAGES",
    "MAX_PROMPT",
    "Comparison",
    "Preview",
    "SampleSettings",
    "Side",
    "grid",
    "pictures",
    "side_name",
    "spread_of",
]
SIDE_FACTS = (
    "name",
    "step_seconds",
    "scale",
    "timesteps",
    "stages",
    "macs",
    "predicted_seconds",
    "film_timesteps",
    "fid",
    "class_accuracy",
)
FACTS = ("device", "model", "when", "psnr", "ssim", "latent_mse", "n", "notes")


@dataclass
class Side:
    """One side's pictures and times."""

    name: str
    plan: StagePlan | None  # None: dense
    latents: Tensor  # (n, c, h, w)
    images: Tensor  # (n, channels, H, W) in [-1, 1], CPU
    step_seconds: list[list[float]]  # timed runs x steps, denoiser only
    # a timed run covers 1 / scale of the images (batches), so seconds of the whole = scale * sum
    scale: float
    timesteps: list[float]
    stages: list[int]  # per step, index into STAGES, -1 dense
    # denoiser, whole run, all images, all rows that ran; linear and convolution layers
    macs: int
    # per step, whole run, from the latency table, made before measuring; None for what it does not
    # know
    predicted_seconds: list[float] | None
    # guesses of the clean picture, (n, channels, H, W)
    film: list[Tensor] = field(default_factory=list)
    film_timesteps: list[float] = field(default_factory=list)
    fid: float | None = None
    class_accuracy: float | None = None

    @property
    def run_seconds(self) -> list[float]:
        """Return the denoiser's seconds of the whole run, one figure per timed run."""
        return [self.scale * sum(run) for run in self.step_seconds]

    @property
    def seconds(self) -> float | None:
        """Return the median of `run_seconds`, or None where nothing was timed."""
        return _median(self.run_seconds)

    @property
    def seconds_spread(self) -> float | None:
        """Return the spread of `run_seconds`, or None for one run."""
        return spread_of(self.run_seconds)

    def stage_seconds(self, steps: list[int]) -> tuple[float | None, float | None]:
        """Return median and spread of the seconds spent in these steps, None if not timed."""
        totals = [self.scale * sum(run[i] for i in steps) for run in self.step_seconds]
        return _median(totals), spread_of(totals)

    def cut_like(self, other: Side) -> list[int]:
        """Return the stage of every step; a dense side is cut where the other side's plan cuts."""
        if any(stage >= 0 for stage in self.stages) or all(stage < 0 for stage in other.stages):
            return self.stages
        if self.timesteps == other.timesteps:
            return other.stages
        assert other.plan is not None  # it has stages
        return [other.plan.stage_of(t) for t in self.timesteps]


@dataclass(frozen=True)
class Preview:
    """The text, progress and pictures to show while a comparison runs."""

    text: str
    done: int
    total: int
    image_a: np.ndarray | None = None  # uint8 (n, H, W) or (n, H, W, 3)
    image_b: np.ndarray | None = None
    step: int | None = None
    timestep: float | None = None
    stage: int = -1  # of side B at this step, else of A
    drawing: bool = False  # a report of the pictures, not of what is measured before them
    timing: bool = False  # a report of the timing, which comes after the pictures
    # seconds of the denoiser up to this step, both sides; None where they are not counted
    denoiser: float | None = None
    # what is known once the pictures are finished, before anything is timed
    found: Comparison | None = None


@dataclass
class Comparison:
    """Everything one comparison found. `a` is the reference of psnr, ssim and latent_mse."""

    a: Side
    b: Side
    settings: SampleSettings
    device: str
    model: str
    when: str
    psnr: float | None  # mean over the images that differ; None when all are equal
    ssim: float
    latent_mse: float
    n: int
    notes: str = ""
    where: Circumstances | None = None  # what a verdict reads its reasons from

    @property
    def pair_ratios(self) -> list[float]:
        """Return seconds of A / seconds of B, one per pair of timed runs."""
        return [x / y for x, y in zip(self.a.run_seconds, self.b.run_seconds, strict=True)]

    @property
    def speedup_measured(self) -> float | None:
        """Return the median of `pair_ratios`, or None where nothing was timed."""
        return _median(self.pair_ratios)

    @property
    def speedup_spread(self) -> float | None:
        """Return the spread of `pair_ratios`, or None for one pair."""
        return spread_of(self.pair_ratios)

    @property
    def speedup_of_medians(self) -> float | None:
        """Return the median seconds of A / those of B, or None where nothing was timed.

        It differs from `speedup_measured` where the machine was slower in some rounds.
        """
        a, b = self.a.seconds, self.b.seconds
        return None if a is None or b is None else a / b

    @property
    def speedup_macs(self) -> float:
        """Return MACs of A / MACs of B."""
        return self.a.macs / self.b.macs

    @property
    def speedup_predicted(self) -> float | None:
        """Return predicted seconds of A / of B, or None where one of them is not predicted."""
        a, b = self.a.predicted_seconds, self.b.predicted_seconds
        return None if a is None or b is None else sum(a) / sum(b)

    @property
    def timed_runs(self) -> int:
        """Return the timed runs of each side."""
        return len(self.a.step_seconds)

    @property
    def judged(self) -> Verdict:
        """Return the measured ratio with what it rests on."""
        return Verdict(
            a=self.a.name,
            b=self.b.name,
            ratio=self.speedup_measured,
            spread=self.speedup_spread,
            runs=self.timed_runs,
            images=self.n,
            macs_ratio=self.speedup_macs,
            equal_pictures=torch.equal(self.a.latents, self.b.latents),
            predicted=self.speedup_predicted,
            calls=(len(self.a.timesteps), len(self.b.timesteps)),
            mode=self.settings.mode,
            where=self.where,
        )

    @property
    def verdict(self) -> str:
        """Return one plain sentence on which side was faster, also when it is not B."""
        return self.judged.sentence

    @cached_property
    def decibels(self) -> list[float]:
        """Return the PSNR of each pair of pictures in 8 bits, infinite where both are equal."""
        a, b = (from_bytes(to_bytes(side.images)) for side in (self.a, self.b))
        return [float(x) for x in psnr(a, b)]

    @property
    def distance(self) -> str:
        """Return one plain sentence on how far the pictures of B lie from those of A."""
        return distance_sentence(self.psnr, self.decibels, self.settings.seed)

    def rows_of(self, side: Side) -> tuple[int, int, int]:
        """Return the denoiser rows per image of a side in the late, middle and early stage."""
        own = self.settings.halves
        return (own, own, own) if side.plan is None else side.plan.halves(own)

    def stage_rows(self) -> list[dict[str, Any]]:
        """Return, per stage, the steps and both sides' median, spread and prediction in seconds.

        A dense side is cut where the other side's plan cuts. `steps` are those of B, else of A.
        """
        cuts = self.a.cut_like(self.b), self.b.cut_like(self.a)
        rows = []
        for i, name in enumerate(STAGES):
            steps = [[k for k, s in enumerate(cut) if s == i] for cut in cuts]
            if not any(steps):
                continue
            row: dict[str, Any] = {"stage": name, "steps": len(steps[1]) or len(steps[0])}
            for letter, side, own in zip("ab", (self.a, self.b), steps, strict=True):
                median, off = side.stage_seconds(own)
                predicted = (
                    None
                    if side.predicted_seconds is None
                    else sum(side.predicted_seconds[k] for k in own)
                )
                row |= {
                    f"{letter}_seconds": median,
                    f"{letter}_spread": off,
                    f"{letter}_predicted": predicted,
                }
            rows.append(row)
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data, without pictures.

        `dense` is side A, which may be a plan too; `mosaic` is side B.
        """

        def side(s: Side) -> dict[str, Any]:
            return {
                "name": s.name,
                "seconds": s.seconds,
                "seconds_spread": s.seconds_spread,
                "macs": s.macs,
                "fid": s.fid,
                "class_accuracy": s.class_accuracy,
                "plan": s.plan and s.plan.to_json(),
                "rows_per_image": dict(zip(STAGES, self.rows_of(s), strict=True)),
            }

        return {
            "dense": side(self.a),
            "mosaic": side(self.b),
            "speedup_measured": self.speedup_measured,
            "speedup_spread": self.speedup_spread,
            "speedup_predicted": self.speedup_predicted,
            "speedup_macs": self.speedup_macs,
            "psnr": self.psnr,
            "ssim": self.ssim,
            "latent_mse": self.latent_mse,
            "n": self.n,
            "timed_runs": self.timed_runs,
            "stages": self.stage_rows(),
            "steps": self.settings.steps,
            "side_steps": self.settings.side_steps and list(self.settings.side_steps),
            "tabulated": self.settings.tabulate,
            "mode": self.settings.mode,
            "dtype": self.settings.dtype,
            "guidance": self.settings.guidance,
            "scheduler": self.settings.scheduler,
            "seed": self.settings.seed,
            "device": self.device,
            "model": self.model,
            "when": self.when,
            "verdict": self.verdict,
            "distance": self.distance,
            "notes": self.notes,
            "where": self.where and self.where.to_json(),
            **self._words(),
        }

    def _words(self) -> dict[str, Any]:
        """Return the prompts, negative prompt and size of a text model; nothing for classes."""
        s = self.settings.to_json()
        return {name: s[name] for name in ("prompts", "negative", "size")} if s["prompts"] else {}

    def save(self, folder: Path) -> None:
        """Write two files that `load` reads: tensors (pictures as bytes) and facts.

        For the example that ships with the model.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        facts: dict[str, Any] = {"settings": self.settings.to_json()}
        facts |= {name: getattr(self, name) for name in FACTS}
        facts["where"] = self.where and self.where.to_json()
        for letter, side in (("a", self.a), ("b", self.b)):
            tensors[f"{letter}/images"] = to_bytes(side.images)
            tensors[f"{letter}/latents"] = side.latents.half().contiguous()
            tensors |= {f"{letter}/film/{i}": to_bytes(frame) for i, frame in enumerate(side.film)}
            facts[letter] = {name: getattr(side, name) for name in SIDE_FACTS}
            facts[letter]["plan"] = side.plan and side.plan.to_json()
        save_file(tensors, folder / "comparison.safetensors")
        (folder / "comparison.json").write_text(json.dumps(facts) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Comparison:
        """Read what `save` wrote. Raises StudioError."""
        try:
            tensors = load_file(folder / "comparison.safetensors")
            facts = json.loads((folder / "comparison.json").read_text())
            a, b = (_side_from(letter, facts.pop(letter), tensors) for letter in "ab")
            settings = facts.pop("settings")
            where = facts.pop("where", None)  # older examples have none
            return cls(
                a=a,
                b=b,
                settings=SampleSettings(**settings | {"labels": tuple(settings["labels"])}),
                where=where and Circumstances.from_json(where),
                **facts,
            )
        except Exception as err:
            raise StudioError(
                f"The example in {folder.name}/ cannot be read ({type(err).__name__}); restore it"
                " from the repository."
            ) from err


def _side_from(letter: str, facts: dict[str, Any], tensors: dict[str, Tensor]) -> Side:
    """Return one side from the facts and tensors of its letter."""
    plan = facts.pop("plan")
    frames = range(len(facts["film_timesteps"]))
    return Side(
        plan=plan and StagePlan.from_json(plan),
        latents=tensors[f"{letter}/latents"].float(),
        images=from_bytes(tensors[f"{letter}/images"]),
        film=[from_bytes(tensors[f"{letter}/film/{i}"]) for i in frames],
        **facts,
    )


def spread_of(values: list[float]) -> float | None:
    """Return `core.sampling.timing.spread`, or None for a single value, which has none."""
    return spread(values) if len(values) > 1 else None


def _median(values: list[float]) -> float | None:
    """Return the median, or None of nothing."""
    return statistics.median(values) if values else None


def side_name(plan: StagePlan | None) -> str:
    """Return the name of a side that runs this plan."""
    return "Dense" if plan is None else plan.name or with_own_guidance("MosaicDiff", plan)
