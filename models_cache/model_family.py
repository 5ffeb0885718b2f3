"""The family of a model that need not be loaded, nor even be there."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from .catalogue import is_built_in
from .families import FAMILIES, known_family
from .folders import candidates, resolve
from .hub import cache_folder

DEFAULT_FAMILY = "florence2"


def family_of_model(model: str) -> str:
    """The family of a model by its name, Hub id or folder. No network.

    Of what is not on this computer it is what the catalogue says, and the default family where that says
    nothing; :func:`told_family` tells whether it is more than a guess.

    Raises:
        ModelNotFoundError: the name stands for nothing.
        CatalogueError: the user's catalogue cannot be understood.
    """
    told = told_family(model)
    if told is not None:
        return told
    entry = resolve(model).entry
    return entry.family if entry is not None and entry.family in FAMILIES else DEFAULT_FAMILY


def told_family(model: str) -> str | None:
    """The family of a model by the name of the built-in catalogue, of one on this computer by its
    ``config.json``; None of any other.

    A folder that is called as a built-in model is what its ``config.json`` says, if that says anything.

    Raises:
        ModelNotFoundError: the name stands for nothing.
        CatalogueError: the user's catalogue cannot be understood.
    """
    reference = resolve(model)
    entry = reference.entry if reference.entry is not None and is_built_in(reference.entry) else None
    if entry is not None and reference.folder in (None, entry.folder):
        return entry.family
    for folder in candidates(reference, cache_folder()):
        family = _in_folder(folder)
        if family is not None:
            return family
    return None if entry is None else entry.family


def _in_folder(folder: Path) -> str | None:
    try:
        status = (folder / "config.json").stat()
    except OSError:
        return None
    return _read(folder, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)  # time and size are part of the key, so that an edit is seen
def _read(folder: Path, _mtime_ns: int, _size: int) -> str | None:
    return known_family(folder)
