"""Folders and caption files that the user names in a node."""

from __future__ import annotations

import os

from . import host
from .inputs import require_texts

CAPTION_EXTENSIONS = ["txt", "caption", "tags", "cap", "prompt"]
"""What caption files may be called; nodes write no others, whatever a workflow says."""

SHOWN = 20
"""Problems or names that a message lists at most."""

_MOST_NAMED = 8  # in one message


def folder_to_read(folder: str) -> str:
    """The absolute path of a folder that is there; one that is not absolute lies in ComfyUI's input folder.

    Raises:
        ValueError: it is not there, or is no folder.
    """
    spelled = _spelled(folder)
    if not spelled:
        raise ValueError(
            "No folder is named. Write its path into 'folder', or the name of a folder in ComfyUI's input "
            f"folder, {printable(host.input_folder())}{_offered()}."
        )
    path = os.path.abspath(os.path.join(host.input_folder(), spelled))  # noqa: PTH100, PTH118
    if os.path.isdir(path):  # noqa: PTH112
        return path
    if os.path.exists(path):  # noqa: PTH110
        raise ValueError(
            f"{printable(path)} is a file. Name the folder that it lies in; 'pattern' chooses among files."
        )
    raise ValueError(
        f"There is no folder {printable(path)}. Write an absolute path, or the name of a folder in ComfyUI's "
        f"input folder, {printable(host.input_folder())}{_offered()}."
    )


def folder_to_write(folder: str) -> str:
    """The absolute path of a folder for captions, which need not be there; empty if none is named.

    One that is not absolute is meant in ComfyUI's input folder if it is there, else in its output folder.
    """
    spelled = _spelled(folder)
    if not spelled:
        return ""
    beside = os.path.join(host.input_folder(), spelled)  # noqa: PTH118
    base = host.input_folder() if os.path.isdir(beside) else host.output_folder()  # noqa: PTH112
    return os.path.abspath(os.path.join(base, spelled))  # noqa: PTH100, PTH118


def require_extension(extension: str) -> str:
    """An extension of caption files.

    Raises:
        ValueError: another one, which a workflow may ask for though the menu does not have it.
    """
    if extension not in CAPTION_EXTENSIONS:
        raise ValueError(
            f"The extension {extension!r:.80} is not one of caption files: {', '.join(CAPTION_EXTENSIONS)}."
        )
    return extension


def printable(name: str) -> str:
    """A name whose bytes need not be UTF-8, to be shown."""
    return name.encode("utf-8", "backslashreplace").decode()


def _spelled(folder: str) -> str:
    """A path as it was meant: without the quotes of Windows' "Copy as path", the home folder written out.

    Raises:
        ValueError: no path can be so.
    """
    require_texts(folder=folder)
    spelled = folder.strip()
    if len(spelled) > 1 and spelled[0] == spelled[-1] == '"':
        spelled = spelled[1:-1].strip()
    if "\0" in spelled:
        raise ValueError("The folder's path holds a NUL character.")
    return os.path.expanduser(spelled)  # noqa: PTH111


def _offered() -> str:
    """The folders in ComfyUI's input folder, for a message."""
    try:
        with os.scandir(host.input_folder()) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return ""
    shown = ", ".join(printable(name) for name in names[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f" (there are: {shown}{more})" if names else ""
