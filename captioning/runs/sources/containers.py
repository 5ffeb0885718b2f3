"""What every file that pictures are found in has: a table, a shard."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..stores.paths import is_url, parent_url


@dataclass(frozen=True)
class ContainerSource:
    """One file or object with pictures in it, or with their paths."""

    spelled: str  # as the user wrote it
    path: str

    @property
    def base(self) -> str:
        """The absolute folder that it lies in."""
        if is_url(self.path):
            return parent_url(self.path)
        return os.path.dirname(os.path.abspath(self.path))

    @property
    def identity(self) -> str:
        """The same for every name of this file."""
        return self.path if is_url(self.path) else os.path.realpath(self.path)
