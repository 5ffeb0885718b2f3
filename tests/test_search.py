"""The decoding loop against transformers' ``generate``, token for token, on small random networks.

Each pair of a batch is asked of ``generate`` alone; ours must answer so in the batch and alone.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from promptgen.florence2.decoder import Decoder
from promptgen.florence2.products import project
from promptgen.inference.rules import NoRepeatNGrams
from promptgen.inference.search import SearchSettings, search
from transformers import NoRepeatNGramLogitsProcessor

from .small_bart import (
    PAD,
    START,
    bart,
    check,
    config_for_sampling,
    config_with_scores,
    encoder_states,
    ended,
    oracle,
    ours,
    rules,
)

pytestmark = pytest.mark.matrix


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    words=st.sampled_from([16, 40, 200]),
    heads=st.sampled_from([1, 2, 4]),
    std=st.sampled_from([0.02, 0.3, 1.0]),
    ties=st.booleans(),
    scale=st.booleans(),
    pairs=st.integers(1, 8),
    chosen=rules(),
)
def test_every_answer_is_transformers_own(
    seed: int, words: int, heads: int, std: float, ties: bool, scale: bool, pairs: int, chosen: dict[str, Any]
) -> None:
    model = bart(seed, words, layers=1 + seed % 2, heads=heads, std=std, ties=ties, scale=scale)
    check(model, seed, pairs, chosen)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("ngrams", [0, 3])
def test_long_answers(beams: int, ngrams: int) -> None:
    """The caches grow several times, and answers of very different length share a batch."""
    chosen = {"max_new_tokens": 200, "num_beams": beams, "eos_token_id": 2, "forced_eos_token_id": 2}
    chosen["no_repeat_ngram_size"] = ngrams
    model = bart(3, 60, std=0.6)
    model.final_logits_bias[0, 2] = 4.0
    check(model, 11, 6, chosen)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 1, "temperature": 2.0, "top_k": 5},
        {"num_beams": 1, "top_p": 0.7, "top_k": 0},
        {"num_beams": 1, "min_p": 0.1},
        {"num_beams": 1, "typical_p": 0.6},
        {"num_beams": 1, "epsilon_cutoff": 0.02},
        {"num_beams": 1, "eta_cutoff": 0.02},
        {"num_beams": 3},
    ],
    ids=str,
)
def test_drawn_answers_are_those_of_transformers_for_the_same_seed(options: dict[str, Any]) -> None:
    model, config = bart(5, 40), config_for_sampling(**options)
    states, mask = encoder_states(2, 4)
    for seed in range(3):
        together = [found.token_ids for found in ours(Decoder(model), states, mask, config, seed)]
        for row in range(4):
            torch.manual_seed(seed)
            length = int(mask[row].sum())
            ids, _, _ = oracle(
                model,
                states[row : row + 1, :length],
                mask[row : row + 1, :length],
                config_with_scores(config),
            )[0]
            assert together[row] == ended(ids, {2})


def test_pairs_that_are_done_leave_the_batch() -> None:
    """The long answer of one pair is decoded alone in the end."""
    model = bart(3, 60, std=0.6)
    model.final_logits_bias[0, 2] = 4.0
    states, mask = encoder_states(11, 6)
    sizes = []

    class Counted(Decoder):
        def step(self, tokens: torch.Tensor, state: Any) -> torch.Tensor:
            sizes.append(tokens.shape[0])
            return super().step(tokens, state)

    with torch.no_grad():
        found = search(
            (decoder := Counted(model)),
            lambda: decoder.start(states, mask, 1),
            torch.full((states.shape[0], 1), START),
            SearchSettings(1, 100, (2,), PAD),
            [NoRepeatNGrams(3)],
        )
    lengths = sorted(len(answer.token_ids) - 1 for answer in found)
    assert lengths[0] < lengths[-1]
    assert len(sizes) == lengths[-1]
    assert sum(sizes) == sum(lengths)  # no step was made for an answer that was done


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 7)
)
@settings(deadline=None)
def test_the_rule_against_repeated_n_grams(rows: list[list[int]], size: int) -> None:
    ids = torch.tensor(rows)
    scores = torch.randn(len(rows), 5)
    right = NoRepeatNGramLogitsProcessor(size)(ids, scores.clone())
    assert torch.equal(NoRepeatNGrams(size)(ids, scores), right)


@pytest.mark.parametrize("shape", [(1, 3), (2, 2), (5, 1), (1, 1)])
def test_products_of_few_rows(shape: tuple[int, int]) -> None:
    weight, bias, states = torch.randn(12_000, 16), torch.randn(12_000), torch.randn(*shape, 16)
    right = torch.nn.functional.linear(states, weight, bias)
    torch.testing.assert_close(project(states, weight, bias), right)
