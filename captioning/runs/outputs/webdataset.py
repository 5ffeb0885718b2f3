"""Tar shards as the webdataset library reads them: each picture with its captions, as one sample.

A sample is ``000000012.jpg``, ``000000012.txt`` and ``000000012.json``: keys are numbers, since webdataset
takes all behind the first dot of a name for its extension; the picture's own name is in the JSON, which also
has all captions. With several instructions, each has a text file of its own: ``000000012.generate_tags.txt``.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..records import Item, Record
from ..sources.patient import patiently
from ..stores.paths import Place
from ..stores.reading import open_object
from .base import Mark, OnProblem, OutputError, SaveMark
from .disk import Disk, telling, write_all
from .existing import Existing
from .extent import TAIL, Extent
from .samples import Samples
from .texts import Column, check_columns, texts_of

__all__ = ["ShardLimits", "Shards"]

_END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class ShardLimits:
    """When a shard is full."""

    samples: int = 10_000
    size: int = 1 << 30  # bytes

    def __post_init__(self) -> None:
        if self.samples < 1 or self.size < 1:
            raise OutputError("a shard must have room for one sample at least.")


@dataclass(frozen=True)
class Standing:
    """How far the shards have got. All before shard ``number`` are full and complete."""

    first: int = 0  # number of our first shard; those before it were there before the run
    number: int = 0  # of the shard that grows
    ours: Extent = field(default_factory=Extent)  # what of it is committed, without the end of the archive
    samples: int = 0  # in it
    key: int = 0  # of the next sample
    taken: int = 0  # records, also those whose picture could not be read


class PictureGoneError(Exception):
    """A picture whose sample is to be written anew cannot be read any more."""


class Shards:
    """``PREFIX-000000.tar``, ``PREFIX-000001.tar`` and so on, which grow with the run.

    Plans name the copy of a picture that lies in a shard or table itself, and so can be read once only: it is
    kept beside the shards from before the journal knows the answer until the sample is on the disk. They also
    tell of a sample that is there already, when a record is written again for the sake of another output.

    Args:
        folder: where the shards lie.
    """

    name = "webdataset"
    changes_pictures = False

    def __init__(
        self,
        columns: Sequence[Column],
        folder: Path,
        *,
        prefix: str = "captions",
        limits: ShardLimits | None = None,
        existing: Existing,
        disk: Disk,
        on_problem: OnProblem,
    ) -> None:
        check_columns(columns, ["image", "width", "height"])
        self._columns = columns
        self._folder = folder
        self._prefix = prefix
        self._limits = limits or ShardLimits()
        self._existing = existing
        self._disk = disk
        self._on_problem = on_problem
        self._standing = Standing()
        self._stream: io.FileIO | None = None
        self._copies: list[Path] = []  # of pictures whose samples are not committed
        self._committed_copies: list[Path] = []

    def targets(self, item: Item) -> list[Place]:
        """None: a shard is for many."""
        return []

    def wants(self, item: Item) -> bool:
        """Always: what was done before is known to the journal."""
        return True

    def start(self, mark: Mark | None) -> None:
        """Cut off what was not committed. See :meth:`Output.start`."""
        self.close()
        with telling(self._folder):
            if mark is not None and "next" in mark:
                self._put_in_place(from_mark(mark), from_mark(mark["next"]))
                mark = mark["next"]
            if mark is None:
                self._standing = self._begin()
            else:
                self._standing = self._resume(from_mark(mark), closed=mark.get("closed", False))
            self._disk.sync_folders()

    def prepare(self, records: Sequence[Record]) -> list[Record]:
        """Copy pictures that cannot be read again."""
        return [self._prepared(record) for record in records]

    def write(self, records: Sequence[Record]) -> None:
        """Append their samples."""
        for record in records:
            if not self._takes(record) or self._has(record):
                continue
            try:
                picture = self._picture(record)
            except OSError as error:
                self._standing = replace(self._standing, taken=self._standing.taken + 1)
                reason = error.strerror or str(error)
                self._on_problem(record.name, f"the picture cannot be put into a shard: {reason}")
                continue
            self._add(record, picture)

    def commit(self) -> Mark:
        """What was written is on the disk."""
        if self._stream is not None:
            with telling(self._shard(self._standing.number)):
                self._disk.sync(self._stream)
                self._disk.sync_folders()
                self._standing = replace(self._standing, ours=_extent(self._stream))
        # By now the journal has the marks of the commit before this one, but not yet those of this one.
        for copy in self._committed_copies:
            copy.unlink(missing_ok=True)
        self._committed_copies, self._copies = self._copies, []
        return to_mark(self._standing)

    def finish(self, records: Callable[[], Iterator[Record]], save: SaveMark) -> None:
        """End the archive; write all shards anew if a picture was captioned again since it was put there."""
        self.commit()
        self._end_shard()
        wanted = sum(self._takes(record) for record in records())
        if wanted != self._standing.taken:
            self._write_anew(records, save)
        for copy in self._folder.glob(f"{glob.escape(self._copies_of())}*"):  # of no other part of the run
            copy.unlink(missing_ok=True)
        save({**to_mark(self._standing), "closed": True})

    def close(self) -> None:
        """Close the shard; without the end of the archive, which readers can do without."""
        self._close_stream()

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    # ---- samples

    def _add(self, record: Record, picture: bytes) -> None:
        with telling(self._shard(self._standing.number)):
            self._append(self._sample(record, picture, self._standing.key))
        self._standing = replace(self._standing, taken=self._standing.taken + 1)

    def _takes(self, record: Record) -> bool:
        return record.error is None and any(texts_of(record, self._columns).values())

    def _has(self, record: Record) -> bool:
        """Whether its sample is there already."""
        return (record.plans.get(self.name) or {}).get("there", False)

    def _planned(self, record: Record, plan: Mapping[str, Any]) -> Record:
        return replace(record, plans={**record.plans, self.name: dict(plan)})

    def _copies_of(self) -> str:
        """What the names of copies begin with."""
        return f"{_COPY}{self._prefix}."

    def _prepared(self, record: Record) -> Record:
        if not self._takes(record):
            return record
        if record.is_known and self.name in record.previous_plans:
            return self._planned(record, {"there": True})
        if record.path is not None or record.open is None:
            return self._planned(record, {})
        digest = hashlib.blake2b(os.fsencode(record.name), digest_size=10).hexdigest()
        copy = self._folder / f"{self._copies_of()}{digest}.tmp"
        with telling(copy):
            self._disk.make_folder(self._folder)
            try:
                with record.open() as stream:
                    picture = stream.read()
            except OSError:
                return self._planned(record, {})  # told when the sample is to be written
            copy.write_bytes(picture)
            with open(copy, "r+b") as written:
                self._disk.sync(written)
            self._disk.changed(copy.parent)
            self._disk.sync_folders()
        return self._planned(record, {"copy": copy.name})

    def _picture(self, record: Record) -> bytes:
        """The bytes of a picture's file.

        Raises:
            OSError: it cannot be read any more.
        """
        plan = record.plans.get(self.name) or {}
        if "copy" in plan:
            copy = self._folder / plan["copy"]
            self._copies.append(copy)
            return copy.read_bytes()
        if record.path is not None:
            return patiently(record.path.read_bytes)
        if record.open is not None:
            with record.open() as stream:
                return stream.read()
        if record.url is not None:
            with open_object(record.url) as stream:
                return stream.read()
        raise OSError("it lies in another shard or a table, which is not read again")

    def _sample(self, record: Record, picture: bytes, key: int) -> bytes:
        """The members of one sample, as they stand in a tar."""
        texts = self._texts(record)
        members = [(_extension_of(record), picture)]
        for name, text in texts.items():
            extension = "txt" if len(self._columns) == 1 else f"{_safe(name)}.txt"
            members.append((extension, text.encode("utf-8", "backslashreplace")))
        members.append(("json", self._described(record)))
        return b"".join(_member(f"{key:09d}.{extension}", content) for extension, content in members)

    def _texts(self, record: Record) -> dict[str, str]:
        texts = texts_of(record, self._columns)
        return {name: text for name, text in texts.items() if text is not None}

    def _described(self, record: Record) -> bytes:
        """What the JSON of its sample says."""
        width, height = record.size or (None, None)
        row = {"image": record.name, "width": width, "height": height, **self._texts(record)}
        return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")

    def _picture_again(self, record: Record, samples: Samples) -> bytes:
        """The bytes of a picture that may have a sample already, which those of shards and tables alone have.

        Raises:
            OSError: it has none, and cannot be read any more.
        """
        there = samples.picture(self._described(record))
        return self._picture(replace(record, plans={})) if there is None else there

    def _with_pictures(self, records: Iterator[Record], samples: Samples) -> Iterator[tuple[Record, bytes]]:
        """Those that have samples, each with its picture.

        Raises:
            PictureGoneError: one cannot be read any more, which has been told.
        """
        for record in records:
            if self._takes(record):
                try:
                    picture = self._picture_again(record, samples)
                except OSError as error:
                    self._on_problem(
                        record.name,
                        f"the shards keep outdated samples: this picture cannot be read again: {error}",
                    )
                    raise PictureGoneError(record.name) from error
                yield record, picture

    # ---- shards

    def _shard(self, number: int) -> Path:
        return self._folder / f"{self._prefix}-{number:06d}.tar"

    def _numbers(self) -> list[int]:
        """Of the shards that are there."""
        if not self._folder.is_dir():
            return []
        pattern = re.compile(re.escape(self._prefix) + r"-([0-9]{6,})\.tar")
        matches = [pattern.fullmatch(path.name) for path in self._folder.iterdir()]
        return sorted(int(match[1]) for match in matches if match)

    def _begin(self) -> Standing:
        numbers = self._numbers()
        if not numbers or self._existing is Existing.OVERWRITE:
            return Standing()
        if self._existing is not Existing.APPEND:
            raise OutputError(
                f"{str(self._folder)!r} has shards already, from {self._shard(numbers[0]).name!r} on. "
                "Choose another folder with --output, add shards to it with --existing append, or replace "
                "them with --existing overwrite."
            )
        return Standing(first=numbers[-1] + 1, number=numbers[-1] + 1)

    def _resume(self, standing: Standing, *, closed: bool) -> Standing:
        shard = self._shard(standing.number)
        if standing.ours.size and not standing.ours.begins(shard):
            if self._existing is Existing.OVERWRITE:
                return Standing(first=standing.first, number=standing.first)
            raise OutputError(
                f"{str(shard)!r} was changed or taken away by somebody since this run wrote it last. Bring "
                "it back, choose another folder with --output, or write all anew with --existing overwrite."
            )
        if closed and not standing.ours.size and self._numbers():
            return self._begin()
        strangers = [number for number in self._numbers() if number > standing.number]
        if closed and strangers and self._existing is not Existing.OVERWRITE:
            raise OutputError(
                f"{str(self._shard(strangers[0]))!r} has come to this run's shards since it wrote them last. "
                "Move it away, choose another folder with --output, or have it removed with --existing "
                "overwrite."
            )
        for number in self._numbers():
            if number > standing.number or (number == standing.number and not standing.ours.size):
                self._shard(number).unlink()
                self._disk.changed(self._folder)
        if standing.ours.size:
            with open(shard, "r+b") as stream:  # what was not committed, and the end of the archive
                stream.truncate(standing.ours.size)
                self._disk.sync(stream)
        return standing

    def _append(self, sample: bytes) -> None:
        standing = self._standing
        stream = self._open()
        full = standing.samples >= self._limits.samples or stream.tell() + len(sample) > self._limits.size
        if full and standing.samples:
            self._end_shard()
            self._standing = replace(standing, number=standing.number + 1, ours=Extent(), samples=0)
            self._went_on()
            stream = self._open()
        write_all(stream, sample)
        self._standing = replace(
            self._standing, samples=self._standing.samples + 1, key=self._standing.key + 1
        )

    def _open(self) -> io.FileIO:
        if self._stream is None:
            shard = self._shard(self._standing.number)
            self._disk.make_folder(self._folder)
            if self._standing.key == 0:
                for number in self._numbers():  # to be overwritten, as was asked for
                    if number >= self._standing.first:
                        self._shard(number).unlink()
            fresh = not shard.exists()
            mode = "w+b" if fresh else "r+b"
            # Unbuffered: after a full disk, no rest of a sample waits for its chance to be written.
            self._stream = cast(io.FileIO, open(shard, mode, buffering=0))  # noqa: SIM115 - closed by `close`
            self._stream.truncate(self._standing.ours.size)
            self._stream.seek(self._standing.ours.size)
            if fresh:
                self._disk.changed(self._folder)
        return self._stream

    def _end_shard(self) -> None:
        """Complete the shard that grows."""
        if self._standing.samples:
            with telling(self._shard(self._standing.number)):
                stream = self._open()
                write_all(stream, _END_OF_ARCHIVE)
                self._disk.sync(stream)
            self._close_stream()
            self._shard_ended()
        self._close_stream()

    def _shard_ended(self) -> None:
        """A shard has become complete."""

    def _went_on(self) -> None:
        """The next one is to be begun."""

    # ---- writing anew

    def _write_anew(self, records: Callable[[], Iterator[Record]], save: SaveMark) -> None:
        """All shards beside the old ones, then in their place; if a picture is gone, all stays as it is."""
        old = self._standing
        shards = [functools.partial(_opened, self._shard(n)) for n in range(old.first, old.number + 1)]
        drafts = Shards(
            self._columns,
            self._folder,
            prefix=f"{_DRAFT}{self._prefix}",
            limits=self._limits,
            existing=Existing.OVERWRITE,
            disk=self._disk,
            on_problem=self._on_problem,
        )
        drafts._standing = Standing(first=old.first, number=old.first)
        samples = Samples(shards)
        try:
            try:
                for record, picture in self._with_pictures(records(), samples):
                    drafts._add(record, picture)
            except PictureGoneError:
                drafts.close()
                for number in drafts._numbers():
                    drafts._shard(number).unlink()
                return
            new = from_mark(drafts.commit())
            drafts._end_shard()
            save({**to_mark(old), "next": to_mark(new)})
            samples.close()  # some systems do not replace what is open
            self._put_in_place(old, new)
            self._standing = new
        finally:
            samples.close()
            drafts.close()

    def _put_in_place(self, old: Standing, new: Standing) -> None:
        """Put what was written anew in the place of the old shards. Does nothing the second time."""
        for number in range(new.first, new.number + 1):
            draft = self._folder / f"{_DRAFT}{self._shard(number).name}"
            if draft.exists():
                self._disk.move(draft, self._shard(number))
        for number in range(new.number + (1 if new.samples else 0), old.number + 1):
            self._shard(number).unlink(missing_ok=True)
            self._disk.changed(self._folder)
        self._disk.sync_folders()


_DRAFT = ".promptgen-"
_COPY = ".promptgen-picture-"


def _opened(shard: Path) -> BinaryIO:
    return open(shard, "rb")


def _extent(stream: io.FileIO) -> Extent:
    """What was written to a stream up to where it stands."""
    size = stream.tell()
    stream.seek(max(0, size - TAIL))
    tail = stream.read(size - stream.tell())
    return Extent(size, hashlib.sha256(tail).hexdigest())


def to_mark(standing: Standing) -> dict[str, Any]:
    fields = {name: getattr(standing, name) for name in ("first", "number", "samples", "key", "taken")}
    return {**fields, **standing.ours.to_mark()}


def from_mark(mark: Mark) -> Standing:
    fields = {name: mark[name] for name in ("first", "number", "samples", "key", "taken")}
    return Standing(ours=Extent.from_mark(mark), **fields)


def _member(name: str, content: bytes) -> bytes:
    """One file as it stands in a tar, equal for equal content."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    header.mode = 0o644
    padding = -len(content) % tarfile.BLOCKSIZE
    return header.tobuf(tarfile.PAX_FORMAT) + content + bytes(padding)


def _extension_of(record: Record) -> str:
    """Of the picture's file, in small letters, as the library's decoders know it."""
    return _safe(record.relative.suffix.lstrip(".")) or "image"


def _safe(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "_", name.lower())
