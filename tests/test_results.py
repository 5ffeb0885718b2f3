"""From a decoded answer to a typed result, for every instruction."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgen.captioning import (
    INSTRUCTIONS,
    Analysis,
    AnalysisResult,
    AnswerKind,
    Caption,
    InstructionError,
    Mixed,
    OcrText,
    Regions,
    Result,
    TagOptions,
    Tags,
    parse_answer,
)

SIZE = (1000, 1000)
EVERYTHING = TagOptions(
    prefix="my_char",
    suffix="high quality",
    exclude="solo",
    replace="cat:dog",
    underscores="spaces",
    escape_parentheses=True,
    deduplicate=True,
)
TYPES = {
    AnswerKind.CAPTION: Caption,
    AnswerKind.TEXT: Caption,
    AnswerKind.TAGS: Tags,
    AnswerKind.MIXED: Mixed,
    AnswerKind.ANALYSIS: AnalysisResult,
    AnswerKind.OCR: OcrText,
}


def test_caption() -> None:
    result = parse_answer("CAPTION", " A cat, solo.\n", SIZE)
    assert result == Caption(instruction="CAPTION", raw=" A cat, solo.\n", text="A cat, solo.")
    assert parse_answer("caption", " A cat, solo.\n", SIZE, tag_options=EVERYTHING).text == (
        "my_char, A dog, solo. high quality"
    )
    assert result.to_dict() == {
        "instruction": "CAPTION",
        "text": "A cat, solo.",
        "raw": " A cat, solo.\n",
        "truncated": False,
    }


def test_tags() -> None:
    raw = "1girl,solo, blue_sky,  cat, (a)"
    result = parse_answer("<GENERATE_TAGS>", raw, SIZE, truncated=True)
    assert isinstance(result, Tags)
    assert result.text == raw  # untouched as long as nothing is asked for
    assert result.tags == ("1girl", "solo", "blue_sky", "cat", "(a)")
    assert result.to_dict()["tags"] == ["1girl", "solo", "blue_sky", "cat", "(a)"]
    assert result.truncated
    edited = parse_answer("GENERATE_TAGS", raw, SIZE, tag_options=EVERYTHING)
    assert edited.text == r"my_char, 1girl, blue sky, dog, \(a\), high quality"
    assert edited.raw == raw


def test_mixed() -> None:
    raw = "A cat_lady and a cat.\n\n1girl, solo, cat\n\ngender: female, text: NA"
    result = parse_answer("MIXED_CAPTION_PLUS", raw, SIZE)
    assert isinstance(result, Mixed)
    assert result.text == raw
    assert result.prose == "A cat_lady and a cat."
    assert result.tags == ("1girl", "solo", "cat")
    assert result.analysis == Analysis(({"gender": "female", "text": "NA"},))
    assert list(result.to_dict()) == ["instruction", "text", "prose", "tags", "analysis", "raw", "truncated"]

    edited = parse_answer("MIXED_CAPTION_PLUS", raw, SIZE, tag_options=EVERYTHING)
    assert isinstance(edited, Mixed)
    assert edited.prose == "my_char, A dog_lady and a dog. high quality"
    assert edited.tags == ("my_char", "1girl", "dog", "high quality")
    assert edited.text == (
        "my_char, A dog_lady and a dog.\n\n1girl, dog, high quality\n\ngender: female, text: NA"
    )


@pytest.mark.parametrize(
    ("raw", "text", "prose", "tags"),
    [
        ("A cat.", "p, A cat. s", "p, A cat. s", ()),
        ("1girl, hat", "p, 1girl, hat, s", "", ("p", "1girl", "hat", "s")),
        ("", "p, s", "", ()),
        ("1girl, hat.", "p, 1girl, hat, s", "", ("p", "1girl", "hat", "s")),
    ],
)
def test_prefix_and_suffix_of_a_mixed_answer_with_a_part_missing(
    raw: str, text: str, prose: str, tags: tuple[str, ...]
) -> None:
    result = parse_answer("MIXED_CAPTION", raw, SIZE, tag_options=TagOptions(prefix="p", suffix="s"))
    assert isinstance(result, Mixed)
    assert (result.text, result.prose, result.tags, result.analysis) == (text, prose, tags, None)
    assert "analysis" not in result.to_dict()


@pytest.mark.parametrize("last", ["saber (fate)", ":)", "hat"])
def test_a_suffix_is_a_tag_of_its_own_in_a_mixed_text_too(last: str) -> None:
    options = TagOptions(prefix="(p)", suffix="best, s", deduplicate=True)
    result = parse_answer("MIXED_CAPTION", f"A cat.\n1girl, best, {last}", SIZE, tag_options=options)
    assert isinstance(result, Mixed)
    assert result.text == f"(p) A cat.\n\n1girl, best, {last}, s"
    assert result.tags == ("(p)", "1girl", "best", last, "s")
    result = parse_answer("MIXED_CAPTION", f"1girl, {last}", SIZE, tag_options=options)
    assert result.text == f"(p), 1girl, {last}, best, s"


def test_a_full_stop_after_the_tags_of_a_mixed_answer_is_no_part_of_the_last() -> None:
    result = parse_answer("MIXED_CAPTION", "A cat.\ncat, hat, ...", SIZE)
    assert isinstance(result, Mixed)
    assert result.tags == ("cat", "hat", "...")
    result = parse_answer("MIXED_CAPTION", "A cat.\ncat, red hat.", SIZE)
    assert isinstance(result, Mixed)
    assert result.tags == ("cat", "red hat")


@pytest.mark.parametrize("instruction", ["GENERATE_TAGS", "MIXED_CAPTION"])
@pytest.mark.parametrize("last", ["red hat", r"saber \(fate\)", "saber (fate)", "2024"])
def test_a_full_stop_after_tags_of_either_kind(instruction: str, last: str) -> None:
    result = parse_answer(instruction, f"1girl, solo, {last}.", SIZE)
    assert isinstance(result, (Tags, Mixed))
    assert result.tags == ("1girl", "solo", last)


def test_analysis_is_never_edited() -> None:
    raw = "gender: cat, action: solo; gender: male"
    result = parse_answer("ANALYZE", raw, SIZE, tag_options=EVERYTHING)
    assert isinstance(result, AnalysisResult)
    assert result.text == raw
    assert result.to_dict()["analysis"] == {
        "subjects": [{"gender": "cat", "action": "solo"}, {"gender": "male"}]
    }


def test_ocr_keeps_its_lines_and_is_never_edited() -> None:
    result = parse_answer("OCR", "\nCAT\n\nsolo cat\n", SIZE, tag_options=EVERYTHING)
    assert isinstance(result, OcrText)
    assert result.text == "CAT\n\nsolo cat"
    assert result.lines == ["CAT", "solo cat"]


def test_answers_about_regions_lose_their_location_in_the_text_only() -> None:
    raw = "cat<loc_1><loc_2><loc_3><loc_4>"
    result = parse_answer("REGION_TO_CATEGORY", raw, SIZE, tag_options=EVERYTHING)
    assert (result.text, result.raw) == ("cat", raw)
    assert parse_answer("REGION_TO_OCR", raw, SIZE).text == "cat"


@pytest.mark.parametrize(
    ("instruction", "raw", "text"),
    [
        ("OD", "cat<loc_1><loc_2><loc_3><loc_4><loc_1><loc_2><loc_3><loc_4>dog<loc_1><loc_2><loc_3><loc_4>",
         "cat, cat, dog"),
        ("OCR_WITH_REGION", "a" + "<loc_1>" * 8 + "b" + "<loc_2>" * 8, "a\nb"),
        ("REGION_PROPOSAL", "<loc_1><loc_2><loc_3><loc_4>" * 3, "3 regions"),
        ("REFERRING_EXPRESSION_SEGMENTATION", "<loc_1><loc_2>" * 3, "1 region"),
        ("OD", "nothing at all<loc_1>", "nothing at all"),
        ("OD", "", ""),
    ],
)  # fmt: skip
def test_regions_for_people(instruction: str, raw: str, text: str) -> None:
    result = parse_answer(instruction, raw, SIZE, tag_options=EVERYTHING)
    assert isinstance(result, Regions)
    assert result.text == text
    assert [region["label"] for region in result.to_dict()["regions"]] == [
        item.label for item in result.regions
    ]


def test_an_unknown_instruction() -> None:
    with pytest.raises(InstructionError, match="unknown instruction 'X'"):
        parse_answer("X", "", SIZE)


ANSWERS = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            [
                "A cat. ",
                "1girl, solo",
                "\n",
                "gender: male",
                "; ",
                ", ",
                "<loc_5>",
                "<loc_1000>",
                "<poly>",
                "<sep>",
                "(",
                ":",
            ]
        )
    ).map("".join),
)


@given(
    ANSWERS,
    st.sampled_from(list(INSTRUCTIONS)),
    st.sampled_from([TagOptions(), EVERYTHING]),
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.booleans(),
)
@settings(deadline=None, max_examples=500)
def test_any_answer_to_anything_is_a_result(
    raw: str, name: str, options: TagOptions, size: tuple[int, int], truncated: bool
) -> None:
    result = parse_answer(name, raw, size, truncated=truncated, tag_options=options)
    assert type(result) is TYPES.get(INSTRUCTIONS[name].answer, Regions)
    assert (result.instruction, result.raw, result.truncated) == (name, raw, truncated)
    fields = result.to_dict()
    assert json.loads(json.dumps(fields)) == fields
    assert {"instruction", "text", "raw", "truncated"} <= set(fields)
    if options == TagOptions() and type(result) in (Caption, Tags, Mixed, AnalysisResult) and "<" not in raw:
        assert result.text == raw.strip()
    assert pickle.loads(pickle.dumps(result)) == result


def test_results_cannot_be_changed() -> None:
    result: Result = parse_answer("CAPTION", "a", SIZE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.text = "b"  # type: ignore[misc]
