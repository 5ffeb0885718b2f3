"""Reading of answers against the published post-processing: transformers' ``Florence2PostProcessor``.

Both read thousands of answers, well and ill formed. Where the published reading is sound, ours equals it.
``unsound`` says where it is not, and each of its reasons has a test of its own below, with both readings.

The published pixels are rounded down, in 32-bit floats: where a coordinate of ours is a whole number within
1e-3, theirs may be the one below.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgen.captioning import INSTRUCTIONS, AnswerKind, Region, parse_regions
from promptgen.captioning.regions import EMPTY_PHRASES, parse_placed
from promptgen.captioning.results import parse_answer

Place = tuple[str, str, list[Any]]  # label, what it is, coordinates

ANSWERS = 400  # of each instruction

# What the published processor makes of the answers to each instruction.
PUBLISHED = {
    "CAPTION": "pure_text",
    "DETAILED_CAPTION": "pure_text",
    "MORE_DETAILED_CAPTION": "pure_text",
    "OCR": "pure_text",
    "OCR_WITH_REGION": "ocr",
    "OD": "description_with_bboxes",
    "DENSE_REGION_CAPTION": "description_with_bboxes",
    "REGION_PROPOSAL": "bboxes",
    "CAPTION_TO_PHRASE_GROUNDING": "phrase_grounding",
    "REFERRING_EXPRESSION_SEGMENTATION": "polygons",
    "REGION_TO_SEGMENTATION": "polygons",
    "OPEN_VOCABULARY_DETECTION": "description_with_bboxes_or_polygons",
    "REGION_TO_CATEGORY": "pure_text",
    "REGION_TO_DESCRIPTION": "pure_text",
    "REGION_TO_OCR": "pure_text",
}


@pytest.fixture(scope="module")
def published() -> Any:
    processing = pytest.importorskip(
        "transformers.models.florence2.processing_florence2", reason="transformers 4.50 has no Florence-2"
    )
    if not hasattr(processing, "Florence2PostProcessor"):
        pytest.skip("this transformers has no Florence2PostProcessor")
    config: dict[str, Any] = {kind: {} for kind in PUBLISHED.values()}
    config["phrase_grounding"] = {"banned_grounding_tokens": sorted(EMPTY_PHRASES)}
    tokenizer = SimpleNamespace(all_special_tokens=["<s>", "</s>", "<pad>"])
    return processing.Florence2PostProcessor(config, tokenizer)


def locations(*bins: int) -> str:
    return "".join(f"<loc_{number}>" for number in bins)


def theirs(published: Any, raw: str, name: str, size: tuple[int, int]) -> list[Place]:
    kind = PUBLISHED[name]
    found: list[Place] = []
    for item in published(text=raw, image_size=size, parse_tasks=kind)[kind]:
        label = item["text"] if kind == "ocr" else item["cat_name"]
        if "polygons" in item:
            found.append((label, "polygons", item["polygons"]))
        elif kind == "phrase_grounding":
            found += [(label, "box", box) for box in item["bbox"]]
        else:
            found.append((label, "quad" if kind == "ocr" else "box", item.get("quad_box") or item["bbox"]))
    return found


def ours(raw: str, name: str, size: tuple[int, int], *, truncated: bool = False) -> list[Place]:
    return [
        (region.label, "polygons", list(map(list, region.polygons)))
        if region.polygons
        else (region.label, "quad" if region.quad else "box", list(region.quad or region.box or ()))
        for region in parse_regions(raw, INSTRUCTIONS[name].answer, size, truncated=truncated)
    ]


def same_pixels(mine: Sequence[float], other: Sequence[int]) -> bool:
    return len(mine) == len(other) and all(
        int(one) == two or (abs(one - round(one)) < 1e-3 and abs(one - two) < 1.001)
        for one, two in zip(mine, other, strict=True)
    )


def same(mine: Place, other: Place, *, labels: bool) -> bool:
    label, kind, coordinates = other
    if kind == "box":
        left, top, right, bottom = coordinates
        coordinates = [min(left, right), min(top, bottom), max(left, right), max(top, bottom)]
    if mine[1] != kind or (labels and mine[0] != " ".join(label.split())):
        return False
    if kind == "polygons":
        return len(mine[2]) == len(coordinates) and all(map(same_pixels, mine[2], coordinates))
    return same_pixels(mine[2], coordinates)


# Where the published reading is not sound

LOC = r"<loc_[0-9]{1,3}>"
RING = rf"(?:{LOC}){{6,}}"
RINGS = rf"{RING}(?:<sep>{RING})*"
OBJECTS = rf"(?:<poly>{RINGS}</poly>)+|<poly>{RINGS}"
STRUCTURE = rf"{LOC}|</?poly>|<sep>"


def unsound(raw: str, name: str) -> str | None:
    """Why the two readings may differ; None where they must not."""
    return next(reasons(raw, PUBLISHED[name]), None)


def reasons(raw: str, kind: str) -> Iterator[str]:
    text = re.sub("</?s>|<pad>", "", raw)
    parts = re.split(rf"((?:{STRUCTURE})+)", text)
    labels, runs = parts[::2], parts[1::2]
    if kind == "pure_text":
        if runs or re.search("</?[a-z]", text):
            yield "texts have no tokens in them"
        return
    if "<loc_1000>" in text:
        yield "a coordinate outside of the image"
    if kind == "bboxes":
        return
    if kind == "polygons":
        if any("<" in label for label in labels):
            yield "markup among outlines"
        for run in filter(None, runs):
            if not re.fullmatch(rf"{OBJECTS}|{RINGS}|(?:{LOC}){{1,3}}", run):
                yield "an outline of less than three points, or beside <poly> … </poly>"
        return
    if any("\n" in label.lstrip() for label in labels):
        yield "a line break in a label"
    if runs and not labels[0]:
        yield "no label"
    if kind == "ocr":
        if not all(label.strip("\n") for label in labels[: len(runs)]):
            yield "no label"
        if re.search(r"</?(?!loc_)[a-z]+>", re.sub(STRUCTURE, "", text)):
            yield "markup in a label"
        if not all(re.fullmatch(rf"(?:{LOC}){{8}}", run) for run in runs):
            yield "not eight coordinates"
        return
    if any("<" in label for label in labels):
        yield "a label with <, or markup"
    if "<poly>" in text and kind == "description_with_bboxes_or_polygons":
        if not all(re.fullmatch(OBJECTS, run) for run in runs):
            yield "boxes and outlines in one answer, or no whole outline"
        return
    if not text.isascii():
        yield "a label outside ASCII"
    if any("<" in re.sub(LOC, "", run) for run in runs):
        yield "tokens of outlines among boxes"
    if any(re.fullmatch(f"(?:{LOC}){{1,3}}", run) for run in runs[:-1]):
        yield "a box with a coordinate missing"
    placed = [label for label, run in zip(labels, runs, strict=False) if len(re.findall(LOC, run)) >= 4]
    if kind == "phrase_grounding" and {label.strip() for label in placed} <= EMPTY_PHRASES:
        yield "all phrases are empty"


# Answers

LABELS = [
    "cat",
    "a red car",
    " dog ",
    "the man's hat",
    "it",
    "the image",
    "Everyone",
    "x",
    "1, 2 & 3",
    "A-b_c.",
]
ODD_LABELS = [
    "猫",
    "naïve",
    "a < b",
    "two\nlines",
    "<od>",
    "</od>car",
    "<and>",
    "<loc_",
    "<loc_1000>",
    "\n",
    "<",
]


def answers(name: str, count: int) -> Iterator[str]:
    """Half of them as a model writes them, the others with tokens left out, doubled and strewn in."""
    draw = random.Random(name)
    kind = PUBLISHED[name]
    for number in range(count):
        pieces = [piece for _ in range(draw.randint(0, 6)) for piece in _object(draw, kind)]
        if draw.random() < 0.3:
            pieces = ["</s>", "<s>", *pieces, "</s>"]
        if number % 2:
            for _ in range(draw.randint(1, 4)):
                at = draw.randint(0, len(pieces))
                spoil = draw.choice(
                    [[draw.choice(ODD_LABELS)], [locations(draw.randint(0, 999))], ["<sep>"], ["<poly>"],
                     ["</poly>"], ["</s>"], [draw.choice(LABELS)], []]
                )  # fmt: skip
                pieces[at : at + draw.randint(0, 1)] = spoil
        yield "".join(pieces)


def _object(draw: random.Random, kind: str) -> Iterable[str]:
    def places(*lengths: int) -> list[str]:
        return [locations(draw.randint(0, 999)) for _ in range(draw.choice(lengths))]

    label = [] if kind in ("bboxes", "polygons") and draw.random() < 0.7 else [draw.choice(LABELS)]
    outlines = kind == "polygons" or (kind == "description_with_bboxes_or_polygons" and draw.random() < 0.5)
    if kind == "pure_text":
        return [draw.choice(LABELS), draw.choice([" ", ", ", "\n"])]
    if outlines and draw.random() < 0.8:
        rings = [places(6, 7, 8, 20) for _ in range(draw.choice([1, 1, 2]))]
        return [*label, "<poly>", *"\0<sep>\0".join("\0".join(ring) for ring in rings).split("\0"), "</poly>"]
    if outlines:
        return [*label, *places(6, 8, 15)]
    return [*label, *(places(8) if kind == "ocr" else places(3, 4, 4, 4, 5, 8, 13))]


@pytest.mark.parametrize("name", PUBLISHED)
def test_thousands_of_answers_are_read_as_published(published: Any, name: str) -> None:
    draw = random.Random(1)
    compared = 0
    for raw in answers(name, ANSWERS):
        size = (draw.randint(1, 6000), draw.randint(1, 6000))
        if unsound(raw, name):
            continue
        compared += 1
        if PUBLISHED[name] == "pure_text":
            bare = re.sub("</?s>", "", raw)  # which the tokenizer has taken out of ours
            assert parse_answer(name, bare, size).text == bare.strip()
            continue
        mine, other = ours(raw, name, size), theirs(published, raw, name, size)
        labels = PUBLISHED[name] not in ("bboxes", "polygons")  # which have none as published
        assert len(mine) == len(other), raw
        assert all(same(one, two, labels=labels) for one, two in zip(mine, other, strict=True)), raw
    assert compared >= ANSWERS // 5


PIECES = st.one_of(
    st.integers(0, 1000).map(lambda number: f"<loc_{number}>"),
    st.lists(st.integers(0, 999), min_size=4, max_size=8).map(lambda bins: locations(*bins)),
    st.sampled_from(["<poly>", "</poly>", "<sep>", "</s>", "<s>", *LABELS, *ODD_LABELS]),
    st.text(max_size=3),
)
WITH_REGIONS = [name for name, kind in PUBLISHED.items() if kind != "pure_text"]


@given(raw=st.lists(PIECES, max_size=14).map("".join), name=st.sampled_from(WITH_REGIONS))
@settings(deadline=None, max_examples=500)
def test_any_answer_is_read_as_published_or_for_a_reason(published: Any, raw: str, name: str) -> None:
    if unsound(raw, name):
        return
    mine, other = ours(raw, name, (1000, 500)), theirs(published, raw, name, (1000, 500))
    labels = PUBLISHED[name] not in ("bboxes", "polygons")
    assert len(mine) == len(other)
    assert all(same(one, two, labels=labels) for one, two in zip(mine, other, strict=True))


# The differences, one by one. In a picture of 1000 × 1000 the published pixel is the number of the bin.

SQUARE = (1000, 1000)
A, B = (1, 2, 3, 4), (5, 6, 7, 8)
QUAD, QUAD_2 = (1, 1, 9, 1, 9, 5, 1, 5), (1, 6, 9, 6, 9, 8, 1, 8)
RING_1, RING_2 = (0, 0, 9, 0, 9, 9), (1, 1, 2, 1, 2, 2)


@pytest.mark.parametrize(
    ("name", "raw", "published_reading", "our_reading"),
    [
        pytest.param("OD", f"猫 cat{locations(*A)}", [(" cat", A)], [("猫 cat", A)], id="outside ASCII"),
        pytest.param("OD", f"a < b{locations(*A)}", [("b", A)], [("a < b", A)], id="less-than in a label"),
        pytest.param("OD", f"two\nlines{locations(*A)}", [], [("two lines", A)], id="line break"),
        pytest.param("OD", f"<od>car{locations(*A)}", [("od>car", A)], [("car", A)], id="markup"),
        pytest.param(
            "OD", f"car<sep>{locations(*A)}", [("sep>", A)], [("car", A)],
            id="markup between a label and its box",
        ),
        pytest.param(
            "OD", f"car{locations(*A)}<sep>{locations(*B)}",
            [("car", A), ("sep>", B)], [("car", A), ("car", B)], id="markup between boxes",
        ),
        pytest.param(
            "OD", f"car{locations(9, 8, 7, 6)}", [("car", (9, 8, 7, 6))], [("car", (7, 6, 9, 8))],
            id="corners",
        ),
        pytest.param("OD", locations(*A), [], [("", A)], id="no label"),
        pytest.param(
            "OD", f"car<loc_1000>{locations(*A)}", [("car", (1000, 1, 2, 3))], [("car<loc_1000>", A)],
            id="outside of the image",
        ),
        pytest.param(
            "OD", f"car{locations(1, 2, 3)}hat{locations(*A)}", [("loc_3>hat", A)], [("hat", A)],
            id="box with a coordinate missing",
        ),
        pytest.param(
            "REGION_PROPOSAL", f"hat{locations(*A)}", [("", A)], [("hat", A)], id="label of a proposal"
        ),
        pytest.param(
            "CAPTION_TO_PHRASE_GROUNDING", f"it{locations(*A)}", [], [("it", A)],
            id="nothing but empty phrases",
        ),
        pytest.param(
            "OCR_WITH_REGION", f"a{locations(*QUAD, *QUAD_2)}", [("a", QUAD)], [("a", QUAD), ("a", QUAD_2)],
            id="two quads",
        ),
        pytest.param(
            "OCR_WITH_REGION", f"a{locations(*QUAD, 7)}b{locations(*QUAD_2)}",
            [("a", QUAD), ("<loc_7>b", QUAD_2)], [("a", QUAD), ("b", QUAD_2)],
            id="surplus coordinate of a quad",
        ),
        pytest.param(
            "OCR_WITH_REGION", f"a{locations(*QUAD[:7])}b{locations(*QUAD_2)}",
            [(f"a{locations(*QUAD[:7])}b", QUAD_2)], [("b", QUAD_2)], id="quad with a coordinate missing",
        ),
        pytest.param(
            "OCR_WITH_REGION", f"two\nlines{locations(*QUAD)}", [("lines", QUAD)], [("two lines", QUAD)],
            id="line break in a text",
        ),
        pytest.param(
            "OPEN_VOCABULARY_DETECTION", f"cat<poly>{locations(*RING_1)}</poly>dog{locations(*A)}",
            [("cat", [RING_1]), ("dog", [A])], [("cat", [RING_1]), ("dog", A)], id="boxes and outlines",
        ),
        pytest.param(
            "REGION_TO_SEGMENTATION", f"cat<poly>{locations(*RING_1)}</poly>", [("", [RING_1])],
            [("cat", [RING_1])], id="label of an outline",
        ),
        pytest.param(
            "REGION_TO_SEGMENTATION", f"<poly>{locations(*RING_1)}<sep>{locations(*A)}</poly>",
            [("", [RING_1, A])], [("", [RING_1])], id="outline of two points",
        ),
        pytest.param(
            "REGION_TO_SEGMENTATION", f"<poly>{locations(*RING_1)}</poly>{locations(*RING_2)}",
            [("", [RING_1])], [("", [RING_1]), ("", [RING_2])], id="outline beside poly",
        ),
        pytest.param(
            "REGION_TO_SEGMENTATION", f"{locations(*RING_1)}</poly>{locations(*RING_2)}",
            [("", [RING_2])], [("", [RING_1]), ("", [RING_2])], id="end of poly without its beginning",
        ),
    ],
)  # fmt: skip
def test_differences_on_purpose(
    published: Any, name: str, raw: str, published_reading: list[Any], our_reading: list[Any]
) -> None:
    assert unsound(raw, name) or same_but_for_labels_or_order(published_reading, our_reading)
    assert [bare(place) for place in theirs(published, raw, name, SQUARE)] == published_reading
    assert [bare(place) for place in ours(raw, name, SQUARE)] == our_reading


def same_but_for_labels_or_order(theirs: list[Any], mine: list[Any]) -> bool:
    """Whether ``same`` lets this pass: labels that are published empty, and corners out of order."""
    return [str(sorted(map(str, place))) for _, place in theirs] == [
        str(sorted(map(str, place))) for _, place in mine
    ]


def bare(place: Place) -> tuple[str, Any]:
    label, kind, coordinates = place
    if kind == "polygons":
        return label, [tuple(map(int, ring)) for ring in coordinates]
    return label, tuple(map(int, coordinates))


def test_coordinates_are_centres_of_bins_and_published_ones_are_rounded_down(published: Any) -> None:
    raw = f"car{locations(0, 499, 500, 999)}"
    assert theirs(published, raw, "OD", (100, 300)) == [("car", "box", [0, 149, 50, 299])]
    assert ours(raw, "OD", (100, 300)) == [("car", "box", pytest.approx([0.05, 149.85, 50.05, 299.85]))]


def test_small_texts_are_kept_whatever_the_published_area_threshold(published: Any) -> None:
    raw = f"a{locations(*QUAD)}"
    kept = published.parse_ocr_from_text_and_spans(raw, None, SQUARE, area_threshold=0.0)
    assert published.parse_ocr_from_text_and_spans(raw, None, SQUARE, area_threshold=0.01) == []
    assert [item["text"] for item in kept] == [place[0] for place in ours(raw, "OCR_WITH_REGION", SQUARE)]


def test_short_texts_lose_their_location_tokens(published: Any) -> None:
    raw = f"a cat{locations(*A)}"
    assert published(text=raw, image_size=SQUARE, parse_tasks="pure_text")["pure_text"] == raw
    assert parse_answer("REGION_TO_CATEGORY", raw, SQUARE).text == "a cat"


# Long answers


@pytest.mark.parametrize(
    ("name", "raw", "kept"),
    [
        ("OD", f"car{locations(*A)}hat{locations(1, 2, 3)}", [("car", A)]),
        ("OD", f"car{locations(*A)}ha", [("car", A)]),
        ("OD", f"car{locations(*A)}", [("car", A)]),
        ("OCR_WITH_REGION", f"a{locations(*QUAD)}b{locations(*QUAD_2[:6])}", [("a", QUAD)]),
        ("OPEN_VOCABULARY_DETECTION", f"a{locations(*A)}", [("a", A)]),
        ("OPEN_VOCABULARY_DETECTION", f"a{locations(*A)}b<poly>{locations(*RING_1)}", [("a", A)]),
        ("REGION_TO_SEGMENTATION", f"<poly>{locations(*RING_1)}", []),
        ("REGION_TO_SEGMENTATION", locations(*RING_1), []),
        ("REGION_TO_SEGMENTATION", f"<poly>{locations(*RING_1)}<sep>{locations(*RING_2)}", [("", [RING_1])]),
        ("REGION_TO_SEGMENTATION", f"<poly>{locations(*RING_1)}<sep>", [("", [RING_1])]),
        ("REGION_TO_SEGMENTATION", f"<poly>{locations(*RING_1)}</poly>", [("", [RING_1])]),
        ("REGION_TO_SEGMENTATION", f"<poly>{locations(*RING_1)}</poly><poly>{locations(*RING_2)}",
         [("", [RING_1])]),
    ],
)  # fmt: skip
def test_of_an_answer_that_was_cut_off_whole_objects_are_kept(name: str, raw: str, kept: list[Any]) -> None:
    assert [bare(place) for place in ours(raw, name, SQUARE, truncated=True)] == kept
    result = parse_answer(name, raw, SQUARE, truncated=True)
    assert result.truncated
    assert len(result.regions) == len(kept)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", WITH_REGIONS)
def test_cutting_an_answer_anywhere_takes_nothing_from_the_regions_before(name: str) -> None:
    for raw in list(answers(name, 40))[::2]:  # as a model writes them
        tokens = re.findall(r"<[a-z_/0-9]+>|[^<]|<", raw)
        whole = ours(raw, name, SQUARE)
        for end in range(len(tokens)):
            cut = ours("".join(tokens[:end]), name, SQUARE, truncated=True)
            if name != "CAPTION_TO_PHRASE_GROUNDING":  # whose empty phrases stand until another comes
                assert all(place in whole or part_of_any(place, whole) for place in cut), (raw, end)


def part_of_any(place: Place, whole: list[Place]) -> bool:
    """Whether the outlines are some of those of one object."""
    return place[1] == "polygons" and any(
        label == place[0] and kind == "polygons" and place[2] == rings[: len(place[2])]
        for label, kind, rings in whole
    )


# Where in the answer a region stands


@given(raw=st.lists(PIECES, max_size=14).map("".join), name=st.sampled_from(WITH_REGIONS))
@settings(deadline=None, max_examples=200)
def test_each_region_knows_its_characters(raw: str, name: str) -> None:
    kind = INSTRUCTIONS[name].answer
    regions: list[Region] = []
    for placed in parse_placed(raw, kind, SQUARE):
        regions.append(placed.region)
        tokens = [raw[start:end] for start, end in placed.locations]
        assert all(re.fullmatch(LOC, token) for token in tokens)
        points = placed.region.polygons or [placed.region.quad or placed.region.box or ()]
        bins = [int(number) for ring in points for number in ring]
        found = [int(token[5:-1]) for token in tokens]
        assert sorted(bins) == sorted(found) if kind is not AnswerKind.OCR_REGIONS else bins == found
        start, end = placed.label
        written = re.sub(r"</?s>|<pad>|<ground>|<obj>", "", raw[start:end])
        written = re.sub(r"</?od>|<and>", " ", written)
        assert " ".join(written.split()) == placed.region.label
        assert end <= placed.locations[0][0]
    assert tuple(regions) == parse_regions(raw, kind, SQUARE)
