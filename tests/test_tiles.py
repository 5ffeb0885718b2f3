"""Large pictures in overlapping tiles: how they are cut, and how what was found becomes one result."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgen.captioning import (
    INSTRUCTIONS,
    InstructionError,
    OcrText,
    Region,
    Regions,
    TileOptions,
    VisionOptions,
    box_iou,
    draw_masks,
    parse_answer,
)
from promptgen.captioning.clipping import area_of, clip_along, convex_hull, convex_overlap
from promptgen.captioning.reading_order import reading_order
from promptgen.captioning.tile_answers import join_tile_answers, tile_instruction
from promptgen.captioning.tile_merging import join_texts, merge_lines, merge_regions, similar_texts
from promptgen.captioning.tiles import MOST_TILES, TILEABLE, check_tiles, tile_boxes

PUBLISHED = (768, 768)
Box = tuple[float, float, float, float]


def rectangle(left: float, top: float, right: float, bottom: float) -> tuple[float, ...]:
    return left, top, right, top, right, bottom, left, bottom


def word(text: str, left: float, top: float, right: float, bottom: float) -> Region:
    return Region(text, (left, top, right, bottom), quad=rectangle(left, top, right, bottom))


# How pictures are cut


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    side=st.none() | st.integers(900, 4000),
    overlap=st.floats(0, 0.6),
)
def test_tiles_cover_the_picture_and_overlap(size: tuple[int, int], side: int | None, overlap: float) -> None:
    tiles = tile_boxes(size, TileOptions(side, overlap), PUBLISHED)
    if not tiles:
        assert max(size) <= (side or 1920)
        return
    wide, high = tiles[0][2] - tiles[0][0], tiles[0][3] - tiles[0][1]
    if side:
        assert (wide, high) == (min(side, size[0]), min(side, size[1]))
    assert {(right - left, bottom - top) for left, top, right, bottom in tiles} == {(wide, high)}
    for low, high_end, length in ((0, 2, size[0]), (1, 3, size[1])):
        stretches = sorted({(tile[low], tile[high_end]) for tile in tiles})
        assert (stretches[0][0], stretches[-1][1]) == (0, length)
        for (_, end), (start, after) in pairwise(stretches):
            assert end - start >= math.floor(overlap * (after - start))
    assert list(tiles) == sorted(tiles, key=lambda tile: (tile[1], tile[0]))
    assert len(tiles) == len(set(tiles))


def test_the_usual_tiles_follow_from_what_the_checkpoint_sees() -> None:
    def count(*size: int, seen: tuple[int, int] = PUBLISHED) -> int:
        return len(tile_boxes(size, TileOptions(), seen))

    assert count(800, 600) == count(1920, 1080) == 0  # hardly larger than a tile
    assert tile_boxes((6000, 4000), TileOptions(), PUBLISHED)[0] == (0, 0, 1536, 1536)
    assert count(6000, 6000) == 25
    assert count(6000, 400) == 5
    assert count(800, 600, seen=(128, 128)) > 4
    assert count(30_000, 30_000) == 64  # not more, they become larger


def test_too_many_tiles_are_an_error_that_says_so() -> None:
    with pytest.raises(InstructionError, match=rf"into 3\d\d\d\d; {MOST_TILES} is the limit"):
        tile_boxes((6000, 6000), TileOptions(32, 0), PUBLISHED)


@pytest.mark.parametrize(
    "wrong",
    [{"size": 31}, {"size": 100.0}, {"size": True}, {"overlap": -0.1}, {"overlap": 0.8},
     {"overlap": math.nan}, {"overlap": True}, {"overlap": "a"}],
    ids=str,
)  # fmt: skip
def test_tile_options_say_what_they_take(wrong: dict[str, Any]) -> None:
    (name, value), = wrong.items()  # fmt: skip
    with pytest.raises(ValueError, match=rf"tile {name} is {value!r}; it takes"):
        TileOptions(**wrong)


def test_what_can_be_asked_about_a_part_of_a_picture() -> None:
    assert TILEABLE == (
        "OCR", "OCR_WITH_REGION", "OD", "DENSE_REGION_CAPTION", "REGION_PROPOSAL",
        "CAPTION_TO_PHRASE_GROUNDING", "REFERRING_EXPRESSION_SEGMENTATION", "OPEN_VOCABULARY_DETECTION",
    )  # fmt: skip
    check_tiles([INSTRUCTIONS["CAPTION"], INSTRUCTIONS["OD"]])
    with pytest.raises(InstructionError, match="CAPTION, REGION_TO_OCR is about the whole picture"):
        check_tiles([INSTRUCTIONS["CAPTION"], INSTRUCTIONS["REGION_TO_OCR"]])
    with pytest.raises(ValueError, match="takes TileOptions"):
        VisionOptions(tile="auto")  # type: ignore[arg-type]


# Things: what every tile shows of them becomes them again


def on_the_grid(value: float, low: float, high: float) -> float:
    """As the model says it: the middle of one of 1000 bins of the tile."""
    number = min(999, max(0, int((value - low) / (high - low) * 1000)))
    return low + (number + 0.5) * (high - low) / 1000


def shown(region: Region, tile: Box) -> Region | None:
    """What a tile shows of a thing, and more than a sliver of it."""
    assert region.box is not None
    left, top = max(region.box[0], tile[0]), max(region.box[1], tile[1])
    right, bottom = min(region.box[2], tile[2]), min(region.box[3], tile[3])
    if right - left < 6 or bottom - top < 6:
        return None
    box = (
        on_the_grid(left, tile[0], tile[2]), on_the_grid(top, tile[1], tile[3]),
        on_the_grid(right, tile[0], tile[2]), on_the_grid(bottom, tile[1], tile[3]),
    )  # fmt: skip
    polygons = None if region.polygons is None else (rectangle(*box),)
    return Region(region.label, box, polygons=polygons)


def scattered(
    random_numbers: random.Random, count: int, size: tuple[int, int], largest: float, **extra: Any
) -> list[Region]:
    """Things of two kinds that are apart from each other."""
    found: list[Region] = []
    for _ in range(count * 20):
        wide, high = random_numbers.uniform(20, largest), random_numbers.uniform(20, largest)
        left, top = random_numbers.uniform(0, size[0] - wide), random_numbers.uniform(0, size[1] - high)
        box = (left, top, left + wide, top + high)
        if all(_apart(box, other.box or box) for other in found) and len(found) < count:
            found.append(Region(random_numbers.choice("ab"), box, **extra))
    return found


def _apart(first: Box, second: Box, gap: float = 20) -> bool:
    return (
        first[2] + gap < second[0] or second[2] + gap < first[0]
        or first[3] + gap < second[1] or second[3] + gap < first[1]
    )  # fmt: skip


@pytest.mark.parametrize("largest", [100, 600, 1400])
@pytest.mark.parametrize("whole", [False, True])
def test_things_cut_by_tiles_are_found_once_and_whole(largest: int, whole: bool) -> None:
    size = (2000, 1500)
    for seed in range(30):
        random_numbers = random.Random(seed)
        things = scattered(random_numbers, 15, size, largest)
        tiles = tile_boxes(size, TileOptions(500, random_numbers.choice([0.2, 0.25, 0.4])), PUBLISHED)
        views: list[Box] = [(0, 0, *size), *tiles] if whole else list(tiles)
        found = merge_regions(
            [(view, [part for thing in things if (part := shown(thing, view))]) for view in views], size
        )
        assert len(found) == len(things), seed
        for thing in things:
            assert thing.box is not None
            same = [one.box for one in found if one.label == thing.label and one.box is not None]
            off = min(max(abs(a - b) for a, b in zip(box, thing.box, strict=True)) for box in same)
            assert off < 2.1, (seed, thing)  # bins of the whole picture are 2 pixels wide


def test_outlines_in_pieces_are_one_region_without_overlap() -> None:
    size = (1000, 400)
    thing = Region("a", (100, 50, 900, 150), polygons=(rectangle(100, 50, 900, 150),))
    tiles = tile_boxes(size, TileOptions(400, 0.25), PUBLISHED)
    assert len(tiles) == 3
    (found,) = merge_regions([(tile, [part]) for tile in tiles if (part := shown(thing, tile))], size)
    assert found.polygons is not None
    assert len(found.polygons) == 3
    assert sum(map(area_of, found.polygons)) == pytest.approx(800 * 100, rel=0.01)
    masks = [draw_masks([region], size, per_object=False)[0] for region in (found, thing)]
    off = sum(a != b for a, b in zip(*(mask.tobytes() for mask in masks), strict=True))
    assert off < 2000  # of 400 000: along the edges, which are off by half a bin


def boxes_of(views: Sequence[tuple[Box, Sequence[Region]]], **options: Any) -> list[tuple[str, Any]]:
    return [(region.label, region.box) for region in merge_regions(views, (1000, 400), **options)]


LEFT, RIGHT, ALL = (0, 0, 600, 400), (400, 0, 1000, 400), (0, 0, 1000, 400)


def test_what_overlaps_stays_if_it_is_something_else() -> None:
    cat, dog = Region("cat", (420, 10, 580, 200)), Region("dog", (425, 12, 578, 198))
    views = [(LEFT, [cat, dog]), (RIGHT, [cat, dog])]
    assert boxes_of(views) == [("cat", cat.box), ("dog", dog.box)]
    beside = Region("cat", (480, 10, 660, 200))  # an intersection over union of 0.42
    assert boxes_of([(LEFT, [cat]), (RIGHT, [beside])]) == [("cat", cat.box), ("cat", beside.box)]


def test_what_one_view_found_twice_is_left_to_non_maximum_suppression() -> None:
    twice = [Region("cat", (100, 10, 200, 200)), Region("cat", (101, 10, 200, 200))]
    assert len(merge_regions([(LEFT, twice), (RIGHT, [])], (1000, 400))) == 2


def test_the_tile_is_believed_more_than_the_whole_picture() -> None:
    coarse, fine = Region("cat", (98, 8, 205, 210)), Region("cat", (100, 10, 200, 200))
    assert boxes_of([(ALL, [coarse]), (LEFT, [fine]), (RIGHT, [])]) == [("cat", fine.box)]


def test_the_whole_picture_is_believed_more_than_pieces() -> None:
    large = Region("bus", (50, 50, 950, 350))
    pieces = [(LEFT, [Region("bus", (52, 50, 599, 350))]), (RIGHT, [Region("bus", (401, 60, 940, 350))])]
    assert boxes_of([(ALL, [large]), *pieces]) == [("bus", large.box)]
    assert boxes_of(pieces) == [("bus", (52, 50, 940, 350))]


def test_neighbours_that_a_border_cuts_stay_two() -> None:
    """A car that ends within the overlap is not the one that begins there."""
    first, second = Region("car", (300, 100, 480, 200)), Region("car", (520, 100, 700, 200))
    views = [(LEFT, [first, Region("car", (520, 100, 599, 200))])]
    views += [(RIGHT, [Region("car", (401, 100, 480, 200)), second])]
    assert boxes_of(views) == [("car", first.box), ("car", second.box)]


def test_pieces_with_scores_are_as_sure_as_the_less_sure() -> None:
    pieces = [
        (LEFT, [Region("bus", (52, 50, 599, 350), score=0.9)]),
        (RIGHT, [Region("bus", (401, 60, 940, 350), score=0.4)]),
    ]
    assert [region.score for region in merge_regions(pieces, (1000, 400))] == [0.4]


def test_descriptions_need_not_be_equal() -> None:
    views = [
        (LEFT, [Region("a red car", (420, 10, 580, 200))]),
        (RIGHT, [Region("red car parked", (422, 10, 580, 201)), Region("wheel", (430, 150, 460, 190))]),
    ]
    assert len(boxes_of(views)) == 3
    assert boxes_of(views, named=False) == [
        ("a red car", (420, 10, 580, 200)), ("wheel", (430, 150, 460, 190)),
    ]  # fmt: skip


def test_regions_without_a_box_stay() -> None:
    assert boxes_of([(LEFT, [Region("nowhere")]), (RIGHT, [])]) == [("nowhere", None)]


@settings(deadline=None, max_examples=200)
@given(
    views=st.lists(
        st.tuples(
            st.sampled_from([ALL, LEFT, RIGHT]),
            st.lists(
                st.builds(
                    Region,
                    st.sampled_from(["", "a", "ab cd"]),
                    st.none() | st.tuples(*[st.integers(0, 1000)] * 4),
                    quad=st.none() | st.tuples(*[st.integers(0, 1000)] * 8),
                ),
                max_size=4,
            ),
        ),
        max_size=4,
    ),
    texts=st.booleans(),
    named=st.booleans(),
)
def test_whatever_was_found_can_be_merged(views: Any, texts: bool, named: bool) -> None:
    """Quads that cross themselves, boxes without an area, corners in disorder, outside of the tile."""
    given_regions = [region for _, regions in views for region in regions]
    found = merge_regions(views, (1000, 400), texts=texts, named=named)
    assert len(found) <= len(given_regions)
    assert not given_regions or found
    assert len(reading_order(found)) == len(found)


# Text: lines that tiles cut become lines again

WORDS = [
    "the", "of", "and", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "invoice", "total",
    "amount", "due", "page", "chapter", "lorem", "ipsum", "dolor", "sit", "amet",
    "consectetur", "12.50", "2026", "A", "I",
]  # fmt: skip
Line = tuple[str, float, float, float]  # text, left, top, height; a letter is half as wide as high


def page(random_numbers: random.Random, size: tuple[int, int], height: float, columns: int) -> list[Line]:
    lines = []
    for column in range(columns):
        left, wide = column * size[0] / columns + 30, size[0] / columns - 100
        top = 40 + random_numbers.uniform(0, 10)
        while top + height < size[1] - 20:
            text = random_numbers.choice(WORDS)
            while (len(longer := f"{text} {random_numbers.choice(WORDS)}")) * height / 2 <= wide:
                text = longer
            lines.append((text, left, top, height))
            top += height * random_numbers.choice([1.4, 1.4, 1.4, 3])
    return lines


def read(line: Line, tile: Box, random_numbers: random.Random) -> Region | None:
    """A line as a tile shows it. Of letters that its border cuts others are made."""
    text, left, top, height = line
    letter = height / 2
    above, below = max(top, tile[1]), min(top + height, tile[3])
    start, end = max(left, tile[0]), min(left + len(text) * letter, tile[2])
    if below - above < 0.3 * height or end - start < letter:
        return None
    first = math.ceil((start - left) / letter)
    last = min(len(text), math.floor((tile[2] - left) / letter))
    said = text[first:last]
    if first * letter + left > tile[0] + 0.3 * letter and first:
        said = random_numbers.choice("|)lJ") + said
    if last < len(text) and left + last * letter < tile[2] - 0.3 * letter:
        said += random_numbers.choice("|(lC")
    if below - above < 0.8 * height:
        said = "".join(random_numbers.choice("~-_^ijl") for _ in said)
    if not said.strip():
        return None
    return word(
        said.strip(),
        on_the_grid(start, tile[0], tile[2]), on_the_grid(above, tile[1], tile[3]),
        on_the_grid(end, tile[0], tile[2]), on_the_grid(below, tile[1], tile[3]),
    )  # fmt: skip


@pytest.mark.parametrize("overlap", [0.15, 0.25, 0.4])
def test_a_page_is_read_as_it_is_written(overlap: float) -> None:
    size = (4000, 3000)
    for seed in range(12):
        random_numbers = random.Random(seed)
        lines = page(random_numbers, size, random_numbers.choice([40, 60, 90]), seed % 3 + 1)
        views: list[tuple[Box, list[Region]]] = [
            (tile, [part for line in lines if (part := read(line, tile, random_numbers))])
            for tile in tile_boxes(size, TileOptions(1100, overlap), PUBLISHED)
        ]
        if seed % 2:  # the whole picture, where the letters are too small to be read
            guesses = [
                word("".join(random_numbers.choices("abcdef", k=20)), left, top, left + len(text) * high / 2,
                     top + high)
                for text, left, top, high in lines
            ]  # fmt: skip
            views.insert(0, ((0, 0, *size), guesses))
        found = reading_order(merge_regions(views, size, texts=True))
        assert [region.label for region in found] == [text for text, *_ in lines], seed


def test_letters_larger_than_a_tile_are_read_in_the_whole_picture() -> None:
    headline = word("HUGE", 50, 20, 950, 380)
    views = [
        (ALL, [headline]),
        ((0, 0, 400, 200), [word("|-", 50, 20, 399, 199)]),
        ((300, 0, 700, 200), [word("UC", 301, 20, 699, 199)]),
        ((0, 150, 400, 400), [word("I_I", 50, 151, 399, 380)]),
    ]
    assert merge_regions(views, (1000, 400), texts=True) == [headline]


def test_slanted_and_vertical_lines_are_joined() -> None:
    def slanted(text: str, start: float, end: float) -> Region:
        """A line 20 pixels high that falls 1 in 10."""
        quad = (start, start / 10, end, end / 10, end, end / 10 + 20, start, start / 10 + 20)
        return Region(text, (start, start / 10, end, end / 10 + 20), quad=quad)

    below = [slanted("another line und", 100, 600), slanted("line underneath", 405, 900)]
    moved = [
        Region(one.label, tuple(v + 24 * (i % 2) for i, v in enumerate(one.box or ())),  # type: ignore[arg-type]
               quad=tuple(v + 24 * (i % 2) for i, v in enumerate(one.quad or ())))
        for one in below
    ]  # fmt: skip
    views = [
        (LEFT, [slanted("slowly falling d", 100, 600), moved[0]]),
        (RIGHT, [slanted("falling down", 402, 900), moved[1]]),
    ]
    found = merge_regions(views, (1000, 400), texts=True)
    assert [one.label for one in found] == ["slowly falling down", "another line underneath"]
    assert found[0].quad == (100, 10, 900, 90, 900, 110, 100, 30)

    def upward(text: str, left: float, bottom: float, top: float) -> Region:
        """A line turned by 90°, read from the bottom."""
        return Region(
            text, (left, top, left + 20, bottom),
            quad=(left, bottom, left, top, left + 20, top, left + 20, bottom),
        )  # fmt: skip

    upper, lower = (0, 0, 400, 600), (0, 400, 400, 1000)
    views = [
        (upper, [upward("over the fence", 50, 600, 100)]),
        (lower, [upward("jumps over th", 50, 900, 402)]),
    ]
    (found_upward,) = merge_regions(views, (400, 1000), texts=True)
    assert found_upward.label == "jumps over the fence"
    assert found_upward.quad == (50, 900, 50, 100, 70, 100, 70, 900)


def test_pieces_that_are_not_of_one_line_stay_two() -> None:
    small, large = word("small", 300, 100, 599, 120), word("LARGE", 401, 90, 700, 150)
    assert merge_regions([(LEFT, [small]), (RIGHT, [large])], (1000, 400), texts=True) == [small, large]
    turned = (700, 120, 401, 120, 401, 100, 700, 100)
    upside_down = Region("down", (401, 100, 700, 120), quad=turned)
    found = merge_regions([(LEFT, [small]), (RIGHT, [upside_down])], (1000, 400), texts=True)
    assert "small" in [one.label for one in found]
    assert all(len(one.label.split()) == 1 for one in found)


def test_what_one_tile_reads_whole_is_believed_more_than_pieces() -> None:
    views = [
        (LEFT, [word("plain tr", 230, 100, 599, 120)]),
        ((200, 0, 800, 400), [word("plain truth", 230, 100, 780, 120)]),
        (RIGHT, [word("tnuth", 401, 100, 786, 121)]),
    ]
    assert [one.label for one in merge_regions(views, (1000, 400), texts=True)] == ["plain truth"]


def test_the_whole_picture_is_believed_less_than_a_line_that_ends_at_a_border() -> None:
    views = [(ALL, [word("wriffen", 50, 100, 600, 121)]), (LEFT, [word("written", 50, 100, 595, 120)])]
    assert [one.label for one in merge_regions([*views, (RIGHT, [])], (1000, 400), texts=True)] == ["written"]


def test_two_readings_of_one_word_are_one() -> None:
    views = [(LEFT, [word("Hello", 420, 100, 520, 120)]), (RIGHT, [word("He11o", 450, 101, 522, 121)])]
    assert [one.label for one in merge_regions(views, (1000, 400), texts=True)] == ["Hello"]
    words = [word("Hello", 420, 100, 480, 120), word("there", 485, 100, 540, 120)]
    views = [(LEFT, [word("Hello there", 420, 100, 540, 120)]), (RIGHT, words)]
    assert [one.label for one in merge_regions(views, (1000, 400), texts=True)] == ["Hello there"]


@pytest.mark.parametrize(
    ("first", "second", "shared", "joined"),
    [
        ("The quick bro", "ick brown fox", (0.5, 0.5), "The quick brown fox"),
        ("The quick brc", ")uick brown fox", (0.6, 0.6), "The quick brown fox"),  # cut letters misread
        ("ha ha ha ha", "ha ha ha ha ha", (5 / 11, 5 / 14), "ha ha ha ha ha ha ha"),  # by place
        ("abc def", "xyz uvw", (0.4, 0.4), "abc uvw"),  # nothing in common: half of the overlap each
        ("abc", "def", (0.0, 0.0), "abc def"),
        ("", "def", (0.5, 0.5), "def"),
        ("一二三四五", "四五六七", (0.4, 0.5), "一二三四五六七"),
    ],
)
def test_pieces_of_a_line_are_put_together(
    first: str, second: str, shared: tuple[float, float], joined: str
) -> None:
    assert join_texts(first, second, shared) == joined


@given(first=st.text(max_size=12), second=st.text(max_size=12), parts=st.tuples(*[st.floats(0, 1)] * 2))
def test_any_two_texts_can_be_put_together(first: str, second: str, parts: tuple[float, float]) -> None:
    assert len(join_texts(first, second, parts)) <= len(first) + len(second) + 1


def test_similar_texts() -> None:
    assert similar_texts("Hello, World", "hello world")
    assert similar_texts("!!", "!!")
    assert not similar_texts("!!", "??")
    assert not similar_texts("STOP", "OPEN")


def test_lines_without_a_place_count_once_where_views_overlap() -> None:
    far = (700, 0, 1000, 400)
    assert merge_lines([(LEFT, "STOP\nHELLO wor"), (RIGHT, "hello world\n\nEXIT"), (far, "STOP")]) == [
        "STOP", "hello world", "EXIT", "STOP",
    ]  # fmt: skip
    assert merge_lines([(LEFT, "STOP\nSTOP")]) == ["STOP", "STOP"]
    assert merge_lines([(ALL, " "), (LEFT, "")]) == []


# Reading order


def test_columns_are_read_one_after_the_other() -> None:
    title = word("title", 100, 0, 900, 60)
    left = [word(f"l{row}", 50, 100 + 40 * row, 450 - 20 * row, 130 + 40 * row) for row in range(5)]
    right = [word(f"r{row}", 550, 95 + 40 * row, 950, 125 + 40 * row) for row in range(5)]
    foot = [word("page", 50, 400, 100, 420), word("7", 900, 401, 920, 421)]
    ordered = [title, *left, *right, *foot]
    shuffled = random.Random(3).sample(ordered, len(ordered))
    assert [one.label for one in reading_order(shuffled)] == [one.label for one in ordered]


def test_words_of_a_line_are_read_from_the_left() -> None:
    """Also if they stand a little higher or lower."""
    words = [word("a", 0, 12, 40, 32), word("b", 50, 8, 90, 28), word("c", 100, 11, 140, 31)]
    below = [word("d", 0, 34, 40, 54), word("e", 52, 36, 90, 56)]
    shuffled = [*below[::-1], *words[::-1]]
    assert "".join(one.label for one in reading_order(shuffled)) == "abcde"


def test_a_thousand_lines_are_ordered() -> None:
    lines = [word(str(row), 0, 20 * row, 500, 20 * row + 15) for row in range(1000)]
    assert reading_order(lines[::-1]) == lines
    assert reading_order([]) == []


# Clipping


def test_a_clipped_polygon_has_the_area_on_that_side() -> None:
    u_shape = (0, 0, 30, 0, 30, 30, 20, 30, 20, 10, 10, 10, 10, 30, 0, 30)
    assert area_of(u_shape) == 700
    assert area_of(clip_along(u_shape, 0, 15, below=True)) == pytest.approx(350)
    assert area_of(clip_along(u_shape, 1, 10, below=False)) == pytest.approx(400)
    assert clip_along(u_shape, 0, 30, below=False) == () or not area_of(
        clip_along(u_shape, 0, 30, below=False)
    )
    assert clip_along(u_shape, 1, -1, below=True) == ()


@given(boxes=st.tuples(*[st.tuples(*[st.integers(0, 100)] * 4)] * 2))
def test_the_overlap_of_boxes_is_that_of_their_hulls(boxes: tuple[Any, Any]) -> None:
    first, second = (
        (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])) for box in boxes
    )
    shared = convex_overlap(*(convex_hull(rectangle(*box)) for box in (first, second)))
    union = area_of(rectangle(*first)) + area_of(rectangle(*second)) - shared
    assert shared == pytest.approx(box_iou(first, second) * union)


def test_the_overlap_of_turned_squares() -> None:
    diamond = convex_hull((10, 0, 20, 10, 10, 20, 0, 10))
    assert convex_overlap(diamond, convex_hull(rectangle(0, 0, 20, 20))) == pytest.approx(200)
    assert convex_overlap(diamond, convex_hull(rectangle(10, 0, 20, 20))) == pytest.approx(100)
    assert area_of(convex_hull((0, 0, 10, 10, 10, 0, 0, 10))) == 100  # corners in disorder


# From answers to a result


def answers(instruction: str, *said: tuple[Any, str]) -> list[tuple[Any, Any]]:
    return [
        (tile, parse_answer(instruction, raw, (tile[2] - tile[0], tile[3] - tile[1]))) for tile, raw in said
    ]


def test_regions_are_in_pixels_of_the_picture() -> None:
    said = answers(
        "OD",
        (ALL, "cat<loc_600><loc_99><loc_699><loc_499>"),
        (LEFT, ""),
        (RIGHT, "cat<loc_333><loc_100><loc_499><loc_500>dog<loc_500><loc_0><loc_599><loc_99>"),
    )
    result = join_tile_answers(INSTRUCTIONS["OD"], said, (1000, 400), VisionOptions())
    assert isinstance(result, Regions)
    assert [region.label for region in result.regions] == ["cat", "dog"]
    assert result.regions[0].box == pytest.approx((600.1, 40.2, 699.7, 200.2))
    assert result.text == "cat, dog"
    assert result.tiles == 2
    assert result.raw.splitlines() == [answer.raw for _, answer in said]
    assert result.to_dict()["tiles"] == 2
    assert "tiles" not in said[0][1].to_dict()


def test_outlines_and_corners_are_in_pixels_of_the_picture() -> None:
    tiles = [(0, 0, 100, 100), (300, 200, 400, 300)]
    for name, points in (
        ("REFERRING_EXPRESSION_SEGMENTATION", "<loc_100><loc_200><loc_500><loc_200><loc_500><loc_600>"),
        ("OCR_WITH_REGION", "a" + "<loc_100><loc_200><loc_500><loc_600>" * 2),
    ):
        said = answers(name, (tiles[0], ""), (tiles[1], points))
        (here,) = said[1][1].regions
        result = join_tile_answers(INSTRUCTIONS[name], said, (400, 300), VisionOptions())
        assert isinstance(result, Regions)
        (there,) = result.regions
        shapes = [(one.box, one.quad, *(one.polygons or ())) for one in (here, there)]
        for before, after in zip(*shapes, strict=True):
            moved = before and [value + (300, 200)[place % 2] for place, value in enumerate(before)]
            assert after == moved or after == pytest.approx(moved)


def test_an_answer_that_was_cut_off_marks_the_result() -> None:
    said = [(tile, parse_answer("OD", "", (600, 400), truncated=tile == RIGHT)) for tile in (LEFT, RIGHT)]
    assert join_tile_answers(INSTRUCTIONS["OD"], said, (1000, 400), VisionOptions()).truncated


def test_what_is_said_without_a_place_is_said_once() -> None:
    said = answers("OD", (LEFT, "nothing"), (RIGHT, "nothing"))
    result = join_tile_answers(INSTRUCTIONS["OD"], said, (1000, 400), VisionOptions())
    assert (result.text, getattr(result, "regions")) == ("nothing", ())  # noqa: B009


def test_words_with_places_become_text() -> None:
    quad = "<loc_{0}><loc_{1}><loc_{2}><loc_{1}><loc_{2}><loc_{3}><loc_{0}><loc_{3}>"
    said = answers(
        "OCR_WITH_REGION",
        (LEFT, "second line is lo" + quad.format(100, 500, 999, 550)),
        (RIGHT, "first" + quad.format(300, 100, 400, 150) + "ne is long" + quad.format(0, 500, 600, 550)),
    )
    text = join_tile_answers(INSTRUCTIONS["OCR"], said, (1000, 400), VisionOptions())
    assert isinstance(text, OcrText)
    assert text.text == "first\nsecond line is long"
    assert (text.instruction, text.tiles, text.to_dict()["tiles"]) == ("OCR", 2, 2)
    placed = join_tile_answers(INSTRUCTIONS["OCR_WITH_REGION"], said, (1000, 400), VisionOptions())
    assert isinstance(placed, Regions)
    assert placed.text == text.text


def test_words_are_asked_for_with_their_places() -> None:
    ocr, placed = INSTRUCTIONS["OCR"], INSTRUCTIONS["OCR_WITH_REGION"]
    assert tile_instruction(ocr) is placed
    assert tile_instruction(ocr, ("OCR", "OCR_WITH_REGION")) is placed
    assert tile_instruction(ocr, ("OCR", "OD")) is ocr
    assert tile_instruction(INSTRUCTIONS["OD"]) is INSTRUCTIONS["OD"]
