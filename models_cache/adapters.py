"""LoRA adapters on disk and on the Hub: from a name to a folder that holds one, whole.

An adapter is a folder as the ``peft`` library saves it. It is named as checkpoints are: by its folder, by a
Hub id, or by what its folder is called in one of the places that are searched. Those are the places of
checkpoints, and what a host registers for adapters alone.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from .catalogue import HUB_ID, CheckpointEntry, adapter_catalogue
from .checks import ADAPTER
from .download import Progress
from .errors import ModelNotFoundError
from .files import ensure, search
from .folders import (
    Reference,
    download_folder,
    entry_of,
    is_dir,
    is_file,
    looks_like_path,
    search_folders,
)
from .identity import checkpoint_digest
from .memory import fingerprint
from .records import STATE_FOLDER, read_record, snapshot_hub_id
from .trained import trained_entry

_registered: dict[Path, None] = {}  # in order


def register_adapter_folder(path: str | os.PathLike[str]) -> None:
    """Have adapters also looked for in ``path``, where other things may lie as well. Never downloaded to."""
    _registered[Path(path).expanduser().absolute()] = None


def local_adapters() -> dict[str, Path]:
    """The adapter folders in all plain places, by name. Whether they are whole is not checked.

    Looks two levels deep, and reads nothing but the names.
    """
    found: dict[str, Path] = {}
    for folder in dict.fromkeys([*search_folders(), *_registered]):
        for child in _folders_in(folder):
            if is_file(child / ADAPTER.config):
                found.setdefault(child.name, child)
                continue
            for grandchild in _folders_in(child):
                if is_file(grandchild / ADAPTER.config):
                    found.setdefault(f"{child.name}/{grandchild.name}", grandchild)
    return found


def _folders_in(folder: Path) -> list[Path]:
    """By name. There may be thousands of files beside them, which are not asked what they are."""
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if entry.is_dir() and entry.name != STATE_FOLDER]
    except OSError:
        return []
    return sorted(found)


def find_adapter(name: str | os.PathLike[str]) -> Path | None:
    """The folder that holds the adapter, whole; None if it is not on this computer or not whole. No network.

    Raises:
        ModelNotFoundError: the name stands for nothing.
        CatalogueError: the user's catalogue cannot be understood.
    """
    whole, _broken = search(_resolve(name), ADAPTER)
    return whole


def ensure_adapter(name: str | os.PathLike[str], *, offline: bool = False, progress: Progress = True) -> Path:
    """The folder that holds the adapter, whole; downloaded first if need be. As for checkpoints, see
    :func:`.files.ensure_checkpoint`; of a repository on the Hub only an adapter's two files are fetched.

    Raises:
        ModelNotFoundError: the name stands for nothing, or for a folder that is not there.
        DownloadError: files are missing and cannot be fetched.
        DamagedCheckpointError: files are missing or damaged and nothing says where they came from.
        CatalogueError: the user's catalogue cannot be understood.
    """
    return ensure(_resolve(name), ADAPTER, offline=offline, progress=progress)


def adapter_entry(name: str | os.PathLike[str]) -> CheckpointEntry | None:
    """What is known of an adapter: what one that was trained here brings along, or its entry in the user's
    catalogue; None if nothing is. No network.

    Raises:
        ModelNotFoundError: the name stands for nothing.
        CatalogueError: the user's catalogue, or what it brings along, cannot be understood.
    """
    return _resolve(name).entry


def own_prompts(
    model: str | os.PathLike[str], adapters: Iterable[tuple[str | os.PathLike[str], float]] = ()
) -> dict[str, str]:
    """The literal prompts, by instruction, that are asked in place of the usual ones: the checkpoint's own,
    or that of the last of its adapters that was trained with one.

    Args:
        adapters: each with its strength; at 0 it has no effect.

    Raises:
        ModelNotFoundError: a name stands for nothing.
        CatalogueError: the user's catalogue, or what a model brings along, cannot be understood.
    """
    entries = [entry_of(model), *(adapter_entry(name) for name, strength in adapters if strength)]
    return {name: prompt for entry in entries if entry for name, prompt in entry.prompts.items()}


def adapter_digest(folder: Path) -> str:
    """The same for equal files, in any folder and on any machine; see :func:`.identity.checkpoint_digest`."""
    return checkpoint_digest(folder, ADAPTER)


def adapter_fingerprint(folder: Path) -> str:
    """Changes when a file of the adapter changes: names, sizes and times."""
    return fingerprint(folder, ADAPTER)


def _resolve(name: str | os.PathLike[str]) -> Reference:
    text = os.fspath(name)
    if not text.strip():
        raise ModelNotFoundError("The LoRA's name is empty. " + _known(text), model=text)
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # ~name of nobody: then it is a name like any other
        path = Path(text)
    if is_dir(path):
        return _of_folder(text, path.absolute())
    if (local := _local(text.strip())) is not None:
        return _of_folder(text, local)
    if looks_like_path(text):
        raise ModelNotFoundError(f"There is no folder {path}. " + _known(text), model=text)
    entry = _entry(text.strip())
    if entry is not None and entry.folder is not None:
        return Reference(text, (entry.folder.name,), entry.hub_id, entry, entry.folder)
    hub_id = entry.hub_id if entry is not None else text.strip() if HUB_ID.fullmatch(text.strip()) else None
    if hub_id is None:
        raise ModelNotFoundError(f"No LoRA {text!r} is known. " + _known(text), model=text)
    folder_name = hub_id.rpartition("/")[2]
    parent = download_folder()
    if parent is not None and is_file(parent / folder_name / "config.json"):  # a checkpoint of that name
        folder_name = hub_id.replace("/", "--")
    return Reference(text, (folder_name,), hub_id, entry)


def _local(name: str) -> Path | None:
    """What :func:`local_adapters` has under that name, without a look at the others: each batch asks for it
    again, and there may be thousands, on a slow disk."""
    parts = name.split("/")
    if len(parts) > 2 or any(
        part in ("", ".", "..", STATE_FOLDER) or Path(part).name != part for part in parts
    ):
        return None
    for folder in dict.fromkeys([*search_folders(), *_registered]):
        if is_file(folder.joinpath(*parts, ADAPTER.config)):
            return folder.joinpath(*parts)
    return None


def _entry(text: str) -> CheckpointEntry | None:
    for entry in adapter_catalogue().values():
        if text.casefold() in (entry.name.casefold(), (entry.hub_id or "").casefold()):
            return entry
    return None


def _of_folder(text: str, folder: Path) -> Reference:
    record = read_record(folder)
    hub_id = record.hub_id if record is not None else snapshot_hub_id(folder)
    entry = None if hub_id else trained_entry(folder)
    return Reference(text, (folder.name,), hub_id, entry or _entry(hub_id or folder.name), folder)


def _known(text: str) -> str:
    names = list(dict.fromkeys([*local_adapters(), *adapter_catalogue()]))
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]}? " if near else ""
    return (
        f"{hint}A folder that peft has saved (with {ADAPTER.config}), or a Hub id (ORG/NAME) will do. "
        f"Known here: {', '.join(names)}."
    )
