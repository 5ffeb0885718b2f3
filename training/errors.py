"""What can go wrong in training for reasons that the user can mend."""

from __future__ import annotations


class TrainingError(ValueError):
    """A run cannot start or go on. The message says why and what to do, and names the batch if it was one."""


class ConfigError(TrainingError):
    """A configuration cannot be used. The message names every key that is wrong, why, and what is allowed."""


class DataError(TrainingError):
    """Training data cannot be used: it is not there, it is empty, or too much of it is wrong."""
