"""Pictures that were with a worker when it died: one of them may have been why."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from ..records import Item

MOST_DEATHS = 3
"""That a picture may see; it is then taken for the reason."""


class Suspects:
    """Which of them is to blame is found by giving each to a worker alone, those with fewer deaths first."""

    def __init__(self) -> None:
        self._waiting: deque[Item] = deque()
        self._deaths: dict[str, int] = {}  # by name, of those waiting and those that are tried

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def next(self) -> Item:
        """One to be tried alone."""
        return self._waiting.popleft()

    def saw_death(self, items: Iterable[Item]) -> Iterator[Item]:
        """Note that a worker has died with ``items``; gives those that are not to be tried again."""
        for item in items:
            deaths = self._deaths.pop(item.name, 0) + 1
            if deaths >= MOST_DEATHS:
                yield item
            else:
                self._deaths[item.name] = deaths
                self._waiting.append(item)

    def clear(self, name: str) -> None:
        """A picture has its answer."""
        self._deaths.pop(name, None)
