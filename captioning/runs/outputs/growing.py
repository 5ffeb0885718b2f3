"""Files that grow by a line for each picture: JSON lines, CSV."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from ..records import Item, Record
from ..stores.paths import Place
from .base import Mark, OutputError, SaveMark
from .disk import Disk, place_for, telling, temporary_of, write_all
from .existing import Existing
from .extent import TAIL, Extent, refuse_foreign

__all__ = ["GrowingFile", "Lines"]


class Lines(Protocol):
    """What stands in a file that grows."""

    layout: list[str]  # what lines of one file have in common, such as the columns; compared between runs
    has_captions: bool  # False: a picture is not captioned for their sake

    def header(self) -> bytes:
        """What stands once, at the top of the file."""

    def takes(self, record: Record) -> bool:
        """Whether the record has a line here."""

    def line(self, record: Record) -> bytes | None:
        """The line, with its end; None where it cannot be told, after that was reported."""

    def fits(self, path: Path) -> bool:
        """Whether our lines can come behind what is in that file."""

    def is_ours(self, path: Path) -> bool:
        """Whether a file of which no mark tells is of an earlier run, and of no value to anybody."""


@dataclass
class _Standing:
    """What is in the file."""

    ours: Extent  # all that was committed, from the first byte of the file
    kept: int = 0  # bytes at the beginning that were there before the run
    lines: int = 0  # ours; one for each record that was taken, also where its line could not be told
    edited: bool = False  # somebody has changed lines of ours, which are not to be written anew


class GrowingFile:
    """One file for all pictures, which grows with each group of them.

    What was not committed is cut off by the next start. A picture that was captioned again has two lines
    until the file is written anew at the end.
    """

    changes_pictures = False

    def __init__(self, name: str, path: Path, lines: Lines, *, existing: Existing, disk: Disk) -> None:
        self.name = name
        self._path = place_for(path)  # a link stays one when the file is written anew
        self._lines = lines
        self._existing = existing
        self._disk = disk
        self._standing = _Standing(Extent())
        self._stream: io.FileIO | None = None
        self._end = b""  # the last bytes that were written, committed or not
        self._is_outdated = False

    def targets(self, item: Item) -> list[Place]:
        """None: the file is for all."""
        return []

    def wants(self, item: Item) -> bool:
        """Whether captions stand in it: what was done before is known to the journal."""
        return self._lines.has_captions

    def start(self, mark: Mark | None) -> None:
        """Cut off what was not committed. See :meth:`Output.start`."""
        with telling(self._path):
            if mark is not None and "next" in mark:
                _put_in_place(self._path, mark["next"], self._disk)
                mark = mark["next"]
            temporary_of(self._path).unlink(missing_ok=True)
            self._standing = self._begin() if mark is None else self._resume(mark)
            self._end = b""

    def prepare(self, records: Sequence[Record]) -> list[Record]:
        """Nothing is to be remembered: the mark is enough."""
        return list(records)

    def write(self, records: Sequence[Record]) -> None:
        """Append their lines in one piece."""
        taken = [record for record in records if self._lines.takes(record)]
        content = b"".join(line for record in taken if (line := self._lines.line(record)) is not None)
        if content:
            with telling(self._path):
                stream = self._open()
                if stream.tell() == 0:
                    content = self._lines.header() + content
                write_all(stream, content)
                self._end = (self._end + content)[-TAIL:]
        self._standing.lines += len(taken)

    def commit(self) -> Mark:
        """What was written is on the disk."""
        if self._stream is not None:
            with telling(self._path):
                self._disk.sync(self._stream)
                self._disk.sync_folders()
            self._standing.ours = Extent(self._stream.tell(), hashlib.sha256(self._end).hexdigest())
        return self._mark(self._standing)

    def finish(self, records: Callable[[], Iterator[Record]], save: SaveMark) -> None:
        """Write the file anew if it has not one line for each record."""
        self.commit()
        self.close()
        wanted = sum(self._lines.takes(record) for record in records())
        if not self._standing.edited and (self._is_outdated or wanted != self._standing.lines):
            with telling(self._path):
                after = self._write_anew(records())
                save({**self._mark(self._standing), "next": self._mark(after)})
                _put_in_place(self._path, self._mark(after), self._disk)
            self._standing = after
        save({**self._mark(self._standing), "closed": True})

    def distrust(self) -> None:
        """Write the file anew at the end, whatever is in it: it lacks what the journal has."""
        self._is_outdated = True

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    # ---- at the start

    def _begin(self) -> _Standing:
        """The first run: there is no file, or one that is in the way."""
        there = Extent.of(self._path)
        if there.size == 0 or self._existing is Existing.OVERWRITE or self._lines.is_ours(self._path):
            return _Standing(Extent())
        return self._go_on_behind(there, changed=False)

    def _resume(self, mark: Mark) -> _Standing:
        standing = _Standing(Extent.from_mark(mark), mark["kept"], mark["lines"], mark["edited"])
        there = Extent.of(self._path)
        if (
            there.size == 0 and standing.ours.size
        ):  # somebody has taken the file away: it is made anew at the end
            return _Standing(Extent())
        if mark.get("closed") and not standing.ours.size:  # a file has come to where we have written none
            return self._begin()
        # Behind what was committed lies what was not, unless the run was ended in order.
        more = mark.get("closed", False) and there.size > standing.ours.size
        if more or not standing.ours.begins(self._path):
            if self._existing is Existing.OVERWRITE or self._lines.is_ours(self._path):
                return _Standing(Extent())
            return replace(self._go_on_behind(there, changed=True), edited=True)
        if mark["layout"] != self._lines.layout and standing.lines:
            if self._existing is Existing.OVERWRITE:
                return _Standing(Extent())
            raise OutputError(
                f"{str(self._path)!r} has other columns ({', '.join(mark['layout'])}) of an earlier run with "
                f"other instructions or conditions than now: {', '.join(self._lines.layout)}. Move it away, "
                "or choose another name with --output, or replace it with --existing overwrite."
            )
        if there.size > standing.ours.size:
            with open(self._path, "r+b") as stream:
                stream.truncate(standing.ours.size)
                self._disk.sync(stream)
        return standing

    def _go_on_behind(self, there: Extent, *, changed: bool) -> _Standing:
        """Keep what somebody else has written.

        Raises:
            OutputError: that is not wanted, or the lines would not fit.
        """
        if self._existing is not Existing.APPEND:
            refuse_foreign(self._path, self._existing, changed=changed, can_append=True)
        if not self._lines.fits(self._path):
            raise OutputError(
                f"{str(self._path)!r} is there already, and our lines ({', '.join(self._lines.layout)}) "
                "do not fit behind what is in it. Choose another name with --output, or move it away."
            )
        return _Standing(there, kept=there.size)

    # ---- writing

    def _open(self) -> io.FileIO:
        """The file, open behind what is committed."""
        if self._stream is None:
            fresh = not self._path.exists()
            if fresh:
                self._disk.make_folder(self._path.parent)
                self._disk.changed(self._path.parent)
            size = self._standing.ours.size
            # Unbuffered: after a full disk, no rest of a line waits for its chance to be written.
            mode = "w+b" if fresh else "r+b"
            stream = cast(io.FileIO, open(self._path, mode, buffering=0))  # noqa: SIM115
            stream.truncate(size)
            stream.seek(max(0, size - TAIL))
            self._end = stream.readall()
            if self._end and not self._end.endswith(b"\n"):  # the user's last line is not ended
                write_all(stream, b"\n")
                self._end += b"\n"
            self._stream = stream
        return self._stream

    def _write_anew(self, records: Iterator[Record]) -> _Standing:
        """The whole file beside the old one."""
        temporary = temporary_of(self._path)
        lines = 0
        with open(temporary, "w+b") as stream:
            _copy_beginning(self._path, self._standing.kept, stream)
            for record in records:
                if self._lines.takes(record):
                    line = self._lines.line(record)
                    if line is not None:
                        stream.write((self._lines.header() if stream.tell() == 0 else b"") + line)
                    lines += 1
            self._disk.sync(stream)
        self._disk.changed(temporary.parent)
        self._disk.sync_folders()  # its name, too, before the journal tells of it
        return _Standing(Extent.of(temporary), self._standing.kept, lines)

    def _mark(self, standing: _Standing) -> dict[str, Any]:
        return {
            **standing.ours.to_mark(),
            "kept": standing.kept,
            "lines": standing.lines,
            "edited": standing.edited,
            "layout": self._lines.layout,
        }


def _put_in_place(path: Path, after: Mark, disk: Disk) -> None:
    """Put the file that was written anew in the place of the old one. Does nothing the second time."""
    temporary = temporary_of(path)
    if temporary.exists():
        if after["size"]:
            disk.move(temporary, path)
        else:  # no line is left
            path.unlink(missing_ok=True)
            temporary.unlink()
        disk.sync_folders()


def _copy_beginning(path: Path, size: int, stream: BinaryIO) -> None:
    """The first ``size`` bytes of a file, which end with a line."""
    last = b""
    if size:
        with open(path, "rb") as old:
            while size and (block := old.read(min(size, 1 << 20))):
                stream.write(block)
                last, size = block, size - len(block)
    if last and not last.endswith(b"\n"):
        stream.write(b"\n")
