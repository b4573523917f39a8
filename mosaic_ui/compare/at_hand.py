"""Find the comparison that a page shows, and give files, texts and strips of it on request.

The page carries an id and names. What is heavy is made when somebody asks for it, from the id
alone: for every visitor, after a reload and after a restart of the server.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gradio as gr

from core.errors import StudioError, plain_memory_errors
from core.runs.recipe import recipe_of
from core.workshop.comparison import Comparison
from core.workshop.workshop import Workshop

from .. import background
from ..png import data_address
from ..recipes import TEXTS, listens_here, text_of
from ..remedies import page_sentence
from ..runs.record import store
from .downloads import FILES, file_bytes
from .pictures import MAX_SHOWN
from .viewer import film_strip

EXAMPLE = "example"  # the id of the comparison that ships with a model
ID = re.compile(r"[0-9A-Za-z-]{1,64}")
NOT_ASKED = "This page asks for something that is not there: load it again."

Answer = dict[str, Any]  # what was asked for, or {"said": why it cannot be had}


def find(workshop: Workshop, id: Any) -> Comparison:
    """Return the example, the comparison that goes on, or the kept one of this id.

    No part of an id becomes a path: a kept run is looked up in the database. Raises StudioError.
    """
    if not isinstance(id, str) or not ID.fullmatch(id):
        raise StudioError(NOT_ASKED)
    if id == EXAMPLE:
        example = workshop.example()
        if example is None:
            raise StudioError(NOT_ASKED)
        return example
    for one in background.ongoing():
        if one.id == id and one.found is not None:  # it is kept when its times are measured
            return one.found
    return store().comparison(id)


def server_functions(workshop: Workshop) -> list[Callable[[Any], Answer]]:
    """Return what the scripts of viewer and downloads may ask: `make_file` and `film_strips`."""

    def make_file(asked: Any) -> Answer:
        """Return {"address": the file}; asked: [id, kind of file]."""
        return _answer(lambda: _file(workshop, *_pair(asked)))

    def film_strips(asked: Any) -> Answer:
        """Return {"strips": {sample: [A, B]}}; asked: [id, numbers of samples]."""
        return _answer(lambda: _strips(workshop, *_pair(asked)))

    return [make_file, film_strips]


def recipe_texts(workshop: Workshop, page: gr.Blocks) -> Callable[[Any], Answer]:
    """Return what the script of the downloads may ask for a text to copy: `make_text`."""

    def make_text(asked: Any) -> Answer:
        """Return {"text": command line or program}; asked: [id, kind of text]."""
        return _answer(lambda: _text(workshop, page, *_pair(asked)))

    return make_text


def _text(workshop: Workshop, page: gr.Blocks, id: Any, kind: Any) -> Answer:
    if not isinstance(kind, str) or kind not in TEXTS:
        raise StudioError(NOT_ASKED)
    recipe = recipe_of(find(workshop, id), workshop)
    return {"text": text_of(recipe, kind, listens_here(page))}


def _answer(make: Callable[[], Answer]) -> Answer:
    """Return what `make` makes, or the sentence of what it raises."""
    try:
        with plain_memory_errors():
            return make()
    except StudioError as error:
        return {"said": page_sentence(error)}


def _pair(asked: Any) -> list[Any]:
    """Return the two parts of a question. Raises StudioError for anything else."""
    if not isinstance(asked, list) or len(asked) != 2:
        raise StudioError(NOT_ASKED)
    return asked


def _file(workshop: Workshop, id: Any, kind: Any) -> Answer:
    if not isinstance(kind, str) or kind not in FILES:
        raise StudioError(NOT_ASKED)
    judged = workshop.judge is not None
    content = file_bytes(find(workshop, id), kind, workshop.class_names, judged)
    return {"address": data_address(content, FILES[kind].mime)}


def _strips(workshop: Workshop, id: Any, samples: Any) -> Answer:
    if not isinstance(samples, list):
        raise StudioError(NOT_ASKED)
    comparison = find(workshop, id)
    most = min(comparison.n, MAX_SHOWN)
    wanted = sorted({i for i in samples if type(i) is int and 0 <= i < most})
    sides = (comparison.a, comparison.b)
    if not all(side.film for side in sides):
        return {"strips": {}}
    strips = {str(i): [film_strip(side, i, comparison) for side in sides] for i in wanted}
    return {"strips": strips}
