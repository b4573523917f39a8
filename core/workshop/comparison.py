"""What a comparison found: settings, the two sides with their pictures and times, and the sentence
that sums it up.

Speed-up is the median over pairs of timed runs of (seconds of A / seconds of B). A spread is None
where there was one run.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..curves.plan import STAGES, StagePlan
from ..curves.plan_checks import checked_steps, short
from ..errors import StudioError
from ..models.devices import DTYPES
from ..sampling.denoise import SEEDS
from ..sampling.timing import spread

MAX_IMAGES = 10_000
# images a batch of sets too large to be shown while they run; every full one is a timed run
BATCH = 100
ONE_RUN_DOUBT = 0.1  # a ratio of one timed run nearer to 1 than this is called no difference
# share of the ratio; with a wider spread nobody can say by how much a side is faster
WIDE_SPREAD = 0.2
MAX_PROMPT = 1000  # characters; the text encoders read 77 tokens


@dataclass(frozen=True)
class SampleSettings:
    """What both sides of a comparison share."""

    labels: tuple[int, ...] = ()  # one an image, for a model with classes
    steps: int = 50
    guidance: float = 1.5
    seed: int = 0
    scheduler: str = "DDIM"
    repeats: int = 3  # timed runs of each side
    prompts: tuple[str, ...] = ()  # one an image, for a model with text
    negative: str = ""  # of every prompt
    size: tuple[int, int] | None = None  # (height, width) in pixels; None: the model's own
    # both sides take a DiT's adaLN vectors from a table made at the first step
    tabulate: bool = False
    # of both sides' networks, a name of core.models.devices.DTYPES; None: as the model was loaded
    dtype: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MAX_IMAGES:
            raise StudioError(f"Ask for 1 to {MAX_IMAGES} images, not {self.n}.")
        if self.labels and self.prompts:
            raise StudioError("Give classes or prompts, not both.")
        if any(
            not isinstance(p, str) or len(p) > MAX_PROMPT for p in (*self.prompts, self.negative)
        ):
            raise StudioError(f"A prompt is a text of at most {MAX_PROMPT} characters.")
        checked_steps(self.steps)
        if (
            not isinstance(self.guidance, (int, float)) or not 0 <= self.guidance <= 20
        ):  # a NaN is in no range
            raise StudioError(
                f"Guidance must be a number from 0 to 20, not {short(self.guidance)}."
            )
        if not _whole(self.seed) or not 0 <= self.seed < SEEDS:
            raise StudioError(
                f"The seed must be a whole number from 0 to 2^32 - 1, not {short(self.seed)}."
            )
        if not _whole(self.repeats) or not 1 <= self.repeats <= 50:
            raise StudioError(
                f"Timed repeats must be a whole number from 1 to 50, not {short(self.repeats)}."
            )
        if not isinstance(self.tabulate, bool):
            raise StudioError("Whether adaLN vectors come from a table is yes or no.")
        if self.dtype not in (None, *DTYPES):
            raise StudioError(
                f"A precision is one of {', '.join(DTYPES)}, not {short(self.dtype)}."
            )
        for name in ("steps", "seed", "repeats"):  # NumPy's integers do not go into JSON
            object.__setattr__(self, name, int(getattr(self, name)))
        object.__setattr__(self, "labels", tuple(int(x) if _whole(x) else x for x in self.labels))
        object.__setattr__(self, "prompts", tuple(self.prompts))
        if self.size is not None:
            if len(self.size) != 2 or not all(_whole(x) and 8 <= x <= 4096 for x in self.size):
                raise StudioError(
                    "A size is two whole numbers from 8 to 4096: height and width in pixels."
                )
            object.__setattr__(self, "size", tuple(int(x) for x in self.size))

    @property
    def n(self) -> int:
        """Images of each side."""
        return len(self.labels) or len(self.prompts)

    @property
    def halves(self) -> int:
        """Denoiser rows per image: 2 with classifier-free guidance, else 1."""
        return 2 if self.guidance > 1 else 1

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "labels": list(self.labels),
            "prompts": list(self.prompts),
            "size": self.size and list(self.size),
        }


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


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
    # denoiser, whole run, all images, both guidance halves; linear and convolution layers
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
        """Denoiser's seconds of the whole run, one figure a timed run."""
        return [self.scale * sum(run) for run in self.step_seconds]

    @property
    def seconds(self) -> float:
        return statistics.median(self.run_seconds)

    @property
    def seconds_spread(self) -> float | None:
        return spread_of(self.run_seconds)

    def stage_seconds(self, steps: list[int]) -> tuple[float, float | None]:
        """Median and spread of the time spent in these steps."""
        totals = [self.scale * sum(run[i] for i in steps) for run in self.step_seconds]
        return statistics.median(totals), spread_of(totals)


