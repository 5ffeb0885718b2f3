"""A journal that is kept in a store, so that another machine can go on with a run whose machine has died.

Runs ask an SQLite file of this machine, which is made anew from the store at the start. What they begin goes
into the store before any output is written, a segment for each group of records; that a group is finished
stands in the next segment. What was written and is not known to be is written again, which changes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .journal import Journal, JournalError, journal_files
from .records import Record
from .stores.hold import HeldError, Hold
from .stores.objects import fetch, put_file
from .stores.paths import Place, StorePath
from .stores.segments import Segments
from .stores.staging import staging_folder

__all__ = ["StoredJournal", "is_journal_there", "open_journal"]

VERSION = 1  # of the segments
_HOLD = "running.json"
_CLEAN = "clean.json"  # on this machine: which snapshot the SQLite file is equal to


def open_journal(place: Place, settings: str, *, restart: bool = False, writing: bool = True) -> Journal:
    """The journal at ``place``, a file or a folder of a store.

    Args:
        settings, restart: see :class:`.Journal`.
        writing: False: only to look, as long as nobody writes; a store is not touched.

    Raises:
        JournalError: it is in use, or cannot be used.
    """
    if not isinstance(place, StorePath):
        return Journal(place, settings, restart=restart)
    return StoredJournal(place, settings, restart=restart, writing=writing)


def is_journal_there(place: Place) -> bool:
    """Whether there is a journal at ``place``.

    Raises:
        JournalError: the store cannot be asked.
    """
    if not isinstance(place, StorePath):
        return place.exists()
    segments = Segments(place)
    with _telling(place):
        segments.find()
    return bool(segments)


class StoredJournal(Journal):
    """See :class:`.Journal`.

    Args:
        place: the folder of its objects.
    """

    def __init__(
        self, place: StorePath, settings: str, *, restart: bool = False, writing: bool = True
    ) -> None:
        self._place = place
        self._writing = writing
        self._segments = Segments(place)
        self._finished: dict[str, str] = {}  # fingerprints by name, which the store does not know yet
        self._stored_marks: dict[str, dict[str, Any]] = {}
        self._is_complete = False  # the run has come to its end
        self._has_changed = False
        self._hold: Hold | None = None
        with _telling(place):
            self._staging = staging_folder(place)
            self._hold = Hold(place / _HOLD) if writing else None
        try:
            self._rebuild(settings, restart)
        except BaseException:
            self._let_go()
            raise

    def begin(self, records: Sequence[Record], settings: str | None = None) -> None:
        """Keep what was answered, in the store first. See :meth:`.Journal.begin`."""
        self._add_segment(records, {})
        super().begin(records, settings)

    def finish(self, fingerprints: Mapping[str, str], marks: Mapping[str, Mapping[str, Any]]) -> None:
        """See :meth:`.Journal.finish`. The store hears of marks at once, of the rest with the next group."""
        super().finish(fingerprints, marks)
        self._finished.update(fingerprints)
        changed = {
            output: dict(mark) for output, mark in marks.items() if mark != self._stored_marks.get(output)
        }
        if changed:
            self._add_segment([], changed)

    def complete(self) -> None:
        """Put a snapshot in the place of all segments when the journal is closed."""
        self._is_complete = True

    def close(self) -> None:
        """Release the lock; see :meth:`complete`."""
        super().close()
        if self._hold is None:
            return
        try:
            if self._is_complete and (self._has_changed or self._finished):
                with _telling(self._place):
                    self._hold.check()
                    self._put_snapshot()
        finally:
            self._let_go()

    # ---- inside

    def _rebuild(self, settings: str, restart: bool) -> None:
        """Make the SQLite file what the store has, and open it."""
        file = self._staging / ("journal.sqlite" if self._writing else "look.sqlite")
        with _telling(self._place):
            self._segments.find()
            snapshot = self._segments.snapshot
            state = None if snapshot is None else [snapshot.url, snapshot.fingerprint]
            clean = self._staging / _CLEAN
            is_equal = self._writing and state is not None and file.exists() and _read(clean) == state
            if self._writing:
                clean.unlink(missing_ok=True)
            if restart or not is_equal:
                for old in journal_files(file):
                    old.unlink(missing_ok=True)
            if snapshot is not None and not restart and not is_equal:
                fetch(snapshot.url, file)
        if restart and self._writing:  # a snapshot of nothing: what comes before it counts no more
            Journal(file, settings).close()
            with _telling(self._place):
                self._segments.last += 1
                put_file(file, self._segments.next_snapshot())
                self._segments.forget_older()
        try:
            super().__init__(file, settings)
        except JournalError as error:
            raise JournalError(str(error).replace(str(file), str(self._place))) from error
        try:
            if not restart:
                with _telling(self._place):
                    for content in self._segments.since():
                        self._replay(content)
                        self._has_changed = True
            self._stored_marks = self.marks()
        except BaseException:
            super().close()
            raise

    def _replay(self, content: bytes) -> None:
        """Take what a segment says into the SQLite file."""
        settings = self.settings
        records: list[Record] = []
        for line in content.splitlines():
            entry = json.loads(line)
            if "version" in entry:
                if records:
                    super().begin(records, settings)
                    records = []
                if entry["version"] != VERSION:
                    raise JournalError(
                        f"the journal {str(self._place)!r} was written by another version of promptgen. "
                        "Name another with --journal, or forget this one with --restart: captions that are "
                        "there stay."
                    )
                settings = entry["settings"]
                super().finish(entry["finished"], entry["marks"])
            else:
                records.append(_record_of(entry))
        if records:
            super().begin(records, settings)

    def _add_segment(self, records: Sequence[Record], marks: dict[str, dict[str, Any]]) -> None:
        head = {
            "version": VERSION,
            "settings": self.settings,
            "finished": self._finished,
            "marks": marks,
        }
        lines = [json.dumps(entry) for entry in (head, *map(_entry_of, records))]
        with _telling(self._place):
            if self._hold is not None:
                self._hold.check()
            self._segments.add("".join(f"{line}\n" for line in lines).encode())
        self._has_changed = True
        self._stored_marks.update(marks)
        self._finished = {}

    def _put_snapshot(self) -> None:
        url = self._segments.next_snapshot()
        put_file(self.path, url)
        snapshot = self._segments.forget_older()
        if snapshot is not None:
            state = json.dumps([snapshot.url, snapshot.fingerprint])
            (self._staging / _CLEAN).write_text(state, encoding="utf-8")

    def _let_go(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()


@contextmanager
def _telling(place: StorePath) -> Iterator[None]:
    """Errors of the store, in words."""
    try:
        yield
    except HeldError as error:
        raise JournalError(
            f"the journal {str(place)!r} is in use by another run: {error}, or a journal of its own with "
            "--journal."
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise JournalError(
            f"the journal {str(place)!r} cannot be used: {reason}. See to it, and start again: all that is "
            "done is safe. A journal can lie elsewhere: --journal FILE."
        ) from error


def _read(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _entry_of(record: Record) -> dict[str, Any]:
    # json.dumps escapes what is not ASCII: bytes of names that are no UTF-8 come back as they were
    return {
        "name": record.name,
        "relative": os.fspath(record.relative),
        "path": None if record.path is None else os.fspath(record.path),
        "url": record.url,
        "fingerprint": record.fingerprint,
        "results": record.results,
        "size": record.size,
        "error": record.error,
        "plans": dict(record.plans),
    }


def _record_of(entry: Mapping[str, Any]) -> Record:
    size = entry["size"]
    return Record(
        name=entry["name"],
        relative=Path(entry["relative"]),
        path=None if entry["path"] is None else Path(entry["path"]),
        fingerprint=entry["fingerprint"],
        results=tuple(entry["results"]),
        size=None if size is None else (size[0], size[1]),
        error=entry["error"],
        plans=entry["plans"],
        url=entry["url"],
    )
