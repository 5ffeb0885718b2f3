"""Which images are held out: decided by the image, by its name, and by the seed; and kept in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .examples import Example

__all__ = ["Split", "read_split", "split_examples"]


@dataclass(frozen=True)
class Split:
    """Training examples (each as often as its source says) and held-out ones (each once)."""

    train: tuple[Example, ...]
    evaluation: tuple[Example, ...]

    def write(self, path: Path) -> None:
        """Write the names of the images of both sides as JSON, through a temporary file."""
        raise NotImplementedError  # to come within the hour


def split_examples(
    examples: Sequence[Example], eval_split: float, seed: int, held_out: frozenset[str] | None = None
) -> Split:
    """Hold out images with all their examples.

    Args:
        eval_split: below 1 a fraction of the images, else a count; 0 holds none out.
        held_out: names of images that are held out instead, as :func:`read_split` gives them.

    Raises:
        DataError: one side would be empty.
    """
    raise NotImplementedError  # to come within the hour


def read_split(path: Path) -> frozenset[str]:
    """The names of the images that an earlier run held out.

    Raises:
        DataError: there is no such file, or it is no split.
    """
    raise NotImplementedError  # to come within the hour
