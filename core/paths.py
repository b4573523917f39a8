"""Paths as people give them, on the command line and in environment variables: `~`, `$NAME`,
file:// addresses, relative, empty.
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
    """Read a path as a shell would have: `~`, `~name` and `$NAME` stand for what they stand for
    there, file:///x for /x.

    Service files, containers and quotes hand them over as they are. A path that is there under just
    this name is taken as it is. `what` names the option or variable in the StudioError for a path
    that is empty, an address elsewhere, or names nobody.
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
    for said in NAME.findall(text):
        if said.strip("${}") in os.environ:
            text = text.replace(said, os.environ[said.strip("${}")])
        elif text.startswith(said):
            raise StudioError(
                f"{what} is {text!r}, and no variable {said} is set: give the path itself."
            )
    if text.startswith("~"):
        try:
            text = str(Path(text).expanduser())
        except RuntimeError as err:
            who = text.split("/")[0]
            whose = (
                "your home folder is not known (HOME is not set)"
                if who == "~"
                else f"there is no user {who[1:]!r} here"
            )
            raise StudioError(f"{what} is {text!r}, and {whose}: give the path itself.") from err
    return text


def _local(address: str, what: str) -> str:
    parts = urlsplit(address)
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost") or not parts.path:
        raise StudioError(
            f"{what} is {address!r}, an address and no path of this machine: download it and give"
            " its path."
        )
    return url2pathname(parts.path)


def variable_path(name: str) -> Path | None:
    """Read the path in an environment variable, absolute; None where it is not set or empty. Raises
    StudioError.
    """
    text = os.environ.get(name, "")
    return Path(given_path(text, name)).absolute() if text.strip() else None


def cache_folder() -> Path:
    """Find where things are kept between runs: $MOSAIC_CACHE, else mosaicdiff-studio in
    $XDG_CACHE_HOME, else in ~/.cache.

    A relative MOSAIC_CACHE is taken from where one stands; a relative XDG_CACHE_HOME does not
    count, as its standard says. Raises StudioError where none of them says a place.
    """
    own = variable_path("MOSAIC_CACHE")
    if own is not None:
        return own
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if shared.strip():
        shared = given_path(shared, "XDG_CACHE_HOME")
        if os.path.isabs(shared):
            return Path(shared) / "mosaicdiff-studio"
    try:
        home = Path.home()
    except (RuntimeError, KeyError) as err:
        raise StudioError(
            "There is no home folder to keep calibrations in (HOME is not set): set MOSAIC_CACHE to"
            " a folder that can be written."
        ) from err
    if not home.is_absolute():
        raise StudioError(
            f"HOME is {str(home)!r}, no whole path: set MOSAIC_CACHE to a folder that can be"
            " written."
        )
    return home / ".cache" / "mosaicdiff-studio"
