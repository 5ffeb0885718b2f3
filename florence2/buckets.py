"""Caches in a few fixed sizes, so that a step can be recorded once and replayed for any batch.

A batch takes the smallest bucket that it fits in: so many pairs, so many encoder states, so many places for
the answers. Empty places are masked; rows without a pair compute something that nobody reads. Within a
bucket each step does exactly the same on the same memory: where it is in the answer, a few numbers on the
device say.

The memory is kept from search to search. Buckets that differ in the number of pairs only use the same memory,
of which the smaller ones are the beginning.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count

import torch
from torch import Tensor

from .decoder_state import FIRST_POSITION, Cache, Compute, DecoderState, descend, own_places
from .graphs import Graphs, Recorder


@dataclass(frozen=True)
class BucketSizes:
    """Which buckets there are. Beyond the last of a list, its halves are added as often as needed."""

    pairs: tuple[int, ...] = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
    # Multiples of 16, in which the attention kernels want the rows of a mask; else they copy it each time.
    states: int = 64  # and its multiples
    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Bucket:
    """The shapes of a step."""

    pairs: int
    states: int
    length: int
    beams: int


@dataclass(frozen=True)
class _Block:
    """Memory for so many pairs: all tensors have them first. It never moves; its ``serial`` names it."""

    tensors: tuple[Tensor, ...]
    serial: int = field(default_factory=count().__next__)

    @property
    def pairs(self) -> int:
        return self.tensors[0].shape[0]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


class Buckets:
    """The memory of the caches of one decoder, and the recordings that use it. One search at a time."""

    def __init__(
        self, recorder: Recorder, sizes: BucketSizes | None = None, keep_bytes: int | None = None
    ) -> None:
        """
        Args:
            keep_bytes: as much memory is kept from search to search, each of which takes what it needs. None:
                all of it.
        """
        self.graphs = Graphs(recorder)
        self.sizes = sizes or BucketSizes()
        self.keep_bytes = keep_bytes
        self._blocks: OrderedDict[tuple[object, ...], _Block] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes that are held now."""
        return sum(block.nbytes for block in self._blocks.values())

    def start(
        self, cross: Iterable[tuple[Tensor, Tensor]], layers: int, mask: Tensor, beams: int, words: int
    ) -> BucketState:
        """Caches for a batch; those of the search before must be closed.

        Args:
            cross: per layer, keys and values of the encoder states, ``[P, H, S, D]`` each.
            layers: how many those are.
            mask: 1 at states that count, 0 at padding, ``[P, S]`` int64
            beams: how many answers of each pair are followed.
            words: size of the vocabulary.
        """
        return BucketState(self, cross, layers, mask, beams, words)

    def block(self, key: tuple[object, ...], pairs: int, make: Callable[[int], Sequence[Tensor]]) -> _Block:
        """The block of this name, made anew if there is none for so many pairs."""
        block = self._blocks.get(key)
        if block is None or block.pairs < pairs:
            self._drop(key)
            with torch.inference_mode(False):  # it outlives this search, and the next may be in another mode
                block = self._blocks[key] = _Block(tuple(make(pairs)))
        self._blocks.move_to_end(key)
        return block

    def close(self) -> None:
        """Come back when the device has done all work in this memory, and give up what is too much of it."""
        self.graphs.recorder.wait()
        room = sys.maxsize if self.keep_bytes is None else self.keep_bytes
        for key, block in reversed([*self._blocks.items()]):  # what was used last is worth most
            if block.nbytes > room:
                self._drop(key)
            else:
                room -= block.nbytes

    def clear(self) -> None:
        """Give up all memory and recordings."""
        self.graphs.clear()
        self._blocks.clear()

    def _drop(self, key: tuple[object, ...]) -> None:
        block = self._blocks.pop(key, None)
        if block is not None:
            serial = block.serial
            self.graphs.forget(lambda used: isinstance(used, _Key) and serial in used.serials)


@dataclass(frozen=True)
class _Key:
    """What a recording belongs to."""

    bucket: Bucket
    serials: tuple[int, ...]  # of the blocks that it works in


