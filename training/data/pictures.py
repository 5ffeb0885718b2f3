"""Where an image of an example is, and how it is opened, in whichever process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageRef"]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image: light, picklable, opened when it is needed.

    ``name`` says which image it is, on every machine: its path below the root of its source, with slashes, or
    ``table.parquet#12``. Images are split by it.
    """

    name: str
    place: str  # the image's file, or the table that holds its bytes
    column: str | None = None  # of the table
    row: int = 0

    def open(self, background: str = "white") -> Image:
        """The image, upright, in RGB.

        Raises:
            ImageError: it cannot be read; the message names it and says why.
        """
        from ...captioning.images import open_image

        if self.column is None:
            return open_image(self.place, background=background)
        raise NotImplementedError  # to come within the hour
