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
    return _in_order(workers, paths, model)


def _in_order(
    workers: RemoteWorkers, paths: Sequence[str], model: str
) -> Iterator[tuple[ImageResult, list[dict[str, Any]]]]:
    early: dict[str, Record] = {}  # their turn has not come
    with closing(workers.answer(_items(paths), lambda: False)) as records:
        for number, path in enumerate(paths):
            while str(number) not in early:
                record = next(records)
                if record is not None:
                    early[record.fingerprint] = record
            yield _answered(path, early.pop(str(number)), model)


def _items(paths: Sequence[str]) -> Iterator[Item]:
    """Each with its place as the fingerprint, since one image may be named twice."""
    for number, path in enumerate(paths):
        yield Item(path, Path(path), Path(path), str(number), partial(_open, path))


def _open(path: str) -> BinaryIO:
    return io.BytesIO(read_whole(path))


def _answered(path: str, record: Record, model: str) -> tuple[ImageResult, list[dict[str, Any]]]:
    shown = path if path.isprintable() else repr(path)
    error = None if record.error is None else f"{shown}: {record.error}"
    result = ImageResult(path, error=error, size=record.size)
    return result, records_of(result, model, record.results)
