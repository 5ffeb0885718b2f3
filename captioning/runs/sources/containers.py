"""What every file that pictures are found in has: a table, a shard."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class ContainerSource:
    """One file with pictures in it, or with their paths."""

    spelled: str  # as the user wrote it
    path: str

    @property
    def base(self) -> str:
        """The absolute folder that it lies in."""
        return os.path.dirname(os.path.abspath(self.path))

    @property
    def identity(self) -> str:
        """The same for every name of this file."""
        return os.path.realpath(self.path)
