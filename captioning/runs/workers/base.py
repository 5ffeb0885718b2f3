"""What a run asks of whoever captions its pictures."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from ..records import Item, Record


class Workers(Protocol):
    """Captions pictures, with one checkpoint and the same options for all."""

    def answer(
        self, items: Iterator[Item | None], stopping: Callable[[], bool]
    ) -> Generator[Record | None, None, None]:
        """The record of each item, once, in any order, as soon as it is there.

        Items are asked for as they can be worked on, with a bounded number ahead, in the thread that asks for
        records. To close the generator ends all work.

        Args:
            items: ``None`` stands for "there may be one later", about ten times a second.
            stopping: once it is true, what is in flight is finished, and nothing else is begun.

        Yields:
            A record, or ``None`` about ten times a second while there is none.

        Raises:
            ModelGoneError: it cannot be asked any more; the run ends in order.
        """
        ...
