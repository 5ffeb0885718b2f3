"""What was verified about a checkpoint, kept beside it: the next start needs no hashing and no network.

In a plain folder the record is ``.promptgen/record.json``; for a snapshot in the Hugging Face cache it is
``models--ORG--NAME/.promptgen/COMMIT.json``, so that clearing the cache clears it too. A record that is not
``complete`` marks a download that was begun and not finished.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from .checks import file_digest, file_problem
from .errors import Problem

logger = logging.getLogger(__name__)

STATE_FOLDER = ".promptgen"
_VERSION = 1


@dataclass(frozen=True)
class VerifiedFile:
    """One file as it was when its bytes matched ``digest`` (``sha256:HEX`` or ``git:HEX``)."""

    size: int
    digest: str
    mtime_ns: int


@dataclass
class Record:
    """What is known about the files of one checkpoint folder."""

    hub_id: str
    commit: str
    complete: bool = False
    files: dict[str, VerifiedFile] = field(default_factory=dict)

    def note(self, folder: Path, name: str, digest: str) -> None:
        """Remember that ``folder/name`` has just been compared with ``digest`` and matched."""
        status = (folder / name).stat()
        self.files[name] = VerifiedFile(status.st_size, digest, status.st_mtime_ns)

    def is_current(self, folder: Path, name: str, digest: str) -> bool:
        """Whether ``folder/name`` matched ``digest`` once and has not been touched since."""
        known = self.files.get(name)
        if known is None or known.digest != digest:
            return False
        try:
            status = (folder / name).stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns)


def snapshot_commit(folder: Path) -> str | None:
    """The commit, if ``folder`` is a snapshot in a Hugging Face cache."""
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.name
    return None


def snapshot_hub_id(folder: Path) -> str | None:
    """The Hub id, if ``folder`` is a snapshot in a Hugging Face cache."""
    if snapshot_commit(folder) is None:
        return None
    return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)


def state_folder(folder: Path) -> Path:
    """Where records, locks and half-fetched files of a checkpoint folder are kept."""
    return (folder.parent.parent if snapshot_commit(folder) else folder) / STATE_FOLDER


def record_path(folder: Path) -> Path:
    """The file that holds the record of a checkpoint folder."""
    return state_folder(folder) / f"{snapshot_commit(folder) or 'record'}.json"


def read_record(folder: Path) -> Record | None:
    """The record of a checkpoint folder; None if there is none that can be read."""
    try:
        raw = json.loads(record_path(folder).read_text(encoding="utf-8"))
        if raw["version"] != _VERSION:
            return None
        files = {name: VerifiedFile(**value) for name, value in raw["files"].items()}
        return Record(raw["hub_id"], raw["commit"], raw["complete"], files)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is not readable and is left out of account: %s", record_path(folder), error)
        return None


def write_record(folder: Path, record: Record) -> None:
    """Write the record through a temporary file and a rename.

    Raises:
        OSError: the place cannot be written to.
    """
    raw: dict[str, Any] = {"version": _VERSION, **asdict(record)}
    path = record_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        temporary.write_text(json.dumps(raw, indent=1), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def record_problems(folder: Path, *, rehash: bool = False) -> list[Problem]:
    """How ``folder`` differs from its record; nothing without a record.

    A file whose size and time are as they were is taken as unchanged unless ``rehash``. A JSON file that was
    edited and is still whole JSON is the user's own setting and no problem.
    """
    record = read_record(folder)
    if record is None:
        return []
    problems, touched = [], False
    for name, known in record.files.items():
        if not rehash and record.is_current(folder, name, known.digest):
            continue
        problem = _compare(folder / name, known, strict=rehash)
        if problem is not None:
            problems.append(problem)
        elif not _edited(folder / name, known, strict=rehash):
            record.note(folder, name, known.digest)
            touched = True
    if not record.complete:
        problems.append(Problem(record_path(folder).name, "unfinished", "the download was not finished"))
    if touched and not problems:  # while there are any, a repair may be writing the record
        try:
            write_record(folder, record)
        except OSError as error:
            logger.debug("The record of %s stays as it was: %s", folder, error)
    return problems


def _compare(path: Path, known: VerifiedFile, *, strict: bool) -> Problem | None:
    try:
        size = path.stat().st_size
    except OSError:
        return Problem(path.name, "missing", "missing, though it was here")
    if (structural := file_problem(path)) is not None:
        return structural
    if _edited(path, known, strict=strict):
        return Problem(path.name, "differs", "edited since it was downloaded") if strict else None
    if size != known.size:
        return Problem(path.name, "damaged", f"has {size:,} bytes, the verified file had {known.size:,}")
    if _digest(path, known, strict=strict) != known.digest:
        return Problem(path.name, "damaged", "its contents are not those that were verified")
    return None


def _edited(path: Path, known: VerifiedFile, *, strict: bool) -> bool:
    """Whether a small JSON file is whole but not what was downloaded."""
    if path.suffix != ".json" or path.name.endswith(".index.json"):
        return False
    if path.stat().st_size != known.size:
        return True
    return _digest(path, known, strict=strict) != known.digest


def _digest(path: Path, known: VerifiedFile, *, strict: bool) -> str:
    """The digest of a file; read anew if ``strict``, else once per process for the same size and time."""
    kind = known.digest.partition(":")[0]
    if strict:
        return file_digest(path, kind)
    status = path.stat()
    return _remembered_digest(path, kind, status.st_size, status.st_mtime_ns)


# Where the record cannot be written (a container's layer, a shared disk), gigabytes would be hashed per use.
@lru_cache(maxsize=512)
def _remembered_digest(path: Path, kind: str, size: int, mtime_ns: int) -> str:
    return file_digest(path, kind)
