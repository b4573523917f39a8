"""Keep the finished parts of a benchmark in a file, so that a stopped run goes on from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import StudioError
from ..files import why_not_written, write_whole
from .measure import machine

OWN = ("device", "torch", "threads")  # of the machine: parts of another one are not taken


class KeptParts:
    """Parts that were measured on this machine with these settings. Raises StudioError.

    settings: what the parts were run on, as plain data.
    """

    def __init__(self, path: Path, device: Any, settings: dict[str, Any]):
        self.path = path
        facts = machine(device)
        self.own = {name: facts[name] for name in OWN} | settings | {"version": __version__}
        try:
            found = json.loads(path.read_text()) if path.exists() else {}
            if not isinstance(found, dict):
                raise ValueError
        except (OSError, ValueError) as err:
            raise StudioError(
                f"{path.name} holds no benchmark: remove it, or give another file."
            ) from err
        self.parts: dict[str, Any] = found.get("parts", {}) if found.get("of") == self.own else {}

    def add(self, name: str, part: dict[str, Any]) -> None:
        """Add a finished part and write the file, whole or not at all. Raises StudioError."""
        self.parts[name] = part
        text = json.dumps({"of": self.own, "parts": self.parts}, indent=1) + "\n"
        try:
            write_whole(self.path, lambda file: file.write_text(text))
        except OSError as err:
            raise StudioError(
                f"{self.path.name} could not be written ({why_not_written(err)})."
            ) from err
