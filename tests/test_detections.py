"""PaliGemma's boxes: the form that is published, damaged answers, and that all region tools take them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgen.captioning import AnswerKind, Region, Regions, find_instruction, parse_answer, parse_regions
from promptgen.captioning.detections import DETECTION_BINS
from promptgen.captioning.regions import parse_placed
from promptgen.captioning.scores import TokenScores
from promptgen.captioning.vision_options import VisionOptions

SIZE = (1023, 2046)  # a bin is a pixel wide and two high
DETECT = find_instruction("DETECT").for_family("paligemma")
CAT = "<loc0100><loc0200><loc0300><loc0400>"
DOG = "<loc0000><loc0001><loc0002><loc1023>"
CAT_BOX, DOG_BOX = (200.0, 200.0, 400.0, 600.0), (1.0, 0.0, 1023.0, 4.0)
SEGMENT = "".join(f"<seg{number:03}>" for number in range(16))


def labels_and_boxes(raw: str) -> list[tuple[str, object]]:
    found = parse_regions(raw, AnswerKind.DETECTIONS, SIZE)
    return [(region.label, region.box) for region in found]


def test_boxes_are_pixels_of_the_original_picture() -> None:
    result = parse_answer(DETECT, f"{CAT} cat ; {DOG} big dog", SIZE)
    assert isinstance(result, Regions)
    assert result.regions == (Region("cat", CAT_BOX), Region("big dog", DOG_BOX))
    assert result.text == "cat, big dog"
    assert result.instruction == "OPEN_VOCABULARY_DETECTION"
    whole = "<loc0000><loc0000><loc1023><loc1023> all"
    (region,) = parse_regions(whole, AnswerKind.DETECTIONS, (640, 480))
    assert region.box == (0.0, 0.0, 640.0, 480.0)


@given(st.lists(st.integers(0, DETECTION_BINS - 1), min_size=4, max_size=4), st.integers(1, 9000))
@settings(deadline=None)
def test_bins_round_trip(bins: list[int], width: int) -> None:
    """A box is written as the published trainer does, ``round(share × 1023)``, and read back."""
    raw = "".join(f"<loc{number:04}>" for number in bins) + " x"
    (region,) = parse_regions(raw, AnswerKind.DETECTIONS, (width, 480))
    assert region.box is not None
    left, top, right, bottom = region.box
    written = [round(top / 480 * 1023), round(left / width * 1023)]
    written += [round(bottom / 480 * 1023), round(right / width * 1023)]
    assert written == [min(bins[::2]), min(bins[1::2]), max(bins[::2]), max(bins[1::2])]


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ("", []),
        ("no boxes", []),
        (" ; ;; ", []),
        (f"{CAT} cat", [("cat", CAT_BOX)]),
        (f"{CAT}cat;{DOG}dog", [("cat", CAT_BOX), ("dog", DOG_BOX)]),
        (f"  {CAT}  a \n cat  ; ", [("a cat", CAT_BOX)]),
        (f"{CAT} cat {DOG} dog", [("cat", CAT_BOX), ("dog", DOG_BOX)]),  # a separator is missing
        (f"{CAT} ; {DOG} dog", [("", CAT_BOX), ("dog", DOG_BOX)]),  # a label is missing
        (f"{CAT}{DOG} twice", [("twice", CAT_BOX), ("twice", DOG_BOX)]),
        (f"{CAT}", [("", CAT_BOX)]),
        (f"cat {CAT}", [("cat", CAT_BOX)]),  # the label stands before the box
        (f"cat {CAT} ; dog {DOG}", [("cat", CAT_BOX), ("dog", DOG_BOX)]),
        (f"cat ; {CAT}", [("", CAT_BOX)]),
        (f"{CAT} cat ; <loc0001><loc0002><loc0003> dog", [("cat", CAT_BOX)]),  # one is missing
        (f"{CAT} cat ; <loc0001><loc0002>", [("cat", CAT_BOX)]),  # cut off
        (f"{CAT}<loc0001> cat", [("cat", CAT_BOX)]),  # one too many
        (f"{CAT} {SEGMENT} cat ; {DOG}{SEGMENT} dog", [("cat", CAT_BOX), ("dog", DOG_BOX)]),
        (f"{CAT}{SEGMENT[:40]}", [("", CAT_BOX)]),
        ("<loc0001><loc1024><loc0003><loc0004> cat", []),  # no such bin
        (f"<loc9999>{CAT} cat", [("cat", CAT_BOX)]),
        ("<loc0300><loc0400><loc0100><loc0200> cat", [("cat", CAT_BOX)]),  # corners in disorder
        ("<loc_100><loc_200><loc_300><loc_400> cat", []),  # Florence-2's
        (f"{CAT} a <b> c", [("a <b> c", CAT_BOX)]),
    ],
)
def test_what_is_sure_is_read(raw: str, found: list[object]) -> None:
    assert labels_and_boxes(raw) == found


def test_an_answer_without_boxes_is_its_text() -> None:
    result = parse_answer(DETECT, "<loc0001><loc0002> no cat", SIZE)
    assert (result.text, result.to_dict()["regions"]) == ("no cat", [])


def test_the_words_of_other_answers_have_no_location_tokens() -> None:
    assert parse_answer("OCR", f"{CAT} stop ; {SEGMENT}", SIZE).text == "stop ;"
    free = find_instruction("PROMPT").for_family("paligemma")
    assert parse_answer(free, f" {CAT} cat ", SIZE).text == f"{CAT} cat"


@given(st.lists(st.sampled_from([CAT, DOG, "<loc0001>", "<loc5555>", SEGMENT, "<seg001>", " ; ", " ", "cat",
                                 "<loc", ">", "\n", "é"])).map("".join))  # fmt: skip
@settings(deadline=None)
def test_any_answer_has_a_reading_within_the_picture(raw: str) -> None:
    placed = parse_placed(raw, AnswerKind.DETECTIONS, SIZE, truncated=True)
    for one in placed:
        box = one.region.box
        assert box is not None
        assert 0 <= box[0] <= box[2] <= SIZE[0]
        assert 0 <= box[1] <= box[3] <= SIZE[1]
        assert " ".join(raw[slice(*one.label)].split()) == one.region.label
        assert not re.search("<loc[0-9]{4}>|<seg[0-9]{3}>|;", one.region.label)
        assert len(one.locations) == 4
        assert all(re.fullmatch("<loc[0-9]{4}>", raw[slice(*span)]) for span in one.locations)


def test_scores_come_from_the_location_tokens_and_choose_among_boxes() -> None:
    raw = f"{CAT} cat ; {DOG} dog"
    parts = re.findall(r"<loc\d{4}>| ;| ?\w+", raw)
    ends = [sum(map(len, parts[: number + 1])) for number in range(len(parts))]
    spans = list(zip([0, *ends], ends, strict=False))
    chances = [-0.1 if number < 4 else -1.0 for number in range(len(parts))]
    tokens = TokenScores(spans, chances)
    both = parse_answer(DETECT, raw, SIZE, token_scores=tokens, vision=VisionOptions(scores=True))
    assert isinstance(both, Regions)
    assert [round(region.score or 0, 3) for region in both.regions] == [0.905, 0.368]
    best = parse_answer(DETECT, raw, SIZE, token_scores=tokens, vision=VisionOptions(threshold=0.5))
    assert best.text == "cat"
