"""Rows of Parquet files and of saved data sets, without the bytes of their images, which are read later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .pictures import read_table
from .rows import IMAGE_COLUMNS, EmbeddedImage, Row

if TYPE_CHECKING:
    import pyarrow

__all__ = ["PARQUET", "is_saved_dataset", "parquet_rows", "saved_rows", "splits_of"]

PARQUET = (".parquet", ".pq")
_ROWS = 1000  # read at a time


def is_saved_dataset(folder: Path) -> bool:
    """Whether a Dataset was saved to the folder."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def splits_of(folder: Path) -> list[str] | None:
    """The names of data sets that were saved to the folder together; None if there are none."""
    try:
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'dataset_dict.json'}: it cannot be read: {error}") from error
    return [str(split) for split in splits]


def parquet_rows(file: Path, name: str, image_column: str | None) -> Iterator[Row]:
    """The rows of a Parquet file.

    Raises:
        DataError: it cannot be read, or pyarrow is missing.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"{file}: Parquet needs pyarrow: pip install 'promptgen-tagger[train]'") from error
    try:
        with ParquetFile(file) as table:
            embedded = _embedded(table.schema_arrow, image_column)
            columns = [column for field in table.schema_arrow for column in _light(field, embedded)]
            start = 0
            for batch in table.iter_batches(_ROWS, columns=columns):
                yield from _rows(batch, start, name, str(file), embedded)
                start += batch.num_rows
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"{file}: it cannot be read as Parquet: {' '.join(str(error).split())[:300]}"
        ) from error


def saved_rows(folder: Path, image_column: str | None) -> Iterator[Row]:
    """The rows of a saved Dataset.

    Raises:
        DataError: it cannot be read, or the datasets library is missing.
    """
    table = read_table(str(folder)).with_format("arrow")
    start = 0
    for part in table.iter(batch_size=_ROWS):
        embedded = _embedded(part.schema, image_column)
        for column in embedded:
            place = part.schema.get_field_index(column)
            part = part.set_column(place, column, _paths(part.column(column)))
        for batch in part.combine_chunks().to_batches():
            yield from _rows(batch, start, folder.name, str(folder), embedded)
            start += batch.num_rows


def _rows(
    batch: pyarrow.RecordBatch, start: int, name: str, place: str, embedded: list[str]
) -> Iterator[Row]:
    for row, values in enumerate(batch.to_pylist(), start):
        for column in embedded:
            cell = values.get(column)
            path = cell.get("path") if isinstance(cell, dict) else cell
            values[column] = EmbeddedImage(place, column, row, path)
        yield Row(f"{name}#{row}", values)


def _embedded(schema: pyarrow.Schema, image_column: str | None) -> list[str]:
    """The columns that hold images themselves."""
    names = [image_column] if image_column else IMAGE_COLUMNS
    return [field.name for field in schema if field.name in names and _holds_bytes(field.type)]


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return "bytes" in {kind.field(i).name for i in range(kind.num_fields)}
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _light(field: pyarrow.Field, embedded: list[str]) -> list[str]:
    """What is read of a column: all of it, but of images their path alone."""
    import pyarrow.types as types

    if field.name not in embedded:
        return [field.name]
    if not types.is_struct(field.type):
        return []
    has_path = "path" in {field.type.field(i).name for i in range(field.type.num_fields)}
    return [f"{field.name}.path"] if has_path else []


def _paths(column: pyarrow.ChunkedArray) -> Any:
    """The paths in a column of images; of one that has none, nulls."""
    import pyarrow
    import pyarrow.compute as compute
    import pyarrow.types as types

    kind = column.type
    if types.is_struct(kind) and "path" in {kind.field(i).name for i in range(kind.num_fields)}:
        return compute.struct_field(column, "path")
    return pyarrow.nulls(len(column), pyarrow.string())
