"""Small random BART networks, what transformers' ``generate`` answers with them, and what our search does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from promptgen.florence2.decoder import Decoder
from promptgen.inference.rules import rules_of
from promptgen.inference.search import Found, Onlookers, SearchSettings, search
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

START, PAD = 2, 1


def bart(seed: int, words: int, *, layers: int = 2, heads: int = 2, std: float = 0.3, ties: bool = False,
         scale: bool = False, positions: int = 210) -> BartForConditionalGeneration:  # fmt: skip
    torch.manual_seed(seed)
    config = BartConfig(
        vocab_size=words,
        max_position_embeddings=positions,
        d_model=32,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=layers,
        decoder_attention_heads=heads,
        decoder_ffn_dim=48,
        scale_embedding=scale,
        init_std=std,
        pad_token_id=PAD,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=START,
        forced_eos_token_id=None,
    )
    model = BartForConditionalGeneration(config).eval()
    model.final_logits_bias.normal_(0, 0.5)
    if ties:
        model.model.shared.weight.data.zero_()
        model.lm_head.weight.data.zero_()
        model.final_logits_bias.zero_()
    return model


def encoder_states(seed: int, pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States ``[P, S, 32]`` and their mask, some of them padded."""
    generator = torch.Generator().manual_seed(seed)
    length = int(torch.randint(3, 15, (), generator=generator))
    states = torch.randn(pairs, length, 32, generator=generator)
    mask = torch.ones(pairs, length, dtype=torch.int64)
    for row in range(1, pairs):
        mask[row, int(torch.randint(2, length + 1, (), generator=generator)) :] = 0
    return states, mask


@torch.no_grad()
def oracle(
    model: BartForConditionalGeneration, states: torch.Tensor, mask: torch.Tensor, config: GenerationConfig
) -> list[tuple[list[int], float | None, list[float]]]:
    """Of each pair the answer, its score and the scores of its tokens."""
    answers = []
    for row in range(states.shape[0]):
        length = int(mask[row].sum())
        output = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states[row : row + 1, :length]),
            attention_mask=mask[row : row + 1, :length],
            generation_config=config,
        )
        scores = getattr(output, "sequences_scores", None)
        transitions = model.compute_transition_scores(
            output.sequences,
            output.scores,
            getattr(output, "beam_indices", None),
            normalize_logits=config.num_beams == 1,  # with beams they are log-probabilities already
        )
        answers.append(
            (
                output.sequences[0].tolist(),
                None if scores is None else scores[0].item(),
                transitions[0].tolist(),
            )
        )
    return answers


@torch.no_grad()
def ours(
    decoder: Decoder,
    states: torch.Tensor,
    mask: torch.Tensor,
    config: GenerationConfig,
    seed: int = 0,
    check_every: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> list[Found]:
    ends = config.eos_token_id
    found = search(
        decoder,
        lambda: decoder.start(states, mask, config.num_beams or 1),
        torch.full((states.shape[0], 1), START, device=states.device),
        SearchSettings(
            num_beams=config.num_beams or 1,
            max_new_tokens=config.max_new_tokens,
            end_token_ids=(ends,) if isinstance(ends, int) else tuple(ends),
            pad_token_id=PAD,
            do_sample=bool(config.do_sample),
            early_stopping=config.early_stopping or False,
            length_penalty=1.0 if config.length_penalty is None else config.length_penalty,
            output_scores=True,
        ),
        rules_of(config, states.device),
        [torch.Generator(states.device).manual_seed(seed) for _ in range(states.shape[0])]
        if config.do_sample
        else None,
        onlookers=Onlookers(on_step),
        check_every=check_every,
    )
    assert len(found) == states.shape[0]
    return found


def ended(ids: list[int], ends: set[int]) -> list[int]:
    """Up to the end token; what is behind it is padding."""
    return ids[
        : next((place for place, token in enumerate(ids) if place and token in ends), len(ids) - 1) + 1
    ]


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """Any combination of the settings that a checkpoint may have."""
    longest = draw(st.sampled_from([1, 2, 5, 12, 30]))
    chosen: dict[str, Any] = {"max_new_tokens": longest, "num_beams": draw(st.integers(1, 6))}
    chosen["eos_token_id"] = draw(st.sampled_from([2, [2, 5]]))
    possible: dict[str, st.SearchStrategy[Any]] = {
        "forced_bos_token_id": st.just(0),
        "forced_eos_token_id": st.just(2),
        "no_repeat_ngram_size": st.integers(1, 4),
        "repetition_penalty": st.sampled_from([0.7, 1.5]),
        "min_new_tokens": st.integers(1, longest),
        "bad_words_ids": st.just([[4], [5, 6], [3, 4, 5]]),
        "suppress_tokens": st.just([7, 8]),
        "begin_suppress_tokens": st.just([6, 9]),
        "renormalize_logits": st.just(True),
    }
    for name, values in possible.items():
        if draw(st.booleans()):
            chosen[name] = draw(values)
    if chosen["num_beams"] > 1:
        chosen["length_penalty"] = draw(st.sampled_from([1.0, 0.0, 2.0, -1.0, 0.5]))
        chosen["early_stopping"] = draw(st.sampled_from([True, False, "never"]))
    return chosen


def check(
    model: BartForConditionalGeneration,
    seed: int,
    pairs: int,
    chosen: dict[str, Any],
    decoder: Decoder | None = None,
    check_every: int | None = None,
) -> None:
    """Ours and transformers' answers to ``pairs`` random pairs are the same, together and alone."""
    decoder = decoder or Decoder(model)
    config = GenerationConfig(
        **chosen,
        do_sample=False,
        pad_token_id=PAD,
        decoder_start_token_id=START,
        return_dict_in_generate=True,
        output_scores=True,
    )
    states, mask = (tensor.to(model.device) for tensor in encoder_states(seed, pairs))
    ends = (
        {chosen["eos_token_id"]} if isinstance(chosen["eos_token_id"], int) else set(chosen["eos_token_id"])
    )
    right = oracle(model, states, mask, config)
    together = ours(decoder, states, mask, config, check_every=check_every)
    for row, ((ids, score, token_scores), found) in enumerate(zip(right, together, strict=True)):
        assert ended(found.token_ids, ends) == found.token_ids
        assert found.token_ids == ended(ids, ends)
        own = found.token_scores or []
        assert len(own) == len(found.token_ids) - 1
        if all(math.isfinite(each) and each > -1e6 for each in token_scores[: len(own)]):
            assert own == pytest.approx(token_scores[: len(own)], rel=1e-3, abs=1e-3)
        if score is not None and math.isfinite(score):
            assert found.sequence_score == pytest.approx(score, rel=1e-3, abs=1e-3)  # float32, large weights
        alone = ours(decoder, states[row : row + 1], mask[row : row + 1], config)[0]
        assert alone.token_ids == found.token_ids


def config_for_sampling(**options: Any) -> GenerationConfig:
    return GenerationConfig(
        do_sample=True,
        max_new_tokens=25,
        eos_token_id=2,
        pad_token_id=PAD,
        decoder_start_token_id=START,
        **options,
    )


def config_with_scores(config: GenerationConfig) -> GenerationConfig:
    return GenerationConfig(
        **{**config.to_diff_dict(), "return_dict_in_generate": True, "output_scores": True}
    )
