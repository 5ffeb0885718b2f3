"""From image features and prompts to token ids: the settings of checkpoint and user, then a search."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from .decoder import Decoder
from .network import Florence2Network
from .options import GenerationOptions
from .rules import rules_of
from .search import Found, Onlookers, SearchSettings, search

StepCallback = Callable[[int], None]
"""Called before each decoded token with the number of tokens so far, the start token included; it may raise
to cancel."""


@dataclass(frozen=True)
class TokenSequence:
    """Token ids of one answer, and log-probabilities where they were asked for."""

    token_ids: tuple[int, ...]
    truncated: bool
    sequence_score: float | None = None
    token_scores: tuple[float, ...] | None = None


def generation_config(
    settings: Mapping[str, Any], options: GenerationOptions, positions: int
) -> GenerationConfig:
    """The checkpoint's own settings with the user's on top.

    Args:
        settings: what ``generation_config.json`` and ``text_config`` say.
        positions: places of the decoder; one answer has at most that many new tokens.

    Raises:
        ValueError: the user's ``max_new_tokens`` is above ``positions``; a checkpoint's own is lowered to it.
    """
    if options.max_new_tokens is not None and options.max_new_tokens > positions:
        raise ValueError(
            f"max_new_tokens is {options.max_new_tokens}; the decoder of this checkpoint has "
            f"{positions} positions. Choose at most {positions}."
        )
    return GenerationConfig(**options.over(settings, positions))


def generate(
    network: Florence2Network,
    decoder: Decoder,
    image_features: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    options: GenerationOptions,
    on_step: StepCallback | None = None,
    on_answer: Callable[[int, TokenSequence], None] | None = None,
    is_wanted: Callable[[int], bool] | None = None,
) -> list[TokenSequence]:
    """Answer a batch of (image, prompt) pairs; each answer is what the pair gives alone.

    Args:
        decoder: of this network's language model; it keeps what a later call can use again.
        image_features: ``[B, N, d_model]``
        input_ids: prompts padded on the right, ``[B, L]`` int64
        attention_mask: 1 at prompt tokens, 0 at padding, ``[B, L]`` int64
        on_step: called before each token; it may raise to cancel.
        on_answer: called with the number of a pair and its answer as soon as that is there.
        is_wanted: asked about each pair, by its number, now and then. An answer that nobody wants any more
            ends where it is.

    Raises:
        ValueError: ``max_new_tokens`` is above the decoder's positions.
    """
    config = generation_config(
        network.config.generation, options, network.config.text.max_position_embeddings
    )
    states, mask = network.encode(image_features, input_ids, attention_mask)
    settings = _search_settings(config, network, options)
    sequences: dict[int, TokenSequence] = {}

    def keep(pair: int, answer: Found) -> None:
        sequences[pair] = _sequence(answer, settings)
        if on_answer is not None:
            on_answer(pair, sequences[pair])

    search(
        decoder,
        states,
        mask,
        settings,
        rules_of(config, states.device),
        _generators(options, states) if settings.do_sample else None,
        Onlookers(on_step, keep, is_wanted),
    )
    return [sequences[pair] for pair in range(len(sequences))]


def _search_settings(
    config: GenerationConfig, network: Florence2Network, options: GenerationOptions
) -> SearchSettings:
    text = network.config.text
    ends = text.eos_token_id if config.eos_token_id is None else config.eos_token_id
    start = config.decoder_start_token_id
    return SearchSettings(
        num_beams=config.num_beams or 1,
        max_new_tokens=config.max_new_tokens,
        start_token_id=text.decoder_start_token_id if start is None else start,
        end_token_ids=(ends,) if isinstance(ends, int) else tuple(ends),
        pad_token_id=text.pad_token_id if config.pad_token_id is None else config.pad_token_id,
        do_sample=bool(config.do_sample),
        early_stopping=config.early_stopping if config.early_stopping is not None else False,
        length_penalty=1.0 if config.length_penalty is None else config.length_penalty,
        output_scores=options.output_scores,
    )


def _generators(options: GenerationOptions, states: Tensor) -> list[torch.Generator]:
    """One source of chance per pair, all alike: a seed means the same draws whatever else is in the batch."""
    seed = secrets.randbits(63) if options.seed is None else options.seed
    return [torch.Generator(states.device).manual_seed(seed) for _ in range(states.shape[0])]


def _sequence(answer: Found, settings: SearchSettings) -> TokenSequence:
    # Where the last allowed token is the forced end, nothing tells it from an end of its own.
    return TokenSequence(
        tuple(answer.token_ids),
        truncated=len(answer.token_ids) - 1 >= settings.max_new_tokens,
        sequence_score=answer.sequence_score,
        token_scores=None if answer.token_scores is None else tuple(answer.token_scores),
    )
