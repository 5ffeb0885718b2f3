"""One file of regions for all pictures, written at the end of a run: COCO, CSV, JSON."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from ...formats import stream_writer
from ...region_selection import select_in_record
from ..records import Record

__all__ = ["RegionFile"]


class RegionFile:
    """What stands in such a file; see :class:`.whole.WholeFile`.

    Args:
        format: a name of :data:`promptgen.captioning.formats.FORMATS` that is one file.
        only_these: names of instructions; answers to others are left out.
        select: which regions, see :func:`.select_regions`; of most pictures some are missing.
        classes: names that are to have the first numbers.
    """

    def __init__(
        self, format: str, only_these: Sequence[str], *, select: str = "", classes: Sequence[str] = ()
    ) -> None:
        self._format = format
        self._only_these = frozenset(only_these)
        self._select = select
        self._classes = classes

    def check(self) -> None:
        """Nothing is needed."""

    def takes(self, record: Record) -> bool:
        """Pictures that failed have no place here, nor have answers without regions."""
        return record.error is None and record.size is not None and any(self._results(record))

    def write(self, stream: BinaryIO, records: Iterator[Record]) -> None:
        """Picture by picture."""
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="\n")
        writer = stream_writer(self._format, text, classes=self._classes)
        for record in records:
            for result in self._results(record):
                chosen = select_in_record(result, self._select, missing_ok=True)
                writer.write(record.name, record.size or (0, 0), chosen)
        writer.close()
        text.flush()
        text.detach()

    def _results(self, record: Record) -> list[dict[str, object]]:
        return [
            result
            for result in record.results
            if "regions" in result and result["instruction"] in self._only_these
        ]
