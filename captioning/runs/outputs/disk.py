"""Files that appear whole or not at all, and on the disk when they are said to be."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from ...syncing import sync_folder
from ..stores.paths import Place
from .base import OutputError

__all__ = ["Disk", "Fsync", "place_for", "telling", "temporary_of", "write_all"]

_PREFIX = ".promptgen-"
_SUFFIX = ".tmp"

_ADVICE = {
    errno.ENOSPC: "The disk is full. Make room",
    errno.EDQUOT: "Your quota on that disk is used up. Make room",
    errno.EROFS: "The disk is read-only. Mount it for writing, or choose another --output-dir or --output",
    errno.EACCES: "Change its permissions, or choose another --output-dir or --output",
    errno.EPERM: "Change its permissions, or choose another --output-dir or --output",
    errno.ENOENT: "Its folder is gone. Bring it back",
}
# What is wrong with one file and no sign that the next one fails, too.
_ONE_FILE = frozenset(
    [errno.ENAMETOOLONG, errno.EISDIR, errno.EILSEQ, errno.EINVAL, errno.ENOTDIR, errno.ELOOP]
)

_REPLACE_TRIES = 6  # Windows: virus scanners and indexers hold new files open for a moment


class Fsync(str, Enum):
    """How much waits for the disk itself, and so survives a power cut. A kill loses nothing either way."""

    ALWAYS = "always"  # each file and its folder, one by one
    GROUP = "group"  # each file; folders once for a group of records
    NEVER = "never"  # left to the system


@dataclass
class Disk:
    """Writes files as the policy says, and remembers the folders that are still to be synced."""

    fsync: Fsync = Fsync.GROUP
    _folders: set[Path] = field(default_factory=set)

    def write_whole(self, path: Path, content: bytes) -> None:
        """Make ``path`` hold ``content``; whoever reads it sees the old content or the new one, never a part.

        A link is followed, so that it stays a link; a file that is replaced hands its permissions on.

        Raises:
            OSError: it cannot be written. What was there is still there.
        """
        place = place_for(path)
        temporary = temporary_of(place)
        try:
            with open(temporary, "wb") as stream:
                stream.write(content)
                self.sync(stream)
            if place.exists():
                shutil.copymode(place, temporary)
            self.move(temporary, place)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def move(self, temporary: Path, path: Path) -> None:
        """Put a finished file in the place of another."""
        _replace(temporary, path)
        self.changed(path.parent)

    def sync(self, stream: BinaryIO) -> None:
        """What was written to ``stream`` is on the disk."""
        stream.flush()
        if self.fsync is not Fsync.NEVER:
            os.fsync(stream.fileno())

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it that are missing."""
        missing = []
        while not folder.exists() and folder.parent != folder:
            missing.append(folder)
            folder = folder.parent
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            self.changed(new.parent)

    def changed(self, folder: Path) -> None:
        """A name in ``folder`` is new or gone: to be synced now or with the group."""
        if self.fsync is Fsync.ALWAYS:
            sync_folder(folder)
        elif self.fsync is Fsync.GROUP:
            self._folders.add(folder)

    def sync_folders(self) -> None:
        """The names that have changed are on the disk."""
        while self._folders:
            sync_folder(self._folders.pop())


def place_for(path: Path) -> Path:
    """Where a file of this name really lies: the end of a link, which need not exist."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def temporary_of(path: Path) -> Path:
    """The temporary file of ``path``: always the same one, so that a second write clears away the first.

    Its name has a fixed length: the file's own may be as long as the file system allows.
    """
    digest = hashlib.blake2b(os.fsencode(path.name), digest_size=10).hexdigest()
    return path.with_name(f"{_PREFIX}{digest}{_SUFFIX}")


def write_all(stream: io.FileIO, content: bytes) -> None:
    """Write to an unbuffered file, which takes less than it is given when the disk is about to be full."""
    rest = memoryview(content)
    while rest:
        rest = rest[stream.write(rest) :]


@contextlib.contextmanager
def telling(
    path: Place, *, deed: str = "written", on_one: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Errors of the system while ``path`` is written, in words.

    Args:
        deed: what is done to it.
        on_one: told of what is wrong with this file alone, where other files can do without it.

    Raises:
        OutputError: it cannot be written, and so it will be with other files.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if on_one is not None and error.errno in _ONE_FILE:
            on_one(f"{str(path)!r} cannot be {deed}: {reason}")
            return
        advice = _ADVICE.get(error.errno or 0, "See to it")
        raise OutputError(
            f"{str(path)!r} cannot be {deed}: {reason}. {advice}, and start again: all that is done is safe."
        ) from error


def _replace(temporary: Path, path: Path) -> None:
    for pause in range(_REPLACE_TRIES):
        try:
            temporary.replace(path)
            return
        except PermissionError:
            if os.name != "nt" or pause == _REPLACE_TRIES - 1:
                raise
            time.sleep(0.05 * 2**pause)
