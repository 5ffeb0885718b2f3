"""From what the user named to the pictures of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from ...images import image_extensions
from ..records import Item
from ..stores.objects import StoreError, look
from ..stores.paths import is_url, parent_url, protocol_of
from .errors import MissingColumnError, SourceError
from .file_lists import LIST_EXTENSIONS, list_source
from .folders import FileSource, FolderSource, GlobSource, ending_of
from .names import common_folder
from .parquet_tables import PARQUET_EXTENSIONS, ParquetSource
from .patterns import Glob, NamePattern, expand_braces, has_braces, has_magic
from .remote import RemoteFileSource, RemoteFolderSource, RemoteGlob, RemoteGlobSource, is_url_pattern
from .search import Claims, Search, Source, is_picture_name
from .shards import SHARD_EXTENSIONS, ShardSource
from .tables import CSV_EXTENSIONS, JSON_EXTENSIONS, CsvSource, JsonLinesSource
from .walking import Links, is_walked

_TABLES: dict[str, type[JsonLinesSource] | type[CsvSource] | type[ParquetSource]] = {
    **dict.fromkeys(JSON_EXTENSIONS, JsonLinesSource),
    **dict.fromkeys(CSV_EXTENSIONS, CsvSource),
    **dict.fromkeys(PARQUET_EXTENSIONS, ParquetSource),
}
_CONTAINERS = (*SHARD_EXTENSIONS, *_TABLES, *LIST_EXTENSIONS)
_FOLDERS = (FolderSource, RemoteFolderSource)
_GLOBS = (GlobSource, RemoteGlobSource)
_FILES = (FileSource, RemoteFileSource)
_MOST_NAMED = 5  # in one message


def find_items(
    inputs: Sequence[str],
    *,
    recursive: bool = True,
    pattern: str | None = None,
    column: str = "image",
    shard: tuple[int, int] | None = None,
    fingerprints: bool = True,
    on_problem: Callable[[str, str], None],
) -> Iterator[Item]:
    """The pictures in ``inputs``, in a stable order, found as they are asked for.

    An input is, by what is there:

    - a folder: all pictures in it, by extension, and in those below it. Hidden files and folders, and those
      that systems make (``@eaDir``, ``__MACOSX``), are left out. Links to folders are followed, each real
      folder is read once. In each folder files come first, ``image2`` before ``image10``;
    - a picture, whatever its extension;
    - a tar file (``.tar``, also ``.tar.gz`` and the like): the pictures in it;
    - a table (``.jsonl``, ``.csv``, ``.tsv``, ``.parquet``): the pictures in ``column``, by paths that begin
      at the table's folder, or, in Parquet, as bytes;
    - a list (``.txt``, ``.lst``, or any file after ``@``): paths, separated by line ends or NUL characters,
      that begin at the list's folder, or at the current one if the first that is in either is there alone;
    - a URL that fsspec knows, such as ``s3://bucket/photos``, of any of these: a folder, a picture, a table
      and so on. Pictures in it are objects, and have no path;
    - otherwise a pattern with ``*``, ``?``, ``[…]``, ``**`` (any depth), or ``{a,b}`` and ``{0000..0012}``.

    A picture's name is its path below its folder; with several inputs, below the lowest folder that holds
    them all; the absolute path where a list or table leads elsewhere. A file that several inputs name is
    taken once, under the name that comes first; two links to one file are two pictures.

    What is listed but not there, or cannot be read, becomes an item whose ``open`` raises the reason.

    Memory does not grow with the number of pictures, but for the names of one folder at a time, and where a
    picture could come twice (lists, tables, several inputs of which one is a pattern or file) 32 bytes each.

    Args:
        inputs: what the user named.
        recursive: whether to look into the folders below.
        pattern: of what is in folders and shards, only what matches: by name, or with a slash by the path
            below the input; capitals do not count.
        column: where tables have their pictures.
        shard: ``(index, count)``, the index from 0: one of ``count`` parts, by a hash of the name, so that
            new pictures do not move those that were there.
        fingerprints: False when only names are wanted, as to count them: no picture is looked at. Rows of
            Parquet are then all taken to have bytes of their own if some may.
        on_problem: told a name and a reason for what is left out, such as a folder that cannot be read.

    Raises:
        SourceError: an input does not exist or cannot be read, at once; there is no picture in any, when the
            last one was read.
        ValueError: there is no such shard.
    """
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard {shard[0]} of {shard[1]} does not exist; they are 0 to {shard[1] - 1}")
    sources = _without_repetition(_Reading(inputs, column, on_problem).sources(), recursive)
    folders = [os.path.realpath(source.base) for source in sources if isinstance(source, FolderSource)]
    search = Search(
        base=common_folder([source.base for source in sources]),
        recursive=recursive,
        pattern=NamePattern(pattern) if pattern else None,
        links=Links(folders),
        claims=Claims(shard, _may_repeat(sources)),
        fingerprints=fingerprints,
        on_problem=on_problem,
    )
    return _find(sources, search, pattern)


def holds_pictures(spelled: str) -> bool:
    """Whether an input of :func:`find_items` stands for what is in it: a folder, a shard, a table, a list, or
    anything that a URL names; not a picture or a pattern of pictures.
    """
    path = spelled if os.path.lexists(spelled) else os.path.expanduser(spelled)
    if os.path.isdir(path) or is_url(spelled) or (spelled.startswith("@") and not os.path.lexists(spelled)):
        return True
    return spelled.lower().endswith(_CONTAINERS)


def _find(sources: list[Source], search: Search, pattern: str | None) -> Iterator[Item]:
    empty = []
    for source in sources:
        before = search.claims.found
        try:
            yield from source.items(search)
        except OSError as error:
            reason = error.strerror or error
            search.on_problem(source.spelled, f"it cannot be read; what comes after is lost: {reason}")
        if search.claims.found == before:
            empty.append(source)
    if search.claims.found == 0:
        raise SourceError(_nothing_found(empty, search, pattern))
    for source in empty:
        if not isinstance(source, _FILES):  # which another input has named before
            search.on_problem(source.spelled, "there is no picture in it that no other input has")


def _may_repeat(sources: list[Source]) -> bool:
    """Whether one file may come from two places; folders do not overlap, and shards hold no files."""
    if len(sources) == 1:
        return not isinstance(sources[0], (*_FOLDERS, *_GLOBS, *_FILES, ShardSource))
    return any(not isinstance(source, (*_FOLDERS, ShardSource)) for source in sources)


def _without_repetition(sources: list[Source], recursive: bool) -> list[Source]:
    """Leave out what was named twice, and folders that are read with another."""
    kept: dict[tuple[str, str], Source] = {}
    for source in sources:
        kept.setdefault((type(source).__name__, source.identity), source)
    folders = [place for (_, place), source in kept.items() if isinstance(source, _FOLDERS)]

    def is_covered(place: str) -> bool:
        return any(place != folder and is_walked(place, folder) for folder in folders)

    return [
        source
        for (_, place), source in kept.items()
        if not (recursive and isinstance(source, _FOLDERS) and is_covered(place))
    ]


# From what was written to sources


class _Reading:
    """Reads what the user wrote."""

    def __init__(self, inputs: Sequence[str], column: str, on_problem: Callable[[str, str], None]) -> None:
        self._inputs = inputs
        self._column = column
        self._on_problem = on_problem
        self._missing: list[str] = []
        self._folders_of_pictures = {
            parent_url(one) if is_url(one) else os.path.dirname(os.path.abspath(one))
            for one in inputs
            if is_picture_name(one)
        }

    def sources(self) -> list[Source]:
        """What all inputs stand for.

        Raises:
            SourceError: one does not exist, or cannot be read.
        """
        found = [source for spelled in self._inputs for source in self._sources_of(spelled)]
        if self._missing:
            named = ", ".join(repr(name) for name in self._missing[:_MOST_NAMED])
            more = len(self._missing) - _MOST_NAMED
            others = f" and {more} more" if more > 0 else ""
            raise SourceError(f"there is no such file or folder: {named}{others}")
        if not found:
            raise SourceError(
                "no input was named; name folders, pictures, patterns, lists, tables or tar shards"
            )
        return found

    def _sources_of(self, spelled: str) -> list[Source]:
        if is_url(spelled) or (spelled.startswith("@") and is_url(spelled[1:])):
            try:
                return self._remote_sources_of(spelled)
            except StoreError as error:
                raise SourceError(str(error)) from error
        path = spelled if os.path.lexists(spelled) else os.path.expanduser(spelled)
        if os.path.isdir(path):
            return [FolderSource(spelled, os.path.abspath(path))]
        if os.path.lexists(path):
            source = self._file_source(spelled, path)
            return [] if source is None else [source]
        if spelled.startswith("@") and os.path.lexists(os.path.expanduser(spelled[1:])):
            return [list_source(spelled, os.path.expanduser(spelled[1:]))]
        if has_braces(path):
            return [source for one in expand_braces(path) for source in self._sources_of(one)]
        if has_magic(path):
            return self._glob_sources(spelled, path)
        self._missing.append(spelled)
        return []

    def _remote_sources_of(self, spelled: str) -> list[Source]:
        """What a URL stands for.

        Raises:
            StoreError: the store cannot be asked.
        """
        url = spelled.removeprefix("@")
        found = look(url)
        if found is not None and spelled.startswith("@"):
            return [list_source(spelled, url)]
        if found is not None and found.is_folder:
            return [RemoteFolderSource(spelled, url if url.endswith("://") else url.rstrip("/"))]
        if found is not None:
            return [self._remote_file_source(spelled, url)]
        if has_braces(url):
            return [source for one in expand_braces(url) for source in self._sources_of(one)]
        if is_url_pattern(url):
            return self._remote_glob_sources(spelled, url)
        self._missing.append(spelled)
        return []

    def _remote_file_source(self, spelled: str, url: str) -> Source:
        """The source that an object is, by its name."""
        lower = url.lower().partition("?")[0] if protocol_of(url) in ("http", "https") else url.lower()
        extension = os.path.splitext(lower)[1]
        if lower.endswith(SHARD_EXTENSIONS):
            return ShardSource(spelled, url)
        if extension in _TABLES:
            table = _TABLES[extension](spelled, url, self._column)
            table.check()
            return table
        if extension in LIST_EXTENSIONS:
            return list_source(spelled, url)
        return RemoteFileSource(spelled, url)

    def _remote_glob_sources(self, spelled: str, url: str) -> list[Source]:
        """As :meth:`_glob_sources`."""
        glob = RemoteGlob(url)
        if url.lower().endswith(_CONTAINERS):
            files = [entry.url for found, _ in glob.walk(lambda _: True, self._on_problem) for entry in found]
            if not files:
                raise SourceError(f"no object matches {spelled!r}")
            return [self._remote_file_source(file, file) for file in files]
        pictures = RemoteGlobSource(spelled, glob)
        if ending_of(glob.last) or glob.is_deep:
            return [pictures]
        folders = [folder for _, found in glob.walk(lambda _: False, self._on_problem) for folder in found]
        return [pictures, *(RemoteFolderSource(folder, folder) for folder in folders)]

    def _file_source(self, spelled: str, path: str) -> Source | None:
        """The source that a file is, by its name; None for what a shell's ``*`` named with the pictures."""
        absolute = os.path.abspath(path)
        lower = path.lower()
        extension = os.path.splitext(lower)[1]
        if lower.endswith(SHARD_EXTENSIONS):
            return ShardSource(spelled, absolute)
        if extension in _TABLES:
            return self._table_source(_TABLES[extension](spelled, absolute, self._column))
        if extension not in LIST_EXTENSIONS:
            return FileSource(spelled, absolute)
        if _is_caption(absolute):
            reason = f"taken for the caption of the picture beside it; as a list, write '@{spelled}'"
            self._on_problem(spelled, reason)
            return None
        return list_source(spelled, path)

    def _table_source(self, table: JsonLinesSource | CsvSource | ParquetSource) -> Source | None:
        try:
            table.check()
        except MissingColumnError as error:  # what a run has written among the pictures has no such column
            if table.base not in self._folders_of_pictures:
                raise
            self._on_problem(table.spelled, f"left out: {error}")
            return None
        return table

    def _glob_sources(self, spelled: str, path: str) -> list[Source]:
        """What a pattern stands for: shards, tables or lists if it ends in their extension; else pictures,
        and, as if a shell had expanded it, the folders that it matches unless it goes any depth.
        """
        glob = Glob(path)
        if path.lower().endswith(_CONTAINERS):
            matches = glob.walk(lambda _: True, self._on_problem)
            files = [os.path.join(found.path, name) for found in matches for name in found.files]
            if not files:
                raise SourceError(f"no file matches {spelled!r}")
            sources = [self._file_source(file, file) for file in files]
            return [source for source in sources if source is not None]
        pictures = GlobSource(spelled, glob)
        if ending_of(glob.last) or glob.is_deep:
            return [pictures]
        folders = [
            os.path.join(found.path, name)
            for found in glob.walk(lambda _: False, self._on_problem)
            for name in found.folders
        ]
        return [pictures, *(FolderSource(folder, folder) for folder in folders)]


