"""From image features and prompts to token ids.

Today this calls transformers' ``generate`` on the BART part; what it takes and answers is the face that a
faster loop can stand behind.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

from .network import Florence2Network
from .options import GenerationOptions

StepCallback = Callable[[int], None]
"""Called before each decoded token with the number of tokens so far, the start token included; it may raise
to cancel."""

# Before 4.54, transformers' beam search let a finished pair go on while others were unfinished, so
# that a batch could answer otherwise than its members alone.
_BEAMS_OF_A_BATCH_ARE_APART = Version(transformers.__version__) >= Version("4.54")

# Sampling draws from torch's global generators; the lock keeps seeded draws of several threads apart.
_sampling_lock = threading.Lock()


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
    merged = dict(settings) | options.given()
    maximum = merged.pop("max_length", None)
    if merged.get("max_new_tokens") is None:
        # max_length counts the decoder start token
        merged["max_new_tokens"] = maximum - 1 if maximum else positions
    merged["max_new_tokens"] = min(merged["max_new_tokens"], positions)
    minimum = merged.pop("min_length", None)
    if minimum and merged.get("min_new_tokens") is None:
        merged["min_new_tokens"] = minimum - 1
    if not merged.get("do_sample"):  # they act only while sampling; transformers warns otherwise
        for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
            merged.pop(name, None)
    if merged.get("num_beams", 1) == 1:
        for name in ("early_stopping", "length_penalty"):
            merged.pop(name, None)
    return GenerationConfig(
        **merged, use_cache=True, return_dict_in_generate=True, output_scores=options.output_scores
    )


def generate(
    network: Florence2Network,
    image_features: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    options: GenerationOptions,
    on_step: StepCallback | None = None,
) -> list[TokenSequence]:
    """Answer a batch of (image, prompt) pairs; each answer is what the pair gives alone.

    Args:
        image_features: ``[B, N, d_model]``
        input_ids: prompts padded on the right, ``[B, L]`` int64
        attention_mask: 1 at prompt tokens, 0 at padding, ``[B, L]`` int64
        on_step: called before each token; it may raise to cancel.

    Raises:
        ValueError: ``max_new_tokens`` is above the decoder's positions.
    """
    config = generation_config(
        network.config.generation, options, network.config.text.max_position_embeddings
    )
    states, mask = network.encode(image_features, input_ids, attention_mask)
    # One pair at a time where it matters: a seed then means the same draws whatever else is in the batch, and
    # the scores of every step (the whole vocabulary each) are held for one answer only.
    alone = config.do_sample or options.output_scores
    alone |= config.num_beams > 1 and not _BEAMS_OF_A_BATCH_ARE_APART
    if not alone:
        return _generate_rows(network, states, mask, config, options, on_step)
    seed = secrets.randbits(63) if options.seed is None else options.seed
    answers = []
    for row in range(states.shape[0]):
        with _seeded(seed, states.device) if config.do_sample else nullcontext():
            answers += _generate_rows(
                network, states[row : row + 1], mask[row : row + 1], config, options, on_step
            )
    return answers


def _generate_rows(
    network: Florence2Network,
    states: Tensor,
    mask: Tensor,
    config: GenerationConfig,
    options: GenerationOptions,
    on_step: StepCallback | None,
) -> list[TokenSequence]:
    model = network.language_model
    output = model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask,
        generation_config=config,
        logits_processor=LogitsProcessorList([_Tick(on_step)] if on_step else []),
    )
    eos, pad = network.config.text.eos_token_id, network.config.text.pad_token_id
    answers = [_cut(row, eos, pad, config.max_new_tokens) for row in output.sequences.tolist()]
    if not options.output_scores:
        return answers
    beams = getattr(output, "beam_indices", None)
    scores = model.compute_transition_scores(
        output.sequences, output.scores, beams, normalize_logits=beams is None
    )
    totals = output.sequences_scores.tolist() if beams is not None else [None] * len(answers)
    return [
        _scored(answer, row, total)
        for answer, row, total in zip(answers, scores.tolist(), totals, strict=True)
    ]


def _cut(row: list[int], eos: int, pad: int, max_new_tokens: int) -> TokenSequence:
    """Take the padding off. The first token is the decoder's start, which is also the end token."""
    length = len(row)
    if eos in row[1:]:
        length = row.index(eos, 1) + 1
    else:
        while length > 1 and row[length - 1] == pad:
            length -= 1
    # Where the last allowed token is the forced end, nothing tells it from an end of its own.
    return TokenSequence(tuple(row[:length]), truncated=length - 1 >= max_new_tokens)


def _scored(answer: TokenSequence, scores: list[float], total: float | None) -> TokenSequence:
    token_scores = tuple(scores[: len(answer.token_ids) - 1])
    return TokenSequence(
        answer.token_ids,
        answer.truncated,
        sum(token_scores) / max(1, len(token_scores)) if total is None else total,
        token_scores,
    )


class _Tick(LogitsProcessor):
    """Tells the caller about every step, and lets it cancel by raising."""

    def __init__(self, on_step: StepCallback) -> None:
        self._on_step = on_step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._on_step(input_ids.shape[1])
        return scores


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for a block, and put their state back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with _sampling_lock, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
