"""Where labels go: near what they name, within the picture, and apart from each other as far as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

__all__ = ["place_labels"]

_STEPS = 24  # label heights that one may move up or down from its place of choice

Box = tuple[float, float, float, float]


def place_labels(
    sizes: Sequence[tuple[int, int]], boxes: Sequence[Box], image_size: tuple[int, int]
) -> list[tuple[int, int]]:
    """Left and top of each label, in whole pixels.

    A label goes above its box at the left, or else within the box, below it or at the right, or else further
    up or down. Where all of these places are taken it goes where it covers least of other labels.

    Args:
        sizes: width and height of each label, none greater than the image's.
        boxes: what each of them names: left, top, right, bottom in pixels.
        image_size: ``(width, height)``.
    """
    import numpy as np

    placed = np.empty((len(sizes), 4))
    for number, (size, box) in enumerate(zip(sizes, boxes, strict=True)):
        places = _candidates(size, box, image_size)
        covered = _overlaps(places, placed[:number])
        placed[number] = places[int(np.argmin(covered))]  # the first of those that cover least
    return [(int(left), int(top)) for left, top in placed[:, :2]]


def _candidates(size: tuple[int, int], box: Box, image_size: tuple[int, int]) -> Floats:
    """Places for a label, the best first, all within the image: ``[n, 4]``."""
    import numpy as np

    (width, height), (left, top, right, bottom) = size, box
    corners = [
        (left, top - height),
        (left, top),
        (left, bottom),
        (left, bottom - height),
        (right - width, top - height),
        (right - width, top),
        (right - width, bottom),
        (right - width, bottom - height),
    ]
    for step in range(1, _STEPS + 1):
        corners += [(left, top + step * height), (left, top - (step + 1) * height)]
        corners += [(right - width, top + step * height), (right, top + (step - 1) * height)]
    room = np.subtract(image_size, size)
    starts = np.clip(np.rint(corners), 0, room)
    return np.concatenate([starts, starts + size], axis=1)


def _overlaps(places: Floats, placed: Floats) -> Floats:
    """How many pixels of others each place would cover: ``[n]``."""
    import numpy as np

    low = np.maximum(places[:, None, :2], placed[None, :, :2])
    high = np.minimum(places[:, None, 2:], placed[None, :, 2:])
    return np.maximum(high - low, 0).prod(axis=2).sum(axis=1)
