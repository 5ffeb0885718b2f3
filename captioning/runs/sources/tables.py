"""Pictures that a table lists in a column: JSON lines, CSV and TSV, by path; Parquet in parquet_tables.py."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from ..records import Item
from .containers import ContainerSource
from .errors import MissingColumnError, SourceError
from .file_lists import listed_file
from .patient import open_patiently
from .search import Search

JSON_EXTENSIONS = (".jsonl", ".ndjson")
CSV_EXTENSIONS = (".csv", ".tsv")

_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class JsonLinesSource(ContainerSource):
    """An object on each line, whose ``column`` is a path or ``{"path": …}``."""

    column: str

    def check(self) -> None:
        """Look at the first row.

        Raises:
            SourceError: it cannot be read, or has no such column.
        """
        with _told(self.spelled), _open_text(self.path) as file:
            first = next((line for line in file if line.strip()), None)
        try:
            row = json.loads(first) if first is not None else {}
        except ValueError as error:
            raise SourceError(f"{self.spelled}: the first line is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise SourceError(f"{self.spelled}: the first line is no JSON object; each line takes one")
        check_column(self.spelled, self.column, list(row))

    def items(self, search: Search) -> Iterator[Item]:
        own = search.name_of(self.path)
        with _open_text(self.path) as file:
            for number, line in enumerate(line for line in file if line.strip()):
                path = self._path_in(line)
                if path is None:
                    search.on_problem(f"{own}#{number}", f"the row has no path in the column {self.column!r}")
                else:
                    yield from listed_file(search, self.base, path)

    def _path_in(self, line: str) -> str | None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return None
        value: Any = row.get(self.column) if isinstance(row, dict) else None
        value = value.get("path") if isinstance(value, dict) else value
        return value if isinstance(value, str) and value else None


@dataclass(frozen=True)
class CsvSource(ContainerSource):
    """A table with a head, separated by commas, semicolons or tabs, whose ``column`` is a path."""

    column: str

    def check(self) -> None:
        """Look at the head.

        Raises:
            SourceError: it cannot be read, or has no such column.
        """
        with _told(self.spelled), _open_text(self.path) as file:
            head = file.readline(1 << 20)
        check_column(self.spelled, self.column, next(csv.reader([head], delimiter=self._delimiter(head)), []))

    def items(self, search: Search) -> Iterator[Item]:
        own = search.name_of(self.path)
        with _open_text(self.path) as file:
            delimiter = self._delimiter(file.readline(1 << 20))
            file.seek(0)
            rows = csv.DictReader(file, delimiter=delimiter)
            try:
                for number, row in enumerate(rows):
                    if row.get(self.column):
                        yield from listed_file(search, self.base, row[self.column])
                    else:
                        search.on_problem(
                            f"{own}#{number}", f"the row has no path in the column {self.column!r}"
                        )
            except csv.Error as error:
                search.on_problem(own, f"line {rows.line_num} is no CSV; what comes after is lost: {error}")

    def _delimiter(self, head: str) -> str:
        """The one by which the column stands in the head; the commonest if it does not."""
        for delimiter in _DELIMITERS:
            if self.column in next(csv.reader([head], delimiter=delimiter), []):
                return delimiter
        return max(_DELIMITERS, key=head.count)


def check_column(spelled: str, column: str, columns: list[str]) -> None:
    """See that a table has the column.

    Raises:
        MissingColumnError: it has not; the message lists those that it has.
    """
    if column not in columns:
        known = ", ".join(map(repr, columns)) or "none"
        raise MissingColumnError(
            f"{spelled}: there is no column {column!r}; say which of its columns holds the pictures: {known}"
        )


@contextmanager
def _told(spelled: str) -> Iterator[None]:
    """Makes an error of the file system one that names the table."""
    try:
        yield
    except OSError as error:
        raise SourceError(f"{spelled}: it cannot be read: {error.strerror or error}") from error


def _open_text(path: str) -> TextIO:
    """A table as text: UTF-8 with or without its mark, or UTF-16 with; other bytes as Python keeps them."""
    with open_patiently(path, path) as file:
        head = file.read(2)
    encoding = "utf-16" if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    errors = "surrogateescape" if encoding == "utf-8-sig" else "replace"
    return io.TextIOWrapper(open_patiently(path, path), encoding=encoding, errors=errors, newline="")
