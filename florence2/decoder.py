"""One step of the BART decoder for many answers at once, with caches that are never copied.

The weights are those of transformers' modules, read where they lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BartForConditionalGeneration

from ..inference.processor import has_bfloat16
from . import graphs
from .buckets import Buckets
from .decoder_state import Cache, DecoderState, GrowingState, Places
from .products import Int8Linear, apply, few_queries_attention


class Decoder:
    """The decoder of ``model``, which it reads and never changes.

    One search at a time: on a CUDA device the searches share the memory of their caches, and what was
    recorded of their steps.
    """

    def __init__(self, model: BartForConditionalGeneration, buckets: Buckets | None = None) -> None:
        """
        Args:
            buckets: keep the caches in these on every device. None: where it pays, see :mod:`.graphs`.
        """
        self.model = model
        self._decoder = model.model.decoder
        config = model.config
        self.heads = config.decoder_attention_heads
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self._given = buckets
        self._made: Buckets | None = None
        self._made_for: torch.device | None = None
        self._weights: tuple[int, ...] = ()

    def start(self, states: Tensor, mask: Tensor, beams: int) -> DecoderState:
        """Caches for a batch.

        Args:
            states: ``encoder_hidden_states`` ``[P, S, d_model]``
            mask: 1 at states that count, 0 at padding, ``[P, S]`` int64
            beams: how many answers of each pair are followed.
        """
        self.refresh()
        buckets = self._buckets(states.device)
        if buckets is None:
            return GrowingState(self._cross(states), mask, beams, states.dtype)
        words = self.model.final_logits_bias.shape[-1]
        layers = len(self._decoder.layers)
        return buckets.start(self._cross(states), layers, mask, beams, words)

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Logits for the token after ``tokens``.

        Args:
            tokens: the last token of each beam, ``[P, K]`` int64
            state: what was seen before; grows by these tokens.

        Returns:
            ``[P, K, vocabulary]`` in the model's dtype or float32, valid until the next step.
        """
        return state.step(self._logits, tokens)

    def refresh(self) -> None:
        """Forget what was recorded with weights that have since been moved or replaced."""
        weights = self._addresses() if self._given or self._made else ()
        if weights != self._weights:
            self.release()
            self._weights = weights

    def release(self) -> None:
        """Give up the memory that is kept from search to search."""
        for buckets in (self._given, self._made):
            if buckets is not None:
                buckets.clear()

    def _addresses(self) -> tuple[int, ...]:
        head = self.model.lm_head
        parts = [*self._decoder.parameters(), *self._decoder.buffers(), *head.parameters(), *head.buffers()]
        return tuple(part.data_ptr() for part in [*parts, self.model.final_logits_bias])

    def _buckets(self, device: torch.device) -> Buckets | None:
        buckets = self._given
        if buckets is None and graphs.pay_on(device):
            if self._made is None or self._made_for != device:
                recorder = graphs.CudaRecorder(device)
                self._made = Buckets(recorder, keep_bytes=graphs.keep_bytes(device))
                self._made_for = device
                self._weights = self._addresses()
            buckets = self._made
        if buckets is not None and buckets.graphs.failed:
            buckets.clear()
            return None
        return buckets

    def _cross(self, states: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Per layer, the keys and values of the encoder states, ``[P, H, S, D]`` each."""
        for layer in self._decoder.layers:
            attention = layer.encoder_attn
            keys, values = apply(attention.k_proj, states), apply(attention.v_proj, states)
            if isinstance(attention.k_proj, Int8Linear) and has_bfloat16():  # half the bytes of every step
                keys, values = keys.bfloat16(), values.bfloat16()
            yield self._split(keys), self._split(values)

    def _logits(self, tokens: Tensor, places: Places, out: Tensor | None = None) -> Tensor:
        decoder = self._decoder
        hidden = functional.embedding(tokens, decoder.embed_tokens.weight)
        if self.scale != 1.0:
            hidden = hidden * self.scale
        hidden = hidden + places.position(decoder.embed_positions.weight)
        hidden = decoder.layernorm_embedding(hidden)
        for layer, cache in zip(decoder.layers, places.layers, strict=True):
            hidden = self._self_attention(layer, hidden, cache, places)
            hidden = self._cross_attention(layer, hidden, cache, places)
            hidden = self._feed_forward(layer, hidden)
        return torch.add(apply(self.model.lm_head, hidden), self.model.final_logits_bias, out=out)

    def _self_attention(self, layer: Any, hidden: Tensor, cache: Cache, places: Places) -> Tensor:
        attention = layer.self_attn
        queries = self._split(apply(attention.q_proj, hidden))
        keys, values = places.put(
            cache, self._split(apply(attention.k_proj, hidden)), self._split(apply(attention.v_proj, hidden))
        )
        seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=places.self_mask)
        mixed: Tensor = layer.self_attn_layer_norm(hidden + apply(attention.out_proj, self._join(seen)))
        return mixed

    def _cross_attention(self, layer: Any, hidden: Tensor, cache: Cache, places: Places) -> Tensor:
        attention = layer.encoder_attn
        queries = self._split(apply(attention.q_proj, hidden))
        attend = (
            functional.scaled_dot_product_attention
            if cache.cross_keys.dtype == queries.dtype
            else few_queries_attention
        )
        seen = attend(queries, cache.cross_keys, cache.cross_values, attn_mask=places.cross_mask)
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
