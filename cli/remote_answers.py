"""Images that were named one by one, captioned by a server: the answers in the order of the images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..captioning import ImageResult
from ..captioning.images import read_whole
from ..captioning.runs.records import Item, Record
from .records import records_of
from .remote_workers import RemoteWorkers

if TYPE_CHECKING:
    from .caption_images import Answers


def answers_from(workers: RemoteWorkers, paths: Sequence[str], model: str) -> Answers:
    """What became of each image.

    Args:
        model: what to call the checkpoint.

    Raises:
        RemoteError, ModelGoneError: see :class:`.RemoteWorkers`.
    """
    workers.digest()  # what is wrong with the server, or with what is asked, is told before anything else
    return _answered_all(workers, paths, model)


def _answered_all(
    workers: RemoteWorkers, paths: Sequence[str], model: str
) -> Iterator[tuple[ImageResult, list[dict[str, Any]]]]:
    with closing(workers.answer(map(_item, paths), lambda: False)) as records:
        for record in records:
            if record is not None:
                yield _answered(record, model)


def _item(path: str) -> Item:
    return Item(path, Path(path), Path(path), "", partial(_open, path))


def _open(path: str) -> BinaryIO:
    return io.BytesIO(read_whole(path))


def _answered(record: Record, model: str) -> tuple[ImageResult, list[dict[str, Any]]]:
    shown = record.name if record.name.isprintable() else repr(record.name)
    error = None if record.error is None else f"{shown}: {record.error}"
    result = ImageResult(record.name, error=error, size=record.size)
    return result, records_of(result, model, record.results)
