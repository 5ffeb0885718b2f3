"""What can be wrong with what a run is to read."""

from __future__ import annotations


class SourceError(ValueError):
    """The inputs cannot be used; the message names them, says what was looked for, and what to do."""


class MissingColumnError(SourceError):
    """A table does not have the column that was asked for."""
