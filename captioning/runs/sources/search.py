"""What all sources of a run share: how to look, and which pictures are already found."""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Protocol

from ...images import image_extensions
from ..records import Item
from ..stores.objects import Entry, look
from ..stores.reading import open_object
from .digests import DigestSet
from .names import digest_of, is_hidden, name_below, relative_path
from .patient import open_patiently, patiently
from .patterns import NamePattern
from .walking import Links

CHECKSUM_BYTES = 16


def checksum_of(data: bytes) -> str:
    """The fingerprint of a picture that is no file of its own."""
    return blake2b(data, digest_size=CHECKSUM_BYTES).hexdigest()


def is_in_shard(name: str, shard: tuple[int, int]) -> bool:
    """Whether the picture called ``name`` belongs to the part ``index``, from 0, of ``count``."""
    index, count = shard
    return digest_of(name) % count == index


class Source(Protocol):
    """One input, checked, before it is read."""

    @property
    def spelled(self) -> str:
        """As the user wrote it."""
        ...

    @property
    def base(self) -> str:
        """The folder that its names are relative to, an absolute path."""
        ...

    @property
    def identity(self) -> str:
        """Equal for two that are the same input."""
        ...

    def items(self, search: Search) -> Iterator[Item]:
        """Its pictures, as they are found."""
        ...


class Claims:
    """Decides for each picture that is found whether this run takes it, and counts what is found.

    Args:
        shard: take the part ``index`` of ``count`` alone.
        may_repeat: whether the sources may find one picture twice; to remember costs 32 bytes a picture.
    """

    def __init__(self, shard: tuple[int, int] | None, may_repeat: bool) -> None:
        self._shard = shard
        self._seen = DigestSet() if may_repeat else None
        self.found = 0

    def take(self, name: str, identity: str | None = None) -> bool:
        """Whether the picture called ``name`` is for this run; ``identity`` is the real path of a file."""
        if identity is not None and self._seen is not None and not self._seen.add(digest_of(identity)):
            return False
        self.found += 1
        return self._shard is None or is_in_shard(name, self._shard)


@dataclass(frozen=True)
class Search:
    """How to look for pictures."""

    base: str | None  # the folder that names are relative to
    recursive: bool
    pattern: NamePattern | None
    links: Links
    claims: Claims
    fingerprints: bool  # False: the items are only counted, so no picture is looked at
    on_problem: Callable[[str, str], None]

    def name_of(self, path: str) -> str:
        """What the file at ``path`` is called in this run."""
        return name_below(path, self.base)

    def file_item(self, path: str, identity: str, *, wanted: bool) -> Iterator[Item]:
        """The item of a file, if the run takes it.

        Args:
            identity: the path without symbolic links.
            wanted: whether the user named this very file, so that it is a failure if it is none; otherwise it
                was found in a folder, and leaving it out is right if it has gone or is a pipe.
        """
        name = self.name_of(path)
        if self.fingerprints:
            fingerprint, opener = _state_of(path, wanted)
        else:
            fingerprint, opener = "", functools.partial(open_patiently, path, path)
        if fingerprint is not None and self.claims.take(name, os.path.normcase(identity)):
            yield Item(name, relative_path(name), Path(path), fingerprint, opener)

    def object_item(self, url: str, entry: Entry | None = None, *, wanted: bool) -> Iterator[Item]:
        """The item of an object of a store, if the run takes it.

        Args:
            entry: what a listing said about it.
            wanted: as for :meth:`file_item`.
        """
        name = self.name_of(url)
        opener: Callable[[], BinaryIO] = functools.partial(open_object, url)
        fingerprint: str | None = ""
        if self.fingerprints:
            fingerprint, opener = _state_of_object(url, entry, wanted)
        if fingerprint is not None and self.claims.take(name, url):
            yield Item(name, relative_path(name), None, fingerprint, opener, url)


def is_picture_name(name: str) -> bool:
    """Whether a file of this name in a folder is taken for a picture."""
    extension = os.path.splitext(name)[1].lower()
    return extension in image_extensions() and not is_hidden(name)


def fingerprint_of(state: os.stat_result) -> str:
    """The fingerprint of a picture that is a file."""
    return f"{state.st_size}-{state.st_mtime_ns}"


def _state_of(path: str, wanted: bool) -> tuple[str | None, Callable[[], BinaryIO]]:
    """The fingerprint of a file, None where there is nothing to caption, and what opens it."""
    opener = functools.partial(open_patiently, path, path)
    try:
        state = patiently(lambda: os.stat(path))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if not wanted and isinstance(error, FileNotFoundError) and not os.path.islink(path):
            return None, opener  # removed since the folder was read
        return f"unreadable {getattr(error, 'errno', None)}", functools.partial(_fail, error)
    if stat.S_ISREG(state.st_mode):
        return fingerprint_of(state), opener
    if not wanted:
        return None, opener
    kind = "a folder" if stat.S_ISDIR(state.st_mode) else "a pipe, socket or device"
    return f"not a file {state.st_mode}", functools.partial(_fail, OSError(f"{path}: {kind}, not a picture"))


def _state_of_object(
    url: str, entry: Entry | None, wanted: bool
) -> tuple[str | None, Callable[[], BinaryIO]]:
    """The fingerprint of an object, None where there is nothing to caption, and what opens it."""
    try:
        found = entry if entry is not None and entry.fingerprint is not None else look(url)
    except OSError as error:
        return "unreadable", functools.partial(_fail, error)
    if found is None:
        gone = FileNotFoundError(errno.ENOENT, "there is no such object", url)
        return ("unreadable" if wanted else None), functools.partial(_fail, gone)
    if found.is_folder and wanted and entry is None:
        return "a folder", functools.partial(_fail, OSError(f"{url}: a folder, not a picture"))
    return found.fingerprint or f"{found.size}", functools.partial(open_object, url, found.size)


def _fail(error: Exception) -> BinaryIO:
    """Say at the reading what was wrong at the finding."""
    if isinstance(error, OSError):
        raise type(error)(*error.args, *([error.filename] if error.filename else []))
    raise OSError(str(error))
