"""The table of formats, and files that appear whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TextIO

from .coco import CocoWriter
from .entries import AnyResult, FormatError
from .folders import LabelMeWriter, YoloWriter
from .rows import CsvWriter, JsonLinesWriter, JsonWriter

__all__ = ["FORMATS", "Format", "RegionWriter", "open_writer", "stream_writer"]

logger = logging.getLogger(__name__)


class RegionWriter(Protocol):
    """Takes results of pictures one by one, those of one picture one after the other."""

    def write(self, image: str, size: tuple[int, int], result: AnyResult) -> None:
        """Add a result of the picture of that name, which has ``size`` (width, height) pixels.

        Raises:
            FormatError: it has no regions, or there is no place for it.
        """

    def close(self) -> None:
        """Complete what was written. Leaves the stream open."""


@dataclass(frozen=True)
class Format:
    """One form in which regions are written."""

    name: str
    summary: str  # one line for people
    suffix: str  # of the file; empty of formats with a folder
    make: Callable[..., Any]  # of a stream or a folder
    has_classes: bool = False  # whether it numbers classes

    @property
    def is_folder(self) -> bool:
        """Whether it is a file for each picture, in a folder."""
        return not self.suffix


_TABLE = (
    Format("json", "all that is known: one array, an object for each answer", ".json", JsonWriter),
    Format("jsonl", "the same objects, one on each line", ".jsonl", JsonLinesWriter),
    Format("csv", "a row for each region", ".csv", CsvWriter),
    Format("coco", "COCO: boxes, outlines, scores", ".json", CocoWriter, has_classes=True),
    Format("labelme", "LabelMe: a .json for each picture", "", LabelMeWriter),
    Format("yolo", "YOLO: a .txt with boxes for each picture, data.yaml", "", YoloWriter, has_classes=True),
    Format(
        "yolo-seg", "YOLO: a .txt with outlines for each picture, data.yaml", "",
        partial(YoloWriter, outlines=True), has_classes=True,
    ),
)  # fmt: skip

FORMATS = MappingProxyType({format.name: format for format in _TABLE})
"""Every format by its name."""


def find_format(name: str) -> Format:
    """Look up a format, in any case.

    Raises:
        FormatError: there is none of that name; the message lists all.
    """
    try:
        return FORMATS[name.lower()]
    except KeyError:
        raise FormatError(f"unknown format {name!r}; known are {', '.join(FORMATS)}.") from None


def stream_writer(format: str, stream: TextIO, *, classes: Sequence[str] = ()) -> RegionWriter:
    """A writer to a stream that is open, such as standard output; closing it leaves the stream open.

    Raises:
        FormatError: the format is unknown, or is a folder of files.
    """
    found = find_format(format)
    if found.is_folder:
        raise FormatError(f"{found.name} is a folder with a file for each picture. Name the folder.")
    return _make(found, stream, classes)


@contextmanager
def open_writer(
    format: str, output: Path, *, overwrite: bool = False, classes: Sequence[str] = ()
) -> Iterator[RegionWriter]:
    """A writer to a file or into a folder, which is made.

    A file appears when the block has ended well. After an error what was written until then is completed all
    the same, as ``NAME.partial``; of a folder each picture's file is there at once.

    Args:
        format: a name of :data:`FORMATS`.
        output: the file; of formats with a file for each picture the folder.
        overwrite: whether files that are there may be replaced.
        classes: names of classes that are to have the first numbers, in this order; only of formats with
            numbered classes.

    Raises:
        FormatError: the format is unknown, a file is in the way, or ``output`` is no file or no folder.
        OSError: it cannot be written.
    """
    found = find_format(format)
    if found.is_folder:
        if output.exists() and not output.is_dir():
            raise FormatError(f"{str(output)!r} is a file; {found.name} needs a folder.")
        writer = _make(found, output, classes, overwrite=overwrite)
        try:
            yield writer
        finally:
            writer.close()
        return
    if output.is_dir():
        raise FormatError(
            f"{str(output)!r} is a folder; {found.name} is one file, for example regions{found.suffix}."
        )
    if output.exists() and not overwrite:
        raise FormatError(f"{str(output)!r} is there already. Choose another name, or allow overwriting.")
    with _whole_file(output) as stream:
        writer = _make(found, stream, classes)
        try:
            yield writer
        finally:
            writer.close()


def _make(found: Format, target: Any, classes: Sequence[str], **options: Any) -> Any:
    if classes and not found.has_classes:
        raise FormatError(f"{found.name} has no numbered classes; leave out the list of them.")
    return found.make(target, classes, **options) if found.has_classes else found.make(target, **options)


@contextmanager
def _whole_file(path: Path) -> Iterator[TextIO]:
    """A stream to ``path`` that takes its place at the end; after an error it is left as ``NAME.partial``."""
    from ..runs.outputs.disk import Disk, place_for, temporary_of

    disk = Disk()
    disk.make_folder(path.parent)
    place = place_for(path)
    temporary = temporary_of(place)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            yield stream
            disk.sync(stream.buffer)  # type: ignore[arg-type]
    except BaseException:
        if temporary.exists() and not temporary.stat().st_size:
            temporary.unlink()
        elif temporary.exists():
            disk.move(temporary, partial)
            logger.warning("What was done so far is in %s", partial)
        raise
    disk.move(temporary, place)
    disk.sync_folders()
