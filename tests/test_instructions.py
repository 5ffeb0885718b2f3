"""The table of instructions: names, prompts, inputs."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgen.captioning import (
    INSTRUCTIONS,
    AnswerKind,
    InstructionError,
    find_instruction,
    find_instructions,
)
from promptgen.captioning.instructions import FAMILY_NAMES, check_text_input, instructions_of
from promptgen.captioning.prompts import build_prompt, check_language
from promptgen.models_cache import catalogue

PUBLISHED = (
    "GENERATE_TAGS CAPTION DETAILED_CAPTION MORE_DETAILED_CAPTION MIXED_CAPTION MIXED_CAPTION_PLUS"
    " ANALYZE OCR"
    " OCR_WITH_REGION OD DENSE_REGION_CAPTION REGION_PROPOSAL CAPTION_TO_PHRASE_GROUNDING"
    " REFERRING_EXPRESSION_SEGMENTATION REGION_TO_SEGMENTATION OPEN_VOCABULARY_DETECTION REGION_TO_CATEGORY"
    " REGION_TO_DESCRIPTION REGION_TO_OCR"
)
REFERENCE = Path(__file__).parent / "data" / "florence2-tiny-original" / "expected.json"


PALIGEMMAS_OWN = {"LONG_PROMPT", "DESCRIBE", "VQA"}


def test_every_published_instruction_is_there_and_those_beyond() -> None:
    assert set(INSTRUCTIONS) == {*PUBLISHED.split(), "DOCVQA", *PALIGEMMAS_OWN, "PROMPT"}


def test_florence2_has_what_was_published_for_it() -> None:
    assert set(INSTRUCTIONS) - PALIGEMMAS_OWN == set(instructions_of("florence2"))
    for name in instructions_of("florence2"):
        assert INSTRUCTIONS[name].for_family("florence2") is INSTRUCTIONS[name]


@pytest.mark.parametrize(
    ("name", "text", "language", "prompt", "answer"),
    [
        ("LONG_PROMPT", None, None, "caption en", AnswerKind.MIXED),
        ("LONG_PROMPT", None, "de", "caption en", AnswerKind.MIXED),  # was trained in English alone
        ("CAPTION", None, None, "caption en", AnswerKind.CAPTION),
        ("CAPTION", None, "de", "caption de", AnswerKind.CAPTION),
        ("DESCRIBE", None, " ZH ", "describe zh", AnswerKind.CAPTION),
        ("OCR", None, "de", "ocr", AnswerKind.OCR),
        ("VQA", "  how many\n  cats? ", None, "answer en how many cats?", AnswerKind.TEXT),
        ("VQA", "what is {language}?", "fr", "answer fr what is {language}?", AnswerKind.TEXT),
        ("DETECT", "cat; big  dog", None, "detect cat ; big dog", AnswerKind.DETECTIONS),
        ("DETECT", "cat, dog", None, "detect cat ; dog", AnswerKind.DETECTIONS),
        ("DETECT", "cat\r\ndog\n", None, "detect cat ; dog", AnswerKind.DETECTIONS),
        ("DETECT", "red, white flag; dog;", None, "detect red, white flag ; dog", AnswerKind.DETECTIONS),
        ("DETECT", " cat ; dog", None, "detect cat ; dog", AnswerKind.DETECTIONS),
        ("PROMPT", " segment cat\nnow ", "de", "segment cat\nnow", AnswerKind.TEXT),
    ],
)
def test_prompts_of_paligemma(
    name: str, text: str | None, language: str | None, prompt: str, answer: AnswerKind
) -> None:
    instruction = find_instruction(name).for_family("paligemma")
    assert build_prompt(instruction, text, language=language) == prompt
    assert instruction.answer is answer
    assert instruction.for_family("paligemma") is instruction


def test_a_family_has_its_own_prompt_and_gives_back_the_other() -> None:
    detect = find_instruction("OPEN_VOCABULARY_DETECTION")
    theirs = detect.for_family("paligemma")
    assert (detect.prompt, theirs.prompt) == ("Locate {input} in the image.", "detect {input}")
    assert build_prompt(detect, "cat; dog") == "Locate cat; dog in the image."
    assert set(detect.families) == set(theirs.families) == {"florence2", "paligemma"}
    assert theirs.for_family("florence2") == detect
    hash(theirs)


@pytest.mark.parametrize(
    ("name", "family", "words"),
    [
        ("OD", "paligemma", ["OD is for Florence-2", "OPEN_VOCABULARY_DETECTION, with what you look for"]),
        ("OCR_WITH_REGION", "paligemma", ["Ask for OCR.", "They know CAPTION, LONG_PROMPT"]),
        ("MIXED_CAPTION", "paligemma", ["Ask for LONG_PROMPT"]),
        ("REGION_TO_OCR", "paligemma", ["They know"]),
        ("LONG_PROMPT", "florence2", ["LONG_PROMPT is for PaliGemma; Florence-2", "Ask for MIXED_CAPTION"]),
        ("VQA", "florence2", ["Ask for DOCVQA.", "GENERATE_TAGS"]),
    ],
)
def test_what_a_family_has_not_is_an_error_that_names_what_it_has(
    name: str, family: str, words: list[str]
) -> None:
    with pytest.raises(InstructionError) as caught:
        find_instruction(name).for_family(family)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", list(INSTRUCTIONS))
@pytest.mark.parametrize("family", list(FAMILY_NAMES))
def test_a_prompt_has_a_place_for_what_it_needs_in_every_family(name: str, family: str) -> None:
    if family not in INSTRUCTIONS[name].families:
        return
    instruction = INSTRUCTIONS[name].for_family(family)
    assert instruction.needs_input == ("{input}" in instruction.prompt)
    text = "<loc_1><loc_2><loc_3><loc_4>" if instruction.input == "region" else "a thing"
    prompt = build_prompt(instruction, text)
    assert "{" not in prompt
    assert not instruction.needs_input or text in prompt


def test_languages_are_checked_before_any_image() -> None:
    caption, detect = (find_instruction(name).for_family("paligemma") for name in ("CAPTION", "DETECT"))
    for code in (None, "en", "de", "fil", "zh-TW", " PT "):
        check_language([caption, detect], code)
    check_language([detect], "en")
    check_language([find_instruction("CAPTION")], "EN")
    for wrong in ("german", "d", "", "e n", "caption"):
        with pytest.raises(InstructionError, match="no code; write two or three letters"):
            check_language([caption], wrong)
    with pytest.raises(InstructionError, match=r"'de' has no use: OPEN_VOCABULARY_DETECTION of PaliGemma"):
        check_language([detect], "de")
    with pytest.raises(InstructionError, match=r"CAPTION of Florence-2.*PaliGemma.*CAPTION, DESCRIBE, VQA"):
        check_language([find_instruction("CAPTION")], "de")
    check_language([find_instruction("CAPTION")], "de", {"CAPTION": "caption {language}"})
    with pytest.raises(InstructionError, match="has no use"):
        check_language([caption], "de", {"CAPTION": "caption en"})


def test_a_question_of_nothing_but_separators_is_missing() -> None:
    with pytest.raises(InstructionError, match="needs a text input"):
        build_prompt(find_instruction("DETECT").for_family("paligemma"), " ; ,\n ; ")


def test_who_takes_a_text_is_told_of_the_family_at_hand() -> None:
    caption = find_instruction("DESCRIBE")
    with pytest.raises(InstructionError, match="OPEN_VOCABULARY_DETECTION, VQA, PROMPT") as caught:
        check_text_input([caption], "a cat")
    assert "DOCVQA" not in str(caught.value)


def test_prompts_are_those_of_the_reference() -> None:
    for name, prompt in json.loads(REFERENCE.read_text(encoding="utf-8"))["prompts"].items():
        assert build_prompt(find_instruction(name)) == prompt


def test_prompts_are_those_of_the_published_processor() -> None:
    processing = pytest.importorskip("transformers.models.florence2.processing_florence2")
    processor = object.__new__(processing.Florence2Processor)
    with contextlib.suppress(AttributeError):  # it makes its tables, then asks for things that are not there
        processing.Florence2Processor.__init__(processor, None, None)
    if not hasattr(processor, "task_prompts_with_input"):
        pytest.skip("this transformers keeps its prompts elsewhere")
    published = {**processor.task_prompts_without_inputs, **processor.task_prompts_with_input}
    assert len(published) == 15
    for task, prompt in published.items():
        instruction = find_instruction(task)
        assert instruction.prompt == prompt
        assert instruction.needs_input == ("{input}" in prompt)


def test_promptgen_instructions_go_to_the_tokenizer_in_brackets() -> None:
    for name in ("GENERATE_TAGS", "MIXED_CAPTION", "MIXED_CAPTION_PLUS", "ANALYZE"):
        assert build_prompt(INSTRUCTIONS[name]) == f"<{name}>"


@pytest.mark.parametrize("name", list(INSTRUCTIONS))
def test_any_case_with_or_without_brackets(name: str) -> None:
    instruction = INSTRUCTIONS[name]
    assert instruction.name == name
    for spelling in (
        name.lower(),
        f"<{name}>",
        f" <{name.title()}> ",
        name.replace("_", "-"),
        name.replace("_", " "),
    ):
        assert find_instruction(spelling) is instruction


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("MIX_CAPTION", "MIXED_CAPTION"),
        ("<MIX_CAPTION_PLUS>", "MIXED_CAPTION_PLUS"),
        ("GENERATE_PROMPT", "GENERATE_TAGS"),
        ("prompt_gen_tags", "GENERATE_TAGS"),
        ("prompt_gen_mixed_caption_plus", "MIXED_CAPTION_PLUS"),
        ("extra_mixed", "MIXED_CAPTION_PLUS"),
        ("simple", "CAPTION"),
        ("<DocVQA>", "DOCVQA"),
        ("region_caption", "OD"),
    ],
)
def test_aliases(alias: str, name: str) -> None:
    assert find_instruction(alias).name == name


def test_no_name_means_two_things() -> None:
    names = [name for item in INSTRUCTIONS.values() for name in (item.name, *item.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.upper() for name in names)


@given(st.text())
@settings(deadline=None)
def test_any_text_is_a_known_name_or_a_clean_error(name: str) -> None:
    try:
        found = find_instruction(name)
    except InstructionError as error:
        missing = [known for known in INSTRUCTIONS if known not in str(error)]
    else:
        missing = [found.name] if found.name not in INSTRUCTIONS else []
    assert not missing


def test_an_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(
        InstructionError, match=r"'MIXED_CAPTOIN'.*Did you mean MIXED_CAPTION\?.*GENERATE_TAGS"
    ):
        find_instruction("MIXED_CAPTOIN")
    with pytest.raises(InstructionError, match="unknown instruction 'Describe the cat'"):
        find_instruction("Describe the cat")


def test_several_names() -> None:
    both = find_instructions("caption, <generate_tags>,")
    assert [item.name for item in both] == ["CAPTION", "GENERATE_TAGS"]
    assert find_instructions(["caption", "GENERATE_TAGS"]) == both
    for nothing in ("", " , ", []):
        with pytest.raises(InstructionError, match="no instruction given"):
            find_instructions(nothing)


def test_text_goes_to_its_place_as_it_is() -> None:
    grounding = INSTRUCTIONS["CAPTION_TO_PHRASE_GROUNDING"]
    assert build_prompt(grounding, " a {red} car \n") == "Locate the phrases in the caption: a {red} car"
    assert build_prompt(INSTRUCTIONS["DOCVQA"], "How much?") == "<DocVQA>How much?"
    assert build_prompt(INSTRUCTIONS["CAPTION"], "ignored") == "What does the image describe?"


def test_a_region_in_numbers_becomes_tokens() -> None:
    category = INSTRUCTIONS["REGION_TO_CATEGORY"]
    wanted = "What is the region <loc_100><loc_250><loc_500><loc_999>?"
    assert build_prompt(category, "64, 120, 320, 480", image_size=(640, 480)) == wanted
    assert build_prompt(category, "0.1,0.25,0.5,1") == wanted
    assert build_prompt(category, "<loc_100><loc_250><loc_500><loc_999>") == wanted


def test_a_missing_input_says_what_is_needed() -> None:
    with pytest.raises(InstructionError, match="OPEN_VOCABULARY_DETECTION needs a text input"):
        build_prompt(INSTRUCTIONS["OPEN_VOCABULARY_DETECTION"], "  ")
    with pytest.raises(InstructionError, match="REGION_TO_OCR needs a region: a box x0,y0,x1,y1"):
        build_prompt(INSTRUCTIONS["REGION_TO_OCR"])


def test_a_checkpoint_may_have_a_prompt_of_its_own() -> None:
    own = {"MIXED_CAPTION": "<MIX_CAPTION>", "DOCVQA": "no place for it"}
    assert build_prompt(INSTRUCTIONS["MIXED_CAPTION"], None, own) == "<MIX_CAPTION>"
    assert build_prompt(INSTRUCTIONS["CAPTION"], None, own) == "What does the image describe?"
    with pytest.raises(InstructionError, match=r"catalogue entry.*no \{input\}"):
        build_prompt(INSTRUCTIONS["DOCVQA"], "Why?", own)


def test_inputs_are_checked_before_any_image() -> None:
    tags, od, ocr = find_instructions("GENERATE_TAGS,OPEN_VOCABULARY_DETECTION,REGION_TO_OCR")
    check_text_input([tags], None)
    check_text_input([tags, od], "a cat")
    check_text_input([ocr], "10,20,3000,4000")  # whether it is in the image is not known yet
    with pytest.raises(InstructionError, match="needs a text input"):
        check_text_input([tags, od], None)
    with pytest.raises(InstructionError, match=r"'a cat' has no use: GENERATE_TAGS take none.*DOCVQA"):
        check_text_input([tags], "a cat")
    with pytest.raises(InstructionError, match="cannot be read"):
        check_text_input([ocr], "a cat")


def test_every_answer_kind_is_used_and_described() -> None:
    kinds = {item.for_family(family).answer for item in INSTRUCTIONS.values() for family in item.families}
    assert kinds == set(AnswerKind)
    for item in INSTRUCTIONS.values():
        assert item.summary.endswith(".")
        assert item.known_by


def test_the_catalogue_of_checkpoints_names_known_instructions_only() -> None:
    for entry in catalogue().values():
        assert set(entry.instructions) <= set(instructions_of(entry.family)), entry.name
        assert set(entry.prompts) <= set(INSTRUCTIONS), entry.name
