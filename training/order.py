"""In which order a run goes through its examples, and who takes which: known beforehand, from a seed alone.

What one optimiser step sees is a *window*: some batches in a row on each of some processes. Each example
comes once per epoch. The last window of an epoch takes what is left, so it may be smaller, and a process may
get nothing in its last batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from .errors import TrainingError
from .length_groups import Lengths, grouped

Indices = tuple[int, ...]
"""Of examples: what one process has in one batch. May be empty."""


@dataclass(frozen=True)
class WindowKey:
    """The place of a window in a run; both numbers from 0."""

    epoch: int
    window: int


@dataclass(frozen=True)
class Order:
    """The order of one run."""

    examples: int  # how many there are
    batch_size: int  # examples on each process
    accumulation: int = 1  # batches in a window
    processes: int = 1
    seed: int = 0
    shuffled: bool = True  # another order in each epoch
    lengths: Lengths | None = None  # of the examples: batches hold similar ones, in shuffled orders

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise TrainingError("there are no examples to train on.")

    @property
    def window_size(self) -> int:
        """Examples in a full window."""
        return self.batch_size * self.accumulation * self.processes

    @property
    def windows(self) -> int:
        """In an epoch."""
        return math.ceil(self.examples / self.window_size)

    def window(self, key: WindowKey) -> list[list[Indices]]:
        """The batches of a window, and of each the parts that the processes take."""
        start = key.window * self.window_size
        chosen = self._epoch(key.epoch)[start : start + self.window_size]
        size = self.batch_size * self.processes
        return [
            _shared(chosen[place : place + size], self.processes) for place in range(0, len(chosen), size)
        ]

    def windows_from(self, update: int, updates: int) -> Iterator[WindowKey]:
        """The windows of the updates from number ``update`` (from 0) to before ``updates``."""
        for number in range(update, updates):
            yield WindowKey(number // self.windows, number % self.windows)

    def _epoch(self, epoch: int) -> Sequence[int]:
        if not self.shuffled:
            return range(self.examples)
        if self.lengths is not None:
            return grouped(self.lengths, self.batch_size * self.processes, self.seed, epoch)
        return _permutation(self.examples, self.seed, epoch)


@lru_cache(maxsize=3)  # batches are read ahead, beyond an epoch's end
def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return order


def _shared(indices: Sequence[int], processes: int) -> list[Indices]:
    """As equal parts as can be, in order; the first ones have one more."""
    least, more = divmod(len(indices), processes)
    ends = [0]
    for process in range(processes):
        ends.append(ends[-1] + least + (process < more))
    return [tuple(indices[start:end]) for start, end in pairwise(ends)]
