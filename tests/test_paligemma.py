"""PaliGemma's answers are those of transformers' own ``generate``, called directly, token for token."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from promptgen.inference import DTYPES, AdapterError
from promptgen.paligemma import GenerationOptions, PaliGemmaConfig, PaliGemmaModel, is_checkpoint
from promptgen.paligemma import configuration as known

from .checkpoints import edit_json
from .paligemma_checkpoints import (
    BOS,
    EOS,
    IMAGE_TOKENS,
    make_paligemma,
    pictures,
    published_answers,
    published_network,
    published_processor,
)

PROMPTS = ["caption en", "describe en the two cats on the road", "answer en what color is the cat?", "x"]
Maker = Callable[..., PaliGemmaModel]


@pytest.fixture(scope="module", params=[1, 2], ids="generation {}".format)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paligemma") / "model"
    return make_paligemma(folder, generation=request.param, shards=request.param == 2)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> PaliGemmaModel:
    return PaliGemmaModel.load(checkpoint, device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> PaliGemmaModel:
    folder = make_paligemma(tmp_path_factory.mktemp("paligemma") / "first")
    return PaliGemmaModel.load(folder, device="cpu", dtype="fp32")


def features(model: PaliGemmaModel, images: Sequence[Image.Image]) -> torch.Tensor:
    return model.encode_images(model.preprocess(images))


def answers(model: PaliGemmaModel, prompts: Sequence[str] = PROMPTS, **settings: Any) -> list[Any]:
    return model.generate(features(model, pictures(len(prompts))), prompts, GenerationOptions(**settings))


# As transformers -------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0},
        {"num_beams": 4, "length_penalty": -1.0},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 2, "num_beams": 3},
        {"repetition_penalty": 1.3},
        {"min_new_tokens": 12},
        {"min_new_tokens": 12, "num_beams": 3, "repetition_penalty": 1.2},
        {"max_new_tokens": 1},
        {"max_new_tokens": 100},  # more steps than there is room for at first
        {"max_new_tokens": 70, "num_beams": 3, "early_stopping": "never"},
    ],
    ids=str,
)
def test_answers_are_those_of_transformers(
    checkpoint: Path, model: PaliGemmaModel, settings: dict[str, Any]
) -> None:
    settings = {"max_new_tokens": 40, **settings}
    expected = published_answers(checkpoint, pictures(4), PROMPTS, **settings)
    batched = answers(model, **settings)
    assert [(list(answer.token_ids[1:]), answer.text) for answer in batched] == expected
    rows = features(model, pictures(4))
    for row, prompt in enumerate(PROMPTS):
        alone = model.generate(rows[row : row + 1], [prompt], GenerationOptions(**settings))
        assert alone == [batched[row]]


@pytest.mark.matrix
def test_transformers_batches_answer_the_same(checkpoint: Path, model: PaliGemmaModel) -> None:
    expected = published_answers(checkpoint, pictures(4), PROMPTS, batched=True, max_new_tokens=40)
    assert [list(answer.token_ids[1:]) for answer in answers(model, max_new_tokens=40)] == [
        ids for ids, _ in expected
    ]


@pytest.mark.matrix
def test_answers_differ_and_come_to_an_end(model: PaliGemmaModel) -> None:
    """Or all of the above would say little."""
    found = [*answers(model, max_new_tokens=100), *answers(model, ["caption en"] * 4, max_new_tokens=100)]
    assert len({answer.text for answer in found}) >= 6
    assert len({len(answer.token_ids) for answer in found if not answer.truncated}) >= 3
    assert all((answer.token_ids[-1] == EOS) is not answer.truncated for answer in found)


@pytest.mark.matrix
def test_image_features_are_those_of_transformers(checkpoint: Path, model: PaliGemmaModel) -> None:
    pixels = model.preprocess(pictures(3))
    with torch.inference_mode():
        published = published_network(checkpoint).get_image_features(pixels)
    if transformers.__version__ < "5":  # where they were divided by what Gemma multiplies all with
        published = published * model.config.text.hidden_size**0.5
    else:
        published = published.pooler_output
    assert features(model, pictures(3)).shape == (3, IMAGE_TOKENS, model.config.text.hidden_size)
    torch.testing.assert_close(model.encode_images(pixels), published, atol=1e-5, rtol=1e-5)


@pytest.mark.matrix
def test_pixels_and_prompts_are_those_of_the_published_processor(
    checkpoint: Path, model: PaliGemmaModel
) -> None:
    processor = published_processor(checkpoint)
    gray = np.random.default_rng(0).integers(0, 256, (90, 50), dtype=np.uint8)
    images = [*pictures(3), Image.fromarray(gray).convert("RGB"), Image.new("RGB", (28, 28), (1, 2, 3))]
    prompts = [*PROMPTS[:2], "détecter 猫 ; <loc0012>", "two\nlines\n", ""]
    for image, prompt in zip(images, prompts, strict=True):
        inputs = processor(images=image, text="<image>" + prompt, return_tensors="pt")
        # theirs multiplies by 1 / 255 with more digits before it rounds: one unit in the last place
        torch.testing.assert_close(model.preprocess([image]), inputs["pixel_values"], atol=1.2e-7, rtol=0)
        assert model.text.encode(prompt) == inputs["input_ids"][0, IMAGE_TOKENS:].tolist()
        assert model.count_tokens(prompt) == inputs["input_ids"].shape[1] - IMAGE_TOKENS


@pytest.mark.skipif(transformers.__version__ < "5", reason="where the windows of a prompt were other ones")
def test_sliding_windows_are_those_of_transformers(tmp_path: Path) -> None:
    folder = make_paligemma(tmp_path / "narrow", generation=2, text={"sliding_window": 12})
    wide = make_paligemma(tmp_path / "wide", generation=2)
    expected = published_answers(folder, pictures(4), PROMPTS, max_new_tokens=30, num_beams=2)
    found = answers(PaliGemmaModel.load(folder, dtype="fp32"), max_new_tokens=30, num_beams=2)
    assert [(list(answer.token_ids[1:]), answer.text) for answer in found] == expected
    without = answers(PaliGemmaModel.load(wide, dtype="fp32"), max_new_tokens=30, num_beams=2)
    assert [answer.text for answer in without] != [answer.text for answer in found]


@pytest.mark.matrix
def test_scores_are_those_of_transformers(checkpoint: Path, model: PaliGemmaModel) -> None:
    network, processor = published_network(checkpoint), published_processor(checkpoint)
    inputs = processor(images=pictures(1), text="<image>caption en", return_tensors="pt")
    inputs.pop("labels", None)
    settings = {"num_beams": 3, "max_new_tokens": 20}
    network.config.vocab_size = network.config.text_config.vocab_size  # transformers 4 asks for it there
    with torch.inference_mode():
        published = network.generate(**inputs, **settings, return_dict_in_generate=True, output_scores=True)
        right = network.compute_transition_scores(
            published.sequences, published.scores, published.beam_indices, normalize_logits=False
        )
    (answer,) = answers(model, ["caption en"], output_scores=True, **settings)
    assert answer.sequence_score == pytest.approx(float(published.sequences_scores[0]), abs=1e-4)
    assert answer.token_scores == pytest.approx(right[0, : len(answer.token_ids) - 1].tolist(), abs=1e-4)


@pytest.mark.matrix
def test_defaults_are_those_of_transformers() -> None:
    tables = [
        (known._SIGLIP, transformers.SiglipVisionConfig()),
        (known._GEMMA, transformers.GemmaConfig()),
        (known._GEMMA2 | known._GEMMA2_SHAPING, transformers.Gemma2Config()),
    ]
    whole = transformers.PaliGemmaConfig()
    tables += [(known._SIGLIP_OF_PALIGEMMA, whole.vision_config), (known._PALIGEMMA_TEXT, whole.text_config)]
    for table, config in tables:
        assert table == {name: getattr(config, name) for name in table}


# Answers ---------------------------------------------------------------------------------


def test_a_seed_means_the_same_draws_whatever_the_batch(model: PaliGemmaModel) -> None:
    settings = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.9, "max_new_tokens": 20}
    for beams in (1, 2):
        together = answers(model, seed=7, num_beams=beams, **settings)
        rows = features(model, pictures(4))
        options = GenerationOptions(seed=7, num_beams=beams, **settings)
        assert together == [
            model.generate(rows[row : row + 1], [prompt], options)[0] for row, prompt in enumerate(PROMPTS)
        ]
    assert answers(model, seed=7, **settings) != answers(model, seed=8, **settings)


def test_scores_have_the_characters_of_their_tokens(model: PaliGemmaModel) -> None:
    for answer in answers(model, max_new_tokens=60, output_scores=True):
        assert len(answer.token_scores) == len(answer.token_spans) == len(answer.token_ids) - 1
        assert max(answer.token_scores) <= 0
        assert "".join(answer.text[start:end] for start, end in answer.token_spans) == answer.text
        for token, (start, end) in zip(answer.token_ids[1:], answer.token_spans, strict=True):
            if "\N{REPLACEMENT CHARACTER}" not in answer.text[start:end] and start < end:
                assert answer.text[start:end] == model.text.decode([token])


def test_places_are_kept_in_the_text(tmp_path: Path) -> None:
    model = PaliGemmaModel.load(make_paligemma(tmp_path / "m", locations=True), dtype="fp32")
    expected = published_answers(model.folder, pictures(2), ["detect cat"] * 2, max_new_tokens=8)
    found = answers(model, ["detect cat"] * 2, max_new_tokens=8)
    assert [answer.text for answer in found] == [text for _, text in expected]
    assert found[0].text.startswith("<loc")
    assert model.text.decode([BOS, model.text.image_token_id, 300, EOS]) == model.text.decode([300])


def test_an_answer_has_256_tokens_at_most_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    folder = make_paligemma(tmp_path / "m", settings={"max_length": 20, "eos_token_id": 3})
    assert PaliGemmaConfig.from_folder(folder).generation["max_new_tokens"] == 256
    model = PaliGemmaModel.load(folder, dtype="fp32")
    edit_json(folder / "generation_config.json", lambda stated: stated.update(max_new_tokens=5))
    shorter = PaliGemmaModel.load(folder, dtype="fp32")
    (long,), (short,) = answers(model, ["caption en"]), answers(shorter, ["caption en"])
    assert len(long.token_ids) > 21
    assert (len(short.token_ids), short.truncated) == (6, True)
    assert [len(answer.token_ids) for answer in answers(shorter, ["caption en"], max_new_tokens=7)] == [8]


def test_on_step_is_told_on_the_way_and_may_cancel(model: PaliGemmaModel) -> None:
    rows = features(model, pictures(2))
    steps: list[int] = []
    model.encode_images(model.preprocess(pictures(1)), on_step=steps.append)
    assert len(steps) > 5
    assert set(steps) == {0}
    steps.clear()
    model.generate(rows, PROMPTS[:2], GenerationOptions(max_new_tokens=6, min_new_tokens=6), steps.append)
    assert [step for step in steps if step] == [1, 2, 3, 4, 5, 6]
    assert steps.count(0) == model.config.text.num_hidden_layers

    class CancelledError(Exception):
        pass

    def stop_at(when: int, step: int) -> None:
        if step >= when:
            raise CancelledError

    for when in (0, 3):
        with pytest.raises(CancelledError):
            model.generate(rows, PROMPTS[:2], on_step=partial(stop_at, when))
    with pytest.raises(CancelledError):
        model.encode_images(model.preprocess(pictures(1)), partial(stop_at, 0))
    assert model.generate(rows, PROMPTS[:2], GenerationOptions(max_new_tokens=4))  # the turn was given back


def test_unwanted_answers_end_and_others_are_told_of_as_they_are_there(first: PaliGemmaModel) -> None:
    full = answers(first, max_new_tokens=60)
    told: list[int] = []
    rows = features(first, pictures(4))
    found = first.generate(
        rows,
        PROMPTS,
        GenerationOptions(max_new_tokens=60),
        on_answer=lambda row, answer: told.append(row),
        is_wanted=lambda row: row != 3,
    )
    assert [found[row] for row in range(3)] == full[:3]
    assert len(found[3].token_ids) == 2
    lengths = [len(answer.token_ids) for answer in full[:3]]
    assert told == [3, *sorted(range(3), key=lengths.__getitem__)]


def test_threads_take_turns(first: PaliGemmaModel) -> None:
    expected = answers(first, max_new_tokens=20)
    found: dict[int, list[Any]] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: answers(first, max_new_tokens=20)}))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [expected] * 4


def test_an_autocast_and_an_inference_mode_of_the_caller_change_nothing(first: PaliGemmaModel) -> None:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        loaded = PaliGemmaModel.load(first.folder, dtype="fp32")
        assert answers(loaded, max_new_tokens=20) == answers(first, max_new_tokens=20)
    assert not any(parameter.is_inference() for parameter in loaded.network.parameters())
    loaded.to("cpu")
    assert answers(loaded, max_new_tokens=20) == answers(first, max_new_tokens=20)


def test_bf16_answers_nearly_what_transformers_does_in_bf16(model: PaliGemmaModel) -> None:
    """Nearly: on a CPU without bf16, we multiply many rows with more precision."""
    short = {"max_new_tokens": 1, "output_scores": True}
    low = PaliGemmaModel.load(model.folder, device="cpu")
    assert low.dtype is torch.bfloat16
    assert low.nbytes < 0.52 * model.nbytes
    for exact, rounded in zip(answers(model, **short), answers(low, **short), strict=True):
        assert exact.token_scores[0] == pytest.approx(rounded.token_scores[0], abs=0.3)


# What cannot be --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ("a " * 600, {}, "tokens; beside the picture there is room for 510"),
        ("<image>caption", {}, "holds <image>"),
        ("caption", {"max_new_tokens": 511}, "Choose at most 510"),
    ],
)
def test_what_is_too_long_is_refused(
    first: PaliGemmaModel, prompt: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        answers(first, [prompt], **settings)


def test_nothing_asked_is_nothing_answered(first: PaliGemmaModel) -> None:
    assert answers(first, []) == []
    assert first.encode_images(first.preprocess([])).shape == (0, IMAGE_TOKENS, 32)
    with pytest.raises(ValueError, match="1 rows of image features came with 2 prompts"):
        first.generate(features(first, pictures(1)), PROMPTS[:2])


@pytest.mark.parametrize("dtype", ["fp16", "int8", "fp8"])
def test_dtypes_that_are_not_for_it(first: PaliGemmaModel, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"Choose auto|choose quantization") as error:
        PaliGemmaModel.load(first.folder, device="cpu", dtype=dtype)
    assert dtype in str(error.value)
    assert set(DTYPES) >= {"fp32", "bf16"}


def test_adapters_are_refused_with_the_reason(first: PaliGemmaModel, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="Florence-2"):
        first.with_adapters([(tmp_path, 1.0)])
    assert first.adapters_nbytes == 0


def test_the_face(model: PaliGemmaModel) -> None:
    assert (model.family, model.image_size, model.image_processor.size) == ("paligemma", (28, 28), (28, 28))
    one, two = model.generating_bytes(1), model.generating_bytes(2)
    assert two == 2 * one > 0
    assert model.generating_bytes(1, GenerationOptions(num_beams=5)) > one
    assert model.encoding_bytes(3) == 3 * model.encoding_bytes(1) > 0
    weights = sum(parameter.nbytes for parameter in model.network.parameters())
    assert weights <= model.nbytes < weights + 1000
    assert is_checkpoint(model.folder)
    assert not is_checkpoint(model.folder.parent)
