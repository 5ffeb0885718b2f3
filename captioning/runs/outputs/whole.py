"""Files that cannot grow, and are written at the end from all records: Parquet, kohya's ``metadata.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ..records import Item, Record
from ..stores.paths import Place
from .base import Mark, OutputError, SaveMark
from .collisions import Taken
from .disk import Disk, place_for, telling, temporary_of
from .existing import Existing
from .extent import Extent, refuse_foreign
from .lines import readable
from .texts import UNMET, Column, check_columns, texts_of, unmet_of

__all__ = ["KohyaMetadata", "Parquet", "WholeFile", "kohya_name"]

_ROWS = 10_000  # of one group in Parquet, all of which are in memory at once


class Content(Protocol):
    """What stands in a file that is written as a whole."""

    def check(self) -> None:
        """See that it can be written.

        Raises:
            OutputError: a library is missing.
        """

    def takes(self, record: Record) -> bool:
        """Whether the record has a place in it."""

    def write(self, stream: BinaryIO, records: Iterator[Record]) -> None:
        """Write all of it; memory does not grow with the number of records."""


class WholeFile:
    """A file that appears at the end of a run, or when it is stopped; until then the journal has it all."""

    changes_pictures = False

    def __init__(self, name: str, path: Path, content: Content, *, existing: Existing, disk: Disk) -> None:
        self.name = name
        self._path = path
        self._content = content
        self._existing = existing
        self._disk = disk
        self._ours = Extent()

    def targets(self, item: Item) -> list[Place]:
        """None: the file is for all."""
        return []

    def wants(self, item: Item) -> bool:
        """Always: what was done before is known to the journal."""
        return True

    def start(self, mark: Mark | None) -> None:
        """See that nobody else's file is in the way, before hours are spent. See :meth:`Output.start`."""
        self._content.check()
        with telling(self._path):
            self._disk.make_folder(self._path.parent)
            temporary = temporary_of(place_for(self._path))
            if mark is not None and "next" in mark:
                if temporary.exists():
                    self._disk.move(temporary, place_for(self._path))
                mark = mark["next"]
            temporary.unlink(missing_ok=True)
            self._ours = Extent() if mark is None else Extent.from_mark(mark)
            there = Extent.of(self._path)
        if there.size and there != self._ours and self._existing is not Existing.OVERWRITE:
            changed = self._ours.size > 0
            refuse_foreign(self._path, self._existing, changed=changed, can_append=False)

    def prepare(self, records: Sequence[Record]) -> list[Record]:
        """Nothing is to be remembered."""
        return list(records)

    def write(self, records: Sequence[Record]) -> None:
        """Nothing yet: the journal has them."""

    def commit(self) -> Mark:
        """Where the file stands, which is where it stood before."""
        return self._ours.to_mark()

    def finish(self, records: Callable[[], Iterator[Record]], save: SaveMark) -> None:
        """Write the file, unless there is nothing to say."""
        taken = (record for record in records() if self._content.takes(record))
        first = next(taken, None)
        if first is None:
            return
        place = place_for(self._path)
        temporary = temporary_of(place)
        with telling(self._path):
            with open(temporary, "wb") as stream:
                self._content.write(stream, chain([first], taken))
                self._disk.sync(stream)
            self._disk.changed(temporary.parent)
            self._disk.sync_folders()  # its name, too, before the journal tells of it
            after = Extent.of(temporary)
            save({**self._ours.to_mark(), "next": after.to_mark()})
            self._disk.move(temporary, place)
            self._disk.sync_folders()
        self._ours = after
        save(after.to_mark())

    def close(self) -> None:
        """Nothing is open."""


