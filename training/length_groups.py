"""An order in which batches hold examples of similar length, so that little of them is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_SORTED_TOGETHER = 50  # batches, as in transformers' group_by_length
_LEAST_GROUPS = 4  # of few examples, so that batches are not the same in each epoch


@dataclass(frozen=True, eq=False)  # compared by identity: looking at many lengths for a key takes long
class Lengths:
    """Of all examples: tokens of their answers."""

    tokens: Sequence[int]


@lru_cache(maxsize=3)  # as of permutations
def grouped(lengths: Lengths, size: int, seed: int, epoch: int) -> list[int]:
    """A permutation of the examples whose batches, each ``size`` in a row, have similar lengths.

    Examples are shuffled, sorted by length within some tens of batches, and the batches shuffled again. The
    last one takes what is left.
    """
    generator = np.random.default_rng([seed, epoch])
    tokens = np.asarray(lengths.tokens)
    shuffled = generator.permutation(len(tokens))
    together = size * max(1, min(_SORTED_TOGETHER, len(tokens) // (size * _LEAST_GROUPS)))
    batches: list[np.ndarray] = []
    for start in range(0, len(tokens), together):
        some = shuffled[start : start + together]
        # what is too little for a batch is taken out before, so that it is not always the longest
        whole = len(some) // size * size
        by_length = some[:whole][np.argsort(tokens[some[:whole]], kind="stable")]
        rows = by_length.reshape(-1, size)
        batches += [*rows[generator.permutation(len(rows))], some[whole:]]
    order: list[int] = np.concatenate(batches).tolist()
    return order
