"""The file of a report: only where there is nothing, or a report like it; whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .outputs import OutputError
from .outputs.disk import Disk, place_for, telling, temporary_of
from .stores import is_url

__all__ = ["check_page_place", "write_page"]

_EXTENSIONS = (".html", ".htm")
_HEAD = 2_000  # bytes of a page in which the generator is named


def check_page_place(path: Path, generator: str) -> None:
    """See that a report can go there, and be taken for one, before hours are spent.

    Args:
        generator: the element by which a report of this kind knows its like.

    Raises:
        OutputError: it is no name of a page, or there is something there that is no such report.
    """
    if is_url(path.as_posix().replace(":/", "://", 1)):
        raise OutputError("the report cannot be a URL; name a file of this machine")
    if path.suffix.lower() not in _EXTENSIONS:
        raise OutputError(f"the report is a page; give it a name such as {str(path.with_suffix('.html'))!r}")
    with telling(path, deed="read"):
        if not path.exists():
            return
        if path.is_dir():
            raise OutputError(f"{str(path)!r} is a folder; name a file for the report")
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    if head and generator.encode() not in head:
        raise OutputError(f"{str(path)!r} is there and no report of ours; name another file for the report")


def write_page(path: Path, pieces: Iterator[str]) -> None:
    """The file appears whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    disk = Disk()
    place = place_for(path)
    temporary = temporary_of(place)
    with telling(path):
        disk.make_folder(place.parent)
        try:
            with open(temporary, "wb") as stream:
                for piece in pieces:
                    stream.write(piece.encode())
                disk.sync(stream)
            disk.move(temporary, place)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        disk.sync_folders()