class Parquet:
    """A table with one row for each picture.

    Args:
        marks: add a column ``unmet``, null where the answers meet the conditions of the run.
    """

    def __init__(self, columns: Sequence[Column], *, marks: bool = False) -> None:
        self._marked = [UNMET] if marks else []
        check_columns(columns, ["image", "width", "height", *self._marked])
        self._columns = columns

    def check(self) -> None:
        """See that pyarrow is there."""
        _pyarrow()

    def takes(self, record: Record) -> bool:
        """Captions of other settings have no column here."""
        return _has_text(record, self._columns)

    def write(self, stream: BinaryIO, records: Iterator[Record]) -> None:
        """Group by group."""
        arrow, parquet = _pyarrow()
        numbers = [("width", arrow.int32()), ("height", arrow.int32())]
        names = [column.name for column in self._columns] + self._marked
        texts = [(name, arrow.string()) for name in names]
        schema = arrow.schema([("image", arrow.string()), *numbers, *texts])
        with parquet.ParquetWriter(stream, schema) as writer:
            rows: list[dict[str, Any]] = []
            for record in records:
                rows.append(self._row(record))
                if len(rows) == _ROWS:
                    writer.write_table(arrow.Table.from_pylist(rows, schema))
                    rows.clear()
            if rows:
                writer.write_table(arrow.Table.from_pylist(rows, schema))

    def _row(self, record: Record) -> dict[str, Any]:
        width, height = record.size or (None, None)
        texts = texts_of(record, self._columns)
        texts.update({name: unmet_of(record, self._columns) for name in self._marked})
        return {
            "image": readable(record.name),
            "width": width,
            "height": height,
            **{name: None if text is None else readable(text) for name, text in texts.items()},
        }


class KohyaMetadata:
    """What sd-scripts' fine-tuning takes as ``in_json``: for each picture a ``caption``, ``tags``, or both.

    Pictures are named by their full path, as with ``--full_path`` of its own scripts; those of shards, tables
    and stores, which have none, by their name without its extension, to be found in its ``image_dir``.

    Args:
        full_names: those without a path keep their extension; they are found where the trainer is started in
            their folder.

    Raises:
        OutputError: there are two instructions of one kind, where it has one place for each.
    """

    def __init__(self, columns: Sequence[Column], *, full_names: bool = False) -> None:
        self._columns = columns
        self._full_names = full_names
        self._keys = {column.name: _kohya_key(column) for column in columns}
        if len(set(self._keys.values())) < len(columns) or len(self._keys) < len(columns):
            raise OutputError(
                "kohya's metadata.json has one place for a caption and one for tags. Ask for at most one "
                "instruction of either kind, or choose another --format."
            )

    def check(self) -> None:
        """Nothing is needed."""

    def takes(self, record: Record) -> bool:
        """Captions of other settings have no place here."""
        return _has_text(record, self._columns)

    def write(self, stream: BinaryIO, records: Iterator[Record]) -> None:
        """Entry by entry."""
        before = b"{\n"
        with closing(Taken()) as taken:
            for record in records:
                name = self._name(record)
                if record.path is None and not taken.take(name):
                    continue  # known from a run with another rule for equal stems
                stream.write(before + self._line(name, record))
                before = b",\n"
        stream.write(b"\n}\n")

    def _line(self, name: str, record: Record) -> bytes:
        texts = texts_of(record, self._columns)
        entry = {self._keys[name]: text for name, text in texts.items() if text is not None}
        line = f"  {json.dumps(name, ensure_ascii=False)}: " + json.dumps(
            dict(sorted(entry.items())), ensure_ascii=False
        )
        return line.encode("utf-8", "backslashreplace")

    def _name(self, record: Record) -> str:
        if record.path is not None:
            return str(record.path.absolute())
        return kohya_name(record, full=self._full_names)


def _kohya_key(column: Column) -> str:
    from ...instructions import AnswerKind, find_instruction

    return "tags" if find_instruction(column.instruction).answer is AnswerKind.TAGS else "caption"


def kohya_name(picture: Item | Record, *, full: bool) -> str:
    """What a picture that has no path is called in kohya's metadata."""
    return (picture.relative if full else picture.relative.with_suffix("")).as_posix()


def _has_text(record: Record, columns: Sequence[Column]) -> bool:
    return record.error is None and any(text is not None for text in texts_of(record, columns).values())


def _pyarrow() -> tuple[Any, Any]:
    """PyArrow and its Parquet part.

    Raises:
        OutputError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise OutputError(
            "Parquet files need PyArrow: pip install 'promptgen-tagger[folder]', or choose another --format."
        ) from error
    return pyarrow, pyarrow.parquet
