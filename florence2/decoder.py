"""One step of the BART decoder for many answers at once, with caches that are never copied.

The weights are those of transformers' modules, read where they lie. A *pair* is one (image, prompt) with its
``K`` beams. Keys and values of the encoder states are held once per pair; a pair's beams are query positions
of one attention call. The decoder's own keys and values stay where they were written: when beams change
places, only a small table of ancestors changes, and the attention's mask follows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BartForConditionalGeneration

from .products import apply

_BLOCK = 64  # tokens by which the caches grow


@dataclass
class _Cache:
    """What one layer keeps. ``P`` pairs, ``H`` heads, ``K`` beams, ``T`` places, ``S`` encoder states."""

    cross_keys: Tensor  # [P, H, S, D]
    cross_values: Tensor  # [P, H, S, D]
    keys: Tensor  # [P, H, T * K, D]; the place of beam k at time t is t * K + k
    values: Tensor  # [P, H, T * K, D]


class DecoderState:
    """The caches of a batch, and which place of them each beam descends from."""

    def __init__(self, layers: list[_Cache], cross_mask: Tensor | None, beams: int) -> None:
        self.layers = layers
        self.cross_mask = cross_mask  # [P, 1, 1, S], added to scores; None if no prompt is padded
        self.beams = beams
        self.length = 0  # tokens seen
        pairs, device = layers[0].cross_keys.shape[0], layers[0].cross_keys.device
        # visible[p, k, t * K + j]: whether beam k of pair p descends from beam j at time t
        self.visible = torch.zeros(pairs, beams, _BLOCK * beams, dtype=torch.bool, device=device)
        self._own = torch.eye(beams, dtype=torch.bool, device=device)

    @property
    def pairs(self) -> int:
        return self.visible.shape[0]

    def advance(self) -> None:
        """Make room for one token more, which each beam sees of its own."""
        beams, t = self.beams, self.length
        if (t + 1) * beams > self.visible.shape[2]:
            grown = _BLOCK * beams
            self.visible = functional.pad(self.visible, (0, grown))
            for cache in self.layers:
                cache.keys = functional.pad(cache.keys, (0, 0, 0, grown))
                cache.values = functional.pad(cache.values, (0, 0, 0, grown))
        self.visible[:, :, t * beams : (t + 1) * beams] = self._own
        self.length = t + 1

    def reorder(self, beams: Tensor) -> None:
        """Beam ``k`` of each pair goes on from what was beam ``beams[p, k]``; ``[P, K]`` int64."""
        self.visible = self.visible.gather(1, beams[:, :, None].expand(-1, -1, self.visible.shape[2]))

    def keep(self, pairs: Tensor) -> None:
        """Go on with these pairs only, ``[P']`` int64."""
        self.visible = self.visible[pairs]
        if self.cross_mask is not None:
            self.cross_mask = self.cross_mask[pairs]
        for cache in self.layers:
            cache.cross_keys, cache.cross_values = cache.cross_keys[pairs], cache.cross_values[pairs]
            cache.keys, cache.values = cache.keys[pairs], cache.values[pairs]


class Decoder:
    """The decoder of ``model``, which it reads and never changes. Cheap to make."""

    def __init__(self, model: BartForConditionalGeneration) -> None:
        self.model = model
        self._decoder = model.model.decoder
        config = model.config
        self.heads = config.decoder_attention_heads
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0

    def start(self, states: Tensor, mask: Tensor, beams: int) -> DecoderState:
        """Caches for a batch.

        Args:
            states: ``encoder_hidden_states`` ``[P, S, d_model]``
            mask: 1 at states that count, 0 at padding, ``[P, S]`` int64
            beams: how many answers of each pair are followed.
        """
        layers = []
        for layer in self._decoder.layers:
            attention = layer.encoder_attn
            keys = self._split(apply(attention.k_proj, states))
            values = self._split(apply(attention.v_proj, states))
            room = keys.new_zeros(keys.shape[0], self.heads, _BLOCK * beams, keys.shape[3])
            layers.append(_Cache(keys.contiguous(), values.contiguous(), room, room.clone()))
        cross_mask = None
        if not bool(mask.all()):
            cross_mask = torch.zeros(mask.shape, dtype=states.dtype, device=states.device)
            cross_mask = cross_mask.masked_fill(mask == 0, -torch.inf)[:, None, None, :]
        return DecoderState(layers, cross_mask, beams)

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Logits for the token after ``tokens``.

        Args:
            tokens: the last token of each beam, ``[P, K]`` int64
            state: what was seen before; grows by these tokens.

        Returns:
            ``[P, K, vocabulary]`` in the model's dtype.
        """
        place = state.length
        state.advance()
        decoder = self._decoder
        hidden = functional.embedding(tokens, decoder.embed_tokens.weight) * self.scale
        hidden = hidden + decoder.embed_positions.weight[place + 2]  # BART's positions begin with the third
        hidden = decoder.layernorm_embedding(hidden)
        end = state.length * state.beams
        visible = state.visible[:, None, :, :end]  # [P, 1, K, T * K]
        # With one beam nothing is hidden, and no mask is the faster way.
        self_mask = None if state.beams == 1 else visible
        for layer, cache in zip(decoder.layers, state.layers, strict=True):
            hidden = self._self_attention(layer, hidden, cache, place * state.beams, end, self_mask)
            hidden = self._cross_attention(layer, hidden, cache, state.cross_mask)
            hidden = self._feed_forward(layer, hidden)
        logits = apply(self.model.lm_head, hidden)
        return logits + self.model.final_logits_bias

    def _self_attention(
        self, layer: Any, hidden: Tensor, cache: _Cache, begin: int, end: int, mask: Tensor | None
    ) -> Tensor:
        attention = layer.self_attn
        queries = self._split(apply(attention.q_proj, hidden))
        cache.keys[:, :, begin:end] = self._split(apply(attention.k_proj, hidden))
        cache.values[:, :, begin:end] = self._split(apply(attention.v_proj, hidden))
        seen = functional.scaled_dot_product_attention(
            queries, cache.keys[:, :, :end], cache.values[:, :, :end], attn_mask=mask
        )
        mixed: Tensor = layer.self_attn_layer_norm(hidden + apply(attention.out_proj, self._join(seen)))
        return mixed

    def _cross_attention(self, layer: Any, hidden: Tensor, cache: _Cache, mask: Tensor | None) -> Tensor:
        attention = layer.encoder_attn
        queries = self._split(apply(attention.q_proj, hidden))
        seen = functional.scaled_dot_product_attention(
            queries, cache.cross_keys, cache.cross_values, attn_mask=mask
        )
        mixed: Tensor = layer.encoder_attn_layer_norm(hidden + apply(attention.out_proj, self._join(seen)))
        return mixed

    def _feed_forward(self, layer: Any, hidden: Tensor) -> Tensor:
        activation: Callable[[Tensor], Tensor] = layer.activation_fn
        inner = activation(apply(layer.fc1, hidden))
        mixed: Tensor = layer.final_layer_norm(hidden + apply(layer.fc2, inner))
        return mixed

    def _split(self, states: Tensor) -> Tensor:
        """``[P, N, d_model]`` to ``[P, H, N, D]``"""
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _join(self, states: Tensor) -> Tensor:
        """``[P, H, N, D]`` to ``[P, N, d_model]``"""
        return states.transpose(1, 2).flatten(2)
