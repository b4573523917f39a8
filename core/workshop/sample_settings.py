"""Hold what both sides of a comparison share, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..curves.plan_checks import checked_steps, short
from ..errors import StudioError
from ..guidance import is_guidance, rows_of, run_scale
from ..models.devices import DTYPES
from ..mosaic.modes import PLAIN, checked_mode
from ..seeds import SEEDS

MAX_IMAGES = 10_000
# images per batch of sets too large to be shown while they run; every full batch is a timed run
BATCH = 100
IN_STEP = 64  # up to this many images both sides are shown while they run
MAX_PROMPT = 1000  # characters; the text encoders read 77 tokens


@dataclass(frozen=True)
class SampleSettings:
    """What both sides of a comparison share. Raises StudioError for what cannot be."""

    labels: tuple[int, ...] = ()  # one per image, for a model with classes
    steps: int = 50
    guidance: float = 1.5
    seed: int = 0
    scheduler: str = "DDIM"
    repeats: int = 3  # timed runs of each side; 0: pictures only
    prompts: tuple[str, ...] = ()  # one per image, for a model with text
    negative: str = ""  # of every prompt
    size: tuple[int, int] | None = None  # (height, width) in pixels; None: the model's own
    # both sides take a DiT's adaLN vectors from a table made at the first step, where it fits; of
    # what has run: they did
    tabulate: bool = True
    # of both sides' networks, a name of core.checkpoints.DTYPES; None: as the model was loaded
    dtype: str | None = None
    mode: str = PLAIN  # of both sides' networks, one of core.mosaic.modes.MODES
    # sampling steps of A and of B, where they are not both `steps`
    side_steps: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self._check_pictures()
        self._check_numbers()
        if not isinstance(self.tabulate, bool):
            raise StudioError("Whether adaLN vectors come from a table is yes or no.")
        if self.dtype not in (None, *DTYPES):
            raise StudioError(
                f"A precision is one of {', '.join(DTYPES)}, not {short(self.dtype)}."
            )
        checked_mode(self.mode)
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
        object.__setattr__(self, "side_steps", self._own_steps())

    def _own_steps(self) -> tuple[int, int] | None:
        """Return the checked steps of A and B, or None where both have the shared number."""
        if self.side_steps is None:
            return None
        if len(self.side_steps) != 2:
            raise StudioError("Give the sampling steps of both sides, of A and then of B.")
        a, b = (checked_steps(steps) for steps in self.side_steps)
        return None if a == b == self.steps else (a, b)

    def steps_of(self, side: int) -> int:
        """Return the sampling steps of side A (0) or B (1)."""
        return self.steps if self.side_steps is None else self.side_steps[side]

    def _check_pictures(self) -> None:
        """Raise StudioError for pictures that cannot be asked for."""
        if not 1 <= self.n <= MAX_IMAGES:
            raise StudioError(f"Ask for 1 to {MAX_IMAGES} images, not {self.n}.")
        if self.labels and self.prompts:
            raise StudioError("Give classes or prompts, not both.")
        if any(
            not isinstance(p, str) or len(p) > MAX_PROMPT for p in (*self.prompts, self.negative)
        ):
            raise StudioError(f"A prompt is a text of at most {MAX_PROMPT} characters.")

    def _check_numbers(self) -> None:
        """Raise StudioError for numbers outside their range."""
        checked_steps(self.steps)
        if not is_guidance(self.guidance):
            raise StudioError(
                f"Guidance must be a number from 0 to 20, not {short(self.guidance)}."
            )
        if not _whole(self.seed) or not 0 <= self.seed < SEEDS:
            raise StudioError(
                f"The seed must be a whole number from 0 to 2^32 - 1, not {short(self.seed)}."
            )
        if not _whole(self.repeats) or not 0 <= self.repeats <= 50:
            raise StudioError(
                f"Timed repeats must be a whole number from 0 to 50, not {short(self.repeats)}."
            )

    @property
    def n(self) -> int:
        """Return the images of each side."""
        return len(self.labels) or len(self.prompts)

    @property
    def in_step(self) -> bool:
        """Say whether both sides run step by step before they are timed."""
        return self.n <= IN_STEP

    @property
    def batch(self) -> int:
        """Return the images that run together: all of a small set, BATCH of a large one."""
        return self.n if self.in_step else BATCH

    @property
    def halves(self) -> int:
        """Return the denoiser rows per image: 2 with classifier-free guidance, else 1."""
        return rows_of(run_scale(self.guidance))

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return asdict(self) | {
            "labels": list(self.labels),
            "prompts": list(self.prompts),
            "size": self.size and list(self.size),
            "side_steps": self.side_steps and list(self.side_steps),
        }


def _whole(value: object) -> bool:
    """Say whether a value is a whole number, and no bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
