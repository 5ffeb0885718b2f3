"""What can go wrong in training for reasons that the user can mend."""

from __future__ import annotations


class TrainingError(ValueError):
    """A run cannot begin or go on: the message says what was found, why it will not do, and what would."""


class ConfigError(TrainingError):
    """A configuration cannot be used. The message names every key that is wrong, why, and what is allowed."""


class DataError(TrainingError):
    """Training data cannot be used: it is not there, it is empty, or too much of it is wrong."""


class DivergedError(TrainingError):
    """Numbers are no numbers any more, or memory ran out. The batch is named."""


CALMER = (
    "Choose a smaller learning_rate, more warmup_steps, or clip_grad_norm: 1; with fp16, take bf16 or none."
)
"""What to do about numbers that are none any more."""
