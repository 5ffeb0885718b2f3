"""What a picture is called in a run, and in which order pictures come."""

from __future__ import annotations

import os
import re
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path, PurePosixPath

from ..stores.paths import is_url

# Made by systems and not by users: thumbnails of network drives, what archives of macOS carry, waste baskets.
_SYSTEM_FOLDERS = frozenset(["@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information"])

_DIGITS = re.compile(r"[0-9]+")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is nobody's picture: hidden, or made by the system."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def natural_key(name: str) -> tuple[str, str]:
    """Sorts ``image2`` before ``image10``, and capitals with small letters; no two names are equal."""
    return _DIGITS.sub(_sortable, name.casefold()), name


def _sortable(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"0{chr(len(digits))}{digits}"  # with the length first, text sorts as numbers do


def digest_of(text: str) -> int:
    """64 bits that are the same on every machine and never 0."""
    encoded = text.encode("utf-8", "surrogatepass")  # bytes that are no UTF-8 are surrogates
    return int.from_bytes(blake2b(encoded, digest_size=8).digest(), "big") or 1


def within(path: str, folder: str) -> str | None:
    """What of ``path`` comes below ``folder``, empty for the folder itself; None where it lies elsewhere.

    Both are absolute and normalised, or URLs.
    """
    if is_url(path) or is_url(folder):
        above = folder.rstrip("/")
        if path.rstrip("/") == above:
            return ""
        return path[len(above) + 1 :] if path.startswith(f"{above}/") else None
    at, below = os.path.normcase(path), os.path.normcase(folder)
    if at == below:
        return ""
    prefix = below if below.endswith(os.sep) else below + os.sep
    return path[len(prefix) :] if at.startswith(prefix) else None


def common_folder(folders: list[str]) -> str | None:
    """The lowest folder that holds all of them; None where there is none, as on two drives of Windows.

    URLs of one store, and of one bucket there, have one.
    """
    if any(is_url(folder) for folder in folders):
        return _common_url(folders)
    try:
        return os.path.commonpath(folders)
    except ValueError:
        return None


def _common_url(folders: list[str]) -> str | None:
    if not all(is_url(folder) for folder in folders):
        return None
    split = [folder.rstrip("/").split("/") for folder in folders]
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*split, strict=False))
    common = [parts[0] for parts in same]
    return "/".join(common) if any(common[2:]) else None  # the first two are the protocol


def name_below(path: str, base: str | None) -> str:
    """``path`` relative to ``base``, with slashes; absolute, or a URL, where it lies elsewhere."""
    if is_url(path):
        return (within(path, base) if base is not None else None) or path
    if base is not None and is_url(base):
        base = None
    absolute = os.path.abspath(path)
    below = within(absolute, base) if base is not None else None
    return (below or absolute).replace(os.sep, "/")


def relative_path(name: str) -> Path:
    """Where the captions of what is called ``name`` belong below an output folder; never outside of it."""
    if is_url(name):
        name = name.replace("://", "/")
    drive, rest = os.path.splitdrive(name)
    parts = [part for part in PurePosixPath(rest.replace(os.sep, "/")).parts if part not in ("/", "//", "..")]
    drives = [re.sub(r"[:\\/]+", "_", drive).strip("_")] if drive else []
    return Path(*drives, *parts)
