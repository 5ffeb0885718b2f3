"""The language model from picture and prompt to the scores of the next token, step by step.

Modules and weights are transformers' ``GemmaModel`` or ``Gemma2Model``; the way through them is written out
here, the same for every release, so that the beams of an answer have picture and prompt in common: their keys
and values exist once per pair, whatever the number of beams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .decoder_state import DecoderState
from .network import PaliGemmaNetwork


class Decoder:
    """Goes from token to token. ``P`` pairs, ``K`` beams, ``V`` words, ``D`` the width of the model."""

    def __init__(self, network: PaliGemmaNetwork) -> None:
        self.network = network
        self.text = network.config.text
        heads = self.text.num_key_value_heads
        self._groups = heads, self.text.num_attention_heads // heads
        self._scale = (self.text.query_pre_attn_scalar or self.text.head_dim) ** -0.5

    def start(
        self,
        image_features: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        num_beams: int,
        on_layer: Callable[[], None] | None = None,
    ) -> DecoderState:
        """Read picture and prompt, in which all tokens see each other, and be ready for the first step.

        Args:
            image_features: ``[P, N, D]``
            input_ids: prompts padded on the left, ``[P, L]`` int64
            attention_mask: whether it is a token and no padding, ``[P, L]`` bool
            on_layer: called before each layer; it may raise to cancel.
        """
        model: Any = self.network.language_model
        hidden = torch.cat([image_features, self._embed(input_ids)], dim=1)  # [P, S, D]
        seen = torch.cat([attention_mask.new_ones(image_features.shape[:2]), attention_mask], dim=1)
        positions = seen.cumsum(dim=1)  # those of a picture begin with 1
        rotation = model.rotary_emb(hidden, positions)
        state = DecoderState(self.text, seen, num_beams)
        mask = None if bool(seen.all()) else seen[:, None, None, :]

        def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            state.keep_prompt(keys, values)
            return self._attend(queries, keys, values, mask)

        for layer in model.layers:
            if on_layer is not None:
                on_layer()
            hidden = self._layer(layer, hidden, rotation, attend)
        state.logits = self._logits(hidden[:, -1:])
        return state

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Logits ``[P, K, V]`` for the token after ``tokens`` ``[P, K]``. The first are known already."""
        if state.logits is not None:
            logits, state.logits = state.logits, None
            return logits.expand(-1, tokens.shape[1], -1)
        model: Any = self.network.language_model
        hidden = self._embed(tokens)
        rotation = model.rotary_emb(hidden, state.begin_step())
        for number, layer in enumerate(model.layers):

            def attend(queries: Tensor, keys: Tensor, values: Tensor, number: int = number) -> Tensor:
                return self._attend(queries, *state.put(number, keys, values), state.mask(number))

            hidden = self._layer(layer, hidden, rotation, attend)
        return self._logits(hidden)

    def release(self) -> None:
        """Nothing is kept from search to search."""

    def _embed(self, tokens: Tensor) -> Tensor:
        # multiplied in the model's dtype, as transformers does it: in bfloat16 it is another number
        rows = functional.embedding(tokens, self.network.embedding)
        return rows * torch.tensor(self.text.hidden_size**0.5, dtype=rows.dtype)

    def _logits(self, hidden: Tensor) -> Tensor:
        """``[P, Q, D]`` to ``[P, Q, V]``"""
        scores = functional.linear(self.network.language_model.norm(hidden), self.network.embedding)
        cap = self.text.final_logit_softcapping
        return scores if cap is None else torch.tanh(scores / cap) * cap

    def _layer(
        self,
        layer: Any,
        hidden: Tensor,
        rotation: tuple[Tensor, Tensor],
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """One layer on ``[P, Q, D]``; ``attend`` mixes what it sees."""
        mixed = self._self_attention(layer.self_attn, layer.input_layernorm(hidden), rotation, attend)
        changed: Tensor
        if self.text.generation == 1:
            hidden = hidden + mixed
            changed = layer.mlp(layer.post_attention_layernorm(hidden))
        else:
            hidden = hidden + layer.post_attention_layernorm(mixed)
            changed = layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(hidden)))
        return hidden + changed

    def _self_attention(
        self,
        attention: Any,
        hidden: Tensor,
        rotation: tuple[Tensor, Tensor],
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        queries, keys, values = (
            self._split(project(hidden)) for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        seen = attend(_rotate(queries, rotation), _rotate(keys, rotation), values)
        mixed: Tensor = attention.o_proj(seen.transpose(1, 2).flatten(2))
        return mixed

    def _split(self, states: Tensor) -> Tensor:
        """``[P, Q, H * E]`` to ``[P, H, Q, E]``, ``E`` the width of a head."""
        return states.unflatten(-1, (-1, self.text.head_dim)).transpose(1, 2)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the values by how well their keys fit.

        Heads that share keys stand behind each other as further queries, so that nothing is repeated.

        Args:
            queries: ``[P, H, Q, E]``
            keys, values: ``[P, G, S, E]`` of the ``G`` heads that there are of them
            mask: what is seen, ``[P, 1, 1 or Q, S]`` bool, or all of it

        Returns:
            ``[P, H, Q, E]``
        """
        pairs, heads, count, width = queries.shape
        groups, shared = self._groups
        folded = queries.reshape(pairs, groups, shared * count, width)
        if mask is not None and mask.shape[2] > 1:
            mask = mask.repeat(1, 1, shared, 1)
        cap = self.text.attn_logit_softcapping
        if cap is None:
            mixed = functional.scaled_dot_product_attention(folded, keys, values, mask, scale=self._scale)
        else:  # for which torch's function has no place
            fit = torch.tanh(folded @ keys.transpose(2, 3) * self._scale / cap) * cap
            if mask is not None:
                fit = fit.masked_fill(~mask, torch.finfo(fit.dtype).min)
            mixed = functional.softmax(fit, dim=-1, dtype=torch.float32).to(fit.dtype) @ values
        return mixed.reshape(pairs, heads, count, width)


def _rotate(states: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn ``[P, H, Q, E]`` by the places of its tokens; cosines and sines ``[P, Q, E]``."""
    cosine, sine = (part[:, None] for part in rotation)
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat([-second, first], dim=-1) * sine
