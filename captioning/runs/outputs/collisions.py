"""Pictures that ask for the same file, found before anything is written, in constant memory."""

from __future__ import annotations

import functools
import hashlib
import os
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..stores.paths import Place, StorePath, as_place
from .base import OutputError

__all__ = ["Collision", "Taken", "Targets", "refuse"]

_SHOWN = 10  # collisions that are told of one by one


@dataclass(frozen=True)
class Collision:
    """Two pictures that ask for one file."""

    target: Place
    first: str  # the name of the one that came first
    other: str


class Targets:
    """Which picture asked first for which file. Lives on disk, in a nameless temporary file.

    Two spellings of a name are one file where the file system says so: capitals on Windows and macOS, and on
    drives that come from there.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -8192;"
            "CREATE TABLE first (target BLOB PRIMARY KEY, name BLOB) WITHOUT ROWID;"
            "CREATE TABLE late (name BLOB PRIMARY KEY, first BLOB, target BLOB) WITHOUT ROWID;"
            "BEGIN;"
        )

    def add(self, name: str, targets: Iterable[Place]) -> None:
        """A picture and the files that it asks for; pictures in the order of the run, each once."""
        for target in targets:
            key = _key(target)
            there = self._database.execute("SELECT name FROM first WHERE target = ?", (key,)).fetchone()
            if there is None:
                self._database.execute("INSERT INTO first VALUES (?, ?)", (key, os.fsencode(name)))
            elif there[0] != os.fsencode(name):
                row = (os.fsencode(name), there[0], os.fsencode(str(target)))
                self._database.execute("INSERT OR IGNORE INTO late VALUES (?, ?, ?)", row)

    def came_late(self, name: str) -> bool:
        """Whether another picture asked before this one for one of its files."""
        row = self._database.execute("SELECT 1 FROM late WHERE name = ?", (os.fsencode(name),)).fetchone()
        return row is not None

    def collisions(self) -> Iterator[Collision]:
        """All that came late, one entry for each."""
        for other, first, target in self._database.execute("SELECT * FROM late ORDER BY name"):
            yield Collision(as_place(os.fsdecode(target)), os.fsdecode(first), os.fsdecode(other))

    def count(self) -> int:
        """How many came late."""
        return int(self._database.execute("SELECT count(*) FROM late").fetchone()[0])

    def close(self) -> None:
        """Give the temporary file back."""
        self._database.close()

    def __enter__(self) -> Targets:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Taken:
    """Names that are given once only. Lives on disk, in a nameless temporary file."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -8192;"
            "CREATE TABLE taken (name BLOB PRIMARY KEY) WITHOUT ROWID;"
            "BEGIN;"
        )

    def take(self, name: str) -> bool:
        """Whether nobody has it yet."""
        row = (os.fsencode(name),)
        return self._database.execute("INSERT OR IGNORE INTO taken VALUES (?)", row).rowcount > 0

    def close(self) -> None:
        """Give the temporary file back."""
        self._database.close()


def refuse(targets: Targets) -> None:
    """See that no two pictures ask for one file, or for one entry in a file.

    Raises:
        OutputError: some do. The message lists them and says what can be done.
    """
    count = targets.count()
    if not count:
        return
    shown: Sequence[Collision] = [
        found for found, _ in zip(targets.collisions(), range(_SHOWN), strict=False)
    ]
    lines = [_line(one) for one in shown]
    more = f"\n  … and {count - len(shown)} more" if count > len(shown) else ""
    raise OutputError(
        f"{count} {'picture asks' if count == 1 else 'pictures ask'} for the caption file of another:\n"
        + "\n".join(lines)
        + more
        + "\nGive --same-stem full-name for names like 'a.jpg.txt', or --same-stem first to caption only the "
        "first of each."
    )


def _line(one: Collision) -> str:
    line = f"  {one.first} and {one.other}: {one.target}"
    return line.encode("utf-8", "backslashreplace").decode()  # names need not be UTF-8


def _key(path: Place) -> bytes:
    """Equal for two paths that are one file."""
    if isinstance(path, StorePath):
        return hashlib.blake2b(os.fsencode(path.url), digest_size=16).digest()
    folder = Path(os.path.abspath(path.parent))  # noqa: PTH100 - Path.absolute keeps ".."
    text = str(folder / path.name)
    if _ignores_case(str(folder)):
        text = unicodedata.normalize("NFC", text).casefold()
    return hashlib.blake2b(os.fsencode(text), digest_size=16).digest()


@functools.lru_cache(maxsize=64)  # pictures come folder by folder
def _ignores_case(folder: str) -> bool:
    """Whether names that differ in capitals alone are one file there, tried on a name that is there."""
    at = folder
    while at != os.path.dirname(at):  # noqa: PTH120 - bytes that are no UTF-8 pass unchanged
        for name in [*_some_names(at), ""]:
            there = os.path.join(at, name) if name else at  # noqa: PTH118
            parent, own = os.path.split(there)
            if own.swapcase() != own and os.path.lexists(there):
                other = os.path.join(parent, own.swapcase())  # noqa: PTH118
                return os.path.exists(other) and os.path.samefile(there, other)  # noqa: PTH110, PTH121
        at = os.path.dirname(at)  # noqa: PTH120
    return os.name == "nt"


def _some_names(folder: str) -> list[str]:
    """The first few names in a folder; none where it is not there or cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry, _ in zip(entries, range(20), strict=False)]
    except OSError:
        return []
