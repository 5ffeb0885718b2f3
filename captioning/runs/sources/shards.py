"""Pictures in tar shards, as webdataset makes them.

A plain tar is read in place: the index is made as the headers go by, and each picture is read by its offset,
by any thread at any time. What is in a compressed tar can be had only in order, so those pictures are held in
memory until they are captioned.
"""

from __future__ import annotations

import functools
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import IO, BinaryIO

from ..records import Item
from ..stores.objects import look
from ..stores.paths import is_url
from .containers import ContainerSource
from .digests import DigestSet
from .names import digest_of, is_hidden, relative_path
from .patient import bytes_as_file, open_patiently
from .search import CHECKSUM_BYTES, Search, checksum_of, is_picture_name

SHARD_EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_BLOCK = 1 << 18  # bytes
_MOST_HELD = 1 << 30  # bytes of one picture in a compressed tar; more is no picture but an attack

_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class ShardSource(ContainerSource):
    """One tar file."""

    def items(self, search: Search) -> Iterator[Item]:
        own = search.name_of(self.path)
        folder = relative_path(_without_extension(own))
        names = DigestSet()  # of this shard alone, so memory is bounded by its size
        pattern = search.pattern
        try:
            with _Archive(self.path) as archive:
                for member in archive.members():
                    if not _is_picture(member) or (pattern and not pattern.matches(member.name)):
                        continue
                    name = f"{own}#{member.name}"
                    if not names.add(digest_of(member.name)):
                        search.on_problem(name, "a second picture of this name in the shard; it is left out")
                    elif (reason := archive.objection(member)) is not None:
                        search.on_problem(name, f"{reason}; it is left out")
                    elif search.claims.take(name):
                        fingerprint, opener = archive.content(member, name, search.fingerprints)
                        yield Item(name, folder / relative_path(member.name), None, fingerprint, opener)
        except _DAMAGE as error:
            search.on_problem(
                own, f"the shard is damaged or cannot be read; what comes after is lost: {error}"
            )


def _without_extension(name: str) -> str:
    ending = next(extension for extension in SHARD_EXTENSIONS[::-1] if name.lower().endswith(extension))
    return name[: -len(ending)]


def _is_picture(member: tarfile.TarInfo) -> bool:
    if member.isdir() or not is_picture_name(os.path.basename(member.name)):
        return False
    return not any(is_hidden(part) for part in member.name.split("/") if part not in (".", ".."))


class _StrictMember(tarfile.TarInfo):
    """Makes a failure of damage, which tarfile takes for the end wherever it is not the beginning."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictMember:
        if not buf:
            raise tarfile.ReadError("it ends without the mark of its end")
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


class _Archive:
    """An open tar file that is read from its beginning to its end."""

    def __init__(self, path: str) -> None:
        self._path = path
        found = look(path) if is_url(path) else None
        self._state = None if found is None else found.fingerprint  # of an object of a store
        self._is_plain = path.lower().endswith(".tar")
        self._file: BinaryIO = open_patiently(path, path)
        try:
            mode = "r:" if self._is_plain else "r|*"
            self._tar = tarfile.open(fileobj=self._file, mode=mode, tarinfo=_StrictMember)  # type: ignore[call-overload] # noqa: SIM115
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()
        self._file.close()

    def members(self) -> Iterator[tarfile.TarInfo]:
        while (member := self._tar.next()) is not None:
            self._tar.members.clear()  # it would remember them all
            yield member

    def objection(self, member: tarfile.TarInfo) -> str | None:
        """Why a member cannot be read, None if it can."""
        if not member.isreg() or member.issparse():
            return "a link, sparse file or device in the shard, not a picture"
        if not self._is_plain and member.size > _MOST_HELD:
            return f"{member.size} bytes, too many to hold in memory; unpack the shard to .tar"
        return None

    def content(
        self, member: tarfile.TarInfo, name: str, fingerprint: bool
    ) -> tuple[str, Callable[[], BinaryIO]]:
        """The checksum of a member's content, empty unless asked for, and what opens it."""
        if self._is_plain:
            opener = functools.partial(open_patiently, self._path, name, member.offset_data, member.size)
            return (self._checksum(member) if fingerprint else ""), opener
        data = self._reader(member).read()
        return checksum_of(data), functools.partial(bytes_as_file, data, name)

    def _checksum(self, member: tarfile.TarInfo) -> str:
        if self._state is not None:  # the store knows: nothing need be read twice over the network
            return f"{self._state}@{member.offset_data}+{member.size}"
        digest = blake2b(digest_size=CHECKSUM_BYTES)
        reader = self._reader(member)
        while block := reader.read(_BLOCK):
            digest.update(block)
        return digest.hexdigest()

    def _reader(self, member: tarfile.TarInfo) -> IO[bytes]:
        reader = self._tar.extractfile(member)
        if reader is None:
            raise tarfile.ReadError(f"{member.name} has no content")
        return reader
