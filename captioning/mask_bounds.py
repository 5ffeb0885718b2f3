"""Boxes around what a mask shows: around all of it, or around each of its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .regions import Box

if TYPE_CHECKING:
    import numpy as np

__all__ = ["mask_box", "mask_boxes"]


def mask_box(mask: Any, image_size: tuple[int, int] | None = None) -> Box | None:
    """The box around everything that a mask shows; None of an empty mask.

    Args:
        mask: ``[H, W]``, an array, a tensor on the CPU or a Pillow image of one channel. What is above one
            half counts: of 1 for floats and booleans, of 255 for bytes.
        image_size: ``(width, height)`` of the image in whose pixels the box is to be; the mask's own size if
            it is left out. A mask of another size is taken to lie over the whole image.

    Raises:
        ValueError: the mask has another number of axes, or no pixels.
    """
    import numpy as np

    shown = _shown(mask)
    columns, rows = np.flatnonzero(shown.any(axis=0)), np.flatnonzero(shown.any(axis=1))
    if not len(columns):
        return None
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return _scaled(box, shown.shape, image_size)


def mask_boxes(
    mask: Any, image_size: tuple[int, int] | None = None, *, least_pixels: int = 1
) -> tuple[Box, ...]:
    """The boxes around each part of a mask, from top to bottom; parts touch by a side or by a corner.

    Args:
        mask: see :func:`mask_box`.
        image_size: see :func:`mask_box`.
        least_pixels: smaller parts are left out, such as specks that a brush has left.
    """
    import numpy as np

    shown = _shown(mask)
    rows, starts, ends = _runs(shown)
    part = _connected(len(rows), *_touching(rows, starts, ends, shown.shape[1]))
    count = len(rows)
    left, top = np.full(count, shown.shape[1]), np.full(count, shown.shape[0])
    right, bottom, pixels = np.zeros(count, int), np.zeros(count, int), np.zeros(count, int)
    np.minimum.at(left, part, starts)
    np.minimum.at(top, part, rows)
    np.maximum.at(right, part, ends)
    np.maximum.at(bottom, part, rows + 1)
    np.add.at(pixels, part, ends - starts)
    return tuple(
        _scaled((left[i], top[i], right[i], bottom[i]), shown.shape, image_size)
        for i in np.flatnonzero(pixels >= max(1, least_pixels))  # a part has the number of its first run
    )


def _shown(mask: Any) -> np.ndarray:
    """``[H, W]`` bool."""
    import numpy as np

    values = np.asarray(mask)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"a mask has two axes, height and width, and pixels; this one has {values.shape}")
    if values.dtype == bool:
        return values
    return values > (0.5 if np.issubdtype(values.dtype, np.floating) else 127)


def _runs(shown: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, first column and the column after the last of each run of shown pixels, in reading order."""
    import numpy as np

    padded = np.pad(shown, ((0, 0), (1, 1)))
    edges = padded[:, 1:] != padded[:, :-1]  # [H, W + 1], in turn where a run begins and where it has ended
    rows, columns = np.nonzero(edges)
    return rows[::2], columns[::2], columns[1::2]


def _touching(
    rows: np.ndarray, starts: np.ndarray, ends: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of runs in neighbouring rows that touch: the numbers of the upper and of the lower ones."""
    import numpy as np

    stride = width + 2  # between the end of a row and the start of the next one no runs touch
    first, last = rows * stride + starts, rows * stride + ends
    from_run = np.searchsorted(last, first + stride, "left")
    to_run = np.searchsorted(first, last + stride, "right")
    counts = np.maximum(to_run - from_run, 0)
    upper = np.repeat(np.arange(len(rows)), counts)
    within = np.arange(len(upper)) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, np.repeat(from_run, counts) + within


def _connected(count: int, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """For each of ``count`` runs the lowest number among all that it hangs together with."""
    import numpy as np

    root = np.arange(count)
    while True:
        one, other = root[upper], root[lower]
        least = np.minimum(one, other)
        if np.array_equal(one, other):
            return root
        np.minimum.at(root, one, least)
        np.minimum.at(root, other, least)
        while not np.array_equal(root, root[root]):
            root = root[root]


def _scaled(box: Any, shape: tuple[int, ...], image_size: tuple[int, int] | None) -> Box:
    height, width = shape
    across, down = (1.0, 1.0) if image_size is None else (image_size[0] / width, image_size[1] / height)
    left, top, right, bottom = map(float, box)
    return left * across, top * down, right * across, bottom * down
