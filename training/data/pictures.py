"""Where an image of an example is, and how it is opened, in whichever process."""

from __future__ import annotations

import functools
import io
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...captioning.errors import ImageError
from ..errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset as TableOfImages
    from PIL.Image import Image

__all__ = ["ImageRef", "ImageTable", "open_table"]

_OPEN_TABLES = 64  # at a time: they are mapped, not read
_OPENING = threading.Lock()


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

    def read(self) -> bytes:
        """The image's file, undecoded.

        Raises:
            ImageError: it cannot be read; the message names it and says why.
        """
        from ...captioning.images import read_whole

        if self.column is None:
            return read_whole(self.place)
        data = open_table(self.place, self.column).bytes_of(self.row)
        if data is None:
            raise ImageError(f"{self.name}: the table has no image in this row")
        return data

    def open(self, background: str = "white") -> Image:
        """The image, upright, in RGB.

        Raises:
            ImageError: it cannot be read; the message names it and says why.
        """
        from ...captioning.images import open_image

        if self.column is None:
            return open_image(self.place, background=background)
        return open_image(_named(self.read(), self.name), background=background)

    def open_bytes(self, data: bytes, background: str = "white") -> Image:
        """As :meth:`open`, of what :meth:`read` gave."""
        from ...captioning.images import open_image

        return open_image(_named(data, self.name), background=background)


class ImageTable:
    """A column of images in a table that is mapped into memory: any row can be read at once."""

    def __init__(self, table: TableOfImages, column: str) -> None:
        self._table = table
        self._column = column

    def bytes_of(self, row: int) -> bytes | None:
        """The image's file in a row; None where there is none."""
        data, _ = parts_of(self._table[row][self._column])
        return data


def open_table(place: str, column: str) -> ImageTable:
    """The images in a Parquet file, or in a folder that a Dataset was saved to.

    Raises:
        DataError: it cannot be read.
    """
    with _OPENING:  # threads that come at once wait for the first, which may have to copy a large file
        return _open_table(place, column)


@functools.lru_cache(maxsize=_OPEN_TABLES)
def _open_table(place: str, column: str) -> ImageTable:
    return ImageTable(read_table(place, [column]), column)


def read_table(place: str, columns: list[str] | None = None) -> TableOfImages:
    """A Parquet file, or a folder that a Dataset was saved to, with images as they were stored.

    The first time, the ``datasets`` library copies a Parquet file into its cache, in a form whose rows can be
    read in any order.

    Args:
        columns: those that are read; None for all.

    Raises:
        DataError: it cannot be read, or the library is missing.
    """
    try:
        from datasets import Dataset, load_from_disk
    except ImportError as error:
        raise DataError(
            f"{place}: images within tables need the datasets library: pip install 'promptgen-tagger[train]'"
        ) from error
    try:
        if os.path.isdir(place):  # noqa: PTH112 - a string, as in the many references to it
            table = load_from_disk(place)
            table = table.select_columns(columns) if columns is not None else table
        else:
            table = Dataset.from_parquet(place, columns=columns)
    except Exception as error:  # whatever pyarrow and datasets raise
        raise DataError(f"{place}: it cannot be read: {' '.join(str(error).split())[:300]}") from error
    return _undecoded(table)


def parts_of(cell: Any) -> tuple[bytes | None, str | None]:
    """The bytes and the path in a cell of images, as far as it has them."""
    if isinstance(cell, dict):
        return cell.get("bytes"), cell.get("path")
    if isinstance(cell, (bytes, bytearray)):
        return bytes(cell), None
    return None, cell if isinstance(cell, str) else None


def _undecoded(table: TableOfImages) -> TableOfImages:
    from datasets import Image as ImageFeature

    for name, feature in table.features.items():
        if isinstance(feature, ImageFeature):
            table = table.cast_column(name, ImageFeature(decode=False))
    return table


def _named(data: bytes, name: str) -> io.BytesIO:
    """An open file that errors call by ``name``."""
    file = io.BytesIO(data)
    file.name = name
    return file
