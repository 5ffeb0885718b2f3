"""One captioner for many threads: their pictures share its batches, and it reads the next ones meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from queue import Empty, SimpleQueue

from ..records import Item, Record
from .base import Workers

_PATIENCE = 0.05  # seconds for which a batch that is not full waits for more pictures


class Desk:
    """Answers whoever asks, in a thread of its own that lasts as long as the process.

    Args:
        workers: answers in order.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._asked: SimpleQueue[tuple[Item, Future[Record]]] = SimpleQueue()
        threading.Thread(target=self._work, name="promptgen-desk", daemon=True).start()

    def ask(self, items: Sequence[Item]) -> list[Record]:
        """The records of pictures, in their order; waits for them. To be called by any thread.

        Raises:
            Exception: as :meth:`.Workers.answer` does.
        """
        futures: list[Future[Record]] = [Future() for _ in items]
        for item, future in zip(items, futures, strict=True):
            self._asked.put((item, future))
        return [future.result() for future in futures]

    def _work(self) -> None:
        while True:
            taken: deque[Future[Record]] = deque()
            try:
                with closing(self._workers.answer(self._taken(taken), lambda: False)) as records:
                    for record in records:
                        if record is not None:
                            taken.popleft().set_result(record)
            except BaseException as error:  # noqa: BLE001 - raised where the records are waited for
                for future in taken:
                    future.set_exception(error)

    def _taken(self, taken: deque[Future[Record]]) -> Iterator[Item]:
        """What is asked, until nothing has come for a moment: what came before must not wait for long."""
        patience = None
        while True:
            try:
                item, future = self._asked.get(timeout=patience)
            except Empty:
                return
            taken.append(future)
            yield item
            patience = _PATIENCE
