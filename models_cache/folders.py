"""Where checkpoints are looked for, in which order, and which place a download goes to."""

from __future__ import annotations

import difflib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .catalogue import HUB_ID, CheckpointEntry, catalogue, find_entry
from .checks import CHECKPOINT, Contents
from .errors import ModelNotFoundError
from .records import STATE_FOLDER, read_record, snapshot_hub_id
from .trained import trained_entry

_lock = threading.Lock()
_registered: dict[Path, bool] = {}  # folder -> whether downloads may go there; in the order of registration


def register_folder(path: str | os.PathLike[str], *, download: bool = False) -> None:
    """Have checkpoints also looked for in ``path/NAME``, before every other place.

    Args:
        path: a folder of checkpoint folders; it need not exist yet.
        download: let downloads go to this folder (the first registered so) rather than to the Hugging Face
            cache.
    """
    with _lock:
        _registered[_absolute(path)] = download


def unregister_folder(path: str | os.PathLike[str]) -> None:
    """Undo :func:`register_folder`; a folder that is not registered is left alone."""
    with _lock:
        _registered.pop(_absolute(path), None)


def search_folders() -> list[Path]:
    """The plain folders that are searched, in order: the host's, then those of ``$PROMPTGEN_MODELS``.

    The Hugging Face cache comes after them.
    """
    with _lock:
        folders = list(_registered)
    for part in os.environ.get("PROMPTGEN_MODELS", "").split(os.pathsep):
        if part.strip():
            folders.append(_absolute(part.strip()))
    return list(dict.fromkeys(folders))


def download_folder() -> Path | None:
    """The plain folder that downloads go to; None for the Hugging Face cache."""
    with _lock:
        return next((folder for folder, download in _registered.items() if download), None)


def local_checkpoints() -> dict[str, Path]:
    """The checkpoint folders that lie in the plain folders, by name. Whether they are whole is not checked.

    Looks one level deep (two for ``ORG/NAME``), reads nothing but the names.
    """
    found: dict[str, Path] = {}
    for folder in search_folders():
        for child in _children(folder):
            if is_file(child / "config.json"):
                found.setdefault(child.name, child)
            else:
                for grandchild in _children(child):
                    if is_file(grandchild / "config.json"):
                        found.setdefault(f"{child.name}/{grandchild.name}", grandchild)
    return found


@dataclass(frozen=True)
class Reference:
    """What a model's name stands for.

    ``names`` are what its folder may be called; ``folder`` is set where the place is fixed and nothing is
    searched.
    """

    model: str
    names: tuple[str, ...]
    hub_id: str | None
    entry: CheckpointEntry | None = None
    folder: Path | None = None


def resolve(model: str | os.PathLike[str]) -> Reference:
    """What ``model`` stands for: a catalogue name, an existing folder, a Hub id, or a name in a plain folder.

    They are tried in this order, so ``demo`` is always the embedded one; write ``./demo`` for a folder.

    Raises:
        ModelNotFoundError: none of them; the message lists what is known.
        CatalogueError: the user's catalogue cannot be understood.
    """
    text = os.fspath(model)
    if not text.strip():
        raise ModelNotFoundError("The model's name is empty. " + _known(text), model=text)
    entry = find_entry(text) if isinstance(model, str) else None
    if entry is not None and entry.name.casefold() == text.strip().casefold():
        return _of_entry(text, entry)
    path = _expanded(text)
    if is_dir(path):
        return _of_folder(text, path.absolute())
    if entry is not None:
        return _of_entry(text, entry)
    if looks_like_path(text):
        if (hidden := local_checkpoints().get(text)) is not None:  # a folder whose name begins with a dot
            return _of_folder(text, hidden)
        raise ModelNotFoundError(f"There is no folder {path}. " + _known(text), model=text)
    if HUB_ID.fullmatch(text.strip()):
        hub_id = text.strip()
        name = hub_id.rpartition("/")[2]
        if find_entry(name) is not None:  # a folder of that name holds the known checkpoint, not this one
            name = hub_id.replace("/", "--")
        return Reference(text, (name,), hub_id)
    named = local_checkpoints().get(text.strip())
    if named is not None:
        return _of_folder(text, named)
    raise ModelNotFoundError(f"No model {text!r} is known. " + _known(text), model=text)


def entry_of(model: str | os.PathLike[str]) -> CheckpointEntry | None:
    """The catalogue's entry of ``model``; of a folder by its record, its place in the cache or its name.

    Raises:
        ModelNotFoundError: the name stands for nothing.
        CatalogueError: the user's catalogue cannot be understood.
    """
    return resolve(model).entry


