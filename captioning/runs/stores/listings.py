"""What lies in the folders of a store, asked for once per folder and not once per picture."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from .objects import list_objects

if TYPE_CHECKING:
    from .paths import StorePath

__all__ = ["Listings"]

_FOLDERS = 4  # whose names are held; pictures come folder by folder


class Listings:
    """Names as they were when a folder was first asked for. For the span of one run; any thread may ask."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._lock = threading.Lock()

    def has(self, path: StorePath) -> bool:
        """Whether there is an object.

        Raises:
            StoreError: the store cannot be asked.
        """
        folder = path.parent.url
        with self._lock:
            names = self._held.get(folder)
            if names is None:
                names = self._held[folder] = _names(folder)
                if len(self._held) > _FOLDERS:
                    self._held.popitem(last=False)
        return path.name in names


def _names(folder: str) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in list_objects(folder))
    except FileNotFoundError:
        return frozenset()
