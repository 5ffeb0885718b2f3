"""Tiling in the engine: small things on large pages, found by the demo model; batches, memory, options."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont
from promptgen.captioning import (
    Captioner,
    CaptionOptions,
    FeatureCache,
    InstructionError,
    OcrText,
    Region,
    Regions,
    Result,
    TileOptions,
    VisionOptions,
    box_iou,
)
from promptgen.captioning.runs.settings import settings_digest
from promptgen.captioning.tiles import tile_boxes
from promptgen.florence2 import Florence2Model
from promptgen.training.demo.scenes import COLOURS, SHAPES, WORDS, SceneShape, _placed_outline

ROOT = Path(__file__).parents[1]
SIDE = 1000  # of the tiles of a page, in pixels
GROUND = "gray"
PAINT = [colour for colour in COLOURS if colour != GROUND]


def demo(**options: Any) -> Captioner:
    options.setdefault("feature_cache", FeatureCache())
    return Captioner("demo", device="cpu", dtype="fp32", **options)


def tiled(
    size: int | None = None, overlap: float = 0.25, whole: bool = True, **vision: Any
) -> CaptionOptions:
    return CaptionOptions(vision=VisionOptions(tile=TileOptions(size, overlap, whole), **vision))


def paint(page: Image.Image, shape: str, colour: str, middle: tuple[float, float], diameter: float) -> Region:
    """Draw one of the shapes that the demo model knows; what is there then."""
    half = diameter / 2
    box = (middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half)
    points = _placed_outline(SceneShape(shape, colour, "small", "center", box))
    draw = ImageDraw.Draw(page)
    draw.polygon(points, fill=COLOURS[colour])
    if shape == "ring":
        inset = diameter * 0.24
        draw.ellipse((box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset), fill=COLOURS[GROUND])
    across, down = [x for x, _ in points], [y for _, y in points]
    return Region(shape, (min(across), min(down), max(across), max(down)))


def page_of_shapes(columns: int, rows: int, step: int) -> tuple[Image.Image, list[Region]]:
    """Shapes of 180 pixels, each where two tiles overlap, so that both show it, one left and one right."""
    random_numbers = random.Random(5)
    page = Image.new("RGB", (SIDE + (columns - 1) * step, SIDE + (rows - 1) * step), COLOURS[GROUND])
    things = [
        paint(
            page,
            random_numbers.choice(SHAPES),
            PAINT[(column + 3 * row) % len(PAINT)],
            (column * step + 810, row * step + 500),
            180,
        )
        for row in range(rows)
        for column in range(columns - 1)
    ]
    return page, things


def found_of(things: list[Region], result: Result) -> list[Region]:
    """Which of the things are among the regions of a result."""
    assert isinstance(result, Regions)
    return [
        thing
        for thing in things
        if any(
            one.label == thing.label and one.box and thing.box and box_iou(one.box, thing.box) >= 0.5
            for one in result.regions
        )
    ]


def results_of(captioner: Captioner, image: Any, *arguments: Any, **keywords: Any) -> tuple[Result, ...]:
    (answered,) = captioner.caption(image, *arguments, **keywords)
    assert answered.error is None
    return answered.results


# What it is for


def test_small_things_on_a_large_page_are_found() -> None:
    page, things = page_of_shapes(columns=9, rows=2, step=620)
    assert page.size == (5960, 1620)
    captioner = demo()
    (plain,) = results_of(captioner, page, "OD")
    assert found_of(things, plain) == []
    (result,) = results_of(captioner, page, "OD", tiled(SIDE, 0.38))
    assert isinstance(result, Regions)
    assert result.tiles == 18
    assert found_of(things, result) == things
    assert len(result.regions) <= len(things) + 2  # what the model takes the whole page for comes on top
    (result,) = results_of(captioner, page, "OD", tiled(SIDE, 0.38, whole=False))
    assert isinstance(result, Regions)
    assert found_of(things, result) == things
    assert len(result.regions) == len(things)  # although every one is in two tiles


def test_small_words_on_a_large_page_are_read() -> None:
    columns, rows, step = 6, 3, 900
    page = Image.new("RGB", (SIDE + (columns - 1) * step, SIDE + (rows - 1) * step), COLOURS[GROUND])
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(215)
    words = []
    for row in range(rows):
        for column in range(columns):
            words.append(WORDS[(column + 3 * row) % len(WORDS)])
            middle = (column * step + 500, row * step + 500)
            draw.text(middle, words[-1], fill=(10, 10, 10), font=font, anchor="mm")
            paint(page, SHAPES[column], PAINT[column + row], (middle[0], middle[1] - 310), 170)
    captioner = demo()
    (plain,) = results_of(captioner, page, "OCR")
    assert len(plain.text.split()) <= 1
    (result,) = results_of(captioner, page, "OCR", tiled(SIDE, 0.1, whole=False))
    assert isinstance(result, OcrText)
    assert result.lines == words
    assert result.to_dict()["tiles"] == 18


# What is the same


@pytest.fixture(scope="module")
def collage() -> Image.Image:
    """The examples side by side, and the last of them turned: 640 × 400 pixels."""
    page = Image.new("RGB", (640, 400), (250, 250, 250))
    for number, path in enumerate(sorted((ROOT / "examples").glob("*.png"))[:4]):
        with Image.open(path) as example:
            part = example.convert("RGB").resize((300, 180))
        page.paste(part, (10 + 320 * (number % 2), 10 + 200 * (number // 2)))
    return page


def test_a_tile_is_answered_like_a_picture_of_its_own(collage: Image.Image) -> None:
    captioner = demo()
    (result,) = results_of(captioner, collage, "OD", tiled(300))
    boxes = tile_boxes(collage.size, TileOptions(300), (128, 128))
    assert len(boxes) == 6
    alone = [results_of(captioner, collage.crop(box), "OD")[0].raw for box in ((0, 0, 640, 400), *boxes)]
    assert result.raw.split("\n") == alone


def test_batches_change_nothing(collage: Image.Image) -> None:
    pictures = [collage, collage.crop((0, 0, 200, 150)), collage.rotate(180)]
    asked = (["OD", "CAPTION"], tiled(400, scores=True))
    first, *others = [demo(batch_size=size).caption(pictures, *asked) for size in (None, 1, 3)]
    for other in others:
        assert [[one.text for one in each.results] for each in other] == [
            [one.text for one in each.results] for each in first
        ]
        assert [[one.raw for one in each.results] for each in other] == [
            [one.raw for one in each.results] for each in first
        ]


def test_a_picture_that_need_not_be_cut_is_answered_as_ever(collage: Image.Image) -> None:
    captioner, small = demo(), collage.crop((0, 0, 250, 200))
    asked = ["OD", "OCR", "CAPTION"]
    assert results_of(captioner, small, asked, tiled()) == results_of(captioner, small, asked)
    assert "tiles" not in results_of(captioner, small, "OD", tiled())[0].to_dict()


def test_descriptions_are_of_the_whole_picture(collage: Image.Image) -> None:
    captioner = demo()
    for whole in (True, False):
        caption, found = results_of(captioner, collage, ["CAPTION", "OD"], tiled(300, whole=whole))
        assert caption == results_of(captioner, collage, "CAPTION")[0]
        assert found == results_of(captioner, collage, "OD", tiled(300, whole=whole))[0]
        assert len(found.raw.split("\n")) == 6 + whole


def test_places_are_those_of_the_picture_as_it_is_seen(collage: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    file = io.BytesIO()
    collage.rotate(90, expand=True).save(file, "PNG", exif=exif)
    captioner = demo()
    assert results_of(captioner, file.getvalue(), "OD", tiled(300)) == results_of(
        captioner, collage, "OD", tiled(300)
    )


# What is chosen


def test_the_best_are_chosen_of_all_tiles(collage: Image.Image) -> None:
    captioner = demo()

    def scores(**vision: Any) -> list[float]:
        (result,) = results_of(captioner, collage, "OD", tiled(300, **vision))
        assert isinstance(result, Regions)
        assert all(region.score is not None for region in result.regions)
        return [region.score or 0 for region in result.regions]

    every = scores(scores=True)
    assert len(every) > 4
    assert sorted(scores(top_k=2)) == sorted(every)[-2:]
    least = sorted(every)[-3]
    assert all(score >= least for score in scores(threshold=least))
    (result,) = results_of(captioner, collage, "OD", tiled(300, threshold=1.0))
    assert (result.text, getattr(result, "regions")) == ("", ())  # noqa: B009


# Memory, cache, cancelling, errors


def test_tiles_go_through_the_vision_tower_in_batches_and_once(
    collage: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    encode = Florence2Model.encode_images

    def spy(model: Florence2Model, pixels: Any, *arguments: Any) -> Any:
        sizes.append(len(pixels))
        return encode(model, pixels, *arguments)

    monkeypatch.setattr(Florence2Model, "encode_images", spy)
    cache = FeatureCache()
    captioner = demo(batch_size=2, feature_cache=cache)
    results_of(captioner, collage, "OD", tiled(300))
    views = sum(sizes)
    assert views == len(tile_boxes(collage.size, TileOptions(300), (128, 128))) + 1 == len(cache)
    assert max(sizes) <= 2
    results_of(captioner, collage, ["OD", "CAPTION"], tiled(300))
    assert sum(sizes) == views


def test_many_tiles_leave_the_features_of_other_pictures_alone(collage: Image.Image) -> None:
    small = collage.crop((0, 0, 128, 128))
    cache = FeatureCache()
    demo(feature_cache=cache).caption(small, "OD")
    each = cache.nbytes
    tiles = len(tile_boxes(collage.size, TileOptions(200), (128, 128)))
    for room, kept in ((2 * tiles - 2, 2), (2 * tiles, tiles + 2)):
        cache = FeatureCache(room * each)
        captioner = demo(feature_cache=cache)
        captioner.caption(small, "OD")
        captioner.caption(collage, "OD", tiled(200))
        assert len(cache) == kept  # of the small one and of the large one as a whole always


def test_not_many_pages_are_held_at_a_time(collage: Image.Image) -> None:
    asked_for = 0

    def pages() -> Iterator[Image.Image]:
        nonlocal asked_for
        for _ in range(7):
            asked_for += 1
            yield collage

    stream = demo(batch_size=2).stream(pages(), "OD", tiled(400))
    counts = []
    for answered in stream:
        assert answered.error is None
        counts.append(asked_for)
    assert len(counts) == 7
    assert all(count <= number + 3 for number, count in enumerate(counts))


def test_small_pictures_are_still_answered_together(
    collage: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    generate = Florence2Model.generate

    def spy(model: Florence2Model, features: Any, *arguments: Any, **keywords: Any) -> Any:
        sizes.append(len(features))
        return generate(model, features, *arguments, **keywords)

    monkeypatch.setattr(Florence2Model, "generate", spy)
    demo(batch_size=4).caption([collage.crop((0, 0, 200, 150))] * 8, "OD", tiled())
    assert sizes == [4, 4]


def test_a_page_can_be_cancelled_between_its_tiles(collage: Image.Image) -> None:
    class StopError(Exception):
        pass

    steps = 0

    def stop(count: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 40:
            raise StopError

    with pytest.raises(StopError):
        demo(batch_size=1).caption(collage, "OD", tiled(200), stop)
    assert steps == 40


def test_a_picture_with_too_many_tiles_stops_no_other(collage: Image.Image) -> None:
    large = Image.new("RGB", (1600, 1600))
    first, second = demo().caption([large, collage.crop((0, 0, 40, 40))], "OD", tiled(32))
    assert first.error is not None
    assert "1000 is the limit" in first.error
    assert isinstance(first.exception, InstructionError)
    assert second.ok


def test_tiles_need_an_instruction_that_finds_something() -> None:
    with pytest.raises(InstructionError, match="tiles have no use: CAPTION is about the whole picture"):
        demo().caption("no such file", "CAPTION", tiled())


def test_runs_with_other_tiles_are_other_runs() -> None:
    captioner = demo()

    def digest(vision: VisionOptions) -> str:
        return settings_digest(captioner, ["OD"], CaptionOptions(vision=vision))

    options = [None, TileOptions(), TileOptions(300), TileOptions(300, 0.3), TileOptions(300, 0.3, False)]
    assert len({digest(VisionOptions(tile=tile)) for tile in options}) == len(options)
    assert digest(VisionOptions(tile=TileOptions(300))) == digest(VisionOptions(tile=TileOptions(300, 0.25)))
    assert digest(VisionOptions()) == settings_digest(captioner, ["OD"], CaptionOptions())
