"""What a journal keeps in a store: snapshots of all, and behind them segments with what came since.

No object is ever changed. ``00000012.sqlite`` is the journal with all up to segment 12;
``00000013-00000013.jsonl`` is segment 13, ``00000001-00000200.jsonl`` holds 200 of them in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from .objects import Entry, in_parallel, list_objects, put, read, remove
from .paths import StorePath

__all__ = ["Segments"]

_SNAPSHOT = re.compile(r"([0-9]{8,})\.sqlite")
_SEGMENT = re.compile(r"([0-9]{8,})-([0-9]{8,})\.jsonl")

_MERGED = 200  # segments that become one
_READ_AHEAD = 32  # segments read side by side


@dataclass
class Segments:
    """The objects of one journal.

    Args:
        folder: where they are.
    """

    folder: StorePath
    last: int = 0  # number of the last segment
    _snapshots: list[tuple[int, Entry]] = field(default_factory=list)
    _found: list[tuple[int, int, str]] = field(default_factory=list)  # first and last number, URL
    _single: list[int] = field(default_factory=list)  # segments of this run that are objects of their own
    _spool: bytearray = field(default_factory=bytearray)  # what is in them

    def find(self) -> None:
        """See what is there.

        Raises:
            StoreError: the store cannot be asked.
        """
        try:
            for entry in list_objects(self.folder.url):
                if match := _SNAPSHOT.fullmatch(entry.name):
                    self._snapshots.append((int(match[1]), entry))
                elif match := _SEGMENT.fullmatch(entry.name):
                    self._found.append((int(match[1]), int(match[2]), entry.url))
        except FileNotFoundError:
            return
        self._snapshots.sort(key=lambda one: one[0])
        self._found.sort(key=lambda one: (one[0], -one[1]))
        self.last = max(
            [number for number, _ in self._snapshots[-1:]] + [last for _, last, _ in self._found], default=0
        )

    def __bool__(self) -> bool:
        return bool(self._snapshots or self._found)

    @property
    def snapshot(self) -> Entry | None:
        """The newest."""
        return self._snapshots[-1][1] if self._snapshots else None

    def since(self) -> Iterator[bytes]:
        """The content of all segments behind the newest snapshot, in order, a few in memory at a time."""
        covered = self._snapshots[-1][0] if self._snapshots else 0
        urls = []
        for first, last, url in self._found:
            if first > covered:
                urls.append(url)
                covered = last
        for start in range(0, len(urls), _READ_AHEAD):
            yield from in_parallel(read, urls[start : start + _READ_AHEAD])

    def add(self, content: bytes) -> None:
        """Put the next segment.

        Raises:
            StoreError: it cannot be put.
        """
        self.last += 1
        put(self._segment(self.last, self.last), content)
        self._single.append(self.last)
        self._spool += content
        if len(self._single) == _MERGED:
            put(self._segment(self._single[0], self.last), bytes(self._spool))
            remove([self._segment(number, number) for number in self._single])
            self._single.clear()
            self._spool.clear()

    def next_snapshot(self) -> str:
        """The URL for a snapshot of all that is there."""
        return (self.folder / f"{self.last:08d}.sqlite").url

    def forget_older(self) -> Entry | None:
        """Remove what the snapshot at :meth:`next_snapshot`, which is there, replaces.

        Returns:
            That snapshot.
        """
        last, newest = self.last, self.next_snapshot()
        self._snapshots, self._found = [], []
        self.find()
        remove(
            [entry.url for number, entry in self._snapshots if number < last]
            + [url for _, of_segment, url in self._found if of_segment <= last]
        )
        return next((entry for _, entry in self._snapshots if entry.url == newest), None)

    def _segment(self, first: int, last: int) -> str:
        return (self.folder / f"{first:08d}-{last:08d}.jsonl").url
