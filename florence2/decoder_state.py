"""What a decoder remembers between two steps, and the form of it that grows with the answers.

A *pair* is one (image, prompt) with its ``K`` beams. Keys and values of the encoder states are held once per
pair; a pair's beams are query positions of one attention call. The decoder's own keys and values stay where
they were written: when beams change places, only a small table of ancestors changes, and it is the mask of
the attention.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 64  # tokens by which the caches grow


@dataclass
class Cache:
    """What one layer keeps. ``P`` pairs, ``H`` heads, ``K`` beams, ``T`` places, ``S`` encoder states."""

    cross_keys: Tensor  # [P, H, S, D]
    cross_values: Tensor  # [P, H, S, D]
    keys: Tensor  # [P, H, T * K, D]; the place of beam k at time t is t * K + k
    values: Tensor  # [P, H, T * K, D]


class Places(Protocol):
    """What the network asks of a state during a step."""

    layers: list[Cache]
    cross_mask: Tensor | None  # [P, 1, 1, S], added to scores; None: every state counts
    self_mask: Tensor | None  # [P, 1, K, places], added to scores; None: every place is seen

    def position(self, table: Tensor) -> Tensor:
        """The row of ``table`` ``[N, d_model]`` for this step's position."""

    def put(self, cache: Cache, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep this step's keys and values ``[P, H, K, D]``; those that its queries look at."""


class Compute(Protocol):
    """The network's part of a step."""

    def __call__(self, tokens: Tensor, places: Places, out: Tensor | None = None) -> Tensor:
        """Logits ``[P, K, V]`` after ``tokens`` ``[P, K]``, written to ``out`` if that is given."""


class DecoderState(ABC):
    """The caches of a batch, and which place of them each beam descends from."""

    @abstractmethod
    def step(self, compute: Compute, tokens: Tensor) -> Tensor:
        """Take in the last token of each beam, ``[P, K]`` int64: ``[P, K, V]``, valid until the next step."""

    @abstractmethod
    def reorder(self, beams: Tensor) -> None:
        """Beam ``k`` of each pair goes on from what was beam ``beams[p, k]``; ``[P, K]`` int64."""

    @abstractmethod
    def gains_by_keeping(self, pairs: int) -> bool:
        """Whether a step gets cheaper if only so many pairs go on."""

    @abstractmethod
    def keep(self, pairs: Tensor) -> None:
        """Go on with these pairs only, ``[P']`` int64."""

    @abstractmethod
    def close(self) -> None:
        """No step follows."""


class GrowingState(DecoderState):
    """Caches that are as long as the answers: no work is done over places that are still empty."""

    def __init__(
        self, cross: Iterable[tuple[Tensor, Tensor]], mask: Tensor, beams: int, dtype: torch.dtype
    ) -> None:
        """
        Args:
            cross: per layer, keys and values of the encoder states, ``[P, H, S, D]`` each.
            mask: 1 at states that count, 0 at padding, ``[P, S]`` int64
            dtype: of the decoder's own keys and values.
        """
        self.layers = [_growing(keys, values, beams, dtype) for keys, values in cross]
        like = self.layers[0].keys
        self.beams = beams
        self.length = 0  # tokens seen
        self.cross_mask: Tensor | None = None
        if not bool(mask.all()):
            self.cross_mask = like.new_zeros(mask.shape).masked_fill(mask == 0, -torch.inf)[:, None, None, :]
        # With one beam nothing is hidden, and no mask is the faster way.
        self.self_mask: Tensor | None = None
        # [p, 0, k, t * K + j] is 0 where beam k of pair p descends from beam j at time t, elsewhere -inf
        self._ancestors = like.new_full((mask.shape[0], 1, beams, _BLOCK * beams), -torch.inf)
        self._own = own_places(beams, like)

    def step(self, compute: Compute, tokens: Tensor) -> Tensor:
        begin, end = self.length * self.beams, (self.length + 1) * self.beams
        if end > self._ancestors.shape[3]:
            self._grow(_BLOCK * self.beams)
        self._ancestors[..., begin:end] = self._own
        self.self_mask = None if self.beams == 1 else self._ancestors[..., :end]
        logits = compute(tokens, self)
        self.length += 1
        return logits

    def _grow(self, places: int) -> None:
        self._ancestors = functional.pad(self._ancestors, (0, places), value=-torch.inf)
        for cache in self.layers:
            cache.keys = functional.pad(cache.keys, (0, 0, 0, places))
            cache.values = functional.pad(cache.values, (0, 0, 0, places))

    def position(self, table: Tensor) -> Tensor:
        return table[self.length + FIRST_POSITION]

    def put(self, cache: Cache, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        begin, end = self.length * self.beams, (self.length + 1) * self.beams
        cache.keys[:, :, begin:end] = keys
        cache.values[:, :, begin:end] = values
        return cache.keys[:, :, :end], cache.values[:, :, :end]

    def reorder(self, beams: Tensor) -> None:
        self._ancestors = descend(self._ancestors, beams)

    def gains_by_keeping(self, pairs: int) -> bool:
        return pairs < self._ancestors.shape[0]

    def keep(self, pairs: Tensor) -> None:
        self._ancestors = self._ancestors[pairs]
        if self.cross_mask is not None:
            self.cross_mask = self.cross_mask[pairs]
        for cache in self.layers:
            cache.cross_keys, cache.cross_values = cache.cross_keys[pairs], cache.cross_values[pairs]
            cache.keys, cache.values = cache.keys[pairs], cache.values[pairs]

    def close(self) -> None:
        """Nothing outlives it."""


FIRST_POSITION = 2  # BART's table of positions begins with two rows that mean nothing


def own_places(beams: int, like: Tensor) -> Tensor:
    """The mask by which each beam sees its own new place only, ``[K, K]``."""
    seen = torch.eye(beams, dtype=torch.bool, device=like.device)
    return like.new_zeros(beams, beams).masked_fill(~seen, -torch.inf)


def descend(ancestors: Tensor, beams: Tensor) -> Tensor:
    """The ancestors ``[P, 1, K, N]`` of beams that go on from ``beams`` ``[P, K]``."""
    return ancestors.gather(2, beams[:, None, :, None].expand_as(ancestors))


def _growing(keys: Tensor, values: Tensor, beams: int, dtype: torch.dtype) -> Cache:
    room = keys.new_zeros(*keys.shape[:2], _BLOCK * beams, keys.shape[3], dtype=dtype)
    return Cache(keys.contiguous(), values.contiguous(), room, room.clone())
