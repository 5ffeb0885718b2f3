"""What can go wrong with a checkpoint, and with what it is asked."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint folder cannot be used: it says which file, what is wrong with it and what to do."""


class AdapterError(CheckpointError):
    """A LoRA adapter cannot be used: it says which, what is wrong with it and what to do."""


class UnfitError(ValueError):
    """What is asked does not fit the checkpoint: it says what was given and what there is room for."""
