"""The one exception that a user sees: a sentence that says what is wrong and what to do."""

from __future__ import annotations


class StudioError(Exception):
    """Something a user can mend. The interface shows the sentence; the command line prints it and exits 2."""


class PlanError(StudioError):
    """A stage plan that cannot be."""


class Stopped(Exception):
    """Somebody pressed Stop: the work so far is kept, nothing is half-written."""
