"""Files on network shares: a read that fails for a reason that passes is tried again."""

from __future__ import annotations

import errno
import functools
import io
from collections.abc import Callable
from io import FileIO
from time import sleep
from typing import BinaryIO, TypeVar

from ..stores.paths import is_url
from ..stores.reading import NamedBytes, open_part, open_seekable

Value = TypeVar("Value")

PAUSES = (0.5, 2.0)  # seconds before the second and the third try

_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EIO",
        "ENETDOWN", "ENETRESET", "ENETUNREACH", "ENOTCONN", "EREMOTEIO", "ESHUTDOWN", "ESTALE", "ETIMEDOUT",
    )
    if hasattr(errno, name)
)  # fmt: skip

# Windows: network path or name gone, unexpected network error, semaphore timeout, connection lost.
_PASSING_ON_WINDOWS = frozenset([53, 59, 64, 121, 1231, 1236])

_BUFFER = 1 << 16  # bytes; a round trip over a network is worth as much


def patiently(action: Callable[[], Value]) -> Value:
    """What ``action`` returns, which is tried three times where it fails for a reason that may pass.

    A file that is not there or not ours to read fails at once.

    Raises:
        OSError: as ``action`` raised it the last time.
    """
    for pause in PAUSES:
        try:
            return action()
        except OSError as error:
            if not _may_pass(error):
                raise
        sleep(pause)
    return action()


def _may_pass(error: OSError) -> bool:
    return error.errno in _PASSING or getattr(error, "winerror", None) in _PASSING_ON_WINDOWS


def open_patiently(path: str, name: str, start: int = 0, size: int | None = None) -> BinaryIO:
    """The file or object at ``path``, or ``size`` bytes of it from ``start``, under ``name``.

    Raises:
        OSError: it cannot be opened.
    """
    if is_url(path):
        return open_seekable(path) if size is None else open_part(path, name, start, size)
    return io.BufferedReader(_PatientFile(path, name, start, size), _BUFFER)


def bytes_as_file(data: bytes, name: str) -> BinaryIO:
    """``data`` as an open file called ``name``, so that an error can tell which picture it is."""
    file = NamedBytes(data)
    file.name = name
    return file


def held_bytes(opener: Callable[[], BinaryIO] | None) -> int:
    """Bytes that what opens a picture holds in memory: of a picture that could not be left where it is."""
    is_held = isinstance(opener, functools.partial) and opener.func is bytes_as_file
    return len(opener.args[0]) if is_held else 0  # type: ignore[union-attr]


class _PatientFile(io.RawIOBase):
    """A part of a file, opened again where the file system lost it."""

    def __init__(self, path: str, name: str, start: int, size: int | None) -> None:
        self.name = name
        self._path = path
        self._start = start
        self._size = size
        self._position = 0
        self._file: FileIO | None = None
        patiently(self._opened)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence == io.SEEK_END:
            offset += self._end()
        if offset < 0:
            raise ValueError(f"cannot seek to {offset}, before the beginning of {self.name}")
        self._position = offset
        return offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)
        if self._size is not None:
            view = view[: max(0, self._size - self._position)]
        count = patiently(lambda: self._read_once(view))
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._forget()
        super().close()

    def _opened(self) -> FileIO:
        if self._file is None:
            self._file = FileIO(self._path)
        return self._file

    def _read_once(self, view: memoryview) -> int:
        try:
            file = self._opened()
            file.seek(self._start + self._position)
            return file.readinto(view) or 0
        except OSError:
            self._forget()  # a stale handle stays stale
            raise

    def _end(self) -> int:
        return (
            self._size if self._size is not None else patiently(lambda: self._opened().seek(0, io.SEEK_END))
        )

    def _forget(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
