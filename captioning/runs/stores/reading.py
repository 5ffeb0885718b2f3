"""Objects as open files."""

from __future__ import annotations

import io
from typing import BinaryIO

from .objects import StoreError, look, read

__all__ = ["NamedBytes", "open_object", "open_part", "open_seekable"]

_BLOCK = 4 << 20  # bytes asked for at a time
_MOST_BYTES = 2**31  # of one picture


class NamedBytes(io.BytesIO):
    """Bytes that say where they come from, so that an error can tell which picture it is."""

    name = ""


def open_object(url: str, size: int | None = None) -> BinaryIO:
    """A whole object, read at once.

    Args:
        size: as far as it is known.

    Raises:
        OSError: it cannot be read, or is larger than any picture. The message names the URL.
    """
    if size is not None and size > _MOST_BYTES:
        raise StoreError(f"{url}: it has more than {_MOST_BYTES >> 30} GB")
    return _named(url, read(url))


def open_part(url: str, name: str, start: int, size: int) -> BinaryIO:
    """``size`` bytes from ``start`` of an object, under ``name``.

    Raises:
        OSError: they cannot be read.
    """
    data = read(url, start, start + size)
    if len(data) > size:  # a server that gives whole files only
        data = data[start : start + size]
    if len(data) < size:
        raise StoreError(f"{url}: it ends before {name} does")
    return _named(name, data)


def open_seekable(url: str) -> BinaryIO:
    """An object of any size, read as it is asked for.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    found = look(url)
    if found is None:
        raise FileNotFoundError(2, "there is no such object", url)
    if found.size is None:
        return _named(url, read(url))
    return io.BufferedReader(_Blocks(url, found.size), 1 << 16)


def _named(name: str, data: bytes) -> BinaryIO:
    file = NamedBytes(data)
    file.name = name
    return file


class _Blocks(io.RawIOBase):
    """Holds one block, the last that was read."""

    def __init__(self, url: str, size: int) -> None:
        self.name = url
        self._size = size
        self._position = 0
        self._start = 0  # of the block
        self._block = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"cannot seek to {start + offset}, before the beginning of {self.name}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)
        if self._position >= self._size or not view:
            return 0
        if not self._start <= self._position < self._start + len(self._block):
            self._read_block()
        at = self._position - self._start
        data = self._block[at : at + len(view)]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _read_block(self) -> None:
        end = min(self._position + _BLOCK, self._size)
        self._block = read(self.name, self._position, end)
        whole = len(self._block) > end - self._position  # a server that gives whole files only
        self._start = 0 if whole else self._position
        if len(self._block) <= self._position - self._start:
            raise StoreError(f"{self.name}: it has become shorter while it was read")