class _Frame:
    """Memory in the shapes of one bucket, and the step in it. What is recorded of it stays right.

    It is what the network sees as :class:`.decoder_state.Places`.
    """

    def __init__(self, bucket: Bucket, step: _Block, cross: _Block, own: _Block) -> None:
        pairs, beams = bucket.pairs, bucket.beams
        self.bucket = bucket
        self.key = _Key(bucket, (step.serial, cross.serial, own.serial))
        self.tokens, self.origin, self.logits = (tensor[:pairs] for tensor in step.tensors[:3])
        self._position, self._places, self._unmoved, own_mask = step.tensors[3:]
        self._own_mask = own_mask.expand(pairs, 1, beams, beams)
        cross_caches, cross_mask = (tensor[:pairs] for tensor in cross.tensors)
        own_caches, ancestors = (tensor[:pairs] for tensor in own.tensors)
        # [p, 0, k, t * K + j] is 0 where beam k of pair p descends from beam j at time t, elsewhere -inf
        self.self_mask: Tensor | None = ancestors
        self.cross_mask: Tensor | None = cross_mask
        self._ancestors = ancestors
        self.layers = [
            Cache(*cross_caches[:, i : i + 2].unbind(1), *own_caches[:, i : i + 2].unbind(1))
            for i in range(0, cross_caches.shape[1], 2)
        ]

    def begin(self) -> None:
        """The next step is the first."""
        self.tokens.zero_()
        self.origin.copy_(self._unmoved)
        self._position.fill_(FIRST_POSITION)
        self._places.copy_(self._unmoved)

    def step(self, compute: Compute) -> None:
        """From ``tokens`` to ``logits``, after the beams have moved to ``origin``. All that changes from step
        to step is on the device."""
        if self.bucket.beams > 1:
            self._ancestors.copy_(descend(self._ancestors, self.origin))
            self.origin.copy_(self._unmoved)
        self._ancestors.index_copy_(3, self._places, self._own_mask)
        compute(self.tokens, self, out=self.logits)
        self._position.add_(1)
        self._places.add_(self.bucket.beams)

    def position(self, table: Tensor) -> Tensor:
        return table.index_select(0, self._position)

    def put(self, cache: Cache, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        cache.keys.index_copy_(2, self._places, keys)
        cache.values.index_copy_(2, self._places, values)
        return cache.keys, cache.values


class BucketState(DecoderState):
    """Caches in a bucket. The batch moves to a longer bucket as it grows, to a smaller one as it shrinks."""

    def __init__(
        self,
        buckets: Buckets,
        cross: Iterable[tuple[Tensor, Tensor]],
        layers: int,
        mask: Tensor,
        beams: int,
        words: int,
    ) -> None:
        self._buckets = buckets
        self._rows, states = mask.shape
        self._length = 0
        tensors = chain.from_iterable(cross)
        first = next(tensors)  # the others are made one by one, as they are written to the bucket
        self._like = first.new_empty(0)  # dtype and device of the caches
        self._shape = (2 * layers, first.shape[1], first.shape[3])  # N tensors, H, D
        sizes = buckets.sizes
        bucket = Bucket(
            pairs=_at_least(self._rows, sizes.pairs),
            states=-(-states // sizes.states) * sizes.states,
            length=sizes.lengths[0],
            beams=beams,
        )
        self._own = self._own_block(bucket)
        self._cross = buckets.block(
            ("cross", bucket.states), bucket.pairs, self._make_caches(bucket.states, queries=1)
        )
        self._step = buckets.block(("step", beams), bucket.pairs, self._make_step(beams, words))
        self._enter(bucket)
        self._frame.begin()
        self._clear_own()
        self._fill_cross(chain([first], tensors), mask)

    def step(self, compute: Compute, tokens: Tensor) -> Tensor:
        if self._length == self._frame.bucket.length:
            self._lengthen()
        frame = self._frame
        frame.tokens[: self._rows].copy_(tokens)
        self._buckets.graphs.run(frame.key, partial(frame.step, compute))
        self._length += 1
        return frame.logits[: self._rows]

    def reorder(self, beams: Tensor) -> None:
        self._frame.origin[: self._rows].copy_(beams)  # the next step begins with it

    def gains_by_keeping(self, pairs: int) -> bool:
        return _at_least(pairs, self._buckets.sizes.pairs) < self._frame.bucket.pairs

    def keep(self, pairs: Tensor) -> None:
        rows = pairs.shape[0]
        bucket = self._frame.bucket
        cross, cross_mask = self._cross.tensors
        own, ancestors = self._own.tensors
        seen = own[..., : self._length * bucket.beams, :]
        one_by_one = [*cross.unbind(1), *seen.unbind(1)]  # the copies take room
        for part in (*one_by_one, cross_mask, ancestors, self._frame.origin):
            part[:rows] = part[pairs]
        self._rows = rows
        self._enter(replace(bucket, pairs=_at_least(rows, self._buckets.sizes.pairs)))

    def close(self) -> None:
        self._buckets.close()

    def _enter(self, bucket: Bucket) -> None:
        self._frame = _Frame(bucket, self._step, self._cross, self._own)

    def _lengthen(self) -> None:
        """Go on in the next bucket of answers."""
        bucket, before = self._frame.bucket, self._own.tensors
        seen = self._length * bucket.beams
        bucket = replace(bucket, length=_at_least(self._length + 1, self._buckets.sizes.lengths))
        self._own = self._own_block(bucket)
        self._enter(bucket)
        self._clear_own()
        for new, old in zip(
            self._own.tensors, before, strict=True
        ):  # [pairs, N, H, places, D], [..., places]
            new[: self._rows].narrow(3, 0, seen).copy_(old[: self._rows].narrow(3, 0, seen))

    def _own_block(self, bucket: Bucket) -> _Block:
        places = bucket.length * bucket.beams
        make = self._make_caches(places, queries=bucket.beams)
        return self._buckets.block(("own", places, bucket.beams), bucket.pairs, make)

    def _make_caches(self, places: int, queries: int) -> Callable[[int], Sequence[Tensor]]:
        """Keys and values of all layers, ``[pairs, N, H, places, D]``, and a mask over their places."""
        number, heads, width = self._shape
        like = self._like
        return lambda pairs: (
            torch.zeros(pairs, number, heads, places, width, dtype=like.dtype, device=like.device),
            torch.zeros(pairs, 1, queries, places, dtype=like.dtype, device=like.device),
        )

    def _make_step(self, beams: int, words: int) -> Callable[[int], Sequence[Tensor]]:
        """What goes into a step and comes out of it, and where it is in the answer."""
        device, like = self._like.device, self._like
        return lambda pairs: (
            torch.zeros(pairs, beams, dtype=torch.int64, device=device),  # tokens
            torch.zeros(pairs, beams, dtype=torch.int64, device=device),  # origin
            torch.zeros(pairs, beams, words, dtype=torch.float32, device=device),  # logits
            torch.zeros(1, dtype=torch.int64, device=device),  # position
            torch.zeros(beams, dtype=torch.int64, device=device),  # places
            torch.arange(beams, device=device),  # unmoved
            own_places(beams, torch.zeros(0, dtype=like.dtype, device=device)),
        )

    def _fill_cross(self, tensors: Iterable[Tensor], mask: Tensor) -> None:
        """What another search left must be gone also where it is masked: not every number times 0 is 0.""" ""
        rows, states = mask.shape
        cross, cross_mask = self._cross.tensors
        for index, tensor in enumerate(tensors):
            cross[:rows, index, :, :states] = tensor
        cross[:rows, :, :, states:].zero_()
        cross_mask.zero_()
        cross_mask[:rows].fill_(-torch.inf)
        cross_mask[:rows, 0, 0, :states].masked_fill_(mask != 0, 0.0)

    def _clear_own(self) -> None:
        caches, ancestors = self._own.tensors
        caches[: self._rows].zero_()
        ancestors.fill_(-torch.inf)


def _at_least(wanted: int, sizes: tuple[int, ...]) -> int:
    """The smallest size that is enough."""
    place = bisect_left(sizes, wanted)
    if place < len(sizes):
        return sizes[place]
    step = max(1, sizes[-1] // 2)
    return sizes[-1] + -(-(wanted - sizes[-1]) // step) * step
