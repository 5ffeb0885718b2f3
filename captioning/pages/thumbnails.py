"""Small pictures within a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..images import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["data_uri", "thumbnail"]

_SIDE = 256  # pixels of the longer side
_QUALITY = 82  # of its JPEG


def thumbnail(source: Path | BinaryIO) -> tuple[str, tuple[int, int]]:
    """A small upright copy of a picture: a data URI, and its width and height in pixels.

    Raises:
        ImageError: it cannot be read.
    """
    return data_uri(open_image(source))


def data_uri(image: Image, side: int = _SIDE) -> tuple[str, tuple[int, int]]:
    """A copy with at most ``side`` pixels to a side, of RGB and with nothing of the original's metadata."""
    small = image.copy()
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode(), small.size
