"""Pictures whose paths are listed in a file."""

from __future__ import annotations

import codecs
import functools
import io
import itertools
import locale
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ..records import Item
from ..stores.paths import is_url, join_url, parent_url
from .errors import SourceError
from .patient import open_patiently
from .search import Search

LIST_EXTENSIONS = (".txt", ".lst")

_BLOCK = 1 << 16  # bytes
_TRIED = 1000  # paths of a list, to find out where they begin


@dataclass(frozen=True)
class ListSource:
    """A file with a path on each line, or paths that end in NUL characters (``find -print0``)."""

    spelled: str
    path: str
    base: str  # where its relative paths begin

    @property
    def identity(self) -> str:
        return self.path if is_url(self.path) else os.path.realpath(self.path)

    def items(self, search: Search) -> Iterator[Item]:
        for line in read_paths(self.path):
            yield from listed_file(search, self.base, line)


def list_source(spelled: str, path: str) -> ListSource:
    """The list at ``path``.

    Its relative paths begin at its own folder, or at the current folder if the first of them that is in
    either is there and not beside the list: pictures may have been deleted since it was made.

    Raises:
        SourceError: it cannot be read, or is empty.
    """
    # A pipe can be read only once, and a run reads it again to go on.
    if not is_url(path) and not os.path.isfile(path):
        raise SourceError(f"{spelled}: a list is a file; write it to one first")
    own, current = os.path.dirname(os.path.abspath(path)), os.getcwd()
    try:
        first = next(read_paths(path), None)
        relative = (line for line in read_paths(path) if not (os.path.isabs(line) or is_url(line)))
        tried = () if is_url(path) else itertools.islice(relative, _TRIED)
        found = next((line for line in tried if _exists(own, line) or _exists(current, line)), None)
    except OSError as error:
        raise SourceError(f"{spelled}: the list cannot be read: {error.strerror or error}") from error
    if first is None:
        raise SourceError(f"{spelled}: the list names no files; it takes one path per line")
    if is_url(path):
        return ListSource(spelled, path, parent_url(path))
    is_in_current = found is not None and not _exists(own, found)
    return ListSource(spelled, path, current if is_in_current else own)


def listed_file(search: Search, base: str, line: str) -> Iterator[Item]:
    """The item of a file or object that a list or table names."""
    if is_url(line) or (is_url(base) and not os.path.isabs(line)):
        url = line if is_url(line) else _below(base, line)
        yield from search.object_item(url, wanted=True)
        return
    path = os.path.join(base, line)
    folder, name = os.path.split(path)
    yield from search.file_item(path, os.path.join(_real_folder(folder), name), wanted=True)


def _below(base: str, relative: str) -> str:
    """The URL of a path that begins at a folder; ``..`` leads up."""
    parts = relative.replace("\\", "/").split("/")
    for part in parts:
        if part == "..":
            base = parent_url(base)
        elif part not in ("", "."):
            base = join_url(base, part)
    return base


@functools.lru_cache(1024)
def _real_folder(folder: str) -> str:
    try:
        return os.path.realpath(folder)
    except ValueError:  # a NUL in the name
        return folder


def _exists(folder: str, name: str) -> bool:
    return os.path.lexists(os.path.join(folder, name))


def read_paths(path: str) -> Iterator[str]:
    """The paths in a list, in order; empty lines are none.

    Names in any bytes come as Python keeps them. UTF-16, as PowerShell writes it, is known by its mark.

    Raises:
        OSError: it cannot be read.
    """
    with open_patiently(path, path) as file:
        head = file.read(_BLOCK)
        file.seek(0)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = io.TextIOWrapper(file, encoding="utf-16", errors="replace")
            yield from (line.rstrip("\r\n") for line in text if line.strip())
            return
        if head.startswith(codecs.BOM_UTF8):
            file.seek(len(codecs.BOM_UTF8))
        entries = _split(file, b"\0") if b"\0" in head else (line.rstrip(b"\r\n") for line in file)
        yield from (_decode(entry) for entry in entries if entry.strip())


def _split(file: BinaryIO, mark: bytes) -> Iterator[bytes]:
    rest = b""
    while block := file.read(_BLOCK):
        *whole, rest = (rest + block).split(mark)
        yield from whole
    yield rest


def _decode(name: bytes) -> str:
    if os.name != "nt":
        return os.fsdecode(name)
    try:  # Windows programs write UTF-8 or the code page, and say nowhere which
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode(locale.getpreferredencoding(False), errors="replace")
