"""Caption files, one for each picture and extension: beside it, or mirrored below another folder."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from ..records import Item, Record
from ..stores.listings import Listings
from ..stores.paths import Place, StorePath
from .base import Mark, OnProblem, OutputError, PictureError, SaveMark
from .caption_files import each, glance_at, look_at_caption, settle, write_caption
from .disk import Disk, telling
from .existing import Existing, Found, State, joined
from .texts import Column, text_of

__all__ = ["SameStem", "Sidecars", "check_extension"]


class SameStem(str, Enum):
    """What is done with pictures that differ in their extension alone, and so ask for one caption file."""

    ERROR = "error"  # the run does not start
    FULL_NAME = "full-name"  # every caption file is called after the whole name of its picture: a.jpg.txt
    FIRST = "first"  # the first of them, in the order of the run, gets the file; the others are left out


def check_extension(extension: str) -> str:
    """An extension of caption files, without its dot.

    Raises:
        OutputError: it is none, or pictures have it: captions would overwrite them.
    """
    from ...images import image_extensions

    bare = extension.removeprefix(".")
    if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", bare):
        raise OutputError(
            f"{extension!r} is no extension for caption files. Use letters, digits, '-', '_', as in 'txt'."
        )
    last = bare.rpartition(".")[2].lower()
    if f".{last}" in image_extensions() or last in ("partial", "tmp", "tar", "sqlite"):
        raise OutputError(
            f"caption files cannot have the extension {extension!r}, which means another kind of file."
        )
    return bare


class Sidecars:
    """Writes the text of each answer to a file of its own; answers of one extension are joined in one file.

    Plans hold, for each extension that is to be written, the digests of the file before and after, and what
    of the old caption is kept.

    Args:
        folder: where the tree of the pictures is mirrored; None: each file lies beside its picture.
        redo_damaged: replace caption files that are empty or damaged, which are else reported and left.
    """

    name = "sidecars"
    changes_pictures = False

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        folder: Place | None,
        existing: Existing,
        separator: str,
        redo_damaged: bool,
        same_stem: SameStem,
        disk: Disk,
        on_problem: OnProblem,
    ) -> None:
        self._columns: dict[str, list[tuple[int, Column]]] = {}
        for position, column in enumerate(columns):
            self._columns.setdefault(check_extension(column.name), []).append((position, column))
        self._listings = Listings()
        self._folder = StorePath(folder.url, self._listings) if isinstance(folder, StorePath) else folder
        self._existing = existing
        self._separator = separator
        self._redo_damaged = redo_damaged
        self._full_name = same_stem is SameStem.FULL_NAME
        self._disk = disk
        self._on_problem = on_problem

    def targets(self, item: Item | Record) -> list[Place]:
        """One file for each extension."""
        return [self._place(item, extension) for extension in self._columns]

    def wants(self, item: Item) -> bool:
        """Whether one of the files is not there, or is there to be changed.

        Raises:
            PictureError: one cannot be read.
        """
        found = [(path, _look_at(path, glance_at)) for path in self.targets(item)]
        for path, one in found:
            _require_readable(path, one)
        if any(self._may_write(one) for _, one in found):
            return True
        for path, one in found:
            self._report(item.name, path, one)
        return False

    def start(self, mark: Mark | None) -> None:
        """Nothing to do: what was begun is written again."""

    def prepare(self, records: Sequence[Record]) -> list[Record]:
        """Look at the files that are there and decide what becomes of each."""
        return each(self._prepared, records, remote=self._is_remote(records))

    def write(self, records: Sequence[Record]) -> None:
        """Write the files. Those that hold their caption already are not touched."""
        good = [record for record in records if record.error is None]
        each(self._write_all, good, remote=self._is_remote(good))

    def commit(self) -> Mark:
        """The names of new files are on the disk; their content has been since they were written."""
        self._disk.sync_folders()
        return {}

    def finish(self, records: Callable[[], Iterator[Record]], save: SaveMark) -> None:
        """Nothing to do: every file is complete."""

    def close(self) -> None:
        """Nothing is open."""

    # ---- where

    def _is_remote(self, records: Sequence[Record]) -> bool:
        """Whether any of their files is an object of a store."""
        if self._folder is not None:
            return isinstance(self._folder, StorePath)
        return any(record.url is not None for record in records)

    def _place(self, picture: Item | Record, extension: str) -> Place:
        place: Place
        if self._folder is not None:
            place = self._folder / path_below(picture.relative)
        elif picture.path is not None:
            place = picture.path
        elif picture.url is not None:
            place = StorePath(picture.url, self._listings)
            if not place.can_be_written:
                raise OutputError(
                    f"{picture.url!r} is on a server that can only be read from. Name a folder for the "
                    "caption files with --output-dir, or choose another --format."
                )
        else:
            raise OutputError(
                f"{picture.name!r} lies in a shard or a table, where no caption file can lie beside it. "
                "Name a folder for them with --output-dir, or choose another --format."
            )
        stem = place.name if self._full_name else stem_of(place.name)
        return place.with_name(f"{stem}.{extension}")

    # ---- what

    def _prepared(self, record: Record) -> Record:
        own = record.previous_plans.get(self.name, {})
        if record.error is not None:  # the captions of another time stay, and are still ours
            return self._with_plan(record, own) if own else record
        try:
            plan = self._planned(record, own)
        except PictureError as error:
            self._on_problem(record.name, str(error))
            if not record.is_known:  # of one that is, other outputs have the captions
                return replace(record, error=str(error), results=(), plans=record.previous_plans)
            plan = own
        return self._with_plan(record, plan)

    def _with_plan(self, record: Record, plan: Mapping[str, Any]) -> Record:
        return replace(record, plans={**record.plans, self.name: plan})

    def _planned(self, record: Record, own: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Raises:
            PictureError: one of the files cannot be read.
        """
        plan = {}
        for extension in self._columns:
            path = self._place(record, extension)
            found = _look_at(path)
            _require_readable(path, found)
            last = own.get(extension)
            if last is not None and _is_ours(found, last):
                plan[extension] = self._plan(record, extension, found, last.get("base"), ours=True)
            elif self._may_write(found):
                plan[extension] = self._plan(record, extension, found, self._base(found), ours=False)
            else:
                self._report(record.name, path, found)
        return plan

    def _plan(
        self, record: Record, extension: str, found: Found, base: str | None, *, ours: bool
    ) -> dict[str, Any]:
        """The digests of a file before and after, whose it was, and what of the old caption is kept."""
        after = hashlib.sha256(self._content(record, extension, base)).hexdigest()
        plan: dict[str, Any] = {"before": _digest(found), "after": after, "ours": ours}
        return plan if base is None else {**plan, "base": base}

    def _base(self, found: Found) -> str | None:
        """What is kept of what was found."""
        if found.state is not State.CAPTION or self._existing not in (Existing.APPEND, Existing.PREPEND):
            return None
        return found.content.decode("utf-8-sig").replace("\r\n", "\n")

    def _may_write(self, found: Found) -> bool:
        if found.unusable:
            return self._redo_damaged or self._existing is Existing.OVERWRITE
        return found.state is State.MISSING or self._existing is not Existing.SKIP

    def _report(self, name: str, path: Place, found: Found) -> None:
        if found.unusable:
            self._on_problem(
                name, f"the caption file {str(path)!r} {found.reason}; left as it is without --redo-damaged"
            )

    def _content(self, record: Record, extension: str, base: str | None) -> bytes:
        texts = [text_of(record, position, column) for position, column in self._columns[extension]]
        text = functools.reduce(
            lambda first, second: joined(first, second, self._separator),
            [text.replace("\r\n", "\n").strip() for text in texts if text],
            "",
        )
        if base is not None:
            pair = (text, base) if self._existing is Existing.PREPEND else (base, text)
            text = joined(*pair, self._separator)
        return f"{text}\n".encode("utf-8", "backslashreplace")

    # ---- writing

    def _write_all(self, record: Record) -> None:
        planned = record if self.name in record.plans else self._prepared(record)
        for extension, plan in planned.plans.get(self.name, {}).items():
            self._write(planned, extension, plan)

    def _write(self, record: Record, extension: str, plan: Mapping[str, Any]) -> None:
        path = self._place(record, extension)
        report = functools.partial(self._on_problem, record.name)
        found = _look_at(path)
        if found.state is State.UNREADABLE:
            if not record.is_known:  # else it was told when this was prepared
                report(_unreadable(path, found))
            return
        state = _digest(found)
        base = plan.get("base")
        done = state == plan["after"]
        if not done and state not in (plan["before"], None):  # somebody was here in the meantime
            if self._existing is Existing.SKIP:
                report(
                    f"the caption file {str(path)!r} was changed by somebody during this run; left as it is"
                )
                done = True
            else:
                base = self._base(found)
                done = base is not None and self._holds(base, self._content(record, extension, None).decode())
        with telling(path, on_one=report):
            if done:
                settle(path)
                return
            write_caption(path, self._content(record, extension, base), self._disk)

    def _holds(self, base: str, text: str) -> bool:
        """Whether a caption has the text already where it would be added."""
        if self._existing is Existing.PREPEND:
            return base.strip().startswith(text.strip())
        return base.strip().endswith(text.strip())


