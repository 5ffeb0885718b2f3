"""The journal of a run: what was answered and what is on disk, in one SQLite file that survives a kill.

A group of records goes through it in three steps. :meth:`Journal.begin` keeps the answers before any output
file is touched; the outputs write; :meth:`Journal.finish` says that they did, together with the outputs'
marks. Whatever is begun and not finished when a run starts is written again from here, without a model.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from ..syncing import sync_folder
from .records import Item, Record

__all__ = ["Journal", "JournalError", "Known", "journal_files"]

VERSION = 1  # of the tables below
_APPLICATION = 0x50474A52  # "PGJR": tells our files from other SQLite files
_PAGE = 500  # records read at a time

_TABLES = """
CREATE TABLE records (
    number INTEGER PRIMARY KEY,   -- grows with time: records come back in the order in which they were begun
    name BLOB NOT NULL UNIQUE,    -- BLOB: names and paths are bytes that need not be UTF-8
    relative BLOB NOT NULL,
    path BLOB,                    -- or the URL of an object, known by its ://, which no path has
    fingerprint TEXT NOT NULL,
    settings TEXT NOT NULL,
    finished INTEGER NOT NULL,    -- 0 until the outputs have it on disk
    error TEXT,
    answers TEXT NOT NULL,        -- JSON: {"results": […], "size": [width, height] or null}
    plans TEXT NOT NULL           -- JSON: what the outputs know of how they wrote it
);
CREATE INDEX unfinished ON records (number) WHERE finished = 0;
CREATE INDEX failed ON records (number) WHERE error IS NOT NULL;
CREATE TABLE marks (output TEXT PRIMARY KEY, mark TEXT NOT NULL);
"""
_COLUMNS = "number, name, relative, path, fingerprint, error, answers, plans"


class JournalError(Exception):
    """The journal cannot be used; the message names it, says why, and what to do."""


class Known(Enum):
    """What the journal knows about a picture as it is now, under the settings of now."""

    NOTHING = "nothing"  # or only about another state of the picture, or other settings
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Standing:
    """What the journal has on a picture."""

    known: Known
    outdated: bool = False  # it was captioned in another state, or under other settings


def journal_files(path: Path) -> list[Path]:
    """The journal and what SQLite keeps beside it while it is open."""
    return [path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")]


class Journal:
    """What became of each picture of a run. For one process at a time; any of its threads may call it.

    It is locked against other processes for as long as it is open; the lock goes with its process, however
    that ends. All that a method has done is on the disk when it returns, and survives a power cut.

    Args:
        path: the SQLite file; made if it is not there.
        settings: digest of all that shapes an answer besides the picture.
        restart: forget all that it holds; a file that cannot be read is put aside as ``NAME.unreadable``.

    Raises:
        JournalError: it is in use, damaged, no journal, of another version, or cannot be written.
    """

    def __init__(self, path: Path, settings: str, *, restart: bool = False) -> None:
        self.path = path
        self.settings = settings
        self._lock = threading.RLock()
        try:
            self._connection = _open(path)
        except _UnreadableError as error:
            if not restart:
                raise JournalError(
                    f"{str(path)!r} {error}. Name another journal with --journal, or forget this one with "
                    "--restart: captions that are there stay."
                ) from error
            _put_aside(path)
            self._connection = _open(path)
        if restart:
            self._forget_all()

    @classmethod
    def empty(cls, settings: str) -> Journal:
        """One that is in memory alone."""
        return cls(Path(":memory:"), settings)

    def close(self) -> None:
        """Release the lock. What was not finished is still begun."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def complete(self) -> None:
        """The run has come to its end, or was stopped in order."""

    # ---- a group of records on its way to the disk

    def begin(self, records: Sequence[Record], settings: str | None = None) -> None:
        """Keep what was answered. To be called before any output is written.

        A record takes the place of what was known under its name.

        Args:
            settings: under which that was; ``None``: the journal's.
        """
        rows = [(*_row_of(record), settings or self.settings) for record in records]
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO records "
                "(name, relative, path, fingerprint, error, answers, plans, settings, finished) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
                rows,
            )

    def finish(self, fingerprints: Mapping[str, str], marks: Mapping[str, Mapping[str, Any]]) -> None:
        """The outputs have the records of these names on disk; ``marks`` say where each of them stands.

        Args:
            fingerprints: of each picture, by the record's name, now that all is written: an output may have
                changed the picture's file.
        """
        rows = [(fingerprint, os.fsencode(name)) for name, fingerprint in fingerprints.items()]
        with self._transaction() as connection:
            connection.executemany("UPDATE records SET finished = 1, fingerprint = ? WHERE name = ?", rows)
            connection.executemany(
                "INSERT OR REPLACE INTO marks (output, mark) VALUES (?, ?)",
                [(output, json.dumps(mark)) for output, mark in marks.items()],
            )

    def unfinished(self) -> Iterator[Record]:
        """Records of these settings that were begun, but perhaps not written, in order, with their plans."""
        return self._read("finished = 0 AND settings = ?", self.settings)

    def with_previous_plans(self, records: Sequence[Record]) -> list[Record]:
        """The records with what the outputs knew when they last wrote something under these names."""
        known = []
        with self._reading() as connection:
            for record in records:
                row = connection.execute(
                    "SELECT plans FROM records WHERE name = ?", (os.fsencode(record.name),)
                ).fetchone()
                known.append(record if row is None else replace(record, previous_plans=json.loads(row[0])))
        return known

    # ---- what is known

    def standing(self, item: Item) -> Standing:
        """What is known about a picture as it is now. One that is only begun counts as unknown."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT fingerprint, settings, finished, error IS NOT NULL, plans "
                "FROM records WHERE name = ?",
                (os.fsencode(item.name),),
            ).fetchone()
        if row is None:
            return Standing(Known.NOTHING)
        fingerprint, settings, finished, failed, plans = row
        if not finished or (fingerprint, settings) != (item.fingerprint, self.settings):
            # One that failed has plans, too, if there are captions of a time when it could be read.
            return Standing(Known.NOTHING, outdated=not failed or bool(json.loads(plans)))
        return Standing(Known.FAILED if failed else Known.DONE)

    def is_done(self, item: Item) -> bool:
        """Whether a picture as it is now was captioned under these settings, and its captions written."""
        return self.standing(item).known is Known.DONE

    def answered(self, item: Item) -> Record | None:
        """What was answered about a picture as it is now, under these settings."""
        with self._reading() as connection:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM records "
                "WHERE name = ? AND fingerprint = ? AND settings = ? AND finished = 1 AND error IS NULL",
                (os.fsencode(item.name), item.fingerprint, self.settings),
            ).fetchone()
        return None if row is None else _record_of(row)

    def plans(self, name: str) -> dict[str, Any]:
        """What the outputs know of how they wrote the record of this name."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT plans FROM records WHERE name = ?", (os.fsencode(name),)
            ).fetchone()
        return {} if row is None else dict(json.loads(row[0]))

    def records(self) -> Iterator[Record]:
        """All that is on disk, errors too, in the order in which it was answered.

        What was answered under other settings stays until the picture is captioned again. Reads a page at a
        time: memory does not grow with the number of records.
        """
        return self._read("finished = 1")

    def errors(self) -> Iterator[Record]:
        """Those of :meth:`records` that could not be captioned."""
        return self._read("finished = 1 AND error IS NOT NULL")

    def counts(self) -> tuple[int, int]:
        """How many captions and how many errors are known under these settings."""
        with self._reading() as connection:
            finished, failed = connection.execute(
                "SELECT count(*), count(error) FROM records WHERE finished = 1 AND settings = ?",
                (self.settings,),
            ).fetchone()
        return finished - failed, failed

    def marks(self) -> dict[str, dict[str, Any]]:
        """Where each output stood when its last records were finished."""
        with self._reading() as connection:
            rows = connection.execute("SELECT output, mark FROM marks").fetchall()
        return {output: json.loads(mark) for output, mark in rows}

    # ---- inside

    def _read(self, condition: str, *values: object) -> Iterator[Record]:
        """Matching records in order, a page at a time, so that the journal can be written meanwhile."""
        last = 0
        while True:
            with self._reading() as connection:
                rows = connection.execute(
                    f"SELECT {_COLUMNS} FROM records "
                    f"WHERE number > ? AND {condition} ORDER BY number LIMIT {_PAGE}",
                    (last, *values),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield from map(_record_of, rows)

    def _forget_all(self) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM records")
            connection.execute("DELETE FROM marks")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise JournalError(_failure(self.path, error)) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on the disk at the end."""
        with self._reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk has rolled back by itself
                    connection.execute("ROLLBACK")
                raise


class _UnreadableError(Exception):
    """The file is there, but is no journal that we can use."""


def _open(path: Path) -> sqlite3.Connection:
    """An open, locked journal with its tables.

    Raises:
        _UnreadableError: it is damaged, no journal, or of another version.
        JournalError: it is in use, or the folder cannot be written.
    """
    connection = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists()
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        _lock(connection)
        _make_or_check_tables(connection)
        if fresh:
            sync_folder(path.parent)
        return connection
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            raise _UnreadableError(f"is damaged or no journal ({error})") from error
        if isinstance(error, (sqlite3.Error, OSError)):
            raise JournalError(_failure(path, error)) from error
        raise


def _put_aside(path: Path) -> None:
    """Rename what is in the place of the journal: it may be somebody's."""
    number = 1
    while (aside := path.with_name(f"{path.name}.unreadable{number if number > 1 else ''}")).exists():
        number += 1
    path.replace(aside)
    for file in journal_files(path)[1:]:
        file.unlink(missing_ok=True)


def _lock(connection: sqlite3.Connection) -> None:
    """Take the file for this connection until it is closed, with a write-ahead log.

    An exclusive connection needs no memory shared among processes, so this works on network shares, too.
    """
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: through the drive's own cache
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("COMMIT")


def _make_or_check_tables(connection: sqlite3.Connection) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if (application, version, tables) == (0, 0, 0):
        connection.executescript(
            f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {_APPLICATION}; "
            f"PRAGMA user_version = {VERSION}; COMMIT;"
        )
    elif application != _APPLICATION:
        raise _UnreadableError("is an SQLite file of another program")
    elif version != VERSION:
        raise _UnreadableError(
            f"was written by another version of promptgen (journal {version}, not {VERSION})"
        )


def _failure(path: Path, error: Exception) -> str:
    """What to tell about an error of SQLite's or the system's."""
    said = str(error)
    name = repr(str(path))
    if isinstance(error, sqlite3.OperationalError) and "locked" in said:
        return (
            f"the journal {name} is in use by another run. Wait for that to end, or give each run a part of "
            "the pictures with --shard, or a journal of its own with --journal."
        )
    if "full" in said:
        return f"the disk of the journal {name} is full. Make room and start again: all that is done is safe."
    if isinstance(error, OSError):
        said = error.strerror or said
    return (
        f"the journal {name} cannot be used ({said}). Is the folder there, and may it be written? A journal "
        "can lie elsewhere: --journal FILE."
    )


def _row_of(record: Record) -> tuple[object, ...]:
    # json.dumps escapes what is not ASCII, so nothing in an answer can fail to be encoded
    answers = json.dumps({"results": record.results, "size": record.size})
    plans = json.dumps(dict(record.plans))
    path = (
        None if record.path is None and record.url is None else os.fsencode(record.path or record.url or "")
    )
    error = None if record.error is None else record.error.encode("utf-8", "backslashreplace").decode()
    return (
        os.fsencode(record.name),
        os.fsencode(record.relative),
        path,
        record.fingerprint,
        error,
        answers,
        plans,
    )


def _record_of(row: Sequence[Any]) -> Record:
    _, name, relative, path, fingerprint, error, answers, plans = row
    body = json.loads(answers)
    is_object = path is not None and b"://" in path
    return Record(
        name=os.fsdecode(name),
        relative=Path(os.fsdecode(relative)),
        path=None if path is None or is_object else Path(os.fsdecode(path)),
        fingerprint=fingerprint,
        results=tuple(body["results"]),
        size=None if body["size"] is None else (body["size"][0], body["size"][1]),
        error=error,
        plans=json.loads(plans),
        url=os.fsdecode(path) if is_object else None,
    )
