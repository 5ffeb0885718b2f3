"""Pictures are read in worker threads while the device works on those before them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

Source = TypeVar("Source")
Read = TypeVar("Read")

MOST_THREADS = 4


@dataclass(eq=False)
class _Item(Generic[Source, Read]):
    """A source that the iterator gave; ``reading`` by ``reader`` once it is under way."""

    name: str
    source: Source
    reader: Callable[[Source], Read] | None = None
    reading: Future[Read] | None = None


class ReadAhead(Generic[Source, Read]):
    """The named sources of an iterator, read in worker threads before they are due. Keeps their order.

    The iterator is asked only within :meth:`more` and :meth:`take`, by the thread that calls them, and never
    for more than the latter are told. If it fails, what it gave before is read first. There are no threads
    before there are two sources to read.
    """

    def __init__(self, sources: Iterator[tuple[str, Source]]) -> None:
        self._sources = sources
        self._items: deque[_Item[Source, Read]] = deque()
        self._reader: Callable[[Source], Read] | None = None
        self._ended = False
        self._failure: Exception | None = None
        self._threads = MOST_THREADS
        self._pool: ThreadPoolExecutor | None = None

    def more(self) -> bool:
        """Whether a source is left to be taken.

        Raises:
            Exception: what the iterator raised, when nothing is left of what it gave before.
        """
        self._ask_for(1)
        if not self._items and self._failure is not None:
            raise self._failure
        return bool(self._items)

    def take(
        self, count: int, ahead: int, reader: Callable[[Source], Read], threads: int = MOST_THREADS
    ) -> list[tuple[str, Read]]:
        """The next ``count`` names and what was read, or as many as there are.

        Args:
            ahead: how many sources after these are begun as well.
            reader: from a source to what it holds; called from several threads. One that is equal to that of
                the call before does the same, so what was read ahead with it counts.
            threads: how many read at a time; acts when the first of them starts.

        Raises:
            Exception: what ``reader`` raised; the source is taken all the same.
        """
        self._reader = reader
        self._threads = min(threads, os.cpu_count() or 1)
        self._begin()
        self._ask_for(count + ahead)
        taken = [self._items.popleft() for _ in range(min(count, len(self._items)))]
        return [(item.name, self._result_of(item, reader)) for item in taken]

    def close(self) -> None:
        """End the threads. What they are at is finished, what is not begun is dropped."""
        self._items.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _ask_for(self, count: int) -> None:
        while len(self._items) < count and not self._ended:
            try:
                name, source = next(self._sources)
            except StopIteration:
                self._ended = True
            except Exception as error:  # noqa: BLE001 - it is raised when its turn comes
                self._ended, self._failure = True, error
            else:
                self._items.append(_Item(name, source))
                self._begin()

    def _begin(self) -> None:
        """Put under way what is not yet; a source that is alone is left to who takes it."""
        if self._reader is None or (self._pool is None and len(self._items) < 2):
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="promptgen-read")
        for item in self._items:
            if item.reading is None:
                item.reader = self._reader
                item.reading = self._under_way(item.source) or self._pool.submit(self._reader, item.source)

    def _under_way(self, source: Source) -> Future[Read] | None:
        """The reading of this very object, which two threads at once would spoil."""
        return next((item.reading for item in self._items if item.reading and item.source is source), None)

    @staticmethod
    def _result_of(item: _Item[Source, Read], reader: Callable[[Source], Read]) -> Read:
        if item.reading is None:
            return reader(item.source)
        if item.reader != reader:
            wait([item.reading])
            return reader(item.source)
        return item.reading.result()
