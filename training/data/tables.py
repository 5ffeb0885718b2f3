"""Tables of training data: JSON lines, CSV, JSON, Parquet, and Hugging Face's folders of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from ..errors import DataError
from .arrow_tables import PARQUET, parquet_rows, saved_rows, splits_of
from .examples import Example, OnProblem, Problem
from .options import DataSource
from .rows import Row, RowReader

__all__ = [
    "TABLES",
    "dataset_examples",
    "has_metadata",
    "imagefolder_examples",
    "parquet_files",
    "table_examples",
]

_JSON_LINES = (".jsonl", ".ndjson")
_CSV = (".csv", ".tsv")
_JSON = (".json",)
TABLES = (*_JSON_LINES, *_CSV, *_JSON, *PARQUET)
"""Extensions of files that are read as tables."""

_METADATA = tuple(f"metadata{ending}" for ending in (*_JSON_LINES, *_CSV, *PARQUET))
_DELIMITERS = ",;\t"
_TRAIN = "train"


def table_examples(source: DataSource, on_problem: OnProblem) -> Iterator[Example]:
    """Of one file, or of the Parquet files of a folder.

    Raises:
        DataError: it cannot be read, or nothing says what its columns are.
    """
    path = source.path
    for file in parquet_files(source) if path.is_dir() else [path]:
        reader = RowReader(source, file.parent, on_problem)
        yield from reader.examples(_rows(file, file.name, on_problem, source.image_column))


def imagefolder_examples(source: DataSource, on_problem: OnProblem) -> Iterator[Example]:
    """Of every ``metadata`` file in a folder or below, whose paths begin where it lies.

    Raises:
        DataError: one cannot be read, or nothing says what its columns are.
    """
    root = _split_folder(source)
    for file in sorted(one for one in root.rglob("metadata.*") if one.name in _METADATA):
        name = file.relative_to(source.path).as_posix()
        reader = RowReader(source, file.parent, on_problem, root=source.path)
        yield from reader.examples(_rows(file, name, on_problem, source.image_column))


def dataset_examples(source: DataSource, on_problem: OnProblem) -> Iterator[Example]:
    """Of a folder that a Dataset, or a dictionary of some, was saved to.

    Raises:
        DataError: it cannot be read, or nothing says what its columns are.
    """
    folder = source.path
    splits = splits_of(folder)
    if splits is not None:
        chosen = source.split or _TRAIN
        if chosen not in splits:
            raise DataError(
                f"{folder}: it has no split {chosen!r} (key split); there are: {', '.join(splits)}"
            )
        folder = folder / chosen
    elif source.split is not None:
        raise DataError(f"{folder}: it is one data set, without a split {source.split!r}")
    reader = RowReader(source, folder, on_problem)
    yield from reader.examples(saved_rows(folder, source.image_column))


def has_metadata(folder: Path) -> bool:
    """Whether a folder is one of images with metadata, itself or one folder down, as its splits may be."""
    return any(
        (place / name).is_file()
        for place in (folder, *(one for one in sorted(folder.iterdir()) if one.is_dir()))
        for name in _METADATA
    )


def parquet_files(source: DataSource) -> list[Path]:
    """The Parquet files of a folder, also in ``data`` below it, that belong to the split.

    Raises:
        DataError: there are several splits, and none is called as the source says.
    """
    places = (source.path, source.path / "data")
    files = [
        file
        for place in places
        if place.is_dir()
        for file in sorted(place.iterdir())
        if file.suffix.lower() in PARQUET
    ]
    wanted = source.split or _TRAIN
    chosen = [file for file in files if file.stem == wanted or file.stem.startswith(f"{wanted}-")]
    if not chosen and source.split is not None:
        known = ", ".join(file.name for file in files[:10]) or "no file"
        raise DataError(f"{source.path}: no Parquet file of the split {wanted!r}; there is {known}")
    return chosen or files


def _split_folder(source: DataSource) -> Path:
    """
    Raises:
        DataError: there is no such split.
    """
    if source.split is not None:
        if not (source.path / source.split).is_dir():
            raise DataError(f"{source.path}: there is no folder {source.split!r} (key split) in it")
        return source.path / source.split
    train = source.path / _TRAIN
    return train if train.is_dir() and has_metadata(train) else source.path


def _rows(file: Path, name: str, on_problem: OnProblem, image_column: str | None) -> Iterator[Row]:
    """
    Raises:
        DataError: it cannot be read.
    """
    ending = file.suffix.lower()
    if ending in PARQUET:
        yield from parquet_rows(file, name, image_column)
        return
    read = _json_lines if ending in _JSON_LINES else _csv_rows if ending in _CSV else _json_rows
    if ending not in TABLES:
        raise DataError(f"{file}: training data is a folder, or a table: {', '.join(TABLES)}")
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            yield from read(stream, name, on_problem)
    except OSError as error:
        raise DataError(f"{file}: it cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: it is not UTF-8; save it as UTF-8") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: {error}") from error


def _json_lines(stream: TextIO, name: str, on_problem: OnProblem) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        origin = f"{name}:{number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            on_problem(Problem("unreadable row", origin, f"it is no JSON: {error}"))
            continue
        if isinstance(values, dict):
            yield Row(origin, values)
        else:
            on_problem(Problem("unreadable row", origin, "it is no JSON object"))


def _csv_rows(stream: TextIO, name: str, on_problem: OnProblem) -> Iterator[Row]:
    head = stream.readline()
    stream.seek(0)
    delimiter = "\t" if name.lower().endswith(".tsv") else max(_DELIMITERS, key=head.count)
    rows = csv.DictReader(stream, delimiter=delimiter, strict=True)  # else an open quote swallows the rest
    try:
        names = rows.fieldnames or []
        if len(names) != len(set(names)):
            raise DataError(f"{name}: it has two columns of one name: {', '.join(names)}")
        for values in rows:
            origin = f"{name}:{rows.line_num}"
            if None in values or None in values.values():
                on_problem(Problem("unreadable row", origin, "it has not as many fields as the head"))
            else:
                yield Row(origin, {key: value or None for key, value in values.items()})
    except csv.Error as error:
        raise DataError(f"{name}:{rows.line_num}: it is no CSV: {error}") from error


def _json_rows(stream: TextIO, name: str, on_problem: OnProblem) -> Iterator[Row]:
    """A list of rows, or as sd-scripts have it, rows by the path of the image."""
    try:
        content = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: it is no JSON: {error}") from error
    if isinstance(content, dict) and content and all(isinstance(one, dict) for one in content.values()):
        for key, values in content.items():
            yield Row(f"{name}: {key}", {"image": key, **values})
    elif isinstance(content, list):
        for number, values in enumerate(content):
            if isinstance(values, Mapping):
                yield Row(f"{name}#{number}", values)
            else:
                on_problem(Problem("unreadable row", f"{name}#{number}", "it is no JSON object"))
    else:
        raise DataError(f"{name}: it is neither a list of objects nor objects by the path of their image")
