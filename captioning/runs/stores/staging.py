"""Files of this machine that stand in for objects while a run lasts. They may be lost at any time."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from .paths import StorePath

__all__ = ["staging_folder"]


def staging_folder(place: StorePath) -> Path:
    """The folder for what becomes the objects of ``place``; the same in every run.

    Raises:
        OSError: it cannot be made.
    """
    digest = hashlib.blake2b(place.url.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    folder = _cache() / "promptgen" / "stores" / digest
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _cache() -> Path:
    """Where the system wants such files of this user."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named)
    return Path.home() / "Library" / "Caches" if sys.platform == "darwin" else Path.home() / ".cache"