def candidates(reference: Reference, cache: Path, contents: Contents = CHECKPOINT) -> Iterator[Path]:
    """The existing folders that may hold the checkpoint, best first. None of them need be whole."""
    if contents is not CHECKPOINT and reference.folder is None:  # which may lie beside checkpoints
        everywhere = _anywhere(reference, cache)
        yield from (folder for folder in everywhere if is_file(folder / contents.config))
        return
    yield from _anywhere(reference, cache)


def _anywhere(reference: Reference, cache: Path) -> Iterator[Path]:
    if reference.folder is not None:
        if is_dir(reference.folder):
            yield reference.folder
        return
    for parent in search_folders():
        for name in reference.names:
            folder = parent / name
            if is_dir(folder) and not is_of_another(folder, reference.hub_id):
                yield folder
        if reference.hub_id is not None:
            for nested in (reference.hub_id.replace("/", "--"), reference.hub_id):
                folder = parent / nested
                if is_dir(folder) and nested not in reference.names:
                    yield folder
    if reference.hub_id is not None:
        yield from _snapshots(cache, reference.hub_id)


def is_of_another(folder: Path, hub_id: str | None) -> bool:
    """Whether ``folder`` is there and from another repository, which has only its last name in common."""
    record = read_record(folder) if hub_id is not None else None
    return record is not None and hub_id is not None and record.hub_id.casefold() != hub_id.casefold()


def cached_repository(cache: Path, hub_id: str) -> Path:
    """The folder of a repository in a Hugging Face cache."""
    return cache / f"models--{hub_id.replace('/', '--')}"


def _snapshots(cache: Path, hub_id: str) -> Iterator[Path]:
    """The snapshot of the main branch, then the others, newest first."""
    repository = cached_repository(cache, hub_id)
    try:
        main = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        main = ""
    snapshots = _children(repository / "snapshots")
    snapshots.sort(key=lambda folder: (folder.name == main, folder.stat().st_mtime_ns), reverse=True)
    yield from snapshots


def _of_entry(text: str, entry: CheckpointEntry) -> Reference:
    names = [entry.name]
    if entry.hub_id is not None:
        names.append(entry.hub_id.rpartition("/")[2])
    return Reference(text, tuple(dict.fromkeys(names)), entry.hub_id, entry, entry.folder)


def _of_folder(text: str, folder: Path) -> Reference:
    """A folder, and the Hub id it came from where its record, its place or its name tells; one that was
    trained here tells of itself."""
    record = read_record(folder)
    hub_id = record.hub_id if record is not None else snapshot_hub_id(folder)
    entry = None if hub_id else trained_entry(folder)
    if entry is not None:
        return Reference(text, (folder.name,), None, entry, folder)
    entry = find_entry(hub_id or folder.name)
    if hub_id is None and entry is not None:
        if entry.hub_id is None and not _is_same(folder, entry.folder):
            entry = None  # which has a place of its own, and a name that many folders may have
        else:
            hub_id = entry.hub_id
    if hub_id is None and "--" in folder.name:
        named = folder.name.replace("--", "/", 1)
        hub_id = named if HUB_ID.fullmatch(named) else None
    return Reference(text, (folder.name,), hub_id, entry, folder)


def _is_same(folder: Path, other: Path | None) -> bool:
    return other is not None and os.path.realpath(folder) == os.path.realpath(other)


def looks_like_path(text: str) -> bool:
    """Whether nobody would write a name so."""
    if text.startswith((".", "~", "/", "\\")) or re.match(r"[A-Za-z]:[\\/]", text):
        return True
    return "\\" in text or text.count("/") > 1


def _known(text: str) -> str:
    names = list(catalogue())
    local = [name for name in local_checkpoints() if name not in names]
    folders = [str(folder) for folder in search_folders()]
    near = difflib.get_close_matches(text, names + local, n=1, cutoff=0.6)
    lines = [f"Did you mean {near[0]}? " if near else "", "Known names: ", ", ".join(names + local), ". "]
    lines.append("A Hub id (ORG/NAME) or the path of a checkpoint folder will do as well.")
    if folders:
        lines.append(f" Searched: {', '.join(folders)}.")
    return "".join(lines)


def _children(folder: Path) -> list[Path]:
    """The folders in ``folder``, by name; none if it cannot be read."""
    try:
        return sorted(child for child in folder.iterdir() if is_dir(child) and child.name != STATE_FOLDER)
    except OSError:
        return []


# What may not be looked into (a disk's lost+found), or has an impossible name, is not there for us. Path's
# own methods raise on it.


def is_dir(path: Path) -> bool:
    """Whether there is such a folder that we may look into."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether there is such a file that we may look at."""
    try:
        return path.is_file()
    except OSError:
        return False


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of nobody: then it is a name like any other
        return Path(text)


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(path).expanduser().absolute()
