"""The report after a run: ``report.html``, which shows what came out, to people, in one file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import ImageError
from ..pages.thumbnails import thumbnail
from .records import Item, Record
from .report_file import check_page_place, write_page
from .report_page import GENERATOR, Picture, page
from .report_statistics import Statistics
from .sources import SourceError

if TYPE_CHECKING:
    from .run import RunReport

__all__ = ["ReportOptions", "check_report_place", "write_report"]

Find = Callable[[], Iterable[Item]]


@dataclass(frozen=True)
class ReportOptions:
    """How much a report shows."""

    sample: int = 24  # pictures with their captions
    seed: int = 0  # of the choice of these
    errors: int = 200  # that are told with their reasons; all are counted


def check_report_place(path: Path) -> None:
    """See that a report can go there, and be taken for one, before hours are spent.

    Raises:
        OutputError: it is no name of a page, or there is something there that is no report.
    """
    check_page_place(path, GENERATOR)


def write_report(
    path: Path,
    records: Callable[[], Iterator[Record]],
    run: RunReport,
    settings: Mapping[str, str],
    *,
    find: Find = tuple,
    options: ReportOptions = ReportOptions(),
) -> None:
    """Write the report of a run: its counts, and lengths, tags, a sample and errors of all records.

    Memory does not grow with the number of records, of which each is looked at once.

    Args:
        path: where; a report that is there is replaced.
        records: all that is known, as :meth:`.Journal.records` gives it.
        run: how the run ended.
        settings: what it was told, for people, by what it is called.
        find: the run's pictures; asked only for those in shards and tables, which have no path.

    Raises:
        OutputError: it cannot be written.
    """
    ended = datetime.now().astimezone()
    statistics = Statistics(sample=options.sample, seed=options.seed, errors=options.errors)
    for record in records():
        statistics.add(record)
    pictures = _pictures(statistics.sample.records, find)
    write_page(path, page(run, settings, statistics, pictures, ended))


def _pictures(records: list[Record], find: Find) -> Iterator[Picture]:
    openers, reason = _find_openers({record.name for record in records if record.path is None}, find)
    for record in records:
        opener = openers.get(record.name)
        try:
            if record.path is not None:
                yield _with_thumbnail(record, record.path)
            elif opener is not None:
                with opener() as file:
                    yield _with_thumbnail(record, file)
            else:
                yield Picture(record, problem=reason)
        except (ImageError, OSError) as error:
            yield Picture(record, problem=str(error))


def _find_openers(names: set[str], find: Find) -> tuple[dict[str, Callable[[], BinaryIO]], str]:
    """What opens the pictures of these names, and why some of them are not among these."""
    openers: dict[str, Callable[[], BinaryIO]] = {}
    if not names:
        return openers, ""
    try:
        for item in find():
            if item.name in names:
                openers[item.name] = item.open
                if len(openers) == len(names):
                    break
    except (SourceError, OSError) as error:
        return openers, str(error)
    return openers, "the image is not there any more"


def _with_thumbnail(record: Record, source: Path | BinaryIO) -> Picture:
    """
    Raises:
        ImageError: it cannot be read.
    """
    uri, size = thumbnail(source)
    return Picture(record, uri, size)
