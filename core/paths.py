"""Read paths as people write them, on the command line and in environment variables.

That is `~`, `$NAME`, file:// addresses, relative and empty paths.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .errors import StudioError

NAME = re.compile(r"\$(?:\w+|\{\w+\})")
SCHEME = re.compile(r"[A-Za-z][\w+.-]+://")  # two letters or more: "C:\" is a drive


def given_path(text: str | os.PathLike, what: str) -> str:
    """Return a path with `~`, `~name` and `$NAME` replaced as in a shell, and /x for file:///x.

    Service files, containers and quotes pass them on unchanged. A path that exists under just this
    name is returned as it is. `what` names the option or variable in the StudioError for a path
    that is empty, an address of another machine, or the home of an unknown user.
    """
    text = os.fspath(text)
    if not text.strip():
        raise StudioError(f"{what} is empty: give a path, or leave it out.")
    if "\0" in text:
        raise StudioError(f"{what} holds a zero byte, which no path can: correct it.")
    if SCHEME.match(text):
        return _local(text, what)
    if os.path.lexists(text):
        return text
    for name in NAME.findall(text):
        if name.strip("${}") in os.environ:
            text = text.replace(name, os.environ[name.strip("${}")])
        elif text.startswith(name):
            raise StudioError(
                f"{what} is {text!r}, and no variable {name} is set: give the path itself."
            )
    if text.startswith("~"):
        try:
            text = str(Path(text).expanduser())
        except RuntimeError as err:
            user = text.split("/")[0][1:]
            why = "your home folder is not known (HOME is not set)"
            if user:
                why = f"there is no user {user!r} here"
            raise StudioError(f"{what} is {text!r}, and {why}: give the path itself.") from err
    return text


def _local(address: str, what: str) -> str:
    """Return the path of a file:// address. Raises StudioError for other addresses."""
    parts = urlsplit(address)
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost") or not parts.path:
        raise StudioError(
            f"{what} is {address!r}, an address and no path of this machine: download it and give"
            " its path."
        )
    return url2pathname(parts.path)


def variable_path(name: str) -> Path | None:
    """Return the absolute path in an environment variable; None where it is not set or empty.

    Raises StudioError.
    """
    text = os.environ.get(name, "")
    return Path(given_path(text, name)).absolute() if text.strip() else None


def cache_folder() -> Path:
    """Return the folder that results are kept in between runs.

    It is $MOSAIC_CACHE, else mosaicdiff-studio in $XDG_CACHE_HOME, else in ~/.cache. A relative
    MOSAIC_CACHE counts from the working folder; a relative XDG_CACHE_HOME is ignored, as its
    standard demands. Raises StudioError where none of them names a folder.
    """
    return _own_folder("MOSAIC_CACHE", "XDG_CACHE_HOME", ".cache", "calibrations")


def data_folder() -> Path:
    """Return the folder of what nobody could make again: kept runs and kept plans.

    It is $MOSAIC_DATA, else mosaicdiff-studio in $XDG_DATA_HOME, else in ~/.local/share, with the
    rules of `cache_folder`. Nothing is made. Raises StudioError where none of them names a folder.
    """
    return _own_folder("MOSAIC_DATA", "XDG_DATA_HOME", ".local/share", "runs")


def _own_folder(own: str, shared: str, in_home: str, what: str) -> Path:
    """Return the folder that the variable `own` names, or one in `shared` or in the home folder.

    what: the word for what is kept there. Raises StudioError.
    """
    named = variable_path(own)
    if named is not None:
        return named
    place = os.environ.get(shared, "")
    if place.strip():
        place = given_path(place, shared)
        if os.path.isabs(place):
            return Path(place) / "mosaicdiff-studio"
    try:
        home = Path.home()
    except (RuntimeError, KeyError) as err:
        raise StudioError(
            f"There is no home folder to keep {what} in (HOME is not set): set {own} to a folder"
            " that can be written."
        ) from err
    if not home.is_absolute():
        raise StudioError(
            f"HOME is {str(home)!r}, no whole path: set {own} to a folder that can be written."
        )
    return home / in_home / "mosaicdiff-studio"
