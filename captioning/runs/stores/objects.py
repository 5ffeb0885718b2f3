"""Objects of a store: listed, read, put and removed, with what may pass tried again."""

from __future__ import annotations

import contextlib
import errno
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .paths import join_url, parent_url, protocol_of

__all__ = [
    "Entry",
    "StoreError",
    "fetch",
    "in_parallel",
    "list_objects",
    "look",
    "put",
    "put_file",
    "read",
    "remove",
]

Value = TypeVar("Value")
Thing = TypeVar("Thing")

PAUSES = (0.5, 2.0)  # seconds before the second and the third try; the packages below try by themselves, too

_AT_ONCE = 16  # requests side by side
_NO_PLACE = errno.ENOSPC, errno.EDQUOT, errno.EROFS  # of this machine's disk: no sign of a bad network

# Where an object appears whole or not at all once it is put. Elsewhere a temporary file is renamed.
_ATOMIC = frozenset(
    ["s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci", "r2", "cos", "obs", "tos", "memory", "hf"]
)

# Where a store says in which state an object is: better than its time and size, if there.
_DIGESTS = (
    "ETag", "etag", "e_tag", "md5Hash", "crc32c", "content_md5", "Content-MD5", "checksum", "sha256", "oid",
    "blob_id", "hash", "Digest", "generation",
)  # fmt: skip
_TIMES = (
    "mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "time", "created",
)  # fmt: skip


class StoreError(OSError):
    """A store cannot be used, or one object of it. The message names the URL."""


class Entry(NamedTuple):
    """What a store says about an object or folder."""

    name: str  # the last part of its URL; below a page of HTTP perhaps several
    url: str
    is_folder: bool
    size: int | None
    fingerprint: str | None  # changes when the object does; None: the listing does not tell


def look(url: str) -> Entry | None:
    """What is at ``url``; None if there is nothing.

    Raises:
        StoreError: the store cannot be asked.
    """
    try:
        info = _ask(url, lambda fs, path: fs.info(path))
    except FileNotFoundError:
        return None
    name = url.rstrip("/").rpartition("/")[2]
    is_page = protocol_of(url) in ("http", "https") and (
        url.endswith("/") or info.get("mimetype") == "text/html"
    )
    return _entry(name, url, {**info, "type": "directory"} if is_page else info)


def list_objects(url: str) -> Iterator[Entry]:
    """What lies in a folder, in the order of the store.

    Raises:
        FileNotFoundError: there is no such folder.
        StoreError: the store cannot be asked.
    """

    def listed(fs: Any, path: str) -> tuple[str, list[dict[str, Any]]]:
        return str(path).rstrip("/"), fs.ls(path, detail=True)

    folder, found = _ask(url, listed)
    for info in found:
        whole = str(info["name"]).rstrip("/")
        name = whole[len(folder) + 1 :] if whole.startswith(f"{folder}/") else whole.rpartition("/")[2]
        if whole != folder and name:  # stores keep an empty object in the place of a folder
            yield _entry(name, join_url(url, name), info)


