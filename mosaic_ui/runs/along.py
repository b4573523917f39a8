"""Give kept runs to take along: a report, a picture for slides, and what makes a run again.

The page's script names runs by their ids; a run is looked up in the database, so no part of an id
becomes a path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.errors import StudioError, plain_memory_errors
from core.runs.recipe import recipe_of_run
from core.runs.run import Run

from ..compare.at_hand import NOT_ASKED
from ..compare.downloads import file_bytes, file_stem
from ..page_state import Shared
from ..png import data_address
from ..recipes import TEXTS, listens_here, text_of
from ..remedies import page_sentence
from .record import store
from .report import MOST, report_html

Answer = dict[str, str]  # {"text"}, {"address", "name"}, or {"said": why it cannot be had}
ONE = "Tick one run first: this is about a single run."


def server_function(shared: Shared) -> Callable[[Any], Answer]:
    """Return what the script of the table may ask for: `take_along`."""

    def take_along(asked: Any) -> Answer:
        """Return a file or a text of runs; asked: [kind, ids of runs, in the order of the page]."""
        try:
            with plain_memory_errors():
                return _answer(shared, asked)
        except StudioError as error:
            return {"said": page_sentence(error)}

    return take_along


def _answer(shared: Shared, asked: Any) -> Answer:
    if not isinstance(asked, list) or len(asked) != 2 or not isinstance(asked[1], list):
        raise StudioError(NOT_ASKED)
    kind, ids = asked
    if kind == "report":
        runs = _runs(ids)
        address = data_address(report_html(runs, store()).encode(), "text/html")
        return {"address": address, "name": f"mosaic-report-{len(runs)}.html"}
    if kind == "slide":
        comparison = store().comparison(_only(ids).id)
        address = data_address(file_bytes(comparison, "slide"))
        return {"address": address, "name": f"{file_stem(comparison)}-slide.png"}
    if not isinstance(kind, str) or kind not in TEXTS:
        raise StudioError(NOT_ASKED)
    run = _only(ids)
    recipe = recipe_of_run(run, store().settings(run.id), shared.workshop)
    return {"text": text_of(recipe, kind, listens_here(shared.page))}


def _runs(ids: list[Any]) -> list[Run]:
    """Return the runs that are there, in the order of the page. Raises StudioError for too many."""
    if len(ids) > MOST:
        raise StudioError(f"A report holds at most {MOST} runs: tick fewer, or filter them.")
    by_id = {run.id: run for run in store().runs()}
    return [by_id[id] for id in ids if isinstance(id, str) and id in by_id]


def _only(ids: list[Any]) -> Run:
    """Return the one run. Raises StudioError for none, for several, and for one that is gone."""
    if len(ids) != 1 or not isinstance(ids[0], str) or len(ids[0]) > 64 or not ids[0].isascii():
        raise StudioError(ONE)
    return store().get(ids[0])
