"""Regions in the forms that other programs read: COCO, YOLO, LabelMe, CSV, and JSON of our own.

::

    with open_writer("coco", Path("found.json")) as writer:
        for picture in captioner.stream(pictures, "OD"):
            for result in picture.results:
                writer.write(picture.image, picture.size, result)

Results of one picture come one after the other. Pixels are those of the picture after EXIF rotation. Memory
does not grow with the number of pictures.
"""

from __future__ import annotations

from .entries import FormatError
from .opening import FORMATS, Format, RegionWriter, open_writer, stream_writer

__all__ = ["FORMATS", "Format", "FormatError", "RegionWriter", "open_writer", "stream_writer"]
