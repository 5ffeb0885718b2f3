"""Location tokens and pixels, both ways."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgen.captioning import AnswerKind, InstructionError, Region, parse_regions
from promptgen.captioning.regions import region_tokens, strip_locations

REGION_KINDS = [
    AnswerKind.BOXES,
    AnswerKind.PROPOSALS,
    AnswerKind.PHRASES,
    AnswerKind.OCR_REGIONS,
    AnswerKind.POLYGONS,
    AnswerKind.OPEN_VOCABULARY,
]
SIZE = (640, 480)


def locations(*bins: int) -> str:
    return "".join(f"<loc_{number}>" for number in bins)


def test_boxes_are_bin_centres_in_pixels() -> None:
    raw = f"car{locations(52, 332, 932, 774)}wheel{locations(0, 0, 999, 999)}{locations(1, 2, 3, 4)}"
    assert parse_regions(raw, AnswerKind.BOXES, (1000, 2000)) == (
        Region("car", (52.5, 665.0, 932.5, 1549.0)),
        Region("wheel", (0.5, 1.0, 999.5, 1999.0)),
        Region("wheel", (1.5, 5.0, 3.5, 9.0)),
    )


def test_quads() -> None:
    (region,) = parse_regions(
        f"Hello, Wörld\n{locations(1, 2, 3, 2, 3, 4, 1, 4)}", AnswerKind.OCR_REGIONS, (1000, 1000)
    )
    assert region == Region(
        "Hello, Wörld", (1.5, 2.5, 3.5, 4.5), quad=(1.5, 2.5, 3.5, 2.5, 3.5, 4.5, 1.5, 4.5)
    )


def test_polygons_with_holes_parts_and_several_objects() -> None:
    triangle, square = (0, 0, 9, 0, 9, 9), (1, 1, 2, 1, 2, 2, 1, 2)
    raw = (
        f"cat<poly>{locations(*triangle)}<sep>{locations(*square)}</poly><poly>{locations(*square)}</poly>"
        f"dog{locations(*triangle)}"
    )
    cat, second, dog = parse_regions(raw, AnswerKind.POLYGONS, (1000, 1000))
    assert cat.polygons == (tuple(n + 0.5 for n in triangle), tuple(n + 0.5 for n in square))
    assert cat.box == (0.5, 0.5, 9.5, 9.5)
    assert second == Region("cat", (1.5, 1.5, 2.5, 2.5), polygons=(tuple(n + 0.5 for n in square),))
    assert dog.label == "dog"


def test_open_vocabulary_goes_label_by_label() -> None:
    raw = f"cat<poly>{locations(1, 1, 2, 2, 3, 1)}</poly>dog{locations(1, 2, 3, 4)}"
    cat, dog = parse_regions(raw, AnswerKind.OPEN_VOCABULARY, SIZE)
    assert cat.polygons is not None
    assert dog.polygons is None
    assert dog.label == "dog"


@pytest.mark.parametrize(
    ("raw", "kind", "labels"),
    [
        (f"car{locations(1, 2, 3, 4, 5)}dog{locations(1, 2, 3, 4)}", AnswerKind.BOXES, ["car", "dog"]),
        (f"car{locations(1, 2, 3)}dog{locations(1, 2, 3, 4)}", AnswerKind.BOXES, ["dog"]),
        (f"猫 <3{locations(1, 2, 3, 4)}", AnswerKind.BOXES, ["猫 <3"]),
        (f"<od>car{locations(1, 2, 3, 4)}</od>", AnswerKind.BOXES, ["car"]),
        (f"</s><s>car{locations(1, 2, 3, 4)}</s>", AnswerKind.BOXES, ["car"]),
        (locations(1, 2, 3, 4, 5, 6, 7, 8), AnswerKind.PROPOSALS, ["", ""]),
        (f"a{locations(*range(8))}b{locations(*range(7))}", AnswerKind.OCR_REGIONS, ["a"]),
        (f"a{locations(1, 2, 3, 4, 5, 6, 7)}b{locations(1, 2, 3, 4)}", AnswerKind.POLYGONS, ["a"]),
        (f"a<poly>{locations(1, 2, 3, 4, 5, 6)}", AnswerKind.POLYGONS, ["a"]),
        ("nothing to see", AnswerKind.BOXES, []),
        ("<loc_1000><loc_1><loc_2><loc_3>", AnswerKind.BOXES, []),
    ],
)
def test_ill_formed_answers_keep_what_is_whole(raw: str, kind: AnswerKind, labels: list[str]) -> None:
    assert [region.label for region in parse_regions(raw, kind, SIZE)] == labels


def test_only_answers_with_regions_have_regions() -> None:
    with pytest.raises(ValueError, match=r"CAPTION has no regions.*BOXES"):
        parse_regions("a", AnswerKind.CAPTION, SIZE)


def test_as_json() -> None:
    assert Region("a", (1.0, 2.0, 3.0, 4.0)).to_dict() == {"label": "a", "box": [1.0, 2.0, 3.0, 4.0]}
    (quad,) = parse_regions(f"a{locations(*range(8))}", AnswerKind.OCR_REGIONS, SIZE)
    assert list(quad.to_dict()) == ["label", "box", "quad"]
    (outline,) = parse_regions(f"a{locations(*range(6))}", AnswerKind.POLYGONS, SIZE)
    assert outline.to_dict()["polygons"] == [list((outline.polygons or ())[0])]


TOKENS = st.lists(
    st.one_of(
        st.integers(0, 1200).map(lambda number: f"<loc_{number}>"),
        st.sampled_from(
            ["<poly>", "</poly>", "<sep>", "<od>", "cat", " ", "猫", "<", "</s>", "<loc_", "<and>"]
        ),
    )
).map("".join)


@given(
    st.one_of(st.text(), TOKENS),
    st.sampled_from(REGION_KINDS),
    st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
)
@settings(deadline=None, max_examples=300)
def test_any_answer_gives_regions_within_the_image(raw: str, kind: AnswerKind, size: tuple[int, int]) -> None:
    for region in parse_regions(raw, kind, size):
        assert region.box is not None
        flat = [region.box, *([region.quad] if region.quad else []), *(region.polygons or ())]
        for points in flat:
            assert len(points) % 2 == 0
            assert all(0 < value < size[axis % 2] for axis, value in enumerate(points))
    assert "<loc_1>" not in strip_locations(raw)


@given(st.tuples(*[st.integers(0, 999)] * 4), st.tuples(st.integers(1, 9000), st.integers(1, 9000)))
@settings(deadline=None)
def test_location_tokens_make_the_round_trip(bins: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    left, top, right, bottom = sorted(bins[::2])[0], sorted(bins[1::2])[0], max(bins[::2]), max(bins[1::2])
    raw = locations(left, top, right, bottom)
    (region,) = parse_regions(raw, AnswerKind.BOXES, size)
    if left == right or top == bottom:
        return
    assert region.box is not None
    if max(region.box) > 1:
        assert region_tokens(",".join(map(repr, region.box)), size) == raw
    assert region_tokens(raw, size) == raw


@pytest.mark.parametrize(
    ("region", "bins"),
    [
        ("0,0,640,480", (0, 0, 999, 999)),
        ("64 120 320 240", (100, 250, 500, 500)),
        ("[64, 120, 320, 240]", (100, 250, 500, 500)),
        ("(64.5,120.5,320.0,2.4e2)", (100, 251, 500, 500)),
        ("0.1,0.25,0.57,0.5", (100, 250, 570, 500)),
        ("0,0,1,1", (0, 0, 999, 999)),
        ("0.29,0,1,.58", (290, 0, 999, 580)),
    ],
)
def test_boxes_from_users(region: str, bins: tuple[int, ...]) -> None:
    assert region_tokens(region, SIZE) == locations(*bins)


@pytest.mark.parametrize(("edge", "size", "number"), [(4.047, 71, 57), (260.739, 261, 999), (8.094, 142, 57)])
def test_the_edge_of_a_bin_belongs_to_it(edge: float, size: int, number: int) -> None:
    assert edge * 1000 / size < number  # in floats
    assert region_tokens(f"0,{edge},{size},{size}", (size, size)) == locations(0, number, 999, 999)


def test_tokens_from_users_pass_on_without_the_blanks() -> None:
    assert region_tokens(" <loc_1> <loc_2><loc_3>\n<loc_4> ") == locations(1, 2, 3, 4)
    assert region_tokens(locations(*range(8))) == locations(*range(8))


@pytest.mark.parametrize(
    "region",
    ["", "a cat", "1,2,3", "1,2,3,4,5", "1,2,3,x", "1,,2,3", "nan,0,1,1", "0,0,inf,1", "1e999,0,1,1",
     "10,10,5,20", "10,10,10,20", "-1,0,5,5", "<loc_1><loc_2>", "<loc_1><loc_2><loc_3><loc_4> cat",
     "0x1,2,3,4", "١,٢,٣,٤"],
)  # fmt: skip
def test_unreadable_regions(region: str) -> None:
    with pytest.raises(
        InstructionError, match=r"cannot be read; write a box as left,top,right,bottom in pixels"
    ):
        region_tokens(region, SIZE)


@pytest.mark.parametrize("region", ["200,10,100,20", "10,20,10,30", "10,20,30,5", "-1,0,5,5"])
def test_a_box_that_is_none_is_explained(region: str) -> None:
    with pytest.raises(InstructionError, match="left is less than right, top less than bottom"):
        region_tokens(region, SIZE)


def test_a_region_outside_the_image_names_its_size() -> None:
    with pytest.raises(InstructionError, match="not in the image: the image is 640 × 480 pixels"):
        region_tokens("0,0,641,480", SIZE)
    with pytest.raises(InstructionError, match="is in pixels, and the size of the image is not known"):
        region_tokens("0,0,641,480")


@given(st.text(alphabet="0123456789.,- e<loc_>[]"), st.one_of(st.none(), st.just(SIZE)))
@settings(deadline=None)
def test_any_region_gives_tokens_or_a_clean_error(region: str, size: tuple[int, int] | None) -> None:
    try:
        tokens = region_tokens(region, size)
    except InstructionError:
        return
    assert re.fullmatch(r"(<loc_\d{1,3}>){4,}", tokens)
