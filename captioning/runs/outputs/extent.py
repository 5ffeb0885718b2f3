"""How much of a file is ours, so that a later run can tell whether anybody else has changed it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import OutputError
from .existing import Existing

__all__ = ["TAIL", "Extent", "refuse_foreign"]

TAIL = 4096  # bytes at the end that are compared


@dataclass(frozen=True)
class Extent:
    """The first ``size`` bytes of a file, known by their last few."""

    size: int = 0
    tail: str = hashlib.sha256().hexdigest()  # SHA-256 of the last bytes, at most 4096

    @classmethod
    def of(cls, path: Path, size: int | None = None) -> Extent:
        """What is there now; of the first ``size`` bytes only, if given. A missing file has no bytes.

        Raises:
            OSError: it cannot be read.
        """
        try:
            with open(path, "rb") as stream:
                there = os.fstat(stream.fileno()).st_size
                size = there if size is None else min(size, there)
                stream.seek(max(0, size - TAIL))
                return cls(size, hashlib.sha256(stream.read(size - stream.tell())).hexdigest())
        except FileNotFoundError:
            return cls()

    def begins(self, path: Path) -> bool:
        """Whether the file still begins with these bytes.

        Raises:
            OSError: it cannot be read.
        """
        return Extent.of(path, self.size) == self

    def to_mark(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"size": self.size, "tail": self.tail}

    @classmethod
    def from_mark(cls, mark: Mapping[str, Any]) -> Extent:
        """The inverse of :meth:`to_mark`."""
        return cls(mark["size"], mark["tail"])


def refuse_foreign(path: Path, existing: Existing, *, changed: bool, can_append: bool) -> None:
    """Say that a file is in the way.

    Args:
        changed: it was ours, and somebody has changed it since; else it was there before.
        can_append: the form could keep what is there and go on behind it.

    Raises:
        OutputError: always.
    """
    what = "was changed by somebody since this run last wrote it" if changed else "is there already"
    ways = ["choose another name with --output", "replace it with --existing overwrite"]
    if can_append:
        ways.append("keep what is in it and go on behind that with --existing append")
    if existing in (Existing.APPEND, Existing.PREPEND):
        what += f", and --existing {existing.value} cannot be done to a file of this form"
    raise OutputError(f"{str(path)!r} {what}. Move it away, or {', or '.join(ways)}.")
