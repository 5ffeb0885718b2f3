"""What stands in files that grow by a line: captions as JSON lines and as CSV, image folders, errors."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..records import Record
from ..stores.paths import Place, StorePath
from .base import OnProblem, OutputError
from .texts import UNMET, Column, check_columns, texts_of, unmet_of

__all__ = ["CsvLines", "ErrorLines", "ImageFolderLines", "JsonLines", "readable"]

_OWN_COLUMNS = ("image", "width", "height")


def readable(text: str) -> str:
    """Text that is UTF-8 for certain: bytes of a file name that are none become ``\\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode()


def _row(record: Record, columns: Sequence[Column], *, marks: bool) -> dict[str, Any]:
    """One picture: its name, its size, its answers, each by the name of its column, and what they lack."""
    width, height = record.size or (None, None)
    marked = {UNMET: unmet_of(record, columns)} if marks else {}
    return {"image": record.name, "width": width, "height": height, **texts_of(record, columns), **marked}


def _json_line(row: Mapping[str, Any]) -> bytes:
    # Bytes of file names that are no UTF-8 are lone surrogates; as \udcXX, JSON gives them back as they were.
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


class _CaptionLines:
    """What forms with captions have in common."""

    has_captions = True

    def __init__(self, columns: Sequence[Column], own: Sequence[str]) -> None:
        check_columns(columns, own)
        self._columns = columns
        self.layout: list[str] = []

    def header(self) -> bytes:
        return b""

    def takes(self, record: Record) -> bool:
        """Captions of other settings have no column here."""
        if record.error is not None:
            return False
        return any(text is not None for text in texts_of(record, self._columns).values())

    def fits(self, path: Path) -> bool:
        return True

    def is_ours(self, path: Path) -> bool:
        return False


class JsonLines(_CaptionLines):
    """One JSON object for each picture.

    Args:
        details: add ``results``, with all that is known of each answer: tags, regions, the analysis.
        marks: add ``unmet``, null where the answers meet the conditions of the run.
    """

    def __init__(self, columns: Sequence[Column], *, details: bool = False, marks: bool = False) -> None:
        super().__init__(columns, [*_OWN_COLUMNS, "results", *([UNMET] if marks else [])])
        self._details = details
        self._marks = marks

    def line(self, record: Record) -> bytes:
        row = _row(record, self._columns, marks=self._marks)
        return _json_line({**row, "results": list(record.results)} if self._details else row)


class CsvLines(_CaptionLines):
    """One row for each picture, with a header; fields are quoted where they must be.

    Args:
        marks: add a column ``unmet``, empty where the answers meet the conditions of the run.
    """

    def __init__(self, columns: Sequence[Column], *, marks: bool = False) -> None:
        marked = [UNMET] if marks else []
        super().__init__(columns, [*_OWN_COLUMNS, *marked])
        self._marks = marks
        self.layout = [*_OWN_COLUMNS, *(column.name for column in columns), *marked]

    def header(self) -> bytes:
        return _csv_line(self.layout)

    def line(self, record: Record) -> bytes:
        return _csv_line(_row(record, self._columns, marks=self._marks).values())

    def fits(self, path: Path) -> bool:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as stream:
            return next(csv.reader(stream), []) == self.layout


def _csv_line(fields: Any) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(fields)
    return stream.getvalue().encode("utf-8", "backslashreplace")


class ImageFolderLines(_CaptionLines):
    """``metadata.jsonl`` for Hugging Face's ``imagefolder``: ``file_name``, relative to its own folder.

    Raises:
        OutputError: pictures do not lie below the folder of ``path``, where alone they are looked for.
    """

    def __init__(self, columns: Sequence[Column], path: Place, on_problem: OnProblem) -> None:
        super().__init__(columns, ["file_name", "image"])
        if isinstance(path, StorePath):
            self._folder = path.parent.url
        else:
            self._folder = os.path.abspath(path.parent)  # noqa: PTH100 - Path.absolute keeps ".."
        self._path = path
        self._on_problem = on_problem

    def line(self, record: Record) -> bytes | None:
        file_name = self._file_name(record)
        if readable(file_name) != file_name:
            self._on_problem(
                record.name, f"its name is no UTF-8, so {self._path.name} cannot hold it; rename the file"
            )
            return None
        return _json_line({"file_name": file_name, **texts_of(record, self._columns)})

    def _file_name(self, record: Record) -> str:
        if record.url is not None and record.url.startswith(f"{self._folder}/"):
            return record.url[len(self._folder) + 1 :]
        if record.path is not None:
            try:
                below = os.path.relpath(record.path, self._folder)
            except ValueError:  # another drive
                below = ".."
            if Path(below).parts[:1] != ("..",):
                return below.replace(os.sep, "/")
        raise OutputError(
            f"{record.name!r} is no file below {self._folder!r}, and {self._path.name!r} can only name such "
            "files. Name one in the folder of the pictures with --output, or choose another --format."
        )


class ErrorLines:
    """One JSON object for each picture that could not be captioned: its name, its file, the reason."""

    layout: list[str] = []  # noqa: RUF012 - an instance attribute in other forms
    has_captions = False

    def header(self) -> bytes:
        return b""

    def takes(self, record: Record) -> bool:
        return record.error is not None

    def line(self, record: Record) -> bytes:
        path = record.url if record.path is None else str(record.path)
        return _json_line({"name": record.name, "path": path, "reason": record.error})

    def fits(self, path: Path) -> bool:
        return self.is_ours(path)

    def is_ours(self, path: Path) -> bool:
        """Errors of an earlier run whose journal is gone: of no use once this one has told its own."""
        with open(path, "rb") as stream:
            first = stream.readline(1 << 20)
        try:
            row = json.loads(first)
        except ValueError:
            return False
        return isinstance(row, dict) and list(row) == ["name", "path", "reason"]
