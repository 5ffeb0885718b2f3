"""Boxes around what a mask shows, against a flood fill."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from promptgen.captioning.mask_bounds import mask_box, mask_boxes
from promptgen.captioning.region_prompts import boxes_text, region_boxes


def test_the_box_around_all_of_a_mask() -> None:
    mask = np.zeros((30, 40), np.float32)
    mask[10:20, 5:8] = 0.6
    mask[25, 39] = 1.0
    mask[0, 0] = 0.5  # not above one half
    assert mask_box(mask) == (5, 10, 40, 26)
    assert mask_box(mask, (400, 60)) == (50, 20, 400, 52)
    assert mask_boxes(mask) == ((5, 10, 8, 20), (39, 25, 40, 26))
    assert mask_boxes(mask, least_pixels=2) == ((5, 10, 8, 20),)
    assert region_boxes(boxes_text(mask_boxes(mask)), (40, 30)) == mask_boxes(mask)


@pytest.mark.parametrize("kind", ["bool", "bytes", "image", "tensor"])
def test_all_kinds_of_masks(kind: str) -> None:
    shown = np.zeros((4, 6), bool)
    shown[1, 2:4] = True
    grey = (shown * 200).astype(np.uint8)
    masks = {
        "bool": shown,
        "bytes": grey,
        "image": Image.fromarray(grey),
        "tensor": torch.from_numpy(shown).float(),
    }
    assert mask_box(masks[kind]) == (2, 1, 4, 2)


def test_masks_without_anything() -> None:
    assert mask_box(np.zeros((3, 3))) is None
    assert mask_boxes(np.zeros((3, 3))) == ()
    with pytest.raises(ValueError, match=r"has \(1, 3, 3\)"):
        mask_box(np.zeros((1, 3, 3)))
    with pytest.raises(ValueError, match="and pixels"):
        mask_boxes(np.zeros((0, 3)))


def flood_filled(shown: np.ndarray) -> list[tuple[float, ...]]:
    left_over = {(int(y), int(x)) for y, x in zip(*np.nonzero(shown), strict=True)}
    boxes = []
    while left_over:
        edge = [left_over.pop()]
        part = list(edge)
        while edge:
            y, x = edge.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left_over
            left_over -= near
            edge += near
            part += near
        rows, columns = zip(*part, strict=True)
        boxes.append((min(columns), min(rows), max(columns) + 1, max(rows) + 1))
    return boxes


@given(arrays.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))))
@settings(deadline=None, max_examples=150)
def test_parts_are_those_of_a_flood_fill(shown: np.ndarray) -> None:
    assert sorted(mask_boxes(shown)) == sorted(flood_filled(shown))


def test_a_spiral_is_one_part_and_a_large_noisy_mask_takes_no_time() -> None:
    spiral = np.zeros((301, 301), bool)
    for ring in range(0, 150, 4):
        spiral[ring, ring : 301 - ring] = spiral[ring : 301 - ring, 300 - ring] = True
        spiral[300 - ring, ring : 301 - ring] = spiral[ring + 4 : 301 - ring, ring] = True
        spiral[ring + 4, ring : ring + 4] = True
    assert mask_boxes(spiral) == ((0, 0, 301, 301),)
    noise = np.random.default_rng(0).random((1500, 1500)) > 0.6
    assert len(mask_boxes(noise)) > 100
