"""How sure the model is of each region, and which regions are kept."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from promptgen.captioning import (
    INSTRUCTIONS,
    Captioner,
    CaptionOptions,
    FeatureCache,
    InstructionError,
    Region,
    Regions,
    VisionOptions,
    best_regions,
    box_iou,
    parse_answer,
)
from promptgen.captioning.region_prompts import join_region_answers
from promptgen.captioning.runs.settings import settings_digest
from promptgen.captioning.scores import TokenScores
from promptgen.florence2 import Florence2Model, GenerationOptions
from promptgen.florence2.decoder import Decoder
from promptgen.florence2.text_processing import FLORENCE2_TOKENS, TextProcessor
from promptgen.inference.generation import generation_config
from promptgen.inference.processor import has_int8
from promptgen.models_cache import find_checkpoint
from torchvision.ops import nms
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from .checkpoints import REFERENCE, copy_reference, edit_json
from .small_bart import PAD, START, bart, encoder_states, ended, oracle, ours

ROOT = Path(__file__).parents[1]
PICTURES = [Image.open(path).convert("RGB") for path in sorted((ROOT / "examples").glob("*.png"))[:3]]
SIZE = (1000, 1000)


def locations(*bins: int) -> str:
    return "".join(f"<loc_{number}>" for number in bins)


def demo(dtype: str = "fp32", **options: Any) -> Captioner:
    return Captioner("demo", device="cpu", dtype=dtype, feature_cache=FeatureCache(), **options)


# Scores of tokens


@pytest.mark.parametrize("beams", [1, 3, 5])
@pytest.mark.parametrize("settings", [{}, {"no_repeat_ngram_size": 3, "forced_bos_token_id": 0}], ids=str)
def test_token_scores_are_the_transition_scores(beams: int, settings: dict[str, Any]) -> None:
    config = GenerationConfig(
        **settings, num_beams=beams, do_sample=False, max_new_tokens=25, forced_eos_token_id=2,
        eos_token_id=2, pad_token_id=PAD, decoder_start_token_id=START, return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    model = bart(7, 60).double()  # so that what differs is not the order in which a processor adds up
    states, mask = encoder_states(4, 5)
    states = states.double()
    for found, (ids, score, right) in zip(
        ours(Decoder(model), states, mask, config), oracle(model, states, mask, config), strict=True
    ):
        assert found.token_ids == ended(ids, {2})
        assert found.token_scores == pytest.approx(right[: len(found.token_ids) - 1], abs=1e-5)
        assert score is None or found.sequence_score == pytest.approx(score, abs=1e-5)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[TextProcessor]:
    """Without and with the removal of white space that some checkpoints ask for."""
    cleaned = copy_reference(tmp_path_factory.mktemp("tokenizer"))
    edit_json(
        cleaned / "tokenizer_config.json", lambda settings: settings.update(clean_up_tokenization_spaces=True)
    )
    return [TextProcessor(folder, 60_000, (0, 1, 2)) for folder in (REFERENCE, cleaned)]


PIECES = st.sampled_from(
    [
        "cat",
        " .",
        " ' ",
        " n't",
        "雪だるま",
        "🦊",
        "é",
        " ",
        "\n",
        "<loc_7>",
        "<loc_990>",
        "<poly>",
        "<",
        "loc_7",
    ]
)


@given(pieces=st.lists(PIECES | st.text(max_size=3), max_size=12), lost=st.sampled_from([0, 3, 10**6]))
@settings(deadline=None, max_examples=200)
def test_every_token_has_its_characters(
    tokenizers: list[TextProcessor], pieces: list[str], lost: int
) -> None:
    for text_processor in tokenizers:
        ids = text_processor.encode("".join(pieces))
        ids = [token for place, token in enumerate(ids) if place != lost]  # half a character may be left
        text, spans = text_processor.decode(ids), text_processor.spans(ids)
        assert len(spans) == len(ids)
        assert "".join(text[start:end] for start, end in spans) == text
        assert all(start <= end for start, end in spans)
        for token, (start, end) in zip(ids, spans, strict=True):
            written = text_processor.tokenizer.id_to_token(token)
            if written in FLORENCE2_TOKENS:
                assert text[start:end] == written
            if token in (0, 1, 2):
                assert start == end


# Scores of regions


def scored(name: str, *pieces: tuple[str, float]) -> list[tuple[str, float | None]]:
    """Labels and scores of an answer whose tokens, as they are written, have these probabilities."""
    spans, at = [], 0
    for text, _ in pieces:
        spans.append((at, at + len(text)))
        at += len(text)
    tokens = TokenScores(spans, [math.log(chance) for _, chance in pieces])
    result = parse_answer(name, "".join(text for text, _ in pieces), SIZE, token_scores=tokens)
    assert isinstance(result, Regions)
    return [(region.label, region.score) for region in result.regions]


def places(*chances: float) -> list[tuple[str, float]]:
    return [(f"<loc_{100 + place}>", chance) for place, chance in enumerate(chances)]


@pytest.mark.parametrize(
    "name", ["OD", "DENSE_REGION_CAPTION", "CAPTION_TO_PHRASE_GROUNDING", "OPEN_VOCABULARY_DETECTION"]
)
def test_a_box_has_the_mean_of_its_location_tokens(name: str) -> None:
    answer = [("snow", 0.01), ("man", 0.02), *places(0.5, 0.5, 0.5, 0.5), *places(0.9, 0.1, 0.9, 0.1)]
    found = scored(name, *answer, (" fox", 0.3), *places(0.25, 1, 1, 1))
    assert found == [
        ("snowman", pytest.approx(0.5)), ("snowman", pytest.approx(0.3)), ("fox", pytest.approx(0.25**0.25)),
    ]  # fmt: skip


def test_proposals_and_texts() -> None:
    boxes = scored("REGION_PROPOSAL", *places(0.5, 0.5, 0.5, 0.5), *places(0.25, 1, 1, 1))
    assert boxes == [("", pytest.approx(0.5)), ("", pytest.approx(0.25**0.25))]
    (quad,) = scored("OCR_WITH_REGION", ("EXIT", 0.1), *places(0.25, 1, 1, 1, 1, 1, 1, 0.25))
    assert quad == ("EXIT", pytest.approx(0.25**0.25))


def test_outlines_have_the_score_of_their_label_and_without_one_of_their_points() -> None:
    outline = [("<poly>", 0.1), *places(0.5, 0.5, 0.5, 0.5, 0.5, 0.5), ("</poly>", 0.1)]
    labelled = scored("OPEN_VOCABULARY_DETECTION", ("red", 0.4), (" fox", 0.9), *outline)
    assert labelled == [("red fox", pytest.approx(0.6))]
    assert scored("REFERRING_EXPRESSION_SEGMENTATION", *outline) == [("", pytest.approx(0.5))]


def test_characters_of_several_tokens() -> None:
    """A coordinate may be written in letters, and a token may stand for a part of a character."""
    letters = [("<loc_", 0.5), ("1", 0.5), (">", 0.5), *places(0.5, 0.5, 0.5)]
    assert scored("OD", ("é", 0.1), ("", 0.1), *letters) == [("é", pytest.approx(0.5))]
    tokens = TokenScores([(0, 1), (1, 1), (1, 2), (2, 2)], [math.log(x) for x in (0.1, 0.2, 0.3, 0.4)])
    assert tokens.score([(0, 2)]) == pytest.approx((0.1 * 0.2 * 0.3) ** (1 / 3))
    with pytest.raises(ValueError, match="no token stands there"):
        tokens.score([(5, 6)])
    with pytest.raises(ValueError, match="1 tokens came with 0"):
        TokenScores([(0, 1)], [])


def published_scores(picture: Image.Image, beams: int) -> list[float]:
    """Of the demo's detections, as the model card computes them: by transformers' search."""
    folder = find_checkpoint("demo")
    assert folder is not None
    model = Florence2Model.load(folder, device="cpu", dtype="fp32")
    features = model.encode_images(model.preprocess([picture]))
    ids = torch.tensor([model.text.encode(INSTRUCTIONS["OD"].prompt)])
    own = GenerationOptions(num_beams=beams)
    config = generation_config(model.config.generation, own, model.config.text.max_position_embeddings)
    config.return_dict_in_generate = config.output_scores = True
    bart = model.network.language_model
    with torch.inference_mode():
        states, mask = model.network.encode(features, ids, torch.ones_like(ids))
        output = bart.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            generation_config=config,
        )
        (transitions,) = bart.compute_transition_scores(
            output.sequences,
            output.scores,
            getattr(output, "beam_indices", None),
            normalize_logits=beams == 1,
        )
    tokens = [model.text.tokenizer.id_to_token(token) for token in output.sequences[0, 1:].tolist()]
    likely = [
        value for token, value in zip(tokens, transitions.tolist(), strict=True) if token.startswith("<loc_")
    ]
    return [math.exp(sum(likely[first : first + 4]) / 4) for first in range(0, len(likely), 4)]


@pytest.mark.parametrize("beams", [1, 3])
def test_detections_have_the_published_score(beams: int) -> None:
    options = CaptionOptions(GenerationOptions(num_beams=beams), vision=VisionOptions(scores=True))
    (result,) = demo().caption(PICTURES[0], "OD", options)
    right = published_scores(PICTURES[0], beams)
    assert len(right) == 3
    assert [region.score for region in regions_of(result)] == pytest.approx(right, abs=1e-5)


def regions_of(result: Any, place: int = 0) -> Sequence[Region]:
    assert result.ok, result.error
    answer = result.results[place]
    assert isinstance(answer, Regions)
    return answer.regions


# Choosing


BINS = st.integers(0, 20)
BOXES = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), BINS, BINS, BINS, BINS)


@given(
    boxes=st.lists(st.tuples(BOXES, st.integers(0, 8), st.sampled_from("ab")), max_size=25),
    most=st.sampled_from([0.0, 0.25, 0.371, 0.5, 0.75, 1.0]),
)
@settings(deadline=None, max_examples=200)
def test_suppression_is_that_of_torchvision_label_by_label(
    boxes: list[tuple[tuple[int, int, int, int], int, str]], most: float
) -> None:
    regions = [Region(label, tuple(map(float, box)), score=score / 8) for box, score, label in boxes]
    kept = set()
    for label in "ab":
        own = [place for place, region in enumerate(regions) if region.label == label]
        corners = torch.tensor([regions[place].box for place in own]).reshape(-1, 4)
        chosen = nms(corners, torch.tensor([regions[place].score for place in own]), most)
        kept |= {own[place] for place in chosen.tolist()}
    assert best_regions(regions, VisionOptions(nms_iou=most)) == tuple(
        regions[place] for place in sorted(kept)
    )


def region(score: float | None, label: str = "a", left: float = 0) -> Region:
    return Region(label, (left, 0, left + 10, 10), score=score)


def test_threshold_then_suppression_then_the_best() -> None:
    low, twice, sure, far, other = (
        region(0.1), region(0.5), region(0.9, left=1), region(0.6, left=50), region(0.5, "b"),
    )  # fmt: skip
    found = [low, twice, sure, far, other]
    assert best_regions(found, VisionOptions(scores=True)) == tuple(found)
    assert best_regions(found, VisionOptions(threshold=0.5)) == (twice, sure, far, other)
    assert best_regions(found, VisionOptions(nms_iou=0.5)) == (sure, far, other)
    assert best_regions(found, VisionOptions(top_k=2)) == (sure, far)
    assert best_regions(found, VisionOptions(top_k=3)) == (twice, sure, far)  # of equals the first
    assert best_regions(found, VisionOptions(threshold=0.5, nms_iou=0.5, top_k=3)) == (sure, far, other)
    assert best_regions(found, VisionOptions(threshold=0.95)) == ()
    assert best_regions([], VisionOptions(threshold=0.5, nms_iou=0.5, top_k=3)) == ()
    with pytest.raises(ValueError, match="'a' has no score"):
        best_regions([region(None)], VisionOptions(threshold=0.0))
    with pytest.raises(ValueError, match="no box to compare"):
        best_regions([Region("a", score=0.5)], VisionOptions(nms_iou=0.5))


def test_overlap_of_boxes() -> None:
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 10, 10), (10, 0, 15, 10)) == 0
    assert box_iou((3, 3, 3, 3), (3, 3, 3, 3)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold is 1.5; it takes a number from 0 to 1"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"nms_iou": -0.1}, "nms_iou is -0.1"),
        ({"nms_iou": True}, "nms_iou is True"),
        ({"top_k": 0}, "top_k is 0; it takes a whole number of at least 1"),
        ({"top_k": 2.5}, "top_k is 2.5"),
    ],
)
def test_options_are_checked_when_they_are_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionOptions(**options)


def test_what_shapes_the_regions_shapes_the_answers_of_a_run() -> None:
    def digest(**options: Any) -> str:
        return settings_digest(demo(), ["OD"], CaptionOptions(vision=VisionOptions(**options)))

    plain, scores = settings_digest(demo(), ["OD"], CaptionOptions()), digest(scores=True)
    assert digest() == plain
    assert digest(threshold=0.5) == digest(threshold=0.5, scores=True)
    others = [digest(threshold=0.5), digest(threshold=0.6), digest(top_k=3), digest(nms_iou=0.5)]
    assert len({plain, scores, *others}) == 6


# The whole way


@pytest.mark.parametrize("generation", [{}, {"num_beams": 1}, {"do_sample": True, "seed": 5}], ids=str)
def test_scores_change_no_answer_and_do_not_depend_on_the_batch(generation: dict[str, Any]) -> None:
    names = ["OD", "GENERATE_TAGS"]
    own = GenerationOptions(**generation, max_new_tokens=40)
    asked = CaptionOptions(own, vision=VisionOptions(scores=True))
    together = demo().caption(PICTURES, names, asked)
    plain = demo().caption(PICTURES, names, CaptionOptions(own))
    alone = demo(batch_size=1).caption(PICTURES, names, asked)
    for result, bare, one in zip(together, plain, alone, strict=True):
        assert [answer.raw for answer in result.results] == [answer.raw for answer in bare.results]
        assert all(found.score is None for found in regions_of(bare))
        scores = [found.score for found in regions_of(result)]
        assert all(score is not None and 0 < score <= 1 for score in scores)
        assert scores == pytest.approx([found.score for found in regions_of(one)], abs=1e-5)
        written = json.loads(json.dumps(result.results[0].to_dict()))
        assert [found["score"] for found in written["regions"]] == scores
        assert "regions" not in result.results[1].to_dict()


@pytest.mark.parametrize(
    "dtype",
    [
        "bf16",
        pytest.param("int8", marks=pytest.mark.skipif(not has_int8(), reason="no int8 products (VNNI)")),
    ],
)
def test_scores_in_other_number_formats(dtype: str) -> None:
    options = CaptionOptions(vision=VisionOptions(scores=True))
    exact, other = (regions_of(demo(kind).caption(PICTURES[0], "OD", options)[0]) for kind in ("fp32", dtype))
    assert [found.label for found in other] == [found.label for found in exact]
    scores = [found.score for found in exact]
    assert [found.score for found in other] == pytest.approx(scores, abs=0.1)


def test_the_best_are_kept_and_told() -> None:
    def ask(**options: Any) -> Regions:
        (result,) = demo().caption(PICTURES[0], "OD", CaptionOptions(vision=VisionOptions(**options)))
        answer = result.results[0]
        assert isinstance(answer, Regions)
        return answer

    every = ask(scores=True)
    best = max(every.regions, key=lambda found: found.score or 0)
    assert len(every.regions) == 3
    kept = ask(top_k=1)
    assert (kept.regions, kept.text, kept.raw) == ((best,), best.label, every.raw)
    assert ask(threshold=best.score).regions == (best,)
    none = ask(threshold=1.0)
    assert (none.regions, none.text, none.raw) == ((), "", every.raw)


def test_regions_that_were_asked_about_and_left_out_are_not_told() -> None:
    outline = "<poly>" + locations(1, 2, 3, 4, 5, 6) + "</poly>"
    spans = [(0, 3), *((place, place + 1) for place in range(3, 3 + len(outline)))]
    tokens = TokenScores(spans, [-1.0] * len(spans))
    instruction, vision = INSTRUCTIONS["REGION_TO_SEGMENTATION"], VisionOptions(threshold=0.5)
    answers = [
        parse_answer(instruction, "cat" + outline, SIZE, token_scores=tokens, vision=vision) for _ in range(2)
    ]
    joined = join_region_answers(instruction, answers, [(0, 0, 9, 9)] * 2)
    assert isinstance(joined, Regions)
    assert (joined.regions, joined.text) == ((), "")


def test_scores_of_what_has_no_regions_are_refused_before_the_first_picture() -> None:
    options = CaptionOptions(vision=VisionOptions(threshold=0.5))
    with pytest.raises(InstructionError, match=r"CAPTION, OCR finds no regions.*OD, DENSE_REGION_CAPTION"):
        demo().stream(iter(PICTURES), ["CAPTION", "OCR"], options)
