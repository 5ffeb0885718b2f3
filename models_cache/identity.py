"""What a checkpoint is, whatever it is called and wherever it lies: a digest of its files' bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .checks import CHECKPOINT, Contents, checkpoint_files, file_digest
from .records import Record, read_record


def checkpoint_digest(folder: Path, contents: Contents = CHECKPOINT) -> str:
    """The same for equal files, in any folder and on any machine; another one when any of them changes.

    Reads all of the weights, unless a download has noted their digests: about a second per gigabyte.

    Raises:
        OSError: a file cannot be read.
    """
    record = read_record(folder)
    digest = hashlib.sha256()
    for name in checkpoint_files(folder, contents):
        digest.update(
            f"{name}\0{_noted(folder, name, record) or file_digest(folder / name, 'sha256')}\n".encode()
        )
    return digest.hexdigest()


def _noted(folder: Path, name: str, record: Record | None) -> str | None:
    """The SHA-256 that was verified once, if the file has not been touched since."""
    known = record.files.get(name) if record is not None else None
    if record is None or known is None or not known.digest.startswith("sha256:"):
        return None
    return known.digest if record.is_current(folder, name, known.digest) else None
