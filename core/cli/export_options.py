"""Read what `prune --without-adaln` is told, and report what it wrote."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from ..errors import StudioError
from ..mosaic.exported import Export
from ..workshop.compare import sampler
from ..workshop.workshop import Workshop


def check_export(args: argparse.Namespace) -> None:
    """Refuse options that mean nothing without --without-adaln. Raises StudioError."""
    if not args.without_adaln and (args.scheduler is not None or args.labels is not None):
        raise StudioError(
            "--scheduler and --labels say what --without-adaln writes a model for: add it, or leave"
            " them out."
        )


def labels_to_export(args: argparse.Namespace, workshop: Workshop) -> list[int]:
    """Return the classes that an exported model is for. Raises StudioError."""
    if args.without_adaln and not workshop.family.has_adaln:
        raise StudioError(
            f"{workshop.name} has no adaLN weights that a table could stand for: leave"
            " --without-adaln out."
        )
    if args.labels is None:
        return sorted(workshop.class_names)
    words = [word.strip() for word in args.labels.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise StudioError("--labels must be classes by their numbers, such as 0,1,2.")
    labels = [int(word) for word in words]
    for label in labels:
        if label not in workshop.class_names:
            raise StudioError(
                f"{label} is not a class of {workshop.name}: name some of"
                f" {min(workshop.class_names)} to {max(workshop.class_names)}."
            )
    return labels


def scheduler_to_export(args: argparse.Namespace, workshop: Workshop) -> Any:
    """Return the scheduler whose timesteps are counted and exported for. Raises StudioError."""
    if args.scheduler is None:
        return workshop.checkpoint.pipeline.scheduler
    return sampler(workshop, args.scheduler)


def export_report(
    export: Export, args: argparse.Namespace, workshop: Workshop, labels: list[int]
) -> dict[str, Any]:
    """Return what the verb reports of an export: sizes, and what it is for."""
    own = type(workshop.checkpoint.pipeline.scheduler).__name__
    sizes = {name: value for name, value in asdict(export).items() if name != "files"}
    return sizes | {
        "scheduler": args.scheduler or own,
        "steps": args.steps,
        "classes": labels,
    }
