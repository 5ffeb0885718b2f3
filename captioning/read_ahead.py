"""Pictures are read in worker threads while the device works on those before them."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

Source = TypeVar("Source")
Read = TypeVar("Read")

MOST_THREADS = 4

_PATIENCE = 0.5  # seconds


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
        self._pool: _Readers | None = None

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
        """End the threads. What is not begun is dropped; what they are at is waited for, but not for long."""
        self._items.clear()
        if self._pool is not None:
            self._pool.close()

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
            self._pool = _Readers(self._threads)
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
        while not wait([item.reading], timeout=_PATIENCE).done:
            pass  # in short waits, since Ctrl-C does not end a long one on Windows
        return item.reading.result() if item.reader == reader else reader(item.source)


class _Readers:
    """Threads that the end of the process does not wait for, as it does for those of concurrent.futures.

    A file may take for ever to open: a pipe, a share whose server is gone. Ctrl-C must end the run all the
    same.
    """

    def __init__(self, threads: int) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._read, name=f"promptgen-read-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, reader: Callable[[Source], Read], source: Source) -> Future[Read]:
        """Have ``source`` read."""
        future: Future[Read] = Future()

        def read() -> None:
            try:
                future.set_result(reader(source))
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
                future.set_exception(error)

        self._work.put(read)
        return future

    def close(self) -> None:
        """End the threads; those that are still at something after a moment end when that is done."""
        self._closed = True
        for _ in self._threads:
            self._work.put(None)
        deadline = time.monotonic() + _PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _read(self) -> None:
        while (work := self._work.get()) is not None:
            if not self._closed:
                work()
            del work  # and with it the source, which nobody may need any more
