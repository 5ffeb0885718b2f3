"""Places that a URL names, with as much of ``pathlib`` as outputs need."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .listings import Listings

__all__ = ["Place", "StorePath", "as_place", "is_url", "join_url", "parent_url", "protocol_of"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters at least: the drives of Windows have one

# From these captions can be read, but nothing can be put there.
_READ_ONLY = frozenset(["http", "https", "data", "zip", "tar", "git", "github", "gist", "libarchive"])


def is_url(text: object) -> bool:
    """Whether a place is spelled as a URL; all others are paths of this machine."""
    return isinstance(text, str) and _URL.match(text) is not None


def protocol_of(url: str) -> str:
    """``s3`` of ``s3://bucket``."""
    found = _URL.match(url)
    return found[1].lower() if found else ""


def join_url(folder: str, name: str) -> str:
    """The URL of what is called ``name``, with slashes, below a folder."""
    return f"{folder}{name}" if folder.endswith("/") else f"{folder}/{name}"


def parent_url(url: str) -> str:
    """The folder above; the root is above itself."""
    start = len(protocol_of(url)) + 3
    head, slash, _ = url[start:].rstrip("/").rpartition("/")
    if slash:
        return url[:start] + (head or "/")
    return url if protocol_of(url) in ("http", "https", "s3", "s3a", "gs", "gcs") else url[:start]


@dataclass(frozen=True)
class StorePath:
    """The place of one object, or of what would be a folder."""

    url: str
    listings: Listings | None = field(default=None, compare=False, repr=False)  # asked by `exists`

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, below: str | PurePath) -> StorePath:
        text = below.as_posix() if isinstance(below, PurePath) else below
        return replace(self, url=join_url(self.url, text)) if text not in ("", ".") else self

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its last extension."""
        return PurePath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last extension with its dot."""
        return PurePath(self.name).suffix

    @property
    def parent(self) -> StorePath:
        """The folder that it lies in."""
        return replace(self, url=parent_url(self.url))

    @property
    def can_be_written(self) -> bool:
        """Whether objects can be put there, as far as the protocol tells."""
        return protocol_of(self.url) not in _READ_ONLY

    def with_name(self, name: str) -> StorePath:
        """Beside it."""
        return self.parent / name

    def exists(self) -> bool:
        """Whether there is an object; where listings were given, as of when they were made.

        Raises:
            StoreError: the store cannot be asked.
        """
        if self.listings is not None:
            return self.listings.has(self)
        from .objects import look

        return look(self.url) is not None

    def expanduser(self) -> StorePath:
        """Itself."""
        return self


Place = Path | StorePath


def as_place(text: str) -> Place:
    """What the user named: a path of this machine or a URL."""
    return StorePath(text.rstrip("/") if text.count("/") > 2 else text) if is_url(text) else Path(text)
