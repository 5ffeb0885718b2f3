"""Samples that lie in shards already: the picture of each, found by what stands beside it."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import tarfile
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import BinaryIO

__all__ = ["Samples"]

logger = logging.getLogger(__name__)


class Samples:
    """Finds pictures in shards by the JSON of their samples. Shards are read when the first one is asked for.

    Where they are is kept on disk, in a nameless temporary file.

    Args:
        shards: what opens each, for reading anywhere in it.
    """

    def __init__(self, shards: Sequence[Callable[[], BinaryIO]]) -> None:
        self._shards = shards
        self._database: sqlite3.Connection | None = None
        self._open: tuple[int, BinaryIO] | None = None

    def picture(self, described: bytes) -> bytes | None:
        """The picture of the last sample with this JSON; None if there is no such sample.

        Raises:
            OSError: it cannot be read.
        """
        if self._database is None:
            self._database = self._indexed()
        found = self._database.execute(
            "SELECT shard, start, size FROM pictures WHERE digest = ?", (_digest(described),)
        ).fetchone()
        if found is None:
            return None
        shard, start, size = found
        stream = self._opened(shard)
        stream.seek(start)
        return stream.read(size)

    def close(self) -> None:
        """Close what is open, and give the temporary file back."""
        self._close_shard()
        if self._database is not None:
            self._database.close()
            self._database = None

    def __enter__(self) -> Samples:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _indexed(self) -> sqlite3.Connection:
        database = sqlite3.connect("", isolation_level=None)
        database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -8192;"
            "CREATE TABLE pictures (digest BLOB PRIMARY KEY, shard INT, start INT, size INT) WITHOUT ROWID;"
            "BEGIN;"
        )
        for number in range(len(self._shards)):
            try:
                for digest, start, size in _pictures_in(self._opened(number)):
                    row = (digest, number, start, size)
                    database.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?)", row)
            except (tarfile.TarError, OSError) as error:  # whoever asks for its pictures is told that
                logger.info("What a shard holds could not be read to its end: %s", error)
        return database

    def _opened(self, number: int) -> BinaryIO:
        if self._open is None or self._open[0] != number:
            self._close_shard()
            self._open = number, self._shards[number]()
        return self._open[1]

    def _close_shard(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


def _pictures_in(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """The digest of each sample's JSON, and where its picture lies, which is the first of its members."""
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        last = picture = None
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined] # it would remember them all
            key, _, extension = member.name.partition(".")
            if key != last:
                last, picture = key, (member.offset_data, member.size)
            elif extension == "json" and picture is not None:
                file = tar.extractfile(member)
                yield _digest(b"" if file is None else file.read()), *picture


def _digest(described: bytes) -> bytes:
    return hashlib.blake2b(described, digest_size=16).digest()
