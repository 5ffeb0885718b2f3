"""What the decoder remembers of a batch between two steps."""

from __future__ import annotations

import torch
from torch import Tensor

from .configuration import TextConfig

STEPS_AT_ONCE = 64
"""Steps for which room is made at a time."""


class DecoderState:
    """Keys and values of ``P`` pairs with ``K`` beams: those of picture and prompt once per pair, then one
    place per beam and step.

    Which places a beam sees is a mask: when beams go on from others, nothing but the mask is rearranged.
    """

    def __init__(self, text: TextConfig, prompt: Tensor, num_beams: int) -> None:
        """``prompt``: which of the first places are picture and prompt and no padding, ``[P, S]`` bool."""
        self.logits: Tensor | None = None  # for the first new token, [P, 1, V]
        self._text = text
        self._beams = num_beams
        self._keys: list[Tensor] = []  # per layer, [P, G, places and room for more, E]
        self._values: list[Tensor] = []
        self._places = prompt.shape[1]
        self._padded = not bool(prompt.all())
        self._seen = prompt[:, None].repeat(1, num_beams, 1)  # by each beam, [P, K, places]
        self._positions = prompt.cumsum(dim=1)  # of what is in each place, [P, places]
        self._next = prompt.sum(dim=1) + 1  # position of the next token, [P]
        self._full: Tensor | None = None  # masks of this step, [P, 1, K, places]
        self._sliding: Tensor | None = None

    def keep_prompt(self, keys: Tensor, values: Tensor) -> None:
        """Take the keys and values of the next layer for picture and prompt, ``[P, G, S, E]``."""
        self._keys.append(self._with_room(keys))
        self._values.append(self._with_room(values))

    def begin_step(self) -> Tensor:
        """Make a place for each beam, and tell the positions of their tokens, ``[P, K]``."""
        pairs, beams = self._seen.shape[:2]
        if self._places + beams > self._keys[0].shape[2]:
            for layers in (self._keys, self._values):
                for number, cache in enumerate(layers):
                    layers[number] = self._with_room(cache)
        own = torch.eye(beams, dtype=torch.bool, device=self._seen.device)
        self._seen = torch.cat([self._seen, own.expand(pairs, -1, -1)], dim=2)
        positions = self._next[:, None].expand(-1, beams)
        self._positions = torch.cat([self._positions, positions], dim=1)
        self._next = self._next + 1
        self._places += beams
        self._full = self._seen[:, None] if self._padded or beams > 1 else None
        self._sliding = self._full
        window = self._text.sliding_window
        if window is not None and self._places > window:
            near = self._positions > positions[:, :1] - window
            self._sliding = (self._seen & near[:, None])[:, None]
        return positions

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep what a layer made of this step's tokens, ``[P, G, K, E]``, and give back all places."""
        first = self._places - self._beams
        kept = []
        for cache, new in ((self._keys[layer], keys), (self._values[layer], values)):
            cache[:, :, first : self._places] = new
            kept.append(cache[:, :, : self._places])
        return kept[0], kept[1]

    def mask(self, layer: int) -> Tensor | None:
        """What each beam sees in this step, ``[P, 1, K, places]`` bool; None: all."""
        return self._sliding if layer in self._text.sliding_layers else self._full

    def reorder(self, beams: Tensor) -> None:
        if self._beams > 1:
            self._seen = self._seen.gather(1, beams[:, :, None].expand(-1, -1, self._seen.shape[2]))

    def gains_by_keeping(self, pairs: int) -> bool:
        return True

    def keep(self, pairs: Tensor) -> None:
        for layers in (self._keys, self._values):
            for number, cache in enumerate(layers):
                layers[number] = cache.index_select(0, pairs)
        self._seen, self._positions, self._next = (
            self._seen[pairs],
            self._positions[pairs],
            self._next[pairs],
        )

    def close(self) -> None:
        self._keys, self._values = [], []

    def _with_room(self, cache: Tensor) -> Tensor:
        pairs, groups, _, width = cache.shape
        filled, room = self._places, STEPS_AT_ONCE * self._beams
        larger = cache.new_empty(pairs, groups, filled + room, width)
        larger[:, :, :filled] = cache[:, :, :filled]
        return larger
