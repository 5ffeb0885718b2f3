"""Patterns with ``*``, ``?``, ``[…]``, ``**`` and ``{…}``, matched folder by folder in constant memory."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .listing import Folder, list_folder
from .names import is_hidden

_MAGIC = re.compile(r"[*?\[]")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BRACES = re.compile(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}")

States = frozenset[int]


def has_magic(text: str) -> bool:
    """Whether ``text`` has a character that makes it a pattern."""
    return _MAGIC.search(text) is not None


def has_braces(text: str) -> bool:
    """Whether ``text`` has alternatives: ``{a,b}`` or ``{000..012}``."""
    return _BRACES.search(text) is not None


def expand_braces(text: str) -> Iterator[str]:
    """All that ``{a,b}`` and ``{0000..0012}`` in ``text`` stand for, in order; numbers keep their width."""
    found = _BRACES.search(text)
    if found is None:
        yield text
        return
    for choice in _choices(found[1]):
        yield from expand_braces(text[: found.start()] + choice + text[found.end() :])


def _choices(inside: str) -> Iterator[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        yield from inside.split(",")
        return
    first, last = int(numbers[1]), int(numbers[2])
    width = len(numbers[1]) if numbers[1].startswith("0") or numbers[2].startswith("0") else 0
    step = 1 if first <= last else -1
    for number in range(first, last + step, step):
        yield f"{number:0{width}}"


class NamePattern:
    """Chooses among the files of a folder: by name, or by path below it where the pattern has a slash.

    Small letters and capitals are the same: ``*.jpg`` takes ``A.JPG`` too. ``{jpg,png}`` stands for either.
    """

    def __init__(self, text: str) -> None:
        self._by_path = "/" in text
        patterns = [Segments(alternative, ignore_case=True) for alternative in expand_braces(text)]
        self._patterns = patterns

    def matches(self, relative: str) -> bool:
        """Whether the file at ``relative``, with slashes, is wanted."""
        parts = relative.split("/")
        return any(pattern.matches(parts if self._by_path else parts[-1:]) for pattern in self._patterns)


class Segments:
    """A pattern cut at its slashes; a set of places in it tells which parts may come next."""

    def __init__(self, text: str, *, ignore_case: bool) -> None:
        parts = [part for part in text.replace(os.sep, "/").split("/") if part not in ("", ".")]
        if parts and parts[-1] == "**":
            parts.append("*")
        self._fold: Callable[[str], str] = str.lower if ignore_case else os.path.normcase
        self._parts = [None if part == "**" else re.compile(self._expression(part)) for part in parts]
        self._dots = [part.startswith(".") for part in parts]
        self.start = self._closed({0})

    def _expression(self, part: str) -> str:
        return fnmatch.translate(self._fold(part))

    def step(self, states: States, name: str, *, deep: bool = True) -> States:
        """The places after ``name``; with ``deep`` false, ``**`` does not go through it."""
        after = set()
        for place in states:
            if place == len(self._parts):
                continue
            part = self._parts[place]
            if part is None:
                if deep and not is_hidden(name):
                    after.add(place)
            elif (self._dots[place] or not is_hidden(name)) and part.match(self._fold(name)):
                after.add(place + 1)
        return self._closed(after)

    def is_end(self, states: States) -> bool:
        """Whether the whole pattern is used up."""
        return len(self._parts) in states

    def goes_on(self, states: States) -> bool:
        """Whether something below may match."""
        return any(place < len(self._parts) for place in states)

    def matches(self, parts: list[str]) -> bool:
        """Whether a path, given in parts, matches the whole of it."""
        states = self.start
        for part in parts:
            states = self.step(states, part)
        return self.is_end(states)

    def _closed(self, states: set[int]) -> States:
        """``**`` stands for no folder, too."""
        for place in sorted(states):
            while place < len(self._parts) and self._parts[place] is None:
                place += 1
                states.add(place)
        return frozenset(states)


class Matches(NamedTuple):
    """What a pattern matches in one folder."""

    path: str
    files: list[str]
    folders: list[str]


class Glob:
    """A pattern of paths. Case counts where it does in file names; hidden names need a dot in the pattern."""

    def __init__(self, text: str) -> None:
        absolute = os.path.join(os.getcwd(), text)
        drive, rest = os.path.splitdrive(absolute)
        parts = rest.replace(os.sep, "/").split("/")
        first = next(i for i, part in enumerate(parts) if has_magic(part))
        self.folder = os.path.abspath(drive + (os.sep.join(parts[:first]) or os.sep))
        self.is_deep = "**" in parts
        self.last = parts[-1]
        self._segments = Segments("/".join(parts[first:]), ignore_case=False)

    def walk(
        self, keep_file: Callable[[str], bool], on_problem: Callable[[str, str], None]
    ) -> Iterator[Matches]:
        """Folder by folder, in natural order; ``**`` does not follow links, other parts do.

        Args:
            keep_file: by its name, whether a file that matches is of use.
            on_problem: told the path of a folder that cannot be read, and why.
        """
        segments = self._segments
        waiting = [(self.folder, segments.start)]
        while waiting:
            path, states = waiting.pop()

            def is_file(name: str, states: States = states) -> bool:
                return segments.is_end(segments.step(states, name)) and keep_file(name)

            def is_on_the_way(name: str, states: States = states) -> bool:
                return bool(segments.step(states, name))

            files, folders = list_folder(path, is_file, is_on_the_way, on_problem)
            after = {folder.name: self._after(states, folder) for folder in folders}
            yield Matches(path, files, [name for name, places in after.items() if segments.is_end(places)])
            for name in reversed(after):
                if segments.goes_on(after[name]):
                    waiting.append((os.path.join(path, name), after[name]))

    def _after(self, states: States, folder: Folder) -> States:
        return self._segments.step(states, folder.name, deep=not folder.is_link)
