"""What can go wrong with a checkpoint."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint folder cannot be used: it says which file, what is wrong with it and what to do."""
