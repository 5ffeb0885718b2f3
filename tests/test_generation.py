"""Generation settings: what the checkpoint says, what the user overrides, sampling, scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from promptgen.florence2 import Florence2Model, GeneratedSequence, GenerationOptions
from promptgen.inference.generation import generation_config

from .checkpoints import REFERENCE, copy_reference, edit_json, expected

pytestmark = pytest.mark.matrix


@pytest.fixture(scope="module")
def model() -> Florence2Model:
    return Florence2Model.load(REFERENCE, device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def features(model: Florence2Model) -> torch.Tensor:
    images = [Image.open(REFERENCE / "images" / name).convert("RGB") for name in expected()["images"]]
    return model.encode_images(model.preprocess(images))


def ask(
    model: Florence2Model,
    features: torch.Tensor,
    prompts: str | list[str] = "<MIXED_CAPTION>",
    **options: Any,
) -> list[GeneratedSequence]:
    prompts = [prompts] * len(features) if isinstance(prompts, str) else prompts
    return model.generate(features, prompts, GenerationOptions(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0; it takes a whole number of at least 1"),
        ({"num_beams": True}, "num_beams is True"),
        ({"num_beams": 2.5}, "num_beams is 2.5"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens 9 is above max_new_tokens 8"),
        ({"temperature": 0.0}, "temperature is 0.0; it takes a finite number above 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 1.5}, "top_p is 1.5; it takes a finite number above 0 and at most 1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"length_penalty": math.inf}, "length_penalty is inf"),
        ({"length_penalty": 101}, "length_penalty is 101; it takes a finite number at most 100"),
        ({"temperature": 10**400}, "temperature is 1000"),
        ({"no_repeat_ngram_size": -3}, "no_repeat_ngram_size is -3"),
        ({"early_stopping": "sometimes"}, "early_stopping is 'sometimes'; it takes True, False or 'never'"),
        ({"do_sample": 1}, "do_sample is 1; it takes True or False"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616; it takes a whole number of at least 0 and at most"),
    ],
)
def test_options_are_checked_when_they_are_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.")):
        GenerationOptions(**options)


@given(
    st.builds(
        GenerationOptions, num_beams=st.none() | st.integers(1, 9), top_p=st.none() | st.floats(0.01, 1)
    )
)
def test_only_what_is_given_overrides(options: GenerationOptions) -> None:
    assert set(options.given()) == {
        name for name in ("num_beams", "top_p") if getattr(options, name) is not None
    }


def settings_of(folder: Path, **generation: Any) -> Florence2Model:
    """The reference checkpoint with other settings in ``generation_config.json``; None takes one out."""
    copy_reference(folder, weights=True)

    def edit(raw: dict[str, Any]) -> None:
        raw.update(generation)
        for name in [name for name, value in raw.items() if value is None]:
            del raw[name]

    edit_json(folder / "generation_config.json", edit)
    return Florence2Model.load(folder, device="cpu", dtype="fp32")


@pytest.mark.parametrize(
    "setting",
    [
        {"num_beams": 1},
        {"num_beams": 5, "length_penalty": 0.0},
        {"max_new_tokens": 7},
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 1},
        {"early_stopping": True},
        {"num_beams": 4, "early_stopping": "never", "length_penalty": 2.0},
    ],
    ids=str,
)
def test_a_setting_of_the_file_does_what_the_option_does(
    tmp_path: Path, model: Florence2Model, features: torch.Tensor, setting: dict[str, Any]
) -> None:
    """And an option overrides the file."""
    stated = settings_of(tmp_path / "c", **setting)
    limit = {} if "max_new_tokens" in setting else {"max_new_tokens": 40}
    assert ask(stated, features, **limit) == ask(model, features, **setting, **limit)
    published = {"num_beams": 3, "length_penalty": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 3}
    published |= {"early_stopping": False, "max_new_tokens": 40}
    assert ask(stated, features, **published) == ask(model, features, max_new_tokens=40)


def test_settings_of_text_config_hold_where_there_is_no_file(
    tmp_path: Path, model: Florence2Model, features: torch.Tensor
) -> None:
    folder = copy_reference(tmp_path / "c", weights=True)
    (folder / "generation_config.json").unlink()
    edit_json(
        folder / "config.json", lambda raw: raw["text_config"].update(num_beams=2, no_repeat_ngram_size=2)
    )
    older = Florence2Model.load(folder, device="cpu", dtype="fp32")
    options = {"num_beams": 2, "no_repeat_ngram_size": 2, "early_stopping": True, "max_new_tokens": 40}
    assert ask(older, features, max_new_tokens=40) == ask(model, features, **options)


def test_max_length_of_the_file_counts_the_start_token(tmp_path: Path, features: torch.Tensor) -> None:
    answer = ask(settings_of(tmp_path / "c", max_length=9), features[:1])[0]
    assert len(answer.token_ids) == 9
    assert answer.truncated


def test_the_defaults_that_save_pretrained_writes_into_text_config_are_no_settings(
    tmp_path: Path, model: Florence2Model, features: torch.Tensor
) -> None:
    """As in every checkpoint that a trainer on transformers 4 saved; 20 is that library's default."""
    folder = copy_reference(tmp_path / "c", weights=True)
    dumped: dict[str, Any] = {"max_length": 20, "min_length": 0, "do_sample": False, "length_penalty": 1.0}
    dumped |= {
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
        "typical_p": 1.0,
        "num_beam_groups": 1,
        "num_return_sequences": 1,
    }
    dumped |= {"bad_words_ids": None, "suppress_tokens": None, "encoder_no_repeat_ngram_size": 0}
    edit_json(folder / "config.json", lambda raw: raw["text_config"].update(dumped))
    tuned = Florence2Model.load(folder, device="cpu", dtype="fp32")
    prompt = "<MIXED_CAPTION>"
    answers = ask(tuned, features[:2], prompt)
    assert max(len(answer.token_ids) for answer in answers) > 20
    assert answers == ask(model, features[:2], prompt)