def read(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """An object, or its bytes from ``start`` to ``end``; all of it where a server gives no parts.

    Raises:
        FileNotFoundError: there is none.
        StoreError: it cannot be read.
    """
    return bytes(_ask(url, lambda fs, path: fs.cat_file(path, start=start, end=end)))


def put(url: str, content: bytes) -> None:
    """Make an object hold ``content``; whoever reads it sees the old content or the new one.

    Raises:
        StoreError: it cannot be written.
    """
    with _telling_of_missing_folder(url):
        _ask(url, lambda fs, path: _put(fs, path, url, lambda at: fs.pipe_file(at, content)))


def put_file(file: Path, url: str) -> None:
    """Make an object hold what a file of this machine does.

    Raises:
        StoreError: it cannot be written.
    """
    with _telling_of_missing_folder(url):
        _ask(url, lambda fs, path: _put(fs, path, url, lambda at: fs.put_file(str(file), at)))


def fetch(url: str, file: Path) -> bool:
    """Make a file of this machine hold what the object does. Whether there is one.

    Raises:
        StoreError: it cannot be read.
        OSError: the file cannot be written.
    """
    file.unlink(missing_ok=True)
    try:
        _ask(url, lambda fs, path: fs.get_file(path, str(file)))
    except FileNotFoundError:
        file.unlink(missing_ok=True)
        return False
    return True


def remove(urls: Iterable[str]) -> None:
    """See that these objects are gone.

    Raises:
        StoreError: one cannot be removed.
    """

    def gone(url: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            _ask(url, lambda fs, path: fs.rm_file(path))

    in_parallel(gone, list(urls))


def in_parallel(work: Callable[[Thing], Value], things: Iterable[Thing]) -> list[Value]:
    """What ``work`` returns for each, in order; several at once, since most of the time is spent on the way.

    Raises:
        Exception: the first that was raised, after all have ended.
    """
    todo = list(things)
    if len(todo) < 2:
        return [work(one) for one in todo]
    with ThreadPoolExecutor(min(_AT_ONCE, len(todo)), thread_name_prefix="promptgen-store") as pool:
        return [done.result() for done in [pool.submit(work, one) for one in todo]]


# Inside


def _ask(url: str, question: Callable[[Any, str], Value]) -> Value:
    """What the file system of ``url`` answers, asked three times where that may help."""
    system, path = _system(url)
    for pause in (*PAUSES, None):
        try:
            return question(system, path)
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", url) from error
        except (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            raise StoreError(f"{url}: {_reason(error)}") from error
        except (NotImplementedError, ImportError, ValueError, TypeError, LookupError) as error:
            raise StoreError(f"{url}: {_reason(error)}") from error
        except Exception as error:  # each package has errors of its own
            if isinstance(error, OSError) and error.errno in _NO_PLACE:
                raise
            if pause is None:
                raise StoreError(f"{url}: {_reason(error)}") from error
            time.sleep(pause)
    raise AssertionError  # not reached: the last try returns or raises


def _system(url: str) -> tuple[Any, str]:
    """The file system of ``url``, and what it calls the place.

    Raises:
        StoreError: a package is missing, or the protocol is unknown.
    """
    try:
        import fsspec.core
    except ImportError as error:
        raise StoreError(
            f"{url}: URLs need fsspec: pip install 'promptgen-tagger[remote]', and the package of the store"
        ) from error
    try:
        # Its memory of listings would grow with the number of pictures, and go on telling of what is gone.
        system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        named = re.search(r"[Ii]nstall\s+[`'\"]?([A-Za-z0-9_.\[\]-]+)", str(error))
        command = f": pip install {named[1]}" if named else ""
        raise StoreError(
            f"{url}: a package for {protocol_of(url)}:// is missing ({_reason(error)}){command}"
        ) from error
    except Exception as error:
        raise StoreError(f"{url}: {_reason(error)}") from error
    return system, path


@contextlib.contextmanager
def _telling_of_missing_folder(url: str) -> Iterator[None]:
    """What is missing where something is to be put is not the object."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{url}: there is no such bucket or folder to put it into") from error


def _put(system: Any, path: str, url: str, write: Callable[[str], object]) -> None:
    if protocol_of(url) in _ATOMIC:
        write(path)
        return
    folder, _, name = path.rpartition("/")
    system.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.promptgen-{name[:200]}.tmp"
    try:
        write(temporary)
        try:
            system.mv(temporary, path)
        except FileExistsError:  # a rename that does not replace
            system.rm_file(path)
            system.mv(temporary, path)
    except BaseException:
        with contextlib.suppress(Exception):
            system.rm_file(temporary)
        raise


def _entry(name: str, url: str, info: Mapping[str, Any]) -> Entry:
    size = info.get("size")
    return Entry(name, url, info.get("type") == "directory", size, _fingerprint(info))


def _fingerprint(info: Mapping[str, Any]) -> str | None:
    for key in (*_DIGESTS, *_TIMES):
        value = info.get(key)
        if value:
            told = value.timestamp() if isinstance(value, datetime) else str(value).strip('"')
            return f"{info.get('size')}-{told}"
    return None


def _reason(error: Exception) -> str:
    """What an error says, in one line."""
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(told.split())[:300] or type(error).__name__


def folder_of(url: str) -> str:
    """The folder that ``url`` is, or that what is there lies in.

    Raises:
        StoreError: the store cannot be asked.
    """
    found = look(url)
    return url if found is not None and found.is_folder else parent_url(url)