def _is_caption(path: str) -> bool:
    """Whether a text file has the name of a picture beside it."""
    stem = os.path.splitext(path)[0]
    endings = {"", *image_extensions()}
    return any(os.path.isfile(stem + case) for ending in endings for case in (ending, ending.upper()))


# When there is nothing


def _nothing_found(sources: list[Source], search: Search, pattern: str | None) -> str:
    named = ", ".join(repr(source.spelled) for source in sources[:_MOST_NAMED])
    parts = [f"no picture in {named}" + (" and other inputs" if len(sources) > _MOST_NAMED else "")]
    common = [
        ending
        for ending in (".jpg", ".png", ".webp", ".gif", ".tif", ".avif")
        if ending in image_extensions()
    ]
    parts.append(
        f"looked for {', '.join(common)} and {len(image_extensions()) - len(common)} other extensions"
    )
    if pattern:
        parts.append(f"whose name matches {pattern!r}")
    if any(isinstance(source, _FOLDERS) for source in sources):
        parts.append(
            "hidden ones were left out"
            if search.recursive
            else "folders below, and hidden ones, were left out"
        )
        hints = [_containers_in(source.base) for source in sources if isinstance(source, FolderSource)]
        parts += [hint for hint in hints if hint]
    return "; ".join(parts)


def _containers_in(folder: str) -> str:
    """Says how to read the shards or tables in a folder without pictures."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return ""  # it was reported
    held = [name for name in names if name.lower().endswith((*SHARD_EXTENSIONS, *PARQUET_EXTENSIONS))]
    if not held:
        return ""
    ending = next(
        end for end in (*SHARD_EXTENSIONS[::-1], *PARQUET_EXTENSIONS) if held[0].lower().endswith(end)
    )
    pattern = os.path.join(folder, "*" + ending)
    return f"{folder!r} holds {held[0]}: to read the pictures within, name {pattern!r}"
