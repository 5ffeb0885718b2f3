"""From the settings of checkpoint and user to a search, and from what it finds to answers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from .errors import CheckpointError, UnfitError
from .options import GenerationOptions
from .rules import rules_of
from .search import Decoder, Found, Onlookers, SearchSettings, SearchState, search

StepCallback = Callable[[int], None]
"""Called before each decoded token with the number of tokens so far, the start token included; it may raise
to cancel."""


@dataclass(frozen=True)
class TokenSequence:
    """Token ids of one answer, and log-probabilities where they were asked for."""

    token_ids: tuple[int, ...]  # the token that the answer goes on from first
    truncated: bool
    sequence_score: float | None = None
    token_scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Watchers:
    """Who is told of a batch of pairs, by their numbers, while it is answered."""

    on_step: StepCallback | None = None  # before each token; it may raise to cancel
    on_answer: Callable[[int, TokenSequence], None] | None = None  # as soon as it is there
    is_wanted: Callable[[int], bool] | None = None  # asked now and then; if not, the answer ends where it is


def generation_config(
    settings: Mapping[str, Any], options: GenerationOptions, positions: int
) -> GenerationConfig:
    """The checkpoint's own settings with the user's on top.

    Args:
        settings: what ``generation_config.json`` and ``text_config`` say.
        positions: places of the decoder; one answer has at most that many new tokens.

    Raises:
        UnfitError: the user's ``max_new_tokens`` is above ``positions``; a checkpoint's own is lowered to it.
        CheckpointError: the checkpoint has a setting that means nothing; the user's were checked.
    """
    if options.max_new_tokens is not None and options.max_new_tokens > positions:
        raise UnfitError(
            f"max_new_tokens is {options.max_new_tokens}; the decoder of this checkpoint has "
            f"{positions} positions. Choose at most {positions}."
        )
    try:
        config = GenerationConfig(**options.over(settings, positions))
        rules_of(config, "cpu")  # some values are wrong only together with others, as while sampling
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            "The checkpoint's generation settings, in its generation_config.json, cannot be used: "
            f"{str(error).rstrip('.')}. Correct the file, or give another value of that setting."
        ) from error
    return config


def answer_pairs(
    decoder: Decoder,
    begin: Callable[[int], SearchState],
    history: Tensor,
    config: GenerationConfig,
    options: GenerationOptions,
    *,
    end_token_id: int | None,
    pad_token_id: int,
    watchers: Watchers,
) -> list[TokenSequence]:
    """Answer a batch of pairs; each answer is what the pair gives alone.

    Args:
        decoder: goes from token to token.
        begin: makes its state for so many beams of each pair.
        history: what each answer goes on from, ``[P, H]`` int64, on the device.
        config: see :func:`generation_config`.
        end_token_id, pad_token_id: where ``config`` has none.
    """
    ends = end_token_id if config.eos_token_id is None else config.eos_token_id
    settings = SearchSettings(
        num_beams=config.num_beams or 1,
        max_new_tokens=config.max_new_tokens,
        end_token_ids=(ends,) if isinstance(ends, int) else tuple(ends or ()),
        pad_token_id=pad_token_id if config.pad_token_id is None else config.pad_token_id,
        do_sample=bool(config.do_sample),
        early_stopping=config.early_stopping if config.early_stopping is not None else False,
        length_penalty=1.0 if config.length_penalty is None else config.length_penalty,
        output_scores=options.output_scores,
    )
    sequences: dict[int, TokenSequence] = {}

    def keep(pair: int, answer: Found) -> None:
        sequences[pair] = _sequence(answer, settings)
        if watchers.on_answer is not None:
            watchers.on_answer(pair, sequences[pair])

    search(
        decoder,
        lambda: begin(settings.num_beams),
        history,
        settings,
        rules_of(config, history.device, history.shape[1]),
        _generators(options, history) if settings.do_sample else None,
        Onlookers(watchers.on_step, keep, watchers.is_wanted),
    )
    return [sequences[pair] for pair in range(len(sequences))]


def _generators(options: GenerationOptions, history: Tensor) -> list[torch.Generator]:
    """One source of chance per pair, all alike: a seed means the same draws whatever else is in the batch."""
    seed = secrets.randbits(63) if options.seed is None else options.seed
    return [torch.Generator(history.device).manual_seed(seed) for _ in range(history.shape[0])]


def _sequence(answer: Found, settings: SearchSettings) -> TokenSequence:
    # Where the last allowed token is the forced end, nothing tells it from an end of its own.
    return TokenSequence(
        tuple(answer.token_ids),
        truncated=len(answer.token_ids) - 1 >= settings.max_new_tokens,
        sequence_score=answer.sequence_score,
        token_scores=None if answer.token_scores is None else tuple(answer.token_scores),
    )
