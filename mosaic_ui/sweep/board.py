"""Give the page a sweep as plain data, its pictures on request, and its files to take along.

`grid.js` draws it. Everything is read from the folder of the sweep, so that a sweep that goes on,
one that was stopped and one of another day are shown alike.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

from core.errors import StudioError, plain_memory_errors
from core.sweep.axes import KINDS, Axis
from core.sweep.kept import KeptSweep
from core.sweep.metrics import METRICS
from core.sweep.page import STATE_WORDS, page_of
from core.sweep.record import CellRecord
from core.sweep.results import PAGE, PICTURE, TABLE, picture_of, table_of

from ..compare.at_hand import NOT_ASKED
from ..png import data_address
from ..remedies import page_sentence
from ..visitors import sweep_shelf

MOST_PICTURES = 64  # that one call of the page may ask for
WORDS = STATE_WORDS | {"running": "running", "waiting": "waiting", "done": "done"}


def board(kept: KeptSweep) -> str:
    """Return what the page shows of a sweep, as JSON without pictures."""
    grid, facts, cells = kept.grid, kept.record.facts, kept.record.cells
    known = [m for m in METRICS if any(m.text(one.numbers) for one in cells)]
    done = kept.record.count("done")
    plain: dict[str, Any] = {
        "id": kept.id,
        "x": _axis(grid.x),
        "y": None if grid.y is None else _axis(grid.y),
        "metrics": [[m.key, m.words] for m in known],
        "about": (
            f"{done} of {len(cells)} cells done. {facts['model']}, n = {facts['n']}, seed"
            f" {facts['seed']}, {facts['device']}; all cells start from the same noise."
        ),
        "cells": [
            _cell(one, grid.title(place)) for one, place in zip(cells, grid.cells, strict=True)
        ],
    }
    return json.dumps(plain)


def _axis(axis: Axis) -> dict[str, Any]:
    return {"name": axis.name, "about": KINDS[axis.name].about, "labels": axis.labels}


def _cell(one: CellRecord, title: str) -> dict[str, Any]:
    """Return a cell: its state in words, and each metric as [number, text]."""
    done = one.state == "done"
    values = {m.key: [one.numbers[m.key], m.text(one.numbers)] for m in METRICS if done}
    return {
        "state": one.state,
        "words": WORDS[one.state],
        "title": title,
        "sentence": (one.numbers.get("verdict") or "") if done else one.sentence,
        "run": one.run if done else "",
        "picture": one.picture if done else "",
        "dense": one.dense if done else "",
        "values": {key: pair for key, pair in values.items() if pair[1]},
    }


def sweep_pictures(asked: Any) -> dict[str, str]:
    """Return pictures of a sweep as data addresses by their names; asked: [id, names].

    What is no picture of the sweep is left out.
    """
    id, names = asked if isinstance(asked, list) and len(asked) == 2 else ("", [])
    try:
        record = sweep_shelf().get(id).record
    except StudioError:
        return {}
    own = {name for one in record.cells for name in (one.picture, one.dense) if name}
    found = {}
    for name in (names if isinstance(names, list) else [])[:MOST_PICTURES]:
        data = record.picture(name) if isinstance(name, str) and name in own else None
        if data is not None:
            found[name] = data_address(data)
    return found


def sweep_file(asked: Any) -> dict[str, str]:
    """Return {"address", "name"} of a file of a sweep, or {"said": why not}; asked: [id, kind]."""
    try:
        with plain_memory_errors():
            id, kind = asked if isinstance(asked, list) and len(asked) == 2 else ("", "")
            if not isinstance(kind, str) or kind not in FILES:
                raise StudioError(NOT_ASKED)
            name, mime, make = FILES[kind]
            return {"address": data_address(make(sweep_shelf().get(id)), mime), "name": name}
    except StudioError as error:
        return {"said": page_sentence(error)}


def _csv(kept: KeptSweep) -> bytes:
    return table_of(kept.record, kept.grid).encode("utf-8", "replace")


def _png(kept: KeptSweep) -> bytes:
    buffer = io.BytesIO()
    picture_of(kept.record, kept.grid).save(buffer, format="PNG")
    return buffer.getvalue()


def _html(kept: KeptSweep) -> bytes:
    return page_of(kept.record, kept.grid).encode("utf-8", "replace")


# kind -> name of the file, its type, and what makes its content
FILES: dict[str, tuple[str, str, Callable[[KeptSweep], bytes]]] = {
    "csv": (f"mosaic-{TABLE}", "text/csv", _csv),
    "png": (f"mosaic-{PICTURE}", "image/png", _png),
    "html": (f"mosaic-{PAGE}", "text/html", _html),
}
