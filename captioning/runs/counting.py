"""How many pictures there are, counted beside a run that has begun already."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

logger = logging.getLogger(__name__)


class Counter:
    """Counts in a thread of its own.

    Args:
        things: what to count. If it fails, there is no total: the run itself will meet the failure.
    """

    def __init__(self, things: Iterable[object]) -> None:
        self._things = things
        self._stopped = threading.Event()
        self._total: int | None = None
        self._thread = threading.Thread(target=self._count, name="promptgen-count", daemon=True)
        self._thread.start()

    @property
    def total(self) -> int | None:
        """The number, once it is known."""
        return self._total

    def stop(self) -> None:
        """Count no further. Waits until it has ended."""
        self._stopped.set()
        self._thread.join()

    def _count(self) -> None:
        number = 0
        try:
            for _ in self._things:
                number += 1
                if self._stopped.is_set():
                    return
        except Exception as error:  # noqa: BLE001 - see the class
            logger.info("The pictures could not be counted: %s", error)
        else:
            self._total = number