def _is_ours(found: Found, last: Mapping[str, Any]) -> bool:
    """Whether a file is as we have left it: written, or about to be written once more when we were killed."""
    digest = _digest(found)
    return digest == last["after"] or (last["ours"] and digest == last["before"])


def _require_readable(path: Place, found: Found) -> None:
    """
    Raises:
        PictureError: there is a file that cannot be read.
    """
    if found.state is State.UNREADABLE:
        raise PictureError(_unreadable(path, found))


def _unreadable(path: Place, found: Found) -> str:
    return (
        f"the caption file {str(path)!r} {found.reason}; left as it is. Make it readable or move it away, "
        "and start again with --retry-errors"
    )


def _look_at(path: Place, look: Callable[[Place], Found] = look_at_caption) -> Found:
    with telling(path, deed="read"):
        return look(path)
    raise AssertionError  # not reached: all errors are told by raising


def _digest(found: Found) -> str | None:
    """SHA-256 of what was found; None where there was no file."""
    if found.state is State.MISSING or (found.state is State.DAMAGED and not found.content):
        return None
    return hashlib.sha256(found.content).hexdigest()


def stem_of(name: str) -> str:
    """The name without its last extension; all of it where there is nothing before the dot."""
    stem, dot, _ = name.rpartition(".")
    return stem if dot and stem.strip(".") else name


def path_below(relative: Path) -> PurePath:
    """A path that leads below the folder that it is put to.

    Raises:
        OutputError: it leads elsewhere.
    """
    if relative.is_absolute() or relative.drive or ".." in relative.parts or not relative.name:
        raise OutputError(f"{str(relative)!r} leads out of the folder of the captions.")
    return relative
