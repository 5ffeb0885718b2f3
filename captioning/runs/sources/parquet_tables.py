"""Pictures in Parquet files: by path, or as bytes, as data sets of Hugging Face have them."""

from __future__ import annotations

import functools
import os
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, BinaryIO

from ..records import Item
from ..stores.paths import is_url
from .containers import ContainerSource
from .errors import SourceError
from .file_lists import listed_file
from .names import relative_path
from .patient import bytes_as_file, open_patiently
from .search import Search, checksum_of, is_picture_name
from .tables import check_column

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

PARQUET_EXTENSIONS = (".parquet", ".pq")

_ROWS = 16  # read at a time: pictures are large
_HELD_BATCHES = 4  # of so many rows: reader threads take them nearly in order
_CURSORS = 2  # ahead, where pictures are read to be captioned, and behind, where they are put into shards
_PAGE = 1 << 20  # bytes read at a time, so that no row group need fit into memory


@dataclass(frozen=True)
class ParquetSource(ContainerSource):
    """A table whose ``column`` is a path, bytes, or a struct of ``bytes`` and ``path``."""

    column: str

    def check(self) -> None:
        """Look at the schema.

        Raises:
            SourceError: pyarrow is missing, it is no Parquet, or the column is missing or of another type.
        """
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise SourceError(
                f"{self.spelled}: Parquet needs pyarrow: pip install 'promptgen-tagger[folder]'"
            ) from error
        try:
            schema = parquet.read_schema(_readable(self.path))
        except (OSError, _arrow_error()) as error:
            raise SourceError(f"{self.spelled}: it cannot be read as Parquet: {_one_line(error)}") from error
        check_column(self.spelled, self.column, schema.names)
        kind = schema.field(self.column).type
        if not (_holds_bytes(kind) or _holds_paths(kind)):
            raise SourceError(
                f"{self.spelled}: the column {self.column!r} is {kind}; pictures are text (a path), binary,"
                " or a struct of 'bytes' and 'path'"
            )

    def items(self, search: Search) -> Iterator[Item]:
        own = search.name_of(self.path)
        try:
            rows = _Rows(self.path, self.column)
            yield from self._items(search, own, rows)
        except (OSError, _arrow_error()) as error:
            search.on_problem(
                own, f"it is damaged or cannot be read; what comes after is lost: {_one_line(error)}"
            )

    def _has_bytes(self) -> bool:
        import pyarrow.parquet as parquet

        return _holds_bytes(parquet.read_schema(_readable(self.path)).field(self.column).type)

    def _items(self, search: Search, own: str, rows: _Rows) -> Iterator[Item]:
        folder = relative_path(os.path.splitext(own)[0])
        if not search.fingerprints and self._has_bytes():
            cells: Iterable[tuple[int, Any]] = ((number, b"") for number in range(len(rows)))
        else:
            cells = rows
        for number, value in cells:
            name = f"{own}#{number}"
            data, path = _parts(value)
            if data is None and path:
                yield from listed_file(search, self.base, path)
            elif data is None:
                search.on_problem(name, f"the row has no picture in the column {self.column!r}")
            elif search.claims.take(name):
                ending = os.path.splitext(path or "")[1] if is_picture_name(path or "") else ""
                fingerprint = checksum_of(data) if search.fingerprints else ""
                opener = functools.partial(rows.open, number, name)
                yield Item(name, folder / f"{number}{ending}", None, fingerprint, opener)


def _readable(path: str) -> Any:
    """What pyarrow reads from: the path, or an open object of a store."""
    return open_patiently(path, path) if is_url(path) else path


def _parts(value: Any) -> tuple[bytes | None, str | None]:
    """The bytes and the path of a cell, as far as it has them."""
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        return data, path
    if isinstance(value, bytes):
        return value, None
    return None, value


class _Rows:
    """The cells of one column, for who goes through all, and by number for the threads that read pictures.

    All read in order with a few batches in memory at most; going back costs reading a row group again.
    """

    def __init__(self, path: str, column: str) -> None:
        self._path = path
        self._column = column
        with self._opened() as file:
            groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self._starts = [0, *accumulate(groups)]  # the first row of each row group, and the number of rows
        self._lock = threading.Lock()
        self._cursors: list[_Cursor] = []  # the one that was used last is the last

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Each row's number, from 0, and cell."""
        for start, cells in self._read(0):
            yield from enumerate(cells, start)

    def open(self, number: int, name: str) -> BinaryIO:
        """The picture in the row as an open file.

        Raises:
            OSError: it cannot be read.
        """
        try:
            with self._lock:
                data, _ = _parts(self._cell(number))
        except _arrow_error() as error:
            raise OSError(f"{name}: the table is damaged: {_one_line(error)}") from error
        if data is None:
            raise OSError(f"{name}: the table has changed since it was listed")
        return bytes_as_file(data, name)

    def _cell(self, number: int) -> Any:
        cursor = self._cursor_for(number)
        if cursor in self._cursors:
            self._cursors.remove(cursor)
        self._cursors.append(cursor)
        for old in self._cursors[:-_CURSORS]:
            old.close()
        del self._cursors[:-_CURSORS]
        return cursor.cell(number)

    def _cursor_for(self, number: int) -> _Cursor:
        """The one that has the row, or comes to it next; a new one where none does without a detour."""
        group = self._group_of(number)
        near = [
            cursor
            for cursor in self._cursors
            if cursor.next <= number and self._group_of(cursor.next) == group
        ]
        holding = (cursor for cursor in self._cursors if cursor.holds(number))
        return (
            next(holding, None)
            or max(near, key=lambda cursor: cursor.next, default=None)
            or _Cursor(self._read(group), self._starts[group])
        )

    def _group_of(self, number: int) -> int:
        return bisect_right(self._starts, number) - 1

    def _read(self, first_group: int) -> Generator[tuple[int, list[Any]], None, None]:
        """Batches, each with the number of its first row, from a row group to the end."""
        with self._opened() as file:
            for group in range(first_group, file.num_row_groups):
                start = self._starts[group]
                for batch in file.iter_batches(_ROWS, [group], [self._column], use_threads=False):
                    yield start, batch.column(0).to_pylist()
                    start += batch.num_rows

    def _opened(self) -> ParquetFile:
        from pyarrow.parquet import ParquetFile

        return ParquetFile(_readable(self._path), buffer_size=_PAGE, pre_buffer=False)


class _Cursor:
    """Goes through the cells of a column, and remembers the last batches.

    Args:
        coming: batches, each with the number of its first row.
        start: the first row of the first of them.
    """

    def __init__(self, coming: Generator[tuple[int, list[Any]], None, None], start: int) -> None:
        self._coming = coming
        self._batches: deque[tuple[int, list[Any]]] = deque(maxlen=_HELD_BATCHES)
        self.next = start  # the first row of the batch that comes next

    def holds(self, number: int) -> bool:
        """Whether the row is among those that are remembered."""
        return any(start <= number < start + len(cells) for start, cells in self._batches)

    def cell(self, number: int) -> Any:
        """That of a row which is remembered or to come; ``None`` if there is none."""
        for start, cells in self._batches:
            if start <= number < start + len(cells):
                return cells[number - start]
        for start, cells in self._coming:
            self._batches.append((start, cells))
            self.next = start + len(cells)
            if number < self.next:
                return cells[number - start]
        return None

    def close(self) -> None:
        """Close the file."""
        self._coming.close()


def _holds_paths(kind: pyarrow.DataType) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _arrow_error() -> type[Exception]:
    import pyarrow

    error: type[Exception] = pyarrow.ArrowException
    return error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
