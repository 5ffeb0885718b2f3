"""Files and folders that are there whole or not at all, also after the power has failed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..captioning.syncing import sync_folder

UNFINISHED = ".unfinished-"
"""Before the name of what is being written or taken away. Never read; :func:`remove_unfinished` clears it."""


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new empty folder to write into; when the block ends it stands at ``folder``, and before not.

    After an exception nothing is left of it. ``folder`` must not exist.
    """
    unfinished = begin_folder(folder)
    try:
        yield unfinished
        finish_folder(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def unfinished_name(path: Path) -> Path:
    """Where that which will stand at ``path`` is until it is whole."""
    return path.with_name(f"{UNFINISHED}{path.name}")


def begin_folder(folder: Path) -> Path:
    """The first half of :func:`atomic_folder`: where to write what will stand at ``folder``."""
    unfinished = unfinished_name(folder)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    return unfinished


def finish_folder(unfinished: Path, folder: Path) -> None:
    """The second half: have everything on the disk, then give it its name."""
    for directory, _, names in os.walk(unfinished):
        for name in names:
            _sync(Path(directory, name))
        sync_folder(Path(directory))
    unfinished.rename(folder)
    sync_folder(folder.parent)


def remove_folder(folder: Path) -> None:
    """Take a folder away; should that be cut off, what is left does not look like the whole."""
    leaving = unfinished_name(folder)
    if leaving.exists():
        shutil.rmtree(leaving)
    folder.rename(leaving)
    shutil.rmtree(leaving)


def remove_unfinished(folder: Path) -> None:
    """Take away what a kill has left half done in ``folder``."""
    for entry in folder.glob(f"{UNFINISHED}*"):
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def write_text(path: Path, text: str) -> None:
    """Write or replace a file in one go."""
    unfinished = unfinished_name(path)
    unfinished.write_text(text, encoding="utf-8", newline="\n")
    _sync(unfinished)
    unfinished.replace(path)
    sync_folder(path.parent)


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
