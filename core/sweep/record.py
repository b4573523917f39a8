"""Keep a sweep in one JSON file that a kill leaves whole, with a picture beside it per cell."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..curves.plan_checks import check_keys
from ..errors import StudioError
from ..files import why_not_written, write_whole
from ..runs.run import Run
from ..workshop.sample_settings import SampleSettings
from ..workshop.workshop import Workshop
from .axes import Axis, Value
from .cells import SETTINGS, Cell, Grid

FILE = "sweep.json"
PICTURES = "pictures"
VERSION = 1
State = Literal["waiting", "running", "done", "failed", "impossible"]
FACTS = ("model", "device", "n", "seed")
STATES = ("waiting", "running", "done", "failed", "impossible")
UNITS = {
    "macs_saved": "share of the dense model's MACs, whole run, all rows",
    "speedup_macs": "MACs of dense / of the plan",
    "speedup_predicted": "predicted seconds of dense / of the plan, not measured",
    "speedup_measured": "median over pairs of timed runs of seconds of dense / of the plan",
    "speedup_spread": "half the distance between the quartiles of those ratios",
    "seconds": "median of the denoiser's seconds for all images",
    "psnr": "dB to dense, mean over the images that differ",
    "latent_mse": "mean squared distance of final latents to dense",
    "fid": "Fréchet distance on the model's own feature network, from 200 images",
    "took": "seconds of the whole cell",
}


@dataclass(frozen=True)
class CellRecord:
    """What is known of one cell. Numbers are there once it is done."""

    x: Value
    y: Value
    state: State
    sentence: str = ""  # why it failed or cannot be
    run: str = ""  # id of its kept run
    picture: str = ""  # file in the folder of the sweep
    dense: str = ""  # file with the dense pictures from the same noise
    took: float | None = None  # seconds
    predicted: float | None = None  # seconds of the denoiser, said before it ran
    plan: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # of the run, what a sweep may set
    numbers: dict[str, Any] = field(default_factory=dict)  # see `numbers_of`

    @property
    def open(self) -> bool:
        """Say whether the cell still has to run; one that failed is tried again."""
        return self.state in ("waiting", "running", "failed")

    @classmethod
    def of(cls, cell: Cell) -> CellRecord:
        """Return the record of a cell that has not run."""
        run = {name: getattr(cell.settings, name) for name in SETTINGS}
        state: State = "impossible" if cell.why_not else "waiting"
        return cls(
            cell.x,
            cell.y,
            state,
            sentence=cell.why_not,
            plan={} if cell.why_not else cell.plan.to_json(),
            settings={} if cell.why_not else run,
        )


def numbers_of(run: Run) -> dict[str, Any]:
    """Return the numbers of a kept run of dense (A) and a plan (B), for a cell; see `UNITS`."""
    a, b = run.a, run.b
    return {
        "macs_saved": None if not a.macs or b.macs is None else 1 - b.macs / a.macs,
        "speedup_macs": run.speedup_macs,
        "speedup_predicted": run.speedup_predicted,
        "speedup_measured": run.speedup,
        "speedup_spread": run.speedup_spread,
        "timed_runs": run.timed_runs,
        "seconds_dense": a.seconds,
        "seconds": b.seconds,
        "psnr": run.psnr,
        "ssim": run.ssim,
        "latent_mse": run.latent_mse,
        "fid": b.fid,
        "fid_dense": a.fid,
        "class_accuracy": b.class_accuracy,
        "n": run.n,
        "seed": run.seed,
        "device": run.device,
        "when": run.when,
        "verdict": run.verdict,
        "remarks": run.remarks,
    }


def question(workshop: Workshop, grid: Grid) -> dict[str, Any]:
    """Return what a sweep is known by: the same question goes on in the same folder."""
    return {
        "model": workshop.model_key,
        "calibration": workshop.key,  # of the precision too
        "x": grid.x.to_json(),
        "y": None if grid.y is None else grid.y.to_json(),
        **grid.base.to_json(),
    }


class SweepRecord:
    """The folder of one sweep. Every change is on the disk before a method returns.

    asked: `question`; a folder of another sweep is refused. Raises StudioError.
    """

    def __init__(self, folder: Path, asked: dict[str, Any], grid: Grid, facts: dict[str, Any]):
        self.folder, self.asked, self.facts = folder, asked, facts
        self.cells = [CellRecord.of(cell) for cell in grid.cells]
        self.stopped = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / FILE).exists():
                self._go_on(json.loads((folder / FILE).read_text(encoding="utf-8")))
            elif any(folder.iterdir()):
                raise StudioError(
                    f"{folder}/ holds other files: give a new or empty folder, or that of a sweep"
                    " to go on with."
                )
            self.write()
        except OSError as err:
            raise StudioError(
                f"The folder {folder}/ cannot be used ({why_not_written(err)})."
            ) from err
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise StudioError(f"{folder / FILE} is damaged; give another folder.") from err

    def _go_on(self, held: dict[str, Any]) -> None:
        """Take over what an earlier command found. Raises StudioError for another sweep."""
        asked = json.loads(json.dumps(self.asked))
        other = [key for key in asked if held["asked"].get(key) != asked[key]]
        if other:
            words = {"plan": "base plan", "settings": "run settings", "x": "x axis", "y": "y axis"}
            named = ", ".join(words.get(key, key) for key in other)
            raise StudioError(
                f"{self.folder}/ holds a sweep with another {named}: give a new folder, or ask for"
                " the same again to go on with it."
            )
        kept = [CellRecord(**plain) for plain in held["cells"]]
        if len(kept) != len(self.cells) or any(one.state not in STATES for one in kept):
            raise ValueError("other cells")
        # what cannot be may have changed, as with another device
        self.cells = [
            old if old.state in ("done", "running") or (old.open and new.open) else new
            for old, new in zip(kept, self.cells, strict=True)
        ]

    @classmethod
    def held(cls, folder: Path) -> SweepRecord:
        """Return the record of a folder as it is on the disk; nothing is written.

        Raises OSError, ValueError, TypeError, KeyError for what cannot be read.
        """
        plain = json.loads((folder / FILE).read_text(encoding="utf-8"))
        record = cls.__new__(cls)
        record.folder, record.asked = folder, plain["asked"]
        record.facts = {name: plain[name] for name in FACTS}
        record.cells = [CellRecord(**cell) for cell in plain["cells"]]
        record.stopped = bool(plain["stopped"])
        if any(one.state not in STATES for one in record.cells):
            raise ValueError("a state that is none")
        return record

    def to_json(self) -> dict[str, Any]:
        """Return the whole record as plain data."""
        return {
            "version": VERSION,
            **self.facts,
            "asked": self.asked,
            "units": UNITS,
            "stopped": self.stopped,
            "counts": {state: self.count(state) for state in STATES},
            "cells": [vars(cell) for cell in self.cells],
        }

    def count(self, state: str) -> int:
        """Return how many cells are in a state."""
        return sum(cell.state == state for cell in self.cells)

    def change(self, index: int, **changes: Any) -> CellRecord:
        """Change what is known of one cell, and write it. Raises StudioError."""
        self.cells[index] = replace(self.cells[index], **changes)
        self.write()
        return self.cells[index]

    def write(self) -> None:
        """Write the record, whole or not at all. Raises StudioError."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n"
        self.write_file(FILE, text.encode("utf-8", "replace"))

    def write_file(self, name: str, data: bytes) -> None:
        """Write a file of the sweep, whole or not at all. Raises StudioError."""
        try:
            write_whole(self.folder / name, lambda part: part.write_bytes(data))
        except OSError as err:
            raise StudioError(
                f"{self.folder / name} could not be written ({why_not_written(err)}); what was"
                " written before is kept, and the sweep goes on from it."
            ) from err

    def picture(self, name: str) -> bytes | None:
        """Return a picture of the sweep, PNG; None where it is not there."""
        try:
            return (self.folder / name).read_bytes() if name else None
        except OSError:
            return None


def read_record(folder: Path) -> tuple[Axis, Axis | None, dict[str, Any]]:
    """Return both axes and the plain data of a sweep's folder. Raises StudioError."""
    try:
        plain = json.loads((folder / FILE).read_text(encoding="utf-8"))
        check_keys(plain["asked"], "A sweep", list(plain["asked"]), ("x", "y", "plan", "settings"))
        y = plain["asked"]["y"]
        return Axis.from_json(plain["asked"]["x"]), None if y is None else Axis.from_json(y), plain
    except (OSError, ValueError, TypeError, KeyError) as err:
        raise StudioError(f"{folder}/ holds no sweep that can be read.") from err


def settings_from(plain: dict[str, Any]) -> SampleSettings:
    """Return run settings from plain data, as `SampleSettings.to_json` gives it.

    Raises StudioError, TypeError.
    """
    size, side_steps = plain.get("size"), plain.get("side_steps")
    return SampleSettings(
        **plain
        | {
            "labels": tuple(plain["labels"]),
            "prompts": tuple(plain["prompts"]),
            "size": None if size is None else tuple(size),
            "side_steps": None if side_steps is None else tuple(side_steps),
        }
    )
