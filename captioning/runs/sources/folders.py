"""Pictures in folders, those that a pattern matches, and single files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ..records import Item
from .names import is_hidden
from .patterns import Glob
from .search import Search, is_picture_name
from .walking import walk


@dataclass(frozen=True)
class FolderSource:
    """All pictures in a folder."""

    spelled: str
    base: str  # the folder

    @property
    def identity(self) -> str:
        return os.path.realpath(self.base)

    def items(self, search: Search) -> Iterator[Item]:
        pattern = search.pattern
        links = search.links if search.recursive else None
        for folder in walk(self.base, links, is_picture_name, search.on_problem):
            below = os.path.relpath(folder.path, self.base).replace(os.sep, "/")
            for name in folder.files:
                if pattern is None or pattern.matches(name if below == "." else f"{below}/{name}"):
                    path = os.path.join(folder.path, name)
                    yield from search.file_item(path, os.path.join(folder.real, name), wanted=False)


@dataclass(frozen=True)
class GlobSource:
    """The pictures that a pattern of paths matches: those with the extension that it ends in, or all."""

    spelled: str
    glob: Glob

    @property
    def base(self) -> str:
        return self.glob.folder

    @property
    def identity(self) -> str:
        return self.spelled

    def items(self, search: Search) -> Iterator[Item]:
        for matches in self.glob.walk(self._is_wanted, search.on_problem):
            real = os.path.realpath(matches.path)
            for name in matches.files:
                path = os.path.join(matches.path, name)
                yield from search.file_item(path, os.path.join(real, name), wanted=False)

    def _is_wanted(self, name: str) -> bool:
        if ending_of(self.glob.last):  # whoever writes *.jfif2 means it
            return True
        return is_picture_name(name.lstrip(".") if is_hidden(name) else name)


def ending_of(pattern: str) -> str:
    """The extension that a pattern ends in, lower case with the dot; empty if it leaves that open."""
    ending = os.path.splitext(pattern)[1].lower()
    return "" if any(character in ending for character in "*?[") else ending


@dataclass(frozen=True)
class FileSource:
    """One picture that the user named."""

    spelled: str
    path: str  # absolute

    @property
    def base(self) -> str:
        return os.path.dirname(self.path)

    @property
    def identity(self) -> str:
        return os.path.join(os.path.realpath(self.base), os.path.basename(self.path))

    def items(self, search: Search) -> Iterator[Item]:
        yield from search.file_item(self.path, self.identity, wanted=True)
