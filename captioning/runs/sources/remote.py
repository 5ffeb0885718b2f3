"""Pictures in the folders of a store, those that a pattern of URLs matches, and single objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..records import Item
from ..stores.objects import Entry, list_objects
from ..stores.paths import join_url, parent_url, protocol_of
from .folders import ending_of
from .names import is_hidden, natural_key
from .patterns import Segments, States, has_magic
from .search import Search, is_picture_name


class _Listing(NamedTuple):
    """What of a folder is kept, each kind in natural order."""

    files: list[Entry]
    folders: list[str]  # names


@dataclass(frozen=True)
class RemoteFolderSource:
    """All pictures in a folder of a store."""

    spelled: str
    base: str  # its URL

    @property
    def identity(self) -> str:
        return self.base

    def items(self, search: Search) -> Iterator[Item]:
        waiting = [""]
        while waiting:
            below = waiting.pop()
            listing = _list(
                join_url(self.base, below) if below else self.base,
                is_picture_name,
                lambda name: search.recursive and not is_hidden(name),
                search.on_problem,
            )
            for entry in listing.files:
                relative = f"{below}/{entry.name}" if below else entry.name
                if search.pattern is None or search.pattern.matches(relative):
                    yield from search.object_item(entry.url, entry, wanted=False)
            waiting += [f"{below}/{name}" if below else name for name in reversed(listing.folders)]


class RemoteGlob:
    """A pattern of URLs. Capitals count; hidden names need a dot in the pattern."""

    def __init__(self, text: str) -> None:
        parts = text.split("/")
        first = next(i for i, part in enumerate(parts) if has_magic(part))
        self.folder = "/".join(parts[:first])
        self.is_deep = "**" in parts
        self.last = parts[-1]
        self._segments = Segments("/".join(parts[first:]), ignore_case=False)

    def walk(
        self, keep_file: Callable[[str], bool], on_problem: Callable[[str, str], None]
    ) -> Iterator[tuple[list[Entry], list[str]]]:
        """Folder by folder, in natural order: the objects that match, and the URLs of folders that do.

        Args:
            keep_file: by its name, whether an object that matches is of use.
            on_problem: told the URL of a folder that cannot be read, and why.
        """
        segments = self._segments
        waiting = [(self.folder, segments.start)]
        while waiting:
            url, states = waiting.pop()

            def is_file(name: str, states: States = states) -> bool:
                return segments.is_end(segments.step(states, name)) and keep_file(name)

            def is_on_the_way(name: str, states: States = states) -> bool:
                return bool(segments.step(states, name))

            files, folders = _list(url, is_file, is_on_the_way, on_problem)
            after = {name: segments.step(states, name) for name in folders}
            yield files, [join_url(url, name) for name, places in after.items() if segments.is_end(places)]
            for name in reversed(after):
                if segments.goes_on(after[name]):
                    waiting.append((join_url(url, name), after[name]))


@dataclass(frozen=True)
class RemoteGlobSource:
    """The pictures that a pattern of URLs matches: those with the extension that it ends in, or all."""

    spelled: str
    glob: RemoteGlob

    @property
    def base(self) -> str:
        return self.glob.folder

    @property
    def identity(self) -> str:
        return self.spelled

    def items(self, search: Search) -> Iterator[Item]:
        for entries, _ in self.glob.walk(self._is_wanted, search.on_problem):
            for entry in entries:
                yield from search.object_item(entry.url, entry, wanted=False)

    def _is_wanted(self, name: str) -> bool:
        if ending_of(self.glob.last):
            return True
        return is_picture_name(name.lstrip(".") if is_hidden(name) else name)


@dataclass(frozen=True)
class RemoteFileSource:
    """One picture that the user named."""

    spelled: str
    url: str

    @property
    def base(self) -> str:
        return parent_url(self.url)

    @property
    def identity(self) -> str:
        return self.url

    def items(self, search: Search) -> Iterator[Item]:
        yield from search.object_item(self.url, wanted=True)


def is_url_pattern(url: str) -> bool:
    """Whether a URL is a pattern; in HTTP, a question mark begins a query."""
    return has_magic(url.replace("?", "") if protocol_of(url) in ("http", "https") else url)


def _list(
    url: str,
    keep_file: Callable[[str], bool],
    keep_folder: Callable[[str], bool],
    on_problem: Callable[[str, str], None],
) -> _Listing:
    """What of a folder is kept; empty, and reported, where it cannot be read."""
    files: list[Entry] = []
    folders: list[str] = []
    try:
        for entry in list_objects(url):
            if entry.is_folder:
                if keep_folder(entry.name):
                    folders.append(entry.name)
            elif keep_file(entry.name):
                files.append(entry)
    except FileNotFoundError:
        return _Listing([], [])  # removed since the folder above was read
    except OSError as error:
        on_problem(url, f"the folder cannot be read and is left out: {error}")
        return _Listing([], [])
    files.sort(key=lambda entry: natural_key(entry.name))
    folders.sort(key=natural_key)
    return _Listing(files, folders)
