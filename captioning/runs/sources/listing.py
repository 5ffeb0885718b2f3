"""One folder's content in natural order, without holding more than its names."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from .names import natural_key
from .patient import patiently


class Folder(NamedTuple):
    """A folder below a folder."""

    name: str
    is_link: bool


class Listing(NamedTuple):
    """What a folder holds."""

    files: list[str]  # everything that is no folder, dangling links too
    folders: list[Folder]


def list_folder(
    path: str,
    keep_file: Callable[[str], bool],
    keep_folder: Callable[[str], bool],
    on_problem: Callable[[str, str], None],
) -> Listing:
    """What of a folder is kept, each kind sorted; empty, and reported, where it cannot be read."""
    try:
        return patiently(lambda: _list(path, keep_file, keep_folder))
    except FileNotFoundError:
        return Listing([], [])  # removed since its parent was read
    except OSError as error:
        on_problem(path, f"the folder cannot be read and is left out: {error.strerror or error}")
        return Listing([], [])


def _list(path: str, keep_file: Callable[[str], bool], keep_folder: Callable[[str], bool]) -> Listing:
    files: list[str] = []
    folders: list[Folder] = []
    with os.scandir(path) as entries:
        for entry in entries:
            if _is_folder(entry):
                if keep_folder(entry.name):
                    folders.append(Folder(entry.name, _is_link(entry)))
            elif keep_file(entry.name):
                files.append(entry.name)
    files.sort(key=natural_key)
    folders.sort(key=lambda folder: natural_key(folder.name))
    return Listing(files, folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link into what we may not read: told when it is opened as a file
        return False


def _is_link(entry: os.DirEntry[str]) -> bool:
    """Whether it leads elsewhere: a symbolic link, or a junction of Windows."""
    if entry.is_symlink():
        return True
    is_junction = getattr(entry, "is_junction", None)  # Python 3.12
    return bool(is_junction and is_junction())
