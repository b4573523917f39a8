"""Keep plans under names that are unique."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import asdict, replace

from ..curves.guidance_words import with_own_guidance
from ..curves.plan import StagePlan
from ..errors import StudioError
from .database import Database, insert, quoted
from .facts import new_id
from .run import PLAN_COLUMNS, KeptPlan
from .texts import MAX_NAME, checked_name, storable

KEEP_SECONDS = 24 * 3600.0  # how long what was deleted can be had back
GONE = "There is no such kept plan any more; it was deleted: choose another one."


class KeptPlans:
    """The kept plans of a database.

    All methods raise StudioError for a database that cannot be used. Ids that nobody knows, and
    what was deleted before, are passed over by `delete_plan` and `undelete_plan`.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def plans(self) -> list[KeptPlan]:
        """Return the kept plans, newest first."""
        query = f"SELECT {quoted(PLAN_COLUMNS)} FROM plans WHERE deleted IS NULL ORDER BY row DESC"
        return [KeptPlan(*row) for row in self.database.rows(query)]

    def plan(self, id: str) -> KeptPlan:
        """Return one kept plan. Raises StudioError where it is not there or was deleted."""
        query = f"SELECT {quoted(PLAN_COLUMNS)} FROM plans WHERE id = ? AND deleted IS NULL"
        rows = self.database.rows(query, [id])
        if not rows:
            raise StudioError(GONE)
        return KeptPlan(*rows[0])

    def keep_plan(
        self, name: str, plan: StagePlan, model_key: str, model_name: str = ""
    ) -> KeptPlan:
        """Keep a plan and return it as kept.

        A name that is taken gets " 2" or the next free number; an empty one becomes the plan's own,
        or "Plan" with the guidance that it sets. Raises StudioError for a name of more than 200
        characters.
        """
        name = checked_name(name) if name.strip() else plan.name or with_own_guidance("Plan", plan)
        kept = KeptPlan(
            id=new_id(),
            name=name,
            plan_json=plan.dumps_short(),
            model_key=model_key,
            model=storable(model_name),
            created=time.time(),
        )
        with self.database.writing() as connection:
            kept = replace(kept, name=free_name(name, _taken(connection)))
            connection.execute(insert("plans", PLAN_COLUMNS), asdict(kept))
        return kept

    def rename_plan(self, id: str, name: str) -> KeptPlan:
        """Give a kept plan another name, as `keep_plan` does, and return it as kept.

        Raises StudioError for an empty or too long name and for a plan that is not there.
        """
        if not checked_name(name).strip():
            raise StudioError("A kept plan needs a name: give one.")
        with self.database.writing() as connection:
            name = free_name(name, _taken(connection, id))
            query = "UPDATE plans SET name = ? WHERE id = ? AND deleted IS NULL"
            if not connection.execute(query, (name, id)).rowcount:
                raise StudioError(GONE)
            query = f"SELECT {quoted(PLAN_COLUMNS)} FROM plans WHERE id = ?"
            return KeptPlan(*connection.execute(query, (id,)).fetchone())

    def delete_plan(self, id: str) -> bool:
        """Delete a kept plan; for a day `undelete_plan` has it back. False: it was not there."""
        with self.database.writing() as connection:
            query = "UPDATE plans SET deleted = ? WHERE id = ? AND deleted IS NULL"
            return bool(connection.execute(query, (time.time(), id)).rowcount)

    def undelete_plan(self, id: str) -> bool:
        """Have a deleted plan back, under another name if its own is taken. False: none there."""
        with self.database.writing() as connection:
            query = "SELECT name FROM plans WHERE id = ? AND deleted IS NOT NULL"
            found = connection.execute(query, (id,)).fetchone()
            if found is None:
                return False
            name = free_name(found[0], _taken(connection))
            connection.execute("UPDATE plans SET deleted = NULL, name = ? WHERE id = ?", (name, id))
            return True


def free_name(name: str, taken: Iterable[str]) -> str:
    """Return a name, with the first free number from 2 behind it when it is taken.

    It stays within 200 characters.
    """
    others = set(taken)
    free, number = name, 2
    while free in others:
        tail = f" {number}"
        free, number = name[: MAX_NAME - len(tail)] + tail, number + 1
    return free


def _taken(connection: sqlite3.Connection, but: str = "") -> list[str]:
    """Return the names of the kept plans, but that of one id."""
    query = "SELECT name FROM plans WHERE deleted IS NULL AND id != ?"
    return [name for (name,) in connection.execute(query, (but,))]
