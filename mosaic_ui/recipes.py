"""Give the command line and the Python program of a comparison, for who may read paths and who not.

Pure functions but for `listens_here`, which looks at how the page is served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gradio as gr

from core.models.bundled import BUNDLED_MODELS
from core.runs.command import as_command
from core.runs.program import as_python
from core.runs.recipe import Recipe

# kind -> what its button says, and what writes the text
TEXTS: dict[str, tuple[str, Callable[[Recipe], str]]] = {
    "command": ("Copy as a command line", as_command),
    "python": ("Copy as Python", as_python),
}
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
COPY = (Path(__file__).parent / "copy.js").read_text(encoding="utf-8")
PLACE = "PATH-OF-"  # what stands for a path of the server


def text_of(recipe: Recipe, kind: str, here: bool) -> str:
    """Return the text of one of `TEXTS`. Raises StudioError where it cannot be written.

    here: the reader sits at the machine of the studio. Others get a name in the place of each path
    of the server, and a line that says what belongs there.
    """
    write = TEXTS[kind][1]
    if here:
        return write(recipe)
    shown, lines = _without_paths(recipe)
    return "".join(lines) + write(shown)


def listens_here(page: gr.Blocks) -> bool:
    """Say whether only this machine reaches the page: a loopback address, and no public link."""
    name = getattr(page, "server_name", None) or ""
    return name in LOOPBACK and not page.share and not page.root_path


def _without_paths(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Return the recipe without paths of the server, and a line of comment for each."""
    lines = []
    if recipe.model not in BUNDLED_MODELS and Path(recipe.model).is_absolute():
        place = f"{PLACE}{Path(recipe.model).name}"
        lines.append(f"# Put the folder of this model in the place of {place}.\n")
        recipe = replace(recipe, model=place)
    if recipe.data.images is not None:
        place = f"{PLACE}calibration-pictures"
        lines.append(f"# Put the folder of the calibration pictures in the place of {place}.\n")
        recipe = replace(recipe, hidden_images=place)
    return recipe, lines
