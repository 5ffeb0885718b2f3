"""What travels through a run: a picture that is to be captioned, and what was answered about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Item:
    """One picture of a run, before it is read.

    ``name`` is unique in the run and means the same picture in every run over the same input: a file's path
    relative to the input it was found under, or ``shard.tar#member.jpg``, ``table.parquet#12``. Bytes of file
    names that are no UTF-8 are kept as Python's surrogates (``os.fsdecode``).
    """

    name: str
    relative: Path  # where its captions belong below an output folder, with the picture's own file name
    path: Path | None  # the picture's file; None in shards and tables, and in a store
    fingerprint: str  # changes when the picture changes: size and time of a file, checksum of a member
    open: Callable[[], BinaryIO]  # reads lazily; called in a worker thread, may raise OSError
    url: str | None = None  # of a picture that is an object of a store


@dataclass(frozen=True)
class Record:
    """What became of one picture: answers, or the reason why there are none."""

    name: str  # the item's
    relative: Path
    path: Path | None
    fingerprint: str
    results: tuple[dict[str, Any], ...] = ()  # `Result.to_dict()` of each instruction, in order
    size: tuple[int, int] | None = None  # width and height in pixels, where known
    error: str | None = None
    # What each output, by its name, must know to write this again without doing it twice. JSON can hold it.
    plans: Mapping[str, Any] = field(default_factory=dict)
    # The plans of the record whose place this one takes, if the picture or the settings have changed: by them
    # an output knows its own captions, which it may replace, from those of the user, which it may not.
    previous_plans: Mapping[str, Any] = field(default_factory=dict)
    # the item's, while its run lasts; the journal does not keep it
    open: Callable[[], BinaryIO] | None = None
    url: str | None = None  # the item's
    is_known: bool = False  # it was written before, and comes from the journal for an output that lacks it

    @classmethod
    def of(cls, item: Item, **answered: Any) -> Record:
        """What became of ``item``: ``results`` and ``size``, or an ``error``."""
        return cls(
            item.name, item.relative, item.path, item.fingerprint, open=item.open, url=item.url, **answered
        )
