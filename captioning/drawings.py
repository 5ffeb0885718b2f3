"""Picture files that are made of a picture and its regions: an overlay, masks, cut-outs."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .regions import Region

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DRAWING_EXTENSIONS", "Drawing", "DrawingKind", "cut_out"]

_LOSSLESS = MappingProxyType({"png": "PNG", "webp": "WEBP", "tif": "TIFF", "tiff": "TIFF", "bmp": "BMP"})
_FORMATS = MappingProxyType({**_LOSSLESS, "jpg": "JPEG", "jpeg": "JPEG"})

DRAWING_EXTENSIONS = tuple(_FORMATS)
"""Extensions of files that can be drawn, in lower case, without the dot."""


class DrawingKind(str, Enum):
    """What is drawn."""

    OVERLAY = "overlay"  # the picture with outlines, fills and labels
    MASK = "mask"  # white where the regions are
    CROP = "crop"  # what lies in each region's box


@dataclass(frozen=True)
class Drawing:
    """One kind of drawing, and how it is saved.

    Raises:
        ValueError: a value makes no sense; the message says which do.
    """

    kind: DrawingKind
    extension: str = "png"
    per_object: bool = False  # of masks: one for each region instead of one for all
    grow: float = 0  # of masks: pixels
    feather: float = 0  # of masks: pixels

    def __post_init__(self) -> None:
        allowed = _LOSSLESS if self.kind is DrawingKind.MASK else _FORMATS
        if self.extension.lower() not in allowed:
            raise ValueError(
                f"a picture of type {self.extension!r} cannot be written for {self.kind.value}; "
                f"{', '.join(allowed)} can."
            )
        if not math.isfinite(self.grow):
            raise ValueError(f"grow is {self.grow}; it is a number of pixels, negative to shrink.")
        if not (math.isfinite(self.feather) and self.feather >= 0):
            raise ValueError(f"feather is {self.feather}; it is a number of pixels, 0 or more.")

    @property
    def has_many(self) -> bool:
        """Whether a picture gives any number of files, one for each region."""
        return self.per_object or self.kind is DrawingKind.CROP

    def draw(self, image: Image, regions: Sequence[Region]) -> Iterator[tuple[str, Image]]:
        """The drawings, one at a time, each with its name without extension; of a single one it is empty.

        Args:
            image: RGB, upright.
            regions: in pixels of the image.
        """
        if self.kind is DrawingKind.OVERLAY:
            from .overlay import draw_overlay

            yield "", draw_overlay(image, regions)
        elif self.kind is DrawingKind.CROP:
            cuts = ((number, cut_out(image, region)) for number, region in enumerate(regions))
            yield from ((_name(number, regions[number]), cut) for number, cut in cuts if cut is not None)
        else:
            from .masks import iterate_masks

            masks = iterate_masks(
                regions, image.size, per_object=self.per_object, grow=self.grow, feather=self.feather
            )
            for number, mask in enumerate(masks):
                yield (_name(number, regions[number]) if self.per_object else ""), mask

    def encode(self, drawn: Image) -> bytes:
        """The content of a file with what was drawn."""
        format = _FORMATS[self.extension.lower()]
        options: dict[str, Any] = {}
        if format == "JPEG":
            options = {"quality": 92, "subsampling": 0}
        elif format == "WEBP":
            options = {"lossless": True} if self.kind is DrawingKind.MASK else {"quality": 92}
        stream = io.BytesIO()
        drawn.save(stream, format, **options)
        return stream.getvalue()


def cut_out(image: Image, region: Region) -> Image | None:
    """What lies in a region's box, to whole pixels outwards; None where nothing of the picture does."""
    if region.box is None:
        return None
    left, top, right, bottom = region.box
    width, height = image.size
    box = (
        max(math.floor(left), 0), max(math.floor(top), 0),
        min(math.ceil(right), width), min(math.ceil(bottom), height),
    )  # fmt: skip
    return image.crop(box) if box[0] < box[2] and box[1] < box[3] else None


def _name(number: int, region: Region) -> str:
    """``3-traffic_light``: what any file system takes, and different for each region of a picture."""
    label = re.sub(r"[^\w-]+", "_", region.label).strip("_")[:40]
    return f"{number}-{label}" if label else str(number)
