"""The pictures that were found, in an order of the user's choice, a page at a time."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from enum import Enum
from types import TracebackType

from ..records import Item

__all__ = ["Order", "OrderedNames"]

_SIZE_AND_TIME = re.compile(r"(\d+)-(-?\d+)")  # the fingerprint of a file


class Order(str, Enum):
    """What comes first."""

    NAME = "name"  # as they are found: image2 before image10, folders after the files beside them
    NAME_BACKWARDS = "name, last first"
    CHARACTERS = "name, by characters"  # image10 before image2
    OLDEST = "oldest first"  # by the time of the last change
    NEWEST = "newest first"
    SMALLEST = "smallest first"  # by the bytes of the file
    LARGEST = "largest first"

    @property
    def needs_fingerprints(self) -> bool:
        """Whether it asks for more than names."""
        return self in (Order.OLDEST, Order.NEWEST, Order.SMALLEST, Order.LARGEST)


_SORTED_BY = {
    Order.NAME: "place",
    Order.NAME_BACKWARDS: "place DESC",
    Order.CHARACTERS: "name",
    Order.OLDEST: "key IS NULL, key, place",
    Order.NEWEST: "key IS NULL, key DESC, place",
    Order.SMALLEST: "key IS NULL, key, place",
    Order.LARGEST: "key IS NULL, key DESC, place",
}


class OrderedNames:
    """Keeps the names of items in a nameless temporary file, so that memory does not grow with them."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.count = 0
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -8192;"
            "CREATE TABLE found (place INTEGER PRIMARY KEY, key INTEGER, name BLOB);"
            "BEGIN;"
        )

    def add(self, item: Item) -> None:
        """One more, in the order in which they are found."""
        self.count += 1
        row = (self.count, self._key(item), os.fsencode(item.name))
        self._database.execute("INSERT INTO found VALUES (?, ?, ?)", row)

    def page(self, start: int, limit: int) -> Iterator[str]:
        """The names from ``start``, counted from 0; ``limit`` of them, or with 0 all that are left."""
        found = self._database.execute(
            f"SELECT name FROM found ORDER BY {_SORTED_BY[self.order]} LIMIT ? OFFSET ?",
            (limit or -1, start),
        )
        for (name,) in found:
            yield os.fsdecode(name)

    def close(self) -> None:
        """Give the temporary file back."""
        self._database.close()

    def __enter__(self) -> OrderedNames:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _key(self, item: Item) -> int | None:
        """What is compared; None where it is not needed, and of files that nobody can read."""
        found = _SIZE_AND_TIME.fullmatch(item.fingerprint)
        if found is None or not self.order.needs_fingerprints:
            return None
        return int(found[1] if self.order in (Order.SMALLEST, Order.LARGEST) else found[2])
