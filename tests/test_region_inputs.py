"""Regions that a user asks about: how they may be written, and one answer for each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from promptgen.captioning import Captioner, CaptionOptions, InstructionError, Region
from promptgen.captioning.instructions import INSTRUCTIONS, check_text_input
from promptgen.captioning.prompts import build_prompts
from promptgen.captioning.region_prompts import boxes_text, region_boxes, split_regions
from promptgen.captioning.regions import parse_regions, region_tokens
from promptgen.captioning.results import RegionCaption, RegionOcrText, Regions, parse_answer
from promptgen.florence2 import GenerationOptions

SIZE = (640, 480)
CATEGORY = INSTRUCTIONS["REGION_TO_CATEGORY"]
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("64,48,320,240", [(64, 48, 320, 240)]),
        ("64 48\n320 240", [(64, 48, 320, 240)]),
        ("64,48,320,240; 0.5,0.5,1,1", [(64, 48, 320, 240), (320, 240, 640, 480)]),
        ("64,48,320,240\n\n(0.5 0.5 1 1);\n", [(64, 48, 320, 240), (320, 240, 640, 480)]),
        ("0,0,1,1", [(0, 0, 640, 480)]),
        ("0,0,1,1px", [(0, 0, 1, 1)]),
        ("[0, 0, 1, 1 px]", [(0, 0, 1, 1)]),
        ("[[64, 48, 320, 240], [0.5, 0.5, 1, 1]]", [(64, 48, 320, 240), (320, 240, 640, 480)]),
        ("[1,2,3,4];[5,6,7,8]", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("<loc_0><loc_0><loc_999><loc_999>", [(0.32, 0.24, 639.68, 479.76)]),
    ],
)
def test_what_a_user_may_write(text: str, boxes: list[tuple[float, ...]]) -> None:
    found = region_boxes(text, SIZE)
    assert len(found) == len(boxes)
    assert all(box == pytest.approx(wanted) for box, wanted in zip(found, boxes, strict=True))


def test_an_earlier_result_is_read_back_bin_for_bin() -> None:
    raw = (
        "car<loc_52><loc_332><loc_932><loc_774>dot<loc_0><loc_0><loc_0><loc_0>"
        "corner<loc_998><loc_998><loc_999><loc_999>"
    )
    result = parse_answer("OD", raw, SIZE)
    assert isinstance(result, Regions)
    for text in (
        json.dumps(result.to_dict()),
        json.dumps([result.to_dict()]),
        json.dumps({"image": "a.png", "results": [result.to_dict()]}),
        json.dumps([region.to_dict() for region in result.regions]),
        boxes_text(region.box for region in result.regions if region.box),
    ):
        tokens = "".join(region_tokens(part, SIZE) for part in split_regions(text))
        assert tokens == "".join(re.findall("<loc_[0-9]+>", raw))


@pytest.mark.parametrize("size", [(1, 1), (2, 2)])
def test_boxes_of_a_result_are_pixels_even_of_the_smallest_picture(size: tuple[int, int]) -> None:
    (region,) = parse_regions("a<loc_100><loc_200><loc_300><loc_400>", INSTRUCTIONS["OD"].answer, size)
    text = json.dumps(region.to_dict())
    assert [region_tokens(part, size) for part in split_regions(text)] == [
        "<loc_100><loc_200><loc_300><loc_400>"
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read|no region"),
        (" ; ", "holds no region"),
        ("[]", "holds no region"),
        ('{"instruction": "OD", "text": "", "regions": []}', "holds no region"),
        ('{"tags": ["a"]}', "is JSON, but neither boxes"),
        ('[{"label": "a", "box": [1, 2, 3]}]', "has no box"),
        ('[{"label": "a", "box": null}]', "is JSON, but neither"),
        ("1,2,3,4; a cat", "the region 'a cat' cannot be read"),
        ("[[1,2,3]]", "is JSON, but neither"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, reason: str) -> None:
    with pytest.raises(InstructionError, match=reason):
        split_regions(text)
    with pytest.raises(InstructionError):
        check_text_input([CATEGORY], text)


@given(st.one_of(st.text(), st.text(alphabet='0123456789.,;[]{}"px \nbox:regions<loc_>')))
@settings(deadline=None, max_examples=300)
def test_any_text_holds_regions_or_gives_a_clean_error(text: str) -> None:
    try:
        boxes = region_boxes(text, SIZE)
    except InstructionError:
        return
    for left, top, right, bottom in boxes:
        assert 0 <= left <= right <= SIZE[0]
        assert 0 <= top <= bottom <= SIZE[1]


def test_a_region_outside_of_the_image_is_named() -> None:
    with pytest.raises(InstructionError, match=r"'600,0,700,10' .* is not in the image: .* 640 × 480"):
        build_prompts(CATEGORY, "0,0,10,10; 600,0,700,10", image_size=SIZE)


def test_a_prompt_for_each_region_and_one_for_all_else() -> None:
    prompts = build_prompts(CATEGORY, "0.1,0.2,0.5,0.9; 0,0,1,1", image_size=SIZE)
    assert prompts == (
        "What is the region <loc_100><loc_200><loc_500><loc_900>?",
        "What is the region <loc_0><loc_0><loc_999><loc_999>?",
    )
    grounding = INSTRUCTIONS["CAPTION_TO_PHRASE_GROUNDING"]
    assert build_prompts(grounding, "a cat; a dog") == ("Locate the phrases in the caption: a cat; a dog",)
    assert build_prompts(INSTRUCTIONS["OD"], "a cat") == (INSTRUCTIONS["OD"].prompt,)


def test_several_regions_are_answered_like_each_alone() -> None:
    picture = Image.open(ROOT / "examples" / "circle-heart-square.png").convert("RGB")
    width, height = picture.size
    first, second = (0.0, 0.0, width / 2, height / 2), (width / 2, height / 3, width * 0.9, float(height))
    names = ["REGION_TO_CATEGORY", "OD", "REGION_TO_OCR", "REGION_TO_SEGMENTATION"]
    generation = GenerationOptions(num_beams=1, max_new_tokens=12)
    captioner = Captioner("demo", device="cpu", dtype="fp32")

    def ask(*boxes: tuple[float, ...]) -> tuple[object, ...]:
        (result,) = captioner.caption(
            picture, names, CaptionOptions(generation, text_input=boxes_text(boxes))
        )
        assert result.ok, result.error
        return result.results

    alone = [ask(first), ask(second)]
    category, detection, ocr, outlines = ask(first, second)
    assert isinstance(category, RegionCaption)
    texts = [one[0].text for one in alone]  # type: ignore[attr-defined]
    assert category.regions == (Region(texts[0], first), Region(texts[1], second))
    assert category.text == "\n".join(texts)
    assert category.to_dict()["regions"][1] == {"label": texts[1], "box": list(second)}
    assert detection == alone[0][1] == alone[1][1]
    assert isinstance(ocr, RegionOcrText)
    assert [region.box for region in ocr.regions] == [first, second]
    left, top, right, bottom = first
    assert ocr.regions[0].quad == (left, top, right, top, right, bottom, left, bottom)  # as all text has
    assert isinstance(outlines, Regions)
    assert outlines.regions == alone[0][3].regions + alone[1][3].regions  # type: ignore[attr-defined]


def test_regions_are_in_pixels_of_the_turned_picture(tmp_path: Path) -> None:
    picture = Image.new("RGB", (60, 30), "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    path = tmp_path / "turned.jpg"
    picture.save(path, exif=exif)
    captioner = Captioner("demo", device="cpu", dtype="fp32")
    inside, outside = (
        captioner.caption(path, "REGION_TO_CATEGORY", CaptionOptions(text_input="0,30,30,60")),
        captioner.caption(path, "REGION_TO_CATEGORY", CaptionOptions(text_input="30,0,60,30")),
    )
    assert inside[0].ok
    assert inside[0].size == (30, 60)
    assert "the image is 30 × 60 pixels" in str(outside[0].error)
