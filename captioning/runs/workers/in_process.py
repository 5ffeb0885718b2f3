"""Captions in the process and thread of the run itself."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ..pictures import ItemPicture
from ..records import Item, Record
from .waiting import Waiting

if TYPE_CHECKING:
    from ...captioner import Captioner, CaptionOptions, ImageResult

_TELL_SECONDS = 0.1  # between two calls of `tell`, at least


def _nothing() -> None:
    pass


class InProcess:
    """One captioner, which reads ahead in threads; see :class:`.Workers`.

    Args:
        instructions: canonical names, in order.
        waiting: told when the captioner waits for pictures.
        tell: called about ten times a second while the model is at work on a batch; it may raise to end the
            run there.
    """

    def __init__(
        self,
        captioner: Captioner,
        instructions: Sequence[str],
        options: CaptionOptions,
        waiting: Waiting | None = None,
        tell: Callable[[], None] = _nothing,
    ) -> None:
        self._waiting = waiting or Waiting()
        self._tell = tell
        self._captioner = captioner
        self._instructions = instructions
        self._options = options

    def answer(
        self, items: Iterator[Item | None], stopping: Callable[[], bool]
    ) -> Generator[Record | None, None, None]:
        """See :meth:`.Workers.answer`.

        Raises:
            Exception: as :meth:`.Captioner.stream` does.
        """
        given: deque[Item] = deque()
        batch = _BatchWatch(stopping, self._waiting, self._tell)
        pictures = _pictures(items, given)
        results = self._captioner.stream(
            pictures, self._instructions, self._options, batch.on_step, keep_features=False
        )
        with closing(results):  # type: ignore[type-var]
            try:
                self._waiting.begin()
                for result in results:
                    batch.ended()
                    yield _record_of(given.popleft(), result)
                    self._waiting.begin()
            except _StoppedError:
                return


def _pictures(items: Iterator[Item | None], given: deque[Item]) -> Iterator[Any]:
    """The pictures for the captioner, as far as it needs them to be files, noted in ``given``."""
    for item in items:
        if item is not None:
            given.append(item)
            yield ItemPicture(item)


class _StoppedError(Exception):
    """Ends the captioner before its next batch."""


class _BatchWatch:
    """Lets the batch that is in flight when the run is stopped come to its end, and no other one begin."""

    def __init__(
        self, stopping: Callable[[], bool], waiting: Waiting, tell: Callable[[], None] = _nothing
    ) -> None:
        self._stopping = stopping
        self._waiting = waiting
        self._tell = tell
        self._due = 0.0
        self._in_flight = False

    def on_step(self, _: int) -> None:
        """A step of the model begins."""
        if self._in_flight:
            if (now := time.monotonic()) >= self._due:
                self._due = now + _TELL_SECONDS
                self._tell()
            return
        if self._stopping():
            raise _StoppedError
        self._in_flight = True
        self._waiting.end()

    def ended(self) -> None:
        """There is a result: the batch has ended."""
        self._in_flight = False
        self._waiting.end()


def _record_of(item: Item, result: ImageResult) -> Record:
    shown = item.name if item.name.isprintable() else repr(item.name)
    error = None if result.error is None else result.error.removeprefix(f"{shown}: ")
    return Record.of(
        item, results=tuple(answer.to_dict() for answer in result.results), size=result.size, error=error
    )