@pytest.mark.parametrize("setting", [{"max_new_tokens": 4096}, {"max_length": 4096}], ids=str)
def test_a_limit_of_the_file_above_the_decoder_is_lowered(setting: dict[str, Any]) -> None:
    assert generation_config(setting, GenerationOptions(), 1024).max_new_tokens == 1024


def test_a_setting_that_is_not_supported_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings_of(tmp_path / "c", num_beam_groups=3, diversity_penalty=0.0, guidance_scale=1.0)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'c'} asks for num_beam_groups 3, which is not supported; it has no effect."
    ]


def test_the_n_gram_rule_and_forced_tokens(model: Florence2Model, features: torch.Tensor) -> None:
    for answer in ask(model, features, "<MORE_DETAILED_CAPTION>", max_new_tokens=60):
        new = answer.token_ids[1:]
        assert (answer.token_ids[0], new[0], new[-1]) == (2, 0, 2)
        grams = [answer.token_ids[i : i + 3] for i in range(len(answer.token_ids) - 2)]
        assert len(set(grams)) == len(grams)


def test_min_new_tokens(model: Florence2Model, features: torch.Tensor) -> None:
    for answer in ask(model, features, min_new_tokens=50, max_new_tokens=60):
        assert 50 <= len(answer.token_ids) - 1 <= 60


def test_one_beam_is_greedy(model: Florence2Model, features: torch.Tensor) -> None:
    """Greedy by hand: the likeliest next token, with the n-gram rule switched off."""
    ids = torch.tensor([model.text.encode("What does the image describe?")])
    answer = ask(model, features[1:2], "What does the image describe?", num_beams=1, no_repeat_ngram_size=0)[
        0
    ]
    tokens = [2, 0]
    with torch.inference_mode():
        states, mask = model.network.encode(features[1:2], ids, torch.ones_like(ids))
        while tokens[-1] != 2 and len(tokens) < 60:
            tokens.append(int(model.network(states, mask, torch.tensor([tokens]))[0, -1].argmax()))
    assert tokens[:60] == list(answer.token_ids)[:60]


def test_sampling_repeats_with_a_seed_and_does_not_depend_on_the_batch(
    model: Florence2Model, features: torch.Tensor
) -> None:
    options = {"do_sample": True, "num_beams": 1, "temperature": 1.5, "max_new_tokens": 20, "seed": 7}
    together = ask(model, features, **options)
    assert ask(model, features, **options) == together
    assert [ask(model, row[None], **options)[0] for row in features] == together
    assert ask(model, features, **{**options, "seed": 8}) != together
    unseeded = {**options, "seed": None, "temperature": 3.0}
    assert len({ask(model, features[:1], **unseeded)[0].token_ids for _ in range(4)}) > 1


def test_sampling_leaves_the_callers_random_state_alone(
    model: Florence2Model, features: torch.Tensor
) -> None:
    torch.manual_seed(5)
    expected_draw = torch.rand(3)
    torch.manual_seed(5)
    ask(model, features[:1], do_sample=True, max_new_tokens=8, seed=1)
    assert torch.equal(torch.rand(3), expected_draw)


def test_the_likeliest_token_alone_is_greedy(model: Florence2Model, features: torch.Tensor) -> None:
    greedy = ask(model, features, num_beams=1, max_new_tokens=20)
    assert ask(model, features, num_beams=1, do_sample=True, top_k=1, max_new_tokens=20) == greedy


def test_sampling_settings_do_nothing_without_sampling(model: Florence2Model, features: torch.Tensor) -> None:
    plain = ask(model, features[:2], max_new_tokens=20)
    assert ask(model, features[:2], temperature=9.0, top_k=1, top_p=0.1, max_new_tokens=20) == plain


@pytest.mark.parametrize("num_beams", [1, 3])
def test_scores_are_log_probabilities(model: Florence2Model, features: torch.Tensor, num_beams: int) -> None:
    prompt = "What does the image describe?"
    options = {"num_beams": num_beams, "max_new_tokens": 40}
    plain = ask(model, features[:2], prompt, **options)
    scored = ask(model, features[:2], prompt, output_scores=True, **options)
    assert [answer.token_ids for answer in scored] == [answer.token_ids for answer in plain]
    ids = torch.tensor([model.text.encode(prompt)])
    for row, answer in enumerate(scored):
        assert answer.token_scores is not None
        assert answer.sequence_score is not None
        assert len(answer.token_scores) == len(answer.token_ids) - 1
        with torch.inference_mode():
            states, mask = model.network.encode(features[row : row + 1], ids, torch.ones_like(ids))
            logits = model.network(states, mask, torch.tensor([answer.token_ids[:-1]]))[0]
        likely = logits.log_softmax(-1)[range(len(logits)), answer.token_ids[1:]].tolist()
        # the forced first token costs nothing
        assert answer.token_scores == pytest.approx([0.0, *likely[1:]], abs=1e-4)
        assert answer.sequence_score == pytest.approx(sum(answer.token_scores) / len(likely), abs=1e-4)


def test_rows_and_prompts_must_match(model: Florence2Model, features: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="6 rows of image features came with 2 prompts"):
        ask(model, features, ["<CAPTION>", "<OD>"])
    assert model.generate(features[:0], []) == []
