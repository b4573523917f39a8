"""Keep what a long search found in the data folder: one folder per question, named by its hash."""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from .cache import fingerprint
from .errors import StudioError
from .files import why_not_written
from .paths import data_folder

ID = re.compile("[0-9a-f]{16}")  # of what is kept: the name of its folder
GOING = ".deleted-"  # how the name begins of a folder that is being deleted


class Kept(Protocol):
    """One kept thing, as a shelf tells it from others."""

    @property
    def id(self) -> str:
        """Return the name of its folder."""

    @property
    def model_key(self) -> str:
        """Return the model that it is of."""


K = TypeVar("K", bound=Kept)


class Shelf(ABC, Generic[K]):
    """All folders of one kind within a folder, by default within `core.paths.data_folder`.

    kind: what one is called, in the singular. file: its date says when it was worked on last. gone:
    the sentence where there is no such one.
    """

    kind: ClassVar[str]
    file: ClassVar[str]
    gone: ClassVar[str]

    def __init__(self, folder: Path | None = None):
        """Name the folder; nothing is made. Raises StudioError where no folder can be named."""
        self.folder = data_folder() / f"{self.kind}s" if folder is None else folder

    @staticmethod
    def id_of(asked: dict[str, Any], device: str) -> str:
        """Return the id of a question, as plain data, on a device."""
        return fingerprint(asked, device)

    def folder_of(self, id: str) -> Path:
        """Return the folder of an id. Raises StudioError for what is no id."""
        if not isinstance(id, str) or not ID.fullmatch(id):
            raise StudioError(self.gone)
        return self.folder / id

    @abstractmethod
    def get(self, id: str) -> K:
        """Return one. Raises StudioError where it is not there or cannot be read."""

    def of(self, model_key: str) -> Iterator[K]:
        """Yield those of a model, the one that was worked on last first.

        Each folder is read when it is its turn; those that cannot be read are passed over.
        """
        for id in self._newest_first():
            try:
                one = self.get(id)
            except StudioError:
                continue
            if one.model_key == model_key and self._shown(one):
                yield one

    def latest(self, model_key: str) -> K | None:
        """Return the one of a model that was worked on last, None where there is none."""
        return next(self.of(model_key), None)

    def worked_on(self, id: str) -> float:
        """Return when one was worked on last, in seconds since 1970; 0 where that is not known."""
        try:
            return (self.folder_of(id) / self.file).stat().st_mtime
        except OSError:
            return 0.0

    def delete(self, id: str) -> None:
        """Delete one, whole or not at all. Raises StudioError.

        Nothing else is touched: runs that its cells kept stay in their store.
        """
        folder = self.folder_of(id)
        away = folder.with_name(f"{GOING}{id}")
        try:
            if away.exists():  # of an earlier one that was killed meanwhile
                shutil.rmtree(away)
            folder.rename(away)
        except FileNotFoundError as err:
            raise StudioError(self.gone) from err
        except OSError as err:
            raise StudioError(
                f"This {self.kind} could not be deleted ({why_not_written(err)}); all of it is"
                " still there."
            ) from err
        shutil.rmtree(away, ignore_errors=True)  # out of sight already; the next one tries again

    def _shown(self, one: K) -> bool:
        """Say whether there is anything to show of it."""
        return bool(one.id)

    def _newest_first(self) -> list[str]:
        dated = []
        try:
            for folder in self.folder.iterdir():
                path = folder / self.file
                if ID.fullmatch(folder.name) and path.exists():
                    dated.append((path.stat().st_mtime_ns, folder.name))
        except OSError:
            return []
        return [id for _, id in sorted(dated, reverse=True)]
