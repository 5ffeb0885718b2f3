"""The two threads beside the device: one looks for pictures ahead of it, one writes behind it.

Both are bounded, by number and by what is held in memory: whoever is too fast waits, so memory does not grow
with the number of pictures.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

Thing = TypeVar("Thing")

AHEAD = 256  # pictures found and not yet asked for
BEHIND = 256  # records answered and not yet written
HELD = 256 * 2**20  # bytes of pictures held in memory from which on nothing is added, ahead and behind each
GROUP = 32  # records written, and made safe, together
GROUP_SECONDS = 1.0  # the longest that the first of a group waits for others

_POLL = 0.1  # seconds between looks at whether the other side still lives
_END = object()


def _nothing(_: object) -> int:
    return 0


class _Weighed(queue.Queue[object]):
    """A queue that is also full when what it has weighs ``most``."""

    def __init__(self, size: int, weigh: Callable[[Any], int], most: int) -> None:
        super().__init__(size)
        self._weigh = weigh
        self._most = most
        self._weight = 0

    def _put(self, item: object) -> None:
        super()._put(item)
        self._weight += self._weight_of(item)

    def _get(self) -> object:
        item = super()._get()
        self._weight -= self._weight_of(item)
        return item

    def _qsize(self) -> int:
        """What the queue asks to know whether it is full, or empty."""
        count = super()._qsize()
        return self.maxsize if count and self._weight >= self._most else count

    def _weight_of(self, item: object) -> int:
        return 0 if item is _END else self._weigh(item)


class Ahead(Generic[Thing]):
    """What an iterator gives, asked for by a thread of its own, at most ``size`` ahead.

    Args:
        weigh: bytes that a thing holds in memory.
        held: nothing is added once those that wait hold so many.
    """

    def __init__(
        self,
        things: Iterator[Thing],
        *,
        size: int = AHEAD,
        weigh: Callable[[Thing], int] = _nothing,
        held: int = HELD,
    ) -> None:
        self._things = things
        self._queue = _Weighed(size, weigh, held)
        self._failure: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fetch, name="promptgen-find", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Thing | None]:
        """All things in order, and ``None`` about ten times a second while the next one is not there yet.

        Raises:
            Exception: what the iterator raised, after all that it gave before.
        """
        while True:
            try:
                thing = self._queue.get(timeout=_POLL)
            except queue.Empty:
                yield None
                continue
            if thing is _END:
                break
            yield thing  # type: ignore[misc]
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Ask for nothing more. Waits until the iterator has given what it is at."""
        self._closed.set()
        self._thread.join()

    def _fetch(self) -> None:
        try:
            for thing in self._things:
                if not self._put(thing):
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the next thing is asked for
            self._failure = error
        self._put(_END)

    def _put(self, thing: object) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(thing, timeout=_POLL)
                return True
            except queue.Full:
                continue
        return False


class Behind(Generic[Thing]):
    """Hands what it is given to ``write``, in groups, by a thread of its own.

    A group is what came within a second, at most 32 things. If ``write`` fails, nothing more is written, and
    the failure is raised in the next :meth:`put`, and in :meth:`finish`.

    Args:
        weigh: bytes that a thing holds in memory.
        held: nothing is taken once those that wait hold so many.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Thing]], None],
        *,
        size: int = BEHIND,
        group: int = GROUP,
        seconds: float = GROUP_SECONDS,
        weigh: Callable[[Thing], int] = _nothing,
        held: int = HELD,
    ) -> None:
        self._write = write
        self._group = group
        self._seconds = seconds
        self._queue = _Weighed(size, weigh, held)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="promptgen-write", daemon=True)
        self._thread.start()

    def put(self, thing: Thing) -> None:
        """Give one thing; waits where the disk is slower than what comes.

        Raises:
            Exception: what ``write`` raised.
        """
        self._put(thing)

    def finish(self) -> None:
        """Wait until all is written.

        Raises:
            Exception: what ``write`` raised.
        """
        self._put(_END)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _put(self, thing: object) -> None:
        while True:
            if self._failure is not None:
                raise self._failure
            try:
                self._queue.put(thing, timeout=_POLL)
                return
            except queue.Full:
                continue

    def _work(self) -> None:
        ended = False
        try:
            while not ended:
                group, ended = self._next_group()
                if group:
                    self._write(group)
        except BaseException as error:  # noqa: BLE001 - raised where the next thing is given
            self._failure = error

    def _next_group(self) -> tuple[list[Thing], bool]:
        """What is to be written together, and whether nothing comes after it."""
        group: list[Thing] = []
        due = None
        while len(group) < self._group:
            try:
                thing = self._queue.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
            except queue.Empty:
                break
            if thing is _END:
                return group, True
            group.append(thing)  # type: ignore[arg-type]
            due = due or time.monotonic() + self._seconds
        return group, False
