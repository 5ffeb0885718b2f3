"""How much of the time the model of a run waits for pictures."""

from __future__ import annotations

import time


class Waiting:
    """Measures it, from the first batch to the last. Costs two looks at a clock per picture."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._first: float | None = None
        self._last = 0.0
        self._seconds = 0.0

    def begin(self) -> None:
        """The model has nothing to do."""
        self._since = time.perf_counter()

    def end(self) -> None:
        """It has begun with a batch, or has answered."""
        self._last = time.perf_counter()
        if self._first is None:
            self._first = self._last  # what went before is the start of the run
        elif self._since is not None:
            self._seconds += self._last - self._since
        self._since = None

    @property
    def share(self) -> float | None:
        """Of the time, 0 to 1; ``None`` while there is none."""
        if self._first is None or self._last <= self._first:
            return None
        return self._seconds / (self._last - self._first)
