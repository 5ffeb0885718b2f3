"""Precision, recall and F1 of sets of things, such as tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Overlap", "by_thing", "mean_f1", "pooled"]

Sets = Sequence[tuple[frozenset[Hashable], frozenset[Hashable]]]
"""Of each picture what is true, and what was answered."""


@dataclass(frozen=True)
class Overlap:
    """What two sets, or many pairs of them, have in common."""

    common: int
    true: int
    answered: int

    @property
    def precision(self) -> float:
        """Of what was answered, the share that is true; 0 where nothing was."""
        return self.common / self.answered if self.answered else 0.0

    @property
    def recall(self) -> float:
        """Of what is true, the share that was answered; 0 where nothing is."""
        return self.common / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of both. Two empty sets are equal: 1."""
        together = self.true + self.answered
        return 2 * self.common / together if together else 1.0


def pooled(sets: Sets) -> Overlap:
    """Of all pictures together ("micro"): each thing counts alike, so pictures with many count more."""
    return Overlap(
        sum(len(true & answered) for true, answered in sets),
        sum(len(true) for true, _ in sets),
        sum(len(answered) for _, answered in sets),
    )


def mean_f1(sets: Sets) -> float:
    """The F1 of each picture, on average ("samples"): each picture counts alike."""
    return sum(pooled([pair]).f1 for pair in sets) / len(sets)


def by_thing(sets: Sets) -> dict[Hashable, Overlap]:
    """For each thing over all pictures, the most frequent of the true ones first."""
    common, true, answered = (_counted(which) for which in _parts(sets))
    names = sorted(true.keys() | answered.keys(), key=lambda name: (-true[name], -answered[name], str(name)))
    return {name: Overlap(common[name], true[name], answered[name]) for name in names}


def _parts(sets: Sets) -> Iterable[list[frozenset[Hashable]]]:
    yield [true & answered for true, answered in sets]
    yield [true for true, _ in sets]
    yield [answered for _, answered in sets]


def _counted(sets: list[frozenset[Hashable]]) -> Counter[Hashable]:
    return Counter(thing for one in sets for thing in one)
