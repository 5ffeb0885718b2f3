"""Masks of regions: covered areas against what geometry says they are."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from promptgen.captioning import Region
from promptgen.captioning.coverage import Window, cover
from promptgen.captioning.masks import draw_masks

SIZE = (60, 40)
STAR = tuple(  # five points in one line that crosses itself: its middle is wound around twice
    value
    for point in range(5)
    for value in (30 + 18 * math.sin(0.8 * math.pi * point), 20 - 18 * math.cos(0.8 * math.pi * point))
)


def mask_of(
    *regions: Region, size: tuple[int, int] = SIZE, grow: float = 0, feather: float = 0
) -> np.ndarray:
    (mask,) = draw_masks(regions, size, per_object=False, grow=grow, feather=feather)
    assert mask.mode == "L"
    assert mask.size == size
    return np.asarray(mask)


def polygon(*rings: Sequence[float], label: str = "") -> Region:
    return Region(label, polygons=tuple(tuple(map(float, ring)) for ring in rings))


def area(mask: np.ndarray) -> float:
    """In pixels."""
    return float(mask.sum()) / 255


def test_a_box_covers_its_pixels_and_parts_of_those_at_its_edges() -> None:
    mask = mask_of(Region("cat", (10.25, 5, 20, 8.5)))
    expected = np.zeros((40, 60))
    expected[5:8, 11:20] = 255
    expected[5:8, 10] = round(255 * 0.75)
    expected[8, 11:20] = round(255 * 0.5)
    expected[8, 10] = round(255 * 0.375)
    assert np.abs(mask - expected).max() <= 0.5


def test_polygons_come_before_the_quad_and_the_quad_before_the_box() -> None:
    box, quad = (0.0, 0.0, 40.0, 40.0), (0.0, 0.0, 20.0, 0.0, 20.0, 20.0, 0.0, 20.0)
    assert area(mask_of(Region("", box, quad=quad))) == 400
    assert (
        area(mask_of(Region("", box, quad=quad, polygons=((0.0, 0.0, 10.0, 0.0, 10.0, 5.0, 0.0, 5.0),))))
        == 50
    )
    assert area(mask_of(Region("nowhere"))) == 0


@pytest.mark.parametrize("corners", [3, 4, 7, 64])
def test_the_area_of_a_polygon(corners: int) -> None:
    turns = [2 * math.pi * k / corners + 0.1 for k in range(corners)]
    ring = [v for turn in turns for v in (30.3 + 15 * math.cos(turn), 20.6 + 15 * math.sin(turn))]
    expected = corners / 2 * 15**2 * math.sin(2 * math.pi / corners)
    window = Window(0, 0, *SIZE)
    assert cover([np.reshape(ring, (-1, 2))], window).sum() == pytest.approx(expected, rel=1e-5)
    assert area(mask_of(polygon(ring))) == pytest.approx(expected, abs=0.3)  # in 256 steps per pixel


def test_each_pixel_of_a_slanted_edge() -> None:
    """Under y = x / 2, pixel (2k, k) is covered but for a triangle of a quarter, (2k + 1, k) a quarter."""
    mask = mask_of(polygon([0, 0, 40, 20, 0, 20]))
    for k in range(19):
        assert mask[k, 2 * k] == round(0.75 * 255)
        assert mask[k, 2 * k + 1] == round(0.25 * 255)
        assert mask[k, 2 * k + 2] == 0


coordinates = st.floats(-30, 90, allow_nan=False) | st.integers(-5, 65).map(float)
rings = st.lists(coordinates, min_size=6, max_size=16).map(lambda ring: ring[: len(ring) // 2 * 2])


@settings(max_examples=60, deadline=None)
@given(st.lists(rings, min_size=1, max_size=3))
def test_any_polygons_cover_what_samples_say(shape: list[list[float]]) -> None:
    """Against 16 samples across and down each pixel, by the winding number of each polygon."""
    steps = 16
    covered = cover([np.reshape(ring, (-1, 2)) for ring in shape], Window(0, 0, 12, 9))
    x = (np.arange(12 * steps)[None, :] + 0.5) / steps
    y = (np.arange(9 * steps)[:, None] + 0.5) / steps
    inside = np.zeros((9 * steps, 12 * steps), bool)
    for ring in shape:
        winding = np.zeros(inside.shape, int)
        points = list(zip(ring[::2], ring[1::2], strict=True))
        for (xa, ya), (xb, yb) in zip(points, points[1:] + points[:1], strict=True):
            across = ((ya <= y) & (y < yb)).astype(int) - ((yb <= y) & (y < ya))
            meets = xa + (y - ya) * (xb - xa) / ((yb - ya) if abs(yb - ya) > 1e-9 else 1)
            winding += across * (meets < x)
        inside |= winding != 0
    samples = inside.reshape(9, steps, 12, steps).mean((1, 3))
    edges = sum(len(ring) // 2 for ring in shape)
    assert np.abs(covered - samples).max() < edges * 1.5 / steps
    assert np.abs(covered - samples).mean() < edges * 0.25 / steps


def test_where_edges_cross_within_a_row_of_pixels() -> None:
    bow_tie, window = np.array([[10, 10], [30, 10], [10, 20.7], [30, 20.7]]), Window(0, 0, *SIZE)
    assert cover([bow_tie], window).sum() == pytest.approx(2 * 20 * 5.35 / 2, rel=1e-5)
    across = [
        np.array([[5, 9.3], [40, 9.3], [40, 12.4], [5, 12.4]]),
        np.array([[20, 5], [30, 5], [25, 30.0]]),
    ]
    beyond = 0.0  # what of the triangle lies above and below the bar, by its width at each height
    for top, bottom in ((5, 9.3), (12.4, 30)):
        beyond += (bottom - top) * (10 * (30 - top) / 25 + 10 * (30 - bottom) / 25) / 2
    assert cover(across, window).sum() == pytest.approx(35 * 3.1 + beyond, rel=1e-5)


def test_what_a_polygon_winds_around_twice_is_no_hole() -> None:
    mask = mask_of(polygon(STAR))
    assert mask[20, 30] == 255
    assert (mask > 0).sum() > area(mask) > 300


def test_polygons_of_an_object_are_united_whichever_way_they_go() -> None:
    outer, inner = [5, 5, 35, 5, 35, 35, 5, 35], [10, 10, 10, 20, 20, 20, 20, 10]
    assert area(mask_of(polygon(outer, inner))) == 900
    assert area(mask_of(polygon(outer, inner[::-1]))) == 900
    assert area(mask_of(polygon(outer, [40, 5, 50, 5, 50, 15, 40, 15]))) == 1000


def test_objects_that_abut_have_no_seam() -> None:
    halves = Region("left", (5, 5, 20.5, 20)), Region("right", (20.5, 5, 40, 20))
    assert (mask_of(*halves)[5:20, 5:40] == 255).all()
    assert (mask_of(*halves, grow=-2)[7:18, 7:38] == 255).all()
    assert area(mask_of(*halves, grow=-2)) == 31 * 11


def test_one_mask_per_object_in_order() -> None:
    regions = [Region("a", (0, 0, 10, 10)), Region("nowhere"), Region("b", (5, 5, 15, 15))]
    masks = [np.asarray(mask) for mask in draw_masks(regions, SIZE, per_object=True)]
    assert [area(mask) for mask in masks] == [100, 0, 100]
    assert (mask_of(*regions) == np.maximum(masks[0], masks[2])).all()


def test_no_regions() -> None:
    assert area(mask_of()) == 0
    assert draw_masks([], SIZE, per_object=True) == []


@pytest.mark.parametrize("grow", [0.3, 1, 4.5])
def test_what_grows_has_round_corners(grow: float) -> None:
    width, height = 20.5, 9.75
    expected = width * height + 2 * grow * (width + height) + math.pi * grow**2
    mask = mask_of(Region("", (15.25, 10.5, 15.25 + width, 10.5 + height)), grow=grow)
    assert area(mask) == pytest.approx(expected, abs=0.8)
    assert mask[11 - math.ceil(grow), 25] > 0


@pytest.mark.parametrize("grow", [-0.3, -1, -4])
def test_what_shrinks_keeps_its_corners(grow: float) -> None:
    mask = mask_of(Region("", (15.25, 10.5, 35.75, 20.25)), grow=grow)
    assert area(mask) == pytest.approx((20.5 + 2 * grow) * (9.75 + 2 * grow), abs=0.5)


def test_a_slanted_shape_grows_and_shrinks_as_much_in_every_direction() -> None:
    turns = [2 * math.pi * k / 90 for k in range(90)]
    circle = polygon([v for turn in turns for v in (30 + 10 * math.cos(turn), 20 + 10 * math.sin(turn))])
    for grow in (-7, -2.5, 2.5, 8):
        assert area(mask_of(circle, grow=grow)) == pytest.approx(math.pi * (10 + grow) ** 2, rel=0.01)
    assert area(mask_of(circle, grow=-11)) == 0


def test_a_shape_that_crosses_itself_shrinks_from_its_outside_only() -> None:
    assert mask_of(polygon(STAR), grow=-1)[20, 30] == 255


def test_feather_is_a_gaussian() -> None:
    mask = mask_of(Region("", (20, 0, 60, 40)), feather=3)
    steps = [0.5 * (1 + math.erf((x + 0.5 - 20) / (3 * math.sqrt(2)))) for x in range(10, 30)]
    assert np.abs(mask[20, 10:30] / 255 - steps).max() < 0.02
    assert (mask[:, 35:] == 255).all()  # the image's border is no edge


def test_feather_is_worked_out_on_a_part_as_on_the_whole() -> None:
    region, size = Region("", (100, 90, 130, 95)), (400, 300)
    (hard,) = draw_masks([region], size, per_object=False)
    assert (
        mask_of(region, size=size, feather=6) == np.asarray(hard.filter(ImageFilter.GaussianBlur(6)))
    ).all()


@pytest.mark.parametrize("size", [(1, 1), (20000, 10), (3, 5000)])
def test_odd_sizes_and_shapes_beyond_the_image(size: tuple[int, int]) -> None:
    everywhere = Region("", (-1e9, -1e9, 1e9, 1e9))
    huge = polygon([-1e7, -1e7, 3e7, -1e7, 0, 4e7])
    for region in (everywhere, huge):
        for grow in (0, 2, -2):
            assert (mask_of(region, size=size, grow=grow) == 255).all()
    assert area(mask_of(Region("", (-50, -50, -10, -10)), size=size, grow=3, feather=1)) == 0


@pytest.mark.parametrize(
    "ring",
    [[5, 5, 5, 5, 5, 5], [5, 5, 30, 5, 15, 5], [5, 5, 20, 20, 10, 10]],
    ids=["point", "level", "slanted"],
)
def test_a_shape_without_area_covers_nothing_until_it_grows(ring: list[float]) -> None:
    assert area(mask_of(polygon(ring))) == pytest.approx(0, abs=1e-6)
    assert area(mask_of(polygon(ring), grow=-1)) == 0
    length = math.dist((min(ring[::2]), min(ring[1::2])), (max(ring[::2]), max(ring[1::2])))
    assert area(mask_of(polygon(ring), grow=2)) == pytest.approx(4 * length + math.pi * 4, rel=0.03)


def test_memory_is_bounded_by_the_mask() -> None:
    """A picture in sixteen times its size would take 4 GB here; and Pillow takes none of it for a bomb."""
    tracemalloc.start()
    draw_masks([Region("", (10.5, 10, 11000, 1500))], (16000, 1600), per_object=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 120e6  # numpy's part; the mask itself is 26 MB


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"feather": -1}, "feather is -1"),
        ({"feather": math.inf}, "feather is inf"),
        ({"grow": math.nan}, "grow is nan"),
        ({"image_size": (0, 5)}, "0 × 5"),
        ({"regions": [Region("cat", (0, 0, math.nan, 5))]}, "'cat'.*finite"),
    ],
)
def test_what_cannot_be_drawn_is_said(arguments: dict, said: str) -> None:
    given_all = {"regions": [], "image_size": SIZE, "per_object": False, **arguments}
    with pytest.raises(ValueError, match=said):
        draw_masks(given_all.pop("regions"), given_all.pop("image_size"), **given_all)


def test_a_mask_is_as_large_as_a_picture_it_can_be_put_on() -> None:
    picture = Image.new("RGB", SIZE, "white")
    (mask,) = draw_masks([Region("", (0, 0, 30, 40))], SIZE, per_object=True)
    picture.paste((255, 0, 0), (0, 0), mask)
    assert picture.getpixel((10, 10)) == (255, 0, 0)
    assert picture.getpixel((40, 10)) == (255, 255, 255)
