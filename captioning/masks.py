"""Regions as masks: what of each pixel they cover, in 256 steps.

A region's shape is its polygons; of one without polygons its quad; of one without that its box. Several
polygons of one region are united, and so are regions in one mask: where they overlap there is no hole, and
where they abut there is no seam.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .coverage import Window, bands
from .outlines import cover_resized, outer_segments, segments_of
from .regions import Region

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Floats = NDArray[np.floating[Any]]

__all__ = ["draw_masks", "iterate_masks", "region_shape", "window_around"]


def draw_masks(
    regions: Sequence[Region],
    image_size: tuple[int, int],
    *,
    per_object: bool,
    grow: float = 0,
    feather: float = 0,
) -> list[Image]:
    """Masks of mode ``L`` in the image's size: 255 where a pixel is covered, its part of that at the edges.

    Args:
        regions: in pixels of the image. What lies outside of it is cut off; a region without a place covers
            nothing.
        image_size: ``(width, height)`` in pixels.
        per_object: one mask for each region, in their order; otherwise one of all regions, also of none.
        grow: how many pixels to add all around (corners become round), or to take away if negative. It is
            also taken away from edges that lie on the image's border.
        feather: standard deviation in pixels of the Gaussian that softens the edges, after growing.

    Raises:
        ValueError: the image has no pixels, ``grow`` or ``feather`` is no finite number, ``feather`` is
            negative, or a region has a coordinate that is not finite.
    """
    return list(iterate_masks(regions, image_size, per_object=per_object, grow=grow, feather=feather))


def iterate_masks(
    regions: Sequence[Region],
    image_size: tuple[int, int],
    *,
    per_object: bool,
    grow: float = 0,
    feather: float = 0,
) -> Iterator[Image]:
    """As :func:`draw_masks`, one at a time: a mask of a large image is large, and there may be hundreds."""
    _check(image_size, grow, feather)
    shapes = [region_shape(region) for region in regions]
    groups = shapes if per_object else [[polygon for shape in shapes for polygon in shape]]
    return (_mask(polygons, image_size, grow, feather) for polygons in groups)


def region_shape(region: Region) -> list[Floats]:
    """The polygons that a region consists of, ``[n, 2]`` each; none if it has no place.

    Raises:
        ValueError: a coordinate is not finite.
    """
    import numpy as np

    if region.polygons is not None:
        rings: Sequence[Sequence[float]] = region.polygons
    elif region.quad is not None:
        rings = [region.quad]
    elif region.box is not None:
        left, top, right, bottom = region.box
        rings = [(left, top, right, top, right, bottom, left, bottom)]
    else:
        rings = []
    shape = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
    if not all(np.isfinite(points).all() for points in shape):
        raise ValueError(f"the region {region.label!r} has a coordinate that is no finite number")
    return [points for points in shape if len(points)]


def window_around(polygons: Sequence[Floats], margin: float, image_size: tuple[int, int]) -> Window:
    """The pixels of the image that polygons with so many pixels around them reach."""
    import numpy as np

    image = Window(0, 0, *image_size)
    if not polygons:
        return image._replace(right=0, bottom=0)
    points = np.concatenate(polygons)
    low, high = np.floor(points.min(0) - margin), np.ceil(points.max(0) + margin)
    return Window(*map(int, low), *map(int, high)) & image


def _check(image_size: tuple[int, int], grow: float, feather: float) -> None:
    if min(image_size) < 1:
        raise ValueError(f"an image of {image_size[0]} × {image_size[1]} pixels has no room for a mask")
    if not math.isfinite(grow):
        raise ValueError(f"grow is {grow}; it is a number of pixels, negative to shrink")
    if not (math.isfinite(feather) and feather >= 0):
        raise ValueError(f"feather is {feather}; it is a number of pixels, 0 or more")


def _mask(polygons: list[Floats], image_size: tuple[int, int], grow: float, feather: float) -> Image:
    import numpy as np
    from PIL import Image as PILImage

    mask = PILImage.new("L", image_size)
    segments = outer_segments(polygons) if grow < 0 else segments_of(polygons)
    for band in bands(window_around(polygons, max(grow, 0) + 1, image_size)):
        if min(band.size) > 0:
            covered = cover_resized(polygons, segments, grow, band)
            mask.paste(PILImage.fromarray(np.rint(covered * 255).astype(np.uint8)), (band.left, band.top))
    return _soften(mask, feather) if feather else mask


def _soften(mask: Image, feather: float) -> Image:
    """The mask under a Gaussian, which is worked out only where there is anything for it to spread."""
    import numpy as np
    from PIL import Image as PILImage
    from PIL import ImageFilter

    box = mask.getbbox()
    if box is None:
        return mask
    margin = math.ceil(3 * feather) + 4  # Pillow's Gaussian is three boxes, which reach no further
    around = Window(box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin)
    left, top, right, bottom = around & Window(0, 0, *mask.size)
    # Not by crop(), which takes a large image for a decompression bomb.
    part = PILImage.fromarray(np.asarray(mask)[top:bottom, left:right])
    mask.paste(part.filter(ImageFilter.GaussianBlur(feather)), (left, top))
    return mask
