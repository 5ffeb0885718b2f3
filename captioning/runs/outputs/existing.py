"""Captions that are there already: what they are worth, and what is done with them."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..sources.patient import patiently

__all__ = ["Existing", "Found", "State", "joined", "look_at"]

_PARTIAL = ".partial"
_MISSING = frozenset([errno.ENOENT, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EINVAL])
_OUR_OWN = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOMEM])  # no fault of any file


class Existing(str, Enum):
    """What is done with a caption that is there already."""

    SKIP = "skip"  # it is kept, and nothing is written
    OVERWRITE = "overwrite"
    APPEND = "append"  # the new one comes after it
    PREPEND = "prepend"  # the new one comes before it


class State(Enum):
    """What a caption file is worth."""

    MISSING = "missing"
    CAPTION = "caption"
    EMPTY = "empty"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"  # nobody can tell; to be left alone


@dataclass(frozen=True)
class Found:
    """What was found where a caption belongs."""

    state: State
    content: bytes = b""
    reason: str = ""  # what is wrong with it

    @property
    def unusable(self) -> bool:
        """Whether it is there and no caption."""
        return self.state in (State.EMPTY, State.DAMAGED)


def look_at(path: Path) -> Found:
    """Read a caption file, if there is one, and judge it.

    Raises:
        OSError: its folder cannot be looked into, and so no other file in it.
    """
    try:
        content = patiently(functools.partial(_read, path))
    except OSError as error:
        if error.errno not in _MISSING:
            if error.errno in _OUR_OWN or not os.path.lexists(path):
                raise
            return Found(State.UNREADABLE, reason=_why_unreadable(path, error))
        partial = path.with_name(path.name + _PARTIAL)
        with contextlib.suppress(OSError):  # the name is too long for a file system: there is none
            if partial.exists():
                return Found(State.DAMAGED, reason=f"only {partial.name!r} is there, half-written")
        return Found(State.MISSING)
    return judge(content)


def _read(path: Path) -> bytes:
    """All of a file; of a pipe or a device nothing, since that could take for ever."""
    with open(path, "rb", opener=_at_once) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EOPNOTSUPP, "it is no regular file")
        return stream.read()


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _why_unreadable(path: Path, error: OSError) -> str:
    return "is a folder" if path.is_dir() else f"cannot be read: {error.strerror or error}"


def judge(content: bytes) -> Found:
    """What the content of a caption file is worth.

    Damaged is what failed writers leave: NUL bytes (a power cut), bytes that are no UTF-8 (another encoding,
    or a cut in a character), a bare ``null`` (an answer that was none).
    """
    if not content:
        return Found(State.EMPTY, content, "is empty")
    if b"\0" in content:
        return Found(State.DAMAGED, content, "holds NUL bytes, as a power cut leaves them")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Found(State.DAMAGED, content, "is no UTF-8 text")
    if not text.strip():
        return Found(State.EMPTY, content, "holds nothing but white space")
    if text.strip() == "null":
        return Found(State.DAMAGED, content, "holds 'null' instead of a caption")
    return Found(State.CAPTION, content)


def joined(first: str, second: str, separator: str) -> str:
    """Two captions in one, with one separator between them however the first one ends."""
    first, second = first.rstrip(), second.strip()
    if separator.strip():
        first = first.removesuffix(separator.strip()).rstrip()
    return separator.join(part for part in (first, second) if part)