@dataclass(frozen=True)
class Preview:
    """What to show while a comparison runs."""

    text: str
    done: int
    total: int
    image_a: np.ndarray | None = None  # uint8 (n, H, W) or (n, H, W, 3)
    image_b: np.ndarray | None = None
    step: int | None = None
    timestep: float | None = None
    stage: int = -1  # of side B at this step, else of A


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

    @property
    def pair_ratios(self) -> list[float]:
        return [x / y for x, y in zip(self.a.run_seconds, self.b.run_seconds, strict=True)]

    @property
    def speedup_measured(self) -> float:
        return statistics.median(self.pair_ratios)

    @property
    def speedup_spread(self) -> float | None:
        return spread_of(self.pair_ratios)

    @property
    def speedup_macs(self) -> float:
        return self.a.macs / self.b.macs

    @property
    def speedup_predicted(self) -> float | None:
        a, b = self.a.predicted_seconds, self.b.predicted_seconds
        return None if a is None or b is None else sum(a) / sum(b)

    @property
    def timed_runs(self) -> int:
        return len(self.a.step_seconds)

    @property
    def verdict(self) -> str:
        """One plain sentence, also when it is not faster."""
        ratio, off, a, b = self.speedup_measured, self.speedup_spread, self.a.name, self.b.name
        work = (
            f"with {abs(1 - 1 / self.speedup_macs):.0%}"
            f" {'fewer' if self.speedup_macs >= 1 else 'more'} multiply-accumulates"
        )
        facts = f"×{ratio:.2f}, " + (
            "one timed run, no spread"
            if off is None
            else f"median of {self.timed_runs} timed runs in turn, spread ±{off:.2f}"
        )
        more = (
            "ask for 300 images or more, or for fewer than 100,"
            if self.n >= BATCH
            else "time at least 3"
        )
        doubt = (
            ""
            if off is not None
            else f"; one run cannot tell small differences, so {more} to be sure"
        )
        if abs(self.speedup_macs - 1) < 1e-9 and torch.equal(self.a.latents, self.b.latents):
            return (
                "Both sides are the same network: equal pictures, and a measured ratio that is"
                f" only noise ({facts})."
            )
        unsure = ONE_RUN_DOUBT if off is None else max(off, 0.02)
        gain = abs(ratio - 1)
        if off is not None and (off > WIDE_SPREAD * ratio or unsure < gain < 2 * off):
            return f"{self._doubt(ratio, unsure)} ({facts}) {work}; {self._again}."
        if ratio - unsure > 1:
            return f"{b} took {1 - 1 / ratio:.0%} less time than {a} ({facts}) {work}{doubt}."
        if ratio + unsure < 1:
            return (
                f"{b} was not faster: it took {1 / ratio - 1:.0%} more time than {a} ({facts})"
                f" {work}{doubt}."
            )
        return f"{b} was not measurably faster than {a} ({facts}) {work}{doubt}."

    def _doubt(self, ratio: float, unsure: float) -> str:
        """Say which side seemed faster, where the timed runs differ too much to say by how much."""
        a, b = self.a.name, self.b.name
        if abs(ratio - 1) <= unsure:
            return f"Whether {b} is faster than {a} is open, as the timed runs differ too much"
        less = "less" if ratio > 1 else "more"
        return (
            f"{b} seemed to take {less} time than {a}, but the timed runs differ too much to say"
            " how much"
        )

    @property
    def _again(self) -> str:
        """What to do about timed runs that differ."""
        more = "images" if self.n >= BATCH else "timed runs"
        return f"close other programs and compare again, with more {more}"

    def stage_rows(self) -> list[dict[str, Any]]:
        """Per stage (of B's plan, else A's): steps, and for both sides measured median, spread and
        prediction, in seconds.
        """
        stages = self.b.stages if self.b.plan is not None else self.a.stages
        rows = []
        for i, name in enumerate(STAGES):
            steps = [k for k, s in enumerate(stages) if s == i]
            if not steps:
                continue
            row: dict[str, Any] = {"stage": name, "steps": len(steps)}
            for letter, side in (("a", self.a), ("b", self.b)):
                median, off = side.stage_seconds(steps)
                predicted = (
                    None
                    if side.predicted_seconds is None
                    else sum(side.predicted_seconds[k] for k in steps)
                )
                row |= {
                    f"{letter}_seconds": median,
                    f"{letter}_spread": off,
                    f"{letter}_predicted": predicted,
                }
            rows.append(row)
        return rows

    def to_json(self) -> dict[str, Any]:
        """The command line's object. `dense` is side A (with --against: that plan), `mosaic` side
        B.
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
            "tabulated": self.settings.tabulate,
            "dtype": self.settings.dtype,
            "guidance": self.settings.guidance,
            "scheduler": self.settings.scheduler,
            "seed": self.settings.seed,
            "device": self.device,
            "model": self.model,
            "when": self.when,
            "verdict": self.verdict,
            "notes": self.notes,
            **self._words(),
        }

    def _words(self) -> dict[str, Any]:
        """What a text model was asked for; nothing for classes."""
        s = self.settings.to_json()
        return {name: s[name] for name in ("prompts", "negative", "size")} if s["prompts"] else {}

    def save(self, folder: Path) -> None:
        """Two files that `load` reads back: tensors (pictures as bytes) and facts. For the example
        that ships with the model.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors, facts = {}, {"settings": self.settings.to_json()}
        facts |= {
            k: getattr(self, k)
            for k in ("device", "model", "when", "psnr", "ssim", "latent_mse", "n", "notes")
        }
        for letter, side in (("a", self.a), ("b", self.b)):
            tensors |= {
                f"{letter}/images": to_bytes(side.images),
                f"{letter}/latents": side.latents.half().contiguous(),
            }
            tensors |= {f"{letter}/film/{i}": to_bytes(frame) for i, frame in enumerate(side.film)}
            names = (
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
            facts[letter] = {k: getattr(side, k) for k in names} | {
                "plan": side.plan and side.plan.to_json()
            }
        save_file(tensors, folder / "comparison.safetensors")
        (folder / "comparison.json").write_text(json.dumps(facts) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Comparison:
        """Read what `save` wrote. Raises StudioError."""
        try:
            tensors, facts = (
                load_file(folder / "comparison.safetensors"),
                json.loads((folder / "comparison.json").read_text()),
            )
            sides = []
            for letter in "ab":
                f = facts.pop(letter)
                f["plan"] = f["plan"] and StagePlan.from_json(f["plan"])
                film = [
                    from_bytes(tensors[f"{letter}/film/{i}"])
                    for i in range(len(f["film_timesteps"]))
                ]
                sides.append(
                    Side(
                        latents=tensors[f"{letter}/latents"].float(),
                        images=from_bytes(tensors[f"{letter}/images"]),
                        film=film,
                        **f,
                    )
                )
            settings = facts.pop("settings")
            return cls(
                *sides,
                settings=SampleSettings(**settings | {"labels": tuple(settings["labels"])}),
                **facts,
            )
        except Exception as err:
            raise StudioError(
                f"The example in {folder.name}/ cannot be read ({type(err).__name__}); restore it"
                " from the repository."
            ) from err


def spread_of(values: list[float]) -> float | None:
    """`core.sampling.timing.spread`; None for a single value, which has none."""
    return spread(values) if len(values) > 1 else None


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] to uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().contiguous()


def from_bytes(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def pictures(images: Tensor) -> np.ndarray:
    """(n, 1 or 3, H, W) in [-1, 1] -> uint8 (n, H, W) or (n, H, W, 3)."""
    array = to_bytes(images).permute(0, 2, 3, 1).numpy()
    return array[..., 0] if array.shape[-1] == 1 else array


def grid(images: Tensor, columns: int | None = None, scale: int = 1) -> np.ndarray:
    """One uint8 picture of many, row by row, each pixel blown up `scale` times."""
    array = pictures(images)
    n, h, w = array.shape[:3]
    columns = columns or min(n, max(1, round(n**0.5)))
    rows = -(-n // columns)
    sheet = np.full((rows * h, columns * w, *array.shape[3:]), 255, np.uint8)
    for i, picture in enumerate(array):
        sheet[
            (i // columns) * h : (i // columns + 1) * h, (i % columns) * w : (i % columns + 1) * w
        ] = picture
    return sheet.repeat(scale, 0).repeat(scale, 1)


def side_name(plan: StagePlan | None) -> str:
    return "Dense" if plan is None else plan.name or "MosaicDiff"
